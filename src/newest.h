/*
 * newest.h
 *	  The newest version of a row, as all transactions together see it.
 */
#ifndef AMT_NEWEST_H
#define AMT_NEWEST_H

#include "rows.h"

typedef enum AmtPresence
{
	AMT_ABSENT,					/* no row, and none is being inserted */
	AMT_PRESENT,				/* committed, and no transaction is changing
								 * it */
	AMT_CHANGING,				/* committed, and a transaction in progress
								 * updates it */
	AMT_COMING,					/* inserted by a transaction in progress */
	AMT_GOING					/* deleted by a transaction in progress, or
								 * just updated */
} AmtPresence;

/*
 * Is there a row of the key, as all transactions together see it?  Looks
 * at the hint's place first; "hint" may be NULL.  The caller must have an
 * active snapshot, for values that are stored out of line.
 */
extern AmtPresence amt_key_presence(Relation rel, const char *id, Size id_len,
									const AmtRowHint *hint, AmtKey *key);

/* Is this event_id taken? */
extern bool amt_event_exists(Relation rel, int64 event_id);

/* The highest event_id below the limit that is taken, or PG_INT64_MIN. */
extern int64 amt_event_last_id(Relation rel, int64 limit);

/*
 * Find and lock the newest version of the row with that key id, in a table
 * whose first column is key_id.  Waits for transactions that are changing
 * the row.  With "nowait" it sets *busy and returns false instead.  Returns
 * false if there is no row.
 */
extern bool amt_row_lock(Relation rel, Oid index, const char *id, Size id_len, bool nowait,
						 TupleTableSlot *slot, bool *busy);

/*
 * Find the newest version of a row without locking it.  The caller must have
 * locked the table against other writers.
 */
extern bool amt_row_find(Relation rel, Oid index, const char *id, Size id_len,
						 TupleTableSlot *slot);

#endif							/* AMT_NEWEST_H */
