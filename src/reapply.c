/*
 * reapply.c
 *	  What the configuration file, ALTER DATABASE and ALTER ROLE set, once more.
 *
 * A client's option (PGOPTIONS) outranks what is set for its role, its database
 * and the server.  The server refuses an option for a setting that only
 * superusers set, but before the library is loaded it does not know, and makes
 * a placeholder.  Loading the library then throws the client's value away, and
 * with it the one that it outranked: anybody could shake off amt_keys.actor, or
 * have amt_keys.manager_role or the size of the cache at its default, by naming
 * it.  So when the library is loaded, the values from pg_db_role_setting are
 * applied again with their own ranks, and those from the configuration files if
 * the client has named one of our settings; where nothing went wrong that
 * changes nothing.  (What the postmaster was given on its command line is not
 * to be had again.)
 *
 * Settings cannot be changed in parallel mode, so a library that is loaded there
 * would lose what was set for it: it refuses to be loaded then.
 */
#include "postgres.h"

#include "access/genam.h"
#include "access/htup_details.h"
#include "access/parallel.h"
#include "access/table.h"
#include "access/xact.h"
#include "catalog/pg_db_role_setting.h"
#include "catalog/pg_type.h"
#include "miscadmin.h"
#include "storage/proc.h"
#include "utils/array.h"
#include "utils/builtins.h"
#include "utils/fmgroids.h"
#include "utils/guc.h"
#include "utils/rel.h"

#include "compat.h"
#include "reapply.h"

#define OUR_PREFIX	"amt_keys."

static bool named_by_client = false;

static bool
is_ours(const char *name)
{
	return pg_strncasecmp(name, OUR_PREFIX, strlen(OUR_PREFIX)) == 0;
}

/* Has the client named one of our settings when it connected? */
static bool
is_named_by_client(void)
{
	int			n;
	struct config_generic **settings = amt_all_settings(&n);

	for (int i = 0; i < n; i++)
		if (settings[i]->reset_source == PGC_S_CLIENT && is_ours(settings[i]->name))
			return true;
	return false;
}

/* What the configuration files say, the later the better. */
static void
apply_files(void)
{
	ConfigVariable *head = NULL;
	ConfigVariable *tail = NULL;
	int			save_client_min_messages = client_min_messages;
	bool		parsed;

	/* Where these files are and what is wrong in them is not for the client. */
	client_min_messages = WARNING;
	PG_TRY();
	{
		parsed = ParseConfigFile(ConfigFileName, true, NULL, 0, 0, LOG, &head, &tail) &&
			ParseConfigFile(PG_AUTOCONF_FILENAME, false, NULL, 0, 0, LOG, &head, &tail);
	}
	PG_FINALLY();
	{
		client_min_messages = save_client_min_messages;
	}
	PG_END_TRY();
	if (!parsed)
		ereport(ERROR,
				(errcode(ERRCODE_CONFIG_FILE_ERROR),
				 errmsg("could not read the configuration files"),
				 errdetail("The connection's options name a setting of amt_keys, so those of the server have to be read again."),
				 errhint("Connect without such options.")));
	for (ConfigVariable *item = head; item != NULL; item = item->next)
		if (is_ours(item->name) && !item->ignore)
			(void) set_config_option(item->name, item->value, PGC_SIGHUP, PGC_S_FILE,
									 GUC_ACTION_SET, true, WARNING, false);
	FreeConfigVariables(head);
}

/* One "name=value", if it is ours. */
static void
apply_setting(char *setting, GucSource source)
{
	char	   *value = strchr(setting, '=');

	if (value == NULL || !is_ours(setting))
		return;
	*value++ = '\0';
	(void) set_config_option(setting, value, PGC_SUSET, source, GUC_ACTION_SET,
							 true, WARNING, false);
}

/* What is set for a database, a role, or both; InvalidOid stands for all. */
static void
apply_row(Relation rel, Oid database, Oid role, GucSource source)
{
	ScanKeyData keys[2];
	SysScanDesc scan;
	HeapTuple	tuple;

	ScanKeyInit(&keys[0], Anum_pg_db_role_setting_setdatabase, BTEqualStrategyNumber,
				F_OIDEQ, ObjectIdGetDatum(database));
	ScanKeyInit(&keys[1], Anum_pg_db_role_setting_setrole, BTEqualStrategyNumber,
				F_OIDEQ, ObjectIdGetDatum(role));
	scan = systable_beginscan(rel, DbRoleSettingDatidRolidIndexId, true, NULL, 2, keys);
	while (HeapTupleIsValid(tuple = systable_getnext(scan)))
	{
		bool		isnull;
		Datum		config = heap_getattr(tuple, Anum_pg_db_role_setting_setconfig,
										  RelationGetDescr(rel), &isnull);
		Datum	   *settings;
		int			n;

		if (isnull)
			continue;
		deconstruct_array(DatumGetArrayTypeP(config), TEXTOID, -1, false, TYPALIGN_INT,
						  &settings, NULL, &n);
		for (int i = 0; i < n; i++)
			apply_setting(TextDatumGetCString(settings[i]), source);
	}
	systable_endscan(scan);
}

void
amt_reapply_prepare(void)
{
	static const char *const names[] = {
		"amt_keys.org_id", "amt_keys.role", "amt_keys.actor", "amt_keys.key_id",
		"amt_keys.roles", "amt_keys.manager_role"
	};

	named_by_client = named_by_client || is_named_by_client();
	if (!IsInParallelMode())
		return;
	for (int i = 0; i < (int) lengthof(names); i++)
		if (GetConfigOption(names[i], true, false) != NULL)
			ereport(ERROR,
					(errcode(ERRCODE_OBJECT_NOT_IN_PREREQUISITE_STATE),
					 errmsg("library \"amt_keys\" cannot be loaded during a parallel operation"),
					 errdetail("Its settings would be lost, among them the identity."),
					 errhint("Add amt_keys to \"session_preload_libraries\", or call amt_org_id() before.")));
}

void
amt_reapply(void)
{
	Relation	rel;
	Oid			role;

	if (!IsTransactionState() || !OidIsValid(MyDatabaseId) ||
		IsParallelWorker() || IsInParallelMode())
		return;
	role = MyProc->roleId;		/* who logged in, whatever SET SESSION
								 * AUTHORIZATION said since */
	if (named_by_client)
		apply_files();
	rel = table_open(DbRoleSettingRelationId, AccessShareLock);
	apply_row(rel, MyDatabaseId, role, PGC_S_DATABASE_USER);
	apply_row(rel, InvalidOid, role, PGC_S_USER);
	apply_row(rel, MyDatabaseId, InvalidOid, PGC_S_DATABASE);
	apply_row(rel, InvalidOid, InvalidOid, PGC_S_GLOBAL);
	table_close(rel, AccessShareLock);
}
