/*
 * mask.h
 *	  Secrets of tokens in a text, such as a log entry, replaced.
 */
#ifndef AMT_MASK_H
#define AMT_MASK_H

#include <stdbool.h>
#include <stddef.h>

#define AMT_MASK	"[redacted]"

/*
 * Write the masked text to out (NUL-terminated when out_size allows) and
 * return its length, as snprintf() does: call it with out = NULL to learn the
 * size.  *found tells whether anything was masked.  Linear in len.
 */
extern size_t amt_mask(const char *s, size_t len, char *out, size_t out_size, bool *found);

#endif							/* AMT_MASK_H */
