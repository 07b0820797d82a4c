--
-- amt_key_event: one row for each thing that happens to a key, and its actor
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

-- the whole life of a key, as its creator, a manager, a DBA and the key itself act
CALL become('acme', 'editor', 'ann');
SELECT token, key_id FROM amt_create_key('one', role => 'viewer', scopes => '{read}', expires_at => '2200-01-01 00:00+00') \gset
CALL become('acme', 'admin', 'zoe');
UPDATE amt_keys SET name = 'two' WHERE key_id = :'key_id';
UPDATE amt_keys SET expires_at = '2201-01-01 00:00+00' WHERE key_id = :'key_id';
UPDATE amt_keys SET name = 'three', expires_at = NULL WHERE key_id = :'key_id';
UPDATE amt_keys SET suspended_at = now() WHERE key_id = :'key_id';
UPDATE amt_keys SET suspended_at = NULL WHERE key_id = :'key_id';
UPDATE amt_keys SET name = 'four', suspended_at = now() WHERE key_id = :'key_id';
CALL become('', '', db_role => 'none');
UPDATE amt_key SET name = 'five', suspended_at = NULL WHERE key_id = :'key_id';
SELECT count(*) FROM generate_series(1, 3) AS i, amt_verify(:'token' || left('', i));
CALL become('acme', 'viewer', '', :'key_id', scopes => 'read');
SELECT amt_revoke(:'key_id');
CALL become('', '', db_role => 'none');
SELECT event, key_id = :'key_id' AS key_id, org_id, name, role, scopes, expires_at, actor, by_key = :'key_id' AS by_itself, db_user = session_user AS db_user, calls,
       at BETWEEN now() - interval '1 minute' AND clock_timestamp() AS at
FROM amt_key_event ORDER BY event_id;
SELECT bool_and(event_id > previous) AS ascending, bool_and(at >= previous_at) AS at FROM (SELECT event_id, lag(event_id) OVER w AS previous, at, lag(at) OVER w AS previous_at FROM amt_key_event WINDOW w AS (ORDER BY event_id)) AS e;
DELETE FROM amt_key_event;

-- actor and by_key are told only if the identity's organization is the key's
SELECT token AS globex_token, key_id AS globex_id FROM amt_create_key('globex', 'globex', 'editor') \gset
SELECT token AS acme_token, key_id AS acme_id FROM amt_create_key('acme', 'acme', 'editor') \gset
SELECT token AS third_token, key_id AS third_id FROM amt_create_key('third', 'acme', 'editor') \gset
-- a member of one organization who holds the other's token
CALL become('acme', 'owner', 'ann');
SELECT amt_revoke(:'globex_token');
-- a key of the one organization that holds a token of the other, and of its own
CALL become('globex', 'owner', '', 'k1');
SELECT amt_revoke(:'acme_token');
CALL become('acme', 'viewer', '', 'k2');
SELECT amt_revoke(:'third_token');
-- gateways and superusers that act for somebody
CALL become('globex', 'viewer', 'gil', db_role => 'regress_amt_gateway');
SELECT name FROM amt_create_key('gateway elsewhere', 'acme', 'viewer');
SELECT name FROM amt_create_key('gateway here', 'globex', 'viewer');
CALL become('globex', '', 'gil', db_role => 'none');
SELECT amt_import_key(sha256('1'), 'imported elsewhere', 'acme', 'viewer') IS NOT NULL AS imported;
SELECT amt_import_key(sha256('2'), 'imported here', 'globex', 'viewer') IS NOT NULL AS imported;
UPDATE amt_keys SET suspended_at = now() WHERE name LIKE 'imported%';
DELETE FROM amt_key WHERE name LIKE 'imported%';
CALL become('', '', 'nobody', db_role => 'none');
DELETE FROM amt_keys WHERE name LIKE 'gateway%';
SELECT event, name, org_id, actor, by_key, db_user = session_user AS db_user, calls FROM amt_key_event ORDER BY event_id;
-- each organization sees its own
CREATE FUNCTION seen_by(org_id text) RETURNS bigint LANGUAGE plpgsql AS $$
DECLARE
	n bigint;
BEGIN
	CALL become(org_id, 'viewer');
	SELECT count(*) FROM amt_key_event INTO n;
	ASSERT n = (SELECT count(*) FROM amt_key_event AS e WHERE e.org_id = seen_by.org_id);
	RESET ROLE;
	RETURN n;
END
$$;
SELECT seen_by('acme') AS acme, seen_by('globex') AS globex, seen_by('') AS nobody, (SELECT count(*) FROM amt_key_event) AS superuser;

-- the identity of a key whose call is served
SELECT token, key_id FROM amt_create_key('caller', 'acme', 'editor') \gset
DELETE FROM amt_key_event;
BEGIN;
SELECT name FROM amt_verify(:'token', identify => true);
SELECT amt_revoke(:'key_id');
COMMIT;
SELECT event, actor, by_key = :'key_id' AS by_itself, calls >= 0 AS calls FROM amt_key_event;

-- events outlive the key; what is rolled back leaves none
SELECT count(*) FROM amt_key_event AS e JOIN amt_key AS k USING (key_id);
BEGIN;
SELECT name FROM amt_create_key('rolled back', 'acme', 'viewer');
ROLLBACK;
SELECT count(*) FROM amt_key_event WHERE name = 'rolled back';
-- a number that is taken already, as after a partial restore, is stepped over
INSERT INTO amt_key_event (event_id, at, event, key_id, org_id, name, role, db_user)
	SELECT last_value + i, now(), 'created', 'x', 'acme', 'restored', 'viewer', session_user FROM amt_key_event_seq, generate_series(1, 3) AS i;
SELECT name FROM amt_create_key('after it', 'acme', 'viewer');
SELECT name FROM amt_key_event ORDER BY event_id DESC LIMIT 2;
-- so are the free numbers before it: a later event has a higher number
INSERT INTO amt_key_event (event_id, at, event, key_id, org_id, name, role, db_user)
	SELECT last_value + 7, now(), 'created', 'x', 'acme', 'restored with a gap', 'viewer', session_user FROM amt_key_event_seq;
SELECT name FROM amt_create_key('after the gap', 'acme', 'viewer');
SELECT name FROM amt_key_event ORDER BY event_id DESC LIMIT 2;
-- one near the end of what the sequence can reach does not bring it there, nor keep it behind the others
INSERT INTO amt_key_event (event_id, at, event, key_id, org_id, name, role, db_user)
	SELECT v, now(), 'created', 'x', 'acme', 'restored far away', 'viewer', session_user FROM amt_key_event_seq,
		LATERAL (SELECT last_value + i FROM generate_series(1, 150) AS i UNION ALL SELECT 9223372036854775806) AS n (v);
SELECT name FROM amt_create_key('before it', 'acme', 'viewer');
SELECT name FROM amt_key_event ORDER BY event_id DESC LIMIT 2;
DELETE FROM amt_key_event WHERE event_id = 9223372036854775806;
-- in the upper half of its range the sequence follows nothing, but takes no number twice
INSERT INTO amt_key_event (event_id, at, event, key_id, org_id, name, role, db_user)
	VALUES (9223372036854775801, now(), 'created', 'x', 'acme', 'restored far away', 'viewer', session_user);
SELECT setval('amt_key_event_seq', 9223372036854775800);
SELECT name FROM amt_create_key('in the upper half', 'acme', 'viewer');
SELECT name FROM amt_key_event ORDER BY event_id DESC LIMIT 2;
-- and back from the end of the sequence, when an event has its last number
SELECT setval('amt_key_event_seq', 9223372036854775806);
SELECT name FROM amt_create_key('the last number', 'acme', 'viewer');
\set VERBOSITY sqlstate
SELECT name FROM amt_create_key('beyond the end', 'acme', 'viewer');
\set VERBOSITY default
SELECT setval('amt_key_event_seq', max(event_id)) < 9e18 AS moved_back FROM amt_key_event WHERE event_id < 9e18;
SELECT name FROM amt_create_key('after the way back', 'acme', 'viewer');
SELECT name FROM amt_key_event WHERE event_id < 9e18 ORDER BY event_id DESC LIMIT 1;
DELETE FROM amt_key_event WHERE event_id > 9e18;

-- the pages of one organization's keys and events are read from indexes
CREATE FUNCTION plan(query text) RETURNS SETOF text LANGUAGE plpgsql AS $$
DECLARE
	line text;
BEGIN
	FOR line IN EXECUTE 'EXPLAIN (COSTS off) ' || query LOOP
		RETURN QUERY SELECT m[1] FROM regexp_matches(line, '(Index Scan Backward using \w+|Sort|Seq Scan)') AS m;
	END LOOP;
END
$$;
INSERT INTO amt_key (key_id, org_id, name, role, token_sha256, created_at)
	SELECT 'p' || i, CASE WHEN i % 1000 = 0 THEN 'initech' ELSE 'globex' END, 'n', 'viewer', sha256(i::text::bytea), now() - i * interval '1 s' FROM generate_series(1, 5000) AS i;
ANALYZE amt_key, amt_key_event;
SET enable_bitmapscan = off;
SELECT plan('SELECT key_id FROM amt_key WHERE org_id = ''initech'' ORDER BY created_at DESC LIMIT 10');
SELECT plan('SELECT event_id FROM amt_key_event WHERE org_id = ''initech'' ORDER BY event_id DESC LIMIT 10');
CALL become('initech', 'viewer');
SELECT plan('SELECT key_id FROM amt_keys WHERE org_id = ''initech'' ORDER BY created_at DESC LIMIT 10');
RESET ROLE;

DROP FUNCTION plan, seen_by;
DROP FUNCTION attempt;
DROP PROCEDURE become;
DROP EXTENSION amt_keys;
DROP OWNED BY regress_amt_gateway;
DROP ROLE regress_amt_gateway, regress_amt_web;
