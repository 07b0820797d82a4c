--
-- Managing keys by statements on the view amt_keys: renaming, prolonging,
-- suspending, resuming and revoking, many at once
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

-- two keys of ann's at acme, one whose creator is not known, and one of gus's at globex
CREATE PROCEDURE refill() LANGUAGE plpgsql AS $$
BEGIN
	DELETE FROM amt_key;
	DELETE FROM amt_key_event;
	INSERT INTO amt_key (key_id, org_id, name, role, scrypt_hash, created_at, created_by)
	SELECT id, org, replace(id, '0', ' '), 'editor', '$scrypt$ln=4,r=8,p=1$MDEyMzQ1Njc4OWFiY2RlZg$4Z60JOvkyYBPBM4bVtRQfK+3gSDiIvgitxsuRN98NjU', '2020-01-01', by
	FROM (VALUES ('ann01', 'acme', 'ann'), ('ann02', 'acme', 'ann'), ('nobody', 'acme', NULL), ('gus', 'globex', 'gus')) AS v (id, org, by);
END
$$;
CALL refill();
-- the secret of all of them is 0123456789abcdef
CREATE VIEW verified AS SELECT v.key_id, v.name FROM unnest(array['ann01', 'ann02', 'nobody', 'gus']) AS id, amt_verify('amt_' || id || '_0123456789abcdef') AS v;

-- each caller: the keys that it sees, may manage, changes, suspends and deletes
CREATE FUNCTION ids(statement text) RETURNS text LANGUAGE sql AS $$
	SELECT attempt(format('WITH r AS (%s RETURNING key_id) SELECT coalesce(string_agg(key_id, '' '' ORDER BY key_id), ''-'') FROM r', statement))
$$;
CREATE FUNCTION reach_of(org_id text, role text, actor text DEFAULT '', key_id text DEFAULT '', db_role text DEFAULT 'regress_amt_web') RETURNS SETOF text
LANGUAGE plpgsql AS $$
DECLARE
	r record;
BEGIN
	CALL become(org_id, role, actor, key_id, db_role);
	SELECT (SELECT string_agg(k.key_id, ' ' ORDER BY k.key_id) FROM amt_keys AS k) AS seen,
	       (SELECT string_agg(k.key_id, ' ' ORDER BY k.key_id) FROM amt_keys AS k WHERE amt_may_manage(k.key_id, k.org_id, k.created_by)) AS managed,
	       ids('UPDATE amt_keys SET name = ''new''') AS renamed,
	       ids('UPDATE amt_keys SET expires_at = ''2200-01-01''') AS prolonged,
	       ids('UPDATE amt_keys SET suspended_at = now()') AS suspended,
	       ids('DELETE FROM amt_keys') AS deleted INTO r;
	RETURN NEXT format('sees %s; manages %s; renames %s; prolongs %s; suspends %s; deletes %s', coalesce(r.seen, '-'), coalesce(r.managed, '-'), r.renamed, r.prolonged, r.suspended, r.deleted);
	RESET ROLE;
END
$$;
SELECT reach_of('acme', 'viewer', 'bob') AS viewer;
SELECT reach_of('acme', 'editor', 'bob') AS editor;
SELECT reach_of('acme', 'viewer', 'ann') AS creator;
SELECT reach_of('acme', '', 'ann') AS creator_without_role;
SELECT reach_of('globex', 'viewer', 'ann') AS creator_elsewhere;
SELECT reach_of('acme', 'editor') AS no_actor;
SELECT reach_of('acme', 'admin', 'zoe') AS manager;
SELECT reach_of('acme', 'owner') AS above_manager;
SELECT reach_of('globex', 'owner', 'zoe') AS manager_elsewhere;
-- a key deletes itself, and changes nothing
SELECT reach_of('acme', 'editor', '', 'ann01') AS key;
SELECT reach_of('acme', 'owner', '', 'ann01') AS manager_key;
SELECT reach_of('acme', 'owner', 'ann', 'ann01') AS key_with_actor;
SELECT reach_of('globex', 'owner', '', 'ann01') AS key_elsewhere;
SELECT reach_of('', '') AS no_identity;
SELECT reach_of('', 'owner', 'ann') AS no_organization;
-- trusted callers manage all that they see
SELECT reach_of('acme', 'viewer', 'gil', '', 'regress_amt_gateway') AS gateway;
SELECT reach_of('', '', '', '', 'regress_amt_gateway') AS gateway_without_identity;
SELECT reach_of('acme', 'viewer', '', 'ann01', 'regress_amt_gateway') AS gateway_for_a_key;
SELECT reach_of('', '', '', '', 'none') AS superuser;
SELECT reach_of('acme', 'owner', '', 'ann01', 'none') AS superuser_for_a_key;
-- the manager role is a setting
SET amt_keys.manager_role = 'owner';
SELECT reach_of('acme', 'admin', 'zoe') AS below_manager;
RESET amt_keys.manager_role;

-- amt_may_manage() by itself
CALL become('acme', 'viewer', 'ann');
SELECT amt_may_manage('x', 'acme', 'ann'), amt_may_manage('x', 'acme', 'bob'), amt_may_manage('x', 'globex', 'ann'), amt_may_manage('x', 'acme', NULL),
       amt_may_manage(NULL, 'acme', 'ann'), amt_may_manage('x', NULL, 'ann'), amt_may_manage(NULL, NULL, NULL);
CALL become('acme', 'admin');
SELECT amt_may_manage('x', 'acme', NULL), amt_may_manage('x', 'globex', NULL);
CALL become('acme', 'admin', '', 'x');
SELECT amt_may_manage('x', 'acme', NULL), amt_may_manage('y', 'acme', NULL);
CALL become('', '', db_role => 'regress_amt_gateway');
SELECT amt_may_manage('x', 'acme', NULL), amt_may_manage('x', 'globex', 'gus');

-- many at once, only what the condition names, and rows that are passed over
CALL become('acme', 'viewer', 'ann');
UPDATE amt_keys SET name = 'mine: ' || name RETURNING key_id, name, org_id, role, suspended_at, calls;
SELECT key_id, name FROM amt_keys ORDER BY key_id;
UPDATE amt_keys SET name = 'x' WHERE key_id = 'nobody' RETURNING key_id;
UPDATE amt_keys SET name = 'x' WHERE key_id = 'gus' RETURNING key_id;
UPDATE amt_keys SET name = 'x' WHERE key_id = 'none' RETURNING key_id;
DELETE FROM amt_keys WHERE key_id IN ('nobody', 'gus', 'none') RETURNING key_id;
DELETE FROM amt_keys WHERE name LIKE 'mine%' AND key_id > 'ann01' RETURNING key_id, name, org_id, role, created_by, calls;
SELECT key_id FROM amt_keys ORDER BY key_id;
CALL become('acme', 'admin', 'zoe');
WITH gone AS (DELETE FROM amt_keys WHERE created_by IS NULL RETURNING *) SELECT key_id, name FROM gone;
RESET ROLE;
SELECT key_id, name FROM verified;
SELECT event, key_id, name, actor, by_key, calls FROM amt_key_event WHERE event <> 'created' ORDER BY event_id;
CALL refill();

-- suspended: it does not verify and stays in the list, until it is resumed
CALL become('acme', 'admin', 'zoe');
UPDATE amt_keys SET suspended_at = '2020-02-02 00:00+00' WHERE key_id LIKE 'ann%' RETURNING key_id, suspended_at;
SELECT key_id, suspended_at FROM amt_keys ORDER BY key_id;
RESET ROLE;
SELECT key_id FROM verified;
-- the creator resumes, as the manager does; a change of the time is no resumption
CALL become('acme', 'viewer', 'ann');
UPDATE amt_keys SET suspended_at = now() + '1 day' WHERE key_id = 'ann01';
UPDATE amt_keys SET suspended_at = NULL WHERE key_id = 'ann02';
RESET ROLE;
SELECT key_id FROM verified;
CALL become('acme', 'admin', 'zoe');
UPDATE amt_keys SET suspended_at = NULL;
-- a suspended key can be renamed and revoked
UPDATE amt_keys SET suspended_at = now() WHERE key_id = 'ann01';
UPDATE amt_keys SET name = 'renamed' WHERE key_id = 'ann01';
DELETE FROM amt_keys WHERE key_id = 'ann01';
RESET ROLE;
SELECT key_id FROM verified;
SELECT event, key_id, name, actor FROM amt_key_event WHERE event <> 'created' ORDER BY event_id;
CALL refill();

-- names as for amt_create_key(), expiries of any kind
CALL become('acme', 'admin', 'zoe');
SELECT what, attempt(format('WITH u AS (UPDATE amt_keys SET name = %L WHERE key_id = ''ann01'' RETURNING name) SELECT ''"'' || name || ''"'' FROM u', name))
FROM (VALUES
	(1, 'trimmed', '  a name '),
	(2, 'empty', ''),
	(3, 'blanks', '  '),
	(4, 'null', NULL),
	(5, '101 characters', repeat('x', 101)),
	(6, 'line feed', E'a\nb'),
	(7, 'a token', 'amt_abc123_xyz789abcdefghij')) AS v (n, what, name) ORDER BY n;
UPDATE amt_keys SET name = E'a\nb' WHERE key_id = 'ann01';
:sqlstate
SELECT e, attempt(format('WITH u AS (UPDATE amt_keys SET expires_at = %L WHERE key_id = ''ann01'' RETURNING expires_at) SELECT coalesce(expires_at::text, ''never'') FROM u', e))
FROM unnest(array['2200-01-01 00:00+00', 'infinity', '2001-01-01 00:00+00', '-infinity', NULL]) WITH ORDINALITY AS u (e, n) ORDER BY n;
-- a key that has expired is in the list no more, and is not brought back by it
UPDATE amt_keys SET expires_at = now() WHERE key_id = 'ann01' RETURNING key_id;
UPDATE amt_keys SET expires_at = NULL WHERE key_id = 'ann01' RETURNING key_id;
DELETE FROM amt_keys WHERE key_id = 'ann01' RETURNING key_id;
SELECT amt_revoke('ann01');

-- the other columns: no privilege, and for the owner an error
UPDATE amt_keys SET role = 'owner';
:sqlstate
UPDATE amt_keys SET key_id = 'x' WHERE key_id = 'ann02';
:sqlstate
INSERT INTO amt_keys (key_id, name) VALUES ('x', 'x');
:sqlstate
SELECT column_name, has_column_privilege('regress_amt_web', 'amt_keys', column_name, 'UPDATE') AS update
FROM information_schema.columns WHERE table_name = 'amt_keys' AND has_column_privilege('regress_amt_web', 'amt_keys', column_name, 'UPDATE') ORDER BY ordinal_position;
CALL become('', '', db_role => 'none');
CREATE FUNCTION changed(column_name text, value text) RETURNS text LANGUAGE sql AS $$
	SELECT attempt(format('WITH u AS (UPDATE amt_keys SET %I = %s WHERE key_id = ''ann02'' RETURNING key_id) SELECT key_id FROM u', column_name, value))
$$;
SELECT column_name, changed(column_name, CASE data_type WHEN 'text' THEN quote_literal('other') WHEN 'ARRAY' THEN quote_literal('{read}') WHEN 'bigint' THEN '99' ELSE 'now()' END)
FROM information_schema.columns WHERE table_name = 'amt_keys' ORDER BY ordinal_position;
SELECT changed('role', 'role') AS unchanged, changed('scopes', 'NULL') AS unchanged_null, changed('calls', 'calls') AS unchanged_calls;
UPDATE amt_keys SET org_id = 'globex' WHERE key_id = 'ann02';
:sqlstate
-- nothing is written, and no event, if nothing changes
SELECT count(*) AS events FROM amt_key_event \gset
SELECT xmin AS xmin, ctid AS ctid FROM amt_key WHERE key_id = 'ann02' \gset
UPDATE amt_keys SET name = name, expires_at = expires_at, suspended_at = NULL WHERE key_id = 'ann02' RETURNING key_id;
SELECT xmin = :'xmin' AS xmin, ctid = :'ctid' AS ctid FROM amt_key WHERE key_id = 'ann02';
SELECT count(*) - :events AS events FROM amt_key_event;

-- without the privileges on the view there is no way, by the table neither
REVOKE DELETE, UPDATE (name, expires_at, suspended_at) ON amt_keys FROM PUBLIC;
CALL become('acme', 'admin', 'zoe');
UPDATE amt_keys SET name = 'x';
:sqlstate
DELETE FROM amt_keys;
:sqlstate
DELETE FROM amt_key;
:sqlstate
RESET ROLE;
GRANT DELETE, UPDATE (name, expires_at, suspended_at) ON amt_keys TO PUBLIC;

-- a part of the transaction, refused where it is read-only
BEGIN;
DELETE FROM amt_keys RETURNING key_id;
SELECT key_id FROM verified;
ROLLBACK;
BEGIN;
SAVEPOINT s;
UPDATE amt_keys SET suspended_at = now();
SELECT key_id FROM verified;
ROLLBACK TO s;
SELECT key_id FROM verified ORDER BY key_id;
COMMIT;
BEGIN READ ONLY;
UPDATE amt_keys SET name = 'x';
:sqlstate
ROLLBACK;
BEGIN READ ONLY;
DELETE FROM amt_keys;
:sqlstate
ROLLBACK;

-- the trigger functions serve these triggers only
CREATE VIEW other AS SELECT * FROM amt_keys;
CREATE TRIGGER other INSTEAD OF DELETE ON other FOR EACH ROW EXECUTE FUNCTION amt_keys_delete();
DELETE FROM other;
:sqlstate
DROP VIEW other;
CREATE TABLE other (key_id text);
CREATE TRIGGER other BEFORE UPDATE ON other FOR EACH ROW EXECUTE FUNCTION amt_keys_update();
INSERT INTO other VALUES ('ann02');
UPDATE other SET key_id = 'x';
:sqlstate
DROP TABLE other;
-- a view on top of the view deletes and updates as the view does
CREATE VIEW top WITH (security_invoker = true) AS SELECT key_id, name FROM amt_keys;
GRANT SELECT, DELETE, UPDATE ON top TO regress_amt_web;
CALL become('acme', 'viewer', 'ann');
UPDATE top SET name = 'by another view' RETURNING *;
UPDATE top SET key_id = 'x';
:sqlstate
DELETE FROM top RETURNING *;
RESET ROLE;
SELECT key_id FROM amt_keys ORDER BY key_id;

DROP VIEW top, verified;
DROP FUNCTION changed, ids, reach_of;
DROP PROCEDURE refill;
DROP FUNCTION attempt;
DROP PROCEDURE become;
DROP EXTENSION amt_keys;
DROP OWNED BY regress_amt_gateway;
DROP ROLE regress_amt_gateway, regress_amt_web;
