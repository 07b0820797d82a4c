/*
 * header.c
 *	  Fuzz target: the token in an HTTP header's value.
 */
#include "header.h"

#include "fuzz.h"

/* Where what follows a scheme starts; 0 if it is not there. */
static size_t
behind_scheme(const char *s, size_t len, const char *lower, const char *upper)
{
	size_t		n = strlen(lower);

	if (len <= n || s[n] != ' ')
		return 0;
	for (size_t i = 0; i < n; i++)
	{
		if (s[i] != lower[i] && s[i] != upper[i])
			return 0;
	}
	while (n < len && s[n] == ' ')
		n++;
	return n;
}

int
LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
	const char *value = (const char *) data;
	size_t		bearer = behind_scheme(value, size, "bearer", "BEARER");
	size_t		apikey = behind_scheme(value, size, "apikey", "APIKEY");
	size_t		start = bearer > 0 ? bearer : apikey;
	const char *s = value;
	size_t		len = size;

	amt_header_skip_bearer(&s, &len);
	EXPECT(s == value + bearer && len == size - bearer);

	s = value;
	len = size;
	if (amt_header_authorization(&s, &len))
	{
		EXPECT(s == value + start && len == size - start);
		EXPECT(len >= 4 && memcmp(s, "amt_", 4) == 0);
	}
	else
	{
		EXPECT(s == value && len == size);
		EXPECT(size - start < 4 || memcmp(s + start, "amt_", 4) != 0);
	}
	return 0;
}
