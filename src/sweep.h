/*
 * sweep.h
 *	  Removing the usage of keys and databases that are gone.
 */
#ifndef AMT_SWEEP_H
#define AMT_SWEEP_H

/* Delete some stored usage of keys that no longer exist; true if there may be more. */
extern bool amt_sweep_usage(void);

/* Drop the calls of databases that no longer exist. */
extern void amt_sweep_databases(void);

#endif							/* AMT_SWEEP_H */
