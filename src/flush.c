/*
 * flush.c
 *	  amt_flush_usage(): wait until all calls counted before are in the
 *	  table, except those of keys that its own transaction has changed.
 *
 * The caller writes nothing itself.  It copies the entries with unwritten
 * calls and wakes the worker.  Then it waits until the worker has written
 * the copied calls.
 */
#include "postgres.h"

#include "access/xact.h"
#include "miscadmin.h"
#include "storage/condition_variable.h"
#include "tcop/utility.h"

#include "compat.h"
#include "entry.h"
#include "pending.h"
#include "rows.h"
#include "session.h"
#include "writer_slot.h"

/* Copy every entry of this database with unwritten calls. */
static AmtDue *
collect_all(int *n)
{
	int			size = 1024;
	AmtDue	   *due = palloc(sizeof(AmtDue) * size);
	uint32		place = 0;
	bool		more = true;

	*n = 0;
	while (more)
	{
		if (*n == size)
		{
			size *= 2;
			due = repalloc_huge(due, sizeof(AmtDue) * size);
		}
		*n += amt_entry_collect(MyDatabaseId, &place, due + *n, size - *n, &more);
	}
	return due;
}

typedef enum Outcome
{
	WAITING,
	WRITTEN,
	LEFT_OUT					/* will not be written before we end */
} Outcome;

/* Is it the key that was called?  Another may have its id now. */
static bool
is_stored(Oid extension, const AmtDue *due)
{
	AmtKey		key;

	return amt_key_get(extension, due->id, due->id_len, NULL, &key) &&
		amt_entry_tag_of(&key) == due->hash_tag;
}

/*
 * Are the copied calls written?  A transaction that has changed a key itself
 * keeps the worker from writing its calls.  It must not wait for them.
 */
static Outcome
get_outcome(Oid extension, const AmtDue *due)
{
	bool		gone;

	if (amt_entry_is_written(due, &gone))
		return WRITTEN;
	if (gone)					/* written and evicted, or the key is revoked */
		return is_stored(extension, due) ? WRITTEN : LEFT_OUT;
	if (TransactionIdIsValid(GetTopTransactionIdIfAny()) &&
		(!is_stored(extension, due) || amt_key_is_ours(extension, due->id, due->id_len)))
		return LEFT_OUT;
	return WAITING;
}

/*
 * Returns the number of entries to wait for.  Adds the written calls to
 * *calls.
 */
static int
check_outcomes(Oid extension, AmtDue *due, int n, int64 *calls)
{
	int			waiting = 0;

	for (int i = 0; i < n; i++)
	{
		Outcome		outcome = due[i].done ? LEFT_OUT : get_outcome(extension, &due[i]);

		CHECK_FOR_INTERRUPTS();
		due[i].done = due[i].done || outcome != WAITING;
		if (outcome == WRITTEN)
			*calls += due[i].counted - due[i].written;
		if (!due[i].done)
			waiting++;
	}
	return waiting;
}

PG_FUNCTION_INFO_V1(amt_flush_usage);
Datum
amt_flush_usage(PG_FUNCTION_ARGS)
{
	static uint32 wait_event = 0;
	Oid			extension = amt_extension(fcinfo);
	AmtDue	   *due;
	int			n;
	int64		calls = 0;
	int64		first_failures = -1;

	amt_session_check();
	PreventCommandDuringRecovery("amt_flush_usage()");
	if (!amt_entry_attach())
		PG_RETURN_INT64(0);
	if (wait_event == 0)
		wait_event = amt_wait_event("AmtKeysFlush");

	due = collect_all(&n);
	ConditionVariablePrepareToSleep(amt_writer_written());
	while (check_outcomes(extension, due, n, &calls) > 0)
	{
		uint32		failures = amt_writer_hurry();

		if (first_failures < 0)
			first_failures = failures;
		else if (failures != first_failures)
			ereport(ERROR,
					(errcode(ERRCODE_OBJECT_NOT_IN_PREREQUISITE_STATE),
					 errmsg("the background worker could not write counted calls"),
					 errhint("The server log says why.")));
		(void) ConditionVariableTimedSleep(amt_writer_written(), 100, wait_event);
	}
	ConditionVariableCancelSleep();
	PG_RETURN_INT64(calls);
}
