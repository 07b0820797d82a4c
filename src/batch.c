/*
 * batch.c
 *	  A short transaction of the background worker.
 *
 * The worker locks a table only if the lock is free.  But it may wait for
 * the lock of an index or a catalog, and rows may be slow to find.  So a
 * batch is cancelled after a second.  If it still runs a second later, the
 * worker is terminated.  The commit is not timed: it waits for the disk only,
 * and cannot be undone.
 */
#include "postgres.h"

#include "access/table.h"
#include "access/xact.h"
#include "access/xlog.h"
#include "miscadmin.h"
#include "storage/ipc.h"
#include "storage/latch.h"
#include "utils/memutils.h"
#include "utils/snapmgr.h"
#include "utils/timeout.h"
#include "utils/timestamp.h"

#include "batch.h"
#include "compat.h"
#include "entry.h"

#define BATCH_MS	1000		/* a longer batch is cancelled */

static TimeoutId batch_timeout;
static volatile sig_atomic_t timeouts = 0;

/*
 * Called in a signal handler.  Cancels the batch, and the next time
 * terminates the worker.
 */
static void
handle_batch_timeout(void)
{
	if (timeouts++ == 0)
		QueryCancelPending = true;
	else
		ProcDiePending = true;
	InterruptPending = true;
	SetLatch(MyLatch);
}

void
amt_batch_timeout(bool enable)
{
	disable_timeout(batch_timeout, false);
	if (timeouts > 1)
		ProcDiePending = false; /* SIGTERM does not set it in a worker of ours */
	timeouts = 0;
	QueryCancelPending = false;
	if (enable)
		enable_timeout_every(batch_timeout,
							 TimestampTzPlusMilliseconds(GetCurrentTimestamp(), BATCH_MS),
							 BATCH_MS);
}

void
amt_batch_init(void)
{
	batch_timeout = RegisterTimeout(USER_TIMEOUT, handle_batch_timeout);
}

void
amt_batch_begin(void)
{
	SetCurrentStatementStartTimestamp();
	StartTransactionCommand();
	PushActiveSnapshot(GetTransactionSnapshot());
}

void
amt_batch_attach(void)
{
	if (!amt_entry_attach())
		proc_exit(1);
}

void
amt_batch_commit(void)
{
	PopActiveSnapshot();
	CommitTransactionCommand();
}

bool
amt_batch_open(AmtBatch *batch, Oid extension, LOCKMODE mode)
{
	batch->key = amt_open_nowait(extension, AMT_KEY, AccessShareLock);
	if (batch->key == NULL)
		return false;
	batch->scratch = AllocSetContextCreate(CurrentMemoryContext, "amt_keys batch",
										   ALLOCSET_SMALL_SIZES);
	batch->usage = NULL;
	batch->exclusive = false;
	if (RecoveryInProgress())
		return true;
	batch->usage = amt_open_nowait(extension, AMT_KEY_USAGE, mode);
	batch->exclusive = batch->usage != NULL && mode == ExclusiveLock;
	if (batch->usage == NULL)
		batch->usage = amt_open_nowait(extension, AMT_KEY_USAGE, RowExclusiveLock);
	if (batch->usage == NULL)
	{
		table_close(batch->key, AccessShareLock);
		return false;
	}
	batch->usage_index = amt_index(batch->usage, AMT_USAGE_BY_ID);
	return true;
}

void
amt_batch_close(AmtBatch *batch)
{
	if (batch->usage != NULL)
		table_close(batch->usage, NoLock);
	table_close(batch->key, NoLock);
}

AmtPresence
amt_batch_presence(AmtBatch *batch, const char *id, Size id_len, const AmtRowHint *hint,
				   uint64 *hash_tag)
{
	MemoryContext oldcontext = MemoryContextSwitchTo(batch->scratch);
	AmtKey		key;
	AmtPresence presence = amt_key_presence(batch->key, id, id_len, hint, &key);

	if (presence != AMT_ABSENT && hash_tag != NULL)
		*hash_tag = amt_entry_tag_of(&key);
	MemoryContextSwitchTo(oldcontext);
	MemoryContextReset(batch->scratch);
	return presence;
}

void
amt_batch_recover(MemoryContext oldcontext)
{
	HOLD_INTERRUPTS();
	MemoryContextSwitchTo(oldcontext);
	FlushErrorState();
	AbortCurrentTransaction();
	amt_batch_timeout(false);
	RESUME_INTERRUPTS();
	MemoryContextSwitchTo(oldcontext);
}
