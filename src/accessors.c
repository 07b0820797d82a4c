/*
 * accessors.c
 *	  The functions by which policies and applications read the identity.
 */
#include "postgres.h"

#include "access/htup_details.h"
#include "catalog/pg_type.h"
#include "funcapi.h"
#include "nodes/supportnodes.h"
#include "optimizer/optimizer.h"
#include "utils/builtins.h"

#include "compat.h"
#include "identity.h"
#include "roles.h"
#include "rows.h"
#include "session.h"
#include "text.h"

static Datum
text_or_null(FunctionCallInfo fcinfo, const char *value)
{
	if (value == NULL)
		PG_RETURN_NULL();
	PG_RETURN_TEXT_P(cstring_to_text(value));
}

PG_FUNCTION_INFO_V1(amt_org_id);
Datum
amt_org_id(PG_FUNCTION_ARGS)
{
	return text_or_null(fcinfo, amt_identity().org_id);
}

/* amt_is_own(org_id), for policies. */
PG_FUNCTION_INFO_V1(amt_is_own);
Datum
amt_is_own(PG_FUNCTION_ARGS)
{
	AmtIdentity identity = amt_identity();

	PG_RETURN_BOOL(!PG_ARGISNULL(0) && identity.org_id != NULL &&
				   amt_text_is(PG_GETARG_DATUM(0), identity.org_id));
}

/* So little that it disappears in every sum. */
#define LESS_THAN_NOTHING	(-1e-300)

/*
 * What the planner is told of the functions that policies ask first.
 *
 * It runs cheap conditions first, those of the user that cannot leak
 * included, and the user can make operators cost nothing.  So a condition of
 * ours on a column costs less than nothing.  One on constants does not, or a
 * condition of the user could have it as a part, and cost even less.  On a
 * column it may leak, and the planner puts no such condition before a policy.
 *
 * Rows are estimated by the policy's other condition.
 */
PG_FUNCTION_INFO_V1(amt_policy_support);
Datum
amt_policy_support(PG_FUNCTION_ARGS)
{
	Node	   *request = (Node *) PG_GETARG_POINTER(0);

	if (IsA(request, SupportRequestCost) &&
		contain_var_clause(((SupportRequestCost *) request)->node))
	{
		amt_identity_compare();
		((SupportRequestCost *) request)->startup = 0;
		((SupportRequestCost *) request)->per_tuple = LESS_THAN_NOTHING;
	}
	else if (IsA(request, SupportRequestSelectivity))
		((SupportRequestSelectivity *) request)->selectivity = 1;
	else
		request = NULL;
	PG_RETURN_POINTER(request);
}

PG_FUNCTION_INFO_V1(amt_role);
Datum
amt_role(PG_FUNCTION_ARGS)
{
	return text_or_null(fcinfo, amt_identity().role);
}

PG_FUNCTION_INFO_V1(amt_actor);
Datum
amt_actor(PG_FUNCTION_ARGS)
{
	return text_or_null(fcinfo, amt_identity().actor);
}

PG_FUNCTION_INFO_V1(amt_key_id);
Datum
amt_key_id(PG_FUNCTION_ARGS)
{
	return text_or_null(fcinfo, amt_identity().key_id);
}

PG_FUNCTION_INFO_V1(amt_scopes);
Datum
amt_scopes(PG_FUNCTION_ARGS)
{
	AmtIdentity identity = amt_identity();

	if (identity.scopes == NULL)
		PG_RETURN_NULL();
	PG_RETURN_DATUM(amt_scopes_to_array(identity.scopes));
}

static bool
has_role_arg(FunctionCallInfo fcinfo)
{
	char	   *minimum = amt_string_arg(fcinfo, 0);

	amt_session_check();
	return minimum != NULL && amt_identity_has_role(minimum);
}

PG_FUNCTION_INFO_V1(amt_has_role);
Datum
amt_has_role(PG_FUNCTION_ARGS)
{
	PG_RETURN_BOOL(has_role_arg(fcinfo));
}

static void
forbidden(const char *message)
{
	ereport(ERROR,
			(errcode(MAKE_SQLSTATE('P', 'T', '4', '0', '3')),
			 errmsg("%s", message)));
}

PG_FUNCTION_INFO_V1(amt_require_role);
Datum
amt_require_role(PG_FUNCTION_ARGS)
{
	if (!has_role_arg(fcinfo))
		forbidden("forbidden_role");
	PG_RETURN_VOID();
}

static bool
has_scope_arg(FunctionCallInfo fcinfo)
{
	AmtIdentity identity = amt_identity();
	text	   *scope;

	if (PG_ARGISNULL(0))
		return false;
	scope = PG_GETARG_TEXT_PP(0);
	amt_check_encoding(VARDATA_ANY(scope), VARSIZE_ANY_EXHDR(scope));
	if (identity.org_id == NULL)
		return false;
	return amt_scopes_have(identity.scopes, VARDATA_ANY(scope), VARSIZE_ANY_EXHDR(scope));
}

PG_FUNCTION_INFO_V1(amt_has_scope);
Datum
amt_has_scope(PG_FUNCTION_ARGS)
{
	PG_RETURN_BOOL(has_scope_arg(fcinfo));
}

PG_FUNCTION_INFO_V1(amt_require_scope);
Datum
amt_require_scope(PG_FUNCTION_ARGS)
{
	if (!has_scope_arg(fcinfo))
		forbidden("insufficient_scope");
	PG_RETURN_VOID();
}

#define WHOAMI_COLUMNS	6

static const Oid whoami_types[WHOAMI_COLUMNS] = {
	TEXTOID, TEXTOID, TEXTARRAYOID, TEXTOID, TEXTOID, TEXTOID
};

PG_FUNCTION_INFO_V1(amt_whoami);
Datum
amt_whoami(PG_FUNCTION_ARGS)
{
	Oid			extension = amt_extension(fcinfo);
	AmtIdentity identity = amt_identity();
	TupleDesc	tupdesc;
	AmtKey		key;
	Datum		values[WHOAMI_COLUMNS] = {0};
	bool		nulls[WHOAMI_COLUMNS];

	amt_set_text(values, nulls, 1, identity.org_id);
	amt_set_text(values, nulls, 2, identity.role);
	nulls[2] = identity.scopes == NULL;
	if (identity.scopes != NULL)
		values[2] = amt_scopes_to_array(identity.scopes);
	amt_set_text(values, nulls, 4, identity.actor);
	amt_set_text(values, nulls, 5, identity.key_id);
	nulls[5] = !(identity.key_id != NULL && identity.org_id != NULL &&
				 amt_token_is_id(identity.key_id, strlen(identity.key_id)) &&
				 amt_key_get(extension, identity.key_id, strlen(identity.key_id), NULL, &key) &&
				 amt_text_is(AmtKeyValue(&key, org_id), identity.org_id));
	if (!nulls[5])
		values[5] = AmtKeyValue(&key, name);
	tupdesc = amt_result_tupdesc(fcinfo, whoami_types, WHOAMI_COLUMNS);
	PG_RETURN_DATUM(HeapTupleGetDatum(heap_form_tuple(tupdesc, values, nulls)));
}
