/*
 * writer_batch.h
 *	  Writing counted calls in batches.
 */
#ifndef AMT_WRITER_BATCH_H
#define AMT_WRITER_BATCH_H

#include "datatype/timestamp.h"

/* When the worker's last pass must end. */
typedef struct AmtLimits
{
	TimestampTz give_up_at;		/* if a batch has failed */
	TimestampTz stop_at;		/* in any case */
} AmtLimits;

/*
 * Write all calls that can be written without waiting.  The caller must not
 * be in a transaction.  Returns false if a batch has failed.  *left says
 * whether calls must wait for a later write.
 *
 * The last pass has limits.  With NULL instead, a pass ends early when the
 * worker is asked to leave.
 */
extern bool amt_write_pending(const AmtLimits *limits, bool *left);

#endif							/* AMT_WRITER_BATCH_H */
