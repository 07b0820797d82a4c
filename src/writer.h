/*
 * writer.h
 *	  The background worker that writes what was counted.
 */
#ifndef AMT_WRITER_H
#define AMT_WRITER_H

#include "datatype/timestamp.h"

extern void amt_writer_init(void);

/* Something was counted: see to it that this database has a worker. */
extern void amt_writer_want(TimestampTz now);

#endif							/* AMT_WRITER_H */
