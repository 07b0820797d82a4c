/*
 * writer.h
 *	  The background worker that writes what was counted.
 */
#ifndef AMT_WRITER_H
#define AMT_WRITER_H

#include "datatype/timestamp.h"

#include "entry.h"

extern void amt_writer_init(void);

/* Something was counted: see to it that this database has a worker. */
extern void amt_writer_want(TimestampTz now);

/* In the worker: set while a batch is being written, see writer.c. */
extern void amt_writer_batch_timeout(bool enable);

/*
 * writer_batch.c: write what can be written now, without waiting for anybody.
 * The caller is in no transaction.  Returns false if a batch has failed; *left
 * says whether calls have to wait for a later write.
 */
extern bool amt_write_pending(bool *left);

/* Delete stored usage of keys that no longer exist. */
extern void amt_sweep_usage(void);

/* Drop the calls of databases that no longer exist. */
extern void amt_sweep_databases(void);

#endif							/* AMT_WRITER_H */
