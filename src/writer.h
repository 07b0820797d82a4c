/*
 * writer.h
 *	  The background worker that writes what was counted.
 */
#ifndef AMT_WRITER_H
#define AMT_WRITER_H

#include "datatype/timestamp.h"
#include "storage/condition_variable.h"

extern void amt_writer_init(void);

/* Something was counted: see to it that this database has a worker. */
extern void amt_writer_want(TimestampTz now);

/*
 * Have this database's worker write at once.  Raises an error if there can be no
 * worker.  Returns the number of its failures.
 */
extern uint32 amt_writer_hurry(void);

/* Is broadcast when a worker has written something, or has left. */
extern ConditionVariable *amt_writer_written(void);

#endif							/* AMT_WRITER_H */
