--
-- amt_rotate_key(): a new key like another one, which ends at once or with a grace
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

-- two keys of ann's at acme, one of them with scopes and an expiry, one whose
-- creator is not known, and one of gus's at globex
CREATE FUNCTION days(expires_at timestamptz) RETURNS text LANGUAGE sql AS $$
	SELECT CASE WHEN isfinite(expires_at) THEN round((extract(epoch FROM expires_at - now()) / 86400)::numeric, 3) || ' days' ELSE coalesce(expires_at::text, 'never') END
$$;
CREATE TABLE known (who text, key_id text, token text, token_prefix text);
GRANT SELECT ON known TO PUBLIC;
CALL become('acme', 'editor', 'ann', db_role => 'none');
INSERT INTO known SELECT name, key_id, token, token_prefix FROM amt_create_key('ann 1');
INSERT INTO known SELECT name, key_id, token, token_prefix FROM amt_create_key('ann 2', role => 'viewer', scopes => '{read,write}', expires_at => now() + '10 days');
CALL become('acme', 'admin', db_role => 'none');
INSERT INTO known SELECT name, key_id, token, token_prefix FROM amt_create_key('nobody');
CALL become('globex', 'editor', 'gus', db_role => 'none');
INSERT INTO known SELECT name, key_id, token, token_prefix FROM amt_create_key('gus');
CALL become('', '', db_role => 'none');
INSERT INTO known VALUES ('missing', 'ZZZZZZZZZZZZ', 'amt_ZZZZZZZZZZZZ_0123456789abcdef', 'amt_ZZZZZZZZZZZZ...');
SELECT key_id AS ann_1, token AS ann_1_token FROM known WHERE who = 'ann 1' \gset
SELECT key_id AS ann_2, token AS ann_2_token FROM known WHERE who = 'ann 2' \gset
SELECT key_id AS gus, token AS gus_token FROM known WHERE who = 'gus' \gset

-- without grace: a key like it, and the old one is gone
CALL become('acme', 'viewer', 'ann');
SELECT token AS new_token, key_id AS new_id FROM amt_rotate_key(:'ann_2') \gset
RESET ROLE;
SELECT amt_check_token(:'new_token') AS token, :'new_id' <> :'ann_2' AS other_id;
SELECT name, org_id, role, scopes, created_by, days(expires_at) AS expires_at, replaces = :'ann_2' AS replaces, suspended_at, calls, token_prefix = 'amt_' || key_id || '...' AS token_prefix,
       created_at > now() - interval '1 minute' AS created_at FROM amt_keys WHERE key_id = :'new_id' \gx
SELECT name FROM unnest(array[:'ann_2_token', :'new_token']) AS t, amt_verify(t);
SELECT event, key_id = :'new_id' AS new, name, role, scopes, days(expires_at) AS expires_at, actor, by_key, calls FROM amt_key_event WHERE key_id IN (:'ann_2', :'new_id') ORDER BY event_id;
-- again, by whichever name, and what it answers
CALL become('acme', 'viewer', 'ann');
SELECT k.name, k.org_id, k.role, k.scopes, days(k.expires_at) AS expires_at, k.replaces = :'new_id' AS replaces, k.created_at = now() AS created_at, k.token_prefix = 'amt_' || k.key_id || '...' AS token_prefix,
       k.token LIKE 'amt\_' || k.key_id || '\__%' AS token FROM amt_rotate_key('amt_' || :'new_id' || '...') AS k;
SELECT key_id AS id3, token AS token3 FROM amt_rotate_key((SELECT key_id FROM amt_keys WHERE replaces = :'new_id')) \gset
SELECT key_id AS ann_2, token AS ann_2_token FROM amt_rotate_key(:'token3') \gset
RESET ROLE;
SELECT name FROM unnest(array[:'new_token', :'token3', :'ann_2_token']) AS t, amt_verify(t);
SELECT replaces = :'id3' AS replaces, (SELECT count(*) FROM amt_key WHERE name = 'ann 2') AS keys FROM amt_key WHERE key_id = :'ann_2';

-- with a grace: both work until it ends, and the old one's life is never prolonged by it
CALL become('acme', 'viewer', 'ann');
SELECT token AS new_token, key_id AS new_id FROM amt_rotate_key(:'ann_2', '2 days') \gset
SELECT key_id = :'new_id' AS new, days(expires_at), replaces = :'ann_2' AS replaces FROM amt_keys WHERE name = 'ann 2' ORDER BY created_at, key_id = :'new_id';
SELECT k.key_id AS newest_id FROM amt_rotate_key(:'ann_2', '5 days') AS k \gset
SELECT key_id = :'ann_2' AS old, days(expires_at) FROM amt_keys WHERE name = 'ann 2' ORDER BY key_id = :'ann_2' DESC, created_at;
RESET ROLE;
SELECT name FROM unnest(array[:'ann_2_token', :'new_token']) AS t, amt_verify(t);
SELECT event, key_id = :'ann_2' AS old, days(expires_at) AS expires_at, actor FROM amt_key_event WHERE key_id IN (:'ann_2', :'new_id', :'newest_id') ORDER BY event_id OFFSET 1;
SELECT amt_revoke(:'ann_2'), amt_revoke(:'newest_id');
\set ann_2 :new_id
-- a short one
CALL become('acme', 'viewer', 'ann');
SELECT token AS new_token, key_id AS new_id FROM amt_rotate_key(:'ann_2', '300 milliseconds') \gset
RESET ROLE;
SELECT pg_sleep_until(expires_at) FROM amt_key WHERE key_id = :'ann_2';
SELECT k.name, k.replaces = :'ann_2' AS replaces FROM amt_key AS k WHERE k.key_id = :'new_id';
SELECT count(*) FROM amt_keys WHERE key_id = :'ann_2';
SELECT amt_revoke(:'ann_2');
\set ann_2 :new_id
UPDATE known SET key_id = :'new_id', token = :'new_token', token_prefix = 'amt_' || :'new_id' || '...' WHERE who = 'ann 2';
-- graces
CALL become('acme', 'viewer', 'ann');
SELECT g AS grace, attempt(format('SELECT name FROM amt_rotate_key(%L, %L)', :'ann_2', g))
FROM unnest(array['0', NULL, '1 day', '-1 second', '-1 day', '1 mon -1 day']) WITH ORDINALITY AS u (g, n) ORDER BY n;
SELECT amt_rotate_key(:'ann_2', '-1 day');
:sqlstate
-- an expiry of its own
SELECT attempt(format('SELECT days(expires_at) FROM amt_rotate_key(%L, expires_at => now() + ''3 days'')', :'ann_2')) AS shorter,
       attempt(format('SELECT days(expires_at) FROM amt_rotate_key(%L, expires_at => now() + ''300 days'')', :'ann_2')) AS longer,
       attempt(format('SELECT days(expires_at) FROM amt_rotate_key(%L, expires_at => ''infinity'')', :'ann_2')) AS never,
       attempt(format('SELECT days(expires_at) FROM amt_rotate_key(%L, expires_at => now())', :'ann_2')) AS now,
       attempt(format('SELECT days(expires_at) FROM amt_rotate_key(%L, grace => ''2 days'', expires_at => now() + ''1 day'')', :'ann_2')) AS shorter_than_the_grace \gx
SELECT attempt(format('SELECT days(expires_at) FROM amt_rotate_key(%L)', :'ann_1')) AS of_one_without_expiry;
RESET ROLE;
SET amt_keys.max_lifetime = '5d';
SET amt_keys.default_lifetime = '1d';
CALL become('acme', 'viewer', 'ann');
SELECT attempt(format('SELECT days(expires_at) FROM amt_rotate_key(%L)', :'ann_2')) AS same_life,
       attempt(format('SELECT days(expires_at) FROM amt_rotate_key(%L, expires_at => now() + ''3 days'')', :'ann_2')) AS within,
       attempt(format('SELECT days(expires_at) FROM amt_rotate_key(%L)', key_id)) AS of_one_without_expiry FROM known WHERE who = 'ann 1';
RESET ROLE;
SELECT attempt(format('SELECT days(expires_at) FROM amt_rotate_key(%L)', :'ann_2')) AS superuser,
       attempt(format('SELECT days(expires_at) FROM amt_rotate_key(%L)', :'ann_1')) AS superuser_without_expiry;
RESET amt_keys.max_lifetime;
RESET amt_keys.default_lifetime;
-- of a key that has ended without a time
BEGIN;
UPDATE amt_key SET expires_at = '-infinity' WHERE key_id = :'ann_2';
SELECT attempt(format('SELECT days(expires_at) FROM amt_rotate_key(%L)', :'ann_2')) AS of_one_of_no_lifetime;
ROLLBACK;

-- each caller, each key, by each of its names; the whole token gives no right
CREATE VIEW attempts AS
	SELECT who AS key, attempt(format('SELECT role FROM amt_rotate_key(%L)', key_id)) AS by_id,
	       attempt(format('SELECT role FROM amt_rotate_key(%L)', token_prefix)) AS by_prefix,
	       attempt(format('SELECT role FROM amt_rotate_key(%L)', token)) AS by_token,
	       attempt(format('SELECT role FROM amt_rotate_key(%L)', left(token, 17) || reverse(substr(token, 18)))) AS by_wrong_token
	FROM known ORDER BY array_position(array['ann 1', 'ann 2', 'nobody', 'gus', 'missing'], who);
GRANT SELECT ON attempts TO PUBLIC;
CALL become('acme', 'viewer', 'bob');
TABLE attempts;
CALL become('acme', 'editor', '');
TABLE attempts;
-- the creator, as far as its role still allows a key like it
CALL become('acme', 'editor', 'ann');
TABLE attempts;
CALL become('acme', 'viewer', 'ann');
TABLE attempts;
CALL become('globex', 'editor', 'ann');
TABLE attempts;
-- the manager role, and a role below that of the key
CALL become('acme', 'admin', 'zoe');
TABLE attempts;
RESET ROLE;
SET amt_keys.manager_role = 'viewer';
CALL become('acme', 'editor', 'zoe');
TABLE attempts;
RESET ROLE;
RESET amt_keys.manager_role;
-- narrowed callers: no key with a scope that they do not have
CALL become('acme', 'owner', 'zoe', scopes => 'write,read');
SELECT key, by_id FROM attempts;
CALL become('acme', 'owner', 'zoe', scopes => 'read');
SELECT key, by_id FROM attempts;
-- a key rotates none, not even itself
CALL become('acme', 'owner', '', :'ann_1');
TABLE attempts;
CALL become('acme', 'owner', 'ann', :'ann_1', 'regress_amt_gateway');
SELECT key, by_id FROM attempts;
-- no identity; trusted callers
CALL become('', '');
TABLE attempts;
CALL become('', '', db_role => 'regress_amt_gateway');
TABLE attempts;
CALL become('globex', 'viewer', 'gil', db_role => 'regress_amt_gateway', scopes => 'read');
SELECT key, by_id FROM attempts;
CALL become('', '', db_role => 'none');
TABLE attempts;

-- the refusals in full
CALL become('acme', 'viewer', 'bob');
SELECT amt_rotate_key(:'ann_1');
:sqlstate
SELECT amt_rotate_key(:'gus');
:sqlstate
SELECT amt_rotate_key('ZZZZZZZZZZZZ');
:sqlstate
SELECT amt_rotate_key(NULL);
:sqlstate
CALL become('acme', 'owner', '', :'ann_1');
SELECT amt_rotate_key(:'ann_1');
:sqlstate
BEGIN READ ONLY;
SELECT amt_rotate_key(:'ann_1');
:sqlstate
ROLLBACK;
-- a suspended key
CALL become('acme', 'admin', 'zoe');
UPDATE amt_keys SET suspended_at = now() WHERE key_id = :'ann_1';
SELECT amt_rotate_key(:'ann_1');
:sqlstate
SELECT amt_rotate_key(:'ann_1', '1 day');
:sqlstate
UPDATE amt_keys SET suspended_at = NULL WHERE key_id = :'ann_1';
SELECT name FROM amt_rotate_key(:'ann_1', '1 day');
-- an expired key: a new one, which lives as long
RESET ROLE;
UPDATE amt_key SET expires_at = now() WHERE key_id = :'ann_1';
CALL become('acme', 'admin', 'zoe');
SELECT attempt(format('SELECT name FROM amt_rotate_key(%L, expires_at => now() + ''1 day'')', :'ann_1')) AS expired;
-- a role that is no more in amt_keys.roles cannot be given again
RESET ROLE;
SET amt_keys.roles = 'viewer, admin';
SELECT attempt(format('SELECT name FROM amt_rotate_key(%L)', :'gus')) AS unknown_role;
RESET amt_keys.roles;

-- the new key's creator is the person who rotates
CALL become('acme', 'admin', 'zoe');
SELECT name FROM amt_rotate_key((SELECT key_id FROM amt_keys WHERE name = 'nobody'));
SELECT name, created_by FROM amt_keys WHERE name = 'nobody';
-- part of the transaction
BEGIN;
SELECT token AS new_token FROM amt_rotate_key(:'ann_2') \gset
ROLLBACK;
RESET ROLE;
SELECT name FROM unnest(array[:'new_token', (SELECT token FROM known WHERE who = 'ann 2')]) AS t, amt_verify(t);

DROP VIEW attempts;
DROP TABLE known;
DROP FUNCTION days;
DROP FUNCTION attempt;
DROP PROCEDURE become;
DROP EXTENSION amt_keys;
DROP OWNED BY regress_amt_gateway;
DROP ROLE regress_amt_gateway, regress_amt_web;
