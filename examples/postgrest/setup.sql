-- An API with keys behind PostgREST: roles, a table of notes, and what people and keys may do with it.
--
-- Run it as a superuser in each database that gets such an API.  Roles belong to the whole server, so a second database
-- finds them there:
--     psql -d notes -v password=... -f setup.sql
-- Without a password given here, authenticator keeps the one it has, or has none.
--
-- Two schemas: amt holds the extension and is not exposed; api is what PostgREST shows to the world.  So nothing of the
-- extension is reachable over HTTP but what api offers under the same names.

\set ON_ERROR_STOP on
BEGIN;
-- As a superuser, call nothing that others have put into schema public.
SET LOCAL search_path = pg_catalog, pg_temp;

-- PostgREST logs in as authenticator and becomes one of the others for the time of a request: anon without credentials,
-- web_user for people (the "role" of a JWT), web_agent for keys (amt_keys.db_role).
SELECT format('CREATE ROLE %I %s', role.name, role.options)
FROM (VALUES ('authenticator', 'LOGIN NOINHERIT'), ('anon', 'NOLOGIN'), ('web_user', 'NOLOGIN'), ('web_agent', 'NOLOGIN'))
	AS role (name, options)
WHERE NOT EXISTS (SELECT FROM pg_roles WHERE rolname = role.name)
\gexec
GRANT anon, web_user, web_agent TO authenticator;
\if :{?password}
ALTER ROLE authenticator PASSWORD :'password';
\endif

-- Fails in a schema that somebody else has made: its owner could swap it.
SELECT 'CREATE SCHEMA amt' WHERE NOT EXISTS (SELECT FROM pg_extension WHERE extname = 'amt_keys' AND extnamespace = to_regnamespace('amt'))
\gexec
CREATE EXTENSION IF NOT EXISTS amt_keys SCHEMA amt;
GRANT USAGE ON SCHEMA amt TO anon, web_user, web_agent;

-- A session of authenticator may say who is calling: amt_authenticate() believes the claims that PostgREST has checked.
GRANT SET ON PARAMETER amt_keys.org_id TO authenticator;
-- A good key makes the request run as this role, whatever it began as.
ALTER ROLE authenticator IN DATABASE :"DBNAME" SET amt_keys.db_role = 'web_agent';
-- Masks tokens in the server's log from a session's first statement on.
ALTER ROLE authenticator IN DATABASE :"DBNAME" SET session_preload_libraries = 'amt_keys';
-- A temporary table, or a function in a schema of the search_path, would outlive its request, and the next one would find
-- it before the real one.
REVOKE TEMPORARY ON DATABASE :"DBNAME" FROM PUBLIC;
REVOKE CREATE ON SCHEMA public FROM PUBLIC;

-- The table that the API is about.  The role in the organization and the key's scopes decide in the policies, the
-- database role in the grants.
CREATE SCHEMA api;
GRANT USAGE ON SCHEMA api TO anon, web_user, web_agent;

CREATE TABLE api.note (
	id bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
	org_id text NOT NULL DEFAULT amt.amt_org_id(),
	author text NOT NULL DEFAULT coalesce(amt.amt_actor(), 'key ' || amt.amt_key_id()),
	body text NOT NULL CHECK (length(body) BETWEEN 1 AND 10000)
);
CREATE INDEX ON api.note (org_id);
-- The planner's estimates, which "Prefer: count=planned" tells, must not show values of other organizations.
ALTER TABLE api.note ALTER org_id SET STATISTICS 0, ALTER author SET STATISTICS 0, ALTER body SET STATISTICS 0;

ALTER TABLE api.note ENABLE ROW LEVEL SECURITY;
CREATE POLICY note_read ON api.note FOR SELECT
	USING (amt.amt_is_own(org_id) AND org_id = amt.amt_org_id() AND (SELECT amt.amt_has_scope('notes:read')));
CREATE POLICY note_insert ON api.note FOR INSERT
	WITH CHECK (org_id = (SELECT amt.amt_org_id())
		AND (SELECT amt.amt_has_role('editor') AND amt.amt_has_scope('notes:write')));
CREATE POLICY note_update ON api.note FOR UPDATE
	USING (amt.amt_is_own(org_id) AND org_id = amt.amt_org_id()
		AND (SELECT amt.amt_has_role('editor') AND amt.amt_has_scope('notes:write')));
CREATE POLICY note_delete ON api.note FOR DELETE
	USING (amt.amt_is_own(org_id) AND org_id = amt.amt_org_id()
		AND (SELECT amt.amt_has_role('editor') AND amt.amt_has_scope('notes:write')));
GRANT SELECT, INSERT (body), UPDATE (body), DELETE ON api.note TO web_user, web_agent;

-- Each function below has SET search_path, which also keeps PostgreSQL from inlining it: a plan that has a function
-- inlined and is used again no longer asks for EXECUTE on it, whichever role the next request has.

-- Who does the server take me for?
CREATE FUNCTION api.whoami(OUT org_id text, OUT role text, OUT scopes text[], OUT actor text, OUT key_id text, OUT key_name text)
	LANGUAGE sql STABLE PARALLEL SAFE
	SET search_path = pg_catalog, pg_temp
BEGIN ATOMIC
	SELECT w.org_id, w.role, w.scopes, w.actor, w.key_id, w.key_name FROM amt.amt_whoami() w;
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

-- The keys page: list, create, rotate, rename, prolong, suspend, revoke.  The extension decides who may do what; none of
-- its rules is repeated here.  The organization is always the caller's, so it is not even a parameter.
CREATE VIEW api.amt_keys WITH (security_invoker = true) AS
	SELECT key_id, name, token_prefix, role, scopes, created_at, created_by, expires_at, suspended_at, replaces, calls, last_used_at,
		amt.amt_may_manage(key_id, org_id, created_by) AS can_manage
	FROM amt.amt_keys;

CREATE FUNCTION api.amt_create_key(name text, role text DEFAULT NULL, scopes text[] DEFAULT NULL, expires_at timestamptz DEFAULT NULL)
	RETURNS amt.amt_new_key LANGUAGE sql VOLATILE
	SET search_path = pg_catalog, pg_temp
BEGIN ATOMIC
	SELECT amt.amt_create_key(name => name, role => role, scopes => scopes, expires_at => expires_at);
END;

CREATE FUNCTION api.amt_rotate_key(key text, grace interval DEFAULT '0')
	RETURNS amt.amt_new_key LANGUAGE sql VOLATILE
	SET search_path = pg_catalog, pg_temp
BEGIN ATOMIC
	SELECT amt.amt_rotate_key(key, grace);
END;

CREATE FUNCTION api.amt_revoke(key text) RETURNS boolean LANGUAGE sql VOLATILE
	SET search_path = pg_catalog, pg_temp
BEGIN ATOMIC
	SELECT amt.amt_revoke(key);
END;

REVOKE EXECUTE ON ALL FUNCTIONS IN SCHEMA api FROM PUBLIC;
-- PATCH renames, prolongs and suspends; DELETE revokes.
GRANT SELECT, UPDATE (name, expires_at, suspended_at), DELETE ON api.amt_keys TO web_user;
GRANT EXECUTE ON FUNCTION api.amt_create_key, api.amt_rotate_key TO web_user;
GRANT EXECUTE ON FUNCTION api.whoami, api.delete_all_notes TO web_user, web_agent;
-- Anonymous too: a person who finds a key in a log or a repository can revoke it by showing it.
GRANT EXECUTE ON FUNCTION api.amt_revoke TO anon, web_user, web_agent;

COMMIT;
