/*
 * worker.c
 *	  The background worker that writes what was counted.
 *
 * Each database in which something was counted gets one worker, on demand: the
 * process that counts asks the postmaster when it finds none.  The worker
 * writes every amt_keys.usage_flush_interval and leaves after two idle seconds
 * when all is written, so that nobody who wants to drop the database, or to use
 * it as a template, waits longer than the server's own five seconds.  (As long as
 * somebody has locked what is to be written, or a trigger of the owner's swallows
 * it, the worker stays.)  It locks the extension's tables only if it can at once,
 * and only for the transaction that writes, so DROP EXTENSION does not wait for
 * more than that.
 *
 * A slot in shared memory says which databases have a worker.  To leave, the
 * worker first clears its slot and then looks for pending calls once more,
 * while a counting process first counts and then looks at the slot: one of the
 * two sees the other.  A request to the postmaster may fail (no free worker
 * slot) or be lost (the process cannot be forked, the worker fails early); it
 * is repeated after a while by the next process that counts.  Meanwhile counts
 * wait in memory, and processes that exit write them (usage.c).
 *
 * During recovery nothing can be written.  A worker is asked for all the same,
 * once, to be started by the postmaster when recovery has finished, so that
 * what a standby counted arrives with its promotion.
 *
 * Locks.  The slots are guarded by the workers' lock, in which nothing can fail;
 * database and pid are also glanced at without it, and who has asked in vain for
 * a start at promotion takes his own request back without it.  The lock is held
 * with no other of ours.  A worker that fails or is terminated clears its slot on exit,
 * after its transaction is gone.
 * (The slot of a database that is dropped on a standby's primary before the
 * promotion is taken until the standby's next start.)
 */
#include "postgres.h"

#ifdef __GLIBC__
#include <malloc.h>
#endif

#include "access/xact.h"
#include "access/xlog.h"
#include "miscadmin.h"
#include "pgstat.h"
#include "postmaster/bgworker.h"
#include "postmaster/interrupt.h"
#include "storage/ipc.h"
#include "storage/latch.h"
#include "storage/procsignal.h"
#include "utils/guc.h"
#include "utils/timestamp.h"

#include "compat.h"
#include "elapsed.h"
#include "shmem.h"
#include "usage.h"
#include "worker.h"

#define IDLE_MS			2000
#define POLL_MS			500
#define ASK_AGAIN_MS	5000
#define TIDY_MS			10000
#define LAST_MS			2000
#define LAST_POLL_MS	100

/* What a write of the largest batch allocates, and a little more. */
#define KEEP_MEMORY		(16 * 1024 * 1024)

PGDLLEXPORT void amt_worker_main(Datum arg);

static int	usage_flush_interval = 1000;
static AmtWorkerSlot *my_slot = NULL;

void
amt_worker_setup(void)
{
	DefineCustomIntVariable("amt_keys.usage_flush_interval",
							"Sets the time between two writes of counted calls.",
							"Until then they are in shared memory; a crash of the server loses at most what one interval counted. See section 8 of the contract.",
							&usage_flush_interval,
							1000, 10, 3600 * 1000,
							PGC_SIGHUP, GUC_UNIT_MS, NULL, NULL, NULL);
}

void
amt_workers_init(AmtWorkers *workers, int tranche)
{
	LWLockInitialize(&workers->lock, tranche);
}

/*
 * This database's slot; a new one if there is none and "create", or NULL.
 * With the lock held.
 */
static AmtWorkerSlot *
find_slot(bool create)
{
	AmtWorkers *workers = &amt_shared->workers;
	AmtWorkerSlot *usable = NULL;
	TimestampTz now = GetCurrentTimestamp();

	for (int i = 0; i < AMT_WORKER_DATABASES; i++)
	{
		AmtWorkerSlot *slot = &workers->slot[i];

		if (slot->database == MyDatabaseId)
			return slot;
		if (usable == NULL && slot->pid == 0 && !slot->at_promotion &&
			amt_elapsed(slot->asked_at, now, ASK_AGAIN_MS))
			usable = slot;
	}
	if (!create || usable == NULL)
		return NULL;
	memset(usable, 0, sizeof(AmtWorkerSlot));
	usable->database = MyDatabaseId;
	return usable;
}

static bool
slot_is_ours(volatile AmtWorkerSlot *slot)
{
	if (slot == NULL || slot->pid == 0)
		return false;
	pg_read_barrier();			/* it is given to a database first */
	return slot->database == MyDatabaseId;
}

/* Note that the postmaster is asked now; false if that is not called for. */
static bool
note_request(TimestampTz now, bool in_recovery)
{
	bool		ask = false;

	LWLockAcquire(&amt_shared->workers.lock, LW_EXCLUSIVE);
	my_slot = find_slot(true);
	if (my_slot != NULL && my_slot->pid == 0 &&
		!(in_recovery && my_slot->at_promotion) &&
		amt_elapsed(my_slot->asked_at, now, ASK_AGAIN_MS))
	{
		my_slot->asked_at = now;
		my_slot->at_promotion = in_recovery;
		ask = true;
	}
	LWLockRelease(&amt_shared->workers.lock);
	return ask;
}

static bool
ask_postmaster(void)
{
	BackgroundWorker worker = {0};

	worker.bgw_flags = BGWORKER_SHMEM_ACCESS | BGWORKER_BACKEND_DATABASE_CONNECTION;
	worker.bgw_start_time = BgWorkerStart_RecoveryFinished;
	worker.bgw_restart_time = BGW_NEVER_RESTART;
	worker.bgw_main_arg = ObjectIdGetDatum(MyDatabaseId);
	snprintf(worker.bgw_library_name, sizeof(worker.bgw_library_name), "amt_keys");
	snprintf(worker.bgw_function_name, sizeof(worker.bgw_function_name), "amt_worker_main");
	snprintf(worker.bgw_name, sizeof(worker.bgw_name), "amt_keys usage writer");
	snprintf(worker.bgw_type, sizeof(worker.bgw_type), "amt_keys usage writer");
	return RegisterDynamicBackgroundWorker(&worker, NULL);
}

void
amt_worker_want(TimestampTz now)
{
	static TimestampTz asked_at = 0;

	if (likely(slot_is_ours(my_slot)))
		return;
	if (asked_at != 0 && !amt_elapsed(asked_at, now, 100))
		return;					/* starting a worker takes a moment */
	asked_at = now;
	if (!IsUnderPostmaster || !note_request(now, RecoveryInProgress()))
		return;
	if (!ask_postmaster())
	{
		my_slot->at_promotion = false;
		amt_stat_add(AMT_WORKER_FAILURES, 1);
	}
}

bool
amt_worker_is_there(void)
{
	bool		there;

	LWLockAcquire(&amt_shared->workers.lock, LW_SHARED);
	there = slot_is_ours(find_slot(false));
	LWLockRelease(&amt_shared->workers.lock);
	return there;
}

/* Be this database's worker; false if there is one. */
static bool
claim_slot(void)
{
	bool		claimed = false;

	LWLockAcquire(&amt_shared->workers.lock, LW_EXCLUSIVE);
	my_slot = find_slot(true);
	if (my_slot != NULL && my_slot->pid == 0)
	{
		pg_write_barrier();
		my_slot->pid = MyProcPid;
		my_slot->at_promotion = false;
		claimed = true;
	}
	LWLockRelease(&amt_shared->workers.lock);
	return claimed;
}

/* After a failure the next one is not asked for at once. */
static void
release_slot(TimestampTz asked_at)
{
	LWLockAcquire(&amt_shared->workers.lock, LW_EXCLUSIVE);
	if (my_slot != NULL && my_slot->pid == MyProcPid)
	{
		my_slot->pid = 0;
		my_slot->asked_at = asked_at;
	}
	LWLockRelease(&amt_shared->workers.lock);
}

static void
release_on_exit(int code, Datum arg)
{
	if (code != 0)
		amt_stat_add(AMT_WORKER_FAILURES, 1);
	release_slot(code != 0 ? GetCurrentTimestamp() : 0);
}

/* Before that, give up what others would find locked, or marked. */
static void
abort_on_exit(int code, Datum arg)
{
	LWLockReleaseAll();
	AbortOutOfAnyTransaction();
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

static void
write_pending(void (*flush) (void))
{
	pgstat_report_activity(STATE_RUNNING, "writing counted calls");
	flush();
	(void) pgstat_report_stat(true);	/* for autovacuum */
	pgstat_report_activity(STATE_IDLE, NULL);
}

/*
 * Leave, unless something was counted in the last moment: who counts sees
 * either our slot or is seen here.
 */
static bool
try_to_leave(void)
{
	release_slot(0);
	pg_memory_barrier();
	return amt_usage_pending_here() == 0 || !claim_slot();
}

/* Write every interval, until nothing was counted for two seconds. */
static void
write_until_idle(void)
{
	TimestampTz counted_at = GetCurrentTimestamp();
	TimestampTz written_at = counted_at;
	TimestampTz tidied_at = counted_at;
	int64		pending = 0;

	while (!ShutdownRequestPending)
	{
		TimestampTz now;
		int64		pending_now;
		bool		idle;

		wait_for_latch(Min(usage_flush_interval, POLL_MS));
		now = GetCurrentTimestamp();
		pending_now = amt_usage_pending_here();
		if (pending_now != pending)
			counted_at = now;
		idle = amt_elapsed(counted_at, now, IDLE_MS);

		if (pending_now > 0 &&
			(idle || amt_elapsed(written_at, now, usage_flush_interval)))
		{
			write_pending(amt_usage_flush_once);
			written_at = now;
			pending_now = amt_usage_pending_here();
		}
		pending = pending_now;
		if (idle || amt_elapsed(tidied_at, now, TIDY_MS))
		{
			amt_usage_tidy();
			tidied_at = now;
		}
		if (idle && pending == 0 && try_to_leave())
			return;
	}
}

/*
 * When the server stops, those who keep a row locked end with us, and have
 * perhaps counted nothing themselves.  Otherwise another worker comes.
 */
static void
write_what_was_locked(void)
{
	for (int waited = 0; waited < LAST_MS; waited += LAST_POLL_MS)
	{
		if (amt_usage_pending_here() == 0 || amt_worker_is_there())
			break;
		wait_for_latch(LAST_POLL_MS);
		write_pending(amt_usage_flush_last);
	}
}

/*
 * Each write allocates the same megabytes and frees them.  If they went back to
 * the kernel, the next one would pay a page fault for each page, which costs a
 * third of its time in a virtual machine.  This process does not live long when
 * it is idle.
 */
static void
keep_freed_memory(void)
{
#ifdef __GLIBC__
	(void) mallopt(M_MMAP_THRESHOLD, KEEP_MEMORY);
	(void) mallopt(M_TRIM_THRESHOLD, KEEP_MEMORY);
#endif
}

static void
connect_and_attach(Oid database)
{
	BackgroundWorkerInitializeConnectionByOid(database, InvalidOid, 0);

	/* Not to be stopped by what the server's configuration says of sessions. */
	SetConfigOption("synchronous_commit", "local", PGC_SUSET, PGC_S_OVERRIDE);
	SetConfigOption("lock_timeout", "1s", PGC_SUSET, PGC_S_OVERRIDE);
	SetConfigOption("statement_timeout", "0", PGC_SUSET, PGC_S_OVERRIDE);
	amt_no_transaction_timeout();

	StartTransactionCommand();
	if (!amt_shmem_attach())
		proc_exit(0);
	CommitTransactionCommand();
}

void
amt_worker_main(Datum arg)
{
	pqsignal(SIGHUP, SignalHandlerForConfigReload);
	pqsignal(SIGTERM, SignalHandlerForShutdownRequest);
	BackgroundWorkerUnblockSignals();

	keep_freed_memory();
	connect_and_attach(DatumGetObjectId(arg));
	if (!claim_slot())
		proc_exit(0);
	before_shmem_exit(release_on_exit, (Datum) 0);
	before_shmem_exit(abort_on_exit, (Datum) 0);	/* the last is called
													 * first */
	amt_stat_add(AMT_WORKER_STARTS, 1);

	StartTransactionCommand();
	amt_usage_forget_databases();
	CommitTransactionCommand();

	write_until_idle();

	/* From now on, whoever counts and exits writes; so do we, first. */
	release_slot(0);
	pg_memory_barrier();
	write_pending(amt_usage_flush_last);
	write_what_was_locked();
	proc_exit(0);
}
