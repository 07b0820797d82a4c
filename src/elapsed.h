/*
 * elapsed.h
 *	  Whether so many milliseconds have passed.
 *
 * The clock may be set back.  A time that lies further ahead than the period
 * counts as passed; otherwise nothing would happen until that time comes.
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
