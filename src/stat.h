/*
 * stat.h
 *	  Counters of the extension's work, for the whole server.
 */
#ifndef AMT_STAT_H
#define AMT_STAT_H

#include "datatype/timestamp.h"

typedef enum AmtCounter
{
	AMT_REJECTED_MALFORMED,		/* the first six are in AmtVerdict's order */
	AMT_REJECTED_UNKNOWN,
	AMT_REJECTED_WRONG_SECRET,
	AMT_REJECTED_SUSPENDED,
	AMT_REJECTED_EXPIRED,
	AMT_VERIFIED,
	AMT_CACHE_HITS,
	AMT_SCRYPT_RUNS,
	AMT_SCRYPT_MICROSECONDS,
	AMT_SCRYPT_WAITS,
	AMT_CALLS_FLUSHED,
	AMT_CALLS_DROPPED,
	AMT_WORKER_STARTS,
	AMT_WORKER_FAILURES
} AmtCounter;

#define AMT_NCOUNTERS		(AMT_WORKER_FAILURES + 1)

extern void amt_stat_init(void);

/*
 * Add to a counter.  Without shared memory the process counts for itself,
 * and adds its counters when it attaches.
 */
extern void amt_stat_add(AmtCounter counter, uint64 n);

extern uint64 amt_stat_read(AmtCounter counter);

/* The time when the counters were zero. */
extern TimestampTz amt_stat_since(void);

extern void amt_stat_reset_all(void);

#endif							/* AMT_STAT_H */
