# What a client can name when it connects, and what the owner of one table attaches to it, harms nobody else.

use strict;
use warnings FATAL => 'all';

use FindBin;
use lib "$FindBin::RealBin/../perl";

use AmtKeys;
use Session;
use PostgreSQL::Test::Utils;
use Test::More;

my $node = new_cluster(conf => <<'CONF');
amt_keys.usage_flush_interval = 50ms
amt_keys.cache_size = 100000
amt_keys.manager_role = 'owner'
CONF
my $super = Session->new($node);
my $version = $super->query("SELECT current_setting('server_version_num')::int / 10000");
my $token = create_key($node);
my $id = id_of($token);
$super->query('SELECT amt_org_id()'); # loads the library
$super->query('SET client_min_messages = warning', 'CREATE ROLE evil LOGIN', 'CREATE ROLE dba LOGIN SUPERUSER', 'CREATE ROLE gateway LOGIN', 'CREATE ROLE acme_app LOGIN', q{ALTER ROLE acme_app SET amt_keys.org_id = 'acme'},
	q{ALTER ROLE acme_app SET amt_keys.role = 'owner'}, 'CREATE ROLE bob LOGIN', 'CREATE SCHEMA bob AUTHORIZATION bob', 'GRANT USAGE ON SCHEMA bob TO PUBLIC', 'GRANT CREATE ON SCHEMA public TO bob');

sub without_warnings
{
	my ($answer) = @_;
	$answer =~ s/^WARNING.*\n?//mg;
	return $answer;
}

## A connection option for any setting, by anybody

# The files on disk are about to be edited.  Nobody has reloaded them.
$node->append_conf('postgresql.conf', "work_mem = 7MB\namt_keys.manager_role = 'viewer'\nthis is a syntax error");
my @settings = split /\n/, $super->query(q{SELECT name || ' ' || context FROM pg_settings WHERE name LIKE 'amt\_keys.%' UNION SELECT 'amt_keys.seal superuser' ORDER BY 1});
cmp_ok(scalar(@settings), '>', 20, 'there are settings to name');
my %value = ('amt_keys.roles' => 'viewer,editor,owner', 'amt_keys.token_prefixes' => 'amt,xyz', 'amt_keys.scopes' => 'a,b', (map { ("amt_keys.$_" => 'on') } qw(any_token redact_logs require_authentication)),
	(map { ("amt_keys.$_" => 5) } qw(scrypt_ln scrypt_r scrypt_p default_lifetime max_lifetime)), 'amt_keys.cache_size' => 1000, 'amt_keys.max_concurrent_scrypt' => 7, 'amt_keys.usage_flush_interval' => 77,
	'amt_keys.role' => 'viewer');
my @functions = ('amt_org_id()', 'amt_role()', 'amt_scopes()', 'amt_actor()', 'amt_key_id()', q{amt_has_role('viewer')}, q{amt_has_scope('x')}, q{amt_require_role('viewer')}, q{amt_require_scope('x')}, 'amt_whoami()',
	q{amt_create_key('k')}, q{amt_revoke('x')}, q{amt_rotate_key('x')}, q{amt_import_key(sha256('x'), 'k', 'acme', 'viewer')}, q{amt_may_manage('a', 'b', 'c')}, q{amt_authenticate()}, q{amt_check_token('x')},
	q{amt_find_tokens('x')}, q{amt_usage('x')});
for (@settings)
{
	my ($name, $context) = split / /;
	my $value = $value{$name} // 'x';
	my @try = (options => "-c $name=$value");
	my $one = 'SELECT amt_org_id() IS NULL';
	is(without_warnings(Session->new($node, user => 'evil', @try)->query($one)), 'ERROR:  42501', "$name, named by a client who may not set it, is refused");
	next if $name eq 'amt_keys.seal';
	$super->query("GRANT SET ON PARAMETER $name TO gateway");
	for my $user ('gateway', 'dba')
	{
		my $answer = without_warnings(Session->new($node, user => $user, @try)->query($one, "SELECT setting = '$value' FROM pg_settings WHERE name = '$name'"));
		like($answer, $context eq 'superuser' ? qr/^[tf]\nt$/ : qr/^ERROR:  42501\nf$/, "$name, named by $user, " . ($context eq 'superuser' ? 'is taken' : 'is refused'));
	}
	$super->query("REVOKE SET ON PARAMETER $name FROM gateway");
}
{
	my $evil = Session->new($node, user => 'evil', options => '-c AMT_KEYS.Manager_Role=viewer');
	is(without_warnings($evil->query("SELECT $_")), 'ERROR:  42501', "after a refused option, SELECT $_ is refused") for @functions;
	is(without_warnings($evil->query($_)), 'ERROR:  42501', "after a refused option, this is refused: $_") for 'SELECT count(*) FROM amt_keys', 'SELECT count(*) FROM amt_key', 'SELECT count(*) FROM amt_key_event', 'DELETE FROM amt_keys', q{UPDATE amt_keys SET name = 'x'};
	is($evil->query("DISCARD ALL", 'RESET ALL', 'SELECT amt_org_id()'), 'ERROR:  42501', 'RESET and DISCARD do not end the refusal after a refused option');
	$evil = Session->new($node, user => 'acme_app', options => '-c amt_keys.max_lifetime=0');
	is(without_warnings($evil->query('SELECT amt_org_id()', q{SELECT amt_create_key('k')})), "ERROR:  42501\nERROR:  42501", 'nobody shakes off a limit or an identity by naming it');
	is(without_warnings(Session->new($node, user => 'evil', options => '-c amt_keys.nosuch=1')->query('SELECT amt_org_id() IS NULL')), 't', 'a name that is no setting is harmless');
	my $parallel = $version >= 16 ? 'debug_parallel_query' : 'force_parallel_mode';
	$evil = Session->new($node, user => 'acme_app', options => "-c amt_keys.roles=x -c $parallel=on");
	is(without_warnings($evil->query('SELECT 1', 'SELECT amt_org_id() FROM (SELECT) AS x')), "1\nERROR:  42501", 'a refused option is refused in parallel workers as well');
	is(Session->new($node, user => 'evil')->query('SHOW work_mem', 'SHOW amt_keys.cache_size', 'SELECT amt_org_id() IS NULL', 'SHOW amt_keys.manager_role'), "4MB\n100000\nt\nowner", 'other sessions see the configuration as it was loaded');
	unlike(slurp_file($node->logfile), qr/syntax error|parameter "work_mem" changed/, 'nobody has parsed the edited files');
}
{
	my $conf = slurp_file($node->data_dir . '/postgresql.conf');
	$conf =~ s/^this is a syntax error\n?//m;
	$conf =~ s/^(work_mem = 7MB|amt_keys.manager_role = 'viewer')\n//mg;
	open my $file, '>', $node->data_dir . '/postgresql.conf' or die;
	print $file $conf;
	close $file;
}

## Loading in the midst of a parallel operation would lose the identity, so it fails

{
	$super->query('CREATE TABLE note AS SELECT i, CASE i % 2 WHEN 0 THEN $$acme$$ ELSE $$globex$$ END AS org_id FROM generate_series(1, 10000) AS i', 'ANALYZE note',
		'CREATE FUNCTION is_mine(text) RETURNS boolean LANGUAGE plpgsql STABLE PARALLEL SAFE AS $$ BEGIN RETURN $1 = amt_org_id(); END $$',
		'ALTER TABLE note ENABLE ROW LEVEL SECURITY', 'CREATE POLICY p ON note USING (is_mine(org_id))', 'GRANT SELECT ON note TO PUBLIC');
	my @parallel = ('SET parallel_setup_cost = 0', 'SET parallel_tuple_cost = 0', 'SET min_parallel_table_scan_size = 0', 'SET max_parallel_workers_per_gather = 2');
	my $count = 'SELECT count(*) FROM note';
	like(Session->new($node, user => 'acme_app')->query(@parallel, "EXPLAIN (COSTS off) $count"), qr/Workers Planned: 2/, 'the plan of the query has parallel workers');
	is(without_warnings(Session->new($node, user => 'acme_app')->query(@parallel, $count)), 'ERROR:  55000', 'the library is not loaded by a policy in the workers');
	is(without_warnings(Session->new($node, user => 'acme_app')->query(@parallel, 'SET parallel_leader_participation = off', $count)), 'ERROR:  55000', 'the library is not loaded by a policy if the workers alone do the work');
	is(Session->new($node, user => 'acme_app')->query(@parallel, 'SELECT amt_org_id()', $count), "acme\n5000", 'parallel workers see all rows if the library was loaded before');
	$super->query('ALTER ROLE acme_app SET session_preload_libraries = amt_keys');
	is(Session->new($node, user => 'acme_app')->query(@parallel, $count), '5000', 'parallel workers see all rows with session_preload_libraries');
	is(without_warnings(Session->new($node, user => 'acme_app', options => '-c amt_keys.manager_role=admin')->query('SELECT amt_role()')), 'ERROR:  42501', 'options are refused with session_preload_libraries, too');
	$super->query('ALTER ROLE acme_app RESET session_preload_libraries');
}

## One table is given away: what its owner attaches to it runs in no session of others, and in the worker as the owner, restricted, and as nobody

# Whatever an owner's code may try.  Each must fail, or find nothing.
my @tries = (
	q{ALTER ROLE bob SUPERUSER}, 'SET ROLE ' . superuser(), q{RESET ROLE}, q{SET SESSION AUTHORIZATION DEFAULT}, q{RESET SESSION AUTHORIZATION}, q{SET LOCAL session_replication_role = replica},
	q{SELECT amt_create_key('stolen')}, q{SELECT amt_create_key('stolen', 'acme', 'owner')}, q{SELECT amt_import_key(sha256('x'), 'stolen', 'acme', 'owner')}, "SELECT amt_rotate_key('$id')",
	"SELECT 1 / amt_revoke('$id')::int", q{SELECT 1 / (SELECT count(*) FROM amt_keys)}, q{UPDATE amt_keys SET name = (1 / 0)::text}, q{DELETE FROM amt_keys WHERE 1 / 0 = 1},
	q{SELECT set_config('amt_keys.org_id', 'acme', true)}, q{SELECT scrypt_hash FROM pg_catalog.pg_class, public.secret}, q{CREATE TEMP TABLE t (i int)}, q{LISTEN x}, q{DECLARE c CURSOR WITH HOLD FOR SELECT 1},
	q{SELECT 1 / (amt_org_id() IS NOT NULL)::int}, q{SELECT 1 / (amt_has_role('viewer'))::int}, q{SELECT 1 / (amt_key_id() IS NOT NULL)::int}, q{SELECT 1 / (amt_actor() IS NOT NULL)::int},
	q{SELECT pg_catalog.pg_read_file('PG_VERSION')}, q{COPY (SELECT 1) TO PROGRAM 'true'},
	q{SELECT 1 / (amt_org_id() IS NOT NULL)::int FROM set_config('request.jwt.claims', '{"org_id":"acme","org_role":"owner"}', true), amt_authenticate()},
);
$super->query('CREATE TABLE secret (scrypt_hash text)',
	'CREATE TABLE ran (tab text, op text, who text, session name, org text)', 'GRANT INSERT, SELECT ON ran TO PUBLIC', 'CREATE TABLE succeeded (tab text, what text, answer text)', 'GRANT INSERT ON succeeded TO PUBLIC');
my $bob = Session->new($node, user => 'bob');
my $tries = join ', ', map { "\$q\$$_\$q\$" } @tries;
is($bob->query(qq{CREATE FUNCTION bob.act(tab text) RETURNS void LANGUAGE plpgsql AS \$f\$
	DECLARE
		statement text;
	BEGIN
		FOREACH statement IN ARRAY array[$tries] LOOP
			BEGIN
				EXECUTE statement;
				-- those that find nothing would not divide by it
				IF statement !~ '^(UPDATE|DELETE)' THEN
					INSERT INTO public.succeeded VALUES (tab, statement, current_user);
				END IF;
			EXCEPTION WHEN OTHERS THEN
				IF SQLSTATE = '22012' AND statement ~ '^(UPDATE|DELETE)' THEN
					INSERT INTO public.succeeded VALUES (tab, statement, current_user);
				END IF;
			END;
		END LOOP;
	END
	\$f\$},
	q{CREATE FUNCTION bob.f() RETURNS trigger LANGUAGE plpgsql AS $$
	BEGIN
		INSERT INTO public.ran VALUES (TG_TABLE_NAME, TG_WHEN || ' ' || TG_OP, current_user, session_user, public.amt_org_id());
		PERFORM bob.act(TG_TABLE_NAME);
		RETURN coalesce(new, old);
	END
	$$},
	q{CREATE FUNCTION bob.v() RETURNS void LANGUAGE plpgsql VOLATILE AS $$
	BEGIN
		INSERT INTO public.ran VALUES ('an index', 'index', current_user, session_user, public.amt_org_id());
		PERFORM bob.act('an index');
	END
	$$},
	q{CREATE FUNCTION bob.i(text) RETURNS text LANGUAGE plpgsql IMMUTABLE AS $$ BEGIN PERFORM bob.v(); RETURN $1; END $$}), '', 'a role makes functions for the table that it will be given');

for my $table ('amt_key', 'amt_key_usage', 'amt_key_event')
{
	my $key = $super->query(q{SELECT token FROM amt_create_key('k', 'acme', 'owner')});
	my $key_id = id_of($key);
	my $member = Session->new($node, user => 'acme_app');
	my $manage = sub {
		my ($name) = @_;
		return $member->query('BEGIN', "SELECT key_id AS id FROM amt_create_key('$name') \\gset", q{UPDATE amt_keys SET name = 'new' WHERE key_id = :'id'}, q{SELECT amt_revoke(:'id')}, 'COMMIT');
	};
	$super->query("ALTER TABLE $table OWNER TO bob", 'TRUNCATE ran, succeeded');

	is($bob->query("CREATE TRIGGER a BEFORE INSERT OR UPDATE OR DELETE ON $table FOR EACH ROW EXECUTE FUNCTION bob.f()", "CREATE TRIGGER z AFTER INSERT OR UPDATE OR DELETE ON $table FOR EACH ROW EXECUTE FUNCTION bob.f()",
			"CREATE INDEX evil ON $table (bob.i(key_id))"), '', "$table is given to a role that attaches triggers and an index function to it");
	$super->query('TRUNCATE succeeded', "DELETE FROM ran WHERE op = 'index'");
	like($manage->('k'), $table eq 'amt_key_usage' ? qr/^t$/m : qr/ERROR:  42501/, $table eq 'amt_key_usage' ? 'code of its owner on amt_key_usage stops nobody' : "nobody manages keys while $table has code of an owner who is no superuser");
	$super->query("SELECT FROM amt_verify('$key')", 'SELECT amt_flush_usage()');
	is($super->query("SELECT FROM amt_revoke('$key_id')"), 'ERROR:  42501', "not even a superuser revokes a key while $table has such code") unless $table eq 'amt_key_usage';
	is($super->query('SELECT amt_flush_usage()'), 'ERROR:  55000', 'the worker writes nothing, either') if $table eq 'amt_key_usage';
	is($super->query('SELECT count(*) FROM ran'), 0, "what is attached to $table has not run");
	my $own = $table eq 'amt_key' ? "WHERE what !~ 'amt_revoke|amt_rotate'" : '';
	is($super->query("SELECT DISTINCT what, answer FROM succeeded $own"), '', "no statement succeeds that code on $table tries");
	is($super->query(q{SELECT count(*) FROM amt_key WHERE name = 'stolen'}), '0', "the owner of $table has stolen no key");
	is($super->query("SELECT count(*) FROM amt_verify('$token')"), '1', "the owner of $table has revoked no key");

	$bob->query("DROP TRIGGER a ON $table", "DROP TRIGGER z ON $table", 'DROP INDEX evil',
		"CREATE CONSTRAINT TRIGGER d AFTER INSERT OR UPDATE OR DELETE ON $table DEFERRABLE INITIALLY DEFERRED FOR EACH ROW EXECUTE FUNCTION bob.f()");
	$super->query('TRUNCATE ran, succeeded');
	$key = $super->query(q{SELECT token FROM amt_create_key('deferred', 'acme', 'owner')});
	like($key, $table eq 'amt_key_usage' ? qr/^amt_/ : qr/^ERROR:  42501$/, "a deferred trigger on $table is refused where the table is written");
	$super->query("SELECT FROM amt_verify('$token')");
	ok(wait_until(sub { $node->log_contains('could not write counted calls: table "amt_key_usage" cannot be written as it is\n.*DETAIL:.* (?:Trigger|Index) "\w+"') }, 10), 'the log says why the worker writes nothing') if $table eq 'amt_key_usage';
	is($super->query("SELECT amt_revoke('" . ($table eq 'amt_key_usage' ? id_of($key) : $id) . "')"), $table eq 'amt_key_usage' ? 't' : 'ERROR:  42501', "a deferred trigger on $table " . ($table eq 'amt_key_usage' ? 'does not hold up a revocation' : 'refuses a revocation'));
	is($super->query('SELECT count(*) FROM ran'), '0', "a deferred trigger on $table has not run");
	$bob->query("DROP TRIGGER d ON $table");
	my $before = stored_calls($node, $id) || 0;
	$super->query("SELECT FROM amt_verify('$token')");
	ok(wait_until(sub { (stored_calls($node, $id) || 0) > $before }, 20), "calls are written when a deferred trigger on $table is gone");
	$super->query("ALTER TABLE $table OWNER TO " . superuser());
	$member->quit;
}
is($super->query(q{SELECT rolsuper FROM pg_roles WHERE rolname = 'bob'}), 'f', 'the owner of the tables is no superuser');
unlike(slurp_file($node->logfile), qr/terminated by signal|PANIC|TRAP/, 'the server was up all the time');

$_->quit for $super, $bob;
$node->stop;
done_testing();
