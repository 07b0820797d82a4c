/*
 * writer.c
 *	  The background worker that writes counted calls.
 *
 * Each database in which calls are counted gets one worker, on demand
 * (writer_slot.c).  Only the worker writes amt_key_usage; a revocation
 * deletes from it.  The worker writes every amt_keys.usage_flush_interval.
 * It leaves after two idle seconds when all is written.  So DROP DATABASE
 * and CREATE DATABASE ... TEMPLATE wait no longer than they do anyway.
 *
 * On a standby the worker only drops the entries of keys that are gone.  It
 * begins to write when recovery has ended.
 */
#include "postgres.h"

#include "miscadmin.h"
#include "pgstat.h"
#include "postmaster/bgworker.h"
#include "postmaster/interrupt.h"
#include "storage/condition_variable.h"
#include "storage/fd.h"
#include "storage/ipc.h"
#include "storage/latch.h"
#include "storage/procarray.h"
#include "utils/guc.h"
#include "utils/pidfile.h"
#include "utils/timeout.h"
#include "utils/timestamp.h"

#include "batch.h"
#include "compat.h"
#include "elapsed.h"
#include "entry.h"
#include "pending.h"
#include "stat.h"
#include "sweep.h"
#include "table_code.h"
#include "writer.h"
#include "writer_batch.h"
#include "writer_slot.h"

#define START_MS		500		/* between two looks whether to give up starting */
#define IDLE_MS			2000	/* without a call until the worker leaves */
#define POLL_MS			500		/* between two looks for calls */
#define FAILED_MS		5000	/* from a failed write to the next */
#define TRIM_MS			10000	/* between two looks for entries to drop */
#define SWEEP_MS		50		/* for sweeping between two writes */
#define GIVE_UP_MS		1000	/* for the last write, if it fails, or another
								 * worker can write the rest */
#define STOP_MS			30000	/* for the last write, if the server stops */
#define LAST_MS			1500	/* for other backends, before the last write */
#define LAST_POLL_MS	50

PGDLLEXPORT void amt_writer_main(Datum arg);

static int	usage_flush_interval = 1000;

void
amt_writer_init(void)
{
	DefineCustomIntVariable("amt_keys.usage_flush_interval",
							"Sets the time between two writes of counted calls.",
							"Until then they are in shared memory, and a crash of the server loses them.",
							&usage_flush_interval,
							1000, 10, 3600 * 1000,
							PGC_SIGHUP, GUC_UNIT_MS, NULL, NULL, NULL);
}

static void
release_on_exit(int code, Datum arg)
{
	if (code == 0)
		amt_slot_release(0);
	else
	{
		amt_stat_add(AMT_WORKER_FAILURES, 1);
		amt_slot_release(GetCurrentTimestamp());
		amt_slot_ask_for_successor();
	}
}

/* Milliseconds until the next look: not later than the next write is due. */
static long
time_to_look(TimestampTz written_at)
{
	TimestampTz due = TimestampTzPlusMilliseconds(written_at, usage_flush_interval);
	long		left = TimestampDifferenceMilliseconds(GetCurrentTimestamp(), due);
	long		poll = Min(Max(usage_flush_interval / 2, 5), POLL_MS);

	return left > 0 ? Min(left, poll) : poll;
}

static void
wait_for_latch(long timeout)
{
	static uint32 wait_event = 0;

	if (wait_event == 0)
		wait_event = amt_wait_event("AmtKeysWriter");
	(void) WaitLatch(MyLatch, WL_LATCH_SET | WL_TIMEOUT | WL_EXIT_ON_PM_DEATH,
					 timeout, wait_event);
	ResetLatch(MyLatch);
	CHECK_FOR_INTERRUPTS();
	if (ConfigReloadPending)
	{
		ConfigReloadPending = false;
		ProcessConfigFile(PGC_SIGHUP);
	}
}

static uint64
unwritten_here(void)
{
	AmtEntrySums sums;

	amt_batch_begin();
	amt_batch_attach();
	amt_entry_sum(MyDatabaseId, &sums);
	amt_batch_commit();
	return sums.unwritten;
}

/* Write as amt_write_pending() does, and wake the backends that wait for it. */
static bool
write_now(const AmtLimits *limits, bool *left)
{
	bool		is_mine = amt_my_slot != NULL && amt_my_slot->pid == MyProcPid;	/* not released */
	bool		done;

	if (is_mine)
		amt_my_slot->hurry = false;
	pgstat_report_activity(STATE_RUNNING, "writing counted calls");
	done = amt_write_pending(limits, left);
	if (!done && is_mine)
		amt_my_slot->failures++;
	(void) pgstat_report_stat(true);	/* for autovacuum */
	pgstat_report_activity(STATE_IDLE, NULL);
	ConditionVariableBroadcast(amt_writer_written());
	return done;
}

/*
 * Leave, unless a call was counted in the last moment.  We see the call, or
 * the backend sees that the slot is free.
 */
static bool
try_to_leave(void)
{
	amt_slot_release(0);
	pg_memory_barrier();
	return unwritten_here() == 0 || !amt_slot_claim();
}

/* In a transaction: parts of the table may have to be mapped. */
static void
trim_entries(void)
{
	amt_batch_begin();
	amt_batch_attach();
	amt_entry_trim();
	amt_batch_commit();
}

/* Sweep until the time is over, or all is done; true if there may be more. */
static bool
sweep_for_a_while(void)
{
	TimestampTz since = GetCurrentTimestamp();
	bool		more = true;

	while (more && !amt_elapsed(since, GetCurrentTimestamp(), SWEEP_MS))
		more = amt_sweep_usage();
	return more;
}

/* Write every interval, until no call was counted for two seconds. */
static void
write_until_idle(void)
{
	TimestampTz counted_at = GetCurrentTimestamp();
	TimestampTz trimmed_at = counted_at;
	TimestampTz written_at = 0;
	int			wait_ms = 0;	/* longer after a failure */
	bool		left = true;	/* may there be something to write? */
	bool		sweeping = true;

	while (!ShutdownRequestPending)
	{
		TimestampTz now;
		int			interval;

		wait_for_latch(time_to_look(written_at));
		now = GetCurrentTimestamp();
		if (amt_my_slot->counted)
		{
			amt_my_slot->counted = false;
			counted_at = now;
			left = true;
		}
		pg_memory_barrier();	/* read the flag before the entries */

		/*
		 * When no call is counted any more, a long interval must not keep us.
		 */
		interval = amt_elapsed(counted_at, now, IDLE_MS) ?
			Min(usage_flush_interval, IDLE_MS) : usage_flush_interval;
		if (amt_my_slot->hurry)
			left = true;
		if (left &&
			amt_elapsed(written_at, now,
						amt_my_slot->hurry ? Min(usage_flush_interval, wait_ms) : Max(interval, wait_ms)))
		{
			written_at = now;
			wait_ms = write_now(NULL, &left) ? 0 : FAILED_MS;
		}
		if (sweeping)
			sweeping = sweep_for_a_while();
		if (amt_elapsed(trimmed_at, now, TRIM_MS))
		{
			amt_sweep_databases();
			trim_entries();
			trimmed_at = now;
		}
		if (!left && amt_elapsed(counted_at, now, IDLE_MS))
		{
			trim_entries();
			if (try_to_leave())
				return;
			left = true;
		}
	}
}

/* Does the postmaster's file say that the server stops?  True if in doubt. */
static bool
server_stops(void)
{
	FILE	   *file = AllocateFile("postmaster.pid", "r");
	char		line[MAXPGPATH];
	bool		found = file != NULL;

	for (int i = 0; found && i < LOCK_FILE_LINE_PM_STATUS; i++)
		found = fgets(line, sizeof(line), file) != NULL;
	if (file != NULL)
		(void) FreeFile(file);
	return !found || strncmp(line, PM_STATUS_STOPPING, strlen(PM_STATUS_STOPPING)) == 0;
}

/*
 * Write once more.  Calls that are left when the server stops are lost.  When
 * only this worker was terminated, the next one writes them: perhaps DROP
 * DATABASE waits.
 */
static void
write_rest(bool server_stopping)
{
	TimestampTz now = GetCurrentTimestamp();
	AmtLimits	limits;
	bool		left;
	uint64		lost;

	limits.give_up_at = TimestampTzPlusMilliseconds(now, GIVE_UP_MS);
	limits.stop_at = TimestampTzPlusMilliseconds(now, server_stopping ? STOP_MS : GIVE_UP_MS);
	(void) write_now(&limits, &left);
	if (!left)
		return;
	amt_slot_ask_for_successor();
	lost = unwritten_here();
	if (server_stopping && lost > 0)
		ereport(LOG,
				(errmsg("amt_keys could not write " UINT64_FORMAT " counted calls before the server stopped",
						lost)));
}

/*
 * The server stops, or this worker was terminated.  Other backends of the
 * database may still count, so wait for their end, but not long.  Then write
 * once more.  If a new worker has come, it writes.
 */
static void
write_last(void)
{
	amt_slot_release(0);
	for (int waited = 0; waited < LAST_MS; waited += LAST_POLL_MS)
	{
		if (CountDBBackends(MyDatabaseId) <= 1 || amt_slot_is_taken())
			break;
		wait_for_latch(LAST_POLL_MS);
	}
	if (!amt_slot_is_taken() && unwritten_here() > 0)
		write_rest(server_stops());
}

/* Do not fail a hundred times a second where our predecessor has failed. */
static void
wait_after_failure(void)
{
	while (!ShutdownRequestPending &&
		   !amt_elapsed(amt_my_slot->failed_at, GetCurrentTimestamp(), FAILED_MS))
		wait_for_latch(POLL_MS);
}

/* Called in a signal handler. */
static void
end_start(void)
{
	if (!ShutdownRequestPending)
		return;
	ProcDiePending = true;
	InterruptPending = true;
	SetLatch(MyLatch);
}

/*
 * SIGTERM lets us go on, to write what was counted.  But we may wait for a
 * lock of a catalog here, without limit.
 */
static void
connect_to(Oid database)
{
	TimeoutId	start = RegisterTimeout(USER_TIMEOUT, end_start);

	enable_timeout_every(start, TimestampTzPlusMilliseconds(GetCurrentTimestamp(), START_MS),
						 START_MS);
	/* Sessions may still count in a database that allows no new ones. */
	BackgroundWorkerInitializeConnectionByOid(database, InvalidOid, BGWORKER_BYPASS_ALLOWCONN);
	disable_timeout(start, false);

	/* The server's settings for sessions must not stop the worker. */
	SetConfigOption("synchronous_commit", "local", PGC_SUSET, PGC_S_OVERRIDE);
	SetConfigOption("lock_timeout", "0", PGC_SUSET, PGC_S_OVERRIDE);
	SetConfigOption("statement_timeout", "0", PGC_SUSET, PGC_S_OVERRIDE);
	SetConfigOption("exit_on_error", "off", PGC_SUSET, PGC_S_OVERRIDE);
	SetConfigOption("default_transaction_read_only", "off", PGC_SUSET, PGC_S_OVERRIDE);
	SetConfigOption("default_transaction_isolation", "read committed", PGC_SUSET, PGC_S_OVERRIDE);
	SetConfigOption("session_replication_role", "origin", PGC_SUSET, PGC_S_OVERRIDE);
	amt_no_transaction_timeout();
	amt_code_forbid_expressions();
	amt_batch_init();
}

void
amt_writer_main(Datum arg)
{
	pqsignal(SIGHUP, SignalHandlerForConfigReload);
	pqsignal(SIGTERM, SignalHandlerForShutdownRequest);
	BackgroundWorkerUnblockSignals();

	connect_to(DatumGetObjectId(arg));
	(void) unwritten_here();	/* attach */
	before_shmem_exit(release_on_exit, (Datum) 0);
	if (!amt_slot_claim())
		proc_exit(0);
	amt_stat_add(AMT_WORKER_STARTS, 1);

	wait_after_failure();
	amt_sweep_databases();
	write_until_idle();
	if (ShutdownRequestPending)
		write_last();
	proc_exit(0);
}
