--
-- amt_revoke(): who may, by what, and that it is for good
--
\set VERBOSITY default
\set SHOW_CONTEXT never
\set sqlstate '\\echo SQLSTATE :SQLSTATE'
SET client_min_messages = warning;
CREATE EXTENSION amt_keys;
SET amt_keys.scrypt_ln = 1;
CREATE ROLE regress_amt_web;
CREATE ROLE regress_amt_gateway;
GRANT SET ON PARAMETER amt_keys.org_id, amt_keys.role, amt_keys.actor TO regress_amt_gateway;

-- continue as an ordinary role with this identity
CREATE PROCEDURE become(org_id text, role text, actor text DEFAULT '', key_id text DEFAULT '', db_role text DEFAULT 'regress_amt_web')
LANGUAGE plpgsql AS $$
BEGIN
	RESET ROLE;
	PERFORM set_config('amt_keys.org_id', org_id, false), set_config('amt_keys.role', role, false),
	        set_config('amt_keys.actor', actor, false), set_config('amt_keys.key_id', key_id, false),
	        set_config('role', db_role, false);
END
$$;

-- the answer of a statement, or its SQLSTATE; whatever it did is undone
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

-- two keys of ann's at acme, one whose creator is not known, and one of gus's at globex
CREATE TABLE known (n serial, who text, key_id text, token text, token_prefix text);
GRANT SELECT ON known TO PUBLIC;
CALL become('acme', 'editor', 'ann', '', 'none');
INSERT INTO known (who, key_id, token, token_prefix)
	SELECT 'ann 1', key_id, token, token_prefix FROM amt_create_key('ann 1');
INSERT INTO known (who, key_id, token, token_prefix)
	SELECT 'ann 2', key_id, token, token_prefix FROM amt_create_key('ann 2');
CALL become('acme', 'editor', '', '', 'none');
INSERT INTO known (who, key_id, token, token_prefix)
	SELECT 'nobody', key_id, token, token_prefix FROM amt_create_key('nobody');
CALL become('globex', 'editor', 'gus', '', 'none');
INSERT INTO known (who, key_id, token, token_prefix)
	SELECT 'gus', key_id, token, token_prefix FROM amt_create_key('gus');
SELECT key_id AS ann_1, token AS ann_1_token, token_prefix AS ann_1_prefix FROM known WHERE who = 'ann 1' \gset
SELECT key_id AS ann_2, token AS ann_2_token FROM known WHERE who = 'ann 2' \gset
SELECT key_id AS gus, token AS gus_token FROM known WHERE who = 'gus' \gset
INSERT INTO known (who, key_id, token, token_prefix)
	VALUES ('missing', 'ZZZZZZZZZZZZ', overlay(:'ann_1_token' placing 'ZZZZZZZZZZZZ' from 5), 'amt_ZZZZZZZZZZZZ...');

-- Each caller, each key, by each of its names. A wrong token has the right id and
-- another key's secret.
CREATE VIEW attempts AS
	SELECT who AS key,
	       attempt(format('SELECT amt_revoke(%L)', key_id)) AS by_id,
	       attempt(format('SELECT amt_revoke(%L)', token_prefix)) AS by_prefix,
	       attempt(format('SELECT amt_revoke(%L)', token)) AS by_token,
	       attempt(format('SELECT amt_revoke(%L)', left(token, 17) || reverse(substr(token, 18)))) AS by_wrong_token
	FROM known ORDER BY n;
GRANT SELECT ON attempts TO PUBLIC;

-- a viewer and an editor who did not create them: none; an error for those that they see
CALL become('acme', 'viewer', 'bob');
TABLE attempts;
CALL become('acme', 'editor', 'bob');
TABLE attempts;
-- the creator: the own ones, whatever the role
CALL become('acme', 'viewer', 'ann');
TABLE attempts;
-- somebody of the creator's name elsewhere
CALL become('globex', 'editor', 'ann');
TABLE attempts;
-- no actor: nobody's creator, not even of keys without one
CALL become('acme', 'editor', '');
TABLE attempts;
-- a manager: all of the organization
CALL become('acme', 'admin', 'zoe');
TABLE attempts;
CALL become('acme', 'owner', '');
TABLE attempts;
-- a key: itself only, whatever its role
CALL become('acme', 'editor', '', :'ann_1');
TABLE attempts;
CALL become('acme', 'admin', '', :'ann_1');
TABLE attempts;
-- the key's id in another organization says nothing
CALL become('globex', 'editor', '', :'ann_1');
TABLE attempts;
-- names that only begin alike are others
CALL become('acme corp', 'owner', 'ann', :'ann_1');
SELECT key, by_id FROM attempts;
CALL become('acm', 'owner', 'ann', :'ann_1');
SELECT key, by_id FROM attempts;
CALL become('acme', 'editor', 'anna', :'ann_1' || '0');
SELECT key, by_id FROM attempts;
CALL become('acme', 'editor', 'an', left(:'ann_1', 11));
SELECT key, by_id FROM attempts;
-- no identity: by the whole token only
CALL become('', '');
TABLE attempts;
CALL become('', 'owner', 'ann');
TABLE attempts;
-- trusted callers: any
CALL become('', '', '', '', 'regress_amt_gateway');
TABLE attempts;
CALL become('', '', '', '', 'none');
TABLE attempts;

-- the manager role is a setting; one that is no role makes nobody a manager
SET amt_keys.manager_role = 'owner';
CALL become('acme', 'admin', 'zoe');
SELECT key, by_id FROM attempts WHERE key IN ('ann 1', 'gus');
CALL become('acme', 'owner', 'zoe');
SELECT key, by_id FROM attempts WHERE key IN ('ann 1', 'gus');
RESET ROLE;
SET amt_keys.manager_role = 'boss';
CALL become('acme', 'owner', 'zoe');
SELECT key, by_id FROM attempts WHERE key IN ('ann 1', 'gus');
CALL become('acme', 'boss', 'zoe');
SELECT key, by_id FROM attempts WHERE key IN ('ann 1', 'gus');
RESET ROLE;
RESET amt_keys.manager_role;

-- how the refusal reads, and that foreign and missing keys answer alike
CALL become('acme', 'editor', 'bob');
SELECT amt_revoke(:'ann_1');
:sqlstate
SELECT amt_revoke(:'gus'), amt_revoke('ZZZZZZZZZZZZ');

-- what names no key
CALL become('', '', '', '', 'none');
SELECT what, attempt(format('SELECT amt_revoke(%L)', key))
FROM (VALUES
	(1, 'null', NULL),
	(2, 'empty', ''),
	(3, 'prefix without the points', left(:'ann_1_prefix', -3)),
	(4, 'prefix with two points', left(:'ann_1_prefix', -1)),
	(5, 'prefix with four points', :'ann_1_prefix' || '.'),
	(6, 'only points', 'amt_...'),
	(7, 'id with points', :'ann_1' || '...'),
	(8, 'id and a blank', :'ann_1' || ' '),
	(9, 'a part of the id', left(:'ann_1', 11)),
	(10, 'the id and more', :'ann_1' || '0'),
	(11, 'pattern', '%'),
	(12, 'SQL', ''' OR true --'),
	(13, 'id of 64 characters', repeat('0', 64)),
	(14, 'id of 65 characters', repeat('0', 65)),
	(15, 'a megabyte', repeat('0', 1000000)),
	(16, 'token cut short', left(:'ann_1_token', 40)),
	(17, 'token with its scheme', 'Bearer ' || :'ann_1_token')) AS v (n, what, key)
ORDER BY n;
SELECT count(*) FROM amt_key;

-- true once
CALL become('acme', 'admin', 'zoe');
SELECT amt_revoke(:'ann_1') AS first, amt_revoke(:'ann_1') AS second;
SELECT amt_revoke(:'ann_1'), amt_revoke(:'ann_1_prefix'), amt_revoke(:'ann_1_token');
RESET ROLE;
SELECT count(*) FROM amt_verify(:'ann_1_token');
SELECT event, name, org_id, role, actor, calls FROM amt_key_event WHERE key_id = :'ann_1' ORDER BY event_id;

-- anybody who finds a token can revoke it; the event names nobody then, and otherwise the key that acts
CALL become('', '');
SELECT amt_revoke(:'gus_token');
CALL become('acme', 'editor', '', :'ann_2');
SELECT amt_revoke(:'ann_2');
RESET ROLE;
SELECT e.event, e.name, e.org_id, e.actor, e.by_key = k.key_id AS by_itself, e.db_user = session_user AS db_user
FROM amt_key_event AS e JOIN known AS k USING (key_id) WHERE e.event = 'revoked' ORDER BY e.event_id;

-- also one that has expired
CALL become('', '', '', '', 'none');
INSERT INTO known (who, key_id, token)
	SELECT 'expired', key_id, token FROM amt_create_key('expired', 'acme', 'viewer', expires_at => clock_timestamp() + interval '200 milliseconds');
SELECT pg_sleep(0.25);
SELECT token AS expired_token FROM known WHERE who = 'expired' \gset
SELECT count(*) FROM amt_verify(:'expired_token');
CALL become('', '');
SELECT attempt(format('SELECT amt_revoke(%L)', :'expired_token'));
CALL become('acme', 'viewer', 'bob');
SELECT attempt(format('SELECT amt_revoke(%L)', key_id)) FROM known WHERE who = 'expired';
CALL become('acme', 'admin', 'zoe');
SELECT amt_revoke(key_id) FROM known WHERE who = 'expired';

-- it is part of the transaction
CALL become('', '', '', '', 'none');
SELECT token, key_id FROM amt_create_key('back and forth', 'acme', 'viewer') \gset
BEGIN;
SELECT amt_revoke(:'key_id');
SELECT count(*) FROM amt_verify(:'token');
ROLLBACK;
SELECT count(*) FROM amt_verify(:'token');
BEGIN;
SAVEPOINT s;
SELECT amt_revoke(:'key_id');
SELECT count(*) FROM amt_verify(:'token');
ROLLBACK TO s;
SELECT count(*) FROM amt_verify(:'token');
SELECT amt_revoke(:'key_id');
COMMIT;
SELECT count(*) FROM amt_verify(:'token');
SELECT event, calls FROM amt_key_event WHERE key_id = :'key_id' ORDER BY event_id;
BEGIN READ ONLY;
SELECT amt_revoke('x');
:sqlstate
ROLLBACK;

-- a displayed prefix, or an id, that another organization's key has as well
CALL become('', '', '', '', 'none');
SELECT key_id AS acme_id, token_prefix AS acme_prefix FROM amt_create_key('at acme', 'acme', 'viewer') \gset
SELECT amt_import_key(sha256('globex 1'), 'at globex', 'globex', 'viewer', :'acme_prefix') <> '' AS imported,
       amt_import_key(sha256('globex 2'), 'at globex, too', 'globex', 'viewer', :'acme_id') <> '' AS imported;
CALL become('globex', 'admin', 'gus');
SELECT amt_revoke(:'acme_prefix') AS by_prefix, amt_revoke(:'acme_id') AS by_id, amt_revoke(:'acme_id') AS again;
CALL become('', '', '', '', 'none');
SELECT name FROM amt_keys WHERE name LIKE 'at %';

DROP VIEW attempts;
DROP TABLE known;
DROP FUNCTION attempt;
DROP PROCEDURE become;
DROP EXTENSION amt_keys;
DROP OWNED BY regress_amt_gateway;
DROP ROLE regress_amt_gateway, regress_amt_web;
