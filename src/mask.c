/*
 * mask.c
 *	  Secrets of tokens in a text, such as a log entry, replaced.
 *
 * What remains is amt_<id>_[redacted], so that the entry still tells which
 * key.  The checksum is of no use here: a token with a typing mistake, one
 * made elsewhere and one cut short must not be seen either.  So this goes by
 * shape, and where the shape leaves a doubt, it masks.
 *
 * The text is a sequence of runs of secret characters (0-9A-Za-z_-) and of
 * what lies between them.  A secret reaches to the end of its run, however
 * long that is, so every question is one about a single run and its
 * neighbours, each run is looked at once, and a masked run ("[" ends it right
 * after the "_") never looks like a secret again.
 *
 * Runs are short of a secret in two ways.  PostgreSQL cuts parameters at
 * log_parameter_max_length and writes "...", and cuts the head of a line in
 * the context of a JSON error and puts "..." before it.  And they may be names
 * of our own: amt_key_usage and amt_create_key have the shape of a short
 * token.  Names of 16 characters after amt_<word>_ are taken for secrets.
 */
#include "mask.h"

#include <string.h>

#include "ascii.h"
#include "token.h"

#define CUT			"..."
#define CUT_LEN		3

/* Where the masked text goes: as much as fits is written, all is counted. */
typedef struct Sink
{
	char	   *out;
	size_t		size;
	size_t		len;
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

/* Does it look random, rather than like a name in lower case? */
static bool
looks_random(const char *s, const char *end)
{
	for (; s < end; s++)
	{
		if ((*s >= '0' && *s <= '9') || (*s >= 'A' && *s <= 'Z') || *s == '-')
			return true;
	}
	return false;
}

/*
 * Given a place in a run and where the run and the text end: if a token starts
 * here, where its secret does, or what is left of it.  NULL if none does.
 *
 * The secret may be empty, as it is after masking.
 */
static const char *
secret_at(const char *p, const char *run_end, const char *text_end)
{
	const char *id = p + AMT_TOKEN_HEAD_LEN;
	const char *secret;
	size_t		id_len = 0;
	size_t		len;

	if (run_end - p <= AMT_TOKEN_HEAD_LEN || memcmp(p, AMT_TOKEN_HEAD, AMT_TOKEN_HEAD_LEN) != 0)
		return NULL;
	while (id + id_len < run_end && amt_is_base62(id[id_len]))
		id_len++;
	if (id_len < 1 || id_len > AMT_ID_MAX || id + id_len == run_end || id[id_len] != '_')
		return NULL;

	secret = id + id_len + 1;
	len = run_end - secret;
	if (len == 0 || len >= AMT_SECRET_MIN || id_len == AMT_ID_LEN ||
		starts_with_cut(run_end, text_end) ||
		(run_end == text_end && looks_random(id, run_end)))
		return secret;
	return NULL;
}

/*
 * Where to start masking in a run: the first secret, since the rest of the run
 * goes with it.  The end of the run if there is nothing to mask.
 *
 * An id ends before the '_' of the next head, so that all ids of a run together
 * are not longer than the run, and this is linear.
 */
static const char *
find_masked(const char *start, const char *run, const char *run_end, const char *text_end)
{
	const char *secret = secret_at(run, run_end, text_end);
	const char *p;

	/* Behind a cut all is secret, unless the cut spared the whole token. */
	if (secret == NULL && run_end - run >= AMT_SECRET_MIN &&
		run - start >= CUT_LEN && starts_with_cut(run - CUT_LEN, run))
		return run;

	for (p = run + 1; secret == NULL && p < run_end; p++)
		secret = secret_at(p, run_end, text_end);
	return secret != NULL ? secret : run_end;
}

size_t
amt_mask(const char *s, size_t len, char *out, size_t out_size, bool *found)
{
	Sink		sink = {out, out != NULL && out_size > 0 ? out_size - 1 : 0, 0};
	const char *text_end = s + len;
	const char *copied = s;		/* how far the text has been dealt with */
	const char *p = s;

	*found = false;
	while (p < text_end)
	{
		const char *run = p;
		const char *masked;

		while (p < text_end && amt_is_secret_char(*p))
			p++;
		masked = find_masked(s, run, p, text_end);
		if (masked < p)
		{
			put(&sink, copied, masked - copied);
			put(&sink, AMT_MASK, sizeof(AMT_MASK) - 1);
			copied = p;
			*found = true;
		}
		if (p < text_end)
			p++;				/* what ended the run */
	}
	put(&sink, copied, text_end - copied);
	if (out != NULL && out_size > 0)
		out[sink.len < sink.size ? sink.len : sink.size] = '\0';
	return sink.len;
}
