/*
 * checksum.c
 *	  Fuzz target: telling our own tokens, and making them.
 */
#include "prefixes.h"

/* The input is the source of random bytes. */
static const uint8_t *bytes;
static size_t bytes_left;

static bool
from_input(void *buf, size_t len)
{
	if (len > bytes_left)
		return false;
	memcpy(buf, bytes, len);
	bytes += len;
	bytes_left -= len;
	return true;
}

/* The token that the generator must make of its bytes. */
static bool
reference_generate(const Lists *lists, const uint8_t *data, size_t size, char *out, size_t *len)
{
	uint8_t		digits[56];
	size_t		n = 0;

	/* It takes them 64 at a time. */
	for (size_t i = 0; i < size / 64 * 64 && n < 56; i++)
	{
		if (data[i] < 248)
			digits[n++] = data[i];
	}
	if (n < 56 || lists->n == 0)
		return false;
	/* The one at the separator's place is not used. */
	memmove(digits + 12, digits + 13, 43);
	reference_token(lists, 0, digits, 55, out, len);
	return true;
}

/* All functions agree about a token that was made. */
static void
try_made(const Lists *lists, const char *token, size_t len)
{
	char	   *exact = (char *) memcpy(allocate(len), token, len);
	AmtToken	parts;
	size_t		found_len;

	EXPECT(amt_token_check(&lists->tested, exact, len));
	EXPECT(amt_token_has_prefix(&lists->tested, exact, len));
	EXPECT(amt_token_find(&lists->tested, exact, len, 0, &found_len) == 0 && found_len == len);
	EXPECT(amt_token_parse(&lists->tested, exact, len, &parts));
	EXPECT(parts.prefix == exact && parts.prefix_len == len - TAIL);
	EXPECT(parts.id_len == 12 && parts.secret_len == 49);
	EXPECT(amt_token_is_id(parts.id, parts.id_len));
	free(exact);
}

static void
try_generate(const Lists *lists, const uint8_t *data, size_t size)
{
	char	   *token = allocate(AMT_TOKEN_MAX + 1);
	char		expected[LONGEST_TOKEN];
	size_t		len;
	bool		made;

	memset(token, '#', AMT_TOKEN_MAX + 1);
	bytes = data;
	bytes_left = size;
	made = amt_token_generate(&lists->tested, from_input, token);
	EXPECT(made == reference_generate(lists, data, size, expected, &len));
	if (made)
	{
		EXPECT(memcmp(token, expected, len) == 0 && token[len] == '\0');
		try_made(lists, token, len);
	}
	for (size_t i = 0; !made && i < AMT_TOKEN_MAX + 1; i++)
		EXPECT(token[i] == '\0');
	free(token);
}

int
LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
	Lists		lists;
	char		text[LONGEST_TOKEN];
	char	   *token;
	size_t		len;
	size_t		used;

	take_lists(&data, &size, &lists);
	EXPECT(amt_token_check(&lists.tested, (const char *) data, size) ==
		   reference_check(&lists, (const char *) data, size));
	try_generate(&lists, data, size);

	/* A right one, then changed as the rest of the input says. */
	used = reference_token(&lists, size > 0 ? data[0] : 0, data, size, text, &len);
	token = (char *) memcpy(allocate(len), text, len);
	EXPECT(amt_token_check(&lists.tested, token, len) == (lists.n > 0));
	if (lists.n > 0)
		try_made(&lists, token, len);
	for (; used + 1 < size; used += 2)
	{
		token[data[used] % len] ^= (char) data[used + 1];
		EXPECT(amt_token_check(&lists.tested, token, len) == reference_check(&lists, token, len));
	}

	/* A right checksum does not make up for a wrong shape. */
	reference_seal(token, len);
	EXPECT(amt_token_check(&lists.tested, token, len) == reference_check(&lists, token, len));
	free(token);
	return 0;
}
