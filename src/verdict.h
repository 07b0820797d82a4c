/*
 * verdict.h
 *	  Whether a token is valid, and which key it belongs to.
 */
#ifndef AMT_VERDICT_H
#define AMT_VERDICT_H

#include "rows.h"
#include "token.h"

/* Zero must be a refusal. */
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
 * Verify the token in the text.  If it is valid, counts the call and fills
 * *key.  No text raises an error.
 */
extern AmtVerdict amt_verify_text(Oid extension, const char *s, Size len, AmtKey *key);

/*
 * Does the token's secret belong to its key?  The key may be suspended or
 * expired.  Counts no call.
 */
extern AmtVerdict amt_verify_secret(Oid extension, const AmtToken *token, AmtKey *key);

/* Find an imported key by its whole token. */
extern bool amt_find_imported(Oid extension, const char *s, Size len, AmtKey *key);

/* Add to the counters of amt_stat. */
extern void amt_count_verdict(AmtVerdict verdict);

#endif							/* AMT_VERDICT_H */
