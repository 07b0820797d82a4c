/*
 * prefixes.h
 *	  The prefixes of tokens that are in force.
 */
#ifndef AMT_PREFIXES_H
#define AMT_PREFIXES_H

#include "token.h"

extern void amt_prefixes_init(void);

/* The names in amt_keys.token_prefixes; new tokens use the first. */
extern const AmtPrefixes *amt_prefixes(void);

/*
 * A copy of the text for an error message: secrets of tokens masked, and cut
 * short.
 */
extern char *amt_masked(const char *text);

#endif							/* AMT_PREFIXES_H */
