/*
 * writer_batch.c
 *	  Writing counted calls in batches.
 *
 * A batch is a short transaction of its own.  It writes totals, never
 * increments.  So a worker that dies anywhere loses nothing, and the next
 * one writes nothing twice.  K1, K2 and W1 to W5 are labels of the model in
 * test/model.
 *
 * The worker must not wait.  It locks a table only if the lock is free.  It
 * leaves for later: rows that another process has locked, and calls of a key
 * that a transaction in progress creates or deletes, or changes while the key
 * has no usage row; all calls while the extension is being created.
 *
 * If the worker can lock all of amt_key_usage at once, it does.  Then it
 * need not lock rows, and a revocation waits for the batch.
 */
#include "postgres.h"

#include "miscadmin.h"
#include "postmaster/interrupt.h"
#include "utils/builtins.h"
#include "utils/memutils.h"
#include "utils/rel.h"
#include "utils/timestamp.h"

#include "batch.h"
#include "compat.h"
#include "elapsed.h"
#include "entry.h"
#include "pending.h"
#include "rows.h"
#include "stat.h"
#include "write.h"
#include "writer_batch.h"

#define BATCH		1000		/* keys in a batch, at most */
#define FIRST_BATCH	125
#define FAST_MS		100			/* a faster batch lets the next one be larger */

/* Is the entry's key there, and is a transaction changing it? */
static AmtPresence
get_presence(AmtBatch *batch, const AmtDue *due)
{
	AmtPresence presence;
	uint64		hash_tag;

	if (due->table != RelationGetRelid(batch->key))
		return AMT_ABSENT;
	presence = amt_batch_presence(batch, due->id, due->id_len, &due->hint, &hash_tag);
	if ((presence == AMT_PRESENT || presence == AMT_CHANGING) && hash_tag != due->hash_tag)
		return AMT_ABSENT;		/* another key has this id now */
	return presence;
}

/*
 * K1: can the calls be written now?  Drops the entry of a key that is gone.
 * A transaction that is changing the key may delete it as well.  It then
 * waits for us if there is a usage row, but would not see a first row.
 */
static bool
is_writable(AmtBatch *batch, const AmtDue *due, bool has_row)
{
	AmtPresence presence = get_presence(batch, due);

	if (presence == AMT_ABSENT)
		(void) amt_entry_drop(due);
	return presence == AMT_PRESENT || (presence == AMT_CHANGING && has_row);
}

/* Get the values of the row that was found. */
static void
get_stored(AmtWrite *write, uint64 *calls, TimestampTz *last_used_at)
{
	bool		isnull;
	Datum		value = slot_getattr(write->old_row, Anum_amt_key_usage_calls, &isnull);

	*calls = isnull ? 0 : (uint64) Max(DatumGetInt64(value), 0);
	value = slot_getattr(write->old_row, Anum_amt_key_usage_last_used_at, &isnull);
	*last_used_at = isnull ? DT_NOBEGIN : DatumGetTimestampTz(value);
}

/*
 * Write the total of one key.  *inserted says whether that is its first row.
 * Returns false if the calls must wait.
 */
static bool
write_total(AmtBatch *batch, AmtWrite *write, AmtDue *due, bool *inserted)
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

	/*
	 * W2: lock the row first.  It then belongs to the key that K1 finds, or
	 * is left of another key with that id.
	 */
	*inserted = false;
	found = batch->exclusive ?
		amt_write_find(write, batch->usage_index, due->id, due->id_len) :
		amt_write_lock(write, batch->usage_index, due->id, due->id_len, true, &busy);
	if (busy || !is_writable(batch, due, found))
		return false;
	if (found)
		get_stored(write, &stored, &last_used_at);

	/*
	 * W2_base: none of this entry's calls can be in the row yet, unless a
	 * worker has set a base since W1.  If the base is known, the entry may be
	 * gone: then the row has this total or a higher one.
	 */
	if (!due->base_known && !amt_entry_set_base(due, stored))
		return false;			/* another entry is there by now */

	/* W3 */
	values[Anum_amt_key_usage_calls - 1] = Int64GetDatum(Max((int64) stored, amt_total(due->base, due->counted)));
	values[Anum_amt_key_usage_last_used_at - 1] = TimestampTzGetDatum(Max(last_used_at, due->used_at));
	if (found)
		amt_write_update(write, 2, columns, values + 1, nulls + 1);
	else
	{
		values[Anum_amt_key_usage_key_id - 1] =
			PointerGetDatum(cstring_to_text_with_len(due->id, due->id_len));
		amt_write_insert(write, values, nulls, Natts_amt_key_usage);
		*inserted = true;
	}
	return true;
}

/*
 * K2: a key may have been deleted after we looked at it and before we
 * inserted its first row.  The revocation found no row then, so we must
 * delete ours.
 */
static void
give_up_first_rows(AmtBatch *batch, AmtDue *due, const bool *inserted, int n)
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
write_keys(AmtBatch *batch, AmtDue *due, int n)
{
	bool		inserted[BATCH] = {false};
	bool		any_inserted = false;
	AmtWrite	write;

	amt_write_begin(&write, batch->usage);
	for (int i = 0; i < n; i++)
	{
		CHECK_FOR_INTERRUPTS();
		due[i].done = write_total(batch, &write, &due[i], &inserted[i]);
		any_inserted = any_inserted || inserted[i];
	}
	amt_write_end(&write);
	if (any_inserted)
		give_up_first_rows(batch, due, inserted, n);
}

/* On a standby, only drop the entries of keys that are gone. */
static void
drop_orphans(AmtBatch *batch, const AmtDue *due, int n)
{
	for (int i = 0; i < n; i++)
	{
		CHECK_FOR_INTERRUPTS();
		(void) is_writable(batch, &due[i], false);
	}
}

/* Was the last batch fast?  Its commit does not count. */
static bool was_fast;

/* Write one batch, in a transaction of its own.  May raise an error. */
static void
write_batch(AmtDue *due, int n)
{
	TimestampTz since = GetCurrentTimestamp();
	Oid			extension;
	AmtBatch	batch;

	for (int i = 0; i < n; i++)
		due[i].done = false;
	amt_batch_timeout(true);
	amt_batch_begin();
	extension = amt_extension_here();
	if (!OidIsValid(extension))
	{
		bool		is_coming = amt_extension_is_coming();

		for (int i = 0; i < n && !is_coming; i++)
			(void) amt_entry_drop(&due[i]);
	}
	else if (amt_batch_open(&batch, extension, ExclusiveLock))
	{
		if (batch.usage != NULL)
			write_keys(&batch, due, n);
		else
			drop_orphans(&batch, due, n);
		amt_batch_close(&batch);
	}
	amt_batch_timeout(false);
	was_fast = !amt_elapsed(since, GetCurrentTimestamp(), FAST_MS);
	amt_batch_commit();			/* W4 */

	amt_batch_begin();
	for (int i = 0; i < n; i++)
		if (due[i].done)
			amt_stat_add(AMT_CALLS_FLUSHED, amt_entry_set_written(&due[i]));	/* W5 */
	amt_batch_commit();
}

/* Has an error been logged since a pass succeeded? */
static bool reported = false;

/*
 * Write one batch.  Logs an error, but only once until a pass succeeds.
 * Returns false then, and the error's code.
 */
static bool
try_batch(AmtDue *due, int n, int *sqlstate)
{
	MemoryContext oldcontext = CurrentMemoryContext;
	volatile bool done = false;

	*sqlstate = 0;
	PG_TRY();
	{
		write_batch(due, n);
		done = true;
	}
	PG_CATCH();
	{
		ErrorData  *error;
		bool		is_ours;

		MemoryContextSwitchTo(oldcontext);
		error = CopyErrorData();
		amt_batch_recover(oldcontext);
		/* The detail of amt_check_code() has names; another may quote a row. */
		is_ours = error->sqlerrcode == ERRCODE_INSUFFICIENT_PRIVILEGE && error->detail != NULL;
		*sqlstate = error->sqlerrcode;
		amt_stat_add(AMT_WORKER_FAILURES, 1);
		if (!reported)
			ereport(LOG,
					(errcode(error->sqlerrcode),
					 errmsg("amt_keys could not write counted calls: %s", error->message),
					 errdetail("They wait in memory; this is reported once until a write succeeds.%s%s",
							   is_ours ? " " : "", is_ours ? error->detail : ""),
					 error->context != NULL ? errcontext("%s", error->context) : 0));
		reported = true;
		FreeErrorData(error);
	}
	PG_END_TRY();
	return done;
}

/* W1.  In a transaction: a part of the table may have to be mapped. */
static int
collect(uint32 *place, AmtDue *due, int max, bool *more)
{
	int			n;

	amt_batch_begin();
	amt_batch_attach();
	n = amt_entry_collect(MyDatabaseId, place, due, max, more);
	amt_batch_commit();
	return n;
}

/* Does the batch have an entry whose calls were not written? */
static bool
any_left(const AmtDue *due, int n)
{
	for (int i = 0; i < n; i++)
		if (!due[i].done)
			return true;
	return false;
}

/* Must the pass end?  "failed" says whether a batch of it has failed. */
static bool
must_stop(const AmtLimits *limits, bool failed)
{
	if (limits == NULL)
		return ShutdownRequestPending;
	return GetCurrentTimestamp() >= (failed ? limits->give_up_at : limits->stop_at);
}

bool
amt_write_pending(const AmtLimits *limits, bool *left)
{
	AmtDue	   *due = MemoryContextAllocHuge(TopMemoryContext, sizeof(AmtDue) * BATCH);
	static int	size = FIRST_BATCH;
	static uint32 start = 0;	/* where the next pass begins */
	uint32		place = limits == NULL ? start : 0;
	bool		whole = place == 0;
	bool		more = true;
	bool		done = true;
	bool		failed = false;
	bool		cancelled = false;	/* was the last batch cancelled? */

	*left = !whole;
	start = 0;
	if (limits != NULL)
		size = Min(size, FIRST_BATCH);	/* rows may be slow to find now */
	while (more && !must_stop(limits, failed))
	{
		uint32		from = place;
		int			sqlstate;
		int			n = collect(&place, due, size, &more);

		if (n == 0)
			continue;
		if (try_batch(due, n, &sqlstate))
		{
			cancelled = false;
			*left = *left || any_left(due, n);
			if (was_fast)
				size = Min(2 * size, BATCH);
			continue;
		}
		done = false;
		*left = true;
		if (sqlstate == ERRCODE_QUERY_CANCELED)
		{
			/* Not a thousand times a second; and rows may be slow to find. */
			size = Max(size / 8, 1);
			if (n == 1)
				start = place;	/* nor must one key stop those behind it */
			if (limits == NULL || cancelled)
				break;
			cancelled = true;
			place = from;
			more = true;
			continue;
		}
		failed = true;
		if (sqlstate == ERRCODE_INSUFFICIENT_PRIVILEGE)
			break;				/* code on the table: no key can be written */
		/* An error of one key must not stop the others. */
		for (int i = 0; n > 1 && i < n && sqlstate != ERRCODE_QUERY_CANCELED && !must_stop(limits, true); i++)
			(void) try_batch(&due[i], 1, &sqlstate);
		CHECK_FOR_INTERRUPTS();
	}
	*left = *left || more;
	if (done && whole)
		reported = false;
	pfree(due);
	return done;
}
