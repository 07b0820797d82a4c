# What the library may call, what errors and events tell, how a revocation that hangs is ended, and REINDEX CONCURRENTLY
# under load.

use strict;
use warnings FATAL => 'all';

use FindBin;
use lib "$FindBin::RealBin/../perl";

use AmtKeys;
use Session;
use PostgreSQL::Test::Utils;
use Test::More;
use Time::HiRes qw(sleep);

my $node = new_cluster(conf => "max_prepared_transactions = 5\namt_keys.usage_flush_interval = 50ms\n");
my $super = Session->new($node);
$super->query('SET client_min_messages = warning', 'CREATE ROLE member LOGIN', 'CREATE ROLE globex_app LOGIN', 'CREATE ROLE web LOGIN', 'CREATE ROLE app LOGIN', 'GRANT EXECUTE ON FUNCTION amt_verify TO app',
	'CREATE ROLE gateway LOGIN', 'GRANT SET ON PARAMETER amt_keys.org_id, amt_keys.role, amt_keys.actor TO gateway',
	map { my ($role, $org) = @$_; (map { "ALTER ROLE $role SET amt_keys.$_" } "org_id = '$org'", q{role = 'owner'}, "actor = 'ann of $org'") } [ member => 'acme' ], [ globex_app => 'globex' ]);

## What the library calls

{
	my ($library) = run_command([ $node->config_data('--pkglibdir') ? ('nm', '-D', '--undefined-only', $node->config_data('--pkglibdir') . '/amt_keys.so') : () ]);
	my @symbols = $library =~ /\sU (\w+)/g;
	cmp_ok(scalar(@symbols), '>', 100, 'the library\'s symbols are listed');
	is(join(' ', grep { /^SPI_|^pg_parse_query|^raw_parser|^pg_plan_quer|^parse_analyze|^execute_sql|^ProcessUtility$|^standard_ExecutorRun|^ExecutorRun/ } @symbols), '', 'the library has no way to run SQL');
	is(join(' ', grep { /^RangeVar|^(?:table|relation|heap)_openrv|^makeRangeVar|^LookupFuncName|^OpernameGetOprid|^typenameType|^regclassin|^regprocin|^to_reg|^parseTypeString|^fetch_search_path|^FindDefaultConversion|^pg_do_encoding_conversion|^pg_server_to_|^pg_any_to_/ } @symbols), '',
		'the library resolves no name in a search_path');
	my @files = map { s{.*/}{}r } grep { slurp_file($_) =~ /\bget_relname_relid\b/ } glob "$FindBin::RealBin/../../src/*.c";
	is("@files", 'relations.c', 'the library looks a table up by its name in one place only, where it finds its own');
	@files = map { s{.*/}{}r } grep { slurp_file($_) =~ /\bSetUserIdAndSecContext\b/ } glob "$FindBin::RealBin/../../src/*.c";
	is("@files", 'write.c', 'the library takes on another user in one place only, where it writes a table as its owner');
	@files = map { s{.*/}{}r } grep { slurp_file($_) =~ /\bGetSessionUserId\b/ } glob "$FindBin::RealBin/../../src/*.c";
	is("@files", 'authenticate.c event.c', q{the library asks for the session's user only to believe claims and to record an event});
}

## What errors tell

my $token = $super->query(q{SELECT token FROM amt_create_key('k', 'acme', 'owner')});
my $id = id_of($token);
my ($secret) = $token =~ /\Aamt_[^_]+_(.*)/;
{
	my $member = Session->new($node, user => 'member', verbosity => 'verbose');
	for my $sql ("amt_has_role('$token')", "amt_require_role('$token')", "amt_create_key('k', 'acme', '$token')", "amt_create_key('$token')", "amt_create_key('k', '$token')", "amt_create_key('k', scopes => array['$token '])",
		"amt_rotate_key('$token', '-1 day')", "amt_rotate_key('amt_x_$secret')", "amt_import_key(sha256('x'), '$token', 'acme', 'owner')", "amt_require_scope('$token')", "amt_revoke('$token' || '...')",
		"amt_create_key('x $token x')", "amt_create_key(E'$token\\n')", "amt_create_key(repeat('$token', 10))")
	{
		my $answer = $member->query('BEGIN', "SELECT $sql", 'ROLLBACK') // die;
		is(index($answer =~ s/^LINE.*\n.*\n?//mgr, substr($secret, 0, 20)), -1, "the answer to " . $sql =~ s/\Q$secret\E/.../gr . ' tells nothing of the secret');
	}
	my $imported = $super->query(q{SELECT amt_import_key(sha256('sk_live_abcdefghijklmnopqrstuvwx'), 'i', 'acme', 'owner')});
	is($member->query(q{SELECT amt_create_key('amt_old_abcdefghijklmnop')}) =~ /^ERROR:  22023: key name must not contain a token/ ? 1 : 0, 1, 'a name that is an imported token of ours is refused');
	is($member->query(q{SELECT amt_create_key('k', scopes => ARRAY['note:read', 'amt_old_abcdefghijklmnop'])}) =~ /^ERROR:  22023: scopes must not contain a token\n(?!.*amt_old)/s ? 1 : 0, 1, 'so is a scope, and the error does not quote it');
	$super->query("SELECT amt_revoke('$imported')");
	$member->quit;
}

## What events tell

{
	my $key = $super->query(q{SELECT token FROM amt_create_key('found', 'globex', 'owner')});
	my $key_id = id_of($key);
	my $event = sub { return $super->query("SELECT event, actor IS NULL, by_key IS NULL FROM amt_key_event WHERE key_id = '$_[0]' ORDER BY event_id DESC LIMIT 1") };
	is(Session->new($node, user => 'member')->query("SELECT amt_revoke('$key')"), 't', 'a person revokes a token of another organization that was found');
	is($event->($key_id), 'revoked|t|t', 'the other organization\'s record does not name that person');
	$key = $super->query(q{SELECT token FROM amt_create_key('found', 'globex', 'owner')});
	is(Session->new($node, user => 'app')->query('BEGIN', "SELECT org_id FROM amt_verify('$token', true)", "SELECT amt_revoke('$key')", 'COMMIT'), "acme\nt", 'a key revokes a token of another organization');
	is($event->(id_of($key)), 'revoked|t|t', 'the record of another organization does not name a key that revoked its token');
	# A person whose name is a key's displayed prefix.
	my $gateway = Session->new($node, user => 'gateway');
	is($gateway->query('BEGIN', "SELECT set_config('request.jwt.claims', '{\"org_id\":\"acme\",\"org_role\":\"owner\",\"sub\":\"amt_$id...\"}', true) IS NOT NULL", 'SELECT amt_authenticate()',
			q{SELECT key_id AS fake FROM amt_create_key('by a person') \gset}, 'SELECT amt_key_id() IS NULL', 'COMMIT'), "t\n\nt", 'a person is called like a key');
	is($super->query(q{SELECT actor LIKE 'amt\_%', by_key IS NULL FROM amt_key_event WHERE name = 'by a person'}), 't|t', 'an event by a person who is called like a key has an empty by_key');
	$gateway->quit;
	is($super->query(q{SELECT rejected_wrong_secret AS before FROM amt_stat \gset}, "SELECT amt_revoke('amt_${id}_' || repeat('x', 49))", q{SELECT rejected_wrong_secret - :before FROM amt_stat}), "f\n1", 'a guessed secret revokes nothing for a trusted role, either');
	is($super->query("SELECT amt_revoke('$id')"), 't', 'it revokes the key by its id');
	$token = $super->query(q{SELECT token FROM amt_create_key('k', 'acme', 'owner')});
	$id = id_of($token);
	is(Session->new($node, user => 'web')->query("SELECT amt_revoke('amt_${id}_' || repeat('x', 49))"), 'f', 'a guessed secret revokes nothing');
	is($super->query(q{SELECT rejected_wrong_secret - :before FROM amt_stat}), '2', 'a guessed secret is counted');
}

## One leaked key locks nobody out

{
	my @keys = map { $super->query("SELECT token FROM amt_create_key('$_', 'initech', '$_')") } qw(owner admin viewer);
	my @ids = map { id_of($_) } @keys;
	for my $i (0 .. 1)
	{
		my $app = Session->new($node, user => 'app');
		for my $j (grep { $_ != $i } 0 .. 2)
		{
			is($app->query('BEGIN', "SELECT org_id FROM amt_verify('$keys[$i]', true)", "SELECT amt_revoke('$ids[$j]')", 'ROLLBACK'), "initech\nERROR:  42501", "a key cannot revoke another of its organization ($i, $j)");
			is($app->query('BEGIN', "SELECT org_id FROM amt_verify('$keys[$i]', true)", 'SELECT count(*) FROM amt_keys', "DELETE FROM amt_keys WHERE key_id = '$ids[$j]' RETURNING key_id",
					"UPDATE amt_keys SET suspended_at = now() RETURNING key_id", "SELECT amt_rotate_key('$ids[$i]')", 'ROLLBACK'), "initech\n3\nERROR:  42501", "a key can delete, suspend or rotate no other of its organization ($i, $j)");
		}
		is($app->query('BEGIN', "SELECT org_id FROM amt_verify('$keys[$i]', true)", 'DELETE FROM amt_keys RETURNING key_id', 'ROLLBACK'), "initech\n$ids[$i]", 'a key can delete itself');
		$app->quit;
	}
}

## A revocation hangs: who blocks it, and how that is ended

# As the documentation has it: who stands in the way of those that wait, sessions and prepared transactions.
my $blockers = <<'SQL';
SELECT DISTINCT w.pid AS waiting, left(w.query, 40) AS query,
       coalesce(b.pid::text, 'prepared') AS blocker, coalesce(b.usename, p.owner) AS owner,
       CASE WHEN b.pid IS NOT NULL THEN format('SELECT pg_terminate_backend(%s)', b.pid)
            ELSE format('ROLLBACK PREPARED %L', p.gid) END AS ends_it
FROM pg_stat_activity AS w
JOIN pg_locks AS l ON l.pid = w.pid AND NOT l.granted
CROSS JOIN LATERAL unnest(pg_blocking_pids(w.pid)) AS blocking (pid)
LEFT JOIN pg_stat_activity AS b ON b.pid = blocking.pid
LEFT JOIN pg_prepared_xacts AS p ON blocking.pid = 0 AND p.transaction = l.transactionid
WHERE w.query ~* 'amt_'
SQL

# The holders: an open transaction, a savepoint in one, a prepared transaction, each by the token or an owner of the row.
for ([ 'an open transaction', 'web', 'BEGIN', "SELECT amt_revoke('{token}')" ], [ 'a transaction with a savepoint', 'web', 'BEGIN', 'SAVEPOINT s', "SELECT amt_revoke('{token}')", 'RELEASE s' ],
	[ 'a prepared transaction', 'web', 'BEGIN', "SELECT amt_revoke('{token}')", q{PREPARE TRANSACTION 'held'} ], [ 'a deletion from the view', 'member', 'BEGIN', q{DELETE FROM amt_keys WHERE key_id = '{id}'} ],
	[ 'a change of the name', 'member', 'BEGIN', q{UPDATE amt_keys SET name = 'n' WHERE key_id = '{id}'} ], [ 'a rotation', 'member', 'BEGIN', q{SELECT 1 FROM amt_rotate_key('{id}', '1 day')} ])
{
	my ($what, $user, @sql) = @$_;
	my $key = $super->query(q{SELECT token FROM amt_create_key('leaked', 'acme', 'owner')});
	my $key_id = id_of($key);
	my $holder = Session->new($node, user => $user);
	$holder->query(map { s/\{token\}/$key/r =~ s/\{id\}/$key_id/r } @sql);
	my $admin = Session->new($node, user => 'member');
	$admin->send("SELECT amt_revoke('$key_id')");
	ok(!$admin->answers_within(0.3), "$what holds a revocation up");
	is($super->query("SELECT count(*) FROM amt_verify('$key')"), '1', "a key works while $what holds its revocation up");
	my ($waiting, $query, $blocker, $owner, $end) = split /\|/, $super->query($blockers);
	is($owner, $user, "the query shows whose $what it is");
	is($super->query($end), $what =~ /prepared/ ? '' : 't', "the statement that it shows ends $what");
	is($admin->receive(20), 't', "a revocation goes on when $what is ended");
	is($super->query("SELECT count(*) FROM amt_verify('$key')"), '0', "a key is dead when $what is ended");
	$_->quit for $holder, $admin;
}
# Without superuser's help: a limit for how long a transaction may be open, and for a lock.
{
	my $key = $super->query(q{SELECT token FROM amt_create_key('leaked', 'acme', 'owner')});
	$super->query(q{ALTER ROLE web SET idle_in_transaction_session_timeout = '500ms'});
	my $holder = Session->new($node, user => 'web');
	$holder->query('BEGIN', "SELECT amt_revoke('$key')");
	is(Session->new($node, user => 'member')->query("SELECT amt_revoke('" . id_of($key) . "')"), 't', 'idle_in_transaction_session_timeout ends an open transaction by itself');
	$holder->quit;
}

## Nobody but the owner locks the tables

is(Session->new($node, user => 'web')->query('BEGIN', "LOCK TABLE $_ IN ROW EXCLUSIVE MODE", 'ROLLBACK'), 'ERROR:  42501', "LOCK TABLE $_ is refused") for qw(amt_key amt_key_usage amt_key_event amt_keys amt_stat);

## Indexes are built anew under load

{
	$super->query('ALTER SYSTEM SET amt_keys.cache_size = 0', 'SELECT pg_reload_conf()'); # every verification is cold
	my $key = $super->query(q{SELECT token FROM amt_create_key('load', 'acme', 'owner')});
	my $run = start_pgbench($node, [ "SELECT 1 / count(*) FROM amt_verify('$key');\n", "SELECT amt_revoke((amt_create_key('x', 'acme', 'viewer')).key_id);\n", "SELECT count(*) FROM amt_keys;\n" ], '-c3', '-T4');
	my $until = time + 4;
	my $n = 0;
	while (time < $until)
	{
		my $answer = $super->query('REINDEX INDEX CONCURRENTLY amt_key_pkey', 'REINDEX TABLE CONCURRENTLY amt_key_usage', 'REINDEX TABLE CONCURRENTLY amt_key_event', 'REINDEX INDEX CONCURRENTLY amt_key_sha256_key', 'VACUUM amt_key');
		is($answer, '', 'REINDEX CONCURRENTLY raises no error: ' . $answer) if $answer ne '';
		$n++;
	}
	cmp_ok($n, '>', 2, 'indexes are built anew again and again');
	ok(finish_pgbench($run), 'no verification, creation or revocation fails while indexes are built anew');
	is($run->{err} =~ /ERROR/ ? $run->{err} : '', '', 'no error is raised while indexes are built anew');
}
unlike(slurp_file($node->logfile), qr/terminated by signal|PANIC|TRAP|XX000/, 'the server was up all the time');

$super->quit;
$node->stop;
done_testing();
