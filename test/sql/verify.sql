--
-- amt_verify(): one row or none, never an error, in every kind of transaction
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
CREATE ROLE regress_amt_app;
GRANT EXECUTE ON FUNCTION amt_verify TO regress_amt_app;

SET amt_keys.org_id = 'acme';
SET amt_keys.actor = 'ann';
SELECT token, key_id, token_prefix FROM amt_create_key('a key', 'acme', 'editor', expires_at => '2200-01-01 00:00+00') \gset
RESET amt_keys.actor;
RESET amt_keys.org_id;
SELECT token AS other_token, key_id AS other_key_id FROM amt_create_key('another key', 'globex', 'viewer') \gset

-- a character by its code point, in SQL_ASCII, too
CREATE FUNCTION u(code int) RETURNS text LANGUAGE sql AS $$
	SELECT convert_from(decode(CASE
		WHEN code < 2048 THEN to_hex(192 + code / 64)
		WHEN code < 65536 THEN to_hex(224 + code / 4096) || to_hex(128 + code / 64 % 64)
		ELSE to_hex(240 + code / 262144) || to_hex(128 + code / 4096 % 64) || to_hex(128 + code / 64 % 64)
	END || to_hex(128 + code % 64), 'hex'), 'UTF8')
$$;

-- good
SELECT key_id = :'key_id' AS key_id, org_id, role, name, created_by, expires_at FROM amt_verify(:'token');
SELECT key_id = :'other_key_id' AS key_id, org_id, role, name, created_by, expires_at FROM amt_verify(:'other_token', false);
SELECT name FROM amt_verify(token => :'token');
SELECT name FROM amt_verify(:'token', NULL);

-- bad, in whichever way: no row; once warm, once cold
CREATE TEMP TABLE bad AS SELECT * FROM (VALUES
	('null', NULL),
	('empty', ''),
	('blank', ' '),
	('key id', :'key_id'),
	('displayed prefix', :'token_prefix'),
	('secret alone', substr(:'token', 18)),
	('unknown key', overlay(:'token' placing 'ZZZZZZZZZZZZ' from 5)),
	('another key''s secret', left(:'token', 17) || substr(:'other_token', 18)),
	('secret of the right shape', left(:'token', 17) || repeat('x', 49)),
	('one character of the secret changed', overlay(:'token' placing CASE WHEN substr(:'token', 40, 1) = 'x' THEN 'y' ELSE 'x' END from 40)),
	('last character changed', left(:'token', 65) || CASE WHEN right(:'token', 1) = 'x' THEN 'y' ELSE 'x' END),
	('last character missing', left(:'token', 65)),
	('one character more', :'token' || '0'),
	('half of the secret', left(:'token', 42)),
	('secret doubled', :'token' || substr(:'token', 18)),
	('secret of 15 characters', left(:'token', 32)),
	('secret of 257 characters', left(:'token', 17) || repeat('x', 257)),
	('id of 65 characters', 'amt_' || repeat('0', 65) || substr(:'token', 17)),
	('no id', 'amt_' || substr(:'token', 17)),
	('no head', substr(:'token', 5)),
	('other head', 'sk_' || substr(:'token', 5)),
	('head in upper case', 'AMT_' || substr(:'token', 5)),
	('head twice', 'amt_' || :'token'),
	('upper case', 'amt_' || upper(substr(:'token', 5))),
	('lower case', lower(:'token')),
	('reversed', reverse(:'token')),
	('percent', 'amt_%_' || substr(:'token', 18)),
	('SQL', 'amt_'' OR true --_' || substr(:'token', 18)),
	('blank before', ' ' || :'token'),
	('blank behind', :'token' || ' '),
	('line feed behind', :'token' || E'\n'),
	('U+0001 behind', :'token' || E'\x01'),
	('U+0001 before', E'\x01' || :'token'),
	('U+0001 within the secret', overlay(:'token' placing E'\x01' from 30)),
	('U+0001 within the id', overlay(:'token' placing E'\x01' from 8)),
	('U+007F within the secret', overlay(:'token' placing E'\x7f' from 30)),
	('U+0130 within the id', overlay(:'token' placing u(x'130'::int) from 8)),
	('U+0100 within the secret, NUL in two of its four UTF-16 bytes', overlay(:'token' placing u(x'100'::int) from 30)),
	('wide digits', overlay(:'token' placing u(x'FF11'::int) from 8)),
	('backslash zero', :'token' || '\0'),
	('percent-encoded NUL', :'token' || '%00'),
	('two tokens', :'token' || ' ' || :'other_token'),
	('two tokens with a comma', :'token' || ',' || :'other_token'),
	('scheme alone', 'Bearer'),
	('scheme and blank', 'Bearer '),
	('scheme without blank', 'Bearer' || :'token'),
	('scheme and tab', E'Bearer\t' || :'token'),
	('scheme twice', 'Bearer Bearer ' || :'token'),
	('blank and scheme', ' Bearer ' || :'token'),
	('other scheme', 'Basic ' || :'token'),
	('scheme, token, blank', 'Bearer ' || :'token' || ' '),
	('quoted', '"' || :'token' || '"'),
	('a megabyte of noise', repeat('noise ', 174763)),
	('a megabyte of x', repeat('x', 1048576)),
	('a megabyte of heads', repeat('amt_', 262144)),
	('a megabyte behind', :'token' || repeat('x', 1048576)),
	('a megabyte before', repeat('x', 1048576) || :'token'),
	('a megabyte of id', 'amt_' || repeat('x', 1048576) || substr(:'token', 17)),
	('a megabyte of blanks', repeat(' ', 1048576) || :'token'),
	('a megabyte of schemes', repeat('Bearer ', 149796) || :'token'),
	('random bytes', (SELECT string_agg(chr(1 + (i * 7919) % 255), '') FROM generate_series(1, 10000) AS i))) AS v (what, token);
SELECT what FROM bad, amt_verify(bad.token);
SELECT amt_cache_clear();
SELECT what FROM bad, amt_verify(bad.token);
SELECT count(*) FROM bad;
SELECT name FROM amt_verify(:'token');
-- with a scheme before it, only the blanks become part of that
SELECT what FROM bad, amt_verify('Bearer ' || bad.token) ORDER BY what COLLATE "C";

-- a token of any length that could be one, for a key that does not exist
SELECT count(*) FROM generate_series(1, 66) AS i, generate_series(14, 258) AS s, amt_verify('amt_' || repeat('i', i) || '_' || repeat('s', s));

-- with the scheme as a header has it
SELECT scheme, name FROM unnest(array['Bearer ', 'bearer ', 'BEARER ', 'bEARER ', 'Bearer    ', 'Bearer' || repeat(' ', 1048576)]) WITH ORDINALITY AS u (s, n),
	left(s, 10) AS scheme, amt_verify(s || :'token') ORDER BY n;

-- wherever a function can stand
SELECT (amt_verify(:'token')).name;
SELECT (amt_verify('x')).name;
SELECT amt_verify('x') IS NULL;
SELECT count(*) FROM (SELECT amt_verify(t) FROM unnest(array[:'token', 'x', :'other_token']) AS t) AS s;
SELECT name FROM unnest(array[:'token', 'x', NULL, :'other_token', :'token']) WITH ORDINALITY AS u (t, n) LEFT JOIN LATERAL amt_verify(t) ON true ORDER BY n;
SELECT name FROM ROWS FROM (amt_verify(:'token'), generate_series(1, 2)) AS r (key_id, org_id, role, scopes, name);
SELECT EXISTS (SELECT FROM amt_verify(:'token')) AS good, EXISTS (SELECT FROM amt_verify('x')) AS bad;
PREPARE verify AS SELECT name FROM amt_verify($1);
EXECUTE verify (:'token');
EXECUTE verify ('x');
EXECUTE verify (NULL);
DEALLOCATE verify;
BEGIN;
DECLARE c SCROLL CURSOR FOR SELECT name FROM unnest(array[:'token', :'other_token']) AS t, amt_verify(t);
FETCH 2 FROM c;
FETCH BACKWARD 1 FROM c;
CLOSE c;
COMMIT;
DO $$ BEGIN ASSERT NOT EXISTS (SELECT FROM amt_verify('x')); END $$;
SELECT (v).org_id, (v).role, pg_typeof(v) FROM amt_verify(:'token') AS v;
SELECT row_to_json(v)->>'role' AS role FROM amt_verify(:'token') AS v;
SELECT s.role, t.n FROM (SELECT * FROM amt_verify(:'token') OFFSET 0) AS s, generate_series(1, 2) AS t (n);
SELECT role, ordinality FROM amt_verify(:'token') WITH ORDINALITY;
SELECT t.n, count(v.key_id) FROM (VALUES (1, :'token'), (2, 'x'), (3, NULL)) AS t (n, token) LEFT JOIN LATERAL amt_verify(t.token) AS v ON true GROUP BY t.n ORDER BY t.n;
CREATE VIEW verified AS SELECT * FROM amt_verify(current_setting('app.token', true));
SELECT set_config('app.token', :'token', false) IS NOT NULL AS set;
SELECT org_id, role FROM verified;
CREATE FUNCTION pg_temp.verified(token text) RETURNS amt_verified LANGUAGE sql AS 'SELECT amt_verify(token)';
SELECT (pg_temp.verified(:'token')).role, pg_temp.verified('x') IS NULL AS none;
-- a plan that is kept is asked for the privilege at each call
SET plan_cache_mode = force_generic_plan;
PREPARE verify(text) AS SELECT role FROM amt_verify($1);
GRANT SELECT ON verified TO regress_amt_web;
GRANT EXECUTE ON FUNCTION amt_verify TO regress_amt_web;
SET ROLE regress_amt_web;
EXECUTE verify(:'token');
RESET ROLE;
REVOKE EXECUTE ON FUNCTION amt_verify FROM regress_amt_web;
SET ROLE regress_amt_web;
EXECUTE verify(:'token');
:sqlstate
SELECT * FROM verified;
:sqlstate
RESET ROLE;
DEALLOCATE verify;
RESET plan_cache_mode;
DROP VIEW verified;
DROP FUNCTION pg_temp.verified;

-- not for everybody
SET ROLE regress_amt_web;
SELECT * FROM amt_verify(:'token');
:sqlstate
SET ROLE regress_amt_app;
SELECT name FROM amt_verify(:'token');
RESET ROLE;

-- identify: the key is the identity until the end of the transaction
CREATE VIEW identity AS SELECT amt_org_id() AS org_id, amt_role() AS role, amt_actor() AS actor, amt_key_id() = :'key_id' AS key_id;
GRANT SELECT ON identity TO PUBLIC;
SET ROLE regress_amt_app;
BEGIN;
SELECT name FROM amt_verify(:'token', identify => true);
TABLE identity;
SELECT org_id, role, actor, key_id = :'key_id' AS key_id, key_name FROM amt_whoami();
SELECT name FROM amt_keys;
SAVEPOINT s;
SELECT name FROM amt_verify(:'other_token', identify => true);
SELECT org_id, role, actor, key_id = :'other_key_id' AS key_id, key_name FROM amt_whoami();
SELECT name FROM amt_keys;
ROLLBACK TO s;
TABLE identity;
SAVEPOINT s;
SELECT name FROM amt_verify(:'other_token', identify => true);
RELEASE s;
SELECT amt_org_id();
-- without it, the identity stays
SELECT name FROM amt_verify(:'token');
SELECT amt_org_id();
-- a bad token leaves none
SELECT name FROM amt_verify('x', identify => true);
TABLE identity;
SELECT count(*) FROM amt_keys;
SELECT name FROM amt_verify(:'token', identify => true);
SELECT name FROM amt_verify(NULL, identify => true);
TABLE identity;
SELECT name FROM amt_verify(:'token', identify => true);
COMMIT;
TABLE identity;
-- without a transaction block it ends with the statement, and a warning says so, of the client's own statement only
SELECT name FROM amt_verify(:'token', identify => true);
TABLE identity;
\set VERBOSITY sqlstate
SELECT name FROM amt_verify('x', identify => true);
\set VERBOSITY default
SELECT name FROM amt_verify(:'token', identify => false);
DO $$
BEGIN
	PERFORM * FROM amt_verify(current_setting('app.token'), identify => true);
	ASSERT amt_org_id() = 'acme';
END
$$;
TABLE identity;
BEGIN;
SELECT name FROM amt_verify(:'token', identify => true);
ROLLBACK;
TABLE identity;
RESET ROLE;
-- it hides the session's own identity, which comes back
SET amt_keys.org_id = 'initech';
SET amt_keys.role = 'owner';
SET amt_keys.actor = 'ian';
BEGIN;
SELECT name FROM amt_verify(:'token', identify => true);
TABLE identity;
SELECT name FROM amt_verify('x', identify => true);
TABLE identity;
COMMIT;
TABLE identity;
RESET amt_keys.org_id;
RESET amt_keys.role;
RESET amt_keys.actor;

-- an application's own table with policies
CREATE TABLE note (org_id text DEFAULT amt_org_id(), text text);
ALTER TABLE note ENABLE ROW LEVEL SECURITY;
CREATE POLICY note_read ON note FOR SELECT USING (org_id = amt_org_id());
CREATE POLICY note_write ON note FOR INSERT WITH CHECK (org_id = amt_org_id() AND amt_has_role('editor'));
GRANT SELECT, INSERT ON note TO regress_amt_app;
INSERT INTO note VALUES ('acme', 'acme''s'), ('globex', 'globex''s');
SET ROLE regress_amt_app;
BEGIN;
SELECT name FROM amt_verify(:'token', identify => true);
INSERT INTO note (text) VALUES ('acme''s, too');
TABLE note;
COMMIT;
BEGIN;
SELECT name FROM amt_verify(:'other_token', identify => true);
TABLE note;
INSERT INTO note (text) VALUES ('not to be written');
:sqlstate
ROLLBACK;
TABLE note;
RESET ROLE;
DROP TABLE note;

-- in every kind of transaction
BEGIN READ ONLY;
SELECT name FROM amt_verify(:'token', identify => true);
SELECT name FROM amt_verify('x');
SELECT amt_org_id();
COMMIT;
BEGIN ISOLATION LEVEL REPEATABLE READ;
SELECT count(*) FROM amt_key;
SELECT name FROM amt_verify(:'token');
COMMIT;
BEGIN ISOLATION LEVEL SERIALIZABLE READ ONLY DEFERRABLE;
SELECT name FROM amt_verify(:'token');
COMMIT;
SET default_transaction_read_only = on;
SELECT name FROM amt_verify(:'token');
SELECT amt_cache_clear();
SELECT name FROM amt_verify(:'token');
RESET default_transaction_read_only;
-- a snapshot of before the key was created
BEGIN ISOLATION LEVEL REPEATABLE READ;
SELECT token AS newer_token FROM amt_create_key('newer', 'acme', 'viewer') \gset
SELECT name FROM amt_verify(:'newer_token');
ROLLBACK;
SELECT name FROM amt_verify(:'newer_token');

-- suspended: no row, until it is resumed; never with an error
UPDATE amt_key SET suspended_at = now() WHERE key_id = :'key_id';
BEGIN;
SELECT name FROM amt_verify(:'token', identify => true);
TABLE identity;
COMMIT;
SELECT amt_cache_clear();
SELECT name FROM amt_verify(:'token');
UPDATE amt_key SET suspended_at = NULL WHERE key_id = :'key_id';
SELECT name FROM amt_verify(:'token');

-- it holds no lock, neither on the row nor on the table
BEGIN;
SELECT name FROM amt_verify(:'token');
SELECT count(*) FROM pg_locks WHERE pid = pg_backend_pid() AND relation IN ('amt_key'::regclass, 'amt_key_pkey'::regclass, 'amt_key_usage'::regclass);
SELECT pg_current_xact_id_if_assigned() IS NULL AS no_xid;
COMMIT;

-- expiry is by the clock
SELECT token AS short_token, key_id AS short_key_id FROM amt_create_key('short', 'acme', 'viewer', expires_at => clock_timestamp() + interval '300 milliseconds') \gset
BEGIN;
SELECT name FROM amt_verify(:'short_token', identify => true);
SELECT pg_sleep_until(expires_at) FROM amt_key WHERE key_id = :'short_key_id';
SELECT name FROM amt_verify(:'short_token', identify => true);
TABLE identity;
SELECT now() < expires_at AS began_before FROM amt_key WHERE key_id = :'short_key_id';
COMMIT;
SELECT amt_cache_clear();
SELECT name FROM amt_verify(:'short_token');
UPDATE amt_key SET expires_at = NULL WHERE key_id = :'short_key_id';
SELECT name FROM amt_verify(:'short_token');
UPDATE amt_key SET expires_at = 'infinity' WHERE key_id = :'short_key_id';
SELECT name FROM amt_verify(:'short_token');
UPDATE amt_key SET expires_at = clock_timestamp() WHERE key_id = :'short_key_id';
SELECT name FROM amt_verify(:'short_token');

-- whoever changes the table around it: indexes built anew, columns added, the table rewritten
REINDEX TABLE CONCURRENTLY amt_key;
SELECT name FROM amt_verify(:'token');
VACUUM FULL amt_key;
SELECT name FROM amt_verify(:'token');
ALTER TABLE amt_key ADD COLUMN note text DEFAULT 'n', ADD COLUMN c2 text, ADD COLUMN c3 text, ADD COLUMN c4 text, ADD COLUMN c5 int,
	ADD COLUMN c6 int, ADD COLUMN c7 int, ADD COLUMN c8 int, ADD COLUMN c9 int, ADD COLUMN c10 int NOT NULL DEFAULT 7;
SELECT key_id = :'key_id' AS key_id, org_id, role, name, created_by, expires_at FROM amt_verify(:'token');
SELECT name FROM amt_create_key('beside added columns', 'acme', 'viewer');
ALTER TABLE amt_key DROP COLUMN note, DROP COLUMN c5;
SELECT name FROM amt_verify(:'token');
SELECT amt_revoke(:'other_key_id');
SELECT name FROM amt_verify(:'other_token');
SELECT event, name FROM amt_key_event ORDER BY event_id;

DROP VIEW identity;
DROP FUNCTION u;
DROP EXTENSION amt_keys;
DROP ROLE regress_amt_web, regress_amt_app;
