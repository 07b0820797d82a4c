/*
 * writer_batch.h
 *	  Writing counted calls in batches.
 */
#ifndef AMT_WRITER_BATCH_H
#define AMT_WRITER_BATCH_H

#include "datatype/timestamp.h"

/*
 * Write all calls that can be written without waiting.  The caller must not
 * be in a transaction.  Returns false if a batch has failed.  *left says
 * whether calls must wait for a later write.
 *
 * With DT_NOEND for "give_up_at", stops when the worker is asked to leave.
 * Otherwise a batch that is slow or fails is the last after that time.
 */
extern bool amt_write_pending(TimestampTz give_up_at, bool *left);

#endif							/* AMT_WRITER_BATCH_H */
