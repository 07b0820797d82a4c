-- What the verify service needs in the database: a login role that can ask whether a token is good, and nothing else.
--
-- Run it as a superuser in the database whose keys the service verifies.  The role belongs to the whole server, so a second
-- database finds it there:
--     psql -d orders -v password=... -f setup.sql
-- Without a password given here, the role keeps the one it has, or has none.

\set ON_ERROR_STOP on
BEGIN;
-- As a superuser, call nothing that others have put into schema public.
SET LOCAL search_path = pg_catalog, pg_temp;

-- Fails in a schema that somebody else has made: its owner could swap it.
SELECT 'CREATE SCHEMA amt' WHERE NOT EXISTS (SELECT FROM pg_extension WHERE extname = 'amt_keys' AND extnamespace = to_regnamespace('amt'))
\gexec
CREATE EXTENSION IF NOT EXISTS amt_keys SCHEMA amt;

SELECT 'CREATE ROLE amt_gateway LOGIN'
WHERE NOT EXISTS (SELECT FROM pg_roles WHERE rolname = 'amt_gateway')
\gexec
\if :{?password}
ALTER ROLE amt_gateway PASSWORD :'password';
\endif
GRANT USAGE ON SCHEMA amt TO amt_gateway;
GRANT EXECUTE ON FUNCTION amt.amt_verify TO amt_gateway;
-- Masks tokens in the server's log from a session's first statement on.
ALTER ROLE amt_gateway IN DATABASE :"DBNAME" SET session_preload_libraries = 'amt_keys';

COMMIT;
