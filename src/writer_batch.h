/*
 * writer_batch.h
 *	  What the background worker writes, in batches.
 */
#ifndef AMT_WRITER_BATCH_H
#define AMT_WRITER_BATCH_H

#include "datatype/timestamp.h"

/*
 * Write what can be written now, without waiting for anybody.  The caller is in
 * no transaction.  Returns false if a batch has failed, and after "give_up_at" no
 * other is tried then.  *left says whether calls have to wait for a later write.
 */
extern bool amt_write_pending(TimestampTz give_up_at, bool *left);

#endif							/* AMT_WRITER_BATCH_H */
