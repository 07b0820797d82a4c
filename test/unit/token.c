/*
 * token.c
 *	  Tests of src/token.c, which is included: the checksum and the generator's
 *	  inside are tested by themselves.
 */
#include "../../src/token.c"

#include <fcntl.h>
#include <unistd.h>

#include "prefixes.h"
#include "tap.h"


/*
 * Made without our code, by Python's zlib:
 *
 *	def token(prefix, id, random):
 *		head, digits, text = f"{prefix}_{id}_{random}", string.digits +
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

/* As these, with other prefixes. */
#define AM		"am_dGlMoiyrlfxX_1rTnyFf3vA7NUtFOY6aF0kDQHBwtnOAmp48ddS880t04Arrt0"
#define XAMT	"xamt_DnDzAtAIKzCY_uheDByziCzzvOJ1NQAx9G4LJqcb0chjL4JMqJUiKBUU4ESctc"
#define A1		"a1_jB3Gy1ylMsP1_ZoQNObr0S2jBdzzC7mFxqyTMWMvXGnT6blnpNtI2Ry5204tvo"
#define LONGEST	"abcdefghijklmno9_DLWdNw9LHxiY_5JhKJBp5e9kiJUAk35cYxP2FlcMqGTfQ93we2pVLrD82nDc8w"

/* The length of a token with the prefix amt. */
#define AMT_LEN	(3 + TAIL_LEN)

/* The list with amt only, and one whose names begin and end like one another. */
static AmtPrefixes amt;
static AmtPrefixes alike;

#define TEN		"abcdefghij"
#define SIXTEEN	"abcdefghijABCDEF"
#define THIRTY	TEN TEN TEN
#define SIXTY	THIRTY THIRTY

static bool
check(const AmtPrefixes *list, const char *s, size_t len)
{
	char	   *copy = exact_copy(s, len);
	bool		result = amt_token_check(list, copy, len);

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
	ok(crc32_ieee("", 0) == 0, "the CRC-32 of nothing is 0");
	ok(crc32_ieee("123456789", 9) == 0xCBF43926, "the CRC-32 of 123456789 is the check value of its specification");
	ok(crc32_ieee("The quick brown fox jumps over the lazy dog", 43) == 0x414FA339, "the CRC-32 of the quick brown fox is right");
	ok(crc32_ieee(all, 256) == 0x29058C73, "the CRC-32 of all bytes is right");
	write_checksum("", 0, text);
	is_text(text, "000000", "the checksum is padded to six digits");
}

/* amt_prefix_is_valid() of a copy with nothing behind it. */
static bool
is_valid(const char *name, size_t len)
{
	char	   *copy = exact_copy(name, len);
	bool		result = amt_prefix_is_valid(copy, len);

	free(copy);
	return result;
}

static void
test_prefix_is_valid(void)
{
	int			wrong = 0;
	int			byte;

	ok(!is_valid("", 0) && !is_valid("a", 1), "a prefix of less than two characters is not valid");
	ok(is_valid("ab", 2) && is_valid("a1", 2), "a prefix of two characters is valid");
	ok(is_valid("abcdefghijklmno9", 16), "a prefix of sixteen characters is valid");
	ok(!is_valid("abcdefghijklmnop9", 17), "a prefix of seventeen characters is not valid");
	ok(!is_valid("1a", 2), "a prefix does not begin with a digit");
	ok(!is_valid("ab_", 3) && !is_valid("a_b", 3) && !is_valid("_ab", 3), "a prefix contains no underscore");
	ok(!is_valid("ab\0", 3) && !is_valid(" ab", 3) && !is_valid("ab ", 3), "a prefix contains neither NUL nor a space");

	for (byte = 0; byte < 256; byte++)
	{
		bool		letter = byte >= 'a' && byte <= 'z';
		bool		digit = byte >= '0' && byte <= '9';
		char		name[3] = {(char) byte, 'b', 'c'};

		wrong += is_valid(name, 3) != letter;
		name[0] = 'a';
		name[1] = (char) byte;
		wrong += is_valid(name, 3) != (letter || digit);
		name[1] = 'b';
		name[2] = (char) byte;
		wrong += is_valid(name, 3) != (letter || digit);
	}
	ok(wrong == 0, "of all bytes, a prefix begins with a-z and continues with a-z0-9 only");
}

static void
test_prefixes_add(void)
{
	AmtPrefixes list = {0};
	AmtPrefixes before;
	char		name[AMT_PREFIX_MAX + 1];
	int			added = 0;
	int			i;

	/* Bytes of an earlier use must not be left behind a name. */
	memset(list.prefix, 'x', sizeof(list.prefix));
	ok(amt_prefixes_add(&list, "amt+++", 3) && list.n == 1, "a prefix is added to an empty list");
	ok(list.prefix[0].len == 3 && strcmp(list.prefix[0].name, "amt") == 0 &&
	   memchr(list.prefix[0].name, 'x', sizeof(list.prefix[0].name)) == NULL,
	   "only the characters of a prefix are kept, with NUL behind them");
	ok(amt_prefixes_add(&list, "abcdefghijklmno9", 16) && list.n == 2 &&
	   strcmp(list.prefix[1].name, "abcdefghijklmno9") == 0 && strcmp(list.prefix[0].name, "amt") == 0,
	   "the next prefix is added behind the first");

	before = list;
	ok(!amt_prefixes_add(&list, "amt", 3) && !amt_prefixes_add(&list, "abcdefghijklmno9", 16),
	   "a prefix that is listed already is refused");
	ok(!amt_prefixes_add(&list, "", 0) && !amt_prefixes_add(&list, "a", 1) &&
	   !amt_prefixes_add(&list, "A1", 2) && !amt_prefixes_add(&list, "abcdefghijklmnop9", 17),
	   "a prefix that is not valid is refused");
	ok(memcmp(&list, &before, sizeof(list)) == 0, "a refused prefix does not change the list");
	ok(amt_prefixes_add(&list, "am", 2) && amt_prefixes_add(&list, "xamt", 4) && amt_prefixes_add(&list, "amt1", 4),
	   "a prefix that begins or ends like another is no duplicate");

	list.n = 0;
	for (i = 0; i < 40; i++)
	{
		snprintf(name, sizeof(name), "p%d", i);
		added += amt_prefixes_add(&list, name, strlen(name));
	}
	ok(added == AMT_PREFIXES_MAX && list.n == AMT_PREFIXES_MAX &&
	   strcmp(list.prefix[0].name, "p0") == 0 && strcmp(list.prefix[31].name, "p31") == 0,
	   "a list takes %d prefixes and no more", AMT_PREFIXES_MAX);
	before = list;
	ok(!amt_prefixes_add(&list, "amt", 3) && memcmp(&list, &before, sizeof(list)) == 0, "a full list is not changed");
}

/* The name that amt_prefixes_find_last() finds, or "". */
static const char *
last_of(const AmtPrefixes *list, const char *text, size_t limit)
{
	char	   *copy = exact_copy(text, strlen(text));
	const AmtPrefix *found = amt_prefixes_find_last(list, copy, strlen(text), limit);

	free(copy);
	return found != NULL ? found->name : "";
}

static void
test_find_last(void)
{
	AmtPrefixes none = prefixes("");
	AmtPrefixes full = prefixes("am xamt amt mt");
	AmtPrefixes backwards = prefixes("mt amt xamt am");

	is_text(last_of(&full, "xamt", 17), "xamt", "the longest prefix is found");
	is_text(last_of(&backwards, "yxamt", 17), "xamt", "the order of the list does not matter");
	is_text(last_of(&full, "xamt", 4), "amt", "only prefixes shorter than the limit are found");
	is_text(last_of(&backwards, "xamt", 3), "mt", "a lower limit leaves shorter prefixes");
	is_text(last_of(&full, "xamt", 2), "", "a limit below all prefixes leaves none");
	is_text(last_of(&full, "xam", 17), "am", "the prefix ends where the text does");
	is_text(last_of(&full, "amt ", 17), "", "a prefix before the end of the text is not found");
	is_text(last_of(&full, "t", 17), "", "a prefix longer than the text is not found");
	is_text(last_of(&full, "", 17), "", "no prefix is found in an empty text");
	is_text(last_of(&none, "amt", 17), "", "no prefix of an empty list is found");
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
	ok(amt_token_generate(&amt, counting, token) && memchr(token, '\0', sizeof(token)) == token + AMT_LEN,
	   "a token is made");
	is_text(token, known[0], "the bytes 0, 1, 2, ... make the digits 0, 1, 2, ...");

	next_byte = 0;
	ok(amt_token_generate(&amt, counting_with_rejects, token), "a token is made from bytes most of which are rejected");
	is_text(token, known[0], "bytes from 248 on leave no trace");

	constant = 247;
	ok(amt_token_generate(&amt, stuck, token) && strcmp(token, known[1]) == 0, "247 is not rejected: it is the fourth z");

	/* Every byte once: every digit equally often, or it would be a bias. */
	next_byte = 0;
	ok(write_random(counting, digits_of_all, 248), "256 bytes make 248 digits");
	ok(next_byte == 0, "all of the 256 bytes are used up");
	for (i = 0; i < 248; i++)
		count[(unsigned char) digits_of_all[i]]++;
	for (i = 0; i < BASE; i++)
		even = even && count[(unsigned char) digits[i]] == 4;
	ok(even, "each digit comes four times among the 248");
}

static void
test_generate_with_prefixes(void)
{
	/* Made without our code, as above. */
	static const char *const made[] = {
		"am_0123456789AB_DEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrst0PlIX7",
		"xamt_0123456789AB_DEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrst47pf0d",
		"mt_0123456789AB_DEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrst2g5qR2",
		"amt1_0123456789AB_DEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrst04E6eW",
		"a1_0123456789AB_DEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrst39KxVU",
		"abcdefghijklmno9_0123456789AB_DEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrst2yH3lR"
	};
	AmtPrefixes list;
	char		token[AMT_TOKEN_MAX + 1];
	size_t		i;

	for (i = 0; i < sizeof(made) / sizeof(made[0]); i++)
	{
		size_t		len = strcspn(made[i], "_");
		char	   *exact = malloc(AMT_TOKEN_MAX + 1);

		if (exact == NULL)
			abort();
		list.n = 0;
		if (!amt_prefixes_add(&list, made[i], len) || !amt_prefixes_add(&list, "other", 5))
			abort();
		next_byte = 0;
		ok(amt_token_generate(&list, counting, exact) && strcmp(exact, made[i]) == 0,
		   "a token is made with the prefix %.*s, the first of the list", (int) len, made[i]);
		free(exact);
	}

	memset(token, 'y', sizeof(token));
	memset(&list, 'y', sizeof(list));
	list.n = 0;
	calls = 0;
	ok(!amt_token_generate(&list, stuck, token) && calls == 0 && is_wiped(token),
	   "with an empty list no token is made, and the buffer is wiped");
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
		for (j = 4; j < AMT_LEN - AMT_CHECKSUM_LEN; j++)
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
	ok(!amt_token_generate(&amt, failing, token), "without random bytes no token is made");
	ok(calls == 1, "a source that failed is not asked again");
	ok(is_wiped(token), "nothing is left in the buffer after a failure");

	memset(token, 'y', sizeof(token));
	calls = 0;
	ok(!amt_token_generate(&amt, failing_later, token), "a source that fails half way makes no token");
	ok(calls == 2 && is_wiped(token), "the first half of a token is wiped");

	constant = 0xFF;
	calls = 0;
	ok(!amt_token_generate(&amt, stuck, token), "a source of rejected bytes only makes no token");
	ok(calls == RANDOM_BLOCKS && is_wiped(token), "a source of rejected bytes only is given up after %d blocks", RANDOM_BLOCKS);
}

/* Where the source of the next test keeps a copy of its bytes. */
static unsigned char delivered[RANDOM_BLOCK];

/*
 * pseudo_random(), by way of a copy on the stack that is left there, deeper than
 * functions called afterwards reach by chance.
 */
static NOINLINE bool
untidy(void *buf, size_t len)
{
	volatile unsigned char mine[4096];
	unsigned char *bytes = buf;
	size_t		i;

	if (len > sizeof(mine))
		abort();
	(void) pseudo_random(delivered, len);
	for (i = 0; i < len; i++)
		mine[i] = delivered[i];
	for (i = 0; i < len; i++)
		bytes[i] = mine[i];
	return true;
}

/* How many pieces of four bytes of a text there are in another. */
static int
count_pieces(const void *text, size_t len, const unsigned char *in, size_t in_len)
{
	const unsigned char *piece;
	int			count = 0;
	size_t		at;

	for (piece = text; len >= 4; piece++, len--)
	{
		for (at = 0; at + 4 <= in_len; at++)
			count += memcmp(piece, in + at, 4) == 0;
	}
	return count;
}

/*
 * The stack below the caller's frame, read as a file: whatever watches the
 * memory of this program would object to a pointer there.
 */
#define STACK_DEPTH		32768

static unsigned char stack[STACK_DEPTH];

static NOINLINE bool
read_stack(int memory, const char *top)
{
	return pread(memory, stack, STACK_DEPTH, (off_t) ((uintptr_t) top - STACK_DEPTH)) == STACK_DEPTH;
}

/* The stack after the untidy source alone, then after a token was made with it. */
static NOINLINE void
test_stack_at(int memory)
{
	static char token[AMT_TOKEN_MAX + 1];
	static unsigned char block[RANDOM_BLOCK];
	const char *top = __builtin_frame_address(0);

	/* With a sanitizer, variables may live elsewhere. */
	(void) read_stack(memory, top);
	(void) untidy(block, sizeof(block));
	if (!read_stack(memory, top) || count_pieces(delivered, sizeof(delivered), stack, STACK_DEPTH) == 0)
	{
		ok(true, "no part of a new token is left on the stack # SKIP the source leaves none that can be seen");
		return;
	}

	(void) amt_token_generate(&alike, untidy, token);
	if (!read_stack(memory, top))
		abort();
	ok(count_pieces(delivered, sizeof(delivered), stack, STACK_DEPTH) == 0,
	   "no random bytes of a new token are left on the stack");
	ok(count_pieces(token + strlen(token) - AMT_SECRET_LEN, AMT_SECRET_LEN, stack, STACK_DEPTH) == 0,
	   "no part of a new secret is left on the stack");
}

static void
test_stack(void)
{
	int			memory = open("/proc/self/mem", O_RDONLY);

	state = 3;
	test_stack_at(memory);
	if (memory >= 0)
		close(memory);
}

static void
test_many(void)
{
	static const char *const names[] = {"amt", "am", "abcdefghijklmno9"};
	const int	tokens = 10000;
	size_t		name;

	state = 2;
	for (name = 0; name < sizeof(names) / sizeof(names[0]); name++)
	{
		AmtPrefixes list = prefixes(names[name]);
		size_t		prefix_len = strlen(names[name]);
		size_t		len = prefix_len + TAIL_LEN;
		int			good = 0;
		int			i;

		/* More names behind it make no difference. */
		if (!amt_prefixes_add(&list, "a1", 2) || !amt_prefixes_add(&list, "xamt", 4))
			abort();
		for (i = 0; i < tokens; i++)
		{
			char		token[AMT_TOKEN_MAX + 1];
			AmtToken	parts;
			size_t		found_len;

			good += amt_token_generate(&list, pseudo_random, token) &&
				strlen(token) == len &&
				check(&list, token, len) &&
				amt_token_has_prefix(&list, token, len) &&
				amt_token_find(&list, token, len, 0, &found_len) == 0 && found_len == len &&
				amt_token_parse(&list, token, len, &parts) &&
				parts.prefix == token && parts.prefix_len == prefix_len &&
				memcmp(parts.prefix, names[name], prefix_len) == 0 &&
				parts.id == token + prefix_len + 1 && parts.id_len == AMT_ID_LEN &&
				parts.secret == token + prefix_len + 1 + AMT_ID_LEN + 1 &&
				parts.secret_len == AMT_SECRET_LEN &&
				amt_token_is_id(parts.id, parts.id_len);
		}
		ok(good == tokens, "%d of %d tokens made with the prefix %s are checked, found and parsed", good, tokens, names[name]);
	}
}

/* No token with one character changed, swapped, lost or added is one of ours. */
static void
test_slips(const char *token)
{
	const size_t len = strlen(token);
	char		text[AMT_TOKEN_MAX + 2];
	int			slips = 0;
	size_t		at;
	int			byte;

	ok(check(&alike, token, len), "%s is one of ours", token);

	for (at = 0; at < len; at++)
	{
		for (byte = 0; byte < 256; byte++)
		{
			memcpy(text, token, len);
			if (text[at] == (char) byte)
				continue;
			text[at] = (char) byte;
			slips += check(&alike, text, len);
		}
	}
	ok(slips == 0, "a token with any one character changed is not one of ours");

	for (at = 0; at + 1 < len; at++)
	{
		memcpy(text, token, len);
		if (text[at] == text[at + 1])
			continue;
		text[at] = token[at + 1];
		text[at + 1] = token[at];
		slips += check(&alike, text, len);
	}
	ok(slips == 0, "a token with any two neighbours swapped is not one of ours");

	for (at = 0; at < len; at++)
	{
		memcpy(text, token, at);
		memcpy(text + at, token + at + 1, len - at - 1);
		slips += check(&alike, text, len - 1);
	}
	for (at = 0; at <= len; at++)
	{
		memcpy(text, token, at);
		text[at] = '0';
		memcpy(text + at + 1, token + at, len - at);
		slips += check(&alike, text, len + 1);
	}
	ok(slips == 0, "a token with one character less or more is not one of ours");
}

static void
test_check(void)
{
	static const char *const others[] = {AM, XAMT, A1, LONGEST};
	size_t		i;

	for (i = 0; i < KNOWN; i++)
		test_slips(known[i]);
	for (i = 0; i < sizeof(others) / sizeof(others[0]); i++)
		test_slips(others[i]);

	/* A right checksum does not make up for a wrong shape. */
	for (i = 0; i < AMT_LEN - AMT_CHECKSUM_LEN; i++)
	{
		static const char bytes[] = {'_', '-', 'x', ' ', '\0', '\377'};
		char		text[AMT_LEN];
		int			slips = 0;
		size_t		byte;

		for (byte = 0; byte < sizeof(bytes); byte++)
		{
			memcpy(text, known[0], AMT_LEN);
			text[i] = bytes[byte];
			write_checksum(text, AMT_LEN - AMT_CHECKSUM_LEN, text + AMT_LEN - AMT_CHECKSUM_LEN);
			slips += check(&amt, text, AMT_LEN);
		}
		/* The separator and the x among ids and secrets are as they should be. */
		ok(slips == (i < 4 ? i == 3 : 1), "place %zu takes its own characters only", i);
	}
	ok(!check(&amt, "", 0), "an empty text is not one of ours");
	ok(!check(&amt, "amt_abc123_xyz789abcdefghij", 27), "a token made elsewhere is not one of ours");
}

/* Which of the tokens pass under a list, as letters. */
static const char *
passing(const char *names)
{
	static const char *const tokens[] = {AM, XAMT, A1, LONGEST, NULL};
	static char result[6];
	AmtPrefixes list = prefixes(names);
	size_t		n = 0;
	size_t		i;

	for (i = 0; i < 5; i++)
	{
		const char *token = tokens[i] != NULL ? tokens[i] : known[2];

		if (check(&list, token, strlen(token)))
			result[n++] = "mx1la"[i];
	}
	result[n] = '\0';
	return result;
}

static void
test_check_with_prefixes(void)
{
	char		text[AMT_TOKEN_MAX + 1];

	is_text(passing(""), "", "with an empty list no token is one of ours");
	is_text(passing("amt"), "a", "xamt and am are not taken for amt");
	is_text(passing("am"), "m", "amt is not taken for am");
	is_text(passing("xamt"), "x", "amt is not taken for xamt");
	is_text(passing("mt xa amt1 a2"), "", "a part of a prefix is not enough");
	is_text(passing("other amt am"), "ma", "every prefix of the list is recognised");
	is_text(passing("abcdefghijklmno9 a1"), "1l", "prefixes of two and of sixteen characters are recognised");
	is_text(passing("p0 p1 p2 p3 p4 p5 p6 p7 p8 p9 q0 q1 q2 q3 q4 q5 q6 q7 q8 q9 r0 r1 r2 r3 r4 r5 r6 r7 r8 amt am xamt"),
			"mxa", "the last prefixes of a full list are recognised");

	snprintf(text, sizeof(text), "x%s", known[2]);
	ok(!check(&alike, text, strlen(text)), "the checksum is not right for a longer prefix of the list");
	ok(!check(&alike, &XAMT[1], strlen(&XAMT[1])), "the checksum is not right for a shorter prefix of the list");
	snprintf(text, sizeof(text), "am1%s", strchr(AM, '_'));
	ok(!check(&alike, text, strlen(text)), "a prefix that is not listed is refused whatever it begins with");
}

static void
test_is_id(void)
{
	ok(!amt_token_is_id("", 0), "an id is not empty");
	ok(amt_token_is_id("0", 1) && amt_token_is_id("9AZaz", 5), "an id has digits and letters");
	ok(amt_token_is_id(SIXTY "abcd", 64) && !amt_token_is_id(SIXTY "abcde", 65), "an id has up to 64 characters");
	ok(!amt_token_is_id("a_b", 3) && !amt_token_is_id("a-b", 3) && !amt_token_is_id("a\0b", 3) &&
	   !amt_token_is_id("\303\244", 2) && !amt_token_is_id("a ", 2), "an id has no other characters");
	ok(!amt_token_is_id("/", 1) && !amt_token_is_id(":", 1) && !amt_token_is_id("@", 1) &&
	   !amt_token_is_id("[", 1) && !amt_token_is_id("`", 1) && !amt_token_is_id("{", 1),
	   "the neighbours of digits and letters are no characters of an id");
}

static bool
has_prefix(const AmtPrefixes *list, const char *s, size_t len)
{
	char	   *copy = exact_copy(s, len);
	bool		result = amt_token_has_prefix(list, copy, len);

	free(copy);
	return result;
}

static void
test_has_prefix(void)
{
	AmtPrefixes none = prefixes("");
	AmtPrefixes two = prefixes("ab abcdefghijklmno9");

	ok(has_prefix(&amt, "amt_", 4) && has_prefix(&amt, "amt_x", 5) && has_prefix(&amt, "amt__", 5),
	   "a text begins with a prefix whatever follows the underscore");
	ok(!has_prefix(&amt, "", 0) && !has_prefix(&amt, "a", 1) && !has_prefix(&amt, "amt", 3),
	   "a text without an underscore does not begin with a prefix");
	ok(!has_prefix(&amt, "amtx_", 5) && !has_prefix(&amt, "am_t_", 5) && !has_prefix(&amt, "xamt_", 5) &&
	   !has_prefix(&amt, "_amt_", 5) && !has_prefix(&amt, "AMT_", 4) && !has_prefix(&amt, "amt-", 4) &&
	   !has_prefix(&amt, "amt\0_", 5) && !has_prefix(&amt, " amt_", 5) && !has_prefix(&amt, "_", 1),
	   "the part before the first underscore must be the prefix exactly");
	ok(has_prefix(&two, "ab_", 3) && has_prefix(&two, "abcdefghijklmno9_", 17),
	   "a prefix of two and one of sixteen characters are recognised");
	ok(!has_prefix(&two, "abcdefghijklmno9", 16) && !has_prefix(&two, "abcdefghijklmno99_", 18) &&
	   !has_prefix(&two, "abcdefghijklmno_", 16) && !has_prefix(&two, "abc_", 4) && !has_prefix(&two, "a_", 2),
	   "names a little longer or shorter are not recognised");
	ok(has_prefix(&alike, "am_", 3) && has_prefix(&alike, "amt_", 4) && has_prefix(&alike, "xamt_", 5),
	   "prefixes that begin or end like one another are all recognised");
	ok(!has_prefix(&none, "amt_", 4) && !has_prefix(&none, "_", 1), "with an empty list no text begins with a prefix");
	ok(!amt_token_has_prefix(&amt, NULL, 0), "a text of length 0 is not looked at");
}

static void
test_parse(void)
{
	/* The texts are literals, so that they may hold NUL. */
#define TOKEN_OF(prefix, s, id, secret)	{s, sizeof(s) - 1, prefix, id, secret}
#define TOKEN(s, id, secret)	TOKEN_OF("amt", s, id, secret)
#define NO_TOKEN(s)				{s, sizeof(s) - 1, NULL, NULL, NULL}
	static const struct
	{
		const char *text;
		size_t		len;
		const char *prefix;
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
		TOKEN_OF("am", "am_t_" SIXTEEN, "t", SIXTEEN),
		TOKEN_OF("am", "am_amt_a_" SIXTEEN, "amt", "a_" SIXTEEN),
		TOKEN_OF("xamt", "xamt_a_" SIXTEEN, "a", SIXTEEN),
		TOKEN_OF("a1", "a1_a_" SIXTEEN, "a", SIXTEEN),
		TOKEN_OF("abcdefghijklmno9", "abcdefghijklmno9_a_" SIXTEEN, "a", SIXTEEN),
		TOKEN_OF("abcdefghijklmno9", "abcdefghijklmno9_" SIXTY "abcd_" SIXTY SIXTY SIXTY SIXTY SIXTEEN, SIXTY "abcd", SIXTY SIXTY SIXTY SIXTY SIXTEEN),

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
		NO_TOKEN("yamt_a_" SIXTEEN),
		NO_TOKEN("amtx_a_" SIXTEEN),
		NO_TOKEN("mt_a_" SIXTEEN),
		NO_TOKEN("a_a_" SIXTEEN),
		NO_TOKEN("_amt_a_" SIXTEEN),
		NO_TOKEN("am_a_abcdefghijABCDE"),
		NO_TOKEN("am_a_" SIXTY SIXTY SIXTY SIXTY SIXTEEN "a"),
		NO_TOKEN("am_" SIXTY "abcde_" SIXTEEN),
		NO_TOKEN("am__" SIXTEEN),
		NO_TOKEN("am_"),
		NO_TOKEN("abcdefghijklmno9"),
		NO_TOKEN("abcdefghijklmno9_"),
		NO_TOKEN("abcdefghijklmno99_a_" SIXTEEN),
		NO_TOKEN("\0amt_a_" SIXTEEN),
		NO_TOKEN("amt_a...")
	};
	AmtPrefixes others = prefixes("other amt1 xyz");
	AmtPrefixes none = prefixes("");
	size_t		i;
	int			wrong = 0;

	for (i = 0; i < sizeof(cases) / sizeof(cases[0]); i++)
	{
		char	   *copy = exact_copy(cases[i].text, cases[i].len);
		AmtToken	token;
		bool		parsed = amt_token_parse(&alike, copy, cases[i].len, &token);

		if (cases[i].prefix == NULL)
			ok(!parsed, "this is no token: %.40s", cases[i].text);
		else
			ok(parsed &&
			   token.prefix == copy && token.prefix_len == strlen(cases[i].prefix) &&
			   memcmp(token.prefix, cases[i].prefix, token.prefix_len) == 0 &&
			   token.id == copy + token.prefix_len + 1 && token.id_len == strlen(cases[i].id) &&
			   memcmp(token.id, cases[i].id, token.id_len) == 0 &&
			   token.secret == token.id + token.id_len + 1 &&
			   token.secret_len == strlen(cases[i].secret) &&
			   memcmp(token.secret, cases[i].secret, token.secret_len) == 0 &&
			   token.secret + token.secret_len == copy + cases[i].len,
			   "this token is taken apart: %.40s", cases[i].text);
		wrong += amt_token_parse(&others, copy, cases[i].len, &token);
		wrong += amt_token_parse(&none, copy, cases[i].len, &token);
		free(copy);
	}
	ok(wrong == 0, "none of these texts is a token under a list without their prefixes");
}

/* The tokens that are found, as offset and length, in a text given in pieces. */
static const char *
found_in(const AmtPrefixes *list, const char *a, const char *b, const char *c, const char *d)
{
	static char result[256];
	char		text[1024];
	char	   *copy;
	size_t		len;
	size_t		at;
	size_t		found_len;

	result[0] = '\0';
	len = snprintf(text, sizeof(text), "%s%s%s%s", a, b, c, d);
	copy = exact_copy(text, len);
	for (at = amt_token_find(list, copy, len, 0, &found_len); at < len;
		 at = amt_token_find(list, copy, len, at + 1, &found_len))
		snprintf(result + strlen(result), sizeof(result) - strlen(result), "%zu+%zu ", at, found_len);
	free(copy);
	return found_len == 0 ? result : "a length without a token";
}

static void
test_find(void)
{
	const char *a = known[2];
	const char *b = known[3];
	char		broken[AMT_LEN + 1];
	char		text[100];
	size_t		n;

	is_text(found_in(&amt, "", "", "", ""), "", "no token is found in an empty text");
	is_text(found_in(&amt, a, "", "", ""), "0+66 ", "a token that is the whole text is found");
	is_text(found_in(&amt, "x ", a, " y", ""), "2+66 ", "a token in the middle is found");
	is_text(found_in(&amt, "{\"t\":\"", a, "\",\"u\":\"", b), "6+66 79+66 ", "two tokens are found");
	is_text(found_in(&amt, a, b, a, ""), "0+66 66+66 132+66 ", "tokens with nothing between them are found");
	is_text(found_in(&amt, "word", a, "word", ""), "4+66 ", "a token is found whatever its neighbours are");
	is_text(found_in(&amt, "amt_", a, "", ""), "4+66 ", "a token behind another prefix is found");
	is_text(found_in(&amt, "amt_abcdefghijkl_", a, "", ""), "17+66 ", "a token in another's secret is found");
	is_text(found_in(&amt, "amt_abc123_xyz789abcdefghij ", a, "", ""), "28+66 ", "a token behind one made elsewhere is found");
	is_text(found_in(&amt, "____amt_____a_amt", a, "_", ""), "17+66 ", "a token among underscores is found");
	strcpy(broken, a);
	broken[20] = broken[20] == 'x' ? 'y' : 'x';
	is_text(found_in(&amt, broken, broken, "", ""), "", "a token with a wrong checksum is not found");
	is_text(found_in(&amt, broken, a, broken, b), "66+66 198+66 ", "tokens between wrong ones are found");
	broken[AMT_LEN - 1] = '\0';
	is_text(found_in(&amt, "", broken, "", ""), "", "a wrong token that was cut is not found");
	memcpy(broken, a, AMT_LEN - 1);
	is_text(found_in(&amt, "", broken, "", ""), "", "a token without its last character is not found");

	snprintf(text, sizeof(text), "..%s", a);
	ok(amt_token_find(&amt, text, 68, 2, &n) == 2 && n == 66, "a token is found from its beginning on");
	ok(amt_token_find(&amt, text, 68, 3, &n) == 68 && n == 0, "a token is not found from behind its beginning");
	ok(amt_token_find(&amt, text, 68, 68, &n) == 68 && n == 0, "nothing is found from the end on");
	ok(amt_token_find(&amt, text, 68, 69, &n) == 68 && n == 0 && amt_token_find(&amt, text, 68, SIZE_MAX, &n) == 68 && n == 0,
	   "nothing is found from behind the end on");
	memcpy(text, "\0\0", 2);
	ok(amt_token_find(&amt, text, 68, 0, &n) == 2 && n == 66, "a token behind NUL is found");
}

static void
test_find_with_prefixes(void)
{
	AmtPrefixes none = prefixes("");
	AmtPrefixes xamt = prefixes("xamt");
	AmtPrefixes am_amt = prefixes("am amt");

	/* The CRC-32 of hciybfxe is 0: in front of a text it does not change the text's. */
	AmtPrefixes same = prefixes("amt hciybfxeamt");
	AmtPrefixes same_backwards = prefixes("hciybfxeamt amt");
	const char *a = known[2];
	char		text[AMT_TOKEN_MAX + 2];
	size_t		n;
	size_t		from;
	int			wrong = 0;

	is_text(found_in(&none, a, AM, XAMT, ""), "", "with an empty list no token is found");
	is_text(found_in(&alike, a, AM, XAMT, A1), "0+66 66+65 131+67 198+65 ", "tokens with all prefixes of the list are found");
	is_text(found_in(&alike, "_", LONGEST, "_", LONGEST), "1+79 81+79 ", "a token with the longest prefix is found");
	is_text(found_in(&amt, a, AM, XAMT, A1), "0+66 ", "a token with a prefix that is not listed is not found");
	is_text(found_in(&amt, "x", a, " ", ""), "1+66 ", "a token is found behind a letter");
	is_text(found_in(&alike, "x", a, " ", ""), "1+66 ", "a token is found behind a letter with which its prefix is another");
	is_text(found_in(&xamt, "x", a, " ", ""), "", "a token whose checksum was made for another prefix is not found");
	is_text(found_in(&xamt, "amt", XAMT, " ", ""), "3+67 ", "a longer prefix is found behind a shorter one");
	is_text(found_in(&am_amt, "am", AM, "", ""), "2+65 ", "a prefix is found behind itself");
	is_text(found_in(&am_amt, "am", a, "", ""), "2+66 ", "a prefix is found behind another one that it begins with");
	is_text(found_in(&alike, "am_amt_xamt_", AM, "_amt_", "am"), "12+65 ", "a token among prefixes is found");

	is_text(found_in(&same, "hciybfxe", a, "", ""), "0+74 8+66 ", "of two tokens that end at the same place the longest is found first");
	is_text(found_in(&same_backwards, "hciybfxe", a, "", ""), "0+74 8+66 ", "the order of the list does not change which of two tokens is found first");
	is_text(found_in(&amt, "hciybfxe", a, "", ""), "8+66 ", "a longer prefix that is not listed does not count");
	is_text(found_in(&alike, &A1[1], a, "", ""), "64+66 ", "a token without the first character of its prefix is not found");

	/* "from" cuts a longer prefix, and what is left of it may be a shorter one. */
	snprintf(text, sizeof(text), "hciybfxe%s", a);
	for (from = 0; from <= 75; from++)
	{
		size_t		at = amt_token_find(&same, text, 74, from, &n);

		if (from == 0)
			wrong += at != 0 || n != 74;
		else if (from <= 8)
			wrong += at != 8 || n != 66;
		else
			wrong += at != 74 || n != 0;
	}
	ok(wrong == 0, "no token that begins before \"from\" is found");
}

/* A megabyte made of a piece over and over, searched for all tokens. */
static void
test_find_is_linear(const AmtPrefixes *list, const char *piece, int expected)
{
	const size_t len = 1 << 20;
	const size_t piece_len = strlen(piece);
	char	   *text = malloc(len);
	double		start;
	size_t		at;
	size_t		found_len;
	int			found = 0;

	if (text == NULL)
		abort();
	for (at = 0; at < len; at++)
		text[at] = piece[at % piece_len];
	start = cpu_seconds();
	for (at = amt_token_find(list, text, len, 0, &found_len); at < len;
		 at = amt_token_find(list, text, len, at + 1, &found_len))
		found++;
	note("%.1f ms", 1000 * (cpu_seconds() - start));
	/* Generous, for valgrind; what is not linear takes minutes. */
	ok(found == expected && cpu_seconds() - start < 2, "%d tokens are found in a megabyte of %.30s in no time", expected, piece);
	free(text);
}

/* A full list, half of which ends wherever the longest name does. */
static AmtPrefixes
make_worst_list(void)
{
	AmtPrefixes list = {0};
	char		name[] = "aaaaaaaaaaaaaaaa";
	size_t		i;

	for (i = AMT_PREFIX_MIN; i <= AMT_PREFIX_MAX; i++)
		(void) amt_prefixes_add(&list, name, i);
	for (i = 0; list.n < AMT_PREFIXES_MAX; i++)
	{
		name[0] = 'b' + (char) i;
		if (!amt_prefixes_add(&list, name, AMT_PREFIX_MAX))
			abort();
	}
	return list;
}

int
main(void)
{
	AmtPrefixes worst = make_worst_list();

	amt = prefixes("amt");
	alike = prefixes("amt xamt am a1 abcdefghijklmno9");

	test_checksum();
	test_prefix_is_valid();
	test_prefixes_add();
	test_find_last();
	test_generate();
	test_generate_with_prefixes();
	test_bias();
	test_bad_sources();
	test_stack();
	test_many();
	test_check();
	test_check_with_prefixes();
	test_is_id();
	test_has_prefix();
	test_parse();
	test_find();
	test_find_with_prefixes();
	test_find_is_linear(&amt, "amt_", 0);
	test_find_is_linear(&amt, "_", 0);
	test_find_is_linear(&amt, "a", 0);
	test_find_is_linear(&amt, "amt_abcdefghijkl_", 0);
	test_find_is_linear(&amt, "amt_" SIXTY "abcd", 0);
	test_find_is_linear(&amt, "amt_abcdefghijkl_" TEN TEN TEN TEN "abcdefghi", 0);
	test_find_is_linear(&amt, known[2], (1 << 20) / AMT_LEN);
	test_find_is_linear(&worst, "a", 0);
	test_find_is_linear(&worst, "aa_", 0);
	test_find_is_linear(&worst, "_", 0);
	test_find_is_linear(&worst, "aaaaaaaaaaaaaaaa_abcdefghijkl_", 0);
	test_find_is_linear(&worst, "aaaaaaaaaaaaaaaa_abcdefghijkl_" TEN TEN TEN TEN "abcdefghi", 0);
	test_find_is_linear(&alike, AM A1, (1 << 20) / 130 * 2 + ((1 << 20) % 130 >= 65));
	return done_testing();
}
