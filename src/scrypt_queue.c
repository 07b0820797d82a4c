/*
 * scrypt_queue.c
 *	  Which processes may run scrypt now.
 *
 * A run takes a processor for tens of milliseconds, and 16 MiB.  Anybody who
 * knows a key id can cause one.  So at most amt_keys.max_concurrent_scrypt
 * processes of the server run at once, and at most one for each key and
 * stored hash.  Its proof serves all that wait for that key.
 *
 * The queue's lock guards the places.  It is held for a few instructions,
 * and must be the last lock that is taken.  Before a process sleeps, it
 * prepares the condition variable and looks once more, so no wakeup is lost.
 * A process that leaves wakes all sleepers.  Each must look again at the
 * row, the entry and the places.  The first to look gets the place.
 *
 * The owner of a table of keys may store hashes that take seconds.  Such costly
 * runs have one place for all databases, so they leave the others free, if
 * there are others.
 *
 * The holder of a place must wait for no transaction and no other place, so
 * no deadlock contains a place.  It leaves the place after the run, in
 * PG_FINALLY() after an error, and in an exit callback when it is terminated.
 */
#include "postgres.h"

#include "miscadmin.h"
#include "storage/condition_variable.h"
#include "storage/lwlock.h"
#include "storage/ipc.h"
#include "utils/guc.h"

#include "compat.h"
#include "scrypt_queue.h"
#include "shmem.h"

typedef struct Place
{
	int			pid;			/* the process that runs, or 0 */
	uint64		tag;			/* the key and stored hash that it runs for */
	bool		costly;			/* does the run cost much more than usual? */
} Place;

typedef struct Queue
{
	LWLock		lock;			/* guards the places */
	ConditionVariable left;		/* broadcast when a process leaves its place */
	Place		place[AMT_SCRYPT_PLACES];
} Queue;

static Queue *queue = NULL;
static int	max_concurrent_scrypt = 4;
static int	my_place = -1;

static void
init_queue(void *part, const AmtShmemInit *init)
{
	Queue	   *new = part;

	LWLockInitialize(&new->lock, init->lock_tranche);
	ConditionVariableInit(&new->left);
}

static void
leave_on_exit(int code, Datum arg)
{
	amt_scrypt_leave();
}

static void
attach_queue(void *part)
{
	queue = part;
	before_shmem_exit(leave_on_exit, (Datum) 0);
}

void
amt_scrypt_queue_init(void)
{
	static const AmtShmemPart part = {sizeof(Queue), init_queue, attach_queue};

	amt_shmem_register(&part);
	DefineCustomIntVariable("amt_keys.max_concurrent_scrypt",
							"Sets how many processes of the server may run scrypt at once.",
							"Each run keeps one processor busy for some 40 ms and takes 16 MiB with the default parameters. Other processes wait.",
							&max_concurrent_scrypt,
							4, 1, AMT_SCRYPT_PLACES,
							PGC_SIGHUP, 0, NULL, NULL, NULL);
}

/*
 * Take a free place, unless a process runs for the tag, too many run, or this
 * run and another are costly.
 */
static bool
take_place(uint64 tag, bool costly)
{
	int			running = 0;
	int			free_place = -1;
	bool		taken = false;

	LWLockAcquire(&queue->lock, LW_EXCLUSIVE);
	for (int i = 0; i < AMT_SCRYPT_PLACES; i++)
	{
		Place	   *place = &queue->place[i];

		if (place->pid == 0)
		{
			if (free_place < 0)
				free_place = i;
			continue;
		}
		running++;
		if (place->tag == tag || (costly && place->costly))
			running = AMT_SCRYPT_PLACES;
	}
	if (running < max_concurrent_scrypt && free_place >= 0)
	{
		queue->place[free_place].pid = MyProcPid;
		queue->place[free_place].tag = tag;
		queue->place[free_place].costly = costly;
		my_place = free_place;
		taken = true;
	}
	LWLockRelease(&queue->lock);
	return taken;
}

bool
amt_scrypt_enter(uint64 tag, bool costly)
{
	static uint32 wait_event = 0;

	if (queue == NULL)
		return true;
	Assert(my_place < 0);
	if (take_place(tag, costly))
		return true;

	if (wait_event == 0)
		wait_event = amt_wait_event("AmtKeysScrypt");
	ConditionVariablePrepareToSleep(&queue->left);
	if (take_place(tag, costly))
	{
		ConditionVariableCancelSleep();
		return true;
	}
	ConditionVariableSleep(&queue->left, wait_event);
	ConditionVariableCancelSleep();
	return false;
}

void
amt_scrypt_leave(void)
{
	if (my_place < 0)
		return;
	LWLockAcquire(&queue->lock, LW_EXCLUSIVE);
	queue->place[my_place].pid = 0;
	my_place = -1;
	LWLockRelease(&queue->lock);
	ConditionVariableBroadcast(&queue->left);
}
