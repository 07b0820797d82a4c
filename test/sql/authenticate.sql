--
-- amt_authenticate(): the identity of a PostgREST request
--
\set VERBOSITY default
\set SHOW_CONTEXT never
\set sqlstate '\\echo SQLSTATE :SQLSTATE'
SET client_min_messages = warning;
CREATE EXTENSION amt_keys;
SET amt_keys.scrypt_ln = 1;
SELECT token FROM amt_create_key('a key', 'acme', 'editor') \gset
SELECT token AS revoked_token, key_id FROM amt_create_key('revoked', 'acme', 'editor') \gset
SELECT amt_revoke(:'key_id');
SELECT token AS suspended_token FROM amt_create_key('suspended', 'acme', 'editor') \gset
UPDATE amt_key SET suspended_at = now() WHERE name = 'suspended';
SELECT token AS scoped_token FROM amt_create_key('scoped', 'acme', 'editor', '{read,write}') \gset
\set imported_token sk-live-0123456789.abcdef
SELECT amt_import_key(sha256(:'imported_token'), 'imported', 'initech', 'viewer') IS NOT NULL AS imported;

CREATE ROLE regress_amt_anon;
CREATE ROLE regress_amt_user;
CREATE ROLE regress_amt_editor;
CREATE ROLE regress_amt_authenticator NOINHERIT;
GRANT regress_amt_anon, regress_amt_user, regress_amt_editor TO regress_amt_authenticator;
GRANT SET ON PARAMETER amt_keys.org_id, amt_keys.role, amt_keys.actor TO regress_amt_authenticator;
CREATE ROLE regress_amt_plain;
GRANT regress_amt_anon TO regress_amt_plain;

-- a request as PostgREST makes it: role, claims and headers for the transaction, then the function
CREATE FUNCTION request(headers text, claims text DEFAULT '', db_role text DEFAULT 'regress_amt_anon') RETURNS text
LANGUAGE plpgsql AS $$
BEGIN
	PERFORM set_config('role', db_role, true), set_config('request.jwt.claims', claims, true), set_config('request.headers', headers, true);
	PERFORM amt_authenticate();
	RAISE SQLSTATE 'UNDO0' USING MESSAGE = concat_ws(' ', coalesce(amt_org_id(), '-'), coalesce(amt_role(), '-'), coalesce(amt_actor(), '-'), amt_scopes(),
		CASE WHEN amt_key_id() IS NOT NULL THEN 'by key' END, CASE WHEN current_user <> db_role THEN 'as ' || current_user END);
EXCEPTION
	WHEN SQLSTATE 'UNDO0' THEN RETURN SQLERRM;
	WHEN OTHERS THEN RETURN SQLSTATE || ' ' || SQLERRM;
END
$$;
SET SESSION AUTHORIZATION regress_amt_authenticator;

-- keys, in headers as clients send them; a value that does not begin with one of our prefixes is passed over
SELECT what, request(json_build_object(header, value)::text)
FROM (VALUES
	(1, 'x-api-key', 'x-api-key', :'token'),
	(2, 'x-api-key with scheme', 'x-api-key', 'Bearer ' || :'token'),
	(3, 'bearer', 'authorization', 'Bearer ' || :'token'),
	(4, 'bearer in lower case', 'authorization', 'bearer   ' || :'token'),
	(5, 'apikey', 'authorization', 'ApiKey ' || :'token'),
	(6, 'bare', 'authorization', :'token'),
	(7, 'a JWT', 'authorization', 'Bearer eyJhbGciOiJIUzI1NiJ9.e30.x'),
	(8, 'another scheme', 'authorization', 'Basic ' || :'token'),
	(9, 'another header', 'x-token', :'token'),
	(10, 'name in upper case', 'X-API-KEY', :'token'),
	(11, 'empty', 'x-api-key', ''),
	(12, 'null', 'x-api-key', NULL),
	(13, 'revoked', 'x-api-key', :'revoked_token'),
	(14, 'revoked bearer', 'authorization', 'Bearer ' || :'revoked_token'),
	(15, 'wrong secret', 'x-api-key', left(:'token', 50)),
	(16, 'suspended', 'x-api-key', :'suspended_token'),
	(17, 'with scopes', 'x-api-key', :'scoped_token'),
	(18, 'garbage that starts right', 'authorization', 'Bearer amt_'),
	(19, 'two tokens', 'x-api-key', :'token' || ', ' || :'token'),
	(21, 'a megabyte that starts right', 'x-api-key', 'amt_' || repeat('x', 1048576)),
	(22, 'another gateway''s key', 'x-api-key', 'gw_' || substr(:'token', 5)),
	(23, 'another gateway''s bearer', 'authorization', 'Bearer gw_' || substr(:'token', 5)),
	(24, 'garbage', 'x-api-key', 'garbage'),
	(25, 'prefix without _', 'x-api-key', 'amt-' || substr(:'token', 5)),
	(26, 'prefix in upper case', 'x-api-key', 'AMT_' || substr(:'token', 5)),
	(27, 'an imported key', 'x-api-key', :'imported_token'),
	(28, 'an imported key as bearer', 'authorization', 'Bearer ' || :'imported_token'),
	(29, 'a megabyte', 'x-api-key', repeat('x', 1048576)),
	(20, 'a line feed', 'x-api-key', :'token' || E'\n')) AS v (n, what, header, value) ORDER BY n;
-- two values, and a key beside claims: without db_role, a person's claims are refused
SELECT request(json_build_object('x-api-key', :'token', 'authorization', 'Bearer eyJhbGciOiJIUzI1NiJ9.e30.x')::text) AS key_and_jwt,
       request(json_build_object('x-api-key', 'garbage', 'authorization', :'token')::text) AS first_is_foreign,
       request(json_build_object('x-api-key', 'amt_garbage', 'authorization', :'token')::text) AS first_is_bad,
       request(json_build_object('x-api-key', :'token', 'authorization', 'amt_garbage')::text) AS second_is_bad,
       request(json_build_object('x-api-key', '', 'authorization', :'token')::text) AS first_is_empty,
       request(json_build_object('x-api-key', :'token')::text, '{"org_id":"globex","org_role":"owner","sub":"gus"}') AS key_and_claims,
       request(json_build_object('x-api-key', :'token')::text, '{"sub":"gus"}') AS key_and_person,
       request(json_build_object('x-api-key', :'token')::text, '{"role":"regress_amt_anon"}') AS key_and_anonymous_role,
       request(json_build_object('x-api-key', :'token')::text, '{"role":"regress_amt_user","exp":1}') AS key_and_expiry,
       request(json_build_object('x-api-key', :'token')::text, '{}') AS key_and_no_claims,
       request(json_build_object('x-api-key', :'token')::text, 'broken') AS key_and_broken_claims \gx
-- a Bearer token that is not ours is a person's, whatever its claims say
SELECT request(json_build_object('x-api-key', :'token', 'authorization', 'Bearer eyJhbGciOiJIUzI1NiJ9.e30.x')::text, '{"role":"regress_amt_anon"}') AS key_and_jwt,
       request(json_build_object('x-api-key', :'token', 'authorization', E'bearer\teyJhbGciOiJIUzI1NiJ9.e30.x')::text, '{"role":"regress_amt_anon"}') AS key_and_jwt_by_tab,
       request(json_build_object('x-api-key', :'token', 'authorization', 'Basic eDp5')::text, '{"role":"regress_amt_anon"}') AS key_and_password,
       request(json_build_object('x-api-key', :'token', 'authorization', 'Bearer ' || :'token')::text, '{"role":"regress_amt_anon"}') AS key_twice \gx
-- headers that are none
SELECT request('') AS empty, request('{}') AS no_headers, request('null') AS "null", request('[]') AS "array", request('"x-api-key"') AS string,
       request('{"x-api-key":') AS broken, request('{"x-api-key": {}}') AS object, request('{"x-api-key": ["x"]}') AS list, request('{"x-api-key": 1}') AS number,
       request('{"x-api-key": "amt_\u0000"}') AS nul, request('{"authorization": 1}') AS other_number, request(repeat('[', 100000)) AS deep \gx

-- so deep that a parser would run out of stack
SELECT request(repeat('{"x":', 100000)) AS deep_headers, request(json_build_object('x-api-key', :'token')::text, repeat('[', 100000)) AS deep_claims;

-- claims, when no key is presented; each in a transaction of its own
\pset tuples_only on
\pset format unaligned
SELECT format('SELECT %L, request(%L, %L, %L)', what, '{}', claims, 'regress_amt_user')
FROM (VALUES
	(1, 'as they should be', '{"org_id":"acme","org_role":"admin","sub":"ann"}'),
	(2, 'nobody in particular', '{"org_id":"acme","org_role":"viewer"}'),
	(3, 'no role', '{"org_id":"acme","sub":"ann"}'),
	(4, 'no organization', '{"org_role":"admin","sub":"ann"}'),
	(5, 'empty organization', '{"org_id":"","org_role":"admin"}'),
	(6, 'unknown role', '{"org_id":"acme","org_role":"root"}'),
	(7, 'role in another case', '{"org_id":"acme","org_role":"Admin"}'),
	(8, 'organization is a number', '{"org_id":1,"org_role":"admin"}'),
	(9, 'organization is an object', '{"org_id":{"id":"acme"},"org_role":"admin"}'),
	(10, 'role is a list', '{"org_id":"acme","org_role":["admin"]}'),
	(11, 'person is a number', '{"org_id":"acme","org_role":"admin","sub":1}'),
	(12, 'twice, the last counts', '{"org_id":"acme","org_id":"globex","org_role":"admin"}'),
	(13, 'a list', '["org_id","acme"]'),
	(14, 'broken', '{"org_id":'),
	(15, 'none', ''),
	(17, 'number with a fraction', '{"org_id":1.50,"org_role":"admin"}'),
	(18, 'number with an exponent', '{"org_id":1e3,"org_role":"admin"}'),
	(19, 'large number', '{"org_id":123456789012345678901234567890,"org_role":"admin"}'),
	(20, 'organization is true', '{"org_id":true,"org_role":"admin"}'),
	(21, 'organization is null', '{"org_id":null,"org_role":"admin"}'),
	(22, 'role is a number', '{"org_id":"acme","org_role":1}'),
	(23, 'person is an object', '{"org_id":"acme","org_role":"admin","sub":{"id":1}}'),
	(24, 'scopes and a key id are not taken', '{"org_id":"acme","org_role":"admin","scopes":["read"],"key_id":"k"}'),
	(16, 'a NUL', '{"org_id":"acme\u0000","org_role":"admin"}')) AS v (n, what, claims) ORDER BY n \gexec
\pset tuples_only off
\pset format aligned
-- a message at level DEBUG1 says why claims give no identity
BEGIN;
SET LOCAL request.jwt.claims = '{"org_id":"acme","org_role":"root"}';
SET LOCAL client_min_messages = debug1;
SELECT amt_authenticate();
SET LOCAL client_min_messages = warning;
SELECT amt_org_id();
COMMIT;
BEGIN;
SET LOCAL request.jwt.claims = '{"org_role":"admin"}';
SET LOCAL client_min_messages = debug1;
SELECT amt_authenticate();
COMMIT;

-- the seal: after the first call, claims are not looked at again, and nothing but another key changes the identity
BEGIN;
SET LOCAL request.jwt.claims = '{"org_id":"acme","org_role":"viewer","sub":"ann"}';
SET LOCAL ROLE regress_amt_user;
SELECT amt_authenticate();
SELECT org_id, role, actor FROM amt_whoami();
SET LOCAL request.jwt.claims = '{"org_id":"globex","org_role":"owner","sub":"gus"}';
SELECT amt_authenticate();
SELECT org_id, role, actor FROM amt_whoami();
SET LOCAL ROLE NONE;
SELECT amt_authenticate();
SELECT org_id, role, actor FROM amt_whoami();
SAVEPOINT s;
SET LOCAL amt_keys.org_id = 'globex';
:sqlstate
ROLLBACK TO s;
SELECT set_config('amt_keys.role', 'owner', true);
:sqlstate
ROLLBACK TO s;
SELECT amt_create_key('k', 'globex', 'owner');
:sqlstate
ROLLBACK TO s;
SELECT org_id, role, actor FROM amt_whoami();
-- the key is refused beside a person's claims, and accepted without them; it empties the claims
SELECT set_config('request.headers', json_build_object('x-api-key', :'scoped_token')::text, true) IS NOT NULL AS set;
SELECT amt_authenticate();
:sqlstate
ROLLBACK TO s;
SELECT org_id, role, actor FROM amt_whoami();
SELECT set_config('request.headers', json_build_object('x-api-key', :'scoped_token')::text, true) IS NOT NULL AS set;
SET LOCAL request.jwt.claims = '{"role":"regress_amt_user"}';
SELECT amt_authenticate();
SELECT org_id, role, scopes, actor, key_name, current_setting('request.jwt.claims') AS claims FROM amt_whoami();
-- a call without a key leaves it
SET LOCAL request.headers = '{}';
SET LOCAL request.jwt.claims = '{"org_id":"globex","org_role":"owner","sub":"gus"}';
SELECT amt_authenticate();
SELECT org_id, role, scopes, actor, key_name FROM amt_whoami();
-- RESET brings back nobody's identity
RESET amt_keys.org_id;
SELECT org_id, role, scopes, actor, key_id FROM amt_whoami();
COMMIT;
SELECT org_id, role, actor FROM amt_whoami();
-- a failed first call seals as well
BEGIN;
SAVEPOINT s;
SET LOCAL request.headers = '{"x-api-key": "amt_garbage"}';
SELECT amt_authenticate();
:sqlstate
ROLLBACK TO s;
SET LOCAL request.jwt.claims = '{"org_id":"globex","org_role":"owner","sub":"gus"}';
SELECT amt_authenticate();
SELECT org_id, role, actor FROM amt_whoami();
SET LOCAL amt_keys.org_id = 'globex';
:sqlstate
ROLLBACK;
-- it ends with the transaction
BEGIN;
SET LOCAL amt_keys.org_id = 'globex';
SELECT amt_org_id();
COMMIT;
-- an identity from before the first call is nobody's, with claims and without
BEGIN;
SET LOCAL amt_keys.org_id = 'acme';
SET LOCAL amt_keys.role = 'viewer';
SET LOCAL ROLE regress_amt_user;
SET LOCAL request.jwt.claims = '{"org_id":"globex","org_role":"owner","sub":"gus"}';
SELECT amt_authenticate();
SELECT org_id, role, actor FROM amt_whoami();
ROLLBACK;
BEGIN;
SET LOCAL amt_keys.org_id = 'acme';
SET LOCAL amt_keys.role = 'viewer';
SET LOCAL ROLE regress_amt_user;
SELECT amt_authenticate();
SELECT org_id, role, actor FROM amt_whoami();
ROLLBACK;
-- nor does it return, if the database has one by default
RESET SESSION AUTHORIZATION;
ALTER DATABASE :"DBNAME" SET amt_keys.org_id = 'hooli';
ALTER DATABASE :"DBNAME" SET amt_keys.role = 'owner';
\c -
SET client_min_messages = warning;
SET SESSION AUTHORIZATION regress_amt_authenticator;
SELECT amt_org_id(), amt_role();
BEGIN;
SELECT amt_authenticate();
SELECT amt_org_id(), amt_role();
RESET amt_keys.org_id;
RESET amt_keys.role;
SELECT amt_org_id(), amt_role();
RESET ALL;
SELECT amt_org_id(), amt_role(), amt_has_role('viewer'), amt_has_scope('read');
COMMIT;
SET client_min_messages = warning;
SELECT amt_org_id(), amt_role();
RESET SESSION AUTHORIZATION;
ALTER DATABASE :"DBNAME" RESET amt_keys.org_id;
ALTER DATABASE :"DBNAME" RESET amt_keys.role;
\c -
SET client_min_messages = warning;

-- claims are believed of a trusted session user only that is no superuser; keys of anybody
SELECT request('{}', '{"org_id":"acme","org_role":"admin","sub":"ann"}') AS superuser;
SELECT request(json_build_object('x-api-key', :'token')::text) AS superuser;
SET SESSION AUTHORIZATION regress_amt_plain;
SELECT request('{}', '{"org_id":"acme","org_role":"admin","sub":"ann"}') AS plain;
SELECT request(json_build_object('x-api-key', :'token')::text) AS plain;
RESET SESSION AUTHORIZATION;
GRANT SET ON PARAMETER amt_keys.role, amt_keys.actor TO regress_amt_plain;
SET SESSION AUTHORIZATION regress_amt_plain;
SELECT request('{}', '{"org_id":"acme","org_role":"admin","sub":"ann"}') AS without_org_id;
RESET SESSION AUTHORIZATION;

-- nor are they believed where code runs with somebody else's rights, or in a
-- trigger; in maintenance a call does nothing, so the transaction's first is still to come
CREATE FUNCTION identity_by_claims() RETURNS text LANGUAGE plpgsql AS $$
BEGIN
	PERFORM set_config('request.jwt.claims', '{"org_id":"globex","org_role":"owner","sub":"gus"}', true), set_config('request.headers', '', true);
	PERFORM public.amt_authenticate();
	RETURN coalesce(public.amt_org_id(), 'nobody');
END
$$;
CREATE FUNCTION by_definer() RETURNS text LANGUAGE sql SECURITY DEFINER AS 'SELECT public.identity_by_claims()';
CREATE FUNCTION by_index(text) RETURNS text LANGUAGE plpgsql IMMUTABLE AS $$
BEGIN
	RAISE INFO '% in an index', public.identity_by_claims();
	RETURN $1;
END
$$;
CREATE FUNCTION by_trigger() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
	RAISE INFO '% in a trigger', public.identity_by_claims();
	RETURN NULL;
END
$$;
GRANT CREATE ON SCHEMA public TO regress_amt_authenticator;
SET SESSION AUTHORIZATION regress_amt_authenticator;
SELECT identity_by_claims();
SELECT by_definer();
CREATE FUNCTION by_own_definer() RETURNS text LANGUAGE sql SECURITY DEFINER AS 'SELECT public.identity_by_claims()';
SELECT by_own_definer();
DROP FUNCTION by_own_definer;
CREATE TABLE regress_amt_note (text text);
INSERT INTO regress_amt_note VALUES ('a note');
BEGIN;
CREATE INDEX ON regress_amt_note (by_index(text));
SELECT identity_by_claims();
ROLLBACK;
BEGIN;
SELECT identity_by_claims();
CREATE INDEX ON regress_amt_note (by_index(text));
SELECT amt_org_id();
ROLLBACK;
CREATE MATERIALIZED VIEW regress_amt_view AS SELECT identity_by_claims() AS org_id;
TABLE regress_amt_view;
DROP MATERIALIZED VIEW regress_amt_view;
DROP TABLE regress_amt_note;
CREATE TABLE regress_amt_note (text text);
CREATE TRIGGER by_trigger AFTER INSERT ON regress_amt_note FOR EACH ROW EXECUTE FUNCTION by_trigger();
INSERT INTO regress_amt_note VALUES ('a note');
DROP TABLE regress_amt_note;
RESET SESSION AUTHORIZATION;
REVOKE CREATE ON SCHEMA public FROM regress_amt_authenticator;
DROP FUNCTION by_trigger, by_index, by_definer, identity_by_claims;

-- settings: header and claims by other names
SET amt_keys.header = 'X-Agent-Key';
SET amt_keys.org_claim = 'app.org.id';
SET amt_keys.role_claim = 'app.role';
SET amt_keys.actor_claim = 'email';
SET SESSION AUTHORIZATION regress_amt_authenticator;
SELECT request(json_build_object('x-agent-key', :'token')::text) AS other_header;
SELECT request(json_build_object('x-api-key', :'token')::text) AS usual_header;
SELECT request('{}', '{"app":{"org":{"id":"acme"},"role":"admin"},"email":"ann@acme.example"}') AS nested;
SELECT request('{}', '{"app":{"org":{"id":7},"role":"admin"},"email":8}') AS nested_numbers;
SELECT request('{}', '{"app.org.id":"acme","app.role":"admin"}') AS flat;
SELECT request('{}', '{"app":"org","role":"admin"}') AS no_object;
SELECT request('{}', '{"app":"admin","email":"ann@acme.example"}') AS a_text_where_an_object_should_be;
SELECT request('{}', '{"app":{"org":{"id":"acme"},"role":"admin"},"app":{"role":"admin"}}') AS last_has_no_organization;
SELECT request('{}', '{"app":[{"org":{"id":"acme"},"role":"admin"}]}') AS in_a_list;
SELECT request('{}', '{"app":{"org":{"id":"acme","of":{"id":"globex"}},"role":"admin","x":{"role":"owner"}}}') AS beside_others;
-- no request without an identity
RESET SESSION AUTHORIZATION;
SET amt_keys.require_authentication = on;
SET SESSION AUTHORIZATION regress_amt_authenticator;
SELECT request('{}') AS nothing;
SELECT request('{}', '{"app":{}}') AS claims_that_say_nothing;
SELECT request('{}', '{"app":{"org":{"id":"acme"},"role":"root"}}') AS unknown_role;
SELECT request('{}', '{"app":{"org":{"id":"acme"},"role":"admin"}}') AS claims;
SELECT request(json_build_object('x-agent-key', :'token')::text) AS key;
SELECT request(json_build_object('x-agent-key', 'another gateway''s')::text) AS foreign_key;
CREATE TEMP TABLE note AS SELECT 'a note' AS text;
CREATE FUNCTION pg_temp.by_index(text) RETURNS text LANGUAGE sql IMMUTABLE AS 'SELECT public.amt_authenticate(); SELECT $1';
CREATE INDEX ON note (pg_temp.by_index(text));
:sqlstate
DROP TABLE note;
DROP FUNCTION pg_temp.by_index;
RESET SESSION AUTHORIZATION;
RESET amt_keys.require_authentication;
RESET amt_keys.header;
RESET amt_keys.org_claim;
RESET amt_keys.role_claim;
RESET amt_keys.actor_claim;

-- more than one prefix, and none of ours
SET amt_keys.token_prefixes = 'acme, amt';
SELECT request(json_build_object('x-api-key', :'token')::text) AS second_prefix, request('{"x-api-key": "acme_x"}') AS first_prefix, request('{"x-api-key": "acm_x"}') AS no_prefix;
SET amt_keys.token_prefixes = 'acme';
SELECT request(json_build_object('x-api-key', :'token')::text) AS removed_prefix;
RESET amt_keys.token_prefixes;

-- any_token: the named header is verified whatever it holds, Authorization is not
SET amt_keys.any_token = on;
SELECT request(json_build_object('x-api-key', :'imported_token')::text) AS imported,
       request(json_build_object('x-api-key', 'Bearer ' || :'imported_token')::text) AS imported_bearer,
       request(json_build_object('x-api-key', 'ApiKey ' || :'imported_token')::text) AS imported_apikey,
       request(json_build_object('x-api-key', :'token')::text) AS own,
       request('{"x-api-key": "garbage"}') AS garbage,
       request(json_build_object('x-api-key', 'garbage', 'authorization', :'token')::text) AS garbage_and_own,
       request('{"x-api-key": ""}') AS empty,
       request('{"x-api-key": "ApiKey "}') AS scheme_only,
       request(json_build_object('authorization', 'Bearer ' || :'imported_token')::text) AS imported_in_authorization,
       request(json_build_object('authorization', 'Bearer eyJhbGciOiJIUzI1NiJ9.e30.x')::text) AS jwt,
       request('{}') AS nothing \gx
RESET amt_keys.any_token;

-- db_role: the role to go on as, made of the key's; then claims may stand beside a key
SET amt_keys.db_role = 'regress_amt_{role}';
SET SESSION AUTHORIZATION regress_amt_authenticator;
SELECT request(json_build_object('x-api-key', :'token')::text) AS key;
SELECT request(json_build_object('x-api-key', :'token')::text, '{"org_id":"globex","org_role":"owner","sub":"gus"}') AS key_and_claims;
SELECT request('{}') AS nothing;
SELECT request('{}', '{"org_id":"acme","org_role":"admin"}', 'regress_amt_user') AS claims;
BEGIN;
SELECT set_config('request.headers', json_build_object('x-api-key', :'token')::text, true) IS NOT NULL AS set;
SELECT amt_authenticate();
SELECT current_user;
COMMIT;
SELECT current_user;
-- not in a function at whose end the role would come back, and the identity stay
CREATE FUNCTION pg_temp.back() RETURNS void LANGUAGE sql SET role = 'regress_amt_user' AS 'SELECT public.amt_authenticate()';
BEGIN;
SELECT set_config('request.headers', json_build_object('x-api-key', :'token')::text, true) IS NOT NULL AS set;
SELECT pg_temp.back();
ROLLBACK;
RESET SESSION AUTHORIZATION;
-- a role that does not exist, is not granted, or is none: the server's mistake, told without its name
CREATE ROLE regress_amt_other;
\set VERBOSITY verbose
SET amt_keys.db_role = 'regress_amt_nobody';
SET SESSION AUTHORIZATION regress_amt_authenticator;
SELECT request(json_build_object('x-api-key', :'token')::text) AS missing;
RESET SESSION AUTHORIZATION;
SET amt_keys.db_role = 'regress_amt_other';
SET SESSION AUTHORIZATION regress_amt_authenticator;
SELECT request(json_build_object('x-api-key', :'token')::text) AS not_granted;
RESET SESSION AUTHORIZATION;
SET amt_keys.db_role = 'none';
SET SESSION AUTHORIZATION regress_amt_authenticator;
SELECT request(json_build_object('x-api-key', :'token')::text) AS role_none;
SELECT request('{"x-api-key": "amt_garbage"}') AS bad_key;
SELECT request('{}', '{"org_id":"acme","org_role":"admin"}', 'regress_amt_user') AS claims;
RESET SESSION AUTHORIZATION;
RESET amt_keys.db_role;
\set VERBOSITY default

-- the answer to a bad key tells nothing of it
SET request.headers = '{"x-api-key": "amt_abc123_a-secret-that-nobody-knows"}';
SELECT amt_authenticate();
:sqlstate
RESET request.headers;

DROP FUNCTION request;
DROP EXTENSION amt_keys;
DROP OWNED BY regress_amt_authenticator, regress_amt_plain;
DROP ROLE regress_amt_authenticator, regress_amt_plain, regress_amt_anon, regress_amt_user, regress_amt_editor, regress_amt_other;
