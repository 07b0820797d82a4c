-- Values that are hostile by their size or their contents: every function gets
-- texts of 16 megabytes, and times and lists at their limits.  Each is answered
-- within half a minute, on the slowest of machines.
BEGIN;
CREATE SCHEMA tap;
CREATE EXTENSION pgtap SCHEMA tap;
CREATE EXTENSION amt_keys;
SET search_path = public, tap;
SET amt_keys.scrypt_ln = 1;
SET statement_timeout = '30s';
CREATE ROLE amt_test_web;
GRANT USAGE ON SCHEMA tap TO PUBLIC;
SELECT token, key_id FROM amt_create_key('a key', 'acme', 'viewer') \gset
CREATE FUNCTION tap.mb16(what text) RETURNS text LANGUAGE sql AS $$ SELECT repeat(what, 16777216 / octet_length(what)) $$;
SELECT * FROM no_plan();

-- 1. 16 megabytes of it
SELECT is_empty(format('SELECT * FROM amt_verify(mb16(%L))', w), 'amt_verify() finds no key in 16 MB of ' || w)
FROM unnest(array['x', ' ', 'amt_', 'Bearer ', '_', 'amt_x_', E'\x01']) AS w;
SELECT is_empty(format('SELECT * FROM amt_verify(%L || mb16(''0''), true)', :'token'), 'amt_verify() accepts no token with 16 MB behind it');
SELECT is_empty(format('SELECT * FROM amt_verify(''amt_'' || mb16(''0'') || %L)', substr(:'token', 5)), 'amt_verify() accepts no token with 16 MB in it');
SELECT is((SELECT name FROM amt_verify('Bearer' || mb16(' ') || :'token')), 'a key', 'amt_verify() accepts a token with 16 MB of spaces behind Bearer');
SELECT is(amt_check_token(mb16('amt_')), false, 'amt_check_token() refuses 16 MB of prefixes');
SELECT is((SELECT count(*) FROM amt_find_tokens(mb16(w))), 0::bigint, 'amt_find_tokens() finds no token in 16 MB of ' || w) FROM unnest(array['x', 'amt_', '_', 'amt_000000000000_']) AS w;
SELECT is((SELECT count(*) FROM amt_find_tokens(mb16(left(:'token', 65) || '_') || :'token')), 1::bigint, 'amt_find_tokens() finds one token behind 16 MB of texts that are almost one');
SELECT is((SELECT count(*) FROM (SELECT amt_find_tokens(mb16(:'token' || ' ')) LIMIT 1000) AS t), 1000::bigint, 'amt_find_tokens() returns as many tokens of 16 MB as a caller reads');
SELECT is(amt_revoke(mb16('x')), false, 'amt_revoke() finds no key by 16 MB');
SELECT is(amt_revoke('amt_' || mb16('x') || '...'), false, 'amt_revoke() finds no key by a prefix of 16 MB');
SELECT is((SELECT calls FROM amt_usage(mb16('x'))), NULL::bigint, 'amt_usage() has no calls for an id of 16 MB');
SET ROLE amt_test_web;
SELECT is(amt_is_own(mb16('x')), false, 'amt_is_own() is false for a text of 16 MB');
SELECT is(amt_may_manage(mb16('x'), mb16('y'), mb16('z')), false, 'amt_may_manage() is false for texts of 16 MB');
RESET ROLE;
SELECT throws_ok('SELECT amt_create_key(mb16(''x''), ''acme'', ''viewer'')', '22023', NULL, 'amt_create_key() refuses a name of 16 MB');
SELECT throws_ok('SELECT amt_create_key(mb16(E''\n''), ''acme'', ''viewer'')', '22023', NULL, 'amt_create_key() refuses a name of control characters');
SELECT throws_ok('SELECT amt_create_key(mb16('' ''), ''acme'', ''viewer'')', '22023', NULL, 'amt_create_key() refuses a name of blanks');
SELECT throws_ok('SELECT amt_create_key(''k'', ''acme'', repeat(''x'', 1048576))', '22023', NULL, 'amt_create_key() refuses a role of 1 MB');
SELECT is(amt_has_role(repeat('x', 1048576)), false, 'amt_has_role() is false for a role of 1 MB without an identity');
SELECT throws_ok('SELECT amt_require_role(repeat(''x'', 1048576))', 'PT403', NULL, 'amt_require_role() refuses a role of 1 MB without an identity');
SELECT throws_ok('SELECT amt_create_key(''k'', mb16(''x''), ''viewer'')', '22023', NULL, 'amt_create_key() refuses an organization of 16 MB');
SELECT throws_ok('SELECT amt_create_key(''k'', ''acme'', ''viewer'', array_fill(''x''::text, array[1000000]))', '22023', NULL, 'amt_create_key() refuses a million scopes');
SELECT throws_ok('SELECT amt_create_key(''k'', ''acme'', ''viewer'', array[mb16(''x'')])', '22023', NULL, 'amt_create_key() refuses a scope of 16 MB');
SELECT throws_ok('SELECT amt_create_key(''k'', ''acme'', ''viewer'', ''{{a,b},{c,d}}'')', '22023', NULL, 'amt_create_key() refuses scopes of two dimensions');
SELECT throws_ok('SELECT amt_create_key(''k'', ''acme'', ''viewer'', ''{a,NULL}'')', '22023', NULL, 'amt_create_key() refuses a scope that is null');
SELECT is((SELECT scopes FROM amt_create_key('k', 'acme', 'viewer', '[5:6]={a,b}')), '{a,b}', 'amt_create_key() accepts scopes with other bounds');
SELECT throws_ok('SELECT amt_import_key(mb16(''x'')::bytea, ''k'', ''acme'', ''viewer'')', '22023', NULL, 'amt_import_key() refuses a digest of 16 MB');
SELECT throws_ok('SELECT amt_import_key(sha256(''x''), ''k'', ''acme'', ''viewer'', mb16(''x''))', '22023', NULL, 'amt_import_key() refuses a displayed prefix of 16 MB');
SELECT throws_ok('SELECT amt_rotate_key(mb16(''x''))', 'P0002', NULL, 'amt_rotate_key() finds no key by 16 MB');
SELECT throws_ok(format('SELECT amt_rotate_key(%L, %L)', :'key_id', i), e, NULL, 'amt_rotate_key() refuses a grace of ' || i)
FROM (VALUES ('-1 second', '22023'), ('178000000 years', '22008'), ('-178000000 years', '22008')) AS v (i, e);
SELECT throws_ok(format('SELECT amt_rotate_key(%L, %L, %L)', :'key_id', '0', t), '22023', NULL, 'amt_rotate_key() refuses the expiry ' || t)
FROM unnest(array['-infinity', '4714-11-24 00:00:00+00 BC', '2020-01-01']) AS t;
SELECT lives_ok(format('SELECT amt_rotate_key(%L, %L, %L)', :'key_id', '100000 years', t), 'amt_rotate_key() accepts the expiry ' || t)
FROM unnest(array['infinity', '294276-12-31 23:59:59+00']) AS t;
SELECT throws_ok(format('SELECT amt_create_key(''k'', ''acme'', ''viewer'', expires_at => %L)', t), '22023', NULL, 'amt_create_key() refuses the expiry ' || t)
FROM unnest(array['-infinity', '4714-11-24 00:00:00+00 BC']) AS t;
SELECT throws_ok('UPDATE amt_keys SET name = mb16(''x'')', '22023', NULL, 'the view refuses a name of 16 MB');
SELECT lives_ok(format('UPDATE amt_keys SET suspended_at = %L, expires_at = %L WHERE key_id = %L', t, 'infinity', :'key_id'), 'the view accepts a suspension at ' || t)
FROM unnest(array['-infinity', 'infinity', '4714-11-24 00:00:00+00 BC']) AS t;
SELECT is_empty(format('SELECT FROM amt_verify(%L)', :'token'), 'a key that is suspended at any time does not verify');
UPDATE amt_keys SET suspended_at = NULL;
SELECT is(amt_has_scope(mb16('x')), false, 'amt_has_scope() is false for a scope of 16 MB without an identity');
SELECT throws_ok('SELECT amt_require_scope(mb16(''x''))', 'PT403', NULL, 'amt_require_scope() refuses a scope of 16 MB without an identity');
SELECT throws_ok('INSERT INTO amt_key (key_id, org_id, name, role, scrypt_hash, created_at) SELECT ''x'', org_id, name, role, mb16(''$''), now() FROM amt_key LIMIT 1', '23514', NULL, 'the table refuses an imported hash of 16 MB');
SELECT throws_ok('INSERT INTO amt_key (key_id, org_id, name, role, scrypt_hash, created_at) SELECT mb16(''x''), org_id, name, role, scrypt_hash, now() FROM amt_key LIMIT 1', '23514', NULL, 'the table refuses an imported id of 16 MB');
SELECT throws_ok('INSERT INTO amt_key (key_id, org_id, name, role, scrypt_hash, created_at) SELECT ''x'', org_id, mb16(''x''), role, scrypt_hash, now() FROM amt_key LIMIT 1', '23514', NULL, 'the table refuses an imported name of 16 MB');

SELECT * FROM finish();
ROLLBACK;
