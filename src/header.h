/*
 * header.h
 *	  The token in the value of an HTTP header.
 */
#ifndef AMT_HEADER_H
#define AMT_HEADER_H

#include <stdbool.h>
#include <stddef.h>

/*
 * Step over a leading "Bearer " (any case, one or more spaces), if there is
 * one.  Narrows *s and *len; never fails.
 */
extern void amt_header_skip_bearer(const char **s, size_t *len);

/*
 * The value of an Authorization header: does it carry something that starts
 * with "amt_", as "Bearer amt_...", "ApiKey amt_..." (schemes in any case) or
 * bare?  Then *s and *len are narrowed to it and the answer is true.
 */
extern bool amt_header_authorization(const char **s, size_t *len);

#endif							/* AMT_HEADER_H */
