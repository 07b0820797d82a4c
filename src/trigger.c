/*
 * trigger.c
 *	  What the table amt_key guards against, and records.
 *
 * Keys come and go by the functions of manage.c, but the owner of the table
 * can also insert and delete rows, so both are recorded here, by triggers, in
 * the same transaction.  A trigger function runs as whoever changed the table;
 * the event is written as the owner.  The functions insist on being called by
 * a trigger of amt_key itself: attached to anybody's table they would write
 * events with the owner's rights.
 *
 * A dump holds the events beside the keys.  Were a restored key recorded once
 * more, it would have come twice, and the new event would take the number of
 * an old one.  So a key that came about before this transaction is not
 * recorded when row_security is off, which the scripts of pg_dump set and
 * nobody else does.  That only concerns those who can write the table anyway;
 * amt_create_key() always records.
 *
 * Shared memory is reached by way of usage.c, atcommit.c and shmem.c only, whose
 * rules hold; no lock of theirs is held here.
 */
#include "postgres.h"

#include "access/htup_details.h"
#include "access/xact.h"
#include "catalog/pg_collation.h"
#include "catalog/pg_type.h"
#include "commands/trigger.h"
#include "executor/spi.h"
#include "miscadmin.h"
#include "utils/builtins.h"
#include "utils/datum.h"
#include "utils/guc.h"
#include "utils/rel.h"
#include "utils/rls.h"
#include "utils/timestamp.h"

#include "compat.h"
#include "atcommit.h"
#include "attempt.h"
#include "identity.h"
#include "manage.h"
#include "phc.h"
#include "shmem.h"
#include "store.h"
#include "token.h"
#include "usage.h"

static TriggerData *
check_caller(FunctionCallInfo fcinfo, const AmtStore *store, bool for_row)
{
	TriggerData *trigdata = (TriggerData *) fcinfo->context;

	if (!CALLED_AS_TRIGGER(fcinfo) || RelationGetRelid(trigdata->tg_relation) != store->key ||
		(TRIGGER_FIRED_FOR_ROW(trigdata->tg_event) != 0) != for_row)
		ereport(ERROR,
				(errcode(ERRCODE_E_R_I_E_TRIGGER_PROTOCOL_VIOLATED),
				 errmsg("function can only be called by the triggers of table \"amt_key\"")));
	return trigdata;
}

static bool
text_is_empty(Datum value)
{
	return VARSIZE_ANY_EXHDR(DatumGetTextPP(value)) == 0;
}

static void
refuse_row(const char *what, const char *hint)
{
	ereport(ERROR,
			(errcode(ERRCODE_CHECK_VIOLATION),
			 errmsg("%s", what),
			 errhint("%s", hint)));
}

/* An imported row must be one that can be verified, listed and revoked. */
static void
check_row(const AmtKey *key)
{
	text	   *id = DatumGetTextPP(AmtKeyColumn(key, key_id));
	text	   *hash = DatumGetTextPP(AmtKeyColumn(key, scrypt_hash));
	const char *what;
	AmtPhc		phc;

	if (!amt_token_is_id(VARDATA_ANY(id), VARSIZE_ANY_EXHDR(id)))
		refuse_row("key id is not valid", "A key id has 1 to 64 characters of 0-9, A-Z and a-z.");
	if (!amt_phc_parse(VARDATA_ANY(hash), VARSIZE_ANY_EXHDR(hash), &phc))
		refuse_row("scrypt hash is not valid",
				   "A hash is a PHC string, $scrypt$ln=14,r=8,p=1$<salt>$<hash>, of at most 1 GiB of work.");
	if (text_is_empty(AmtKeyColumn(key, org_id)))
		refuse_row("organization must not be empty", "Every key belongs to an organization.");
	if (text_is_empty(AmtKeyColumn(key, role)))
		refuse_row("role must not be empty", "Every key has one of the roles in \"amt_keys.roles\".");
	if (amt_name_is_bad(TextDatumGetCString(AmtKeyColumn(key, name)), &what))
		refuse_row(what, "A name has 1 to 100 characters, none of them a control character.");
}

static bool
column_differs(const AmtKey *old, const AmtKey *new, TupleDesc tupdesc, int i)
{
	Form_pg_attribute att = TupleDescAttr(tupdesc, i);

	if (old->nulls[i] || new->nulls[i])
		return old->nulls[i] != new->nulls[i];
	if (att->attlen == -1)
		return !DatumGetBool(DirectFunctionCall2Coll(texteq, C_COLLATION_OID,
													 old->values[i], new->values[i]));
	return !datumIsEqual(old->values[i], new->values[i], att->attbyval, att->attlen);
}

static void
check_frozen(const AmtKey *old, const AmtKey *new, TupleDesc tupdesc)
{
	for (int i = 0; i < Natts_amt_key; i++)
	{
		if (i + 1 == Anum_amt_key_name || i + 1 == Anum_amt_key_expires_at)
			continue;
		if (column_differs(old, new, tupdesc, i))
			ereport(ERROR,
					(errcode(ERRCODE_OBJECT_NOT_IN_PREREQUISITE_STATE),
					 errmsg("column \"%s\" of a key cannot be changed",
							NameStr(TupleDescAttr(tupdesc, i)->attname)),
					 errhint("Create another key and revoke this one.")));
	}
}

/* BEFORE INSERT OR UPDATE, for each row. */
PG_FUNCTION_INFO_V1(amt_key_guard);
Datum
amt_key_guard(PG_FUNCTION_ARGS)
{
	const AmtStore *store = amt_store(fcinfo);
	TriggerData *trigdata = check_caller(fcinfo, store, true);
	TupleDesc	tupdesc = RelationGetDescr(trigdata->tg_relation);
	HeapTuple	result = trigdata->tg_trigtuple;
	AmtKey		new;
	AmtKey		old;

	if (TRIGGER_FIRED_BY_UPDATE(trigdata->tg_event))
		result = trigdata->tg_newtuple;
	amt_store_read_key(result, tupdesc, &new);
	if (TRIGGER_FIRED_BY_UPDATE(trigdata->tg_event))
	{
		amt_store_read_key(trigdata->tg_trigtuple, tupdesc, &old);
		check_frozen(&old, &new, tupdesc);
		if (amt_shmem_attach())
			amt_usage_take_care();
	}
	check_row(&new);
	return PointerGetDatum(result);
}

static void
write_event(const AmtStore *store, const AmtKey *key, const char *event, int64 calls)
{
	static const char query[] =
	"INSERT INTO %s.amt_key_event (at, event, key_id, org_id, name, role, actor, db_user, calls)"
	" VALUES (pg_catalog.clock_timestamp(), $1, $2, $3, $4, $5, $6, session_user, $7)";
	Oid			types[7] = {TEXTOID, TEXTOID, TEXTOID, TEXTOID, TEXTOID, TEXTOID, INT8OID};
	const char *actor = amt_identity_actor();
	const char *own_key = amt_identity_key_id();
	Datum		values[7];
	char		nulls[7];

	/* A key that acts is named as it is displayed. */
	if (actor == NULL && own_key != NULL)
		actor = psprintf(AMT_TOKEN_HEAD "%s...", own_key);

	memset(nulls, ' ', sizeof(nulls));
	values[0] = CStringGetTextDatum(event);
	values[1] = AmtKeyColumn(key, key_id);
	values[2] = AmtKeyColumn(key, org_id);
	values[3] = AmtKeyColumn(key, name);
	values[4] = AmtKeyColumn(key, role);
	values[5] = actor != NULL ? CStringGetTextDatum(actor) : (Datum) 0;
	nulls[5] = actor != NULL ? ' ' : 'n';
	values[6] = Int64GetDatum(calls);
	nulls[6] = calls >= 0 ? ' ' : 'n';

	SPI_connect();
	amt_store_execute(store, 0, query, 7, types, values, nulls);
	SPI_finish();
}

#define MAX_TRIES	10

typedef struct UsageToDelete
{
	const AmtStore *store;
	Datum		key_id;
} UsageToDelete;

static void
delete_usage_once(void *arg)
{
	UsageToDelete *usage = arg;
	Oid			types[1] = {TEXTOID};

	SPI_connect();
	amt_store_execute(usage->store, 0,
					  "DELETE FROM %s.amt_key_usage WHERE key_id OPERATOR(pg_catalog.=) $1",
					  1, types, &usage->key_id, NULL);
	SPI_finish();
}

/*
 * Delete the key's usage as the newest snapshot shows it.  The foreign key
 * would do it with the transaction's own under REPEATABLE READ, and fail if the
 * calls were written since.  So does the deletion itself when it has to wait
 * for a writer; then it is tried again, with a snapshot that sees what that
 * wrote.  A writer would have to come each time in between to make all tries fail;
 * but a transaction that SERIALIZABLE has doomed fails each time.
 */
static void
delete_usage(const AmtStore *store, const AmtKey *key)
{
	UsageToDelete usage;
	ErrorData  *error;

	usage.store = store;
	usage.key_id = AmtKeyColumn(key, key_id);
	if (!IsolationUsesXactSnapshot())
	{
		delete_usage_once(&usage);
		return;
	}
	for (int tries = 1; (error = amt_attempt(delete_usage_once, &usage)) != NULL; tries++)
	{
		if (error->sqlerrcode != ERRCODE_T_R_SERIALIZATION_FAILURE || tries == MAX_TRIES)
			ReThrowError(error);
		FreeErrorData(error);
		CHECK_FOR_INTERRUPTS();
	}
}

static bool
is_restored(const AmtKey *key)
{
	return !row_security && !amt_is_creating() &&
		DatumGetTimestampTz(AmtKeyColumn(key, created_at)) < GetCurrentTransactionStartTimestamp();
}

/* AFTER INSERT OR DELETE, for each row. */
PG_FUNCTION_INFO_V1(amt_key_record);
Datum
amt_key_record(PG_FUNCTION_ARGS)
{
	const AmtStore *store = amt_store(fcinfo);
	TriggerData *trigdata = check_caller(fcinfo, store, true);
	bool		shared = amt_shmem_attach();
	AmtKey		key;
	text	   *id;
	Size		id_len;

	amt_store_read_key(trigdata->tg_trigtuple, RelationGetDescr(trigdata->tg_relation), &key);
	id = DatumGetTextPP(AmtKeyColumn(&key, key_id));
	id_len = VARSIZE_ANY_EXHDR(id);
	if (TRIGGER_FIRED_BY_DELETE(trigdata->tg_event))
	{
		int64		calls;
		TimestampTz last_used_at;

		amt_usage_take_care();

		/*
		 * The foreign key's trigger may have been faster: it is the order of
		 * names only as long as the server reads the catalog by its index.
		 */
		amt_usage_read(store, VARDATA_ANY(id), id_len,
					   HeapTupleHeaderGetCmax(trigdata->tg_trigtuple->t_data) + 1,
					   &calls, &last_used_at);
		write_event(store, &key, "revoked", calls);
		delete_usage(store, &key);
	}
	else if (!is_restored(&key))
		write_event(store, &key, "created", -1);

	/*
	 * Nothing of a key that is gone, or of one that had a new key's id
	 * before. (A longer id is none; its owner has forced it in.)
	 */
	if (!amt_is_creating() && id_len <= AMT_ID_MAX && shared)
		amt_at_commit_forget(amt_shmem_key_tag(store->key, VARDATA_ANY(id), id_len),
							 !TRIGGER_FIRED_BY_DELETE(trigdata->tg_event));
	return PointerGetDatum(NULL);
}

/* BEFORE TRUNCATE: it would fire no row trigger, so nothing would be recorded. */
PG_FUNCTION_INFO_V1(amt_key_no_truncate);
Datum
amt_key_no_truncate(PG_FUNCTION_ARGS)
{
	(void) check_caller(fcinfo, amt_store(fcinfo), false);
	ereport(ERROR,
			(errcode(ERRCODE_FEATURE_NOT_SUPPORTED),
			 errmsg("cannot truncate table \"amt_key\""),
			 errdetail("Every revocation is recorded, and TRUNCATE cannot be."),
			 errhint("Use DELETE.")));
	PG_RETURN_NULL();
}
