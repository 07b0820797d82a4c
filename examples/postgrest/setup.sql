-- An API with keys behind PostgREST: roles, a table of notes, and what people and keys may do with it.
--
-- Run it once, as a superuser, in an empty database:
--     psql -d app -v password=... -f setup.sql
--
-- Two schemas: amt holds the extension and is not exposed; api is what PostgREST shows to the world.  So nothing of the
-- extension is reachable over HTTP but the three things that api offers under the same names.

\set ON_ERROR_STOP on
BEGIN;

-- PostgREST logs in as authenticator and becomes one of the others for the time of a request.
CREATE ROLE authenticator LOGIN NOINHERIT PASSWORD :'password';
CREATE ROLE anon NOLOGIN;			-- whoever shows nothing
CREATE ROLE web_user NOLOGIN;		-- people: the "role" of a JWT
CREATE ROLE web_agent NOLOGIN;		-- keys: amt_keys.db_role
GRANT anon, web_user, web_agent TO authenticator;

CREATE SCHEMA amt;
CREATE EXTENSION amt_keys SCHEMA amt;
GRANT USAGE ON SCHEMA amt TO anon, web_user, web_agent;

-- A session of authenticator may say who is calling: amt_authenticate() believes the claims that PostgREST has checked.
GRANT SET ON PARAMETER amt_keys.org_id TO authenticator;
-- A good key makes the request run as this role, whatever it began as.
ALTER ROLE authenticator SET amt_keys.db_role = 'web_agent';
-- Masks tokens in the server's log from a session's first statement on.
ALTER ROLE authenticator SET session_preload_libraries = 'amt_keys';

-- What the API is about.  The role in the organization decides in the policies, the database role in the grants.
CREATE SCHEMA api;
GRANT USAGE ON SCHEMA api TO anon, web_user, web_agent;

CREATE TABLE api.note (
	id bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
	org_id text NOT NULL DEFAULT amt.amt_org_id(),
	author text NOT NULL DEFAULT coalesce(amt.amt_actor(), 'key ' || amt.amt_key_id()),
	body text NOT NULL CHECK (length(body) BETWEEN 1 AND 10000)
);
CREATE INDEX ON api.note (org_id);

ALTER TABLE api.note ENABLE ROW LEVEL SECURITY;
CREATE POLICY note_read ON api.note FOR SELECT
	USING (org_id = (SELECT amt.amt_org_id()));
CREATE POLICY note_insert ON api.note FOR INSERT
	WITH CHECK (org_id = (SELECT amt.amt_org_id()) AND (SELECT amt.amt_has_role('editor')));
CREATE POLICY note_update ON api.note FOR UPDATE
	USING (org_id = (SELECT amt.amt_org_id()) AND (SELECT amt.amt_has_role('editor')));
CREATE POLICY note_delete ON api.note FOR DELETE
	USING (org_id = (SELECT amt.amt_org_id()) AND (SELECT amt.amt_has_role('editor')));
GRANT SELECT, INSERT (body), UPDATE (body), DELETE ON api.note TO web_user, web_agent;

-- Who does the server take me for?
CREATE FUNCTION api.whoami(OUT org_id text, OUT role text, OUT actor text, OUT key_id text, OUT key_name text)
	LANGUAGE sql STABLE PARALLEL SAFE
BEGIN ATOMIC
	SELECT w.org_id, w.role, w.actor, w.key_id, w.key_name FROM amt.amt_whoami() w;
END;

-- For admins only, people and keys alike: amt_require_role() makes a 403 of anything less.
CREATE FUNCTION api.delete_all_notes() RETURNS bigint LANGUAGE plpgsql
	SET search_path = pg_catalog, pg_temp
AS $$
DECLARE
	deleted bigint;
BEGIN
	PERFORM amt.amt_require_role('admin');
	DELETE FROM api.note;
	GET DIAGNOSTICS deleted = ROW_COUNT;
	RETURN deleted;
END
$$;

-- The keys page: list, create, revoke.  Who may do what is the extension's affair, not repeated here; the organization
-- is always the caller's, so it is not even a parameter.
CREATE VIEW api.amt_keys WITH (security_invoker = true) AS
	SELECT key_id, name, token_prefix, role, created_at, created_by, expires_at, calls, last_used_at FROM amt.amt_keys;

CREATE FUNCTION api.amt_create_key(name text, role text DEFAULT NULL, expires_at timestamptz DEFAULT NULL)
	RETURNS amt.amt_new_key LANGUAGE sql VOLATILE
BEGIN ATOMIC
	SELECT amt.amt_create_key(name => name, role => role, expires_at => expires_at);
END;

CREATE FUNCTION api.amt_revoke(key text) RETURNS boolean LANGUAGE sql VOLATILE
BEGIN ATOMIC
	SELECT amt.amt_revoke(key);
END;

REVOKE EXECUTE ON ALL FUNCTIONS IN SCHEMA api FROM PUBLIC;
GRANT SELECT ON api.amt_keys TO web_user;
GRANT EXECUTE ON FUNCTION api.amt_create_key TO web_user;
GRANT EXECUTE ON FUNCTION api.whoami, api.delete_all_notes TO web_user, web_agent;
-- Anonymous too: whoever finds a key in a log or a repository can revoke it by showing it.
GRANT EXECUTE ON FUNCTION api.amt_revoke TO anon, web_user, web_agent;

COMMIT;
