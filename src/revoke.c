/*
 * revoke.c
 *	  Revoking a key: amt_revoke().
 *
 * In every isolation level, the newest version of the row is deleted.  If
 * two callers revoke the same key, the second waits for the first, and then
 * learns that the key does not exist.
 */
#include "postgres.h"

#include <openssl/crypto.h>

#include "access/table.h"
#include "fmgr.h"
#include "miscadmin.h"

#include "compat.h"
#include "target.h"

/*
 * May the caller revoke the key?  If not: false for a key out of reach, else
 * an error.  A token with a wrong secret names no key, even to a manager: ids
 * are public, so anybody could make one up and have it revoked as leaked.
 */
static bool
check_revoke(Oid extension, const AmtTarget *target)
{
	if (amt_target_has_right_secret(extension, target))
		return true;
	if (amt_may_revoke_key(&target->key))
		return !target->has_secret;
	if (!amt_target_in_reach(AmtKeyValue(&target->key, org_id)))
		return false;
	ereport(ERROR,
			(errcode(ERRCODE_INSUFFICIENT_PRIVILEGE),
			 errmsg("permission denied to revoke key"),
			 errdetail("A key can be revoked by its creator, by anybody with the manager role, by itself, and by anybody who presents the whole token.")));
	return false;				/* keep compiler quiet */
}

static bool
revoke_target(Oid extension, const AmtTarget *target)
{
	Relation	rel = amt_open(extension, AMT_KEY, RowExclusiveLock);
	bool		revoked = amt_revoke_key(rel, &target->key);

	table_close(rel, NoLock);
	return revoked;
}

#define MAX_TRIES		10

/*
 * Revoke the key that the text names.  If it has gone while we waited for it,
 * look again: the transaction that deleted it may have made another key of the
 * same imported token.
 */
static bool
revoke_named(Oid extension, const char *s, Size len, AmtTarget *target)
{
	for (int tries = 0; tries < MAX_TRIES; tries++)
	{
		if (!amt_target_find(extension, s, len, target) || !check_revoke(extension, target))
			return false;
		if (revoke_target(extension, target))
			return true;
	}
	return false;				/* found, but not by its index: see REINDEX */
}

/*
 * The same token may have been imported as well.  A key that we wait for may
 * have been replaced by another one, as in revoke_named().
 */
static void
revoke_imported(Oid extension, const char *s, Size len)
{
	AmtTarget	target;

	for (int tries = 0; tries < MAX_TRIES; tries++)
	{
		if (!amt_target_find(extension, s, len, &target) || !target.is_whole_token)
			return;
		(void) revoke_target(extension, &target);
	}
	ereport(ERROR,
			(errcode(ERRCODE_T_R_SERIALIZATION_FAILURE),
			 errmsg("could not serialize access due to concurrent update"),
			 errdetail("A key that was imported from the token is still there."),
			 errhint("Try again. If it stays, revoke both keys by their ids, and REINDEX table \"amt_key\".")));
}

PG_FUNCTION_INFO_V1(amt_revoke);
Datum
amt_revoke(PG_FUNCTION_ARGS)
{
	Oid			extension = amt_extension(fcinfo);
	text	   *arg;
	AmtTarget	target;
	bool		revoked;

	amt_check_writable("amt_revoke()");
	if (PG_ARGISNULL(0))
		PG_RETURN_BOOL(false);
	arg = PG_GETARG_TEXT_PP(0);
	revoked = revoke_named(extension, VARDATA_ANY(arg), VARSIZE_ANY_EXHDR(arg), &target);

	if (revoked && target.has_secret)
		revoke_imported(extension, VARDATA_ANY(arg), VARSIZE_ANY_EXHDR(arg));
	if ((Pointer) arg != DatumGetPointer(PG_GETARG_DATUM(0)))
		OPENSSL_cleanse(arg, VARSIZE_ANY(arg));
	PG_RETURN_BOOL(revoked);
}
