--
-- amt_authenticate(): the identity of a PostgREST request
--
\set VERBOSITY default
\set SHOW_CONTEXT never
\set sqlstate '\\echo SQLSTATE :SQLSTATE'
SET client_min_messages = warning;
SELECT current_user AS superuser \gset
CREATE EXTENSION amt_keys;
SET amt_keys.scrypt_ln = 1;
SELECT token FROM amt_create_key('a key', 'acme', 'editor') \gset
SELECT token AS revoked_token, key_id FROM amt_create_key('revoked', 'acme', 'editor') \gset
SELECT amt_revoke(:'key_id');

CREATE ROLE regress_amt_anon;
CREATE ROLE regress_amt_user;
CREATE ROLE regress_amt_editor;
CREATE ROLE regress_amt_authenticator LOGIN NOINHERIT;
GRANT regress_amt_anon, regress_amt_user, regress_amt_editor TO regress_amt_authenticator;
GRANT SET ON PARAMETER amt_keys.org_id, amt_keys.role, amt_keys.actor TO regress_amt_authenticator;
CREATE ROLE regress_amt_plain LOGIN;
GRANT regress_amt_anon TO regress_amt_plain;

-- a request as PostgREST makes it: role, claims and headers for the transaction, then the function
CREATE FUNCTION request(headers text, claims text DEFAULT '', db_role text DEFAULT 'regress_amt_anon') RETURNS text
LANGUAGE plpgsql AS $$
BEGIN
	PERFORM set_config('role', db_role, true), set_config('request.jwt.claims', claims, true), set_config('request.headers', headers, true);
	PERFORM amt_authenticate();
	RAISE SQLSTATE 'UNDO0' USING MESSAGE = concat_ws(' ', coalesce(amt_org_id(), '-'), coalesce(amt_role(), '-'), coalesce(amt_actor(), '-'),
		CASE WHEN amt_key_id() IS NOT NULL THEN 'by key' END, CASE WHEN current_user <> db_role THEN 'as ' || current_user END);
EXCEPTION
	WHEN SQLSTATE 'UNDO0' THEN RETURN SQLERRM;
	WHEN OTHERS THEN RETURN SQLSTATE || ' ' || SQLERRM;
END
$$;
\c - regress_amt_authenticator

-- keys, in headers as clients send them
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
	(16, 'garbage', 'x-api-key', 'garbage'),
	(17, 'garbage that starts right', 'authorization', 'Bearer amt_'),
	(18, 'two tokens', 'x-api-key', :'token' || ', ' || :'token'),
	(19, 'a megabyte', 'x-api-key', repeat('x', 1048576)),
	(20, 'a line feed', 'x-api-key', :'token' || E'\n')) AS v (n, what, header, value) ORDER BY n;
-- which one counts when there are two
SELECT request(json_build_object('x-api-key', :'token', 'authorization', 'Bearer eyJhbGciOiJIUzI1NiJ9.e30.x')::text) AS key_and_jwt,
       request(json_build_object('x-api-key', 'garbage', 'authorization', :'token')::text) AS first_is_bad,
       request(json_build_object('x-api-key', '', 'authorization', :'token')::text) AS first_is_empty,
       request(json_build_object('x-api-key', :'token')::text, '{"org_id":"globex","org_role":"owner","sub":"gus"}') AS key_and_claims \gx
-- headers that are none
SELECT request('') AS empty, request('{}') AS no_headers, request('null') AS "null", request('[]') AS "array", request('"x-api-key"') AS string,
       request('{"x-api-key":') AS broken, request('{"x-api-key": {}}') AS object, request('{"x-api-key": ["x"]}') AS list, request('{"x-api-key": 1}') AS number,
       request('{"x-api-key": "amt_\u0000"}') AS nul, request('{"authorization": 1}') AS other_number, request(repeat('[', 100000)) AS deep \gx

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
	(16, 'a NUL', '{"org_id":"acme\u0000","org_role":"admin"}')) AS v (n, what, claims) ORDER BY n \gexec
\pset tuples_only off
\pset format aligned

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
SELECT set_config('request.headers', json_build_object('x-api-key', :'token')::text, true) IS NOT NULL AS set;
SELECT amt_authenticate();
SELECT org_id, role, actor, key_name FROM amt_whoami();
COMMIT;
SELECT org_id, role, actor FROM amt_whoami();
-- a failed first call seals as well
BEGIN;
SAVEPOINT s;
SET LOCAL request.headers = '{"x-api-key": "garbage"}';
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
-- an identity that was there before the first call stays
BEGIN;
SET LOCAL amt_keys.org_id = 'acme';
SET LOCAL amt_keys.role = 'viewer';
SET LOCAL ROLE regress_amt_user;
SET LOCAL request.jwt.claims = '{"org_id":"globex","org_role":"owner","sub":"gus"}';
SELECT amt_authenticate();
SELECT org_id, role, actor FROM amt_whoami();
ROLLBACK;

-- claims are believed of a trusted session user only, keys of anybody
\c - regress_amt_plain
SELECT request('{}', '{"org_id":"acme","org_role":"admin","sub":"ann"}');
SELECT request(json_build_object('x-api-key', :'token')::text);

-- settings: header and claims by other names, the role to go on as, no request without an identity
\c - :superuser
SET amt_keys.header = 'X-Agent-Key';
SET amt_keys.org_claim = 'app.org.id';
SET amt_keys.role_claim = 'app.role';
SET amt_keys.actor_claim = 'email';
SELECT request(json_build_object('x-agent-key', :'token')::text) AS other_header, request(json_build_object('x-api-key', :'token')::text) AS usual_header,
       request('{}', '{"app":{"org":{"id":"acme"},"role":"admin"},"email":"ann@acme.example"}') AS nested,
       request('{}', '{"app.org.id":"acme","app.role":"admin"}') AS flat, request('{}', '{"app":"org","role":"admin"}') AS no_object \gx
SET amt_keys.require_authentication = on;
SELECT request('{}') AS nothing, request('{}', '{"app":{}}') AS claims_that_say_nothing,
       request('{}', '{"app":{"org":{"id":"acme"},"role":"admin"}}') AS claims, request(json_build_object('x-agent-key', :'token')::text) AS key \gx
RESET ALL;
SET client_min_messages = warning;
ALTER ROLE regress_amt_authenticator SET amt_keys.db_role = 'regress_amt_{role}';
\c - regress_amt_authenticator
SELECT request(json_build_object('x-api-key', :'token')::text);
SELECT request('{}');
SELECT request('{}', '{"org_id":"acme","org_role":"admin"}', 'regress_amt_user');
BEGIN;
SELECT set_config('request.headers', json_build_object('x-api-key', :'token')::text, true) IS NOT NULL AS set;
SELECT amt_authenticate();
SELECT current_user;
COMMIT;
SELECT current_user;
\c - :superuser
ALTER ROLE regress_amt_authenticator SET amt_keys.db_role = :'superuser';
\c - regress_amt_authenticator
SELECT left(request(json_build_object('x-api-key', :'token')::text), 41) AS role_not_granted;
\c - :superuser
ALTER ROLE regress_amt_authenticator SET amt_keys.db_role = 'none';
\c - regress_amt_authenticator
SELECT request(json_build_object('x-api-key', :'token')::text) AS role_none;

-- what a bad key is answered, and nothing of it
SET request.headers = '{"x-api-key": "amt_abc123_a-secret-that-nobody-knows"}';
\set VERBOSITY default
SELECT amt_authenticate();
:sqlstate

\c - :superuser
SET client_min_messages = warning;
DROP FUNCTION request;
DROP EXTENSION amt_keys;
DROP OWNED BY regress_amt_authenticator, regress_amt_plain;
DROP ROLE regress_amt_authenticator, regress_amt_plain, regress_amt_anon, regress_amt_user, regress_amt_editor;
