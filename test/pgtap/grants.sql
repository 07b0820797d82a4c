-- Every object of the extension has exactly the privileges that were decided
-- for it.  The objects are taken from pg_depend, so one that was added without a
-- decision fails here.
BEGIN;
CREATE SCHEMA tap;
CREATE EXTENSION pgtap SCHEMA tap;
CREATE EXTENSION amt_keys;
SET search_path = public, tap;

-- Row types and array types, which are members since version 17, belong to
-- their tables; "type amt_new_key" and "type amt_verified" stand for themselves.
CREATE TEMP VIEW member AS
	SELECT d.classid, d.objid, pg_describe_object(d.classid, d.objid, 0) AS object
	FROM pg_depend AS d
	WHERE d.refclassid = 'pg_extension'::regclass
	  AND d.refobjid = (SELECT oid FROM pg_extension WHERE extname = 'amt_keys')
	  AND d.deptype = 'e'
	  AND NOT EXISTS (SELECT FROM pg_type AS t LEFT JOIN pg_class AS c ON c.oid = t.typrelid
	                  WHERE d.classid = 'pg_type'::regclass AND t.oid = d.objid
	                    AND (t.typcategory = 'A' OR c.relkind <> 'c'));

-- The decisions: who, beside the owner, has what.
CREATE TEMP TABLE decided (object text, grants text[]);
INSERT INTO decided VALUES
	-- these tell a caller about its own identity
	('function amt_org_id()', '{PUBLIC EXECUTE}'),
	('function amt_role()', '{PUBLIC EXECUTE}'),
	('function amt_actor()', '{PUBLIC EXECUTE}'),
	('function amt_key_id()', '{PUBLIC EXECUTE}'),
	('function amt_scopes()', '{PUBLIC EXECUTE}'),
	('function amt_has_role(text)', '{PUBLIC EXECUTE}'),
	('function amt_has_scope(text)', '{PUBLIC EXECUTE}'),
	('function amt_require_role(text)', '{PUBLIC EXECUTE}'),
	('function amt_require_scope(text)', '{PUBLIC EXECUTE}'),
	('function amt_whoami()', '{PUBLIC EXECUTE}'),
	-- they check their caller
	('function amt_create_key(text,text,text,text[],timestamp with time zone)', '{PUBLIC EXECUTE}'),
	('function amt_revoke(text)', '{PUBLIC EXECUTE}'),
	('function amt_rotate_key(text,interval,timestamp with time zone)', '{PUBLIC EXECUTE}'),
	('function amt_import_key(bytea,text,text,text,text,text[],timestamp with time zone,text,timestamp with time zone)', '{PUBLIC EXECUTE}'),
	('function amt_is_own(text)', '{PUBLIC EXECUTE}'),
	('function amt_may_manage(text,text,text)', '{PUBLIC EXECUTE}'),
	('function amt_usage(text)', '{PUBLIC EXECUTE}'),
	('function amt_authenticate()', '{PUBLIC EXECUTE}'),
	-- they read no table
	('function amt_check_token(text)', '{PUBLIC EXECUTE}'),
	('function amt_find_tokens(text)', '{PUBLIC EXECUTE}'),
	-- for the applications that are granted it
	('function amt_verify(text,boolean)', '{}'),
	('type amt_verified', '{PUBLIC USAGE}'),
	-- for operations
	('function amt_flush_usage()', '{}'),
	('function amt_cache_clear()', '{}'),
	('function amt_stat_reset()', '{}'),
	('function amt_stat_get()', '{pg_monitor EXECUTE}'),
	('view amt_stat', '{pg_monitor SELECT}'),
	-- for the triggers
	('function amt_key_guard()', '{}'),
	('function amt_key_record()', '{}'),
	('function amt_key_no_truncate()', '{}'),
	('function amt_policy_support(internal)', '{}'),
	('function amt_usage_replica()', '{}'),
	('function amt_keys_delete()', '{}'),
	('function amt_keys_update()', '{}'),
	-- row-level security does the rest; the hashes are nobody's, and nobody but the owner writes or locks
	('table amt_key', '{PUBLIC SELECT (key_id), PUBLIC SELECT (token_prefix), PUBLIC SELECT (org_id), PUBLIC SELECT (name), PUBLIC SELECT (role),
		PUBLIC SELECT (scopes), PUBLIC SELECT (created_at), PUBLIC SELECT (created_by), PUBLIC SELECT (expires_at), PUBLIC SELECT (suspended_at),
		PUBLIC SELECT (replaces)}'),
	('table amt_key_usage', '{PUBLIC SELECT}'),
	('table amt_key_event', '{PUBLIC SELECT}'),
	-- its triggers decide on each row
	('view amt_keys', '{PUBLIC SELECT, PUBLIC DELETE, PUBLIC UPDATE (name), PUBLIC UPDATE (expires_at), PUBLIC UPDATE (suspended_at)}'),
	('sequence amt_key_event_seq', '{PUBLIC SELECT}'),
	('type amt_new_key', '{PUBLIC USAGE}');

CREATE TEMP VIEW granted AS
	SELECT m.object,
	       coalesce((SELECT array_agg(format('%s %s%s', CASE a.grantee WHEN 0 THEN 'PUBLIC' ELSE a.grantee::regrole::text END,
	                                         a.privilege_type, ' (' || a.column_name || ')'))
	                 FROM (SELECT x.grantee, x.privilege_type, NULL AS column_name
	                       FROM aclexplode(o.acl) AS x
	                       UNION ALL
	                       SELECT x.grantee, x.privilege_type, c.attname
	                       FROM pg_attribute AS c, aclexplode(c.attacl) AS x
	                       WHERE m.classid = 'pg_class'::regclass AND c.attrelid = m.objid) AS a
	                 WHERE a.grantee <> o.owner), '{}') AS grants,
	       o.owner
	FROM member AS m
	LEFT JOIN pg_class AS c ON m.classid = 'pg_class'::regclass AND c.oid = m.objid
	LEFT JOIN pg_proc AS p ON m.classid = 'pg_proc'::regclass AND p.oid = m.objid
	LEFT JOIN pg_type AS t ON m.classid = 'pg_type'::regclass AND t.oid = m.objid
	CROSS JOIN LATERAL (SELECT
		coalesce(c.relowner, p.proowner, t.typowner) AS owner,
		coalesce(c.relacl, p.proacl, t.typacl,
		         acldefault(CASE WHEN p.oid IS NOT NULL THEN 'f' WHEN t.oid IS NOT NULL THEN 'T' WHEN c.relkind = 'S' THEN 's' ELSE 'r' END::"char",
		                    coalesce(c.relowner, p.proowner, t.typowner))) AS acl) AS o;

CREATE FUNCTION tap.sorted(a text[]) RETURNS text LANGUAGE sql AS $$ SELECT string_agg(x, ', ' ORDER BY x COLLATE "C") FROM unnest(a) AS x $$;

SELECT plan((SELECT count(*)::int FROM decided) + 9);

SELECT is_empty('SELECT object FROM member EXCEPT SELECT object FROM decided', 'for every object there is a decision');
SELECT is_empty('SELECT object FROM decided EXCEPT SELECT object FROM member', 'for every decision there is an object');
SELECT is(sorted(g.grants), sorted(d.grants), d.object || ' has exactly the privileges that were decided')
FROM decided AS d LEFT JOIN granted AS g USING (object);

-- nothing can be handed on
SELECT is_empty($$
	SELECT m.object FROM member AS m
	LEFT JOIN pg_class AS c ON m.classid = 'pg_class'::regclass AND c.oid = m.objid
	LEFT JOIN pg_proc AS p ON m.classid = 'pg_proc'::regclass AND p.oid = m.objid
	CROSS JOIN LATERAL aclexplode(coalesce(c.relacl, p.proacl)) AS a
	WHERE a.is_grantable AND a.grantee <> coalesce(c.relowner, p.proowner)
$$, 'no privilege comes with a grant option');

-- everything belongs to the role that created the extension
SELECT is_empty($$ SELECT object FROM granted WHERE owner <> current_user::regrole $$, 'all objects belong to the role that created the extension');

-- no function runs with its owner's rights
SELECT is_empty($$
	SELECT m.object FROM member AS m JOIN pg_proc AS p ON m.classid = 'pg_proc'::regclass AND p.oid = m.objid
	WHERE p.prosecdef OR p.proleakproof
$$, 'no function is a security definer, none is leakproof');

-- row-level security is on for each table, and each policy is for everybody
SELECT is_empty($$
	SELECT m.object FROM member AS m JOIN pg_class AS c ON m.classid = 'pg_class'::regclass AND c.oid = m.objid
	WHERE c.relkind = 'r' AND NOT c.relrowsecurity
$$, 'row-level security is enabled on every table');
SELECT is((SELECT string_agg(format('%s %s %s', polrelid::regclass, CASE WHEN polpermissive THEN 'permits' ELSE 'restricts' END, polcmd), ', ' ORDER BY polrelid::regclass::text COLLATE "C", polpermissive)
           FROM pg_policy WHERE polrelid IN (SELECT objid FROM member) AND polroles = '{0}'),
          'amt_key restricts *, amt_key permits r, amt_key_event restricts *, amt_key_event permits r, amt_key_usage restricts *, amt_key_usage permits r',
          'on each table one policy permits reading, none writing, and one keeps others out');
SELECT is((SELECT array_agg(c.relname::text) FROM member AS m JOIN pg_class AS c ON m.classid = 'pg_class'::regclass AND c.oid = m.objid
           WHERE c.relkind = 'v' AND 'security_invoker=true' = ANY (c.reloptions)), '{amt_keys}', 'the list reads with the caller''s rights');

-- whatever policies, views, constraints and defaults refer to is the server's or the extension's
SELECT is_empty($$
	WITH own AS (
		SELECT classid, objid FROM member
		UNION SELECT 'pg_policy'::regclass, oid FROM pg_policy WHERE polrelid IN (SELECT objid FROM member)
		UNION SELECT 'pg_rewrite'::regclass, oid FROM pg_rewrite WHERE ev_class IN (SELECT objid FROM member)
		UNION SELECT 'pg_constraint'::regclass, oid FROM pg_constraint WHERE conrelid IN (SELECT objid FROM member)
		UNION SELECT 'pg_attrdef'::regclass, oid FROM pg_attrdef WHERE adrelid IN (SELECT objid FROM member)
		UNION SELECT 'pg_trigger'::regclass, oid FROM pg_trigger WHERE tgrelid IN (SELECT objid FROM member)
		UNION SELECT 'pg_class'::regclass, indexrelid FROM pg_index WHERE indrelid IN (SELECT objid FROM member)
	)
	SELECT pg_describe_object(d.classid, d.objid, d.objsubid), pg_describe_object(d.refclassid, d.refobjid, d.refobjsubid)
	FROM pg_depend AS d JOIN own USING (classid, objid)
	WHERE d.deptype = 'n' AND NOT (d.refclassid, d.refobjid) IN (SELECT classid, objid FROM own)
	  AND d.refobjid >= 16384 AND d.refclassid <> 'pg_namespace'::regclass
$$, 'policies, views, constraints, defaults, triggers and indexes depend on nothing of anybody else''s');

SELECT * FROM finish();
ROLLBACK;
