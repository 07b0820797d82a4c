/*
 * worker.h
 *	  The background worker that writes what was counted.
 */
#ifndef AMT_WORKER_H
#define AMT_WORKER_H

#include "datatype/timestamp.h"
#include "storage/lwlock.h"

#define AMT_WORKER_DATABASES	128 /* that can have a worker at once */

typedef struct AmtWorkerSlot
{
	Oid			database;		/* whose worker this is, or InvalidOid */
	int			pid;			/* its process, or 0 */
	bool		at_promotion;	/* waits in the postmaster for the end of
								 * recovery? */
	TimestampTz asked_at;		/* when the postmaster was last asked for it */
} AmtWorkerSlot;

typedef struct AmtWorkers
{
	LWLock		lock;			/* guards the slots */
	AmtWorkerSlot slot[AMT_WORKER_DATABASES];
} AmtWorkers;

extern void amt_worker_setup(void);
extern void amt_workers_init(AmtWorkers *workers, int tranche);

/* Something was counted: see to it that it will be written. */
extern void amt_worker_want(TimestampTz now);

/* Does this database have a worker that will still look for pending calls? */
extern bool amt_worker_is_there(void);

#endif							/* AMT_WORKER_H */
