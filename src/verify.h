/*
 * verify.h
 *	  Is a token good, and whose is it?
 */
#ifndef AMT_VERIFY_H
#define AMT_VERIFY_H

#include "store.h"
#include "token.h"

/* Nothing that was merely zeroed is good. */
typedef enum AmtVerdict
{
	AMT_MALFORMED,
	AMT_UNKNOWN,
	AMT_WRONG_SECRET,
	AMT_EXPIRED,
	AMT_GOOD
} AmtVerdict;

/*
 * Verify the token in the text, counting the call if it is good.  *key is
 * filled if it is.
 */
extern AmtVerdict amt_verify_text(const AmtStore *store, const char *s, Size len, AmtKey *key);

/* Is this the key's secret?  Expired keys have theirs, too.  Counts nothing. */
extern AmtVerdict amt_verify_secret(const AmtStore *store, const AmtToken *token, AmtKey *key);

/* Make the key the identity. */
extern void amt_identify(const AmtKey *key);

#endif							/* AMT_VERIFY_H */
