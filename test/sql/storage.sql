--
-- The tables: rows that the owner writes, frozen columns, an event for every way
-- in which a key appears, changes and disappears, and nothing for anybody else
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

-- a key made elsewhere, with a hash that Python made
\set phc2 '$scrypt$ln=4,r=8,p=1$AQEBAQEBAQEBAQEBAQEBAQ$YTl67SkR4tce7JIjWkbpqOpiVNNIyooI/5uu0XnQuE8'
\set phc '$scrypt$ln=4,r=8,p=1$MDEyMzQ1Njc4OWFiY2RlZg$5ax6aqLPu+KqxVxmBAD/rpy5M8/eGWZBVCLlELKf5AI'
INSERT INTO amt_key (key_id, org_id, name, role, scrypt_hash, created_at)
	VALUES ('abc123', 'acme', 'imported', 'viewer', :'phc', '2020-02-02 00:00+00');
SELECT * FROM amt_verify('amt_abc123_xyz789abcdefghij');
SELECT * FROM amt_verify('amt_abc123_xyz789abcdefghiJ');
SELECT event, key_id, org_id, name, role, actor, db_user = session_user AS db_user, calls FROM amt_key_event;

-- a character by its code point, in SQL_ASCII, too
CREATE FUNCTION u(code int) RETURNS text LANGUAGE sql AS $$
	SELECT convert_from(decode(CASE
		WHEN code < 2048 THEN to_hex(192 + code / 64)
		WHEN code < 65536 THEN to_hex(224 + code / 4096) || to_hex(128 + code / 64 % 64)
		ELSE to_hex(240 + code / 262144) || to_hex(128 + code / 4096 % 64) || to_hex(128 + code / 64 % 64)
	END || to_hex(128 + code % 64), 'hex'), 'UTF8')
$$;

-- a row that the owner writes must be usable
CREATE FUNCTION import(key_id text DEFAULT 'new', org_id text DEFAULT 'acme', name text DEFAULT 'n', role text DEFAULT 'viewer',
	scrypt_hash text DEFAULT :'phc', created_at timestamptz DEFAULT now()) RETURNS text
LANGUAGE plpgsql AS $$
BEGIN
	INSERT INTO amt_key (key_id, org_id, name, role, scrypt_hash, created_at) VALUES (key_id, org_id, name, role, scrypt_hash, created_at);
	RAISE SQLSTATE 'UNDO0';
EXCEPTION
	WHEN SQLSTATE 'UNDO0' THEN RETURN 'taken';
	WHEN OTHERS THEN RETURN SQLSTATE || ' ' || SQLERRM;
END
$$;
SELECT import() AS all, import(key_id => NULL) AS key_id, import(org_id => NULL) AS org_id, import(name => NULL) AS name,
       import(role => NULL) AS role, import(scrypt_hash => NULL) AS scrypt_hash, import(created_at => NULL) AS created_at \gx
SELECT CASE WHEN id ~ '^[ -~]*$' THEN left(id, 12) ELSE octet_length(id) || ' bytes' END AS key_id, import(key_id => id)
FROM unnest(array['0', repeat('z', 64), 'abc123', '', repeat('z', 65), 'a_b', 'a-b', 'a b', 'a.b', u(x'E4'::int), E'a\n', E'a\x01', '%', '''']) WITH ORDINALITY AS u (id, n) ORDER BY n;
SELECT import(org_id => ''), import(role => ''), import(role => 'known to nobody');
SELECT what, import(name => name)
FROM (VALUES (1, 'empty', ''), (2, '100 characters', repeat('x', 100)), (3, '101 characters', repeat('x', 101)), (4, 'line feed', E'a\nb'), (5, 'NEL', u(x'85'::int)), (6, 'line separator', 'a' || u(x'2028'::int)), (7, 'nothing visible', u(x'200B'::int)), (8, '200 characters', repeat('x', 200)), (9, '201 characters', repeat('x', 201)), (10, 'a token', 'amt_abc123_xyz789abcdefghij')) AS v (n, what, name) ORDER BY n;
SELECT what, import(scrypt_hash => hash)
FROM (VALUES
	(1, 'as it is', :'phc'),
	(2, 'empty', ''),
	(3, 'plain secret', 'xyz789abcdefghij'),
	(4, 'another function', replace(:'phc', 'scrypt', 'argon2id')),
	(5, 'other order', replace(:'phc', 'r=8,p=1', 'p=1,r=8')),
	(6, 'padded', :'phc' || '='),
	(7, 'blank behind', :'phc' || ' '),
	(8, 'line feed behind', :'phc' || E'\n'),
	(9, 'no salt', replace(:'phc', 'MDEyMzQ1Njc4OWFiY2RlZg', '')),
	(10, 'short hash', left(:'phc', 60)),
	(11, 'ln=0', replace(:'phc', 'ln=4', 'ln=0')),
	(12, 'ln=04', replace(:'phc', 'ln=4', 'ln=04')),
	(13, 'ln=20, 1 GiB', replace(:'phc', 'ln=4', 'ln=20')),
	(14, 'ln=21, 2 GiB', replace(:'phc', 'ln=4', 'ln=21')),
	(15, 'ln=64', replace(:'phc', 'ln=4', 'ln=64')),
	(16, 'r=0', replace(:'phc', 'r=8', 'r=0')),
	(17, 'p=0', replace(:'phc', 'p=1', 'p=0')),
	(18, 'p=99999999', replace(:'phc', 'p=1', 'p=99999999')),
	(19, 'r of many digits', replace(:'phc', 'r=8', 'r=' || repeat('9', 100))),
	(20, 'a megabyte', repeat('$', 1048576))) AS v (n, what, hash) ORDER BY n;
INSERT INTO amt_key (key_id, org_id, name, role, scrypt_hash, created_at) VALUES ('a_b', 'acme', 'n', 'viewer', :'phc', now());
:sqlstate
INSERT INTO amt_key (key_id, org_id, name, role, scrypt_hash, created_at) VALUES ('x', 'acme', 'n', 'viewer', 'x', now());
:sqlstate

-- frozen, for the owner, too, by whatever statement
UPDATE amt_key SET key_id = 'new';
:sqlstate
UPDATE amt_key SET org_id = 'globex';
:sqlstate
UPDATE amt_key SET role = 'owner';
:sqlstate
UPDATE amt_key SET scrypt_hash = replace(scrypt_hash, 'A', 'B');
:sqlstate
UPDATE amt_key SET created_at = now();
:sqlstate
UPDATE amt_key SET created_by = 'me';
:sqlstate
UPDATE amt_key SET token_prefix = 'amt_other...';
:sqlstate
UPDATE amt_key SET scopes = '{read}';
:sqlstate
UPDATE amt_key SET scopes = '{}';
:sqlstate
UPDATE amt_key SET token_sha256 = sha256('x');
:sqlstate
UPDATE amt_key SET scrypt_hash = NULL, token_sha256 = sha256('x');
:sqlstate
UPDATE amt_key SET replaces = 'other';
:sqlstate
UPDATE amt_key SET key_id = NULL;
:sqlstate
UPDATE amt_key SET name = 'renamed', role = 'owner' WHERE key_id = 'abc123';
:sqlstate
INSERT INTO amt_key (key_id, org_id, name, role, scrypt_hash, created_at)
	VALUES ('abc123', 'globex', 'imported', 'viewer', :'phc', now()) ON CONFLICT (key_id) DO UPDATE SET org_id = excluded.org_id;
:sqlstate
MERGE INTO amt_key AS k USING (VALUES ('abc123')) AS v (id) ON k.key_id = v.id WHEN MATCHED THEN UPDATE SET role = 'owner';
:sqlstate
-- the other columns are not; nor is what stays as it was
UPDATE amt_key SET name = 'renamed', expires_at = '2200-01-01 00:00+00', role = role, org_id = 'acme', created_by = NULL;
SELECT name, expires_at FROM amt_verify('amt_abc123_xyz789abcdefghij');
UPDATE amt_key SET name = '';
:sqlstate
UPDATE amt_key SET name = NULL;
:sqlstate
UPDATE amt_key SET expires_at = '1970-01-01';
SELECT name FROM amt_verify('amt_abc123_xyz789abcdefghij');
UPDATE amt_key SET expires_at = NULL;
-- one event for each change, with the new values; none for what stayed as it was
UPDATE amt_key SET name = name, expires_at = NULL;
SELECT event, key_id, name, expires_at, actor, by_key, calls FROM amt_key_event ORDER BY event_id;
-- one statement can suspend and rename; anything that is not null suspends
UPDATE amt_key SET name = 'imported', suspended_at = '-infinity';
SELECT count(*) FROM amt_verify('amt_abc123_xyz789abcdefghij');
UPDATE amt_key SET suspended_at = 'infinity';
SELECT count(*) FROM amt_verify('amt_abc123_xyz789abcdefghij');
UPDATE amt_key SET suspended_at = NULL;
SELECT count(*) FROM amt_verify('amt_abc123_xyz789abcdefghij');
SELECT event, key_id, name FROM amt_key_event ORDER BY event_id OFFSET 4;
DELETE FROM amt_key_event WHERE event NOT IN ('created', 'revoked');

-- coming in bulk
COPY amt_key (key_id, org_id, name, role, scrypt_hash, created_at) FROM stdin;
c1	acme	copied 1	editor	$scrypt$ln=4,r=8,p=1$AQEBAQEBAQEBAQEBAQEBAQ$YTl67SkR4tce7JIjWkbpqOpiVNNIyooI/5uu0XnQuE8	2021-01-01 00:00:00+00
c2	acme	copied 2	editor	$scrypt$ln=4,r=8,p=1$AgICAgICAgICAgICAgICAg$jHCx1VXINw6ThRSgrOxgp2lRqsLuy+tDALNnThIJGWo	2021-01-01 00:00:00+00
\.
COPY amt_key (key_id, org_id, name, role, scrypt_hash, created_at) FROM stdin;
c3	acme	copied 3	editor	no hash	2021-01-01 00:00:00+00
\.
-- an actor is recorded of the key's own organization only
SET amt_keys.actor = 'dba';
INSERT INTO amt_key (key_id, org_id, name, role, scrypt_hash, created_at, created_by)
	SELECT 'i' || n, 'globex', 'inserted ' || n, 'viewer', :'phc', '2022-01-01', 'gus' FROM generate_series(1, 3) AS n;
SET amt_keys.org_id = 'globex';
INSERT INTO amt_key (key_id, org_id, name, role, scrypt_hash, created_at)
	VALUES ('i4', 'globex', 'inserted 4', 'viewer', :'phc', '2022-01-01'), ('i5', 'acme', 'inserted 5', 'viewer', :'phc', '2022-01-01');
RESET amt_keys.org_id;
RESET amt_keys.actor;
SELECT name FROM unnest(array['amt_c1_secret-of-copied-1', 'amt_c2_secret-of-copied-2', 'amt_c2_secret-of-copied-1', 'amt_i3_xyz789abcdefghij']) AS t, amt_verify(t) ORDER BY name;
SELECT event, key_id, org_id, actor FROM amt_key_event ORDER BY event_id;
DELETE FROM amt_key WHERE key_id IN ('i4', 'i5');
DELETE FROM amt_key_event WHERE key_id IN ('i4', 'i5');

-- going, by a DBA, with the calls that were counted
SELECT count(*) FROM generate_series(1, 5) AS i, amt_verify('amt_c1_secret-of-copied-1' || left('', i));
DELETE FROM amt_key WHERE key_id = 'c1';
DELETE FROM amt_key WHERE key_id IN ('i1', 'i2') OR key_id = 'nothing';
BEGIN;
DELETE FROM amt_key;
SELECT count(*) FROM amt_key_event WHERE event = 'revoked';
ROLLBACK;
WITH gone AS (DELETE FROM amt_key WHERE key_id = 'i3' RETURNING key_id) SELECT * FROM gone;
SELECT event, key_id, org_id, name, role, actor, db_user = session_user AS db_user, calls FROM amt_key_event WHERE event = 'revoked' ORDER BY event_id;
SELECT name FROM unnest(array['amt_c1_secret-of-copied-1', 'amt_c2_secret-of-copied-2', 'amt_i3_xyz789abcdefghij']) AS t, amt_verify(t);
SELECT count(*) FROM amt_key_usage WHERE key_id NOT IN (SELECT key_id FROM amt_key);
-- a key of the same id with another hash is another key, whose calls begin at zero
INSERT INTO amt_key (key_id, org_id, name, role, scrypt_hash, created_at) VALUES ('i3', 'globex', 'inserted again', 'viewer', :'phc2', now());
SELECT event, name FROM amt_key_event WHERE key_id = 'i3' ORDER BY event_id;
SELECT name FROM unnest(array['amt_i3_xyz789abcdefghij', 'amt_i3_secret-of-copied-1']) AS t, amt_verify(t);
SELECT calls FROM amt_keys WHERE key_id = 'i3';
INSERT INTO amt_key (key_id, org_id, name, role, scrypt_hash, created_at) VALUES ('i3', 'globex', 'twice', 'viewer', :'phc', now());
:sqlstate

-- a TRUNCATE could not be recorded
TRUNCATE amt_key;
:sqlstate
TRUNCATE amt_key CASCADE;
:sqlstate
TRUNCATE amt_key, amt_key_usage;
:sqlstate
SELECT count(*) FROM amt_key;

-- replication does not pass the guards
SET session_replication_role = replica;
UPDATE amt_key SET role = 'owner' WHERE key_id = 'c2';
:sqlstate
UPDATE amt_key SET scopes = '{read}' WHERE key_id = 'c2';
:sqlstate
INSERT INTO amt_key (key_id, org_id, name, role, scrypt_hash, created_at) VALUES ('x', 'acme', 'n', 'viewer', 'no hash', now());
:sqlstate
TRUNCATE amt_key CASCADE;
:sqlstate
-- counts of a publisher are discarded, as a subscriber counts itself
SELECT count(*) FROM amt_key_usage WHERE key_id = 'c2';
INSERT INTO amt_key_usage VALUES ('c2', 1000, now());
SELECT count(*) FROM amt_key_usage WHERE calls = 1000;
RESET session_replication_role;

-- a dump restores keys and events; its script turns row security off and empties the search_path
SELECT count(*) AS events FROM amt_key_event \gset before_
SET row_security = off;
INSERT INTO amt_key (key_id, org_id, name, role, scrypt_hash, created_at) VALUES ('r3', 'acme', 'not so: the search_path is not empty', 'viewer', :'phc', '2020-01-01');
SELECT pg_catalog.set_config('search_path', '', false);
RESET row_security;
INSERT INTO public.amt_key (key_id, org_id, name, role, scrypt_hash, created_at) VALUES ('r4', 'acme', 'not so: row_security is on', 'viewer', :'phc', '2020-01-01');
SET row_security = off;
SELECT count(*) AS events FROM public.amt_key_event \gset
INSERT INTO public.amt_key (key_id, org_id, name, role, scrypt_hash, created_at) VALUES ('r1', 'acme', 'restored', 'viewer', :'phc', '2020-01-01');
SELECT count(*) - :events AS events FROM public.amt_key_event;
INSERT INTO public.amt_key (key_id, org_id, name, role, scrypt_hash, created_at) VALUES ('r2', 'acme', 'of a clock that is ahead', 'viewer', :'phc', now() + interval '1 hour');
SELECT name FROM public.amt_create_key('not so, either', 'acme', 'viewer');
DELETE FROM public.amt_key WHERE key_id = 'r1';
SELECT event, name FROM public.amt_key_event ORDER BY event_id OFFSET :before_events;
RESET search_path;
RESET row_security;

-- what everybody else may not
SET amt_keys.org_id = 'acme';
SET amt_keys.role = 'owner';
SET ROLE regress_amt_web;
SELECT scrypt_hash FROM amt_key;
:sqlstate
SELECT token_sha256 FROM amt_key;
:sqlstate
SELECT * FROM amt_key;
:sqlstate
SELECT count(*) FROM amt_key WHERE scrypt_hash LIKE '$scrypt$%';
:sqlstate
SELECT key_id FROM amt_key FOR UPDATE;
:sqlstate
SELECT key_id FROM amt_key FOR KEY SHARE;
:sqlstate
DO $$ BEGIN LOCK TABLE amt_key IN ROW SHARE MODE; END $$;
:sqlstate
DO $$ BEGIN LOCK TABLE amt_key_usage IN ACCESS EXCLUSIVE MODE; END $$;
:sqlstate
DO $$ BEGIN LOCK TABLE amt_key_event IN SHARE MODE; END $$;
:sqlstate
DELETE FROM amt_key;
:sqlstate
INSERT INTO amt_key (key_id, org_id, name, role, scrypt_hash, created_at) VALUES ('x', 'acme', 'n', 'viewer', :'phc', now());
:sqlstate
UPDATE amt_key SET expires_at = NULL;
:sqlstate
UPDATE amt_key SET name = 'n';
:sqlstate
TRUNCATE amt_key CASCADE;
:sqlstate
INSERT INTO amt_key_usage VALUES ('c2', 1, now());
:sqlstate
UPDATE amt_key_usage SET calls = 0;
:sqlstate
DELETE FROM amt_key_usage;
:sqlstate
INSERT INTO amt_key_event (at, event, key_id, org_id, name, role, db_user) VALUES (now(), 'revoked', 'c2', 'acme', 'n', 'viewer', 'me');
:sqlstate
UPDATE amt_key_event SET actor = 'me';
:sqlstate
DELETE FROM amt_key_event;
:sqlstate
SELECT nextval('amt_key_event_seq');
:sqlstate
-- what they may, each for the own organization
SELECT key_id, org_id, name, role, created_at IS NOT NULL AS created_at, created_by, expires_at FROM amt_key WHERE name <> 'not so, either' ORDER BY key_id;
SELECT DISTINCT org_id FROM amt_key_event;
SELECT last_value > 0 AS last_value FROM amt_key_event_seq;
-- members of pg_read_all_data read the hashes, too, of the same rows
RESET ROLE;
GRANT pg_read_all_data TO regress_amt_gateway;
SET ROLE regress_amt_gateway;
SELECT count(scrypt_hash), count(token_sha256), bool_and(org_id = 'acme') AS own FROM amt_key;
DELETE FROM amt_key;
:sqlstate
RESET ROLE;
REVOKE pg_read_all_data FROM regress_amt_gateway;
RESET amt_keys.org_id;
RESET amt_keys.role;

DROP FUNCTION import, u;
DROP EXTENSION amt_keys;
DROP OWNED BY regress_amt_gateway;
DROP ROLE regress_amt_gateway, regress_amt_web;
