/*
 * mask.c
 *	  Fuzz target: masking secrets in a text.
 */
#include "mask.h"

#include "fuzz.h"

static bool
starts_with(const char *s, size_t len, const char *word)
{
	return len >= strlen(word) && memcmp(s, word, strlen(word)) == 0;
}

/* Masked, into a buffer of just the size; to be freed. */
static char *
mask(const char *s, size_t len, size_t *masked_len, bool *found)
{
	char	   *out;
	bool		again;

	*masked_len = amt_mask(s, len, NULL, 0, found);
	out = allocate(*masked_len + 1);
	EXPECT(amt_mask(s, len, out, *masked_len + 1, &again) == *masked_len);
	EXPECT(again == *found);
	EXPECT(out[*masked_len] == '\0');
	return out;
}

/* A buffer that is too small gets what fits. */
static void
try_small(const char *s, size_t len, const char *masked, size_t masked_len, size_t size)
{
	char	   *out = allocate(size);
	bool		found;

	EXPECT(amt_mask(s, len, out, size, &found) == masked_len);
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

/* Wherever one looks: no secret, nor what is left of one. */
static void
expect_no_secret(const char *s, size_t len)
{
	size_t		since_cut = 0;	/* length of the run behind a "...", or 0 */

	for (size_t i = 0; i < len; i++)
	{
		const char *id = s + i + 4;
		size_t		left = len - i;
		size_t		id_len = 0;
		size_t		run = 0;

		if (!is_run_char(s[i]))
			since_cut = 0;
		else if (since_cut > 0 || (i >= 3 && starts_with(s + i - 3, left + 3, "...")))
			since_cut++;

		if (starts_with(s + i, left, "amt_"))
		{
			while (4 + id_len < left && digit_value(id[id_len]) >= 0)
				id_len++;
			if (id_len >= 1 && id_len <= 64 && 4 + id_len < left && id[id_len] == '_')
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
				/* A cut before the whole head: the head may be long. */
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

int
LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
	const char *s = (const char *) data;
	size_t		masked_len;
	bool		found;
	char	   *masked = mask(s, size, &masked_len, &found);
	size_t		twice_len;
	bool		twice_found;
	char	   *twice = mask(masked, masked_len, &twice_len, &twice_found);

	EXPECT(found == (masked_len != size || memcmp(masked, s, size) != 0));
	EXPECT(!twice_found && twice_len == masked_len && memcmp(twice, masked, masked_len) == 0);
	expect_rest_unchanged(s, size, masked, masked_len);
	expect_no_secret(masked, masked_len);
	try_small(s, size, masked, masked_len, 0);
	try_small(s, size, masked, masked_len, masked_len / 2);
	try_small(s, size, masked, masked_len, masked_len);
	free(masked);
	free(twice);
	return 0;
}
