/*
 * verify.c
 *	  amt_verify(): the row of a valid token, and its key as the identity.
 */
#include "postgres.h"

#include <openssl/crypto.h>

#include "access/xact.h"
#include "catalog/pg_type.h"
#include "funcapi.h"
#include "miscadmin.h"
#include "tcop/pquery.h"
#include "utils/builtins.h"
#include "utils/tuplestore.h"

#include "compat.h"
#include "identity.h"
#include "roles.h"
#include "session.h"
#include "verdict.h"
#include "verify.h"

void
amt_identify(const AmtKey *key)
{
	AmtIdentity identity = {0};
	const char *detail;

	identity.org_id = TextDatumGetCString(AmtKeyValue(key, org_id));
	identity.role = TextDatumGetCString(AmtKeyValue(key, role));
	identity.key_id = TextDatumGetCString(AmtKeyValue(key, key_id));
	if (!AmtKeyIsNull(key, scopes))
	{
		identity.scopes = amt_scopes_from_array(AmtKeyValue(key, scopes), &detail);
		if (identity.scopes == NULL)
			identity.scopes = ",";	/* not a list of scopes: none */
	}
	amt_identity_set(&identity);
}

#define VERIFIED_COLUMNS	7

static const Oid verified_types[VERIFIED_COLUMNS] = {
	TEXTOID, TEXTOID, TEXTOID, TEXTARRAYOID, TEXTOID, TEXTOID, TIMESTAMPTZOID
};
static const AttrNumber verified_columns[VERIFIED_COLUMNS] = {
	Anum_amt_key_key_id, Anum_amt_key_org_id, Anum_amt_key_role, Anum_amt_key_scopes,
	Anum_amt_key_name, Anum_amt_key_created_by, Anum_amt_key_expires_at
};

/* An empty result set for a function called in FROM or in a select list. */
static ReturnSetInfo *
make_result_set(FunctionCallInfo fcinfo)
{
	ReturnSetInfo *rsinfo = (ReturnSetInfo *) fcinfo->resultinfo;
	MemoryContext oldcontext;

	if (rsinfo == NULL || !IsA(rsinfo, ReturnSetInfo))
		ereport(ERROR,
				(errcode(ERRCODE_FEATURE_NOT_SUPPORTED),
				 errmsg("set-valued function called in context that cannot accept a set")));
	if (!(rsinfo->allowedModes & SFRM_Materialize) || rsinfo->expectedDesc == NULL)
		ereport(ERROR,
				(errcode(ERRCODE_FEATURE_NOT_SUPPORTED),
				 errmsg("materialize mode required, but it is not allowed in this context")));
	amt_check_row_type(rsinfo->expectedDesc, verified_types, VERIFIED_COLUMNS);

	/* The caller has the descriptor, so it needs no copy. */
	oldcontext = MemoryContextSwitchTo(rsinfo->econtext->ecxt_per_query_memory);
	rsinfo->returnMode = SFRM_Materialize;
	rsinfo->setResult = tuplestore_begin_heap(rsinfo->allowedModes & SFRM_Materialize_Random,
											  false, work_mem);
	rsinfo->setDesc = NULL;
	MemoryContextSwitchTo(oldcontext);
	return rsinfo;
}

static void
put_row(ReturnSetInfo *rsinfo, const AmtKey *key)
{
	Datum		values[VERIFIED_COLUMNS];
	bool		nulls[VERIFIED_COLUMNS];

	for (int i = 0; i < VERIFIED_COLUMNS; i++)
	{
		values[i] = key->values[verified_columns[i] - 1];
		nulls[i] = key->nulls[verified_columns[i] - 1];
	}
	tuplestore_putvalues(rsinfo->setResult, rsinfo->expectedDesc, values, nulls);
}

/*
 * Outside a transaction block the identity ends with the client's statement,
 * so warn as SET LOCAL does.  But do not warn within a function: its later
 * statements can use the identity.
 */
static void
warn_outside_block(const ReturnSetInfo *rsinfo)
{
	const EState *estate = rsinfo->econtext->ecxt_estate;

	if (!IsTransactionBlock() && !IsSubTransaction() && ActivePortal != NULL && estate != NULL &&
		estate->es_sourceText == ActivePortal->sourceText)
		ereport(WARNING,
				(errcode(ERRCODE_NO_ACTIVE_SQL_TRANSACTION),
				 errmsg("identify => true has an effect in transaction blocks only")));
}

static void
identify(const ReturnSetInfo *rsinfo, AmtVerdict verdict, const AmtKey *key)
{
	static const AmtIdentity nobody = {0};

	/*
	 * The author of a function with other rights must not change what
	 * amt_authenticate() has decided, nor free the caller from a key's limits.
	 */
	if (amt_session_has_changed_rights() &&
		(amt_identity_is_sealed() || (verdict != AMT_GOOD && (amt_identity_recorded().key_id != NULL || amt_identity_was_reset()))))
		ereport(ERROR,
				(errcode(ERRCODE_INSUFFICIENT_PRIVILEGE),
				 errmsg("permission denied to set the identity"),
				 errdetail("A function with other rights cannot change this identity.")));
	warn_outside_block(rsinfo);
	if (verdict == AMT_GOOD)
		amt_identify(key);
	else
		amt_identity_set(&nobody);
}

PG_FUNCTION_INFO_V1(amt_verify);
Datum
amt_verify(PG_FUNCTION_ARGS)
{
	Oid			extension = amt_extension(fcinfo);
	ReturnSetInfo *rsinfo;
	AmtVerdict	verdict = AMT_MALFORMED;
	AmtKey		key;

	amt_session_check();
	rsinfo = make_result_set(fcinfo);
	if (PG_ARGISNULL(0))
		amt_count_verdict(AMT_MALFORMED);
	else
	{
		text	   *token = PG_GETARG_TEXT_PP(0);

		verdict = amt_verify_text(extension, VARDATA_ANY(token), VARSIZE_ANY_EXHDR(token), &key);
		if ((Pointer) token != DatumGetPointer(PG_GETARG_DATUM(0)))
			OPENSSL_cleanse(token, VARSIZE_ANY(token));
	}
	if (verdict == AMT_GOOD)
		put_row(rsinfo, &key);
	if (!PG_ARGISNULL(1) && PG_GETARG_BOOL(1))
		identify(rsinfo, verdict, &key);
	return (Datum) 0;
}
