/*
 * writer_slot.c
 *	  Which databases have a background worker, and how to get one.
 *
 * A slot in shared memory says that a database has a worker.  A backend that
 * counts and finds none asks the postmaster for one.  To leave, the worker
 * clears its slot, then looks for calls.  A backend counts, then looks at
 * the slot.  One of them must see the other.
 *
 * A request to the postmaster may fail or be lost.  Then the calls wait in
 * memory.  A backend that counts some seconds later asks again.
 *
 * Locks: the slots' lock, taken alone.
 */
#include "postgres.h"

#include "miscadmin.h"
#include "pgstat.h"
#include "postmaster/bgworker.h"
#include "storage/latch.h"
#include "storage/lwlock.h"
#include "storage/proc.h"
#include "storage/procarray.h"

#include "compat.h"
#include "elapsed.h"
#include "shmem.h"
#include "stat.h"
#include "writer_slot.h"

#define DATABASES		128		/* databases that can have a worker at once */
#define ASK_AGAIN_MS	5000	/* between two requests to the postmaster */
#define START_MS		100		/* longest wait for a worker's start */

typedef struct Writers
{
	LWLock		lock;			/* guards the slots */
	ConditionVariable written;	/* broadcast when a worker wrote or left */
	AmtWriterSlot slot[DATABASES];
} Writers;

static Writers *writers = NULL;
AmtWriterSlot *amt_my_slot = NULL;

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
amt_slot_init(void)
{
	static const AmtShmemPart part = {sizeof(Writers), init_writers, attach_writers};

	amt_shmem_register(&part);
}

/*
 * Find this database's slot.  If there is none, takes a free one with
 * "create".  Returns NULL if there is no slot.  The lock must be held.
 */
static AmtWriterSlot *
find_slot(bool create)
{
	AmtWriterSlot *usable = NULL;
	TimestampTz now = GetCurrentTimestamp();

	for (int i = 0; i < DATABASES; i++)
	{
		AmtWriterSlot *slot = &writers->slot[i];

		if (slot->database == MyDatabaseId)
			return slot;
		/* Another database may need its slot again: rather take a new one. */
		if (slot->pid == 0 && amt_elapsed(slot->asked_at, now, ASK_AGAIN_MS) &&
			(usable == NULL || (OidIsValid(usable->database) && !OidIsValid(slot->database))))
			usable = slot;
	}
	if (!create || usable == NULL)
		return NULL;
	memset(usable, 0, sizeof(AmtWriterSlot));
	usable->database = MyDatabaseId;
	return usable;
}

static bool
is_running(volatile AmtWriterSlot *slot)
{
	if (slot == NULL || slot->pid == 0)
		return false;
	pg_read_barrier();			/* the slot gets its database before its pid */
	return slot->database == MyDatabaseId;
}

/*
 * Note that the postmaster is asked now; false if there is no need.  A
 * worker that was asked for and has not come has failed to start.
 */
static bool
note_request(TimestampTz now)
{
	bool		ask = false;

	LWLockAcquire(&writers->lock, LW_EXCLUSIVE);
	amt_my_slot = find_slot(true);
	if (amt_my_slot != NULL && amt_my_slot->pid == 0 &&
		amt_elapsed(amt_my_slot->asked_at, now, ASK_AGAIN_MS))
	{
		if (amt_my_slot->asked)
		{
			amt_my_slot->failures++;
			amt_stat_add(AMT_WORKER_FAILURES, 1);
		}
		amt_my_slot->asked = true;
		amt_my_slot->asked_at = now;
		ask = true;
	}
	if (amt_my_slot != NULL)
		amt_my_slot->counted = true;
	LWLockRelease(&writers->lock);
	return ask;
}

/*
 * The postmaster never starts a worker after shutdown has begun.  So we wait
 * up to 100 ms until ours has started.
 */
static void
wait_for_start(BackgroundWorkerHandle *handle)
{
	TimestampTz since = GetCurrentTimestamp();
	pid_t		pid;

	while (!InterruptPending && GetBackgroundWorkerPid(handle, &pid) == BGWH_NOT_YET_STARTED &&
		   !amt_elapsed(since, GetCurrentTimestamp(), START_MS))
	{
		(void) WaitLatch(MyLatch, WL_LATCH_SET | WL_TIMEOUT | WL_EXIT_ON_PM_DEATH, 1,
						 PG_WAIT_EXTENSION);
		ResetLatch(MyLatch);
	}
	SetLatch(MyLatch);			/* other code may wait for the latch */
}

static bool
register_worker(int notify_pid, BackgroundWorkerHandle **handle)
{
	BackgroundWorker worker = {0};

	worker.bgw_flags = BGWORKER_SHMEM_ACCESS | BGWORKER_BACKEND_DATABASE_CONNECTION;
	worker.bgw_start_time = BgWorkerStart_ConsistentState;
	worker.bgw_restart_time = BGW_NEVER_RESTART;
	worker.bgw_main_arg = ObjectIdGetDatum(MyDatabaseId);
	worker.bgw_notify_pid = notify_pid;
	snprintf(worker.bgw_library_name, sizeof(worker.bgw_library_name), "amt_keys");
	snprintf(worker.bgw_function_name, sizeof(worker.bgw_function_name), "amt_writer_main");
	snprintf(worker.bgw_name, sizeof(worker.bgw_name), "amt_keys usage writer");
	snprintf(worker.bgw_type, sizeof(worker.bgw_type), "amt_keys usage writer");
	return RegisterDynamicBackgroundWorker(&worker, handle);
}

static bool
ask_postmaster(void)
{
	BackgroundWorkerHandle *handle;

	if (!register_worker(MyProcPid, &handle))
		return false;
	wait_for_start(handle);
	pfree(handle);
	return true;
}

/* There can be no worker now. */
static void
report_refusal(void)
{
	static bool reported = false;
	AmtWriterSlot *slot;

	LWLockAcquire(&writers->lock, LW_EXCLUSIVE);
	slot = find_slot(false);
	if (slot != NULL)
		slot->asked = false;
	LWLockRelease(&writers->lock);
	amt_stat_add(AMT_WORKER_FAILURES, 1);
	if (!reported)
		ereport(LOG_SERVER_ONLY,
				(errcode(ERRCODE_CONFIGURATION_LIMIT_EXCEEDED),
				 errmsg("amt_keys could not start its background worker: counted calls wait in memory"),
				 IsUnderPostmaster ? errhint("Increase \"max_worker_processes\".") : 0));
	reported = true;
}

/* Ask for a worker unless there is one; false if there can be none now. */
static bool
request_worker(TimestampTz now)
{
	/* A server in single-user mode has no workers. */
	if (IsUnderPostmaster && (note_request(now) ? ask_postmaster() : amt_my_slot != NULL))
		return true;
	report_refusal();
	return false;
}

void
amt_writer_want(TimestampTz now)
{
	static TimestampTz asked_at = 0;

	if (likely(is_running(amt_my_slot)))
	{
		if (!amt_my_slot->counted)
			amt_my_slot->counted = true;
		return;
	}
	if (asked_at != 0 && !amt_elapsed(asked_at, now, 100))
		return;					/* starting a worker takes a moment */
	asked_at = now;

	/*
	 * The call is counted: no cancel may come before the caller has its
	 * answer.
	 */
	HOLD_CANCEL_INTERRUPTS();
	(void) request_worker(now);
	RESUME_CANCEL_INTERRUPTS();

	/* If there is one, it may leave before our next call. */
	if (is_running(amt_my_slot))
		asked_at = 0;
}

bool
amt_slot_claim(void)
{
	bool		claimed = false;

	LWLockAcquire(&writers->lock, LW_EXCLUSIVE);
	amt_my_slot = find_slot(true);
	if (amt_my_slot != NULL && amt_my_slot->pid == 0)
	{
		amt_my_slot->asked = false;
		pg_write_barrier();
		amt_my_slot->pid = MyProcPid;
		claimed = true;
	}
	LWLockRelease(&writers->lock);
	return claimed;
}

void
amt_slot_release(TimestampTz asked_at)
{
	LWLockAcquire(&writers->lock, LW_EXCLUSIVE);
	if (amt_my_slot != NULL && amt_my_slot->pid == MyProcPid)
	{
		amt_my_slot->pid = 0;
		amt_my_slot->asked = false;
		amt_my_slot->asked_at = asked_at;
		amt_my_slot->failed_at = asked_at;
		if (asked_at != 0)
			amt_my_slot->failures++;
	}
	LWLockRelease(&writers->lock);
	ConditionVariableBroadcast(&writers->written);
}

void
amt_slot_ask_for_successor(void)
{
	bool		ask = false;

	LWLockAcquire(&writers->lock, LW_EXCLUSIVE);
	amt_my_slot = find_slot(true);	/* ours may have been given away */
	if (amt_my_slot != NULL && amt_my_slot->pid == 0)
	{
		amt_my_slot->asked = true;
		amt_my_slot->asked_at = GetCurrentTimestamp();
		ask = true;
	}
	LWLockRelease(&writers->lock);
	if (ask && !register_worker(0, NULL))
		report_refusal();
}

bool
amt_slot_is_taken(void)
{
	bool		running;

	LWLockAcquire(&writers->lock, LW_SHARED);
	running = is_running(find_slot(false));
	LWLockRelease(&writers->lock);
	return running;
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
				 IsUnderPostmaster ? errhint("Increase \"max_worker_processes\".") : 0));
	LWLockAcquire(&writers->lock, LW_EXCLUSIVE);
	if (amt_my_slot != NULL)
	{
		amt_my_slot->hurry = true;
		pid = amt_my_slot->pid;
		failures = amt_my_slot->failures;
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
