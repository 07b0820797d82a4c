-- Past row-level security: through views, functions, leaky operators, COPY,
-- EXPLAIN, statistics, foreign keys, RETURNING, locks, DDL and session
-- settings.  The attacker is a database role with all that PUBLIC has, a
-- schema of its own, and the identity of a viewer of acme; what it wants is the
-- hash, and anything of globex.
BEGIN;
CREATE SCHEMA tap;
CREATE EXTENSION pgtap SCHEMA tap;
CREATE EXTENSION amt_keys;
CREATE ROLE amt_test_evil;
CREATE ROLE amt_test_accomplice;
CREATE SCHEMA evil AUTHORIZATION amt_test_evil;
GRANT USAGE ON SCHEMA tap TO PUBLIC;
SET search_path = public, tap;
SET amt_keys.scrypt_ln = 1;

-- Many keys of each, so that the planner has something to decide and ANALYZE
-- something to count; globex's names hold what must not be seen.
INSERT INTO amt_key (key_id, org_id, name, role, scrypt_hash, created_at, created_by)
	SELECT o || i, o, CASE o WHEN 'globex' THEN 'secret plan ' ELSE 'key ' END || i, 'viewer',
	       '$scrypt$ln=4,r=8,p=1$MDEyMzQ1Njc4OWFiY2RlZg$4Z60JOvkyYBPBM4bVtRQfK+3gSDiIvgitxsuRN98NjU', now(), o
	FROM unnest(array['acme', 'globex']) AS o, generate_series(1, 500) AS i;
INSERT INTO amt_key_usage SELECT key_id, CASE org_id WHEN 'globex' THEN 7 ELSE 1 END, now() FROM amt_key;
UPDATE amt_key SET expires_at = '2100-01-01Z' WHERE org_id = 'globex';
ANALYZE amt_key, amt_key_usage, amt_key_event;
SET amt_keys.org_id = 'acme';
SET amt_keys.role = 'viewer';
SET amt_keys.actor = 'vic';

SELECT * FROM no_plan();

SET ROLE amt_test_evil;

-- The functions below note here each value that they get to see.
CREATE TABLE evil.seen (what text);
GRANT INSERT ON evil.seen TO PUBLIC;
CREATE FUNCTION evil.leak(text) RETURNS boolean LANGUAGE plpgsql COST 0.0000001 PARALLEL UNSAFE AS $$
BEGIN
	INSERT INTO evil.seen VALUES ($1);
	RETURN true;
END
$$;
CREATE FUNCTION evil.leak2(text, text) RETURNS boolean LANGUAGE sql AS 'SELECT evil.leak($1)';
CREATE OPERATOR evil.=== (FUNCTION = evil.leak2, LEFTARG = text, RIGHTARG = text, RESTRICT = eqsel, JOIN = eqjoinsel, MERGES, HASHES);

CREATE FUNCTION evil.estimate(query text) RETURNS bigint LANGUAGE plpgsql AS $$
DECLARE
	plan json;
BEGIN
	EXECUTE 'EXPLAIN (FORMAT JSON) ' || query INTO plan;
	RETURN plan->0->'Plan'->>'Plan Rows';
END
$$;

CREATE FUNCTION evil.execution(query text) RETURNS text LANGUAGE plpgsql AS $$
DECLARE
	plan json;
BEGIN
	EXECUTE query;	-- what it reads is cached then
	EXECUTE 'EXPLAIN (ANALYZE, BUFFERS, COSTS OFF, TIMING OFF, SUMMARY OFF, FORMAT JSON) ' || query INTO plan;
	RETURN regexp_replace(plan->0->>'Plan', '"(Filter|Index Cond)": "[^"]*"', '', 'g');
END
$$;

-- the premise
SELECT is((SELECT count(*) FROM amt_key) || ' ' || (SELECT count(*) FROM amt_keys) || ' ' || (SELECT count(*) FROM amt_key_usage) || ' ' || (SELECT count(*) FROM amt_key_event),
          '500 500 500 500', 'a member sees its own organization''s rows');

-- 1. Functions and operators that look at every row that they are given
SELECT lives_ok('SELECT count(*) FROM amt_key WHERE evil.leak(name)', 'a trap runs as a function that costs nothing');
SELECT lives_ok('SELECT count(*) FROM amt_key WHERE org_id = ''globex'' AND evil.leak(name)', 'a trap runs with a condition that only foreign rows meet');
SELECT lives_ok('SELECT count(*) FROM amt_key WHERE name OPERATOR(evil.===) ''x''', 'a trap runs as an operator');
SELECT lives_ok('SELECT count(*) FROM amt_key AS a JOIN amt_key AS b ON a.name OPERATOR(evil.===) b.name WHERE a.key_id = ''acme1'' AND b.key_id = ''acme2''', 'a trap runs as the operator of a join');
SELECT lives_ok('SELECT count(*) FROM amt_keys WHERE evil.leak(name)', 'a trap runs on the view');
SELECT lives_ok('SELECT count(*) FROM amt_key_event WHERE evil.leak(name)', 'a trap runs on the events');
SELECT lives_ok('SELECT count(*) FROM amt_key_usage WHERE evil.leak(key_id)', 'a trap runs on the usage');
SELECT lives_ok('SELECT count(*) FROM amt_key ORDER BY evil.leak(max(name))', 'a trap runs in ORDER BY');
SELECT lives_ok('SELECT name FROM amt_key GROUP BY name HAVING evil.leak(name)', 'a trap runs in HAVING');
SELECT lives_ok('SELECT CASE WHEN evil.leak(name) THEN 1 END FROM amt_key', 'a trap runs in the select list');
SELECT lives_ok('SELECT count(*) FROM amt_key TABLESAMPLE SYSTEM (100) WHERE evil.leak(name)', 'a trap runs with TABLESAMPLE');
SELECT lives_ok('DELETE FROM amt_keys WHERE evil.leak(name)', 'a trap runs in DELETE');
SELECT lives_ok('DELETE FROM amt_keys USING (SELECT 1) AS u WHERE evil.leak(amt_keys.name) RETURNING evil.leak(amt_keys.name)', 'a trap runs in RETURNING');
SELECT lives_ok('UPDATE amt_keys SET name = ''x'' WHERE evil.leak(name) RETURNING evil.leak(name)', 'a trap runs in UPDATE');
SELECT lives_ok('UPDATE amt_keys SET suspended_at = now() FROM (SELECT 1) AS u WHERE evil.leak(amt_keys.name)', 'a trap runs in UPDATE with a join');
SELECT is((SELECT count(*) FROM amt_key), 500::bigint, 'a viewer deletes no key through the view');
SET LOCAL enable_indexscan = off;
SET LOCAL enable_bitmapscan = off;
SELECT lives_ok('SELECT count(*) FROM amt_key WHERE evil.leak(name)', 'a trap runs in a sequential scan');
SET LOCAL enable_indexscan = on;
SET LOCAL enable_bitmapscan = on;
SET LOCAL enable_seqscan = off;
SELECT lives_ok('SELECT count(*) FROM amt_key WHERE key_id > '''' AND evil.leak(name)', 'a trap runs in an index scan');
SET LOCAL enable_seqscan = on;

-- 2. Views, rules and functions of the attacker
CREATE VIEW evil.v AS SELECT key_id, org_id, name FROM public.amt_key;
CREATE VIEW evil.barrier WITH (security_barrier) AS SELECT name FROM public.amt_key WHERE evil.leak(name);
CREATE FUNCTION evil.definer() RETURNS SETOF text LANGUAGE sql SECURITY DEFINER AS 'SELECT name FROM public.amt_key';
CREATE FUNCTION evil.prepared() RETURNS bigint LANGUAGE plpgsql AS 'BEGIN RETURN (SELECT count(*) FROM public.amt_key); END';
CREATE MATERIALIZED VIEW evil.m AS SELECT name FROM public.amt_key;
GRANT USAGE ON SCHEMA evil TO amt_test_accomplice;
GRANT SELECT ON evil.v, evil.barrier TO amt_test_accomplice;
SELECT is((SELECT count(*) FROM evil.v WHERE evil.leak(name)), 500::bigint, 'a view has its owner''s rights and the session''s identity');
SELECT is((SELECT count(*) FROM evil.barrier), 500::bigint, 'a view with a barrier has its owner''s rights and the session''s identity');
SELECT is((SELECT count(*) FROM evil.definer() AS n WHERE evil.leak(n)), 500::bigint, 'a security definer function of one''s own has the session''s identity');
SELECT is((SELECT count(*) FROM evil.m), 0::bigint, 'a materialized view is filled without an identity, since it has no row security');
SELECT throws_ok('CREATE VIEW evil.h AS SELECT scrypt_hash FROM amt_key; SELECT * FROM evil.h', '42501', NULL, 'a view of the hash is refused');
SELECT throws_ok('CREATE FUNCTION evil.h() RETURNS SETOF text LANGUAGE sql SECURITY DEFINER AS ''SELECT scrypt_hash FROM public.amt_key''; SELECT evil.h()', '42501', NULL, 'a function that reads the hash is refused');
-- a plan that was made for another identity, or another role
SELECT is(evil.prepared(), 500::bigint, 'a plan is made for an identity');
RESET ROLE;
SELECT is(evil.prepared(), 1000::bigint, 'a plan is made anew for a superuser');
SET amt_keys.org_id = 'globex';
SET ROLE amt_test_accomplice;
SELECT throws_ok('DELETE FROM evil.v', '42501', NULL, 'a deletion through somebody''s view is refused');
RESET ROLE;
SET amt_keys.org_id = '';
SET ROLE amt_test_evil;
SELECT is(evil.prepared(), 0::bigint, 'a plan finds nothing without an identity');
RESET ROLE;
SET amt_keys.org_id = 'acme';
SET ROLE amt_test_evil;

-- 3. The hash, by whatever names it
SELECT throws_ok('SELECT scrypt_hash FROM amt_key', '42501', NULL, 'the hash cannot be read as a column');
SELECT throws_ok('SELECT * FROM amt_key', '42501', NULL, 'the hash cannot be read by the star');
SELECT throws_ok('TABLE amt_key', '42501', NULL, 'the hash cannot be read by TABLE');
SELECT throws_ok('SELECT k FROM amt_key AS k', '42501', NULL, 'the hash cannot be read in the whole row');
SELECT throws_ok('SELECT to_jsonb(k) FROM amt_key AS k', '42501', NULL, 'the hash cannot be read in the whole row as JSON');
SELECT throws_ok('SELECT (k).scrypt_hash FROM amt_key AS k', '42501', NULL, 'the hash cannot be read as a field of the row');
SELECT throws_ok('SELECT count(*) FROM amt_key WHERE scrypt_hash LIKE ''$scrypt%''', '42501', NULL, 'the hash cannot be used in a condition');
SELECT throws_ok('SELECT count(*) FROM amt_key GROUP BY scrypt_hash', '42501', NULL, 'the hash cannot be used in a grouping');
SELECT throws_ok('SELECT 1 FROM amt_key ORDER BY scrypt_hash', '42501', NULL, 'the hash cannot be used in an order');
SELECT throws_ok('SELECT 1 FROM amt_key AS a JOIN amt_key AS b USING (scrypt_hash)', '42501', NULL, 'the hash cannot be used in a join');
SELECT throws_ok('SELECT 1 FROM amt_key AS a NATURAL JOIN amt_key AS b', '42501', NULL, 'the hash cannot be used in a natural join');
SELECT throws_ok('DELETE FROM amt_keys USING amt_key AS k WHERE k.key_id = amt_keys.key_id RETURNING k.scrypt_hash', '42501', NULL, 'the hash cannot be read by RETURNING');
SELECT throws_ok('DELETE FROM amt_keys USING amt_key AS k WHERE k.key_id = amt_keys.key_id RETURNING k.*', '42501', NULL, 'the hash cannot be read by RETURNING the star');
SELECT throws_ok('SELECT token_sha256 FROM amt_key', '42501', NULL, 'the hash of imported keys cannot be read');
SELECT throws_ok('SELECT query_to_xml(''SELECT * FROM public.amt_key'', true, true, '''')', '42501', NULL, 'the hash cannot be read as XML of a query');
SELECT throws_ok('SELECT table_to_xml(''public.amt_key'', true, true, '''')', '42501', NULL, 'the hash cannot be read as XML of the table');
SELECT throws_ok('EXPLAIN SELECT scrypt_hash FROM amt_key', '42501', NULL, 'the hash cannot be named in EXPLAIN');
SELECT throws_ok('CREATE TABLE evil.copy AS SELECT * FROM amt_key', '42501', NULL, 'the hash cannot be copied by CREATE TABLE AS');
SELECT throws_ok('CREATE TABLE evil.child (LIKE amt_key)', '42501', NULL, 'the table cannot be copied by CREATE TABLE LIKE');
SELECT is((SELECT count(*) FROM information_schema.columns WHERE table_name = 'amt_key' AND column_name = 'scrypt_hash'), 0::bigint, 'the information schema does not show the hash');
SELECT ok(NOT has_column_privilege('amt_key', 'scrypt_hash', 'SELECT, INSERT, UPDATE, REFERENCES'), 'no privilege is granted on the hash');

-- 4. COPY
SELECT throws_ok('COPY amt_key TO ''/tmp/x''', '42501', NULL, 'COPY to a file is refused');
SELECT throws_ok('COPY (SELECT key_id FROM amt_key) TO PROGRAM ''cat''', '42501', NULL, 'COPY to a program is refused');
SELECT throws_ok('COPY amt_key FROM ''/etc/passwd''', '42501', NULL, 'COPY from a file is refused');

-- 5. Statistics
RESET ROLE;
SELECT is_empty($$ SELECT * FROM pg_statistic WHERE starelid IN ('amt_key'::regclass, 'amt_key_usage'::regclass, 'amt_key_event'::regclass) $$,
	'no statistics are kept of any column');
SELECT cmp_ok(reltuples::int, '>', 0, 'although the table has been analyzed') FROM pg_class WHERE oid = 'amt_key'::regclass;
SET ROLE amt_test_evil;
SELECT is(count(DISTINCT evil.estimate(format('SELECT 1 FROM %s WHERE %s < %L', t, c, i))), 1::bigint, format('estimates tell nothing of %s.%s', t, c))
FROM (VALUES ('amt_key', 'name'), ('amt_key', 'org_id'), ('amt_key', 'key_id'), ('amt_key', 'created_by'), ('amt_key_event', 'name'), ('amt_key_event', 'actor')) AS v (t, c),
	(SELECT chr(n) AS i FROM generate_series(33, 126) AS n) AS w
GROUP BY t, c;
SELECT is_empty($$ SELECT * FROM pg_stats WHERE tablename LIKE 'amt\_key%' $$, 'other roles do not see the statistics');
SELECT throws_ok('SELECT * FROM pg_statistic', '42501', NULL, 'other roles do not see the catalog of statistics');
SELECT throws_ok('CREATE STATISTICS evil.s ON org_id, name FROM amt_key', '42501', NULL, 'other roles do not make statistics of their own');
-- an operator that the planner asks with the most common values of a column
SELECT lives_ok('EXPLAIN SELECT 1 FROM amt_key WHERE org_id OPERATOR(evil.===) ''x''', 'a trap runs when an operator of one''s own is planned');
SET LOCAL jit = off;
-- Does EXPLAIN ANALYZE tell whether the policy was asked about a row, or only a condition that costs less?
SELECT is(count(DISTINCT evil.execution(format('SELECT FROM %s WHERE key_id = ''globex7'' AND %s', t, c))), 1::bigint,
	format('what was executed does not tell of the rows of others in %s, with cpu_operator_cost = %s', t, cost))
FROM (VALUES (1, 'amt_key_usage', array['calls = 7', 'calls = 8', 'calls < 1', 'last_used_at < ''2000-01-01Z''', 'calls = ANY (''{7}'')', 'calls = ANY (''{8}'')', '(calls < 8) IS TRUE']),
	(2, 'amt_key', array['name = ''secret plan 7''', 'name < ''a''', 'created_by = ''globex''', 'created_by = ''x''', 'expires_at IS NULL', 'expires_at IS NOT NULL']),
	(3, 'amt_keys', array['name = ''secret plan 7''', 'name < ''a''', 'created_by = ''globex''', 'created_by = ''x''', 'suspended_at IS NULL', 'suspended_at IS NOT NULL']),
	(4, 'amt_keys', array['calls = 7', 'calls = 8', 'calls < 1', 'calls = ANY (''{7}'')']),
	(5, 'amt_key_event', array['name = ''secret plan 7''', 'name < ''a''', 'event = ''created''', 'event = ''revoked''', 'expires_at IS NULL', 'expires_at IS NOT NULL'])) AS v (n, t, conditions),
	unnest(array['0', '0x1p-1074', '1e-300', '0.0025', '1e300']) AS cost, set_config('cpu_operator_cost', cost, true), unnest(conditions) AS c
GROUP BY n, t, cost ORDER BY n, cost;
SET LOCAL cpu_operator_cost = DEFAULT;
-- A sub-select in a second condition runs only if a row meets the first: it must not run for rows of others.
RESET ROLE;
CREATE TABLE note AS SELECT CASE WHEN i % 2 = 0 THEN 'acme' ELSE 'globex' END AS org_id, CASE WHEN i % 2 = 0 THEN 'note ' ELSE 'secret plan ' END || i AS body, i FROM generate_series(1, 100) AS i;
ALTER TABLE note ENABLE ROW LEVEL SECURITY;
CREATE POLICY own ON note USING (amt_is_own(org_id) AND org_id = amt_org_id());
GRANT SELECT ON note TO PUBLIC;
SET ROLE amt_test_evil;
-- In the parts of a UNION ALL the planner has the conditions of the user before the policy's.
CREATE VIEW evil.twice_amt_key AS SELECT key_id, org_id, name, created_by, expires_at FROM amt_key UNION ALL SELECT key_id, org_id, name, created_by, expires_at FROM amt_key;
CREATE VIEW evil.twice_amt_keys AS SELECT * FROM amt_keys UNION ALL SELECT * FROM amt_keys;
CREATE VIEW evil.twice_amt_key_usage AS SELECT * FROM amt_key_usage UNION ALL SELECT * FROM amt_key_usage;
CREATE VIEW evil.twice_amt_key_event AS SELECT * FROM amt_key_event UNION ALL SELECT * FROM amt_key_event;
CREATE VIEW evil.twice_note AS SELECT * FROM note UNION ALL SELECT * FROM note;
CREATE FUNCTION evil.goes_on(query text, indexes text, cost text) RETURNS text LANGUAGE plpgsql AS $$
BEGIN
	PERFORM set_config(name, indexes, true) FROM unnest(array['enable_indexscan', 'enable_bitmapscan', 'enable_indexonlyscan']) AS name;
	PERFORM set_config('cpu_operator_cost', cost, true);
	PERFORM set_config('evil.went_on', 'no', false);
	EXECUTE query;
	RETURN current_setting('evil.went_on');
END
$$;
CREATE VIEW evil.attempt AS SELECT * FROM (VALUES ('amt_key', 'key_id', 'name >= ''secret'' AND name < ''secreu''', 'no'), ('amt_key', 'key_id', 'created_by > ''b''', 'no'), ('amt_key', 'name', 'org_id > ''b''', 'no'), ('amt_key', 'name', 'expires_at IS NOT NULL', 'no'),
		('amt_key', NULL, 'CASE WHEN expires_at IS NOT NULL THEN (SELECT set_config(''evil.went_on'', ''yes'', false) IS NULL) END', 'no'),
		('amt_key', NULL, 'CASE WHEN name = ANY (''{secret plan 7}'') THEN (SELECT set_config(''evil.went_on'', ''yes'', false) IS NULL) END', 'no'),
		('amt_key', NULL, 'CASE WHEN amt_is_own(''x'') OR amt_is_own(''y'') OR expires_at IS NOT NULL THEN (SELECT set_config(''evil.went_on'', ''yes'', false) IS NULL) END', 'no'),
	 ('amt_key', 'name', 'org_id ~>=~ ''b''', 'no'),
		('amt_key', 'key_id', 'name >= ''key'' AND name < ''kez''', 'yes'), ('amt_keys', 'key_id', 'name >= ''secret'' AND name < ''secreu''', 'no'), ('amt_keys', 'key_id', 'name >= ''key'' AND name < ''kez''', 'yes'),
		('amt_key_usage', NULL, 'CASE WHEN calls = ANY (''{7}'') THEN (SELECT set_config(''evil.went_on'', ''yes'', false) IS NULL) END', 'no'),
		('amt_key_usage', 'key_id', 'calls > 1', 'no'), ('amt_key_usage', 'key_id', 'calls = ANY (''{7}'')', 'no'), ('amt_key_usage', 'key_id', 'calls > 0', 'yes'),
		('amt_key_event', NULL, 'CASE WHEN org_id = ANY (''{globex}'') THEN (SELECT set_config(''evil.went_on'', ''yes'', false) IS NULL) END', 'no'),
		('amt_key_event', 'key_id', 'name >= ''secret'' AND name < ''secreu''', 'no'), ('amt_key_event', 'key_id', 'org_id > ''b''', 'no'), ('amt_key_event', 'key_id', 'name >= ''key'' AND name < ''kez''', 'yes'),
		('note', NULL, 'CASE WHEN i = ANY (''{7}'') THEN (SELECT set_config(''evil.went_on'', ''yes'', false) IS NULL) END', 'no'),
		('note', 'body', 'body >= ''secret'' AND body < ''secreu''', 'no'), ('note', 'body', 'i > 6 AND i < 8', 'no'), ('note', 'body', 'i > 7 AND i < 9', 'yes')) AS v (t, k, c, answer),
	(VALUES ('indexes', 'on', '0.0025'), ('a sequential scan', 'off', '0.0025'), ('operators that cost nothing', 'on', '0'), ('operators that cost almost nothing', 'off', '0x1p-1074')) AS s (scans, indexes, cost),
	unnest(array['', 'evil.twice_']) AS twice;
SELECT is(evil.goes_on(format('SELECT FROM %s%s WHERE %s', twice, t, c) || coalesce(' AND ' || k || ' > (SELECT set_config(''evil.went_on'', ''yes'', false))', ''), indexes, cost), answer, format('the rows of others do not lead on: %s%s WHERE %s, with %s', twice, t, c, scans))
FROM evil.attempt;
-- The same beside policies that somebody has added to our tables. (An index on key_id asks the sub-select before it has a row.)
RESET ROLE;
CREATE POLICY a_more ON amt_key USING (expires_at IS NOT NULL);
CREATE POLICY a_more ON amt_key_usage USING (calls = 7);
CREATE POLICY a_more ON amt_key_event USING (name >= 'secret');
CREATE POLICY "A_less" ON amt_key AS RESTRICTIVE USING (role = 'viewer');
SET ROLE amt_test_evil;
SELECT is(evil.goes_on(format('SELECT FROM %s%s WHERE %s', twice, t, c) || coalesce(' AND ' || k || ' > (SELECT set_config(''evil.went_on'', ''yes'', false))', ''), indexes, cost), answer, format('nor with added policies: %s%s WHERE %s, with %s', twice, t, c, scans))
FROM evil.attempt WHERE t LIKE 'amt%' AND (k IS DISTINCT FROM 'key_id' OR indexes = 'off');
SELECT is_empty(format('SELECT FROM %s WHERE key_id LIKE ''globex%%''', t), format('an added policy shows no row of others in %s', t)) FROM unnest(array['amt_key', 'amt_keys', 'amt_key_usage', 'amt_key_event']) AS t;
RESET ROLE;
DROP POLICY a_more ON amt_key;
DROP POLICY a_more ON amt_key_usage;
DROP POLICY a_more ON amt_key_event;
DROP POLICY "A_less" ON amt_key;
SET ROLE amt_test_evil;
SET LOCAL enable_indexscan = on;
SET LOCAL enable_bitmapscan = on;
SET LOCAL enable_indexonlyscan = on;
SET LOCAL cpu_operator_cost = DEFAULT;

-- Since 18 others than the owner can give a column statistics. Then the planner looks up its least and its greatest value in an index.
RESET ROLE;
CREATE TABLE evil.made_up AS SELECT 'a' || i AS org_id FROM generate_series(1, 1000) AS i;
ANALYZE evil.made_up;
WITH moved AS (
	UPDATE pg_statistic SET starelid = 'amt_key'::regclass, stadistinct = 1, staattnum = (SELECT attnum FROM pg_attribute WHERE attrelid = 'amt_key'::regclass AND attname = 'org_id')
	WHERE starelid = 'evil.made_up'::regclass RETURNING 1)
SELECT is(count(*), 1::bigint, 'a column gets statistics that somebody has made up') FROM moved;
UPDATE pg_class SET reltuples = 1000000, relpages = 1 WHERE oid = 'amt_key'::regclass;
INSERT INTO amt_key (key_id, org_id, name, role, token_sha256, created_at) VALUES ('imported', 'globex', 'imported', 'viewer', sha256('imported'), now());
CREATE TABLE evil.made_up_hashes AS SELECT decode(lpad(to_hex(i), 8, '0'), 'hex') AS hash FROM generate_series(1, 1000) AS i;
ANALYZE evil.made_up_hashes;
UPDATE pg_statistic SET starelid = 'amt_key'::regclass, stadistinct = 1, staattnum = (SELECT attnum FROM pg_attribute WHERE attrelid = 'amt_key'::regclass AND attname = 'token_sha256')
WHERE starelid = 'evil.made_up_hashes'::regclass;
SELECT is(count(DISTINCT evil.estimate(format('SELECT 1 FROM amt_key WHERE token_sha256 > %L', '\x' || h))), 1::bigint, 'estimates do not tell which hash is the greatest') FROM unnest(array['1', '2', '4', '8', 'a', 'c', 'e', 'f']) AS d, repeat(d, 64) AS h;
SELECT is(count(*), 2::bigint, 'an index on the organization cannot tell which is the first') FROM pg_index AS i JOIN pg_opclass AS o ON o.oid = i.indclass[0]
WHERE i.indrelid IN ('amt_key'::regclass, 'amt_key_event'::regclass) AND o.opcname = 'text_pattern_ops';
SET ROLE amt_test_evil;
SELECT is(count(DISTINCT evil.estimate(format('SELECT 1 FROM amt_key WHERE org_id > %L', chr(n)))), 1::bigint, 'estimates do not tell which organization is the last') FROM generate_series(98, 126) AS n;

-- A superuser, whom no policy limits: the condition that chooses the key runs before the function that revokes it.
RESET ROLE;
SELECT is_empty('SELECT FROM amt_key WHERE amt_revoke(key_id) AND name = ''nobody''''s''', 'a revocation in WHERE is asked about no key');
SELECT is((SELECT count(*) FROM amt_key), 1001::bigint, 'all keys are there');
SET ROLE amt_test_evil;

-- 6. Foreign keys, inheritance, indexes, rules and other DDL
SELECT throws_ok('CREATE TABLE evil.probe (key_id text REFERENCES amt_key)', '42501', NULL, 'a foreign key, which would tell whether a key exists, is refused');
SELECT throws_ok('CREATE TABLE evil.child () INHERITS (amt_key)', '42501', NULL, 'a child table is refused');
SELECT throws_ok('CREATE INDEX ON amt_key (evil.leak(name))', '42501', NULL, 'an index on an expression is refused');
SELECT throws_ok('CREATE RULE r AS ON DELETE TO amt_key DO ALSO INSERT INTO evil.seen VALUES (old.scrypt_hash)', '42501', NULL, 'a rule on DELETE is refused');
SELECT throws_ok('CREATE RULE r AS ON INSERT TO amt_key DO ALSO INSERT INTO evil.seen VALUES (new.scrypt_hash)', '42501', NULL, 'a rule on INSERT is refused');
SELECT throws_ok('CREATE POLICY p ON amt_key USING (true)', '42501', NULL, 'another policy is refused');
SELECT throws_ok('ALTER POLICY amt_key_select ON amt_key USING (true)', '42501', NULL, 'a change of the policy is refused');
SELECT throws_ok('ALTER TABLE amt_key DISABLE ROW LEVEL SECURITY', '42501', NULL, 'switching row-level security off is refused');
SELECT throws_ok('ALTER TABLE amt_key DISABLE TRIGGER ALL', '42501', NULL, 'switching the triggers off is refused');
SELECT throws_ok('ALTER TABLE amt_key ADD COLUMN c text DEFAULT evil.leak(''x'')', '42501', NULL, 'another column is refused');
SELECT throws_ok('CREATE OR REPLACE VIEW public.amt_keys AS SELECT ''x''::text AS key_id', '42501', NULL, 'replacing the view is refused');
SELECT throws_ok('CREATE PUBLICATION p FOR TABLE amt_key', '42501', NULL, 'a publication is refused');
SELECT throws_ok('GRANT ALL ON amt_key TO amt_test_accomplice', '42501', NULL, 'granting a privilege that one does not have is refused');
SELECT ok(NOT has_table_privilege('amt_test_accomplice', 'amt_key', 'SELECT, INSERT, UPDATE, TRUNCATE, REFERENCES, TRIGGER'), 'an accomplice has no privilege on the table');

-- 7. Writing and locking: nobody but the owner, by any statement that needs or takes a lock
SELECT throws_ok(format('SELECT 1 FROM %s FOR %s', t, l), '42501', NULL, format('nobody locks rows of %s for %s', t, l))
FROM unnest(array['amt_key', 'amt_key_usage', 'amt_key_event', 'amt_keys']) AS t, unnest(array['UPDATE', 'NO KEY UPDATE', 'SHARE', 'KEY SHARE']) AS l;
SELECT throws_ok(format('LOCK TABLE %s IN %s MODE', t, m), '42501', NULL, format('nobody locks %s in %s mode', t, m))
FROM unnest(array['amt_key', 'amt_key_usage', 'amt_key_event', 'amt_keys']) AS t,
     unnest(array['ROW SHARE', 'ROW EXCLUSIVE', 'SHARE UPDATE EXCLUSIVE', 'SHARE', 'SHARE ROW EXCLUSIVE', 'EXCLUSIVE', 'ACCESS EXCLUSIVE']) AS m;
SELECT throws_ok('LOCK TABLE amt_key IN ACCESS SHARE MODE', '42501', NULL, 'nobody locks amt_key at all');
SELECT throws_ok(format(w, t), '42501', NULL, format('nobody says %s', format(w, t)))
FROM unnest(array['amt_key', 'amt_key_usage', 'amt_key_event']) AS t,
     unnest(array['DELETE FROM %s', 'UPDATE %s SET key_id = key_id', 'INSERT INTO %s (key_id) VALUES (''x'')', 'INSERT INTO %s DEFAULT VALUES', 'TRUNCATE %s',
                  'CREATE TABLE evil.r (key_id text REFERENCES %s)', 'CREATE TRIGGER t AFTER INSERT ON %s EXECUTE FUNCTION suppress_redundant_updates_trigger()',
                  'COPY %s FROM ''/dev/null''', 'ALTER TABLE %s RENAME TO x', 'DROP TABLE %s', 'REINDEX TABLE %s', 'CLUSTER %s USING amt_key_pkey', 'ALTER TABLE %s OWNER TO CURRENT_USER']) AS w;
SELECT ok(NOT has_table_privilege(t, p), format('PUBLIC has no %s on %s', p, t))
FROM unnest(array['amt_key', 'amt_key_usage', 'amt_key_event']) AS t, unnest(array['INSERT', 'UPDATE', 'DELETE', 'TRUNCATE', 'REFERENCES', 'TRIGGER']) AS p;
SELECT ok(NOT has_any_column_privilege(t, p), format('PUBLIC has no %s on a column of %s', p, t))
FROM unnest(array['amt_key', 'amt_key_usage', 'amt_key_event']) AS t, unnest(array['INSERT', 'UPDATE', 'REFERENCES']) AS p;

-- 8. Session settings
SET row_security = off;
SELECT throws_ok('SELECT count(*) FROM amt_key', '42501', NULL, 'row_security = off makes an error of SELECT');
SELECT throws_ok('DELETE FROM amt_keys', '42501', NULL, 'row_security = off makes an error of DELETE');
SELECT throws_ok('SELECT count(*) FROM amt_keys', '42501', NULL, 'row_security = off makes an error of SELECT from the view');
SELECT is((SELECT calls FROM amt_usage('globex1')), NULL::bigint, 'row_security = off does not make amt_usage() show another organization');
SET row_security = on;
SELECT throws_ok('SET session_replication_role = replica', '42501', NULL, 'switching triggers off for the session is refused');

-- 9. The values that were seen meanwhile
SELECT ok((SELECT count(*) FROM evil.seen) > 3000, 'the traps were run');
SELECT is((SELECT count(*) FROM evil.seen WHERE what ~ 'secret|globex'), 0::bigint, 'the traps have seen nothing of another organization');
RESET ROLE;

SELECT * FROM finish();
ROLLBACK;
