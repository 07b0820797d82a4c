/*
 * relations.c
 *	  The extension's tables: finding them, and checking that they are ours.
 *
 * The owner of a schema, database or table need not be a superuser.  Yet it
 * may rename, replace, alter or give away its objects at any time, even
 * while we wait for a lock.  So a table is ours only if it is a member of
 * the called function's extension.  Only the extension's owner can change
 * that, and CREATE EXTENSION needs a superuser.  We open the table by OID.
 * Once it is locked, we check again that it is the table of that name, an
 * ordinary heap table with the expected columns.  Otherwise we raise an
 * error.
 *
 * We keep the OIDs until the relation cache tells us that one of the tables
 * has changed.  To lock a table processes such messages.  We find an index
 * by its column, not by its name.
 */
#include "postgres.h"

#include "access/genam.h"
#include "access/htup_details.h"
#include "access/table.h"
#include "access/transam.h"
#include "catalog/dependency.h"
#include "catalog/indexing.h"
#include "catalog/pg_am.h"
#include "catalog/pg_collation.h"
#include "catalog/pg_extension.h"
#include "catalog/pg_opfamily.h"
#include "catalog/pg_proc.h"
#include "catalog/pg_type.h"
#include "commands/extension.h"
#include "funcapi.h"
#include "miscadmin.h"
#include "nodes/primnodes.h"
#include "pgstat.h"
#include "storage/lmgr.h"
#include "utils/builtins.h"
#include "utils/fmgroids.h"
#include "utils/inval.h"
#include "utils/lsyscache.h"
#include "utils/rel.h"
#include "utils/syscache.h"

#include "compat.h"
#include "relations.h"

#define EXTENSION_NAME	"amt_keys"
#define MAX_TRIES		3

typedef struct ColumnShape
{
	Oid			type;
	Oid			collation;
} ColumnShape;

#define C_TEXT		{TEXTOID, C_COLLATION_OID}
#define ANY_TEXT	{TEXTOID, DEFAULT_COLLATION_OID}
#define TEXT_ARRAY	{TEXTARRAYOID, DEFAULT_COLLATION_OID}
#define TIME		{TIMESTAMPTZOID, InvalidOid}

static const ColumnShape key_columns[Natts_amt_key] = {
	C_TEXT, C_TEXT, ANY_TEXT, ANY_TEXT, ANY_TEXT, TEXT_ARRAY, C_TEXT, {BYTEAOID, InvalidOid},
	TIME, ANY_TEXT, TIME, TIME, C_TEXT
};
static const ColumnShape usage_columns[Natts_amt_key_usage] = {
	C_TEXT, {INT8OID, InvalidOid}, TIME
};
static const ColumnShape event_columns[Natts_amt_key_event] = {
	{INT8OID, InvalidOid}, TIME, ANY_TEXT, C_TEXT, ANY_TEXT, ANY_TEXT, ANY_TEXT, TEXT_ARRAY,
	TIME, ANY_TEXT, C_TEXT, {NAMEOID, C_COLLATION_OID}, {INT8OID, InvalidOid}
};

static const struct TableShape
{
	const char *name;
	int			natts;
	const ColumnShape *columns;
}			table_shape[AMT_NTABLES] = {
	{"amt_key", Natts_amt_key, key_columns},
	{"amt_key_usage", Natts_amt_key_usage, usage_columns},
	{"amt_key_event", Natts_amt_key_event, event_columns}
};

static const struct IndexShape
{
	AmtTableId	table;
	AttrNumber	attnum;
	Oid			opfamily;
	Oid			collation;
	bool		unique;
}			index_shape[AMT_NINDEXES] = {
	{AMT_KEY, Anum_amt_key_key_id, TEXT_BTREE_FAM_OID, C_COLLATION_OID, true},
	{AMT_KEY, Anum_amt_key_token_sha256, BYTEA_BTREE_FAM_OID, InvalidOid, true},
	{AMT_KEY, Anum_amt_key_token_prefix, TEXT_BTREE_FAM_OID, C_COLLATION_OID, false},
	{AMT_KEY_USAGE, Anum_amt_key_usage_key_id, TEXT_BTREE_FAM_OID, C_COLLATION_OID, true},
	{AMT_KEY_EVENT, Anum_amt_key_event_event_id, INTEGER_BTREE_FAM_OID, InvalidOid, true}
};

/* The OIDs of the tables, as far as they are known. */
static struct
{
	Oid			extension;		/* InvalidOid: nothing is known */
	Oid			table[AMT_NTABLES];
	Oid			index[AMT_NINDEXES];	/* InvalidOid: not yet looked for */
}			known;

/* Counts the invalidations of relations that this process has received. */
static uint64 changes = 0;

/* The extensions of the functions that were called. */
#define NFUNCTIONS	32
static struct
{
	Oid			function;
	Oid			extension;
}			called[NFUNCTIONS];

static void
forget_relation(Datum arg, Oid relid)
{
	changes++;
	if (!OidIsValid(relid))
		known.extension = InvalidOid;
	for (int i = 0; i < AMT_NTABLES; i++)
		if (known.table[i] == relid)
			known.extension = InvalidOid;
}

static void
forget_functions(Datum arg, int cacheid, uint32 hashvalue)
{
	memset(called, 0, sizeof(called));
}

void
amt_relations_init(void)
{
	CacheRegisterRelcacheCallback(forget_relation, (Datum) 0);
	CacheRegisterSyscacheCallback(PROCOID, forget_functions, (Datum) 0);
}

Oid
amt_extension(FunctionCallInfo fcinfo)
{
	Oid			function = fcinfo->flinfo->fn_oid;
	int			i = function % NFUNCTIONS;

	if (unlikely(called[i].function != function))
	{
		Oid			extension = getExtensionOfObject(ProcedureRelationId, function);

		if (!OidIsValid(extension))
			ereport(ERROR,
					(errcode(ERRCODE_OBJECT_NOT_IN_PREREQUISITE_STATE),
					 errmsg("function %u is not a member of extension \"%s\"",
							function, EXTENSION_NAME)));
		called[i].function = function;
		called[i].extension = extension;
	}
	return called[i].extension;
}

Oid
amt_extension_here(void)
{
	return get_extension_oid(EXTENSION_NAME, true);
}

bool
amt_extension_is_coming(void)
{
	Relation	rel = table_open(ExtensionRelationId, AccessShareLock);
	SnapshotData dirty;
	ScanKeyData key;
	SysScanDesc scan;
	bool		found;

	InitDirtySnapshot(dirty);
	ScanKeyInit(&key, Anum_pg_extension_extname, BTEqualStrategyNumber, F_NAMEEQ,
				CStringGetDatum(EXTENSION_NAME));
	scan = systable_beginscan(rel, ExtensionNameIndexId, true, &dirty, 1, &key);
	found = HeapTupleIsValid(systable_getnext(scan));
	systable_endscan(scan);
	table_close(rel, AccessShareLock);
	return found;
}

static Oid
get_schema(Oid extension)
{
	Relation	rel = table_open(ExtensionRelationId, AccessShareLock);
	ScanKeyData key;
	SysScanDesc scan;
	HeapTuple	tuple;
	Oid			schema = InvalidOid;

	ScanKeyInit(&key, Anum_pg_extension_oid, BTEqualStrategyNumber, F_OIDEQ,
				ObjectIdGetDatum(extension));
	scan = systable_beginscan(rel, ExtensionOidIndexId, true, NULL, 1, &key);
	tuple = systable_getnext(scan);
	if (HeapTupleIsValid(tuple))
		schema = ((Form_pg_extension) GETSTRUCT(tuple))->extnamespace;
	systable_endscan(scan);
	table_close(rel, AccessShareLock);
	return schema;
}

static void
no_such_table(AmtTableId table)
{
	ereport(ERROR,
			(errcode(ERRCODE_UNDEFINED_TABLE),
			 errmsg("table \"%s\" of extension \"%s\" does not exist",
					table_shape[table].name, EXTENSION_NAME),
			 errhint("Its owner must undo the change of its name, schema or membership.")));
}

/*
 * Look up all tables.  A table that is not ours is InvalidOid.  If a relation
 * changes meanwhile, it may be one that was just found: look again.  Not for
 * ever: with debug_discard_caches, all relations always change.
 */
static void
find_tables(Oid extension)
{
	Oid			found[AMT_NTABLES];
	uint64		before;
	int			tries = 0;

	do
	{
		Oid			schema;

		before = changes;
		schema = get_schema(extension);
		for (int i = 0; i < AMT_NTABLES; i++)
		{
			found[i] = get_relname_relid(table_shape[i].name, schema);
			if (OidIsValid(found[i]) &&
				getExtensionOfObject(RelationRelationId, found[i]) != extension)
				found[i] = InvalidOid;
		}
	} while (before != changes && ++tries < MAX_TRIES);
	memcpy(known.table, found, sizeof(known.table));
	memset(known.index, 0, sizeof(known.index));
	known.extension = before == changes ? extension : InvalidOid;
}

static Oid
get_table(Oid extension, AmtTableId table)
{
	/* A table that was missing may be back: no message tells us of that. */
	if (unlikely(known.extension != extension || !OidIsValid(known.table[table])))
		find_tables(extension);
	if (!OidIsValid(known.table[table]))
		no_such_table(table);
	return known.table[table];
}

static void
wrong_table(AmtTableId table, const char *detail)
{
	ereport(ERROR,
			(errcode(ERRCODE_WRONG_OBJECT_TYPE),
			 errmsg("\"%s\" is not a table of extension \"%s\"",
					table_shape[table].name, EXTENSION_NAME),
			 errdetail("%s", detail)));
}

static void
wrong_column(AmtTableId table, int attnum)
{
	ereport(ERROR,
			(errcode(ERRCODE_DATATYPE_MISMATCH),
			 errmsg("column %d of table \"%s\" of extension \"%s\" was changed",
					attnum, table_shape[table].name, EXTENSION_NAME),
			 errhint("Its owner must undo that.")));
}

void
amt_check_table(Relation rel, AmtTableId table)
{
	const struct TableShape *shape = &table_shape[table];
	TupleDesc	tupdesc = RelationGetDescr(rel);

	if (rel->rd_rel->relkind != RELKIND_RELATION)
		wrong_table(table, "It is not an ordinary table.");
	/* Then the server takes it for a system catalog: no policy holds. */
	if (RelationGetRelid(rel) < FirstNormalObjectId)
		wrong_table(table, "It was made in single-user mode.");
	if (rel->rd_rel->relispartition)
		wrong_table(table, "It is a partition of another table.");
	if (rel->rd_rel->relam != HEAP_TABLE_AM_OID)
		wrong_table(table, "Its access method is not heap.");
	for (int i = 0; i < shape->natts; i++)
	{
		Form_pg_attribute att;

		if (i >= tupdesc->natts)
			wrong_column(table, i + 1);
		att = TupleDescAttr(tupdesc, i);
		if (att->attisdropped || att->atttypid != shape->columns[i].type ||
			att->attcollation != shape->columns[i].collation || att->atttypmod != -1 ||
			att->attgenerated != '\0')
			wrong_column(table, i + 1);
	}
}

/*
 * Open the table that we have locked.  If it is no longer the table of that
 * name, unlocks it and returns NULL.
 */
static Relation
open_locked(Oid extension, AmtTableId table, Oid relid, LOCKMODE mode)
{
	Relation	rel;

	/* Locking has processed invalidation messages.  Is it still the table? */
	if (get_table(extension, table) != relid)
	{
		UnlockRelationOid(relid, mode);
		return NULL;
	}
	rel = RelationIdGetRelation(relid);
	if (rel == NULL)
	{
		UnlockRelationOid(relid, mode);
		known.extension = InvalidOid;
		return NULL;
	}
	pgstat_init_relation(rel);
	amt_check_table(rel, table);
	return rel;
}

Relation
amt_open(Oid extension, AmtTableId table, LOCKMODE mode)
{
	for (;;)
	{
		Oid			relid = get_table(extension, table);
		Relation	rel;

		LockRelationOid(relid, mode);
		rel = open_locked(extension, table, relid, mode);
		if (likely(rel != NULL))
			return rel;
		CHECK_FOR_INTERRUPTS();
	}
}

Relation
amt_open_nowait(Oid extension, AmtTableId table, LOCKMODE mode)
{
	Oid			relid = get_table(extension, table);

	if (!ConditionalLockRelationOid(relid, mode))
		return NULL;
	return open_locked(extension, table, relid, mode);
}

bool
amt_is_table(Oid extension, AmtTableId table, Relation rel)
{
	if (known.extension != extension || !OidIsValid(known.table[table]))
		find_tables(extension);
	return OidIsValid(known.table[table]) && known.table[table] == RelationGetRelid(rel);
}

/* Does the index leave out no rows, or only those where the column is null? */
static bool
predicate_fits(Relation index, AttrNumber attnum)
{
	bool		isnull;
	Datum		value = SysCacheGetAttr(INDEXRELID, index->rd_indextuple, Anum_pg_index_indpred, &isnull);
	NullTest   *test;

	if (isnull)
		return true;
	test = stringToNode(TextDatumGetCString(value));
	return IsA(test, NullTest) && test->nulltesttype == IS_NOT_NULL &&
		IsA(test->arg, Var) && ((Var *) test->arg)->varattno == attnum;
}

/* Can rows of the table be found by this index? */
static bool
index_fits(Oid index, const struct IndexShape *shape)
{
	Relation	rel = index_open(index, AccessShareLock);
	Form_pg_index form = rel->rd_index;
	bool		fits = form->indisvalid && form->indislive && form->indnkeyatts == 1 &&
	form->indkey.values[0] == shape->attnum &&
	rel->rd_rel->relam == BTREE_AM_OID &&
	rel->rd_opfamily[0] == shape->opfamily &&
	rel->rd_indcollation[0] == shape->collation &&
	rel->rd_indoption[0] == 0 &&	/* ascending */
	(!shape->unique || (form->indisunique && form->indimmediate)) &&
	predicate_fits(rel, shape->attnum);

	index_close(rel, AccessShareLock);
	return fits;
}

Oid
amt_index(Relation rel, AmtIndexId index)
{
	const struct IndexShape *shape = &index_shape[index];
	Oid			found = InvalidOid;
	List	   *indexes;
	ListCell   *cell;

	if (likely(known.table[shape->table] == RelationGetRelid(rel) &&
			   OidIsValid(known.extension) && OidIsValid(known.index[index])))
		return known.index[index];

	indexes = RelationGetIndexList(rel);
	foreach(cell, indexes)
	{
		if (index_fits(lfirst_oid(cell), shape))
		{
			found = lfirst_oid(cell);
			break;
		}
	}
	list_free(indexes);
	if (!OidIsValid(found))
		ereport(ERROR,
				(errcode(ERRCODE_UNDEFINED_OBJECT),
				 errmsg("table \"%s\" of extension \"%s\" has no usable index on its column %d",
						table_shape[shape->table].name, EXTENSION_NAME, shape->attnum),
				 errhint("Its owner must create it again.")));
	if (OidIsValid(known.extension) && known.table[shape->table] == RelationGetRelid(rel))
		known.index[index] = found;
	return found;
}

Oid
amt_event_sequence(Relation rel)
{
	Oid			sequence = amt_identity_sequence(rel, Anum_amt_key_event_event_id);

	if (!OidIsValid(sequence))
		ereport(ERROR,
				(errcode(ERRCODE_UNDEFINED_TABLE),
				 errmsg("column \"event_id\" of table \"amt_key_event\" is not an identity column"),
				 errhint("Its owner must undo that change.")));
	return sequence;
}

void
amt_check_row_type(TupleDesc tupdesc, const Oid *types, int natts)
{
	bool		fits = tupdesc->natts == natts;

	for (int i = 0; fits && i < natts; i++)
	{
		Form_pg_attribute att = TupleDescAttr(tupdesc, i);

		fits = !att->attisdropped && att->atttypid == types[i];
	}
	if (!fits)
		ereport(ERROR,
				(errcode(ERRCODE_DATATYPE_MISMATCH),
				 errmsg("row type of a function of extension \"%s\" was changed", EXTENSION_NAME),
				 errhint("Its owner must undo that. If columns were added, dump and restore the database.")));
}

TupleDesc
amt_result_tupdesc(FunctionCallInfo fcinfo, const Oid *types, int natts)
{
	TupleDesc	tupdesc;

	if (get_call_result_type(fcinfo, NULL, &tupdesc) != TYPEFUNC_COMPOSITE)
		elog(ERROR, "return type must be a row type");
	amt_check_row_type(tupdesc, types, natts);
	return BlessTupleDesc(tupdesc);
}
