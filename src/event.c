/*
 * event.c
 *	  Writing amt_key_event.
 *
 * Numbers come from the identity column's sequence.  After a failover to a
 * logical subscriber or a partial restore, the sequence may be behind the
 * rows.  A revocation must not fail because of that, nor get a lower number
 * than older events.  So we move the sequence past the highest number.
 */
#include "postgres.h"

#include "access/htup_details.h"
#include "access/table.h"
#include "catalog/pg_class.h"
#include "catalog/pg_sequence.h"
#include "commands/sequence.h"
#include "mb/pg_wchar.h"
#include "miscadmin.h"
#include "storage/lmgr.h"
#include "utils/acl.h"
#include "utils/builtins.h"
#include "utils/fmgrprotos.h"
#include "utils/rel.h"
#include "utils/syscache.h"
#include "utils/timestamp.h"

#include "compat.h"
#include "event.h"
#include "identity.h"
#include "newest.h"
#include "text.h"
#include "write.h"

#define MAX_TRIES	100

/*
 * A session that takes a number locks the numbers in share mode for that
 * moment.  One that moves the sequence locks them alone.  So it is never
 * moved back behind a number that another session takes meanwhile.  It is a
 * lock of its own: nextval() holds that of the sequence until the transaction
 * ends.
 */
static void
lock_numbers(Oid sequence, LOCKMODE mode)
{
	LockDatabaseObject(RelationRelationId, sequence, 1, mode);
}

static void
unlock_numbers(Oid sequence, LOCKMODE mode)
{
	UnlockDatabaseObject(RelationRelationId, sequence, 1, mode);
}

static int64
take_number(Oid sequence)
{
	int64		number;

	lock_numbers(sequence, ShareLock);
	number = nextval_internal(sequence, false);
	unlock_numbers(sequence, ShareLock);
	return number;
}

/*
 * The last number that the sequence has given.  If it cannot be read, the
 * highest possible one: then the sequence is not moved.
 */
static int64
get_last_value(Oid sequence)
{
	LOCAL_FCINFO(fcinfo, 1);
	Datum		value;

	if (pg_class_aclcheck(sequence, GetUserId(), ACL_SELECT | ACL_USAGE) != ACLCHECK_OK)
		return PG_INT64_MAX;
	InitFunctionCallInfoData(*fcinfo, NULL, 1, InvalidOid, NULL, NULL);
	fcinfo->args[0].value = ObjectIdGetDatum(sequence);
	fcinfo->args[0].isnull = false;
	value = pg_sequence_last_value(fcinfo);
	return fcinfo->isnull ? PG_INT64_MAX : DatumGetInt64(value);
}

/*
 * Half of the highest number that the sequence can give.  It does not follow
 * rows with higher numbers, which would bring it near its end.
 */
static int64
get_limit(Oid sequence)
{
	HeapTuple	tuple = SearchSysCache1(SEQRELID, ObjectIdGetDatum(sequence));
	int64		limit = 0;

	if (HeapTupleIsValid(tuple))
	{
		limit = ((Form_pg_sequence) GETSTRUCT(tuple))->seqmax / 2;
		ReleaseSysCache(tuple);
	}
	return limit;
}

/*
 * Move the sequence past the rows, if nobody else has done it.  A row with a
 * higher number than ours does not tell that it is behind: that transaction
 * may have got the number after us.
 */
static void
move_sequence(Oid sequence, int64 last_id)
{
	lock_numbers(sequence, ExclusiveLock);
	if (last_id > get_last_value(sequence))
		(void) DirectFunctionCall2(setval_oid, ObjectIdGetDatum(sequence), Int64GetDatum(last_id));
	unlock_numbers(sequence, ExclusiveLock);
}

/*
 * Get a free number, if possible a higher one than all events have.  Must run
 * as the table's owner, which owns the sequence.
 */
static int64
next_event_id(Relation rel)
{
	Oid			sequence = amt_event_sequence(rel);
	int64		limit;
	int64		number;
	int64		last_id;

	/* As nextval() does, but before the numbers are locked. */
	LockRelationOid(sequence, RowExclusiveLock);
	limit = get_limit(sequence);
	number = take_number(sequence);
	last_id = amt_event_last_id(rel, limit);

	if (likely(last_id < number && number < limit))
		return number;
	if (last_id > get_last_value(sequence))
	{
		move_sequence(sequence, last_id);
		number = take_number(sequence);
	}
	for (int tries = 0; amt_event_exists(rel, number) && tries < MAX_TRIES; tries++)
		number = take_number(sequence);
	return number;
}

/* Set the actor, if the identity is of the key's organization. */
static void
set_actor(Datum *values, bool *nulls, const AmtKey *key)
{
	AmtIdentity identity = amt_identity_recorded();
	bool		own = identity.org_id != NULL && amt_text_is(AmtKeyValue(key, org_id), identity.org_id);

	amt_set_text(values, nulls, Anum_amt_key_event_actor, own ? identity.actor : NULL);
	amt_set_text(values, nulls, Anum_amt_key_event_by_key, own ? identity.key_id : NULL);
}

/*
 * The name of the session's user.  If it comes from a database with another
 * encoding, or the user was dropped, the user's number stands for it.
 */
static void
set_db_user(NameData *name)
{
	Oid			roleid = GetSessionUserId();
	const char *user = GetUserNameFromId(roleid, true);

	if (user != NULL)
		namestrcpy(name, user);
	if (user == NULL || !pg_verify_mbstr(GetDatabaseEncoding(), user, strlen(user), true))
		snprintf(NameStr(*name), NAMEDATALEN, "%u", roleid);
}

void
amt_event_write(Oid extension, const AmtKey *key, const char *event, int64 calls)
{
	static const AttrNumber copied[][2] = {
		{Anum_amt_key_event_key_id, Anum_amt_key_key_id},
		{Anum_amt_key_event_org_id, Anum_amt_key_org_id},
		{Anum_amt_key_event_name, Anum_amt_key_name},
		{Anum_amt_key_event_role, Anum_amt_key_role},
		{Anum_amt_key_event_scopes, Anum_amt_key_scopes},
		{Anum_amt_key_event_expires_at, Anum_amt_key_expires_at}
	};
	Relation	rel = amt_open(extension, AMT_KEY_EVENT, RowExclusiveLock);
	Datum		values[Natts_amt_key_event] = {0};
	bool		nulls[Natts_amt_key_event] = {false};
	NameData	db_user;
	AmtWrite	write;

	for (int i = 0; i < (int) lengthof(copied); i++)
	{
		values[copied[i][0] - 1] = key->values[copied[i][1] - 1];
		nulls[copied[i][0] - 1] = key->nulls[copied[i][1] - 1];
	}
	values[Anum_amt_key_event_at - 1] = TimestampTzGetDatum(GetCurrentTimestamp());
	amt_set_text(values, nulls, Anum_amt_key_event_event, event);
	set_actor(values, nulls, key);
	set_db_user(&db_user);
	values[Anum_amt_key_event_db_user - 1] = NameGetDatum(&db_user);
	values[Anum_amt_key_event_calls - 1] = Int64GetDatum(calls);
	nulls[Anum_amt_key_event_calls - 1] = calls == AMT_NO_CALLS;

	amt_write_begin(&write, rel);
	values[Anum_amt_key_event_event_id - 1] = Int64GetDatum(next_event_id(rel));
	amt_write_insert(&write, values, nulls, Natts_amt_key_event);
	amt_write_end(&write);
	table_close(rel, NoLock);
}
