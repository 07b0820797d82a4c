/*
 * mask.c
 *	  Tests of src/mask.c.
 */
#include "mask.h"

#include "prefixes.h"
#include "tap.h"

#define COUNT(array)	(sizeof(array) / sizeof(array[0]))

#define TEN		"aB3dEfGh1j"
#define SIXTEEN	"xyz789abcdefghij"
#define SIXTY	TEN TEN TEN TEN TEN TEN
#define ID12	"abc123DEF456"
#define WRITTEN	"aB3dEfGh1jaB3dEfGh1jaB3dEfGh1jaB3dEfGh1jaB3dEfGh1"

/* Masked, into a text to be freed; NULL if the answers contradict each other. */
static char *
mask(const AmtPrefixes *list, const char *text, size_t len, size_t *masked_len, bool *found)
{
	char	   *copy = exact_copy(text, len);
	size_t		needed = amt_mask(list, copy, len, NULL, 0, found);
	char	   *out = malloc(needed + 1);
	bool		again;

	if (out == NULL)
		abort();
	memset(out, 'x', needed + 1);
	*masked_len = amt_mask(list, copy, len, out, needed + 1, &again);
	free(copy);
	if (*masked_len != needed || *found != again || out[needed] != '\0')
	{
		free(out);
		return NULL;
	}
	return out;
}

/* Does masking under the list make one text of the other, and change it once only? */
static bool
masks_to(const AmtPrefixes *list, const char *text, size_t len, const char *expected, size_t expected_len)
{
	size_t		masked_len;
	bool		found;
	char	   *masked = mask(list, text, len, &masked_len, &found);
	size_t		twice_len;
	bool		twice_found;
	char	   *twice;
	bool		right;

	if (masked == NULL)
		return false;
	right = masked_len == expected_len && memcmp(masked, expected, expected_len) == 0 &&
		found == (len != expected_len || memcmp(text, expected, len) != 0);
	if (!right)
		note("got: %s", masked);
	twice = mask(list, masked, masked_len, &twice_len, &twice_found);
	if (twice == NULL || twice_found || twice_len != masked_len || memcmp(twice, masked, masked_len) != 0)
	{
		note("masked again: %s", twice);
		right = false;
	}
	free(twice);
	free(masked);
	return right;
}

/* A text with another name in the place of each amt_; to be freed. */
static char *
replace_prefix(const char *text, size_t len, const char *name, size_t *out_len)
{
	char	   *out = malloc(len * 5 + 1);
	size_t		i;

	if (out == NULL)
		abort();
	*out_len = 0;
	for (i = 0; i < len; i++)
	{
		if (len - i >= 4 && memcmp(text + i, "amt_", 4) == 0)
		{
			memcpy(out + *out_len, name, strlen(name));
			*out_len += strlen(name);
			i += 2;
		}
		else
			out[(*out_len)++] = text[i];
	}
	return out;
}

/* With amt as the only prefix, as one of several, and with the others. */
static void
test_mask(const char *text, size_t len, const char *expected, size_t expected_len)
{
	static const char *const names[] = {"amt", "k9", "abcdefghijklmno9"};
	AmtPrefixes amt = prefixes("amt");
	AmtPrefixes several = prefixes("other abcdefghijklmno9 am amt k9");
	bool		right = masks_to(&amt, text, len, expected, expected_len);
	size_t		i;

	for (i = 0; i < COUNT(names); i++)
	{
		size_t		n;
		size_t		m;
		char	   *a = replace_prefix(text, len, names[i], &n);
		char	   *b = replace_prefix(expected, expected_len, names[i], &m);

		right = masks_to(&several, a, n, b, m) && right;
		free(a);
		free(b);
	}
	ok(right, expected == text ? "with each prefix, nothing is masked in \"%.100s\"" :
	   "with each prefix, the secret is masked in \"%.100s\"", text);
}

#define MASKED(text, expected)	test_mask(text, sizeof(text) - 1, expected, sizeof(expected) - 1)

static void
alone(const char *text)
{
	test_mask(text, strlen(text), text, strlen(text));
}

static void
test_tokens(void)
{
	MASKED("amt_" ID12 "_aB3dEfGh1jaB3dEfGh1jaB3dEfGh1jaB3dEfGh1jaB3dEfGh1", "amt_" ID12 "_[redacted]");
	MASKED("amt_abc123_" SIXTEEN, "amt_abc123_[redacted]");
	MASKED("key amt_abc123_" SIXTEEN " was used", "key amt_abc123_[redacted] was used");
	MASKED("amt_abc123_" SIXTEEN "amt_abc123_" SIXTEEN, "amt_abc123_[redacted]");
	MASKED("amt_a_" SIXTEEN ",amt_b_" SIXTEEN "\n\tamt_c_" SIXTEEN, "amt_a_[redacted],amt_b_[redacted]\n\tamt_c_[redacted]");
	MASKED("$1 = 'amt_abc123_" SIXTEEN "', $2 = 't'", "$1 = 'amt_abc123_[redacted]', $2 = 't'");
	MASKED("{\"authorization\":\"Bearer amt_abc123_" SIXTEEN "\",\"x\":1}", "{\"authorization\":\"Bearer amt_abc123_[redacted]\",\"x\":1}");
	MASKED("{\\\"x-api-key\\\":\\\"amt_abc123_" SIXTEEN "\\\"}", "{\\\"x-api-key\\\":\\\"amt_abc123_[redacted]\\\"}");
	MASKED("prefix_amt_abc123_" SIXTEEN, "prefix_amt_abc123_[redacted]");
	MASKED("camt_abc123_" SIXTEEN, "camt_abc123_[redacted]");
	MASKED("amt_amt_abc123_" SIXTEEN, "amt_amt_[redacted]");
	MASKED("amt__amt_abc123_" SIXTEEN, "amt__amt_abc123_[redacted]");
	MASKED("\303\244amt_abc123_" SIXTEEN "\303\244", "\303\244amt_abc123_[redacted]\303\244");
	MASKED("\0amt_abc123_" SIXTEEN "\0x", "\0amt_abc123_[redacted]\0x");
	MASKED("amt_abc123_" SIXTEEN "\0" SIXTEEN, "amt_abc123_[redacted]\0" SIXTEEN);

	/* Secrets of every kind that amt_token_parse() takes, and longer ones. */
	MASKED("amt_a_________________", "amt_a_[redacted]");
	MASKED("amt_a_----------------", "amt_a_[redacted]");
	MASKED("amt_a_aaaaaaaaaaaaaaaa", "amt_a_[redacted]");
	MASKED("amt_abc_correct_horse_battery_staple", "amt_abc_[redacted]");
	MASKED("amt_" SIXTY "abcd_" SIXTEEN, "amt_" SIXTY "abcd_[redacted]");
	MASKED("amt_a_" SIXTY SIXTY SIXTY SIXTY SIXTY " x", "amt_a_[redacted] x");
}

static void
test_no_tokens(void)
{
	alone("");
	alone("connection authorized: user=app database=app");
	alone("amt_");
	alone("amt__");
	alone("amt_abc123");
	alone("amt_abc123_");
	alone("amt_abc123...");
	alone("amt_" ID12 "...");
	alone("amt_abc123_ " SIXTEEN);
	alone("amt_abc123_.");
	alone("amt__" SIXTEEN);
	alone("amt_" SIXTEEN "-" SIXTEEN);
	alone("amt_abc-123_" SIXTEEN);
	alone("AMT_abc123_" SIXTEEN);
	alone("amt-abc123-" SIXTEEN);
	alone("amt_" SIXTY "abcde_" SIXTEEN);
	alone("amt_abc123_[redacted]");
	alone("the secret is eyJhbGciOiJIUzI1NiIsInR5cCI6IkpXVCJ9");
}

/* What this extension calls its things must be readable in a log. */
static void
test_own_names(void)
{
	static const char *const names[] = {
		"amt_keys", "amt_key", "amt_key_usage", "amt_key_event", "amt_new_key",
		"amt_key_pkey", "amt_key_usage_pkey", "amt_key_event_pkey",
		"amt_create_key", "amt_revoke", "amt_verify", "amt_authenticate", "amt_check_token",
		"amt_find_tokens", "amt_org_id", "amt_role", "amt_actor", "amt_key_id", "amt_has_role",
		"amt_require_role", "amt_whoami", "amt_stat", "amt_stat_reset", "amt_flush_usage",
		"amt_cache_clear", "amt_keys.redact_logs", "amt_keys.max_concurrent_scrypt",
		"amt_keys.usage_flush_interval", "amt_keys.require_authentication",
		"auth.amt_key_usage", "\"amt_key_event\"", "libamt_keys.so"
	};
	size_t		i;

	for (i = 0; i < COUNT(names); i++)
	{
		char		text[200];

		alone(names[i]);
		snprintf(text, sizeof(text), "permission denied for %s (%s)", names[i], names[i]);
		alone(text);
	}

	/* Said in mask.c: there is a limit to what can be told from a secret. */
	alone("amt_orders_fifteen_letters ");
	MASKED("amt_orders_sixteen__letters ", "amt_orders_[redacted] ");
}

static void
test_cut(void)
{
	/* The end is missing, and PostgreSQL says so. */
	MASKED("$1 = 'amt_" ID12 "_x...'", "$1 = 'amt_" ID12 "_[redacted]...'");
	MASKED("$1 = 'amt_abc123_xyz...'", "$1 = 'amt_abc123_[redacted]...'");
	MASKED("$1 = 'amt_abc_xyz...'", "$1 = 'amt_abc_[redacted]...'");
	MASKED("amt_abc_-...", "amt_abc_[redacted]...");
	alone("$1 = 'amt_abc123_...'");
	alone("$1 = 'amt_abc...'");
	alone("amt_abc_xyz..");
	alone("amt_abc_xyz. ..");

	/* It is missing, and nothing says so. */
	MASKED("amt_abc123_x", "amt_abc123_[redacted]");
	MASKED("amt_Abc_x", "amt_Abc_[redacted]");
	MASKED("amt_abc_X", "amt_abc_[redacted]");
	MASKED("amt_abc_5", "amt_abc_[redacted]");
	MASKED("amt_abc_-", "amt_abc_[redacted]");
	alone("amt_abc_xyz");
	alone("amt_abc123_x ");

	/* Twelve characters are an id of ours, whatever follows it. */
	MASKED("amt_" ID12 "_x y", "amt_" ID12 "_[redacted] y");
	MASKED("amt_abcdefghijkl_x y", "amt_abcdefghijkl_[redacted] y");
	alone("amt_abcdefghijk_x y");
	alone("amt_abcdefghijklm_x y");

	/* The beginning is missing. */
	MASKED("JSON data, line 1: ...xyz789abcdefghij\"", "JSON data, line 1: ...[redacted]\"");
	MASKED("...bc123_" SIXTEEN "...", "...[redacted]...");
	MASKED("...mt_abc123_" SIXTEEN " x", "...[redacted] x");
	MASKED("...xamt_abc123_" SIXTEEN, "...[redacted]");
	MASKED("....." SIXTEEN " x", ".....[redacted] x");
	MASKED(SIXTEEN "..." SIXTEEN, SIXTEEN "...[redacted]");
	MASKED("...amt_" SIXTY "abcde_" SIXTEEN, "...[redacted]");
	MASKED("...amt_" SIXTY "abcde_amt_a_" SIXTEEN, "...[redacted]");
	MASKED("...xyz789abcdefghi\"", "...[redacted]\"");
	MASKED("...9abcde\"", "...[redacted]\"");
	MASKED("...abcdefghijkl\"", "...[redacted]\"");
	alone("...9abcd\"");
	alone("...abcdefghijk\"");
	/* As the XML parser quotes: without a sign, and with a line below. */
	MASKED("line 1: error\n" SIXTEEN "</a>\n   ^", "line 1: error\n[redacted]</a>\n   ^");
	MASKED("9abcde<b>\n      ^\nmore", "[redacted]<b>\n      ^\nmore");
	MASKED("<a>&b; amt_abc_xyz\n      ^", "<a>&b; amt_abc_[redacted]\n      ^");
	MASKED("amt_abc_xyz\n^\nmore", "amt_abc_[redacted]\n^\nmore");
	MASKED("<a>\t&b; amt_abc_xyz\n   \t  ^", "<a>\t&b; amt_abc_[redacted]\n   \t  ^");
	MASKED("9abcde\t<b>\n  \t  ^", "[redacted]\t<b>\n  \t  ^");
	alone("<a>&b; amt_abc_xyz\n      x^");
	alone("<a>&b; amt_abc_xyz\n\n   ^");
	alone("line 1: error\n" SIXTEEN "</a>\n   x^");
	alone("line 1: error\n" SIXTEEN "</a>\n   ^x");
	alone("line 1: error\nx " SIXTEEN "</a>\n   ^");
	alone(SIXTEEN "\n");
	alone(SIXTEEN "\n   ");
	alone(".." SIXTEEN);
	alone("... " SIXTEEN);
	alone(SIXTEEN "...");

	/* The beginning just not. */
	MASKED("...amt_abc123_" SIXTEEN, "...amt_abc123_[redacted]");
	MASKED("...amt_" ID12 "_" SIXTEEN " x", "...amt_" ID12 "_[redacted] x");
	MASKED("...amt_" ID12 "789_" SIXTEEN, "...amt_" ID12 "789_[redacted]");
	alone("...amt_" ID12 "_[redacted]");
	alone("...amt_" ID12 "789_[redacted]");

	/* Both. */
	MASKED("amt_abc123_xyz..." SIXTEEN, "amt_abc123_[redacted]...[redacted]");
	MASKED("amt_abc123_xyz...amt_abc123_xyz...", "amt_abc123_[redacted]...amt_abc123_[redacted]...");
}

/* However much of a text with a token a limit leaves, no more of the secret. */
static void
test_cut_anywhere(const char *name)
{
	AmtPrefixes list = prefixes("amt k9 abcdefghijklmno9");
	char		text[200];
	size_t		secret;
	size_t		cut;
	int			wrong = 0;

	secret = snprintf(text, sizeof(text), "$1 = '%s_" ID12 "_", name);
	strcat(text, TEN TEN TEN TEN "aB3dEfGh1', $2 = 'x'");
	for (cut = 0; cut <= strlen(text); cut++)
	{
		char		shortened[sizeof(text) + 3];
		int			dots;

		for (dots = 0; dots <= 3; dots += 3)
		{
			size_t		masked_len;
			bool		found;
			char	   *masked;

			snprintf(shortened, sizeof(shortened), "%.*s%.*s", (int) cut, text, dots, "...");
			masked = mask(&list, shortened, strlen(shortened), &masked_len, &found);
			if (masked == NULL || found != (cut > secret) || strstr(masked, "_aB") != NULL)
				wrong++;
			free(masked);
		}
	}
	ok(wrong == 0, "a text with the prefix %s cut anywhere shows nothing of the secret", name);
}

static void
is_masked(const char *names, const char *text, const char *expected, const char *description)
{
	AmtPrefixes list = prefixes(names);

	ok(masks_to(&list, text, strlen(text), expected, strlen(expected)), "%s", description);
}

static void
test_prefixes(void)
{
	static const char *const texts[] = {
		"amt_abc123_" SIXTEEN, "camt_abc123_" SIXTEEN, "amt_" ID12 "_x y", "$1 = 'amt_abc123_xyz...'",
		"amt_abc123_x", "a amt_a_" SIXTEEN ",amt_b_" SIXTEEN
	};
	AmtPrefixes none = prefixes("");
	AmtPrefixes others = prefixes("am mt xamt amt1 a1");
	AmtPrefixes full = prefixes("p0 p1 p2 p3 p4 p5 p6 p7 p8 p9 q0 q1 q2 q3 q4 q5 q6 q7 q8 q9 r0 r1 r2 r3 r4 r5 r6 r7 r8 r9 s1 s2");
	bool		right = true;
	size_t		i;

	for (i = 0; i < COUNT(texts); i++)
		right = masks_to(&none, texts[i], strlen(texts[i]), texts[i], strlen(texts[i])) && right;
	right = masks_to(&none, "..." SIXTEEN, 19, "..." SIXTEEN, 19) && right;
	ok(right, "with an empty list nothing is masked");

	is_masked("am xamt amt1", "amt_abc123_" SIXTEEN, "amt_abc123_" SIXTEEN,
			  "a prefix that is not listed is left alone, although listed ones resemble it");
	ok(!masks_to(&others, "amt_abc123_" SIXTEEN, strlen("amt_abc123_" SIXTEEN), "amt_abc123_" SIXTEEN, strlen("amt_abc123_" SIXTEEN)),
	   "a listed prefix is masked also behind another letter");
	is_masked("am amt xamt", "am_a_" SIXTEEN " amt_b_" SIXTEEN " xamt_c_" SIXTEEN " yam_d_" SIXTEEN,
			  "am_a_[redacted] amt_b_[redacted] xamt_c_[redacted] yam_d_[redacted]",
			  "prefixes that begin or end like one another are all masked");
	is_masked("xamt am amt", "am_xamt_" SIXTEEN, "am_xamt_[redacted]", "a prefix may be another token's id");
	is_masked("am amt", "amt__am_" ID12 "_x y", "amt__am_" ID12 "_[redacted] y", "a prefix behind one without an id is recognised");
	is_masked("am", "amt_a_b_am_" SIXTEEN "_" SIXTEEN, "amt_a_b_am_" SIXTEEN "_[redacted]",
			  "a prefix behind one that is not listed is recognised");
	is_masked("am amt", "-am_a_" SIXTEEN " -amt_a_" SIXTEEN, "-am_a_[redacted] -amt_a_[redacted]", "a prefix behind a dash is recognised");

	is_masked("amt", "...xamt_abc123_" SIXTEEN, "...[redacted]", "behind a cut all is masked if the prefix is not the whole word");
	is_masked("xamt amt", "...xamt_abc123_" SIXTEEN, "...xamt_abc123_[redacted]", "behind a cut a listed prefix is spared");
	is_masked("xamt amt", "...yxamt_abc123_" SIXTEEN, "...[redacted]", "behind a cut the whole word must be a listed prefix");
	is_masked("abcdefghijklmno9", "...abcdefghijklmno9_abc", "...[redacted]", "behind a cut a prefix without a secret is taken for one");

	/* Not listed, but of the shape that we write, or cut. */
	is_masked("amt", "acmekey_" ID12 "_" WRITTEN " x", "acmekey_" ID12 "_[redacted] x", "a token that we could have written is masked with any prefix");
	is_masked("amt", "x_acmekey_" ID12 "_" WRITTEN SIXTY, "x_acmekey_" ID12 "_[redacted]", "a longer one is masked with any prefix, too");
	is_masked("amt", "acmekey_" ID12 "_aB3", "acmekey_" ID12 "_[redacted]", "with any prefix, one that the end of the text cuts is masked");
	is_masked("amt", "acmekey_" ID12 "_aB3... x", "acmekey_" ID12 "_[redacted]... x", "with any prefix, one that is cut is masked");
	is_masked("amt", "acmekey_" ID12 "_" SIXTEEN " x", "acmekey_" ID12 "_" SIXTEEN " x", "with another prefix, a secret of another length is left alone");
	is_masked("amt", "acmekey_abc123_" WRITTEN " x", "acmekey_abc123_" WRITTEN " x", "with another prefix, an id of another length is left alone");
	is_masked("amt", "Key_" ID12 "_" WRITTEN " KEY_" ID12 "_" WRITTEN, "Key_" ID12 "_[redacted] KEY_" ID12 "_" WRITTEN, "what cannot end in a prefix is left alone");
	is_masked("amt", "my_long_name_of_a_function_that_nobody_has_ever_seen_before_this_one", "my_long_name_of_a_function_that_nobody_has_ever_seen_before_this_one", "a long name is left alone");

	right = true;
	for (i = 0; i < AMT_PREFIXES_MAX; i++)
	{
		char		text[100];
		char		expected[100];

		snprintf(text, sizeof(text), "%s_abc_" SIXTEEN " ", full.prefix[i].name);
		snprintf(expected, sizeof(expected), "%s_abc_[redacted] ", full.prefix[i].name);
		right = masks_to(&full, text, strlen(text), expected, strlen(expected)) && right;
	}
	ok(right, "every prefix of a full list is masked");
}

/* As snprintf(): what fits, a NUL, the whole length. */
static void
test_sizes(void)
{
	static const char text[] = "a amt_abc123_" SIXTEEN " b amt_" ID12 "_x... c";
	static const char expected[] = "a amt_abc123_[redacted] b amt_" ID12 "_[redacted]... c";
	const size_t len = strlen(expected);
	AmtPrefixes amt = prefixes("amt");
	size_t		size;
	int			wrong = 0;

	for (size = 0; size <= len + 2; size++)
	{
		char	   *out = malloc(size + 1);
		bool		found = false;

		if (out == NULL)
			abort();
		memset(out, '#', size + 1);
		if (amt_mask(&amt, text, strlen(text), out, size, &found) != len || !found || out[size] != '#')
			wrong++;
		if (size > 0)
		{
			size_t		written = size > len ? len : size - 1;

			if (memcmp(out, expected, written) != 0 || out[written] != '\0')
				wrong++;
		}
		free(out);
	}
	ok(wrong == 0, "a buffer of any size is filled and not overrun");
}

/* Some megabytes made of a piece over and over, with every prefix that could fit. */
static void
test_linear(const char *piece)
{
	const size_t len = 4 << 20;
	const size_t piece_len = strlen(piece);
	AmtPrefixes list = prefixes("amt");
	char	   *text = malloc(len);
	char		name[] = "aaaaaaaaaaaaaaaa";
	double		start;
	size_t		at;
	bool		found;

	if (text == NULL)
		abort();
	for (at = AMT_PREFIX_MIN; at <= AMT_PREFIX_MAX; at++)
		(void) amt_prefixes_add(&list, name, at);
	for (name[0] = 'b'; list.n < AMT_PREFIXES_MAX; name[0]++)
		(void) amt_prefixes_add(&list, name, AMT_PREFIX_MAX);
	for (at = 0; at < len; at++)
		text[at] = piece[at % piece_len];
	start = cpu_seconds();
	amt_mask(&list, text, len, NULL, 0, &found);
	note("%.1f ms", 1000 * (cpu_seconds() - start));
	/* Generous, for valgrind; what is not linear takes minutes. */
	ok(cpu_seconds() - start < 4, "4 MiB of %.20s are masked in no time", piece);
	free(text);
}

int
main(void)
{
	test_tokens();
	test_no_tokens();
	test_own_names();
	test_cut();
	test_cut_anywhere("amt");
	test_cut_anywhere("k9");
	test_cut_anywhere("abcdefghijklmno9");
	test_prefixes();
	test_sizes();
	test_linear("amt_");
	test_linear("amt_a");
	test_linear("amt__");
	test_linear("a");
	test_linear("_");
	test_linear(".");
	test_linear("...a");
	test_linear("...aa_");
	test_linear("amta");
	test_linear("aaaaaaaaaaaaaaaa_");
	test_linear("a_");
	test_linear("aaa_-");
	test_linear("amt_" SIXTY "abcd");
	test_linear("amt_" SIXTY "abcde_");
	test_linear("amt_a_x ");
	test_linear("amt_a_" SIXTEEN " ");
	return done_testing();
}
