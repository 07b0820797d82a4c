/*
 * header.c
 *	  Fuzz target: the token in an HTTP header's value.
 */
#include "header.h"

#include "prefixes.h"

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
	Lists		lists;
	const char *value;
	size_t		start;
	const char *s;
	size_t		len;

	take_lists(&data, &size, &lists);
	s = value = (const char *) data;
	len = size;
	start = behind_scheme(value, size, "bearer", "BEARER");
	amt_header_skip_bearer(&s, &len);
	EXPECT(s == value + start && len == size - start);

	if (start == 0)
		start = behind_scheme(value, size, "apikey", "APIKEY");
	s = value;
	len = size;
	if (amt_header_key(&lists.tested, &s, &len))
	{
		EXPECT(s == value + start && len == size - start);
		EXPECT(reference_prefix(&lists, s, len) > 0);
	}
	else
	{
		EXPECT(s == value && len == size);
		EXPECT(reference_prefix(&lists, s + start, size - start) == 0);
	}
	return 0;
}
