/*
 * token.c
 *	  Fuzz target: reading a token, and finding one in a text.
 */
#include "token.h"

#include "fuzz.h"

/* The grammar, one character after the other. */
static bool
reference_parse(const char *s, size_t len, size_t *id_len)
{
	enum
	{
		HEAD, ID, SECRET
	}			part = HEAD;
	size_t		in_part = 0;

	for (size_t i = 0; i < len; i++)
	{
		in_part++;
		switch (part)
		{
			case HEAD:
				if (s[i] != "amt_"[i])
					return false;
				if (in_part == 4)
					part = ID, in_part = 0;
				break;
			case ID:
				if (s[i] == '_' && in_part > 1)
					*id_len = in_part - 1, part = SECRET, in_part = 0;
				else if (digit_value(s[i]) < 0 || in_part > 64)
					return false;
				break;
			case SECRET:
				if (!is_run_char(s[i]) || in_part > 256)
					return false;
				break;
		}
	}
	return part == SECRET && in_part >= 16;
}

static void
try_parse(const char *s, size_t len)
{
	AmtToken	token;
	size_t		id_len;
	bool		parsed = amt_token_parse(s, len, &token);

	EXPECT(parsed == reference_parse(s, len, &id_len));
	EXPECT(parsed || !amt_token_check(s, len));
	if (!parsed)
		return;
	EXPECT(token.id == s + 4 && token.id_len == id_len);
	EXPECT(token.secret == s + 4 + id_len + 1);
	EXPECT(token.secret + token.secret_len == s + len);
	EXPECT(amt_token_is_id(token.id, token.id_len));
}

/*
 * No fuzzer guesses a checksum: each byte 1 becomes a whole token, made of the
 * bytes behind it, so that the text has some, close together and damaged.
 */
static char *
with_tokens(const uint8_t *data, size_t size, size_t *len)
{
	char	   *text = allocate(66 * size);
	char	   *exact;
	size_t		i;

	*len = 0;
	for (i = 0; i < size; i++)
	{
		if (data[i] != 1)
			text[(*len)++] = (char) data[i];
		else
		{
			/* The next byte says how many it is made of. */
			size_t		made_of = i + 1 < size ? data[i + 1] % 8 : 0;

			if (made_of > size - i - 1)
				made_of = size - i - 1;
			i += reference_token(data + i + 1, made_of, text + *len);
			*len += 66;
		}
	}
	exact = allocate(*len);
	memcpy(exact, text, *len);
	free(text);
	return exact;
}

static void
try_find(const char *s, size_t len, size_t from)
{
	size_t		found = amt_token_find(s, len, from);

	for (size_t i = from; i < len; i++)
	{
		if (len - i >= 66 && reference_check(s + i, 66))
		{
			EXPECT(found == i);
			return;
		}
	}
	EXPECT(found == len);
}

int
LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
	size_t		len;
	char	   *text;

	try_parse((const char *) data, size);
	EXPECT(amt_token_check((const char *) data, size) == reference_check((const char *) data, size));

	text = with_tokens(data, size, &len);
	try_find(text, len, 0);
	try_find(text, len, size / 2);
	try_find(text, len, len + size);
	free(text);
	return 0;
}
