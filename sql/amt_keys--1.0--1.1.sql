/* amt_keys--1.0--1.1.sql */

-- complain if script is sourced in psql, rather than via ALTER EXTENSION
\echo Use "ALTER EXTENSION amt_keys UPDATE TO '1.1'" to load this file. \quit

-- The planner uses statistics of all rows for people who may see some of them
-- only, and EXPLAIN tells them its estimates. With patience, names and
-- organizations of others can be read from these. So none are kept. The
-- extension's own queries need none: its indexes fit them.
ALTER TABLE @extschema@.amt_key
    ALTER COLUMN key_id SET STATISTICS 0,
    ALTER COLUMN token_prefix SET STATISTICS 0,
    ALTER COLUMN org_id SET STATISTICS 0,
    ALTER COLUMN name SET STATISTICS 0,
    ALTER COLUMN role SET STATISTICS 0,
    ALTER COLUMN scopes SET STATISTICS 0,
    ALTER COLUMN created_at SET STATISTICS 0,
    ALTER COLUMN created_by SET STATISTICS 0,
    ALTER COLUMN expires_at SET STATISTICS 0,
    ALTER COLUMN suspended_at SET STATISTICS 0,
    ALTER COLUMN replaces SET STATISTICS 0;
ALTER TABLE @extschema@.amt_key_usage
    ALTER COLUMN key_id SET STATISTICS 0,
    ALTER COLUMN calls SET STATISTICS 0,
    ALTER COLUMN last_used_at SET STATISTICS 0;
ALTER TABLE @extschema@.amt_key_event
    ALTER COLUMN event_id SET STATISTICS 0,
    ALTER COLUMN at SET STATISTICS 0,
    ALTER COLUMN event SET STATISTICS 0,
    ALTER COLUMN key_id SET STATISTICS 0,
    ALTER COLUMN org_id SET STATISTICS 0,
    ALTER COLUMN name SET STATISTICS 0,
    ALTER COLUMN role SET STATISTICS 0,
    ALTER COLUMN scopes SET STATISTICS 0,
    ALTER COLUMN expires_at SET STATISTICS 0,
    ALTER COLUMN actor SET STATISTICS 0,
    ALTER COLUMN by_key SET STATISTICS 0,
    ALTER COLUMN db_user SET STATISTICS 0,
    ALTER COLUMN calls SET STATISTICS 0;

-- ANALYZE leaves what it has found before. (It finds those of added columns
-- again.)
DELETE FROM pg_catalog.pg_statistic
WHERE starelid OPERATOR(pg_catalog.=) '@extschema@.amt_key'::pg_catalog.regclass::pg_catalog.oid
   OR starelid OPERATOR(pg_catalog.=) '@extschema@.amt_key_usage'::pg_catalog.regclass::pg_catalog.oid
   OR starelid OPERATOR(pg_catalog.=) '@extschema@.amt_key_event'::pg_catalog.regclass::pg_catalog.oid;

-- From PostgreSQL 18 on, the owner of the database and members of pg_maintain can
-- give columns statistics of their own making. The planner then looks up the
-- least and the greatest value in an index, before it asks for any right, and its
-- estimates tell an organization and a hash. It uses no index of another order for
-- that, and none that leaves out rows. Equality works as before.
CREATE INDEX amt_key_org_new ON @extschema@.amt_key (org_id pg_catalog.text_pattern_ops, created_at);
CREATE UNIQUE INDEX amt_key_sha256_new ON @extschema@.amt_key (token_sha256) WHERE token_sha256 IS NOT NULL;
CREATE INDEX amt_key_event_org_new ON @extschema@.amt_key_event (org_id pg_catalog.text_pattern_ops, event_id);

-- A condition of the user that cannot leak may run before a policy's, if that does
-- not cost less. Then a sub-select in a second condition, or in a policy, told
-- whether a row of others meets the first. So the first policy of each table costs
-- less than nothing. It is no "=", which the planner would put last.
CREATE FUNCTION @extschema@.amt_policy_support(pg_catalog.internal) RETURNS pg_catalog.internal
LANGUAGE C STRICT AS 'MODULE_PATHNAME';
COMMENT ON FUNCTION @extschema@.amt_policy_support(pg_catalog.internal) IS
'Tells the planner that functions that policies begin with cost less than nothing. Cannot be called by SQL.';
CREATE FUNCTION @extschema@.amt_is_own(org_id pg_catalog.text) RETURNS pg_catalog.bool
LANGUAGE C STABLE PARALLEL SAFE SUPPORT @extschema@.amt_policy_support AS 'MODULE_PATHNAME';
COMMENT ON FUNCTION @extschema@.amt_is_own(pg_catalog.text) IS
'Is this the organization of the caller? False for null and without an identity. Put it first in policies on your own tables, before org_id = amt_org_id(), which an index can serve. Everybody may call it.';
REVOKE ALL ON FUNCTION @extschema@.amt_policy_support(pg_catalog.internal) FROM PUBLIC;
GRANT EXECUTE ON FUNCTION @extschema@.amt_is_own(pg_catalog.text) TO PUBLIC;
ALTER FUNCTION @extschema@.amt_usage(pg_catalog.text) SUPPORT @extschema@.amt_policy_support;

-- The server puts restrictive policies before all others, in the order of their
-- names, and "!" is the first character but for blanks. So policies that are
-- added to these tables show no row of others, nor tell anything about one.
CREATE POLICY "!amt_key_own" ON @extschema@.amt_key AS RESTRICTIVE
    USING (@extschema@.amt_is_own(org_id));
CREATE POLICY "!amt_key_event_own" ON @extschema@.amt_key_event AS RESTRICTIVE
    USING (@extschema@.amt_is_own(org_id));
CREATE POLICY "!amt_key_usage_own" ON @extschema@.amt_key_usage AS RESTRICTIVE
    USING ((@extschema@.amt_usage(key_id)).calls IS NOT NULL);
ALTER POLICY amt_key_usage_select ON @extschema@.amt_key_usage USING (true);
COMMENT ON POLICY "!amt_key_own" ON @extschema@.amt_key IS 'Whatever other policies permit, nobody reaches keys of another organization.';
COMMENT ON POLICY "!amt_key_event_own" ON @extschema@.amt_key_event IS 'Whatever other policies permit, nobody reaches events of another organization.';
COMMENT ON POLICY "!amt_key_usage_own" ON @extschema@.amt_key_usage IS 'Whatever other policies permit, nobody reaches the usage of keys of another organization.';

-- Workers do not know what the transaction has reset.
ALTER FUNCTION @extschema@.amt_may_manage(pg_catalog.text, pg_catalog.text, pg_catalog.text) PARALLEL RESTRICTED;

COMMENT ON COLUMN @extschema@.amt_key.created_by IS 'Actor who created the key; null if there was none, or one of another organization. Cannot be changed.';
COMMENT ON COLUMN @extschema@.amt_keys.created_by IS 'Actor who created the key; null if there was none, or one of another organization.';
COMMENT ON FUNCTION @extschema@.amt_authenticate() IS
'Sets the identity of a PostgREST request, from a key in its headers or from the claims of its JWT; meant for db-pre-request. Raises PT401 (unauthenticated) for a bad key, F0000 for a setting amt_keys.db_role that leads nowhere, 42501 in a SECURITY DEFINER function, 55000 in a function whose definition sets a part of the identity or the role. Everybody may call it.';
COMMENT ON FUNCTION @extschema@.amt_verify(pg_catalog.text, pg_catalog.bool) IS
'Returns one row if the token is valid, and no row otherwise. A leading Bearer is accepted. With identify, the caller''s identity becomes the key''s until the end of the transaction, or empty; in a function whose definition sets a part of the identity this raises 55000, and 42501 in a SECURITY DEFINER function after amt_authenticate(), or where a bad token would take away a key''s identity. No input raises an error. Not executable by PUBLIC.';
COMMENT ON FUNCTION @extschema@.amt_role() IS
'Role of the caller in the organization, one of amt_keys.roles; null when unset. It says nothing without amt_org_id(): ask amt_has_role(). Everybody may call it.';

-- So that in a WHERE the conditions that choose the keys run first.
ALTER FUNCTION @extschema@.amt_revoke(pg_catalog.text) COST 10000;

-- Last, since verifications wait from here on.
DROP INDEX @extschema@.amt_key_org_idx, @extschema@.amt_key_event_org_idx;
ALTER TABLE @extschema@.amt_key DROP CONSTRAINT amt_key_sha256_key;
ALTER INDEX @extschema@.amt_key_sha256_new RENAME TO amt_key_sha256_key;
ALTER INDEX @extschema@.amt_key_org_new RENAME TO amt_key_org_idx;
ALTER INDEX @extschema@.amt_key_event_org_new RENAME TO amt_key_event_org_idx;
