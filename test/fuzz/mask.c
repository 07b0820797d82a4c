/*
 * mask.c
 *	  Fuzz target: masking secrets in a text.
 */
#include "mask.h"

#include "prefixes.h"

static bool
starts_with(const char *s, size_t len, const char *word)
{
	return len >= strlen(word) && memcmp(s, word, strlen(word)) == 0;
}

/* Masked, into a buffer of just the size; to be freed. */
static char *
mask(const Lists *lists, const char *s, size_t len, size_t *masked_len, bool *found)
{
	char	   *out;
	bool		again;

	*masked_len = amt_mask(&lists->tested, s, len, NULL, 0, found);
	out = allocate(*masked_len + 1);
	EXPECT(amt_mask(&lists->tested, s, len, out, *masked_len + 1, &again) == *masked_len);
	EXPECT(again == *found);
	EXPECT(out[*masked_len] == '\0');
	return out;
}

/* A buffer that is too small gets what fits. */
static void
try_small(const Lists *lists, const char *s, size_t len, const char *masked, size_t masked_len, size_t size)
{
	char	   *out = allocate(size);
	bool		found;

	EXPECT(amt_mask(&lists->tested, s, len, out, size, &found) == masked_len);
	EXPECT(size == 0 || (memcmp(out, masked, size - 1) == 0 && out[size - 1] == '\0'));
	free(out);
}

/*
 * All that masking does is to put AMT_MASK in the place of a run's end: "["
 * is no character of a run, so there is no doubt where.
 */
static void
expect_rest_unchanged(const char *s, size_t len, const char *masked, size_t masked_len)
{
	size_t		i = 0;
	size_t		j = 0;

	while (i < len)
	{
		if (j < masked_len && s[i] == masked[j])
		{
			i++, j++;
			continue;
		}
		EXPECT(starts_with(masked + j, masked_len - j, AMT_MASK));
		EXPECT(is_run_char(s[i]));
		j += strlen(AMT_MASK);
		while (i < len && is_run_char(s[i]))
			i++;
	}
	EXPECT(j == masked_len);
}

/* Wherever one looks: no secret, nor a remainder of one. */
static void
expect_no_secret(const Lists *lists, const char *s, size_t len)
{
	size_t		since_cut = 0;	/* length of the run behind a "...", or 0 */

	for (size_t i = 0; i < len; i++)
	{
		size_t		left = len - i;
		size_t		prefix_len = reference_prefix(lists, s + i, left);
		const char *id = s + i + prefix_len + 1;
		size_t		id_len = 0;
		size_t		run = 0;

		if (!is_run_char(s[i]))
			since_cut = 0;
		else if (since_cut > 0 || (i >= 3 && starts_with(s + i - 3, left + 3, "...")))
			since_cut++;

		if (prefix_len > 0)
		{
			while (id + id_len < s + len && digit_value(id[id_len]) >= 0)
				id_len++;
			if (id_len >= 1 && id_len <= 64 && id + id_len < s + len && id[id_len] == '_')
			{
				const char *secret = id + id_len + 1;
				size_t		max = len - (secret - s);

				while (run < max && is_run_char(secret[run]))
					run++;
				EXPECT(run < 16);
				EXPECT(run == 0 || id_len != 12);
				EXPECT(run == 0 || !starts_with(secret + run, max - run, "..."));
				for (size_t k = 0; run > 0 && run == max && k < run; k++)
					EXPECT(secret[k] == '_' || (secret[k] >= 'a' && secret[k] <= 'z'));
				/* A cut before the whole token: prefix and id may be long. */
				if (since_cut == 1 && run == 0)
				{
					i = (size_t) (secret - s) - 1;
					since_cut = 0;
				}
			}
		}
		EXPECT(since_cut < 16);
	}
}

/* Is there anything that may be masked: a prefix, or a cut? */
static bool
has_reason(const Lists *lists, const char *s, size_t len)
{
	for (size_t i = 0; i < len; i++)
	{
		if (lists->n > 0 && starts_with(s + i, len - i, "..."))
			return true;
		if (reference_prefix(lists, s + i, len - i) > 0)
			return true;
	}
	return false;
}

/* Mask a text and see that nothing but secrets is missing. */
static void
try_text(const Lists *lists, const char *s, size_t len)
{
	size_t		masked_len;
	bool		found;
	char	   *masked = mask(lists, s, len, &masked_len, &found);
	size_t		twice_len;
	bool		twice_found;
	char	   *twice = mask(lists, masked, masked_len, &twice_len, &twice_found);
	size_t		token_len;

	EXPECT(found == (masked_len != len || memcmp(masked, s, len) != 0));
	EXPECT(!found || has_reason(lists, s, len));
	EXPECT(!twice_found && twice_len == masked_len && memcmp(twice, masked, masked_len) == 0);
	expect_rest_unchanged(s, len, masked, masked_len);
	if (lists->n > 0)
		expect_no_secret(lists, masked, masked_len);
	EXPECT(amt_token_find(&lists->tested, masked, masked_len, 0, &token_len) == masked_len);
	try_small(lists, s, len, masked, masked_len, 0);
	try_small(lists, s, len, masked, masked_len, masked_len / 2);
	try_small(lists, s, len, masked, masked_len, masked_len);
	free(masked);
	free(twice);
}

int
LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
	Lists		lists;
	const uint8_t *split;
	char		token[LONGEST_TOKEN];
	char	   *text;
	size_t		token_len;
	size_t		before;

	take_lists(&data, &size, &lists);
	try_text(&lists, (const char *) data, size);

	/* The same text with a right token at the place of its first byte 1. */
	split = memchr(data, 1, size);
	if (split == NULL)
		return 0;
	before = split - data;
	reference_token(&lists, (uint8_t) size, data, size, token, &token_len);
	text = allocate(size - 1 + token_len);
	memcpy(text, data, before);
	memcpy(text + before, token, token_len);
	memcpy(text + before + token_len, split + 1, size - before - 1);
	try_text(&lists, text, size - 1 + token_len);
	free(text);
	return 0;
}
