--
-- amt_import_key(): keys made elsewhere, known by the SHA-256 of their token
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

-- tokens that clients have already, of another system
\set token1 sk-live-4f9c2a7e0b1d8c3f
\set token2 ghx_QmFzZTY0IGlzIG5vdCBhIGhhc2g=
SELECT amt_import_key(sha256(:'token1'), 'first', 'acme', 'editor') AS id1 \gset
SELECT amt_import_key(sha256(:'token2'), '  second ', 'acme', 'viewer', 'ghx_Qm...', '{read,write}', '2020-02-02 00:00+00', 'ann', '2200-01-01 00:00+00') AS id2 \gset
SELECT :'id1' ~ '^[0-9A-Za-z]{12}$' AS id1, :'id2' ~ '^[0-9A-Za-z]{12}$' AS id2;
SELECT name, org_id, role, scopes, replace(token_prefix, key_id, '<id>') AS token_prefix, created_at = now() OR created_at > now() - interval '1 minute' AS just_now, created_by, expires_at, suspended_at, replaces, calls
FROM amt_keys ORDER BY name \gx
SELECT created_at FROM amt_keys WHERE key_id = :'id2';
SELECT token_sha256 = sha256(:'token1') AS sha256, scrypt_hash FROM amt_key WHERE key_id = :'id1';
SELECT event, name, role, scopes, actor, calls FROM amt_key_event ORDER BY event_id;

-- they verify as a whole, with a scheme or without, warm or cold
SELECT v.key_id = :'id1' AS key_id, org_id, role, scopes, name, created_by, expires_at FROM amt_verify(:'token1') AS v;
SELECT v.key_id = :'id2' AS key_id, org_id, role, scopes, name, created_by, expires_at FROM amt_verify('bearer ' || :'token2') AS v;
SELECT amt_cache_clear();
SELECT name FROM amt_verify(:'token1');
SELECT what, count(good.key_id)
FROM (VALUES
	(1, 'cut short', left(:'token1', -1)),
	(2, 'one more', :'token1' || '0'),
	(3, 'blank before', ' ' || :'token1'),
	(4, 'blank behind', :'token1' || ' '),
	(5, 'line feed behind', :'token1' || E'\n'),
	(6, 'other case', upper(:'token1')),
	(7, 'another scheme', 'ApiKey ' || :'token1'),
	(8, 'the digest', encode(sha256(:'token1'), 'hex')),
	(9, 'the id', :'id1'),
	(10, 'the displayed prefix', 'amt_' || :'id1' || '...'),
	(11, 'a token with its id', 'amt_' || :'id1' || '_' || repeat('x', 49)),
	(12, 'a token with its id and itself', 'amt_' || :'id1' || '_4f9c2a7e0b1d8c3f')) AS v (n, what, token)
LEFT JOIN LATERAL amt_verify(token) AS good ON true GROUP BY n, what ORDER BY n;
BEGIN;
SELECT name FROM amt_verify(:'token2', identify => true);
SELECT org_id, role, scopes, actor, key_id = :'id2' AS key_id, key_name FROM amt_whoami();
COMMIT;
-- calls are counted as for other keys
SELECT name, calls, last_used_at IS NOT NULL AS used FROM amt_keys ORDER BY name;
-- which texts can be such a token: up to 512 printable ASCII characters without space
CREATE FUNCTION imported(token text) RETURNS boolean LANGUAGE plpgsql AS $$
BEGIN
	PERFORM amt_import_key(sha256(convert_to(token, getdatabaseencoding())), 'n', 'acme', 'viewer');
	RETURN EXISTS (SELECT FROM amt_verify(token));
END
$$;
SELECT what, imported(token)
FROM (VALUES
	(1, 'one character', 'x'),
	(2, '512 characters', repeat('x', 512)),
	(3, '513 characters', repeat('x', 513)),
	(4, 'all characters', (SELECT string_agg(chr(i), '') FROM generate_series(33, 126) AS i)),
	(5, 'a blank', 'a b'),
	(6, 'U+007F', E'a\x7f'),
	(7, 'a tab', E'a\tb'),
	(8, 'not ASCII', convert_from('\x72c3a961', 'UTF8')),
	(9, 'of our own form', 'amt_abc123_xyz789abcdefghij'),
	(10, 'of our own form, generated', 'amt_000000000000_00000000000000000000000000000000000000000000OJlLF'),
	(11, 'a JWT', 'eyJhbGciOiJIUzI1NiJ9.e30.x')) AS v (n, what, token) ORDER BY n;

-- arguments that are refused
CREATE FUNCTION import(token_sha256 bytea DEFAULT sha256('new'), name text DEFAULT 'n', org_id text DEFAULT 'acme', role text DEFAULT 'viewer', token_prefix text DEFAULT NULL,
	scopes text[] DEFAULT NULL, created_at timestamptz DEFAULT NULL, created_by text DEFAULT NULL, expires_at timestamptz DEFAULT NULL) RETURNS text LANGUAGE sql AS $$
	SELECT attempt(format('SELECT length(amt_import_key(%L, %L, %L, %L, %L, %L, %L, %L, %L))', token_sha256, name, org_id, role, token_prefix, scopes, created_at, created_by, expires_at))
$$;
SELECT import() AS good, import('\x') AS empty, import(substr(sha256('new'), 1, 31)) AS bytes_31, import(sha256('new') || '\x00') AS bytes_33, import(sha512('new')) AS bytes_64, import(NULL) AS "null" \gx
SELECT import(name => '') AS empty, import(name => NULL) AS "null", import(name => repeat('x', 101)) AS long, import(name => E'a\nb') AS line_feed, import(name => 'amt_abc123_xyz789abcdefghij') AS token \gx
SELECT import(org_id => '') AS empty, import(org_id => NULL) AS "null", import(org_id => repeat('x', 255)) AS chars_255, import(org_id => repeat('x', 256)) AS chars_256 \gx
SELECT import(role => '') AS empty, import(role => NULL) AS "null", import(role => 'root') AS unknown, import(role => 'owner') AS highest \gx
SELECT import(scopes => '{}') AS empty, import(scopes => '{"a b"}') AS blank, import(scopes => '{a,a}') AS twice \gx
SELECT import(token_prefix => 'sk-live-...') AS good, import(token_prefix => '') AS empty, import(token_prefix => repeat('x', 100)) AS chars_100, import(token_prefix => repeat('x', 101)) AS chars_101,
       import(token_prefix => E'a\nb') AS line_feed, import(token_prefix => '  ') AS blank, import(token_prefix => 'amt_abc123_xyz789abcdefghij') AS token \gx
-- a life that is over is no mistake, as the other system may have ended it
SELECT import(expires_at => '2001-01-01') AS expired, import(created_at => '2001-01-01') AS old, import(created_at => '2200-01-01') AS created_later, import(created_by => '') AS by_nobody \gx
SELECT amt_import_key('\x00', 'n', 'acme', 'viewer');
:sqlstate
-- a token is known once, whatever organization has it
SELECT import(sha256(:'token1')) AS known, import(sha256(:'token1'), org_id => 'globex') AS known_elsewhere;
SELECT amt_import_key(sha256(:'token1'), 'n', 'globex', 'viewer');
:sqlstate
INSERT INTO amt_key (key_id, org_id, name, role, token_sha256, created_at) VALUES ('x', 'globex', 'n', 'viewer', sha256(:'token1'), now());
:sqlstate
-- a row has exactly one of the two hashes, of the right length
INSERT INTO amt_key (key_id, org_id, name, role, token_sha256, created_at) VALUES ('x', 'globex', 'n', 'viewer', '\x00', now());
:sqlstate
INSERT INTO amt_key (key_id, org_id, name, role, created_at) VALUES ('x', 'globex', 'n', 'viewer', now());
:sqlstate
INSERT INTO amt_key (key_id, org_id, name, role, token_sha256, scrypt_hash, created_at)
	VALUES ('x', 'globex', 'n', 'viewer', sha256('x'), '$scrypt$ln=4,r=8,p=1$MDEyMzQ1Njc4OWFiY2RlZg$4Z60JOvkyYBPBM4bVtRQfK+3gSDiIvgitxsuRN98NjU', now());
:sqlstate

-- trusted callers only
CALL become('acme', 'owner', 'ann');
SELECT import();
SELECT amt_import_key(sha256('new'), 'n', 'acme', 'viewer');
:sqlstate
-- without the privilege nobody learns whether a token is known
SELECT import(sha256(:'token1'));
CALL become('', '');
SELECT import();
CALL become('acme', 'owner', '', :'id1', 'regress_amt_gateway');
SELECT import() AS gateway_for_a_key;
CALL become('', '', db_role => 'regress_amt_gateway');
SELECT import() AS gateway, import(org_id => 'globex', role => 'owner') AS any_organization;
CALL become('globex', 'viewer', 'gil', db_role => 'regress_amt_gateway');
SELECT import() AS gateway_with_identity, import(org_id => NULL) AS without_organization;
BEGIN READ ONLY;
SELECT amt_import_key(sha256('new'), 'n', 'acme', 'viewer');
:sqlstate
ROLLBACK;

-- revoked by id, by displayed prefix and by the whole token
RESET ROLE;
DELETE FROM amt_key WHERE name = 'n';
CREATE FUNCTION revoked(key text) RETURNS text LANGUAGE sql AS $$ SELECT attempt(format('SELECT amt_revoke(%L)', key)) $$;
CALL become('acme', 'admin', 'zoe');
SELECT revoked(:'id1') AS by_id, revoked('amt_' || :'id1' || '...') AS by_prefix, revoked(:'token1') AS by_token, revoked('Bearer ' || :'token1') AS by_bearer, revoked(left(:'token1', -1)) AS by_wrong_token,
       revoked('amt_' || :'id1' || '_0123456789abcdef') AS by_token_of_our_form,
       revoked('ghx_Qm...') AS other_prefix, revoked('amt_' || :'id2' || '...') AS usual_prefix \gx
CALL become('acme', 'viewer', 'bob');
SELECT revoked(:'id1') AS by_id, revoked('ghx_Qm...') AS by_prefix, revoked(:'token1') AS by_token, revoked(left(:'token1', -1)) AS by_wrong_token \gx
CALL become('acme', 'viewer', 'ann');
SELECT revoked(:'id2') AS creator;
CALL become('acme', 'viewer', '', :'id2');
SELECT revoked(:'id2') AS itself, revoked(:'id1') AS another;
CALL become('globex', 'owner', 'gus');
SELECT revoked(:'id1') AS by_id, revoked('ghx_Qm...') AS by_prefix, revoked(:'token1') AS by_token, revoked(left(:'token1', -1)) AS by_wrong_token \gx
CALL become('', '');
SELECT revoked(:'id1') AS by_id, revoked('ghx_Qm...') AS by_prefix, revoked(:'token1') AS by_token \gx
-- a displayed prefix of several keys names none of them, unless one alone is within reach
RESET ROLE;
SELECT amt_import_key(sha256('a third'), 'third', 'globex', 'viewer', 'ghx_Qm...') IS NOT NULL AS imported;
SELECT amt_revoke('ghx_Qm...');
:sqlstate
CALL become('acme', 'admin', 'zoe');
SELECT revoked('ghx_Qm...') AS within_reach;
-- however many keys of others have it
RESET ROLE;
SELECT count(amt_import_key(sha256(i::text::bytea), 'of others', 'globex', 'viewer', 'sk_live_...')) AS imported FROM generate_series(1, 150) AS i;
SELECT amt_import_key(sha256('one'), 'one', 'acme', 'viewer', 'sk_live_...') IS NOT NULL AS imported;
CALL become('acme', 'admin', 'zoe');
SELECT revoked('sk_live_...') AS one_within_reach;
CALL become('initech', 'admin', 'zoe');
SELECT amt_revoke('sk_live_...') AS none_within_reach;
RESET ROLE;
DELETE FROM amt_keys WHERE token_prefix = 'sk_live_...';
-- nor one of two, if it has the id that is shown
SELECT key_id AS shown_id, token_prefix AS shown FROM amt_create_key('shown', 'acme', 'viewer') \gset
SELECT amt_import_key(sha256('shown too'), 'shown too', 'acme', 'viewer', :'shown') <> '' AS imported;
SELECT amt_revoke(:'shown');
:sqlstate
SELECT amt_revoke(:'shown_id') AS by_id, amt_revoke(:'shown') AS the_other, amt_revoke(:'shown') AS again;
CALL become('acme', 'admin', 'zoe');
-- the whole token is no displayed prefix
RESET ROLE;
SELECT amt_import_key(sha256('sk_live_0123456789abcdef'), 'shown', 'acme', 'viewer', 'sk_live_0123456789abcdef');
:sqlstate
SELECT amt_import_key(sha256('sk_live_0123456789abcdef'), 'shown', 'acme', 'viewer', 'sk_live_0123456789abcdef...');
:sqlstate
SELECT amt_import_key(sha256('sk_live_0123456789abcdef'), 'shown', 'acme', 'viewer', 'sk_live_0123456789abcdef *');
:sqlstate
CALL become('acme', 'admin', 'zoe');
-- gone
SELECT amt_revoke('ghx_Qm...');
RESET ROLE;
SELECT name FROM unnest(array[:'token1', :'token2', 'a third']) AS t, amt_verify(t);
CALL become('', '');
SELECT amt_revoke(:'token1');
RESET ROLE;
SELECT name FROM unnest(array[:'token1', :'token2']) AS t, amt_verify(t);
SELECT event, name, org_id, actor, calls FROM amt_key_event WHERE key_id IN (:'id1', :'id2') ORDER BY event_id;
-- then it can be imported again, as another key
SELECT amt_import_key(sha256(:'token1'), 'first again', 'globex', 'editor', created_by => 'gus') AS id3 \gset
SELECT name, org_id FROM amt_verify(:'token1');
-- with calls of its own, in the view and in the table
SELECT calls FROM amt_keys WHERE key_id = :'id3';
SELECT amt_flush_usage() > 0 AS flushed;
SELECT calls FROM amt_key_usage WHERE key_id = :'id3';

-- an import that is undone takes no call of the key that was there
BEGIN;
DELETE FROM amt_key WHERE key_id = :'id3';
SELECT amt_import_key(sha256(:'token1'), 'undone', 'globex', 'editor') IS NOT NULL AS imported;
SELECT name FROM amt_verify(:'token1');
ROLLBACK;
SELECT name FROM amt_verify(:'token1');
SELECT calls FROM amt_keys WHERE key_id = :'id3';

-- rotated into a key of ours
CALL become('globex', 'editor', 'gus');
SELECT k.name, k.org_id, k.role, k.replaces = :'id3' AS replaces, amt_check_token(k.token) AS token FROM amt_rotate_key(:'id3', '1 day') AS k;
RESET ROLE;
SELECT name FROM amt_verify(:'token1');
SELECT scrypt_hash IS NOT NULL AS scrypt_hash, token_sha256, token_prefix LIKE 'amt\_%...' AS token_prefix FROM amt_key WHERE replaces = :'id3';
CALL become('globex', 'editor', 'gus');
SELECT attempt(format('SELECT name FROM amt_rotate_key(%L)', :'token1')) AS by_token;
SELECT name FROM amt_rotate_key(:'id3');
RESET ROLE;
SELECT count(*) FROM amt_verify(:'token1');

-- suspended, and expired
SELECT amt_import_key(sha256('a fourth'), 'fourth', 'acme', 'viewer') IS NOT NULL AS imported;
SELECT amt_import_key(sha256('fifth'), 'fifth', 'acme', 'viewer') AS id5 \gset
UPDATE amt_keys SET suspended_at = now() WHERE key_id = :'id5';
SELECT count(*) FROM amt_verify('fifth');
UPDATE amt_keys SET suspended_at = NULL, expires_at = now() WHERE key_id = :'id5';
SELECT count(*) FROM amt_verify('fifth');
UPDATE amt_key SET expires_at = NULL WHERE key_id = :'id5';
SELECT count(*) FROM amt_verify('fifth');
-- a text with a blank is no token, though it was imported
SELECT count(*) FROM amt_verify('a fourth');

-- a token that is a native key's and was imported as well: the whole token revokes both
SELECT token AS twin FROM amt_create_key('native', 'acme', 'viewer') \gset
SELECT amt_import_key(sha256(:'twin'), 'twin', 'globex', 'viewer') IS NOT NULL AS imported;
SELECT amt_revoke(:'twin'), amt_revoke(:'twin') AS again;
SELECT count(*) FROM amt_verify(:'twin');

DROP FUNCTION import, imported, revoked;
DROP FUNCTION attempt;
DROP PROCEDURE become;
DROP EXTENSION amt_keys;
DROP OWNED BY regress_amt_gateway;
DROP ROLE regress_amt_gateway, regress_amt_web;
