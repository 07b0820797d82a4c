/*
 * mask.c
 *	  Tests of src/mask.c.
 */
#include "mask.h"

#include "tap.h"

static const AmtPrefixes amt = {1, {{3, "amt"}}};

#define COUNT(array)	(sizeof(array) / sizeof(array[0]))

#define TEN		"aB3dEfGh1j"
#define SIXTEEN	"xyz789abcdefghij"
#define SIXTY	TEN TEN TEN TEN TEN TEN
#define ID12	"abc123DEF456"

/* Masked, into a text to be freed; NULL if the answers contradict each other. */
static char *
mask(const char *text, size_t len, size_t *masked_len, bool *found)
{
	char	   *copy = exact_copy(text, len);
	size_t		needed = amt_mask(&amt, copy, len, NULL, 0, found);
	char	   *out = malloc(needed + 1);
	bool		again;

	if (out == NULL)
		abort();
	memset(out, 'x', needed + 1);
	*masked_len = amt_mask(&amt, copy, len, out, needed + 1, &again);
	free(copy);
	if (*masked_len != needed || *found != again || out[needed] != '\0')
	{
		free(out);
		return NULL;
	}
	return out;
}

static void
test_mask(const char *text, size_t len, const char *expected, size_t expected_len)
{
	size_t		masked_len;
	bool		found;
	char	   *masked = mask(text, len, &masked_len, &found);
	char	   *twice;
	size_t		twice_len;
	bool		twice_found;

	if (!ok(masked != NULL && masked_len == expected_len && memcmp(masked, expected, expected_len) == 0 &&
			found == (len != expected_len || memcmp(text, expected, len) != 0),
			"%s: \"%.100s\"", expected == text ? "left alone" : "masked", text))
		note("got: %s", masked);
	if (masked == NULL)
		return;
	twice = mask(masked, masked_len, &twice_len, &twice_found);
	if (twice == NULL || twice_found || twice_len != masked_len || memcmp(twice, masked, masked_len) != 0)
		ok(false, "masking it again changes it: %s", twice);
	free(twice);
	free(masked);
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
	alone("...xyz789abcdefghi\"");
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
test_cut_anywhere(void)
{
	static const char text[] = "$1 = 'amt_" ID12 "_" TEN TEN TEN TEN "aB3dEfGh1', $2 = 'x'";
	const size_t secret = strlen("$1 = 'amt_" ID12 "_");
	size_t		cut;
	int			wrong = 0;

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
			masked = mask(shortened, strlen(shortened), &masked_len, &found);
			if (masked == NULL || found != (cut > secret) || strstr(masked, "_aB") != NULL)
				wrong++;
			free(masked);
		}
	}
	ok(wrong == 0, "a text cut anywhere shows nothing of the secret");
}

/* As snprintf(): what fits, a NUL, the whole length. */
static void
test_sizes(void)
{
	static const char text[] = "a amt_abc123_" SIXTEEN " b amt_" ID12 "_x... c";
	static const char expected[] = "a amt_abc123_[redacted] b amt_" ID12 "_[redacted]... c";
	const size_t len = strlen(expected);
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

/* Some megabytes made of a piece over and over. */
static void
test_linear(const char *piece)
{
	const size_t len = 4 << 20;
	const size_t piece_len = strlen(piece);
	char	   *text = malloc(len);
	double		start;
	size_t		at;
	bool		found;

	if (text == NULL)
		abort();
	for (at = 0; at < len; at++)
		text[at] = piece[at % piece_len];
	start = cpu_seconds();
	amt_mask(&amt, text, len, NULL, 0, &found);
	note("%.1f ms", 1000 * (cpu_seconds() - start));
	/* Generous, for valgrind; what is not linear takes minutes. */
	ok(cpu_seconds() - start < 4, "4 MiB of %.20s in no time", piece);
	free(text);
}

int
main(void)
{
	test_tokens();
	test_no_tokens();
	test_own_names();
	test_cut();
	test_cut_anywhere();
	test_sizes();
	test_linear("amt_");
	test_linear("amt_a");
	test_linear("amt__");
	test_linear("a");
	test_linear("_");
	test_linear(".");
	test_linear("...a");
	test_linear("amta");
	test_linear("amt_" SIXTY "abcd");
	test_linear("amt_" SIXTY "abcde_");
	test_linear("amt_a_x ");
	test_linear("amt_a_" SIXTEEN " ");
	return done_testing();
}
