/*
 * scrypt_queue.h
 *	  Who may run scrypt now.
 */
#ifndef AMT_SCRYPT_QUEUE_H
#define AMT_SCRYPT_QUEUE_H

#include "storage/condition_variable.h"
#include "storage/lwlock.h"

#include "table.h"

#define AMT_SCRYPT_PLACES	64	/* the most that max_concurrent_scrypt can be */

typedef struct AmtScryptPlace
{
	int			pid;			/* who runs, or 0 */
	uint64		tag;			/* for which key and stored hash */
} AmtScryptPlace;

typedef struct AmtScryptQueue
{
	LWLock		lock;			/* guards the places */
	ConditionVariable left;		/* somebody left a place */
	AmtScryptPlace place[AMT_SCRYPT_PLACES];
} AmtScryptQueue;

extern void amt_scrypt_queue_setup(void);
extern void amt_scrypt_queue_init(AmtScryptQueue *queue, int tranche);

/*
 * Take a place, without waiting if possible.  False: it had to wait, and now
 * somebody has left; what the caller knew may be old, so it should look again
 * and, if need be, call again.  Without shared memory there is no queue.
 */
extern bool amt_scrypt_enter(uint64 tag);

/* Leave the place, if this process has one.  Never fails. */
extern void amt_scrypt_leave(void);

/* This process has shared memory now. */
extern void amt_scrypt_queue_attached(void);

#endif							/* AMT_SCRYPT_QUEUE_H */
