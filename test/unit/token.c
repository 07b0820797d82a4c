/*
 * token.c
 *	  Tests of src/token.c, which is included: the checksum and the generator's
 *	  inside are tested by themselves.
 */
#include "../../src/token.c"

#include "tap.h"

/* The length of a token with the prefix amt. */
#define AMT_TOKEN_LEN	(3 + TAIL_LEN)

static const AmtPrefixes amt = {1, {{3, "amt"}}};
static size_t found_len;

/*
 * Made without our code, by Python's zlib:
 *
 *	def token(id, random):
 *		head, digits, text = f"amt_{id}_{random}", string.digits +
 *			string.ascii_uppercase + string.ascii_lowercase, ""
 *		crc = zlib.crc32(head.encode())
 *		while len(text) < 6:
 *			crc, digit = divmod(crc, 62); text = digits[digit] + text
 *		return head + text
 */
static const char *const known[] = {
	"amt_0123456789AB_DEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrst3WafOr",
	"amt_zzzzzzzzzzzz_zzzzzzzzzzzzzzzzzzzzzzzzzzzzzzzzzzzzzzzzzzz2VCcBd",
	"amt_Wydfhl3Tvtny_thpZPPPP6UeP3C4DSA7Lc360a9Y6yNd14tDdO9eGzMc0X5Onn",
	"amt_QYaYZhKLNPAt_ejqYEdbTOXB14a2Fl8qI2W7COb7UoEwhceSyoL3nQdW00uRHl",
	"amt_Cfd6eKrHUE1D_sUfvA2CNoWRpzzfJjUl4dHN5oRtEh0jlsDEsJWJMQdt000wAw"
};

#define KNOWN	(sizeof(known) / sizeof(known[0]))

#define TEN		"abcdefghij"
#define SIXTEEN	"abcdefghijABCDEF"
#define THIRTY	TEN TEN TEN
#define SIXTY	THIRTY THIRTY

static bool
check(const char *s, size_t len)
{
	char	   *copy = exact_copy(s, len);
	bool		result = amt_token_check(&amt, copy, len);

	free(copy);
	return result;
}

/* Sources of "random" bytes, each with a state of its own. */

static unsigned char next_byte;

static bool
counting(void *buf, size_t len)
{
	unsigned char *bytes = buf;

	while (len-- > 0)
		*bytes++ = next_byte++;
	return true;
}

/* As counting, but every byte comes after the eight that must be rejected. */
static bool
counting_with_rejects(void *buf, size_t len)
{
	static unsigned int turn;
	unsigned char *bytes = buf;

	while (len-- > 0)
	{
		*bytes++ = turn < 8 ? 248 + turn : next_byte++;
		turn = (turn + 1) % 9;
	}
	return true;
}

/* splitmix64: no generator for secrets, but one that passes for random. */
static uint64_t state;

static bool
pseudo_random(void *buf, size_t len)
{
	unsigned char *bytes = buf;

	while (len-- > 0)
	{
		uint64_t	z = (state += UINT64_C(0x9E3779B97F4A7C15));

		z = (z ^ (z >> 30)) * UINT64_C(0xBF58476D1CE4E5B9);
		z = (z ^ (z >> 27)) * UINT64_C(0x94D049BB133111EB);
		*bytes++ = (z ^ (z >> 31)) & 0xFF;
	}
	return true;
}

static unsigned char constant;
static int	calls;

static bool
stuck(void *buf, size_t len)
{
	calls++;
	memset(buf, constant, len);
	return true;
}

static bool
failing(void *buf, size_t len)
{
	calls++;
	memset(buf, 'x', len);
	return false;
}

/* Enough for half a token, then nothing. */
static bool
failing_later(void *buf, size_t len)
{
	memset(buf, 0xFF, len);
	memset(buf, 'x', len / 2);
	return ++calls < 2;
}

static bool
is_wiped(const char *token)
{
	size_t		i;

	for (i = 0; i <= AMT_TOKEN_MAX; i++)
	{
		if (token[i] != '\0')
			return false;
	}
	return true;
}

static void
test_checksum(void)
{
	char		all[256];
	char		text[AMT_CHECKSUM_LEN + 1] = "";
	int			i;

	for (i = 0; i < 256; i++)
		all[i] = (char) i;
	ok(crc32_ieee("", 0) == 0, "CRC-32 of nothing");
	ok(crc32_ieee("123456789", 9) == 0xCBF43926, "CRC-32 of 123456789, the check value of its specification");
	ok(crc32_ieee("The quick brown fox jumps over the lazy dog", 43) == 0x414FA339, "CRC-32 of the quick brown fox");
	ok(crc32_ieee(all, 256) == 0x29058C73, "CRC-32 of every byte");
	write_checksum("", 0, text);
	is_text(text, "000000", "the checksum is padded to six digits");
}

static void
test_generate(void)
{
	char		token[AMT_TOKEN_MAX + 1];
	char		digits_of_all[248];
	int			count[256] = {0};
	bool		even = true;
	int			i;

	memset(token, 'y', sizeof(token));
	next_byte = 0;
	ok(amt_token_generate(&amt, counting, token) && memchr(token, '\0', sizeof(token)) == token + AMT_TOKEN_LEN,
	   "a token is made");
	is_text(token, known[0], "the bytes 0, 1, 2, ... make the digits 0, 1, 2, ...");

	next_byte = 0;
	ok(amt_token_generate(&amt, counting_with_rejects, token), "a token is made from bytes most of which are rejected");
	is_text(token, known[0], "bytes from 248 on leave no trace");

	constant = 247;
	ok(amt_token_generate(&amt, stuck, token) && strcmp(token, known[1]) == 0, "247 is not rejected: it is the fourth z");

	/* Every byte once: every digit equally often, or it would be a bias. */
	next_byte = 0;
	ok(write_random(counting, digits_of_all, 248), "248 digits from 256 bytes");
	ok(next_byte == 0, "and these were all used up");
	for (i = 0; i < 248; i++)
		count[(unsigned char) digits_of_all[i]]++;
	for (i = 0; i < BASE; i++)
		even = even && count[(unsigned char) digits[i]] == 4;
	ok(even, "every digit came four times");
}

static void
test_bias(void)
{
	const int	tokens = 20000;
	const double expected = tokens * 55.0 / BASE;
	int			count[256] = {0};
	double		chi_squared = 0;
	int			i;

	state = 1;
	for (i = 0; i < tokens; i++)
	{
		char		token[AMT_TOKEN_MAX + 1];
		int			j;

		if (!amt_token_generate(&amt, pseudo_random, token))
			break;
		for (j = 4; j < AMT_TOKEN_LEN - AMT_CHECKSUM_LEN; j++)
			count[(unsigned char) token[j]]++;
	}
	for (i = 0; i < BASE; i++)
	{
		double		off = count[(unsigned char) digits[i]] - expected;

		chi_squared += off * off / expected;
	}
	note("chi squared over 62 digits: %.1f", chi_squared);

	/* Above 119 once in 100,000 times; a bare modulo has thousands. */
	ok(i == BASE && chi_squared < 119, "the digits of %d tokens are uniform", tokens);
}

static void
test_bad_sources(void)
{
	char		token[AMT_TOKEN_MAX + 1];

	memset(token, 'y', sizeof(token));
	calls = 0;
	ok(!amt_token_generate(&amt, failing, token), "no random bytes, no token");
	ok(calls == 1, "a source that failed is not asked again");
	ok(is_wiped(token), "and nothing is left in the buffer");

	memset(token, 'y', sizeof(token));
	calls = 0;
	ok(!amt_token_generate(&amt, failing_later, token), "a source that fails half way makes no token");
	ok(calls == 2 && is_wiped(token), "and the first half is wiped");

	constant = 0xFF;
	calls = 0;
	ok(!amt_token_generate(&amt, stuck, token), "a source of nothing but rejected bytes is given up");
	ok(calls == RANDOM_BLOCKS && is_wiped(token), "after %d blocks", RANDOM_BLOCKS);
}

static void
test_many(void)
{
	const int	tokens = 10000;
	int			good = 0;
	int			i;

	state = 2;
	for (i = 0; i < tokens; i++)
	{
		char		token[AMT_TOKEN_MAX + 1];
		AmtToken	parts;

		good += amt_token_generate(&amt, pseudo_random, token) &&
			strlen(token) == AMT_TOKEN_LEN &&
			check(token, AMT_TOKEN_LEN) &&
			amt_token_parse(&amt, token, AMT_TOKEN_LEN, &parts) &&
			parts.id == token + 4 && parts.id_len == AMT_ID_LEN &&
			parts.secret == token + 17 && parts.secret_len == AMT_SECRET_LEN &&
			amt_token_is_id(parts.id, parts.id_len);
	}
	ok(good == tokens, "%d of %d generated tokens pass the checksum and parse", good, tokens);
}

static void
test_check(void)
{
	size_t		i;

	for (i = 0; i < KNOWN; i++)
	{
		const size_t len = AMT_TOKEN_LEN;
		char		text[AMT_TOKEN_LEN + 2];
		int			slips = 0;
		size_t		at;
		int			byte;

		ok(check(known[i], len), "%s is one of ours", known[i]);

		for (at = 0; at < len; at++)
		{
			for (byte = 0; byte < 256; byte++)
			{
				memcpy(text, known[i], len);
				if (text[at] == (char) byte)
					continue;
				text[at] = (char) byte;
				slips += check(text, len);
			}
		}
		ok(slips == 0, "with any one character changed it is not");

		for (at = 0; at + 1 < len; at++)
		{
			memcpy(text, known[i], len);
			if (text[at] == text[at + 1])
				continue;
			text[at] = known[i][at + 1];
			text[at + 1] = known[i][at];
			slips += check(text, len);
		}
		ok(slips == 0, "with any two neighbours swapped it is not");

		for (at = 0; at < len; at++)
		{
			memcpy(text, known[i], at);
			memcpy(text + at, known[i] + at + 1, len - at - 1);
			slips += check(text, len - 1);
		}
		for (at = 0; at <= len; at++)
		{
			memcpy(text, known[i], at);
			text[at] = '0';
			memcpy(text + at + 1, known[i] + at, len - at);
			slips += check(text, len + 1);
		}
		ok(slips == 0, "with one character less or more it is not");
	}
	/* A right checksum does not make up for a wrong shape. */
	for (i = 0; i < AMT_TOKEN_LEN - AMT_CHECKSUM_LEN; i++)
	{
		static const char others[] = {'_', '-', 'x', ' ', '\0', '\377'};
		char		text[AMT_TOKEN_MAX + 1];
		int			slips = 0;
		size_t		other;

		for (other = 0; other < sizeof(others); other++)
		{
			memcpy(text, known[0], AMT_TOKEN_LEN);
			text[i] = others[other];
			write_checksum(text, AMT_TOKEN_LEN - AMT_CHECKSUM_LEN, text + AMT_TOKEN_LEN - AMT_CHECKSUM_LEN);
			slips += check(text, AMT_TOKEN_LEN);
		}
		/* The separator and the x among ids and secrets are as they should be. */
		ok(slips == (i < 4 ? i == 3 : 1), "place %zu takes its own characters only", i);
	}
	ok(!check("", 0), "nothing is not one of ours");
	ok(!check("amt_abc123_xyz789abcdefghij", 27), "a token made elsewhere is not one of ours");
}

static void
test_is_id(void)
{
	ok(!amt_token_is_id("", 0), "an id is not empty");
	ok(amt_token_is_id("0", 1) && amt_token_is_id("9AZaz", 5), "an id has digits and letters");
	ok(amt_token_is_id(SIXTY "abcd", 64) && !amt_token_is_id(SIXTY "abcde", 65), "an id has up to 64 characters");
	ok(!amt_token_is_id("a_b", 3) && !amt_token_is_id("a-b", 3) && !amt_token_is_id("a\0b", 3) &&
	   !amt_token_is_id("\303\244", 2) && !amt_token_is_id("a ", 2), "and nothing else");
	ok(!amt_token_is_id("/", 1) && !amt_token_is_id(":", 1) && !amt_token_is_id("@", 1) &&
	   !amt_token_is_id("[", 1) && !amt_token_is_id("`", 1) && !amt_token_is_id("{", 1),
	   "not even the neighbours of digits and letters");
}

static void
test_parse(void)
{
	/* The texts are literals, so that they may hold NUL. */
#define TOKEN(s, id, secret)	{s, sizeof(s) - 1, id, secret}
#define NO_TOKEN(s)				{s, sizeof(s) - 1, NULL, NULL}
	static const struct
	{
		const char *text;
		size_t		len;
		const char *id;
		const char *secret;
	}			cases[] = {
		TOKEN("amt_abc123_xyz789abcdefghij", "abc123", "xyz789abcdefghij"),
		TOKEN("amt_a_" SIXTEEN, "a", SIXTEEN),
		TOKEN("amt_" SIXTY "abcd_" SIXTEEN, SIXTY "abcd", SIXTEEN),
		TOKEN("amt_a_" SIXTY SIXTY SIXTY SIXTY SIXTEEN, "a", SIXTY SIXTY SIXTY SIXTY SIXTEEN),
		TOKEN("amt_" SIXTY "abcd_" SIXTY SIXTY SIXTY SIXTY SIXTEEN, SIXTY "abcd", SIXTY SIXTY SIXTY SIXTY SIXTEEN),
		TOKEN("amt_a_b_ccccccccccccccc", "a", "b_ccccccccccccccc"),
		TOKEN("amt_a_________________", "a", "________________"),
		TOKEN("amt_a_----------------", "a", "----------------"),
		TOKEN("amt_amt_amt_0123456789ab", "amt", "amt_0123456789ab"),

		NO_TOKEN(""),
		NO_TOKEN("amt"),
		NO_TOKEN("amt_"),
		NO_TOKEN("amt_a"),
		NO_TOKEN("amt_a_"),
		NO_TOKEN("amt_a_abcdefghijABCDE"),
		NO_TOKEN("amt_a_" SIXTY SIXTY SIXTY SIXTY SIXTEEN "a"),
		NO_TOKEN("amt__" SIXTEEN),
		NO_TOKEN("amt__" SIXTEEN "_" SIXTEEN),
		NO_TOKEN("amt_" SIXTY "abcde_" SIXTEEN),
		NO_TOKEN("amt_" SIXTEEN SIXTEEN),
		NO_TOKEN("amt_a-b_" SIXTEEN),
		NO_TOKEN("amt_a b_" SIXTEEN),
		NO_TOKEN("amt_a\0b_" SIXTEEN),
		NO_TOKEN("amt_\303\244_" SIXTEEN),
		NO_TOKEN("amt_a_" SIXTEEN " "),
		NO_TOKEN("amt_a_" SIXTEEN "\n"),
		NO_TOKEN("amt_a_" SIXTEEN "\0"),
		NO_TOKEN("amt_a_\0" SIXTEEN),
		NO_TOKEN("amt_a_" SIXTEEN "."),
		NO_TOKEN("amt_a_" SIXTEEN "\303\244"),
		NO_TOKEN("amt_a_" SIXTEEN "+/"),
		NO_TOKEN("AMT_a_" SIXTEEN),
		NO_TOKEN("amt-a_" SIXTEEN),
		NO_TOKEN(" amt_a_" SIXTEEN),
		NO_TOKEN("Bearer amt_a_" SIXTEEN),
		NO_TOKEN("xamt_a_" SIXTEEN),
		NO_TOKEN("\0amt_a_" SIXTEEN),
		NO_TOKEN("amt_a...")
	};
	size_t		i;

	for (i = 0; i < sizeof(cases) / sizeof(cases[0]); i++)
	{
		char	   *copy = exact_copy(cases[i].text, cases[i].len);
		AmtToken	token;
		bool		parsed = amt_token_parse(&amt, copy, cases[i].len, &token);

		if (cases[i].id == NULL)
			ok(!parsed, "no token: %.40s", cases[i].text);
		else
			ok(parsed &&
			   token.id == copy + 4 && token.id_len == strlen(cases[i].id) &&
			   memcmp(token.id, cases[i].id, token.id_len) == 0 &&
			   token.secret_len == strlen(cases[i].secret) &&
			   memcmp(token.secret, cases[i].secret, token.secret_len) == 0 &&
			   token.secret + token.secret_len == copy + cases[i].len,
			   "a token: %.40s", cases[i].text);
		free(copy);
	}
}

/* The tokens that are found, as their offsets, in a text given in pieces. */
static const char *
found_in(const char *a, const char *b, const char *c, const char *d)
{
	static char result[256];
	char		text[1024];
	char	   *copy;
	size_t		len;
	size_t		at;

	result[0] = '\0';
	len = snprintf(text, sizeof(text), "%s%s%s%s", a, b, c, d);
	copy = exact_copy(text, len);
	for (at = amt_token_find(&amt, copy, len, 0, &found_len); at < len; at = amt_token_find(&amt, copy, len, at + 1, &found_len))
		snprintf(result + strlen(result), sizeof(result) - strlen(result), "%zu ", at);
	free(copy);
	return result;
}

static void
test_find(void)
{
	const char *a = known[2];
	const char *b = known[3];
	char		broken[AMT_TOKEN_MAX + 1];
	char		text[100];

	is_text(found_in("", "", "", ""), "", "nothing in nothing");
	is_text(found_in(a, "", "", ""), "0 ", "the whole text");
	is_text(found_in("x ", a, " y", ""), "2 ", "in the middle");
	is_text(found_in("{\"t\":\"", a, "\",\"u\":\"", b), "6 79 ", "two of them");
	is_text(found_in(a, b, a, ""), "0 66 132 ", "with nothing between them");
	is_text(found_in("word", a, "word", ""), "4 ", "whatever its neighbours are");
	is_text(found_in("amt_", a, "", ""), "4 ", "behind another head");
	is_text(found_in("amt_abcdefghijkl_", a, "", ""), "17 ", "in another's secret");
	is_text(found_in("amt_abc123_xyz789abcdefghij ", a, "", ""), "28 ", "behind a token made elsewhere");
	is_text(found_in("____amt_____a_amt", a, "_", ""), "17 ", "among separators");
	strcpy(broken, a);
	broken[20] = broken[20] == 'x' ? 'y' : 'x';
	is_text(found_in(broken, broken, "", ""), "", "not with a wrong checksum");
	is_text(found_in(broken, a, broken, b), "66 198 ", "between wrong ones");
	broken[AMT_TOKEN_LEN - 1] = '\0';
	is_text(found_in("", broken, "", ""), "", "not if cut");
	memcpy(broken, a, AMT_TOKEN_LEN - 1);
	is_text(found_in("", broken, "", ""), "", "not if only its last character is missing");

	snprintf(text, sizeof(text), "..%s", a);
	ok(amt_token_find(&amt, text, 68, 2, &found_len) == 2, "from its beginning on");
	ok(amt_token_find(&amt, text, 68, 3, &found_len) == 68, "not from behind its beginning");
	ok(amt_token_find(&amt, text, 68, 68, &found_len) == 68, "nothing from the end on");
	ok(amt_token_find(&amt, text, 68, 69, &found_len) == 68 && amt_token_find(&amt, text, 68, SIZE_MAX, &found_len) == 68, "nor from behind the end");
	memcpy(text, "\0\0", 2);
	ok(amt_token_find(&amt, text, 68, 0, &found_len) == 2, "NUL is a byte like others");
}

/* A megabyte made of a piece over and over, searched for all tokens. */
static void
test_find_is_linear(const char *piece, int expected)
{
	const size_t len = 1 << 20;
	const size_t piece_len = strlen(piece);
	char	   *text = malloc(len);
	double		start;
	size_t		at;
	int			found = 0;

	if (text == NULL)
		abort();
	for (at = 0; at < len; at++)
		text[at] = piece[at % piece_len];
	start = cpu_seconds();
	for (at = amt_token_find(&amt, text, len, 0, &found_len); at < len; at = amt_token_find(&amt, text, len, at + 1, &found_len))
		found++;
	note("%.1f ms", 1000 * (cpu_seconds() - start));
	/* Generous, for valgrind; what is not linear takes minutes. */
	ok(found == expected && cpu_seconds() - start < 2, "%d tokens in a megabyte of %.20s", expected, piece);
	free(text);
}

int
main(void)
{
	test_checksum();
	test_generate();
	test_bias();
	test_bad_sources();
	test_many();
	test_check();
	test_is_id();
	test_parse();
	test_find();
	test_find_is_linear("amt_", 0);
	test_find_is_linear("_", 0);
	test_find_is_linear("a", 0);
	test_find_is_linear("amt_abcdefghijkl_", 0);
	test_find_is_linear("amt_" SIXTY "abcd", 0);
	test_find_is_linear("amt_abcdefghijkl_" TEN TEN TEN TEN "abcdefghi", 0);
	test_find_is_linear(known[2], (1 << 20) / AMT_TOKEN_LEN);
	return done_testing();
}
