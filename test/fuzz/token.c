/*
 * token.c
 *	  Fuzz target: reading a token, and finding one in a text.
 */
#include "prefixes.h"

/* The grammar behind the prefix, one character after the other. */
static bool
reference_parse(const char *s, size_t len, size_t *id_len)
{
	enum
	{
		ID, SECRET
	}			part = ID;
	size_t		in_part = 0;

	for (size_t i = 0; i < len; i++)
	{
		in_part++;
		switch (part)
		{
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
try_parse(const Lists *lists, const char *s, size_t len)
{
	size_t		n = reference_prefix(lists, s, len);
	AmtToken	token;
	size_t		id_len;
	bool		parsed = amt_token_parse(&lists->tested, s, len, &token);

	EXPECT(parsed == (n > 0 && reference_parse(s + n + 1, len - n - 1, &id_len)));
	EXPECT(parsed || !amt_token_check(&lists->tested, s, len));
	EXPECT(amt_token_has_prefix(&lists->tested, s, len) == (n > 0));
	if (!parsed)
		return;
	EXPECT(token.prefix == s && token.prefix_len == n);
	EXPECT(token.id == s + n + 1 && token.id_len == id_len);
	EXPECT(token.secret == token.id + id_len + 1);
	EXPECT(token.secret + token.secret_len == s + len);
	EXPECT(amt_token_is_id(token.id, token.id_len));
}

/* The longest name that the text ends with, shorter than the limit. */
static void
try_find_last(const Lists *lists, const char *s, size_t len, size_t limit)
{
	const AmtPrefix *found = amt_prefixes_find_last(&lists->tested, s, len, limit);
	const char *expected = NULL;

	for (int i = 0; i < lists->n; i++)
	{
		size_t		n = strlen(lists->names[i]);

		if (n <= len && n < limit && memcmp(s + len - n, lists->names[i], n) == 0 &&
			(expected == NULL || n > strlen(expected)))
			expected = lists->names[i];
	}
	EXPECT((found != NULL) == (expected != NULL));
	EXPECT(found == NULL || strcmp(found->name, expected) == 0);
}

/*
 * No fuzzer guesses a checksum: each byte 1 becomes a whole token, made of the
 * bytes behind it, so that the text has some, close together and damaged.
 */
static char *
with_tokens(const Lists *lists, const uint8_t *data, size_t size, size_t *len)
{
	char	   *text = allocate(LONGEST_TOKEN * size);
	char	   *exact;

	*len = 0;
	for (size_t i = 0; i < size; i++)
	{
		if (data[i] != 1)
			text[(*len)++] = (char) data[i];
		else
		{
			/* The next byte says how many it is made of, and the name. */
			uint8_t		choice = i + 1 < size ? data[i + 1] : 0;
			size_t		made_of = choice % 8;
			size_t		token_len;

			if (made_of > size - i - 1)
				made_of = size - i - 1;
			i += reference_token(lists, choice / 8, data + i + 1, made_of, text + *len, &token_len);
			*len += token_len;
		}
	}
	exact = allocate(*len);
	memcpy(exact, text, *len);
	free(text);
	return exact;
}

static void
try_find(const Lists *lists, const char *s, size_t len, size_t from)
{
	size_t		found_len;
	size_t		found = amt_token_find(&lists->tested, s, len, from, &found_len);

	for (size_t i = from; i < len; i++)
	{
		size_t		n = reference_prefix(lists, s + i, len - i);

		if (n > 0 && len - i >= n + TAIL && reference_check(lists, s + i, n + TAIL))
		{
			EXPECT(found == i && found_len == n + TAIL);
			return;
		}
	}
	EXPECT(found == len && found_len == 0);
}

int
LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
	Lists		lists;
	size_t		len;
	char	   *text;

	take_lists(&data, &size, &lists);
	try_parse(&lists, (const char *) data, size);
	try_find_last(&lists, (const char *) data, size, 17);
	try_find_last(&lists, (const char *) data, size, size % 18);
	EXPECT(amt_token_check(&lists.tested, (const char *) data, size) ==
		   reference_check(&lists, (const char *) data, size));

	text = with_tokens(&lists, data, size, &len);
	try_parse(&lists, text, len);
	try_find(&lists, text, len, 0);
	try_find(&lists, text, len, size / 2);
	try_find(&lists, text, len, len + size);
	free(text);
	return 0;
}
