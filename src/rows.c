/*
 * rows.c
 *	  Reading rows of the extension's tables.
 *
 * Each call takes a new snapshot, and finds a row by an index, or by a hint
 * of its place.  The snapshot is newer than each wait for a lock.  So a
 * revocation counts from the moment it commits, in every isolation level.
 * In parallel mode it takes the active one.  No planner, search_path,
 * operator, policy or privilege takes part: the calling C code must check
 * access.
 *
 * We scan with SnapshotAny and test each version ourselves.  A scan with an
 * MVCC snapshot would leave predicate locks under SERIALIZABLE.
 *
 * The hint may be wrong.  So we pin, lock and check the buffer as if the
 * number were arbitrary.
 */
#include "postgres.h"

#include "access/genam.h"
#include "access/heapam.h"
#include "access/htup_details.h"
#include "access/relscan.h"
#include "access/table.h"
#include "access/xact.h"
#include "catalog/pg_type.h"
#include "miscadmin.h"
#include "storage/bufmgr.h"
#include "storage/bufpage.h"
#include "storage/lmgr.h"
#include "utils/builtins.h"
#include "utils/fmgroids.h"
#include "utils/rel.h"
#include "utils/snapmgr.h"

#include "compat.h"
#include "rows.h"

/* Get the first columns of a row.  The table's owner may have added others. */
static void
deform_row(HeapTuple tuple, TupleDesc tupdesc, int natts, Datum *values, bool *nulls)
{
	Datum		all_values[MaxHeapAttributeNumber];
	bool		all_nulls[MaxHeapAttributeNumber];

	heap_deform_tuple(tuple, tupdesc, all_values, all_nulls);
	memcpy(values, all_values, sizeof(Datum) * natts);
	memcpy(nulls, all_nulls, sizeof(bool) * natts);
}

/* Raise 23502 for a null: the owner may have dropped the constraint. */
static void
check_not_null(TupleDesc tupdesc, const bool *nulls, int attnum)
{
	if (nulls[attnum - 1])
		ereport(ERROR,
				(errcode(ERRCODE_NOT_NULL_VIOLATION),
				 errmsg("null value in column \"%s\" of a table of extension \"amt_keys\"",
						NameStr(TupleDescAttr(tupdesc, attnum - 1)->attname))));
}

void
amt_key_deform(HeapTuple tuple, TupleDesc tupdesc, AmtKey *key)
{
	static const AttrNumber required[] = {
		Anum_amt_key_key_id, Anum_amt_key_org_id, Anum_amt_key_name, Anum_amt_key_role,
		Anum_amt_key_created_at
	};

	deform_row(tuple, tupdesc, Natts_amt_key, key->values, key->nulls);
	for (int i = 0; i < (int) lengthof(required); i++)
		check_not_null(tupdesc, key->nulls, required[i]);
}

/*
 * Get the columns of a row, detoasted.  True means that a value was stored out
 * of line: we may have waited for a lock on its table.
 */
static bool
deform_and_detoast(HeapTuple tuple, TupleDesc tupdesc, AmtKey *key)
{
	bool		fetched = false;

	amt_key_deform(tuple, tupdesc, key);
	for (int i = 0; i < Natts_amt_key; i++)
	{
		if (TupleDescAttr(tupdesc, i)->attlen != -1 || key->nulls[i])
			continue;
		fetched |= VARATT_IS_EXTERNAL(DatumGetPointer(key->values[i]));
		key->values[i] = PointerGetDatum(PG_DETOAST_DATUM_PACKED(key->values[i]));
	}
	return fetched;
}

const char *
amt_key_id_of(const AmtKey *key, Size *len)
{
	text	   *id = DatumGetTextPP(AmtKeyValue(key, key_id));

	*len = VARSIZE_ANY_EXHDR(id);
	return VARDATA_ANY(id);
}

const char *
amt_key_stored_hash(const AmtKey *key, Size *len)
{
	struct varlena *stored;

	if (!AmtKeyIsNull(key, scrypt_hash))
		stored = PG_DETOAST_DATUM_PACKED(AmtKeyValue(key, scrypt_hash));
	else if (!AmtKeyIsNull(key, token_sha256))
		stored = PG_DETOAST_DATUM_PACKED(AmtKeyValue(key, token_sha256));
	else
	{
		*len = 0;
		return "";
	}
	*len = VARSIZE_ANY_EXHDR(stored);
	return VARDATA_ANY(stored);
}

bool
amt_is_visible(SysScanDesc scan, HeapTuple tuple, Snapshot snapshot)
{
	Buffer		buffer = ((BufferHeapTupleTableSlot *) scan->slot)->buffer;
	bool		visible;

	LockBuffer(buffer, BUFFER_LOCK_SHARE);
	visible = HeapTupleSatisfiesVisibility(tuple, snapshot, buffer);
	LockBuffer(buffer, BUFFER_LOCK_UNLOCK);
	return visible;
}

Snapshot
amt_newest_snapshot(void)
{
	return RegisterSnapshot(IsInParallelMode() ? GetActiveSnapshot() : GetLatestSnapshot());
}

SysScanDesc
amt_begin_scan(Relation rel, Oid index, ScanKey key, Snapshot *snapshot)
{
	SysScanDesc scan;

	LockRelationOid(index, AccessShareLock);
	*snapshot = amt_newest_snapshot();
	scan = systable_beginscan(rel, index, true, SnapshotAny, 1, key);
	UnlockRelationOid(index, AccessShareLock);	/* the scan holds its own */
	return scan;
}

/* Called for a copy of the row that is found.  True means to look at the row again. */
typedef bool (*RowAction) (HeapTuple tuple, Buffer buffer, TupleDesc tupdesc, void *arg);

/*
 * Copy the visible row by a unique column; NULL if there is none.  The caller
 * must unregister the snapshot.  The buffer is not pinned.
 */
static HeapTuple
find_copy(Relation rel, AmtIndexId index, const ScanKeyData *by, Snapshot *snapshot, Buffer *buffer)
{
	ScanKeyData key = *by;		/* the scan changes it */
	SysScanDesc scan = amt_begin_scan(rel, amt_index(rel, index), &key, snapshot);
	HeapTuple	copy = NULL;
	HeapTuple	tuple;

	while (copy == NULL && HeapTupleIsValid(tuple = systable_getnext(scan)))
	{
		if (!amt_is_visible(scan, tuple, *snapshot))
			continue;
		*buffer = ((BufferHeapTupleTableSlot *) scan->slot)->buffer;
		copy = heap_copytuple(tuple);
	}
	systable_endscan(scan);
	return copy;
}

/* Is it still the visible row? */
static bool
is_current(Relation rel, HeapTuple tuple, Buffer buffer)
{
	AmtRowHint	place = {
		buffer, ItemPointerGetBlockNumber(&tuple->t_self), ItemPointerGetOffsetNumber(&tuple->t_self)
	};
	Snapshot	snapshot = amt_newest_snapshot();
	HeapTuple	there = amt_row_by_hint(rel, snapshot, &place);

	UnregisterSnapshot(snapshot);
	return there != NULL &&
		TransactionIdEquals(HeapTupleHeaderGetXmin(there->t_data), HeapTupleHeaderGetXmin(tuple->t_data));
}

/*
 * Do something with the visible row by a unique column.  The action may wait
 * for the table of large values.  We hold no lock on the index then, since
 * REINDEX locks both in the other order.  If the action says so, we look at
 * the row again: it may have been changed while we read.
 */
static bool
find_row(Relation rel, AmtIndexId index, AttrNumber attnum, RegProcedure equal, Datum value,
		 RowAction action, void *arg)
{
	ScanKeyData key;

	ScanKeyInit(&key, attnum, BTEqualStrategyNumber, equal, value);
	for (;;)
	{
		Snapshot	snapshot;
		Buffer		buffer;
		HeapTuple	tuple = find_copy(rel, index, &key, &snapshot, &buffer);
		bool		again = tuple != NULL && action(tuple, buffer, RelationGetDescr(rel), arg);

		UnregisterSnapshot(snapshot);
		if (!again || BufferIsLocal(buffer) || is_current(rel, tuple, buffer))
			return tuple != NULL;
		CHECK_FOR_INTERRUPTS();
	}
}

bool
amt_make_id_text(AmtIdText *text_id, const char *id, Size id_len)
{
	if (id_len > AMT_ID_MAX)
		return false;
	SET_VARSIZE(text_id, VARHDRSZ + id_len);
	memcpy(text_id->buffer + VARHDRSZ, id, id_len);
	return true;
}

int
amt_keys_by_prefix(Relation rel, const char *prefix, Size len,
				   bool (*wanted) (const AmtKey *key), AmtKey *keys, int max)
{
	text	   *value = cstring_to_text_with_len(prefix, len);
	HeapTuple  *copies = palloc(sizeof(HeapTuple) * max);
	Snapshot	snapshot;
	SysScanDesc scan;
	ScanKeyData key;
	HeapTuple	tuple;
	int			n = 0;

	ScanKeyInit(&key, Anum_amt_key_token_prefix, BTEqualStrategyNumber, F_TEXTEQ,
				PointerGetDatum(value));
	scan = amt_begin_scan(rel, amt_index(rel, AMT_KEY_BY_PREFIX), &key, &snapshot);
	while (n < max && HeapTupleIsValid(tuple = systable_getnext(scan)))
	{
		CHECK_FOR_INTERRUPTS();
		if (!amt_is_visible(scan, tuple, snapshot))
			continue;
		amt_key_deform(tuple, RelationGetDescr(rel), &keys[n]);
		if (wanted(&keys[n]))
			copies[n++] = heap_copytuple(tuple);
	}
	systable_endscan(scan);		/* see find_row() */
	for (int i = 0; i < n; i++)
		(void) deform_and_detoast(copies[i], RelationGetDescr(rel), &keys[i]);
	UnregisterSnapshot(snapshot);
	explicit_bzero(value, VARHDRSZ + len);	/* it may be a whole token */
	pfree(value);
	return n;
}

typedef struct KeyAndHint
{
	AmtRowHint *hint;			/* NULL unless for a verification */
	AmtKey	   *key;
} KeyAndHint;

static bool
get_key_and_place(HeapTuple tuple, Buffer buffer, TupleDesc tupdesc, void *arg)
{
	KeyAndHint *found = arg;
	bool		fetched = deform_and_detoast(tuple, tupdesc, found->key);

	if (found->hint == NULL)
		return fetched;
	found->hint->buffer = buffer;
	found->hint->block = ItemPointerGetBlockNumber(&tuple->t_self);
	found->hint->offset = ItemPointerGetOffsetNumber(&tuple->t_self);
	return true;				/* a verification: its pages may have come late */
}

/*
 * Get the visible row at the hint's place, if there is one.  The buffer must
 * be locked.
 */
static bool
row_is_there(Relation rel, const AmtRowHint *hint, Snapshot snapshot, HeapTuple tuple)
{
	Page		page = BufferGetPage(hint->buffer);
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
	return HeapTupleSatisfiesVisibility(tuple, snapshot, hint->buffer);
}

bool
amt_key_has_id(const AmtKey *key, const char *id, Size id_len)
{
	Size		len;
	const char *found = amt_key_id_of(key, &len);

	return len == id_len && memcmp(found, id, len) == 0;
}

HeapTuple
amt_row_by_hint(Relation rel, Snapshot snapshot, const AmtRowHint *hint)
{
	HeapTupleData tuple;
	HeapTuple	copy;
	bool		found;

	if (!BufferIsValid(hint->buffer) || BufferIsLocal(hint->buffer) ||
		!amt_read_recent_buffer(rel, hint->block, hint->buffer))
		return NULL;

	LockBuffer(hint->buffer, BUFFER_LOCK_SHARE);
	found = row_is_there(rel, hint, snapshot, &tuple);
	LockBuffer(hint->buffer, BUFFER_LOCK_UNLOCK);

	/* A row that is pinned and visible stays as it is. */
	copy = found ? heap_copytuple(&tuple) : NULL;
	ReleaseBuffer(hint->buffer);
	return copy;
}

/* Like find_row(), at the hint's place. */
static bool
get_by_hint(Relation rel, const AmtRowHint *hint, AmtKey *key)
{
	Snapshot	snapshot;
	HeapTuple	tuple;
	bool		found;

	if (!BufferIsValid(hint->buffer))
		return false;
	snapshot = amt_newest_snapshot();
	tuple = amt_row_by_hint(rel, snapshot, hint);
	found = tuple != NULL;

	/* If it may have waited, use the index. */
	if (found)
		found = !deform_and_detoast(tuple, RelationGetDescr(rel), key);
	UnregisterSnapshot(snapshot);
	return found;
}

bool
amt_key_by_hint(Relation rel, const char *id, Size id_len, AmtRowHint *hint, AmtKey *key)
{
	AmtIdText	text_id;
	KeyAndHint	found_at = {hint, key};

	if (!amt_make_id_text(&text_id, id, id_len))
		return false;
	return (hint != NULL && get_by_hint(rel, hint, key) && amt_key_has_id(key, id, id_len)) ||
		find_row(rel, AMT_KEY_BY_ID, Anum_amt_key_key_id, F_TEXTEQ, PointerGetDatum(&text_id),
				 get_key_and_place, &found_at);
}

static bool
has_sha256(const AmtKey *key, const uint8 sha256[32])
{
	Size		len;
	const char *stored = amt_key_stored_hash(key, &len);

	return !AmtKeyIsNull(key, token_sha256) && AmtKeyIsNull(key, scrypt_hash) &&
		len == 32 && memcmp(stored, sha256, len) == 0;
}

bool
amt_key_by_sha256(Relation rel, const uint8 sha256[32], AmtRowHint *hint, AmtKey *key)
{
	union
	{
		struct varlena header;
		int32		aligned;
		char		buffer[VARHDRSZ + 32];
	}			value;
	KeyAndHint	found_at = {hint, key};

	SET_VARSIZE(&value, sizeof(value.buffer));
	memcpy(value.buffer + VARHDRSZ, sha256, 32);
	return (get_by_hint(rel, hint, key) && has_sha256(key, sha256)) ||
		find_row(rel, AMT_KEY_BY_SHA256, Anum_amt_key_token_sha256, F_BYTEAEQ,
				 PointerGetDatum(&value), get_key_and_place, &found_at);
}

bool
amt_key_by_id(Relation rel, const char *id, Size id_len, AmtKey *key)
{
	return amt_key_by_hint(rel, id, id_len, NULL, key);
}

bool
amt_key_get(Oid extension, const char *id, Size id_len, Oid *table, AmtKey *key)
{
	Relation	rel = amt_open(extension, AMT_KEY, AccessShareLock);
	bool		found = amt_key_by_id(rel, id, id_len, key);

	if (table != NULL)
		*table = RelationGetRelid(rel);
	/* Unlock at once: a login must not block DDL. */
	table_close(rel, AccessShareLock);
	return found;
}

static bool
note_xmin(HeapTuple tuple, Buffer buffer, TupleDesc tupdesc, void *arg)
{
	*(TransactionId *) arg = HeapTupleHeaderGetXmin(tuple->t_data);
	return false;
}

bool
amt_key_is_ours(Oid extension, const char *id, Size id_len)
{
	Relation	rel = amt_open(extension, AMT_KEY, AccessShareLock);
	AmtIdText	text_id;
	TransactionId xmin = InvalidTransactionId;

	if (amt_make_id_text(&text_id, id, id_len))
		(void) find_row(rel, AMT_KEY_BY_ID, Anum_amt_key_key_id, F_TEXTEQ, PointerGetDatum(&text_id),
						note_xmin, &xmin);
	table_close(rel, AccessShareLock);
	return TransactionIdIsCurrentTransactionId(xmin);
}

typedef struct StoredUsage
{
	int64		calls;
	TimestampTz last_used_at;
} StoredUsage;

static bool
copy_usage(HeapTuple tuple, Buffer buffer, TupleDesc tupdesc, void *arg)
{
	StoredUsage *usage = arg;
	Datum		values[Natts_amt_key_usage];
	bool		nulls[Natts_amt_key_usage];

	deform_row(tuple, tupdesc, Natts_amt_key_usage, values, nulls);
	check_not_null(tupdesc, nulls, Anum_amt_key_usage_calls);
	check_not_null(tupdesc, nulls, Anum_amt_key_usage_last_used_at);
	usage->calls = DatumGetInt64(values[Anum_amt_key_usage_calls - 1]);
	usage->last_used_at = DatumGetTimestampTz(values[Anum_amt_key_usage_last_used_at - 1]);
	return false;
}

bool
amt_usage_get(Oid extension, const char *id, Size id_len, int64 *calls, TimestampTz *last_used_at)
{
	StoredUsage usage = {0, DT_NOBEGIN};
	Relation	rel = amt_open(extension, AMT_KEY_USAGE, AccessShareLock);
	AmtIdText	text_id;
	bool		found = amt_make_id_text(&text_id, id, id_len) &&
	find_row(rel, AMT_USAGE_BY_ID, Anum_amt_key_usage_key_id, F_TEXTEQ, PointerGetDatum(&text_id),
			 copy_usage, &usage);

	table_close(rel, AccessShareLock);
	*calls = usage.calls;
	*last_used_at = usage.last_used_at;
	return found;
}
