# A fast stop takes less than five seconds, whoever has locked what, and calls are written as far as they can be.

use strict;
use warnings FATAL => 'all';

use FindBin;
use lib "$FindBin::RealBin/../perl";

use AmtKeys qw(:all);
use Session;
use PostgreSQL::Test::Utils;
use Test::More;
use Time::HiRes qw(sleep);

my $node = new_cluster(conf => "max_prepared_transactions = 5\namt_keys.usage_flush_interval = '1h'");
my $token = create_key($node);
my $id = id_of($token);
verify($node, $token);
flush($node);

# Two keys are called: one whose row the locker has, and another. Returns both numbers of calls.
sub call_both
{
	my ($session, $other) = @_;
	verify($session, $_) for $token, $other;
	return (calls_of($node, $id), calls_of($node, id_of($other)));
}

my @lockers = (
	'LOCK TABLE amt_key_usage',
	'LOCK TABLE amt_key_usage IN SHARE MODE',
	'LOCK TABLE amt_key IN SHARE MODE',
	"SELECT 1 FROM amt_key_usage WHERE key_id = 'ID' FOR UPDATE",
	"UPDATE amt_key SET name = 'renamed' WHERE key_id = 'ID'",
	"SELECT 1 FROM amt_key WHERE key_id = 'ID' FOR UPDATE");

# A session that holds a lock ends with the server; what it had locked is written then.
for my $lock (@lockers)
{
	my $other = create_key($node);
	my $locker = Session->new($node);
	my $caller = Session->new($node);
	$locker->query('BEGIN', $lock =~ s/ID/$id/r);
	my ($calls, $other_calls) = $lock =~ /TABLE amt_key_usage(\z| IN)/
	  ? do { verify($caller, $_) for $token, $other; (undef, undef) }
	  : call_both($caller, $other);
	cmp_ok(stop_seconds($node), '<', 5, "the server stops in time when a session has done: $lock");
	$node->start;
	is(calls_of($node, id_of($other)), 1, 'the first call of another key is in the table after the stop');
	is(calls_of($node, $id), $calls, 'the call of the key is in the table after the stop') if defined $calls;
	is(stored_calls($node, $id), calls_of($node, $id), 'table and view agree after the stop');
	$_->quit for $locker, $caller;
}

# The locker ends later than the worker would like to.
{
	my $locker = Session->new($node);
	my $pid = $locker->backend;
	$locker->query('BEGIN', "SELECT 1 FROM amt_key_usage WHERE key_id = '$id' FOR UPDATE");
	verify($node, $token);
	my $calls = calls_of($node, $id);
	kill 'STOP', $pid or die;
	begin_stop($node);
	sleep 0.7;
	kill 'CONT', $pid or die;
	await_stop($node);
	$node->start;
	is(calls_of($node, $id), $calls, 'a call is written although the session that had locked its row took its time');
	$locker->quit;
}

# A prepared transaction does not end; what it has not locked is written.
for my $lock (@lockers)
{
	my $other = create_key($node);
	my $locker = Session->new($node);
	my $caller = Session->new($node);
	$locker->query('BEGIN', $lock =~ s/ID/$id/r, q{PREPARE TRANSACTION 'locker'});
	verify($caller, $_) for $token, $other;
	cmp_ok(stop_seconds($node), '<', 5, "the server stops in time when a prepared transaction has done: $lock");
	$node->start;
	is($node->safe_psql('postgres', 'SELECT count(*) FROM pg_prepared_xacts'), 1, 'the prepared transaction is still there after the restart');
	is(verify($node, $token), 1, 'the key works after the restart');
	$node->safe_psql('postgres', q{ROLLBACK PREPARED 'locker'});
	is(calls_of($node, id_of($other)), 1, 'the call of another key was written before the stop') unless $lock =~ /TABLE amt_key_usage/;
	flush($node);
	is(stored_calls($node, $id), calls_of($node, $id), 'table and view agree after ROLLBACK PREPARED');
	$_->quit for $locker, $caller;
}

# A session that runs scrypt or verifies in a loop does not hold the stop up either, and its calls are written.
{
	my $caller = Session->new($node);
	my $before = calls_of($node, $id);
	$caller->send("DO \$\$ BEGIN FOR i IN 1 .. 100000000 LOOP PERFORM amt_verify('$token'); END LOOP; END \$\$");
	ok(wait_until(sub { calls_of($node, $id) > $before + 100 }), 'a session verifies in a loop');
	my $seen = calls_of($node, $id);
	cmp_ok(stop_seconds($node), '<', 5, 'the server stops in time while a session verifies in a loop');
	$node->start;
	cmp_ok(calls_of($node, $id), '>=', $seen, 'every call that the view has shown is written by the stop');
	$caller->quit;
}

# A thousand indexes make a write take milliseconds, as a slow disk does.
$node->safe_psql('postgres', 'DO $$ BEGIN FOR i IN 1 .. 1000 LOOP CREATE INDEX ON amt_key_usage (calls); END LOOP; END $$');
my @many = create_keys(Session->new($node), 2500);

# How many of the keys have been called so often, by the table.
sub written
{
	my ($calls, @tokens) = @_;
	my $ids = join ',', map { id_of($_) } @tokens;
	return $node->safe_psql('postgres', "SELECT count(*) FROM amt_key_usage WHERE calls = $calls AND key_id = ANY ('{$ids}')");
}

# Call all keys in a session that is gone then.
sub call_all
{
	my (@tokens) = @_;
	my $caller = Session->new($node);
	verify($caller, $_) for @tokens;
	$caller->quit;
	return;
}

# Slow writes are finished before the server stops.
{
	call_all(@many);
	my $lines = -s $node->logfile;
	note sprintf 'the stop takes %.1f s', stop_seconds($node);
	$node->start;
	is(written(1, @many), scalar @many, 'slow writes are finished before the server stops');
	unlike(slurp_file($node->logfile, $lines), qr/before the server stopped/, 'the log reports no lost calls');
}

# A worker that is only terminated leaves the rest to the next, in the midst of a pass or in its last.
for my $interval ('1h', '10ms')
{
	configure($node, 'amt_keys.usage_flush_interval' => $interval);
	call_all(@many);
	wait_for_worker($node);
	my ($pid) = worker_pids($node);
	is($node->safe_psql('postgres', "SELECT pg_terminate_backend($pid, 4500)"), 't', "a worker that is terminated leaves in time while writes are slow, with an interval of $interval");
	ok(wait_until(sub { $interval eq '1h' || written(3, @many) == @many }, 60), 'the next one writes the rest');
}

# When writes fail, the stop does not take longer, and the log says what is lost.
{
	$node->safe_psql('postgres', 'ALTER TABLE amt_key_usage ADD COLUMN more int; UPDATE amt_key_usage SET more = 1; ALTER TABLE amt_key_usage ALTER more SET NOT NULL');
	call_all(create_keys(Session->new($node), 1000));
	wait_for_worker($node);
	my $lines = -s $node->logfile;
	cmp_ok(stop_seconds($node), '<', 5, 'the server stops in time while writes are slow and fail');
	like(slurp_file($node->logfile, $lines), qr/amt_keys could not write \d+ counted calls before the server stopped/, 'the log says how many calls are lost');
}

# A worker that waits for a lock of a catalog when it starts does not hold up the stop.
{
	my $locked = new_cluster(name => 'locked', conf => 'max_prepared_transactions = 1');
	my $key = create_key($locked);
	my $caller = Session->new($locked);
	verify($caller, $key);
	wait_for_worker($locked);
	wait_for_no_worker($locked);
	my $watcher = Session->new($locked);
	$watcher->query('BEGIN', 'LOCK TABLE pg_db_role_setting IN ACCESS EXCLUSIVE MODE', "PREPARE TRANSACTION 'p'");
	ok(wait_until(sub { verify($caller, $key); sleep 0.2; $watcher->query(q{SELECT count(*) FROM pg_locks WHERE relation = 'pg_db_role_setting'::regclass AND NOT granted}) eq 1 }),
		'a worker waits for a catalog when it starts');
	cmp_ok(stop_seconds($locked), '<', 5, 'the server stops in time nevertheless');
}

done_testing();
