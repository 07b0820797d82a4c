-- What the example needs beside CREATE EXTENSION amt_keys: one table of its own and three roles.
-- Run once, as a superuser:  psql -d yourdb -f schema.sql

\set ON_ERROR_STOP on
BEGIN;

-- The MCP server signs in as this role.  It can ask whose key a token is, and that is all it gets from amt_keys.
CREATE ROLE notes_mcp LOGIN;
GRANT EXECUTE ON FUNCTION amt_verify(text, boolean) TO notes_mcp;

-- The application's table: who may do what is said here, once, by the identity of whoever's transaction it is.
CREATE TABLE notes (
    note_id    bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    org_id     text NOT NULL DEFAULT amt_org_id(),
    body       text NOT NULL,
    written_at timestamptz NOT NULL DEFAULT now(),
    written_by text DEFAULT amt_key_id()
);
CREATE INDEX ON notes (org_id);
ALTER TABLE notes ENABLE ROW LEVEL SECURITY;
CREATE POLICY read ON notes FOR SELECT
    USING (org_id = (SELECT amt_org_id()));
CREATE POLICY write ON notes FOR INSERT
    WITH CHECK (org_id = (SELECT amt_org_id()) AND (SELECT amt_has_role('editor')));

-- INSERT (body) alone: organization and author come from the identity, no statement can name others.
GRANT SELECT, INSERT (body) ON notes TO notes_mcp;

-- The settings page signs in as a gateway: it knows which person asks and may say so to the database, and in each
-- transaction it then steps down to the role notes_person, which may not.  NOINHERIT and nothing granted: the gateway
-- itself can read no key.
CREATE ROLE notes_person NOLOGIN;
CREATE ROLE notes_gateway LOGIN NOINHERIT IN ROLE notes_person;
GRANT SET ON PARAMETER amt_keys.org_id, amt_keys.role, amt_keys.actor TO notes_gateway;

INSERT INTO notes (org_id, body) VALUES
    ('acme', 'Acme''s first note: only keys of Acme can read it.'),
    ('globex', 'Globex''s first note: only keys of Globex can read it.');

COMMIT;
