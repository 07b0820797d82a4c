/*
 * table_code.h
 *	  The code that runs when one of our tables is written.
 */
#ifndef AMT_TABLE_CODE_H
#define AMT_TABLE_CODE_H

#include "nodes/pg_list.h"
#include "utils/relcache.h"

extern void amt_table_code_init(void);

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
 * that are returned, and no others.  "again" says that the caller has held the
 * lock since the last check: a parent need not be looked for.
 */
extern List *amt_check_code(Relation rel, bool again);

/* Would the first amt_check_code() raise an error? */
extern bool amt_has_foreign_code(Relation rel);

#endif							/* AMT_TABLE_CODE_H */
