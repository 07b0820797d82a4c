/*
 * stat_view.c
 *	  The view amt_stat, its reset, and amt_cache_clear().
 */
#include "postgres.h"

#include "access/htup_details.h"
#include "catalog/pg_type.h"
#include "fmgr.h"
#include "funcapi.h"
#include "utils/timestamp.h"

#include "compat.h"
#include "entry.h"
#include "pending.h"
#include "relations.h"
#include "session.h"
#include "stat.h"

#define STAT_COLUMNS	18

static const Oid stat_types[STAT_COLUMNS] = {
	INT8OID, INT8OID, INT8OID, INT8OID, INT8OID, INT8OID, INT8OID, INT8OID, FLOAT8OID, INT8OID,
	INT8OID, INT8OID, INT8OID, INT8OID, INT8OID, INT8OID, BOOLOID, TIMESTAMPTZOID
};

PG_FUNCTION_INFO_V1(amt_stat_get);
Datum
amt_stat_get(PG_FUNCTION_ARGS)
{
	bool		shared = amt_entry_attach();
	AmtEntrySums sums = {0};
	TupleDesc	tupdesc;
	Datum		values[STAT_COLUMNS];
	bool		nulls[STAT_COLUMNS] = {false};
	int			n = 0;

	amt_session_check();
	tupdesc = amt_result_tupdesc(fcinfo, stat_types, STAT_COLUMNS);
	if (shared)
		amt_entry_sum(InvalidOid, &sums);

	values[n++] = Int64GetDatum((int64) amt_stat_read(AMT_VERIFIED));
	for (int c = AMT_REJECTED_MALFORMED; c <= AMT_REJECTED_EXPIRED; c++)
		values[n++] = Int64GetDatum((int64) amt_stat_read(c));
	values[n++] = Int64GetDatum((int64) amt_stat_read(AMT_CACHE_HITS));
	values[n++] = Int64GetDatum((int64) amt_stat_read(AMT_SCRYPT_RUNS));
	values[n++] = Float8GetDatum(amt_stat_read(AMT_SCRYPT_MICROSECONDS) / 1000.0);
	values[n++] = Int64GetDatum((int64) amt_stat_read(AMT_SCRYPT_WAITS));
	values[n++] = Int64GetDatum((int64) sums.proved);
	values[n++] = Int64GetDatum((int64) sums.unwritten);
	for (int c = AMT_CALLS_FLUSHED; c <= AMT_WORKER_FAILURES; c++)
		values[n++] = Int64GetDatum((int64) amt_stat_read(c));
	values[n++] = BoolGetDatum(shared);
	values[n++] = TimestampTzGetDatum(amt_stat_since());
	Assert(n == STAT_COLUMNS);

	PG_RETURN_DATUM(HeapTupleGetDatum(heap_form_tuple(tupdesc, values, nulls)));
}

PG_FUNCTION_INFO_V1(amt_stat_reset);
Datum
amt_stat_reset(PG_FUNCTION_ARGS)
{
	amt_session_check();
	(void) amt_entry_attach();
	amt_stat_reset_all();
	PG_RETURN_VOID();
}

PG_FUNCTION_INFO_V1(amt_cache_clear);
Datum
amt_cache_clear(PG_FUNCTION_ARGS)
{
	amt_session_check();
	if (amt_entry_attach())
		amt_entry_forget_proofs();
	PG_RETURN_VOID();
}
