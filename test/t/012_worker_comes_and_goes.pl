# The worker that writes counted calls: it leaves, blocks nobody, and whatever happens to it loses nothing.

use strict;
use warnings FATAL => 'all';

use FindBin;
use lib "$FindBin::RealBin/../perl";

use AmtKeys;
use Session;
use PostgreSQL::Test::Utils;
use Test::More;
use Time::HiRes qw(sleep time);

my $node = new_cluster(conf => "max_prepared_transactions = 5\nlog_min_messages = log");

sub verify
{
	my ($token, $dbname) = @_;
	return $node->safe_psql($dbname // 'postgres', "SELECT count(*) FROM amt_verify('$token')");
}

sub seconds
{
	my ($code) = @_;
	my $start = time;
	$code->();
	return time - $start;
}

# A database with the extension and a key in it.
sub new_database
{
	my ($name) = @_;
	$node->safe_psql('postgres', "CREATE DATABASE $name");
	$node->safe_psql($name, 'CREATE EXTENSION amt_keys');
	return create_key($node, $name);
}

sub set_interval
{
	my ($interval) = @_;
	$node->append_conf('postgresql.conf', "amt_keys.usage_flush_interval = '$interval'");
	$node->reload;
	return;
}

sub no_worker
{
	my ($dbname) = @_;
	return wait_until(sub { !worker_pids($node, $dbname) }, 30);
}

my $token = create_key($node);
my $id = id_of($token);

# It comes, writes and leaves.
{
	is(scalar(() = worker_pids($node)), 0, 'creating a key needs no worker');
	verify($token);
	my $called_at = time;
	ok(wait_until(sub { worker_pids($node) }, 10), 'a call starts the worker');
	ok(wait_until(sub { stored_calls($node, $id) eq '1' }, 10), 'which writes it');
	cmp_ok(time - $called_at, '<', 4, 'after the interval of one second');
	ok(wait_until(sub { !worker_pids($node) }, 20), 'and leaves');
	my $stayed = time - $called_at;
	note(sprintf 'left after %.1f s', $stayed);
	cmp_ok($stayed, '>', 2, 'not before two idle seconds');
	cmp_ok($stayed, '<', 7, 'and not much later');
	is(verify($token), 1, 'the next call');
	ok(wait_until(sub { stored_calls($node, $id) eq '2' }, 10), 'starts another');
	is(stat_of($node, 'worker_failures'), 0, 'no worker failed');
}

# A long interval keeps it no longer.
set_interval('1h');
{
	verify($token);
	ok(wait_until(sub { worker_pids($node) }, 10), 'with an interval of one hour the worker comes');
	ok(no_worker(), 'leaves when nothing is counted any more');
	is(stored_calls($node, $id), 3, 'and has written what was counted');
}

# DROP DATABASE and CREATE DATABASE ... TEMPLATE just after the last call.
for my $interval ('1s', '1h')
{
	set_interval($interval);
	my $other = new_database('dropped');
	is(verify($other, 'dropped'), 1, "interval $interval: a call in another database");
	ok(wait_until(sub { worker_pids($node, 'dropped') }, 10), 'whose worker comes');
	for my $strategy ('wal_log', 'file_copy')
	{
		verify($other, 'dropped');
		my $took = seconds(sub {
			$node->safe_psql('postgres', "CREATE DATABASE copied TEMPLATE dropped STRATEGY $strategy")
		});
		note(sprintf 'CREATE DATABASE ... STRATEGY %s took %.1f s', $strategy, $took);
		cmp_ok($took, '<', 5.5, "interval $interval: CREATE DATABASE ... TEMPLATE ... STRATEGY $strategy just after a call");
		is(verify($other, 'copied'), 1, 'the copy knows the key');
		cmp_ok(calls_of($node, id_of($other), 'copied'), '<=', 1 + calls_of($node, id_of($other), 'dropped'),
			'and counts for itself');
		my $drop = seconds(sub { $node->safe_psql('postgres', 'DROP DATABASE copied') });
		note(sprintf 'DROP DATABASE took %.1f s', $drop);
		cmp_ok($drop, '<', 5.5, "interval $interval: DROP DATABASE just after a call");
	}
	verify($other, 'dropped');
	$node->safe_psql('postgres', 'DROP DATABASE dropped');
	pass("interval $interval: DROP DATABASE just after a call, once more");
}

# DROP DATABASE ... FORCE under load ends the worker as any session.
set_interval('10ms');
{
	my $other = new_database('forced');
	my @sessions = map { Session->new($node, dbname => 'forced') } 1 .. 4;
	my $loop = "DO \$\$ BEGIN FOR i IN 1 .. 1000000 LOOP PERFORM amt_verify('$other'); END LOOP; END \$\$";
	$_->send($loop) for @sessions;
	ok(wait_until(sub { worker_pids($node, 'forced') }, 10), 'a database under load has a worker');
	my $took = seconds(sub { $node->safe_psql('postgres', 'DROP DATABASE forced WITH (FORCE)') });
	note(sprintf 'DROP DATABASE ... WITH (FORCE) took %.1f s', $took);
	cmp_ok($took, '<', 5.5, 'DROP DATABASE ... WITH (FORCE) under load');
	ok(!defined $_->receive, 'its sessions are gone') for @sessions;
	is(scalar(() = worker_pids($node)), 0, 'and its worker');
}

# Calls of a dropped database vanish with the next worker, wherever it starts.
{
	verify($token);
	ok(wait_until(sub { stat_of($node, 'calls_pending') == 0 }, 20), 'no calls of dropped databases stay in memory');
	ok(no_worker(), 'the worker leaves');
}

# DROP EXTENSION under load and just after it; the same key again does not inherit its calls.
for my $interval ('10ms', '1h')
{
	set_interval($interval);
	my $other = new_database('extension');
	my $row = $node->safe_psql('extension', 'SELECT amt_key FROM amt_key');
	my $run = start_pgbench($node, [ "SELECT count(*) FROM amt_verify(:token);\n" ], { dbname => 'extension' },
		'-c', 4, '-T', 60, '-M', 'prepared', '-D', "token=$other");
	ok(wait_until(sub { worker_pids($node, 'extension') }, 10), "interval $interval: a database under load has a worker");
	my $took = seconds(sub { $node->safe_psql('extension', 'DROP EXTENSION amt_keys') });
	note(sprintf 'DROP EXTENSION took %.1f s', $took);
	cmp_ok($took, '<', 5, "interval $interval: DROP EXTENSION under load");
	$node->safe_psql('extension', 'CREATE EXTENSION amt_keys');
	$node->safe_psql('extension', "INSERT INTO amt_key SELECT (\$row\$$row\$row\$::amt_key).*");
	is(calls_of($node, id_of($other), 'extension'), 0, "interval $interval: the same key in a new extension inherits no calls");

	$run->{harness}->finish;
	is(join("\n", grep { /ERROR/ && !/(?:function amt_verify\(.*\)|relation with OID \d+)/ } split /\n/, $run->{err}), '',
		'all that the sessions noticed is that the function, or its table, is gone');

	my $calls = calls_of($node, id_of($other), 'extension');
	is(verify($other, 'extension'), 1, 'the key works');
	is(calls_of($node, id_of($other), 'extension'), $calls + 1, 'and counts');
	$node->safe_psql('extension', 'DROP EXTENSION amt_keys');
	$node->safe_psql('postgres', 'DROP DATABASE extension');
}

# Terminated at any moment, it loses nothing.
set_interval('20ms');
{
	my $before = calls_of($node, $id);
	my $run = start_pgbench($node, [ "SELECT count(*) FROM amt_verify(:token);\n" ],
		'-c', 4, '-j', 1, '-t', 20_000, '-M', 'prepared', '-D', "token=$token");
	my $terminated = 0;
	my $session = Session->new($node);
	$session->query('SET client_min_messages = error');	# it may be gone by itself
	while ($run->{harness}->pumpable)
	{
		$run->{harness}->pump_nb;
		$terminated += $session->query(q{
			SELECT count(pg_terminate_backend(pid)) FROM pg_stat_activity WHERE backend_type = 'amt_keys usage writer'});
		sleep rand 0.05;
	}
	ok(finish_pgbench($run), 'calls while the worker is terminated again and again');
	cmp_ok($terminated, '>', 3, "which happened $terminated times");
	is(calls_of($node, $id), $before + 80_000, 'nothing is lost or counted twice');
	ok(wait_until(sub { verify($token) && stat_of($node, 'calls_pending') == 0 }, 30), 'and all is written');
	is(stored_calls($node, $id), calls_of($node, $id), 'exactly');
}

# What the configuration of a database says of sessions does not stop it.
{
	my $other = new_database('configured');
	$node->safe_psql('postgres', "ALTER DATABASE configured SET $_")
	  for "default_transaction_isolation = 'serializable'", 'default_transaction_read_only = on', 'default_transaction_deferrable = on',
	  'statement_timeout = 1', 'row_security = off', "search_path = ''", "session_replication_role = 'replica'",
	  "role = 'pg_monitor'", "client_encoding = 'latin1'";
	my $session = Session->new($node, dbname => 'configured', options => '-c statement_timeout=0');
	$session->query('SET ROLE NONE');
	is($session->query("SELECT count(*) FROM public.amt_verify('$other')"), 1, 'a call in a database with unusual settings');
	ok(wait_until(sub { $session->query('SELECT calls FROM public.amt_key_usage') eq '1' }, 10), 'is written');
}

# A row that somebody has locked waits; the others do not.
set_interval('100ms');
{
	my $second = create_key($node);
	my $locker = Session->new($node);
	my $before = stored_calls($node, $id);
	is($locker->query('BEGIN', "SELECT 1 FROM amt_key_usage WHERE key_id = '$id' FOR UPDATE"), 1, 'a row is locked');
	verify($token);
	verify($second);
	ok(wait_until(sub { stored_calls($node, id_of($second)) eq '1' }, 10), 'calls of another key are written');
	is(stored_calls($node, $id), $before, 'its own wait');
	is(calls_of($node, $id), $before + 1, 'and are in the view');
	my $took = seconds(sub { $node->safe_psql('postgres', 'SELECT amt_flush_usage()') });
	cmp_ok($took, '<', 3, 'amt_flush_usage() does not wait for the lock');
	is(calls_of($node, $id), $before + 1, 'and changes nothing in the view');
	$locker->query('COMMIT');
	ok(wait_until(sub { stored_calls($node, $id) == $before + 1 }, 10), 'when the lock is gone they are written');
}

# Nor does it wait for a revocation, or a revocation for it.
{
	my ($second, $third) = (create_key($node), create_key($node));
	my $revoker = Session->new($node);
	verify($second);
	ok(wait_until(sub { stored_calls($node, id_of($second)) eq '1' }, 10), 'a key that is called');
	is($revoker->query('BEGIN', "SELECT amt_revoke('" . id_of($second) . "')"), 't', 'is being revoked');
	verify($second);
	verify($third);
	ok(wait_until(sub { stored_calls($node, id_of($third)) eq '1' }, 10), 'calls of another key are written meanwhile');
	is($revoker->query("SELECT amt_revoke('" . id_of($third) . "')"), 't', 'which can be revoked in the same transaction');
	$revoker->query('ROLLBACK');
	ok(wait_until(sub { stored_calls($node, id_of($second)) eq '2' }, 10), 'rolled back, all is written');
	is(calls_of($node, id_of($third)), 1, 'once');
}

# Nor for who has changed a key that was never called before, and has locked it then; in the end it is as they leave it.
for my $end ('COMMIT', 'ROLLBACK')
{
	my ($changed, $deleted, $other) = map { create_key($node) } 1 .. 3;
	my $owner = Session->new($node);
	my $failures = stat_of($node, 'worker_failures');
	is( $owner->query('BEGIN', (map { "UPDATE amt_key SET name = 'renamed' WHERE key_id = '" . id_of($_) . "'" } $changed, $deleted),
			"SELECT 1 FROM amt_key WHERE key_id = '" . id_of($changed) . "' FOR UPDATE",
			"DELETE FROM amt_key WHERE key_id = '" . id_of($deleted) . "'"), 1, 'a key is changed and locked, another changed and deleted');
	verify($_) for $changed, $deleted, $other;
	ok(wait_until(sub { stored_calls($node, id_of($other)) eq '1' }, 10), 'the first call of a third is written meanwhile');
	is(stored_calls($node, id_of($changed)) . stored_calls($node, id_of($deleted)), '', 'theirs wait');
	is(calls_of($node, id_of($changed)) . calls_of($node, id_of($deleted)), '11', 'and are in the view');
	is(stat_of($node, 'worker_failures'), $failures, 'no worker has failed');
	is($owner->query($end), '', $end);
	ok(wait_until(sub { stored_calls($node, id_of($changed)) eq '1' }, 10), 'the call is written');
	is( $node->safe_psql('postgres', "SELECT count(*) FROM amt_key_usage WHERE key_id NOT IN (SELECT key_id FROM amt_key)"), 0,
		'no row is left of a key that is gone');
}

# Somebody else's flush in an open transaction hides what it writes until it ends, either way.
{
	set_interval('1h');
	ok(no_worker(), 'no worker');
	my $caller = Session->new($node);
	my $call = "SELECT count(*) FROM amt_verify('$token')";
	$caller->query($call);
	my $before = calls_of($node, $id);
	my $flusher = Session->new($node);
	is($flusher->query('BEGIN', 'SELECT amt_flush_usage()'), 1, 'a flush in a transaction');
	is($flusher->query("SELECT calls FROM amt_keys WHERE key_id = '$id'"), $before, 'which sees the calls once');
	is($flusher->query("SELECT calls FROM amt_key_usage WHERE key_id = '$id'"), $before, 'in the table');
	$caller->query($call);
	is($flusher->query("SELECT calls FROM amt_keys WHERE key_id = '$id'"), $before + 1, 'and a new one');
	is(calls_of($node, $id), $before + 1, 'as others do');
	$flusher->query('ROLLBACK');
	is(calls_of($node, $id), $before + 1, 'rolled back, the view is the same');
	is($flusher->query('BEGIN', 'SAVEPOINT a', 'SELECT amt_flush_usage()', 'ROLLBACK TO a', 'SELECT amt_flush_usage()', 'COMMIT'),
		"2\n2", 'rolled back to a savepoint, they are there to be written again');
	is(calls_of($node, $id), $before + 1, 'the view is the same');
	is(stored_calls($node, $id), $before + 1, 'and the table');
	is($flusher->query('BEGIN ISOLATION LEVEL REPEATABLE READ', 'SELECT 1') . $caller->query($call)
		  . $flusher->query('SELECT amt_flush_usage()', 'COMMIT'), '111', 'a flush under REPEATABLE READ writes what came after its snapshot');
	$caller->query($call);
	is($flusher->query('BEGIN', 'SELECT amt_flush_usage()', q{PREPARE TRANSACTION 'flush'}), "1\nERROR:  0A000",
		'a flush cannot be prepared');
	$flusher->query(q{ROLLBACK PREPARED 'flush'});	# if it could, what follows would wait
	is($flusher->query('BEGIN READ ONLY', 'SELECT amt_flush_usage()'), 'ERROR:  25006', 'nor be read-only');
	$flusher->query('ROLLBACK');
	# Left open at a disconnect, it is as if it had not been.
	is($flusher->query('BEGIN', 'SELECT amt_flush_usage()'), 1, 'a flush in a session that goes away');
	$flusher->quit;
	$node->restart;
	is(stored_calls($node, $id), $before + 3, 'is made up for at the latest when the server stops');
}

# Who has a key's row locked when the server stops takes no calls along.
set_interval('100ms');
for my $sql ("UPDATE amt_key SET name = 'renamed' WHERE key_id = '%s'", "SELECT 1 FROM amt_key WHERE key_id = '%s' FOR UPDATE",
	"SELECT 1 FROM amt_key_usage WHERE key_id = '%s' FOR UPDATE")
{
	my $new = create_key($node);
	if ($sql =~ /amt_key_usage/)
	{
		verify($new);
		$node->safe_psql('postgres', 'SELECT amt_flush_usage()');
	}
	my $calls = calls_of($node, id_of($new));
	my $owner = Session->new($node);
	my $pid = $owner->backend;
	$owner->query('BEGIN', sprintf $sql, id_of($new));
	verify($new);
	# It ends later than the worker would like to.
	kill 'STOP', $pid or die;
	system_log('pg_ctl', '-D', $node->data_dir, '-m', 'fast', '--no-wait', 'stop');
	sleep 0.5;
	kill 'CONT', $pid or die;
	$node->stop('fast');
	$node->start;
	is(stored_calls($node, id_of($new)), $calls + 1, "a call is written although at the stop there was $sql");
	$owner->quit;
}

# A write that cannot succeed makes no storm of workers, and loses nothing.
{
	set_interval('10ms');
	my $before = calls_of($node, $id);
	$node->safe_psql('postgres', q{
		CREATE FUNCTION refuse() RETURNS trigger LANGUAGE plpgsql AS $$BEGIN RAISE 'no'; END$$;
		CREATE TRIGGER refuse BEFORE INSERT OR UPDATE ON amt_key_usage FOR EACH ROW EXECUTE FUNCTION refuse();
	});
	my $session = Session->new($node);
	my $starts = stat_of($node, 'worker_starts');
	my $until = time + 3;
	my $n = 0;
	while (time < $until)
	{
		$n += $session->query("SELECT count(*) FROM amt_verify('$token')");
		sleep 0.01;
	}
	my $storm = stat_of($node, 'worker_starts') - $starts;
	cmp_ok($storm, '>=', 1, 'a worker that cannot write starts');
	cmp_ok($storm, '<=', 2, "but is not started at every call ($storm times for $n calls)");
	cmp_ok(stat_of($node, 'worker_failures'), '>=', 1, 'it is counted as failed');
	is(calls_of($node, $id), $before + $n, 'meanwhile the view is exact');
	$node->safe_psql('postgres', 'DROP TRIGGER refuse ON amt_key_usage');
	$node->safe_psql('postgres', 'SELECT amt_flush_usage()');
	ok(wait_until(sub { stored_calls($node, $id) == $before + $n }, 10), 'and nothing was lost when it can be written again');
}

done_testing();
