/*
 * stat.c
 *	  Counters of what the extension did, for the whole server.
 *
 * Every process adds to one of several stripes without a lock; reading sums
 * them up, which is exact once the adders have stopped, and a moment's
 * approximation before.  A reset racing with an addition may keep or lose that
 * addition.  Without shared memory each process counts for itself.  Of the
 * tables, the view shows the numbers of slots in use at a glance, without a lock,
 * and sums up the pending calls by a scan, with theirs (table.c).
 */
#include "postgres.h"

#include "access/htup_details.h"
#include "fmgr.h"
#include "funcapi.h"
#include "miscadmin.h"
#include "utils/timestamp.h"

#include "shmem.h"
#include "usage.h"

StaticAssertDecl(sizeof(AmtStatStripe) == 128, "a stripe fills its cache lines");

static uint64 own[AMT_NCOUNTERS];
static TimestampTz own_since = 0;

void
amt_stats_init(AmtStats *stats)
{
	for (int i = 0; i < AMT_STAT_STRIPES; i++)
		for (int j = 0; j < AMT_NCOUNTERS; j++)
			pg_atomic_init_u64(&stats->stripe[i].counter[j], 0);
	pg_atomic_init_u64(&stats->since, (uint64) GetCurrentTimestamp());
}

void
amt_stat_add(AmtCounter counter, uint64 n)
{
	if (amt_shared == NULL)
		own[counter] += n;
	else
		pg_atomic_fetch_add_u64(&amt_shared->stats.stripe[MyProcPid % AMT_STAT_STRIPES].counter[counter],
								(int64) n);
}

/* What was counted before is the server's now. */
void
amt_stat_attached(void)
{
	for (int c = 0; c < AMT_NCOUNTERS; c++)
	{
		if (own[c] > 0)
			amt_stat_add(c, own[c]);
		own[c] = 0;
	}
}

static uint64
read_counter(AmtCounter counter)
{
	uint64		sum = 0;

	if (amt_shared == NULL)
		return own[counter];
	for (int i = 0; i < AMT_STAT_STRIPES; i++)
		sum += pg_atomic_read_u64(&amt_shared->stats.stripe[i].counter[counter]);
	return sum;
}

#define STAT_COLUMNS	17

PG_FUNCTION_INFO_V1(amt_stat_get);
Datum
amt_stat_get(PG_FUNCTION_ARGS)
{
	bool		shared = amt_shmem_attach();
	TupleDesc	tupdesc;
	Datum		values[STAT_COLUMNS];
	bool		nulls[STAT_COLUMNS] = {false};
	int			n = 0;

	if (get_call_result_type(fcinfo, NULL, &tupdesc) != TYPEFUNC_COMPOSITE)
		elog(ERROR, "return type must be a row type");
	if (own_since == 0)
		own_since = GetCurrentTimestamp();

	values[n++] = Int64GetDatum((int64) read_counter(AMT_VERIFIED));
	for (int c = AMT_REJECTED_MALFORMED; c <= AMT_REJECTED_EXPIRED; c++)
		values[n++] = Int64GetDatum((int64) read_counter(c));
	for (int c = AMT_CACHE_HITS; c <= AMT_SCRYPT_RUNS; c++)
		values[n++] = Int64GetDatum((int64) read_counter(c));
	values[n++] = Float8GetDatum(read_counter(AMT_SCRYPT_MICROSECONDS) / 1000.0);
	values[n++] = Int64GetDatum((int64) read_counter(AMT_SCRYPT_WAITS));
	values[n++] = Int64GetDatum(shared ? amt_table_used(&amt_shared->cache) : 0);
	values[n++] = Int64GetDatum(shared ? amt_usage_pending_calls() : 0);
	for (int c = AMT_CALLS_FLUSHED; c <= AMT_WORKER_FAILURES; c++)
		values[n++] = Int64GetDatum((int64) read_counter(c));
	values[n++] = BoolGetDatum(shared);
	values[n++] = TimestampTzGetDatum(amt_shared != NULL ?
									  (TimestampTz) pg_atomic_read_u64(&amt_shared->stats.since) :
									  own_since);
	Assert(n == STAT_COLUMNS);

	PG_RETURN_DATUM(HeapTupleGetDatum(heap_form_tuple(BlessTupleDesc(tupdesc), values, nulls)));
}

PG_FUNCTION_INFO_V1(amt_stat_reset);
Datum
amt_stat_reset(PG_FUNCTION_ARGS)
{
	memset(own, 0, sizeof(own));
	own_since = GetCurrentTimestamp();
	(void) amt_shmem_attach();
	if (amt_shared != NULL)
	{
		for (int i = 0; i < AMT_STAT_STRIPES; i++)
			for (int j = 0; j < AMT_NCOUNTERS; j++)
				pg_atomic_write_u64(&amt_shared->stats.stripe[i].counter[j], 0);
		pg_atomic_write_u64(&amt_shared->stats.since, (uint64) own_since);
	}
	PG_RETURN_VOID();
}
