-- Values that are hostile by their size or their contents: every function gets
-- texts of 16 megabytes, headers and claims that are nested deeply or name
-- what they should not, and settings hold what only a superuser could put
-- there by mistake.  Each is answered within half a minute, on the slowest of machines.
BEGIN;
CREATE SCHEMA tap;
CREATE EXTENSION pgtap SCHEMA tap;
CREATE EXTENSION amt_keys;
SET search_path = public, tap;
SET amt_keys.scrypt_ln = 1;
SET statement_timeout = '30s';
CREATE ROLE amt_test_web;
CREATE ROLE amt_test_viewer;
CREATE ROLE amt_test_gateway LOGIN;
GRANT amt_test_web, amt_test_viewer TO amt_test_gateway;
GRANT SET ON PARAMETER amt_keys.org_id, amt_keys.role, amt_keys.actor TO amt_test_gateway;
GRANT USAGE ON SCHEMA tap TO PUBLIC;
SELECT token, key_id FROM amt_create_key('a key', 'acme', 'viewer') \gset
CREATE FUNCTION tap.mb16(what text) RETURNS text LANGUAGE sql AS $$ SELECT repeat(what, 16777216 / octet_length(what)) $$;
CREATE FUNCTION tap.identity() RETURNS text LANGUAGE sql VOLATILE AS $$
	SELECT concat_ws('/', coalesce(amt_org_id(), '-'), coalesce(amt_role(), '-'), coalesce(amt_actor(), '-'), coalesce(amt_key_id(), '-'))
$$;

SELECT plan(56);

-- 1. 16 megabytes of it
SELECT is_empty(format('SELECT * FROM amt_verify(mb16(%L))', w), 'amt_verify: ' || w)
FROM unnest(array['x', ' ', 'amt_', 'Bearer ', '_', 'amt_x_', E'\x01']) AS w;
SELECT is_empty(format('SELECT * FROM amt_verify(%L || mb16(''0''), true)', :'token'), 'amt_verify: behind a good token');
SELECT is_empty(format('SELECT * FROM amt_verify(''amt_'' || mb16(''0'') || %L)', substr(:'token', 5)), 'amt_verify: within');
SELECT is((SELECT name FROM amt_verify('Bearer' || mb16(' ') || :'token')), 'a key', 'amt_verify: before, where a header may have it');
SELECT is(amt_check_token(mb16('amt_')), false, 'amt_check_token');
SELECT is((SELECT count(*) FROM amt_find_tokens(mb16(w))), 0::bigint, 'amt_find_tokens: ' || w) FROM unnest(array['x', 'amt_', '_', 'amt_000000000000_']) AS w;
SELECT is((SELECT count(*) FROM amt_find_tokens(mb16(left(:'token', 65) || '_') || :'token')), 1::bigint, 'amt_find_tokens: almost tokens, and one');
SELECT is((SELECT count(*) FROM (SELECT amt_find_tokens(mb16(:'token' || ' ')) LIMIT 1000) AS t), 1000::bigint, 'amt_find_tokens: a million tokens, as far as one reads');
SELECT is(amt_revoke(mb16('x')), false, 'amt_revoke');
SELECT is(amt_revoke('amt_' || mb16('x') || '...'), false, 'amt_revoke, as a prefix');
SELECT is((SELECT calls FROM amt_usage(mb16('x'))), 0::bigint, 'amt_usage');
SELECT is(amt_may_revoke(mb16('x'), mb16('y'), mb16('z')), false, 'amt_may_revoke');
SELECT throws_ok('SELECT amt_create_key(mb16(''x''), ''acme'', ''viewer'')', '22023', NULL, 'amt_create_key: name');
SELECT throws_ok('SELECT amt_create_key(mb16(E''\n''), ''acme'', ''viewer'')', '22023', NULL, 'amt_create_key: name of control characters');
SELECT throws_ok('SELECT amt_create_key(mb16('' ''), ''acme'', ''viewer'')', '22023', NULL, 'amt_create_key: name of blanks');
SELECT throws_ok('SELECT amt_create_key(''k'', ''acme'', repeat(''x'', 1048576))', '22023', NULL, 'amt_create_key: role');
SELECT is(amt_has_role(repeat('x', 1048576)), false, 'amt_has_role, without identity');
SELECT throws_ok('SELECT amt_require_role(repeat(''x'', 1048576))', 'PT403', NULL, 'amt_require_role, without identity');
SELECT is((SELECT length(org_id) FROM amt_create_key('k', repeat('x', 1048576), 'viewer')), 1048576, 'amt_create_key: an organization''s id of a megabyte');
SELECT is((SELECT count(*) FROM amt_keys WHERE org_id = repeat('x', 1048576)), 1::bigint, 'which is listed');
SELECT is((SELECT amt_revoke(key_id) FROM amt_key WHERE org_id = repeat('x', 1048576)), true, 'and revoked');
SELECT throws_ok('INSERT INTO amt_key SELECT ''x'', org_id, name, role, mb16(''$''), now() FROM amt_key LIMIT 1', '23514', NULL, 'an imported hash');
SELECT throws_ok('INSERT INTO amt_key SELECT mb16(''x''), org_id, name, role, scrypt_hash, now() FROM amt_key LIMIT 1', '23514', NULL, 'an imported id');
SELECT throws_ok('INSERT INTO amt_key SELECT ''x'', org_id, mb16(''x''), role, scrypt_hash, now() FROM amt_key LIMIT 1', '23514', NULL, 'an imported name');

-- 2. Headers and claims, in a session of the gateway
CREATE FUNCTION tap.request(headers text, claims text DEFAULT '') RETURNS text LANGUAGE plpgsql AS $$
BEGIN
	PERFORM set_config('request.headers', headers, true), set_config('request.jwt.claims', claims, true);
	PERFORM amt_authenticate();
	RETURN identity();
EXCEPTION WHEN OTHERS THEN
	RETURN SQLSTATE || ' ' || SQLERRM;
END
$$;
SELECT is(request(mb16('x')), 'PT401 unauthenticated', 'headers: noise');
SELECT is(request(mb16('[')), 'PT401 unauthenticated', 'headers: nested lists');
SELECT is(request(mb16('{"a":')), 'PT401 unauthenticated', 'headers: nested objects');
SELECT is(request(json_build_object('x-api-key', mb16('x'))::text), 'PT401 unauthenticated', 'headers: a key');
SELECT is(request(json_build_object('authorization', mb16('Bearer '))::text), '-/-/-/-', 'headers: no key');
SELECT is(request(json_build_object('x-api-key', :'token' || E'\r\nX-Injected: 1')::text), 'PT401 unauthenticated', 'headers: a line of one''s own, and nothing of it in the answer');
SELECT is(request('{}', mb16('x')), '-/-/-/-', 'claims: noise');
SELECT is(request('{}', mb16('{"org_id":')), '-/-/-/-', 'claims: nested objects');
SELECT is(request('{}', '{"org_id":{"org_id":"acme"},"org_role":"viewer"}'), '-/-/-/-', 'claims: an object for a text');
SELECT is(request('{}', json_build_object('org_id', E'acme\nglobex', 'org_role', 'viewer')::text), E'acme\nglobex/viewer/-/-', 'claims: an odd organization is its own');
SELECT is(request('{}', '{"org_id":"acme","org_role":"viewer","sub":"","amt_keys.key_id":"x","key_id":"x"}'), 'acme/viewer/-/-', 'claims: no key''s id among them');
SELECT is(request('{}', '{"org_id":"acme","org_role":"viewer, owner"}'), '-/-/-/-', 'claims: two roles are none');

-- 3. Settings that lead nowhere
SET amt_keys.org_claim = 'a.a.a.a.a.a.a.a';
SELECT is(request('{}', '{"a":{"a":{"a":{"a":{"a":{"a":{"a":{"a":"acme"}}}}}}},"org_role":"viewer"}'), 'acme/viewer/-/-', 'a claim eight levels down');
SET amt_keys.org_claim = '..';
SELECT is(request('{}', '{"":{"":{"":"acme"}},"org_role":"viewer"}'), 'acme/viewer/-/-', 'a claim whose names are empty');
SET amt_keys.org_claim = '';
SELECT is(request('{}', '{"org_id":"acme","org_role":"viewer"}'), '-/-/-/-', 'a claim without a name');
SELECT set_config('amt_keys.org_claim', repeat('a.', 100000), false) IS NOT NULL AS set \gset
SELECT is(request('{}', '{"a":{"a":"acme"},"org_role":"viewer"}'), '-/-/-/-', 'a claim a hundred thousand levels down');
RESET amt_keys.org_claim;
SELECT lives_ok($$ SELECT set_config('amt_keys.roles', (SELECT string_agg('r' || i, ',') FROM generate_series(1, 2000) AS i), false) $$, 'two thousand roles');
SET LOCAL amt_keys.org_id = 'acme';
SET LOCAL amt_keys.role = 'r1';
SELECT throws_ok($$ SELECT amt_has_role('viewer') $$, '22023', NULL, 'of which viewer is none');
RESET amt_keys.role;
RESET amt_keys.org_id;
RESET amt_keys.roles;
-- a role's name with the key's role in it: whatever it comes to, only a role that the session may take on
SET amt_keys.db_role = 'amt_test_{role}';
SET SESSION AUTHORIZATION amt_test_gateway;
SELECT is(request(json_build_object('x-api-key', :'token')::text) || ' ' || current_user, 'acme/viewer/-/' || :'key_id' || ' amt_test_viewer', 'db_role, as it should be');
RESET SESSION AUTHORIZATION;
SET client_min_messages = warning; -- the server says that it cuts a long name off
SET amt_keys.db_role = '{role}{role}{role}{role}{role}{role}{role}{role}{role}{role}{role}{role}{role}{role}';
SET SESSION AUTHORIZATION amt_test_gateway;
SELECT matches(request(json_build_object('x-api-key', :'token')::text), '^22023 ', 'db_role, a name that is too long');
RESET SESSION AUTHORIZATION;
SELECT set_config('amt_keys.db_role', current_user::text, false) AS db_role \gset
SET SESSION AUTHORIZATION amt_test_gateway;
SELECT matches(request(json_build_object('x-api-key', :'token')::text), '^42501 ', 'db_role, a superuser');
RESET SESSION AUTHORIZATION;
SET amt_keys.db_role = '{role}';
INSERT INTO amt_key (key_id, org_id, name, role, scrypt_hash, created_at)
	SELECT 'x', 'acme', 'x', r, '$scrypt$ln=4,r=8,p=1$MDEyMzQ1Njc4OWFiY2RlZg$4Z60JOvkyYBPBM4bVtRQfK+3gSDiIvgitxsuRN98NjU', now() FROM (VALUES ('none')) AS v (r);
SET SESSION AUTHORIZATION amt_test_gateway;
SELECT matches(request('{"x-api-key":"amt_x_0123456789abcdef"}'), '^22023 ', 'db_role, a key whose role is called none');
RESET SESSION AUTHORIZATION;
DELETE FROM amt_key WHERE key_id = 'x';
INSERT INTO amt_key (key_id, org_id, name, role, scrypt_hash, created_at)
	SELECT 'x', 'acme', 'x', current_user, '$scrypt$ln=4,r=8,p=1$MDEyMzQ1Njc4OWFiY2RlZg$4Z60JOvkyYBPBM4bVtRQfK+3gSDiIvgitxsuRN98NjU', now();
SET SESSION AUTHORIZATION amt_test_gateway;
SELECT matches(request('{"x-api-key":"amt_x_0123456789abcdef"}'), '^42501 ', 'db_role, a key whose role is called as a superuser is');
RESET SESSION AUTHORIZATION;

SELECT * FROM finish();
ROLLBACK;
