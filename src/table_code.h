/*
 * table_code.h
 *	  The code that runs when one of our tables is written.
 */
#ifndef AMT_TABLE_CODE_H
#define AMT_TABLE_CODE_H

#include "fmgr.h"
#include "nodes/execnodes.h"
#include "nodes/pg_list.h"
#include "utils/relcache.h"

/* The functions of our triggers; NULL ends the list. */
extern void amt_table_code_init(const PGFunction *trigger_functions);

/*
 * From now on, this process writes only amt_key_usage.  Expressions on it, and
 * indexes on columns that others have added, then count as such code.
 */
extern void amt_code_forbid_expressions(void);

/*
 * Raise 42501 if code that must not run here would run when the table is
 * written, or something else gives others the rights of the table's owner.
 * The caller must hold a lock that keeps others from changing the table.  That
 * does not keep them from adding an index: the caller must maintain the indexes
 * that are returned, and no others.  It must also call the next function: it
 * may wait, and the functions of the triggers may be given away meanwhile.
 */
extern List *amt_check_code(Relation rel);

/*
 * Look up the functions of the table's triggers, for the executor.  Raises
 * 42501 if one is not this library's.  Whatever becomes of a function in the
 * catalog later, the executor runs what was looked up.
 */
extern void amt_look_up_triggers(ResultRelInfo *target, MemoryContext context);

/* Would amt_check_code() raise an error? */
extern bool amt_has_foreign_code(Relation rel);

#endif							/* AMT_TABLE_CODE_H */
