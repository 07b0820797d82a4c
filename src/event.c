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

#include "access/table.h"
#include "commands/sequence.h"
#include "mb/pg_wchar.h"
#include "miscadmin.h"
#include "storage/lmgr.h"
#include "utils/builtins.h"
#include "utils/fmgrprotos.h"
#include "utils/rel.h"
#include "utils/timestamp.h"

#include "compat.h"
#include "event.h"
#include "identity.h"
#include "newest.h"
#include "text.h"
#include "write.h"

/* The last number that the sequence has given. */
static int64
get_last_value(Oid sequence)
{
	LOCAL_FCINFO(fcinfo, 1);
	Datum		value;

	InitFunctionCallInfoData(*fcinfo, NULL, 1, InvalidOid, NULL, NULL);
	fcinfo->args[0].value = ObjectIdGetDatum(sequence);
	fcinfo->args[0].isnull = false;
	value = pg_sequence_last_value(fcinfo);
	return fcinfo->isnull ? PG_INT64_MIN : DatumGetInt64(value);
}

/*
 * Is the sequence, which has just given this number, behind the rows?  A
 * higher number may also be of a transaction that got it after us.
 */
static bool
is_behind(Relation rel, Oid sequence, int64 event_id, int64 *last_id)
{
	*last_id = amt_event_last_id(rel);
	return *last_id >= event_id &&
		(*last_id > get_last_value(sequence) || amt_event_exists(rel, event_id));
}

/*
 * Get a free number.  Must run as the table's owner, which owns the
 * sequence.
 */
static int64
next_event_id(Relation rel)
{
	Oid			sequence = amt_event_sequence(rel);
	int64		event_id = nextval_internal(sequence, false);
	int64		last_id;

	if (likely(!is_behind(rel, sequence, event_id, &last_id)))
		return event_id;

	/* One transaction at a time moves it. */
	LockRelationOid(sequence, ShareUpdateExclusiveLock);
	event_id = nextval_internal(sequence, false);
	if (is_behind(rel, sequence, event_id, &last_id))
	{
		(void) DirectFunctionCall2(setval_oid, ObjectIdGetDatum(sequence), Int64GetDatum(last_id));
		event_id = nextval_internal(sequence, false);
	}
	UnlockRelationOid(sequence, ShareUpdateExclusiveLock);
	return event_id;
}

static void
set_text(Datum *values, bool *nulls, int attnum, const char *value)
{
	nulls[attnum - 1] = value == NULL;
	values[attnum - 1] = value != NULL ? CStringGetTextDatum(value) : (Datum) 0;
}

/* Set the actor, if the identity is of the key's organization. */
static void
set_actor(Datum *values, bool *nulls, const AmtKey *key)
{
	AmtIdentity identity = amt_identity_recorded();
	bool		own = identity.org_id != NULL && amt_text_is(AmtKeyValue(key, org_id), identity.org_id);

	set_text(values, nulls, Anum_amt_key_event_actor, own ? identity.actor : NULL);
	set_text(values, nulls, Anum_amt_key_event_by_key, own ? identity.key_id : NULL);
}

/*
 * The name of the session's user.  If it comes from a database with another
 * encoding, the user's number stands for it.
 */
static void
set_db_user(NameData *name)
{
	Oid			roleid = GetSessionUserId();
	const char *user = GetUserNameFromId(roleid, false);

	namestrcpy(name, user);
	if (!pg_verify_mbstr(GetDatabaseEncoding(), user, strlen(user), true))
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
	set_text(values, nulls, Anum_amt_key_event_event, event);
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
