--
-- Who is calling: the identity's settings, and the functions that read them
--
\set VERBOSITY default
\set SHOW_CONTEXT never
\set sqlstate '\\echo SQLSTATE :SQLSTATE'
SET client_min_messages = warning;
CREATE EXTENSION amt_keys;
CREATE ROLE regress_amt_app;
CREATE ROLE regress_amt_gateway;
CREATE ROLE regress_amt_web;
GRANT SET ON PARAMETER amt_keys.org_id, amt_keys.role, amt_keys.actor TO regress_amt_gateway;

-- no identity: everything is null, there is neither role nor scope
CREATE VIEW identity AS
	SELECT amt_org_id() AS org_id, amt_role() AS role, amt_scopes() AS scopes, amt_actor() AS actor, amt_key_id() AS key_id,
	       amt_has_role('viewer') AS viewer, amt_has_scope('read') AS read;
GRANT SELECT ON identity TO PUBLIC;
TABLE identity;
SELECT * FROM amt_whoami();
SELECT w IS NULL AS "null" FROM amt_whoami() AS w;
SELECT amt_require_role('viewer');
:sqlstate
SELECT amt_has_role(NULL);
SELECT amt_require_role(NULL);
:sqlstate

-- a session's, a transaction's, a savepoint's
SET amt_keys.org_id = 'acme';
SET amt_keys.role = 'editor';
SET amt_keys.actor = 'ann@acme.example';
TABLE identity;
SELECT * FROM amt_whoami();
SELECT amt_require_role('editor');
SELECT amt_require_role('admin');
:sqlstate
BEGIN;
SET LOCAL amt_keys.org_id = 'globex';
SAVEPOINT s;
SET LOCAL amt_keys.org_id = 'initech';
SET LOCAL amt_keys.role = 'owner';
TABLE identity;
ROLLBACK TO s;
TABLE identity;
SELECT set_config('amt_keys.org_id', 'hooli', true);
RELEASE s;
TABLE identity;
COMMIT;
TABLE identity;
BEGIN;
SET amt_keys.org_id = 'globex';
ROLLBACK;
SELECT amt_org_id();

-- empty is unset
SET amt_keys.actor = '';
SET amt_keys.role = '';
SELECT amt_role() IS NULL AS role, amt_actor() IS NULL AS actor, amt_has_role('viewer');
RESET amt_keys.org_id;
RESET amt_keys.actor;
RESET amt_keys.role;
TABLE identity;
SET amt_keys.org_id = 'acme';
RESET ALL;
SET client_min_messages = warning;
TABLE identity;

-- any text will do
SET amt_keys.org_id = E'O''Reilly & "Sons"; --\n\t%s $1 \\';
SELECT amt_org_id() = E'O''Reilly & "Sons"; --\n\t%s $1 \\' AS same;
SELECT length(set_config('amt_keys.org_id', repeat('x', 10000), false));
SELECT length(amt_org_id());
RESET amt_keys.org_id;

-- a role includes those before it; without an organization, or with an unknown name, there is none
CREATE FUNCTION has(identity_role text) RETURNS TABLE (viewer boolean, editor boolean, admin boolean, owner boolean)
LANGUAGE sql AS $$
	SELECT set_config('amt_keys.role', identity_role, false);
	SELECT amt_has_role('viewer'), amt_has_role('editor'), amt_has_role('admin'), amt_has_role('owner');
$$;
SET amt_keys.org_id = 'acme';
SELECT r AS role, h.* FROM unnest('{viewer,editor,admin,owner,Owner,guest,""}'::text[]) WITH ORDINALITY AS u (r, n), has(r) AS h ORDER BY n;
SET amt_keys.org_id = '';
SELECT r AS role, h.* FROM unnest('{viewer,editor,admin,owner}'::text[]) WITH ORDINALITY AS u (r, n), has(r) AS h ORDER BY n;
SET amt_keys.org_id = 'acme';
SET amt_keys.role = 'owner';
SELECT amt_has_role('Owner');
:sqlstate
SELECT amt_has_role('');
:sqlstate
SELECT amt_require_role('guest');
:sqlstate

-- other roles; a warning says that none of them is the manager role
SET amt_keys.roles = reader, writer;
SELECT amt_has_role('reader');
SET amt_keys.role = 'writer';
SELECT amt_has_role('reader'), amt_has_role('writer');
SELECT amt_has_role('viewer');
:sqlstate
SET amt_keys.roles = '"Team Lead", dev , "a, b"';
SET amt_keys.role = 'a, b';
SELECT amt_has_role('Team Lead'), amt_has_role('dev'), amt_has_role('a, b');
SET amt_keys.roles = single;
SET amt_keys.role = 'single';
SELECT amt_has_role('single');
-- nonsense is refused, and the setting stays as it was
SET amt_keys.roles = '';
:sqlstate
SET amt_keys.roles = ' ';
:sqlstate
SET amt_keys.roles = ',';
:sqlstate
SET amt_keys.roles = 'a,,b';
:sqlstate
SET amt_keys.roles = 'a, b,';
:sqlstate
SET amt_keys.roles = 'a b';
:sqlstate
SET amt_keys.roles = '"a';
:sqlstate
SET amt_keys.roles = '""';
:sqlstate
SET amt_keys.roles = 'a, b, a';
:sqlstate
SELECT set_config('amt_keys.roles', repeat('x', 64), false);
:sqlstate
SELECT length(set_config('amt_keys.roles', repeat('x', 63), false));
SET amt_keys.roles = single;
SELECT amt_has_role('single');
RESET amt_keys.roles;
RESET amt_keys.role;
RESET amt_keys.org_id;

-- code of a table's owner runs without an identity: indexes, materialized views
SET amt_keys.org_id = 'acme';
SET amt_keys.role = 'editor';
CREATE FUNCTION org(text) RETURNS text LANGUAGE plpgsql IMMUTABLE AS $$
BEGIN
	RAISE INFO '%', coalesce(public.amt_org_id(), 'nobody');
	RETURN $1;
END
$$;
CREATE TABLE note (text text);
INSERT INTO note VALUES ('a note');
SELECT org(text) FROM note;
CREATE INDEX ON note (org(text));
CREATE MATERIALIZED VIEW note_view AS SELECT amt_org_id() AS org_id, amt_has_role('viewer') AS viewer, amt_has_scope('read') AS read FROM note;
TABLE note_view;
REFRESH MATERIALIZED VIEW note_view;
TABLE note_view;
SELECT amt_org_id();
DROP MATERIALIZED VIEW note_view;
DROP TABLE note;
DROP FUNCTION org;
RESET amt_keys.org_id;
RESET amt_keys.role;

-- nobody else may set it, whichever way
SET ROLE regress_amt_web;
SET amt_keys.org_id = 'acme';
:sqlstate
SET amt_keys.role = 'owner';
:sqlstate
SELECT set_config('amt_keys.actor', 'ann', true);
:sqlstate
SELECT set_config('amt_keys.key_id', 'x', false);
:sqlstate
UPDATE pg_settings SET setting = 'acme' WHERE name = 'amt_keys.org_id';
:sqlstate
RESET amt_keys.org_id;
:sqlstate
SET amt_keys.roles = 'me';
:sqlstate
SET amt_keys.manager_role = 'viewer';
:sqlstate
SET amt_keys.scopes = '';
:sqlstate
SET amt_keys.token_prefixes = 'me';
:sqlstate
SET amt_keys.seal = 'x';
:sqlstate
ALTER ROLE regress_amt_web SET amt_keys.org_id = 'acme';
:sqlstate
CREATE FUNCTION pg_temp.f() RETURNS text LANGUAGE sql SET amt_keys.org_id = 'acme' AS 'SELECT amt_org_id()';
:sqlstate
TABLE identity;
RESET ROLE;

-- a role that was granted SET may set these three, to anything, and no other
SET ROLE regress_amt_gateway;
BEGIN;
SET LOCAL amt_keys.org_id = 'globex';
SET LOCAL amt_keys.role = 'viewer';
SET LOCAL amt_keys.actor = 'gil';
TABLE identity;
COMMIT;
TABLE identity;
SET amt_keys.key_id = 'x';
:sqlstate
SET amt_keys.scopes = 'x';
:sqlstate
SET amt_keys.roles = 'me';
:sqlstate
RESET ROLE;

-- a database of one organization, for roles that may not change it
ALTER ROLE regress_amt_app SET amt_keys.org_id = 'acme';
ALTER DATABASE :"DBNAME" SET amt_keys.org_id = 'acme';
ALTER DATABASE :"DBNAME" SET amt_keys.role = 'admin';
ALTER DATABASE :"DBNAME" SET amt_keys.scopes = 'read,write';
ALTER DATABASE :"DBNAME" SET amt_keys.actor = 'the app';
\c -
SET client_min_messages = warning;
SET SESSION AUTHORIZATION regress_amt_app;
TABLE identity;
SELECT * FROM amt_whoami();
SET amt_keys.org_id = 'globex';
:sqlstate
RESET amt_keys.org_id;
:sqlstate
SET amt_keys.scopes = 'delete';
:sqlstate
SET ROLE NONE;
RESET ALL;
SET client_min_messages = warning;
TABLE identity;
ALTER ROLE regress_amt_app SET amt_keys.org_id = 'globex';
:sqlstate
ALTER ROLE regress_amt_app RESET amt_keys.org_id;
:sqlstate
RESET SESSION AUTHORIZATION;
ALTER DATABASE :"DBNAME" RESET amt_keys.org_id;
ALTER DATABASE :"DBNAME" RESET amt_keys.role;
ALTER DATABASE :"DBNAME" RESET amt_keys.scopes;
ALTER DATABASE :"DBNAME" RESET amt_keys.actor;

-- settings that a stranger makes before the library is loaded are thrown away;
-- if the server has loaded it already, they cannot be made
\c -
SET client_min_messages = error;
SET SESSION AUTHORIZATION regress_amt_web;
DO $$
DECLARE
	setting text;
BEGIN
	FOREACH setting IN ARRAY array['org_id', 'role', 'scopes', 'actor', 'key_id', 'anything'] LOOP
		BEGIN
			PERFORM set_config('amt_keys.' || setting, 'owner', false);
		EXCEPTION WHEN insufficient_privilege OR invalid_name THEN
			NULL;
		END;
	END LOOP;
END
$$;
TABLE identity;
SELECT current_setting('amt_keys.org_id');
SET client_min_messages = warning;
-- from then on the prefix is closed
SET amt_keys.anything = 'x';
:sqlstate
-- settings that the gateway makes before are kept
\c -
SET client_min_messages = warning;
SET SESSION AUTHORIZATION regress_amt_gateway;
SET amt_keys.org_id = 'globex';
SET amt_keys.role = 'viewer';
TABLE identity;

RESET SESSION AUTHORIZATION;
DROP VIEW identity;
DROP FUNCTION has;
DROP EXTENSION amt_keys;
DROP OWNED BY regress_amt_gateway;
DROP ROLE regress_amt_app, regress_amt_gateway, regress_amt_web;
