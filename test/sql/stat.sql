--
-- Statistics: view amt_stat, amt_stat_reset(), amt_cache_clear()
--
\set VERBOSITY default
\set SHOW_CONTEXT never
\set sqlstate '\\echo SQLSTATE :SQLSTATE'
SET client_min_messages = warning;
CREATE EXTENSION amt_keys;
SET amt_keys.scrypt_ln = 1;
CREATE ROLE regress_amt_web;
SELECT token, key_id FROM amt_create_key('a key', 'acme', 'viewer') \gset
SELECT token AS expired_token FROM amt_create_key('expired', 'acme', 'viewer', expires_at => clock_timestamp() + interval '20 seconds') \gset
UPDATE amt_key SET expires_at = now() WHERE name = 'expired';
SELECT token AS suspended_token FROM amt_create_key('suspended', 'acme', 'viewer') \gset
UPDATE amt_key SET suspended_at = now() WHERE name = 'suspended';
-- suspended and expired counts as suspended
SELECT token AS both_token FROM amt_create_key('both', 'acme', 'viewer') \gset
UPDATE amt_key SET suspended_at = now(), expires_at = now() WHERE name = 'both';
SELECT amt_import_key(sha256('an-imported-token'), 'imported', 'acme', 'viewer') AS imported_key_id \gset

SELECT amt_stat_reset();
SELECT count(*), bool_and(shared_memory) AS shared_memory, bool_and(stats_reset BETWEEN now() AND clock_timestamp() OR stats_reset > now() - interval '1 minute') AS stats_reset FROM amt_stat;

-- each answer has its counter
SELECT count(*) FROM unnest(array[NULL, '', 'x', 'Bearer', repeat('x', 1000)]) AS t, amt_verify(t);
SELECT count(*) FROM generate_series(1, 4) AS i, amt_verify('amt_none_' || repeat(i::text, 16));
SELECT count(*) FROM generate_series(1, 3) AS i, amt_verify(left(:'token', 40) || i);
SELECT count(*) FROM generate_series(1, 2) AS i, amt_verify(:'expired_token' || left('', i));
SELECT count(*) FROM unnest(array[:'suspended_token', :'both_token', :'suspended_token']) AS t, amt_verify(t);
SELECT count(*) FROM generate_series(1, 6) AS i, amt_verify(:'token' || left('', i));
SELECT verified, rejected_malformed, rejected_unknown, rejected_wrong_secret, rejected_suspended, rejected_expired FROM amt_stat;

-- suspended or expired is said of a right secret only
SELECT amt_stat_reset();
SELECT count(*) FROM unnest(array[:'suspended_token', :'expired_token']) AS t, amt_verify(left(t, 40));
-- an imported token is good, or malformed, or unknown if it looks like one of ours
SELECT count(*) FROM unnest(array['an-imported-token', 'an-imported-tokem', 'amt_none_an-imported-tokem']) AS t, amt_verify(t);
-- amt_revoke() counts wrong secrets, and nothing else
SET ROLE regress_amt_web;
SELECT amt_revoke(left(:'token', 40)), amt_revoke('amt_none_0123456789abcdef'), amt_revoke('x');
RESET ROLE;
SELECT verified, rejected_malformed, rejected_unknown, rejected_wrong_secret, rejected_suspended, rejected_expired FROM amt_stat;

-- keys are warm from the moment they are created; cold, one run of scrypt decides for all that follow
SELECT amt_stat_reset();
SELECT count(*) FROM generate_series(1, 6) AS i, amt_verify(:'token' || left('', i));
SELECT scrypt_runs, cache_hits, scrypt_waits, warm_keys >= 2 AS warm_keys, scrypt_time FROM amt_stat;
SELECT amt_cache_clear();
SELECT warm_keys FROM amt_stat;
SELECT amt_stat_reset();
SELECT count(*) FROM generate_series(1, 6) AS i, amt_verify(:'token' || left('', i));
SELECT scrypt_runs, cache_hits, warm_keys, scrypt_time > 0 AS scrypt_time FROM amt_stat;
-- a wrong secret of a warm key needs none; of a cold one it needs one each time
SELECT count(*) FROM generate_series(1, 3) AS i, amt_verify(left(:'token', 40) || i);
SELECT scrypt_runs, cache_hits, warm_keys, rejected_wrong_secret FROM amt_stat;
SELECT amt_cache_clear();
SELECT count(*) FROM generate_series(1, 3) AS i, amt_verify(left(:'token', 40) || i);
SELECT scrypt_runs, cache_hits, warm_keys, rejected_wrong_secret FROM amt_stat;
-- malformed and unknown tokens need none
SELECT count(*) FROM generate_series(1, 3) AS i, amt_verify('amt_none_' || repeat(i::text, 16));
SELECT scrypt_runs, cache_hits FROM amt_stat;

-- every call is pending, written or dropped
CREATE PROCEDURE flush() LANGUAGE plpgsql AS $$
BEGIN
	-- more than once, as a worker may be about to do it
	FOR i IN 1..500 LOOP
		PERFORM amt_flush_usage();
		COMMIT;
		EXIT WHEN (SELECT calls_pending = 0 FROM amt_stat);
		PERFORM pg_sleep(0.01);
	END LOOP;
END
$$;
CALL flush();
SELECT amt_stat_reset();
SELECT count(*) FROM generate_series(1, 7) AS i, amt_verify(:'token' || left('', i));
SELECT calls_pending + calls_flushed AS calls, calls_dropped FROM amt_stat;
CALL flush();
SELECT calls_pending, calls_flushed, calls_dropped FROM amt_stat;
SELECT amt_stat_reset();
SELECT verified, scrypt_runs, calls_flushed, scrypt_time FROM amt_stat;

-- privileges
CREATE ROLE regress_amt_monitor;
GRANT pg_monitor TO regress_amt_monitor;
SET ROLE regress_amt_web;
TABLE amt_stat;
:sqlstate
SELECT amt_stat_get();
:sqlstate
SELECT amt_stat_reset();
:sqlstate
SELECT amt_cache_clear();
:sqlstate
SELECT amt_flush_usage();
:sqlstate
SET ROLE regress_amt_monitor;
SELECT verified FROM amt_stat;
SELECT amt_stat_reset();
:sqlstate
RESET ROLE;

-- a key that was never committed is unknown, though its secret was proved
SELECT amt_stat_reset();
BEGIN;
SELECT token FROM amt_create_key('not committed', 'acme', 'viewer') \gset
SELECT name FROM amt_verify(:'token');
ROLLBACK;
SELECT name FROM amt_verify(:'token');
SELECT verified, rejected_unknown, scrypt_runs FROM amt_stat;

DROP PROCEDURE flush;
DROP EXTENSION amt_keys;
DROP ROLE regress_amt_web, regress_amt_monitor;
