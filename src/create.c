/*
 * create.c
 *	  Creating keys: amt_create_key(), amt_rotate_key(), amt_import_key().
 *
 * Hashing a new secret takes long, so no table is locked meanwhile.
 */
#include "postgres.h"

#include <openssl/crypto.h>

#include "access/table.h"
#include "access/xact.h"
#include "common/int.h"
#include "fmgr.h"
#include "miscadmin.h"
#include "utils/builtins.h"
#include "utils/timestamp.h"

#include "checks.h"
#include "compat.h"
#include "identity.h"
#include "newkey.h"
#include "prefixes.h"
#include "roles.h"
#include "sha256.h"
#include "target.h"
#include "text.h"
#include "write.h"

/*
 * The actor, as created_by of a key.  An actor's name is of its organization:
 * the same name in another one may be somebody else's.
 */
static const char *
get_creator(const char *org_id)
{
	AmtIdentity identity = amt_identity();

	return identity.org_id != NULL && strcmp(identity.org_id, org_id) == 0 ? identity.actor : NULL;
}

static char *
scopes_arg(FunctionCallInfo fcinfo, int n)
{
	const char *detail;
	char	   *scopes;

	if (PG_ARGISNULL(n))
		return NULL;
	scopes = amt_scopes_from_array(PG_GETARG_DATUM(n), &detail);
	if (scopes == NULL)
		ereport(ERROR,
				(errcode(ERRCODE_INVALID_PARAMETER_VALUE),
				 errmsg("scopes are not valid"),
				 errdetail("%s", detail),
				 errhint("Leave scopes out for a key that may do all that its role allows.")));
	if (amt_holds_token(scopes))
		amt_invalid("scopes must not contain a token", "Choose other scopes.");
	return scopes;
}

static void
check_expiry(TimestampTz expires_at)
{
	if (expires_at <= GetCurrentTimestamp())
		amt_invalid("expiry must be in the future",
					"Leave expires_at out for a key that does not expire.");
}

/* Make token, hash and row.  Returns the result, and wipes the secret. */
static Datum
make_key(FunctionCallInfo fcinfo, Oid extension, AmtNewKey *key,
		 void (*with_row) (Relation rel, AmtNewKey *key, void *arg), void *arg)
{
	volatile Datum result;

	amt_newkey_check_type(fcinfo);
	PG_TRY();
	{
		Relation	rel;

		amt_newkey_make_token(key);
		rel = amt_open(extension, AMT_KEY, RowExclusiveLock);
		if (with_row != NULL)
			with_row(rel, key, arg);
		amt_newkey_insert(rel, key);
		table_close(rel, NoLock);
		result = amt_newkey_result(fcinfo, key);
	}
	PG_FINALLY();
	{
		OPENSSL_cleanse(key, sizeof(AmtNewKey));
	}
	PG_END_TRY();
	return result;
}

/* amt_create_key(name, org_id, role, scopes, expires_at) */
PG_FUNCTION_INFO_V1(amt_create_key);
Datum
amt_create_key(PG_FUNCTION_ARGS)
{
	Oid			extension = amt_extension(fcinfo);
	char	   *name;
	AmtNewKey	key = {0};

	amt_check_writable("amt_create_key()");
	name = amt_string_arg(fcinfo, 0);
	key.org_id = amt_string_arg(fcinfo, 1);
	key.role = amt_string_arg(fcinfo, 2);
	key.scopes = scopes_arg(fcinfo, 3);
	amt_newkey_check(&key.org_id, &key.role, &key.scopes);
	key.name = amt_check_name(name != NULL ? name : "");
	key.created_by = get_creator(key.org_id);
	key.created_at = GetCurrentTransactionStartTimestamp();
	if (PG_ARGISNULL(4))
	{
		key.expires_at = amt_default_expiry(key.created_at);
		if (key.expires_at <= GetCurrentTimestamp())	/* in a long transaction */
			key.expires_at = amt_default_expiry(GetCurrentTimestamp());
	}
	else
	{
		key.expires_at = PG_GETARG_TIMESTAMPTZ(4);
		check_expiry(key.expires_at);
	}
	if (!amt_caller_is_trusted())
		amt_check_lifetime(GetCurrentTimestamp(), key.expires_at);
	PG_RETURN_DATUM(make_key(fcinfo, extension, &key, NULL, NULL));
}

static void
no_such_key(void)
{
	ereport(ERROR,
			(errcode(ERRCODE_NO_DATA_FOUND),
			 errmsg("key does not exist")));
}

static void
key_is_suspended(void)
{
	ereport(ERROR,
			(errcode(ERRCODE_OBJECT_NOT_IN_PREREQUISITE_STATE),
			 errmsg("key is suspended"),
			 errhint("Resume it first, or create another key.")));
}

/* The old key of a rotation. */
typedef struct OldKey
{
	AmtKey		key;
	bool		has_grace;		/* let the key live until grace_end */
	TimestampTz grace_end;
} OldKey;

/* Find the key to rotate, and check that the caller may rotate it. */
static void
find_old_key(Oid extension, FunctionCallInfo fcinfo, OldKey *old)
{
	AmtTarget	target;
	text	   *arg;
	bool		found;
	bool		allowed;

	if (PG_ARGISNULL(0))
		no_such_key();
	arg = PG_GETARG_TEXT_PP(0);
	found = amt_target_find(extension, VARDATA_ANY(arg), VARSIZE_ANY_EXHDR(arg), &target) &&
		amt_target_in_reach(AmtKeyValue(&target.key, org_id));
	allowed = found &&
		amt_may_manage_key(AmtKeyValue(&target.key, org_id),
						   !AmtKeyIsNull(&target.key, created_by),
						   AmtKeyValue(&target.key, created_by));
	if (allowed && target.has_secret)
		found = amt_target_has_right_secret(extension, &target);
	if ((Pointer) arg != DatumGetPointer(PG_GETARG_DATUM(0)))
		OPENSSL_cleanse(arg, VARSIZE_ANY(arg));
	if (!found)
		no_such_key();
	if (!allowed)
		ereport(ERROR,
				(errcode(ERRCODE_INSUFFICIENT_PRIVILEGE),
				 errmsg("permission denied to rotate key"),
				 errdetail("A key can be rotated by its creator and by anybody with the manager role, but not by a key.")));
	old->key = target.key;
}

/* The new key's default expiry: it gets the lifetime of the old key. */
static TimestampTz
same_lifetime(const AmtKey *old, TimestampTz since)
{
	TimestampTz created_at = DatumGetTimestampTz(AmtKeyValue(old, created_at));
	TimestampTz expires_at = AmtKeyIsNull(old, expires_at) ? DT_NOEND :
	DatumGetTimestampTz(AmtKeyValue(old, expires_at));
	int64		lifetime;

	if (expires_at == DT_NOEND)
		return DT_NOEND;
	if (TIMESTAMP_NOT_FINITE(expires_at) || TIMESTAMP_NOT_FINITE(created_at) ||
		pg_sub_s64_overflow(expires_at, created_at, &lifetime) ||
		pg_add_s64_overflow(since, Max(lifetime, USECS_PER_SEC), &expires_at) ||
		!IS_VALID_TIMESTAMP(expires_at))
		ereport(ERROR,
				(errcode(ERRCODE_DATETIME_VALUE_OUT_OF_RANGE),
				 errmsg("timestamp out of range"),
				 errhint("Pass expires_at.")));
	return expires_at;
}

static void
read_grace(FunctionCallInfo fcinfo, OldKey *old)
{
	TimestampTz now = GetCurrentTimestamp();

	if (PG_ARGISNULL(1))
		return;
	old->grace_end = DatumGetTimestampTz(DirectFunctionCall2(timestamptz_pl_interval,
															 TimestampTzGetDatum(now),
															 PG_GETARG_DATUM(1)));
	if (old->grace_end < now)
		amt_invalid("grace must not be negative", "Leave grace out to revoke the old key at once.");
	old->has_grace = old->grace_end > now;
}

/*
 * Revoke the old key, or let it expire when the grace ends.  Waits for
 * another rotation of the same key.  Raises P0002 if that has revoked it, and
 * 40001 if the key has changed otherwise: its end must not be undone.
 */
static void
end_old_key(Relation rel, AmtNewKey *key, void *arg)
{
	/* The new key was made of these.  scrypt took its time since we looked. */
	static const AttrNumber copied[] = {
		Anum_amt_key_name, Anum_amt_key_scopes, Anum_amt_key_expires_at
	};
	static const AttrNumber column = Anum_amt_key_expires_at;
	OldKey	   *old = arg;
	AmtWrite	write;
	bool		isnull;
	bool		found;
	Datum		expires_at;

	amt_write_begin(&write, rel);
	found = amt_lock_key(&write, &old->key);
	if (found)
	{
		/* It may have been suspended since we looked. */
		(void) slot_getattr(write.old_row, Anum_amt_key_suspended_at, &isnull);
		if (!isnull)
			key_is_suspended();
		amt_check_unchanged(&write, &old->key, copied, lengthof(copied),
							"The key has changed since the rotation began.");
		expires_at = slot_getattr(write.old_row, column, &isnull);
		if (old->has_grace &&
			(isnull || DatumGetTimestampTz(expires_at) > old->grace_end))
		{
			expires_at = TimestampTzGetDatum(old->grace_end);
			isnull = false;
			amt_write_update(&write, 1, &column, &expires_at, &isnull);
		}
	}
	amt_write_end(&write);
	if (!found || (!old->has_grace && !amt_revoke_key(rel, &old->key)))
		no_such_key();
}

/* amt_rotate_key(key, grace, expires_at) */
PG_FUNCTION_INFO_V1(amt_rotate_key);
Datum
amt_rotate_key(PG_FUNCTION_ARGS)
{
	Oid			extension = amt_extension(fcinfo);
	OldKey		old = {0};
	AmtNewKey	key = {0};
	const char *scopes;
	const char *detail;

	amt_check_writable("amt_rotate_key()");
	find_old_key(extension, fcinfo, &old);
	if (!AmtKeyIsNull(&old.key, suspended_at))
		key_is_suspended();

	key.org_id = TextDatumGetCString(AmtKeyValue(&old.key, org_id));
	key.role = TextDatumGetCString(AmtKeyValue(&old.key, role));
	key.name = TextDatumGetCString(AmtKeyValue(&old.key, name));
	key.replaces = TextDatumGetCString(AmtKeyValue(&old.key, key_id));
	if (!AmtKeyIsNull(&old.key, scopes))
	{
		key.scopes = amt_scopes_from_array(AmtKeyValue(&old.key, scopes), &detail);
		if (key.scopes == NULL)
			amt_invalid("scopes of the key are not valid", "Create another key.");
	}
	scopes = key.scopes;
	amt_newkey_check(&key.org_id, &key.role, &scopes);
	if (key.scopes == NULL && scopes != NULL && !amt_caller_is_trusted())
		ereport(ERROR,
				(errcode(ERRCODE_INSUFFICIENT_PRIVILEGE),
				 errmsg("permission denied to create key"),
				 errdetail("The key would have a scope that the caller does not have.")));

	key.created_by = get_creator(key.org_id);
	key.created_at = GetCurrentTransactionStartTimestamp();
	read_grace(fcinfo, &old);
	if (PG_ARGISNULL(2))
	{
		key.expires_at = same_lifetime(&old.key, key.created_at);
		if (key.expires_at <= GetCurrentTimestamp())	/* in a long transaction */
			key.expires_at = same_lifetime(&old.key, GetCurrentTimestamp());
	}
	else
	{
		key.expires_at = PG_GETARG_TIMESTAMPTZ(2);
		check_expiry(key.expires_at);
	}
	if (!amt_caller_is_trusted())
		amt_check_lifetime(GetCurrentTimestamp(), key.expires_at);
	PG_RETURN_DATUM(make_key(fcinfo, extension, &key, end_old_key, &old));
}

static void
check_sha256(FunctionCallInfo fcinfo, AmtNewKey *key)
{
	bytea	   *digest = PG_ARGISNULL(0) ? NULL : PG_GETARG_BYTEA_PP(0);

	if (digest == NULL || VARSIZE_ANY_EXHDR(digest) != AMT_SHA256_LEN)
		amt_invalid("token_sha256 must have 32 bytes",
					"It is the SHA-256 of the whole token, for example sha256(convert_to(token, 'UTF8')), or decode(digest, 'hex').");
	key->token_sha256 = (const uint8 *) VARDATA_ANY(digest);
}

/* The displayed prefix must not begin with the whole token. */
static void
check_is_no_token(const AmtNewKey *key)
{
	uint8		digest[AMT_SHA256_LEN];

	for (Size len = strlen(key->token_prefix); len > 0; len--)
	{
		amt_sha256(key->token_prefix, len, digest);
		if (memcmp(digest, key->token_sha256, AMT_SHA256_LEN) == 0)
			amt_invalid("token_prefix must not be the whole token", "Lists display it. Pass its first characters.");
	}
}

/*
 * amt_import_key(token_sha256, name, org_id, role, token_prefix, scopes, created_at,
 * created_by, expires_at)
 */
PG_FUNCTION_INFO_V1(amt_import_key);
Datum
amt_import_key(PG_FUNCTION_ARGS)
{
	Oid			extension = amt_extension(fcinfo);
	AmtNewKey	key = {0};
	AmtKey		known;
	AmtRowHint	hint = {0};
	Relation	rel;
	char	   *name;

	amt_check_writable("amt_import_key()");
	if (!amt_caller_is_trusted())
		ereport(ERROR,
				(errcode(ERRCODE_INSUFFICIENT_PRIVILEGE),
				 errmsg("permission denied to import key"),
				 errdetail("Only trusted callers, who may set \"amt_keys.org_id\", may import keys.")));
	check_sha256(fcinfo, &key);
	name = amt_string_arg(fcinfo, 1);
	key.name = amt_check_name(name != NULL ? name : "");
	key.org_id = amt_string_arg(fcinfo, 2);
	key.role = amt_string_arg(fcinfo, 3);
	if (key.org_id == NULL || key.role == NULL)
		amt_invalid("organization and role of an imported key must not be null", "Pass both.");
	key.token_prefix = amt_string_arg(fcinfo, 4);
	if (key.token_prefix != NULL)
	{
		amt_check_token_prefix(key.token_prefix);
		check_is_no_token(&key);
	}
	key.scopes = scopes_arg(fcinfo, 5);
	amt_newkey_check(&key.org_id, &key.role, &key.scopes);
	key.created_at = PG_ARGISNULL(6) ? GetCurrentTransactionStartTimestamp() : PG_GETARG_TIMESTAMPTZ(6);
	if (TIMESTAMP_NOT_FINITE(key.created_at))
		amt_invalid("creation time must be finite", "Pass null if it is not known.");
	key.created_by = amt_string_arg(fcinfo, 7);
	key.expires_at = PG_ARGISNULL(8) ? DT_NOEND : PG_GETARG_TIMESTAMPTZ(8);

	amt_newkey_make_token(&key);
	rel = amt_open(extension, AMT_KEY, RowExclusiveLock);
	if (amt_key_by_sha256(rel, key.token_sha256, &hint, &known))
		ereport(ERROR,
				(errcode(ERRCODE_UNIQUE_VIOLATION),
				 errmsg("a key with this token exists already")));
	amt_newkey_insert(rel, &key);
	table_close(rel, NoLock);
	PG_RETURN_TEXT_P(cstring_to_text(key.key_id));
}
