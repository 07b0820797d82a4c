/*
 * usage.h
 *	  The calls of a key: counting one, and reading all.
 */
#ifndef AMT_USAGE_H
#define AMT_USAGE_H

#include "entry.h"
#include "rows.h"

/*
 * Count a call of the key with that stored hash; the worker will write it.
 * Without shared memory "ref" is all zeros.  *other must be 0 at first.
 *
 * False means that the entry is about another key of that id.  The caller
 * must then read the key's row again, decide again, since time has passed,
 * and call again.
 */
extern bool amt_usage_count(Oid extension, const AmtKeyRef *ref, uint64 hash_tag, TimestampTz at,
							uint64 *other);

/*
 * All calls up to now, written or not.  *last_used_at is DT_NOBEGIN if there
 * was none.
 */
extern void amt_usage_read(Oid extension, Oid table, const AmtKey *key,
						   int64 *calls, TimestampTz *last_used_at);

#endif							/* AMT_USAGE_H */
