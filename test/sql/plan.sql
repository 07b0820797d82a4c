-- What the planner makes of amt_verify(): in FROM its twin, elsewhere itself;
-- the same answers, and the same refusals, everywhere.
CREATE EXTENSION amt_keys;
SET amt_keys.scrypt_ln = 4;
SELECT token FROM amt_create_key('a key', 'acme', 'editor') \gset
CREATE FUNCTION plan(query text) RETURNS SETOF text LANGUAGE plpgsql AS $$
BEGIN
    RETURN QUERY EXECUTE 'EXPLAIN (VERBOSE, COSTS off) ' || query;
END
$$;

SELECT plan('SELECT * FROM amt_verify(''x'')');
SELECT plan('SELECT amt_verify(''x'')');

-- all the shapes of a call
SELECT org_id, role, name, created_by, expires_at FROM amt_verify(:'token');
SELECT (v).org_id, (v).role FROM amt_verify(:'token') AS v;
SELECT (amt_verify(:'token')).role;
SELECT row_to_json(v)->>'role' AS role, pg_typeof(v) FROM amt_verify(:'token') AS v;
SELECT v IS NOT NULL AS whole FROM (SELECT amt_verify(:'token') AS v OFFSET 0) AS s;
SELECT s.role, t.n FROM (SELECT * FROM amt_verify(:'token') OFFSET 0) AS s, generate_series(1, 2) AS t (n);
SELECT (amt_verify(:'token')).role AS listed, v.role AS found FROM amt_verify(:'token') AS v;
SELECT role, ordinality FROM amt_verify(:'token') WITH ORDINALITY;
SELECT a.role, b.role IS NULL AS missing FROM ROWS FROM (amt_verify(:'token'), amt_verify('x')) AS a (key_id, org_id, role, name, created_by, expires_at, id2, org2, r2, name2, by2, at2), LATERAL (SELECT a.r2) AS b (role);
SELECT t.n, count(v.key_id) FROM (VALUES (1, :'token'), (2, 'x'), (3, NULL)) AS t (n, token) LEFT JOIN LATERAL amt_verify(t.token) AS v ON true GROUP BY t.n ORDER BY t.n;
SELECT count(*) FROM amt_verify(NULL);
SELECT count(*) FROM amt_verify(:'token', NULL);
CREATE VIEW verified AS SELECT * FROM amt_verify(current_setting('app.token', true));
SELECT set_config('app.token', :'token', false) IS NOT NULL AS set \gset
SELECT org_id, role FROM verified;
SELECT pg_get_viewdef('verified') ~ 'amt_verify\(' AS as_written;
BEGIN;
SELECT role FROM amt_verify(identify => true, token => :'token');
SELECT amt_org_id(), amt_role();
COMMIT;
DO $$ BEGIN PERFORM * FROM amt_verify(current_setting('app.token')); ASSERT FOUND; PERFORM amt_verify(current_setting('app.token')); ASSERT FOUND; END $$;

-- who may not execute amt_verify() may not execute its twin, planned before or called as it is
\set VERBOSITY sqlstate
CREATE ROLE amt_plan_app;
GRANT SELECT ON verified TO amt_plan_app;
SET ROLE amt_plan_app;
SELECT * FROM amt_verify('x');
SELECT * FROM amt_verify_row('x', false);
SELECT amt_verify_row(:'token', true);
SELECT * FROM verified;
RESET ROLE;
GRANT EXECUTE ON FUNCTION amt_verify TO amt_plan_app;
SET ROLE amt_plan_app;
SET plan_cache_mode = force_generic_plan;
PREPARE verify(text) AS SELECT role FROM amt_verify($1);
EXECUTE verify(:'token');
SELECT role FROM amt_verify_row(:'token', false);
RESET ROLE;
REVOKE EXECUTE ON FUNCTION amt_verify FROM amt_plan_app;
SET ROLE amt_plan_app;
EXECUTE verify(:'token');
RESET ROLE;

-- without the right to the twin, and with a function that was changed, the call stays what it is
GRANT EXECUTE ON FUNCTION amt_verify TO amt_plan_app;
REVOKE EXECUTE ON FUNCTION amt_verify_row FROM PUBLIC;
SET ROLE amt_plan_app;
EXECUTE verify(:'token');
SELECT role FROM amt_verify(:'token');
SELECT role FROM amt_verify_row(:'token', false);
RESET ROLE;
GRANT EXECUTE ON FUNCTION amt_verify_row TO PUBLIC;
ALTER FUNCTION amt_verify SET search_path = pg_catalog;
SELECT plan('SELECT * FROM amt_verify(''x'')');
ALTER FUNCTION amt_verify RESET ALL;
ALTER FUNCTION amt_verify SECURITY DEFINER;
SELECT plan('SELECT * FROM amt_verify(''x'')');
ALTER FUNCTION amt_verify SECURITY INVOKER;
SELECT calls FROM amt_keys;

DEALLOCATE verify;
DROP VIEW verified;
DROP FUNCTION plan;
DROP EXTENSION amt_keys;
DROP ROLE amt_plan_app;
