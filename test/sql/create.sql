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

-- a character by its code point, in SQL_ASCII, too
CREATE FUNCTION u(code int) RETURNS text LANGUAGE sql AS $$
	SELECT convert_from(decode(CASE
		WHEN code < 2048 THEN to_hex(192 + code / 64)
		WHEN code < 65536 THEN to_hex(224 + code / 4096) || to_hex(128 + code / 64 % 64)
		ELSE to_hex(240 + code / 262144) || to_hex(128 + code / 4096 % 64) || to_hex(128 + code / 64 % 64)
	END || to_hex(128 + code % 64), 'hex'), 'UTF8')
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
CALL become('', '', 'gil', '', 'regress_amt_gateway');
SELECT org_id, role FROM amt_create_key('by a gateway, with an actor of no organization', 'acme', 'owner');
CALL become('', '', '', '', 'none');
SELECT org_id, role FROM amt_create_key('by a superuser', 'initech', 'admin');
SELECT name, org_id, created_by FROM amt_key WHERE name LIKE 'by a %' ORDER BY name COLLATE "C";
SELECT name, org_id, actor FROM amt_key_event WHERE name LIKE 'by a %' ORDER BY event_id;

-- names: 1 to 100 characters after trimming, one of them visible; no control characters, no separators of lines, no token
CALL become('acme', 'editor');
SELECT amt_create_key('');
:sqlstate
SELECT amt_create_key(NULL);
:sqlstate
SELECT amt_create_key(repeat('x', 101));
:sqlstate
SELECT amt_create_key(E'a\nb');
:sqlstate
SELECT what, attempt(format('SELECT octet_length(name) || CASE WHEN name = %L THEN '' as it was'' ELSE '' trimmed'' END FROM amt_create_key(%L)', name, name))
FROM (VALUES
	(1, 'one character', 'x'),
	(2, '100 characters', repeat('x', 100)),
	(3, '101 characters', repeat('x', 101)),
	(4, '100 in 300 bytes', repeat(u(x'9375'::int), 100)),
	(5, '101 in 303 bytes', repeat(u(x'9375'::int), 101)),
	(6, '100 in 400 bytes', repeat(u(x'1F511'::int), 100)),
	(7, '100 and blanks around', '  ' || repeat('x', 100) || '  '),
	(8, 'a megabyte', repeat('x', 1000000)),
	(9, 'a megabyte of blanks', repeat(' ', 1000000)),
	(10, 'one blank', ' '),
	(11, 'blank within', ' a b '),
	(12, 'other scripts', u(x'43A'::int) || u(x'43B'::int) || ' ' || u(x'645'::int) || u(x'641'::int) || ' ' || u(x'9375'::int)),
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
	(23, 'U+0080', 'a' || u(x'80'::int)),
	(24, 'U+0085, next line', 'a' || u(x'85'::int) || 'b'),
	(25, 'U+009F', 'a' || u(x'9F'::int)),
	(26, 'U+00A0, no control', 'a' || u(x'A0'::int)),
	(28, 'U+2028, line separator', 'a' || u(x'2028'::int) || 'b'),
	(29, 'U+2029, paragraph separator', 'a' || u(x'2029'::int)),
	(30, 'no-break spaces only', u(x'A0'::int) || ' ' || u(x'A0'::int)),
	(31, 'zero-width spaces only', u(x'200B'::int) || u(x'FEFF'::int)),
	(32, 'soft hyphen and joiner only', u(x'AD'::int) || u(x'200D'::int)),
	(33, 'direction marks only', u(x'202E'::int) || u(x'2066'::int)),
	(34, 'Hangul filler only', u(x'3164'::int)),
	(35, 'tags only', u(x'E0041'::int)),
	(36, 'ideographic spaces only', u(x'3000'::int)),
	(37, 'something visible among them', u(x'200B'::int) || 'a' || u(x'200B'::int)),
	(38, 'a token in imported form', 'not amt_abc123_xyz789abcdefghij'),
	(39, 'a token that may have been cut', 'not amt_abc123_xyz789'),
	(42, 'a name of a table', 'reads amt_key_usage'),
	(40, 'a displayed prefix', 'made from amt_abc123...'),
	(41, 'a token of another prefix', 'not acme_abc123_xyz789abcdefghij'),
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

-- organization ids: any text of 1 to 255 characters
CALL become('', '', '', '', 'none');
SELECT what, attempt(format('SELECT length(org_id) = %s FROM amt_create_key(''k'', %L, ''viewer'')', length(org_id), org_id))
FROM (SELECT CASE WHEN getdatabaseencoding() = 'UTF8' THEN 255 ELSE 85 END) AS e (n), LATERAL (VALUES
	(1, 'empty', ''),
	(2, '255 characters', repeat('x', 255)),
	(3, '256 characters', repeat('x', 256)),
	(4, 'a megabyte', repeat('x', 1048576)),
	(5, '255 characters of several bytes, as the encoding counts', repeat(u(x'9375'::int), e.n)),
	(6, 'one more', repeat(u(x'9375'::int), e.n + 1))) AS v (ord, what, org_id)
ORDER BY ord;
CREATE TEMP TABLE odd AS
	SELECT o.org_id AS asked, k.* FROM unnest(array[
		$$O'Reilly "& Sons"$$, $$'; DELETE FROM amt_key; --$$, E'two\nlines', '%s $1 \', ' ', repeat('x', 255),
		(SELECT left(string_agg(md5(i::text), ''), 255) FROM generate_series(1, 8) AS i),
		u(x'43E'::int) || ' ' || u(x'1F3E2'::int), 'null', '0']) AS o (org_id),
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

DROP FUNCTION attempt, seen_by, u;
DROP PROCEDURE become;
DROP EXTENSION amt_keys;
DROP OWNED BY regress_amt_gateway;
DROP ROLE regress_amt_gateway, regress_amt_web;
