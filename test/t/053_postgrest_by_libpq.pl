# PostgREST's transaction once more, statement by statement through libpq, which is what PostgREST itself uses: pgbench sends
# variables as bind parameters.  The cases are in test/node/edge-postgrest.test.js; here are those that must not differ.

use strict;
use warnings FATAL => 'all';

use FindBin;
use lib "$FindBin::RealBin/../perl";

use AmtKeys qw(:all);
use PostgreSQL::Test::Utils;
use Test::More;

my $node = new_cluster();
my $key = $node->safe_psql('postgres', q{SELECT token FROM amt_create_key('a key', 'acme', 'editor')});
my $id = id_of($key);
$node->safe_psql('postgres', q{
	CREATE ROLE anon NOLOGIN; CREATE ROLE web_user NOLOGIN; CREATE ROLE key_editor NOLOGIN;
	CREATE ROLE authenticator LOGIN NOINHERIT IN ROLE anon, web_user, key_editor;
	GRANT SET ON PARAMETER amt_keys.org_id TO authenticator;
	CREATE TABLE note (org_id text DEFAULT amt_org_id(), body text);
	INSERT INTO note VALUES ('acme', 'ours'), ('globex', 'theirs');
	ALTER TABLE note ENABLE ROW LEVEL SECURITY;
	CREATE POLICY p ON note USING (org_id = amt_org_id());
	GRANT SELECT, INSERT ON note TO anon, web_user, key_editor;
	CREATE FUNCTION check_is(what text, wanted text) RETURNS void LANGUAGE plpgsql AS $$
	BEGIN IF what IS DISTINCT FROM wanted THEN RAISE 'got %, not %', what, wanted USING ERRCODE = 'P0004'; END IF; END $$;
});

my $identity = q{concat_ws('/', coalesce(amt_org_id(), '-'), coalesce(amt_role(), '-'), coalesce(amt_actor(), '-'), coalesce(amt_key_id(), '-'))};

sub request
{
	my ($access, $role, $headers, $claims, $wanted, $rows) = @_;
	my $run = start_pgbench($node, [ <<"SQL" ], '-M', 'extended', '-t', 1, '-D', "role=$role", '-D', "headers=$headers", '-D', "claims=$claims", '-D', "wanted=$wanted", '-D', "rows=$rows", '-U', 'authenticator');
BEGIN ISOLATION LEVEL READ COMMITTED $access;
SELECT set_config('search_path', 'public', true), set_config('role', :role, true), set_config('request.jwt.claims', :claims, true), set_config('request.headers', :headers, true);
SELECT amt_authenticate();
SELECT check_is($identity, :wanted);
SELECT check_is(coalesce(string_agg(body, ',' ORDER BY body), 'none'), :rows) FROM note;
COMMIT;
SELECT check_is($identity, '-/-/-/-');
SQL
	my $ok = $run->{harness}->finish;
	return $ok ? 'as wanted' : $run->{err} =~ /ERROR:  ([^\n]*)/ ? $1 : $run->{err};
}

my $jwt = '{"role":"web_user","org_id":"acme","org_role":"viewer","sub":"ann"}';
my $foreign = '{"role":"web_user","org_id":"globex","org_role":"owner","sub":"gus"}';
for my $access ('READ ONLY', 'READ WRITE')
{
	is(request($access, 'anon', '{}', '{"role":"anon"}', '-/-/-/-', 'none'), 'as wanted', "$access: an anonymous request has no identity");
	is(request($access, 'web_user', '{}', $jwt, 'acme/viewer/ann/-', 'ours'), 'as wanted', "$access: a JWT gives the identity of its claims");
	is(request($access, 'web_user', '{}', $foreign, 'globex/owner/gus/-', 'theirs'), 'as wanted', "$access: a JWT of another organization gives the rows of that organization");
	is(request($access, 'anon', qq({"x-api-key":"$key"}), '{"role":"anon"}', "acme/editor/-/$id", 'ours'), 'as wanted', "$access: a key gives its identity");
	is(request($access, 'anon', qq({"authorization":"ApiKey $key"}), '{}', "acme/editor/-/$id", 'ours'), 'as wanted', "$access: a key with another scheme gives its identity");
	is(request($access, 'web_user', qq({"x-api-key":"Bearer $key"}), $foreign, "acme/editor/-/$id", 'ours'), 'unauthenticated', "$access: a key beside a person's JWT is refused without a role for keys");
	is(request($access, 'anon', '{"x-api-key":"amt_nobody_0123456789abcdef"}', '{}', '-/-/-/-', 'none'), 'unauthenticated', "$access: a bad key is refused");
	is(request($access, 'web_user', '{"x-api-key":"x"}', $jwt, 'acme/viewer/ann/-', 'ours'), 'as wanted', "$access: another gateway's key beside a JWT is passed over");
	is(request($access, 'web_user', '{', $jwt, '-/-/-/-', 'none'), 'unauthenticated', "$access: headers that are not JSON are refused");
	is(request($access, 'web_user', '{}', '{', '-/-/-/-', 'none'), 'as wanted', "$access: claims that are not JSON give no identity");
}

# With a role for keys, a key's request has nothing of the person whose JWT is beside it.
configure($node, 'amt_keys.db_role' => 'key_{role}');
for my $access ('READ ONLY', 'READ WRITE')
{
	is(request($access, 'web_user', qq({"x-api-key":"Bearer $key"}), $foreign, "acme/editor/-/$id", 'ours'), 'as wanted', "$access: a key beside a JWT decides with a role for keys");
}

is(calls_of($node, $id), 4 + 2, 'each use of the key is counted, and no refused request is');

done_testing();
