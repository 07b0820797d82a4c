/*
 * authenticate.c
 *	  The identity of a PostgREST request.
 *
 * PostgREST verifies a person's JWT, and hands headers and claims over in
 * settings of the transaction that anybody can change.  A key needs no trust:
 * whoever presents its token is the key.  Claims do need trust.  They are
 * believed only where they must be PostgREST's, that is, if:
 *
 * - the call is the transaction's first;
 * - the process is a client's backend;
 * - the session user may set the identity, and is no superuser, whose session
 *   runs other people's code in maintenance.
 *
 * Where code runs with other rights, as in a SECURITY DEFINER function, nothing is
 * done, and a key is refused: the author must not decide who the caller is.
 *
 * SQL of the web user's making may run later in the transaction, so the call
 * seals the identity (identity.c), whatever the outcome.  A later call without a
 * key leaves it as it was decided.  Another key can still be presented: it
 * proves itself.
 *
 * The error for a bad key tells nothing of what the client sent, since
 * PostgREST copies its text into the response.
 */
#include "postgres.h"

#include "mb/pg_wchar.h"
#include "miscadmin.h"
#include "utils/acl.h"
#include "utils/builtins.h"
#include "utils/fmgrprotos.h"
#include "utils/guc.h"
#include "utils/jsonb.h"

#include "attempt.h"
#include "authenticate.h"
#include "compat.h"
#include "header.h"
#include "identity.h"
#include "prefixes.h"
#include "roles.h"
#include "session.h"
#include "token.h"
#include "verdict.h"
#include "verify.h"

static char *header_setting = NULL;
static bool any_token = false;
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
							   "A dot in the name descends into an object.",
							   value, boot, PGC_SUSET, 0, NULL, NULL, NULL);
}

void
amt_authenticate_init(void)
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
	DefineCustomStringVariable("amt_keys.db_role",
							   "Sets the database role that a request with a key continues as.",
							   "\"{role}\" in it stands for the key's role. Empty keeps the role.",
							   &db_role, "",
							   PGC_SUSET, 0, NULL, NULL, NULL);
	DefineCustomBoolVariable("amt_keys.require_authentication",
							 "Refuses requests without an identity.",
							 "amt_authenticate() then raises PT401 for them.",
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

/* A setting of the request, to be parsed. */
typedef struct JsonText
{
	char	   *text;
	Jsonb	   *value;
} JsonText;

static void
parse_json(void *arg)
{
	JsonText   *json = arg;

	json->value = DatumGetJsonbP(DirectFunctionCall1(jsonb_in, CStringGetDatum(json->text)));
}

/*
 * The JSON that carries a token is parsed in a memory context of one block, of
 * which we know the place, so that all copies can be wiped.  Only of headers
 * that are longer than 2 kB may a part be left behind, where the server
 * allocates and frees a larger chunk for them.
 */
typedef struct JsonMemory
{
	MemoryContext context;
	MemoryContext outer;
	char	   *start;
	Size		size;
} JsonMemory;

static void
enter_json_memory(JsonMemory *memory)
{
	const char *headers = GetConfigOption("request.headers", true, false);
	Size		wanted = 24 * 1024 + 16 * (headers != NULL ? strlen(headers) : 0);

	memory->size = MAXALIGN(Min(wanted, 256 * 1024));
	memory->context = AllocSetContextCreateInternal(CurrentMemoryContext, "amt_keys request",
													memory->size, memory->size, memory->size);
	memory->start = MemoryContextAlloc(memory->context, 1);
	memory->outer = MemoryContextSwitchTo(memory->context);
}

static void
leave_json_memory(JsonMemory *memory)
{
	MemoryContextSwitchTo(memory->outer);
	explicit_bzero(memory->start, (char *) memory->context + memory->size - memory->start);
	MemoryContextDelete(memory->context);
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
	const char *text = GetConfigOption(setting, true, false);

	if (text == NULL || text[0] == '\0')
		return FOUND_NOTHING;
	if (!pg_verify_mbstr(GetDatabaseEncoding(), text, strlen(text), true))
		return FOUND_GARBAGE;
	json.text = pstrdup(text);
	error = amt_attempt(parse_json, &json);
	if (error != NULL || !JB_ROOT_IS_OBJECT(json.value))
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

/* The key in a header, if there is one. */
static Found
get_key(JsonbContainer *headers, const char *name, bool any, const char **s, Size *len)
{
	Found		found = get_text(headers, name, strlen(name), s, len);

	if (found == FOUND_VALUE && !amt_header_key(amt_prefixes(), s, len) && !any)
		return FOUND_NOTHING;
	return found;
}

/* The token that the request's headers carry. */
static Found
get_token(const char **s, Size *len)
{
	JsonbContainer *headers;
	Found		found = get_object("request.headers", &headers);

	if (found == FOUND_VALUE)
	{
		found = get_key(headers, header_setting, any_token, s, len);
		if (found == FOUND_NOTHING)
			found = get_key(headers, "authorization", false, s, len);
	}
	return found;
}

/* The text of a claim, by a name whose dots descend; NULL if there is none. */
static char *
get_claim(JsonbContainer *object, const char *name)
{
	JsonbValue *value;
	const char *dot;

	while ((dot = strchr(name, '.')) != NULL)
	{
		value = getKeyJsonValueFromContainer(object, name, dot - name, NULL);
		if (value == NULL || value->type != jbvBinary ||
			!JsonContainerIsObject(value->val.binary.data))
			return NULL;
		object = value->val.binary.data;
		name = dot + 1;
	}
	value = getKeyJsonValueFromContainer(object, name, strlen(name), NULL);
	if (value != NULL && value->type == jbvNumeric)
		return DatumGetCString(DirectFunctionCall1(numeric_out, NumericGetDatum(value->val.numeric)));
	if (value == NULL || value->type != jbvString || value->val.string.len == 0)
		return NULL;
	return pnstrdup(value->val.string.val, value->val.string.len);
}

/* Make the claims the identity; false if they are none. */
static bool
identify_by_claims(void)
{
	JsonbContainer *claims;
	AmtIdentity identity = {0};

	if (get_object("request.jwt.claims", &claims) != FOUND_VALUE)
		return false;
	identity.org_id = get_claim(claims, org_claim);
	identity.role = get_claim(claims, role_claim);
	identity.actor = get_claim(claims, actor_claim);
	if (identity.org_id == NULL || identity.role == NULL)
	{
		ereport(DEBUG1,
				(errmsg("request.jwt.claims give no identity"),
				 errdetail("The claim \"%s\" is missing, or is neither a text nor a number.",
						   identity.org_id == NULL ? org_claim : role_claim)));
		return false;
	}
	if (amt_role_rank(identity.role) < 0)
	{
		ereport(DEBUG1,
				(errmsg("request.jwt.claims give no identity"),
				 errdetail("The claim \"%s\" is not in \"amt_keys.roles\".", role_claim)));
		return false;
	}
	amt_identity_set(&identity);
	return true;
}

/*
 * Has a person's JWT come with the request?  Without one PostgREST sets claims
 * that hold nothing but the anonymous role.
 */
static bool
is_a_persons(void)
{
	JsonbContainer *claims;
	Found		found = get_object("request.jwt.claims", &claims);

	if (found != FOUND_VALUE)
		return found == FOUND_GARBAGE;
	return JsonContainerSize(claims) > 1 ||
		(JsonContainerSize(claims) == 1 &&
		 getKeyJsonValueFromContainer(claims, "role", strlen("role"), NULL) == NULL);
}

static void
set_local(const char *name, const char *value)
{
	(void) set_config_option(name, value, PGC_USERSET, PGC_S_SESSION, GUC_ACTION_LOCAL, true, 0, false);
}

/* The role that amt_keys.db_role leads to. */
static char *
make_role_name(const char *key_role)
{
	static const char mark[] = "{role}";
	StringInfoData name;
	const char *s = db_role;
	const char *at;

	initStringInfo(&name);
	while ((at = strstr(s, mark)) != NULL)
	{
		appendBinaryStringInfo(&name, s, at - s);
		appendStringInfoString(&name, key_role);
		s = at + strlen(mark);
	}
	appendStringInfoString(&name, s);
	return name.data;
}

/* SET LOCAL ROLE as amt_keys.db_role says; a mistake in it is the server's. */
static void
switch_role(const char *key_role)
{
	char	   *name;
	Oid			roleid;

	if (*db_role == '\0')
		return;
	name = make_role_name(key_role);
	roleid = strcmp(name, "none") == 0 ? InvalidOid : get_role_oid(name, true);
	if (!OidIsValid(roleid) || !amt_can_set_role(GetSessionUserId(), roleid))
		ereport(ERROR,
				(errcode(ERRCODE_CONFIG_FILE_ERROR),
				 errmsg("\"amt_keys.db_role\" leads to a role that cannot be set"),
				 errdetail_log("Role \"%s\" does not exist, or is not granted to the session user.",
							   name)));
	set_local("role", name);
}

/*
 * Does code run with other rights than those of the session: a SECURITY DEFINER
 * function, an index function, a maintenance command?
 */
static bool
has_changed_rights(void)
{
	Oid			userid;
	int			sec_context;

	GetUserIdAndSecContext(&userid, &sec_context);
	return sec_context != 0 || userid != GetOuterUserId();
}

/* Can the claims be nobody's but PostgREST's?  Rights were checked before. */
static bool
may_believe_claims(void)
{
	return MyBackendType == B_BACKEND &&
		DatumGetInt32(DirectFunctionCall1(pg_trigger_depth, (Datum) 0)) == 0 &&
		!superuser_arg(GetSessionUserId()) && amt_role_may_identify(GetSessionUserId());
}

static bool
has_claims(void)
{
	const char *claims = GetConfigOption("request.jwt.claims", true, false);

	return claims != NULL && *claims != '\0';
}

static void
authenticate_by_key(Oid extension, const char *s, Size len)
{
	AmtKey		key;

	/* Whose database role would it be?  Ask first: to verify counts a call. */
	if (*db_role == '\0' && is_a_persons())
		unauthenticated();
	if (amt_verify_text(extension, s, len, &key) != AMT_GOOD)
		unauthenticated();
	amt_identify(&key);
	if (has_claims())
		set_local("request.jwt.claims", "");
	switch_role(amt_identity().role);
}

static void
authenticate(Oid extension, bool first)
{
	static const AmtIdentity nobody = {0};
	const char *s;
	Size		len;

	switch (get_token(&s, &len))
	{
		case FOUND_GARBAGE:
			unauthenticated();
			break;
		case FOUND_VALUE:
			authenticate_by_key(extension, s, len);
			break;
		case FOUND_NOTHING:
			if (first && !(may_believe_claims() && identify_by_claims()))
				amt_identity_set(&nobody);
			break;
	}
	if (require_authentication && amt_identity().org_id == NULL)
		unauthenticated();
}

/*
 * Where other rights are in force, the identity is the caller's, and must stay so
 * after the function.  A key is refused, so that the author learns of it.
 */
static void
stand_aside(void)
{
	const char *s;
	Size		len;

	if (!InSecurityRestrictedOperation() && get_token(&s, &len) == FOUND_VALUE)
		ereport(ERROR,
				(errcode(ERRCODE_INSUFFICIENT_PRIVILEGE),
				 errmsg("cannot authenticate a key within a function that has other rights"),
				 errhint("Let the function that calls amt_authenticate() be SECURITY INVOKER.")));
	if (require_authentication && amt_identity().org_id == NULL)
		unauthenticated();
}

PG_FUNCTION_INFO_V1(amt_authenticate);
Datum
amt_authenticate(PG_FUNCTION_ARGS)
{
	Oid			extension = amt_extension(fcinfo);
	bool		first = !amt_identity_is_sealed();
	JsonMemory	memory;

	amt_session_check();

	/* First, so that it holds even if somebody catches our error. */
	if (!has_changed_rights())
		amt_identity_seal();

	enter_json_memory(&memory);
	PG_TRY();
	{
		if (has_changed_rights())
			stand_aside();
		else
			authenticate(extension, first);
	}
	PG_FINALLY();
	{
		leave_json_memory(&memory);
	}
	PG_END_TRY();
	PG_RETURN_VOID();
}
