/*
 * target.c
 *	  The key that a caller names, and whether the caller may manage it.
 *
 * The functions and the view's triggers share these rules.  A caller reaches
 * the keys of its identity's organization, and a trusted caller all keys.  A
 * key out of reach is answered like one that does not exist.
 */
#include "postgres.h"

#include "access/table.h"
#include "fmgr.h"
#include "miscadmin.h"
#include "tcop/utility.h"
#include "utils/builtins.h"
#include "utils/datum.h"
#include "utils/rel.h"

#include "compat.h"
#include "header.h"
#include "identity.h"
#include "prefixes.h"
#include "session.h"
#include "stat.h"
#include "target.h"
#include "text.h"
#include "verdict.h"
#include "write.h"


static const char ellipsis[] = "...";

/*
 * In a security-restricted operation, as in ANALYZE of somebody's index, the
 * records would name the session's user and actor, who have asked for nothing.
 */
void
amt_check_writable(const char *command)
{
	amt_session_check();
	PreventCommandIfReadOnly(command);
	PreventCommandIfParallelMode(command);
	if (InSecurityRestrictedOperation())
		ereport(ERROR,
				(errcode(ERRCODE_INSUFFICIENT_PRIVILEGE),
				 errmsg("cannot execute %s within security-restricted operation", command)));
}

/* The id in <listed prefix>_<id>..., if the text has this form. */
static bool
displayed_id(const char *s, Size len, const char **id, Size *id_len)
{
	Size		tail = strlen(ellipsis);
	const char *separator;

	if (len <= tail || memcmp(s + len - tail, ellipsis, tail) != 0 ||
		!amt_token_has_prefix(amt_prefixes(), s, len))
		return false;
	separator = memchr(s, '_', len);
	*id = separator + 1;
	*id_len = len - tail - (*id - s);
	return amt_token_is_id(*id, *id_len);
}

bool
amt_target_in_reach(Datum org_id)
{
	AmtIdentity identity = amt_identity();

	return amt_caller_is_trusted() ||
		(identity.org_id != NULL && amt_text_is(org_id, identity.org_id));
}

static bool
is_in_reach(const AmtKey *key)
{
	return amt_target_in_reach(AmtKeyValue(key, org_id));
}

/* The one key within reach that has this displayed prefix. */
static bool
find_by_prefix(Relation rel, const char *s, Size len, AmtKey *key)
{
	AmtKey		keys[2];
	int			found;

	/* Do not read the keys of everybody to find none within reach. */
	if (amt_identity().org_id == NULL && !amt_caller_is_trusted())
		return false;
	found = amt_keys_by_prefix(rel, s, len, is_in_reach, keys, 2);
	if (found == 1)
		*key = keys[0];
	if (found > 1)
		ereport(ERROR,
				(errcode(ERRCODE_CARDINALITY_VIOLATION),
				 errmsg("several keys have this displayed prefix"),
				 errhint("Name the key by its id.")));
	return found == 1;
}

static bool
find_named(Relation rel, const char *s, Size len, AmtTarget *target)
{
	const char *id;
	Size		id_len;

	if (amt_token_parse(amt_prefixes(), s, len, &target->token))
	{
		target->has_secret = true;
		return amt_key_by_id(rel, target->token.id, target->token.id_len, &target->key) &&
			!AmtKeyIsNull(&target->key, scrypt_hash);
	}
	/* A key within reach may have another organization's id as its prefix. */
	if (amt_token_is_id(s, len) && amt_key_by_id(rel, s, len, &target->key) &&
		is_in_reach(&target->key))
		return true;
	if (find_by_prefix(rel, s, len, &target->key))
		return true;
	/* The key may be shown with another prefix, and this one be listed too. */
	return displayed_id(s, len, &id, &id_len) &&
		amt_key_by_id(rel, id, id_len, &target->key) && is_in_reach(&target->key);
}

bool
amt_target_find(Oid extension, const char *s, Size len, AmtTarget *target)
{
	Relation	rel;
	bool		found;

	memset(target, 0, sizeof(AmtTarget));
	amt_check_encoding(s, len);
	amt_header_skip_bearer(&s, &len);
	rel = amt_open(extension, AMT_KEY, AccessShareLock);
	found = find_named(rel, s, len, target);
	table_close(rel, AccessShareLock);
	if (found)
		return true;
	target->has_secret = false;
	target->is_whole_token = amt_find_imported(extension, s, len, &target->key);
	return target->is_whole_token;
}

bool
amt_target_has_right_secret(Oid extension, const AmtTarget *target)
{
	AmtKey		key;
	AmtVerdict	verdict;

	if (target->is_whole_token)
		return true;
	if (!target->has_secret)
		return false;
	verdict = amt_verify_secret(extension, &target->token, &key);
	if (verdict == AMT_WRONG_SECRET)
		amt_stat_add(AMT_REJECTED_WRONG_SECRET, 1);
	return verdict == AMT_GOOD;
}

bool
amt_may_manage_key(Datum org_id, bool has_creator, Datum created_by)
{
	AmtIdentity identity = amt_identity();

	if (amt_caller_is_trusted())
		return true;
	return identity.key_id == NULL && identity.org_id != NULL &&
		amt_text_is(org_id, identity.org_id) &&
		(amt_identity_is_manager() ||
		 (identity.actor != NULL && has_creator && amt_text_is(created_by, identity.actor)));
}

bool
amt_may_revoke_key(const AmtKey *key)
{
	AmtIdentity identity = amt_identity();

	if (identity.key_id != NULL)
		return identity.org_id != NULL &&
			amt_text_is(AmtKeyValue(key, org_id), identity.org_id) &&
			amt_text_is(AmtKeyValue(key, key_id), identity.key_id);
	return amt_may_manage_key(AmtKeyValue(key, org_id), !AmtKeyIsNull(key, created_by),
							  AmtKeyValue(key, created_by));
}

void
amt_check_unchanged(AmtWrite *write, const AmtKey *checked, const AttrNumber *columns, int n,
					const char *detail)
{
	TupleDesc	tupdesc = RelationGetDescr(write->rel);

	for (int i = 0; i < n; i++)
	{
		Form_pg_attribute att = TupleDescAttr(tupdesc, columns[i] - 1);
		bool		isnull;
		Datum		value = slot_getattr(write->old_row, columns[i], &isnull);

		if (isnull != checked->nulls[columns[i] - 1] ||
			(!isnull && !datum_image_eq(value, checked->values[columns[i] - 1], att->attbyval, att->attlen)))
			ereport(ERROR,
					(errcode(ERRCODE_T_R_SERIALIZATION_FAILURE),
					 errmsg("could not serialize access due to concurrent update"),
					 errdetail("%s", detail),
					 errhint("Try again.")));
	}
}

bool
amt_lock_key(AmtWrite *write, const AmtKey *checked)
{
	/* What a right depends on.  None of them changes while a key lives. */
	static const AttrNumber columns[] = {
		Anum_amt_key_org_id, Anum_amt_key_role, Anum_amt_key_created_by,
		Anum_amt_key_scrypt_hash, Anum_amt_key_token_sha256
	};
	Size		id_len;
	const char *id = amt_key_id_of(checked, &id_len);
	bool		busy;

	if (!amt_write_lock(write, amt_index(write->rel, AMT_KEY_BY_ID), id, id_len, false, &busy))
		return false;
	amt_check_unchanged(write, checked, columns, lengthof(columns), "Another key has this id by now.");
	return true;
}

bool
amt_revoke_key(Relation rel, const AmtKey *checked)
{
	AmtWrite	write;
	bool		found;

	amt_write_begin(&write, rel);
	found = amt_lock_key(&write, checked);
	if (found)
		amt_write_delete(&write);
	amt_write_end(&write);
	return found;
}

PG_FUNCTION_INFO_V1(amt_may_manage);
Datum
amt_may_manage(PG_FUNCTION_ARGS)
{
	amt_session_check();
	if (PG_ARGISNULL(0) || PG_ARGISNULL(1))
		PG_RETURN_BOOL(false);
	PG_RETURN_BOOL(amt_may_manage_key(PG_GETARG_DATUM(1), !PG_ARGISNULL(2),
									  PG_ARGISNULL(2) ? (Datum) 0 : PG_GETARG_DATUM(2)));
}
