/*
 * header.c
 *	  The token in the value of an HTTP header.
 *
 * RFC 9110 writes a credential as a scheme in any case, one or more spaces
 * and the rest.  Beside Bearer we know ApiKey, for the sake of gateways which
 * take every Bearer for a JWT of theirs, and no scheme at all.
 *
 * The value comes from the network: it may hold anything, NUL included, and is
 * nowhere taken for a C string.
 */
#include "header.h"

#include <string.h>

#include "token.h"

/* Step over a scheme, given in lower case, and the spaces behind it. */
static bool
skip_scheme(const char **s, size_t *len, const char *scheme)
{
	size_t		n;

	for (n = 0; scheme[n] != '\0'; n++)
	{
		/* This bit is all that lies between the cases of an ASCII letter. */
		if (n == *len || ((*s)[n] | 0x20) != scheme[n])
			return false;
	}
	if (n == *len || (*s)[n] != ' ')
		return false;
	while (n < *len && (*s)[n] == ' ')
		n++;
	*s += n;
	*len -= n;
	return true;
}

void
amt_header_skip_bearer(const char **s, size_t *len)
{
	(void) skip_scheme(s, len, "bearer");
}

bool
amt_header_authorization(const char **s, size_t *len)
{
	const char *rest = *s;
	size_t		rest_len = *len;

	if (!skip_scheme(&rest, &rest_len, "bearer"))
		(void) skip_scheme(&rest, &rest_len, "apikey");
	if (rest_len < AMT_TOKEN_HEAD_LEN || memcmp(rest, AMT_TOKEN_HEAD, AMT_TOKEN_HEAD_LEN) != 0)
		return false;
	*s = rest;
	*len = rest_len;
	return true;
}
