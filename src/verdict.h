/*
 * verdict.h
 *	  Whether a token is valid, and whose it is.
 */
#ifndef AMT_VERDICT_H
#define AMT_VERDICT_H

#include "rows.h"
#include "token.h"

/* A verdict that was merely zeroed is a refusal. */
typedef enum AmtVerdict
{
	AMT_MALFORMED,
	AMT_UNKNOWN,
	AMT_WRONG_SECRET,
	AMT_SUSPENDED,
	AMT_EXPIRED,
	AMT_GOOD
} AmtVerdict;

/*
 * Verify the token in the text and count the call if it is valid.  *key is
 * filled if it is.  No text raises an error.
 */
extern AmtVerdict amt_verify_text(Oid extension, const char *s, Size len, AmtKey *key);

/*
 * Does the token's secret belong to the key?  Suspended and expired keys have
 * secrets, too.  Counts no call.
 */
extern AmtVerdict amt_verify_secret(Oid extension, const AmtToken *token, AmtKey *key);

/* Find an imported key by its whole token, unless that cannot be one. */
extern bool amt_find_imported(Oid extension, const char *s, Size len, AmtKey *key);

/* Add to the counters of amt_stat. */
extern void amt_count_verdict(AmtVerdict verdict);

#endif							/* AMT_VERDICT_H */
