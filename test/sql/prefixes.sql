--
-- amt_keys.token_prefixes: tokens with other prefixes than amt
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

-- the first name in the list is that of new tokens
SELECT token AS amt_token, key_id AS amt_id FROM amt_create_key('amt', 'acme', 'editor') \gset
SET amt_keys.token_prefixes = 'acme, amt';
SELECT token AS acme_token, key_id AS acme_id, token_prefix AS acme_prefix FROM amt_create_key('acme', 'acme', 'editor') \gset
SET amt_keys.token_prefixes = a1b2c3d4e5f6g7h8, acme, amt;
SELECT token AS long_token, key_id AS long_id, token_prefix AS long_prefix FROM amt_create_key('long', 'acme', 'editor') \gset
SELECT :'amt_token' ~ '^amt_[0-9A-Za-z]{12}_[0-9A-Za-z]{49}$' AS amt, :'acme_token' ~ '^acme_[0-9A-Za-z]{12}_[0-9A-Za-z]{49}$' AS acme,
       :'long_token' ~ '^a1b2c3d4e5f6g7h8_[0-9A-Za-z]{12}_[0-9A-Za-z]{49}$' AS long;
SELECT name, replace(token_prefix, key_id, '<id>') AS token_prefix FROM amt_keys ORDER BY created_at;
-- the rows that the owner inserts without a displayed prefix, and with one
INSERT INTO amt_key (key_id, org_id, name, role, scrypt_hash, created_at)
	VALUES ('abc123', 'acme', 'inserted', 'viewer', '$scrypt$ln=4,r=8,p=1$MDEyMzQ1Njc4OWFiY2RlZg$5ax6aqLPu+KqxVxmBAD/rpy5M8/eGWZBVCLlELKf5AI', now());
INSERT INTO amt_key (key_id, org_id, name, role, scrypt_hash, created_at, token_prefix)
	VALUES ('abc124', 'acme', 'inserted with', 'viewer', '$scrypt$ln=4,r=8,p=1$MDEyMzQ1Njc4OWFiY2RlZg$5ax6aqLPu+KqxVxmBAD/rpy5M8/eGWZBVCLlELKf5AI', now(), 'sk-live-...');
SELECT key_id, token_prefix FROM amt_key WHERE key_id LIKE 'abc%' ORDER BY key_id;
SELECT amt_import_key(sha256('imported'), 'imported', 'acme', 'viewer') AS imported_id \gset
SELECT replace(token_prefix, key_id, '<id>') AS token_prefix FROM amt_key WHERE key_id = :'imported_id';

-- every listed prefix is recognised everywhere, and no other
CREATE TABLE token AS SELECT * FROM (VALUES (1, 'amt', :'amt_token'), (2, 'acme', :'acme_token'), (3, 'long', :'long_token')) AS v (n, name, token);
GRANT SELECT ON token TO PUBLIC;
CREATE FUNCTION recognised() RETURNS TABLE (name text, verified text, checked boolean, found text, prefix_revoked text, token_revoked text, name_refused text) LANGUAGE sql AS $$
	SELECT t.name, (SELECT v.name FROM amt_verify(t.token) AS v), amt_check_token(t.token), (SELECT replace(f, substr(t.token, strpos(t.token, '_') + 1, 12), '<id>') FROM amt_find_tokens('see ' || t.token || '!') AS f),
	       attempt(format('SELECT amt_revoke(%L)', left(t.token, strpos(t.token, '_') + 12) || '...')),
	       attempt(format('SELECT amt_revoke(%L)', t.token)),
	       attempt(format('SELECT name FROM amt_create_key(%L, ''acme'', ''viewer'')', 'of ' || left(t.token, 40)))
	FROM token AS t ORDER BY t.n
$$;
SELECT name, verified, checked, found, prefix_revoked, token_revoked, left(name_refused, 5) AS name_refused FROM recognised();
SET amt_keys.token_prefixes = 'acme';
SELECT name, verified, checked, found, prefix_revoked, token_revoked, left(name_refused, 5) AS name_refused FROM recognised();
SET amt_keys.token_prefixes = 'acm, am, a1b2c3d4e5f6g7h';
SELECT name, verified, checked, found, prefix_revoked, token_revoked, left(name_refused, 5) AS name_refused FROM recognised();
-- their keys can still be revoked by id
SELECT attempt(format('SELECT amt_revoke(%L)', :'amt_id')) AS amt, attempt(format('SELECT amt_revoke(%L)', :'acme_id')) AS acme;
-- listed again, known again
SET amt_keys.token_prefixes = amt, a1b2c3d4e5f6g7h8, acme;
SELECT name, verified, checked FROM recognised();

-- the prefix is part of the checksum, though not of the secret: with another listed one it verifies, but is none that we made
SELECT name FROM amt_verify('acme_' || substr(:'amt_token', 5));
SELECT amt_check_token('acme_' || substr(:'amt_token', 5)), amt_check_token('amt_' || substr(:'acme_token', 6));
SELECT count(*) FROM amt_find_tokens('acme_' || substr(:'amt_token', 5));
SELECT attempt(format('SELECT amt_revoke(%L)', 'acme_' || :'amt_id' || '...')) AS by_other_displayed_prefix;
-- several prefixes in one text, one the beginning of another
SET amt_keys.token_prefixes = am, amt, acme;
SELECT count(*), string_agg(split_part(f, '_', 1), ' ' ORDER BY n) AS prefixes FROM amt_find_tokens(:'acme_token' || ' ' || :'amt_token' || ',' || :'long_token' || ' am_' || substr(:'amt_token', 5) || ' ' || :'amt_token') WITH ORDINALITY AS f (f, n);
-- prefixes of digits and letters only; other cases are other prefixes
SET amt_keys.token_prefixes = 'acme';
SELECT count(*) FROM amt_verify('ACME_' || substr(:'acme_token', 6));
SELECT count(*) FROM amt_verify('Acme_' || substr(:'acme_token', 6));
-- rotated into the first
SET amt_keys.token_prefixes = new, acme, amt;
SELECT k.token LIKE 'new\_%' AS token, k.token_prefix = 'new_' || k.key_id || '...' AS token_prefix, amt_check_token(k.token) FROM amt_rotate_key(:'amt_token') AS k;
SELECT attempt(format('SELECT amt_revoke(%L)', :'acme_prefix')) AS by_displayed_prefix;
RESET amt_keys.token_prefixes;
-- a name that looks like a token only under a later list of prefixes stops nothing
SELECT key_id AS named_id FROM amt_create_key('acme_prod_github_actions_deploy', 'acme', 'viewer') \gset
SET amt_keys.token_prefixes = acme, amt;
UPDATE amt_keys SET suspended_at = now() WHERE key_id = :'named_id' RETURNING name, suspended_at IS NOT NULL AS suspended;
UPDATE amt_keys SET suspended_at = NULL WHERE key_id = :'named_id';
SELECT name FROM amt_rotate_key(:'named_id');
SELECT attempt($$SELECT amt_create_key('acme_prod_github_actions_deploy', 'acme', 'viewer')$$) AS new_key;
RESET amt_keys.token_prefixes;

DROP FUNCTION recognised;
DROP TABLE token;
DROP FUNCTION attempt;
DROP PROCEDURE become;
DROP EXTENSION amt_keys;
DROP OWNED BY regress_amt_gateway;
DROP ROLE regress_amt_gateway, regress_amt_web;
