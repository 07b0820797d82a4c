/*
 * pending.h
 *	  Entries with calls that are not written yet, for the worker that writes them.
 */
#ifndef AMT_PENDING_H
#define AMT_PENDING_H

#include "entry.h"

/* An entry with calls to write, as copied for the writer. */
typedef struct AmtDue
{
	AmtTag		tag;
	uint64		serial;
	uint64		hash_tag;
	uint64		counted;
	uint64		written;
	bool		base_known;
	uint64		base;
	TimestampTz used_at;
	Oid			database;
	Oid			table;
	uint32		id_len;
	char		id[AMT_ID_MAX];
	bool		done;			/* for the writer's use */
} AmtDue;

/*
 * Copy up to max entries of the database with unwritten calls, from *place on,
 * which is 0 at first.  Returns their number; *more is false at the end of the
 * table.
 */
extern int	amt_entry_collect(Oid database, uint32 *place, AmtDue *due, int max, bool *more);

/* Up to max databases that have entries; their number. */
extern int	amt_entry_databases(Oid *database, int max);

/* Remove all entries of a database. */
extern void amt_entry_drop_database(Oid database);

/* Each is done only if the entry is still the one with that serial. */
extern bool amt_entry_set_base(const AmtDue *due, uint64 base);
extern void amt_entry_set_written(const AmtDue *due);
extern bool amt_entry_drop(const AmtDue *due);

/* Are the copied calls written?  *gone is true if the entry is not there. */
extern bool amt_entry_is_written(const AmtDue *due, bool *gone);

/* Free the entries of written keys beyond amt_keys.cache_size. */
extern void amt_entry_trim(void);

/* Sums over the entries of one database, or of all if it is InvalidOid. */
typedef struct AmtEntrySums
{
	uint64		unwritten;		/* calls that are not written */
	uint64		counted;		/* calls that were counted */
	uint64		proved;			/* entries with a proved secret */
} AmtEntrySums;

extern void amt_entry_sum(Oid database, AmtEntrySums *sums);

#endif							/* AMT_PENDING_H */
