# The worker that writes counted calls comes when there are calls and leaves when there are none; nothing that happens to it
# loses a call or counts one twice.

use strict;
use warnings FATAL => 'all';

use FindBin;
use lib "$FindBin::RealBin/../perl";

use AmtKeys qw(:all);
use Session;
use PostgreSQL::Test::Utils;
use Test::More;
use Time::HiRes qw(sleep time);

my $node = new_cluster();
my $token = create_key($node);
my $id = id_of($token);

sub set_interval
{
	configure($node, 'amt_keys.usage_flush_interval' => $_[0]);
	return;
}

# The worker's life.
{
	is(scalar(() = worker_pids($node)), 0, 'creating a key needs no worker');
	my $called_at = time;
	verify($node, $token);
	ok(wait_for_worker($node), 'a call starts the worker');
	ok(is_written($node, $id, 1), 'the worker writes the call');
	cmp_ok(time - $called_at, '<', 3, 'the call is written within the interval of one second');
	ok(wait_until(sub { $node->safe_psql('postgres', q{SELECT state FROM pg_stat_activity WHERE backend_type = 'amt_keys usage writer'}) eq 'idle' }),
		'pg_stat_activity shows the worker as idle while it waits');
	ok(wait_for_no_worker($node), 'the worker leaves when no call is left to be written');
	my $stayed = time - $called_at;
	cmp_ok($stayed, '>', 2, 'the worker does not leave before two idle seconds');
	cmp_ok($stayed, '<', 7, 'the worker leaves soon after two idle seconds');
	verify($node, $token);
	ok(is_written($node, $id, 2), 'the next call is written by another worker');
	is(stat_of($node, 'worker_starts'), 2, 'amt_stat counts both workers');
	is(stat_of($node, 'worker_failures'), 0, 'no worker has failed');
}

# A long interval is an interval. The first call that a worker finds is written at once, and so is what is left when nothing
# is counted any more.
{
	set_interval('1h');
	wait_for_no_worker($node);
	verify($node, $token);
	ok(is_written($node, $id, 3), 'with an interval of one hour the first call is written');
	my $session = Session->new($node);
	my $until = time + 3;
	my $n = 0;
	while (time < $until)
	{
		$n += verify($session, $token);
		sleep 0.05;
	}
	is(stored_calls($node, $id), 3, 'the worker waits for its interval while calls are counted');
	is(calls_of($node, $id), 3 + $n, 'the view has the calls that the worker has not written yet');
	ok(wait_for_no_worker($node), 'the worker leaves when nothing is counted any more');
	is(stored_calls($node, $id), 3 + $n, 'the worker has written all calls before it leaves');
	verify($session, $token);
	ok(is_written($node, $id, 4 + $n), 'the first call for another worker is written at once');
	verify($session, $token);
	set_interval('50ms');
	ok(is_written($node, $id, 5 + $n), 'a shorter interval is followed at the next reload');
	$session->quit;
}

# DROP DATABASE and CREATE DATABASE ... TEMPLATE just after the last call.
for (['1s', 'wal_log'], ['1h', 'file_copy'])
{
	my ($interval, $strategy) = @$_;
	set_interval($interval);
	my $other = new_database($node, 'dropped');
	is(verify($node, $other, 'dropped'), 1, 'a key of another database works');
	ok(wait_for_worker($node, 'dropped'), 'a call in another database starts a worker of that database');
	my $took = seconds(sub { $node->safe_psql('postgres', "CREATE DATABASE copied TEMPLATE dropped STRATEGY $strategy") });
	cmp_ok($took, '<', 5.5, "interval $interval: CREATE DATABASE ... TEMPLATE ... STRATEGY $strategy works just after a call");
	is(calls_of($node, id_of($other), 'copied'), 1, 'a copied database has the calls of the original');
	is(verify($node, $other, 'copied'), 1, 'a copied database knows the key');
	is(calls_of($node, id_of($other), 'dropped'), 1, 'a call in a copied database does not count in the original');
	is(calls_of($node, id_of($other), 'copied'), 2, 'a copied database counts on from the calls of the original');
	for my $dbname ('copied', 'dropped')
	{
		verify($node, $other, $dbname) for 1 .. 3;
		$took = seconds(sub { $node->safe_psql('postgres', "DROP DATABASE $dbname") });
		cmp_ok($took, '<', 5.5, "interval $interval: DROP DATABASE $dbname works just after a call");
	}
}

# DROP DATABASE ... FORCE under load ends the worker as it ends any session.
set_interval('10ms');
{
	my $other = new_database($node, 'forced');
	my @sessions = map { Session->new($node, dbname => 'forced') } 1 .. 4;
	my $loop = "DO \$\$ BEGIN FOR i IN 1 .. 1000000 LOOP PERFORM amt_verify('$other'); END LOOP; END \$\$";
	$_->send($loop) for @sessions;
	ok(wait_for_worker($node, 'forced'), 'a database under load has a worker before DROP DATABASE ... WITH (FORCE)');
	my $took = seconds(sub { $node->safe_psql('postgres', 'DROP DATABASE forced WITH (FORCE)') });
	cmp_ok($took, '<', 5.5, 'DROP DATABASE ... WITH (FORCE) works under load');
	ok(!defined $_->receive, 'DROP DATABASE ... WITH (FORCE) ends each session of the database') for @sessions;
	is(scalar(() = worker_pids($node)), 0, 'DROP DATABASE ... WITH (FORCE) ends the worker of the database');
	my $calls = calls_of($node, $id);
	verify($node, $token);
	ok(is_written($node, $id, $calls + 1), 'calls of another database are written after DROP DATABASE ... WITH (FORCE)');
	is(stat_of($node, 'calls_pending'), 0, 'no call of the dropped database stays in memory');
}

# DROP EXTENSION under load. The same key in a new extension does not inherit its calls.
{
	my $other = new_database($node, 'extension');
	my $row = $node->safe_psql('extension', 'SELECT amt_key FROM amt_key');
	my $run = start_pgbench($node, [ "SELECT count(*) FROM amt_verify(:token);\n" ], { dbname => 'extension' },
		'-c', 4, '-T', 60, '-M', 'prepared', '-D', "token=$other");
	ok(wait_for_worker($node, 'extension'), 'a database under load has a worker before DROP EXTENSION');
	cmp_ok(seconds(sub { $node->safe_psql('extension', 'DROP EXTENSION amt_keys') }), '<', 5, 'DROP EXTENSION works under load');
	$node->safe_psql('extension', 'CREATE EXTENSION amt_keys');
	$node->safe_psql('extension', "INSERT INTO amt_key SELECT (\$row\$$row\$row\$::amt_key).*");
	is(calls_of($node, id_of($other), 'extension'), 0, 'the same key in a new extension inherits no calls');
	$run->{harness}->finish;
	is(join("\n", grep { /ERROR/ && !/(?:function amt_verify\(.*\)|relation with OID \d+|table "amt_key" of extension)/ } split /\n/, $run->{err}), '',
		'the sessions only notice that the function, or its table, is gone');
	is(verify($node, $other, 'extension'), 1, 'the same key works in a new extension');
	ok(is_written($node, id_of($other), 1, 'extension'), 'calls of the same key in a new extension are written');
	verify($node, $other, 'extension');
	$node->safe_psql('extension', 'DROP EXTENSION amt_keys');
	ok(wait_until(sub { stat_of($node, 'calls_pending') == 0 }, 30), 'calls of an extension that is gone are dropped');
	$node->safe_psql('postgres', 'DROP DATABASE extension');
}

# Calls are kept while the extension is being created, and dropped if it is not.
for my $end ('COMMIT', 'ROLLBACK')
{
	$node->safe_psql('postgres', 'CREATE DATABASE coming');
	my $creator = Session->new($node, dbname => 'coming');
	my $new = $creator->query('BEGIN', 'CREATE EXTENSION amt_keys', q{SELECT token FROM amt_create_key('new', 'acme', 'editor')});
	is(verify($creator, $new), 1, 'a key works in the transaction that creates the extension');
	ok(wait_for_worker($node, 'coming'), 'its call starts a worker');
	sleep 1;    # some intervals
	is(stat_of($node, 'calls_pending'), 1, 'the call is kept while the extension is being created');
	$creator->query($end);
	$creator->quit;
	ok($end eq 'COMMIT' ? is_written($node, id_of($new), 1, 'coming') : wait_until(sub { stat_of($node, 'calls_pending') == 0 }, 30),
		"after $end the call is " . ($end eq 'COMMIT' ? 'written' : 'dropped'));
	$node->safe_psql('postgres', 'DROP DATABASE coming');
}

# Terminated at any moment, the worker loses nothing.
set_interval('20ms');
{
	my $before = calls_of($node, $id);
	my $run = start_pgbench($node, [ "SELECT count(*) FROM amt_verify(:token);\n" ],
		'-c', 4, '-j', 1, '-t', 20_000, '-M', 'prepared', '-D', "token=$token");
	my $session = Session->new($node);
	my $terminated = 0;
	$session->query('SET client_min_messages = error');	# it may be gone by itself
	while ($run->{harness}->pumpable)
	{
		$run->{harness}->pump_nb;
		$terminated += $session->query(q{
			SELECT count(pg_terminate_backend(pid)) FROM pg_stat_activity WHERE backend_type = 'amt_keys usage writer'});
		sleep rand 0.05;
	}
	ok(finish_pgbench($run), 'the clients run without an error while the worker is terminated again and again');
	cmp_ok($terminated, '>', 3, 'the worker was terminated several times');
	is(calls_of($node, $id), $before + 80_000, 'no call is lost or counted twice while the worker is terminated again and again');
	ok(wait_until(sub { verify($session, $token) && stored_calls($node, $id) > $before + 80_000 }, 30), 'the next worker writes all calls');
	flush($node);
	is(stored_calls($node, $id), calls_of($node, $id), 'table and view agree after the worker was terminated again and again');
}

# A worker that was terminated before it could write has a successor, though no call comes that would start one.
{
	my ($locker, $session) = map { Session->new($node) } 1 .. 2;
	ok(wait_for_no_worker($node), 'the worker leaves when nothing is counted');
	my $before = stored_calls($node, $id);
	$locker->query('BEGIN', 'LOCK TABLE amt_key_usage IN ACCESS EXCLUSIVE MODE');
	verify($session, $token) for 1 .. 2;
	ok(wait_for_worker($node), 'a call starts a worker while the table of counts is locked');
	my ($pid) = worker_pids($node);
	$node->safe_psql('postgres', "SELECT pg_terminate_backend($pid)");
	ok(is_gone($pid, 10), 'a worker that cannot write leaves when it is terminated');
	$locker->query('COMMIT');
	ok(is_written($node, $id, $before + 2), 'calls that a terminated worker has left are written without a further call');
	$_->quit for $locker, $session;
}

# What the configuration says of sessions does not stop the worker.
{
	my $other = new_database($node, 'configured');
	$node->safe_psql('postgres', "ALTER DATABASE configured SET $_")
	  for "default_transaction_isolation = 'serializable'", 'default_transaction_read_only = on', 'default_transaction_deferrable = on',
	  'statement_timeout = 1', 'lock_timeout = 1', 'idle_session_timeout = 10', 'row_security = off', "search_path = ''",
	  "session_replication_role = 'replica'", "role = 'pg_monitor'", "client_encoding = 'latin1'";
	my $session = Session->new($node, dbname => 'configured',
		options => '-c statement_timeout=0 -c lock_timeout=0 -c idle_session_timeout=0');
	$session->query('SET ROLE NONE');
	is($session->query("SELECT count(*) FROM public.amt_verify('$other')"), 1, 'a key is called in a database with unusual settings');
	ok(wait_until(sub { $session->query('SELECT calls FROM public.amt_key_usage') eq '1' }, 20), 'a call in a database with unusual settings is written');
	$session->query('SET default_transaction_read_only = off', 'SET session_replication_role = origin');
	is($session->query(qq{SELECT public.amt_revoke('} . id_of($other) . q{')}), 't', 'a key is revoked in a database with unusual settings');
	$session->quit;
}

# Code on the table stops all keys alike, so they are not tried one by one.
{
	my $session = Session->new($node);
	my @many = create_keys($session, 50);
	$node->safe_psql('postgres', q{CREATE FUNCTION owners() RETURNS trigger LANGUAGE plpgsql AS 'BEGIN RETURN new; END';
		CREATE TRIGGER owners BEFORE INSERT ON amt_key_usage FOR EACH ROW EXECUTE FUNCTION owners()});
	my $failures = stat_of($node, 'worker_failures');
	verify($session, $_) for @many;
	ok(wait_until(sub { stat_of($node, 'worker_failures') > $failures }, 20), 'the worker fails to write a table with a trigger');
	sleep 6; # the next try has all of them
	cmp_ok(stat_of($node, 'worker_failures') - $failures, '<', 20, 'the worker does not fail for each key');
	$node->safe_psql('postgres', 'DROP TRIGGER owners ON amt_key_usage');
	ok(is_written($node, id_of($_), 1), 'the calls are written without the trigger') for @many[0, -1];
	$session->quit;
}

# A write that fails makes no storm of workers, and loses nothing; one key's trouble is not another's.
{
	my $second = $token;
	my $token = create_key($node);
	my ($id, $second_id) = map { id_of($_) } $token, $second;
	flush($node);
	my $written = stored_calls($node, $second_id);
	# A first row is refused, and a row that is there is not.
	$node->safe_psql('postgres', q{ALTER TABLE amt_key_usage ADD COLUMN "the owner says no" int;
		UPDATE amt_key_usage SET "the owner says no" = 1; ALTER TABLE amt_key_usage ALTER "the owner says no" SET NOT NULL});
	my $session = Session->new($node);
	my ($before, $starts, $failures) = (calls_of($node, $id), map { stat_of($node, $_) } 'worker_starts', 'worker_failures');
	my $until = time + 3;
	my $n = 0;
	while (time < $until)
	{
		$n += verify($session, $token);
		sleep 0.01;
	}
	is(verify($session, $second), 1, 'another key works while the calls of one key cannot be written');
	ok(is_written($node, $second_id, $written + 1), 'the calls of other keys are written although those of one key cannot be');
	cmp_ok(stat_of($node, 'worker_starts') - $starts, '<=', 1, 'a worker that cannot write is not started at every call');
	my $failed = stat_of($node, 'worker_failures') - $failures;
	cmp_ok($failed, '>=', 1, 'failed writes are counted in worker_failures');
	cmp_ok($failed, '<=', 8, 'a failed write is not tried at every interval');
	my $log = slurp_file($node->logfile);
	is(scalar(() = $log =~ /amt_keys could not write counted calls: [^\n]*"the owner says no"/g), 1, 'the log tells the reason of a failed write once');
	is(calls_of($node, $id), $before + $n, 'the view is exact while calls cannot be written');
	$node->safe_psql('postgres', 'ALTER TABLE amt_key_usage DROP COLUMN "the owner says no"');
	flush($node);
	is(stored_calls($node, $id), $before + $n, 'no call is lost when it can be written again');
	$session->quit;
}

# No place for a worker at all: the calls wait in memory.
{
	$node->append_conf('postgresql.conf', "max_worker_processes = 0\namt_keys.usage_flush_interval = '100ms'");
	$node->restart;
	my $before = calls_of($node, $id);
	my $session = Session->new($node, verbosity => 'verbose');
	is(verify($session, $token), 1, 'without a place for a worker a key works');
	is(calls_of($node, $id), $before + 1, 'the view has a call that no worker can write');
	cmp_ok(stat_of($node, 'worker_failures'), '>', 0, 'worker_failures counts that no worker could be started');
	like($session->query('SELECT amt_flush_usage()'),
		qr/ERROR:  53400: could not start the background worker .*\nHINT:  Increase "max_worker_processes"/, 'amt_flush_usage() raises 53400 when no worker can be started');
	sleep 0.2;
	verify($session, $token) for 1 .. 3;
	is(scalar(() = slurp_file($node->logfile) =~ /could not start its background worker/g), 1, 'the log says once for a session that no worker could be started');
	is(stored_calls($node, $id), $before, 'no call is written without a worker');
	is(calls_of($node, $id), $before + 4, 'the view has every call that no worker can write');
	is(stat_of($node, 'calls_pending'), 4, 'the calls that no worker can write are pending');
	my $took = stop_seconds($node);
	cmp_ok($took, '<', 5, 'the server stops without waiting for a worker');
	$node->start;
	is(calls_of($node, $id), $before, 'a restart loses the calls that no worker could write');
}

# All places are taken: the calls wait until one is free. The launcher of logical replication takes one.
{
	my $other = do {
		$node->append_conf('postgresql.conf', "max_worker_processes = 8");
		$node->restart;
		new_database($node, 'waiting');
	};
	$node->append_conf('postgresql.conf', "max_worker_processes = 2\nmax_logical_replication_workers = 1");
	$node->restart;
	my $load = start_load($node, $token, clients => 1);
	ok(wait_for_worker($node), 'the worker of one database takes the last place');
	my $session = Session->new($node, dbname => 'waiting');
	is(verify($session, $other), 1, 'a key of another database works while every place for a worker is taken');
	is($session->query('SELECT amt_flush_usage()'), 'ERROR:  53400', 'amt_flush_usage() raises 53400 while every place for a worker is taken');
	is(stored_calls($node, id_of($other), 'waiting'), '', 'a call is not written while every place for a worker is taken');
	is(calls_of($node, id_of($other), 'waiting'), 1, 'the view has a call that waits for a place for a worker');
	end_load($node, $load);
	ok(wait_for_no_worker($node), 'the worker leaves when the load ends');
	is($session->query('SELECT amt_flush_usage()'), 1, 'amt_flush_usage() starts a worker when a place is free again');
	is(stored_calls($node, id_of($other), 'waiting'), 1, 'the call that waited for a place for a worker is written');

	# A worker asks for a successor while it has the last place itself.
	my $owner = Session->new($node, dbname => 'waiting');
	$owner->query('BEGIN', 'LOCK TABLE amt_key_usage IN SHARE MODE');
	verify($session, $other);
	ok(wait_for_worker($node, 'waiting'), 'a call starts the worker while the table is locked');
	my $failures = stat_of($node, 'worker_failures');
	my $logged = length slurp_file($node->logfile);
	$owner->query(q{SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE backend_type = 'amt_keys usage writer'});
	ok(wait_for_no_worker($node, 'waiting'), 'a terminated worker leaves although it cannot write');
	is(stat_of($node, 'worker_failures'), $failures + 1, 'worker_failures counts that there was no place for its successor');
	like(slurp_file($node->logfile, $logged), qr/could not start its background worker/, 'and so does the log');
	$owner->query('ROLLBACK');
	$owner->quit;
	is($session->query('SELECT amt_flush_usage()'), 1, 'the next session that asks gets the call written');
	$session->quit;
}

$node->stop;
done_testing();
