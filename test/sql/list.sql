--
-- The list of keys: view amt_keys, amt_usage(), amt_flush_usage()
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

CREATE TEMP TABLE known AS
	SELECT k.* FROM (VALUES (1, 'one', 'acme'), (2, 'two', 'acme'), (3, 'three', 'globex')) AS v (n, name, org_id), amt_create_key(v.name, v.org_id, 'viewer') AS k;
CREATE TEMP TABLE short AS SELECT k.* FROM amt_create_key('short', 'acme', 'viewer', expires_at => clock_timestamp() + interval '3 seconds') AS k;
GRANT SELECT ON known, short TO PUBLIC;
SELECT token FROM known WHERE name = 'one' \gset
SELECT token AS short_token, key_id AS short_key_id FROM short \gset

-- who sees what: a superuser all, an organization its own, whatever the role, nobody nothing
SELECT name, org_id, role, k.token_prefix = 'amt_' || k.key_id || '...' AS token_prefix, created_by, expires_at IS NOT NULL AS expires, calls, last_used_at
FROM amt_keys AS k ORDER BY created_at, name COLLATE "C";
CREATE FUNCTION seen_by(org_id text, role text, db_role text DEFAULT 'regress_amt_web') RETURNS text LANGUAGE plpgsql AS $$
DECLARE
	answer text;
BEGIN
	PERFORM set_config('amt_keys.org_id', org_id, true), set_config('amt_keys.role', role, true), set_config('role', db_role, true);
	SELECT string_agg(name, ', ' ORDER BY name COLLATE "C") FROM amt_keys INTO answer;
	PERFORM set_config('role', 'none', true);
	RETURN answer;
END
$$;
SELECT seen_by('acme', 'viewer') AS viewer, seen_by('acme', 'owner') AS owner, seen_by('acme', '') AS without_role, seen_by('globex', 'owner') AS elsewhere,
       seen_by('Acme', 'owner') AS other_case, seen_by('', 'owner') AS nobody,
       seen_by('acme', 'viewer', 'regress_amt_gateway') AS gateway, seen_by('', '', 'regress_amt_gateway') AS gateway_without_identity \gx

-- each success counts at once, and a failure does not
SELECT count(*) FROM generate_series(1, 10) AS i, amt_verify(:'token' || left('', i));
SELECT count(*) FROM generate_series(1, 10) AS i, amt_verify(left(:'token', 60) || left('', i));
SELECT name, calls, last_used_at > now() - interval '1 minute' AND last_used_at <= clock_timestamp() AS last_used_at FROM amt_keys ORDER BY name COLLATE "C";
-- also when the transaction is read-only, or rolls back
BEGIN READ ONLY;
SELECT name FROM amt_verify(:'token');
COMMIT;
BEGIN;
SELECT name FROM amt_verify(:'token');
SELECT calls FROM amt_keys WHERE name = 'one';
ROLLBACK;
BEGIN;
SAVEPOINT s;
SELECT name FROM amt_verify(:'token');
ROLLBACK TO s;
COMMIT;
BEGIN ISOLATION LEVEL REPEATABLE READ;
SELECT calls FROM amt_keys WHERE name = 'one';
SELECT name FROM amt_verify(:'token');
SELECT calls FROM amt_keys WHERE name = 'one';
COMMIT;
-- an expired key's call is none
SELECT name FROM amt_verify(:'short_token');
SELECT pg_sleep_until(expires_at) FROM short;
SELECT name FROM amt_verify(:'short_token');
SELECT name, calls FROM amt_keys ORDER BY name COLLATE "C";
SELECT calls FROM amt_usage(:'short_key_id');
SELECT name, expires_at < clock_timestamp() AS expired FROM amt_key WHERE key_id = :'short_key_id';

-- written to the table, the sum stays the same
DO $$ -- more than once, as a worker may be about to do it
BEGIN
	FOR i IN 1..500 LOOP
		PERFORM amt_flush_usage();
		COMMIT;
		EXIT WHEN (SELECT calls_pending = 0 FROM amt_stat);
		PERFORM pg_sleep(0.01);
	END LOOP;
END
$$;
SELECT amt_flush_usage();
SELECT name, u.calls, u.last_used_at = k.last_used_at AS last_used_at FROM amt_key_usage AS u JOIN amt_keys AS k USING (key_id) ORDER BY name COLLATE "C";
SELECT name FROM amt_verify(:'token');
SELECT name, calls FROM amt_keys ORDER BY name COLLATE "C";
BEGIN;
SELECT count(*) FROM generate_series(1, 3) AS i, amt_verify(:'token' || left('', i));
SELECT amt_flush_usage() >= 0 AS flushed;
SELECT calls FROM amt_keys WHERE name = 'one';
ROLLBACK;
SELECT calls FROM amt_keys WHERE name = 'one';
SELECT amt_flush_usage() >= 0 AS flushed;
SELECT calls FROM amt_keys WHERE name = 'one';
-- the worker writes, so the caller's transaction may be read-only
SELECT name FROM amt_verify(:'token');
BEGIN READ ONLY;
SELECT amt_flush_usage() <= 1 AS flushed;
COMMIT;
SELECT u.calls = k.calls AS written FROM amt_key_usage AS u JOIN amt_keys AS k USING (key_id) WHERE name = 'one';

-- last used only grows
SELECT last_used_at AS before FROM amt_keys WHERE name = 'one' \gset
SELECT name FROM amt_verify(:'token');
SELECT last_used_at > :'before' AS later FROM amt_keys WHERE name = 'one';

-- usage of keys that do not exist or that the caller cannot see is nothing
SELECT seen_by('acme', 'viewer') IS NOT NULL AS seen;
SET amt_keys.org_id = 'globex';
SET ROLE regress_amt_web;
SELECT name, u.* FROM known AS k, amt_usage(k.key_id) AS u ORDER BY name COLLATE "C";
SELECT count(*) FROM amt_key_usage;
RESET ROLE;
RESET amt_keys.org_id;
SELECT k, u.* FROM unnest(array['', 'x', 'amt_x...', repeat('x', 65), NULL]) WITH ORDINALITY AS v (key, n), left(key, 8) AS k, amt_usage(key) AS u ORDER BY n;
SELECT length(k) AS length, u.* FROM repeat('x', 1048576) AS k, amt_usage(k) AS u;
SELECT * FROM amt_usage(NULL);

-- nothing is inserted through it, and it has no rights of its own
INSERT INTO amt_keys (key_id, name) VALUES ('x', 'x');
:sqlstate
SELECT reloptions FROM pg_class WHERE oid = 'amt_keys'::regclass;

-- a hundred keys, in the order that one likes
SELECT count(*) FROM generate_series(1, 100) AS i, amt_create_key('key ' || lpad(i::text, 3, '0'), 'initech', 'viewer');
SELECT name, calls FROM amt_keys WHERE org_id = 'initech' ORDER BY name DESC LIMIT 3;
SELECT count(*), sum(calls) FROM amt_keys WHERE org_id = 'initech';

DROP FUNCTION seen_by;
DROP EXTENSION amt_keys;
DROP OWNED BY regress_amt_gateway;
DROP ROLE regress_amt_gateway, regress_amt_web;
