-- What the owner of the tables attaches to them or forces into them
-- the state and the message of an error only
\set VERBOSITY terse
\set ON_ERROR_STOP 0
CREATE EXTENSION amt_keys;
SET amt_keys.scrypt_ln = 4;
CREATE ROLE regress_amt_person;
CREATE FUNCTION attempt(statement text) RETURNS text LANGUAGE plpgsql AS $$
DECLARE
	state text;
	message text;
	detail text;
BEGIN
	EXECUTE statement;
	RETURN 'done';
EXCEPTION WHEN OTHERS THEN
	GET STACKED DIAGNOSTICS state = RETURNED_SQLSTATE, message = MESSAGE_TEXT, detail = PG_EXCEPTION_DETAIL;
	RETURN state || ' ' || message || CASE WHEN detail <> '' THEN ' (' || regexp_replace(detail, '[0-9A-Za-z]{12}', '<id>') || ')' ELSE '' END;
END
$$;
SELECT key_id, token FROM amt_create_key('a key', 'acme', 'editor') \gset

-- an error tells a person no hash, whatever constraint the owner has added
ALTER TABLE amt_key ADD CONSTRAINT short CHECK (length(name) <= 10);
BEGIN;
SET LOCAL amt_keys.org_id = 'acme';
SET LOCAL amt_keys.role = 'admin';
SET LOCAL ROLE regress_amt_person;
SELECT attempt(format('UPDATE amt_keys SET name = %L WHERE key_id = %L', 'a longer name', :'key_id'));
SELECT attempt($$SELECT amt_create_key('a longer name')$$);
COMMIT;
ALTER TABLE amt_key DROP CONSTRAINT short;
SELECT attempt(format('SELECT amt_import_key(sha256(%L), %L, %L, %L)', i, 'twice', 'acme', 'viewer')) FROM unnest(array['x', 'x']) AS i;

-- what the functions do is recorded in a session that replicates, too
SET session_replication_role = replica;
SELECT amt_revoke(key_id) FROM amt_create_key('replicated', 'acme', 'viewer');
RESET session_replication_role;
SELECT event FROM amt_key_event WHERE name = 'replicated' ORDER BY event_id;

-- a number of calls stays one
INSERT INTO amt_key_usage VALUES (:'key_id', 9223372036854775807, now());
SELECT name FROM amt_verify(:'token');
SELECT calls FROM amt_keys WHERE key_id = :'key_id';
SELECT amt_flush_usage();
SELECT calls FROM amt_key_usage WHERE key_id = :'key_id';
SELECT calls FROM amt_keys WHERE key_id = :'key_id';

-- a row that the same statement deletes is gone
SELECT key_id AS other FROM amt_create_key('deleted', 'acme', 'viewer') \gset
SET statement_timeout = '20s';
DELETE FROM amt_key WHERE key_id = :'other' RETURNING amt_revoke(key_id);
RESET statement_timeout;

-- the triggers of the view are for their own events
CREATE TRIGGER wrong INSTEAD OF INSERT ON amt_keys FOR EACH ROW EXECUTE FUNCTION amt_keys_update();
INSERT INTO amt_keys (key_id) VALUES ('x');
DROP TRIGGER wrong ON amt_keys;
CREATE TRIGGER a_wrong_one INSTEAD OF DELETE ON amt_keys FOR EACH ROW EXECUTE FUNCTION amt_keys_update();
DELETE FROM amt_keys WHERE key_id = :'key_id';
DROP TRIGGER a_wrong_one ON amt_keys;
CREATE TRIGGER a_wrong_one INSTEAD OF UPDATE ON amt_keys FOR EACH ROW EXECUTE FUNCTION amt_keys_delete();
UPDATE amt_keys SET name = 'x' WHERE key_id = :'key_id';
DROP TRIGGER a_wrong_one ON amt_keys;

-- an imported key whose id is too long is none
ALTER TABLE amt_key DISABLE TRIGGER amt_key_guard;
INSERT INTO amt_key (key_id, token_prefix, org_id, name, role, token_sha256, created_at)
SELECT repeat('k', n), 'x', 'acme', 'long', 'viewer', sha256(('token ' || n)::bytea || 'x'), now() FROM unnest(array[64, 65]) AS n;
UPDATE amt_key SET token_sha256 = sha256(('token-' || length(key_id))::bytea) WHERE name = 'long';
SELECT length(key_id) FROM unnest(array['token-64', 'token-65']) AS t, amt_verify(t);

-- a key without a role or an organization is nobody, for PostgREST too
UPDATE amt_key SET role = '' WHERE key_id = :'key_id';
SET amt_keys.db_role = 'regress_amt_{role}';
BEGIN;
SELECT set_config('request.headers', json_build_object('x-api-key', :'token')::text, true) IS NOT NULL AS set;
SELECT amt_authenticate();
ROLLBACK;
-- nor does a role that is none of amt_keys.roles lead to a database role
UPDATE amt_key SET role = 'person' WHERE key_id = :'key_id';
BEGIN;
SELECT set_config('request.headers', json_build_object('x-api-key', :'token')::text, true) IS NOT NULL AS set;
SELECT amt_authenticate();
ROLLBACK;
UPDATE amt_key SET role = 'editor', org_id = '' WHERE key_id = :'key_id';
BEGIN;
SELECT set_config('request.headers', json_build_object('x-api-key', :'token')::text, true) IS NOT NULL AS set;
SELECT amt_authenticate();
ROLLBACK;
RESET amt_keys.db_role;

DROP EXTENSION amt_keys;
DROP FUNCTION attempt;
DROP ROLE regress_amt_person;
