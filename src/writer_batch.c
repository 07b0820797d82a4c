/*
 * writer_batch.c
 *	  What the background worker writes, in batches.
 *
 * A batch is a short transaction of its own.  Its values are totals, never
 * increments, so that a worker that dies anywhere loses nothing and the next
 * one writes nothing twice.  The names in brackets are labels of test/model.
 *
 * The worker waits for nobody.  It locks tables only if it can at once.  It leaves
 * for later: rows that somebody else has locked, and the calls of a key that a
 * transaction in progress creates, changes or deletes.
 *
 * A batch runs code of the tables' owner.  If it takes longer than a second, it
 * is cancelled, and if that does not end it, the worker is terminated.
 *
 * If nobody else is writing amt_key_usage, the worker takes all of it for the
 * batch, and need not lock each row.  A revocation then waits for one batch.
 */
#include "postgres.h"

#include "access/table.h"
#include "access/xact.h"
#include "access/xlog.h"
#include "miscadmin.h"
#include "storage/latch.h"
#include "storage/lmgr.h"
#include "utils/builtins.h"
#include "utils/memutils.h"
#include "utils/rel.h"
#include "utils/snapmgr.h"
#include "utils/syscache.h"
#include "utils/timeout.h"
#include "utils/timestamp.h"

#include "compat.h"
#include "entry.h"
#include "newest.h"
#include "pending.h"
#include "rows.h"
#include "stat.h"
#include "write.h"
#include "writer_batch.h"

#define BATCH		1000
#define BATCH_MS	1000		/* that a batch may take */

static TimeoutId batch_timeout;
static volatile sig_atomic_t timeouts = 0;

/* In a signal handler: cancel the batch, and later terminate the worker. */
static void
handle_batch_timeout(void)
{
	if (timeouts++ == 0)
		QueryCancelPending = true;
	else
		ProcDiePending = true;
	InterruptPending = true;
	SetLatch(MyLatch);
}

static void
set_batch_timeout(bool enable)
{
	disable_timeout(batch_timeout, false);
	timeouts = 0;
	QueryCancelPending = false;
	if (enable)
		enable_timeout_every(batch_timeout,
							 TimestampTzPlusMilliseconds(GetCurrentTimestamp(), BATCH_MS),
							 BATCH_MS);
}

void
amt_batch_init(void)
{
	batch_timeout = RegisterTimeout(USER_TIMEOUT, handle_batch_timeout);
}

/* The tables of a batch. */
typedef struct Batch
{
	Relation	key;
	Relation	usage;
	bool		exclusive;		/* nobody else can write usage */
	Oid			usage_index;
} Batch;

static bool
open_tables(Batch *batch, Oid extension)
{
	batch->key = amt_open_nowait(extension, AMT_KEY, AccessShareLock);
	if (batch->key == NULL)
		return false;
	batch->usage = NULL;
	batch->exclusive = false;
	if (RecoveryInProgress())
		return true;
	batch->usage = amt_open_nowait(extension, AMT_KEY_USAGE, ExclusiveLock);
	batch->exclusive = batch->usage != NULL;
	if (batch->usage == NULL)
		batch->usage = amt_open_nowait(extension, AMT_KEY_USAGE, RowExclusiveLock);
	if (batch->usage == NULL)
	{
		table_close(batch->key, AccessShareLock);
		return false;
	}
	batch->usage_index = amt_index(batch->usage, AMT_USAGE_BY_ID);
	return true;
}

static void
close_tables(Batch *batch)
{
	if (batch->usage != NULL)
		table_close(batch->usage, NoLock);
	table_close(batch->key, NoLock);
}

/* K1: is the key of the entry there, and nobody changing it? */
static AmtPresence
get_presence(Batch *batch, const AmtDue *due)
{
	AmtPresence presence;
	AmtKey		key;
	Size		len;
	const char *stored;

	if (due->table != RelationGetRelid(batch->key))
		return AMT_ABSENT;
	presence = amt_key_presence(batch->key, due->id, due->id_len, &key);
	if (presence == AMT_PRESENT)
	{
		stored = amt_key_stored_hash(&key, &len);
		if (amt_entry_hash(stored, len) != due->hash_tag)
			return AMT_ABSENT;	/* another key has this id now */
	}
	return presence;
}

/* Can the calls be written now?  Drops the entry of a key that is gone. */
static bool
is_writable(Batch *batch, const AmtDue *due)
{
	AmtPresence presence = get_presence(batch, due);

	if (presence == AMT_ABSENT)
		(void) amt_entry_drop(due);
	return presence == AMT_PRESENT && batch->usage != NULL;
}

/* The stored row that is locked. */
static void
get_stored(AmtWrite *write, uint64 *calls, TimestampTz *last_used_at)
{
	bool		isnull;
	Datum		value = slot_getattr(write->old_row, Anum_amt_key_usage_calls, &isnull);

	*calls = isnull ? 0 : (uint64) Max(DatumGetInt64(value), 0);
	value = slot_getattr(write->old_row, Anum_amt_key_usage_last_used_at, &isnull);
	*last_used_at = isnull ? DT_NOBEGIN : DatumGetTimestampTz(value);
}

/* Write the total of one key; *inserted if that is its first row. */
static bool
write_total(Batch *batch, AmtWrite *write, AmtDue *due, bool *inserted)
{
	static const AttrNumber columns[2] = {
		Anum_amt_key_usage_calls, Anum_amt_key_usage_last_used_at
	};
	Datum		values[Natts_amt_key_usage];
	bool		nulls[Natts_amt_key_usage] = {false};
	uint64		stored = 0;
	TimestampTz last_used_at = DT_NOBEGIN;
	bool		found;
	bool		busy = false;

	*inserted = false;
	found = batch->exclusive ?
		amt_write_find(write, batch->usage_index, due->id, due->id_len) :
		amt_write_lock(write, batch->usage_index, due->id, due->id_len, true, &busy);
	if (busy)
		return false;
	if (found)
		get_stored(write, &stored, &last_used_at);

	/* W2: nothing of this entry's calls can be in the row yet. */
	if (!due->base_known)
	{
		due->base = stored;
		if (!amt_entry_set_base(due, stored))
			return false;		/* it is another entry by now */
	}

	/* W3 */
	values[Anum_amt_key_usage_calls - 1] = Int64GetDatum((int64) Max(stored, due->base + due->counted));
	values[Anum_amt_key_usage_last_used_at - 1] = TimestampTzGetDatum(Max(last_used_at, due->used_at));
	if (found)
		amt_write_update(write, 2, columns, values + 1, nulls + 1);
	else
	{
		values[Anum_amt_key_usage_key_id - 1] =
			PointerGetDatum(cstring_to_text_with_len(due->id, due->id_len));
		*inserted = amt_write_insert(write, values, nulls, Natts_amt_key_usage);
	}
	return true;
}

/*
 * K2: a key may have been deleted after we looked at it and before its first
 * row was inserted.  Its revoker found no row then, so ours must go.
 */
static void
give_up_first_rows(Batch *batch, AmtDue *due, const bool *inserted, int n)
{
	for (int i = 0; i < n; i++)
	{
		AmtWrite	write;
		bool		busy;

		if (!inserted[i] || get_presence(batch, &due[i]) == AMT_PRESENT)
			continue;
		amt_write_begin(&write, batch->usage);
		if (amt_write_lock(&write, batch->usage_index, due[i].id, due[i].id_len, true, &busy))
			amt_write_delete(&write);
		amt_write_end(&write);
		due[i].done = false;
	}
}

static void
write_keys(Batch *batch, AmtDue *due, int n)
{
	bool		inserted[BATCH] = {false};
	bool		any_inserted = false;
	AmtWrite	write;

	if (batch->usage != NULL)
		amt_write_begin(&write, batch->usage);
	for (int i = 0; i < n; i++)
	{
		CHECK_FOR_INTERRUPTS();
		if (is_writable(batch, &due[i]))
			due[i].done = write_total(batch, &write, &due[i], &inserted[i]);
		any_inserted = any_inserted || inserted[i];
	}
	if (batch->usage != NULL)
		amt_write_end(&write);
	if (any_inserted)
		give_up_first_rows(batch, due, inserted, n);
}

/* One batch, in a transaction of its own; may raise an error. */
static void
write_batch(AmtDue *due, int n)
{
	Oid			extension;
	Batch		batch;

	for (int i = 0; i < n; i++)
		due[i].done = false;
	set_batch_timeout(true);
	StartTransactionCommand();
	extension = amt_extension_here();
	if (!OidIsValid(extension))
	{
		for (int i = 0; i < n; i++)
			(void) amt_entry_drop(&due[i]);
	}
	else if (open_tables(&batch, extension))
	{
		write_keys(&batch, due, n);
		close_tables(&batch);
	}
	CommitTransactionCommand(); /* W4 */
	set_batch_timeout(false);

	for (int i = 0; i < n; i++)
	{
		if (!due[i].done)
			continue;
		amt_entry_set_written(&due[i]); /* W5 */
		amt_stat_add(AMT_CALLS_FLUSHED, due[i].counted - due[i].written);
	}
}

/* The same; on an error, log it once until a batch succeeds, and go on. */
static bool
try_batch(AmtDue *due, int n, bool *cancelled)
{
	static bool reported = false;
	MemoryContext oldcontext = CurrentMemoryContext;
	volatile bool done = false;

	*cancelled = false;
	PG_TRY();
	{
		write_batch(due, n);
		done = true;
		reported = false;
	}
	PG_CATCH();
	{
		ErrorData  *error;

		HOLD_INTERRUPTS();
		MemoryContextSwitchTo(oldcontext);
		error = CopyErrorData();
		FlushErrorState();
		AbortCurrentTransaction();
		set_batch_timeout(false);
		RESUME_INTERRUPTS();
		MemoryContextSwitchTo(oldcontext);
		*cancelled = error->sqlerrcode == ERRCODE_QUERY_CANCELED;
		amt_stat_add(AMT_WORKER_FAILURES, 1);
		if (!reported)
			ereport(LOG,
					(errcode(error->sqlerrcode),
					 errmsg("amt_keys could not write counted calls: %s", error->message),
					 errdetail("They wait in memory; this is reported once until a write succeeds."),
					 error->context != NULL ? errcontext("%s", error->context) : 0));
		reported = true;
		FreeErrorData(error);
	}
	PG_END_TRY();
	return done;
}

/* Is there an entry of the batch whose calls were not written? */
static bool
any_left(const AmtDue *due, int n)
{
	for (int i = 0; i < n; i++)
		if (!due[i].done)
			return true;
	return false;
}

bool
amt_write_pending(bool *left)
{
	AmtDue	   *due = MemoryContextAllocHuge(TopMemoryContext, sizeof(AmtDue) * BATCH);
	uint32		place = 0;
	bool		more = true;
	bool		done = true;

	*left = false;
	while (more)
	{
		bool		cancelled;
		int			n = amt_entry_collect(MyDatabaseId, &place, due, BATCH, &more);

		if (n == 0)
			continue;
		if (try_batch(due, n, &cancelled))
		{
			*left = *left || any_left(due, n);
			continue;
		}
		done = false;
		*left = true;
		if (cancelled)
			break;				/* do not try a thousand times a second */
		/* One key's trouble must not stop the others. */
		for (int i = 0; n > 1 && i < n && !cancelled; i++)
			(void) try_batch(&due[i], 1, &cancelled);
		CHECK_FOR_INTERRUPTS();
	}
	pfree(due);
	return done;
}

/* Stored usage of keys that are gone. */
typedef struct Orphans
{
	Relation	key;
	int			n;
	struct
	{
		uint32		len;
		char		id[AMT_ID_MAX];
	}			id[BATCH];
} Orphans;

static bool
note_orphan(const char *id, Size id_len, void *arg)
{
	Orphans    *orphans = arg;
	AmtKey		key;

	if (id_len <= AMT_ID_MAX && amt_key_presence(orphans->key, id, id_len, &key) == AMT_ABSENT)
	{
		orphans->id[orphans->n].len = id_len;
		memcpy(orphans->id[orphans->n].id, id, id_len);
		orphans->n++;
	}
	return orphans->n < BATCH;
}

static void
sweep(Batch *batch)
{
	Orphans    *orphans = palloc(sizeof(Orphans));
	AmtWrite	write;
	bool		busy;

	orphans->key = batch->key;
	orphans->n = 0;
	amt_usage_visit(batch->usage, note_orphan, orphans);
	amt_write_begin(&write, batch->usage);
	for (int i = 0; i < orphans->n; i++)
		if (amt_write_lock(&write, batch->usage_index, orphans->id[i].id, orphans->id[i].len,
						   true, &busy))
			amt_write_delete(&write);
	amt_write_end(&write);
}

/*
 * Logical replication and a crash may leave the usage of a key that is gone.
 * Nobody sees it, so one sweep of at most a batch is enough each time.
 */
void
amt_sweep_usage(void)
{
	MemoryContext oldcontext = CurrentMemoryContext;

	if (RecoveryInProgress())
		return;
	PG_TRY();
	{
		Oid			extension;
		Batch		batch;

		set_batch_timeout(true);
		StartTransactionCommand();
		extension = amt_extension_here();
		if (OidIsValid(extension) && open_tables(&batch, extension))
		{
			sweep(&batch);
			close_tables(&batch);
		}
		CommitTransactionCommand();
		set_batch_timeout(false);
	}
	PG_CATCH();
	{
		HOLD_INTERRUPTS();
		MemoryContextSwitchTo(oldcontext);
		FlushErrorState();
		AbortCurrentTransaction();
		set_batch_timeout(false);
		RESUME_INTERRUPTS();
		MemoryContextSwitchTo(oldcontext);
	}
	PG_END_TRY();
}

static void
drop_all(Oid database)
{
	AmtDue	   *due = palloc(sizeof(AmtDue) * BATCH);
	uint32		place = 0;
	bool		more = true;

	while (more)
	{
		int			n = amt_entry_collect(database, &place, due, BATCH, &more);

		for (int i = 0; i < n; i++)
			(void) amt_entry_drop(&due[i]);
	}
	pfree(due);
}

/*
 * A database may be dropped before its last calls are written.  No worker comes
 * for them any more, so the workers of other databases drop them.
 */
void
amt_sweep_databases(void)
{
	Oid			database[64];
	int			n = amt_entry_databases(database, lengthof(database));

	StartTransactionCommand();
	for (int i = 0; i < n; i++)
		if (database[i] != MyDatabaseId &&
			!SearchSysCacheExists1(DATABASEOID, ObjectIdGetDatum(database[i])))
			drop_all(database[i]);
	CommitTransactionCommand();
}
