/*
 * newkey.c
 *	  Making a new row of amt_key.
 *
 * The functions that create keys run as their caller, which needs no
 * privilege on the tables.  So this file must decide.  A trusted caller may
 * create any key.  Any other caller must have an identity that is no key.
 * It may give a key at most its own role and scopes, in its own
 * organization.
 */
#include "postgres.h"

#include <openssl/crypto.h>

#include "access/htup_details.h"
#include "catalog/pg_type.h"
#include "funcapi.h"
#include "miscadmin.h"
#include "utils/builtins.h"
#include "utils/timestamp.h"

#include "checks.h"
#include "compat.h"
#include "entry.h"
#include "identity.h"
#include "kdf.h"
#include "newkey.h"
#include "prefixes.h"
#include "roles.h"
#include "text.h"
#include "write.h"

static void
refuse(const char *detail)
{
	ereport(ERROR,
			(errcode(ERRCODE_INSUFFICIENT_PRIVILEGE),
			 errmsg("permission denied to create key"),
			 errdetail("%s", detail)));
}

static const char *
required(const char *value, const char *problem)
{
	if (value == NULL)
		amt_invalid(problem, "Pass it as an argument, or set the identity that it is taken from.");
	return value;
}

void
amt_newkey_check(const char **org_id, const char **role, const char **scopes)
{
	bool		trusted = amt_caller_is_trusted();
	AmtIdentity own = amt_identity();
	const char *problem;

	if (own.key_id != NULL)
		refuse("A key cannot create keys.");
	if (!trusted && (own.org_id == NULL || own.role == NULL))
		refuse("The caller has no identity.");
	if (*org_id == NULL)
		*org_id = required(own.org_id, "organization of the new key is not known");
	if (*role == NULL)
		*role = required(own.role, "role of the new key is not known");
	if (*scopes == NULL)
		*scopes = own.scopes;
	if (!amt_org_id_is_valid(*org_id, &problem))
		amt_invalid(problem, "An organization has 1 to 255 characters.");
	if (!trusted && strcmp(*org_id, own.org_id) != 0)
		refuse("The key would belong to another organization.");
	if (amt_role_rank(*role) < 0)
		amt_unknown_role(*role);
	if (!trusted && !amt_identity_has_role(*role))
		refuse("The key's role would be above the caller's.");
	if (!trusted && !amt_scopes_include(own.scopes, *scopes))
		refuse("The key would have a scope that the caller does not have.");
}

void
amt_newkey_make_token(AmtNewKey *key)
{
	AmtToken	part;

	if (!amt_token_generate(amt_prefixes(), pg_strong_random, key->token))
		ereport(ERROR,
				(errcode(ERRCODE_INTERNAL_ERROR),
				 errmsg("could not generate random bytes")));
	(void) amt_token_parse(amt_prefixes(), key->token, strlen(key->token), &part);
	strlcpy(key->key_id, part.id, sizeof(key->key_id));
	if (key->token_prefix == NULL)
		key->token_prefix = psprintf("%.*s_%s...", (int) part.prefix_len, part.prefix, key->key_id);
	if (key->token_sha256 == NULL)
		amt_kdf_hash(&part, key->phc);
	else
		OPENSSL_cleanse(key->token, sizeof(key->token));
}

static void
set_time(Datum *values, bool *nulls, int attnum, TimestampTz value)
{
	nulls[attnum - 1] = value == DT_NOEND;
	values[attnum - 1] = TimestampTzGetDatum(value);
}

static void
form_row(const AmtNewKey *key, Datum *values, bool *nulls)
{
	amt_set_text(values, nulls, Anum_amt_key_key_id, key->key_id);
	amt_set_text(values, nulls, Anum_amt_key_token_prefix, key->token_prefix);
	amt_set_text(values, nulls, Anum_amt_key_org_id, key->org_id);
	amt_set_text(values, nulls, Anum_amt_key_name, key->name);
	amt_set_text(values, nulls, Anum_amt_key_role, key->role);
	nulls[Anum_amt_key_scopes - 1] = key->scopes == NULL;
	if (key->scopes != NULL)
		values[Anum_amt_key_scopes - 1] = amt_scopes_to_array(key->scopes);
	amt_set_text(values, nulls, Anum_amt_key_scrypt_hash, key->token_sha256 == NULL ? key->phc : NULL);
	nulls[Anum_amt_key_token_sha256 - 1] = key->token_sha256 == NULL;
	if (key->token_sha256 != NULL)
		values[Anum_amt_key_token_sha256 - 1] =
			PointerGetDatum(cstring_to_text_with_len((const char *) key->token_sha256, 32));
	set_time(values, nulls, Anum_amt_key_created_at, key->created_at);
	amt_set_text(values, nulls, Anum_amt_key_created_by, key->created_by);
	set_time(values, nulls, Anum_amt_key_expires_at, key->expires_at);
	nulls[Anum_amt_key_suspended_at - 1] = true;
	amt_set_text(values, nulls, Anum_amt_key_replaces, key->replaces);
}

/* A new key's secret counts as proved. */
static void
remember_proof(Relation rel, const AmtNewKey *key)
{
	AmtProof	proof = {0};
	AmtKeyRef	ref;
	AmtToken	part;

	if (!amt_entry_may_prove() || !amt_entry_attach())
		return;
	(void) amt_token_parse(amt_prefixes(), key->token, strlen(key->token), &part);
	ref = amt_entry_ref(RelationGetRelid(rel), key->key_id, strlen(key->key_id));
	proof.hash_tag = amt_entry_hash(key->phc, strlen(key->phc), key->org_id, strlen(key->org_id),
									key->role, strlen(key->role));
	if (amt_entry_mac(&ref, key->phc, strlen(key->phc), part.secret, part.secret_len, proof.mac))
		amt_entry_prove(&ref, &proof);
}

void
amt_newkey_insert(Relation rel, AmtNewKey *key)
{
	Datum		values[Natts_amt_key] = {0};
	bool		nulls[Natts_amt_key];
	AmtWrite	write;

	form_row(key, values, nulls);
	amt_write_begin(&write, rel);
	amt_write_insert(&write, values, nulls, Natts_amt_key);
	amt_write_end(&write);
	if (key->token_sha256 == NULL)
		remember_proof(rel, key);
}

#define NEW_KEY_COLUMNS	10

static const Oid new_key_types[NEW_KEY_COLUMNS] = {
	TEXTOID, TEXTOID, TEXTOID, TEXTOID, TEXTOID, TEXTOID, TEXTARRAYOID,
	TIMESTAMPTZOID, TIMESTAMPTZOID, TEXTOID
};

void
amt_newkey_check_type(FunctionCallInfo fcinfo)
{
	(void) amt_result_tupdesc(fcinfo, new_key_types, NEW_KEY_COLUMNS);
}

Datum
amt_newkey_result(FunctionCallInfo fcinfo, const AmtNewKey *key)
{
	TupleDesc	tupdesc = amt_result_tupdesc(fcinfo, new_key_types, NEW_KEY_COLUMNS);
	Datum		values[NEW_KEY_COLUMNS] = {0};
	bool		nulls[NEW_KEY_COLUMNS];
	HeapTuple	tuple;

	amt_set_text(values, nulls, 1, key->token);
	amt_set_text(values, nulls, 2, key->key_id);
	amt_set_text(values, nulls, 3, key->token_prefix);
	amt_set_text(values, nulls, 4, key->name);
	amt_set_text(values, nulls, 5, key->org_id);
	amt_set_text(values, nulls, 6, key->role);
	nulls[6] = key->scopes == NULL;
	if (key->scopes != NULL)
		values[6] = amt_scopes_to_array(key->scopes);
	set_time(values, nulls, 8, key->created_at);
	set_time(values, nulls, 9, key->expires_at);
	amt_set_text(values, nulls, 10, key->replaces);
	tuple = heap_form_tuple(tupdesc, values, nulls);
	OPENSSL_cleanse(DatumGetPointer(values[0]), VARSIZE_ANY(DatumGetPointer(values[0])));
	return HeapTupleGetDatum(tuple);
}
