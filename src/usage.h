/*
 * usage.h
 *	  Counting the calls of keys.
 */
#ifndef AMT_USAGE_H
#define AMT_USAGE_H

#include "datatype/timestamp.h"
#include "port/atomics.h"

#include "store.h"
#include "table.h"
#include "token.h"

/* Calls that are not, or not surely, in the table amt_key_usage. */
typedef struct AmtUsageSlot
{
	AmtSlot		slot;
	Oid			database;		/* this and the next three never change */
	Oid			table;
	uint32		id_len;
	char		id[AMT_ID_MAX];
	TransactionId flusher;		/* who is writing, if valid; exclusive lock */
	uint64		flushing;		/* the calls that it writes; exclusive lock */
	pg_atomic_uint64 pending;	/* all calls, those included; any lock to add,
								 * exclusive to subtract */
	pg_atomic_uint64 last_used_at;	/* a TimestampTz; any lock to advance */
} AmtUsageSlot;

#define AMT_USAGE_SLOT_SIZE sizeof(AmtUsageSlot)

extern void amt_usage_init(void);

/* This process has shared memory now. */
extern void amt_usage_attached(void);

/*
 * One call of the key, of which tag is the amt_shmem_key_tag(), at that time;
 * counted at commit, if nobody else can see the key yet.
 */
extern void amt_usage_count(const AmtStore *store, const AmtKey *key, AmtTag tag, TimestampTz at);

/*
 * All calls up to now, exactly.  With a command of the current transaction, what
 * the table has is taken as it was before that, otherwise InvalidCommandId.
 */
extern void amt_usage_read(const AmtStore *store, const char *id, Size id_len,
						   CommandId before, int64 *calls, TimestampTz *last_used_at);

/*
 * This process keeps others from writing something, or hides it from them: when
 * it exits it should see to it itself.
 */
extern void amt_usage_take_care(void);

/* Are there calls of the key in memory? */
extern bool amt_usage_has(AmtTag key_tag);

/*
 * Forget them when the current transaction commits, which is about to.  Who is
 * just writing them is waited for, or else returned: then the second one forgets
 * them, after the commit, as far as that transaction does not hold them.
 */
extern TransactionId amt_usage_give_up(AmtTag key_tag, bool wait);
extern void amt_usage_forget(AmtTag key_tag, TransactionId flusher);

/* Calls of all databases that wait to be written. */
extern int64 amt_usage_pending_calls(void);

/* Those of this database, somebody's marks included. */
extern int64 amt_usage_pending_here(void);

/*
 * Write what can be written now, without waiting, in a transaction of its own,
 * for processes that are in none.  The second is for a process that exits and
 * leaves no worker behind.
 */
extern void amt_usage_flush_once(void);
extern void amt_usage_flush_last(void);

/*
 * Free the slots of keys of this database that have nothing pending.  They are
 * kept for a while, since most will be needed again.  Also what others could
 * not remove, outside of a transaction.
 */
extern void amt_usage_tidy(void);

/* Drop the calls of databases that are gone. */
extern void amt_usage_forget_databases(void);

#endif							/* AMT_USAGE_H */
