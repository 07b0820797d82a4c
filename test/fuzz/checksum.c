/*
 * checksum.c
 *	  Fuzz target: telling our own tokens, and making them.
 */
#include "token.h"

#include "fuzz.h"

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

/* What the generator must have made of its bytes. */
static bool
reference_generate(const uint8_t *data, size_t size, char out[66])
{
	uint8_t		digits[56];
	size_t		n = 0;

	/* It takes them 64 at a time. */
	for (size_t i = 0; i < size / 64 * 64 && n < 56; i++)
	{
		if (data[i] < 248)
			digits[n++] = data[i];
	}
	if (n < 56)
		return false;
	/* The one at the separator's place is not used. */
	memmove(digits + 12, digits + 13, 43);
	reference_token(digits, 55, out);
	return true;
}

int
LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
	char	   *token = allocate(AMT_TOKEN_LEN + 1);
	char		expected[66];
	bool		made;
	size_t		used;

	EXPECT(amt_token_check((const char *) data, size) == reference_check((const char *) data, size));

	bytes = data;
	bytes_left = size;
	made = amt_token_generate(from_input, token);
	EXPECT(made == reference_generate(data, size, expected));
	if (made)
	{
		EXPECT(memcmp(token, expected, 66) == 0 && token[66] == '\0');
		EXPECT(amt_token_check(token, 66));
	}
	free(token);

	/* A right one, then changed as the rest of the input says. */
	token = allocate(66);
	used = reference_token(data, size, token);
	EXPECT(amt_token_check(token, 66));
	for (; used + 1 < size; used += 2)
	{
		token[data[used] % 66] ^= (char) data[used + 1];
		EXPECT(amt_token_check(token, 66) == reference_check(token, 66));
	}

	/* A right checksum does not make up for a wrong shape. */
	reference_seal(token);
	EXPECT(amt_token_check(token, 66) == reference_check(token, 66));
	free(token);
	return 0;
}
