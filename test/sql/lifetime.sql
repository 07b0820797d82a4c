--
-- Lifetimes: amt_keys.default_lifetime and amt_keys.max_lifetime
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

-- continue as an ordinary role with this identity
CREATE PROCEDURE become(org_id text, role text, actor text DEFAULT '', key_id text DEFAULT '', db_role text DEFAULT 'regress_amt_web', scopes text DEFAULT '')
LANGUAGE plpgsql AS $$
BEGIN
	RESET ROLE;
	PERFORM set_config('amt_keys.org_id', org_id, false), set_config('amt_keys.role', role, false),
	        set_config('amt_keys.actor', actor, false), set_config('amt_keys.key_id', key_id, false),
	        set_config('amt_keys.scopes', scopes, false), set_config('role', db_role, false);
END
$$;

-- the answer of a statement, or its SQLSTATE; its effects are undone
CREATE FUNCTION attempt(statement text) RETURNS text LANGUAGE plpgsql AS $$
DECLARE
	answer text;
BEGIN
	EXECUTE statement INTO answer;
	RAISE SQLSTATE 'UNDO0' USING MESSAGE = coalesce(answer, 'null');
EXCEPTION
	WHEN SQLSTATE 'UNDO0' THEN RETURN SQLERRM;
	WHEN OTHERS THEN RETURN SQLSTATE || ' ' || SQLERRM;
END
$$;

-- how long a key lives from now
CREATE FUNCTION days(expires_at timestamptz) RETURNS text LANGUAGE sql AS $$
	SELECT CASE WHEN isfinite(expires_at) THEN round((extract(epoch FROM expires_at - now()) / 86400)::numeric, 3) || ' days' ELSE coalesce(expires_at::text, 'never') END
$$;
CREATE FUNCTION life(life text DEFAULT NULL) RETURNS text LANGUAGE plpgsql AS $$
BEGIN
	RETURN attempt(format('SELECT days(expires_at) FROM amt_create_key(''k'', ''acme'', ''viewer'', expires_at => %L)',
	                      CASE life WHEN 'infinity' THEN life::timestamptz ELSE now() + life::interval END));
END
$$;
-- by default there is neither expiry nor limit
CALL become('acme', 'viewer', 'ann');
SELECT life(), life('36500 days');
-- the default is for keys without expiry, whoever creates them; infinity is an expiry
RESET ROLE;
SET amt_keys.default_lifetime = '30d';
SELECT life() AS superuser, life('1 day') AS superuser_shorter, life('60 days') AS superuser_longer, life('infinity') AS superuser_infinity;
CALL become('acme', 'viewer', 'ann');
SELECT life(), life('1 day') AS shorter, life('60 days') AS longer, life('infinity') AS infinity;
-- the maximum is for callers that are not trusted
RESET ROLE;
SET amt_keys.max_lifetime = '90d';
CALL become('acme', 'viewer', 'ann');
SELECT life(), life('1 day') AS shorter, life('89 days 23:59') AS just_within, life('90 days 00:01') AS just_beyond, life('36500 days') AS longer, life('infinity') AS infinity \gx
CALL become('acme', 'viewer', 'gil', db_role => 'regress_amt_gateway');
SELECT life(), life('90 days 00:01') AS just_beyond, life('infinity') AS infinity;
-- a default beyond the maximum is no way around it
RESET ROLE;
SET amt_keys.default_lifetime = '91d';
CALL become('acme', 'viewer', 'ann');
SELECT life(), life('1 day') AS shorter;
-- a maximum without a default: an expiry must be named
RESET ROLE;
SET amt_keys.default_lifetime = 0;
CALL become('acme', 'viewer', 'ann');
SELECT life(), life('1 day') AS shorter;
CALL become('acme', 'viewer', 'gil', db_role => 'regress_amt_gateway');
SELECT life();
-- the refusals, whose hint names the latest time
RESET ROLE;
CREATE FUNCTION hint(statement text) RETURNS TABLE (state text, message text, hint text, latest text) LANGUAGE plpgsql AS $$
BEGIN
	EXECUTE statement;
EXCEPTION WHEN OTHERS THEN
	GET STACKED DIAGNOSTICS state = RETURNED_SQLSTATE, message = MESSAGE_TEXT, hint = PG_EXCEPTION_HINT;
	latest := days(substring(hint FROM ' is (.*)\.$')::timestamptz);
	hint := regexp_replace(hint, ' is .*', ' is <time>.');
	RETURN NEXT;
END
$$;
CALL become('acme', 'viewer', 'ann');
SELECT * FROM hint('SELECT amt_create_key(''k'')');
SELECT * FROM hint('SELECT amt_create_key(''k'', expires_at => now() + ''91 days'')');

-- a trusted caller may prolong a key, another one not beyond the maximum from its creation
RESET ROLE;
CREATE TABLE old AS SELECT amt_import_key(sha256(v.name::bytea), v.name, 'acme', 'viewer', created_at => now() - v.age, created_by => 'ann', expires_at => v.expires_at) AS key_id, v.name
	FROM (VALUES ('young', '10 days'::interval, now() + '5 days'::interval), ('old', '100 days', now() + '1 day'::interval), ('without', '10 days', NULL)) AS v (name, age, expires_at);
GRANT SELECT ON old TO PUBLIC;
CREATE FUNCTION prolong(name text, life text) RETURNS text LANGUAGE plpgsql AS $$
BEGIN
	RETURN attempt(format('WITH u AS (UPDATE amt_keys SET expires_at = %L WHERE key_id = (SELECT o.key_id FROM old AS o WHERE o.name = %L) RETURNING expires_at) '
		'SELECT days(expires_at) FROM u', CASE life WHEN 'infinity' THEN life::timestamptz ELSE now() + life::interval END, name));
END
$$;
CALL become('acme', 'viewer', 'ann');
SELECT name, prolong(name, '2 days') AS two_days, prolong(name, '79 days') AS in_79_days, prolong(name, '81 days') AS in_81_days, prolong(name, NULL) AS never, prolong(name, 'infinity') AS infinity
FROM old ORDER BY name \gx
-- a life can always be shortened, even if it stays too long
SELECT prolong('without', '200 days') AS shorter_than_never, prolong('old', '12 hours') AS shorter;
SELECT * FROM hint('UPDATE amt_keys SET expires_at = now() + ''81 days'' WHERE name = ''young''');
-- a new name does not ask for the expiry
SELECT attempt('WITH u AS (UPDATE amt_keys SET name = ''renamed'' WHERE name = ''without'' RETURNING name) SELECT name FROM u') AS renamed;
CALL become('acme', 'viewer', 'gil', db_role => 'regress_amt_gateway');
SELECT prolong('young', '81 days') AS gateway, prolong('old', NULL) AS gateway_never;
RESET ROLE;
SELECT prolong('young', '81 days') AS superuser;
-- nobody else sets the settings
CALL become('acme', 'owner', 'ann');
SET amt_keys.max_lifetime = 0;
:sqlstate
SET amt_keys.default_lifetime = 0;
:sqlstate
RESET ROLE;

-- where the default is the maximum, a person rotates keys again and again
SET amt_keys.max_lifetime = '1h';
SET amt_keys.default_lifetime = '1h';
CALL become('acme', 'owner', 'ann');
SELECT key_id AS first FROM amt_create_key('default') \gset
SELECT key_id AS second FROM amt_rotate_key(:'first') \gset
SELECT expires_at - created_at AS lifetime FROM amt_rotate_key(:'second');
RESET ROLE;
-- a key that is created late in a transaction does not expire before, nor does one that is rotated
SET amt_keys.default_lifetime = '1s';
SELECT key_id AS early FROM amt_create_key('early', 'acme', 'viewer') \gset
BEGIN;
SELECT pg_sleep(1.1) IS NOT NULL AS slept;
SELECT expires_at > clock_timestamp() AS lives FROM amt_create_key('late', 'acme', 'viewer');
SELECT expires_at > clock_timestamp() AS lives FROM amt_rotate_key(:'early');
ROLLBACK;

DROP TABLE old;
DROP FUNCTION prolong, life, hint, days;
DROP FUNCTION attempt;
DROP PROCEDURE become;
DROP EXTENSION amt_keys;
DROP OWNED BY regress_amt_gateway;
DROP ROLE regress_amt_gateway, regress_amt_web;
