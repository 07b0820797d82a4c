# What the owner of the tables can force into them, and what a client can name when it connects, harms nobody else.

use strict;
use warnings FATAL => 'all';

use FindBin;
use lib "$FindBin::RealBin/../perl";

use AmtKeys;
use Session;
use PostgreSQL::Test::Utils;
use Test::More;

my $node = new_cluster(conf => <<'CONF');
amt_keys.usage_flush_interval = 100ms
amt_keys.cache_size = 100000
amt_keys.max_concurrent_scrypt = 2
amt_keys.manager_role = 'owner'
amt_keys.redact_logs = off
CONF
my $super = Session->new($node);
my $version = $super->query("SELECT current_setting('server_version_num')::int / 10000");
my $token = create_key($node);
my $id = id_of($token);
$super->query('CREATE ROLE evil LOGIN', 'GRANT pg_monitor TO evil', 'CREATE ROLE acme_app LOGIN', q{ALTER ROLE acme_app SET amt_keys.org_id = 'acme'},
	q{ALTER ROLE acme_app SET amt_keys.role = 'admin'});
$super->query(q{ALTER SYSTEM SET amt_keys.scrypt_ln = 5}, 'SELECT pg_reload_conf()');

## What the configuration file says holds, whatever a client names

{
	my %setting = (cache_size => 100000, max_concurrent_scrypt => 2, manager_role => 'owner', redact_logs => 'off', scrypt_ln => 5, usage_flush_interval => '100ms');
	my $load = q{SELECT amt_check_token('x')};
	for my $name (sort keys %setting)
	{
		my $s = Session->new($node, user => 'evil', options => "-c amt_keys.$name=1");
		like($s->query($load, "SHOW amt_keys.$name"), qr/^\Q$setting{$name}\E\z/m, "PGOPTIONS do not put $name back to its default");
	}
	my $s = Session->new($node, user => 'acme_app', options => '-c AMT_KEYS.manager_role=admin -c amt_keys.role=owner');
	like($s->query('SELECT amt_role()', 'SHOW amt_keys.manager_role'), qr/^admin\nowner\z/m, 'whatever the case, and together with what the role has set');
	$s = Session->new($node, user => 'evil', options => '-c amt_keys.cache_size=0 -c amt_keys.max_concurrent_scrypt=1');
	$s->query($load);
	is(Session->new($node, user => 'evil')->query($load, 'SHOW amt_keys.cache_size'), "f\n100000", 'and for others all is as it was');
}

# Reading the files again tells nothing of them.
$node->append_conf('postgresql.conf', "include_if_exists 'not/for/you.conf'");
unlike(Session->new($node, user => 'evil', options => '-c amt_keys.roles=x -c client_min_messages=log', verbosity => 'default')->query(q{SELECT amt_check_token('x')}),
	qr/LOG|not.for.you/, 'where the files are is not told to a client that wants the log');

# A call that is cancelled while the library is being loaded leaves a session that works.
{
	my $s = Session->new($node, user => 'acme_app');
	$s->query('SELECT 1');
	$super->query('BEGIN', 'LOCK TABLE pg_db_role_setting IN ACCESS EXCLUSIVE MODE');
	is($s->query(q{SET statement_timeout = '300ms'}, 'SELECT amt_org_id()'), 'ERROR:  57014', 'a first call that is cancelled');
	$super->query('ROLLBACK');
	is($s->query('RESET statement_timeout', 'SELECT amt_org_id()', 'SHOW amt_keys.manager_role'), "acme\nowner", 'and the next one works');
}

# The order in which triggers fire can be chosen by a client.
{
	my $key = create_key($node);
	my $key_id = id_of($key);
	$super->query(("SELECT FROM amt_verify('$key')") x 5, 'SELECT amt_flush_usage()');
	my $s = Session->new($node, user => 'acme_app', options => '-c ignore_system_indexes=on');
	is($s->query("DELETE FROM amt_key WHERE key_id = '$key_id' RETURNING 'gone'"), '', 'who is no manager deletes no key');
	$super->query(q{ALTER ROLE acme_app SET amt_keys.role = 'owner'});
	$s = Session->new($node, user => 'acme_app', options => '-c ignore_system_indexes=on');
	is($s->query("DELETE FROM amt_key WHERE key_id = '$key_id' RETURNING 'gone'"), 'gone', 'a manager does, without the order of indexes');
	is($super->query("SELECT calls FROM amt_key_event WHERE key_id = '$key_id' AND event = 'revoked'"), '5', 'and its calls are in the record');
	$super->query(q{ALTER ROLE acme_app SET amt_keys.role = 'admin'});
}

## Loading in the midst of a parallel operation would lose the identity, so it fails

{
	$super->query('CREATE TABLE note AS SELECT i, CASE i % 2 WHEN 0 THEN $$acme$$ ELSE $$globex$$ END AS org_id FROM generate_series(1, 10000) AS i', 'ANALYZE note',
		'CREATE FUNCTION is_mine(text) RETURNS boolean LANGUAGE plpgsql STABLE PARALLEL SAFE AS $$ BEGIN RETURN $1 = amt_org_id(); END $$',
		'ALTER TABLE note ENABLE ROW LEVEL SECURITY', 'CREATE POLICY p ON note USING (is_mine(org_id))', 'GRANT SELECT ON note TO PUBLIC');
	my @parallel = ('SET parallel_setup_cost = 0', 'SET parallel_tuple_cost = 0', 'SET min_parallel_table_scan_size = 0', 'SET max_parallel_workers_per_gather = 2');
	my $count = 'SELECT count(*) FROM note';
	like(Session->new($node, user => 'acme_app')->query(@parallel, "EXPLAIN (COSTS off) $count"), qr/Workers Planned: 2/, 'a plan with workers');
	is(Session->new($node, user => 'acme_app')->query(@parallel, $count), 'ERROR:  55000', 'with the library loaded by the policy, in the workers');
	is(Session->new($node, user => 'acme_app')->query(@parallel, 'SELECT amt_org_id()', $count), "acme\n5000", 'loaded before, the workers see all');
	$super->query('ALTER ROLE acme_app SET session_preload_libraries = amt_keys');
	is(Session->new($node, user => 'acme_app')->query(@parallel, $count), '5000', 'as they do with session_preload_libraries');
	is(Session->new($node, user => 'acme_app', options => '-c amt_keys.manager_role=admin -c amt_keys.role=owner -c amt_keys.cache_size=1')
			->query('SHOW amt_keys.manager_role', 'SHOW amt_keys.cache_size', 'SELECT amt_role()') =~ s/^WARNING.*\n//mgr,
		"owner\n100000\nadmin", 'which bring options nothing either');
	$super->query('ALTER ROLE acme_app RESET session_preload_libraries');
}

## The owner switches the guards off

{
	my $long = 'x' x 500;
	is($super->query('ALTER TABLE amt_key DISABLE TRIGGER amt_key_guard',
			"INSERT INTO amt_key SELECT '$long', org_id, name, role, scrypt_hash, now() FROM amt_key LIMIT 1",
			"SELECT calls FROM amt_keys WHERE key_id = '$long'", "SELECT count(*) FROM amt_verify('amt_${long}_0123456789abcdef')",
			"DELETE FROM amt_key WHERE key_id = '$long' RETURNING 'gone'", "SELECT count(*) FROM amt_key_event WHERE key_id = '$long'"),
		"0\n0\ngone\n2", 'a key id of 500 characters comes and goes');
	is($super->query("INSERT INTO amt_key SELECT 'badhash', org_id, name, role, repeat('x', 100000), now() FROM amt_key LIMIT 1",
			q{SELECT count(*) FROM amt_verify('amt_badhash_0123456789abcdef')}, q{DELETE FROM amt_key WHERE key_id = 'badhash'},
			'ALTER TABLE amt_key ENABLE ALWAYS TRIGGER amt_key_guard'), '0', 'a hash that is none verifies nothing');
	is($super->query('CREATE TRIGGER s AFTER INSERT ON amt_key EXECUTE FUNCTION amt_key_record()', q{SELECT 1 FROM amt_create_key('k', 'acme', 'viewer')}, 'DROP TRIGGER s ON amt_key'),
		'ERROR:  39P01', 'a trigger function for rows, attached to statements');
	is($super->query('CREATE FUNCTION nothing() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN RETURN NULL; END $$',
			'CREATE TRIGGER a BEFORE INSERT ON amt_key FOR EACH ROW EXECUTE FUNCTION nothing()', q{SELECT 1 FROM amt_create_key('k', 'acme', 'viewer')}, 'DROP TRIGGER a ON amt_key'),
		'ERROR:  09000', 'a trigger that lets no key in');
	is($super->query("SELECT count(*) FROM amt_verify('$token')"), '1', 'all of it without harm to a key that was there');
}

## What the owner attaches to the table that the worker writes does not run with the worker's rights

{
	$super->query('CREATE ROLE app_owner LOGIN', 'ALTER TABLE amt_key OWNER TO app_owner', 'ALTER TABLE amt_key_usage OWNER TO app_owner', 'ALTER TABLE amt_key_event OWNER TO app_owner',
		'CREATE TABLE ran (who text, event text)', 'GRANT INSERT ON ran TO PUBLIC', 'GRANT CREATE, USAGE ON SCHEMA public TO app_owner');
	my $owner = Session->new($node, user => 'app_owner');
	$owner->query('CREATE FUNCTION f() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN INSERT INTO ran VALUES (current_user, TG_OP); RETURN NEW; END $$',
		'CREATE TRIGGER now AFTER UPDATE OR INSERT ON amt_key_usage FOR EACH ROW EXECUTE FUNCTION f()');
	$super->query("SELECT FROM amt_verify('$token')");
	ok(wait_until(sub { $super->query('SELECT count(*) FROM ran') > 0 }), 'a trigger of the owner\'s runs when the worker writes');
	is($super->query('SELECT DISTINCT who FROM ran'), 'app_owner', 'as the owner');
	$owner->query('DROP TRIGGER now ON amt_key_usage', 'CREATE CONSTRAINT TRIGGER later AFTER UPDATE OR INSERT ON amt_key_usage DEFERRABLE INITIALLY DEFERRED FOR EACH ROW EXECUTE FUNCTION f()');
	$super->query('TRUNCATE ran', "SELECT FROM amt_verify('$token')");
	ok(wait_until(sub { $node->log_contains('cannot fire deferred trigger within security-restricted operation') }), 'one that would run at the end of the worker\'s transaction is refused');
	is($super->query('SELECT count(*) FROM ran'), '0', 'and does not run');
	my $calls = calls_of($node, $id);
	$owner->query('DROP TRIGGER later ON amt_key_usage');
	is(calls_of($node, $id), $calls, 'the calls wait meanwhile');
	ok(wait_until(sub { $super->query("SELECT FROM amt_verify('$token')", "SELECT pg_sleep(0.2)"); stored_calls($node, $id) > $calls }), 'and are written when it is gone');
	$owner->quit;
}

$super->quit;
$node->stop;
done_testing();
