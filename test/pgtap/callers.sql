-- What each function and table answers each kind of caller: nobody, the members
-- of an organization, one of its keys, a trusted gateway, a superuser.  A
-- function without a line here fails.
BEGIN;
CREATE SCHEMA tap;
CREATE EXTENSION pgtap SCHEMA tap;
CREATE EXTENSION amt_keys;
SET search_path = public, tap;
SET amt_keys.scrypt_ln = 1;

CREATE ROLE amt_test_web;
CREATE ROLE amt_test_app;
CREATE ROLE amt_test_gateway;
GRANT EXECUTE ON FUNCTION amt_verify TO amt_test_app;
GRANT SET ON PARAMETER amt_keys.org_id, amt_keys.role, amt_keys.actor TO amt_test_gateway;
GRANT USAGE ON SCHEMA tap TO PUBLIC;

-- Three keys, of two organizations.  The hash is that of the secret
-- 0123456789abcdef, made by another implementation.
INSERT INTO amt_key (key_id, org_id, name, role, scrypt_hash, created_at, created_by)
	SELECT k, o, k, 'editor', '$scrypt$ln=4,r=8,p=1$MDEyMzQ1Njc4OWFiY2RlZg$4Z60JOvkyYBPBM4bVtRQfK+3gSDiIvgitxsuRN98NjU', now(), a
	FROM (VALUES ('own', 'acme', 'eddy'), ('other', 'acme', 'ann'), ('foreign', 'globex', 'gus')) AS v (k, o, a);
INSERT INTO amt_key_usage VALUES ('other', 7, now()), ('foreign', 9, now());

CREATE TABLE tap.caller (n serial, caller text, db_role text, org_id text, role text, scopes text, actor text, key_id text);
INSERT INTO tap.caller (caller, db_role, org_id, role, scopes, actor, key_id) VALUES
	('nobody', 'amt_test_web', '', '', '', '', ''),
	('viewer', 'amt_test_web', 'acme', 'viewer', '', 'vic', ''),
	('editor', 'amt_test_web', 'acme', 'editor', 'read', 'eddy', ''),
	('admin', 'amt_test_web', 'acme', 'admin', '', 'ada', ''),
	('owner', 'amt_test_web', 'acme', 'owner', '', 'olga', ''),
	('key', 'amt_test_app', 'acme', 'editor', 'read', '', 'own'),
	('gateway', 'amt_test_gateway', '', '', '', '', ''),
	('superuser', 'none', '', '', '', '', '');

-- The caller's answer, - for null, or the SQLSTATE; whatever it did is undone.
CREATE FUNCTION tap.ask(c tap.caller, statement text) RETURNS text LANGUAGE plpgsql AS $$
DECLARE
	answer text;
BEGIN
	PERFORM set_config('amt_keys.org_id', c.org_id, true), set_config('amt_keys.role', c.role, true),
	        set_config('amt_keys.scopes', c.scopes, true), set_config('amt_keys.actor', c.actor, true), set_config('amt_keys.key_id', c.key_id, true),
	        set_config('role', c.db_role, true);
	EXECUTE statement INTO answer;
	RAISE SQLSTATE 'UNDO0' USING MESSAGE = coalesce(answer, '-');
EXCEPTION
	WHEN SQLSTATE 'UNDO0' THEN RETURN SQLERRM;
	WHEN OTHERS THEN RETURN SQLSTATE;
END
$$;

CREATE TABLE tap.expected (n serial, function text, statement text,
	nobody text, viewer text, editor text, admin text, owner text, key text, gateway text, superuser text);
INSERT INTO tap.expected (function, statement, nobody, viewer, editor, admin, owner, key, gateway, superuser) VALUES
	('amt_org_id', 'SELECT amt_org_id()', '-', 'acme', 'acme', 'acme', 'acme', 'acme', '-', '-'),
	('amt_is_own', 'SELECT amt_is_own(''acme'')', 'false', 'true', 'true', 'true', 'true', 'true', 'false', 'false'),
	('amt_role', 'SELECT amt_role()', '-', 'viewer', 'editor', 'admin', 'owner', 'editor', '-', '-'),
	('amt_actor', 'SELECT amt_actor()', '-', 'vic', 'eddy', 'ada', 'olga', '-', '-', '-'),
	('amt_key_id', 'SELECT amt_key_id()', '-', '-', '-', '-', '-', 'own', '-', '-'),
	('amt_has_role', 'SELECT amt_has_role(''viewer'')', 'false', 'true', 'true', 'true', 'true', 'true', 'false', 'false'),
	('amt_has_role', 'SELECT amt_has_role(''admin'')', 'false', 'false', 'false', 'true', 'true', 'false', 'false', 'false'),
	('amt_require_role', 'SELECT amt_require_role(''editor'')', 'PT403', 'PT403', '', '', '', '', 'PT403', 'PT403'),
	('amt_scopes', 'SELECT amt_scopes()', '-', '-', '{read}', '-', '-', '{read}', '-', '-'),
	('amt_has_scope', 'SELECT amt_has_scope(''read'')', 'false', 'true', 'true', 'true', 'true', 'true', 'false', 'false'),
	('amt_has_scope', 'SELECT amt_has_scope(''write'')', 'false', 'true', 'false', 'true', 'true', 'false', 'false', 'false'),
	('amt_require_scope', 'SELECT amt_require_scope(''write'')', 'PT403', '', 'PT403', '', '', 'PT403', 'PT403', 'PT403'),
	('amt_whoami', 'SELECT concat_ws(''/'', org_id, role, scopes, actor, key_id, key_name) FROM amt_whoami()',
		'', 'acme/viewer/vic', 'acme/editor/{read}/eddy', 'acme/admin/ada', 'acme/owner/olga', 'acme/editor/{read}/own/own', '', ''),
	('amt_create_key', 'SELECT concat_ws(''/'', org_id, role, scopes) FROM amt_create_key(''k'')',
		'42501', 'acme/viewer', 'acme/editor/{read}', 'acme/admin', 'acme/owner', '42501', '22023', '22023'),
	('amt_create_key', 'SELECT concat_ws(''/'', org_id, role) FROM amt_create_key(''k'', role => ''viewer'')',
		'42501', 'acme/viewer', 'acme/viewer', 'acme/viewer', 'acme/viewer', '42501', '22023', '22023'),
	('amt_create_key', 'SELECT concat_ws(''/'', org_id, role) FROM amt_create_key(''k'', role => ''owner'')',
		'42501', '42501', '42501', '42501', 'acme/owner', '42501', '22023', '22023'),
	('amt_create_key', 'SELECT concat_ws(''/'', org_id, role) FROM amt_create_key(''k'', ''globex'', ''viewer'')',
		'42501', '42501', '42501', '42501', '42501', '42501', 'globex/viewer', 'globex/viewer'),
	('amt_create_key', 'SELECT concat_ws(''/'', org_id, scopes) FROM amt_create_key(''k'', ''acme'', ''viewer'', ''{write}'')',
		'42501', 'acme/{write}', '42501', 'acme/{write}', 'acme/{write}', '42501', 'acme/{write}', 'acme/{write}'),
	('amt_revoke', 'SELECT amt_revoke(''own'')', 'false', '42501', 'true', 'true', 'true', 'true', 'true', 'true'),
	('amt_revoke', 'SELECT amt_revoke(''other'')', 'false', '42501', '42501', 'true', 'true', '42501', 'true', 'true'),
	('amt_revoke', 'SELECT amt_revoke(''foreign'')', 'false', 'false', 'false', 'false', 'false', 'false', 'true', 'true'),
	('amt_revoke', 'SELECT amt_revoke(''missing'')', 'false', 'false', 'false', 'false', 'false', 'false', 'false', 'false'),
	('amt_revoke', 'SELECT amt_revoke(''amt_foreign_0123456789abcdef'')', 'true', 'true', 'true', 'true', 'true', 'true', 'true', 'true'),
	('amt_revoke', 'SELECT amt_revoke(''amt_foreign_0123456789abcdeX'')', 'false', 'false', 'false', 'false', 'false', 'false', 'false', 'false'),
	('amt_rotate_key', 'SELECT concat_ws(''/'', name, org_id, role, scopes, replaces) FROM amt_rotate_key(''own'')',
		'P0002', '42501', '42501', 'own/acme/editor/own', 'own/acme/editor/own', '42501', 'own/acme/editor/own', 'own/acme/editor/own'),
	('amt_rotate_key', 'SELECT name FROM amt_rotate_key(''other'', ''1 day'')', 'P0002', '42501', '42501', 'other', 'other', '42501', 'other', 'other'),
	('amt_rotate_key', 'SELECT name FROM amt_rotate_key(''foreign'')', 'P0002', 'P0002', 'P0002', 'P0002', 'P0002', 'P0002', 'foreign', 'foreign'),
	('amt_rotate_key', 'SELECT name FROM amt_rotate_key(''amt_foreign_0123456789abcdef'')', 'P0002', 'P0002', 'P0002', 'P0002', 'P0002', 'P0002', 'foreign', 'foreign'),
	('amt_rotate_key', 'SELECT name FROM amt_rotate_key(''missing'')', 'P0002', 'P0002', 'P0002', 'P0002', 'P0002', 'P0002', 'P0002', 'P0002'),
	('amt_import_key', 'SELECT amt_import_key(sha256(''x''), ''k'', ''globex'', ''viewer'') IS NOT NULL', '42501', '42501', '42501', '42501', '42501', '42501', 'true', 'true'),
	('amt_may_manage', 'SELECT string_agg(k, '', '' ORDER BY k) FROM (VALUES (''own'', ''acme'', ''eddy''), (''other'', ''acme'', ''ann''), (''foreign'', ''globex'', ''gus'')) AS v (k, o, a) WHERE amt_may_manage(k, o, a)',
		'-', '-', 'own', 'other, own', 'other, own', '-', 'foreign, other, own', 'foreign, other, own'),
	('amt_verify', 'SELECT org_id FROM amt_verify(''amt_foreign_0123456789abcdef'')', '42501', '42501', '42501', '42501', '42501', 'globex', '42501', 'globex'),
	('amt_verify', 'SELECT org_id FROM amt_verify(''amt_foreign_0123456789abcdeX'', true)', '42501', '42501', '42501', '42501', '42501', '-', '42501', '-'),
	('amt_check_token', 'SELECT amt_check_token(''amt_000000000000_00000000000000000000000000000000000000000000OJlLF'')', 'true', 'true', 'true', 'true', 'true', 'true', 'true', 'true'),
	('amt_find_tokens', 'SELECT amt_find_tokens(''amt_000000000000_00000000000000000000000000000000000000000000OJlLF'')',
		'amt_000000000000...', 'amt_000000000000...', 'amt_000000000000...', 'amt_000000000000...', 'amt_000000000000...', 'amt_000000000000...', 'amt_000000000000...', 'amt_000000000000...'),
	('amt_usage', 'SELECT coalesce(calls::text, ''none'') FROM amt_usage(''other'')', 'none', '7', '7', '7', '7', '7', 'none', '7'),
	-- 9 are stored.  The verifications above were undone, but they count.
	('amt_usage', 'SELECT coalesce((calls >= 9)::text, ''none'') FROM amt_usage(''foreign'')', 'none', 'none', 'none', 'none', 'none', 'none', 'none', 'true'),
	('amt_usage', 'SELECT coalesce(calls::text, ''none'') FROM amt_usage(''missing'')', 'none', 'none', 'none', 'none', 'none', 'none', 'none', 'none'),
	('amt_flush_usage', 'SELECT amt_flush_usage() >= 0', '42501', '42501', '42501', '42501', '42501', '42501', '42501', 'true'),
	('amt_cache_clear', 'SELECT amt_cache_clear()', '42501', '42501', '42501', '42501', '42501', '42501', '42501', ''),
	('amt_stat_reset', 'SELECT amt_stat_reset()', '42501', '42501', '42501', '42501', '42501', '42501', '42501', ''),
	('amt_stat_get', 'SELECT count(*) FROM amt_stat_get()', '42501', '42501', '42501', '42501', '42501', '42501', '42501', '1'),
	('amt_key_guard', 'SELECT amt_key_guard()', '42501', '42501', '42501', '42501', '42501', '42501', '42501', '39P01'),
	('amt_key_record', 'SELECT amt_key_record()', '42501', '42501', '42501', '42501', '42501', '42501', '42501', '39P01'),
	('amt_key_no_truncate', 'SELECT amt_key_no_truncate()', '42501', '42501', '42501', '42501', '42501', '42501', '42501', '39P01'),
	('amt_usage_replica', 'SELECT amt_usage_replica()', '42501', '42501', '42501', '42501', '42501', '42501', '42501', '39P01'),
	('amt_keys_delete', 'SELECT amt_keys_delete()', '42501', '42501', '42501', '42501', '42501', '42501', '42501', '39P01'),
	('amt_keys_update', 'SELECT amt_keys_update()', '42501', '42501', '42501', '42501', '42501', '42501', '42501', '39P01'),

	(NULL, 'SELECT string_agg(key_id, '', '' ORDER BY key_id) FROM amt_key', '-', 'other, own', 'other, own', 'other, own', 'other, own', 'other, own', '-', 'foreign, other, own'),
	(NULL, 'SELECT string_agg(key_id, '', '' ORDER BY key_id) FROM amt_keys', '-', 'other, own', 'other, own', 'other, own', 'other, own', 'other, own', '-', 'foreign, other, own'),
	(NULL, 'SELECT sum(calls) >= 7 FROM amt_keys', '-', 'true', 'true', 'true', 'true', 'true', '-', 'true'),
	(NULL, 'SELECT sum(calls) FROM amt_key_usage', '-', '7', '7', '7', '7', '7', '-', '16'),
	(NULL, 'SELECT string_agg(key_id, '', '' ORDER BY key_id) FROM amt_key_event', '-', 'other, own', 'other, own', 'other, own', 'other, own', 'other, own', '-', 'foreign, other, own'),
	(NULL, 'SELECT count(*) FROM amt_stat', '42501', '42501', '42501', '42501', '42501', '42501', '42501', '1'),
	(NULL, 'SELECT count(scrypt_hash) FROM amt_key', '42501', '42501', '42501', '42501', '42501', '42501', '42501', '3'),
	(NULL, 'SELECT count(token_sha256) FROM amt_key', '42501', '42501', '42501', '42501', '42501', '42501', '42501', '0'),
	(NULL, 'INSERT INTO amt_key (key_id, org_id, name, role, scrypt_hash, created_at) SELECT ''new'', org_id, name, role, ''$scrypt$ln=4,r=8,p=1$MDEyMzQ1Njc4OWFiY2RlZg$4Z60JOvkyYBPBM4bVtRQfK+3gSDiIvgitxsuRN98NjU'', now() FROM amt_keys LIMIT 1 RETURNING key_id',
		'42501', '42501', '42501', '42501', '42501', '42501', '42501', 'new'),
	(NULL, 'WITH u AS (UPDATE amt_key SET name = ''n'' RETURNING 1) SELECT count(*) FROM u', '42501', '42501', '42501', '42501', '42501', '42501', '42501', '3'),
	(NULL, 'WITH u AS (UPDATE amt_key SET expires_at = NULL RETURNING 1) SELECT count(*) FROM u', '42501', '42501', '42501', '42501', '42501', '42501', '42501', '3'),
	(NULL, 'WITH u AS (UPDATE amt_key SET role = ''owner'' RETURNING 1) SELECT count(*) FROM u', '42501', '42501', '42501', '42501', '42501', '42501', '42501', '55000'),
	(NULL, 'WITH d AS (DELETE FROM amt_key RETURNING key_id) SELECT string_agg(key_id, '', '' ORDER BY key_id) FROM d',
		'42501', '42501', '42501', '42501', '42501', '42501', '42501', 'foreign, other, own'),
	(NULL, 'WITH d AS (DELETE FROM amt_keys RETURNING key_id) SELECT string_agg(key_id, '', '' ORDER BY key_id) FROM d',
		'-', '-', 'own', 'other, own', 'other, own', 'own', '-', 'foreign, other, own'),
	(NULL, 'WITH u AS (UPDATE amt_keys SET name = ''n'' RETURNING key_id) SELECT string_agg(key_id, '', '' ORDER BY key_id) FROM u',
		'-', '-', 'own', 'other, own', 'other, own', '-', '-', 'foreign, other, own'),
	(NULL, 'WITH u AS (UPDATE amt_keys SET expires_at = now() + interval ''1 day'' RETURNING key_id) SELECT string_agg(key_id, '', '' ORDER BY key_id) FROM u',
		'-', '-', 'own', 'other, own', 'other, own', '-', '-', 'foreign, other, own'),
	(NULL, 'WITH u AS (UPDATE amt_keys SET suspended_at = now() RETURNING key_id) SELECT string_agg(key_id, '', '' ORDER BY key_id) FROM u',
		'-', '-', 'own', 'other, own', 'other, own', '-', '-', 'foreign, other, own'),
	(NULL, 'WITH u AS (UPDATE amt_keys SET role = ''owner'' RETURNING 1) SELECT count(*) FROM u', '42501', '42501', '42501', '42501', '42501', '42501', '42501', '55000'),
	(NULL, 'WITH u AS (UPDATE amt_keys SET org_id = ''globex'' RETURNING 1) SELECT count(*) FROM u', '42501', '42501', '42501', '42501', '42501', '42501', '42501', '55000'),
	(NULL, 'WITH u AS (UPDATE amt_key_usage SET calls = 0 RETURNING 1) SELECT count(*) FROM u', '42501', '42501', '42501', '42501', '42501', '42501', '42501', '2'),
	(NULL, 'WITH d AS (DELETE FROM amt_key_usage RETURNING 1) SELECT count(*) FROM d', '42501', '42501', '42501', '42501', '42501', '42501', '42501', '2'),
	(NULL, 'WITH u AS (UPDATE amt_key_event SET actor = ''x'' RETURNING 1) SELECT count(*) FROM u', '42501', '42501', '42501', '42501', '42501', '42501', '42501', '3'),
	(NULL, 'WITH d AS (DELETE FROM amt_key_event RETURNING 1) SELECT count(*) FROM d', '42501', '42501', '42501', '42501', '42501', '42501', '42501', '3'),
	(NULL, 'SELECT nextval(''amt_key_event_seq'') > 0', '42501', '42501', '42501', '42501', '42501', '42501', '42501', 'true'),
	(NULL, 'SELECT set_config(''amt_keys.org_id'', ''globex'', true)', '42501', '42501', '42501', '42501', '42501', '42501', 'globex', 'globex'),
	(NULL, 'SELECT set_config(''amt_keys.key_id'', ''foreign'', true)', '42501', '42501', '42501', '42501', '42501', '42501', '42501', 'foreign'),
	(NULL, 'SELECT set_config(''amt_keys.scopes'', ''read'', true)', '42501', '42501', '42501', '42501', '42501', '42501', '42501', 'read'),
	(NULL, 'SELECT set_config(''amt_keys.manager_role'', ''viewer'', true)', '42501', '42501', '42501', '42501', '42501', '42501', '42501', 'viewer');

SELECT plan((SELECT count(*)::int FROM tap.caller, tap.expected) + 5);

SELECT is_empty($$
	SELECT p.proname FROM pg_depend AS d JOIN pg_proc AS p ON p.oid = d.objid
	WHERE d.classid = 'pg_proc'::regclass AND d.refclassid = 'pg_extension'::regclass AND d.deptype = 'e'
	  AND d.refobjid = (SELECT oid FROM pg_extension WHERE extname = 'amt_keys')
	  AND p.proname NOT IN (SELECT function FROM tap.expected WHERE function IS NOT NULL)
	  AND p.proname NOT IN ('amt_authenticate', 'amt_policy_support')
$$, 'every function has an expected answer');

SELECT is(tap.ask(c, e.statement), to_jsonb(e) ->> c.caller, c.caller || ' gets the expected answer to ' || e.statement)
FROM tap.expected AS e, tap.caller AS c
ORDER BY e.n, c.n;

-- an identity that only a superuser can put together
SET LOCAL amt_keys.org_id = 'acme';
SET LOCAL amt_keys.key_id = 'foreign';
SELECT is((SELECT key_name FROM amt_whoami()), NULL, 'amt_whoami() does not name a key of another organization');

-- amt_authenticate() comes last, since it decides for the whole transaction.
RESET amt_keys.org_id;
RESET amt_keys.key_id;
SET ROLE amt_test_web;
SELECT lives_ok($$ SELECT amt_authenticate() FROM set_config('request.headers', '{"x-api-key":"amt_foreign_0123456789abcdef"}', true) $$, 'everybody may authenticate by a key');
SELECT is(amt_key_id(), 'foreign', 'the identity is that of the key by which a caller has authenticated');
SELECT throws_ok($$ SELECT amt_authenticate() FROM set_config('request.headers', '{"x-api-key":"amt_foreign_0123456789abcdeX"}', true) $$, 'PT401', NULL, 'a wrong secret does not authenticate');
RESET ROLE;

SELECT * FROM finish();
ROLLBACK;
