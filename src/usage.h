/*
 * usage.h
 *	  The calls of a key: counting one, and reading all.
 */
#ifndef AMT_USAGE_H
#define AMT_USAGE_H

#include "rows.h"

/* Count a call; the worker will write it. */
extern void amt_usage_count(Oid extension, Oid table, const AmtKey *key, TimestampTz at);

/* All calls up to now, stored or not; DT_NOBEGIN if there was none. */
extern void amt_usage_read(Oid extension, Oid table, const AmtKey *key,
						   int64 *calls, TimestampTz *last_used_at);

#endif							/* AMT_USAGE_H */
