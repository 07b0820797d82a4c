/*
 * pending.h
 *	  Entries with unwritten calls, for the worker that writes them.
 */
#ifndef AMT_PENDING_H
#define AMT_PENDING_H

#include "entry.h"

/* A copy of an entry with unwritten calls. */
typedef struct AmtDue
{
	AmtTag		tag;			/* of the entry */
	uint64		serial;			/* the entry's; the copy is valid for it only */
	uint64		hash_tag;		/* of stored hash, organization, role */
	uint64		counted;		/* calls since the entry was made */
	uint64		written;		/* how many of "counted" are in amt_key_usage */
	bool		base_known;		/* has the worker set "base"? */
	uint64		base;			/* calls in amt_key_usage when the entry was
								 * made */
	TimestampTz used_at;		/* time of the last call */
	Oid			table;			/* the key's table in its database */
	AmtRowHint	hint;			/* where the key's row was seen */
	uint32		id_len;			/* length of "id" */
	char		id[AMT_ID_MAX]; /* the key's id */
	bool		done;			/* this batch has written the copy; in
								 * flush.c: need not wait for it */
} AmtDue;

/*
 * Copy up to max entries of the database with unwritten calls, from *place
 * on, which must be 0 at first.  Returns their number.  *more is false at
 * the end of the table.
 */
extern int	amt_entry_collect(Oid database, uint32 *place, AmtDue *due, int max, bool *more);

/* Get up to max databases that have entries.  Returns their number. */
extern int	amt_entry_databases(Oid *database, int max);

/* Remove all entries of a database. */
extern void amt_entry_drop_database(Oid database);

/*
 * Each does nothing if the entry with that serial is gone.  A bool result
 * says whether it was there.
 */
extern bool amt_entry_set_base(AmtDue *due, uint64 base);
extern bool amt_entry_drop(const AmtDue *due);

/* The same.  Returns how many calls were not noted as written before. */
extern uint64 amt_entry_set_written(const AmtDue *due);

/* Are the copied calls written?  *gone says whether the entry is gone. */
extern bool amt_entry_is_written(const AmtDue *due, bool *gone);

/* Remove entries without unwritten calls, beyond amt_keys.cache_size. */
extern void amt_entry_trim(void);

/* Sums over the entries of one database, or of all if it is InvalidOid. */
typedef struct AmtEntrySums
{
	uint64		unwritten;		/* calls that are not written */
	uint64		proved;			/* entries with a proved secret */
} AmtEntrySums;

extern void amt_entry_sum(Oid database, AmtEntrySums *sums);

#endif							/* AMT_PENDING_H */
