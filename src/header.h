/*
 * header.h
 *	  The token in the value of an HTTP header.
 */
#ifndef AMT_HEADER_H
#define AMT_HEADER_H

#include <stdbool.h>
#include <stddef.h>

#include "token.h"

/*
 * Step over a leading "Bearer " (any case, one or more spaces), if there is
 * one.  Narrows *s and *len; never fails.
 */
extern void amt_header_skip_bearer(const char **s, size_t *len);

/* The same for "Bearer " or "ApiKey ". */
extern void amt_header_skip_scheme(const char **s, size_t *len);

/*
 * Is the value, or its part after "Bearer " or "ApiKey " in any case, a text
 * that begins with a listed prefix and '_'?  If so, narrows *s and *len to
 * that text.
 */
extern bool amt_header_key(const AmtPrefixes *list, const char **s, size_t *len);

#endif							/* AMT_HEADER_H */
