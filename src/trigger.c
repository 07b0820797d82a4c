/*
 * trigger.c
 *	  The triggers of the tables: they check, complete and record rows.
 *
 * Not only our functions write rows.  The owner of amt_key can, and logical
 * replication does.  So triggers check rows and record events, in the same
 * transaction.  A trigger function must be called by a trigger of the
 * extension's own table.
 *
 * A dump has the events beside the keys.  A restored key must not be
 * recorded again: its event would take an old number.  The scripts of
 * pg_dump turn row_security off and empty the search_path.  So while a
 * statement of the session has done that, we do not record a key that our
 * functions have not made.  The user must have the rights of the table's
 * owner, and not by a SECURITY DEFINER function.  Times do not count here:
 * clocks differ, and a key that was imported can have any.
 *
 * The end of a key must survive a crash.  The owner of the database can turn
 * synchronous_commit off for everybody, and for subscriptions it is off by
 * default.  So we force the commit to disk, in the trigger that fires when rows
 * are replicated, too.
 */
#include "postgres.h"

#include "access/htup_details.h"
#include "access/table.h"
#include "access/xact.h"
#include "catalog/namespace.h"
#include "catalog/pg_collation.h"
#include "commands/trigger.h"
#include "miscadmin.h"
#include "utils/acl.h"
#include "utils/array.h"
#include "utils/builtins.h"
#include "utils/datum.h"
#include "utils/guc.h"
#include "utils/rel.h"
#include "utils/rls.h"

#include "checks.h"
#include "compat.h"
#include "event.h"
#include "phc.h"
#include "prefixes.h"
#include "roles.h"
#include "session.h"
#include "sha256.h"
#include "table_code.h"
#include "text.h"
#include "trigger.h"
#include "usage.h"
#include "write.h"

#define ROW_EVENTS		(TRIGGER_EVENT_ROW | TRIGGER_EVENT_TIMINGMASK)

/*
 * The trigger data.  Raises 39P01 unless a trigger of that table of ours
 * calls, with these bits.
 */
static TriggerData *
check_caller(FunctionCallInfo fcinfo, Oid extension, AmtTableId table, uint32 bits)
{
	TriggerData *trigdata = (TriggerData *) fcinfo->context;

	amt_session_check();
	if (!CALLED_AS_TRIGGER(fcinfo) ||
		!amt_is_table(extension, table, trigdata->tg_relation) ||
		(trigdata->tg_event & ROW_EVENTS) != bits)
		ereport(ERROR,
				(errcode(ERRCODE_E_R_I_E_TRIGGER_PROTOCOL_VIOLATED),
				 errmsg("function can only be called by the triggers of extension \"amt_keys\"")));
	amt_check_table(trigdata->tg_relation, table);
	return trigdata;
}

static void
refuse_row(const char *problem, const char *hint)
{
	ereport(ERROR,
			(errcode(ERRCODE_CHECK_VIOLATION),
			 errmsg("%s", problem),
			 errhint("%s", hint)));
}

/*
 * A text of the row; NULL if it is null.  Raises 22021 unless it is valid in
 * the database's encoding.
 */
static char *
row_text(const AmtKey *key, int attnum)
{
	char	   *s;

	if (key->nulls[attnum - 1])
		return NULL;
	s = TextDatumGetCString(key->values[attnum - 1]);
	amt_check_encoding(s, strlen(s));
	return s;
}

static void
check_hashes(const AmtKey *key)
{
	AmtPhc		phc;
	Size		len;
	const char *stored = amt_key_stored_hash(key, &len);

	if (AmtKeyIsNull(key, scrypt_hash) == AmtKeyIsNull(key, token_sha256))
		refuse_row("key must have one hash",
				   "Set either scrypt_hash, or token_sha256 for a key made elsewhere.");
	if (!AmtKeyIsNull(key, scrypt_hash) && !amt_phc_parse(stored, len, &phc))
		refuse_row("scrypt hash is not valid",
				   "A hash is a PHC string, $scrypt$ln=14,r=8,p=1$<salt>$<hash>, of at most 1 GiB of work.");
	if (!AmtKeyIsNull(key, token_sha256) && len != AMT_SHA256_LEN)
		refuse_row("token_sha256 must have 32 bytes", "It is the SHA-256 of the whole token.");
}

/* Raise an error unless the key can be verified, listed and revoked. */
static void
check_row(const AmtKey *key)
{
	char	   *id = row_text(key, Anum_amt_key_key_id);
	char	   *prefix = row_text(key, Anum_amt_key_token_prefix);
	char	   *role = row_text(key, Anum_amt_key_role);
	const char *problem;

	(void) row_text(key, Anum_amt_key_created_by);
	(void) row_text(key, Anum_amt_key_replaces);
	if (!amt_token_is_id(id, strlen(id)))
		refuse_row("key id is not valid", "A key id has 1 to 64 characters of 0-9, A-Z and a-z.");
	check_hashes(key);
	if (!amt_stored_org_id_is_valid(row_text(key, Anum_amt_key_org_id), &problem))
		refuse_row(problem, "An organization has 1 to 255 characters.");
	if (*role == '\0')
		refuse_row("role must not be empty", "Every key has one of the roles in \"amt_keys.roles\".");
	if (!amt_stored_name_is_valid(row_text(key, Anum_amt_key_name), &problem))
		refuse_row(problem, "A name has 1 to 100 characters, and none is a control character or a line separator.");
	if (prefix != NULL && !amt_stored_token_prefix_is_valid(prefix, &problem))
		refuse_row(problem, "A token prefix has 1 to 100 characters that lists can show.");
	if (!AmtKeyIsNull(key, scopes) &&
		amt_scopes_from_array(AmtKeyValue(key, scopes), &problem) == NULL)
		refuse_row("scopes are not valid", problem);
}

static bool
column_differs(const AmtKey *old, const AmtKey *new, TupleDesc tupdesc, int i)
{
	Form_pg_attribute att = TupleDescAttr(tupdesc, i);

	if (old->nulls[i] || new->nulls[i])
		return old->nulls[i] != new->nulls[i];
	return !datum_image_eq(old->values[i], new->values[i], att->attbyval, att->attlen);
}

#define Differs(column) \
	column_differs(&old, &new, tupdesc, Anum_amt_key_##column - 1)

static void
check_frozen(const AmtKey *old, const AmtKey *new, TupleDesc tupdesc)
{
	for (int i = 0; i < Natts_amt_key; i++)
	{
		if (i + 1 == Anum_amt_key_name || i + 1 == Anum_amt_key_expires_at ||
			i + 1 == Anum_amt_key_suspended_at)
			continue;
		if (column_differs(old, new, tupdesc, i))
			ereport(ERROR,
					(errcode(ERRCODE_OBJECT_NOT_IN_PREREQUISITE_STATE),
					 errmsg("column \"%s\" of a key cannot be changed",
							NameStr(TupleDescAttr(tupdesc, i)->attname)),
					 errhint("Create another key and revoke this one.")));
	}
}

/*
 * Give the row a displayed prefix, made of the first listed prefix and the
 * id.
 */
static HeapTuple
add_token_prefix(HeapTuple row, TupleDesc tupdesc, const AmtKey *key)
{
	int			column = Anum_amt_key_token_prefix;
	bool		isnull = false;
	Datum		value = CStringGetTextDatum(psprintf("%s_%s...", amt_prefixes()->prefix[0].name,
													 row_text(key, Anum_amt_key_key_id)));

	return heap_modify_tuple_by_cols(row, tupdesc, 1, &column, &value, &isnull);
}

/*
 * Delete the usage row.  Waits for the worker's batch if that has locked it.
 * If the table has code of others, the row stays until the worker sweeps it:
 * that code must not hold up the end of a key.
 */
static void
delete_usage(Oid extension, const AmtKey *key)
{
	Relation	rel = amt_open(extension, AMT_KEY_USAGE, RowExclusiveLock);
	Size		id_len;
	const char *id = amt_key_id_of(key, &id_len);
	AmtWrite	write;
	bool		busy;

	if (amt_has_foreign_code(rel))
	{
		table_close(rel, NoLock);
		return;
	}
	amt_write_begin(&write, rel);
	if (amt_write_lock(&write, amt_index(rel, AMT_USAGE_BY_ID), id, id_len, false, &busy))
		amt_write_delete(&write);
	amt_write_end(&write);
	table_close(rel, NoLock);
}

/* BEFORE INSERT OR UPDATE OR DELETE on amt_key, for each row, always. */
PG_FUNCTION_INFO_V1(amt_key_guard);
Datum
amt_key_guard(PG_FUNCTION_ARGS)
{
	Oid			extension = amt_extension(fcinfo);
	TriggerData *trigdata = check_caller(fcinfo, extension, AMT_KEY,
										 TRIGGER_EVENT_ROW | TRIGGER_EVENT_BEFORE);
	TupleDesc	tupdesc = RelationGetDescr(trigdata->tg_relation);
	HeapTuple	row = trigdata->tg_trigtuple;
	AmtKey		new;
	AmtKey		old;

	if (!TRIGGER_FIRED_BY_INSERT(trigdata->tg_event))
		ForceSyncCommit();
	if (TRIGGER_FIRED_BY_DELETE(trigdata->tg_event))
	{
		/*
		 * A subscriber counts for itself; amt_key_record() does not fire
		 * there.
		 */
		if (SessionReplicationRole == SESSION_REPLICATION_ROLE_REPLICA)
		{
			amt_key_deform(row, tupdesc, &old);
			delete_usage(extension, &old);
		}
		return PointerGetDatum(row);
	}
	if (TRIGGER_FIRED_BY_UPDATE(trigdata->tg_event))
	{
		row = trigdata->tg_newtuple;
		amt_key_deform(row, tupdesc, &new);
		amt_key_deform(trigdata->tg_trigtuple, tupdesc, &old);
		check_frozen(&old, &new, tupdesc);
	}
	else
		amt_key_deform(row, tupdesc, &new);
	check_row(&new);
	if (AmtKeyIsNull(&new, token_prefix))
		row = add_token_prefix(row, tupdesc, &new);
	return PointerGetDatum(row);
}

/*
 * Has a role with the owner's rights set this in the session?  The owner of
 * the database can do that for everybody, and a SECURITY DEFINER function of
 * others for the caller, which does not count.
 */
static bool
is_set_for_owner(const char *name, Oid owner)
{
	const struct config_generic *setting = amt_session_setting(name);

	return setting->source == PGC_S_SESSION && has_privs_of_role(setting->srole, owner);
}

/* Our functions write with a search_path that is not empty. */
static bool
is_restored(Relation rel)
{
	Oid			owner = rel->rd_rel->relowner;

	return !row_security && namespace_search_path[0] == '\0' &&
		has_privs_of_role(GetOuterUserId(), owner) &&
		is_set_for_owner("row_security", owner) && is_set_for_owner("search_path", owner);
}

static void
record_update(Oid extension, TriggerData *trigdata)
{
	TupleDesc	tupdesc = RelationGetDescr(trigdata->tg_relation);
	AmtKey		old;
	AmtKey		new;

	amt_key_deform(trigdata->tg_trigtuple, tupdesc, &old);
	amt_key_deform(trigdata->tg_newtuple, tupdesc, &new);
	if (Differs(name) || Differs(expires_at))
		amt_event_write(extension, &new, "changed", AMT_NO_CALLS);
	if (Differs(suspended_at))
		amt_event_write(extension, &new, AmtKeyIsNull(&new, suspended_at) ? "resumed" : "suspended",
						AMT_NO_CALLS);
}

static void
record_delete(Oid extension, TriggerData *trigdata)
{
	AmtKey		key;
	int64		calls;
	TimestampTz last_used_at;

	amt_key_deform(trigdata->tg_trigtuple, RelationGetDescr(trigdata->tg_relation), &key);
	amt_usage_read(extension, RelationGetRelid(trigdata->tg_relation), &key, &calls, &last_used_at);
	amt_event_write(extension, &key, "revoked", calls);
	delete_usage(extension, &key);
}

/* AFTER INSERT OR UPDATE OR DELETE on amt_key, for each row. */
PG_FUNCTION_INFO_V1(amt_key_record);
Datum
amt_key_record(PG_FUNCTION_ARGS)
{
	Oid			extension = amt_extension(fcinfo);
	TriggerData *trigdata = check_caller(fcinfo, extension, AMT_KEY,
										 TRIGGER_EVENT_ROW | TRIGGER_EVENT_AFTER);
	AmtKey		key;

	if (TRIGGER_FIRED_BY_UPDATE(trigdata->tg_event))
		record_update(extension, trigdata);
	else if (TRIGGER_FIRED_BY_DELETE(trigdata->tg_event))
		record_delete(extension, trigdata);
	else
	{
		amt_key_deform(trigdata->tg_trigtuple, RelationGetDescr(trigdata->tg_relation), &key);
		if (!is_restored(trigdata->tg_relation))
			amt_event_write(extension, &key, "created", AMT_NO_CALLS);
	}
	return PointerGetDatum(NULL);
}

/*
 * BEFORE TRUNCATE on amt_key.  TRUNCATE fires no row trigger, so it would
 * record nothing.
 */
PG_FUNCTION_INFO_V1(amt_key_no_truncate);
Datum
amt_key_no_truncate(PG_FUNCTION_ARGS)
{
	(void) check_caller(fcinfo, amt_extension(fcinfo), AMT_KEY, TRIGGER_EVENT_BEFORE);
	ereport(ERROR,
			(errcode(ERRCODE_FEATURE_NOT_SUPPORTED),
			 errmsg("cannot truncate table \"amt_key\""),
			 errdetail("Every revocation is recorded, and TRUNCATE cannot be."),
			 errhint("Use DELETE.")));
	PG_RETURN_NULL();
}

/*
 * A REPLICA trigger, BEFORE each row of amt_key_usage.  A subscriber counts
 * by itself, so rows of a publisher are discarded.  If a tool enables all
 * triggers of a table, this one fires for our own rows, and no longer for a
 * publisher's.  Ours must pass, or nothing could be counted or revoked any
 * more.
 */
PG_FUNCTION_INFO_V1(amt_usage_replica);
Datum
amt_usage_replica(PG_FUNCTION_ARGS)
{
	TriggerData *trigdata = check_caller(fcinfo, amt_extension(fcinfo), AMT_KEY_USAGE,
										 TRIGGER_EVENT_ROW | TRIGGER_EVENT_BEFORE);

	if (SessionReplicationRole == SESSION_REPLICATION_ROLE_REPLICA)
		return PointerGetDatum(NULL);
	return PointerGetDatum(TRIGGER_FIRED_BY_UPDATE(trigdata->tg_event) ?
						   trigdata->tg_newtuple : trigdata->tg_trigtuple);
}

const PGFunction amt_trigger_functions[] = {
	amt_key_guard, amt_key_record, amt_key_no_truncate, amt_usage_replica, NULL
};
