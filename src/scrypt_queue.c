/*
 * scrypt_queue.c
 *	  Who may run scrypt now.
 *
 * One run takes tens of milliseconds of a processor and 16 MiB, and whoever
 * knows a key id can ask for one.  So at most amt_keys.max_concurrent_scrypt
 * run in the whole server, and at most one per key and stored hash: what it
 * proves serves all who wait for that key.
 *
 * A place is taken and left under the queue's lock, which is held for a few
 * instructions and never during a run.  Who finds no place sleeps on the
 * condition variable, prepared before the places are looked at, so that no
 * wakeup is lost; the sleep can be cancelled and timed out like any other.
 * Everybody who leaves wakes all sleepers, who look afresh at the row, the
 * cache and the places.
 *
 * Who has a place waits for nothing that somebody may keep for long: no row, no
 * relation, no transaction, no other place.  So nobody who waits for a place is
 * part of a deadlock.  The lock of the queue is the last that is taken, as a run
 * that has failed may leave its place with a lock of a table still held.
 *
 * Nobody waits for the dead: a place is left when the run is over, in the
 * caller's PG_FINALLY() when it fails, and by an exit callback when the process
 * is terminated; a process that is killed takes the server's shared memory with
 * it.
 */
#include "postgres.h"

#include "miscadmin.h"
#include "storage/ipc.h"
#include "utils/guc.h"

#include "compat.h"
#include "scrypt_queue.h"
#include "shmem.h"

static int	max_concurrent_scrypt = 4;
static int	my_place = -1;

void
amt_scrypt_queue_setup(void)
{
	DefineCustomIntVariable("amt_keys.max_concurrent_scrypt",
							"Sets how many processes of the server may run scrypt at once.",
							"Each run keeps one processor busy for some 40 ms and takes 16 MiB with the default parameters; others wait. See section 8 of the contract.",
							&max_concurrent_scrypt,
							4, 1, AMT_SCRYPT_PLACES,
							PGC_SIGHUP, 0, NULL, NULL, NULL);
}

void
amt_scrypt_queue_init(AmtScryptQueue *queue, int tranche)
{
	LWLockInitialize(&queue->lock, tranche);
	ConditionVariableInit(&queue->left);
}

/* Take a free place, unless somebody runs for the tag or too many run. */
static bool
take_place(AmtScryptQueue *queue, uint64 tag)
{
	int			running = 0;
	int			free_place = -1;
	bool		taken = false;

	LWLockAcquire(&queue->lock, LW_EXCLUSIVE);
	for (int i = 0; i < AMT_SCRYPT_PLACES; i++)
	{
		AmtScryptPlace *place = &queue->place[i];

		if (place->pid == 0)
		{
			if (free_place < 0)
				free_place = i;
			continue;
		}
		running++;
		if (place->tag == tag)
			running = AMT_SCRYPT_PLACES;
	}
	if (running < max_concurrent_scrypt && free_place >= 0)
	{
		queue->place[free_place].pid = MyProcPid;
		queue->place[free_place].tag = tag;
		my_place = free_place;
		taken = true;
	}
	LWLockRelease(&queue->lock);
	return taken;
}

bool
amt_scrypt_enter(uint64 tag)
{
	static uint32 wait_event = 0;
	AmtScryptQueue *queue;

	if (amt_shared == NULL)
		return true;
	queue = &amt_shared->queue;
	Assert(my_place < 0);
	if (take_place(queue, tag))
		return true;

	if (wait_event == 0)
		wait_event = amt_wait_event("AmtKeysScrypt");
	ConditionVariablePrepareToSleep(&queue->left);
	if (take_place(queue, tag))
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
	AmtScryptQueue *queue;

	if (my_place < 0)
		return;
	queue = &amt_shared->queue;
	LWLockAcquire(&queue->lock, LW_EXCLUSIVE);
	queue->place[my_place].pid = 0;
	my_place = -1;
	LWLockRelease(&queue->lock);
	ConditionVariableBroadcast(&queue->left);
}

static void
leave_on_exit(int code, Datum arg)
{
	amt_scrypt_leave();
}

void
amt_scrypt_queue_attached(void)
{
	before_shmem_exit(leave_on_exit, (Datum) 0);
}
