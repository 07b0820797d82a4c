/*
 * header.c
 *	  The token in the value of an HTTP header.
 *
 * RFC 9110 writes a credential as a scheme in any case, one or more spaces
 * and the rest.  We accept Bearer, no scheme, and ApiKey: some gateways take
 * every Bearer for a JWT of their own.
 *
 * The value comes from the network.  It may hold any byte, NUL included, so
 * no function here may treat it as a C string.
 */
#include "header.h"

/*
 * Step over the scheme, which is given in lower case, and the spaces after
 * it.
 */
static bool
skip_scheme(const char **s, size_t *len, const char *scheme)
{
	size_t		n;

	for (n = 0; scheme[n] != '\0'; n++)
	{
		/* Only this bit differs between the cases of an ASCII letter. */
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

void
amt_header_skip_scheme(const char **s, size_t *len)
{
	if (!skip_scheme(s, len, "bearer"))
		(void) skip_scheme(s, len, "apikey");
}

bool
amt_header_key(const AmtPrefixes *list, const char **s, size_t *len)
{
	const char *rest = *s;
	size_t		rest_len = *len;

	amt_header_skip_scheme(&rest, &rest_len);
	if (!amt_token_has_prefix(list, rest, rest_len))
		return false;
	*s = rest;
	*len = rest_len;
	return true;
}
