/*
 * mask.c
 *	  Masking the secrets of tokens in a text, such as a log entry.
 *
 * <prefix>_<id>_[redacted] remains, so the entry still names the key.  The
 * checksum is of no use here: we must also mask a token that was mistyped,
 * made elsewhere or cut short.  So the shape decides.  In doubt, we mask.
 *
 * The text consists of runs of secret characters (0-9A-Za-z_-), and of other
 * characters between them.  A secret reaches to the end of its run, however
 * long that is.  So each run is looked at once, together with its
 * neighbours.  A masked run ends in "_" before the "[", and does not look
 * like a secret again.
 *
 * Part of a secret may be missing.  PostgreSQL cuts parameters at
 * log_parameter_max_length and writes "..." after them.  In the context of a
 * JSON error it cuts the head of a line and writes "..." before the rest.
 * The XML parser quotes a part of a text without any mark, and writes a line
 * below that has only a "^".
 *
 * Another process may not know all prefixes: after a crash, the postmaster
 * reports the statement of a session whose role or database lists one.  So a
 * token of the shape that we write is masked with any prefix.
 *
 * A run may also be a name of our own: amt_key_usage has the shape of a
 * short token.  A name of 16 or more characters after <prefix>_<word>_ is
 * taken for a secret.
 */
#include "mask.h"

#include <string.h>

#include "ascii.h"
#include "token.h"

#define CUT			"..."
#define CUT_LEN		3

/* The output.  As much as fits is written, all is counted. */
typedef struct Sink
{
	char	   *out;
	size_t		size;			/* bytes that fit, without the NUL */
	size_t		len;			/* bytes of the whole output so far */
} Sink;

static void
put(Sink *sink, const char *s, size_t len)
{
	if (sink->len < sink->size)
	{
		size_t		room = sink->size - sink->len;

		memcpy(sink->out + sink->len, s, len < room ? len : room);
	}
	sink->len += len;
}

static bool
starts_with_cut(const char *s, const char *end)
{
	return end - s >= CUT_LEN && memcmp(s, CUT, CUT_LEN) == 0;
}

/* Is the line that begins here all blanks and tabs, and one "^"? */
static bool
is_caret_line(const char *p, const char *text_end)
{
	while (p < text_end && (*p == ' ' || *p == '\t'))
		p++;
	return p < text_end && *p == '^' && (p + 1 == text_end || p[1] == '\n');
}

/* May text be missing that followed here? */
static bool
is_cut_at(const char *p, const char *text_end)
{
	return starts_with_cut(p, text_end) ||
		(p < text_end && *p == '\n' && is_caret_line(p + 1, text_end));
}

/* Does it look random, unlike a name in lower case?  Its head is enough. */
static bool
looks_random(const char *s, const char *end)
{
	if (end - s > AMT_SECRET_LEN)
		end = s + AMT_SECRET_LEN;
	for (; s < end; s++)
	{
		if ((*s >= '0' && *s <= '9') || (*s >= 'A' && *s <= 'Z') || *s == '-')
			return true;
	}
	return false;
}

/*
 * Look for a token, given the '_' after its prefix and where the run and the
 * text end.  Returns where the secret begins, or what is left of it.
 * Returns NULL if this is no token.
 *
 * The secret may be empty, as it is after masking.  With a prefix that is not
 * listed, it must be one that we could have written, or the head of one that
 * was cut.
 */
static const char *
find_secret(const char *prefix_end, bool is_listed, const char *run_end, const char *text_end)
{
	const char *id = prefix_end + 1;
	const char *secret;
	size_t		id_len = 0;
	size_t		len;

	while (id + id_len < run_end && amt_is_base62(id[id_len]))
		id_len++;
	if (id_len < 1 || id_len > AMT_ID_MAX || id + id_len == run_end || id[id_len] != '_')
		return NULL;

	secret = id + id_len + 1;
	len = run_end - secret;
	if (!is_listed)
		return id_len == AMT_ID_LEN && looks_random(secret, run_end) &&
			(len >= AMT_SECRET_LEN || run_end == text_end || is_cut_at(run_end, text_end)) ?
			secret : NULL;
	if (len == 0 || len >= AMT_SECRET_MIN || id_len == AMT_ID_LEN ||
		is_cut_at(run_end, text_end) ||
		(run_end == text_end && looks_random(id, run_end)))
		return secret;
	return NULL;
}

/* Could a prefix end where this text does?  Two characters are enough to see. */
static bool
ends_in_prefix(const char *s, const char *end)
{
	return end - s >= AMT_PREFIX_MIN && amt_is_lower_or_digit(end[-1]) && amt_is_lower_or_digit(end[-2]);
}

/* May this be the rest of a secret after a cut? */
static bool
is_rest(const char *run, const char *run_end)
{
	return run_end - run >= 12 || (run_end - run >= 6 && looks_random(run, run_end));
}

/* Does the run begin a part of a text that the XML parser quotes? */
static bool
begins_window(const char *start, const char *run, const char *run_end, const char *text_end)
{
	const char *p;

	if (run > start && run[-1] != '\n')
		return false;
	p = memchr(run_end, '\n', text_end - run_end);
	return p != NULL && is_caret_line(p + 1, text_end);
}

/*
 * Returns where to start masking in a run; the end of the run if there is
 * nothing to mask.  The rest of the run goes with the first secret.
 *
 * We try every '_' as the end of a prefix.  Neither a prefix nor an id has a
 * '_'.  So all tries together read the run once, and this is linear.
 */
static const char *
find_masked(const AmtPrefixes *list, const char *start, const char *run, const char *run_end,
			const char *text_end)
{
	bool		cut = list->n > 0 && run - start >= CUT_LEN && starts_with_cut(run - CUT_LEN, run);
	const char *word = run;		/* after the last '_' */
	const char *p;

	/* After a cut the whole run is secret, unless it is a whole token. */
	if (is_rest(run, run_end) && (cut || begins_window(start, run, run_end, text_end)))
	{
		p = memchr(run, '_', run_end - run);
		if (p == NULL || !amt_token_has_prefix(list, run, run_end - run) ||
			find_secret(p, true, run_end, text_end) == NULL)
			return run;
	}

	while ((p = memchr(word, '_', run_end - word)) != NULL)
	{
		bool		is_listed = amt_prefixes_find_last(list, word, p - word, AMT_PREFIX_MAX + 1) != NULL;
		const char *secret = NULL;

		if (is_listed || (list->n > 0 && ends_in_prefix(word, p)))
			secret = find_secret(p, is_listed, run_end, text_end);
		if (secret != NULL)
			return secret;
		word = p + 1;
	}
	return run_end;
}

size_t
amt_mask(const AmtPrefixes *list, const char *s, size_t len, char *out, size_t out_size, bool *found)
{
	Sink		sink = {out, out != NULL && out_size > 0 ? out_size - 1 : 0, 0};
	const char *text_end = s + len;
	const char *copied = s;		/* the text before this was written */
	const char *p = s;

	*found = false;
	while (p < text_end)
	{
		const char *run = p;
		const char *masked;

		while (p < text_end && amt_is_secret_char(*p))
			p++;
		masked = find_masked(list, s, run, p, text_end);
		if (masked < p)
		{
			put(&sink, copied, masked - copied);
			put(&sink, AMT_MASK, sizeof(AMT_MASK) - 1);
			copied = p;
			*found = true;
		}
		if (p < text_end)
			p++;				/* the character that ended the run */
	}
	put(&sink, copied, text_end - copied);
	if (out != NULL && out_size > 0)
		out[sink.len < sink.size ? sink.len : sink.size] = '\0';
	return sink.len;
}
