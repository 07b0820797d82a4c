/*
 * write.h
 *	  Writing rows of the extension's tables.
 */
#ifndef AMT_WRITE_H
#define AMT_WRITE_H

#include "executor/execdesc.h"
#include "nodes/execnodes.h"
#include "utils/relcache.h"

/*
 * A series of writes to one table.  Every amt_write_begin() must be followed
 * by amt_write_end().
 */
typedef struct AmtWrite
{
	Relation	rel;			/* the table */
	EState	   *estate;			/* of the executor */
	ResultRelInfo *target;		/* "rel" for the executor */
	EPQState	epq;			/* of the executor, for updates and deletes */
	TupleTableSlot *old_row;	/* the row that was found or locked */
	TupleTableSlot *new_row;	/* the row to write */
	Bitmapset **updated_columns;	/* "UPDATE OF" triggers look at these */
	Oid			save_userid;	/* the caller's */
	int			save_sec_context;	/* the caller's */
	int			save_nestlevel; /* of our changes of settings */
} AmtWrite;

/*
 * From begin to end, code runs as the table's owner.  Raises 42501 if the
 * table has code that must not run here.
 */
extern void amt_write_begin(AmtWrite *write, Relation rel);
extern void amt_write_end(AmtWrite *write);

/*
 * Insert a row.  The first natts columns are given, others get their
 * defaults.
 */
extern void amt_write_insert(AmtWrite *write, const Datum *values, const bool *nulls, int natts);

/*
 * Find and lock the row of that key id; see amt_row_lock().  The row is then in
 * write->old_row.
 */
extern bool amt_write_lock(AmtWrite *write, Oid index, const char *id, Size id_len,
						   bool nowait, bool *busy);

/*
 * Find the row without locking it; see amt_row_find().  The row is then in
 * write->old_row.
 */
extern bool amt_write_find(AmtWrite *write, Oid index, const char *id, Size id_len);

/* Change these columns of write->old_row. */
extern void amt_write_update(AmtWrite *write, int ncolumns, const AttrNumber *columns,
							 const Datum *values, const bool *nulls);

/* Delete write->old_row. */
extern void amt_write_delete(AmtWrite *write);

#endif							/* AMT_WRITE_H */
