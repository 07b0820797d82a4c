# Ownership, configuration and rows change while the extension is in use.  Nobody gets more by that, and nobody loses the
# means to revoke a key.

use strict;
use warnings FATAL => 'all';

use FindBin;
use lib "$FindBin::RealBin/../perl";

use AmtKeys qw(:all);
use Session;
use PostgreSQL::Test::Utils;
use Test::More;

my $node = new_cluster(extra => [ '--encoding=UTF8', '--locale=C' ], conf => <<'CONF');
amt_keys.usage_flush_interval = 50ms
wal_writer_delay = 10s
CONF
my $super = Session->new($node);
$super->query('SET client_min_messages = warning', 'CREATE ROLE bob LOGIN', 'CREATE ROLE owner LOGIN', 'CREATE ROLE founder LOGIN SUPERUSER',
	'CREATE SCHEMA bob AUTHORIZATION bob', 'GRANT CREATE ON SCHEMA public TO bob', 'CREATE ROLE ann LOGIN',
	map { "ALTER ROLE ann SET amt_keys.$_" } q{org_id = 'globex'}, q{role = 'admin'}, q{actor = 'ann'});

my $move = q{WITH moved AS (DELETE FROM amt_key WHERE org_id = 'globex' RETURNING *)
	INSERT INTO amt_key (key_id, token_prefix, org_id, name, role, scopes, scrypt_hash, token_sha256, created_at, created_by, expires_at, suspended_at, replaces)
	SELECT key_id, token_prefix, 'initech', name, role, scopes, scrypt_hash, token_sha256, created_at, created_by, expires_at, suspended_at, replaces FROM moved};

sub make_key
{
	my ($org_id) = @_;
	return $super->query("SELECT token FROM amt_create_key('a key', '$org_id', 'editor')");
}

# A key is moved to another organization, while a statement's snapshot is from before.
{
	my $token = make_key('globex');
	my $id = id_of($token);
	my $dba = Session->new($node);
	is($dba->query('BEGIN ISOLATION LEVEL REPEATABLE READ', "SELECT count(*) FROM amt_keys WHERE key_id = '$id' AND org_id = 'globex'"), 1, 'a DBA sees the key where it was');
	$super->query($move);
	is($dba->query(map { "WITH done AS ($_ WHERE org_id = 'globex' RETURNING 1) SELECT count(*) FROM done" } q{UPDATE amt_keys SET name = 'x'}, 'DELETE FROM amt_keys'),
		"0\n0", 'a statement on the keys of the old organization passes over the one of the new');
	is(verify($super, $token), 1, 'the key works');
	$super->query(q{DELETE FROM amt_key WHERE org_id = 'initech'});
	$dba->quit;
}

# The superuser who has installed the extension leaves.
{
	$super->query('CREATE DATABASE founded');
	my $founder = Session->new($node, dbname => 'founded', user => 'founder');
	$founder->query('CREATE EXTENSION amt_keys');
	$founder->quit;
	my $dba = Session->new($node, dbname => 'founded');
	$dba->query('REASSIGN OWNED BY founder TO owner', 'ALTER ROLE founder NOSUPERUSER');
	my $create = q{SELECT token FROM amt_create_key('a key', 'acme', 'editor')};
	is($dba->query($create), 'ERROR:  42501', 'no key is created while the functions of triggers belong to a role that is no superuser');
	ok($node->log_contains('HINT:  Check its definition before you give it to a superuser'), 'the log says what to do');
	$dba->query(map { "ALTER FUNCTION $_() OWNER TO " . superuser() } qw(amt_key_guard amt_key_record amt_usage_replica amt_key_no_truncate));
	my $key = $dba->query($create);
	like($key, qr/^amt_/, 'a key is created when only the tables belong to a role that is no superuser');
	is($dba->query("SELECT amt_revoke('$key')"), 't', 'a key is revoked when only the tables belong to a role that is no superuser');
	$dba->quit;
}

# A trigger function of the extension is given away, and replaced, while a revocation waits.
for ([ 'amt_key_record', 'ALTER FUNCTION amt_key_record() OWNER TO bob' ], [ 'amt_key_record', 'REASSIGN OWNED BY founder TO bob' ],
	[ 'amt_key_guard', 'ALTER FUNCTION amt_key_guard() OWNER TO bob' ])
{
	my ($function, $give) = @$_;
	my $id = id_of(make_key('acme'));
	$super->query('ALTER ROLE founder SUPERUSER', "ALTER FUNCTION $function() OWNER TO founder");
	my ($holder, $revoker) = map { Session->new($node) } 1 .. 2;
	my $bob = Session->new($node, user => 'bob');
	$holder->query('BEGIN', "SELECT amt_revoke('$id')");
	my $pid = $revoker->backend;
	$revoker->send("SELECT amt_revoke('$id')");
	ok(wait_for_lock($node, $pid), 'a revocation waits for another one');
	is($super->query($give), '', "meanwhile a superuser says $give");
	is($bob->query("CREATE OR REPLACE FUNCTION $function() RETURNS trigger LANGUAGE plpgsql AS \$\$ BEGIN ALTER ROLE bob SUPERUSER; RAISE USING ERRCODE = 'BOB01'; END \$\$"), '', "the new owner replaces $function()");
	$holder->query('ROLLBACK');
	is($revoker->receive, 't', "the revocation that waited runs the library's code, not the new $function()");
	is($super->query("SELECT rolsuper FROM pg_roles WHERE rolname = 'bob'"), 'f', "the code of the new $function() did not run");
	is($super->query("SELECT count(*) FROM amt_key_event WHERE key_id = '$id' AND event = 'revoked'"), 1, 'the revocation that waited is recorded');
	$super->query("ALTER FUNCTION $function() OWNER TO " . superuser(), "CREATE OR REPLACE FUNCTION $function() RETURNS trigger LANGUAGE C AS '\$libdir/amt_keys'");
	$_->quit for $holder, $revoker, $bob;
}

# The owner moves keys to another organization while people of the first one manage them.
{
	my %id = map { $_ => id_of(make_key('globex')) } qw(update revoke delete rotate);
	my %statement = (
		update => "UPDATE amt_keys SET name = 'taken' WHERE key_id = '$id{update}'",
		revoke => "SELECT amt_revoke('$id{revoke}')",
		delete => "DELETE FROM amt_keys WHERE key_id = '$id{delete}'",
		rotate => "SELECT name FROM amt_rotate_key('$id{rotate}')");
	my %session = map { $_ => Session->new($node, user => 'ann') } keys %statement;
	my @pids = map { $_->backend } values %session;
	$super->query('BEGIN', $move);
	$session{$_}->send($statement{$_}) for keys %statement;
	ok(wait_for_lock($node, @pids), 'people manage keys that are being moved to another organization');
	$super->query('COMMIT');
	is($session{$_}->receive, 'ERROR:  40001', "$_: what the caller has checked is not done to a key of another organization") for sort keys %statement;
	is($super->query(q{SELECT count(*) FROM amt_key WHERE org_id = 'initech' AND name = 'a key'}), 4, 'keys of another organization are as they were');
	$_->quit for values %session;
}

# A moved key begins to count anew: the revocation has recorded its calls.
{
	my $token = make_key('globex');
	verify($super, $token) for 1 .. 5;
	$super->query($move);
	is(calls_of($node, id_of($token)), 0, 'a key that was moved to another organization has no calls');
	is(verify($super, $token), 1, 'a key that was moved to another organization works');
	is(calls_of($node, id_of($token)), 1, 'calls of a moved key are counted once');
	is($super->query("SELECT string_agg(calls::text, ',') FROM amt_key_event WHERE key_id = '" . id_of($token) . "'"), 5, 'the event of the move has the calls before it');
}

# So does a key that was put back with another role.
{
	my $token = make_key('globex');
	verify($super, $token) for 1 .. 5;
	$super->query(q{UPDATE amt_keys SET name = 'promoted' WHERE key_id = '} . id_of($token) . q{'},
		q{WITH old AS (DELETE FROM amt_key WHERE name = 'promoted' RETURNING *) INSERT INTO amt_key (key_id, token_prefix, org_id, name, role, scrypt_hash, created_at)
		SELECT key_id, token_prefix, org_id, name, 'owner', scrypt_hash, created_at FROM old});
	is(calls_of($node, id_of($token)), 0, 'a key that was put back with another role has no calls');
	verify($super, $token);
	$super->query("SELECT amt_revoke('$token')");
	is($super->query("SELECT string_agg(event || coalesce(calls::text, ''), ' ' ORDER BY event_id) FROM amt_key_event WHERE key_id = '" . id_of($token) . "'"),
		'created changed revoked5 created revoked1', 'each call of a key that was put back is in one event');
}

# Settings that the owner of a database makes for everybody.
{
	my $set = sub { $super->query("ALTER DATABASE postgres SET $_[0]"); return Session->new($node); };
	my $session = $set->('row_security = off');
	my $token = make_key('globex');
	$session->query("SELECT set_config('search_path', '', false)", $move =~ s/amt_key/public.amt_key/gr);
	is($session->query("SELECT string_agg(event || ' ' || org_id, ', ' ORDER BY event_id) FROM public.amt_key_event WHERE key_id = '" . id_of($token) . "'"),
		'created globex, revoked globex, created initech', 'row_security = off for a database hides no event');
	$session->quit;
	$super->query('ALTER DATABASE postgres RESET row_security');

	$super->query(q{CREATE FUNCTION add_key(id text) RETURNS void LANGUAGE sql SECURITY DEFINER AS $$
		INSERT INTO public.amt_key (key_id, org_id, name, role, scrypt_hash, created_at) SELECT id, 'acme', 'definer', 'viewer', scrypt_hash, '2020-01-01' FROM public.amt_key LIMIT 1 $$});
	my $anybody = Session->new($node, user => 'bob');
	$anybody->query('SET row_security = off', q{SELECT set_config('search_path', '', false)}, q{SELECT public.add_key('byadefiner01')});
	is($super->query(q{SELECT event FROM amt_key_event WHERE key_id = 'byadefiner01'}), 'created', 'row_security = off hides no event of a SECURITY DEFINER function');
	$anybody->quit;

	$set->('synchronous_commit = off')->quit;
	for my $end ('SELECT amt_revoke({})', 'UPDATE amt_keys SET suspended_at = now() WHERE key_id = {}', 'UPDATE amt_keys SET expires_at = now() WHERE key_id = {}',
		'DELETE FROM amt_key WHERE key_id = {}')
	{
		$token = make_key('acme');
		$super->query('CHECKPOINT');
		$session = Session->new($node);
		$session->query($end =~ s/\{\}/"'" . id_of($token) . "'"/er);
		$node->stop('immediate');
		$node->start;
		$super = Session->new($node);
		is(verify($super, $token), 0, "synchronous_commit = off for a database, and a crash: the key stays ended by $end");
	}
	$super->query('ALTER DATABASE postgres RESET synchronous_commit');
}

# Code of others in a superuser's maintenance manages no keys, and leaves no record under the superuser's name.
{
	$super->query('GRANT SET ON PARAMETER amt_keys.org_id TO bob');
	my $bob = Session->new($node, user => 'bob');
	my $victim = id_of(make_key('acme'));
	$bob->query('CREATE TABLE bob.answer (a text)',
		"CREATE FUNCTION bob.try(statement text) RETURNS void LANGUAGE plpgsql AS \$\$ BEGIN EXECUTE statement; INSERT INTO bob.answer VALUES ('done'); EXCEPTION WHEN OTHERS THEN INSERT INTO bob.answer VALUES (SQLSTATE); END \$\$",
		"CREATE FUNCTION bob.manage() RETURNS void LANGUAGE plpgsql AS \$\$ BEGIN
			PERFORM bob.try('SELECT public.amt_create_key(''by bob'', ''acme'', ''owner'')'), bob.try('SELECT public.amt_import_key(sha256(''x''), ''by bob'', ''acme'', ''owner'')'),
				bob.try('SELECT public.amt_revoke(''$victim'')'), bob.try('SELECT public.amt_rotate_key(''$victim'')'); END \$\$",
		q{CREATE FUNCTION bob.i(text) RETURNS text IMMUTABLE LANGUAGE plpgsql AS $$ BEGIN IF session_user <> 'bob' THEN PERFORM bob.manage(); END IF; RETURN $1; END $$},
		'CREATE TABLE bob.t (a text)', q{INSERT INTO bob.t VALUES ('x')}, 'CREATE INDEX ON bob.t (bob.i(a))');
	my $before = $super->query('SELECT count(*) FROM amt_key_event');
	is($super->query('BEGIN', q{SET LOCAL amt_keys.org_id = 'acme'}, q{SET LOCAL amt_keys.role = 'owner'}, q{SET LOCAL amt_keys.actor = 'alice'}, 'ANALYZE bob.t', 'COMMIT'), '', 'a superuser analyzes a table of somebody else');
	is($super->query('SELECT count(*) FROM amt_key_event'), $before, 'an index function in a superuser\'s ANALYZE manages no key');
	is($super->query('SELECT DISTINCT a FROM bob.answer'), '42501', 'each attempt of the index function is refused');
	$bob->quit;
	$super->query('REVOKE SET ON PARAMETER amt_keys.org_id FROM bob');
}

# The configuration changes within a transaction, or has a value that is not valid.
{
	my $loads = 100;
	# Change a setting, and wait until the session has the new configuration.
	my $reload = sub {
		my ($session, $name, $value) = @_;
		$loads++;
		append_to_file($node->data_dir . '/postgresql.conf', "$name = '$value'\nwork_mem = ${loads}kB\n");
		$node->reload;
		return wait_until(sub { $session->query('SHOW work_mem') eq "${loads}kB" });
	};
	my $token = make_key('acme');
	my $session = Session->new($node);
	ok($reload->($session, 'amt_keys.org_id', 'acme'), 'the configuration gives everybody an organization');
	$session->query('BEGIN', "SELECT FROM amt_verify('$token', identify => true)");
	ok($reload->($session, 'amt_keys.org_id', 'globex'), 'the configuration gives everybody another organization');
	is($session->query('SELECT 1', 'SELECT org_id, role FROM amt_whoami()'), "1\nacme|editor", 'an identity stays as it is when the configuration changes within the transaction');
	is($session->query('COMMIT', 'SELECT amt_org_id()'), 'globex', 'the configuration holds after the transaction');
	$reload->($session, 'amt_keys.org_id', '');

	ok($reload->($session, 'amt_keys.scopes', 'a,,b'), 'a configuration with scopes that are not valid is loaded');
	is(verify($session, $token), 1, 'a running session verifies keys after the configuration was rejected');
	is($session->query(q{ALTER SYSTEM SET amt_keys.scopes = 'a,a'}, 'SELECT count(*) FROM amt_whoami()'), "ERROR:  22023\n1", 'a rejected ALTER SYSTEM does not end the session');
	my $new = Session->new($node);
	like($new->query('SELECT amt_org_id()'), qr/ERROR:  42501$/, 'a new session has no identity while the configuration has scopes that are not valid');
	$_->quit for $session, $new, $super;
	$node->stop;
	append_to_file($node->data_dir . '/postgresql.conf', "shared_preload_libraries = 'amt_keys'\n");
	ok(!$node->start(fail_ok => 1), 'a server that preloads the library does not start with scopes that are not valid');
	append_to_file($node->data_dir . '/postgresql.conf', "amt_keys.scopes = ''\namt_keys.org_id = 'caf\xe9'\n");
	$node->start;
	is(Session->new($node)->query('SELECT amt_org_id()'), 'ERROR:  42501', 'an identity that the server has read before it knew the encoding is refused');
	append_to_file($node->data_dir . '/postgresql.conf', "amt_keys.org_id = 'acme'\n");
	$node->restart;
	is(Session->new($node)->query('SELECT amt_org_id()'), 'acme', 'a valid identity of a preloaded library holds');
}

is($node->safe_psql('postgres', q{SELECT rolsuper FROM pg_roles WHERE rolname = 'bob'}), 'f', 'nobody has become a superuser');
$node->stop;
done_testing();
