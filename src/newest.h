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
	AMT_PRESENT,				/* a committed row that nobody is changing */
	AMT_CHANGING,				/* a committed row that one in progress
								 * updates */
	AMT_COMING,					/* inserted by a transaction in progress */
	AMT_GOING					/* deleted by one, or just updated */
} AmtPresence;

/*
 * Is there a row of the key, as all transactions together see it?  The caller
 * must have an active snapshot, for values that are stored out of line.
 */
extern AmtPresence amt_key_presence(Relation rel, const char *id, Size id_len, AmtKey *key);

/* Is this event_id taken?  The highest one that is, or 0. */
extern bool amt_event_exists(Relation rel, int64 event_id);
extern int64 amt_event_last_id(Relation rel);

/*
 * Find and lock the newest version of the row with that key id in a table with
 * a key_id in its first column.  Waits for transactions that are changing it,
 * or with "nowait" sets *busy and returns false.  Returns false if there is
 * no row.
 */
extern bool amt_row_lock(Relation rel, Oid index, const char *id, Size id_len, bool nowait,
						 TupleTableSlot *slot, bool *busy);

/*
 * Find that row without locking it.  The caller has locked the table against
 * other writers.
 */
extern bool amt_row_find(Relation rel, Oid index, const char *id, Size id_len,
						 TupleTableSlot *slot);

#endif							/* AMT_NEWEST_H */
