-- The owner of the tables, types and views gives them any other shape: another
-- type for any column, columns dropped, renamed or added, any index dropped,
-- any relation replaced by one of another kind, constraints removed and rows
-- forced in.  Each function and statement then answers, or raises an error
-- that names the trouble; nothing ends the server, and nothing is XX000.
BEGIN;
CREATE SCHEMA tap;
CREATE EXTENSION pgtap SCHEMA tap;
CREATE SCHEMA auth;
CREATE EXTENSION amt_keys SCHEMA auth;
SET search_path = auth, tap;
SET amt_keys.scrypt_ln = 1;
GRANT USAGE ON SCHEMA tap, auth TO PUBLIC;

CREATE TABLE tap.call (n serial, what text, statement text);
INSERT INTO tap.call (what, statement) VALUES
	('verify', 'SELECT count(*) FROM auth.amt_verify(''amt_a_0123456789abcdef'')'),
	('verify, identify', 'SELECT count(*) FROM auth.amt_verify(''amt_b_0123456789abcdef'', true)'),
	('verify, imported', 'SELECT count(*) FROM auth.amt_verify(''imported'')'),
	('verify in a list', 'SELECT count(*) FROM (SELECT auth.amt_verify(''amt_a_0123456789abcdef'')) AS t'),
	('verify, whole row', 'SELECT v::text IS NOT NULL FROM auth.amt_verify(''amt_a_0123456789abcdef'') AS v'),
	('create', 'SELECT c IS NOT NULL FROM auth.amt_create_key(''k'', ''acme'', ''viewer'', ''{s}'', ''infinity'') AS c'),
	('create, fields', 'SELECT (auth.amt_create_key(''k'', ''acme'', ''viewer'')).*'),
	('import', 'SELECT auth.amt_import_key(sha256(''y''), ''k'', ''acme'', ''viewer'')'),
	('rotate', 'SELECT r IS NOT NULL FROM auth.amt_rotate_key(''a'') AS r'),
	('rotate with grace', 'SELECT r IS NOT NULL FROM auth.amt_rotate_key(''b'', ''1 hour'') AS r'),
	('revoke', 'SELECT auth.amt_revoke(''a'')'),
	('revoke by prefix', 'SELECT auth.amt_revoke(''shown'')'),
	('revoke by token', 'SELECT auth.amt_revoke(''amt_b_0123456789abcdef'')'),
	('revoke, imported', 'SELECT auth.amt_revoke(''imported'')'),
	('whoami', 'SELECT w::text FROM set_config(''amt_keys.org_id'', ''acme'', true), set_config(''amt_keys.key_id'', ''a'', true) AS s, auth.amt_whoami() AS w'),
	('usage', 'SELECT u::text FROM auth.amt_usage(''a'') AS u'),
	('stat', 'SELECT s::text FROM auth.amt_stat_get() AS s'),
	('list', 'SELECT count(k::text) FROM auth.amt_keys AS k'),
	('update', 'WITH u AS (UPDATE auth.amt_keys SET name = ''n'', suspended_at = now(), expires_at = now() RETURNING 1) SELECT count(*) FROM u'),
	('delete', 'WITH d AS (DELETE FROM auth.amt_keys RETURNING 1) SELECT count(*) FROM d'),
	('insert, raw', 'WITH i AS (INSERT INTO auth.amt_key (key_id, org_id, name, role, scrypt_hash, created_at) VALUES (''c'', ''acme'', ''c'', ''viewer'', ''$scrypt$ln=4,r=8,p=1$MDEyMzQ1Njc4OWFiY2RlZg$4Z60JOvkyYBPBM4bVtRQfK+3gSDiIvgitxsuRN98NjU'', now()) RETURNING 1) SELECT count(*) FROM i'),
	('update, raw', 'WITH u AS (UPDATE auth.amt_key SET name = ''n'', suspended_at = now() RETURNING 1) SELECT count(*) FROM u'),
	('delete, raw', 'WITH d AS (DELETE FROM auth.amt_key RETURNING 1) SELECT count(*) FROM d'),
	('usage, raw', 'WITH u AS (UPDATE auth.amt_key_usage SET calls = 0 RETURNING 1) SELECT count(*) FROM u'),
	('flush', 'SELECT auth.amt_flush_usage()'),
	('truncate', 'TRUNCATE auth.amt_key');

-- Every call after a change, each undone; the SQLSTATEs, without repetition.
CREATE PROCEDURE tap.try(change text, INOUT answer text) LANGUAGE plpgsql AS $$
DECLARE
	c record;
	states text[] := '{}';
BEGIN
	BEGIN
		EXECUTE change;
		FOR c IN SELECT * FROM tap.call ORDER BY n LOOP
			BEGIN
				SET LOCAL statement_timeout = '2s';
				EXECUTE c.statement;
				RAISE SQLSTATE 'UNDO0';
			EXCEPTION WHEN OTHERS THEN
				IF SQLSTATE <> 'UNDO0' THEN
					states := states || (CASE WHEN SQLSTATE LIKE 'XX%' THEN c.what || ' ' || SQLERRM ELSE SQLSTATE END);
				END IF;
			END;
		END LOOP;
		RAISE SQLSTATE 'UNDO0';
	EXCEPTION WHEN SQLSTATE 'UNDO0' THEN
		answer := coalesce((SELECT string_agg(DISTINCT s, ' ' ORDER BY s) FROM unnest(states) AS s), 'right');
	WHEN OTHERS THEN
		answer := 'the change: ' || SQLSTATE || ' ' || SQLERRM;
	END;
END
$$;

-- Both kinds of keys; the hash is that of the secret 0123456789abcdef.
INSERT INTO amt_key (key_id, org_id, name, role, scopes, scrypt_hash, created_at)
	SELECT k, 'acme', k, 'viewer', '{s}', '$scrypt$ln=4,r=8,p=1$MDEyMzQ1Njc4OWFiY2RlZg$4Z60JOvkyYBPBM4bVtRQfK+3gSDiIvgitxsuRN98NjU', now() FROM unnest(array['a', 'b']) AS k;
SELECT amt_import_key(sha256('imported'), 'i', 'acme', 'viewer', 'shown') \gset
INSERT INTO amt_key_usage SELECT key_id, 5, now() FROM amt_key;

CREATE FUNCTION tap.after(change text) RETURNS text LANGUAGE plpgsql AS $$
DECLARE
	answer text;
BEGIN
	CALL tap.try(change, answer);
	RETURN answer;
END
$$;

-- What uses the columns is out of the way: policies, and the view.
CREATE FUNCTION tap.freely(change text) RETURNS text LANGUAGE sql AS $$
	SELECT 'DROP POLICY "!amt_key_own" ON auth.amt_key; DROP POLICY amt_key_select ON auth.amt_key; DROP POLICY "!amt_key_usage_own" ON auth.amt_key_usage;
		DROP POLICY "!amt_key_event_own" ON auth.amt_key_event; DROP POLICY amt_key_event_select ON auth.amt_key_event;
		CREATE OR REPLACE VIEW auth.amt_keys AS SELECT ''x'' COLLATE "C" AS key_id, ''x''::text AS name, ''x'' COLLATE "C" AS token_prefix, ''x''::text AS org_id,
		''x''::text AS role, ''{}''::text[] AS scopes, now() AS created_at, ''x''::text AS created_by, now() AS expires_at, now() AS suspended_at, ''x'' COLLATE "C" AS replaces,
		0::bigint AS calls, now() AS last_used_at; ' || change
$$;

SELECT * FROM no_plan();
SELECT is(tap.after('SELECT'), '0A000', 'every call is right before any change, and TRUNCATE is refused');

-- 1. Every column of every table as every other type
CREATE VIEW tap.columns AS
	SELECT attrelid::regclass AS r, attname AS c, attnum, format_type(atttypid, NULL) AS type FROM pg_attribute
	WHERE attrelid IN ('amt_key'::regclass, 'amt_key_usage'::regclass, 'amt_key_event'::regclass) AND attnum > 0;
CREATE DOMAIN tap.domain AS text;
CREATE TYPE tap.pair AS (a int, b int);
SELECT matches(tap.after('ALTER EXTENSION amt_keys DROP SEQUENCE amt_key_event_seq; ALTER TABLE amt_key_event ALTER event_id DROP IDENTITY'), '42P01', 'a table of events without its identity column writes none');
SELECT matches(tap.after(tap.freely(format('%sALTER TABLE %s ALTER %I TYPE %s USING NULL::%4$s%5$s', d, r, c, t, ''))), '42804|the change: (42704|42P16|22023|23502|428C9)', format('calls answer or raise an error with %s.%s as %s', r, c, t))
FROM tap.columns,
     unnest(array['text', 'character varying', 'text COLLATE "POSIX"', 'name', 'integer', 'bigint', 'timestamp without time zone', 'timestamp with time zone', 'bytea', 'text[]', 'tap.domain', 'tap.pair']) AS t,
     LATERAL (SELECT format('ALTER TABLE %s DROP CONSTRAINT IF EXISTS amt_key_pkey CASCADE, DROP CONSTRAINT IF EXISTS amt_key_usage_pkey, DROP CONSTRAINT IF EXISTS amt_key_event_pkey, DROP CONSTRAINT IF EXISTS amt_key_event_check, DROP CONSTRAINT IF EXISTS amt_key_sha256_key, ALTER %I DROP NOT NULL; DROP INDEX IF EXISTS amt_key_org_idx, amt_key_prefix_idx, amt_key_event_org_idx, amt_key_event_key_idx; ', r, c)) AS l (d)
WHERE t <> type AND NOT (c = 'event_id') AND NOT (t LIKE '%POSIX%' AND type <> 'text');
SELECT matches(tap.after(format('ALTER TABLE amt_key_event ALTER event_id TYPE %s', t)), '42804', 'calls raise an error with amt_key_event.event_id as ' || t) FROM unnest(array['int4', 'int2']) AS t;

-- 2. Columns dropped, renamed, added, of other order; constraints gone
SELECT matches(tap.after(tap.freely(format('ALTER TABLE %s DROP COLUMN %I CASCADE', r, c))), '42804|42703|the change: (2BP01|55006)', format('calls raise an error when %s.%s is dropped', r, c)) FROM tap.columns;
SELECT matches(tap.after(tap.freely(format('ALTER TABLE %s DROP COLUMN %I CASCADE; ALTER TABLE %1$s ADD %2$I %s', r, c, type))), '42804|the change: (2BP01|55006)', format('calls raise an error when %s.%s is dropped and added again', r, c)) FROM tap.columns;
SELECT matches(tap.after(format('ALTER TABLE %s RENAME %I TO other', r, c)), '^(0A000|0A000 42703|42703|.*42703.*)$', format('only statements that name it fail when %s.%s is renamed', r, c)) FROM tap.columns;
SELECT is(tap.after(format('ALTER TABLE %s ADD a text DEFAULT ''x'', ADD b int GENERATED BY DEFAULT AS IDENTITY, ADD c text GENERATED ALWAYS AS (key_id || ''x'') STORED, ADD d int[] NOT NULL DEFAULT ''{1,2}''; ALTER TABLE %1$s DROP COLUMN a', t)),
          '0A000', t || ' may have columns of the owner''s') FROM unnest(array['amt_key', 'amt_key_usage', 'amt_key_event']) AS t;
SELECT is(tap.after((SELECT string_agg(format('ALTER TABLE %s ADD c%s int', t, i), '; ') FROM generate_series(1, 1500) AS i)), '0A000', t || ' may have 1500 columns of the owner''s')
FROM unnest(array['amt_key', 'amt_key_usage', 'amt_key_event']) AS t;
SELECT matches(tap.after(format('ALTER TABLE %s ALTER %I DROP NOT NULL; ALTER TABLE %1$s DISABLE TRIGGER ALL; UPDATE %1$s SET %2$I = NULL', r, c)), '^(right|[0-9A-Z ]+)$|the change: (23514|42P16)', format('no call raises XX000 with null in %s.%s', r, c))
FROM tap.columns WHERE NOT (r = 'amt_key'::regclass AND c = 'key_id') AND NOT c IN ('event_id');
SELECT matches(tap.after('ALTER TABLE amt_key DROP CONSTRAINT amt_key_pkey; ALTER TABLE amt_key ALTER key_id DROP NOT NULL; ALTER TABLE amt_key DISABLE TRIGGER ALL; CREATE UNIQUE INDEX ON amt_key (key_id); UPDATE amt_key SET key_id = NULL'), '23502', 'null in amt_key.key_id raises an error');
SELECT matches(tap.after('ALTER TABLE amt_key DISABLE TRIGGER ALL; UPDATE amt_key SET ' || v), '^[0-9A-Z ]+$', 'no call raises XX000 with this forced in: ' || v)
FROM unnest(array['scrypt_hash = repeat(''x'', 1000000)', 'scrypt_hash = ''''', 'scrypt_hash = NULL', 'scrypt_hash = NULL, token_sha256 = NULL', 'token_sha256 = ''\x00'' WHERE token_sha256 IS NOT NULL',
	'scopes = ''{{a,b},{c,d}}''', 'scopes = ''{NULL}''', 'scopes = array_fill(''x''::text, array[10000])', 'scopes = ''[-3:-2]={a,b}''', 'role = repeat(''r'', 100000)', 'role = ''''', 'org_id = repeat(''o'', 2000)',
	'org_id = ''''', 'name = repeat(''n'', 100000)', 'created_at = ''-infinity''', 'created_at = ''infinity''', 'created_at = ''infinity'', expires_at = ''-infinity''', 'expires_at = ''294276-01-01'', created_at = ''4714-11-24 BC''',
	'suspended_at = ''-infinity''', 'created_by = repeat(''c'', 100000)', 'replaces = repeat(''r'', 100000)', 'token_prefix = repeat(''p'', 2000)', 'key_id = repeat(''k'', 64) WHERE key_id = ''a''', 'key_id = repeat(''k'', 65) WHERE key_id = ''a''',
	'key_id = repeat(''k'', 2000) WHERE key_id = ''a''', 'key_id = '''' WHERE key_id = ''a''', 'key_id = repeat(''k'', 65) WHERE token_sha256 IS NOT NULL', 'key_id = repeat(''k'', 2000) WHERE token_sha256 IS NOT NULL']) AS v;
SELECT matches(tap.after('UPDATE amt_key_usage SET ' || v), '^[0-9A-Z ]+$', 'no call raises XX000 with this in amt_key_usage: ' || v)
FROM unnest(array['calls = 9223372036854775807', 'calls = -9223372036854775808', 'last_used_at = ''infinity''', 'last_used_at = ''-infinity''', 'key_id = repeat(''k'', 2000) WHERE key_id = ''a''']) AS v;
SELECT matches(tap.after(v), '^[0-9A-Z ]+$', 'no call raises XX000 after: ' || v)
FROM unnest(array['SELECT setval(''amt_key_event_seq'', 9223372036854775807)', 'SELECT setval(''amt_key_event_seq'', 1)', 'ALTER SEQUENCE amt_key_event_seq INCREMENT -1 MINVALUE -9 RESTART 1',
	'ALTER SEQUENCE amt_key_event_seq AS int2 MAXVALUE 2 RESTART 2', 'UPDATE amt_key_event SET event_id = 9223372036854775807 WHERE key_id = ''a''; SELECT setval(''amt_key_event_seq'', 9223372036854775806)',
	'UPDATE amt_key_event SET event_id = -event_id', 'ALTER TABLE amt_key_event ALTER event_id SET GENERATED ALWAYS']) AS v;
SELECT setval('amt_key_event_seq', 100000) \gset

-- 3. Every index dropped, and every constraint
SELECT matches(tap.after(format('ALTER TABLE %s DROP CONSTRAINT %I CASCADE', conrelid::regclass, conname)), '^[0-9A-Z ]+$', format('no call raises XX000 without the constraint %s', conname))
FROM pg_constraint WHERE conrelid IN (SELECT r FROM tap.columns) AND contype <> 'n';
SELECT matches(tap.after(format('DROP INDEX %s', indexrelid::regclass)), '^[0-9A-Z ]+$|the change: 2BP01', format('no call raises XX000 without the index %s', indexrelid::regclass)) FROM pg_index WHERE indrelid IN (SELECT r FROM tap.columns);
SELECT matches(tap.after('ALTER TABLE amt_key DROP CONSTRAINT amt_key_pkey CASCADE'), '42704', 'without its primary key, amt_key has no usable index');
SELECT matches(tap.after('ALTER TABLE amt_key DROP CONSTRAINT amt_key_pkey CASCADE; CREATE ' || i), '42704', 'amt_key has no usable index with another one: ' || i)
FROM unnest(array['INDEX ON amt_key (key_id)', 'UNIQUE INDEX ON amt_key (key_id) WHERE key_id <> ''a''', 'UNIQUE INDEX ON amt_key (lower(key_id))', 'UNIQUE INDEX ON amt_key (key_id, name)',
	'UNIQUE INDEX ON amt_key (key_id COLLATE "POSIX")', 'INDEX ON amt_key USING hash (key_id)']) AS i;
SELECT matches(tap.after(format('DROP TRIGGER %I ON %s', tgname, tgrelid::regclass)), '^[0-9A-Z ]+$|right', format('no call raises XX000 without the trigger %s', tgname)) FROM pg_trigger WHERE tgrelid IN (SELECT r FROM tap.columns UNION SELECT 'amt_keys'::regclass);
SELECT matches(tap.after(format('CREATE TRIGGER again %s ON %s FOR EACH %s EXECUTE FUNCTION %s()', e, r, f, p)), '^[0-9A-Z ]+$|the change: 42P17', format('no call raises XX000 with %s() %s on %s for each %s', p, e, r, f))
FROM unnest(array['amt_key_guard', 'amt_key_record', 'amt_key_no_truncate', 'amt_usage_replica', 'amt_keys_delete', 'amt_keys_update']) AS p,
     unnest(array['BEFORE INSERT OR UPDATE OR DELETE', 'AFTER INSERT OR UPDATE OR DELETE']) AS e,
     unnest(array['amt_key', 'amt_key_usage', 'amt_key_event']) AS r, unnest(array['ROW', 'STATEMENT']) AS f;

-- 4. Row types: every attribute as another type, dropped, added, renamed
CREATE TABLE tap.attributes AS
	SELECT t.typname AS type, a.attname AS c, format_type(a.atttypid, NULL) AS was FROM pg_type AS t JOIN pg_attribute AS a ON a.attrelid = t.typrelid
	WHERE t.oid IN ('amt_new_key'::regtype, 'amt_verified'::regtype) AND a.attnum > 0;
SELECT matches(tap.after(format('ALTER TYPE %I ALTER ATTRIBUTE %I TYPE %s', type, c, t)), '42804', format('calls raise an error with %s.%s as %s', type, c, t))
FROM tap.attributes, unnest(array['text', 'character varying', 'integer', 'timestamp with time zone', 'text[]', 'tap.pair']) AS t WHERE t <> was;
SELECT matches(tap.after(format('ALTER TYPE %I DROP ATTRIBUTE %I', type, c)), '42804', format('calls raise an error when %s.%s is dropped', type, c)) FROM tap.attributes;
SELECT matches(tap.after(format('ALTER TYPE %I DROP ATTRIBUTE %I; ALTER TYPE %1$I ADD ATTRIBUTE %2$I %s', type, c, was)), '42804', format('calls raise an error when %s.%s is dropped and added again', type, c)) FROM tap.attributes;
SELECT is(tap.after(format('ALTER TYPE %I RENAME ATTRIBUTE %I TO other', type, c)), '0A000', format('every call is right when %s.%s is renamed', type, c)) FROM tap.attributes;
SELECT matches(tap.after((SELECT string_agg(format('ALTER TYPE %I ADD ATTRIBUTE c%s int', type, i), '; ') FROM generate_series(1, n) AS i)), '42804', format('calls raise an error when %s has %s attributes more', type, n))
FROM unnest(array['amt_new_key', 'amt_verified']) AS type, unnest(array[1, 24, 1000]) AS n;

-- 5. The view replaced: other rows, nulls, more columns; and another view with its triggers
SELECT matches(tap.after(format('CREATE OR REPLACE VIEW amt_keys AS SELECT %s AS key_id, ''x''::text AS name, NULL COLLATE "C" AS token_prefix, NULL::text AS org_id,
	NULL::text AS role, NULL::text[] AS scopes, NULL::timestamptz AS created_at, NULL::text AS created_by, NULL::timestamptz AS expires_at, NULL::timestamptz AS suspended_at, NULL COLLATE "C" AS replaces,
	NULL::bigint AS calls, NULL::timestamptz AS last_used_at%s', k, more)), '^[0-9A-Z ]+$', format('no call raises XX000 with a view of %s%s', k, more))
FROM unnest(array['NULL COLLATE "C"', '''a'' COLLATE "C"', 'repeat(''k'', 100000) COLLATE "C"', '''\xf0'' COLLATE "C"']) AS k, unnest(array['', ', 1 AS extra']) AS more;

-- 6. Every relation replaced by one of every other kind, by its owner and as a member of the extension
CREATE ACCESS METHOD amt_test_heap TYPE TABLE HANDLER heap_tableam_handler;
CREATE FOREIGN DATA WRAPPER amt_test_nothing;
CREATE SERVER amt_test_nothing FOREIGN DATA WRAPPER amt_test_nothing;
CREATE TABLE tap.kind (kind text, member text, statement text);
INSERT INTO tap.kind VALUES
	('table', 'TABLE', 'CREATE TABLE %1$s (LIKE %2$s)'),
	('table of another access method', 'TABLE', 'CREATE TABLE %1$s (LIKE %2$s) USING amt_test_heap'),
	('unlogged table', 'TABLE', 'CREATE UNLOGGED TABLE %1$s (LIKE %2$s INCLUDING ALL)'),
	('table without columns', 'TABLE', 'CREATE TABLE %1$s ()'),
	('typed table', 'TABLE', 'CREATE TABLE %1$s OF auth.amt_verified'),
	('child', 'TABLE', 'CREATE TABLE %1$s () INHERITS (%2$s)'),
	('view', 'VIEW', 'CREATE VIEW %1$s AS SELECT * FROM %2$s'),
	('materialized view', 'MATERIALIZED VIEW', 'CREATE MATERIALIZED VIEW %1$s AS SELECT * FROM %2$s'),
	('foreign table', 'FOREIGN TABLE', 'CREATE FOREIGN TABLE %1$s (key_id text) SERVER amt_test_nothing'),
	('partitioned table', 'TABLE', 'CREATE TABLE %1$s (LIKE %2$s) PARTITION BY LIST (key_id)'),
	('partition', 'TABLE', 'CREATE TABLE tap.parted (LIKE %2$s) PARTITION BY LIST (key_id); CREATE TABLE %1$s PARTITION OF tap.parted DEFAULT'),
	('sequence', 'SEQUENCE', 'CREATE SEQUENCE %1$s'),
	('row type', 'TYPE', 'CREATE TYPE %1$s AS (key_id text)'),
	('index', NULL, 'CREATE TABLE tap.other (key_id text); CREATE INDEX %3$s ON tap.other (key_id); ALTER TABLE tap.other SET SCHEMA auth'),
	('nothing', NULL, 'SELECT');
SELECT matches(tap.after(format('ALTER TABLE auth.%I RENAME TO was; ', t) || format(statement, 'auth.' || t, 'auth.was', t)), '42P01', format('calls raise an error when %s is replaced by: %s', t, kind))
FROM unnest(array['amt_key', 'amt_key_usage', 'amt_key_event']) AS t, tap.kind;
SELECT matches(tap.after(format('ALTER TABLE auth.%I RENAME TO was; ', t) || format(statement, 'auth.' || t, 'auth.was', t) || format('; ALTER EXTENSION amt_keys ADD %s auth.%I', member, t)),
               CASE WHEN kind = 'unlogged table' THEN '^[0-9A-Z ]+$' WHEN kind IN ('materialized view', 'partition') THEN '^(?!.*42704).*42809' ELSE '42809|42804|42704|42P01|42501' END, format('calls answer or raise an error when %s is replaced by a member: %s', t, kind))
FROM unnest(array['amt_key', 'amt_key_usage', 'amt_key_event']) AS t, tap.kind WHERE member IS NOT NULL;

SELECT matches(tap.after('ALTER TABLE auth.amt_key_usage RENAME TO was; CREATE TABLE auth.amt_key_usage (key_id text COLLATE "C" PRIMARY KEY, calls bigint GENERATED ALWAYS AS (7) STORED, last_used_at timestamptz);
	ALTER EXTENSION amt_keys ADD TABLE auth.amt_key_usage'), '42804', 'calls raise an error when amt_key_usage is replaced by a member with a generated column');

-- 7. Objects that are not members any more.  A session remembers of which extension a function was, until something else of it changes.
SELECT matches(tap.after(format('ALTER EXTENSION amt_keys DROP %s %s', k, o) || CASE WHEN k = 'FUNCTION' THEN format('; ALTER FUNCTION %s COST 7', o) ELSE '' END), CASE WHEN k = 'FUNCTION' THEN '^[0-9A-Z ]*55000[0-9A-Z ]*$' ELSE '^[0-9A-Z ]*(42P01|55000|0A000)[0-9A-Z ]*$' END, format('calls raise an error when this is no member any more: %s %s', k, o))
FROM (VALUES ('TABLE', 'amt_key'), ('TABLE', 'amt_key_usage'), ('TABLE', 'amt_key_event'), ('VIEW', 'amt_keys'), ('SEQUENCE', 'amt_key_event_seq'), ('FUNCTION', 'amt_verify(text, boolean)'),
	('FUNCTION', 'amt_revoke(text)'), ('FUNCTION', 'amt_key_record()'), ('FUNCTION', 'amt_keys_delete()'), ('TYPE', 'amt_verified')) AS v (k, o);

-- 8. A table that is back.  No message tells a session that it was missing.
ALTER TABLE amt_key_event RENAME TO was;
SELECT is_empty('SELECT FROM amt_verify(''amt_none_0123456789abcdef'')', 'a call that does not need a table that is missing answers');
ALTER TABLE was RENAME TO amt_key_event;
SELECT lives_ok('SELECT amt_create_key(''k'', ''acme'', ''viewer'')', 'the first call that needs it finds it again');

SELECT is(tap.after('SELECT'), '0A000', 'every call is right after all changes were undone, and TRUNCATE is refused');
SELECT * FROM finish();
ROLLBACK;
