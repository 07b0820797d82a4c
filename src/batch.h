/*
 * batch.h
 *	  A short transaction of the background worker.
 */
#ifndef AMT_BATCH_H
#define AMT_BATCH_H

#include "storage/lockdefs.h"

#include "newest.h"
#include "relations.h"

/* The tables of a batch. */
typedef struct AmtBatch
{
	Relation	key;			/* amt_key */
	Relation	usage;			/* amt_key_usage; NULL during recovery */
	bool		exclusive;		/* no other process can write "usage" */
	Oid			usage_index;	/* the index of amt_key_usage on key_id */
	MemoryContext scratch;		/* emptied after each key */
} AmtBatch;

extern void amt_batch_init(void);

/* Begin a transaction with a snapshot.  now() is the present in it. */
extern void amt_batch_begin(void);
extern void amt_batch_commit(void);

/*
 * Map the shared memory that other processes have added.  The worker exits
 * if that fails.  The caller must be in a transaction.
 */
extern void amt_batch_attach(void);

/* Start or stop the timeout of a batch. */
extern void amt_batch_timeout(bool enable);

/*
 * Lock the tables, or return false if that cannot be done at once.
 * amt_key_usage is locked in this mode, else in RowExclusiveLock.  During
 * recovery "usage" is NULL.
 */
extern bool amt_batch_open(AmtBatch *batch, Oid extension, LOCKMODE mode);
extern void amt_batch_close(AmtBatch *batch);

/*
 * Is there a row of the key?  "hint" may be NULL.  If there is a row, and
 * "hash_tag" is not NULL, also gets the tag of its hash.
 */
extern AmtPresence amt_batch_presence(AmtBatch *batch, const char *id, Size id_len,
									  const AmtRowHint *hint, uint64 *hash_tag);

/* After an error: roll back and go on. */
extern void amt_batch_recover(MemoryContext oldcontext);

#endif							/* AMT_BATCH_H */
