/*
 * event.h
 *	  Writing amt_key_event.
 */
#ifndef AMT_EVENT_H
#define AMT_EVENT_H

#include "rows.h"

#define AMT_NO_CALLS	(-1)	/* do not record calls */

/* Write an event.  "key" is the row after the event, or before a revocation. */
extern void amt_event_write(Oid extension, const AmtKey *key, const char *event, int64 calls);

#endif							/* AMT_EVENT_H */
