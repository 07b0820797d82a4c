# However busy the keys are, their rows are written once an interval, and nobody who leaves is kept from leaving.

use strict;
use warnings FATAL => 'all';

use FindBin;
use lib "$FindBin::RealBin/../perl";

use AmtKeys;
use Session;
use PostgreSQL::Test::Utils;
use Test::More;
use Time::HiRes qw(sleep time);

my $node = new_cluster(conf => "amt_keys.usage_flush_interval = 1s\nautovacuum = off\nmax_connections = 50");
my $token = create_key($node);
my $id = id_of($token);
my $verify = "SELECT count(*) FROM amt_verify('$token');\n";

sub load
{
	my ($seconds) = @_;
	return start_pgbench($node, [$verify], '-c', 6, '-j', 2, '-T', $seconds, '-M', 'prepared');
}

# Versions of the key's usage row that were written, as the statistics know.
sub written
{
	return $node->safe_psql('postgres', q{SELECT n_tup_ins + n_tup_upd FROM pg_stat_user_tables WHERE relname = 'amt_key_usage'});
}

# Under steady load
{
	my $run = load(20);
	ok(wait_until(sub { worker_pids($node) }), 'a worker comes with the load');
	my ($worker) = worker_pids($node);
	ok(wait_until(sub { written() > 0 }), 'what it writes is known to the statistics while it is there');
	my ($start, $before, $calls) = (time, written(), stored_calls($node, $id));
	sleep 4;
	my $writes = written() - $before;
	my $intervals = time - $start;
	note(sprintf '%d writes in %.1f intervals', $writes, $intervals);
	cmp_ok($writes, '<=', $intervals + 1, 'it writes once an interval');
	cmp_ok($writes, '>=', 1, 'and not less');
	cmp_ok(stored_calls($node, $id), '>', $calls, 'all calls of the interval at once');

	$node->append_conf('postgresql.conf', 'amt_keys.usage_flush_interval = 100ms');
	$node->reload;
	$before = written();
	ok(wait_until(sub { written() >= $before + 10 }, 5), 'a shorter interval is followed at the next reload');
	is($node->safe_psql('postgres', "SELECT pg_terminate_backend($worker)"), 't', 'terminated in the midst of it');
	ok(wait_until(sub { !kill 0, $worker }, 5), 'it goes');
	ok(finish_pgbench($run), 'and the load notices nothing of all that');
	my ($answered) = $run->{out} =~ /^number of transactions actually processed: (\d+)/m;
	is(calls_of($node, $id), $answered, 'every call is counted');
	$node->append_conf('postgresql.conf', 'amt_keys.usage_flush_interval = 1s');
	$node->reload;
}

# Many keys' first calls at the same time, where each needs room that others want
{
	my $n = 3000;
	$node->safe_psql('postgres', "CREATE TABLE token AS SELECT i AS n, token FROM generate_series(1, $n) AS i, amt_create_key('key ' || i, 'acme', 'editor')");
	$node->safe_psql('postgres', 'CREATE INDEX ON token (n)');
	my $run = start_pgbench($node, [ "SELECT 1 / count(*) FROM token, amt_verify(token) WHERE n % 8 = :client_id;\n" ], '-c', 8, '-j', 2, '-t', 1);
	ok(finish_pgbench($run), "$n keys verified for the first time, by eight at once");
	is($node->safe_psql('postgres', q{SELECT sum(calls) FROM amt_keys WHERE name LIKE 'key %'}), $n, 'each is counted');
	is(stat_of($node, 'calls_dropped'), 0, 'and none dropped');
}

# Transactions that revoke several keys, under the writes
{
	my $make = "SELECT token AS t%d, key_id AS k%d FROM amt_create_key('short', 'acme', 'editor') \\gset\n";
	my $script = join '', map({ sprintf $make, $_, $_ } 1, 2), (map { "SELECT FROM amt_verify(':t$_');\n" } 1, 2, 1, 2),
	  "BEGIN;\n", (map { "SELECT FROM amt_verify(':t$_');\nSELECT amt_revoke(':k$_');\n" } 2, 1), "COMMIT;\n";
	my $deadlocks = q{SELECT deadlocks FROM pg_stat_database WHERE datname = 'postgres'};
	$node->append_conf('postgresql.conf', "amt_keys.usage_flush_interval = 10ms\namt_keys.scrypt_ln = 10\namt_keys.scrypt_r = 1");
	$node->reload;
	my $run = start_pgbench($node, [$script], '-c', 8, '-j', 2, '-t', 100);
	ok(finish_pgbench($run), 'keys are made, called and revoked, two by two');
	is($node->safe_psql('postgres', q{SELECT count(*), sum(calls) FROM amt_key_event WHERE event = 'revoked' AND name = 'short'}),
		'1600|4800', 'with all their calls on record');
	is($node->safe_psql('postgres', $deadlocks), 0, 'without a deadlock');
	$node->append_conf('postgresql.conf', 'amt_keys.usage_flush_interval = 1s');
	$node->reload;
}

# Without a place for a worker, who counted and leaves writes, and leaves in time, although others go on counting.
{
	$node->append_conf('postgresql.conf', 'max_worker_processes = 0');
	$node->restart;
	$node->safe_psql('postgres', 'CREATE DATABASE other');
	my $run = load(8);
	sleep 0.5;
	for my $round (1 .. 3)
	{
		my $s = Session->new($node);
		my $pid = $s->backend;
		my $stored = stored_calls($node, $id);
		$s->query($verify);
		$s->quit;
		ok(wait_until(sub { !kill 0, $pid }, 5), "a session that counted leaves under load, round $round");
		cmp_ok(stored_calls($node, $id), '>', $stored, 'and has written');
	}
	my $start = time;
	$node->safe_psql('postgres', 'DROP DATABASE other');
	cmp_ok(time - $start, '<', 5, 'nor is another database kept from being dropped');
	ok(finish_pgbench($run), 'the load goes on');
	ok(wait_until(sub { stored_calls($node, $id) == calls_of($node, $id) }, 10), 'the last one to leave has written all');
}

# Nor does it wait for what the owner is doing, however unusual, to a key that was called for the first time.
{
	my ($changed, $inserted, $other) = map { create_key($node) } 1 .. 3;
	my ($owner, $s) = map { Session->new($node) } 1 .. 2;
	my $pid = $s->backend;
	$s->query(map { "SELECT FROM amt_verify('$_')" } $changed, $inserted, $other);
	my ($key, $row) = map { id_of($_) } $changed, $inserted;
	is( $owner->query('BEGIN', "UPDATE amt_key SET name = 'renamed' WHERE key_id = '$key'",
			"SELECT 1 FROM amt_key WHERE key_id = '$key' FOR UPDATE",
			"INSERT INTO amt_key_usage VALUES ('$row', 0, now())"), 1, 'the owner changes a key and locks it, and makes a row for another');
	$s->quit;
	ok(wait_until(sub { !kill 0, $pid }, 5), 'who called them leaves at once');
	is(stored_calls($node, id_of($other)), 1, 'and has written the call of a third');
	is(calls_of($node, $_), 1, 'the others are in the view') for $key, $row;
	$owner->query('ROLLBACK', $verify);
	$owner->quit;
	ok(wait_until(sub { stored_calls($node, $key) eq '1' && stored_calls($node, $row) eq '1' }, 10), 'until the next one who leaves writes them');
}

# Nor for who works on the indexes.
for my $ddl ('REINDEX INDEX amt_key_org_idx', map { "ALTER INDEX $_ SET TABLESPACE pg_default" } 'amt_key_org_idx', 'amt_key_pkey', 'amt_key_usage_pkey')
{
	my $new = create_key($node);
	my ($owner, $s) = map { Session->new($node) } 1 .. 2;
	my $pid = $s->backend;
	$s->query("SELECT FROM amt_verify('$new')");
	is($owner->query('BEGIN', $ddl), '', "$ddl in an open transaction");
	$s->quit;
	ok(wait_until(sub { !kill 0, $pid }, 5), 'who has called a key leaves at once');
	$owner->query('ROLLBACK', $verify);
	is(calls_of($node, id_of($new)), 1, 'the call is in the view');
	$owner->quit;
	ok(wait_until(sub { stored_calls($node, id_of($new)) eq '1' }, 10), 'and is written later');
}

# Nor does who leaves wait for a standby that is not there.
{
	my $s = Session->new($node);
	my $pid = $s->backend;
	my $calls = $s->query($verify, "SELECT calls FROM amt_keys WHERE key_id = '$id'") =~ s/\A1\n//r;
	$node->append_conf('postgresql.conf', "synchronous_standby_names = 'nobody'");
	$node->reload;
	ok(wait_until(sub { $s->query('SHOW synchronous_standby_names') eq 'nobody' }), 'commits wait for a standby from now on');
	$s->quit;
	ok(wait_until(sub { !kill 0, $pid }, 10), 'a session that counted leaves all the same');
	is(stored_calls($node, $id), $calls, 'and has written');
	$s = Session->new($node);
	$s->query($verify);
	$node->stop('fast');
	pass('and the server stops');
	$node->append_conf('postgresql.conf', "synchronous_standby_names = ''");
	$node->start;
	is(stored_calls($node, $id), $calls + 1, 'without losing a call');
	$s->quit;
}

# A key that a REPEATABLE READ transaction cannot see waits for the next one who writes.
{
	$node->append_conf('postgresql.conf', "max_worker_processes = 8\namt_keys.usage_flush_interval = 1h");
	$node->restart;
	my $s = Session->new($node);
	for my $level ('REPEATABLE READ', 'SERIALIZABLE')
	{
		$s->query("BEGIN ISOLATION LEVEL $level", 'SELECT 1');
		my $new = create_key($node);
		$node->safe_psql('postgres', "SELECT FROM amt_verify('$new')");
		like($s->query('SELECT amt_flush_usage()', 'COMMIT'), qr/\A[0-9]+\z/, "amt_flush_usage() under $level, after a key that it cannot see");
		is(calls_of($node, id_of($new)), 1, 'whose call is not lost');
		$s->query('SELECT amt_flush_usage()');
		is(stored_calls($node, id_of($new)), 1, 'and written by the next one');
	}
}

done_testing();
