/*
 * trigger.h
 *	  The triggers of the tables: they check, complete and record rows.
 */
#ifndef AMT_TRIGGER_H
#define AMT_TRIGGER_H

#include "fmgr.h"

/* The functions that the tables' triggers call; NULL ends the list. */
extern const PGFunction amt_trigger_functions[];

#endif							/* AMT_TRIGGER_H */
