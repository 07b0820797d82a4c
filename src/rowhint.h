/*
 * rowhint.h
 *	  The place where a row of amt_key was seen.
 */
#ifndef AMT_ROWHINT_H
#define AMT_ROWHINT_H

#include "storage/block.h"
#include "storage/buf.h"
#include "storage/off.h"

/*
 * The place where a row of amt_key was seen, and the shared buffer that held
 * it.  Only a hint; buffer 0 means that there is none.
 */
typedef struct AmtRowHint
{
	Buffer		buffer;
	BlockNumber block;
	OffsetNumber offset;
} AmtRowHint;

#define AmtRowHintEquals(a, b) \
	((a).buffer == (b).buffer && (a).block == (b).block && (a).offset == (b).offset)

#endif							/* AMT_ROWHINT_H */
