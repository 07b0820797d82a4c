/*
 * amt_keys.c
 *	  The library's entry: every file sets itself up.
 *
 * The server loads the library at the first call of one of its functions, or
 * earlier by session_preload_libraries or shared_preload_libraries.
 * Settings made before are checked when we define them: the server discards
 * a value that the user had no right to set.
 */
#include "postgres.h"

#include "commands/extension.h"
#include "fmgr.h"
#include "miscadmin.h"
#include "utils/guc.h"

#include "authenticate.h"
#include "checks.h"
#include "entry.h"
#include "identity.h"
#include "kdf.h"
#include "prefixes.h"
#include "redact.h"
#include "relations.h"
#include "request.h"
#include "roles.h"
#include "scrypt_queue.h"
#include "session.h"
#include "shmem.h"
#include "stat.h"
#include "table_code.h"
#include "trigger.h"
#include "writer.h"
#include "writer_slot.h"

PG_MODULE_MAGIC;

PGDLLEXPORT void _PG_init(void);

static void
define_all(void)
{
	/* First, so that it masks what the server says of the other settings. */
	amt_prefixes_init();
	amt_redact_init();

	/* These register their parts of shared memory, always in this order. */
	amt_stat_init();
	amt_scrypt_queue_init();
	amt_entry_init();
	amt_slot_init();
	amt_shmem_init();

	amt_writer_init();
	amt_relations_init();
	amt_table_code_init(amt_trigger_functions);
	amt_roles_init();
	amt_identity_init();
	amt_checks_init();
	amt_kdf_init();
	amt_request_init();
	amt_authenticate_init();
	MarkGUCPrefixReserved("amt_keys");
}

void
_PG_init(void)
{
	static bool started = false;

	/*
	 * If an error ended the first try, the server calls us again.  But
	 * nothing can be defined twice, and no function may run with half of it.
	 */
	if (started)
		ereport(FATAL,
				(errcode(ERRCODE_OBJECT_NOT_IN_PREREQUISITE_STATE),
				 errmsg("library \"amt_keys\" could not be loaded"),
				 errdetail("An error has ended an earlier try in this session."),
				 errhint("Connect again.")));

	/*
	 * In a new cluster, this mode gives objects the numbers of built-in ones.
	 * PostgreSQL applies no row-level security to such tables, and does not
	 * dump them.
	 */
	if (creating_extension && !IsUnderPostmaster)
		ereport(ERROR,
				(errcode(ERRCODE_OBJECT_NOT_IN_PREREQUISITE_STATE),
				 errmsg("extension \"amt_keys\" cannot be created in single-user mode"),
				 errhint("Start the server, and create it in a session.")));
	amt_session_before_settings();
	amt_identity_expect();
	started = true;

	/*
	 * The server looks for a cancel after it has warned about a setting.  Let
	 * a session be terminated: its client may not read the warnings.
	 */
	HOLD_CANCEL_INTERRUPTS();
	define_all();
	amt_session_after_settings();
	amt_identity_publish();
	RESUME_CANCEL_INTERRUPTS();
}
