/*
 * batch.h
 *	  A short transaction of the background worker.
 */
#ifndef AMT_BATCH_H
#define AMT_BATCH_H

#include "storage/lockdefs.h"

#include "relations.h"

/* The tables of a batch. */
typedef struct AmtBatch
{
	Relation	key;
	Relation	usage;
	bool		exclusive;		/* nobody else can write usage */
	Oid			usage_index;
} AmtBatch;

extern void amt_batch_init(void);

/* Begin a transaction with a snapshot, for whose code now() is the present. */
extern void amt_batch_begin(void);
extern void amt_batch_commit(void);

/*
 * Map what other processes have added to shared memory, or exit: a worker cannot
 * do without.  The caller must be in a transaction.
 */
extern void amt_batch_attach(void);

/* From now on the code may take a second; or no longer. */
extern void amt_batch_timeout(bool enable);

/*
 * Lock the tables if that can be done at once, amt_key_usage in this mode or so
 * that others can write it, too.  During recovery "usage" is NULL.
 */
extern bool amt_batch_open(AmtBatch *batch, Oid extension, LOCKMODE mode);
extern void amt_batch_close(AmtBatch *batch);

/* After an error: roll back and go on. */
extern void amt_batch_recover(MemoryContext oldcontext);

#endif							/* AMT_BATCH_H */
