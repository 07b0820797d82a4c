# The writer writes once an interval, waits for nobody longer than a second, and nobody waits for it.

use strict;
use warnings FATAL => 'all';

use FindBin;
use lib "$FindBin::RealBin/../perl";

use AmtKeys qw(:all);
use Session;
use PostgreSQL::Test::Utils;
use Test::More;
use Time::HiRes qw(sleep time);

my $node = new_cluster(conf => "amt_keys.usage_flush_interval = 1s\nautovacuum = off\nmax_prepared_transactions = 5");
my $token = create_key($node);
my $id = id_of($token);
my $s = Session->new($node);

# Versions of rows of usage that were written, as the statistics know.
sub written
{
	return $node->safe_psql('postgres', q{SELECT n_tup_ins + n_tup_upd FROM pg_stat_user_tables WHERE relname = 'amt_key_usage'});
}

# Rows are written once an interval, however busy the keys are.
{
	my $run = start_load($node, $token);
	ok(wait_for_worker($node), 'a worker comes with the load');
	ok(wait_until(sub { written() > 0 }), 'the statistics know what the worker writes while it runs');
	my ($start, $before, $calls) = (time, written(), stored_calls($node, $id));
	sleep 4;    # the subject is what happens in this time
	my $writes = written() - $before;
	cmp_ok($writes, '<=', time - $start + 1, 'a busy key is written once an interval');
	cmp_ok($writes, '>=', 1, 'a busy key is written at least once in four intervals');
	cmp_ok(stored_calls($node, $id), '>', $calls, 'the calls of a busy key are added up in the table');
	my $answered = end_load($node, $run);
	my $counted = calls_of($node, $id);
	ok($counted >= $answered && $counted <= $answered + 4, 'every call of a busy key is counted');
}

# A thousand keys of which each is called once are written in batches.
{
	$node->safe_psql('postgres', "CREATE TABLE token AS SELECT i AS n, token FROM generate_series(1, 3000) AS i, amt_create_key('key ' || i, 'acme', 'editor')");
	my $run = start_pgbench($node, [ "SELECT 1 / count(*) FROM token, amt_verify(token) WHERE n % 8 = :client_id;\n" ], '-c', 8, '-j', 2, '-t', 1);
	ok(finish_pgbench($run), 'three thousand keys are verified for the first time, by eight sessions');
	is($node->safe_psql('postgres', q{SELECT sum(calls) FROM amt_keys WHERE name LIKE 'key %'}), 3000, 'each first call of three thousand keys is counted');
	is(stat_of($node, 'calls_dropped'), 0, 'no first call of three thousand keys is dropped');
	flush($node);
	is($node->safe_psql('postgres', q{SELECT sum(calls) FROM amt_key_usage JOIN amt_key USING (key_id) WHERE name LIKE 'key %'}), 3000, 'each first call of three thousand keys is written');
}

configure($node, 'amt_keys.usage_flush_interval' => '100ms');

# Rows that others lock are written later, all others at once, and the view counts both.
for my $lock ("SELECT 1 FROM amt_key_usage WHERE key_id = 'ID' FOR UPDATE", "SELECT 1 FROM amt_key_usage WHERE key_id = 'ID' FOR KEY SHARE",
	"UPDATE amt_key_usage SET calls = calls WHERE key_id = 'ID' RETURNING 1",
	"UPDATE amt_key SET name = 'renamed' WHERE key_id = 'ID' RETURNING 1",
	"DELETE FROM amt_key WHERE key_id = 'ID' RETURNING 1")
{
	my ($locked, $other) = map { create_key($node) } 1 .. 2;
	my $owner = Session->new($node);
	verify($s, $locked);
	flush($node);
	is($owner->query('BEGIN', $lock =~ s/ID/id_of($locked)/er), 1, "the owner has done: $lock");
	is(verify($s, $_), 1, 'a key works while the owner holds a row') for $locked, $other;
	ok(is_written($node, id_of($other), 1), 'calls of another key are written while the owner holds a row');
	is(calls_of($node, id_of($locked)), 2, 'the view has the call of a key whose row the owner holds');
	$owner->query('ROLLBACK');
	ok(is_written($node, id_of($locked), 2), 'a call is written when the owner has let go of the row');
	$owner->quit;
}

# The same for a key without a row of usage, whichever way the owner's transaction ends.
for my $end ('COMMIT', 'ROLLBACK')
{
	my ($changed, $deleted, $inserted, $other) = map { create_key($node) } 1 .. 4;
	my $owner = Session->new($node);
	my $failures = stat_of($node, 'worker_failures');
	$owner->query('BEGIN', "UPDATE amt_key SET name = 'renamed' WHERE key_id = '" . id_of($changed) . "'",
		"SELECT 1 FROM amt_key WHERE key_id = '" . id_of($changed) . "' FOR UPDATE",
		"INSERT INTO amt_key_usage VALUES ('" . id_of($inserted) . "', 0, now())",
		"DELETE FROM amt_key WHERE key_id = '" . id_of($deleted) . "'");
	is(verify($s, $_), 1, 'a key works while the owner changes keys') for $changed, $deleted, $inserted, $other;
	ok(is_written($node, id_of($other), 1), 'the first call of another key is written');
	is(join(' ', map { calls_of($node, id_of($_)) } $changed, $deleted, $inserted), '1 1 1', 'the view has the calls of keys that the owner changes');
	$owner->query($end);
	ok(is_written($node, id_of($_), 1), "the call is written after $end") for $changed, $inserted;
	ok(is_written($node, id_of($deleted), $end eq 'COMMIT' ? '' : 1), "$end: a deleted key has no row of usage, another has one");
	is($s->query('SELECT count(*) FROM amt_key_usage WHERE key_id NOT IN (SELECT key_id FROM amt_key)'), 0, 'no row of usage without a key is left over');
	$owner->quit;
}

# Locks of whole tables, and work on the indexes.
for my $lock ('LOCK TABLE amt_key_usage', 'LOCK TABLE amt_key_usage IN SHARE MODE', 'TRUNCATE amt_key_usage',
	'REINDEX INDEX amt_key_usage_pkey', 'ALTER INDEX amt_key_usage_pkey SET TABLESPACE pg_default', 'LOCK TABLE amt_key IN SHARE MODE',
	'CREATE INDEX ON amt_key_usage (calls)', 'ALTER TABLE amt_key_usage ADD COLUMN more int')
{
	my $locked = create_key($node);
	my $owner = Session->new($node);
	$owner->query('BEGIN', $lock);
	my $took = seconds(sub { is(verify($node, $locked), 1, "a key works although the owner has done: $lock") });
	cmp_ok($took, '<', 2, 'a verification does not wait for the lock of a table');
	my ($worker) = worker_pids($node);
	$took = seconds(sub { $node->safe_psql('postgres', 'CREATE DATABASE other') ; $node->safe_psql('postgres', 'DROP DATABASE other') });
	cmp_ok($took, '<', 5, 'another database is created and dropped while a table is locked');
	$owner->query('ROLLBACK');
	ok(is_written($node, id_of($locked), 1), 'a call is written when the lock of the table is gone');
	$owner->quit;
}

# A key that cannot be looked up in time does not hold up those behind it.
{
	my ($slow, @others) = map { create_key($node) } 1 .. 20;
	my ($owner, $reindexer) = map { Session->new($node) } 1 .. 2;
	wait_for_no_worker($node);
	$owner->query('BEGIN', 'LOCK TABLE amt_key_usage IN SHARE MODE');
	is(join(' ', map { verify($s, $_) } $slow, @others), join(' ', (1) x 20), 'keys are called in turn');
	$s->query("UPDATE amt_key SET name = 'moved' WHERE key_id = '" . id_of($slow) . "'");	# now only the index tells where its row is
	$reindexer->query('BEGIN', 'REINDEX INDEX amt_key_pkey');
	$owner->query('ROLLBACK');
	my $written = sub {
		$node->safe_psql('postgres', 'SELECT count(*) FROM amt_key_usage WHERE calls = 1 AND key_id IN (' . join(', ', map { "'" . id_of($_) . "'" } @_) . ')');
	};
	ok(wait_until(sub { $written->(@others) == 19 }, 60), 'calls of the keys behind it are written');
	is($written->($slow), 0, 'its own call waits');
	$reindexer->query('ROLLBACK');
	ok(is_written($node, id_of($slow), 1), 'and is written when the index is free');
	$owner->quit;
	$reindexer->quit;
}

# Sessions that have counted go at once, whatever the table is locked by: nothing is written at exit.
{
	my $owner = Session->new($node);
	$owner->query('BEGIN', 'LOCK TABLE amt_key_usage');
	for my $end ('quit', 'terminate', 'terminate in a transaction')
	{
		my $client = Session->new($node);
		my $pid = $client->backend;
		$client->query('BEGIN') if $end =~ /transaction/;
		is(verify($client, $token), 1, "a session counts a call while the table is locked ($end)");
		my $took = seconds(
			sub {
				$end eq 'quit' ? $client->quit : $s->query("SELECT pg_terminate_backend($pid)");
				is_gone($pid, 10);
			});
		cmp_ok($took, '<', 1, "a session that has counted a call ends at once ($end)");
	}
	$owner->query('ROLLBACK');
	$owner->quit;
}

# Waiting for a standby that is not there is not for the writer.
{
	configure($node, synchronous_standby_names => 'nobody');
	my $new = $s->query('SET synchronous_commit = local', q{SELECT token FROM amt_create_key('a key', 'acme', 'editor')});
	verify($s, $new);
	ok(is_written($node, id_of($new), 1), 'calls are written although commits wait for a standby');
	configure($node, synchronous_standby_names => '');
}

# A trigger of the owner that waits for ever is not run, and stops the counting and nothing else.
{
	my $what = 'a trigger that waits for ever';
	my ($waiting, $other) = map { create_key($node) } 1 .. 2;
	verify($s, $_) for $waiting, $other;
	flush($node);
	$s->query("CREATE FUNCTION wait_for_ever() RETURNS trigger LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp AS 'BEGIN PERFORM pg_sleep(1000); RETURN NEW; END'",
		'CREATE TRIGGER wait_for_ever BEFORE INSERT OR UPDATE OR DELETE ON amt_key_usage FOR EACH ROW EXECUTE FUNCTION wait_for_ever()');
	my $failures = stat_of($node, 'worker_failures');
	verify($s, $waiting);
	ok(wait_until(sub { stat_of($node, 'worker_failures') > $failures }, 10), "$what: the batch is counted as failed");
	my $started = time;
	is(verify($node, $waiting), 1, "$what: the key works");
	is(calls_of($node, id_of($waiting)), 3, "$what: the view has all calls of the key");
	is(calls_of($node, id_of($other)), 1, "$what: the view has the calls of other keys");
	cmp_ok(time - $started, '<', 2, "$what: neither a verification nor the view waits");
	my $took = seconds(sub { is(revoke($node, $other), 't', "$what: a key is revoked") });
	cmp_ok($took, '<', 4, "$what: the revocation waits for one batch at the most");
	$took = seconds(sub { is(create_key($node) =~ /\Aamt_/, 1, "$what: a key is created") });
	cmp_ok($took, '<', 4, "$what: a creation does not wait");
	$took = seconds(sub { $node->safe_psql('postgres', 'CREATE DATABASE other'); $node->safe_psql('postgres', 'DROP DATABASE other') });
	cmp_ok($took, '<', 5, "$what: another database is created and dropped");
	my $client = Session->new($node);
	verify($client, $waiting);
	my $pid = $client->backend;
	$took = seconds(sub { $client->quit; is_gone($pid, 10) });
	cmp_ok($took, '<', 1, "$what: a session that has counted goes at once");
	is($s->query('SELECT amt_flush_usage()'), 'ERROR:  55000', "$what: amt_flush_usage() says that calls are left");
	$took = seconds(sub { $s->query("SET statement_timeout = '10s'", 'DROP TRIGGER wait_for_ever ON amt_key_usage', 'RESET statement_timeout') });
	cmp_ok($took, '<', 5, "$what: the trigger can be dropped");
	verify($node, $waiting);
	flush($node);
	is(stored_calls($node, id_of($waiting)), 5, "$what: without the trigger all calls are written");
	is(calls_of($node, id_of($waiting)), 5, "$what: no call is lost or counted twice");
	is(events_of($node, id_of($other)), 1, "$what: the revocation has recorded the calls");
}

# The worker looks for dropped databases, but does not wait for their catalog.
{
	my $key = create_key($node);
	new_database($node, 'other');
	verify($node, create_key($node, 'other'), 'other');
	my $owner = Session->new($node);
	verify($s, $key);
	ok(wait_for_worker($node), 'a worker runs before the catalog is locked');
	$owner->query('ALTER DATABASE other RENAME TO another', 'BEGIN', 'LOCK TABLE pg_database IN ACCESS EXCLUSIVE MODE');
	my $longest = 0;
	for (1 .. 40)    # the worker looks every ten seconds
	{
		verify($s, $key);
		$owner->query('SELECT pg_stat_clear_snapshot()');
		my $waits = $owner->query(q{SELECT coalesce(max(extract(epoch FROM clock_timestamp() - state_change)), 0)::int
			FROM pg_stat_activity WHERE backend_type = 'amt_keys usage writer' AND wait_event_type = 'Lock' AND datname IS NOT NULL});
		$longest = $waits if $waits > $longest;
		sleep 0.5;
	}
	$owner->query('ROLLBACK');
	cmp_ok($longest, '<', 4, 'the worker waits no longer than two seconds for the catalog of databases');
	flush($node);
	is(calls_of($node, id_of($key)), 41, 'and writes every call');
	$owner->quit;
}

$s->quit;
$node->stop;
done_testing();
