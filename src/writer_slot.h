/*
 * writer_slot.h
 *	  Which databases have a background worker, and how to get one.
 */
#ifndef AMT_WRITER_SLOT_H
#define AMT_WRITER_SLOT_H

#include "datatype/timestamp.h"
#include "storage/condition_variable.h"

typedef struct AmtWriterSlot
{
	Oid			database;		/* whose worker this is, or InvalidOid */
	int			pid;			/* its process, or 0 */
	bool		asked;			/* was the postmaster asked for a worker that
								 * has not come yet? */
	bool		counted;		/* something was counted since the worker
								 * looked; set without the lock */
	bool		hurry;			/* a backend waits for the next write */
	uint32		failures;		/* writes that failed, of this worker and its
								 * predecessors */
	TimestampTz asked_at;		/* when the postmaster was last asked for it */
} AmtWriterSlot;

/* This database's slot, as far as this process knows it; NULL at first. */
extern AmtWriterSlot *amt_my_slot;

extern void amt_slot_init(void);

/* Something was counted: see to it that this database has a worker. */
extern void amt_writer_want(TimestampTz now);

/*
 * Have this database's worker write at once.  Raises an error if there can be no
 * worker.  Returns the number of its failures.
 */
extern uint32 amt_writer_hurry(void);

/* Is broadcast when a worker has written something, or has left. */
extern ConditionVariable *amt_writer_written(void);

/* Be this database's worker; false if there is one. */
extern bool amt_slot_claim(void);

/*
 * Be it no longer.  After a failure, "asked_at" is the time: the next worker is
 * not asked for at once.  Otherwise it is 0.
 */
extern void amt_slot_release(TimestampTz asked_at);

/* Has this database a worker? */
extern bool amt_slot_is_taken(void);

#endif							/* AMT_WRITER_SLOT_H */
