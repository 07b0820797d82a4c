/*
 * authenticate.c
 *	  The identity of a PostgREST request.
 *
 * PostgREST verifies a person's JWT.  It hands over headers and claims in
 * settings of the transaction, which anybody can change.  A key needs no
 * trust: the client that presents its token is the key.  Claims need trust.
 * We believe them only if:
 *
 * - the call is the transaction's first;
 * - the process is a client's backend, and no trigger is running;
 * - the session user may set the identity, and is no superuser.  A
 *   superuser's maintenance runs other people's code;
 * - it has set the claims in this transaction, as itself or as a role that it
 *   can become.  SQL of an earlier transaction may have left others.
 *
 * With other rights in force, as in a SECURITY DEFINER function, we set
 * nothing and refuse a key: its author must not decide the identity.
 *
 * The web user's SQL may run later in the transaction.  So the call seals
 * the identity (identity.c), whatever the outcome.  A later call without a
 * key leaves the identity as it is.  Another key can still be presented: it
 * proves itself.
 *
 * The error for a bad key must not quote the request: PostgREST copies it
 * into the response.
 */
#include "postgres.h"

#include "access/xact.h"
#include "miscadmin.h"
#include "utils/acl.h"
#include "utils/fmgrprotos.h"
#include "utils/guc.h"

#include "authenticate.h"
#include "compat.h"
#include "identity.h"
#include "request.h"
#include "roles.h"
#include "session.h"
#include "verdict.h"
#include "verify.h"

static char *db_role = NULL;
static bool require_authentication = false;

void
amt_authenticate_init(void)
{
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

/* The database role that amt_keys.db_role gives for a key's role. */
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

/* SET LOCAL ROLE as amt_keys.db_role says.  A mistake in it is the server's. */
static void
switch_role(const char *key_role)
{
	static const struct config_generic *setting = NULL;
	char	   *name;
	Oid			roleid;

	if (*db_role == '\0')
		return;
	if (setting == NULL)
		setting = amt_session_setting("role");
	amt_session_refuse_mix(&setting, 1);
	name = make_role_name(key_role);
	roleid = strcmp(name, "none") == 0 ? InvalidOid : get_role_oid(name, true);
	if (strcmp(name, db_role) != 0 && amt_role_rank(key_role) < 0)
		roleid = InvalidOid;	/* the key's role is none of amt_keys.roles */
	if (!OidIsValid(roleid) || !amt_can_set_role(GetSessionUserId(), roleid))
		ereport(ERROR,
				(errcode(ERRCODE_CONFIG_FILE_ERROR),
				 errmsg("\"amt_keys.db_role\" leads to a role that cannot be set"),
				 errdetail_log("Role \"%s\" does not exist, is not granted to the session user, or comes of a key whose role is not in \"amt_keys.roles\".",
							   name)));
	(void) set_config_option("role", name, PGC_USERSET, PGC_S_SESSION, GUC_ACTION_LOCAL, true, 0, false);
}

/* Must the claims be PostgREST's?  The caller has checked for other rights. */
static bool
may_believe_claims(void)
{
	return MyBackendType == B_BACKEND &&
		DatumGetInt32(DirectFunctionCall1(pg_trigger_depth, (Datum) 0)) == 0 &&
		!superuser_arg(GetSessionUserId()) && amt_role_may_identify(GetSessionUserId());
}

static void
authenticate_by_key(Oid extension, const char *s, Size len, bool beside_jwt)
{
	AmtKey		key;

	/*
	 * The database role would still be the person's.  Check first: to verify
	 * counts a call.
	 */
	if (*db_role == '\0' && (beside_jwt || amt_request_has_persons_claims()))
		unauthenticated();
	if (amt_verify_text(extension, s, len, &key) != AMT_GOOD)
		unauthenticated();
	amt_identify(&key);
	/* The table's owner may have forced in an empty organization or role. */
	if (amt_identity().org_id == NULL || amt_identity().role == NULL)
		unauthenticated();
	amt_request_empty_claims();
	switch_role(amt_identity().role);
}

static void
authenticate(Oid extension, bool first)
{
	AmtIdentity identity = {0};
	const char *s;
	Size		len;
	bool		beside_jwt;

	switch (amt_request_token(&s, &len, &beside_jwt))
	{
		case AMT_FOUND_GARBAGE:
			unauthenticated();
			break;
		case AMT_FOUND_VALUE:
			authenticate_by_key(extension, s, len, beside_jwt);
			break;
		case AMT_FOUND_NOTHING:
			if (!first)
				break;
			if (!may_believe_claims() || !amt_request_identity(&identity, GetSessionUserId()))
				memset(&identity, 0, sizeof(identity));
			amt_identity_set(&identity);
			break;
	}
	if (require_authentication && amt_identity().org_id == NULL)
		unauthenticated();
}

/*
 * With other rights in force, leave the identity as it is.  Only maintenance
 * commands may go on.  Others get an error: a stored identity must not stay in
 * force because a SECURITY DEFINER function calls us.
 */
static void
stand_aside(void)
{
	if (!InSecurityRestrictedOperation())
		ereport(ERROR,
				(errcode(ERRCODE_INSUFFICIENT_PRIVILEGE),
				 errmsg("cannot authenticate within a function that has other rights"),
				 errhint("Let the function that calls amt_authenticate() be SECURITY INVOKER.")));
	if (require_authentication && amt_identity().org_id == NULL)
		unauthenticated();
}

PG_FUNCTION_INFO_V1(amt_authenticate);
Datum
amt_authenticate(PG_FUNCTION_ARGS)
{
	bool		first = !amt_identity_is_sealed();
	Oid			extension;
	AmtRequestMemory memory;

	amt_session_check();

	/* Settings cannot be changed there, nor the seal given to workers. */
	if (IsInParallelMode())
		ereport(ERROR,
				(errcode(ERRCODE_INVALID_TRANSACTION_STATE),
				 errmsg("cannot authenticate during a parallel operation")));

	/* Seal first: somebody may catch our error. */
	if (!amt_session_has_changed_rights())
		amt_identity_seal();

	extension = amt_extension(fcinfo);
	amt_request_open(&memory);
	PG_TRY();
	{
		if (amt_session_has_changed_rights())
			stand_aside();
		else
			authenticate(extension, first);
	}
	PG_FINALLY();
	{
		amt_request_close(&memory);
	}
	PG_END_TRY();
	PG_RETURN_VOID();
}
