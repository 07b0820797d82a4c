/*
 * mask.h
 *	  Masking the secrets of tokens in a text, such as a log entry.
 */
#ifndef AMT_MASK_H
#define AMT_MASK_H

#include <stdbool.h>
#include <stddef.h>

#include "token.h"

#define AMT_MASK	"[redacted]"

/*
 * Write the text to out, with the secrets masked of all tokens that have a
 * listed prefix, or that have the shape that amt_token_generate() writes.  An
 * empty list masks nothing.  Like snprintf(), writes a NUL if out_size allows, and
 * returns the whole length: out may be NULL.  *found tells whether anything
 * was masked.  Linear in len.
 */
extern size_t amt_mask(const AmtPrefixes *list, const char *s, size_t len, char *out, size_t out_size, bool *found);

#endif							/* AMT_MASK_H */
