--
-- Scopes: the setting, the argument, the subset that a caller may hand on, and
-- policies that ask for them
--
\set VERBOSITY default
\set SHOW_CONTEXT never
\set sqlstate '\\echo SQLSTATE :SQLSTATE'
SET client_min_messages = warning;
SET TimeZone = 'UTC';
SET DateStyle = 'ISO';
CREATE EXTENSION amt_keys;
SET amt_keys.scrypt_ln = 1;
CREATE ROLE regress_amt_web;
CREATE ROLE regress_amt_gateway;
GRANT SET ON PARAMETER amt_keys.org_id, amt_keys.role, amt_keys.actor TO regress_amt_gateway;

-- continue as an ordinary role with this identity
CREATE PROCEDURE become(org_id text, role text, actor text DEFAULT '', key_id text DEFAULT '', db_role text DEFAULT 'regress_amt_web', scopes text DEFAULT '')
LANGUAGE plpgsql AS $$
BEGIN
	RESET ROLE;
	PERFORM set_config('amt_keys.org_id', org_id, false), set_config('amt_keys.role', role, false),
	        set_config('amt_keys.actor', actor, false), set_config('amt_keys.key_id', key_id, false),
	        set_config('amt_keys.scopes', scopes, false), set_config('role', db_role, false);
END
$$;

-- the answer of a statement, or its SQLSTATE; its effects are undone
CREATE FUNCTION attempt(statement text) RETURNS text LANGUAGE plpgsql AS $$
DECLARE
	answer text;
BEGIN
	EXECUTE statement INTO answer;
	RAISE SQLSTATE 'UNDO0' USING MESSAGE = coalesce(answer, 'null');
EXCEPTION
	WHEN SQLSTATE 'UNDO0' THEN RETURN SQLERRM;
	WHEN OTHERS THEN RETURN SQLSTATE || ' ' || SQLERRM;
END
$$;

-- the setting: empty for no narrowing, a comma for no scope at all
CREATE FUNCTION scopes_of(setting text) RETURNS text LANGUAGE plpgsql AS $$
BEGIN
	PERFORM set_config('amt_keys.scopes', setting, true);
	RETURN concat_ws(' ', coalesce(amt_scopes()::text, 'null'), CASE WHEN amt_has_scope('read') THEN 'read' END,
	                 CASE WHEN amt_has_scope('write') THEN 'write' END, cardinality(amt_scopes()));
EXCEPTION WHEN OTHERS THEN
	RETURN SQLSTATE;
END
$$;
SET amt_keys.org_id = 'acme';
SELECT what, scopes_of(setting)
FROM (VALUES
	(1, 'empty', ''),
	(2, 'empty list', ','),
	(3, 'one', 'read'),
	(4, 'two', 'write,read'),
	(5, 'case counts', 'READ'),
	(6, 'all characters', '!#$%&''()*+-./:;<=>?@[]^_`{|}~'),
	(7, 'blank behind the comma', 'read, write'),
	(8, 'blank', ' '),
	(9, 'comma at the end', 'read,'),
	(10, 'comma at the beginning', ',read'),
	(11, 'two commas', 'read,,write'),
	(12, 'only commas', ',,'),
	(13, 'double quote', '"read"'),
	(14, 'backslash', 're\ad'),
	(15, 'tab', E're\tad'),
	(16, 'U+007F', E're\x7f'),
	(17, 'not ASCII', convert_from('\x72c3a961', 'UTF8')),
	(18, 'twice', 'read,write,read'),
	(19, 'part of another', 'rea,readx')) AS v (n, what, setting) ORDER BY n;
SELECT what, left(scopes_of(setting), 5) AS answer
FROM (VALUES
	(1, '100 characters', repeat('x', 100)),
	(2, '101 characters', repeat('x', 101)),
	(3, '64 scopes', (SELECT string_agg('s' || i, ',') FROM generate_series(1, 64) AS i)),
	(4, '65 scopes', (SELECT string_agg('s' || i, ',') FROM generate_series(1, 65) AS i))) AS v (n, what, setting) ORDER BY n;
SET amt_keys.scopes = 'read,';
:sqlstate
-- without an organization there is no scope, narrowed or not
SET amt_keys.org_id = '';
SELECT scopes_of(''), scopes_of('read'), scopes_of(',');
RESET amt_keys.org_id;

-- the functions that ask
CALL become('acme', 'editor', scopes => 'read,write');
SELECT amt_scopes(), amt_has_scope('read'), amt_has_scope('delete'), amt_has_scope(''), amt_has_scope(','), amt_has_scope('read,write'), amt_has_scope(NULL);
SELECT amt_has_scope(repeat('x', 1048576));
SELECT org_id, role, scopes, actor, key_id FROM amt_whoami();
SELECT amt_require_scope('read');
SELECT amt_require_scope('delete');
:sqlstate
SELECT amt_require_scope(NULL);
:sqlstate
CALL become('acme', 'editor', scopes => ',');
SELECT amt_scopes(), amt_scopes() IS NULL AS "null", amt_has_scope('read'), amt_has_scope('');
SELECT amt_require_scope('read');
:sqlstate
CALL become('acme', 'editor');
SELECT amt_scopes(), amt_has_scope('read'), amt_require_scope('read');
CALL become('', 'editor', scopes => 'read');
SELECT amt_has_scope('read');
SELECT amt_require_scope('read');
:sqlstate

-- the subset rule: a caller hands on no scope that it does not have
CALL become('', '', db_role => 'none');
CREATE TABLE asked (n int, scopes text[]);
INSERT INTO asked VALUES (1, NULL), (2, '{}'), (3, '{read}'), (4, '{write,read}'), (5, '{read,write,delete}'), (6, '{READ}'), (7, '{rea}');
CREATE TABLE held (n int, scopes text);
INSERT INTO held VALUES (1, ''), (2, ','), (3, 'read'), (4, 'read,write'), (5, 'rea');
CREATE FUNCTION handed_on(held text, asked text[]) RETURNS text LANGUAGE plpgsql AS $$
DECLARE
	answer text;
BEGIN
	PERFORM set_config('amt_keys.org_id', 'acme', true), set_config('amt_keys.role', 'editor', true),
	        set_config('amt_keys.scopes', held, true), set_config('role', 'regress_amt_web', true);
	answer := attempt(format('SELECT coalesce(scopes::text, ''null'') FROM amt_create_key(''k'', scopes => %L)', asked));
	PERFORM set_config('role', 'none', true);
	RETURN answer;
END
$$;
SELECT h.scopes AS held, coalesce(a.scopes::text, 'null') AS asked, handed_on(h.scopes, a.scopes) FROM held AS h, asked AS a ORDER BY h.n, a.n;
DROP FUNCTION handed_on;
CALL become('acme', 'editor', scopes => 'read');
SELECT amt_create_key('k', scopes => '{read,write}');
:sqlstate
-- a trusted caller hands on any
CALL become('acme', 'editor', db_role => 'regress_amt_gateway', scopes => 'read');
SELECT scopes FROM amt_create_key('k', scopes => '{delete}');
SELECT scopes FROM amt_create_key('k');

-- arguments that are no lists of scopes
CALL become('acme', 'editor');
SELECT what, attempt(format('SELECT scopes FROM amt_create_key(''k'', scopes => %L)', scopes))
FROM (VALUES
	(1, 'a null in it', '{read,NULL}'),
	(2, 'an empty one', '{read,""}'),
	(3, 'a blank', '{"re ad"}'),
	(4, 'a comma', '{"read,write"}'),
	(5, 'a double quote', '{"re\"ad"}'),
	(6, 'a backslash', '{"re\\ad"}'),
	(7, 'twice', '{read,read}'),
	(8, 'two dimensions', '{{read},{write}}'),
	(9, 'another lower bound', '[0:1]={read,write}')) AS v (n, what, scopes) ORDER BY n;
SELECT n, attempt(format('SELECT cardinality(scopes) FROM amt_create_key(''k'', scopes => %L)', array(SELECT 's' || i FROM generate_series(1, n) AS i)))
FROM unnest(array[64, 65]) AS n;
SELECT n, attempt(format('SELECT length(scopes[1]) FROM amt_create_key(''k'', scopes => %L)', array[repeat('x', n)]))
FROM unnest(array[100, 101]) AS n;
SELECT amt_create_key('k', scopes => '{"re ad"}');
:sqlstate

-- stored, listed, recorded, verified, and the key's from then on
CALL become('acme', 'editor', 'ann');
SELECT token, key_id FROM amt_create_key('narrow', scopes => '{read,write}') \gset
SELECT token AS none_token FROM amt_create_key('none at all', scopes => '{}') \gset
SELECT token AS wide_token FROM amt_create_key('wide') \gset
SELECT name, scopes FROM amt_keys WHERE created_by = 'ann' ORDER BY name;
SELECT name, scopes FROM amt_key_event WHERE actor = 'ann' ORDER BY name;
CALL become('', '', db_role => 'none');
SELECT name, scopes FROM unnest(array[:'token', :'none_token', :'wide_token']) AS t, amt_verify(t) ORDER BY name;
BEGIN;
SELECT scopes FROM amt_verify(:'token', identify => true);
SELECT amt_scopes(), amt_has_scope('read'), amt_has_scope('delete'), current_setting('amt_keys.scopes') AS setting;
SELECT scopes, key_name FROM amt_whoami();
SELECT scopes FROM amt_verify(:'none_token', identify => true);
SELECT amt_scopes(), amt_has_scope('read'), current_setting('amt_keys.scopes') AS setting;
SELECT scopes FROM amt_verify(:'wide_token', identify => true);
SELECT amt_scopes(), amt_has_scope('read'), current_setting('amt_keys.scopes') AS setting;
SELECT count(*) FROM amt_verify('x', identify => true);
SELECT amt_scopes(), amt_has_scope('read'), current_setting('amt_keys.scopes') AS setting;
COMMIT;

-- rows that the owner writes
INSERT INTO amt_key (key_id, org_id, name, role, scopes, token_sha256, created_at) VALUES ('s1', 'acme', 'n', 'viewer', '{"re ad"}', sha256('1'), now());
:sqlstate
INSERT INTO amt_key (key_id, org_id, name, role, scopes, token_sha256, created_at) VALUES ('s1', 'acme', 'n', 'viewer', '{read,read}', sha256('1'), now());
:sqlstate
INSERT INTO amt_key (key_id, org_id, name, role, scopes, token_sha256, created_at) VALUES ('s1', 'acme', 'n', 'viewer', '{}', sha256('1'), now());

-- policies, evaluated by parallel workers, too
CREATE TABLE note (id int, org_id text, scope text);
INSERT INTO note SELECT i, CASE WHEN i % 2 = 0 THEN 'acme' ELSE 'globex' END, CASE WHEN i % 3 = 0 THEN 'read' ELSE 'delete' END FROM generate_series(1, 60000) AS i;
ANALYZE note;
ALTER TABLE note ENABLE ROW LEVEL SECURITY;
CREATE POLICY note_policy ON note USING (org_id = amt_org_id() AND amt_has_role('viewer') AND amt_has_scope(scope));
GRANT SELECT ON note TO regress_amt_web;
CREATE FUNCTION is_parallel(query text) RETURNS boolean LANGUAGE plpgsql AS $$
DECLARE
	line text;
BEGIN
	FOR line IN EXECUTE 'EXPLAIN ' || query LOOP
		IF line LIKE '%Parallel Seq Scan%' THEN
			RETURN true;
		END IF;
	END LOOP;
	RETURN false;
END
$$;
SET min_parallel_table_scan_size = 0;
SET parallel_setup_cost = 0;
SET parallel_tuple_cost = 0;
SET max_parallel_workers_per_gather = 2;
SET parallel_leader_participation = off;
CALL become('acme', 'editor', scopes => 'read,write');
SELECT is_parallel('SELECT count(*) FROM note');
SELECT count(*) FROM note;
SELECT DISTINCT amt_org_id(), amt_role(), amt_scopes() FROM note;
CALL become('acme', 'editor', scopes => ',');
SELECT count(*) FROM note;
CALL become('acme', 'editor');
SELECT count(*) FROM note;
CALL become('', 'editor');
SELECT count(*) FROM note;
-- of an identity that lasts for the transaction, and of one that is sealed
RESET ROLE;
GRANT EXECUTE ON FUNCTION amt_verify TO regress_amt_web;
CALL become('', '');
BEGIN;
SELECT scopes FROM amt_verify(:'token', identify => true);
SELECT count(*) FROM note;
COMMIT;
SELECT count(*) FROM note;
BEGIN;
SELECT set_config('request.headers', json_build_object('x-api-key', :'token')::text, true) IS NOT NULL AS set;
SELECT amt_authenticate();
SELECT is_parallel('SELECT count(*) FROM note');
SELECT count(*) FROM note;
SELECT DISTINCT amt_org_id(), amt_role(), amt_scopes(), amt_key_id() = :'key_id' AS key_id FROM note;
-- RESET brings back no identity, in workers neither
RESET ROLE;
RESET amt_keys.scopes;
SET LOCAL ROLE regress_amt_web;
SELECT count(*) FROM note;
SELECT DISTINCT amt_org_id(), amt_role(), amt_scopes(), amt_key_id() FROM note;
COMMIT;
RESET ROLE;

DROP TABLE note, asked, held;
DROP FUNCTION scopes_of, is_parallel;
DROP FUNCTION attempt;
DROP PROCEDURE become;
DROP EXTENSION amt_keys;
DROP OWNED BY regress_amt_gateway;
DROP ROLE regress_amt_gateway, regress_amt_web;
