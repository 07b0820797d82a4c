-- What the example needs: the extension in the schema amt, one table and three roles.
-- Run once in each database, as a superuser:  psql -d mcp_notes -f schema.sql

\set ON_ERROR_STOP on
BEGIN;
-- As a superuser, call nothing that others have put into schema public.
SET LOCAL search_path = pg_catalog, pg_temp;

-- Fails in a schema that somebody else has made: its owner could swap it.
SELECT 'CREATE SCHEMA amt' WHERE NOT EXISTS (SELECT FROM pg_extension WHERE extname = 'amt_keys' AND extnamespace = to_regnamespace('amt'))
\gexec
CREATE EXTENSION IF NOT EXISTS amt_keys SCHEMA amt;

-- Roles belong to all databases of the server, so another run may have made them already.
--
-- notes_mcp: the MCP server signs in as this role.  It can ask whose key a token is, and use the table below.
-- notes_gateway: the settings page signs in as this role.  It says which person asks, and then steps down in each
-- transaction to notes_person, which cannot.  NOINHERIT: the gateway itself can read no key.
SELECT format('CREATE ROLE %I %s', name, options)
  FROM (VALUES ('notes_mcp', 'LOGIN'), ('notes_person', 'NOLOGIN'),
               ('notes_gateway', 'LOGIN NOINHERIT IN ROLE notes_person')) AS roles (name, options)
 WHERE to_regrole(name) IS NULL \gexec

GRANT USAGE ON SCHEMA amt TO notes_mcp, notes_person;
GRANT EXECUTE ON FUNCTION amt.amt_verify(text, boolean) TO notes_mcp;
GRANT SET ON PARAMETER amt_keys.org_id, amt_keys.role, amt_keys.scopes, amt_keys.actor TO notes_gateway;

-- The application's table.  Its policies say once who may do what, for every tool.
CREATE TABLE public.notes (
    note_id    bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    org_id     text NOT NULL DEFAULT amt.amt_org_id(),
    body       text NOT NULL,
    written_at timestamptz NOT NULL DEFAULT now(),
    written_by text DEFAULT amt.amt_key_id()
);
CREATE INDEX ON public.notes (org_id);
ALTER TABLE public.notes ENABLE ROW LEVEL SECURITY;
CREATE POLICY read ON public.notes FOR SELECT
    USING (amt.amt_is_own(org_id) AND org_id = amt.amt_org_id() AND (SELECT amt.amt_has_scope('notes:read')));
-- INSERT … RETURNING reads the new row: a key that may only write needs to see what it wrote itself.
CREATE POLICY read_own ON public.notes FOR SELECT
    USING (amt.amt_is_own(org_id) AND org_id = amt.amt_org_id() AND written_by = (SELECT amt.amt_key_id()));
CREATE POLICY write ON public.notes FOR INSERT
    WITH CHECK (org_id = (SELECT amt.amt_org_id())
                AND (SELECT amt.amt_has_role('editor')) AND (SELECT amt.amt_has_scope('notes:write')));

-- INSERT (body) alone: organization and author come from the identity, so no statement can name others.
GRANT SELECT, INSERT (body) ON public.notes TO notes_mcp;

INSERT INTO public.notes (org_id, body) VALUES
    ('acme', 'Acme''s first note: only keys of Acme can read it.'),
    ('globex', 'Globex''s first note: only keys of Globex can read it.');

COMMIT;
