/*
 * attempt.c
 *	  Run a function that may raise an error, and go on.
 *
 * Some functions of the server raise an error where we must go on: when
 * dynamic shared memory runs out, or when a text is not JSON.  An error may
 * leave locks and pins behind, which the rollback of a subtransaction
 * releases.  So an error must not be caught without one.
 *
 * A subtransaction costs a few microseconds and no transaction id.  It works
 * in READ ONLY transactions and during recovery.
 *
 * The client gets no messages meanwhile: if it asks for debug messages and
 * does not read them, we would wait for it, perhaps with a place to run
 * scrypt.
 */
#include "postgres.h"

#include "access/xact.h"
#include "utils/guc.h"
#include "utils/memutils.h"
#include "utils/resowner.h"

#include "attempt.h"

ErrorData *
amt_attempt(void (*body) (void *), void *arg)
{
	MemoryContext context = CurrentMemoryContext;
	ResourceOwner owner = CurrentResourceOwner;
	ErrorData  *volatile error = NULL;
	int			nestlevel = NewGUCNestLevel();

	(void) set_config_option("client_min_messages", "error", PGC_USERSET, PGC_S_SESSION,
							 GUC_ACTION_SAVE, true, 0, false);
	BeginInternalSubTransaction(NULL);
	MemoryContextSwitchTo(context);

	PG_TRY();
	{
		body(arg);

		ReleaseCurrentSubTransaction();
	}
	PG_CATCH();
	{
		/*
		 * Roll back first: the copy may fail, and the next handler would roll
		 * back our subtransaction for its own.
		 */
		MemoryContextSwitchTo(context);
		RollbackAndReleaseCurrentSubTransaction();
		MemoryContextSwitchTo(context);
		CurrentResourceOwner = owner;
		error = CopyErrorData();
		FlushErrorState();
	}
	PG_END_TRY();

	MemoryContextSwitchTo(context);
	CurrentResourceOwner = owner;
	AtEOXact_GUC(false, nestlevel);

	if (error != NULL &&
		(error->sqlerrcode == ERRCODE_QUERY_CANCELED ||
		 ERRCODE_TO_CATEGORY(error->sqlerrcode) == ERRCODE_OPERATOR_INTERVENTION))
		ReThrowError(error);

	return error;
}
