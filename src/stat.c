/*
 * stat.c
 *	  Counters of the extension's work, for the whole server.
 *
 * A process adds to one of several stripes without a lock.  A reader sums
 * them up, which is exact while no process adds.  A reset may keep or lose
 * an addition that is made meanwhile.
 */
#include "postgres.h"

#include "miscadmin.h"
#include "port/atomics.h"
#include "utils/timestamp.h"

#include "shmem.h"
#include "stat.h"

#define STRIPES	16

/* Busy processes rarely share a cache line. */
typedef struct Stripe
{
	pg_atomic_uint64 counter[AMT_NCOUNTERS];
	char		pad[128 - AMT_NCOUNTERS * 8];
} Stripe;

StaticAssertDecl(sizeof(Stripe) == 128, "a stripe fills its cache lines");

typedef struct Stats
{
	Stripe		stripe[STRIPES];
	pg_atomic_uint64 since;		/* when the counters were zero, a TimestampTz */
} Stats;

static Stats *stats = NULL;
static uint64 own[AMT_NCOUNTERS];	/* this process's counters until it is
									 * attached */
static TimestampTz own_since = 0;

static void
init_stats(void *part, const AmtShmemInit *init)
{
	Stats	   *new = part;

	for (int i = 0; i < STRIPES; i++)
		for (int c = 0; c < AMT_NCOUNTERS; c++)
			pg_atomic_init_u64(&new->stripe[i].counter[c], 0);
	pg_atomic_init_u64(&new->since, (uint64) GetCurrentTimestamp());
}

static void
attach_stats(void *part)
{
	stats = part;
	for (int c = 0; c < AMT_NCOUNTERS; c++)
	{
		if (own[c] > 0)
			amt_stat_add(c, own[c]);
		own[c] = 0;
	}
}

void
amt_stat_init(void)
{
	static const AmtShmemPart part = {sizeof(Stats), init_stats, attach_stats};

	amt_shmem_register(&part);
}

void
amt_stat_add(AmtCounter counter, uint64 n)
{
	if (stats == NULL)
		own[counter] += n;
	else
		pg_atomic_fetch_add_u64(&stats->stripe[MyProcPid % STRIPES].counter[counter], (int64) n);
}

uint64
amt_stat_read(AmtCounter counter)
{
	uint64		sum = 0;

	if (stats == NULL)
		return own[counter];
	for (int i = 0; i < STRIPES; i++)
		sum += pg_atomic_read_u64(&stats->stripe[i].counter[counter]);
	return sum;
}

TimestampTz
amt_stat_since(void)
{
	if (stats != NULL)
		return (TimestampTz) pg_atomic_read_u64(&stats->since);
	if (own_since == 0)
		own_since = GetCurrentTimestamp();
	return own_since;
}

void
amt_stat_reset_all(void)
{
	memset(own, 0, sizeof(own));
	own_since = GetCurrentTimestamp();
	if (stats == NULL)
		return;
	for (int i = 0; i < STRIPES; i++)
		for (int c = 0; c < AMT_NCOUNTERS; c++)
			pg_atomic_write_u64(&stats->stripe[i].counter[c], 0);
	pg_atomic_write_u64(&stats->since, (uint64) own_since);
}
