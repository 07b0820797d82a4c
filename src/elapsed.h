/*
 * elapsed.h
 *	  Whether so many milliseconds have passed.
 *
 * The clock may be set back.  What lies further ahead than one waits for is not
 * waited for; otherwise nothing would be done until that time comes again.
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
