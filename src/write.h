/*
 * write.h
 *	  Writing rows of the extension's tables.
 */
#ifndef AMT_WRITE_H
#define AMT_WRITE_H

#include "executor/execdesc.h"
#include "nodes/execnodes.h"
#include "utils/relcache.h"

/* A series of writes to one table, between amt_write_begin() and _end(). */
typedef struct AmtWrite
{
	Relation	rel;
	EState	   *estate;
	ResultRelInfo *target;
	EPQState	epq;
	TupleTableSlot *old_row;	/* that was found */
	TupleTableSlot *new_row;
	Bitmapset **updated_columns;	/* what "UPDATE OF" triggers look at */
	Oid			save_userid;
	int			save_sec_context;
	int			save_nestlevel;
} AmtWrite;

/* Triggers, constraints and index functions run as this table's owner. */
extern void amt_write_begin(AmtWrite *write, Relation rel);
extern void amt_write_end(AmtWrite *write);

/*
 * Insert a row of which the first natts columns are given; others get their
 * defaults.  Returns false if a trigger of the owner's has suppressed it.
 */
extern bool amt_write_insert(AmtWrite *write, const Datum *values, const bool *nulls, int natts);

/*
 * Find and lock the row of that key id; see amt_row_lock().  The row is then in
 * write->old_row.
 */
extern bool amt_write_lock(AmtWrite *write, Oid index, const char *id, Size id_len,
						   bool nowait, bool *busy);

/* The same for a table that is locked against other writers: see amt_row_find(). */
extern bool amt_write_find(AmtWrite *write, Oid index, const char *id, Size id_len);

/*
 * Change these columns of the locked row, or delete it.  To change it returns
 * false if a trigger has suppressed it.
 */
extern bool amt_write_update(AmtWrite *write, int ncolumns, const AttrNumber *columns,
							 const Datum *values, const bool *nulls);
extern void amt_write_delete(AmtWrite *write);

#endif							/* AMT_WRITE_H */
