/*
 * elapsed.h
 *	  Whether so many milliseconds have passed.
 *
 * The clock may be set back.  If "since" lies further ahead than the period,
 * the period counts as passed.  Otherwise nothing would happen until then.
 */
#ifndef AMT_ELAPSED_H
#define AMT_ELAPSED_H

#include "utils/timestamp.h"

static inline bool
amt_elapsed(TimestampTz since, TimestampTz now, int ms)
{
	return TimestampDifferenceExceeds(since, now, ms) ||
		TimestampDifferenceExceeds(now, since, ms);
}

#endif							/* AMT_ELAPSED_H */
