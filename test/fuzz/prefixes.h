/*
 * prefixes.h
 *	  Lists of prefixes that the input chooses, and tokens with them.
 *
 * A target that needs prefixes takes them from the first bytes of its input:
 * the number of names to try, then a byte for each name.  Here too, nothing but
 * the types is taken from src/.
 */
#ifndef FUZZ_PREFIXES_H
#define FUZZ_PREFIXES_H

#include "token.h"

#include "fuzz.h"

/* The same list, for the code under test and for the target. */
typedef struct Lists
{
	AmtPrefixes tested;
	int			n;
	char		names[32][17];
} Lists;

/* From the '_' behind the prefix on. */
#define TAIL	63
#define LONGEST_TOKEN	(16 + TAIL)

/* Names that begin or end like one another, and some that are not valid. */
static const char *const pool[] = {
	"amt", "xamt", "am", "mt", "amt1", "a1", "abcdefghijklmno9", "hciybfxeamt",
	"aaaaaaaaaaaaaaaa", "aaaaaaa", "aaa", "aa", "bearer", "apikey",
	"", "a", "1a", "Am", "a_b", "am-", "abcdefghijklmnop9", "\303\244\303\244"
};

static inline bool
reference_is_name(const char *s, size_t len)
{
	for (size_t i = 0; i < len; i++)
	{
		if (s[i] == '\0' || strchr("abcdefghijklmnopqrstuvwxyz0123456789", s[i]) == NULL)
			return false;
	}
	return len >= 2 && len <= 16 && !(s[0] >= '0' && s[0] <= '9');
}

static inline void
take_lists(const uint8_t **data, size_t *size, Lists *lists)
{
	int			tries = 0;

	memset(lists, 0, sizeof(*lists));
	if (*size > 0)
	{
		tries = **data % 40;
		(*data)++, (*size)--;
	}
	for (; tries > 0 && *size > 0; tries--, (*data)++, (*size)--)
	{
		char		two[3] = {"amtxk19_"[**data & 7], "amtx19_k"[**data >> 3 & 7], '\0'};
		const char *name = **data < 128 ? pool[**data % (sizeof(pool) / sizeof(pool[0]))] : two;
		size_t		len = strlen(name);
		bool		expected = lists->n < 32 && reference_is_name(name, len);
		char	   *exact = (char *) memcpy(allocate(len), name, len);

		EXPECT(amt_prefix_is_valid(exact, len) == reference_is_name(name, len));
		for (int i = 0; i < lists->n; i++)
			expected = expected && strcmp(lists->names[i], name) != 0;
		EXPECT(amt_prefixes_add(&lists->tested, exact, len) == expected);
		if (expected)
			strcpy(lists->names[lists->n++], name);
		free(exact);
		EXPECT(lists->tested.n == lists->n);
	}
	for (int i = 0; i < lists->n; i++)
	{
		EXPECT(strcmp(lists->tested.prefix[i].name, lists->names[i]) == 0);
		EXPECT(lists->tested.prefix[i].len == strlen(lists->names[i]));
	}
}

/* The length of the listed name that the text begins with, followed by '_'; or 0. */
static inline size_t
reference_prefix(const Lists *lists, const char *s, size_t len)
{
	for (int i = 0; i < lists->n; i++)
	{
		size_t		n = strlen(lists->names[i]);

		if (len > n && memcmp(s, lists->names[i], n) == 0 && s[n] == '_')
			return n;
	}
	return 0;
}

/* Is it <name>_<12>_<49>, with the value of the last six digits right? */
static inline bool
reference_check(const Lists *lists, const char *s, size_t len)
{
	size_t		n = reference_prefix(lists, s, len);
	uint64_t	value = 0;

	if (n == 0 || len != n + TAIL)
		return false;
	for (size_t i = n + 1; i < len; i++)
	{
		if (i == n + 13 ? s[i] != '_' : digit_value(s[i]) < 0)
			return false;
		if (i >= len - 6)
			value = value * 62 + digit_value(s[i]);
	}
	return value == reference_crc(s, len - 6);
}

/* Make the last six characters right. */
static inline void
reference_seal(char *token, size_t len)
{
	uint32_t	crc = reference_crc(token, len - 6);

	for (size_t i = len; i-- > len - 6; crc /= 62)
		token[i] = alphabet[crc % 62];
}

/*
 * A right token from up to 55 bytes; how many were used.  With an empty list it
 * gets a name that is not listed.
 */
static inline size_t
reference_token(const Lists *lists, uint8_t name, const uint8_t *data, size_t size,
				char out[LONGEST_TOKEN], size_t *len)
{
	const char *prefix = lists->n > 0 ? lists->names[name % lists->n] : "amt";
	size_t		n = strlen(prefix);
	size_t		used = 0;

	*len = n + TAIL;
	memcpy(out, prefix, n);
	for (size_t i = n; i < *len - 6; i++)
		out[i] = i == n || i == n + 13 ? '_' : alphabet[used < size ? data[used++] % 62 : 0];
	reference_seal(out, *len);
	return used;
}

#endif							/* FUZZ_PREFIXES_H */
