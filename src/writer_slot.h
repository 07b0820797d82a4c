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
	Oid			database;		/* the slot's database, or InvalidOid */
	int			pid;			/* the worker's process, or 0 */
	bool		asked;			/* was the postmaster asked for a worker that
								 * has not come yet? */
	bool		counted;		/* was a call counted since the worker looked?
								 * Set without the lock */
	bool		hurry;			/* does a backend wait for the next write? */
	uint32		failures;		/* failed writes and starts of this worker and
								 * its predecessors */
	TimestampTz asked_at;		/* when the postmaster was last asked, or the
								 * last worker failed */
	TimestampTz failed_at;		/* when the last worker failed; 0 if it has
								 * not */
} AmtWriterSlot;

/* This database's slot when this process last looked; NULL at first. */
extern AmtWriterSlot *amt_my_slot;

extern void amt_slot_init(void);

/* A call was counted: make sure that this database has a worker. */
extern void amt_writer_want(TimestampTz now);

/*
 * Have this database's worker write at once.  Raises 53400 if there can be
 * no worker.  Returns the number of its failures.
 */
extern uint32 amt_writer_hurry(void);

/* Broadcast when a worker has written or left. */
extern ConditionVariable *amt_writer_written(void);

/* Become this database's worker; false if there is one. */
extern bool amt_slot_claim(void);

/*
 * Stop being this database's worker.  After a failure, "asked_at" must be
 * the time, so that the next worker is not asked for at once.  Otherwise it
 * must be 0.
 */
extern void amt_slot_release(TimestampTz asked_at);

/*
 * This worker has left, and calls wait that it could not write.  Ask for
 * another one, since there may be no further call to do that.
 */
extern void amt_slot_ask_for_successor(void);

/* Does this database have a worker? */
extern bool amt_slot_is_taken(void);

#endif							/* AMT_WRITER_SLOT_H */
