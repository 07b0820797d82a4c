/*
 * whoami.c
 *	  amt_whoami(): the identity as one row, with the key's name.
 */
#include "postgres.h"

#include "access/htup_details.h"
#include "catalog/pg_type.h"
#include "funcapi.h"
#include "utils/builtins.h"

#include "compat.h"
#include "identity.h"
#include "roles.h"
#include "rows.h"

#define WHOAMI_COLUMNS	6

static const Oid whoami_types[WHOAMI_COLUMNS] = {
	TEXTOID, TEXTOID, TEXTARRAYOID, TEXTOID, TEXTOID, TEXTOID
};

static Datum
text_or_null(const char *value, bool *isnull)
{
	*isnull = value == NULL;
	return value != NULL ? CStringGetTextDatum(value) : (Datum) 0;
}

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

	values[0] = text_or_null(identity.org_id, &nulls[0]);
	values[1] = text_or_null(identity.role, &nulls[1]);
	nulls[2] = identity.scopes == NULL;
	if (identity.scopes != NULL)
		values[2] = amt_scopes_to_array(identity.scopes);
	values[3] = text_or_null(identity.actor, &nulls[3]);
	values[4] = text_or_null(identity.key_id, &nulls[4]);
	nulls[5] = !(identity.key_id != NULL && identity.org_id != NULL &&
				 amt_token_is_id(identity.key_id, strlen(identity.key_id)) &&
				 amt_key_get(extension, identity.key_id, strlen(identity.key_id), NULL, NULL, &key) &&
				 amt_text_is(AmtKeyValue(&key, org_id), identity.org_id));
	if (!nulls[5])
		values[5] = AmtKeyValue(&key, name);
	tupdesc = amt_result_tupdesc(fcinfo, whoami_types, WHOAMI_COLUMNS);
	PG_RETURN_DATUM(HeapTupleGetDatum(heap_form_tuple(tupdesc, values, nulls)));
}
