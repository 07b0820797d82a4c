/*
 * table_code.h
 *	  Whose code runs when one of our tables is written.
 */
#ifndef AMT_TABLE_CODE_H
#define AMT_TABLE_CODE_H

#include "utils/relcache.h"

extern void amt_table_code_init(void);

/* This process is our worker, which runs nothing but writes: set once. */
extern bool amt_is_writer;

/*
 * Raise 42501 if code that must not run here would run when the table is written.
 * The caller must hold a lock that keeps others from changing the table.
 */
extern void amt_check_code(Relation rel);

#endif							/* AMT_TABLE_CODE_H */
