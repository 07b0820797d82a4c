/*
 * manage.h
 *	  What the functions that manage keys tell the triggers of the tables.
 */
#ifndef AMT_MANAGE_H
#define AMT_MANAGE_H

/* Is amt_create_key() at work? */
extern bool amt_is_creating(void);

/* Why this is no name for a key, and what would do; false if it is one. */
extern bool amt_name_is_bad(const char *name, const char **what);

#endif							/* AMT_MANAGE_H */
