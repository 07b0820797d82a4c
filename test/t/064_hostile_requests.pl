# The claims and headers of a request: who may put them there, and what they may hold.  Claims are believed in the first call
# of a transaction of a gateway's own session, and nowhere else, whosever code asks.

use strict;
use warnings FATAL => 'all';

use FindBin;
use lib "$FindBin::RealBin/../perl";

use AmtKeys;
use Session;
use PostgreSQL::Test::Utils;
use Test::More;

my $node = new_cluster(conf => "autovacuum = off\nautovacuum_naptime = 1s\nautovacuum_vacuum_threshold = 1\nautovacuum_analyze_threshold = 1\nmax_prepared_transactions = 5\n");
my $super = Session->new($node);
my $version = $super->query("SELECT current_setting('server_version_num')::int / 10000");
my $whoami = q{SELECT concat_ws('/', coalesce(amt_org_id(), '-'), coalesce(amt_role(), '-'), coalesce(amt_actor(), '-'), coalesce(amt_key_id(), '-'))};
my $globex = q{'{"org_id":"globex","org_role":"owner","sub":"gus"}'};

sub ok_sql
{
	my ($session, @sql) = @_;
	my $answer = $session->query(@sql) // die 'the server is down';
	die "$answer\nin: @sql" if $answer =~ /ERROR/;
	return $answer;
}

ok_sql($super, 'SET client_min_messages = warning', 'CREATE ROLE gateway LOGIN NOINHERIT', 'CREATE ROLE web', 'CREATE ROLE viewer', 'GRANT web, viewer TO gateway', 'CREATE ROLE bob LOGIN', 'CREATE ROLE plain LOGIN', 'CREATE ROLE dba LOGIN SUPERUSER',
	'GRANT SET ON PARAMETER amt_keys.org_id, amt_keys.role, amt_keys.actor TO gateway', 'CREATE SCHEMA bob AUTHORIZATION bob', 'GRANT USAGE, CREATE ON SCHEMA bob TO PUBLIC',
	'GRANT CREATE ON SCHEMA public TO bob', 'CREATE TABLE note (org_id text, text text)', 'ALTER TABLE note ENABLE ROW LEVEL SECURITY', 'CREATE POLICY p ON note USING (org_id = amt_org_id())', 'GRANT SELECT ON note TO PUBLIC',
	q{INSERT INTO note SELECT o, 'a note of ' || o FROM unnest(array['acme', 'globex']) AS o, generate_series(1, 2)});
my $token = $super->query(q{SELECT token FROM amt_create_key('k', 'globex', 'owner')});
my $acme = $super->query(q{SELECT token FROM amt_create_key('k', 'acme', 'viewer')});

## Where claims are believed

my $gateway = Session->new($node, user => 'gateway');
my @request = ('BEGIN', "SET LOCAL request.jwt.claims = $globex", q{SET LOCAL request.headers = '{}'});
is(ok_sql($gateway, @request, 'SELECT amt_authenticate()', $whoami, 'COMMIT'), "\nglobex/owner/gus/-", q{claims are believed in a gateway's own session});
is(ok_sql($gateway, @request, 'SET LOCAL ROLE web', 'SELECT amt_authenticate()', $whoami, 'COMMIT', $whoami), "\nglobex/owner/gus/-\n-/-/-/-", 'claims are believed as another role, until the end of the transaction');
for (qw(plain dba bob))
{
	is(ok_sql(Session->new($node, user => $_), @request, 'SELECT amt_authenticate()', $whoami, 'COMMIT'), "\n-/-/-/-", "claims are not believed in a session of $_");
}
is(ok_sql($super, 'SET SESSION AUTHORIZATION gateway', @request, 'SELECT amt_authenticate()', $whoami, 'COMMIT', 'RESET SESSION AUTHORIZATION') =~ s/^\n//r, 'globex/owner/gus/-', q{SET SESSION AUTHORIZATION makes a session the gateway's own});

## Other people's code in a privileged session

# What bob's code does when it runs: become globex's owner, copy its notes, and make a key.
my $bob = Session->new($node, user => 'bob');
ok_sql($bob, 'CREATE TABLE bob.stolen (what text)', 'GRANT INSERT, SELECT ON bob.stolen TO PUBLIC', 'CREATE SEQUENCE bob.ran', 'GRANT ALL ON SEQUENCE bob.ran TO PUBLIC',
	qq{CREATE FUNCTION bob.steal() RETURNS text LANGUAGE plpgsql VOLATILE AS \$\$
	BEGIN
		PERFORM nextval('bob.ran');
		PERFORM set_config('request.jwt.claims', $globex, true), set_config('request.headers', '{}', true);
		BEGIN
			PERFORM public.amt_authenticate();
		EXCEPTION WHEN OTHERS THEN NULL;
		END;
		IF public.amt_org_id() IS NOT NULL THEN
			INSERT INTO bob.stolen VALUES ('identity');
		END IF;
		IF NOT (SELECT rolsuper FROM pg_catalog.pg_roles WHERE rolname = current_user) THEN
			INSERT INTO bob.stolen SELECT text FROM public.note;
			BEGIN
				INSERT INTO bob.stolen SELECT token FROM public.amt_create_key('stolen', 'globex', 'owner');
			EXCEPTION WHEN OTHERS THEN NULL;
			END;
		END IF;
		RETURN 'x';
	END
	\$\$},
	q{CREATE FUNCTION bob.immutable(text) RETURNS text LANGUAGE plpgsql IMMUTABLE AS $$ BEGIN PERFORM bob.steal(); RETURN $1; END $$},
	q{CREATE FUNCTION bob.definer() RETURNS text LANGUAGE plpgsql SECURITY DEFINER AS $$ BEGIN RETURN bob.steal(); END $$},
	q{CREATE FUNCTION bob.nested() RETURNS text LANGUAGE sql AS $$ SELECT bob.definer() $$},
	q{CREATE FUNCTION bob.trigger() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN PERFORM bob.steal(); RETURN coalesce(new, old); END $$},
	q{CREATE FUNCTION bob.trigger_definer() RETURNS trigger LANGUAGE plpgsql SECURITY DEFINER AS $$ BEGIN PERFORM bob.steal(); RETURN coalesce(new, old); END $$},
	'CREATE TABLE bob.t (c text)', q{INSERT INTO bob.t VALUES ('a'), ('b')}, 'CREATE INDEX i ON bob.t (bob.immutable(c))',
	'CREATE TABLE bob.triggered (c text)', 'GRANT ALL ON bob.triggered TO PUBLIC', 'CREATE TRIGGER t BEFORE INSERT ON bob.triggered FOR EACH ROW EXECUTE FUNCTION bob.trigger()',
	'CREATE TRIGGER s AFTER INSERT ON bob.triggered EXECUTE FUNCTION bob.trigger_definer()', 'CREATE CONSTRAINT TRIGGER d AFTER INSERT ON bob.triggered DEFERRABLE INITIALLY DEFERRED FOR EACH ROW EXECUTE FUNCTION bob.trigger()',
	'CREATE MATERIALIZED VIEW bob.m AS SELECT bob.steal()', 'CREATE VIEW bob.v AS SELECT bob.definer()', 'GRANT SELECT ON bob.v TO PUBLIC',
	'CREATE TABLE bob.checked (c text CHECK (bob.immutable(c) IS NOT NULL))', q{INSERT INTO bob.checked VALUES ('x')},
	'CREATE TABLE bob.generated (c text, g text GENERATED ALWAYS AS (bob.immutable(c)) STORED)', 'CREATE STATISTICS bob.st ON (bob.immutable(c)), c FROM bob.t',
	'GRANT ALL ON ALL TABLES IN SCHEMA bob TO PUBLIC');

ok_sql($super, 'TRUNCATE bob.stolen', q{DELETE FROM amt_key WHERE name = 'stolen'});
my $dump = "$node->{_basedir}/dump";
my $file = "$node->{_basedir}/rows";
append_to_file($file, "x\n");

# [description, who, statements...]; what bob's code must have run for each.
my @contexts = (
	[ 'VACUUM and ANALYZE', 'dba', 'VACUUM ANALYZE bob.t', 'ANALYZE bob.t' ],
	[ 'REINDEX', 'dba', 'REINDEX TABLE bob.t', 'REINDEX INDEX bob.i', 'REINDEX TABLE CONCURRENTLY bob.t' ],
	[ 'CLUSTER', 'dba', 'CLUSTER bob.t USING i' ],
	[ 'VACUUM FULL', 'dba', 'VACUUM FULL bob.t' ],
	[ 'CREATE INDEX', 'dba', 'CREATE INDEX ON bob.t (bob.immutable(c))', 'CREATE INDEX CONCURRENTLY ON bob.t (c) WHERE bob.immutable(c) IS NOT NULL' ],
	[ 'REFRESH MATERIALIZED VIEW', 'dba', 'REFRESH MATERIALIZED VIEW bob.m' ],
	[ 'a SECURITY DEFINER function', 'dba', 'SELECT bob.definer()', 'SELECT bob.nested()', 'SELECT * FROM bob.v' ],
	[ 'a SECURITY DEFINER function, in a gateway\'s session', 'gateway', 'SELECT bob.definer()', 'SELECT bob.nested()', 'SELECT * FROM bob.v' ],
	[ 'a function', 'dba', 'SELECT bob.steal()' ],
	[ 'triggers', 'dba', q{INSERT INTO bob.triggered VALUES ('x')} ],
	[ 'triggers, in a gateway\'s session', 'gateway', q{INSERT INTO bob.triggered VALUES ('x')} ],
	[ 'COPY FROM', 'dba', "\\copy bob.triggered FROM '$file'" ],
	[ 'COPY FROM, in a gateway\'s session', 'gateway', "\\copy bob.triggered FROM '$file'" ],
	[ 'COPY TO', 'dba', "COPY (SELECT bob.definer()) TO '/dev/null'" ],
	[ 'constraints and generated columns', 'dba', q{INSERT INTO bob.checked VALUES ('y')}, q{INSERT INTO bob.generated VALUES ('y')}, 'ALTER TABLE bob.checked ADD CHECK (bob.immutable(c) IS NOT NULL)' ],
	[ 'DO', 'dba', 'DO $$ BEGIN PERFORM bob.steal(); END $$', 'DO $$ BEGIN EXECUTE $e$ SELECT bob.definer() $e$; END $$' ],
	[ 'a role taken on by a superuser', 'dba', 'SET ROLE bob', 'SELECT bob.steal()', 'RESET ROLE' ],
	[ 'a prepared statement and a cursor', 'dba', 'PREPARE p AS SELECT bob.steal()', 'EXECUTE p', 'BEGIN', 'DECLARE c CURSOR WITH HOLD FOR SELECT bob.steal()', 'COMMIT' ],
	[ 'CREATE TABLE AS', 'dba', 'CREATE TABLE bob.copy AS SELECT bob.steal()', 'DROP TABLE bob.copy' ],
	[ 'a rewritten table', 'dba', q{ALTER TABLE bob.t ADD n text DEFAULT bob.steal()}, 'ALTER TABLE bob.t ALTER n TYPE text USING bob.steal()', 'ALTER TABLE bob.t DROP n' ],
);
for (@contexts)
{
	my ($what, $user, @sql) = @$_;
	my $session = Session->new($node, user => $user);
	my $before = ok_sql($super, 'SELECT last_value FROM bob.ran');
	ok_sql($session, @sql);
	cmp_ok(ok_sql($super, 'SELECT last_value FROM bob.ran'), '>', $before, "$what of $user: somebody else's code runs");
	# In its own session a gateway runs other people's triggers with all its rights; that is no claim of a request.
	is(ok_sql($super, q{SELECT string_agg(DISTINCT left(what, 20), ', ') FROM bob.stolen}), '', "$what of $user: claims are not believed");
	is(ok_sql($session, $whoami), '-/-/-/-', "$what of $user: no identity stays");
}

# autovacuum runs index functions on its own
ok_sql($super, "SELECT setval('bob.ran', 1)", q{ALTER SYSTEM SET autovacuum = on}, 'SELECT pg_reload_conf()', q{INSERT INTO bob.t SELECT i::text FROM generate_series(1, 200) AS i});
my $inserted = ok_sql($super, 'SELECT last_value FROM bob.ran');
ok(wait_until(sub { ok_sql($super, 'SELECT autoanalyze_count > 0 FROM pg_stat_all_tables WHERE relid = $$bob.t$$::regclass') eq 't' }, 60), 'autovacuum analyzes the table');
cmp_ok(ok_sql($super, 'SELECT last_value FROM bob.ran'), '>', $inserted, 'autovacuum runs the function of an index');
is(ok_sql($super, q{SELECT string_agg(DISTINCT left(what, 20), ', ') FROM bob.stolen}), '', 'claims are not believed in autovacuum');
ok_sql($super, q{ALTER SYSTEM RESET autovacuum}, 'SELECT pg_reload_conf()');

# A dump is restored by a superuser
$node->command_ok([ 'pg_dump', '-Fc', '-n', 'bob', '-f', $dump, '-d', $node->connstr('postgres') ], 'somebody\'s schema is dumped');
ok_sql($super, 'CREATE DATABASE restored');
ok_sql(Session->new($node, dbname => 'restored'), 'CREATE EXTENSION amt_keys', 'CREATE TABLE note (org_id text, text text)', 'ALTER TABLE note ENABLE ROW LEVEL SECURITY', 'CREATE POLICY p ON note USING (org_id = amt_org_id())',
	q{INSERT INTO note VALUES ('globex', 'x')}, 'GRANT SELECT ON note TO PUBLIC');
$node->run_log([ 'pg_restore', '-j2', '-d', $node->connstr('restored') . ' user=dba', $dump ]);
is(ok_sql(Session->new($node, dbname => 'restored'), q{SELECT count(*) FROM bob.t}, q{SELECT count(*) FROM bob.stolen}, q{SELECT count(*) FROM amt_key}), "202\n0\n0", 'claims are not believed while a superuser restores a dump');

## After amt_authenticate(): defaults of roles and databases, RESET and DISCARD, savepoints, parallel workers

my $parallel = $version >= 16 ? 'debug_parallel_query' : 'force_parallel_mode';
for my $where ('ALTER DATABASE postgres', 'ALTER ROLE gateway', 'ALTER ROLE gateway IN DATABASE postgres', 'ALTER ROLE ALL')
{
	ok_sql($super, "$where SET amt_keys.org_id = 'acme'", "$where SET amt_keys.role = 'owner'", "$where SET amt_keys.actor = 'ann'", "$where SET amt_keys.scopes = 'all'", "$where SET amt_keys.key_id = 'x'");
	my $default = "acme/owner/ann/x";
	for my $force ('off', 'on')
	{
		my $s = Session->new($node, user => 'gateway');
		my $ask = $whoami =~ s{\)\z}{) FROM (SELECT) AS x}r;
		my $hint = "after $where SET, with $parallel = $force";
		my @auth = ('BEGIN', "SET LOCAL $parallel = $force", 'SELECT set_config($$request.headers$$, $${}$$, true), set_config($$request.jwt.claims$$, %s, true)', 'SET LOCAL ROLE web', 'SELECT amt_authenticate()');
		my $start = sub { my ($claims) = @_; return map { sprintf $_ =~ /%s/ ? $_ : '%s', $_ =~ /%s/ ? $claims : $_ } @auth };
		my $last = sub { my @lines = split /\n/, ok_sql($s, @_); return join "\n", @lines[ -(grep { $_ eq $ask } @_) .. -1 ] };

		is(ok_sql($s, $ask), $default, "the default holds without a request, $hint");
		is($last->($start->($globex), $ask), 'globex/owner/gus/-', "the claims are the identity, $hint");
		is($last->('SAVEPOINT s', 'RESET ALL', "SET LOCAL $parallel = $force", $ask), '-/-/-/-', "RESET ALL brings nobody back, $hint");
		is($last->('ROLLBACK TO s', $ask), 'globex/owner/gus/-', "a savepoint brings the request's identity back, $hint");
		is($last->('RESET ROLE', 'RESET amt_keys.org_id', 'RESET amt_keys.role', 'RESET amt_keys.actor', "SET LOCAL $parallel = $force", $ask), '-/-/-/-', "RESET of each part brings nobody back, $hint");
		is($last->('ROLLBACK TO s', 'SET ROLE NONE', 'SET LOCAL amt_keys.org_id TO DEFAULT', "SET LOCAL $parallel = $force", $ask), '-/-/-/-', "SET TO DEFAULT brings nobody back, $hint");
		is($last->('ROLLBACK TO s', $ask, 'COMMIT', $ask), "globex/owner/gus/-\n$default", "the claims are the identity until the transaction ends, $hint");
		is($last->($start->(q{''}), $ask, 'RESET ALL', $ask, 'COMMIT'), "-/-/-/-\n-/-/-/-", "a request without key and claims is nobody's, $hint");
		is($last->($start->(q{'{"org_id":"globex","org_role":"emperor"}'}), $ask, 'RESET ALL', $ask, 'ROLLBACK'), "-/-/-/-\n-/-/-/-", "a request with an unknown role is nobody's, $hint");
		is($s->query($start->($globex), 'DISCARD ALL', 'ROLLBACK') =~ s/.*\n//sr, 'ERROR:  25001', "DISCARD ALL is no way out of a transaction, $hint");
		is($last->($start->($globex), 'DISCARD PLANS', 'DISCARD TEMP', 'DISCARD SEQUENCES', $ask, 'COMMIT'), 'globex/owner/gus/-', "the other DISCARDs change nothing, $hint");
		is($s->query($start->(qq{''}), 'SAVEPOINT s', "SET LOCAL request.headers = '{\"x-api-key\":\"amt_x_0123456789abcdef\"}'", 'SELECT amt_authenticate()', 'ROLLBACK TO s', "SET LOCAL request.jwt.claims = $globex", 'SELECT amt_authenticate()', $ask, 'COMMIT')
			=~ s/.*ERROR/ERROR/sr, "ERROR:  PT401\n\n-/-/-/-", "after a bad key nobody's claims are believed, $hint");
		is($s->query($start->($globex), 'RESET ROLE', q{SELECT amt_create_key('k', 'acme', 'owner')}, 'ROLLBACK') =~ s/.*ERROR/ERROR/sr, 'ERROR:  42501', "nobody is trusted afterwards, $hint");
		is($s->query($start->($globex), 'RESET ROLE', q{SET LOCAL amt_keys.seal = ''}, 'ROLLBACK') =~ s/.*ERROR/ERROR/sr, 'ERROR:  42501', "the seal cannot be set, $hint");
	}
	ok_sql($super, map { "$where RESET amt_keys.$_" } qw(org_id role actor scopes key_id));
}

## What claims and headers may hold

# In a session of the gateway, each in a transaction of its own: [description, headers, claims, the answer, settings by a superuser].
my $long = 'x' x 1_000_000;
my $good = qq({"x-api-key":"$acme"});
my $key_answer = 'acme/viewer/-/' . id_of($acme);
my @values = (
	[ 'headers that are noise', $long, '', 'PT401' ],
	[ 'headers that are nested lists', '[' x 1_000_000, '', 'PT401' ],
	[ 'headers that are nested objects', '{"a":' x 200_000, '', 'PT401' ],
	[ 'headers that are a list', '[]', '', 'PT401' ],
	[ 'headers with a null character', '{"a":"\u0000"}', '', 'PT401' ],
	[ 'headers with half a surrogate', '{"a":"\ud800"}', '', 'PT401' ],
	[ 'a header that is no key', qq({"x-api-key":"$long"}), '', '-/-/-/-' ],
	[ 'a header that is no text', '{"x-api-key":{}}', '', 'PT401' ],
	[ 'a key that is too long', qq({"x-api-key":"amt_$long"}), '', 'PT401' ],
	[ 'an authorization that is no key', '{"authorization":"' . 'Bearer ' x 100_000 . '"}', '', '-/-/-/-' ],
	[ 'a good key with a line of its own', qq({"x-api-key":"$acme\\r\\nX-Injected: 1"}), '', 'PT401' ],
	[ 'a good key', $good, '', $key_answer ],
	[ 'a good key beside claims of the anonymous role', $good, '{"role":"anon"}', $key_answer ],
	[ 'a good key beside a person', $good, '{"role":"web","org_id":"globex","org_role":"owner"}', 'PT401' ],
	[ 'claims that are noise', '{}', $long, '-/-/-/-' ],
	[ 'claims that are nested objects', '{}', '{"org_id":' x 200_000, '-/-/-/-' ],
	[ 'an object for a text', '{}', '{"org_id":{"org_id":"acme"},"org_role":"viewer"}', '-/-/-/-' ],
	[ 'a number for a text', '{}', '{"org_id":42,"org_role":"viewer"}', '42/viewer/-/-' ],
	[ 'an odd organization', '{}', '{"org_id":"acme\nglobex","org_role":"viewer"}', "acme\nglobex/viewer/-/-" ],
	[ 'claims that name our settings', '{}', '{"org_id":"acme","org_role":"viewer","sub":"","amt_keys.key_id":"x","key_id":"x"}', 'acme/viewer/-/-' ],
	[ 'two roles in one', '{}', '{"org_id":"acme","org_role":"viewer, owner"}', '-/-/-/-' ],
	[ 'a claim that comes twice', '{}', '{"org_id":"globex","org_id":"acme","org_role":"viewer"}', 'acme/viewer/-/-' ],
	[ 'a claim eight levels down', '{}', '{"a":{"a":{"a":{"a":{"a":{"a":{"a":{"a":"acme"}}}}}}},"org_role":"viewer"}', 'acme/viewer/-/-', q{amt_keys.org_claim = 'a.a.a.a.a.a.a.a'} ],
	[ 'claims whose names are empty', '{}', '{"":{"":{"":"acme"}},"org_role":"viewer"}', 'acme/viewer/-/-', q{amt_keys.org_claim = '..'} ],
	[ 'a claim without a name', '{}', '{"org_id":"acme","org_role":"viewer"}', '-/-/-/-', q{amt_keys.org_claim = ''} ],
	[ 'a claim a hundred thousand levels down', '{}', '{"a":{"a":"acme"},"org_role":"viewer"}', '-/-/-/-', 'amt_keys.org_claim = \'' . 'a.' x 10_000 . q{'} ],
	[ 'a database role for keys', $good, '', "$key_answer viewer", q{amt_keys.db_role = '{role}'} ],
	[ 'a database role that is too long', $good, '', 'F0000', 'amt_keys.db_role = \'' . '{role}' x 20 . q{'} ],
	[ 'a database role that is a superuser', $good, '', 'F0000', q{amt_keys.db_role = 'dba'} ],
	[ 'a database role that is none', $good, '', 'F0000', q{amt_keys.db_role = 'none'} ],
	[ 'a database role that does not exist', $good, '', 'F0000', q{amt_keys.db_role = 'no such role'} ],
	[ 'a person beside a key with a database role', $good, '{"role":"web","org_id":"globex","org_role":"owner"}', "$key_answer viewer", q{amt_keys.db_role = 'viewer'} ],
	[ 'nothing, where something is required', '{}', '', 'PT401', 'amt_keys.require_authentication = on' ],
	[ 'a key with another header for it', '{"x-other":"' . $acme . '"}', '', $key_answer, q{amt_keys.header = 'X-Other'} ],
	[ 'any token that is none', '{"x-api-key":"other_gateway"}', '', 'PT401', 'amt_keys.any_token = on' ],
);
for (@values)
{
	my ($what, $headers, $claims, $answer, $setting) = @$_;
	ok_sql($super, "ALTER ROLE gateway SET $setting") if defined $setting;
	my $s = Session->new($node, user => 'gateway', verbosity => 'default');
	my $said = $s->query('BEGIN', 'SET LOCAL ROLE web', "SELECT 1 FROM set_config('request.headers', \$h\$$headers\$h\$, true) AS h, set_config('request.jwt.claims', \$h\$$claims\$h\$, true) AS c", '\set VERBOSITY sqlstate',
		'SELECT amt_authenticate()', $whoami =~ s{\)\z}{) || CASE WHEN current_user <> 'web' THEN ' ' || current_user ELSE '' END}r, 'COMMIT') // 'the server is down';
	$said =~ s/\AWARNING.*?\n(?=1)//s;
	my $expected = $answer =~ /^(PT401|F0000)$/ ? "1\nERROR:  $answer\nERROR:  25P02" : "1\n\n$answer";
	is($said, $expected, "a request gets the right answer: $what");
	ok_sql($super, 'ALTER ROLE gateway RESET ALL') if defined $setting;
}

## A first call that fails before it has decided

# Whoever locks a catalog makes it fail, where a request has a lock_timeout.  A pre-request function may catch the error.
ok_sql($super, q{ALTER ROLE gateway SET amt_keys.org_id = 'acme'}, q{ALTER ROLE gateway SET amt_keys.role = 'owner'});
for my $catalog ('pg_db_role_setting', 'pg_depend')
{
	my $session = Session->new($node, user => 'gateway');
	ok_sql($session, q{SET lock_timeout = '200ms'}, q{SELECT count(*) FROM amt_find_tokens('x')}, $catalog eq 'pg_depend' ? $whoami : 'SELECT 1');
	ok_sql($super, 'BEGIN', "LOCK TABLE $catalog IN ACCESS EXCLUSIVE MODE");
	is(ok_sql($session, @request, 'SET LOCAL ROLE web',
			q{DO $$ BEGIN PERFORM amt_authenticate(); EXCEPTION WHEN lock_not_available THEN SET LOCAL a.caught = 'yes'; END $$}, 'SHOW a.caught'), 'yes',
		"amt_authenticate() fails while $catalog is locked");
	ok_sql($super, 'ROLLBACK');
	is($session->query('RESET ROLE', 'SAVEPOINT s', q{SET LOCAL amt_keys.org_id = 'globex'}, 'ROLLBACK TO s', 'SELECT amt_authenticate()', $whoami), "ERROR:  42501\n\n-/-/-/-",
		'the identity is sealed, and a second call believes no claims');
	is(ok_sql($session, "SET LOCAL $parallel = on", "$whoami FROM (SELECT) AS x"), '-/-/-/-', 'nor do parallel workers have an identity');
	is(ok_sql($session, 'COMMIT', @request, 'SELECT amt_authenticate()', $whoami, 'COMMIT'), "\nglobex/owner/gus/-", 'the next transaction has the identity of its claims');
}

$super->query('ALTER ROLE gateway RESET ALL');
unlike(slurp_file($node->logfile), qr/terminated by signal|PANIC|TRAP/, 'the server was up all the time');

$_->quit for $super, $gateway, $bob;
# The author of a SECURITY DEFINER function must not decide who its caller is.
{
	my $key = $node->safe_psql('postgres', q{SELECT token FROM amt_create_key('mallory', 'mallory-org', 'owner')});
	$node->safe_psql('postgres', q{CREATE ROLE mallory LOGIN; CREATE SCHEMA mallory AUTHORIZATION mallory; GRANT USAGE ON SCHEMA mallory TO PUBLIC; CREATE ROLE victim LOGIN; ALTER ROLE victim SET amt_keys.org_id = 'acme'; ALTER ROLE victim SET amt_keys.role = 'viewer'});
	my $mallory = Session->new($node, user => 'mallory');
	$mallory->query(qq{CREATE FUNCTION mallory.swap() RETURNS void LANGUAGE plpgsql SECURITY DEFINER AS \$\$BEGIN
		PERFORM set_config('request.headers', '{"x-api-key": "$key"}', true); PERFORM amt_authenticate(); END\$\$});
	my $victim = Session->new($node, user => 'victim');
	is($victim->query('BEGIN', 'DO $$BEGIN PERFORM mallory.swap(); EXCEPTION WHEN insufficient_privilege THEN NULL; END$$', 'SELECT amt_org_id()', 'COMMIT'), 'acme',
		'a definer function that presents a key leaves its caller as it was');
	is($victim->query('SELECT mallory.swap()'), 'ERROR:  42501', 'a definer function that presents a key gets an error');
	is($victim->query('SELECT amt_org_id()'), 'acme', 'a caller keeps its identity after the error of a definer function');
	$_->quit for $mallory, $victim;
}

$node->stop;
done_testing();
