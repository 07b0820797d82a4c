/*
 * writer.c
 *	  The background worker that writes what was counted.
 *
 * Each database in which something was counted gets one worker, on demand: a
 * process that counts asks the postmaster for it when it finds none.  Only the
 * worker writes amt_key_usage.  It writes every amt_keys.usage_flush_interval,
 * and leaves after two idle seconds when all is written, so DROP DATABASE and
 * CREATE DATABASE ... TEMPLATE need not wait longer than they do anyway.
 *
 * A slot in shared memory says which databases have a worker.  To leave, the
 * worker clears its slot and then looks for unwritten calls once more; a process
 * that counts first counts and then looks at the slot.  One of them sees the
 * other.  A request to the postmaster may fail or be lost.  Then the calls wait in
 * memory, and a process that counts some seconds later asks again.
 *
 * On a standby nothing can be written.  The worker then only drops the entries
 * of keys that are gone, and begins to write when recovery has ended.
 *
 * Locks: the slots' lock, held with no other of ours.
 */
#include "postgres.h"

#include "access/xact.h"
#include "access/xlog.h"
#include "miscadmin.h"
#include "pgstat.h"
#include "postmaster/bgworker.h"
#include "postmaster/interrupt.h"
#include "storage/condition_variable.h"
#include "storage/ipc.h"
#include "storage/latch.h"
#include "storage/lwlock.h"
#include "storage/proc.h"
#include "storage/procarray.h"
#include "utils/guc.h"
#include "utils/timestamp.h"

#include "compat.h"
#include "elapsed.h"
#include "entry.h"
#include "pending.h"
#include "shmem.h"
#include "stat.h"
#include "writer.h"
#include "writer_batch.h"

#define DATABASES		128		/* that can have a worker at once */

#define IDLE_MS			2000	/* without a call before the worker leaves */
#define POLL_MS			500		/* between two looks for calls */
#define ASK_AGAIN_MS	5000	/* between two requests to the postmaster */
#define START_MS		100		/* that a caller waits for a worker's start */
#define TRIM_MS			10000	/* between two looks for entries to drop */
#define LAST_MS			1500	/* that the last write waits for others */
#define LAST_POLL_MS	50

PGDLLEXPORT void amt_writer_main(Datum arg);

typedef struct WriterSlot
{
	Oid			database;		/* whose worker this is, or InvalidOid */
	int			pid;			/* its process, or 0 */
	bool		counted;		/* something was counted since the worker
								 * looked; set without the lock */
	bool		hurry;			/* a backend waits for the next write */
	uint32		failures;		/* writes that failed, of this worker and its
								 * predecessors */
	TimestampTz asked_at;		/* when the postmaster was last asked for it */
} WriterSlot;

typedef struct Writers
{
	LWLock		lock;			/* guards the slots */
	ConditionVariable written;	/* a worker has written something */
	WriterSlot	slot[DATABASES];
} Writers;

static Writers *writers = NULL;
static WriterSlot *my_slot = NULL;
static int	usage_flush_interval = 1000;

static void
init_writers(void *part, const AmtShmemInit *init)
{
	Writers    *new = part;

	LWLockInitialize(&new->lock, init->lock_tranche);
	ConditionVariableInit(&new->written);
}

static void
attach_writers(void *part)
{
	writers = part;
}

void
amt_writer_init(void)
{
	static const AmtShmemPart part = {sizeof(Writers), init_writers, attach_writers};

	amt_shmem_register(&part);
	DefineCustomIntVariable("amt_keys.usage_flush_interval",
							"Sets the time between two writes of counted calls.",
							"Until then they are in shared memory, and a crash of the server loses them.",
							&usage_flush_interval,
							1000, 10, 3600 * 1000,
							PGC_SIGHUP, GUC_UNIT_MS, NULL, NULL, NULL);
}

/*
 * This database's slot; a new one if there is none and "create", or NULL.
 * With the lock held.
 */
static WriterSlot *
find_slot(bool create)
{
	WriterSlot *usable = NULL;
	TimestampTz now = GetCurrentTimestamp();

	for (int i = 0; i < DATABASES; i++)
	{
		WriterSlot *slot = &writers->slot[i];

		if (slot->database == MyDatabaseId)
			return slot;
		if (usable == NULL && slot->pid == 0 && amt_elapsed(slot->asked_at, now, ASK_AGAIN_MS))
			usable = slot;
	}
	if (!create || usable == NULL)
		return NULL;
	memset(usable, 0, sizeof(WriterSlot));
	usable->database = MyDatabaseId;
	return usable;
}

static bool
is_running(volatile WriterSlot *slot)
{
	if (slot == NULL || slot->pid == 0)
		return false;
	pg_read_barrier();			/* it is given to a database first */
	return slot->database == MyDatabaseId;
}

/* Note that the postmaster is asked now; false if that is not called for. */
static bool
note_request(TimestampTz now)
{
	bool		ask = false;

	LWLockAcquire(&writers->lock, LW_EXCLUSIVE);
	my_slot = find_slot(true);
	if (my_slot != NULL && my_slot->pid == 0 &&
		amt_elapsed(my_slot->asked_at, now, ASK_AGAIN_MS))
	{
		my_slot->asked_at = now;
		ask = true;
	}
	LWLockRelease(&writers->lock);
	return ask;
}

/*
 * Wait for a moment until the postmaster has started the process.  If the server
 * is stopped right after a call, a process that has started writes it, but one
 * that was only asked for is never started.
 */
static void
wait_for_start(BackgroundWorkerHandle *handle)
{
	TimestampTz since = GetCurrentTimestamp();
	pid_t		pid;

	while (GetBackgroundWorkerPid(handle, &pid) == BGWH_NOT_YET_STARTED &&
		   !amt_elapsed(since, GetCurrentTimestamp(), START_MS))
	{
		(void) WaitLatch(MyLatch, WL_LATCH_SET | WL_TIMEOUT | WL_EXIT_ON_PM_DEATH, 1,
						 PG_WAIT_EXTENSION);
		ResetLatch(MyLatch);
		CHECK_FOR_INTERRUPTS();
	}
	SetLatch(MyLatch);			/* somebody else may wait for it */
}

static bool
ask_postmaster(void)
{
	BackgroundWorker worker = {0};
	BackgroundWorkerHandle *handle;

	worker.bgw_flags = BGWORKER_SHMEM_ACCESS | BGWORKER_BACKEND_DATABASE_CONNECTION;
	worker.bgw_start_time = BgWorkerStart_ConsistentState;
	worker.bgw_restart_time = BGW_NEVER_RESTART;
	worker.bgw_main_arg = ObjectIdGetDatum(MyDatabaseId);
	worker.bgw_notify_pid = MyProcPid;
	snprintf(worker.bgw_library_name, sizeof(worker.bgw_library_name), "amt_keys");
	snprintf(worker.bgw_function_name, sizeof(worker.bgw_function_name), "amt_writer_main");
	snprintf(worker.bgw_name, sizeof(worker.bgw_name), "amt_keys usage writer");
	snprintf(worker.bgw_type, sizeof(worker.bgw_type), "amt_keys usage writer");
	if (!RegisterDynamicBackgroundWorker(&worker, &handle))
		return false;
	wait_for_start(handle);
	pfree(handle);
	return true;
}

/* Ask for a worker unless there is one; false if there can be none now. */
static bool
request_worker(TimestampTz now)
{
	static bool reported = false;

	if (!IsUnderPostmaster || !note_request(now) || ask_postmaster())
		return true;
	amt_stat_add(AMT_WORKER_FAILURES, 1);
	if (!reported)
		ereport(LOG,
				(errcode(ERRCODE_CONFIGURATION_LIMIT_EXCEEDED),
				 errmsg("amt_keys could not start its background worker: counted calls wait in memory"),
				 errhint("Increase \"max_worker_processes\".")));
	reported = true;
	return false;
}

void
amt_writer_want(TimestampTz now)
{
	static TimestampTz asked_at = 0;

	if (likely(is_running(my_slot)))
	{
		if (!my_slot->counted)
			my_slot->counted = true;
		return;
	}
	if (asked_at != 0 && !amt_elapsed(asked_at, now, 100))
		return;					/* starting a worker takes a moment */
	asked_at = now;
	(void) request_worker(now);
}

/* Be this database's worker; false if there is one. */
static bool
claim_slot(void)
{
	bool		claimed = false;

	LWLockAcquire(&writers->lock, LW_EXCLUSIVE);
	my_slot = find_slot(true);
	if (my_slot != NULL && my_slot->pid == 0)
	{
		pg_write_barrier();
		my_slot->pid = MyProcPid;
		claimed = true;
	}
	LWLockRelease(&writers->lock);
	return claimed;
}

/* After a failure the next worker is not asked for at once. */
static void
release_slot(TimestampTz asked_at)
{
	LWLockAcquire(&writers->lock, LW_EXCLUSIVE);
	if (my_slot != NULL && my_slot->pid == MyProcPid)
	{
		my_slot->pid = 0;
		my_slot->asked_at = asked_at;
	}
	LWLockRelease(&writers->lock);
	ConditionVariableBroadcast(&writers->written);
}

static void
release_on_exit(int code, Datum arg)
{
	if (code != 0)
		amt_stat_add(AMT_WORKER_FAILURES, 1);
	release_slot(code != 0 ? GetCurrentTimestamp() : 0);
}

static bool
has_successor(void)
{
	bool		running;

	LWLockAcquire(&writers->lock, LW_SHARED);
	running = is_running(find_slot(false));
	LWLockRelease(&writers->lock);
	return running;
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

	StartTransactionCommand();
	if (!amt_entry_attach())
		proc_exit(0);
	CommitTransactionCommand();
	amt_entry_sum(MyDatabaseId, &sums);
	return sums.unwritten;
}

/* Write what can be written; see amt_write_pending(). */
static bool
write_now(bool *left)
{
	bool		done;

	my_slot->hurry = false;
	pgstat_report_activity(STATE_RUNNING, "writing counted calls");
	done = amt_write_pending(left);
	if (!done && my_slot->pid == MyProcPid) /* not given to another database */
		my_slot->failures++;
	(void) pgstat_report_stat(true);	/* for autovacuum */
	pgstat_report_activity(STATE_IDLE, NULL);
	ConditionVariableBroadcast(&writers->written);
	return done;
}

/*
 * Leave, unless something was counted in the last moment: a process that counts
 * sees our slot, or its call is seen here.
 */
static bool
try_to_leave(void)
{
	release_slot(0);
	pg_memory_barrier();
	return unwritten_here() == 0 || !claim_slot();
}

/* Write every interval, until nothing was counted for two seconds. */
static void
write_until_idle(void)
{
	TimestampTz counted_at = GetCurrentTimestamp();
	TimestampTz trimmed_at = counted_at;
	TimestampTz written_at = 0;
	int			wait_ms = 0;	/* longer after a failure */
	bool		left = true;	/* may there be something to write? */

	while (!ShutdownRequestPending)
	{
		TimestampTz now;
		int			interval;

		wait_for_latch(Min(Max(usage_flush_interval / 2, 5), POLL_MS));
		now = GetCurrentTimestamp();
		if (my_slot->counted)
		{
			my_slot->counted = false;
			counted_at = now;
			left = true;
		}
		pg_memory_barrier();	/* first the flag, then the entries */

		/* When nothing is counted any more, a long interval must not keep us. */
		interval = amt_elapsed(counted_at, now, IDLE_MS) ?
			Min(usage_flush_interval, IDLE_MS) : usage_flush_interval;
		if (left &&
			((my_slot->hurry && (wait_ms == 0 || amt_elapsed(written_at, now, usage_flush_interval))) ||
			 amt_elapsed(written_at, now, Max(interval, wait_ms))))
		{
			wait_ms = write_now(&left) ? 0 : ASK_AGAIN_MS;
			written_at = GetCurrentTimestamp();
		}
		if (amt_elapsed(trimmed_at, now, TRIM_MS))
		{
			amt_sweep_databases();
			amt_entry_trim();
			trimmed_at = now;
		}
		if (!left && amt_elapsed(counted_at, now, IDLE_MS))
		{
			amt_entry_trim();
			if (try_to_leave())
				return;
			left = true;
		}
	}
}

/*
 * The server stops, or somebody has terminated this worker.  In the first case
 * others may still count: wait until none is left in the database, for a while.
 * In the second a new worker may come.  Then write once more.
 */
static void
write_last(void)
{
	bool		left;

	release_slot(0);
	for (int waited = 0; waited < LAST_MS; waited += LAST_POLL_MS)
	{
		if (CountDBBackends(MyDatabaseId) <= 1 || has_successor())
			break;
		wait_for_latch(LAST_POLL_MS);
	}
	if (!has_successor() && unwritten_here() > 0)
		(void) write_now(&left);
}

static void
connect_to(Oid database)
{
	BackgroundWorkerInitializeConnectionByOid(database, InvalidOid, 0);

	/* What the server's configuration says of sessions must not stop it. */
	SetConfigOption("synchronous_commit", "local", PGC_SUSET, PGC_S_OVERRIDE);
	SetConfigOption("lock_timeout", "0", PGC_SUSET, PGC_S_OVERRIDE);
	SetConfigOption("statement_timeout", "0", PGC_SUSET, PGC_S_OVERRIDE);
	SetConfigOption("default_transaction_read_only", "off", PGC_SUSET, PGC_S_OVERRIDE);
	SetConfigOption("default_transaction_isolation", "read committed", PGC_SUSET, PGC_S_OVERRIDE);
	SetConfigOption("session_replication_role", "origin", PGC_SUSET, PGC_S_OVERRIDE);
	amt_no_transaction_timeout();
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
	if (!claim_slot())
		proc_exit(0);
	before_shmem_exit(release_on_exit, (Datum) 0);
	amt_stat_add(AMT_WORKER_STARTS, 1);

	amt_sweep_databases();
	amt_sweep_usage();
	write_until_idle();
	if (ShutdownRequestPending)
		write_last();
	proc_exit(0);
}

uint32
amt_writer_hurry(void)
{
	uint32		failures = 0;
	int			pid = 0;
	PGPROC	   *proc;

	if (!request_worker(GetCurrentTimestamp()))
		ereport(ERROR,
				(errcode(ERRCODE_CONFIGURATION_LIMIT_EXCEEDED),
				 errmsg("could not start the background worker that writes counted calls"),
				 errhint("Increase \"max_worker_processes\".")));
	LWLockAcquire(&writers->lock, LW_EXCLUSIVE);
	if (my_slot != NULL)
	{
		my_slot->hurry = true;
		pid = my_slot->pid;
		failures = my_slot->failures;
	}
	LWLockRelease(&writers->lock);
	proc = pid != 0 ? BackendPidGetProc(pid) : NULL;
	if (proc != NULL)
		SetLatch(&proc->procLatch);
	return failures;
}

ConditionVariable *
amt_writer_written(void)
{
	return &writers->written;
}
