/*
 * attempt.c
 *	  Something that may fail without the caller failing.
 *
 * Some calls of the server raise an error where we must not: dynamic shared
 * memory that cannot be had, JSON that is none.  An error may leave locks and
 * pins behind, so catching it is only safe around a subtransaction, whose
 * rollback releases them.  It costs a few microseconds and no transaction id,
 * and works in READ ONLY transactions and during recovery; it cannot be used
 * in a transaction's end callbacks or in parallel mode.  In a process that exits,
 * or whose user wants to exit on any error, it catches nothing.
 *
 * In the end callbacks there is amt_shield() instead.  It takes it for granted that
 * no lock is held there but those of the body, and releases all; and that the body
 * does not look for interrupts.
 */
#include "postgres.h"

#include "access/xact.h"
#include "miscadmin.h"
#include "storage/ipc.h"
#include "storage/lwlock.h"
#include "utils/memutils.h"
#include "utils/resowner.h"

#include "attempt.h"

ErrorData *
amt_attempt(void (*body) (void *), void *arg)
{
	MemoryContext context = CurrentMemoryContext;
	ResourceOwner owner = CurrentResourceOwner;
	ErrorData  *volatile error = NULL;

	BeginInternalSubTransaction(NULL);
	MemoryContextSwitchTo(context);

	PG_TRY();
	{
		body(arg);

		ReleaseCurrentSubTransaction();
	}
	PG_CATCH();
	{
		MemoryContextSwitchTo(context);
		error = CopyErrorData();
		FlushErrorState();

		RollbackAndReleaseCurrentSubTransaction();
	}
	PG_END_TRY();

	MemoryContextSwitchTo(context);
	CurrentResourceOwner = owner;

	if (error != NULL &&
		(error->sqlerrcode == ERRCODE_QUERY_CANCELED ||
		 ERRCODE_TO_CATEGORY(error->sqlerrcode) == ERRCODE_OPERATOR_INTERVENTION))
		ReThrowError(error);

	return error;
}

/*
 * The end callbacks of a transaction cannot fail: after a commit that would be
 * a PANIC.  What they do cannot, either, but for mapping memory that another
 * process has made since the last look.  They run without locks of their own,
 * so all that are held afterwards are the body's.  In a process that exits, or
 * whose user wants to exit on any error, an error would be FATAL and never get
 * here, and what is to be released after us would stay; so for that time it is not
 * such a process.
 */
void
amt_shield(void (*body) (void))
{
	MemoryContext context = CurrentMemoryContext;
	ResourceOwner owner = CurrentResourceOwner;
	uint32		holdoff = InterruptHoldoffCount;
	bool		exiting = proc_exit_inprogress;
	bool		exit_on_error = ExitOnAnyError;

	proc_exit_inprogress = false;
	ExitOnAnyError = false;
	PG_TRY();
	{
		body();
	}
	PG_CATCH();
	{
		ErrorData  *error;

		LWLockReleaseAll();
		InterruptHoldoffCount = holdoff;
		MemoryContextSwitchTo(context);
		CurrentResourceOwner = owner;
		error = CopyErrorData();
		FlushErrorState();
		ereport(LOG_SERVER_ONLY,
				(errcode(error->sqlerrcode),
				 errmsg("amt_keys could not bring its shared memory up to date: %s", error->message)));
		FreeErrorData(error);
	}
	PG_END_TRY();
	proc_exit_inprogress = exiting;
	ExitOnAnyError = exit_on_error;
}
