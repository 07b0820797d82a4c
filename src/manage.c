/*
 * manage.c
 *	  Creating and revoking keys.
 *
 * Both functions run as their caller, who has no privilege to write the
 * tables: this file decides what the caller may do (section 5 of the
 * contract), and store.c writes as the tables' owner.  The caller is trusted
 * when current_user could set the identity anyway; otherwise the identity
 * counts.
 *
 * Within reach of a caller are the keys of the identity's organization, any
 * key for the trusted, and the key whose whole token was presented.  What is
 * out of reach answers as if it did not exist.
 *
 * Revoking deletes the row as the newest snapshot shows it, so a key that was
 * created after a REPEATABLE READ transaction began can be revoked there, too.
 * Of two who revoke the same key, the second waits for the first; under READ
 * COMMITTED it then answers false, and under the stricter levels it fails as
 * any concurrent deletion does (40001).
 *
 * Shared memory is reached by way of other files only (atcommit.c, cache.c, kdf.c,
 * shmem.c, verify.c); no lock of it is held here.
 */
#include "postgres.h"

#include <openssl/crypto.h>

#include "access/xact.h"
#include "access/htup_details.h"
#include "catalog/pg_type.h"
#include "executor/spi.h"
#include "funcapi.h"
#include "mb/pg_wchar.h"
#include "miscadmin.h"
#include "tcop/utility.h"
#include "utils/acl.h"
#include "utils/builtins.h"
#include "utils/timestamp.h"

#include "compat.h"
#include "atcommit.h"
#include "cache.h"
#include "header.h"
#include "identity.h"
#include "kdf.h"
#include "manage.h"
#include "shmem.h"
#include "verify.h"

#define MAX_NAME_CHARS	100
#define MAX_TRIES		10

static bool creating = false;

bool
amt_is_creating(void)
{
	return creating;
}

/* A control character at *s?  C0 and DEL; and C1 where ISO 8859 has it, or UTF-8. */
static bool
is_control(const unsigned char *s)
{
	if (*s < 0x20 || *s == 0x7f)
		return true;
	switch (GetDatabaseEncoding())
	{
		case PG_UTF8:
			return s[0] == 0xc2 && s[1] >= 0x80 && s[1] <= 0x9f;
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
			return s[0] >= 0x80 && s[0] <= 0x9f;
		default:
			return false;
	}
}

bool
amt_name_is_bad(const char *name, const char **what)
{
	for (const char *s = name; *s != '\0'; s += pg_mblen(s))
	{
		if (is_control((const unsigned char *) s))
		{
			*what = "key name must not contain control characters";
			return true;
		}
	}
	if (*name == '\0')
		*what = "key name must not be empty";
	else if (pg_mbstrlen(name) > MAX_NAME_CHARS)
		*what = "key name is too long";
	else if (amt_token_find(name, strlen(name), 0) < strlen(name))
		*what = "key name must not contain a token";
	else
		return false;
	return true;
}

/* The name without surrounding spaces, or an error. */
static char *
check_name(text *arg)
{
	char	   *name;
	char	   *end;
	const char *what;

	name = arg != NULL ? text_to_cstring(arg) : pstrdup("");
	while (*name == ' ')
		name++;
	end = name + strlen(name);
	while (end > name && end[-1] == ' ')
		*--end = '\0';
	if (amt_name_is_bad(name, &what))
		ereport(ERROR,
				(errcode(ERRCODE_INVALID_PARAMETER_VALUE),
				 errmsg("%s", what),
				 errhint("A name has 1 to %d characters, none of them a control character, not counting surrounding spaces.",
						 MAX_NAME_CHARS)));
	return name;
}

static const char *
required(const char *value, const char *what)
{
	if (value == NULL)
		ereport(ERROR,
				(errcode(ERRCODE_INVALID_PARAMETER_VALUE),
				 errmsg("%s of the new key is not known", what),
				 errhint("Pass it as an argument, or set the identity that it is taken from.")));
	return value;
}

static void
refuse(const char *detail)
{
	ereport(ERROR,
			(errcode(ERRCODE_INSUFFICIENT_PRIVILEGE),
			 errmsg("permission denied to create key"),
			 errdetail("%s", detail)));
}

/* What is asked for, completed from the identity and allowed to the caller. */
static void
check_scope(const char **org_id, const char **role)
{
	bool		trusted = amt_is_trusted(GetUserId());
	const char *own_org = amt_identity_org_id();
	const char *own_role = amt_identity_role();

	if (amt_identity_key_id() != NULL)
		refuse("A key cannot create keys.");
	if (!trusted && (own_org == NULL || own_role == NULL))
		refuse("The caller has no identity.");
	if (*org_id != NULL && **org_id == '\0')
		ereport(ERROR,
				(errcode(ERRCODE_INVALID_PARAMETER_VALUE),
				 errmsg("organization must not be empty"),
				 errhint("Leave it out to create a key of the caller's own organization.")));
	if (*org_id == NULL)
		*org_id = required(own_org, "organization");
	if (*role == NULL)
		*role = required(own_role, "role");
	if (!trusted && strcmp(*org_id, own_org) != 0)
		refuse("The key would belong to another organization.");
	if (amt_role_rank(*role) < 0)
		amt_unknown_role(*role);
	if (!trusted && !amt_identity_has_role(*role))
		refuse("The key's role would be above the caller's.");
}

static void
check_expiry(TimestampTz expires_at)
{
	if (expires_at <= GetCurrentTimestamp())
		ereport(ERROR,
				(errcode(ERRCODE_INVALID_PARAMETER_VALUE),
				 errmsg("expiry must be in the future"),
				 errhint("Leave expires_at out for a key that does not expire.")));
}

/* What amt_create_key() is about to insert. */
typedef struct NewKey
{
	char		token[AMT_TOKEN_LEN + 1];
	AmtToken	part;
	char		phc[AMT_PHC_MAX];
	const char *name;
	const char *org_id;
	const char *role;
	TimestampTz created_at;
	bool		expires;
	TimestampTz expires_at;
} NewKey;

static Datum
new_key_id(const NewKey *key)
{
	return PointerGetDatum(cstring_to_text_with_len(key->part.id, key->part.id_len));
}

static bool
random_bytes(void *buf, size_t len)
{
	return pg_strong_random(buf, len);
}

/* False if the id is taken, which the random source will hardly bring about. */
static bool
insert_key(const AmtStore *store, const NewKey *key)
{
	static const char query[] =
	"INSERT INTO %s.amt_key (key_id, org_id, name, role, scrypt_hash, created_at, created_by, expires_at)"
	" VALUES ($1, $2, $3, $4, $5, $6, $7, $8) ON CONFLICT (key_id) DO NOTHING";
	Oid			types[8] = {TEXTOID, TEXTOID, TEXTOID, TEXTOID, TEXTOID,
	TIMESTAMPTZOID, TEXTOID, TIMESTAMPTZOID};
	const char *actor = amt_identity_actor();
	Datum		values[8];
	char		nulls[8];
	bool		inserted;

	memset(nulls, ' ', sizeof(nulls));
	values[0] = new_key_id(key);
	values[1] = CStringGetTextDatum(key->org_id);
	values[2] = CStringGetTextDatum(key->name);
	values[3] = CStringGetTextDatum(key->role);
	values[4] = CStringGetTextDatum(key->phc);
	values[5] = TimestampTzGetDatum(key->created_at);
	values[6] = actor != NULL ? CStringGetTextDatum(actor) : (Datum) 0;
	nulls[6] = actor != NULL ? ' ' : 'n';
	values[7] = key->expires ? TimestampTzGetDatum(key->expires_at) : (Datum) 0;
	nulls[7] = key->expires ? ' ' : 'n';

	SPI_connect();
	creating = true;
	PG_TRY();
	{
		amt_store_execute(store, 0, query, 8, types, values, nulls);
	}
	PG_FINALLY();
	{
		creating = false;
	}
	PG_END_TRY();
	inserted = SPI_processed == 1;
	SPI_finish();
	return inserted;
}

/* The key is warm once it is committed. */
static void
warm_key(const AmtStore *store, const NewKey *key)
{
	const AmtToken *part = &key->part;
	AmtCacheEntry entry = {0};

	if (!amt_cache_is_on() ||
		!amt_cache_mac(store, part->id, part->id_len, key->phc, strlen(key->phc),
					   part->secret, part->secret_len, entry.mac))
		return;
	entry.hash_tag = amt_shmem_hash(key->phc, strlen(key->phc));
	amt_at_commit_warm(amt_shmem_key_tag(store->key, part->id, part->id_len), &entry);
}

/* Insert a key with a new token. */
static void
make_key(const AmtStore *store, NewKey *key)
{
	int			tries = 0;

	do
	{
		if (tries++ == MAX_TRIES)
			ereport(ERROR,
					(errcode(ERRCODE_TRIGGERED_ACTION_EXCEPTION),
					 errmsg("key was not inserted"),
					 errdetail("A trigger or rule of table \"amt_key\" has suppressed it.")));
		if (!amt_token_generate(random_bytes, key->token))
			ereport(ERROR,
					(errcode(ERRCODE_INTERNAL_ERROR),
					 errmsg("could not generate random bytes")));
		(void) amt_token_parse(key->token, AMT_TOKEN_LEN, &key->part);
		amt_kdf_hash(&key->part, key->phc);
	} while (!insert_key(store, key));
	warm_key(store, key);
}

static Datum
token_prefix(const char *id, Size id_len)
{
	return CStringGetTextDatum(psprintf(AMT_TOKEN_HEAD "%.*s...", (int) id_len, id));
}

static HeapTuple
form_new_key(const NewKey *key, TupleDesc tupdesc)
{
	Datum		values[8];
	bool		nulls[8] = {false};
	HeapTuple	tuple;

	values[0] = CStringGetTextDatum(key->token);
	values[1] = new_key_id(key);
	values[2] = token_prefix(key->part.id, key->part.id_len);
	values[3] = CStringGetTextDatum(key->name);
	values[4] = CStringGetTextDatum(key->org_id);
	values[5] = CStringGetTextDatum(key->role);
	values[6] = TimestampTzGetDatum(key->created_at);
	values[7] = TimestampTzGetDatum(key->expires_at);
	nulls[7] = !key->expires;
	tuple = heap_form_tuple(tupdesc, values, nulls);
	OPENSSL_cleanse(DatumGetPointer(values[0]), VARHDRSZ + AMT_TOKEN_LEN);
	return tuple;
}

static const char *
string_arg(FunctionCallInfo fcinfo, int n)
{
	return PG_ARGISNULL(n) ? NULL : text_to_cstring(PG_GETARG_TEXT_PP(n));
}

PG_FUNCTION_INFO_V1(amt_create_key);
Datum
amt_create_key(PG_FUNCTION_ARGS)
{
	const AmtStore *store = amt_store(fcinfo);
	TupleDesc	tupdesc;
	HeapTuple volatile tuple = NULL;
	NewKey		key = {0};

	PreventCommandIfReadOnly("amt_create_key()");
	if (get_call_result_type(fcinfo, NULL, &tupdesc) != TYPEFUNC_COMPOSITE)
		elog(ERROR, "return type must be a row type");

	key.org_id = string_arg(fcinfo, 1);
	key.role = string_arg(fcinfo, 2);
	check_scope(&key.org_id, &key.role);
	key.name = check_name(PG_ARGISNULL(0) ? NULL : PG_GETARG_TEXT_PP(0));
	key.expires = !PG_ARGISNULL(3);
	if (key.expires)
	{
		key.expires_at = PG_GETARG_TIMESTAMPTZ(3);
		check_expiry(key.expires_at);
	}
	key.created_at = GetCurrentTransactionStartTimestamp();

	PG_TRY();
	{
		make_key(store, &key);
		tuple = form_new_key(&key, BlessTupleDesc(tupdesc));
	}
	PG_FINALLY();
	{
		OPENSSL_cleanse(&key, sizeof(key));
	}
	PG_END_TRY();
	PG_RETURN_DATUM(HeapTupleGetDatum(tuple));
}

/* A key id, a displayed prefix or a token; only a token has a secret. */
static bool
read_target(const char *s, Size len, AmtToken *token)
{
	static const char ellipsis[] = "...";
	Size		ellipsis_len = strlen(ellipsis);

	amt_header_skip_bearer(&s, &len);
	if (amt_token_parse(s, len, token))
		return true;
	if (len > AMT_TOKEN_HEAD_LEN + ellipsis_len &&
		memcmp(s, AMT_TOKEN_HEAD, AMT_TOKEN_HEAD_LEN) == 0 &&
		memcmp(s + len - ellipsis_len, ellipsis, ellipsis_len) == 0)
	{
		s += AMT_TOKEN_HEAD_LEN;
		len -= AMT_TOKEN_HEAD_LEN + ellipsis_len;
	}
	token->id = s;
	token->id_len = len;
	token->secret = NULL;
	token->secret_len = 0;
	return amt_token_is_id(s, len);
}

/* The rule of section 5 for a key of the identity's own organization. */
static bool
may_manage(Datum key_id, Datum created_by, bool created_by_isnull)
{
	const char *actor = amt_identity_actor();
	const char *own_key = amt_identity_key_id();

	return amt_identity_is_manager() ||
		(actor != NULL && !created_by_isnull && amt_text_is(created_by, actor)) ||
		(own_key != NULL && amt_text_is(key_id, own_key));
}

static bool
is_own_org(Datum org_id)
{
	const char *own_org = amt_identity_org_id();

	return own_org != NULL && amt_text_is(org_id, own_org);
}

/* May the caller revoke the key?  Within reach, but not allowed: an error. */
static bool
check_revoke(const AmtStore *store, const AmtToken *token, const AmtKey *key)
{
	AmtKey		verified;

	if (amt_is_trusted(GetUserId()))
		return true;
	if (token->secret_len > 0 &&
		amt_verify_secret(store, token, &verified) == AMT_GOOD)
		return true;
	if (!is_own_org(AmtKeyColumn(key, org_id)))
		return false;
	if (!may_manage(AmtKeyColumn(key, key_id), AmtKeyColumn(key, created_by),
					AmtKeyColumnIsNull(key, created_by)))
		ereport(ERROR,
				(errcode(ERRCODE_INSUFFICIENT_PRIVILEGE),
				 errmsg("permission denied to revoke key"),
				 errdetail("A key can be revoked by its creator, by whoever has the manager role, by itself, and by who presents the whole token.")));
	return true;
}

static bool
delete_key(const AmtStore *store, const AmtToken *token)
{
	Oid			types[1] = {TEXTOID};
	Datum		values[1];
	bool		deleted;

	values[0] = PointerGetDatum(cstring_to_text_with_len(token->id, token->id_len));
	SPI_connect();
	amt_store_execute(store, 0,
					  "DELETE FROM %s.amt_key WHERE key_id OPERATOR(pg_catalog.=) $1",
					  1, types, values, NULL);
	deleted = SPI_processed == 1;
	SPI_finish();
	return deleted;
}

PG_FUNCTION_INFO_V1(amt_revoke);
Datum
amt_revoke(PG_FUNCTION_ARGS)
{
	const AmtStore *store = amt_store(fcinfo);
	text	   *arg;
	AmtToken	token;
	AmtKey		key;
	bool		deleted;

	PreventCommandIfReadOnly("amt_revoke()");
	if (PG_ARGISNULL(0))
		PG_RETURN_BOOL(false);
	arg = PG_GETARG_TEXT_PP(0);
	deleted = read_target(VARDATA_ANY(arg), VARSIZE_ANY_EXHDR(arg), &token) &&
		amt_store_get_key(store, token.id, token.id_len, NULL, &key) &&
		check_revoke(store, &token, &key) &&
		delete_key(store, &token);
	if ((Pointer) arg != DatumGetPointer(PG_GETARG_DATUM(0)))
		OPENSSL_cleanse(arg, VARSIZE_ANY(arg));
	PG_RETURN_BOOL(deleted);
}

/*
 * amt_may_revoke(key_id, org_id, created_by): the same rule, for the policy on
 * DELETE and for lists.  A policy is keyed on the organization, so for the
 * trusted, too, it reaches the identity's organization only.
 */
PG_FUNCTION_INFO_V1(amt_may_revoke);
Datum
amt_may_revoke(PG_FUNCTION_ARGS)
{
	if (PG_ARGISNULL(0) || PG_ARGISNULL(1))
		PG_RETURN_BOOL(false);
	PG_RETURN_BOOL(is_own_org(PG_GETARG_DATUM(1)) &&
				   (amt_is_trusted(GetUserId()) ||
					may_manage(PG_GETARG_DATUM(0),
							   PG_ARGISNULL(2) ? (Datum) 0 : PG_GETARG_DATUM(2),
							   PG_ARGISNULL(2))));
}

/* amt_whoami(): the identity as one row, with the key's name. */
PG_FUNCTION_INFO_V1(amt_whoami);
Datum
amt_whoami(PG_FUNCTION_ARGS)
{
	const AmtStore *store = amt_store(fcinfo);
	const char *part[4];
	TupleDesc	tupdesc;
	AmtKey		key;
	Datum		values[5] = {0};
	bool		nulls[5];

	if (get_call_result_type(fcinfo, NULL, &tupdesc) != TYPEFUNC_COMPOSITE)
		elog(ERROR, "return type must be a row type");

	part[0] = amt_identity_org_id();
	part[1] = amt_identity_role();
	part[2] = amt_identity_actor();
	part[3] = amt_identity_key_id();
	for (int i = 0; i < 4; i++)
	{
		nulls[i] = part[i] == NULL;
		if (!nulls[i])
			values[i] = CStringGetTextDatum(part[i]);
	}
	nulls[4] = !(part[3] != NULL &&
				 amt_token_is_id(part[3], strlen(part[3])) &&
				 amt_store_get_key(store, part[3], strlen(part[3]), NULL, &key) &&
				 is_own_org(AmtKeyColumn(&key, org_id)));
	if (!nulls[4])
		values[4] = AmtKeyColumn(&key, name);
	PG_RETURN_DATUM(HeapTupleGetDatum(heap_form_tuple(BlessTupleDesc(tupdesc), values, nulls)));
}
