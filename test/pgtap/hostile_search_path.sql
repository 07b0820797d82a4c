-- Hostile objects: functions, operators, casts and types of the caller's own,
-- earlier in the search_path than the server's, and temporary tables named as
-- ours.  None of them is ever run on behalf of the extension, least of all with
-- the rights of the tables' owner.
--
-- pgTAP itself would run into the traps, so it is used with a path of its own,
-- and what happens under a hostile path is fetched into a variable first.
BEGIN;
CREATE SCHEMA tap;
CREATE EXTENSION pgtap SCHEMA tap;
CREATE SCHEMA auth;
CREATE ROLE amt_test_web;
CREATE ROLE amt_test_evil;
CREATE SCHEMA evil AUTHORIZATION amt_test_evil;
GRANT USAGE ON SCHEMA tap, auth, evil TO PUBLIC;
GRANT CREATE ON SCHEMA public TO amt_test_evil;

-- A trap that is run takes a number, which is not undone with the statement.
CREATE SEQUENCE tap.trapped;
GRANT ALL ON SEQUENCE tap.trapped TO PUBLIC;

-- Traps: functions and operators that a query of ours could mean, domains and a
-- type with an implicit cast, in a schema of the attacker's and in public.
CREATE PROCEDURE tap.set_traps(schema text) LANGUAGE plpgsql AS $$
DECLARE
	f record;
	o record;
BEGIN
	FOR f IN SELECT * FROM (VALUES
		('clock_timestamp', '', 'timestamptz'), ('now', '', 'timestamptz'), ('set_config', 'text, text, boolean', 'text'),
		('unnest', 'text[]', 'SETOF text'), ('unnest', 'int8[]', 'SETOF int8'), ('unnest', 'timestamptz[]', 'SETOF timestamptz'),
		('nextval', 'regclass', 'int8'), ('textcat', 'text, text', 'text'), ('texteq', 'text, text', 'boolean'),
		('greatest', 'timestamptz, timestamptz', 'timestamptz'), ('session_user', '', 'name'), ('current_user', '', 'name'),
		('text', 'name', 'text'), ('int8', 'int4', 'int8'), ('format', 'text, text, text, text', 'text'), ('quote_ident', 'text', 'text'),
		('pg_get_userbyid', 'oid', 'name'), ('acldefault', '"char", oid', 'aclitem[]'),
		('pg_extension_config_dump', 'regclass, text', 'void')) AS v (name, args, result)
	LOOP
		EXECUTE format('CREATE FUNCTION %I.%I(%s) RETURNS %s LANGUAGE plpgsql AS $f$ BEGIN PERFORM pg_catalog.nextval(''tap.trapped''); RETURN%s; END $f$',
			schema, f.name, f.args, f.result, CASE WHEN f.result ~ '^(SETOF|void)' THEN '' ELSE ' NULL' END);
	END LOOP;
	FOR o IN SELECT * FROM (VALUES
		('=', 'text', 'text', 'boolean', 'true'), ('=', 'text', 'text[]', 'boolean', 'true'), ('<>', 'text', 'text', 'boolean', 'true'),
		('=', 'oid', 'oid', 'boolean', 'true'), ('=', '"char"', '"char"', 'boolean', 'true'), ('=', 'name', 'text', 'boolean', 'true'),
		('=', 'name', 'name', 'boolean', 'true'), ('<>', 'oid', 'oid', 'boolean', 'true'), ('||', 'text', 'text', 'text', '''evil'''),
		('>', 'timestamptz', 'timestamptz', 'boolean', 'true'), ('<', 'timestamptz', 'timestamptz', 'boolean', 'true'),
		('<', 'text', 'text', 'boolean', 'true'), ('>', 'text', 'text', 'boolean', 'true'),
		('+', 'int8', 'int8', 'int8', '0::int8'), ('-', 'int8', 'int8', 'int8', '0::int8')) AS v (op, l, r, result, value)
	LOOP
		EXECUTE format('CREATE FUNCTION %I.%I(%s, %s) RETURNS %s LANGUAGE plpgsql AS $f$ BEGIN PERFORM pg_catalog.nextval(''tap.trapped''); RETURN %s; END $f$',
			schema, 'op_' || md5(o.op || o.l || o.r), o.l, o.r, o.result, o.value);
		EXECUTE format('CREATE OPERATOR %I.%s (FUNCTION = %I.%I, LEFTARG = %s, RIGHTARG = %s)',
			schema, o.op, schema, 'op_' || md5(o.op || o.l || o.r), o.l, o.r);
	END LOOP;
	EXECUTE format('CREATE DOMAIN %I.text AS pg_catalog.text CHECK (pg_catalog.nextval(''tap.trapped'') IS NULL)', schema);
	EXECUTE format('CREATE DOMAIN %I.timestamptz AS pg_catalog.timestamptz CHECK (pg_catalog.nextval(''tap.trapped'') IS NULL)', schema);
	EXECUTE format('CREATE DOMAIN %I.int8 AS pg_catalog.int8 CHECK (pg_catalog.nextval(''tap.trapped'') IS NULL)', schema);
	EXECUTE format('CREATE DOMAIN %I.regclass AS pg_catalog.regclass CHECK (pg_catalog.nextval(''tap.trapped'') IS NULL)', schema);
	EXECUTE format('CREATE TYPE %I.wrapped AS (t pg_catalog.text)', schema);
	EXECUTE format('CREATE FUNCTION %1$I.unwrap(%1$I.wrapped) RETURNS pg_catalog.text LANGUAGE plpgsql AS $f$ BEGIN PERFORM pg_catalog.nextval(''tap.trapped''); RETURN ($1).t; END $f$', schema);
	EXECUTE format('CREATE CAST (%1$I.wrapped AS pg_catalog.text) WITH FUNCTION %1$I.unwrap(%1$I.wrapped) AS IMPLICIT', schema);
	-- functions named as ours, of other arguments
	EXECUTE format('CREATE FUNCTION %I.amt_has_role(name) RETURNS boolean LANGUAGE sql AS $f$ SELECT pg_catalog.nextval(''tap.trapped'') > 0 $f$', schema);
	EXECUTE format('CREATE FUNCTION %I.amt_may_manage(varchar, varchar, varchar) RETURNS boolean LANGUAGE sql AS $f$ SELECT pg_catalog.nextval(''tap.trapped'') > 0 $f$', schema);
	EXECUTE format('CREATE FUNCTION %I.amt_may_manage(anyelement, anyelement, anyelement) RETURNS boolean LANGUAGE sql AS $f$ SELECT pg_catalog.nextval(''tap.trapped'') > 0 $f$', schema);
	EXECUTE format('CREATE FUNCTION %I.amt_usage(varchar, OUT calls bigint, OUT last_used_at timestamptz) LANGUAGE sql AS $f$ SELECT pg_catalog.nextval(''tap.trapped''), now() $f$', schema);
	EXECUTE format('CREATE FUNCTION %I.amt_org_id(VARIADIC int[]) RETURNS text LANGUAGE sql AS $f$ SELECT pg_catalog.nextval(''tap.trapped'')::text $f$', schema);
END
$$;
SET ROLE amt_test_evil;
CALL tap.set_traps('evil');
CALL tap.set_traps('public');
RESET ROLE;

-- What policies, views, triggers and the like refer to that is the attacker's.
CREATE VIEW tap.caught AS
	WITH own AS (
		SELECT classid, objid FROM pg_depend
		WHERE refclassid = 'pg_extension'::regclass AND refobjid = (SELECT oid FROM pg_extension WHERE extname = 'amt_keys') AND deptype = 'e'
	), part AS (
		TABLE own
		UNION SELECT 'pg_policy'::regclass, oid FROM pg_policy WHERE polrelid IN (SELECT objid FROM own)
		UNION SELECT 'pg_rewrite'::regclass, oid FROM pg_rewrite WHERE ev_class IN (SELECT objid FROM own)
		UNION SELECT 'pg_constraint'::regclass, oid FROM pg_constraint WHERE conrelid IN (SELECT objid FROM own)
		UNION SELECT 'pg_trigger'::regclass, oid FROM pg_trigger WHERE tgrelid IN (SELECT objid FROM own)
		UNION SELECT 'pg_class'::regclass, indexrelid FROM pg_index WHERE indrelid IN (SELECT objid FROM own)
	)
	SELECT pg_describe_object(d.classid, d.objid, d.objsubid) AS object, pg_describe_object(d.refclassid, d.refobjid, d.refobjsubid) AS needs
	FROM pg_depend AS d JOIN part USING (classid, objid)
	LEFT JOIN pg_proc AS p ON d.refclassid = 'pg_proc'::regclass AND p.oid = d.refobjid
	LEFT JOIN pg_operator AS o ON d.refclassid = 'pg_operator'::regclass AND o.oid = d.refobjid
	LEFT JOIN pg_type AS t ON d.refclassid = 'pg_type'::regclass AND t.oid = d.refobjid
	WHERE coalesce(p.proowner, o.oprowner, t.typowner) = (SELECT oid FROM pg_roles WHERE rolname = 'amt_test_evil');

SET search_path = tap;
SELECT plan(44);

-- 1. Creating the extension in a schema full of traps, and elsewhere with them in the path
SET search_path = evil, public, pg_catalog;
CREATE EXTENSION amt_keys SCHEMA public;
SET search_path = tap;
SELECT is_empty('TABLE caught', 'in a schema full of traps nothing refers to one');
DROP EXTENSION amt_keys;
SET search_path = evil, public, pg_catalog;
CREATE EXTENSION amt_keys SCHEMA auth;
SET search_path = tap;
SELECT is_empty('TABLE caught', 'in another schema, with traps in the path, nothing refers to one');
SELECT ok(NOT is_called, 'no trap was run while the extension was created') FROM trapped;

-- 2. Every function, table and view, with each path, by a superuser and by a member
SET amt_keys.scrypt_ln = 1;
SET amt_keys.org_id = 'acme';
SET amt_keys.role = 'editor';
SET amt_keys.actor = 'eddy';
GRANT EXECUTE ON FUNCTION auth.amt_verify TO amt_test_web;
CREATE FUNCTION use_everything() RETURNS pg_catalog.text LANGUAGE plpgsql AS $$
DECLARE
	made auth.amt_new_key;
	other auth.amt_new_key;
	seen pg_catalog.text;
	superuser pg_catalog.bool := pg_catalog.current_setting('is_superuser') OPERATOR(pg_catalog.=) 'on';
BEGIN
	made := auth.amt_create_key('a key');
	other := auth.amt_create_key('another', role => 'viewer', expires_at => 'infinity');
	IF EXISTS (SELECT FROM auth.amt_verify(made.token_prefix)) THEN RETURN 'verified wrongly'; END IF;
	IF auth.amt_org_id() OPERATOR(pg_catalog.<>) 'acme' OR NOT auth.amt_has_role('viewer') OR auth.amt_has_role('owner') THEN RETURN 'wrong identity'; END IF;
	PERFORM auth.amt_require_role('viewer'), auth.amt_whoami(), auth.amt_check_token(made.token), auth.amt_find_tokens(made.token),
	        auth.amt_may_manage('a', 'b', 'c'), auth.amt_scopes(), auth.amt_has_scope('a'), auth.amt_require_scope('a'), auth.amt_role(), auth.amt_actor(), auth.amt_key_id(), auth.amt_usage(made.key_id);
	PERFORM auth.amt_rotate_key(other.key_id, '1 day');
	SELECT pg_catalog.string_agg(name, ',' ORDER BY name) INTO seen FROM auth.amt_keys
	WHERE token_prefix OPERATOR(pg_catalog.=) made.token_prefix OR token_prefix OPERATOR(pg_catalog.=) other.token_prefix;
	IF seen OPERATOR(pg_catalog.<>) 'a key,another' THEN RETURN 'wrong list ' OPERATOR(pg_catalog.||) seen; END IF;
	IF (SELECT pg_catalog.count(*) FROM auth.amt_key_event) OPERATOR(pg_catalog.<>) 4 THEN RETURN pg_catalog.format('wrong events %s', (SELECT pg_catalog.string_agg(event, ' ') FROM auth.amt_key_event)); END IF;
	IF NOT EXISTS (SELECT FROM auth.amt_verify(made.token)) THEN RETURN 'not verified'; END IF;
	IF NOT auth.amt_revoke(made.token) THEN RETURN 'not revoked'; END IF;
	IF EXISTS (SELECT FROM auth.amt_verify(made.token)) THEN RETURN 'verified after revocation'; END IF;
	UPDATE auth.amt_keys SET name = 'renamed', suspended_at = pg_catalog.now() WHERE key_id OPERATOR(pg_catalog.=) other.key_id;
	IF NOT FOUND THEN RETURN 'not changed'; END IF;
	DELETE FROM auth.amt_keys WHERE key_id OPERATOR(pg_catalog.=) other.key_id;
	IF NOT FOUND THEN RETURN 'not deleted'; END IF;
	IF superuser THEN
		PERFORM auth.amt_flush_usage(), auth.amt_cache_clear(), auth.amt_stat_get();
	END IF;
	PERFORM auth.amt_verify(other.token, true);
	RAISE SQLSTATE 'UNDO0';
EXCEPTION
	WHEN SQLSTATE 'UNDO0' THEN RETURN 'done';
END
$$;
-- a key with calls, so that the deletion of another's has something to look at
SELECT token AS shared FROM auth.amt_create_key('shared') \gset
INSERT INTO auth.amt_key_usage SELECT key_id, 1, now() FROM auth.amt_key WHERE name = 'shared';
DELETE FROM auth.amt_key_event;
SELECT count(*) FROM auth.amt_verify(:'shared') \gset

SET search_path = evil, pg_catalog;
SELECT tap.use_everything() AS answer \gset
SET search_path = tap;
SELECT is(:'answer'::text, 'done', 'everything works for a superuser with evil before pg_catalog');
SET search_path = evil, public;
SELECT tap.use_everything() AS answer \gset
SET search_path = tap;
SELECT is(:'answer'::text, 'done', 'everything works for a superuser with pg_catalog implied');
SET search_path = public, evil, pg_catalog, auth, pg_temp;
SELECT tap.use_everything() AS answer \gset
SET search_path = tap;
SELECT is(:'answer'::text, 'done', 'everything works for a superuser with public first');
SET search_path = '';
SELECT tap.use_everything() AS answer \gset
SET search_path = tap;
SELECT is(:'answer'::text, 'done', 'everything works for a superuser without a path');
SET ROLE amt_test_web;
SET search_path = evil, pg_catalog;
SELECT tap.use_everything() AS answer \gset
SET search_path = tap;
SELECT is(:'answer'::text, 'done', 'everything works for a member with evil before pg_catalog');
SET search_path = public, evil, pg_catalog, auth, pg_temp;
SELECT tap.use_everything() AS answer \gset
SET search_path = tap;
SELECT is(:'answer'::text, 'done', 'everything works for a member with public first');
SET search_path = '';
SELECT tap.use_everything() AS answer \gset
SET search_path = tap;
SELECT is(:'answer'::text, 'done', 'everything works for a member without a path');
RESET ROLE;
SELECT ok(NOT is_called, 'no trap was run by any function, table or view') FROM trapped;

-- the traps are traps
SET search_path = evil, pg_catalog;
SELECT 'a'::pg_catalog.text = 'b'::pg_catalog.text AS answer \gset
SET search_path = tap;
SELECT ok(:'answer' AND is_called, 'the traps catch an unqualified operator') FROM trapped;
SET search_path = evil, pg_catalog;
SELECT auth.amt_check_token(ROW('x'::pg_catalog.text)::wrapped) AS answer \gset
SET search_path = tap;
SELECT ok(NOT :'answer' AND last_value = 2, 'a cast of the caller''s own is the caller''s own doing') FROM trapped;

-- 3. Temporary tables, a view and a sequence named as ours, with a forged key
-- whose secret is known
SET ROLE amt_test_web;
CREATE TEMP TABLE amt_key (key_id text, token_prefix text, org_id text, name text, role text, scopes text[], scrypt_hash text, token_sha256 bytea, created_at timestamptz, created_by text,
	expires_at timestamptz, suspended_at timestamptz, replaces text);
CREATE TEMP TABLE amt_key_usage (key_id text, calls bigint, last_used_at timestamptz);
CREATE TEMP TABLE amt_key_event (event_id bigint, at timestamptz, event text, key_id text, org_id text, name text, role text, scopes text[], expires_at timestamptz, actor text,
	by_key text, db_user name, calls bigint);
CREATE TEMP VIEW amt_keys AS SELECT 'forged'::text AS name;
CREATE TEMP SEQUENCE amt_key_event_seq;
INSERT INTO amt_key (key_id, org_id, name, role, scrypt_hash, created_at) VALUES ('forged', 'globex', 'forged', 'owner', '$scrypt$ln=4,r=8,p=1$MDEyMzQ1Njc4OWFiY2RlZg$4Z60JOvkyYBPBM4bVtRQfK+3gSDiIvgitxsuRN98NjU', now());
SET search_path = pg_temp, auth, tap;
SELECT is_empty($$ SELECT * FROM amt_verify('amt_forged_0123456789abcdef') $$, 'a forged row in a temporary table is no key');
SELECT is((SELECT count(*) FROM amt_verify(:'shared')), 1::bigint, 'the key in the true table is found');
SELECT is(amt_revoke('forged'), false, 'a forged row in a temporary table cannot be revoked');
SELECT token, key_id FROM amt_create_key('beside temporary tables') \gset
SELECT is((SELECT count(*) FROM amt_verify(:'token')), 1::bigint, 'keys are created in the true table');
SELECT is(amt_revoke(:'key_id'), true, 'keys are deleted from the true table');
SELECT is((SELECT string_agg(event, ',' ORDER BY event_id) FROM auth.amt_key_event WHERE key_id = :'key_id'), 'created,revoked', 'events are written into the true table');
RESET ROLE;
SELECT ok(amt_flush_usage() >= 0, 'amt_flush_usage() succeeds beside temporary tables');
SELECT is((SELECT count(*) FROM pg_temp.amt_key) || ' ' || (SELECT count(*) FROM pg_temp.amt_key_event) || ' ' || (SELECT count(*) FROM pg_temp.amt_key_usage),
          '1 0 0', 'nothing is written into the temporary tables');
DROP TABLE pg_temp.amt_key, pg_temp.amt_key_usage, pg_temp.amt_key_event;
DROP VIEW pg_temp.amt_keys;
DROP SEQUENCE pg_temp.amt_key_event_seq;

-- 4. The trigger functions and the library by the back door
SET search_path = tap, auth;
SET ROLE amt_test_evil;
CREATE TABLE evil.bait (key_id text, token_prefix text, org_id text, name text, role text, scopes text[], scrypt_hash text, token_sha256 bytea, created_at timestamptz, created_by text,
	expires_at timestamptz, suspended_at timestamptz, replaces text);
SELECT throws_ok('SELECT amt_key_record()', '42501', NULL, 'calling a trigger function is refused');
SELECT throws_ok('CREATE TRIGGER t AFTER INSERT ON evil.bait FOR EACH ROW EXECUTE FUNCTION amt_key_record()', '42501', NULL, 'attaching a trigger function to a table of one''s own is refused');
SELECT throws_ok('CREATE TRIGGER t BEFORE INSERT ON evil.bait FOR EACH ROW EXECUTE FUNCTION amt_key_guard()', '42501', NULL, 'attaching the guard to a table of one''s own is refused');
SELECT throws_ok('CREATE TRIGGER t BEFORE TRUNCATE ON evil.bait EXECUTE FUNCTION amt_key_no_truncate()', '42501', NULL, 'attaching the trigger against TRUNCATE to a table of one''s own is refused');
SELECT throws_ok('CREATE TRIGGER t AFTER DELETE ON amt_key FOR EACH ROW EXECUTE FUNCTION suppress_redundant_updates_trigger()', '42501', NULL, 'attaching a trigger to our table is refused');
SELECT throws_ok('CREATE TRIGGER t INSTEAD OF DELETE ON amt_keys FOR EACH ROW EXECUTE FUNCTION suppress_redundant_updates_trigger()', '42501', NULL, 'attaching a trigger to our view is refused');
SELECT throws_ok($$ CREATE FUNCTION evil.verify(text, boolean) RETURNS SETOF record LANGUAGE c AS '$libdir/amt_keys', 'amt_verify' $$, '42501', NULL, 'declaring a C function anew is refused');
SELECT throws_ok($$ LOAD '$libdir/amt_keys' $$, '42501', NULL, 'loading the library by hand is refused');
SELECT throws_ok('CREATE OR REPLACE FUNCTION auth.amt_org_id() RETURNS text LANGUAGE sql AS $$ SELECT ''globex'' $$', '42501', NULL, 'replacing a function is refused');
SELECT throws_ok('ALTER FUNCTION amt_org_id() SET amt_keys.org_id = ''globex''', '42501', NULL, 'changing a function is refused');
SELECT throws_ok('ALTER EXTENSION amt_keys ADD TABLE evil.bait', '42501', NULL, 'making a table a part of the extension is refused');
SELECT throws_ok('ALTER EXTENSION amt_keys DROP FUNCTION amt_verify(text, boolean)', '42501', NULL, 'taking a function out of the extension is refused');
SELECT throws_ok('DROP EXTENSION amt_keys', '42501', NULL, 'dropping the extension is refused');
RESET ROLE;
-- a superuser may attach them, but they do not serve another table
CREATE TRIGGER record AFTER INSERT ON evil.bait FOR EACH ROW EXECUTE FUNCTION amt_key_record();
CREATE TRIGGER no_truncate BEFORE TRUNCATE ON evil.bait EXECUTE FUNCTION amt_key_no_truncate();
SELECT throws_ok('INSERT INTO evil.bait SELECT * FROM amt_key', '39P01', NULL, 'no event is written for another table');
SELECT throws_ok('TRUNCATE evil.bait', '39P01', NULL, 'the trigger against TRUNCATE raises an error on another table');
CREATE TRIGGER guard BEFORE INSERT ON evil.bait FOR EACH ROW EXECUTE FUNCTION amt_key_guard();
SELECT throws_ok('INSERT INTO evil.bait SELECT * FROM amt_key', '39P01', NULL, 'the guard raises an error on another table');
SELECT throws_ok('SELECT amt_key_guard()', '39P01', NULL, 'a trigger function raises an error as a plain function');

-- 5. amt_authenticate(), which decides for the whole transaction, with each path
SET ROLE amt_test_web;
CREATE TEMP TABLE amt_key (key_id text, org_id text, name text, role text, scrypt_hash text, created_at timestamptz);
INSERT INTO amt_key VALUES ('forged', 'globex', 'forged', 'owner', '$scrypt$ln=4,r=8,p=1$MDEyMzQ1Njc4OWFiY2RlZg$4Z60JOvkyYBPBM4bVtRQfK+3gSDiIvgitxsuRN98NjU', now());
SELECT setval('tap.trapped', 1, false) \gset
SELECT throws_ok(format($$ SELECT auth.amt_authenticate() FROM set_config('request.headers', '{"x-api-key":"amt_forged_0123456789abcdef"}', true), set_config('search_path', %L, true) AS p $$, p), 'PT401', NULL,
                 'a forged row in a temporary table authenticates nobody, with search_path ' || p)
FROM unnest(array['evil, pg_catalog, tap', 'public, evil, pg_catalog, tap', 'pg_temp, auth, tap', 'tap']) AS p;
SET search_path = tap;
SELECT set_config('request.headers', json_build_object('x-api-key', :'shared')::text, true) \gset
SET search_path = evil, public, pg_catalog;
SELECT auth.amt_authenticate() \gset
SET search_path = tap;
SELECT is(auth.amt_org_id(), 'acme', 'the key in the true table authenticates');
RESET ROLE;
SELECT ok(NOT is_called, 'amt_authenticate() runs no trap') FROM trapped;

SELECT * FROM finish();
ROLLBACK;
