/*
 * session.c
 *	  Whether this session's settings can be trusted.
 *
 * A connection option overrides what ALTER ROLE has set.  Before our library
 * is loaded, the server does not know our settings, and accepts an option
 * for any of them.  When our library loads, the server discards the option
 * if the user may not set it.  The role's value is lost too.  So anybody
 * could drop an identity or a limit by naming it.  We cannot know the lost
 * value, so we refuse the session.
 *
 * Nor is a value safe that a trusted function has set before our library was
 * loaded, in the session of a user who may not set it.  The user can set or
 * reset any part of it in the meantime: the server lets anybody change what
 * it does not know.  We refuse that session too.  Nor is it safe to keep some
 * values and discard others, for which the right was missing.  Nor to go on
 * without a part that was set and then reset in the transaction: somebody
 * else's function may have done that, and the server may bring the value back.
 *
 * At session start, and when our library loads, the server discards an
 * invalid value with a mere warning, and the identity changes silently.
 * Without its scopes a key could do more, and without its id a key would
 * count as a person.  We refuse that session too.  It discards a value for
 * want of memory in the same way, so we see to memory, and look which parts of
 * the identity have arrived.  At login nobody does, so we compare what is stored
 * in the catalog once, before the identity is used.
 *
 * Settings cannot be changed in parallel mode.  If our library were first
 * loaded there, its placeholders would be lost.  So it refuses that.
 */
#include "postgres.h"

#include "access/genam.h"
#include "access/htup_details.h"
#include "access/table.h"
#include "access/xact.h"
#include "catalog/pg_db_role_setting.h"
#include "catalog/pg_type.h"
#include "miscadmin.h"
#include "storage/proc.h"
#include "utils/acl.h"
#include "utils/array.h"
#include "utils/builtins.h"
#include "utils/fmgroids.h"
#include "utils/guc.h"
#include "utils/memutils.h"
#include "utils/rel.h"

#include "compat.h"
#include "session.h"

#define OUR_PREFIX	"amt_keys."
#define LOAD_MEMORY	(4 * 1024 * 1024)	/* more than to define our settings
										 * takes */

static List *named_by_client = NIL;
static AmtRefusal refusal = AMT_NOT_REFUSED;

/* By whose right SET has given values to our settings before they were known. */
static bool set_by_right = false;
static bool set_without_right = false;
static bool set_for_user = false;
static bool undone = false;		/* set and reset in this transaction */

static bool
is_ours(const char *name)
{
	return pg_strncasecmp(name, OUR_PREFIX, strlen(OUR_PREFIX)) == 0;
}

/* May the role set this setting, which need not be defined yet? */
static bool
may_set(Oid role, const char *name)
{
	return IsTransactionState() && pg_parameter_aclcheck(name, role, ACL_SET) == ACLCHECK_OK;
}

/* A value, in force or to come back when a (sub)transaction ends, is the role's. */
static void
note_setter(Oid role, const char *name)
{
	Oid			user = MyProc->roleId;

	if (!may_set(role, name))
		set_without_right = true;
	else
	{
		set_by_right = true;
		if (!may_set(user, name) && !amt_can_set_role(user, role))
			set_for_user = true;
	}
}

bool
amt_session_was_reset(const struct config_generic *setting)
{
	GucSource	source = setting->source;

	/* The lowest entry of the stack has the value from before. */
	for (const GucStack *stack = setting->stack; stack != NULL; stack = stack->prev)
	{
		if (source != PGC_S_SESSION)
			return true;
		source = stack->source;
	}
	return false;
}

static void
note_setters(const struct config_generic *setting)
{
	if (amt_session_was_reset(setting))
		undone = true;
	if (setting->source == PGC_S_SESSION)
		note_setter(setting->srole, setting->name);
	for (const GucStack *stack = setting->stack; stack != NULL; stack = stack->prev)
	{
		if (stack->source == PGC_S_SESSION)
			note_setter(stack->srole, setting->name);
		if (stack->state == GUC_SET_LOCAL)
			note_setter(stack->masked_srole, setting->name);
	}
}

/* A value of the identity that must be in force when the settings are defined. */
typedef struct Expected
{
	const char *name;
	GucSource	source;
	GucSource	reset_source;
} Expected;

static List *expected = NIL;

/* Does the server keep the value?  It discards those set without the right. */
static bool
is_kept(const char *name, GucSource source, Oid role)
{
	return source != PGC_S_DEFAULT &&
		(source < PGC_S_CLIENT || may_set(role, name));
}

const struct config_generic *
amt_session_setting(const char *name)
{
	int			n;
	struct config_generic **settings = amt_all_settings(&n);

	for (int i = 0; i < n; i++)
		if (pg_strcasecmp(settings[i]->name, name) == 0)
			return settings[i];
	return NULL;
}

bool
amt_session_has_set(const char *name, Oid user)
{
	const struct config_generic *setting = amt_session_setting(name);

	/* A value of an earlier transaction has no stack. */
	return setting != NULL && setting->stack != NULL && setting->source == PGC_S_SESSION &&
		amt_can_set_role(user, setting->srole);
}

void
amt_session_expect(const char *name)
{
	const struct config_generic *setting = amt_session_setting(name);
	MemoryContext oldcontext;
	Expected   *value;

	if (setting == NULL)
		return;
	oldcontext = MemoryContextSwitchTo(TopMemoryContext);
	value = palloc0(sizeof(Expected));
	value->name = name;
	if (is_kept(name, setting->source, setting->srole))
		value->source = setting->source;
	if (is_kept(name, setting->reset_source, setting->reset_srole))
		value->reset_source = setting->reset_source;
	expected = lappend(expected, value);
	MemoryContextSwitchTo(oldcontext);
}

static bool
has_arrived(const Expected *value)
{
	const struct config_generic *setting = amt_session_setting(value->name);

	return setting != NULL && setting->source >= value->source &&
		setting->reset_source >= value->reset_source;
}

static void
check_memory(void)
{
	void	   *memory = MemoryContextAllocExtended(TopMemoryContext, LOAD_MEMORY, MCXT_ALLOC_NO_OOM);

	if (memory == NULL)
		ereport(ERROR,
				(errcode(ERRCODE_OUT_OF_MEMORY),
				 errmsg("out of memory"),
				 errdetail("Library \"amt_keys\" is not loaded, as its settings could be lost.")));
	pfree(memory);
}

void
amt_session_before_settings(void)
{
	MemoryContext oldcontext;
	int			n;
	struct config_generic **settings = amt_all_settings(&n);

	check_memory();
	oldcontext = MemoryContextSwitchTo(TopMemoryContext);
	for (int i = 0; i < n; i++)
	{
		if (!is_ours(settings[i]->name))
			continue;
		if (IsInParallelMode())
			ereport(ERROR,
					(errcode(ERRCODE_OBJECT_NOT_IN_PREREQUISITE_STATE),
					 errmsg("library \"amt_keys\" cannot be loaded during a parallel operation"),
					 errdetail("Its settings would be lost, among them the identity."),
					 errhint("Add amt_keys to \"session_preload_libraries\", or call amt_org_id() before.")));
		if (settings[i]->reset_source == PGC_S_CLIENT || settings[i]->source == PGC_S_CLIENT)
			named_by_client = lappend(named_by_client, pstrdup(settings[i]->name));
		note_setters(settings[i]);
	}
	if (set_for_user || undone || (set_by_right && set_without_right))
		amt_session_refuse(AMT_REFUSED_EARLY);
	MemoryContextSwitchTo(oldcontext);
}

/* May the user who logged in set this setting? */
static bool
user_may_set(const char *name)
{
	const struct config_generic *setting = amt_session_setting(name);

	return setting == NULL ||	/* not a setting of ours; it was discarded */
		(setting->context == PGC_SUSET && may_set(MyProc->roleId, name));
}

void
amt_session_after_settings(void)
{
	ListCell   *cell;

	foreach(cell, expected)
	{
		if (!has_arrived(lfirst(cell)))
			amt_session_refuse(AMT_REFUSED_VALUE);
	}
	foreach(cell, named_by_client)
	{
		if (!user_may_set(lfirst(cell)))
			amt_session_refuse(AMT_REFUSED_OPTION);
	}

	/*
	 * The server does not start with a bad value of a setting of its own,
	 * either.
	 */
	if (process_shared_preload_libraries_in_progress && refusal != AMT_NOT_REFUSED)
		ereport(ERROR,
				(errcode(ERRCODE_CONFIG_FILE_ERROR),
				 errmsg("the configuration gives a value that is not valid to a setting of amt_keys that holds the identity")));
}

/* Settings, and how their stored values have come into the session. */
typedef struct Stored
{
	const char *const *names;
	int			n;
	GucSource	source;
}			Stored;

/* Is this "name=value" of one of the settings, which has no value from there? */
static bool
is_missing(const char *text, const Stored * stored)
{
	for (int i = 0; i < stored->n; i++)
	{
		const char *name = stored->names[i];
		Size		len = strlen(name);

		if (pg_strncasecmp(text, name, len) == 0 && text[len] == '=')
		{
			const struct config_generic *setting = amt_session_setting(name);

			/* A parallel worker gets the values in force, and no others. */
			return (IsParallelWorker() ? setting->source : setting->reset_source) < stored->source;
		}
	}
	return false;
}

/* Compare what is stored for a database and a role; InvalidOid means all. */
static void
compare_stored(Relation rel, Oid database, Oid role, const Stored * stored)
{
	ScanKeyData key[2];
	SysScanDesc scan;
	HeapTuple	tuple;

	ScanKeyInit(&key[0], Anum_pg_db_role_setting_setdatabase, BTEqualStrategyNumber, F_OIDEQ,
				ObjectIdGetDatum(database));
	ScanKeyInit(&key[1], Anum_pg_db_role_setting_setrole, BTEqualStrategyNumber, F_OIDEQ,
				ObjectIdGetDatum(role));
	scan = systable_beginscan(rel, DbRoleSettingDatidRolidIndexId, true, NULL, 2, key);
	while (HeapTupleIsValid(tuple = systable_getnext(scan)))
	{
		bool		isnull;
		Datum		value = heap_getattr(tuple, Anum_pg_db_role_setting_setconfig,
										 RelationGetDescr(rel), &isnull);
		Datum	   *texts;
		int			n = 0;

		if (!isnull)
			deconstruct_array(DatumGetArrayTypeP(value), TEXTOID, -1, false, TYPALIGN_INT,
							  &texts, NULL, &n);
		for (int i = 0; i < n; i++)
			if (is_missing(TextDatumGetCString(texts[i]), stored))
				amt_session_refuse(AMT_REFUSED_VALUE);
	}
	systable_endscan(scan);
}

void
amt_session_compare(const char *const *names, int n)
{
	Oid			user = MyProc->roleId;
	struct
	{
		Oid			database;
		Oid			role;
		GucSource	source;
	}			place[] = {
		{MyDatabaseId, user, PGC_S_DATABASE_USER},
		{InvalidOid, user, PGC_S_USER},
		{MyDatabaseId, InvalidOid, PGC_S_DATABASE},
		{InvalidOid, InvalidOid, PGC_S_GLOBAL}
	};
	Relation	rel;

	if (!IsUnderPostmaster || !OidIsValid(user))
		return;					/* the server has applied no stored settings */
	rel = table_open(DbRoleSettingRelationId, AccessShareLock);
	for (int i = 0; i < (int) lengthof(place); i++)
	{
		Stored		stored = {names, n, place[i].source};

		compare_stored(rel, place[i].database, place[i].role, &stored);
	}
	table_close(rel, AccessShareLock);
}

bool
amt_session_has_changed_rights(void)
{
	Oid			userid;
	int			sec_context;

	GetUserIdAndSecContext(&userid, &sec_context);
	return sec_context != 0 || userid != GetOuterUserId();
}

void
amt_session_refuse_mix(const struct config_generic *const *settings, int n)
{
	for (int i = 0; i < n; i++)
		for (const GucStack *stack = settings[i]->stack; stack != NULL; stack = stack->prev)
			if (stack->state == GUC_SAVE)
				ereport(ERROR,
						(errcode(ERRCODE_OBJECT_NOT_IN_PREREQUISITE_STATE),
						 errmsg("caller cannot be identified in a function whose definition sets \"%s\"",
								settings[i]->name),
						 errhint("Remove that SET from the function.")));
}

void
amt_session_refuse(AmtRefusal why)
{
	/* The first reason has the remedy: others may follow from it. */
	if (refusal == AMT_NOT_REFUSED)
		refusal = why;
}

AmtRefusal
amt_session_refusal(void)
{
	return refusal;
}

void
amt_session_check(void)
{
	if (likely(refusal == AMT_NOT_REFUSED))
		return;
	if (refusal == AMT_REFUSED_OPTION)
		ereport(ERROR,
				(errcode(ERRCODE_INSUFFICIENT_PRIVILEGE),
				 errmsg("functions of amt_keys cannot be used in this session"),
				 errdetail("The connection's options name a setting of amt_keys that the user may not set, so what the server has set for the session is not known."),
				 errhint("Connect without that option.")));
	if (refusal == AMT_REFUSED_EARLY)
		ereport(ERROR,
				(errcode(ERRCODE_INSUFFICIENT_PRIVILEGE),
				 errmsg("functions of amt_keys cannot be used in this session"),
				 errdetail("Before the library was loaded, settings of amt_keys were set without the right, or set and reset in the transaction."),
				 errhint("Add amt_keys to \"session_preload_libraries\", and connect again.")));
	ereport(ERROR,
			(errcode(ERRCODE_INSUFFICIENT_PRIVILEGE),
			 errmsg("functions of amt_keys cannot be used in this session"),
			 errdetail("A setting that holds the identity was given a value that is not valid, was lost, or was stored after the login, so the caller is not known."),
			 errhint("Correct what ALTER ROLE, ALTER DATABASE, the configuration or the connection sets, and connect again.")));
}
