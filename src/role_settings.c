/*
 * role_settings.c
 *	  What ALTER ROLE and ALTER DATABASE set, once more.
 *
 * A client's option (PGOPTIONS) outranks what is set for its role and database.
 * The server refuses an option for a setting that only superusers set, but
 * before the library is loaded it does not know, and makes a placeholder.
 * Loading the library then throws the client's value away, and with it the one
 * that it outranked: anybody could shake off amt_keys.actor, or have
 * amt_keys.manager_role at its default, by naming it.  So when the library is
 * loaded, the values from pg_db_role_setting are applied again, with their own
 * ranks; where nothing went wrong that changes nothing.  (What comes from the
 * configuration file cannot be had back this way; preloading the library
 * protects it, since such a connection is then refused.)
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
#include "role_settings.h"

#define OUR_PREFIX	"amt_keys."

/* One "name=value", if it is ours. */
static void
apply_setting(char *setting, GucSource source)
{
	char	   *value = strchr(setting, '=');

	if (value == NULL || strncmp(setting, OUR_PREFIX, strlen(OUR_PREFIX)) != 0)
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
amt_role_settings_apply(void)
{
	Relation	rel;
	Oid			role;

	if (!IsTransactionState() || !OidIsValid(MyDatabaseId) || IsParallelWorker())
		return;
	role = MyProc->roleId;		/* who logged in, whatever SET SESSION
								 * AUTHORIZATION said since */
	rel = table_open(DbRoleSettingRelationId, AccessShareLock);
	apply_row(rel, MyDatabaseId, role, PGC_S_DATABASE_USER);
	apply_row(rel, InvalidOid, role, PGC_S_USER);
	apply_row(rel, MyDatabaseId, InvalidOid, PGC_S_DATABASE);
	apply_row(rel, InvalidOid, InvalidOid, PGC_S_GLOBAL);
	table_close(rel, AccessShareLock);
}
