/*
 * newest.c
 *	  The newest version of a row, as all transactions together see it.
 *
 * These functions also see rows that another transaction is inserting,
 * changing or deleting.  A writer must wait for it, or skip the row.
 */
#include "postgres.h"

#include "access/genam.h"
#include "access/htup_details.h"
#include "access/tableam.h"
#include "access/xact.h"
#include "miscadmin.h"
#include "storage/lmgr.h"
#include "utils/fmgroids.h"
#include "utils/rel.h"
#include "utils/snapmgr.h"

#include "newest.h"

/*
 * Find the newest version.  The caller must end the scan.
 *
 * "Not found" may be wrong.  The scan copies the matching places from an
 * index page and then visits them.  If an update commits in between, the old
 * version is dead and the new one's place was not copied.  So the caller
 * must look again with a newer snapshot.
 */
static HeapTuple
find_newest(Relation rel, Oid index, AmtIdText *text_id, SnapshotData *dirty, SysScanDesc *scan)
{
	ScanKeyData key;

	InitDirtySnapshot(*dirty);
	ScanKeyInit(&key, 1, BTEqualStrategyNumber, F_TEXTEQ, PointerGetDatum(text_id));
	*scan = systable_beginscan(rel, index, true, dirty, 1, &key);
	return systable_getnext(*scan);
}

/* Is the row at the hint's place the key's, with no transaction changing it? */
static bool
is_present_at(Relation rel, const AmtRowHint *hint, const char *id, Size id_len, AmtKey *key)
{
	SnapshotData dirty;
	HeapTuple	tuple;

	InitDirtySnapshot(dirty);
	tuple = amt_row_by_hint(rel, &dirty, hint);
	if (tuple == NULL || TransactionIdIsValid(dirty.xmin) || TransactionIdIsValid(dirty.xmax))
		return false;
	amt_key_deform(tuple, RelationGetDescr(rel), key);
	return amt_key_has_id(key, id, id_len);
}

AmtPresence
amt_key_presence(Relation rel, const char *id, Size id_len, const AmtRowHint *hint, AmtKey *key)
{
	AmtIdText	text_id;
	SnapshotData dirty;
	SysScanDesc scan;
	HeapTuple	tuple;
	AmtPresence presence = AMT_ABSENT;

	if (!amt_make_id_text(&text_id, id, id_len))
		return AMT_ABSENT;
	if (hint != NULL && is_present_at(rel, hint, id, id_len, key))
		return AMT_PRESENT;
	tuple = find_newest(rel, amt_index(rel, AMT_KEY_BY_ID), &text_id, &dirty, &scan);
	if (HeapTupleIsValid(tuple))
	{
		bool		is_new_version = (tuple->t_data->t_infomask & HEAP_UPDATED) != 0;
		bool		has_new_version = !ItemPointerEquals(&tuple->t_self, &tuple->t_data->t_ctid);

		/* The worker needs few columns: it detoasts them itself. */
		amt_key_deform(heap_copytuple(tuple), RelationGetDescr(rel), key);

		/* A new version may be rolled back: then get the one before it. */
		if (TransactionIdIsValid(dirty.xmin))
			presence = is_new_version && amt_key_by_id(rel, id, id_len, key) ?
				AMT_CHANGING : AMT_COMING;
		else if (TransactionIdIsValid(dirty.xmax))
			presence = has_new_version ? AMT_CHANGING : AMT_GOING;
		else
			presence = AMT_PRESENT;
	}
	systable_endscan(scan);
	if (presence == AMT_ABSENT && amt_key_by_id(rel, id, id_len, key))
		presence = AMT_GOING;	/* an update was missed: it has moved */
	return presence;
}

bool
amt_event_exists(Relation rel, int64 event_id)
{
	SnapshotData dirty;
	SysScanDesc scan;
	ScanKeyData key;
	bool		found;

	InitDirtySnapshot(dirty);
	ScanKeyInit(&key, Anum_amt_key_event_event_id, BTEqualStrategyNumber, F_INT8EQ,
				Int64GetDatum(event_id));
	scan = systable_beginscan(rel, amt_index(rel, AMT_EVENT_BY_ID), true, &dirty, 1, &key);
	found = HeapTupleIsValid(systable_getnext(scan));
	systable_endscan(scan);
	return found;
}

int64
amt_event_last_id(Relation rel, int64 limit)
{
	Relation	index = index_open(amt_index(rel, AMT_EVENT_BY_ID), AccessShareLock);
	SnapshotData dirty;
	SysScanDesc scan;
	ScanKeyData key;
	HeapTuple	tuple;
	int64		last = PG_INT64_MIN;

	InitDirtySnapshot(dirty);
	ScanKeyInit(&key, Anum_amt_key_event_event_id, BTLessStrategyNumber, F_INT8LT,
				Int64GetDatum(limit));
	scan = systable_beginscan_ordered(rel, index, &dirty, 1, &key);
	tuple = systable_getnext_ordered(scan, BackwardScanDirection);

	if (HeapTupleIsValid(tuple))
	{
		bool		isnull;
		Datum		value = heap_getattr(tuple, Anum_amt_key_event_event_id,
										 RelationGetDescr(rel), &isnull);

		if (!isnull)
			last = DatumGetInt64(value);
	}
	systable_endscan_ordered(scan);
	index_close(index, AccessShareLock);
	return last;
}

/*
 * Does a new snapshot see a row with this key id?  A version that this
 * transaction has deleted or changed does not count.  Its command may not
 * have ended, so the snapshot may still see it.
 */
static bool
row_exists(Relation rel, Oid index, AmtIdText *text_id)
{
	Snapshot	snapshot;
	SysScanDesc scan;
	ScanKeyData key;
	HeapTuple	tuple;
	bool		found = false;

	ScanKeyInit(&key, 1, BTEqualStrategyNumber, F_TEXTEQ, PointerGetDatum(text_id));
	scan = amt_begin_scan(rel, index, &key, &snapshot);
	while (!found && HeapTupleIsValid(tuple = systable_getnext(scan)))
		found = amt_is_visible(scan, tuple, snapshot) &&
			((tuple->t_data->t_infomask & HEAP_XMAX_INVALID) != 0 ||
			 HEAP_XMAX_IS_LOCKED_ONLY(tuple->t_data->t_infomask) ||
			 !TransactionIdIsCurrentTransactionId(HeapTupleHeaderGetUpdateXid(tuple->t_data)));
	systable_endscan(scan);
	UnregisterSnapshot(snapshot);
	return found;
}

bool
amt_row_lock(Relation rel, Oid index, const char *id, Size id_len, bool nowait,
			 TupleTableSlot *slot, bool *busy)
{
	AmtIdText	text_id;

	*busy = false;
	if (!amt_make_id_text(&text_id, id, id_len))
		return false;
	for (;;)
	{
		SnapshotData dirty;
		SysScanDesc scan;
		HeapTuple	tuple = find_newest(rel, index, &text_id, &dirty, &scan);
		ItemPointerData place;
		TransactionId in_progress;
		TM_FailureData failure;
		TM_Result	result;

		if (!HeapTupleIsValid(tuple))
		{
			systable_endscan(scan);
			if (!row_exists(rel, index, &text_id))
				return false;
			CHECK_FOR_INTERRUPTS();
			continue;			/* an update was missed */
		}
		place = tuple->t_self;
		in_progress = TransactionIdIsValid(dirty.xmin) ? dirty.xmin : dirty.xmax;
		systable_endscan(scan);
		if (TransactionIdIsValid(in_progress))
		{
			*busy = nowait;
			if (nowait)
				return false;
			XactLockTableWait(in_progress, rel, &place, XLTW_None);
			continue;
		}

		result = table_tuple_lock(rel, &place, GetLatestSnapshot(), slot,
								  GetCurrentCommandId(false), LockTupleExclusive,
								  nowait ? LockWaitSkip : LockWaitBlock, 0, &failure);
		switch (result)
		{
			case TM_Ok:
				return true;
			case TM_WouldBlock:
				*busy = true;
				return false;
			case TM_Updated:
			case TM_Deleted:
				break;			/* look again */
			case TM_Invisible:
			case TM_SelfModified:
				return false;	/* deleted by this transaction itself */
			default:
				elog(ERROR, "unexpected result %d of table_tuple_lock", result);
		}
		CHECK_FOR_INTERRUPTS();
	}
}

bool
amt_row_find(Relation rel, Oid index, const char *id, Size id_len, TupleTableSlot *slot)
{
	AmtIdText	text_id;
	SnapshotData dirty;
	SysScanDesc scan;
	bool		found;

	if (!amt_make_id_text(&text_id, id, id_len))
		return false;
	found = HeapTupleIsValid(find_newest(rel, index, &text_id, &dirty, &scan));
	if (found)
		ExecCopySlot(slot, scan->slot);
	systable_endscan(scan);
	return found;
}
