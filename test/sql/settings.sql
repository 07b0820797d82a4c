--
-- The settings: values that are refused, and roles that may not set them
--
\set VERBOSITY default
\set SHOW_CONTEXT never
\set sqlstate '\\echo SQLSTATE :SQLSTATE'
SET client_min_messages = warning;
CREATE EXTENSION amt_keys;
SELECT amt_org_id() IS NULL AS loaded;

-- scrypt's parameters: by themselves, and together at most 1 GiB
SET amt_keys.scrypt_ln = 0;
:sqlstate
SET amt_keys.scrypt_ln = 64;
:sqlstate
SET amt_keys.scrypt_ln = -1;
:sqlstate
SET amt_keys.scrypt_ln = 'many';
:sqlstate
SET amt_keys.scrypt_ln = 1.6;
SHOW amt_keys.scrypt_ln;
SET amt_keys.scrypt_r = 0;
:sqlstate
SET amt_keys.scrypt_p = 0;
:sqlstate
SET amt_keys.scrypt_p = 2147483648;
:sqlstate
SET amt_keys.scrypt_ln = 20;
SHOW amt_keys.scrypt_ln;
SET amt_keys.scrypt_ln = 21;
:sqlstate
SET amt_keys.scrypt_r = 9;
:sqlstate
SET amt_keys.scrypt_p = 2;
:sqlstate
SHOW amt_keys.scrypt_ln;
SET amt_keys.scrypt_ln = 14;
SET amt_keys.scrypt_p = 64;
SET amt_keys.scrypt_p = 65;
:sqlstate
SET amt_keys.scrypt_r = 16;
:sqlstate
SET amt_keys.scrypt_p = 1;
SET amt_keys.scrypt_r = 512;
SET amt_keys.scrypt_ln = 15;
:sqlstate
-- with r = 1 scrypt allows N below 2^16
SET amt_keys.scrypt_r = 1;
SET amt_keys.scrypt_ln = 15;
SET amt_keys.scrypt_ln = 16;
:sqlstate
RESET amt_keys.scrypt_ln;
RESET amt_keys.scrypt_r;
RESET amt_keys.scrypt_p;

-- RESET and a savepoint bring back values that were checked against others, so
-- a value that is too much together is found at the latest when a key is made
SET amt_keys.scrypt_ln = 4;
SET amt_keys.scrypt_r = 16384;
RESET amt_keys.scrypt_ln;
:sqlstate
SELECT amt_create_key('k', 'acme', 'viewer');
:sqlstate
RESET amt_keys.scrypt_r;
SET amt_keys.scrypt_ln = 1;
SELECT name FROM amt_create_key('k', 'acme', 'viewer');

-- values from before the library is loaded: too much is found when a key is made,
-- and nonsense is thrown away; if the server has loaded the library, both are
-- refused at once
\c -
SET client_min_messages = error;
DO $$
BEGIN
	PERFORM set_config('amt_keys.scrypt_ln', '22', false);
EXCEPTION WHEN invalid_parameter_value THEN
	NULL;
END
$$;
SELECT amt_org_id() IS NULL AS loaded;
DO $$
BEGIN
	IF current_setting('amt_keys.scrypt_ln') <> '14' THEN
		PERFORM amt_create_key('k', 'acme', 'viewer');
		ASSERT false, 'the key was created';
	END IF;
EXCEPTION WHEN invalid_parameter_value THEN
	NULL;
END
$$;
\c -
SET client_min_messages = error;
DO $$
DECLARE
	setting text[];
BEGIN
	FOREACH setting SLICE 1 IN ARRAY array[['scrypt_ln', '99'], ['roles', 'a, a'], ['header', 'no header'], ['token_prefixes', 'x'], ['max_lifetime', '-1']] LOOP
		BEGIN
			PERFORM set_config('amt_keys.' || setting[1], setting[2], false);
		EXCEPTION WHEN invalid_parameter_value THEN
			NULL;
		END;
	END LOOP;
END
$$;
SELECT amt_org_id() IS NULL AS loaded;
SELECT name, setting FROM pg_settings WHERE name IN ('amt_keys.scrypt_ln', 'amt_keys.roles', 'amt_keys.header', 'amt_keys.token_prefixes', 'amt_keys.max_lifetime') ORDER BY name COLLATE "C";
\c -
SET client_min_messages = warning;
SELECT amt_org_id() IS NULL AS loaded;

-- settings of the whole server
SET amt_keys.max_concurrent_scrypt = 2;
:sqlstate
SET amt_keys.cache_size = 2;
:sqlstate
SET amt_keys.usage_flush_interval = '1min';
:sqlstate
ALTER ROLE CURRENT_USER SET amt_keys.cache_size = 2;
:sqlstate
SELECT name, min_val, max_val FROM pg_settings WHERE name IN ('amt_keys.max_concurrent_scrypt', 'amt_keys.cache_size', 'amt_keys.usage_flush_interval') ORDER BY name COLLATE "C";

-- a header's name: no case, and nothing that could not be one
SET amt_keys.header = 'X-Agent-KEY';
SHOW amt_keys.header;
SET amt_keys.header = '';
:sqlstate
SET amt_keys.header = 'x key';
:sqlstate
SET amt_keys.header = 'x-key:';
:sqlstate
SET amt_keys.header = E'x-key\n';
:sqlstate
RESET amt_keys.header;

-- claims: names, with dots that descend
SET amt_keys.org_claim = 'app_metadata.org.id';
SET amt_keys.role_claim = '';
SET amt_keys.actor_claim = '..';
RESET amt_keys.org_claim;
RESET amt_keys.role_claim;
RESET amt_keys.actor_claim;

-- lifetimes: seconds, and none of them negative
SET amt_keys.default_lifetime = '90d';
SHOW amt_keys.default_lifetime;
\set VERBOSITY sqlstate
SET amt_keys.default_lifetime = -1;
SET amt_keys.max_lifetime = '1 year';
SET amt_keys.max_lifetime = 2147483648;
\set VERBOSITY default
SET amt_keys.max_lifetime = 2147483647;
RESET amt_keys.default_lifetime;
RESET amt_keys.max_lifetime;

-- prefixes: 2 to 16 of a-z and 0-9, beginning with a letter, none twice
SET amt_keys.token_prefixes = 'acme, amt';
SHOW amt_keys.token_prefixes;
SET amt_keys.token_prefixes = a1, abcdefghijklmnop;
CREATE PROCEDURE pg_temp.try_prefixes(prefixes text) LANGUAGE plpgsql AS $$
BEGIN
	PERFORM set_config('amt_keys.token_prefixes', prefixes, false);
	RAISE INFO '%: set', prefixes;
EXCEPTION WHEN OTHERS THEN
	RAISE INFO '%: %', prefixes, SQLSTATE;
END
$$;
CALL pg_temp.try_prefixes('');
CALL pg_temp.try_prefixes(' ');
CALL pg_temp.try_prefixes('a');
CALL pg_temp.try_prefixes('abcdefghijklmnopq');
CALL pg_temp.try_prefixes('1a');
CALL pg_temp.try_prefixes('a_b');
CALL pg_temp.try_prefixes('a-b');
CALL pg_temp.try_prefixes('a b');
CALL pg_temp.try_prefixes('"Acme"');
CALL pg_temp.try_prefixes('Acme');
CALL pg_temp.try_prefixes('amt, amt');
CALL pg_temp.try_prefixes('amt,');
CALL pg_temp.try_prefixes('amt, x');
SHOW amt_keys.token_prefixes;
RESET amt_keys.token_prefixes;

-- the manager role should be one of the roles; a warning says if it is not
SET amt_keys.manager_role = 'boss';
SET amt_keys.roles = 'viewer, boss';
SET amt_keys.roles = 'viewer, editor';
SET amt_keys.manager_role = 'editor';
SET amt_keys.manager_role = '';
\set VERBOSITY sqlstate
SET amt_keys.manager_role = 'boss';
\set VERBOSITY default
RESET amt_keys.manager_role;
RESET amt_keys.roles;

-- yes or no
SET amt_keys.any_token = maybe;
:sqlstate
SET amt_keys.require_authentication = maybe;
:sqlstate
SET amt_keys.redact_logs = 2;
:sqlstate

-- nobody else may set any of them
CREATE ROLE regress_amt_web;
SET ROLE regress_amt_web;
CREATE FUNCTION pg_temp.try_set(name text, value text) RETURNS text LANGUAGE plpgsql AS $$
BEGIN
	PERFORM set_config(name, value, false);
	RETURN 'set';
EXCEPTION WHEN OTHERS THEN
	RETURN SQLSTATE;
END
$$;
SELECT context, pg_temp.try_set(name, boot_val) AS answer, count(*)
FROM (SELECT * FROM pg_settings WHERE name LIKE 'amt\_keys.%' OFFSET 0) AS s GROUP BY context, answer ORDER BY context;
SET amt_keys.nothing = 1;
:sqlstate
RESET ROLE;
SET amt_keys.nothing = 1;
:sqlstate

-- a role that the settings do not name; the manager role is none of them either
SET amt_keys.roles = 'reader, writer';
SET amt_keys.scrypt_ln = 1;
SELECT amt_create_key('k', 'acme', 'viewer');
:sqlstate
SELECT name, role FROM amt_create_key('k', 'acme', 'writer');
RESET amt_keys.roles;

-- a stored hash keeps its parameters
SELECT token FROM amt_create_key('old parameters', 'acme', 'viewer') \gset
SET amt_keys.scrypt_ln = 2;
SET amt_keys.scrypt_r = 1;
SELECT amt_cache_clear();
SELECT name FROM amt_verify(:'token');
SELECT split_part(scrypt_hash, '$', 3), count(*) FROM amt_key GROUP BY 1 ORDER BY 1;

DROP FUNCTION pg_temp.try_set;
DROP EXTENSION amt_keys;
DROP ROLE regress_amt_web;
