--
-- What CREATE EXTENSION makes, where, and that it is described
--
\set VERBOSITY default
\set SHOW_CONTEXT never
\set sqlstate '\\echo SQLSTATE :SQLSTATE'
SET client_min_messages = warning;

CREATE EXTENSION amt_keys;

-- the members; row types and array types are members since version 17 only
CREATE TEMP VIEW member AS
	SELECT d.classid, d.objid,
	       pg_describe_object(d.classid, d.objid, 0) AS object
	FROM pg_depend d
	WHERE d.refclassid = 'pg_extension'::regclass
	  AND d.refobjid = (SELECT oid FROM pg_extension WHERE extname = 'amt_keys')
	  AND d.deptype = 'e'
	  AND NOT EXISTS (SELECT FROM pg_type t LEFT JOIN pg_class c ON c.oid = t.typrelid
	                  WHERE d.classid = 'pg_type'::regclass AND t.oid = d.objid
	                    AND (t.typcategory = 'A' OR c.relkind <> 'c'));
SELECT object FROM member ORDER BY object COLLATE "C";

-- how the functions are declared: accessors are stable and parallel safe, none
-- runs with its owner's rights or with settings of its own
SELECT p.proname AS function,
       CASE p.provolatile WHEN 'i' THEN 'immutable' WHEN 's' THEN 'stable' ELSE 'volatile' END AS volatility,
       CASE p.proparallel WHEN 's' THEN 'safe' WHEN 'u' THEN 'unsafe' ELSE 'restricted' END AS parallel,
       p.proisstrict AS strict,
       p.proleakproof OR p.prosecdef OR p.proconfig IS NOT NULL AS unusual
FROM pg_proc p JOIN member m ON m.classid = 'pg_proc'::regclass AND m.objid = p.oid
ORDER BY p.proname COLLATE "C";

-- the tables and views
SELECT a.attrelid::regclass AS relation, a.attnum, a.attname, format_type(a.atttypid, a.atttypmod) AS type,
       a.attnotnull AS not_null
FROM pg_attribute a JOIN member m ON m.classid = 'pg_class'::regclass AND m.objid = a.attrelid
JOIN pg_class c ON c.oid = a.attrelid
WHERE a.attnum > 0 AND NOT a.attisdropped AND c.relkind IN ('r', 'v')
ORDER BY a.attrelid::regclass::text COLLATE "C", a.attnum;

-- everything is described: no rows
SELECT object FROM member
WHERE obj_description(objid, classid::regclass::name) IS NULL
  AND object !~ '^sequence '
UNION ALL
SELECT pg_describe_object('pg_class'::regclass, a.attrelid, a.attnum)
FROM pg_attribute a JOIN pg_class c ON c.oid = a.attrelid
WHERE a.attnum > 0 AND NOT a.attisdropped
  AND (c.oid IN (SELECT objid FROM member WHERE classid = 'pg_class'::regclass) AND c.relkind IN ('r', 'v') OR
       c.reltype IN (SELECT objid FROM member WHERE classid = 'pg_type'::regclass))
  AND col_description(a.attrelid, a.attnum) IS NULL
UNION ALL
SELECT pg_describe_object('pg_policy'::regclass, p.oid, 0)
FROM pg_policy p JOIN member m ON m.classid = 'pg_class'::regclass AND m.objid = p.polrelid
WHERE obj_description(p.oid, 'pg_policy') IS NULL
UNION ALL
SELECT 'extension amt_keys' FROM pg_extension
WHERE extname = 'amt_keys' AND obj_description(oid, 'pg_extension') IS NULL;

-- arguments have names, for callers that pass them by name: no rows
SELECT m.object
FROM pg_proc p JOIN member m ON m.classid = 'pg_proc'::regclass AND m.objid = p.oid
WHERE p.pronargs > 0 AND (p.proargnames IS NULL OR '' = ANY (p.proargnames));

-- no name of ours looks like a token, which the masking of the log would hide: no rows
SELECT name FROM (
	SELECT relname FROM pg_class UNION SELECT proname FROM pg_proc UNION SELECT conname FROM pg_constraint WHERE contype <> 'n' UNION
	SELECT polname FROM pg_policy UNION SELECT tgname FROM pg_trigger UNION SELECT typname FROM pg_type UNION
	SELECT name FROM pg_settings) AS n (name)
WHERE name ~* 'amt_[0-9A-Za-z]{1,64}_[0-9A-Za-z_-]{16}';

-- privileges of others than the owner: nobody writes the tables, or locks their rows
SELECT object, coalesce(nullif(a.grantee, 0)::regrole::text, 'PUBLIC') AS grantee, string_agg(a.privilege_type, ', ' ORDER BY a.privilege_type COLLATE "C") AS privileges
FROM member m
LEFT JOIN pg_class c ON m.classid = 'pg_class'::regclass AND c.oid = m.objid
LEFT JOIN pg_proc p ON m.classid = 'pg_proc'::regclass AND p.oid = m.objid
LEFT JOIN pg_type t ON m.classid = 'pg_type'::regclass AND t.oid = m.objid
CROSS JOIN LATERAL aclexplode(coalesce(c.relacl, p.proacl, t.typacl)) AS a
WHERE a.grantee <> coalesce(c.relowner, p.proowner, t.typowner)
GROUP BY object, a.grantee ORDER BY object COLLATE "C", a.grantee;
SELECT a.attrelid::regclass AS relation, g.privilege_type, string_agg(a.attname, ', ' ORDER BY a.attnum) AS columns
FROM pg_attribute a JOIN member m ON m.classid = 'pg_class'::regclass AND m.objid = a.attrelid
CROSS JOIN LATERAL aclexplode(a.attacl) AS g
WHERE g.grantee = 0
GROUP BY a.attrelid, g.privilege_type ORDER BY a.attrelid::regclass::text COLLATE "C", g.privilege_type COLLATE "C";
-- the other functions are the owner's
SELECT object FROM member m JOIN pg_proc p ON m.classid = 'pg_proc'::regclass AND p.oid = m.objid
WHERE NOT EXISTS (SELECT FROM aclexplode(coalesce(p.proacl, acldefault('f', p.proowner))) AS a WHERE a.grantee <> p.proowner)
ORDER BY object COLLATE "C";

-- the settings, once the library is loaded
SELECT amt_org_id() IS NULL AS loaded;
SELECT name, vartype AS type, boot_val AS "default", unit, context
FROM pg_settings WHERE name LIKE 'amt\_keys.%' ORDER BY name COLLATE "C";
SELECT name FROM pg_settings
WHERE name LIKE 'amt\_keys.%' AND (coalesce(short_desc, '') = '' OR coalesce(extra_desc, '') = '');

-- only once in a database, and only for a superuser
CREATE EXTENSION amt_keys;
:sqlstate
CREATE ROLE regress_amt_install;
GRANT CREATE ON DATABASE :"DBNAME" TO regress_amt_install;
DROP EXTENSION amt_keys;
SET ROLE regress_amt_install;
CREATE EXTENSION amt_keys;
:sqlstate
RESET ROLE;
REVOKE CREATE ON DATABASE :"DBNAME" FROM regress_amt_install;

-- dropping left nothing
SELECT count(*) FROM member;
SELECT count(*) FROM pg_class WHERE relname LIKE 'amt\_%';
SELECT count(*) FROM pg_proc WHERE proname LIKE 'amt\_%';

-- into a schema of its own, with an odd name and whatever the search_path
CREATE SCHEMA "We ird %s; - +";
CREATE EXTENSION amt_keys SCHEMA "We ird %s; - +";
SET search_path = '';
SET amt_keys.scrypt_ln = 4;
SELECT token, key_id FROM "We ird %s; - +".amt_create_key('a key', 'acme', 'editor') \gset
SELECT org_id, role, name FROM "We ird %s; - +".amt_verify(:'token');
SELECT name, calls FROM "We ird %s; - +".amt_keys;
SELECT event, name FROM "We ird %s; - +".amt_key_event ORDER BY event_id;
SELECT "We ird %s; - +".amt_revoke(:'key_id');
SELECT count(*) FROM "We ird %s; - +".amt_verify(:'token');
RESET search_path;

-- it stays where it is, but its schema may be renamed
SELECT token FROM "We ird %s; - +".amt_create_key('another key', 'acme', 'editor') \gset
ALTER EXTENSION amt_keys SET SCHEMA public;
:sqlstate
ALTER SCHEMA "We ird %s; - +" RENAME TO regress_amt_auth;
SELECT name FROM regress_amt_auth.amt_verify(:'token');
SELECT name FROM regress_amt_auth.amt_create_key('a key after renaming', 'acme', 'viewer');

-- installed anew, it knows nothing of the keys it had
DROP EXTENSION amt_keys;
CREATE EXTENSION amt_keys SCHEMA regress_amt_auth;
SELECT count(*) FROM regress_amt_auth.amt_verify(:'token');
DROP EXTENSION amt_keys;

-- the script takes over no object of somebody else's that has a name of ours
CREATE TABLE regress_amt_auth.amt_key (key_id text);
CREATE EXTENSION amt_keys SCHEMA regress_amt_auth;
:sqlstate
DROP TABLE regress_amt_auth.amt_key;
CREATE FUNCTION regress_amt_auth.amt_may_manage(text, text, text) RETURNS boolean
	LANGUAGE sql AS 'SELECT true';
CREATE EXTENSION amt_keys SCHEMA regress_amt_auth;
:sqlstate
DROP FUNCTION regress_amt_auth.amt_may_manage;
CREATE VIEW regress_amt_auth.amt_stat AS SELECT 1 AS verified;
CREATE EXTENSION amt_keys SCHEMA regress_amt_auth;
:sqlstate
DROP VIEW regress_amt_auth.amt_stat;

-- The privileges do not depend on the default privileges of the role that installs,
-- neither on generous ones nor on strict ones.
CREATE TEMP VIEW granted AS
	SELECT m.object, coalesce(nullif(a.grantee, 0)::regrole::text, 'PUBLIC') AS grantee, a.privilege_type
	FROM member m
	LEFT JOIN pg_class c ON m.classid = 'pg_class'::regclass AND c.oid = m.objid
	LEFT JOIN pg_proc p ON m.classid = 'pg_proc'::regclass AND p.oid = m.objid
	LEFT JOIN pg_type t ON m.classid = 'pg_type'::regclass AND t.oid = m.objid
	CROSS JOIN LATERAL aclexplode(coalesce(c.relacl, acldefault(CASE c.relkind WHEN 'S' THEN 's' ELSE 'r' END::"char", c.relowner),
	                                       p.proacl, acldefault('f', p.proowner),
	                                       t.typacl, acldefault('T', t.typowner))) a;
CREATE EXTENSION amt_keys SCHEMA regress_amt_auth;
CREATE TEMP TABLE ordinary AS SELECT * FROM granted;
SELECT count(*) > 0 AS something FROM ordinary;
DROP EXTENSION amt_keys;

ALTER DEFAULT PRIVILEGES GRANT ALL ON TABLES TO regress_amt_install, PUBLIC;
ALTER DEFAULT PRIVILEGES GRANT ALL ON SEQUENCES TO regress_amt_install, PUBLIC;
ALTER DEFAULT PRIVILEGES GRANT ALL ON FUNCTIONS TO regress_amt_install;
ALTER DEFAULT PRIVILEGES GRANT ALL ON TYPES TO regress_amt_install;
CREATE EXTENSION amt_keys SCHEMA regress_amt_auth;
SELECT 'too much', * FROM (TABLE granted EXCEPT TABLE ordinary) AS d
UNION ALL
SELECT 'too little', * FROM (TABLE ordinary EXCEPT TABLE granted) AS d
ORDER BY 1, 2, 3, 4;
DROP EXTENSION amt_keys;
ALTER DEFAULT PRIVILEGES REVOKE ALL ON TABLES FROM regress_amt_install, PUBLIC;
ALTER DEFAULT PRIVILEGES REVOKE ALL ON SEQUENCES FROM regress_amt_install, PUBLIC;
ALTER DEFAULT PRIVILEGES REVOKE ALL ON FUNCTIONS FROM regress_amt_install;
ALTER DEFAULT PRIVILEGES REVOKE ALL ON TYPES FROM regress_amt_install;

ALTER DEFAULT PRIVILEGES REVOKE ALL ON FUNCTIONS FROM PUBLIC;
ALTER DEFAULT PRIVILEGES REVOKE ALL ON TYPES FROM PUBLIC;
CREATE EXTENSION amt_keys SCHEMA regress_amt_auth;
SELECT 'too much', * FROM (TABLE granted EXCEPT TABLE ordinary) AS d
UNION ALL
SELECT 'too little', * FROM (TABLE ordinary EXCEPT TABLE granted) AS d
ORDER BY 1, 2, 3, 4;
DROP EXTENSION amt_keys;
ALTER DEFAULT PRIVILEGES GRANT ALL ON FUNCTIONS TO PUBLIC;
ALTER DEFAULT PRIVILEGES GRANT ALL ON TYPES TO PUBLIC;

DROP SCHEMA regress_amt_auth;
DROP ROLE regress_amt_install;
