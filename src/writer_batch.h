/*
 * writer_batch.h
 *	  What the background worker writes, in batches.
 */
#ifndef AMT_WRITER_BATCH_H
#define AMT_WRITER_BATCH_H

extern void amt_batch_init(void);

/*
 * Write what can be written now, without waiting for anybody.  The caller is in
 * no transaction.  Returns false if a batch has failed; *left says whether calls
 * have to wait for a later write.
 */
extern bool amt_write_pending(bool *left);

/* Delete stored usage of keys that no longer exist. */
extern void amt_sweep_usage(void);

/* Drop the calls of databases that no longer exist. */
extern void amt_sweep_databases(void);

#endif							/* AMT_WRITER_BATCH_H */
