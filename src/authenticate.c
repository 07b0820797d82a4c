/*
 * authenticate.c
 *	  The identity of a PostgREST request.
 *
 * PostgREST verifies a person's JWT and hands headers and claims over in
 * settings of the transaction that anybody can change.  A key needs no trust:
 * who knows the token is the key.  Claims do.  They are believed only when the
 * session user could set the identity anyway, as PostgREST's authenticator is
 * granted to, and only as long as they must be PostgREST's: in the first call
 * of a transaction, before any identity is set.  Later, SQL of the web user's
 * making may have changed them, so the call seals the identity (identity.c), and
 * a later one finds it decided and leaves it alone.  Another key can still be
 * presented: it proves itself.
 *
 * What cannot be read is never an identity: headers that are no JSON object or
 * hold no text are answered as a bad key, claims likewise give none.  The
 * error tells nothing of what the client sent, since PostgREST copies its text
 * into the response.
 */
#include "postgres.h"

#include "miscadmin.h"
#include "storage/proc.h"
#include "utils/builtins.h"
#include "utils/guc.h"
#include "utils/jsonb.h"

#include "attempt.h"
#include "authenticate.h"
#include "compat.h"
#include "header.h"
#include "identity.h"
#include "token.h"
#include "verify.h"

static char *header_setting = NULL;
static char *org_claim = NULL;
static char *role_claim = NULL;
static char *actor_claim = NULL;
static char *db_role = NULL;
static bool require_authentication = false;

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
							   "A dot in the name descends into an object. See section 7 of the contract.",
							   value, boot, PGC_SUSET, 0, NULL, NULL, NULL);
}

void
amt_authenticate_init(void)
{
	DefineCustomStringVariable("amt_keys.header",
							   "Sets the name of the HTTP header that carries a key.",
							   "Besides it, Authorization is looked at. See section 7 of the contract.",
							   &header_setting, "x-api-key",
							   PGC_SUSET, 0, check_header, NULL, NULL);
	define_claim("amt_keys.org_claim", "Sets the JWT claim that names the organization.", &org_claim, "org_id");
	define_claim("amt_keys.role_claim", "Sets the JWT claim that names the role in the organization.", &role_claim, "org_role");
	define_claim("amt_keys.actor_claim", "Sets the JWT claim that names the person.", &actor_claim, "sub");
	DefineCustomStringVariable("amt_keys.db_role",
							   "Sets the database role that a request with a key continues as.",
							   "\"{role}\" in it stands for the key's role; empty to keep the role. See section 7 of the contract.",
							   &db_role, "",
							   PGC_SUSET, 0, NULL, NULL, NULL);
	DefineCustomBoolVariable("amt_keys.require_authentication",
							 "Refuses requests without an identity.",
							 "amt_authenticate() then raises PT401 for them. See section 7 of the contract.",
							 &require_authentication, false,
							 PGC_SUSET, 0, NULL, NULL, NULL);
}

static void
unauthenticated(void)
{
	ereport(ERROR,
			(errcode(MAKE_SQLSTATE('P', 'T', '4', '0', '1')),
			 errmsg("unauthenticated")));
}

typedef struct JsonText
{
	const char *text;
	Jsonb	   *value;
} JsonText;

static void
parse_json(void *arg)
{
	JsonText   *json = arg;

	json->value = DatumGetJsonbP(DirectFunctionCall1(jsonb_in, CStringGetDatum(json->text)));
}

/* What a setting or a member of an object holds. */
typedef enum Found
{
	FOUND_NOTHING,
	FOUND_VALUE,
	FOUND_GARBAGE				/* something, but not what it should be */
} Found;

/* The JSON object in a setting of the request. */
static Found
get_object(const char *setting, JsonbContainer **object)
{
	JsonText	json = {0};
	ErrorData  *error;

	json.text = GetConfigOption(setting, true, false);
	if (json.text == NULL || json.text[0] == '\0')
		return FOUND_NOTHING;
	error = amt_attempt(parse_json, &json);
	if (error != NULL)
	{
		FreeErrorData(error);
		return FOUND_GARBAGE;
	}
	if (!JB_ROOT_IS_OBJECT(json.value))
		return FOUND_GARBAGE;
	*object = &json.value->root;
	return FOUND_VALUE;
}

/* A non-empty text in an object; null is nothing. */
static Found
get_text(JsonbContainer *object, const char *name, Size name_len, const char **s, Size *len)
{
	JsonbValue *value = getKeyJsonValueFromContainer(object, name, name_len, NULL);

	if (value == NULL || value->type == jbvNull)
		return FOUND_NOTHING;
	if (value->type != jbvString)
		return FOUND_GARBAGE;
	*s = value->val.string.val;
	*len = value->val.string.len;
	return *len > 0 ? FOUND_VALUE : FOUND_NOTHING;
}

/* The token that the request's headers carry. */
static Found
get_token(const char **s, Size *len)
{
	JsonbContainer *headers;
	Found		found = get_object("request.headers", &headers);

	if (found != FOUND_VALUE)
		return found;
	found = get_text(headers, header_setting, strlen(header_setting), s, len);
	if (found != FOUND_NOTHING)
		return found;
	found = get_text(headers, "authorization", strlen("authorization"), s, len);
	if (found == FOUND_VALUE && !amt_header_authorization(s, len))
		return FOUND_NOTHING;
	return found;
}

/* The text of a claim, by a name whose dots descend; NULL if there is none. */
static const char *
get_claim(JsonbContainer *object, const char *name)
{
	const char *s;
	Size		len;
	const char *dot;

	while ((dot = strchr(name, '.')) != NULL)
	{
		JsonbValue *value = getKeyJsonValueFromContainer(object, name, dot - name, NULL);

		if (value == NULL || value->type != jbvBinary ||
			!JsonContainerIsObject(value->val.binary.data))
			return NULL;
		object = value->val.binary.data;
		name = dot + 1;
	}
	if (get_text(object, name, strlen(name), &s, &len) != FOUND_VALUE)
		return NULL;
	return pnstrdup(s, len);
}

/* Make the claims the identity; false if they are none. */
static bool
identify_by_claims(void)
{
	JsonbContainer *claims;
	const char *org_id;
	const char *role;

	if (get_object("request.jwt.claims", &claims) != FOUND_VALUE)
		return false;
	org_id = get_claim(claims, org_claim);
	role = get_claim(claims, role_claim);
	if (org_id == NULL || role == NULL || amt_role_rank(role) < 0)
		return false;
	amt_identity_set(org_id, role, get_claim(claims, actor_claim), NULL);
	return true;
}

/* SET LOCAL ROLE as amt_keys.db_role says. */
static void
switch_role(const char *key_role)
{
	static const char mark[] = "{role}";
	StringInfoData name;
	const char *s = db_role;
	const char *at;

	if (*s == '\0')
		return;
	initStringInfo(&name);
	while ((at = strstr(s, mark)) != NULL)
	{
		appendBinaryStringInfo(&name, s, at - s);
		appendStringInfoString(&name, key_role);
		s = at + strlen(mark);
	}
	appendStringInfoString(&name, s);
	if (strcmp(name.data, "none") == 0)
		ereport(ERROR,
				(errcode(ERRCODE_INVALID_PARAMETER_VALUE),
				 errmsg("\"amt_keys.db_role\" must not lead to role \"none\"")));
	(void) set_config_option("role", name.data, PGC_USERSET, PGC_S_SESSION,
							 GUC_ACTION_LOCAL, true, 0, false);
}

PG_FUNCTION_INFO_V1(amt_authenticate);
Datum
amt_authenticate(PG_FUNCTION_ARGS)
{
	const AmtStore *store = amt_store(fcinfo);
	bool		trusted = amt_is_trusted(GetUserId());
	bool		trusted_session = amt_is_trusted(GetSessionUserId());
	bool		decided = amt_identity_is_sealed() || amt_identity_org_id() != NULL;
	const char *s;
	Size		len;
	AmtKey		key;

	/* First, so that it holds even if somebody catches our error. */
	amt_identity_seal();

	switch (get_token(&s, &len))
	{
		case FOUND_GARBAGE:
			unauthenticated();
			break;
		case FOUND_VALUE:
			if (amt_verify_text(store, s, len, &key) != AMT_GOOD)
				unauthenticated();
			amt_identify(&key);
			switch_role(amt_identity_role());
			PG_RETURN_VOID();
		case FOUND_NOTHING:
			break;
	}

	if ((!decided || trusted) &&
		(!trusted_session || !identify_by_claims()))
		amt_identity_set(NULL, NULL, NULL, NULL);
	if (require_authentication && amt_identity_org_id() == NULL)
		unauthenticated();
	PG_RETURN_VOID();
}
