-- What the verify service needs in the database: a login role that can ask whether a token is good, and nothing else.
--
-- Run it once, as a superuser:
--     psql -d app -v password=... -f setup.sql

\set ON_ERROR_STOP on
BEGIN;

CREATE EXTENSION IF NOT EXISTS amt_keys;

CREATE ROLE amt_gateway LOGIN PASSWORD :'password';
GRANT EXECUTE ON FUNCTION amt_verify TO amt_gateway;
-- Masks tokens in the server's log from a session's first statement on.
ALTER ROLE amt_gateway SET session_preload_libraries = 'amt_keys';

COMMIT;
