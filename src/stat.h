/*
 * stat.h
 *	  Counters of what the extension did, for the whole server.
 */
#ifndef AMT_STAT_H
#define AMT_STAT_H

#include "datatype/timestamp.h"
#include "port/atomics.h"

typedef enum AmtCounter
{
	AMT_REJECTED_MALFORMED,		/* these five in AmtVerdict's order */
	AMT_REJECTED_UNKNOWN,
	AMT_REJECTED_WRONG_SECRET,
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
#define AMT_STAT_STRIPES	16

/* Stripes, so that busy processes rarely share a cache line. */
typedef struct AmtStatStripe
{
	pg_atomic_uint64 counter[AMT_NCOUNTERS];
	char		pad[128 - AMT_NCOUNTERS * 8];
} AmtStatStripe;

typedef struct AmtStats
{
	AmtStatStripe stripe[AMT_STAT_STRIPES];
	pg_atomic_uint64 since;		/* a TimestampTz */
} AmtStats;

extern void amt_stats_init(AmtStats *stats);

/* This process has shared memory now. */
extern void amt_stat_attached(void);

/* Add to a counter; in this process only when there is no shared memory. */
extern void amt_stat_add(AmtCounter counter, uint64 n);

#endif							/* AMT_STAT_H */
