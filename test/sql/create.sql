--
-- amt_create_key(): who may create which key, and what becomes of it
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

CREATE TEMP TABLE roles AS SELECT * FROM unnest('{viewer,editor,admin,owner}'::text[]) WITH ORDINALITY AS u (role, rank);
GRANT SELECT ON roles TO PUBLIC;

-- continue as an ordinary role with this identity
CREATE PROCEDURE become(org_id text, role text, actor text DEFAULT '', key_id text DEFAULT '', db_role text DEFAULT 'regress_amt_web')
LANGUAGE plpgsql AS $$
BEGIN
	RESET ROLE;
	PERFORM set_config('amt_keys.org_id', org_id, false), set_config('amt_keys.role', role, false),
	        set_config('amt_keys.actor', actor, false), set_config('amt_keys.key_id', key_id, false),
	        set_config('role', db_role, false);
END
$$;

-- the answer of a statement, or its SQLSTATE; whatever it did is undone
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

-- a member gets a key of the own organization and role
CALL become('acme', 'editor', 'ann@acme.example');
SELECT token IS NOT NULL AS token, key_id ~ '^[0-9A-Za-z]{12}$' AS key_id, token_prefix = 'amt_' || key_id || '...' AS token_prefix,
       name, org_id, role, created_at = now() AS created_at, expires_at
FROM amt_create_key('Claude on Ann''s laptop');
SELECT name, org_id, role, created_at <= now() AS created_at, created_by, expires_at, calls, last_used_at FROM amt_keys;
SELECT event, key_id = (SELECT key_id FROM amt_keys) AS same_key, org_id, name, role, actor, db_user = session_user AS db_user, calls,
       at BETWEEN now() - interval '1 minute' AND clock_timestamp() AS at
FROM amt_key_event;

-- arguments by name; names need not be unique
SELECT name, org_id, role, expires_at FROM amt_create_key(name => 'Claude on Ann''s laptop', role => 'viewer', expires_at => '2200-01-01 00:00+00', org_id => 'acme');
SELECT count(*) FROM amt_keys WHERE name = 'Claude on Ann''s laptop';

-- one's own role and those below it
CALL become('acme', 'viewer');
SELECT role, attempt(format('SELECT role FROM amt_create_key(''k'', role => %L)', role)) FROM roles ORDER BY rank;
CALL become('acme', 'editor');
SELECT role, attempt(format('SELECT role FROM amt_create_key(''k'', role => %L)', role)) FROM roles ORDER BY rank;
CALL become('acme', 'admin');
SELECT role, attempt(format('SELECT role FROM amt_create_key(''k'', role => %L)', role)) FROM roles ORDER BY rank;
CALL become('acme', 'owner');
SELECT role, attempt(format('SELECT role FROM amt_create_key(''k'', role => %L)', role)) FROM roles ORDER BY rank;
CALL become('acme', 'viewer');
SELECT amt_create_key('k', role => 'editor');
:sqlstate

-- roles that are none
CALL become('acme', 'owner');
SELECT amt_create_key('k', role => 'superuser');
:sqlstate
SELECT amt_create_key('k', role => 'Viewer');
:sqlstate
SELECT amt_create_key('k', role => '');
:sqlstate
CALL become('acme', 'guest');
SELECT amt_create_key('k');
:sqlstate
SELECT attempt('SELECT amt_create_key(''k'', role => ''viewer'')');

-- another organization's key, no matter who
CALL become('acme', 'owner');
SELECT amt_create_key('k', 'globex');
:sqlstate
SELECT o AS org_id, attempt(format('SELECT org_id FROM amt_create_key(''k'', %L)', o))
FROM unnest(array['acme', 'Acme', 'acme ', ' acme', 'acm', 'acmee', '', '%', NULL]) WITH ORDINALITY AS u (o, n) ORDER BY n;
SELECT amt_create_key('k', '');
:sqlstate

-- no identity, or half of one
CALL become('', '');
SELECT amt_create_key('k');
:sqlstate
SELECT amt_create_key('k', 'acme', 'viewer');
:sqlstate
CALL become('acme', '');
SELECT attempt('SELECT amt_create_key(''k'', ''acme'', ''viewer'')');
CALL become('', 'owner');
SELECT attempt('SELECT amt_create_key(''k'', ''acme'', ''viewer'')');

-- a key creates no keys, whatever its role
CALL become('acme', 'owner', '', 'k1');
SELECT amt_create_key('k');
:sqlstate
SELECT attempt('SELECT amt_create_key(''k'', ''acme'', ''viewer'')');
-- also when a trusted role acts for it
CALL become('acme', 'owner', '', 'k1', 'regress_amt_gateway');
SELECT attempt('SELECT amt_create_key(''k'', ''acme'', ''viewer'')');
CALL become('acme', 'owner', '', 'k1', 'none');
SELECT attempt('SELECT amt_create_key(''k'', ''acme'', ''viewer'')');

-- trusted callers name any organization and any known role, and say both where no identity does
CALL become('', '', '', '', 'regress_amt_gateway');
SELECT org_id, role FROM amt_create_key('by a gateway', 'globex', 'owner');
SELECT amt_create_key('k');
:sqlstate
SELECT amt_create_key('k', 'globex');
:sqlstate
SELECT amt_create_key('k', role => 'viewer');
:sqlstate
SELECT amt_create_key('k', 'globex', 'superuser');
:sqlstate
SELECT amt_create_key('k', '', 'viewer');
:sqlstate
CALL become('acme', 'viewer', 'gil', '', 'regress_amt_gateway');
SELECT org_id, role FROM amt_create_key('by a gateway, as a viewer');
SELECT org_id, role FROM amt_create_key('by a gateway, above that role', 'globex', 'owner');
CALL become('', '', '', '', 'none');
SELECT org_id, role FROM amt_create_key('by a superuser', 'initech', 'admin');
SELECT name, org_id, created_by FROM amt_key WHERE name LIKE 'by a %' ORDER BY name COLLATE "C";
SELECT name, org_id, actor FROM amt_key_event WHERE name LIKE 'by a %' ORDER BY event_id;

-- names: 1 to 100 characters after trimming, no control characters
CALL become('acme', 'editor');
SELECT amt_create_key('');
:sqlstate
SELECT amt_create_key(NULL);
:sqlstate
SELECT amt_create_key(repeat('x', 101));
:sqlstate
SELECT amt_create_key(E'a\nb');
:sqlstate
SELECT what, attempt(format('SELECT length(name) || CASE WHEN name = %L THEN '' as it was'' ELSE '' trimmed'' END FROM amt_create_key(%L)', name, name))
FROM (VALUES
	(1, 'one character', 'x'),
	(2, '100 characters', repeat('x', 100)),
	(3, '101 characters', repeat('x', 101)),
	(4, '100 in 300 bytes', repeat(U&'\9375', 100)),
	(5, '101 in 303 bytes', repeat(U&'\9375', 101)),
	(6, '100 in 400 bytes', repeat(U&'\+01F511', 100)),
	(7, '100 and blanks around', '  ' || repeat('x', 100) || '  '),
	(8, 'a megabyte', repeat('x', 1000000)),
	(9, 'a megabyte of blanks', repeat(' ', 1000000)),
	(10, 'one blank', ' '),
	(11, 'blank within', ' a b '),
	(12, 'other scripts', U&'\043A\043B\044E\0447 \0645\0641\062A\0627\062D \9375'),
	(13, 'quotes', $$'"; DROP TABLE amt_key; --$$),
	(14, 'backslash and format', E'\\x %s %n \\'),
	(15, 'tab at the end', E'a\t'),
	(16, 'tab at the beginning', E'\ta'),
	(17, 'line feed', E'a\nb'),
	(18, 'carriage return', E'a\rb'),
	(19, 'escape', E'a\x1b[31mb'),
	(20, 'U+0001', E'a\x01'),
	(21, 'U+001F', E'a\x1f'),
	(22, 'U+007F', E'a\x7f'),
	(23, 'U+0080', U&'a\0080'),
	(24, 'U+0085, next line', U&'a\0085b'),
	(25, 'U+009F', U&'a\009F'),
	(26, 'U+00A0, no control', U&'a\00A0'),
	(27, 'a token', 'not amt_000000000000_00000000000000000000000000000000000000000000OJlLF')) AS v (n, what, name)
ORDER BY n;

-- expiry: in the future, or never
SELECT amt_create_key('k', expires_at => now());
:sqlstate
SELECT amt_create_key('k', expires_at => '1999-12-31');
:sqlstate
SELECT e AS expires_at, attempt(format('SELECT coalesce(expires_at::text, ''never'') FROM amt_create_key(''k'', expires_at => %L)', e))
FROM unnest(array['-infinity', '4714-11-24 00:00:00+00 BC', 'epoch', 'infinity', '294276-12-31 00:00:00+00', NULL]::text[]) WITH ORDINALITY AS u (e, n) ORDER BY n;
-- by the clock, not by the transaction's
BEGIN;
SELECT pg_sleep(0.01);
SELECT now() + interval '0.005 seconds' < clock_timestamp() AS past;
SELECT amt_create_key('k', expires_at => now() + interval '0.005 seconds');
:sqlstate
ROLLBACK;

-- organization ids: any text
CALL become('', '', '', '', 'none');
CREATE TEMP TABLE odd AS
	SELECT o.org_id AS asked, k.* FROM unnest(array[
		$$O'Reilly "& Sons"$$, $$'; DELETE FROM amt_key; --$$, E'two\nlines', '%s $1 \', ' ', repeat('x', 10000),
		(SELECT string_agg(md5(i::text), '') FROM generate_series(1, 320) AS i),
		U&'\043E\0440\0433 \+01F3E2', 'null', '0']) AS o (org_id),
	amt_create_key('odd', o.org_id, 'viewer') AS k;
SELECT count(*), bool_and(org_id = asked) AS answered FROM odd;
SELECT count(*) FROM odd AS o, amt_verify(o.token) AS v WHERE v.org_id = o.asked;
SELECT count(*) FROM odd AS o JOIN amt_keys AS k ON k.key_id = o.key_id AND k.org_id = o.asked AND k.calls = 1;
SELECT count(*) FROM odd AS o JOIN amt_key_event AS e ON e.key_id = o.key_id AND e.org_id = o.asked;
-- each sees its own
CREATE FUNCTION seen_by(org text) RETURNS bigint LANGUAGE plpgsql AS $$
DECLARE
	n bigint;
BEGIN
	PERFORM set_config('amt_keys.org_id', org, true), set_config('role', 'regress_amt_web', true);
	SELECT count(*) FROM amt_keys WHERE org_id = org INTO n;
	ASSERT n = (SELECT count(*) FROM amt_keys);
	PERFORM set_config('role', 'none', true);
	RETURN n;
END
$$;
SELECT count(*), sum(seen_by(asked)) AS seen FROM odd;
SELECT count(*) FILTER (WHERE amt_revoke(key_id)) AS revoked FROM odd;
SELECT count(*) FROM odd AS o, amt_verify(o.token);

-- it is part of the transaction
BEGIN;
SELECT token AS rolled_back FROM amt_create_key('rolled back', 'acme', 'viewer') \gset
SAVEPOINT s;
SELECT token AS rolled_back_to FROM amt_create_key('rolled back to a savepoint', 'acme', 'viewer') \gset
SELECT name FROM unnest(array[:'rolled_back', :'rolled_back_to']) AS t, amt_verify(t) ORDER BY name COLLATE "C";
ROLLBACK TO s;
SELECT name FROM unnest(array[:'rolled_back', :'rolled_back_to']) AS t, amt_verify(t);
ROLLBACK;
SELECT count(*) FROM unnest(array[:'rolled_back', :'rolled_back_to']) AS t, amt_verify(t);
SELECT count(*) FROM amt_key_event WHERE name LIKE 'rolled back%';
BEGIN READ ONLY;
SELECT amt_create_key('k', 'acme', 'viewer');
:sqlstate
ROLLBACK;

DROP FUNCTION attempt, seen_by;
DROP PROCEDURE become;
DROP EXTENSION amt_keys;
DROP OWNED BY regress_amt_gateway;
DROP ROLE regress_amt_gateway, regress_amt_web;
