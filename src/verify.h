/*
 * verify.h
 *	  amt_verify(): the row of a valid token, and its key as the identity.
 */
#ifndef AMT_VERIFY_H
#define AMT_VERIFY_H

#include "rows.h"

/* Make the key the identity until the end of the transaction. */
extern void amt_identify(const AmtKey *key);

#endif							/* AMT_VERIFY_H */
