/*
 * header.c
 *	  Tests of src/header.c.
 */
#include "header.h"

#include "prefixes.h"
#include "tap.h"

typedef struct Case
{
	const char *value;
	size_t		len;
	const char *rest;
	size_t		rest_len;
} Case;

/* The texts are literals, so that they may hold NUL. */
#define LEADS_TO(value, rest)	{value, sizeof(value) - 1, rest, sizeof(rest) - 1}
#define REFUSED(value)			{value, sizeof(value) - 1, NULL, 0}
#define COUNT(array)			(sizeof(array) / sizeof(array[0]))

static void
test_bearer(void)
{
	static const Case cases[] = {
		LEADS_TO("Bearer amt_a_b", "amt_a_b"),
		LEADS_TO("bearer amt_a_b", "amt_a_b"),
		LEADS_TO("BEARER amt_a_b", "amt_a_b"),
		LEADS_TO("bEaReR amt_a_b", "amt_a_b"),
		LEADS_TO("Bearer    amt_a_b", "amt_a_b"),
		LEADS_TO("Bearer anything", "anything"),
		LEADS_TO("Bearer ", ""),
		LEADS_TO("Bearer     ", ""),
		LEADS_TO("Bearer Bearer amt_a_b", "Bearer amt_a_b"),
		LEADS_TO("Bearer \0", "\0"),
		LEADS_TO("Bearer amt_a_b ", "amt_a_b "),
		LEADS_TO("Bearer \tamt_a_b", "\tamt_a_b"),

		LEADS_TO("", ""),
		LEADS_TO("amt_a_b", "amt_a_b"),
		LEADS_TO("B", "B"),
		LEADS_TO("Bearer", "Bearer"),
		LEADS_TO("Bearer\tamt_a_b", "Bearer\tamt_a_b"),
		LEADS_TO("Bearer\0amt_a_b", "Bearer\0amt_a_b"),
		LEADS_TO("Bearer\302\240amt_a_b", "Bearer\302\240amt_a_b"),
		LEADS_TO("Beare\0 amt_a_b", "Beare\0 amt_a_b"),
		LEADS_TO("Bearer:amt_a_b", "Bearer:amt_a_b"),
		LEADS_TO("Bearers amt_a_b", "Bearers amt_a_b"),
		LEADS_TO(" Bearer amt_a_b", " Bearer amt_a_b"),
		LEADS_TO("Basic amt_a_b", "Basic amt_a_b"),
		LEADS_TO("ApiKey amt_a_b", "ApiKey amt_a_b"),
		/* The bit that makes lower case also makes other characters equal. */
		LEADS_TO("\102\105\001\162\145\162 x", "\102\105\001\162\145\162 x"),
		LEADS_TO("\302\305\301\322\305\322 x", "\302\305\301\322\305\322 x")
	};
	size_t		i;

	for (i = 0; i < COUNT(cases); i++)
	{
		char	   *copy = exact_copy(cases[i].value, cases[i].len);
		const char *s = copy;
		size_t		len = cases[i].len;

		amt_header_skip_bearer(&s, &len);
		ok(len == cases[i].rest_len && s == copy + cases[i].len - len &&
		   memcmp(s, cases[i].rest, len) == 0,
		   "a leading Bearer is skipped, and nothing else: \"%s\"", cases[i].value);
		free(copy);
	}
}

static void
test_key(void)
{
	static const Case cases[] = {
		LEADS_TO("amt_a_b", "amt_a_b"),
		LEADS_TO("Bearer amt_a_b", "amt_a_b"),
		LEADS_TO("bearer amt_a_b", "amt_a_b"),
		LEADS_TO("BEARER   amt_a_b", "amt_a_b"),
		LEADS_TO("ApiKey amt_a_b", "amt_a_b"),
		LEADS_TO("apikey amt_a_b", "amt_a_b"),
		LEADS_TO("APIKEY   amt_a_b", "amt_a_b"),
		LEADS_TO("amt_", "amt_"),
		LEADS_TO("Bearer amt_", "amt_"),
		LEADS_TO("Bearer amt_\0", "amt_\0"),
		LEADS_TO("Bearer amt_a_b, Basic x", "amt_a_b, Basic x"),
		LEADS_TO("am_a_b", "am_a_b"),
		LEADS_TO("Bearer am_", "am_"),
		LEADS_TO("Bearer xamt_a_b", "xamt_a_b"),
		LEADS_TO("ApiKey abcdefghijklmno9_a", "abcdefghijklmno9_a"),
		LEADS_TO("apikey_a_b", "apikey_a_b"),
		LEADS_TO("bearer  bearer_a_b", "bearer_a_b"),

		REFUSED(""),
		REFUSED("amt"),
		REFUSED("Amt_a_b"),
		REFUSED("AMT_a_b"),
		REFUSED(" amt_a_b"),
		REFUSED("Bearer"),
		REFUSED("Bearer "),
		REFUSED("Bearer amt"),
		REFUSED("Bearer AMT_a_b"),
		REFUSED("Bearer eyJhbGciOiJIUzI1NiJ9.e30.amt_a_b"),
		REFUSED("Bearer yamt_a_b"),
		REFUSED("Bearer amtx_a_b"),
		REFUSED("Bearer mt_a_b"),
		REFUSED("Bearer a_b"),
		REFUSED("Bearer am t_a_b"),
		REFUSED("Bearer _amt_a_b"),
		REFUSED("Bearer abcdefghijklmno9"),
		REFUSED("Bearer abcdefghijklmno99_a"),
		REFUSED("apikey amt"),
		REFUSED("Bearer_a_b"),
		REFUSED("Bearer \0amt_a_b"),
		REFUSED("Beareramt_a_b"),
		REFUSED("Bearer\tamt_a_b"),
		REFUSED("Bearer Bearer amt_a_b"),
		REFUSED("Bearer ApiKey amt_a_b"),
		REFUSED("ApiKey Bearer amt_a_b"),
		REFUSED("ApiKey"),
		REFUSED("Api-Key amt_a_b"),
		REFUSED("Basic amt_a_b"),
		REFUSED("Token amt_a_b"),
		REFUSED("\0")
	};
	AmtPrefixes list = prefixes("amt xamt am abcdefghijklmno9 apikey bearer");
	AmtPrefixes others = prefixes("other mt1 amt1");
	AmtPrefixes none = prefixes("");
	size_t		i;
	int			wrong = 0;

	for (i = 0; i < COUNT(cases); i++)
	{
		char	   *copy = exact_copy(cases[i].value, cases[i].len);
		const char *s = copy;
		size_t		len = cases[i].len;
		bool		carries = amt_header_key(&list, &s, &len);

		if (cases[i].rest != NULL)
			ok(carries && len == cases[i].rest_len && s == copy + cases[i].len - len &&
			   memcmp(s, cases[i].rest, len) == 0,
			   "this value carries a key: \"%s\"", cases[i].value);
		else
			ok(!carries && s == copy && len == cases[i].len, "this value carries no key: \"%s\"", cases[i].value);

		s = copy;
		len = cases[i].len;
		wrong += amt_header_key(&others, &s, &len) || amt_header_key(&none, &s, &len) ||
			s != copy || len != cases[i].len;
		free(copy);
	}
	ok(wrong == 0, "none of these values carries a key under a list without their prefixes");
}

/* Every beginning of a value, so that each comparison meets the end once. */
static void
test_every_length(void)
{
	static const char *const values[] = {
		"Bearer   amt_a_b", "ApiKey amt_a_b", "Bearer am_a", "abcdefghijklmno9_a"
	};
	AmtPrefixes list = prefixes("amt am abcdefghijklmno9");
	size_t		i;
	int			wrong = 0;

	for (i = 0; i < COUNT(values); i++)
	{
		const size_t head = strchr(values[i], '_') - values[i] + 1;
		size_t		cut;

		for (cut = 0; cut <= strlen(values[i]); cut++)
		{
			char	   *copy = exact_copy(values[i], cut);
			const char *s = copy;
			size_t		len = cut;

			if (amt_header_key(&list, &s, &len) != (cut >= head))
				wrong++;
			if (s + len != copy + cut)
				wrong++;
			free(copy);
		}
	}
	ok(wrong == 0, "a value cut anywhere carries a key only if its prefix is whole");
}

int
main(void)
{
	test_bearer();
	test_key();
	test_every_length();
	return done_testing();
}
