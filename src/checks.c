/*
 * checks.c
 *	  Rules for the texts and times of a key.
 *
 * People read names in lists and logs.  So a name must show something, and
 * must not forge lines or hold a token.  In UTF-8, every character is
 * judged.  In SQL_ASCII, valid UTF-8 is judged as UTF-8, and everything else
 * byte by byte.  In other encodings only single bytes are judged.  We use no
 * conversion: the server would look it up in the search_path.
 *
 * A stored text must stay valid wherever it is restored or replicated, or one
 * text would stop all keys from arriving.  So the functions named "stored"
 * depend on no setting.  Nor do they ask what a conversion changes: which
 * characters show something is known in UTF-8 only, and one character can
 * become two.  SQL_ASCII is an exception: an organization's bytes are counted
 * there, and bytes from 0x80 to 0x9F are control characters unless the text
 * is UTF-8.  So it may refuse a text from another encoding.
 */
#include "postgres.h"

#include <limits.h>

#include "common/int.h"
#include "mb/pg_wchar.h"
#include "utils/guc.h"
#include "utils/timestamp.h"

#include "checks.h"
#include "mask.h"
#include "prefixes.h"

static int	default_lifetime = 0;
static int	max_lifetime = 0;

typedef struct CharRange
{
	pg_wchar	first;
	pg_wchar	last;
} CharRange;

/* Characters that must not be in a name. */
static const CharRange control[] = {
	{0x0000, 0x001F}, {0x007F, 0x009F}, {0x2028, 0x2029}
};

/* Characters that show nothing: spaces, joiners, directions, fillers, tags. */
static const CharRange invisible[] = {
	{0x0020, 0x0020}, {0x00A0, 0x00A0}, {0x00AD, 0x00AD}, {0x034F, 0x034F}, {0x061C, 0x061C},
	{0x115F, 0x1160}, {0x1680, 0x1680}, {0x17B4, 0x17B5}, {0x180B, 0x180F}, {0x2000, 0x200F},
	{0x202A, 0x202F}, {0x205F, 0x206F}, {0x2800, 0x2800}, {0x3000, 0x3000}, {0x3164, 0x3164},
	{0xFE00, 0xFE0F}, {0xFEFF, 0xFEFF}, {0xFFA0, 0xFFA0}, {0xFFF0, 0xFFFB}, {0x1BCA0, 0x1BCA3},
	{0x1D173, 0x1D17A}, {0xE0000, 0xE0FFF}
};

void
amt_checks_init(void)
{
	DefineCustomIntVariable("amt_keys.default_lifetime",
							"Sets the lifetime of keys that are created without an expiry.",
							"0 lets them live for ever.",
							&default_lifetime, 0, 0, INT_MAX,
							PGC_SUSET, GUC_UNIT_S, NULL, NULL, NULL);
	DefineCustomIntVariable("amt_keys.max_lifetime",
							"Sets the longest lifetime that callers who are not trusted may give a key.",
							"0 sets no limit.",
							&max_lifetime, 0, 0, INT_MAX,
							PGC_SUSET, GUC_UNIT_S, NULL, NULL, NULL);
}

static bool
is_in(pg_wchar c, const CharRange *ranges, int n)
{
	for (int i = 0; i < n; i++)
		if (c >= ranges[i].first && c <= ranges[i].last)
			return true;
	return false;
}

static bool
is_utf8(const char *s, Size len)
{
	int			encoding = GetDatabaseEncoding();

	return encoding == PG_UTF8 ||
		(encoding == PG_SQL_ASCII && pg_verify_mbstr(PG_UTF8, s, len, true));
}

/* In these encodings, bytes from 0x80 to 0x9F are control characters. */
static bool
has_c1_bytes(void)
{
	switch (GetDatabaseEncoding())
	{
		case PG_SQL_ASCII:
		case PG_LATIN1:
		case PG_LATIN2:
		case PG_LATIN3:
		case PG_LATIN4:
		case PG_LATIN5:
		case PG_LATIN6:
		case PG_LATIN7:
		case PG_LATIN8:
		case PG_LATIN9:
		case PG_LATIN10:
		case PG_ISO_8859_5:
		case PG_ISO_8859_6:
		case PG_ISO_8859_7:
		case PG_ISO_8859_8:
			return true;
		default:
			return false;
	}
}

/*
 * Count the characters.  Returns -1 if one is a control character, and
 * INT_MAX if the text is much too long.
 */
static int
count_chars(const char *s, bool *visible)
{
	Size		len = strlen(s);
	bool		utf8;
	bool		c1_bytes = has_c1_bytes();
	int			n = 0;

	*visible = false;
	if (len > 2 * AMT_NAME_MAX_CHARS * MAX_MULTIBYTE_CHAR_LEN)
		return INT_MAX;			/* too long, whatever it holds */
	utf8 = is_utf8(s, len);
	while (len > 0)
	{
		int			char_len = Min((int) len, utf8 ? pg_utf_mblen((const unsigned char *) s) : pg_mblen(s));
		pg_wchar	c = *(const unsigned char *) s;

		if (utf8)
			c = utf8_to_unicode((const unsigned char *) s);
		else if (char_len > 1 || (c >= 0x80 && !c1_bytes))
			c = 0xFFFF;			/* some letter or sign */
		if (is_in(c, control, lengthof(control)))
			return -1;
		if (!is_in(c, invisible, lengthof(invisible)))
			*visible = true;
		s += char_len;
		len -= char_len;
		n++;
	}
	return n;
}

/*
 * Can lists show the text?  If not, *problem says why.  A stored text need
 * not be visible, and may have twice as many characters.
 */
static bool
is_shown(const char *s, bool stored, const char *what, const char **problem)
{
	bool		visible;
	int			n = count_chars(s, &visible);
	const char *fault;

	if (*s == '\0')
		fault = "must not be empty";
	else if (n < 0)
		fault = "must not contain control characters";
	else if (n > (stored ? 2 : 1) * AMT_NAME_MAX_CHARS)
		fault = "is too long";
	else if (!visible && !stored)
		fault = "must contain a visible character";
	else
		return true;
	*problem = psprintf("%s %s", what, fault);
	return false;
}

bool
amt_stored_name_is_valid(const char *name, const char **problem)
{
	return is_shown(name, true, "key name", problem);
}

bool
amt_stored_token_prefix_is_valid(const char *prefix, const char **problem)
{
	return is_shown(prefix, true, "token prefix", problem);
}

static bool
org_id_is_valid(const char *org_id, int max, const char **problem)
{
	if (*org_id == '\0')
		*problem = "organization must not be empty";
	else if (pg_mbstrlen(org_id) > max)
		*problem = "organization is too long";
	else
		return true;
	return false;
}

bool
amt_org_id_is_valid(const char *org_id, const char **problem)
{
	return org_id_is_valid(org_id, AMT_ORG_MAX_CHARS, problem);
}

bool
amt_stored_org_id_is_valid(const char *org_id, const char **problem)
{
	return org_id_is_valid(org_id, 2 * AMT_ORG_MAX_CHARS, problem);
}

bool
amt_holds_token(const char *s)
{
	bool		found;

	(void) amt_mask(amt_prefixes(), s, strlen(s), NULL, 0, &found);
	return found;
}

void
amt_invalid(const char *problem, const char *hint)
{
	ereport(ERROR,
			(errcode(ERRCODE_INVALID_PARAMETER_VALUE),
			 errmsg("%s", problem),
			 errhint("%s", hint)));
}

char *
amt_check_name(const char *name)
{
	char	   *trimmed;
	Size		len;
	const char *problem;

	while (*name == ' ')
		name++;
	len = strlen(name);
	while (len > 0 && name[len - 1] == ' ')
		len--;
	trimmed = pnstrdup(name, len);
	if (!is_shown(trimmed, false, "key name", &problem))
		amt_invalid(problem,
					"A name has 1 to 100 characters, not counting surrounding spaces; none is a control character or a line separator, and one is visible.");
	if (amt_holds_token(trimmed))
		amt_invalid("key name must not contain a token", "Choose another name.");
	return trimmed;
}

void
amt_check_token_prefix(const char *prefix)
{
	const char *problem;

	if (!is_shown(prefix, false, "token prefix", &problem))
		amt_invalid(problem, "A token prefix has 1 to 100 characters that lists can show.");
	if (amt_holds_token(prefix))
		amt_invalid("token prefix must not contain a token", "Pass only the beginning of the token.");
}

TimestampTz
amt_default_expiry(TimestampTz created_at)
{
	return default_lifetime > 0 ? created_at + default_lifetime * USECS_PER_SEC : DT_NOEND;
}

void
amt_check_lifetime(TimestampTz created_at, TimestampTz expires_at)
{
	TimestampTz latest;

	if (pg_add_s64_overflow(created_at, max_lifetime * USECS_PER_SEC, &latest))
		latest = DT_NOEND - 1;	/* a key that never expires is later */
	if (max_lifetime == 0 || expires_at <= latest)
		return;
	ereport(ERROR,
			(errcode(ERRCODE_INVALID_PARAMETER_VALUE),
			 errmsg(expires_at == DT_NOEND ? "key must have an expiry" : "expiry is too late"),
			 errdetail("The setting \"amt_keys.max_lifetime\" limits how long a key may live."),
			 errhint("The latest expiry is %s.", timestamptz_to_str(latest))));
}
