# amt_flush_usage() has the worker write what was counted before, waits until it is in the table, and returns the number.

use strict;
use warnings FATAL => 'all';

use FindBin;
use lib "$FindBin::RealBin/../perl";

use AmtKeys qw(:all);
use Session;
use PostgreSQL::Test::Utils;
use Test::More;
use Time::HiRes qw(time);

my $node = new_cluster(conf => "amt_keys.usage_flush_interval = '1h'\nmax_prepared_transactions = 5");
my ($s, $a, $b) = map { Session->new($node) } 1 .. 3;
my @tokens = create_keys($s, 5);
my ($token) = @tokens;
my $id = id_of($token);
my $flush = 'SELECT amt_flush_usage()';

# Until it returns, nothing is written, since the worker has just written and waits for its interval.
sub quiet_worker
{
	verify($s, $token);
	$s->query($flush);
	# The caller may have asked once more before it saw that all was written.
	wait_until(sub { $s->query(q{SELECT count(*) FROM pg_stat_activity WHERE backend_type = 'amt_keys usage writer' AND wait_event_type <> 'Extension'}) eq '0' }, 20);
	return;
}

is($s->query($flush), 0, 'amt_flush_usage() returns 0 without calls');
is(scalar(() = worker_pids($node)), 0, 'amt_flush_usage() starts no worker without calls');

quiet_worker();
my $calls = stored_calls($node, $id);
verify($s, $_) for (@tokens) x 3;
is($s->query($flush), 15, 'amt_flush_usage() returns the number of calls that it waited for');
is($s->query('SELECT sum(calls) FROM amt_key_usage'), $calls + 15, 'the calls are in the table when amt_flush_usage() returns');
is($s->query('SELECT calls_pending FROM amt_stat'), 0, 'no call is pending when amt_flush_usage() returns');
is($s->query($flush), 0, 'amt_flush_usage() returns 0 the second time');
my $took = seconds(sub { verify($s, $token); $s->query($flush) });
cmp_ok($took, '<', 1, 'amt_flush_usage() does not wait for the interval');

# In transactions of every kind; what the worker has written is visible to a new snapshot.
for my $begin ('BEGIN', 'BEGIN READ ONLY', 'BEGIN ISOLATION LEVEL REPEATABLE READ', 'BEGIN ISOLATION LEVEL SERIALIZABLE')
{
	quiet_worker();
	$a->query($begin, 'SELECT count(*) FROM amt_key_usage');
	verify($s, $token) for 1 .. 2;
	is($a->query($flush), 2, "$begin: amt_flush_usage() writes calls that were made after the snapshot");
	my $total = calls_of($node, $id);
	is(stored_calls($node, $id), $total, "$begin: other sessions see the written calls at once");
	is($a->query('ROLLBACK') . calls_of($node, $id) . ' ' . stored_calls($node, $id), "$total $total", "$begin: the caller's rollback undoes no written call");
}

# It holds no lock afterwards.
{
	quiet_worker();
	verify($s, $tokens[4]);
	is($a->query('BEGIN', $flush), 1, 'a transaction that has called amt_flush_usage() stays open');
	$took = seconds(sub { is(revoke($node, $tokens[4]), 't', 'a key is revoked while a transaction that has called amt_flush_usage() is open') });
	cmp_ok($took, '<', 2, 'a revocation does not wait for a transaction that has called amt_flush_usage()');
	$a->query('COMMIT');
	is(events_of($node, id_of($tokens[4])), 4, 'the event of the revocation has all calls');
	is($a->query('BEGIN', $flush, q{PREPARE TRANSACTION 'flush'}, q{ROLLBACK PREPARED 'flush'}) =~ /ERROR/ ? 'an error' : 'no error', 'no error',
		'a transaction that has called amt_flush_usage() can be prepared');
}

# What the caller's own transaction keeps from being written is left out, and so is not waited for.
for my $own ("UPDATE amt_keys SET name = 'renamed' WHERE key_id = 'ID'", "UPDATE amt_keys SET suspended_at = NULL, expires_at = now() + interval '1 year' WHERE key_id = 'ID'",
	"SELECT amt_revoke('ID')", "DELETE FROM amt_key WHERE key_id = 'ID'", "SELECT FROM amt_create_key('new', 'acme', 'editor')")
{
	my $new = create_key($node);
	quiet_worker();
	verify($s, $new);
	verify($s, $tokens[1]);
	$a->query('BEGIN', $own =~ s/ID/id_of($new)/er);
	my ($answer) = map { $_->answers_within(10) ? $_->receive : 'no answer' } $a->send($flush);
	is($answer, $own =~ /create/ ? 2 : 1, "amt_flush_usage() does not wait for a key that its transaction has changed by: $own");
	$a->query('ROLLBACK');
	ok(wait_until(sub { stored_calls($node, id_of($new)) eq '1' }, 20), "the call is written after the rollback of: $own");
}
{
	quiet_worker();
	$a->query('BEGIN');
	my $new = $a->query(q{SELECT token FROM amt_create_key('own', 'acme', 'editor')});
	is($a->query(verify_sql($new), $flush), "1\n0", 'amt_flush_usage() leaves out a key that its transaction has created');
	is($a->query('SAVEPOINT x', q{SELECT count(*) FROM amt_create_key('own', 'acme', 'editor') AS k, amt_verify(k.token)}, $flush, 'RELEASE x', $flush),
		"1\n0\n0", 'amt_flush_usage() leaves out a key that a savepoint of its transaction has created');
	$a->query('COMMIT');
	is($a->query($flush) + stored_calls($node, id_of($new)), 3, 'the calls of both keys are written after the commit');
}

# It waits for other transactions, can be cancelled while it waits, and can time out.
{
	my $new = create_key($node);
	quiet_worker();
	$b->query('BEGIN', "UPDATE amt_key SET name = 'renamed' WHERE key_id = '" . id_of($new) . "'");
	verify($s, $new);
	is($a->query("SET statement_timeout = '500ms'", $flush, 'RESET statement_timeout'), 'ERROR:  57014', 'amt_flush_usage() can time out');
	my $pid = $a->backend;
	$a->send($flush);
	ok(wait_until(sub { $s->query("SELECT wait_event_type FROM pg_stat_activity WHERE pid = $pid") eq 'Extension' }), 'amt_flush_usage() waits for another transaction');
	$s->query("SELECT pg_cancel_backend($pid)");
	is($a->receive, 'ERROR:  57014', 'amt_flush_usage() can be cancelled');
	is($a->query('SELECT 1'), 1, 'a session goes on after its amt_flush_usage() was cancelled');
	$a->send($flush);
	ok(!$a->answers_within(0.5), 'amt_flush_usage() waits when it is called again');
	# Calls that are made meanwhile are not waited for.
	my @more = map { verify($s, $tokens[2]) } 1 .. 3;
	$b->query('COMMIT');
	is($a->receive, 1, 'amt_flush_usage() returns when the other transaction ends');
	is(stored_calls($node, id_of($new)), 1, 'the call is written when amt_flush_usage() returns');
	my $client = Session->new($node);
	$b->query('BEGIN', "DELETE FROM amt_key WHERE key_id = '" . id_of($new) . "'");
	verify($s, $new);
	$pid = $client->backend;
	$client->send($flush);
	ok(wait_until(sub { $s->query("SELECT wait_event_type FROM pg_stat_activity WHERE pid = $pid") eq 'Extension' }), 'a session waits in amt_flush_usage()');
	$s->query("SELECT pg_terminate_backend($pid)");
	ok(is_gone($pid, 5), 'a session that waits in amt_flush_usage() can be terminated');
	is($client->receive, undef, 'a terminated session gets no answer from amt_flush_usage()');
	$b->query('ROLLBACK');
}

# Calls of a key whose id belongs to another key when the transaction ends are dropped, and so not written.
{
	my $moved = create_key($node);
	my $id = id_of($moved);
	quiet_worker();
	$b->query('BEGIN', "CREATE TEMP TABLE moved ON COMMIT DROP AS SELECT * FROM amt_key WHERE key_id = '$id'", "DELETE FROM amt_key WHERE key_id = '$id'",
		q{UPDATE moved SET org_id = 'elsewhere'}, 'INSERT INTO amt_key SELECT * FROM moved');
	is(verify($s, $moved), 1, 'a key works while it is moved');
	$a->send($flush);
	ok(!$a->answers_within(0.5), 'amt_flush_usage() waits for the move');
	$b->query('COMMIT');
	is($a->receive, 0, 'amt_flush_usage() does not count calls that were dropped');
}

# The end of the worker does not leave anybody waiting.
{
	my $new = create_key($node);
	quiet_worker();
	$b->query('BEGIN', "UPDATE amt_key SET name = 'renamed' WHERE key_id = '" . id_of($new) . "'");
	verify($s, $new);
	$_->send($flush) for $a, $s;
	ok(!$a->answers_within(0.3), 'two sessions wait in amt_flush_usage()');
	my ($worker) = worker_pids($node);
	is($node->safe_psql('postgres', "SELECT pg_terminate_backend($worker)"), 't', 'the worker is terminated while two sessions wait for it');
	ok(is_gone($worker, 5), 'the terminated worker ends');
	$b->query('COMMIT');
	ok($_->answers_within(15), 'a session that waited for the terminated worker has its answer') for $a, $s;
	is($_->receive, 1, 'another worker has written the call that a session waited for') for $a, $s;
}

# Many at once, among many that count.
{
	my $before = calls_of($node, $id);
	my $run = start_pgbench($node, [ verify_sql($token) . ";\n", verify_sql($token) . ";\n", "SELECT amt_flush_usage();\n", "BEGIN;\nSELECT amt_flush_usage();\nROLLBACK;\n" ],
		'-c', 8, '-j', 2, '-t', 100);
	ok(finish_pgbench($run), 'eight sessions count and wait for the worker');
	$s->query($flush);
	is(stored_calls($node, $id), calls_of($node, $id), 'table and view agree after eight sessions have counted and waited');
	cmp_ok(calls_of($node, $id), '>', $before, 'the calls of eight sessions are counted');
}

$_->quit for $s, $a, $b;
$node->stop;

# In single-user mode there is no worker, nor anybody to wait for.
{
	my ($out, $err);
	my $answered = eval {
		IPC::Run::run([ $node->installed_command('postgres'), '--single', '-D', $node->data_dir, 'postgres' ],
			'<', \(verify_sql($token) . "\n$flush\nSELECT calls_pending FROM amt_stat\n"), '>', \$out, '2>', \$err, IPC::Run::timeout(30));
	};
	ok($answered, 'single-user mode: the server ends');
	is(join(' ', $out =~ /^\t 1: (\w+ = "\w+")/mg), 'count = "1" calls_pending = "1"', 'single-user mode: a key verifies, and its call waits in memory');
	like($err, qr/ERROR:  could not start the background worker that writes counted calls/, 'single-user mode: amt_flush_usage() fails at once');
}

# A new cluster has no numbers of its own in that mode, and row-level security would not apply to the tables.
{
	my $fresh = PostgreSQL::Test::Cluster->new('fresh');
	$fresh->init;
	my ($out, $err);
	IPC::Run::run([ $fresh->installed_command('postgres'), '--single', '-D', $fresh->data_dir, 'postgres' ],
		'<', \"CREATE EXTENSION amt_keys\n", '>', \$out, '2>', \$err, IPC::Run::timeout(60));
	like($err, qr/ERROR:  extension "amt_keys" cannot be created in single-user mode/, 'the extension is not created in single-user mode');
	$fresh->start;
	is($fresh->safe_psql('postgres', 'CREATE EXTENSION amt_keys; SELECT count(*) FROM amt_keys'), 0, 'it is created in a session');
	$fresh->stop;

	# With the library loaded before, the tables are made, but nobody can use them.
	my $preloading = PostgreSQL::Test::Cluster->new('preloading');
	$preloading->init;
	IPC::Run::run([ $preloading->installed_command('postgres'), '--single', '-c', 'session_preload_libraries=amt_keys', '-D', $preloading->data_dir, 'postgres' ],
		'<', \"CREATE EXTENSION amt_keys\n", '>', \$out, '2>', \$err, IPC::Run::timeout(60));
	$preloading->start;
	for my $sql (q{SELECT amt_create_key('k', 'acme', 'viewer')}, q{SELECT * FROM amt_verify('amt_x_xxxxxxxxxxxxxxxx')},
		q{INSERT INTO amt_key (key_id, org_id, name, role, token_sha256, created_at) VALUES ('x', 'acme', 'k', 'viewer', sha256('x'), now())})
	{
		my ($rc, $answer, $error) = $preloading->psql('postgres', $sql);
		like($error, qr/ERROR:  .*It was made in single-user mode/s, "tables made in single-user mode are not used: $sql");
	}
	$preloading->stop;
}

done_testing();
