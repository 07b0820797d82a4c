-- All that the extension has made in this database, as text, one line for each
-- thing: what an update leads to must be the same as a new installation. Order of
-- columns and object ids may differ.
\set ON_ERROR_STOP on
\pset tuples_only
\pset format unaligned
SET search_path = pg_catalog;

CREATE TEMP TABLE member AS
	SELECT classid, objid FROM pg_depend
	WHERE refclassid = 'pg_extension'::regclass AND deptype = 'e'
	  AND refobjid = (SELECT oid FROM pg_extension WHERE extname = 'amt_keys');
CREATE TEMP TABLE relation AS
	SELECT c.* FROM pg_class c JOIN pg_temp.member m ON m.classid = 'pg_class'::regclass AND m.objid = c.oid
	WHERE c.relkind <> 'c';

SELECT line FROM (
	-- each member, its owner's and others' privileges, its comment
	SELECT format('member %s: %s', pg_describe_object(classid, objid, 0), obj_description(objid, classid::regclass::name)) AS line
	FROM pg_temp.member
	UNION ALL
	SELECT format('extension %s relocatable %s configuration %s %s', extname, extrelocatable,
		(SELECT array_agg(format('%s', c::oid::regclass) ORDER BY 1) FROM unnest(extconfig) AS c), extcondition)
	FROM pg_extension WHERE extname = 'amt_keys'
	UNION ALL
	SELECT format('function %s, privileges %s: %s', p.oid::regprocedure,
		(SELECT array_agg(a::text ORDER BY a::text) FROM unnest(p.proacl) AS a), pg_get_functiondef(p.oid))
	FROM pg_proc p JOIN pg_temp.member m ON m.classid = 'pg_proc'::regclass AND m.objid = p.oid
	UNION ALL
	SELECT format('type %s, privileges %s', t.oid::regtype, (SELECT array_agg(a::text ORDER BY a::text) FROM unnest(t.typacl) AS a))
	FROM pg_type t JOIN pg_temp.member m ON m.classid = 'pg_type'::regclass AND m.objid = t.oid
	UNION ALL
	SELECT format('relation %s %s: options %s, row security %s %s, replica identity %s, privileges %s', relkind, oid::regclass,
		reloptions, relrowsecurity, relforcerowsecurity, relreplident, (SELECT array_agg(a::text ORDER BY a::text) FROM unnest(relacl) AS a))
	FROM pg_temp.relation
	UNION ALL
	SELECT format('column %s.%s: %s, not null %s, identity %s, generated %s, default %s, statistics %s, options %s, privileges %s: %s',
		a.attrelid::regclass, a.attname, format_type(a.atttypid, a.atttypmod), a.attnotnull, a.attidentity, a.attgenerated,
		pg_get_expr(d.adbin, d.adrelid), nullif(a.attstattarget, -1),
		(SELECT array_agg(o ORDER BY o) FROM unnest(a.attoptions) AS o WHERE o !~ '^pg_'), -- some servers keep counters there
		(SELECT array_agg(a::text ORDER BY a::text) FROM unnest(a.attacl) AS a), col_description(a.attrelid, a.attnum))
	FROM pg_attribute a LEFT JOIN pg_attrdef d ON d.adrelid = a.attrelid AND d.adnum = a.attnum
	WHERE a.attnum > 0 AND NOT a.attisdropped
	  AND (a.attrelid IN (SELECT oid FROM pg_temp.relation) OR
	       a.attrelid IN (SELECT typrelid FROM pg_type JOIN pg_temp.member m ON m.objid = pg_type.oid WHERE typrelid <> 0))
	UNION ALL
	SELECT format('constraint %s on %s: %s', conname, conrelid::regclass, pg_get_constraintdef(oid))
	FROM pg_constraint WHERE conrelid IN (SELECT oid FROM pg_temp.relation)
	UNION ALL
	SELECT pg_get_indexdef(indexrelid) FROM pg_index WHERE indrelid IN (SELECT oid FROM pg_temp.relation)
	UNION ALL
	SELECT format('%s, enabled %s', pg_get_triggerdef(oid), tgenabled)
	FROM pg_trigger WHERE tgrelid IN (SELECT oid FROM pg_temp.relation) AND NOT tgisinternal
	UNION ALL
	SELECT format('rule %s: %s, enabled %s', ev_class::regclass, pg_get_ruledef(oid), ev_enabled)
	FROM pg_rewrite WHERE ev_class IN (SELECT oid FROM pg_temp.relation)
	UNION ALL
	SELECT format('policy %s on %s: %s %s to %s using %s check %s: %s', polname, polrelid::regclass, polcmd, polpermissive,
		polroles::regrole[], pg_get_expr(polqual, polrelid), pg_get_expr(polwithcheck, polrelid), obj_description(oid, 'pg_policy'))
	FROM pg_policy WHERE polrelid IN (SELECT oid FROM pg_temp.relation)
	UNION ALL
	SELECT format('sequence %s: %s %s %s %s %s %s', seqrelid::regclass, seqtypid::regtype, seqstart, seqincrement, seqmin, seqmax, seqcycle)
	FROM pg_sequence WHERE seqrelid IN (SELECT oid FROM pg_temp.relation)) AS l
ORDER BY line COLLATE "C";
