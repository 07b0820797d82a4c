/*
 * request.c
 *	  The headers and JWT claims of a PostgREST request.
 *
 * Both are JSON in settings of the transaction, which anybody can change.
 * authenticate.c decides whether to believe them.
 */
#include "postgres.h"

#include <ctype.h>

#include "common/string.h"
#include "mb/pg_wchar.h"
#include "utils/fmgrprotos.h"
#include "utils/guc.h"
#include "utils/memutils.h"

#include "attempt.h"
#include "header.h"
#include "json.h"
#include "prefixes.h"
#include "request.h"
#include "roles.h"
#include "session.h"

#define HEADERS		"request.headers"
#define CLAIMS		"request.jwt.claims"

static char *header_setting = NULL;
static bool any_token = false;
static char *org_claim = NULL;
static char *role_claim = NULL;
static char *actor_claim = NULL;

static bool
check_header(char **newval, void **extra, GucSource source)
{
	if (**newval == '\0' ||
		strspn(*newval, "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789-_") != strlen(*newval))
	{
		GUC_check_errdetail("A header's name has letters, digits, \"-\" and \"_\".");
		return false;
	}
	for (char *s = *newval; *s != '\0'; s++)
		*s = pg_ascii_tolower(*s);
	return true;
}

static void
define_claim(const char *name, const char *short_desc, char **value, const char *boot)
{
	DefineCustomStringVariable(name, short_desc,
							   "A dot in the name descends into an object.",
							   value, boot, PGC_SUSET, 0, NULL, NULL, NULL);
}

void
amt_request_init(void)
{
	DefineCustomStringVariable("amt_keys.header",
							   "Sets the name of the HTTP header that carries a key.",
							   "Authorization is looked at in addition.",
							   &header_setting, "x-api-key",
							   PGC_SUSET, 0, check_header, NULL, NULL);
	DefineCustomBoolVariable("amt_keys.any_token",
							 "Verifies the header named by amt_keys.header whatever it holds.",
							 "Without it, only values that begin with one of amt_keys.token_prefixes are taken for keys. It is meant for imported keys.",
							 &any_token, false,
							 PGC_SUSET, 0, NULL, NULL, NULL);
	define_claim("amt_keys.org_claim", "Sets the JWT claim that names the organization.", &org_claim, "org_id");
	define_claim("amt_keys.role_claim", "Sets the JWT claim that names the role in the organization.", &role_claim, "org_role");
	define_claim("amt_keys.actor_claim", "Sets the JWT claim that names the person.", &actor_claim, "sub");
}

static const char *
get_setting(const char *name)
{
	const char *value = GetConfigOption(name, true, false);

	return value != NULL ? value : "";
}

/*
 * The parser copies names and values, and keeps a buffer that grows to twice
 * the longest.  All of that fits into one block, which we can wipe.  Of
 * headers longer than 2 kB a part may be left behind: the server allocates
 * and frees a larger chunk for them.
 */
void
amt_request_open(AmtRequestMemory *memory)
{
	Size		wanted = 4 * 1024 + 8 * strlen(get_setting(HEADERS));

	memory->size = MAXALIGN(Min(wanted, 256 * 1024));
	memory->context = AllocSetContextCreateInternal(CurrentMemoryContext, "amt_keys request",
													memory->size, memory->size, memory->size);
	memory->start = MemoryContextAlloc(memory->context, 1);
	memory->outer = MemoryContextSwitchTo(memory->context);
}

void
amt_request_close(AmtRequestMemory *memory)
{
	MemoryContextSwitchTo(memory->outer);
	MemoryContextReset(memory->context);	/* a server with assertions checks
											 * the chunks */
	explicit_bzero(memory->start, (char *) memory->context + memory->size - memory->start);
	MemoryContextDelete(memory->context);
}

static AmtFound
find_members(const char *setting, AmtJsonMember *members, int n, bool *others)
{
	const char *text = get_setting(setting);

	*others = false;
	if (*text == '\0')
		return AMT_FOUND_NOTHING;
	return amt_json_find(text, members, n, others) ? AMT_FOUND_VALUE : AMT_FOUND_GARBAGE;
}

/* The key in a header, if there is one. */
static AmtFound
get_key(const AmtJsonMember *header, bool any, const char **s, Size *len)
{
	if (header->kind == AMT_JSON_NOTHING)
		return AMT_FOUND_NOTHING;
	if (header->kind != AMT_JSON_STRING)
		return AMT_FOUND_GARBAGE;
	*s = header->value;
	*len = strlen(*s);
	if (*len == 0)
		return AMT_FOUND_NOTHING;
	if (any)
	{
		amt_header_skip_scheme(s, len);
		return AMT_FOUND_VALUE;
	}
	return amt_header_key(amt_prefixes(), s, len) ? AMT_FOUND_VALUE : AMT_FOUND_NOTHING;
}

/*
 * Is it "Bearer" with something that is no key of ours?  PostgREST takes other
 * white space than ours for the end of the word, too.
 */
static bool
is_foreign_bearer(const AmtJsonMember *header)
{
	static const char scheme[] = "bearer";
	const char *s = header->value;
	Size		len;

	if (header->kind != AMT_JSON_STRING ||
		pg_strncasecmp(s, scheme, strlen(scheme)) != 0 || isalnum((unsigned char) s[strlen(scheme)]))
		return false;
	len = strlen(s);
	return !amt_header_key(amt_prefixes(), &s, &len);
}

AmtFound
amt_request_token(const char **s, Size *len, bool *beside_jwt)
{
	AmtJsonMember headers[] = {{.path = header_setting}, {.path = "authorization"}};
	bool		others;
	AmtFound	found = find_members(HEADERS, headers, lengthof(headers), &others);

	*beside_jwt = false;
	if (found == AMT_FOUND_VALUE)
	{
		*beside_jwt = is_foreign_bearer(&headers[1]);
		found = get_key(&headers[0], any_token, s, len);
		if (found == AMT_FOUND_NOTHING)
			found = get_key(&headers[1], false, s, len);
	}
	return found;
}

bool
amt_request_has_persons_claims(void)
{
	AmtJsonMember role = {.path = "role"};
	bool		others;

	switch (find_members(CLAIMS, &role, 1, &others))
	{
		case AMT_FOUND_NOTHING:
			return false;
		case AMT_FOUND_VALUE:
			return others;
		case AMT_FOUND_GARBAGE:
			break;
	}
	return true;
}

static void
write_out_number(void *arg)
{
	const char **number = arg;
	Datum		value = DirectFunctionCall3(numeric_in, CStringGetDatum(*number),
											ObjectIdGetDatum(InvalidOid), Int32GetDatum(-1));

	*number = DatumGetCString(DirectFunctionCall1(numeric_out, value));
}

/* The text of a claim; NULL if it has none.  A number is written without exponent. */
static const char *
get_claim(const AmtJsonMember *claim)
{
	const char *text = claim->value;

	switch (claim->kind)
	{
		case AMT_JSON_STRING:
			return text[0] != '\0' ? text : NULL;

		case AMT_JSON_NUMBER:
			if (strpbrk(text, "eE") != NULL && amt_attempt(write_out_number, &text) != NULL)
				return NULL;	/* out of range */
			return text;

		default:
			return NULL;
	}
}

/*
 * May the server have converted the claims from an encoding that they were
 * not in?  Claims are UTF-8, but SQL of an earlier request may have left the
 * session another client_encoding.  Then one organization's id is read as
 * another's.
 */
static bool
may_be_garbled(const char *claims)
{
	int			client = pg_get_client_encoding();
	int			database = GetDatabaseEncoding();

	return client != PG_UTF8 && database != PG_SQL_ASCII &&
		!(client == PG_SQL_ASCII && database == PG_UTF8) && !pg_is_ascii(claims);
}

bool
amt_request_identity(AmtIdentity *identity, Oid user)
{
	AmtJsonMember claims[] = {{.path = org_claim}, {.path = role_claim}, {.path = actor_claim}};
	bool		others;

	if (!amt_session_has_set(CLAIMS, user))
	{
		ereport(DEBUG1,
				(errmsg("request.jwt.claims give no identity"),
				 errdetail("They are not set in this transaction, or not by the session user or a role that it can become.")));
		return false;
	}
	if (may_be_garbled(get_setting(CLAIMS)))
	{
		ereport(DEBUG1,
				(errmsg("request.jwt.claims give no identity"),
				 errdetail("They have other characters than ASCII, and the session's client_encoding is not UTF8.")));
		return false;
	}
	if (find_members(CLAIMS, claims, lengthof(claims), &others) != AMT_FOUND_VALUE)
		return false;
	memset(identity, 0, sizeof(AmtIdentity));
	identity->org_id = get_claim(&claims[0]);
	identity->role = get_claim(&claims[1]);
	identity->actor = get_claim(&claims[2]);
	if (identity->org_id == NULL || identity->role == NULL)
	{
		ereport(DEBUG1,
				(errmsg("request.jwt.claims give no identity"),
				 errdetail("The claim \"%s\" is missing, or is neither a text nor a number.",
						   identity->org_id == NULL ? org_claim : role_claim)));
		return false;
	}
	if (amt_role_rank(identity->role) < 0)
	{
		ereport(DEBUG1,
				(errmsg("request.jwt.claims give no identity"),
				 errdetail("The claim \"%s\" is not in \"amt_keys.roles\".", role_claim)));
		return false;
	}
	return true;
}

void
amt_request_empty_claims(void)
{
	if (*get_setting(CLAIMS) != '\0')
		(void) set_config_option(CLAIMS, "", PGC_USERSET, PGC_S_SESSION, GUC_ACTION_LOCAL, true, 0, false);
}
