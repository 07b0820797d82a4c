/*
 * sweep.c
 *	  Removing the usage of keys and databases that are gone.
 */
#include "postgres.h"

#include "access/genam.h"
#include "access/htup_details.h"
#include "access/xact.h"
#include "access/xlog.h"
#include "miscadmin.h"
#include "utils/builtins.h"
#include "utils/fmgroids.h"
#include "utils/memutils.h"
#include "utils/rel.h"
#include "utils/snapmgr.h"
#include "utils/syscache.h"

#include "batch.h"
#include "compat.h"
#include "pending.h"
#include "rows.h"
#include "sweep.h"
#include "write.h"

#define SLICE		1000		/* keys in one transaction */

/* A part of amt_key_usage, and its rows of keys that are gone. */
typedef struct Slice
{
	AmtBatch   *batch;
	struct
	{
		uint32		len;
		char		id[AMT_ID_MAX];
	}			last,			/* where the slice ends */
				orphan[SLICE];
	int			norphans;
	bool		advanced;		/* has "last" changed? */
} Slice;

static void
note_orphan(const char *id, Size id_len, Slice *slice)
{
	if (id_len > AMT_ID_MAX)
		return;					/* the table's owner has forced it in */
	slice->advanced = true;
	slice->last.len = id_len;
	memcpy(slice->last.id, id, id_len);
	if (amt_batch_presence(slice->batch, id, id_len, NULL, NULL) == AMT_ABSENT)
		slice->orphan[slice->norphans++] = slice->last;
}

/*
 * Visit the rows after slice->last, in the order of their ids.  True if there
 * may be more.
 */
static bool
visit_slice(Relation rel, Slice *slice)
{
	Relation	index = index_open(amt_index(rel, AMT_USAGE_BY_ID), AccessShareLock);
	Snapshot	snapshot = amt_newest_snapshot();
	Datum		place = PointerGetDatum(cstring_to_text_with_len(slice->last.id, slice->last.len));
	ScanKeyData key;
	SysScanDesc scan;
	HeapTuple	tuple;
	int			n = 0;

	ScanKeyEntryInitialize(&key, 0, Anum_amt_key_usage_key_id, BTGreaterStrategyNumber, InvalidOid,
						   index->rd_indcollation[0], F_TEXT_GT, place);
	scan = systable_beginscan_ordered(rel, index, snapshot, 1, &key);
	while (n < SLICE && HeapTupleIsValid(tuple = systable_getnext_ordered(scan, ForwardScanDirection)))
	{
		bool		isnull;
		Datum		value = heap_getattr(tuple, Anum_amt_key_usage_key_id,
										 RelationGetDescr(rel), &isnull);
		text	   *id;

		CHECK_FOR_INTERRUPTS();
		if (isnull)
			continue;
		id = DatumGetTextPP(value);
		note_orphan(VARDATA_ANY(id), VARSIZE_ANY_EXHDR(id), slice);
		if ((Pointer) id != DatumGetPointer(value))
			pfree(id);
		n++;
	}
	systable_endscan_ordered(scan);
	UnregisterSnapshot(snapshot);
	index_close(index, AccessShareLock);
	return n == SLICE;
}

/*
 * Delete the rows of a slice whose keys are gone; false at the end of the
 * table, or if no row has a valid id.
 */
static bool
sweep_slice(AmtBatch *batch, Slice *slice)
{
	AmtWrite	write;
	bool		busy;
	bool		more;

	slice->batch = batch;
	slice->norphans = 0;
	slice->advanced = false;
	more = visit_slice(batch->usage, slice) && slice->advanced;
	if (slice->norphans == 0)
		return more;
	amt_write_begin(&write, batch->usage);
	for (int i = 0; i < slice->norphans; i++)
	{
		const char *id = slice->orphan[i].id;
		Size		id_len = slice->orphan[i].len;

		/* Look again: the key may have come back, and its row been written. */
		if (amt_write_lock(&write, batch->usage_index, id, id_len, true, &busy) &&
			amt_batch_presence(batch, id, id_len, NULL, NULL) == AMT_ABSENT)
			amt_write_delete(&write);
	}
	amt_write_end(&write);
	return more;
}

static bool
sweep_in_transaction(Slice *slice)
{
	Oid			extension;
	AmtBatch	batch;
	bool		more = false;

	amt_batch_timeout(true);
	amt_batch_begin();
	extension = amt_extension_here();
	if (OidIsValid(extension) && amt_batch_open(&batch, extension, RowExclusiveLock))
	{
		more = sweep_slice(&batch, slice);
		amt_batch_close(&batch);
	}
	amt_batch_timeout(false);
	amt_batch_commit();
	return more;
}

/*
 * A subscriber, or code of others on the table, may leave the usage of a key
 * that is gone.  Nobody sees it, so there is no hurry.  Each worker sweeps once.  It starts
 * at an id that depends on its pid, goes to the end, and then from the
 * beginning.  A table that is locked, or an error, ends that early.
 */
bool
amt_sweep_usage(void)
{
	static Slice *slice = NULL;
	static bool wrapped = false;
	MemoryContext oldcontext = CurrentMemoryContext;
	volatile bool more = false;

	if (RecoveryInProgress())
		return false;
	if (slice == NULL)
	{
		slice = MemoryContextAllocZero(TopMemoryContext, sizeof(Slice));
		slice->last.len = 1;
		slice->last.id[0] = '0' + (uint32) MyProcPid % ('z' - '0');
	}
	PG_TRY();
	{
		more = sweep_in_transaction(slice);
	}
	PG_CATCH();
	{
		amt_batch_recover(oldcontext);
	}
	PG_END_TRY();
	if (!more && !wrapped)
	{
		wrapped = true;
		slice->last.len = 0;
		more = true;
	}
	return more;
}

/*
 * A database may be dropped before its last calls are written, and a new one
 * may get its OID.  So the workers of other databases drop the old entries,
 * if they are of the first databases that are found.
 */
static void
drop_databases(void)
{
	Oid			database[64];
	int			n;

	amt_batch_timeout(true);
	amt_batch_begin();
	amt_batch_attach();
	n = amt_entry_databases(database, lengthof(database));
	for (int i = 0; i < n; i++)
		if (database[i] != MyDatabaseId &&
			!SearchSysCacheExists1(DATABASEOID, ObjectIdGetDatum(database[i])))
			amt_entry_drop_database(database[i]);
	amt_batch_timeout(false);
	amt_batch_commit();
}

void
amt_sweep_databases(void)
{
	MemoryContext oldcontext = CurrentMemoryContext;

	PG_TRY();
	{
		drop_databases();
	}
	PG_CATCH();
	{
		amt_batch_recover(oldcontext);	/* the catalog is locked; later */
	}
	PG_END_TRY();
}
