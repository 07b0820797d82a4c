/*
 * view.c
 *	  The view amt_keys: its calls, and managing keys by statements on it.
 *
 * The INSTEAD OF triggers share their rules with the functions.  They skip a
 * row that the caller sees but may not manage, as a policy would.  The
 * view's privileges decide which columns can be updated at all.
 */
#include "postgres.h"

#include "access/htup_details.h"
#include "access/sysattr.h"
#include "access/table.h"
#include "access/xact.h"
#include "catalog/dependency.h"
#include "catalog/pg_class.h"
#include "catalog/pg_type.h"
#include "funcapi.h"
#include "commands/trigger.h"
#include "utils/builtins.h"
#include "utils/datum.h"
#include "utils/rel.h"
#include "utils/rls.h"
#include "utils/timestamp.h"

#include "checks.h"
#include "compat.h"
#include "identity.h"
#include "session.h"
#include "target.h"
#include "text.h"
#include "usage.h"
#include "write.h"

/* Columns of the view, in the order of its definition. */
#define Anum_view_key_id		1
#define Anum_view_name			2
#define Anum_view_org_id		4
#define Anum_view_role			5
#define Anum_view_expires_at	9
#define Anum_view_suspended_at	10
#define Natts_view				13

static const Oid view_types[Natts_view] = {
	TEXTOID, TEXTOID, TEXTOID, TEXTOID, TEXTOID, TEXTARRAYOID, TIMESTAMPTZOID, TEXTOID,
	TIMESTAMPTZOID, TIMESTAMPTZOID, TEXTOID, INT8OID, TIMESTAMPTZOID
};

static TriggerData *
check_caller(FunctionCallInfo fcinfo, Oid extension, TriggerEvent event)
{
	TriggerData *trigdata = (TriggerData *) fcinfo->context;

	amt_check_writable(event == TRIGGER_EVENT_DELETE ? "DELETE" : "UPDATE");
	if (!CALLED_AS_TRIGGER(fcinfo) || !TRIGGER_FIRED_INSTEAD(trigdata->tg_event) ||
		!TRIGGER_FIRED_FOR_ROW(trigdata->tg_event) ||
		(trigdata->tg_event & TRIGGER_EVENT_OPMASK) != event ||
		trigdata->tg_relation->rd_rel->relkind != RELKIND_VIEW ||
		getExtensionOfObject(RelationRelationId, RelationGetRelid(trigdata->tg_relation)) != extension)
		ereport(ERROR,
				(errcode(ERRCODE_E_R_I_E_TRIGGER_PROTOCOL_VIOLATED),
				 errmsg("function can only be called by the triggers of view \"amt_keys\"")));
	amt_check_row_type(RelationGetDescr(trigdata->tg_relation), view_types, Natts_view);
	return trigdata;
}

/* Does the view's row have this value? */
static bool
has_value(HeapTuple row, TupleDesc tupdesc, int attnum, Datum value)
{
	bool		isnull;
	Datum		seen = heap_getattr(row, attnum, tupdesc, &isnull);

	return !isnull && datum_image_eq(seen, value, false, -1);
}

/*
 * The key of the view's row; false if it is gone or out of reach.  Another
 * organization or role means that another key has the id by now.
 */
static bool
find_key(Relation rel, HeapTuple row, TupleDesc tupdesc, AmtKey *key)
{
	bool		isnull;
	Datum		value = heap_getattr(row, Anum_view_key_id, tupdesc, &isnull);
	text	   *id;

	/* The view's owner may have replaced it by a view with nulls. */
	if (isnull)
		return false;
	id = DatumGetTextPP(value);
	return amt_key_by_id(rel, VARDATA_ANY(id), VARSIZE_ANY_EXHDR(id), key) &&
		has_value(row, tupdesc, Anum_view_org_id, AmtKeyValue(key, org_id)) &&
		has_value(row, tupdesc, Anum_view_role, AmtKeyValue(key, role)) &&
		amt_target_in_reach(AmtKeyValue(key, org_id));
}

/* INSTEAD OF DELETE on amt_keys, for each row. */
PG_FUNCTION_INFO_V1(amt_keys_delete);
Datum
amt_keys_delete(PG_FUNCTION_ARGS)
{
	Oid			extension = amt_extension(fcinfo);
	TriggerData *trigdata = check_caller(fcinfo, extension, TRIGGER_EVENT_DELETE);
	HeapTuple	row = trigdata->tg_trigtuple;
	Relation	rel = amt_open(extension, AMT_KEY, RowExclusiveLock);
	AmtKey		key;

	if (!find_key(rel, row, RelationGetDescr(trigdata->tg_relation), &key) ||
		!amt_may_revoke_key(&key) || !amt_revoke_key(rel, &key))
		row = NULL;
	table_close(rel, NoLock);
	return PointerGetDatum(row);
}

/* A row of the view, taken apart. */
typedef struct ViewRow
{
	Datum		values[Natts_view];
	bool		nulls[Natts_view];
} ViewRow;

static bool
differs(const ViewRow *old, const ViewRow *new, TupleDesc tupdesc, int attnum)
{
	int			i = attnum - 1;
	Form_pg_attribute att = TupleDescAttr(tupdesc, i);

	if (old->nulls[i] || new->nulls[i])
		return old->nulls[i] != new->nulls[i];
	return !datum_image_eq(old->values[i], new->values[i], att->attbyval, att->attlen);
}

/* Columns that can be changed, of the view and of amt_key. */
static const struct
{
	int			view;
	AttrNumber	key;
}			changeable[] = {
	{Anum_view_name, Anum_amt_key_name},
	{Anum_view_expires_at, Anum_amt_key_expires_at},
	{Anum_view_suspended_at, Anum_amt_key_suspended_at},
};

static bool
is_changeable(int attnum)
{
	for (int i = 0; i < (int) lengthof(changeable); i++)
		if (changeable[i].view == attnum)
			return true;
	return false;
}

static void
check_frozen(const ViewRow *old, const ViewRow *new, TupleDesc tupdesc)
{
	for (int attnum = 1; attnum <= Natts_view; attnum++)
		if (!is_changeable(attnum) && differs(old, new, tupdesc, attnum))
			ereport(ERROR,
					(errcode(ERRCODE_OBJECT_NOT_IN_PREREQUISITE_STATE),
					 errmsg("column \"%s\" of view \"amt_keys\" cannot be changed",
							NameStr(TupleDescAttr(tupdesc, attnum - 1)->attname))));
}

/* The changes that a statement makes to a key. */
typedef struct Changes
{
	int			n;
	AttrNumber	column[lengthof(changeable)];	/* of amt_key */
	Datum		value[lengthof(changeable)];
	bool		isnull[lengthof(changeable)];
} Changes;

/*
 * A caller that is not trusted may shorten a key's life, and prolong it
 * within limits.  We compare with the locked row: its expiry may have
 * changed since we read the key.
 */
static void
check_prolonging(const AmtKey *key, AmtWrite *write, const Changes *changes)
{
	bool		isnull;
	Datum		stored = slot_getattr(write->old_row, Anum_amt_key_expires_at, &isnull);
	TimestampTz before = isnull ? DT_NOEND : DatumGetTimestampTz(stored);

	for (int i = 0; i < changes->n; i++)
	{
		TimestampTz after = changes->isnull[i] ? DT_NOEND : DatumGetTimestampTz(changes->value[i]);

		if (changes->column[i] == Anum_amt_key_expires_at && after > before)
			amt_check_lifetime(DatumGetTimestampTz(AmtKeyValue(key, created_at)), after);
	}
}

static void
collect_changes(const ViewRow *old, ViewRow *new, TupleDesc tupdesc, Changes *changes)
{
	if (differs(old, new, tupdesc, Anum_view_name))
	{
		char	   *name = new->nulls[Anum_view_name - 1] ? pstrdup("") :
		TextDatumGetCString(new->values[Anum_view_name - 1]);

		amt_check_encoding(name, strlen(name));
		new->values[Anum_view_name - 1] = CStringGetTextDatum(amt_check_name(name));
	}
	for (int i = 0; i < (int) lengthof(changeable); i++)
	{
		int			attnum = changeable[i].view;

		if (!differs(old, new, tupdesc, attnum))
			continue;
		changes->column[changes->n] = changeable[i].key;
		changes->value[changes->n] = new->values[attnum - 1];
		changes->isnull[changes->n] = new->nulls[attnum - 1];
		changes->n++;
	}
}

/* Does the locked row still have what the statement saw of it? */
static bool
is_unchanged(const ViewRow *old, TupleDesc tupdesc, TupleTableSlot *row)
{
	ViewRow		now;

	for (int i = 0; i < (int) lengthof(changeable); i++)
	{
		int			attnum = changeable[i].view;

		now.values[attnum - 1] = slot_getattr(row, changeable[i].key, &now.nulls[attnum - 1]);
		if (differs(old, &now, tupdesc, attnum))
			return false;
	}
	return true;
}

/*
 * Do the changes suspend the key, or shorten its life, and nothing else?
 * Nobody can hold those up by changing the key.
 */
static bool
only_narrows(const Changes *changes, TupleTableSlot *row)
{
	for (int i = 0; i < changes->n; i++)
	{
		bool		isnull;
		Datum		now = slot_getattr(row, changes->column[i], &isnull);

		if (changes->isnull[i] || changes->column[i] == Anum_amt_key_name)
			return false;
		if (changes->column[i] == Anum_amt_key_expires_at && !isnull &&
			DatumGetTimestampTz(now) < DatumGetTimestampTz(changes->value[i]))
			return false;
	}
	return changes->n > 0;
}

/*
 * The statement has computed its values, and chosen its rows, by what it
 * saw.  PostgreSQL evaluates an UPDATE of a table again for a row that has
 * changed meanwhile, but we cannot.  To go on could prolong a key that has
 * just been ended.  A row that the statement itself has changed is skipped,
 * as PostgreSQL does.
 */
static bool
check_unchanged(const ViewRow *old, TupleDesc tupdesc, const Changes *changes, TupleTableSlot *row)
{
	bool		isnull;

	if (is_unchanged(old, tupdesc, row) || only_narrows(changes, row))
		return true;
	if (TransactionIdIsCurrentTransactionId(DatumGetTransactionId(slot_getsysattr(row, MinTransactionIdAttributeNumber, &isnull))))
		return false;
	ereport(ERROR,
			(errcode(ERRCODE_T_R_SERIALIZATION_FAILURE),
			 errmsg("could not serialize access due to concurrent update"),
			 errdetail("The key has changed since the statement began."),
			 errhint("Execute the statement again.")));
}

/* Make the changes to the newest version of the key; false if it is gone. */
static bool
change_key(Relation rel, const AmtKey *key, const ViewRow *old, TupleDesc tupdesc,
		   const Changes *changes)
{
	AmtWrite	write;
	bool		trusted = amt_caller_is_trusted();
	bool		found;

	amt_write_begin(&write, rel);
	found = amt_lock_key(&write, key) && check_unchanged(old, tupdesc, changes, write.old_row);
	if (found && !trusted)
		check_prolonging(key, &write, changes);
	if (found && changes->n > 0)
		amt_write_update(&write, changes->n, changes->column, changes->value, changes->isnull);
	amt_write_end(&write);
	return found;
}

/* INSTEAD OF UPDATE on amt_keys, for each row. */
PG_FUNCTION_INFO_V1(amt_keys_update);
Datum
amt_keys_update(PG_FUNCTION_ARGS)
{
	Oid			extension = amt_extension(fcinfo);
	TriggerData *trigdata = check_caller(fcinfo, extension, TRIGGER_EVENT_UPDATE);
	TupleDesc	tupdesc = RelationGetDescr(trigdata->tg_relation);
	Relation	rel;
	AmtKey		key;
	ViewRow		old;
	ViewRow		new;
	Changes		changes = {0};
	bool		done;

	heap_deform_tuple(trigdata->tg_trigtuple, tupdesc, old.values, old.nulls);
	heap_deform_tuple(trigdata->tg_newtuple, tupdesc, new.values, new.nulls);
	check_frozen(&old, &new, tupdesc);

	rel = amt_open(extension, AMT_KEY, RowExclusiveLock);
	done = find_key(rel, trigdata->tg_trigtuple, tupdesc, &key) &&
		amt_may_manage_key(AmtKeyValue(&key, org_id), !AmtKeyIsNull(&key, created_by),
						   AmtKeyValue(&key, created_by));
	if (done)
	{
		collect_changes(&old, &new, tupdesc, &changes);
		done = change_key(rel, &key, &old, tupdesc, &changes);
	}
	table_close(rel, NoLock);
	if (!done)
		return PointerGetDatum(NULL);
	return PointerGetDatum(heap_form_tuple(tupdesc, new.values, new.nulls));
}

/* Do the policies let the caller see the key's row? */
static bool
can_see_key(Oid table, const AmtKey *key)
{
	AmtIdentity identity = amt_identity();

	return check_enable_rls(table, InvalidOid, true) != RLS_ENABLED ||
		(identity.org_id != NULL && amt_text_is(AmtKeyValue(key, org_id), identity.org_id));
}

/* amt_usage(key_id), for the view. */
PG_FUNCTION_INFO_V1(amt_usage);
Datum
amt_usage(PG_FUNCTION_ARGS)
{
	static const Oid types[2] = {INT8OID, TIMESTAMPTZOID};
	Oid			extension = amt_extension(fcinfo);
	TupleDesc	tupdesc;
	AmtKey		key;
	Oid			table;
	bool		can_see = false;
	int64		calls;
	TimestampTz last_used_at;
	Datum		values[2];
	bool		nulls[2] = {false, false};

	amt_session_check();
	if (!PG_ARGISNULL(0))
	{
		text	   *id = PG_GETARG_TEXT_PP(0);

		can_see = amt_token_is_id(VARDATA_ANY(id), VARSIZE_ANY_EXHDR(id)) &&
			amt_key_get(extension, VARDATA_ANY(id), VARSIZE_ANY_EXHDR(id), &table, &key) &&
			can_see_key(table, &key);
	}
	if (!can_see)
		PG_RETURN_NULL();
	amt_usage_read(extension, table, &key, &calls, &last_used_at);

	/* A list calls this for each of its rows. */
	if (fcinfo->flinfo->fn_extra == NULL)
	{
		MemoryContext oldcontext = MemoryContextSwitchTo(fcinfo->flinfo->fn_mcxt);

		fcinfo->flinfo->fn_extra = amt_result_tupdesc(fcinfo, types, 2);
		MemoryContextSwitchTo(oldcontext);
	}
	tupdesc = fcinfo->flinfo->fn_extra;
	values[0] = Int64GetDatum(calls);
	values[1] = TimestampTzGetDatum(last_used_at);
	nulls[1] = last_used_at == DT_NOBEGIN;
	PG_RETURN_DATUM(HeapTupleGetDatum(heap_form_tuple(tupdesc, values, nulls)));
}
