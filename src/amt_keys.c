/*
 * amt_keys.c
 *	  The library's entry: every file sets itself up.
 *
 * The library is loaded by the first call of one of its functions, or earlier
 * by session_preload_libraries or shared_preload_libraries.  Settings that
 * were made before are checked as they are defined: what their setter had no
 * right to is thrown away by the server.
 */
#include "postgres.h"

#include "fmgr.h"
#include "utils/guc.h"

#include "atcommit.h"
#include "authenticate.h"
#include "cache.h"
#include "identity.h"
#include "kdf.h"
#include "reapply.h"
#include "redact.h"
#include "scrypt_queue.h"
#include "shmem.h"
#include "store.h"
#include "usage.h"
#include "worker.h"

PG_MODULE_MAGIC;

PGDLLEXPORT void _PG_init(void);

static void
define_all(void)
{
	amt_identity_init();
	amt_kdf_init();
	amt_authenticate_init();
	amt_redact_init();
	amt_scrypt_queue_setup();
	amt_worker_setup();
	amt_cache_init();
	amt_at_commit_init();
	amt_usage_init();			/* its callbacks come first then */
	amt_store_init();
	amt_shmem_init();
	MarkGUCPrefixReserved("amt_keys");
}

void
_PG_init(void)
{
	static bool defined = false;

	/* If an error ended the first try, the server calls us again. */
	amt_reapply_prepare();
	if (!defined)
		define_all();
	defined = true;
	amt_reapply();
}
