# Hostile callers where it takes more than one session: identity from before the library is loaded, from options, roles and
# databases; cursors and transactions that outlive it; parallel workers, the usage writer, logical decoding, dumps.

use strict;
use warnings FATAL => 'all';

use FindBin;
use lib "$FindBin::RealBin/../perl";

use AmtKeys;
use IO::Socket::UNIX;
use PostgreSQL::Test::Utils;
use Session;
use Test::More;

my $node = new_cluster(conf => "wal_level = logical\nmax_prepared_transactions = 5\namt_keys.usage_flush_interval = 100ms\n");
my $super = Session->new($node);
my $version = $super->query("SELECT current_setting('server_version_num')::int / 10000");

$super->query(
	'CREATE ROLE evil LOGIN CREATEROLE CREATEDB', 'CREATE ROLE gateway LOGIN', 'CREATE ROLE app LOGIN', 'CREATE ROLE acme_app LOGIN', 'CREATE ROLE clerk', 'GRANT clerk TO gateway',
	'GRANT SET ON PARAMETER amt_keys.org_id, amt_keys.role, amt_keys.actor TO gateway',
	'GRANT EXECUTE ON FUNCTION amt_verify TO app',
	q{ALTER ROLE acme_app SET amt_keys.org_id = 'acme'}, q{ALTER ROLE acme_app SET amt_keys.role = 'viewer'},
	'CREATE SCHEMA evil AUTHORIZATION evil', 'CREATE DATABASE evil OWNER evil');
my $acme = create_key($node);
my $globex = $super->query(q{SELECT token FROM amt_create_key('secret plan', 'globex', 'owner')});

my $whoami = q{SELECT concat_ws('/', coalesce(amt_org_id(), '-'), coalesce(amt_role(), '-'), coalesce(amt_actor(), '-'), coalesce(amt_key_id(), '-'))};

# What a session says, with the warnings of a library that throws settings away left out.
sub answer
{
	my ($session, @sql) = @_;
	my $answer = $session->query(@sql);
	$answer =~ s/^WARNING:.*\n?//mg if defined $answer;
	return $answer;
}

sub as
{
	my ($user, @options) = @_;
	return Session->new($node, user => $user, @options);
}

# The SQLSTATE of the error that a connection with such options ends with, or undef.  psql does not tell it.
sub refused_with
{
	my ($user, $options) = @_;
	my $socket = IO::Socket::UNIX->new(Peer => $node->host . '/.s.PGSQL.' . $node->port) or die "$!";
	my $parameters = pack 'N (Z*)7', 3 << 16, user => $user, database => 'postgres', options => $options, '';
	$socket->send(pack('N', 4 + length $parameters) . $parameters);
	# Messages until there is an error or the server is ready: a type, a length that includes itself, a body.
	while (read($socket, my $head, 5) == 5)
	{
		my ($type, $length) = unpack 'a N', $head;
		read($socket, my $body, $length - 4);
		return $body =~ /\0C([0-9A-Z]{5})\0/ ? $1 : die $body if $type eq 'E';
		return undef if $type eq 'Z';
	}
	die 'the server has closed the connection';
}

## Before the library is loaded

is(answer(as('evil'), q{SET amt_keys.org_id = 'globex'}, q{SET amt_keys.role = 'owner'}, $whoami), '-/-/-/-', 'SET before the library is loaded gives no identity');
is(answer(as('evil'), q{SELECT set_config('amt_keys.org_id', 'globex', false)}, $whoami), "globex\n-/-/-/-", 'set_config() before the library is loaded gives no identity');
is(answer(as('evil', options => '-c amt_keys.org_id=globex -c amt_keys.role=owner'), $whoami), 'ERROR:  42501', 'an identity in PGOPTIONS is refused');
is(answer(as('evil'), 'BEGIN', q{SET LOCAL amt_keys.org_id = 'globex'}, 'SAVEPOINT a', q{SET amt_keys.org_id = 'initech'}, 'SAVEPOINT b',
		q{SET LOCAL amt_keys.org_id = 'hooli'}, $whoami, 'ROLLBACK TO b', $whoami, 'RELEASE a', $whoami, 'COMMIT', $whoami),
	join("\n", ('-/-/-/-') x 4), 'SET on every level of a stack of savepoints gives no identity');
is(answer(as('evil'), 'BEGIN', q{SET amt_keys.org_id = 'globex'}, $whoami, 'ROLLBACK', $whoami), "-/-/-/-\n-/-/-/-", 'SET in a transaction that is rolled back gives no identity');
is(answer(as('evil'), q{SET amt_keys.org_id = 'globex'}, q{SELECT count(*) FROM amt_keys}), '0', 'the list is empty after SET as the first thing of a session');
is(answer(as('evil'), q{SET amt_keys.org_id = 'globex'}, q{SELECT count(*) FROM amt_key}), '0', 'the table is empty after SET as the first thing of a session');
is(answer(as('evil'), q{SET amt_keys.org_id = 'globex'}, q{SET amt_keys.role = 'owner'}, q{SELECT amt_create_key('k')}), 'ERROR:  42501', 'SET before the library is loaded gives no right to create a key');
is(answer(as('evil'), q{SET amt_keys.roles = 'x'}, q{SET amt_keys.manager_role = 'x'}, $whoami, 'SHOW amt_keys.roles', 'SHOW amt_keys.manager_role'),
	"-/-/-/-\nviewer, editor, admin, owner\nadmin", 'SET of other settings before the library is loaded changes nothing');
is(answer(as('evil'), q{ALTER ROLE evil SET amt_keys.org_id = 'globex'}), 'ERROR:  42501', 'a role cannot give itself an identity by ALTER ROLE');
is(answer(as('evil'), q{CREATE FUNCTION evil.f() RETURNS text LANGUAGE sql SET amt_keys.org_id = 'globex' AS 'SELECT amt_org_id()'}), 'ERROR:  42501', 'a function cannot set an identity by a clause');
is(answer(as('evil', dbname => 'evil'), q{ALTER DATABASE evil SET amt_keys.org_id = 'globex'}), 'ERROR:  42501', 'the owner of a database cannot give it an identity by ALTER DATABASE');
is(answer(as('evil'), q{ALTER SYSTEM SET amt_keys.org_id = 'globex'}), 'ERROR:  42501', 'an ordinary role cannot set an identity by ALTER SYSTEM');
is(answer(as('acme_app'), q{ALTER ROLE acme_app RESET amt_keys.org_id}), 'ERROR:  42501', 'ALTER ROLE RESET cannot take away an identity that a superuser has set');
is(answer(as('acme_app'), q{ALTER ROLE acme_app SET amt_keys.role = 'owner'}), 'ERROR:  42501', 'ALTER ROLE SET cannot replace an identity that a superuser has set');
is(answer(as('acme_app'), q{SET amt_keys.role = 'owner'}, $whoami), 'acme/viewer/-/-', 'SET before the library is loaded cannot replace an identity that a superuser has set');
is(answer(as('acme_app', options => '-c amt_keys.role=owner'), $whoami), 'ERROR:  42501', 'PGOPTIONS cannot replace an identity that a superuser has set');
is(answer(as('acme_app'), 'RESET ALL', 'DISCARD ALL', $whoami), 'acme/viewer/-/-', 'RESET ALL and DISCARD ALL bring back the identity that a superuser has set');

# A role with the right keeps the values that it has set itself, and no others.
is(answer(as('gateway'), q{SET amt_keys.org_id = 'globex'}, $whoami), 'globex/-/-/-', 'a gateway\'s SET before loading is kept');
is(answer(as('gateway', options => '-c amt_keys.org_id=globex'), $whoami), 'globex/-/-/-', q{a gateway's PGOPTIONS are kept});
is(answer(as('gateway'), q{SET amt_keys.org_id = 'globex'}, "SET amt_keys.$_ = 'x'", 'SELECT amt_org_id()'), 'ERROR:  42501', "a gateway that sets amt_keys.$_, which it was not granted, beside an organization has no identity at all") for 'scopes', 'key_id';
is(answer(as('gateway'), q{SET amt_keys.key_id = 'x'}, $whoami), '-/-/-/-', q{a gateway's SET of a setting that it was not granted is not kept});
is(answer(Session->new($node), 'SET ROLE evil', q{SET amt_keys.org_id = 'globex'}, 'RESET ROLE', $whoami), '-/-/-/-', q{an identity that evil has set in a superuser's session is not kept});
is(answer(Session->new($node), q{SET amt_keys.org_id = 'globex'}, 'SET ROLE evil', $whoami), 'globex/-/-/-', 'an identity that a superuser has set before becoming evil is kept');

# Somebody else's function resets a part of the identity that a gateway has set. PostgreSQL lets it, until the library is loaded.
$super->query('GRANT SET ON PARAMETER amt_keys.scopes, amt_keys.key_id TO gateway');
as('evil')->query(q{CREATE FUNCTION evil.narrows_no_more() RETURNS void LANGUAGE plpgsql SECURITY DEFINER AS $$ BEGIN RESET amt_keys.key_id; RESET amt_keys.scopes; END $$},
	'GRANT USAGE ON SCHEMA evil TO PUBLIC');
my @narrow = ('BEGIN', q{SET LOCAL amt_keys.org_id = 'acme'}, q{SET LOCAL amt_keys.role = 'admin'}, q{SET LOCAL amt_keys.scopes = 'note:read'}, q{SET LOCAL amt_keys.key_id = 'abc123abc123'});
is(answer(as('gateway'), @narrow, 'SELECT evil.narrows_no_more()', $whoami), "\nERROR:  42501", 'an identity whose scopes and key id a function has reset is refused');
is(answer(as('gateway'), @narrow, 'SAVEPOINT s', 'RESET amt_keys.org_id', $whoami), 'ERROR:  42501', 'an identity that is reset in a savepoint before the library is loaded is refused');
is(answer(as('gateway'), @narrow, 'SAVEPOINT s', 'RESET amt_keys.scopes', q{SET LOCAL amt_keys.scopes = 'x'}, $whoami), 'ERROR:  42501', 'an identity a part of which was reset and set again is refused');
is(answer(as('gateway'), @narrow, 'SAVEPOINT s', 'RESET amt_keys.scopes', 'ROLLBACK TO s', 'SELECT amt_org_id(), amt_scopes()'), 'acme|{note:read}', 'a reset that is rolled back does no harm');
is(answer(as('gateway'), 'SELECT amt_org_id()', @narrow, 'SELECT evil.narrows_no_more()', 'ROLLBACK') // '', "\nERROR:  42501", 'once the library is loaded, a function may reset no part of the identity');
$super->query('REVOKE SET ON PARAMETER amt_keys.scopes, amt_keys.key_id FROM gateway');

# Claims that somebody else has put into a gateway's session, for a request that brings none.
as('evil')->query(q{CREATE FUNCTION evil.claims(local boolean) RETURNS void LANGUAGE plpgsql SECURITY DEFINER AS $$
		BEGIN PERFORM set_config('request.jwt.claims', '{"org_id": "globex", "org_role": "owner", "sub": "evil"}', local); END $$});
my @serve = ('BEGIN', 'SELECT amt_authenticate()', $whoami, 'ROLLBACK');
for my $loaded ('SELECT 1', 'SELECT amt_org_id() IS NULL')
{
	my $gateway = as('gateway');
	answer($gateway, $loaded);
	is(answer($gateway, 'SELECT evil.claims(false)', @serve), "\n\n-/-/-/-", "claims that a function of others has set are not believed after $loaded");
	is(answer($gateway, 'BEGIN', 'SELECT evil.claims(true)', 'SELECT amt_authenticate()', $whoami, 'ROLLBACK'), "\n\n-/-/-/-", "nor in the same transaction after $loaded");
	my $claims = q{request.jwt.claims = '{"org_id": "acme", "org_role": "viewer"}'};
	is(answer($gateway, 'BEGIN', "SET LOCAL $claims", @serve[1 .. 3]), "\nacme/viewer/-/-", "claims that the gateway has set are believed after $loaded");
	is(answer($gateway, 'BEGIN', "SET $claims", 'COMMIT', @serve), "\n-/-/-/-", "claims that an earlier transaction has left are not believed after $loaded");
	is(answer($gateway, 'BEGIN', 'SET LOCAL ROLE clerk', q{SET LOCAL request.jwt.claims = '{"org_id": "acme", "org_role": "editor"}'}, 'RESET ROLE', 'SELECT amt_authenticate()', $whoami, 'ROLLBACK'),
		"\nacme/editor/-/-", "claims that the gateway has set as another role of its are believed after $loaded");
}
$super->query(q{ALTER DATABASE postgres SET request.jwt.claims = '{"org_id": "globex", "org_role": "owner"}'});
is(answer(as('gateway'), @serve), "\n-/-/-/-", 'claims that a database is given are not believed');
$super->query('ALTER DATABASE postgres RESET request.jwt.claims');

# A function of the gateway's sets an identity for others. Until the library is loaded they could change any part of it.
$super->query('GRANT SET ON PARAMETER amt_keys.scopes, amt_keys.key_id TO gateway', 'GRANT CREATE ON SCHEMA public TO gateway');
as('gateway')->query(q{CREATE FUNCTION sign_in(local boolean) RETURNS void LANGUAGE sql SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
		SELECT set_config('amt_keys.org_id', 'acme', local), set_config('amt_keys.role', 'editor', local), set_config('amt_keys.scopes', 'note:read', local) $$},
	q{CREATE FUNCTION acts() RETURNS text LANGUAGE sql SECURITY DEFINER SET amt_keys.org_id = 'acme' SET search_path = public AS $$ SELECT amt_org_id() $$});
for ([ 'nothing', 'SELECT 1' ], [ 'SET LOCAL of a part', q{SET LOCAL amt_keys.scopes = 'x'} ], [ 'RESET of a part', 'RESET amt_keys.scopes' ],
	[ 'SET LOCAL of all parts', map { "SET LOCAL amt_keys.$_ = 'x'" } qw(org_id role scopes) ], [ 'a savepoint', 'SAVEPOINT a', 'RESET amt_keys.scopes' ],
	[ 'RESET ALL after a part in a savepoint', 'SAVEPOINT a', q{SET LOCAL amt_keys.role = 'x'}, 'RESET ALL' ])
{
	my ($what, @then) = @$_;
	my ($local, $session) = map { answer(as('app'), 'BEGIN', "SELECT sign_in($_)", @then, q{SELECT amt_has_scope('billing')}) =~ /(?:ERROR:  )?(\w+)\z/; } 'true', 'false';
	# Where nothing is left of the identity, there is nothing to refuse.
	my $refused = $what =~ /all parts/ ? 'f' : '42501';
	is($local, $refused, "$what after a function has signed in for the transaction: the session has not a part of the identity if the library is loaded now");
	is($session, '42501', "$what after a function has signed in for the session: the session is refused if the library is loaded now");
	my $protected = $what eq 'nothing' ? 'f' : '42501';
	my ($answer) = answer(as('app'), 'SELECT amt_org_id()', 'BEGIN', 'SELECT sign_in(true)', @then, q{SELECT amt_has_scope('billing')}) =~ /(?|ERROR:  (\w+)|(\w)\z)/;
	is($answer, $protected,
		"$what after a function has signed in: the server protects the settings if the library is loaded");
}
is(answer(as('app'), 'SELECT sign_in(false)', 'RESET amt_keys.scopes', 'BEGIN', (map { "SET LOCAL amt_keys.$_ = 'x'" } qw(org_id role)), 'SELECT amt_org_id()', 'COMMIT', 'SELECT amt_org_id()')
	=~ s/^\n+//r, "ERROR:  42501\nERROR:  42501", 'an identity that comes back at the end of the transaction is refused');
is(answer(as('app'), 'BEGIN', 'SELECT sign_in(true)', 'COMMIT', 'SELECT amt_org_id() IS NULL') =~ s/^\n+//r, 't', 'an identity that has ended with its transaction refuses no session');
is(answer(as('app'), 'SELECT acts()'), 'ERROR:  42501', 'an identity in a clause of a function is refused if the library is loaded in it');
is(answer(as('app'), 'SELECT amt_org_id() IS NULL', 'SELECT acts()'), "t\nacme", 'an identity in a clause of a function holds in the function if the library is loaded');
$super->query('GRANT gateway TO app');
is(answer(as('app'), 'SET ROLE gateway', q{SET amt_keys.org_id = 'acme'}, 'RESET ROLE', 'SELECT amt_org_id()'), 'acme', 'an identity that a member of the gateway sets as the gateway is kept');
$super->query('REVOKE gateway FROM app', 'REVOKE SET ON PARAMETER amt_keys.scopes, amt_keys.key_id FROM gateway', 'REVOKE CREATE ON SCHEMA public FROM gateway',
	'DROP FUNCTION sign_in', 'DROP FUNCTION acts');

# The same with the library loaded at the session's start, as for its log redaction.
$node->append_conf('postgresql.conf', "session_preload_libraries = 'amt_keys'");
$node->reload;
ok(wait_until(sub { Session->new($node)->query('SHOW session_preload_libraries') eq 'amt_keys' }), 'the library is loaded at the start of each session from now on');
is(answer(as('evil', options => '-c amt_keys.org_id=globex -c amt_keys.role=owner'), $whoami), 'ERROR:  42501', 'PGOPTIONS with a library that is loaded early are refused');
is(answer(as('acme_app'), $whoami), 'acme/viewer/-/-', q{a role's settings hold with a library that is loaded early});
is(answer(as('evil'), q{SET amt_keys.org_id = 'globex'}), 'ERROR:  42501', 'SET with a library that is loaded early is refused');

# With the library in every process, the server itself refuses.
$super->quit;
$node->append_conf('postgresql.conf', "session_preload_libraries = ''\nshared_preload_libraries = 'amt_keys'");
$node->restart;
for my $setting (qw(org_id=globex role=owner manager_role=viewer roles=viewer require_authentication=off redact_logs=off scrypt_ln=1))
{
	is(refused_with('evil', "-c amt_keys.$setting"), '42501', "preloaded: $setting is refused with the connection");
}
is(refused_with('evil', '-c work_mem=1MB'), undef, 'preloaded: another setting is accepted with the connection');
is(refused_with('gateway', '-c amt_keys.org_id=globex'), undef, 'preloaded: a gateway may set the organization with the connection');
is(refused_with('gateway', '-c amt_keys.key_id=x'), '42501', 'preloaded: a gateway may not set the key with the connection');
$node->append_conf('postgresql.conf', "shared_preload_libraries = ''");
$node->restart;
$super = Session->new($node);

## COPY and EXPLAIN ANALYZE, of the table itself

{
	my ($acme_id, $globex_id) = map { id_of($_) } $acme, $globex;
	my $hash = $super->query("SELECT scrypt_hash FROM amt_key WHERE key_id = '$globex_id'");
	my $member = as('acme_app');
	is($member->query("COPY $_ TO STDOUT"), 'ERROR:  42501', "COPY $_ TO STDOUT is refused") for 'amt_key', 'amt_key (scrypt_hash)', 'amt_key (key_id, scrypt_hash)', '(SELECT * FROM amt_key)';
	is($member->query('COPY amt_key (key_id, name) TO STDOUT'), "$acme_id\ta key", 'COPY of some columns has the own organization\'s rows');
	is($member->query('COPY amt_key_event (key_id, name) TO STDOUT'), "$acme_id\ta key", q{COPY of the events has the own organization's rows});
	is($member->query('COPY amt_key_usage (key_id) TO STDOUT'), $super->query("SELECT key_id FROM amt_key_usage WHERE key_id = '$acme_id'"), q{COPY of the usage has the own organization's rows});
	is($member->query('SET row_security = off', 'COPY amt_key (key_id, name) TO STDOUT', 'RESET row_security'), 'ERROR:  42501', 'COPY without row security is refused');
	is(as('evil')->query('COPY amt_key (key_id, name) TO STDOUT', 'COPY amt_key_event TO STDOUT', 'COPY amt_key_usage TO STDOUT'), '', 'COPY without an identity has no rows');

	# EXPLAIN counts the rows that the policy removes, and shows nothing else of them.
	$super->query(q{INSERT INTO amt_key (key_id, org_id, name, role, scrypt_hash, created_at) SELECT 'globex' || i, org_id, name, role, scrypt_hash, now() FROM amt_key, generate_series(1, 5) AS i WHERE org_id = 'globex'}, 'ANALYZE amt_key');
	my $explain = sub { return $member->query("EXPLAIN (ANALYZE, VERBOSE, BUFFERS, SETTINGS, TIMING off, FORMAT $_[0]) SELECT count(*) FROM amt_key WHERE $_[1]") };
	$member->query('SET enable_bitmapscan = off');
	for my $where ('true', q{name = 'secret plan'}, q{org_id = 'globex'}, q{key_id >= 'globex' AND key_id < 'globey'})
	{
		for my $method ('index scans', 'sequential scans')
		{
			$member->query('SET enable_indexscan = ' . ($method =~ /index/ ? 'on' : 'off'), 'SET enable_indexonlyscan = off', 'SET enable_seqscan = ' . ($method =~ /index/ ? 'off' : 'on'));
			my $plan = join "\n", map { $explain->($_, $where) =~ s/\Q$where\E|[\w()]+ = '(?:globex|secret plan)'::text|key_id [<>]=? 'globe[xy]'::text//gr } 'text', 'json';
			like($plan, qr/amt_key/, "EXPLAIN of a count WHERE $where names the table, by $method");
			unlike($plan, qr/globex|secret plan|\Q$globex_id\E|\Q$hash\E|\$scrypt/, "EXPLAIN of a count WHERE $where shows nothing that other organizations have, by $method");
		}
	}
	like($explain->('text', 'true'), qr/Rows Removed by Filter: 6\n/, 'EXPLAIN shows the number of rows of other organizations');
	my ($some, $none) = map { $explain->('text', "org_id = '$_'") =~ /rows=(\d+) .*\(never executed\)/ } 'globex', 'nobody';
	cmp_ok($some, '==', $none, 'EXPLAIN estimates as many keys of an organization with some as of one with none');
	is($member->query(q{SELECT reltuples FROM pg_class WHERE oid = 'amt_key'::regclass}), '7', 'pg_class shows how many keys there are');
	$super->query(q{DELETE FROM amt_key WHERE key_id ~ '^globex'});
	$member->quit;
}

## What outlives the transaction that had the identity

$super->query('CREATE TABLE note (org_id text DEFAULT amt_org_id(), text text)', 'ALTER TABLE note ENABLE ROW LEVEL SECURITY',
	'CREATE POLICY p ON note USING (org_id = amt_org_id())', 'GRANT ALL ON note TO app',
	q{INSERT INTO note SELECT o, o FROM unnest(array['acme', 'globex']) AS o, generate_series(1, 2)});
my $identify_acme = "SELECT org_id FROM amt_verify('$acme', true)";
my $identify_globex = "SELECT org_id FROM amt_verify('$globex', true)";
my $app = as('app');
is($app->query('BEGIN', $identify_acme, 'DECLARE c CURSOR WITH HOLD FOR SELECT text FROM note', 'FETCH 1 FROM c', 'COMMIT', $whoami),
	"acme\nacme\n-/-/-/-", 'a cursor held over the commit keeps no identity');
is($app->query('BEGIN', $identify_globex, 'FETCH ALL FROM c', 'SELECT DISTINCT text FROM note', 'COMMIT', 'CLOSE c'),
	"globex\nacme\nglobex", q{a held cursor has the rows of its own transaction, and none of the next one's});
is($app->query('BEGIN', $identify_acme, 'DECLARE c CURSOR WITH HOLD FOR SELECT text FROM note', 'ROLLBACK', 'FETCH 1 FROM c'), "acme\nERROR:  34000", 'a held cursor of a transaction that rolled back does not exist');
is($app->query('BEGIN', $identify_acme, q{INSERT INTO note (text) VALUES ('prepared')}, q{PREPARE TRANSACTION 'p'}, $whoami, 'SELECT count(*) FROM note'),
	"acme\n-/-/-/-\n0", 'a prepared transaction takes its identity along');
is($super->query(q{COMMIT PREPARED 'p'}, q{SELECT org_id FROM note WHERE text = 'prepared'}), 'acme', 'a prepared transaction has written with its own identity');
is($app->query('BEGIN', $identify_acme, 'SELECT 1/0', 'COMMIT', $whoami), "acme\nERROR:  22012\n-/-/-/-", 'an error ends the identity of a transaction');
is($app->query('BEGIN', $identify_acme, 'COMMIT AND CHAIN', $whoami, 'COMMIT'), "acme\n-/-/-/-", 'a chained transaction starts without an identity');

# Keys that come and go in prepared transactions
is($super->query('BEGIN', q{CREATE TEMP SEQUENCE s}, 'ROLLBACK', 'BEGIN', q{SELECT 1 FROM amt_create_key('prepared', 'acme', 'viewer')}, q{PREPARE TRANSACTION 'k'},
		q{SELECT count(*) FROM amt_keys WHERE name = 'prepared'}, q{ROLLBACK PREPARED 'k'}), "1\n0", 'a key that is created in a prepared transaction is not in the list');
my $created = $super->query('BEGIN', q{SELECT token FROM amt_create_key('prepared', 'acme', 'viewer')}, q{PREPARE TRANSACTION 'k'});
is($app->query("SELECT count(*) FROM amt_verify('$created')"), '0', 'a key does not verify before COMMIT PREPARED of its creation');
is($super->query(q{COMMIT PREPARED 'k'}, "SELECT count(*) FROM amt_verify('$created')"), '1', 'a key verifies after COMMIT PREPARED of its creation');
my $id = id_of($created);
is($super->query('BEGIN', "SELECT amt_revoke('$id')", q{PREPARE TRANSACTION 'r'}, "SELECT count(*) FROM amt_verify('$created')"), "t\n1", 'a key verifies before COMMIT PREPARED of its revocation');
is($super->query(q{COMMIT PREPARED 'r'}, "SELECT count(*) FROM amt_verify('$created')", "SELECT event FROM amt_key_event WHERE key_id = '$id' ORDER BY event_id"),
	"0\ncreated\nrevoked", 'a key is revoked by COMMIT PREPARED');

# Parallel workers believe their leader's seal, and none that ALTER DATABASE has stored before the library was loaded.
for my $stored ('41' x 100_000, 'abc', 'refused', 'refused1', '0' x 8, '0' x 72)
{
	Session->new($node)->query("ALTER DATABASE postgres SET amt_keys.seal = '$stored'");
	my $s = as('app');
	is(answer($s, 'BEGIN', $version >= 16 ? 'SET debug_parallel_query = on' : 'SET force_parallel_mode = on', $identify_acme, 'SELECT amt_org_id() FROM (SELECT) AS x', 'COMMIT', 'SELECT 1'),
		"acme\nacme\n1", 'a stored seal of ' . length($stored) . ' characters is passed over by parallel workers');
}
$super->query('ALTER DATABASE postgres RESET amt_keys.seal');

# Every plan by a parallel worker, as far as it may be
my $force = $version >= 16 ? 'SET debug_parallel_query = on' : 'SET force_parallel_mode = on';
is($app->query('BEGIN', $force, $identify_acme, $whoami =~ s{\)\z}{) FROM (SELECT) AS x}r, 'SELECT key_name FROM amt_whoami()', 'SELECT DISTINCT org_id FROM note', 'SELECT count(*) > 0 FROM amt_keys',
		q{SELECT amt_has_role('editor'), amt_has_role('admin')}, 'COMMIT', 'SELECT count(*) FROM note'),
	"acme\nacme/editor/-/" . id_of($acme) . "\na key\nacme\nt\nt|f\n0", 'parallel workers have the identity');

# Settings that are valid together only: a worker gets them one by one.
is($super->query($force, 'SET amt_keys.scrypt_r = 2', 'SET amt_keys.scrypt_ln = 21', 'SELECT count(*) FROM (SELECT) AS x', 'RESET amt_keys.scrypt_ln', 'RESET amt_keys.scrypt_r', $force =~ s/on\z/off/r),
	1, 'parallel workers take settings of scrypt that are valid together only');

## Traps where others step into them: the usage writer, amt_flush_usage(), a dump

as('evil')->query(
	'CREATE TABLE evil.trapped (what text)', 'GRANT INSERT ON evil.trapped TO PUBLIC',
	q{CREATE FUNCTION evil.eq(text, text) RETURNS boolean LANGUAGE plpgsql AS $$ BEGIN INSERT INTO evil.trapped VALUES (current_user); RETURN true; END $$},
	q{CREATE FUNCTION evil.eq(text, text[]) RETURNS boolean LANGUAGE plpgsql AS $$ BEGIN INSERT INTO evil.trapped VALUES (current_user); RETURN true; END $$},
	q{CREATE FUNCTION evil.plus(bigint, bigint) RETURNS bigint LANGUAGE plpgsql AS $$ BEGIN INSERT INTO evil.trapped VALUES (current_user); RETURN 0; END $$},
	q{CREATE FUNCTION evil.unnest(anyarray) RETURNS SETOF anyelement LANGUAGE plpgsql AS $$ BEGIN INSERT INTO evil.trapped VALUES (current_user); RETURN; END $$},
	'CREATE OPERATOR evil.= (FUNCTION = evil.eq, LEFTARG = text, RIGHTARG = text)',
	'CREATE OPERATOR evil.= (FUNCTION = evil.eq, LEFTARG = text, RIGHTARG = text[])',
	'CREATE OPERATOR evil.+ (FUNCTION = evil.plus, LEFTARG = bigint, RIGHTARG = bigint)');
# Temporary tables come before all others in the path: one named as ours, with the row of a key in it.
{
	my ($acme_id, $fresh) = (id_of($acme), create_key($node));
	my @count = ("SELECT FROM public.amt_verify('$acme')", "SELECT FROM public.amt_verify('$fresh')", 'SELECT public.amt_flush_usage() >= 0');
	my $before = calls_of($node, $acme_id);
	$super->query('CREATE TEMP TABLE amt_key_usage (LIKE public.amt_key_usage INCLUDING ALL)', "INSERT INTO amt_key_usage VALUES ('$acme_id', 0, now())");
	$super->query('SET search_path = evil, pg_catalog', @count, @count, 'RESET search_path');
	is($super->query('SELECT key_id, calls FROM pg_temp.amt_key_usage'), "$acme_id|0", 'calls are not written into a temporary table');
	ok(wait_until(sub { stored_calls($node, $acme_id) == $before + 2 && (stored_calls($node, id_of($fresh)) || 0) == 2 }, 30), 'calls are written into the true table');
	$super->query('DROP TABLE pg_temp.amt_key_usage', "SELECT amt_revoke('" . id_of($fresh) . "')");
}
my ($calls, $globex_calls) = map { calls_of($node, id_of($_)) } $acme, $globex;
is($super->query('SET search_path = evil, pg_catalog', "SELECT org_id FROM public.amt_verify('$acme')", 'SELECT public.amt_flush_usage() >= 0',
		"SELECT org_id FROM public.amt_verify('$acme')", 'SELECT public.amt_flush_usage() >= 0', 'RESET search_path'),
	"acme\nt\nacme\nt", 'calls are written under a hostile search_path');
ok(wait_until(sub { stored_calls($node, id_of($acme)) == $calls + 2 }, 30), 'all calls are written under a hostile search_path');

# A database's owner chooses what its sessions begin with, the usage writer's included.
$super->query(q{ALTER DATABASE postgres SET search_path = evil, pg_catalog}, q{ALTER DATABASE postgres SET default_transaction_read_only = on},
	q{ALTER DATABASE postgres SET default_transaction_isolation = serializable}, q{ALTER DATABASE postgres SET row_security = off},
	q{ALTER DATABASE postgres SET session_replication_role = replica}, q{ALTER DATABASE postgres SET statement_timeout = '1ms'});
# So does a superuser, whose settings for the database and for the role that the writer begins as give it an identity, too.
my ($owner) = $super->query('SELECT quote_ident(rolname) FROM pg_roles WHERE oid = 10');
$super->query(q{ALTER DATABASE postgres SET amt_keys.org_id = 'globex'}, q{ALTER DATABASE postgres SET amt_keys.role = 'viewer'},
	"ALTER ROLE $owner SET amt_keys.org_id = 'acme'", "ALTER ROLE $owner SET amt_keys.key_id = '" . id_of($globex) . "'");
ok(wait_until(sub { !worker_pids($node, 'postgres') }), 'the usage writer leaves');
$app->query("SELECT count(*) FROM amt_verify('$acme') AS a, amt_verify('$globex') AS g") for 1 .. 3;
for ([ 'one organization', $acme, $calls + 5 ], [ 'another', $globex, $globex_calls + 3 ])
{
	my ($what, $token, $wanted) = @$_;
	ok(wait_until(sub { $super->query("SELECT calls FROM public.amt_key_usage WHERE key_id = '" . id_of($token) . "'") == $wanted }, 30),
		"the next usage writer writes whatever the settings: calls of $what");
}
$super->query("ALTER DATABASE postgres RESET $_")
  for qw(search_path default_transaction_read_only default_transaction_isolation row_security session_replication_role statement_timeout amt_keys.org_id amt_keys.role);
$super->query("ALTER ROLE $owner RESET ALL");
is($super->query('SELECT count(*) FROM evil.trapped'), '0', 'the usage writer and amt_flush_usage() run no trap');
is($super->query('SET search_path = evil, pg_catalog', q{SELECT 'a'::text = 'b'::text}, 'RESET search_path', 'SELECT count(*) FROM evil.trapped'), "t\n1", 'an operator without a schema runs a trap');

# A dump by somebody who is not the owner
$node->command_fails_like([ 'pg_dump', '-d', $node->connstr('postgres') . ' user=evil', '-t', 'public.amt_key' ], qr/permission denied for table amt_key/, 'a dump of the table by another role is refused');
$node->command_fails_like([ 'pg_dump', '-d', $node->connstr('postgres') . ' user=evil', '--enable-row-security', '-a', '-t', 'public.amt_key' ],
	qr/permission denied for table amt_key/, 'a dump of the table with row security by another role is refused');

## Logical decoding

is(as('evil')->query(q{SELECT pg_create_logical_replication_slot('evil', 'test_decoding')}), 'ERROR:  42501', 'an ordinary role cannot decode changes');
is(as('evil')->query('CREATE PUBLICATION evil FOR TABLE public.amt_key'), 'ERROR:  42501', 'an ordinary role cannot publish the table');
SKIP:
{
	my $slot = $super->query(q{SELECT slot_name FROM pg_create_logical_replication_slot('dba', 'test_decoding')});
	skip 'no test_decoding here', 3 if $slot ne 'dba';
	my $decoded = create_key($node);
	$app->query('BEGIN', "SELECT org_id FROM amt_verify('$decoded', true)", q{INSERT INTO note (text) VALUES ('decoded')}, 'COMMIT');
	$super->query("SELECT amt_revoke('" . id_of($decoded) . "')");
	my $changes = $super->query(q{SELECT data FROM pg_logical_slot_get_changes('dba', NULL, NULL)});
	like($changes, qr/amt_key: INSERT: .*\$scrypt\$/, 'a role that may decode sees the hash');
	my ($secret) = $decoded =~ /\Aamt_[^_]+_(.{43})/;
	is(index($changes, $secret), -1, 'a role that may decode sees nothing of the secret');
	is($super->query(q{SELECT pg_drop_replication_slot('dba')}), '', 'the slot is dropped');
}

# The reason of a refusal is the first one, although a stored value is missing for it as well.
{
	my $session = as('acme_app', options => '-c amt_keys.org_id=globex', verbosity => 'default');
	like($session->query('SELECT amt_org_id()'), qr/HINT:  Connect without that option/, 'an option that hides a stored identity is refused with the hint to leave it out');
	$session->quit;
}

# A function of others cannot take a key's identity from the gateway that has given it, and with it the key's limits.
{
	$super->query('GRANT EXECUTE ON FUNCTION amt_verify TO gateway, evil');
	as('evil')->query(q{CREATE FUNCTION evil.reset() RETURNS void LANGUAGE plpgsql SECURITY DEFINER AS 'BEGIN RESET ALL; END'},
		q{CREATE FUNCTION evil.present(token text) RETURNS text LANGUAGE sql SECURITY DEFINER AS 'SELECT org_id FROM amt_verify(token, true)'},
		q{CREATE FUNCTION evil.both() RETURNS void LANGUAGE plpgsql SECURITY DEFINER AS $$ BEGIN RESET ALL; PERFORM amt_verify('nonsense', true); END $$});
	my $gateway = as('gateway');
	my @identified = ('BEGIN', "SELECT org_id FROM amt_verify('$acme', true)");
	my $may = q{SELECT amt_may_manage('x', 'globex', NULL)};
	my $create = q{SELECT role FROM amt_create_key('mine', 'globex', 'owner')};
	my @end = ('ROLLBACK', "SELECT 'next'", $may);
	is(answer($gateway, @identified, 'SELECT evil.reset()', $whoami, $may, $create, @end), "acme\n\n-/-/-/-\nf\nERROR:  42501\nnext\nt", 'not by RESET ALL');
	is(answer($gateway, @identified, q{SELECT evil.present('nonsense')}, $create, @end), "acme\nERROR:  42501\nERROR:  25P02\nnext\nt", 'nor by a token that is bad');
	is(answer($gateway, @identified, 'SELECT evil.both()', $create, @end), "acme\nERROR:  42501\nERROR:  25P02\nnext\nt", 'nor by both');
	is(answer($gateway, 'BEGIN', 'SAVEPOINT a', $identified[1], $may, 'ROLLBACK TO a', $whoami, $create, @end), "acme\nf\n-/-/-/-\nowner\nnext\nt", 'but a savepoint takes it back');
	is(answer($gateway, 'BEGIN', "SELECT evil.present('$globex')", $may, @end), "globex\nf\nnext\nt", 'and a function of others may identify the first key');
	is(answer($gateway, 'BEGIN', q{SET LOCAL request.jwt.claims = '{"org_id": "acme", "org_role": "viewer"}'}, 'SELECT amt_authenticate()', "SELECT evil.present('$globex')", @end),
		"\nERROR:  42501\nnext\nt", 'it cannot change what amt_authenticate() has decided');
	$super->query('REVOKE EXECUTE ON FUNCTION amt_verify FROM gateway, evil');
}

# Nor can it make the owner's INSERT look like one of a dump.
{
	as('evil')->query(q{CREATE FUNCTION evil.restore() RETURNS void LANGUAGE plpgsql SECURITY DEFINER AS $$
		BEGIN PERFORM set_config('row_security', 'off', false), set_config('search_path', '', false); END $$});
	my $owner = Session->new($node);
	my $insert = sub { "INSERT INTO public.amt_key (key_id, org_id, name, role, token_sha256, created_at) VALUES ('$_[0]', 'acme', 'k', 'viewer', sha256('$_[0]'), now())" };
	$owner->query('SELECT evil.restore()', $insert->('byOthers'));
	my $events = sub { $super->query("SELECT count(*) FROM amt_key_event WHERE key_id = '$_[0]'") };
	is($events->('byOthers'), 1, 'an INSERT is recorded after a function of others has set what a dump sets');
	$owner->query('RESET row_security', 'SET row_security = off', q{SELECT set_config('search_path', '', false)}, $insert->('byOwner'));
	is($events->('byOwner'), 0, 'it is not after the owner has');
	$owner->quit;
}

$_->quit for $app, $super;
$node->stop;
# A session that is refused for a bad value at login is refused in its parallel workers, too, when the value has been corrected.
{
	my $early = new_cluster(name => 'early');
	$early->safe_psql('postgres', q{
		CREATE TABLE big AS SELECT i FROM generate_series(1, 1000) AS i;
		ALTER TABLE big SET (parallel_workers = 2);
		CREATE ROLE p LOGIN;
		GRANT SELECT ON big TO p;
		ALTER ROLE p SET amt_keys.org_id = 'acme';
		ALTER ROLE p SET amt_keys.scopes = 'read only';
		CREATE ROLE q LOGIN;
		GRANT SELECT ON big TO q;
		ALTER ROLE q SET amt_keys.scopes = 'read only'});
	$early->append_conf('postgresql.conf', "shared_preload_libraries = 'amt_keys'");
	$early->restart;
	my $p = Session->new($early, user => 'p');
	like($p->query('SELECT amt_org_id()'), qr{^ERROR:  42501\z}m, 'a session with a bad value is refused');
	my $other = Session->new($early, user => 'p');
	like($other->query('SELECT 1'), qr{^1\z}m, 'another one does not call a function yet');
	$early->safe_psql('postgres', q{ALTER ROLE p SET amt_keys.scopes = 'read'});
	for my $session ($p, $other)
	{
		is( $session->query('SET parallel_setup_cost = 0', 'SET parallel_tuple_cost = 0', 'SET min_parallel_table_scan_size = 0', 'SET parallel_leader_participation = off',
				q{SELECT count(*) FROM big WHERE amt_has_scope('delete')}),
			'ERROR:  42501', 'it is refused in parallel workers after the value was corrected');
		$session->quit;
	}
	my $told = Session->new($early, user => 'q', verbosity => 'default');
	like($told->query('SET parallel_setup_cost = 0', 'SET parallel_tuple_cost = 0', 'SET min_parallel_table_scan_size = 0', 'SET parallel_leader_participation = off',
			q{SELECT count(*) FROM big WHERE amt_has_scope('delete')}),
		qr/DETAIL:  A setting that holds the identity was given a value/, 'parallel workers give the reason of the refusal');
	$told->quit;
	$early->safe_psql('postgres', q{CREATE ROLE r LOGIN; GRANT SELECT ON big TO r; ALTER ROLE r SET amt_keys.org_id = 'acme'});
	my ($used, $unused, $parallel) = map { Session->new($early, user => 'r') } 1 .. 3;
	my @in_workers = ('SET parallel_setup_cost = 0', 'SET parallel_tuple_cost = 0', 'SET min_parallel_table_scan_size = 0', 'SET parallel_leader_participation = off',
		q{SELECT count(*) FROM big WHERE amt_has_scope('delete')});
	is($used->query('SELECT amt_org_id()'), 'acme', 'a session uses its identity');
	is($_->query('SELECT 1'), '1', 'another one has only logged in') for $unused, $parallel;
	$early->safe_psql('postgres', q{ALTER ROLE r SET amt_keys.scopes = 'read'});
	is($used->query(q{SELECT amt_org_id(), amt_has_scope('delete')}), 'acme|t', 'a session keeps the identity that it has used when more is stored');
	is($used->query(@in_workers), 1000, 'and so do its parallel workers');
	is($unused->query('SELECT amt_org_id()'), 'ERROR:  42501', 'a session whose identity lacks a stored part is refused at its first use');
	is($parallel->query(@in_workers), 'ERROR:  42501', 'so is one whose first use is in parallel workers');
	is($parallel->query('SELECT amt_org_id()'), 'ERROR:  42501', 'and later without workers');
	$_->quit for $used, $unused, $parallel;
	my $new = Session->new($early, user => 'p');
	is($new->query(q{SELECT amt_org_id(), amt_scopes(), amt_has_scope('delete')}), 'acme|{read}|f', 'a new session has the corrected identity');
	$new->quit;
	$early->stop;
}

done_testing();
