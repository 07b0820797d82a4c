/* amt_keys--1.0.sql */

-- complain if script is sourced in psql, rather than via CREATE EXTENSION
\echo Use "CREATE EXTENSION amt_keys" to load this file. \quit

-- A superuser runs this script in a schema that may belong to somebody else.
-- So every function, operator, type, collation and cast names its schema, and
-- no argument needs an implicit cast: an operator or a function of the
-- schema's owner must never be chosen. CASE x WHEN y, IN, BETWEEN, USING,
-- DISTINCT and ORDER BY choose operators by name, so they are not used.
--
-- Names of objects are short where a longer one would look like a token to
-- the masker of the log: amt_, letters, _ and 16 more.

-- ---------------------------------------------------------------------------
-- The identity of the caller
-- ---------------------------------------------------------------------------

CREATE FUNCTION @extschema@.amt_org_id() RETURNS pg_catalog.text
LANGUAGE C STABLE PARALLEL SAFE AS 'MODULE_PATHNAME';
COMMENT ON FUNCTION @extschema@.amt_org_id() IS
'Organization of the caller; null without an identity. For policies on your own tables. Everybody may call it.';

CREATE FUNCTION @extschema@.amt_role() RETURNS pg_catalog.text
LANGUAGE C STABLE PARALLEL SAFE AS 'MODULE_PATHNAME';
COMMENT ON FUNCTION @extschema@.amt_role() IS
'Role of the caller in the organization, one of amt_keys.roles; null without an identity. Everybody may call it.';

CREATE FUNCTION @extschema@.amt_actor() RETURNS pg_catalog.text
LANGUAGE C STABLE PARALLEL SAFE AS 'MODULE_PATHNAME';
COMMENT ON FUNCTION @extschema@.amt_actor() IS
'Person who is calling, as the application names it; null if a key is calling, or nobody. Everybody may call it.';

CREATE FUNCTION @extschema@.amt_key_id() RETURNS pg_catalog.text
LANGUAGE C STABLE PARALLEL SAFE AS 'MODULE_PATHNAME';
COMMENT ON FUNCTION @extschema@.amt_key_id() IS
'Id of the key that is calling; null if no key is. Everybody may call it.';

CREATE FUNCTION @extschema@.amt_scopes() RETURNS pg_catalog.text[]
LANGUAGE C STABLE PARALLEL SAFE AS 'MODULE_PATHNAME';
COMMENT ON FUNCTION @extschema@.amt_scopes() IS
'Scopes that narrow what the caller may do; null if nothing is narrowed. Everybody may call it.';

CREATE FUNCTION @extschema@.amt_has_role(minimum pg_catalog.text) RETURNS pg_catalog.bool
LANGUAGE C STABLE PARALLEL SAFE AS 'MODULE_PATHNAME';
COMMENT ON FUNCTION @extschema@.amt_has_role(pg_catalog.text) IS
'True if the caller''s role includes the given one of amt_keys.roles; false without an identity. Raises 22023 for an unknown role. Everybody may call it.';

CREATE FUNCTION @extschema@.amt_has_scope(scope pg_catalog.text) RETURNS pg_catalog.bool
LANGUAGE C STABLE PARALLEL SAFE AS 'MODULE_PATHNAME';
COMMENT ON FUNCTION @extschema@.amt_has_scope(pg_catalog.text) IS
'True if the caller has an identity and its scopes are null or contain the given one. Everybody may call it.';

CREATE FUNCTION @extschema@.amt_require_role(minimum pg_catalog.text) RETURNS pg_catalog.void
LANGUAGE C STABLE PARALLEL SAFE AS 'MODULE_PATHNAME';
COMMENT ON FUNCTION @extschema@.amt_require_role(pg_catalog.text) IS
'Raises PT403 (forbidden_role) unless the caller''s role includes the given one; 22023 for an unknown role. Everybody may call it.';

CREATE FUNCTION @extschema@.amt_require_scope(scope pg_catalog.text) RETURNS pg_catalog.void
LANGUAGE C STABLE PARALLEL SAFE AS 'MODULE_PATHNAME';
COMMENT ON FUNCTION @extschema@.amt_require_scope(pg_catalog.text) IS
'Raises PT403 (insufficient_scope) unless the caller has the given scope. Everybody may call it.';

-- ---------------------------------------------------------------------------
-- Tables
-- ---------------------------------------------------------------------------

CREATE TABLE @extschema@.amt_key (
    key_id       pg_catalog.text COLLATE pg_catalog."C" NOT NULL,
    token_prefix pg_catalog.text COLLATE pg_catalog."C" NOT NULL,
    org_id       pg_catalog.text NOT NULL,
    name         pg_catalog.text NOT NULL,
    role         pg_catalog.text NOT NULL,
    scopes       pg_catalog.text[],
    scrypt_hash  pg_catalog.text COLLATE pg_catalog."C",
    token_sha256 pg_catalog.bytea,
    created_at   pg_catalog.timestamptz NOT NULL,
    created_by   pg_catalog.text,
    expires_at   pg_catalog.timestamptz,
    suspended_at pg_catalog.timestamptz,
    replaces     pg_catalog.text COLLATE pg_catalog."C",
    CONSTRAINT amt_key_pkey PRIMARY KEY (key_id),
    CONSTRAINT amt_key_sha256_key UNIQUE (token_sha256)
);
CREATE INDEX amt_key_prefix_idx ON @extschema@.amt_key (token_prefix);
-- The newest page of an organization's list is read from this index.
CREATE INDEX amt_key_org_idx ON @extschema@.amt_key (org_id, created_at);
-- No hash in the statistics of the planner.
ALTER TABLE @extschema@.amt_key ALTER COLUMN scrypt_hash SET STATISTICS 0;
ALTER TABLE @extschema@.amt_key ALTER COLUMN token_sha256 SET STATISTICS 0;

COMMENT ON TABLE @extschema@.amt_key IS 'One row for each key that is not revoked. Use the functions and the view amt_keys to change it; only the owner may write it.';
COMMENT ON COLUMN @extschema@.amt_key.key_id IS 'Public id of the key: the part of the token between its prefix and the next _. Cannot be changed.';
COMMENT ON COLUMN @extschema@.amt_key.token_prefix IS 'The token as lists show it, for example amt_<key id>... . Cannot be changed.';
COMMENT ON COLUMN @extschema@.amt_key.org_id IS 'Organization that the key belongs to; 1 to 255 characters. Cannot be changed.';
COMMENT ON COLUMN @extschema@.amt_key.name IS 'What people call the key; 1 to 100 characters, not unique.';
COMMENT ON COLUMN @extschema@.amt_key.role IS 'Role of the key, one of amt_keys.roles: the creator''s at the moment of creation, or a lower one. Cannot be changed.';
COMMENT ON COLUMN @extschema@.amt_key.scopes IS 'The only things the key may do, of those that its role allows; null for all of them. Cannot be changed.';
COMMENT ON COLUMN @extschema@.amt_key.scrypt_hash IS 'Hash of the token''s secret as a PHC string, $scrypt$ln=14,r=8,p=1$<salt>$<hash>; null for an imported key. Only the owner, superusers and members of pg_read_all_data may read it. Cannot be changed.';
COMMENT ON COLUMN @extschema@.amt_key.token_sha256 IS 'SHA-256 of the whole token of an imported key; null for all others. Only the owner, superusers and members of pg_read_all_data may read it. Cannot be changed.';
COMMENT ON COLUMN @extschema@.amt_key.created_at IS 'Time when the key was created. Cannot be changed.';
COMMENT ON COLUMN @extschema@.amt_key.created_by IS 'Actor who created the key; null if there was none. Cannot be changed.';
COMMENT ON COLUMN @extschema@.amt_key.expires_at IS 'Time from which on the key does not verify; null for never.';
COMMENT ON COLUMN @extschema@.amt_key.suspended_at IS 'Time since when the key is suspended and does not verify; null if it is not.';
COMMENT ON COLUMN @extschema@.amt_key.replaces IS 'Id of the key that this one was made to replace; null if there is none. Cannot be changed.';

CREATE TABLE @extschema@.amt_key_usage (
    key_id       pg_catalog.text COLLATE pg_catalog."C" NOT NULL,
    calls        pg_catalog.int8 NOT NULL,
    last_used_at pg_catalog.timestamptz NOT NULL,
    CONSTRAINT amt_key_usage_pkey PRIMARY KEY (key_id)
) WITH (fillfactor = 50);
COMMENT ON TABLE @extschema@.amt_key_usage IS 'Calls of each key as far as the background worker has written them. The view amt_keys adds the calls that are still in shared memory.';
COMMENT ON COLUMN @extschema@.amt_key_usage.key_id IS 'Id of the key.';
COMMENT ON COLUMN @extschema@.amt_key_usage.calls IS 'Number of successful verifications that have been written.';
COMMENT ON COLUMN @extschema@.amt_key_usage.last_used_at IS 'Time of the last one of them.';

CREATE TABLE @extschema@.amt_key_event (
    event_id   pg_catalog.int8 GENERATED BY DEFAULT AS IDENTITY (SEQUENCE NAME @extschema@.amt_key_event_seq),
    at         pg_catalog.timestamptz NOT NULL,
    event      pg_catalog.text NOT NULL,
    key_id     pg_catalog.text COLLATE pg_catalog."C" NOT NULL,
    org_id     pg_catalog.text NOT NULL,
    name       pg_catalog.text NOT NULL,
    role       pg_catalog.text NOT NULL,
    scopes     pg_catalog.text[],
    expires_at pg_catalog.timestamptz,
    actor      pg_catalog.text,
    by_key     pg_catalog.text COLLATE pg_catalog."C",
    db_user    pg_catalog.name NOT NULL,
    calls      pg_catalog.int8,
    CONSTRAINT amt_key_event_pkey PRIMARY KEY (event_id)
);
CREATE INDEX amt_key_event_key_idx ON @extschema@.amt_key_event (key_id);
CREATE INDEX amt_key_event_org_idx ON @extschema@.amt_key_event (org_id, event_id);
COMMENT ON TABLE @extschema@.amt_key_event IS 'One row for each appearance, change and disappearance of a key, written in the same transaction. Rows stay when the key is gone.';
COMMENT ON COLUMN @extschema@.amt_key_event.event_id IS 'Number of the event; later events have higher numbers.';
COMMENT ON COLUMN @extschema@.amt_key_event.at IS 'Time when it happened.';
COMMENT ON COLUMN @extschema@.amt_key_event.event IS 'created, revoked, changed (name or expiry), suspended or resumed.';
COMMENT ON COLUMN @extschema@.amt_key_event.key_id IS 'Id of the key.';
COMMENT ON COLUMN @extschema@.amt_key_event.org_id IS 'Organization that the key belongs to.';
COMMENT ON COLUMN @extschema@.amt_key_event.name IS 'Name of the key after the event.';
COMMENT ON COLUMN @extschema@.amt_key_event.role IS 'Role of the key.';
COMMENT ON COLUMN @extschema@.amt_key_event.scopes IS 'Scopes of the key; null if its role is not narrowed.';
COMMENT ON COLUMN @extschema@.amt_key_event.expires_at IS 'Expiry of the key after the event; null for never.';
COMMENT ON COLUMN @extschema@.amt_key_event.actor IS 'Person who did it; null if not known, or of another organization than the key.';
COMMENT ON COLUMN @extschema@.amt_key_event.by_key IS 'Id of the key that did it; null if no key did, or one of another organization.';
COMMENT ON COLUMN @extschema@.amt_key_event.db_user IS 'Database user of the session.';
COMMENT ON COLUMN @extschema@.amt_key_event.calls IS 'Calls of the key when it was revoked; null for other events.';

SELECT pg_catalog.pg_extension_config_dump('@extschema@.amt_key'::pg_catalog.regclass, ''::pg_catalog.text);
SELECT pg_catalog.pg_extension_config_dump('@extschema@.amt_key_usage'::pg_catalog.regclass, ''::pg_catalog.text);
SELECT pg_catalog.pg_extension_config_dump('@extschema@.amt_key_event'::pg_catalog.regclass, ''::pg_catalog.text);
SELECT pg_catalog.pg_extension_config_dump('@extschema@.amt_key_event_seq'::pg_catalog.regclass, ''::pg_catalog.text);

CREATE FUNCTION @extschema@.amt_key_guard() RETURNS pg_catalog.trigger
LANGUAGE C VOLATILE AS 'MODULE_PATHNAME';
COMMENT ON FUNCTION @extschema@.amt_key_guard() IS
'Trigger function of table amt_key: completes and checks new rows (23514, 22021), refuses changes of columns that cannot be changed (55000), and has changes and deletions written to disk before the commit returns.';

CREATE FUNCTION @extschema@.amt_key_record() RETURNS pg_catalog.trigger
LANGUAGE C VOLATILE AS 'MODULE_PATHNAME';
COMMENT ON FUNCTION @extschema@.amt_key_record() IS
'Trigger function of table amt_key: writes amt_key_event, and deletes the usage of a revoked key.';

CREATE FUNCTION @extschema@.amt_key_no_truncate() RETURNS pg_catalog.trigger
LANGUAGE C VOLATILE AS 'MODULE_PATHNAME';
COMMENT ON FUNCTION @extschema@.amt_key_no_truncate() IS
'Trigger function of table amt_key: refuses TRUNCATE (0A000), which could not be recorded.';

CREATE FUNCTION @extschema@.amt_usage_replica() RETURNS pg_catalog.trigger
LANGUAGE C VOLATILE AS 'MODULE_PATHNAME';
COMMENT ON FUNCTION @extschema@.amt_usage_replica() IS
'Trigger function of table amt_key_usage: discards rows that logical replication brings, since a subscriber counts for itself.';

CREATE TRIGGER amt_key_guard BEFORE INSERT OR UPDATE OR DELETE ON @extschema@.amt_key
    FOR EACH ROW EXECUTE FUNCTION @extschema@.amt_key_guard();
CREATE TRIGGER amt_key_record AFTER INSERT OR UPDATE OR DELETE ON @extschema@.amt_key
    FOR EACH ROW EXECUTE FUNCTION @extschema@.amt_key_record();
CREATE TRIGGER amt_key_no_truncate BEFORE TRUNCATE ON @extschema@.amt_key
    FOR EACH STATEMENT EXECUTE FUNCTION @extschema@.amt_key_no_truncate();
CREATE TRIGGER amt_usage_replica BEFORE INSERT OR UPDATE OR DELETE ON @extschema@.amt_key_usage
    FOR EACH ROW EXECUTE FUNCTION @extschema@.amt_usage_replica();
-- The guards hold for replication too. Events are replicated like keys, so a
-- subscriber must not write them once more.
ALTER TABLE @extschema@.amt_key ENABLE ALWAYS TRIGGER amt_key_guard;
ALTER TABLE @extschema@.amt_key ENABLE ALWAYS TRIGGER amt_key_no_truncate;
ALTER TABLE @extschema@.amt_key_usage ENABLE REPLICA TRIGGER amt_usage_replica;

-- ---------------------------------------------------------------------------
-- Rows that the caller may see
-- ---------------------------------------------------------------------------

ALTER TABLE @extschema@.amt_key ENABLE ROW LEVEL SECURITY;
ALTER TABLE @extschema@.amt_key_usage ENABLE ROW LEVEL SECURITY;
ALTER TABLE @extschema@.amt_key_event ENABLE ROW LEVEL SECURITY;

CREATE POLICY amt_key_select ON @extschema@.amt_key FOR SELECT
    USING (org_id OPERATOR(pg_catalog.=) @extschema@.amt_org_id());
CREATE POLICY amt_key_usage_select ON @extschema@.amt_key_usage FOR SELECT
    USING (EXISTS (SELECT FROM @extschema@.amt_key AS k
                   WHERE k.key_id OPERATOR(pg_catalog.=) amt_key_usage.key_id
                     AND k.org_id OPERATOR(pg_catalog.=) @extschema@.amt_org_id()));
CREATE POLICY amt_key_event_select ON @extschema@.amt_key_event FOR SELECT
    USING (org_id OPERATOR(pg_catalog.=) @extschema@.amt_org_id());
COMMENT ON POLICY amt_key_select ON @extschema@.amt_key IS 'An organization sees its own keys; without an identity there are no rows.';
COMMENT ON POLICY amt_key_usage_select ON @extschema@.amt_key_usage IS 'An organization sees the usage of its own keys.';
COMMENT ON POLICY amt_key_event_select ON @extschema@.amt_key_event IS 'An organization sees the events of its own keys.';

-- ---------------------------------------------------------------------------
-- Managing keys
-- ---------------------------------------------------------------------------

CREATE TYPE @extschema@.amt_new_key AS (
    token        pg_catalog.text,
    key_id       pg_catalog.text,
    token_prefix pg_catalog.text,
    name         pg_catalog.text,
    org_id       pg_catalog.text,
    role         pg_catalog.text,
    scopes       pg_catalog.text[],
    created_at   pg_catalog.timestamptz,
    expires_at   pg_catalog.timestamptz,
    replaces     pg_catalog.text
);
COMMENT ON TYPE @extschema@.amt_new_key IS 'Result of amt_create_key() and amt_rotate_key().';
COMMENT ON COLUMN @extschema@.amt_new_key.token IS 'The bearer token, <prefix>_<key id>_<secret>. It is in this answer and nowhere else, ever.';
COMMENT ON COLUMN @extschema@.amt_new_key.key_id IS 'Public id of the key.';
COMMENT ON COLUMN @extschema@.amt_new_key.token_prefix IS 'The token as lists show it, for example amt_<key id>... .';
COMMENT ON COLUMN @extschema@.amt_new_key.name IS 'What people call the key.';
COMMENT ON COLUMN @extschema@.amt_new_key.org_id IS 'Organization that the key belongs to.';
COMMENT ON COLUMN @extschema@.amt_new_key.role IS 'Role of the key, one of amt_keys.roles.';
COMMENT ON COLUMN @extschema@.amt_new_key.scopes IS 'The only things the key may do, of those that its role allows; null for all of them.';
COMMENT ON COLUMN @extschema@.amt_new_key.created_at IS 'Time when the key was created.';
COMMENT ON COLUMN @extschema@.amt_new_key.expires_at IS 'Time from which on the key does not verify; null for never.';
COMMENT ON COLUMN @extschema@.amt_new_key.replaces IS 'Id of the key that this one was made to replace; null if there is none.';

CREATE FUNCTION @extschema@.amt_create_key(
    name pg_catalog.text,
    org_id pg_catalog.text DEFAULT NULL,
    role pg_catalog.text DEFAULT NULL,
    scopes pg_catalog.text[] DEFAULT NULL,
    expires_at pg_catalog.timestamptz DEFAULT NULL) RETURNS @extschema@.amt_new_key
LANGUAGE C VOLATILE AS 'MODULE_PATHNAME';
COMMENT ON FUNCTION @extschema@.amt_create_key(pg_catalog.text, pg_catalog.text, pg_catalog.text, pg_catalog.text[], pg_catalog.timestamptz) IS
'Creates a key and returns it with its token, which is shown this once. Organization, role and scopes default to the caller''s. Raises 42501 for another organization, a role above the caller''s, a scope that the caller does not have, or a caller that is a key; 22023 for a bad name, role, scope or expiry. Everybody may call it; trusted roles may name any organization and role.';

CREATE FUNCTION @extschema@.amt_revoke(key pg_catalog.text) RETURNS pg_catalog.bool
LANGUAGE C VOLATILE AS 'MODULE_PATHNAME';
COMMENT ON FUNCTION @extschema@.amt_revoke(pg_catalog.text) IS
'Revokes a key for good. The key is named by its id, its displayed prefix or its whole token. Returns false if there is no such key within the caller''s reach, or if a token has a wrong secret; raises 42501 if the caller may not revoke the key, and 21000 if several keys have the displayed prefix. Allowed to trusted roles, to the key''s creator and the manager role in its organization, to the key itself, and to anybody who has the whole token.';

CREATE FUNCTION @extschema@.amt_rotate_key(
    key pg_catalog.text,
    grace pg_catalog.interval DEFAULT '0'::pg_catalog.interval,
    expires_at pg_catalog.timestamptz DEFAULT NULL) RETURNS @extschema@.amt_new_key
LANGUAGE C VOLATILE AS 'MODULE_PATHNAME';
COMMENT ON FUNCTION @extschema@.amt_rotate_key(pg_catalog.text, pg_catalog.interval, pg_catalog.timestamptz) IS
'Creates a key with the name, organization, role and scopes of another, which is revoked in the same transaction, or expires when the grace interval ends. The new key lives as long as the old one was made to, unless expires_at says otherwise. Raises P0002 if there is no such key within the caller''s reach, or if a token has a wrong secret; 42501 if the caller may not revoke it or could not create one like it; 55000 if it is suspended; 22023 for a negative grace or a bad expiry. Everybody may call it.';

CREATE FUNCTION @extschema@.amt_import_key(
    token_sha256 pg_catalog.bytea,
    name pg_catalog.text,
    org_id pg_catalog.text,
    role pg_catalog.text,
    token_prefix pg_catalog.text DEFAULT NULL,
    scopes pg_catalog.text[] DEFAULT NULL,
    created_at pg_catalog.timestamptz DEFAULT NULL,
    created_by pg_catalog.text DEFAULT NULL,
    expires_at pg_catalog.timestamptz DEFAULT NULL) RETURNS pg_catalog.text
LANGUAGE C VOLATILE AS 'MODULE_PATHNAME';
COMMENT ON FUNCTION @extschema@.amt_import_key(pg_catalog.bytea, pg_catalog.text, pg_catalog.text, pg_catalog.text, pg_catalog.text, pg_catalog.text[], pg_catalog.timestamptz, pg_catalog.text, pg_catalog.timestamptz) IS
'Imports a key that was made elsewhere, given the SHA-256 of its whole token, and returns its id. The token must be random: no slow hash protects it. token_prefix is what lists display. Raises 42501 unless the caller is trusted, 22023 for a bad argument, 23505 if that token is known already.';

CREATE FUNCTION @extschema@.amt_may_manage(key_id pg_catalog.text, org_id pg_catalog.text, created_by pg_catalog.text) RETURNS pg_catalog.bool
LANGUAGE C STABLE PARALLEL SAFE AS 'MODULE_PATHNAME';
COMMENT ON FUNCTION @extschema@.amt_may_manage(pg_catalog.text, pg_catalog.text, pg_catalog.text) IS
'True if the caller may rename, prolong, suspend and resume a key with these properties: trusted roles may, and within the identity''s organization its creator and the manager role; a key never may. Everybody may call it.';

CREATE FUNCTION @extschema@.amt_whoami(
    OUT org_id pg_catalog.text,
    OUT role pg_catalog.text,
    OUT scopes pg_catalog.text[],
    OUT actor pg_catalog.text,
    OUT key_id pg_catalog.text,
    OUT key_name pg_catalog.text) RETURNS pg_catalog.record
LANGUAGE C STABLE PARALLEL SAFE AS 'MODULE_PATHNAME';
COMMENT ON FUNCTION @extschema@.amt_whoami() IS
'The caller''s identity as one row, with the name of the key that is calling. Everybody may call it.';

-- ---------------------------------------------------------------------------
-- Verifying keys
-- ---------------------------------------------------------------------------

CREATE TYPE @extschema@.amt_verified AS (
    key_id     pg_catalog.text,
    org_id     pg_catalog.text,
    role       pg_catalog.text,
    scopes     pg_catalog.text[],
    name       pg_catalog.text,
    created_by pg_catalog.text,
    expires_at pg_catalog.timestamptz
);
COMMENT ON TYPE @extschema@.amt_verified IS 'Row type of amt_verify().';
COMMENT ON COLUMN @extschema@.amt_verified.key_id IS 'Public id of the key.';
COMMENT ON COLUMN @extschema@.amt_verified.org_id IS 'Organization that the key belongs to.';
COMMENT ON COLUMN @extschema@.amt_verified.role IS 'Role of the key, one of amt_keys.roles.';
COMMENT ON COLUMN @extschema@.amt_verified.scopes IS 'The only things the key may do, of those that its role allows; null for all of them.';
COMMENT ON COLUMN @extschema@.amt_verified.name IS 'What people call the key.';
COMMENT ON COLUMN @extschema@.amt_verified.created_by IS 'Actor who created the key; null if not known.';
COMMENT ON COLUMN @extschema@.amt_verified.expires_at IS 'Time from which on the key does not verify; null for never.';

CREATE FUNCTION @extschema@.amt_verify(token pg_catalog.text, identify pg_catalog.bool DEFAULT false) RETURNS SETOF @extschema@.amt_verified
LANGUAGE C VOLATILE COST 10 ROWS 1 AS 'MODULE_PATHNAME';
COMMENT ON FUNCTION @extschema@.amt_verify(pg_catalog.text, pg_catalog.bool) IS
'Returns one row if the token is valid, and no row otherwise. A leading Bearer is accepted. With identify, the caller''s identity becomes the key''s until the end of the transaction, or empty. No input raises an error. Not executable by PUBLIC.';

CREATE FUNCTION @extschema@.amt_authenticate() RETURNS pg_catalog.void
LANGUAGE C VOLATILE AS 'MODULE_PATHNAME';
COMMENT ON FUNCTION @extschema@.amt_authenticate() IS
'Sets the identity of a PostgREST request, from a key in its headers or from the claims of its JWT; meant for db-pre-request. Raises PT401 (unauthenticated) for a bad key, F0000 for a setting amt_keys.db_role that leads nowhere. Everybody may call it.';

-- ---------------------------------------------------------------------------
-- Tokens in texts
-- ---------------------------------------------------------------------------

CREATE FUNCTION @extschema@.amt_check_token(token pg_catalog.text) RETURNS pg_catalog.bool
LANGUAGE C STABLE STRICT PARALLEL SAFE AS 'MODULE_PATHNAME';
COMMENT ON FUNCTION @extschema@.amt_check_token(pg_catalog.text) IS
'True if amt_create_key() could have made this token: its prefix, shape and checksum are right. Reads no table. Everybody may call it.';

CREATE FUNCTION @extschema@.amt_find_tokens(content pg_catalog.text) RETURNS SETOF pg_catalog.text
LANGUAGE C STABLE STRICT PARALLEL SAFE AS 'MODULE_PATHNAME';
COMMENT ON FUNCTION @extschema@.amt_find_tokens(pg_catalog.text) IS
'The displayed prefixes of the tokens inside a text, in order, as far as their checksums are right. Reads no table. Everybody may call it.';

-- ---------------------------------------------------------------------------
-- The list of keys
-- ---------------------------------------------------------------------------

CREATE FUNCTION @extschema@.amt_usage(
    key_id pg_catalog.text,
    OUT calls pg_catalog.int8,
    OUT last_used_at pg_catalog.timestamptz) RETURNS pg_catalog.record
LANGUAGE C VOLATILE AS 'MODULE_PATHNAME';
COMMENT ON FUNCTION @extschema@.amt_usage(pg_catalog.text) IS
'Calls of a key and the time of its last use, stored or still in memory; nothing for a key that the caller cannot see. Everybody may call it.';

CREATE VIEW @extschema@.amt_keys WITH (security_invoker = true) AS
    SELECT k.key_id,
           k.name,
           k.token_prefix,
           k.org_id,
           k.role,
           k.scopes,
           k.created_at,
           k.created_by,
           k.expires_at,
           k.suspended_at,
           k.replaces,
           u.calls,
           u.last_used_at
    FROM @extschema@.amt_key AS k CROSS JOIN LATERAL @extschema@.amt_usage(k.key_id) AS u
    WHERE k.expires_at IS NULL
       OR k.expires_at OPERATOR(pg_catalog.>) pg_catalog.clock_timestamp();
COMMENT ON VIEW @extschema@.amt_keys IS 'The keys that are neither revoked nor expired and that the caller may see. DELETE revokes keys; UPDATE of name, expires_at and suspended_at changes them; rows that the caller may not manage are passed over.';
COMMENT ON COLUMN @extschema@.amt_keys.key_id IS 'Public id of the key: the part of the token between its prefix and the next _.';
COMMENT ON COLUMN @extschema@.amt_keys.name IS 'What people call the key; 1 to 100 characters, not unique. Can be updated.';
COMMENT ON COLUMN @extschema@.amt_keys.token_prefix IS 'The token as lists show it, for example amt_<key id>... .';
COMMENT ON COLUMN @extschema@.amt_keys.org_id IS 'Organization that the key belongs to; 1 to 255 characters.';
COMMENT ON COLUMN @extschema@.amt_keys.role IS 'Role of the key, one of amt_keys.roles: the creator''s at the moment of creation, or a lower one.';
COMMENT ON COLUMN @extschema@.amt_keys.scopes IS 'The only things the key may do, of those that its role allows; null for all of them.';
COMMENT ON COLUMN @extschema@.amt_keys.created_at IS 'Time when the key was created.';
COMMENT ON COLUMN @extschema@.amt_keys.created_by IS 'Actor who created the key; null if there was none.';
COMMENT ON COLUMN @extschema@.amt_keys.expires_at IS 'Time from which on the key does not verify; null for never. Can be updated.';
COMMENT ON COLUMN @extschema@.amt_keys.suspended_at IS 'Time since when the key is suspended and does not verify; null if it is not. Can be updated.';
COMMENT ON COLUMN @extschema@.amt_keys.replaces IS 'Id of the key that this one was made to replace; null if there is none.';
COMMENT ON COLUMN @extschema@.amt_keys.calls IS 'Number of successful verifications, counted up to the moment of reading.';
COMMENT ON COLUMN @extschema@.amt_keys.last_used_at IS 'Time of the last one of them; null if there was none.';

CREATE FUNCTION @extschema@.amt_keys_delete() RETURNS pg_catalog.trigger
LANGUAGE C VOLATILE AS 'MODULE_PATHNAME';
COMMENT ON FUNCTION @extschema@.amt_keys_delete() IS
'Trigger function of view amt_keys: DELETE revokes the keys that the caller may revoke.';

CREATE FUNCTION @extschema@.amt_keys_update() RETURNS pg_catalog.trigger
LANGUAGE C VOLATILE AS 'MODULE_PATHNAME';
COMMENT ON FUNCTION @extschema@.amt_keys_update() IS
'Trigger function of view amt_keys: UPDATE changes name, expiry and suspension of the keys that the caller may manage.';

CREATE TRIGGER amt_keys_delete INSTEAD OF DELETE ON @extschema@.amt_keys
    FOR EACH ROW EXECUTE FUNCTION @extschema@.amt_keys_delete();
CREATE TRIGGER amt_keys_update INSTEAD OF UPDATE ON @extschema@.amt_keys
    FOR EACH ROW EXECUTE FUNCTION @extschema@.amt_keys_update();

-- ---------------------------------------------------------------------------
-- Operations
-- ---------------------------------------------------------------------------

CREATE FUNCTION @extschema@.amt_flush_usage() RETURNS pg_catalog.int8
LANGUAGE C VOLATILE AS 'MODULE_PATHNAME';
COMMENT ON FUNCTION @extschema@.amt_flush_usage() IS
'Has the background worker write the calls that were counted in this database before the call, waits until they are in amt_key_usage, and returns their number. Raises 53400 if no worker can be started, 55000 if it could not write. Not executable by PUBLIC.';

CREATE FUNCTION @extschema@.amt_cache_clear() RETURNS pg_catalog.void
LANGUAGE C VOLATILE AS 'MODULE_PATHNAME';
COMMENT ON FUNCTION @extschema@.amt_cache_clear() IS
'Forgets which secrets have been proved: the next verification of each key of the server runs scrypt. Not executable by PUBLIC.';

CREATE FUNCTION @extschema@.amt_stat_reset() RETURNS pg_catalog.void
LANGUAGE C VOLATILE AS 'MODULE_PATHNAME';
COMMENT ON FUNCTION @extschema@.amt_stat_reset() IS
'Sets the counters of view amt_stat to zero. Not executable by PUBLIC.';

CREATE FUNCTION @extschema@.amt_stat_get(
    OUT verified pg_catalog.int8,
    OUT rejected_malformed pg_catalog.int8,
    OUT rejected_unknown pg_catalog.int8,
    OUT rejected_wrong_secret pg_catalog.int8,
    OUT rejected_suspended pg_catalog.int8,
    OUT rejected_expired pg_catalog.int8,
    OUT cache_hits pg_catalog.int8,
    OUT scrypt_runs pg_catalog.int8,
    OUT scrypt_time pg_catalog.float8,
    OUT scrypt_waits pg_catalog.int8,
    OUT warm_keys pg_catalog.int8,
    OUT calls_pending pg_catalog.int8,
    OUT calls_flushed pg_catalog.int8,
    OUT calls_dropped pg_catalog.int8,
    OUT worker_starts pg_catalog.int8,
    OUT worker_failures pg_catalog.int8,
    OUT shared_memory pg_catalog.bool,
    OUT stats_reset pg_catalog.timestamptz) RETURNS pg_catalog.record
LANGUAGE C VOLATILE AS 'MODULE_PATHNAME';
COMMENT ON FUNCTION @extschema@.amt_stat_get() IS
'The row that view amt_stat shows.';

CREATE VIEW @extschema@.amt_stat AS SELECT s.* FROM @extschema@.amt_stat_get() AS s;
COMMENT ON VIEW @extschema@.amt_stat IS 'One row of counters for the whole server, since its start or amt_stat_reset(). Readable by pg_monitor.';
COMMENT ON COLUMN @extschema@.amt_stat.verified IS 'Number of tokens that were valid.';
COMMENT ON COLUMN @extschema@.amt_stat.rejected_malformed IS 'Number of texts that are no token of a listed prefix, and no imported one.';
COMMENT ON COLUMN @extschema@.amt_stat.rejected_unknown IS 'Number of tokens whose key does not exist, or not any more.';
COMMENT ON COLUMN @extschema@.amt_stat.rejected_wrong_secret IS 'Number of tokens with another secret than the key''s.';
COMMENT ON COLUMN @extschema@.amt_stat.rejected_suspended IS 'Number of tokens of suspended keys.';
COMMENT ON COLUMN @extschema@.amt_stat.rejected_expired IS 'Number of tokens of expired keys.';
COMMENT ON COLUMN @extschema@.amt_stat.cache_hits IS 'Number of secrets that were decided, either way, without scrypt.';
COMMENT ON COLUMN @extschema@.amt_stat.scrypt_runs IS 'Number of runs of scrypt for verifications.';
COMMENT ON COLUMN @extschema@.amt_stat.scrypt_time IS 'Time spent in them, in milliseconds.';
COMMENT ON COLUMN @extschema@.amt_stat.scrypt_waits IS 'Number of verifications that waited for a run of scrypt.';
COMMENT ON COLUMN @extschema@.amt_stat.warm_keys IS 'Number of keys whose secret is known in shared memory now; never imported ones.';
COMMENT ON COLUMN @extschema@.amt_stat.calls_pending IS 'Number of calls that are counted and not yet written.';
COMMENT ON COLUMN @extschema@.amt_stat.calls_flushed IS 'Number of calls that were written to amt_key_usage.';
COMMENT ON COLUMN @extschema@.amt_stat.calls_dropped IS 'Number of calls that could not be counted or written: the key, its extension or its database is gone, or there was no memory.';
COMMENT ON COLUMN @extschema@.amt_stat.worker_starts IS 'Number of background workers that began to write.';
COMMENT ON COLUMN @extschema@.amt_stat.worker_failures IS 'Number of background workers that could not be started, and of writes that failed.';
COMMENT ON COLUMN @extschema@.amt_stat.shared_memory IS 'True if this session has shared memory. Without it nothing is kept or counted, and these counters are the session''s own.';
COMMENT ON COLUMN @extschema@.amt_stat.stats_reset IS 'Time since when the counters count.';

-- ---------------------------------------------------------------------------
-- Privileges
-- ---------------------------------------------------------------------------

-- First nobody but the owner: default privileges of the role that creates the
-- extension must not reach its objects.
DO $$
DECLARE
    command pg_catalog.text;
BEGIN
    FOR command IN
        SELECT pg_catalog.format('REVOKE ALL ON %s %s FROM %s'::pg_catalog.text, o.kind, o.name,
                                 CASE WHEN a.grantee OPERATOR(pg_catalog.=) 0::pg_catalog.oid
                                      THEN 'PUBLIC'::pg_catalog.text
                                      ELSE pg_catalog.quote_ident(pg_catalog.pg_get_userbyid(a.grantee)::pg_catalog.text)
                                 END)
        FROM pg_catalog.pg_depend AS d
        JOIN pg_catalog.pg_extension AS e
          ON d.refclassid OPERATOR(pg_catalog.=) 'pg_catalog.pg_extension'::pg_catalog.regclass::pg_catalog.oid
         AND d.refobjid OPERATOR(pg_catalog.=) e.oid
         AND d.deptype OPERATOR(pg_catalog.=) 'e'::pg_catalog."char"
        JOIN LATERAL (
            SELECT 'TABLE'::pg_catalog.text AS kind, c.oid::pg_catalog.regclass::pg_catalog.text AS name,
                   c.relowner AS owner,
                   coalesce(c.relacl, pg_catalog.acldefault('r'::pg_catalog."char", c.relowner)) AS acl
            FROM pg_catalog.pg_class AS c
            WHERE d.classid OPERATOR(pg_catalog.=) 'pg_catalog.pg_class'::pg_catalog.regclass::pg_catalog.oid
              AND c.oid OPERATOR(pg_catalog.=) d.objid
              AND (c.relkind OPERATOR(pg_catalog.=) 'r'::pg_catalog."char"
                   OR c.relkind OPERATOR(pg_catalog.=) 'v'::pg_catalog."char"
                   OR c.relkind OPERATOR(pg_catalog.=) 'S'::pg_catalog."char")
            UNION ALL
            SELECT 'FUNCTION'::pg_catalog.text, p.oid::pg_catalog.regprocedure::pg_catalog.text, p.proowner,
                   coalesce(p.proacl, pg_catalog.acldefault('f'::pg_catalog."char", p.proowner))
            FROM pg_catalog.pg_proc AS p
            WHERE d.classid OPERATOR(pg_catalog.=) 'pg_catalog.pg_proc'::pg_catalog.regclass::pg_catalog.oid
              AND p.oid OPERATOR(pg_catalog.=) d.objid
            UNION ALL
            SELECT 'TYPE'::pg_catalog.text, t.oid::pg_catalog.regtype::pg_catalog.text, t.typowner,
                   coalesce(t.typacl, pg_catalog.acldefault('T'::pg_catalog."char", t.typowner))
            FROM pg_catalog.pg_type AS t
            WHERE d.classid OPERATOR(pg_catalog.=) 'pg_catalog.pg_type'::pg_catalog.regclass::pg_catalog.oid
              AND t.oid OPERATOR(pg_catalog.=) d.objid
              AND (t.typname OPERATOR(pg_catalog.=) 'amt_new_key'::pg_catalog.name
                   OR t.typname OPERATOR(pg_catalog.=) 'amt_verified'::pg_catalog.name)
        ) AS o ON true
        JOIN LATERAL pg_catalog.aclexplode(o.acl) AS a
          ON a.grantee OPERATOR(pg_catalog.<>) o.owner
        WHERE e.extname OPERATOR(pg_catalog.=) 'amt_keys'::pg_catalog.name
    LOOP
        EXECUTE command;
    END LOOP;
END
$$;

-- Everybody may ask; row-level security and the functions decide on the
-- answer. Of amt_key these are all columns but the two hashes. Nobody but the
-- owner may write, or lock rows, in a table.
GRANT SELECT (key_id, token_prefix, org_id, name, role, scopes, created_at, created_by, expires_at, suspended_at, replaces)
    ON @extschema@.amt_key TO PUBLIC;
GRANT SELECT ON @extschema@.amt_key_usage, @extschema@.amt_key_event, @extschema@.amt_key_event_seq TO PUBLIC;
GRANT SELECT, DELETE, UPDATE (name, expires_at, suspended_at) ON @extschema@.amt_keys TO PUBLIC;
GRANT USAGE ON TYPE @extschema@.amt_new_key, @extschema@.amt_verified TO PUBLIC;
GRANT EXECUTE ON FUNCTION
    @extschema@.amt_org_id(),
    @extschema@.amt_role(),
    @extschema@.amt_actor(),
    @extschema@.amt_key_id(),
    @extschema@.amt_scopes(),
    @extschema@.amt_has_role(pg_catalog.text),
    @extschema@.amt_has_scope(pg_catalog.text),
    @extschema@.amt_require_role(pg_catalog.text),
    @extschema@.amt_require_scope(pg_catalog.text),
    @extschema@.amt_create_key(pg_catalog.text, pg_catalog.text, pg_catalog.text, pg_catalog.text[], pg_catalog.timestamptz),
    @extschema@.amt_revoke(pg_catalog.text),
    @extschema@.amt_rotate_key(pg_catalog.text, pg_catalog.interval, pg_catalog.timestamptz),
    @extschema@.amt_import_key(pg_catalog.bytea, pg_catalog.text, pg_catalog.text, pg_catalog.text, pg_catalog.text, pg_catalog.text[], pg_catalog.timestamptz, pg_catalog.text, pg_catalog.timestamptz),
    @extschema@.amt_may_manage(pg_catalog.text, pg_catalog.text, pg_catalog.text),
    @extschema@.amt_whoami(),
    @extschema@.amt_authenticate(),
    @extschema@.amt_check_token(pg_catalog.text),
    @extschema@.amt_find_tokens(pg_catalog.text),
    @extschema@.amt_usage(pg_catalog.text)
    TO PUBLIC;

-- Statistics are about the whole server.
GRANT SELECT ON @extschema@.amt_stat TO pg_monitor;
GRANT EXECUTE ON FUNCTION @extschema@.amt_stat_get() TO pg_monitor;
