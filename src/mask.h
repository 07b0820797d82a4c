/*
 * mask.h
 *	  Secrets of tokens in a text, such as a log entry, replaced.
 */
#ifndef AMT_MASK_H
#define AMT_MASK_H

#include <stdbool.h>
#include <stddef.h>

#include "token.h"

#define AMT_MASK	"[redacted]"

/*
 * Write the text to out (NUL-terminated when out_size allows) with the secrets
 * of all tokens that have a listed prefix masked, and return its length, as
 * snprintf() does: call it with out = NULL to learn the size.  *found tells
 * whether anything was masked.  Linear in len.
 */
extern size_t amt_mask(const AmtPrefixes *list, const char *s, size_t len, char *out, size_t out_size, bool *found);

#endif							/* AMT_MASK_H */
