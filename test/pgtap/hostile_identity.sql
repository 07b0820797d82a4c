-- The identity by every way that PostgreSQL has to set a setting, within one
-- session; what needs several sessions is in a TAP test.  The attacker is a
-- login role without any privilege beyond PUBLIC's, once without an identity
-- and once with one.
BEGIN;
CREATE SCHEMA tap;
CREATE EXTENSION pgtap SCHEMA tap;
CREATE EXTENSION amt_keys;
SET search_path = public, tap;
SET amt_keys.scrypt_ln = 1;
CREATE ROLE amt_test_evil LOGIN CREATEROLE CREATEDB;
CREATE ROLE amt_test_gateway LOGIN;
GRANT SET ON PARAMETER amt_keys.org_id, amt_keys.role, amt_keys.actor TO amt_test_gateway;
CREATE ROLE amt_test_web;
GRANT amt_test_web TO amt_test_gateway;
CREATE SCHEMA evil AUTHORIZATION amt_test_evil;
GRANT USAGE ON SCHEMA tap TO PUBLIC;
SELECT token AS acme_token, key_id AS acme_key FROM amt_create_key('acme''s', 'acme', 'viewer') \gset
SELECT token AS globex_token FROM amt_create_key('globex''s', 'globex', 'owner') \gset

CREATE VIEW identity AS SELECT concat_ws('/', coalesce(amt_org_id(), '-'), coalesce(amt_role(), '-'), coalesce(amt_actor(), '-'), coalesce(amt_key_id(), '-')) AS identity;
GRANT SELECT ON identity TO PUBLIC;
CREATE FUNCTION tap.plan_of(query text) RETURNS text LANGUAGE plpgsql AS $$
DECLARE
	line text;
	plan text := '';
BEGIN
	FOR line IN EXECUTE 'EXPLAIN ' || query LOOP
		plan := plan || line || ' ';
	END LOOP;
	RETURN plan;
END
$$;
CREATE FUNCTION tap.identity() RETURNS text LANGUAGE sql VOLATILE AS 'SELECT identity FROM public.identity';

SELECT plan(152);

-- 1. Every statement that sets something, on each of the four settings
CREATE TABLE tap.way (n serial, what text, statement text);
INSERT INTO tap.way (what, statement) VALUES
	('SET', 'SET %s = ''globex'''),
	('SET SESSION', 'SET SESSION %s TO ''globex'''),
	('SET LOCAL', 'SET LOCAL %s = ''globex'''),
	('SET FROM CURRENT', 'CREATE FUNCTION evil.f() RETURNS int LANGUAGE sql SET %s FROM CURRENT AS ''SELECT 1'''),
	('SET TO DEFAULT', 'SET %s TO DEFAULT'),
	('RESET', 'RESET %s'),
	('set_config', 'SELECT set_config(''%s'', ''globex'', false)'),
	('set_config in capitals', 'SELECT set_config(upper(''%s''), ''globex'', false)'),
	('local set_config', 'SELECT set_config(''%s'', ''globex'', true)'),
	('pg_settings', 'UPDATE pg_settings SET setting = ''globex'' WHERE name = ''%s'''),
	('a function''s clause', 'CREATE FUNCTION evil.f() RETURNS int LANGUAGE sql SET %s = ''globex'' AS ''SELECT 1'''),
	('a function''s clause, later', 'ALTER FUNCTION evil.g() SET %s = ''globex'''),
	('a procedure''s clause', 'CREATE PROCEDURE evil.p() LANGUAGE sql SET %s = ''globex'' AS ''SELECT 1'''),
	('ALTER ROLE of oneself', 'ALTER ROLE CURRENT_USER SET %s = ''globex'''),
	('ALTER ROLE of another', 'ALTER ROLE amt_test_web SET %s = ''globex'''),
	('ALTER ROLE ALL', 'ALTER ROLE ALL SET %s = ''globex'''),
	('ALTER ROLE IN DATABASE', 'ALTER ROLE CURRENT_USER IN DATABASE postgres SET %s = ''globex'''),
	('ALTER DATABASE', 'ALTER DATABASE postgres SET %s = ''globex'''),
	('GRANT SET', 'GRANT SET ON PARAMETER %s TO CURRENT_USER'),
	('GRANT ALTER SYSTEM', 'GRANT ALTER SYSTEM ON PARAMETER %s TO PUBLIC'),
	('in DO', 'DO $d$ BEGIN PERFORM set_config(''%s'', ''globex'', true); END $d$'),
	('in DO, caught', 'DO $d$ BEGIN BEGIN PERFORM set_config(''%1$s'', ''globex'', true); EXCEPTION WHEN OTHERS THEN NULL; END; IF current_setting(''%1$s'') = ''globex'' THEN RETURN; END IF; RAISE insufficient_privilege; END $d$'),
	('in SECURITY DEFINER of one''s own', 'SELECT evil.definer(''%s'')'),
	('in a trigger', 'INSERT INTO evil.t VALUES (''%s'')');
GRANT SELECT ON tap.way TO PUBLIC;
SET ROLE amt_test_evil;
CREATE FUNCTION evil.g() RETURNS int LANGUAGE sql AS 'SELECT 1';
CREATE FUNCTION evil.definer(name text) RETURNS text LANGUAGE sql SECURITY DEFINER AS 'SELECT set_config(name, ''globex'', false)';
CREATE TABLE evil.t (name text);
CREATE FUNCTION evil.trigger() RETURNS trigger LANGUAGE plpgsql AS 'BEGIN PERFORM set_config(new.name, ''globex'', true); RETURN new; END';
CREATE TRIGGER t BEFORE INSERT ON evil.t FOR EACH ROW EXECUTE FUNCTION evil.trigger();
RESET ROLE;
SET SESSION AUTHORIZATION amt_test_evil;
SELECT throws_ok(format(w.statement, s), '42501', NULL, format('nobody sets an identity by %s, of %s', w.what, s))
FROM unnest(array['amt_keys.org_id', 'amt_keys.key_id']) WITH ORDINALITY AS u (s, i), tap.way AS w
ORDER BY i, n;
SELECT throws_ok(format('SELECT set_config(%L, ''owner'', false)', s), '42501', NULL, 'nobody sets ' || s)
FROM unnest(array['amt_keys.role', 'amt_keys.scopes', 'amt_keys.actor', 'amt_keys.seal', 'amt_keys.roles', 'amt_keys.token_prefixes', 'amt_keys.default_lifetime', 'amt_keys.max_lifetime', 'amt_keys.any_token', 'amt_keys.manager_role', 'amt_keys.header', 'amt_keys.org_claim', 'amt_keys.role_claim',
                  'amt_keys.actor_claim', 'amt_keys.db_role', 'amt_keys.require_authentication', 'amt_keys.redact_logs', 'amt_keys.scrypt_ln', 'amt_keys.scrypt_r', 'amt_keys.scrypt_p']) AS s;
SELECT is(identity(), '-/-/-/-', 'no identity came of any attempt');
RESET SESSION AUTHORIZATION;

-- 2. With an identity: it can be lost, but not changed
SET amt_keys.org_id = 'acme';
SET amt_keys.role = 'viewer';
SET ROLE amt_test_evil;
SELECT throws_ok('SET amt_keys.role = ''owner''', '42501', NULL, 'a viewer does not become an owner');
SELECT throws_ok('SET amt_keys.org_id = ''globex''', '42501', NULL, 'a viewer does not move to another organization');
SELECT throws_ok('SET amt_keys.actor = ''ann''', '42501', NULL, 'a viewer does not become another person');
SELECT is(identity(), 'acme/viewer/-/-', 'a viewer''s identity stays after refused changes');
RESET ROLE;
RESET amt_keys.org_id;
RESET amt_keys.role;

-- 3. After errors: what a subtransaction had is gone with it
SAVEPOINT s;
SELECT count(*) FROM amt_verify(:'globex_token', true) \gset
SELECT identity() AS within \gset
ROLLBACK TO s;
SELECT is(:'within'::text, 'globex/owner/-/' || (SELECT key_id FROM amt_verify(:'globex_token')), 'a key gives its identity within a savepoint');
SELECT is(identity(), '-/-/-/-', 'an identity is gone with its savepoint');
SELECT count(*) FROM amt_verify(:'acme_token', true) \gset
CREATE FUNCTION tap.fail_after(token text) RETURNS text LANGUAGE plpgsql AS $$
BEGIN
	PERFORM amt_verify(token, true);
	RAISE division_by_zero;
EXCEPTION WHEN division_by_zero THEN
	RETURN identity();
END
$$;
SELECT is(fail_after(:'globex_token'), 'acme/viewer/-/' || :'acme_key', 'in an exception''s handler the identity is that of before');
SELECT is(identity(), 'acme/viewer/-/' || :'acme_key', 'behind an exception''s handler the identity is that of before');
DO $$ BEGIN PERFORM amt_verify((SELECT 'amt_x_0123456789abcdef'::text), true); EXCEPTION WHEN OTHERS THEN NULL; END $$;
SELECT is(identity(), '-/-/-/-', 'a bad token in DO leaves no identity');
SELECT count(*) FROM amt_verify(:'acme_token', true) \gset
SAVEPOINT s;
SELECT throws_ok($$ DO $d$ BEGIN PERFORM amt_verify('amt_x_0123456789abcdef', true); RAISE division_by_zero; END $d$ $$, '22012', NULL, 'a block with a bad token fails by its own error');
SELECT is(identity(), 'acme/viewer/-/' || :'acme_key', 'a block that fails after a bad token leaves the identity of before');
RELEASE s;
-- a function's own setting ends with the function, and hides nothing of what is set within
CREATE FUNCTION tap.with_clause(token text) RETURNS text LANGUAGE sql SET amt_keys.org_id = 'initech' AS $$ SELECT identity() $$;
SELECT is(with_clause('x'), 'initech/viewer/-/' || :'acme_key', 'a superuser''s function has the organization of its clause');
SELECT is(identity(), 'acme/viewer/-/' || :'acme_key', 'the organization of a function''s clause ends with the function');
-- or it would bring back one part, and the identity would be a mix
SELECT set_config('tap.token', :'globex_token', true) \gset
DO $$ BEGIN EXECUTE (SELECT string_agg(format('CREATE FUNCTION tap.mix_%1$s() RETURNS bigint LANGUAGE sql SET amt_keys.%1$s = '''' AS ''SELECT count(*) FROM amt_verify(current_setting(''''tap.token''''), true)'';
	CREATE FUNCTION tap.outer_%1$s() RETURNS void LANGUAGE plpgsql SET amt_keys.%1$s = '''' AS ''BEGIN PERFORM amt_verify(current_setting(''''tap.token''''), true); EXCEPTION WHEN division_by_zero THEN NULL; END'';', p), ' ')
	FROM unnest(array['org_id', 'role', 'scopes', 'actor', 'key_id']) AS p); END $$;
SELECT throws_ok(format('SELECT tap.%s_%s()', f, p), '55000', NULL, format('no identity is set in a function whose definition sets the %s (%s)', p, f))
FROM unnest(array['mix', 'outer']) AS f, unnest(array['org_id', 'role', 'scopes', 'actor', 'key_id']) AS p;
SELECT is(identity(), 'acme/viewer/-/' || :'acme_key', 'the identity is that of before');
CREATE FUNCTION tap.verify_with_clause(token text) RETURNS text LANGUAGE sql SET search_path = public, tap AS $$ SELECT amt_verify(token, true); SELECT identity() $$;
SELECT ok(verify_with_clause(:'globex_token') ~ '^globex/owner/', 'a key gives its identity in a function with another clause');
SELECT ok(identity() ~ '^globex/owner/', 'the identity outlives a function with another clause');

-- 4. The same statement, before and after
SELECT count(*) FROM amt_verify(:'acme_token', true) \gset
CREATE TABLE public.note (org_id text, text text);
INSERT INTO note SELECT o, o FROM unnest(array['acme', 'globex']) AS o, generate_series(1, 3);
ALTER TABLE note ENABLE ROW LEVEL SECURITY;
CREATE POLICY p ON note USING (org_id = amt_org_id());
GRANT ALL ON note TO amt_test_web;
GRANT EXECUTE ON FUNCTION amt_verify TO amt_test_web;
SET ROLE amt_test_web;
PREPARE notes AS SELECT coalesce(string_agg(DISTINCT org_id, ','), '-') FROM note;
CREATE FUNCTION pg_temp.notes() RETURNS text LANGUAGE plpgsql AS 'DECLARE a text; BEGIN EXECUTE ''EXECUTE notes'' INTO a; RETURN a; END';
SELECT is(pg_temp.notes(), 'acme', 'a prepared statement answers for the identity');
SELECT count(*) FROM amt_verify(:'globex_token', true) \gset
SELECT is(pg_temp.notes(), 'globex', 'a prepared statement answers for the identity of its execution');
SELECT count(*) FROM amt_verify('x', true) \gset
SELECT is(pg_temp.notes(), '-', 'a prepared statement answers nothing without an identity');
SELECT count(*) FROM amt_verify(:'acme_token', true) \gset
DECLARE c CURSOR FOR SELECT org_id FROM note;
SELECT count(*) FROM amt_verify(:'globex_token', true) \gset
FETCH 1 FROM c \gset fetched_
SELECT is(:'fetched_org_id'::text, 'globex', 'a cursor answers for the identity at the time of FETCH, where the policy asks row by row');
SELECT throws_ok('INSERT INTO note VALUES (''acme'', ''x'')', '42501', NULL, 'nothing can be written for the identity of before');
SELECT lives_ok('INSERT INTO note VALUES (''globex'', ''x'')', 'rows can be written for the new identity');
CLOSE c;
RESET ROLE;

-- 5. Parallel workers have the identity of their leader
SELECT count(*) FROM amt_verify(:'acme_token', true) \gset
INSERT INTO note SELECT CASE i % 3 WHEN 0 THEN 'acme' ELSE 'globex' END, 'x' FROM generate_series(1, 30000) AS i;
ANALYZE note;
SET LOCAL parallel_setup_cost = 0;
SET LOCAL parallel_tuple_cost = 0;
SET LOCAL min_parallel_table_scan_size = 0;
SET LOCAL max_parallel_workers_per_gather = 2;
SET ROLE amt_test_web;
SELECT ok(plan_of('SELECT count(*) FROM note') ~ 'Workers Planned: 2', 'the plan of a count has parallel workers');
SELECT is((SELECT count(*) FROM note), 10003::bigint, 'the policies in parallel workers see the identity');
SELECT ok(plan_of('SELECT count(*) FROM note WHERE org_id = (amt_whoami()).org_id AND (amt_whoami()).key_name = text') ~ 'Workers Planned: 2', 'the plan of a count with amt_whoami() has parallel workers');
SELECT is((SELECT count(*) FROM note WHERE org_id = (amt_whoami()).org_id AND (amt_whoami()).key_name <> text), 10003::bigint, 'amt_whoami() in parallel workers reads the key''s name');
CREATE FUNCTION pg_temp.is_own(token text, text) RETURNS boolean LANGUAGE plpgsql PARALLEL SAFE AS 'BEGIN RETURN (SELECT org_id = $2 FROM public.amt_verify(token)); END';
SELECT throws_ok(format('SELECT count(*) FROM note WHERE text <> ''x'' AND pg_temp.is_own(%L, org_id)', :'acme_token'), '25000', NULL,
                 'amt_verify() in a parallel worker is refused, although a function calls itself parallel safe');
CREATE FUNCTION pg_temp.authenticates(text) RETURNS boolean LANGUAGE plpgsql PARALLEL SAFE AS 'BEGIN PERFORM public.amt_authenticate(); RETURN true; END';
SELECT throws_ok('SELECT count(*) FROM note WHERE pg_temp.authenticates(text)', '25000', NULL,
                 'amt_authenticate() in a parallel query is refused, although a function calls itself parallel safe');
SELECT is((SELECT count(*) FROM note), 10003::bigint, 'the refused call has not sealed the leader alone');
SELECT lives_ok(format('SELECT amt_verify(%L, true)', :'acme_token'), 'the refused call has sealed nothing');
SET LOCAL max_parallel_workers_per_gather = 0;
SELECT is((SELECT count(*) FROM note), 10003::bigint, 'the policies without parallel workers see the same rows');
RESET ROLE;

-- 6. After amt_authenticate(), in the hands of a web user who has SQL run in the
-- request, and goes back to the trusted role that the session belongs to
SELECT count(*) FROM amt_verify('x', true) \gset
CREATE TABLE tap.escape (n serial, what text, statement text);
INSERT INTO tap.escape (what, statement) VALUES
	('SET', 'SET amt_keys.org_id = ''globex'''),
	('SET LOCAL', 'SET LOCAL amt_keys.role = ''owner'''),
	('set_config', 'SELECT set_config(''amt_keys.actor'', ''gus'', false)'),
	('a function''s clause', 'CREATE FUNCTION pg_temp.f() RETURNS int LANGUAGE sql SET amt_keys.org_id = ''globex'' AS ''SELECT 1'''),
	('ALTER ROLE, for later sessions', 'ALTER ROLE CURRENT_USER SET amt_keys.org_id = ''globex'''),
	('the key''s id', 'SELECT set_config(''amt_keys.key_id'', ''x'', true)'),
	('a key of another organization', 'SELECT amt_create_key(''k'', ''globex'', ''owner'')'),
	('a key of a higher role', 'SELECT amt_create_key(''k'', role => ''owner'')');
GRANT SELECT ON tap.escape TO PUBLIC;
SELECT key_id AS globex_key FROM amt_key WHERE org_id = 'globex' \gset
SET SESSION AUTHORIZATION amt_test_gateway;
SELECT set_config('request.headers', '{}', true), set_config('request.jwt.claims', '{"org_id":"acme","org_role":"viewer","sub":"vic"}', true) \gset
SET LOCAL ROLE amt_test_web;
SELECT amt_authenticate() \gset
SELECT is(identity(), 'acme/viewer/vic/-', 'claims authenticate a person');
SELECT set_config('request.jwt.claims', '{"org_id":"globex","org_role":"owner","sub":"gus"}', true) \gset
SELECT lives_ok('SELECT amt_authenticate()', 'a second call with other claims succeeds');
SELECT is(identity(), 'acme/viewer/vic/-', 'a second call with other claims changes nothing');
SELECT throws_ok(statement, '42501', NULL, 'the web user cannot escape by: ' || what) FROM tap.escape ORDER BY n;
SET LOCAL ROLE NONE;
SELECT is(current_user::text, 'amt_test_gateway', 'the session is back in the trusted role');
SELECT throws_ok(statement, '42501', NULL, 'the trusted role cannot escape after amt_authenticate() by: ' || what) FROM tap.escape ORDER BY n;
SELECT lives_ok('SELECT amt_authenticate()', 'a call as the trusted role succeeds');
SELECT is(identity(), 'acme/viewer/vic/-', 'a call as the trusted role changes nothing');
SELECT is(amt_revoke(:'globex_key'), false, 'another organization''s key cannot be revoked');
SELECT throws_ok(format('SELECT amt_revoke(%L)', :'acme_key'), '42501', NULL, 'a viewer cannot revoke a key of the own organization');
SELECT is((SELECT string_agg(DISTINCT org_id, ',') FROM amt_keys), 'acme', 'the list is that of the web user');
SAVEPOINT r;
RESET amt_keys.actor;
SELECT is(identity(), '-/-/-/-', 'RESET of one part leaves nothing of the others');
SELECT throws_ok('SELECT amt_create_key(''k'')', '42501', NULL, 'no key can be created after RESET of one part');
SELECT is((SELECT count(*) FROM amt_keys), 0::bigint, 'no key is listed after RESET of one part');
SET amt_keys.role TO DEFAULT;
SELECT is(identity(), '-/-/-/-', 'SET TO DEFAULT of one part brings nothing back');
SELECT lives_ok('SELECT amt_authenticate()', 'a call after RESET of one part succeeds');
SELECT is(identity(), '-/-/-/-', 'a call after RESET of one part brings no identity back');
ROLLBACK TO r;
SELECT is(identity(), 'acme/viewer/vic/-', 'a savepoint brings all parts of the identity back');
SAVEPOINT s;
SELECT throws_ok($$ SELECT amt_authenticate() FROM set_config('request.headers', '{"x-api-key":"amt_x_0123456789abcdef"}', true) $$, 'PT401', NULL, 'a bad key is refused after claims');
SELECT set_config('request.headers', '{}', true) \gset
SELECT lives_ok('SELECT amt_authenticate()', 'a call with claims after a bad key succeeds');
SELECT is(identity(), 'acme/viewer/vic/-', 'a call with claims after a bad key changes nothing');
ROLLBACK TO s;
SELECT throws_ok('SET LOCAL amt_keys.org_id = ''globex''', '42501', NULL, 'the end of a savepoint breaks no seal');
SELECT set_config('request.headers', json_build_object('x-api-key', :'globex_token')::text, true) \gset
SAVEPOINT k;
SELECT throws_ok('SELECT amt_authenticate()', 'PT401', NULL, 'a key beside a person''s JWT is refused without a database role for keys');
ROLLBACK TO k;
SELECT set_config('request.jwt.claims', '{"role":"anon"}', true) \gset
SELECT lives_ok('SELECT amt_authenticate()', 'a good key is accepted after claims');
SELECT ok(identity() ~ '^globex/owner/-/', 'a good key after claims gives its own identity');
RESET ALL;
SET search_path = public, tap;
SELECT is(identity(), '-/-/-/-', 'RESET ALL loses the identity');
SELECT set_config('request.headers', '{}', true), set_config('request.jwt.claims', '{"org_id":"globex","org_role":"owner","sub":"gus"}', true) \gset
SELECT lives_ok('SELECT amt_authenticate()', 'a call with claims after RESET ALL succeeds');
SELECT is(identity(), '-/-/-/-', 'a call with claims after RESET ALL brings no identity back');

RESET SESSION AUTHORIZATION;
SELECT * FROM finish();
ROLLBACK;
