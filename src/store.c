/*
 * store.c
 *	  The extension's tables: where they are, and a key's row.
 *
 * The functions find their tables by their own schema, never by the
 * search_path, and remember the OIDs until the relation cache says that one of
 * the tables changed.
 *
 * A key's row is read directly, by the primary key's index or from where it was
 * seen before, with a snapshot taken at each call.  So a revocation counts from
 * the moment it commits, in every isolation level, and no planner, search_path,
 * operator, row-security policy or column privilege of the caller takes part: the
 * C code that calls is the access check.  The relation's lock is released at once,
 * since a login path must not stand in the way of DROP EXTENSION.
 *
 * Where it was seen before is a hint from shared memory (cache.c), copied out of
 * there, so no lock of ours is held here.  The buffer may hold another page by now,
 * and the place another row or none: it is pinned, locked and looked at as if any
 * number had been given.
 *
 * What is written goes through SPI as the owner of the tables, so triggers,
 * constraints and foreign keys work as always.  The queries name schema and
 * operators and take all values as parameters of their own type.
 */
#include "postgres.h"

#include "access/genam.h"
#include "access/heapam.h"
#include "access/htup_details.h"
#include "access/relscan.h"
#include "access/table.h"
#include "access/tableam.h"
#include "access/xact.h"
#include "catalog/pg_am.h"
#include "catalog/pg_class.h"
#include "catalog/pg_type.h"
#include "executor/spi.h"
#include "executor/tuptable.h"
#include "miscadmin.h"
#include "storage/buf_internals.h"
#include "storage/bufmgr.h"
#include "storage/bufpage.h"
#include "utils/builtins.h"
#include "utils/fmgroids.h"
#include "utils/inval.h"
#include "utils/lsyscache.h"
#include "utils/rel.h"
#include "utils/snapmgr.h"
#include "utils/syscache.h"

#include "compat.h"
#include "store.h"
#include "token.h"

static AmtStore current;
static Oid	current_function = InvalidOid;	/* which "current" was found for */

static void
forget_store(Datum arg, Oid relid)
{
	if (!OidIsValid(relid) || relid == current.key || relid == current.usage ||
		relid == current.event)
		current_function = InvalidOid;
}

void
amt_store_init(void)
{
	CacheRegisterRelcacheCallback(forget_store, (Datum) 0);
}

static Oid
get_relation(Oid schema, const char *name)
{
	Oid			relid = get_relname_relid(name, schema);

	if (!OidIsValid(relid))
		ereport(ERROR,
				(errcode(ERRCODE_UNDEFINED_TABLE),
				 errmsg("relation \"%s\" of extension \"amt_keys\" does not exist", name)));
	return relid;
}

Oid
amt_get_function(Oid schema, const char *name)
{
	static const Oid types[2] = {TEXTOID, BOOLOID};
	oidvector  *args = buildoidvector(types, lengthof(types));
	Oid			function = GetSysCacheOid3(PROCNAMEARGSNSP, Anum_pg_proc_oid,
										   CStringGetDatum(name), PointerGetDatum(args),
										   ObjectIdGetDatum(schema));

	pfree(args);
	return function;
}

static Oid
get_owner(Oid relid)
{
	HeapTuple	tuple = SearchSysCache1(RELOID, ObjectIdGetDatum(relid));
	Oid			owner;

	if (!HeapTupleIsValid(tuple))
		elog(ERROR, "cache lookup failed for relation %u", relid);
	owner = ((Form_pg_class) GETSTRUCT(tuple))->relowner;
	ReleaseSysCache(tuple);
	return owner;
}

/* Rows are read by position, so the columns must be what they were made as. */
static void
check_columns(Oid relid, const Oid *types, int n)
{
	for (int i = 0; i < n; i++)
		if (get_atttype(relid, i + 1) != types[i])
			ereport(ERROR,
					(errcode(ERRCODE_DATATYPE_MISMATCH),
					 errmsg("column %d of relation \"%s\" of extension \"amt_keys\" was changed",
							i + 1, get_rel_name(relid)),
					 errhint("Its owner must undo that; columns of one's own can be added.")));
}

static AmtStore
find_store(Oid schema)
{
	static const Oid key_types[Natts_amt_key] = {
		TEXTOID, TEXTOID, TEXTOID, TEXTOID, TEXTOID, TIMESTAMPTZOID, TEXTOID, TIMESTAMPTZOID
	};
	static const Oid usage_types[Natts_amt_key_usage] = {TEXTOID, INT8OID, TIMESTAMPTZOID};
	AmtStore	found;

	found.schema = schema;
	found.key = get_relation(schema, "amt_key");
	found.key_pkey = get_relation(schema, "amt_key_pkey");
	found.usage = get_relation(schema, "amt_key_usage");
	found.usage_pkey = get_relation(schema, "amt_key_usage_pkey");
	found.event = get_relation(schema, "amt_key_event");
	found.verify = amt_get_function(schema, "amt_verify");
	found.owner = get_owner(found.key);
	check_columns(found.key, key_types, Natts_amt_key);
	check_columns(found.usage, usage_types, Natts_amt_key_usage);
	return found;
}

const AmtStore *
amt_store(FunctionCallInfo fcinfo)
{
	Oid			function = fcinfo->flinfo->fn_oid;

	if (unlikely(function != current_function))
	{
		current = find_store(get_func_namespace(function));
		current_function = function;
	}
	return &current;
}

const AmtStore *
amt_store_of_table(Oid key)
{
	Oid			schema = get_rel_namespace(key);
	const char *name = get_rel_name(key);

	if (!OidIsValid(schema) || name == NULL || strcmp(name, "amt_key") != 0)
		return NULL;
	current_function = InvalidOid;
	current = find_store(schema);
	return &current;
}

/*
 * The first columns of a row; its owner may have added others.  One that we
 * could not do without is missing only if the owner dropped it.
 */
static void
read_columns(HeapTuple tuple, TupleDesc tupdesc, int n, Datum *values, bool *nulls)
{
	Datum		all_values[MaxHeapAttributeNumber];
	bool		all_nulls[MaxHeapAttributeNumber];

	heap_deform_tuple(tuple, tupdesc, all_values, all_nulls);
	memcpy(values, all_values, sizeof(Datum) * n);
	memcpy(nulls, all_nulls, sizeof(bool) * n);
}

void
amt_store_read_key(HeapTuple tuple, TupleDesc tupdesc, AmtKey *key)
{
	read_columns(tuple, tupdesc, Natts_amt_key, key->values, key->nulls);
	for (int i = 0; i < Natts_amt_key; i++)
		if (key->nulls[i] && i + 1 != Anum_amt_key_created_by && i + 1 != Anum_amt_key_expires_at)
			ereport(ERROR,
					(errcode(ERRCODE_NOT_NULL_VIOLATION),
					 errmsg("null value in column \"%s\" of table \"amt_key\"",
							NameStr(TupleDescAttr(tupdesc, i)->attname))));
}

/*
 * Copy a row's columns, with nothing left in TOAST: once the snapshot is gone,
 * the row may be, too.
 */
static void
copy_key(HeapTuple tuple, TupleDesc tupdesc, void *arg)
{
	AmtKey	   *key = arg;

	amt_store_read_key(heap_copytuple(tuple), tupdesc, key);
	for (int i = 0; i < Natts_amt_key; i++)
	{
		bool		is_text = i + 1 != Anum_amt_key_created_at &&
		i + 1 != Anum_amt_key_expires_at;

		if (is_text && !key->nulls[i])
			key->values[i] = PointerGetDatum(PG_DETOAST_DATUM_PACKED(key->values[i]));
	}
	key->xmin = HeapTupleHeaderGetXmin(tuple->t_data);
	key->own = TransactionIdIsCurrentTransactionId(key->xmin);
	key->updated = (tuple->t_data->t_infomask & HEAP_UPDATED) != 0;
}

/* Does the snapshot see this version of the row, which the scan has pinned? */
static bool
is_visible(SysScanDesc scan, HeapTuple tuple, Snapshot snapshot)
{
	Buffer		buffer = ((BufferHeapTupleTableSlot *) scan->slot)->buffer;
	bool		visible;

	LockBuffer(buffer, BUFFER_LOCK_SHARE);
	visible = HeapTupleSatisfiesVisibility(tuple, snapshot, buffer);
	LockBuffer(buffer, BUFFER_LOCK_UNLOCK);
	return visible;
}

/*
 * Find the row of a table for a key id by the index; "copy" gets it while the
 * snapshot lasts.
 *
 * The scan is of all versions, and the snapshot picks one.  Were it the scan's
 * own, SERIALIZABLE would make a dependency of the reading, and have it, or
 * somebody else, fail; but what is read here is what is true now, and no part
 * of what the transaction makes of its own snapshot.
 */
static bool
get_by_index(Relation rel, Oid index, const char *id, Size id_len, Snapshot snapshot,
			 AmtRowHint *hint,
			 void (*copy) (HeapTuple tuple, TupleDesc tupdesc, void *arg), void *arg)
{
	bool		is_heap = rel->rd_rel->relam == HEAP_TABLE_AM_OID;
	char		buffer[VARHDRSZ + AMT_ID_MAX];
	text	   *id_text = (text *) buffer;
	SysScanDesc scan;
	ScanKeyData scankey;
	HeapTuple	tuple;

	if (id_len > AMT_ID_MAX)
		return false;			/* a row that its owner has forced in */
	SET_VARSIZE(id_text, VARHDRSZ + id_len);
	memcpy(VARDATA(id_text), id, id_len);

	/* In both tables the key id is the first column, of collation "C". */
	ScanKeyInit(&scankey, 1, BTEqualStrategyNumber, F_TEXTEQ, PointerGetDatum(id_text));
	scan = systable_beginscan(rel, index, true, is_heap ? SnapshotAny : snapshot, 1, &scankey);
	do
		tuple = systable_getnext(scan);
	while (HeapTupleIsValid(tuple) && is_heap && !is_visible(scan, tuple, snapshot));

	if (HeapTupleIsValid(tuple))
	{
		copy(tuple, RelationGetDescr(rel), arg);
		if (hint != NULL && is_heap)
		{
			hint->buffer = ((BufferHeapTupleTableSlot *) scan->slot)->buffer;
			hint->block = ItemPointerGetBlockNumber(&tuple->t_self);
			hint->offset = ItemPointerGetOffsetNumber(&tuple->t_self);
			hint->byte = (char *) tuple->t_data - BufferGetPage(hint->buffer);
		}
	}
	systable_endscan(scan);
	return HeapTupleIsValid(tuple);
}

/*
 * With many keys, each row is on a page that no processor has in its caches, and
 * the buffer's descriptor, the page's line pointer and the row would be waited
 * for one after the other.
 */
void
amt_store_prefetch(const AmtRowHint *hint)
{
#ifdef __GNUC__
	char	   *page;

	if (!BufferIsValid(hint->buffer) || BufferIsLocal(hint->buffer))
		return;
	page = BufferGetPage(hint->buffer);
	__builtin_prefetch(GetBufferDescriptor(hint->buffer - 1));
	__builtin_prefetch(page);
	__builtin_prefetch(page + SizeOfPageHeaderData + hint->offset * sizeof(ItemIdData));
	for (int i = 0; i < 4; i++)
		__builtin_prefetch(page + hint->byte + i * 64);
#endif
}

/* The row at the hint's place, if there is a visible one; buffer locked. */
static bool
row_is_there(Relation rel, Buffer buffer, const AmtRowHint *hint, Snapshot snapshot,
			 HeapTuple tuple)
{
	Page		page = BufferGetPage(buffer);
	ItemId		item;

	if (hint->offset < FirstOffsetNumber || hint->offset > PageGetMaxOffsetNumber(page))
		return false;
	item = PageGetItemId(page, hint->offset);
	if (!ItemIdIsNormal(item))
		return false;
	tuple->t_data = (HeapTupleHeader) PageGetItem(page, item);
	tuple->t_len = ItemIdGetLength(item);
	tuple->t_tableOid = RelationGetRelid(rel);
	ItemPointerSet(&tuple->t_self, hint->block, hint->offset);
	return HeapTupleSatisfiesVisibility(tuple, snapshot, buffer);
}

/*
 * The same by the hint.  If that buffer still holds that block of the table,
 * and the snapshot sees a row of this id in that place, it is the row: there
 * is only one.  In all other cases the index knows.
 */
static bool
get_by_hint(Relation rel, const char *id, Size id_len, Snapshot snapshot,
			const AmtRowHint *hint, AmtKey *key)
{
	HeapTupleData tuple;
	text	   *found_id;
	bool		found;

	if (!BufferIsValid(hint->buffer) || BufferIsLocal(hint->buffer) ||
		rel->rd_rel->relam != HEAP_TABLE_AM_OID ||
		!amt_read_recent_buffer(rel, hint->block, hint->buffer))
		return false;

	LockBuffer(hint->buffer, BUFFER_LOCK_SHARE);
	found = row_is_there(rel, hint->buffer, hint, snapshot, &tuple);
	LockBuffer(hint->buffer, BUFFER_LOCK_UNLOCK);

	/* Pinned and visible, the row stays as it is. */
	if (found)
		copy_key(&tuple, RelationGetDescr(rel), key);
	ReleaseBuffer(hint->buffer);
	if (!found)
		return false;
	found_id = DatumGetTextPP(AmtKeyColumn(key, key_id));
	return VARSIZE_ANY_EXHDR(found_id) == id_len &&
		memcmp(VARDATA_ANY(found_id), id, id_len) == 0;
}

static void
copy_nothing(HeapTuple tuple, TupleDesc tupdesc, void *arg)
{
}

/* Was the key there before the current transaction wrote anything? */
static bool
is_older(Relation rel, const AmtStore *store, const char *id, Size id_len)
{
	Snapshot	snapshot = RegisterSnapshot(GetLatestSnapshot());
	bool		found;

	snapshot->curcid = FirstCommandId;
	found = get_by_index(rel, store->key_pkey, id, id_len, snapshot, NULL, copy_nothing, NULL);
	UnregisterSnapshot(snapshot);
	return found;
}

bool
amt_store_get_key(const AmtStore *store, const char *id, Size id_len,
				  AmtRowHint *hint, AmtKey *key)
{
	Relation	rel = table_open(store->key, AccessShareLock);
	Snapshot	snapshot;
	bool		found;

	/* Parallel mode has no newer snapshot; no verification runs in it. */
	snapshot = RegisterSnapshot(IsInParallelMode() ? GetActiveSnapshot() : GetLatestSnapshot());
	found = (hint != NULL && get_by_hint(rel, id, id_len, snapshot, hint, key)) ||
		get_by_index(rel, store->key_pkey, id, id_len, snapshot, hint, copy_key, key);
	UnregisterSnapshot(snapshot);
	if (found && unlikely(key->own) && key->updated && !IsInParallelMode())
		key->own = !is_older(rel, store, id, id_len);
	table_close(rel, AccessShareLock);
	return found;
}

typedef struct StoredUsage
{
	int64		calls;
	TimestampTz last_used_at;
} StoredUsage;

static void
copy_usage(HeapTuple tuple, TupleDesc tupdesc, void *arg)
{
	StoredUsage *usage = arg;
	Datum		values[Natts_amt_key_usage];
	bool		nulls[Natts_amt_key_usage];

	read_columns(tuple, tupdesc, Natts_amt_key_usage, values, nulls);
	usage->calls = DatumGetInt64(values[Anum_amt_key_usage_calls - 1]);
	usage->last_used_at = DatumGetTimestampTz(values[Anum_amt_key_usage_last_used_at - 1]);
}

void
amt_store_get_usage(const AmtStore *store, const char *id, Size id_len,
					Snapshot snapshot, int64 *calls, TimestampTz *last_used_at)
{
	StoredUsage usage = {0, DT_NOBEGIN};
	Relation	rel = table_open(store->usage, AccessShareLock);

	get_by_index(rel, store->usage_pkey, id, id_len, snapshot, NULL, copy_usage, &usage);
	table_close(rel, AccessShareLock);
	*calls = usage.calls;
	*last_used_at = usage.last_used_at;
}

bool
amt_store_may_have_usage(const AmtStore *store, const char *id, Size id_len)
{
	SnapshotData dirty;
	Relation	rel = table_open(store->usage, AccessShareLock);
	bool		found;

	InitDirtySnapshot(dirty);
	found = get_by_index(rel, store->usage_pkey, id, id_len, &dirty, NULL, copy_nothing, NULL);
	table_close(rel, AccessShareLock);
	return found;
}

static void
copy_place(HeapTuple tuple, TupleDesc tupdesc, void *arg)
{
	*(ItemPointer) arg = tuple->t_self;
}

/*
 * The row was locked as it is in this version.  A later version, made by a
 * transaction that has not ended, is not: who has that may delete it, with no
 * regard for us.
 */
static bool
is_last_version(TupleTableSlot *slot)
{
	Buffer		buffer = ((BufferHeapTupleTableSlot *) slot)->buffer;
	bool		last;

	LockBuffer(buffer, BUFFER_LOCK_SHARE);
	last = HeapTupleHeaderIsOnlyLocked(ExecFetchSlotHeapTuple(slot, false, NULL)->t_data);
	LockBuffer(buffer, BUFFER_LOCK_UNLOCK);
	return last;
}

/*
 * SELECT ... FOR KEY SHARE SKIP LOCKED would wait for a transaction that has
 * updated the row and then locked the new version; so the new version is not
 * looked for here.
 */
bool
amt_store_lock_key(const AmtStore *store, const char *id, Size id_len, Snapshot snapshot)
{
	Relation	rel = table_open(store->key, RowShareLock);
	TupleTableSlot *slot = table_slot_create(rel, NULL);
	ItemPointerData place;
	TM_FailureData failure;
	bool		locked;

	locked = get_by_index(rel, store->key_pkey, id, id_len, snapshot, NULL, copy_place, &place) &&
		table_tuple_lock(rel, &place, snapshot, slot, GetCurrentCommandId(false),
						 LockTupleKeyShare, LockWaitSkip, 0, &failure) == TM_Ok &&
		(rel->rd_rel->relam != HEAP_TABLE_AM_OID || is_last_version(slot));
	ExecDropSingleTupleTableSlot(slot);
	table_close(rel, NoLock);
	return locked;
}

int
amt_store_execute(const AmtStore *store, int flags, const char *query, int nargs,
				  Oid *argtypes, Datum *values, const char *nulls)
{
	const char *schema = quote_identifier(get_namespace_name(store->schema));
	StringInfoData sql;
	const char *at = query;
	const char *mark;
	SPIPlanPtr	plan;
	Snapshot	snapshot;
	Oid			save_userid;
	int			save_sec_context;
	int			result;

	initStringInfo(&sql);
	while ((mark = strstr(at, "%s")) != NULL)
	{
		appendBinaryStringInfo(&sql, at, mark - at);
		appendStringInfoString(&sql, schema);
		at = mark + 2;
	}
	appendStringInfoString(&sql, at);

	GetUserIdAndSecContext(&save_userid, &save_sec_context);
	SetUserIdAndSecContext(store->owner, save_sec_context |
						   SECURITY_LOCAL_USERID_CHANGE | SECURITY_NOFORCE_RLS |
						   (flags & AMT_EXECUTE_RESTRICTED ? SECURITY_RESTRICTED_OPERATION : 0));
	plan = SPI_prepare(sql.data, nargs, argtypes);
	if (plan == NULL)
		elog(ERROR, "SPI_prepare failed: %s", SPI_result_code_string(SPI_result));
	CommandCounterIncrement();
	snapshot = RegisterSnapshot(flags & AMT_EXECUTE_XACT_SNAPSHOT && IsolationUsesXactSnapshot() ?
								GetTransactionSnapshot() : GetLatestSnapshot());
	result = SPI_execute_snapshot(plan, values, nulls, snapshot, InvalidSnapshot,
								  false, true, 0);
	UnregisterSnapshot(snapshot);
	SetUserIdAndSecContext(save_userid, save_sec_context);
	if (result < 0)
		elog(ERROR, "SPI_execute_snapshot failed: %s", SPI_result_code_string(result));
	return result;
}
