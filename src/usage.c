/*
 * usage.c
 *	  Counting the calls of keys.
 *
 * A verification adds to a counter in shared memory, which is not part of any
 * transaction: it counts in READ ONLY transactions, on a standby, and when the
 * surrounding transaction rolls back.  From time to time somebody (the worker
 * of the database, amt_flush_usage(), a process that exits while there is no
 * worker) adds the pending calls to the table amt_key_usage in an ordinary
 * transaction.  The sum of table and memory must be exact at every moment, so
 * a call leaves memory only after the transaction that wrote it has committed.
 *
 * Writing.  The flusher marks each slot with its transaction id and the number
 * of calls it is about to write, writes, and at commit subtracts the number
 * and removes the mark; if it fails, it just removes the marks.  A marked slot
 * is left alone by other flushers, and goes on counting.  The calls of keys
 * that are gone are given up: subtracted as if they were written.  So are those
 * of a key that the transaction deletes, shortly before its commit, which may
 * fail (atcommit.c).  If another flusher has marked them, they are taken away after
 * the commit, but for those which that one holds until it ends.  A mark whose
 * transaction has ended without removing it (amt_shield()) is removed, in the same
 * way, by the worker, by who exits, and by who waits for it.
 *
 * What a flusher writes without waiting for anybody, unless it is called in
 * somebody's transaction, which can be cancelled:
 * - It locks amt_key, amt_key_usage and their indexes as writing to them will,
 *   in this order, or leaves them for later.
 * - It skips rows that somebody has locked, of amt_key_usage for an update, of
 *   amt_key for the first row of a key.  That is inserted with the key's row
 *   locked before, so that the check of the foreign key finds that lock and
 *   waits for no other.
 * - The worker takes all of amt_key_usage for the update of its last batch,
 *   mostly the only one, if nobody else has written to it (ExclusiveLock), and
 *   need not lock each row before.  It lets go of it after that update.
 * What is left to be waited for is what owner and superuser have a hand in: a
 * row of amt_key_usage inserted by hand between our look for it and our own
 * insertion of it, their triggers and constraints, a locked system catalog.  The
 * worker gives up after a second of waiting for one lock; a process that exits
 * waits.
 *
 * Reading.  A reader takes a snapshot, reads the table's row, then the slot.
 * If the slot is marked and the snapshot already sees the flusher, the marked
 * calls are in the row, or given up, and are not added again.  A flusher that
 * commits and removes its mark between the snapshot and the look at the slot
 * would make calls vanish, so it advances "flushes" after the commit and before
 * the first subtraction; a reader that sees another value at the end than before
 * its snapshot starts again.  If the value had already advanced when the reader
 * came, its snapshot sees that flusher.
 *
 * Locks in shared memory: the table's (table.c).  Counting holds a partition's
 * lock shared and adds atomically; marking and subtracting hold it exclusively.
 * Scans glance at marks and numbers without it.  "flushes" and "exits" have no
 * lock: they are advanced, with a full barrier, and compared.
 *
 * Calls of a key that only the current transaction can see are kept aside until
 * it commits: a flusher would take the key for gone.  Their slots are reserved.
 * PREPARE TRANSACTION loses the calls.  For a moment after the commit they are not
 * yet there.
 *
 * A clean shutdown loses nothing: the worker writes before it leaves, and for
 * two seconds tries again what others have locked; a process that exits when
 * there is no worker writes itself, after it has advanced "exits"
 * (amt_usage_flush_last()).  (What a prepared transaction locks is lost,
 * and what is counted on a standby.  If the worker fails at that time, or who
 * exits and writes for others, too, or if there is none, and who had a row locked
 * by hand has not counted himself, or many exit at once and the one that tries for
 * others gives up, after ten times, just when the row is free, nobody writes.)  A
 * crash loses what was not written: what the last interval saw, and what locks, or
 * the lack of a worker, have kept in memory for longer.
 */
#include "postgres.h"

#include "access/htup_details.h"
#include "access/table.h"
#include "access/transam.h"
#include "access/xact.h"
#include "access/xlog.h"
#include "catalog/pg_type.h"
#include "executor/spi.h"
#include "fmgr.h"
#include "funcapi.h"
#include "miscadmin.h"
#include "storage/ipc.h"
#include "storage/lmgr.h"
#include "storage/procarray.h"
#include "tcop/utility.h"
#include "utils/array.h"
#include "utils/builtins.h"
#include "utils/lsyscache.h"
#include "utils/memutils.h"
#include "utils/rel.h"
#include "utils/rls.h"
#include "utils/snapmgr.h"
#include "utils/syscache.h"
#include "utils/timestamp.h"

#include "attempt.h"
#include "compat.h"
#include "identity.h"
#include "shmem.h"
#include "usage.h"

/* Calls written by one statement. */
#define BATCH	20000

/*
 * Slots to be free, beside those reserved by who counts at commit, when one is
 * needed: so many may be taken at once.
 */
#define SPARE_SLOTS	256

#define MAX_TRIES	10

/* A slot that this transaction has marked. */
typedef struct Marked
{
	struct Marked *next;
	SubTransactionId subid;
	AmtTag		tag;
	uint64		calls;			/* 0 once it is known that they are not
								 * written */
	TimestampTz last_used_at;
	bool		wanted;			/* by the next query */
	bool		written;
	CommandId	command;		/* that marked it */
	int			counter;		/* of these calls, at commit; or -1 */
	uint32		id_len;
	char		id[AMT_ID_MAX];
} Marked;

/* Calls of a key that only this transaction can see. */
typedef struct OwnCalls
{
	struct OwnCalls *next;
	TransactionId creator;		/* of the key: it, or a subtransaction */
	Oid			table;
	uint64		calls;
	TimestampTz last_used_at;
	uint32		id_len;
	char		id[AMT_ID_MAX];
} OwnCalls;

static Marked *marked = NULL;
static Marked *failed = NULL;	/* to be unmarked, and forgotten */
static TransactionId marked_by = InvalidTransactionId;	/* our transaction */
static OwnCalls *own_calls = NULL;
static uint32 n_own_keys = 0;	/* as many slots are reserved */
static bool has_counted = false;

/* The later of two times, atomically. */
static void
advance(pg_atomic_uint64 *last_used_at, TimestampTz at)
{
	uint64		before = pg_atomic_read_u64(last_used_at);

	while ((TimestampTz) before < at &&
		   !pg_atomic_compare_exchange_u64(last_used_at, &before, (uint64) at))
		;
}

static void
add_calls(AmtUsageSlot *slot, uint64 calls, TimestampTz at)
{
	pg_atomic_fetch_add_u64(&slot->pending, (int64) calls);
	advance(&slot->last_used_at, at);
}

/* The first call since the slot was last written and removed. */
static bool
count_first(Oid table, const char *id, Size id_len, AmtTag tag, uint64 calls, TimestampTz at)
{
	bool		added;
	AmtUsageSlot *slot = (AmtUsageSlot *)
	amt_table_add(&amt_shared->usage, amt_area, tag, false, &added);

	if (slot == NULL)
		return false;
	if (added)
	{
		slot->database = MyDatabaseId;
		slot->table = table;
		slot->id_len = id_len;
		memcpy(slot->id, id, id_len);
		pg_atomic_init_u64(&slot->pending, 0);
		pg_atomic_init_u64(&slot->last_used_at, (uint64) at);
	}
	add_calls(slot, calls, at);
	amt_table_unlock(&amt_shared->usage, tag);
	return true;
}

/* Room for so many keys, beside those of which others count calls at commit. */
static bool
make_room(uint32 keys)
{
	return amt_shmem_make_room(&amt_shared->usage, AMT_TABLE_MAX_SLOTS, keys + SPARE_SLOTS);
}

/* Count; "can_grow" where memory can be allocated. */
static void
count(Oid table, const char *id, Size id_len, AmtTag tag, uint64 calls, TimestampTz at,
	  bool can_grow)
{
	AmtUsageSlot *slot = (AmtUsageSlot *)
	amt_table_lock(&amt_shared->usage, amt_area, tag, LW_SHARED);

	if (likely(slot != NULL))
		add_calls(slot, calls, at);
	amt_table_unlock(&amt_shared->usage, tag);
	has_counted = true;
	if (likely(slot != NULL))
		return;

	if (can_grow)
		(void) make_room(1);
	for (int tries = 0; tries < MAX_TRIES; tries++)
	{
		if (count_first(table, id, id_len, tag, calls, at))
			return;
		/* Others may have taken the room that was there. */
		if (!can_grow || !make_room(1))
			break;
	}
	amt_stat_add(AMT_CALLS_DROPPED, calls);
}

static bool
is_of_key(const OwnCalls *own, Oid table, const char *id, Size id_len)
{
	return own->table == table && own->id_len == id_len && memcmp(own->id, id, id_len) == 0;
}

/* Keep the call aside until the transaction commits. */
static void
count_own(const AmtStore *store, const char *id, Size id_len, TransactionId creator,
		  TimestampTz at)
{
	OwnCalls   *own;

	for (own = own_calls; own != NULL; own = own->next)
		if (is_of_key(own, store->key, id, id_len) && TransactionIdEquals(own->creator, creator))
			break;
	if (own == NULL)
	{
		own = MemoryContextAllocZero(TopTransactionContext, sizeof(OwnCalls));
		own->creator = creator;
		own->table = store->key;
		own->id_len = id_len;
		memcpy(own->id, id, id_len);
		own->next = own_calls;
		own_calls = own;
		n_own_keys++;
		amt_table_reserve(&amt_shared->usage, 1);
		(void) make_room(0);
	}
	own->calls++;
	own->last_used_at = at;
}

void
amt_usage_count(const AmtStore *store, const AmtKey *key, AmtTag tag, TimestampTz at)
{
	static const AmtTag none = {0};
	text	   *id = (text *) DatumGetPointer(AmtKeyColumn(key, key_id));

	if (!amt_shmem_attach())
	{
		amt_stat_add(AMT_CALLS_DROPPED, 1);
		return;
	}
	if (AmtTagEquals(tag, none))	/* there was no shared memory then */
		tag = amt_shmem_key_tag(store->key, VARDATA_ANY(id), VARSIZE_ANY_EXHDR(id));
	if (unlikely(key->own))
	{
		/*
		 * A later version of the row may go with its subtransaction; the key
		 * stays.
		 */
		TransactionId creator = key->updated ? GetTopTransactionIdIfAny() : key->xmin;

		count_own(store, VARDATA_ANY(id), VARSIZE_ANY_EXHDR(id), creator, at);
	}
	else
		count(store->key, VARDATA_ANY(id), VARSIZE_ANY_EXHDR(id), tag, 1, at, true);
	amt_worker_want(at);
}

static Marked *
find_mark(AmtTag tag)
{
	for (Marked *mark = marked; mark != NULL; mark = mark->next)
		if (AmtTagEquals(mark->tag, tag))
			return mark;
	return NULL;
}

/* Does the snapshot see what the flusher wrote of the marked slot? */
static bool
snapshot_sees(Snapshot snapshot, TransactionId flusher, AmtTag tag, CommandId before)
{
	Marked	   *mark;

	if (!TransactionIdIsCurrentTransactionId(flusher))
		return !XidInMVCCSnapshot(flusher, snapshot) && TransactionIdDidCommit(flusher);
	if (before == InvalidCommandId)
		return true;
	/* Who marks in the same command writes in later ones. */
	mark = find_mark(tag);
	return mark == NULL || mark->command + 1 < before;
}

/* Add this transaction's calls of a key that it created. */
static void
add_own_calls(const AmtStore *store, const char *id, Size id_len,
			  int64 *calls, TimestampTz *last_used_at)
{
	for (OwnCalls *own = own_calls; own != NULL; own = own->next)
	{
		if (!is_of_key(own, store->key, id, id_len) ||
			!TransactionIdIsCurrentTransactionId(own->creator))
			continue;
		*calls += own->calls;
		*last_used_at = Max(*last_used_at, own->last_used_at);
	}
}

void
amt_usage_read(const AmtStore *store, const char *id, Size id_len,
			   CommandId before, int64 *calls, TimestampTz *last_used_at)
{
	bool		shared = id_len <= AMT_ID_MAX && amt_shmem_attach();
	AmtTag		tag;
	uint64		flushes = 0;

	if (shared)
		tag = amt_shmem_key_tag(store->key, id, id_len);
	for (;;)
	{
		Snapshot	snapshot;
		AmtUsageSlot *slot;
		AmtUsageSlot copy = {0};

		if (shared)
			flushes = pg_atomic_read_u64(&amt_shared->flushes);
		pg_memory_barrier();

		/* Who rewrites the table hides its rows from snapshots of before. */
		LockRelationOid(store->usage, AccessShareLock);
		snapshot = RegisterSnapshot(GetLatestSnapshot());
		if (before != InvalidCommandId)
			snapshot->curcid = before;
		amt_store_get_usage(store, id, id_len, snapshot, calls, last_used_at);
		UnlockRelationOid(store->usage, AccessShareLock);

		if (shared)
		{
			uint64		pending = 0;
			TimestampTz pending_last = DT_NOBEGIN;

			slot = (AmtUsageSlot *) amt_table_lock(&amt_shared->usage, amt_area, tag, LW_SHARED);
			if (slot != NULL)
			{
				pending = pg_atomic_read_u64(&slot->pending);
				pending_last = (TimestampTz) pg_atomic_read_u64(&slot->last_used_at);
				copy.flusher = slot->flusher;
				copy.flushing = slot->flushing;
			}
			amt_table_unlock(&amt_shared->usage, tag);

			if (TransactionIdIsValid(copy.flusher) &&
				snapshot_sees(snapshot, copy.flusher, tag, before))
				pending -= copy.flushing;
			*calls += pending;
			if (pending > 0)	/* otherwise it may be of an older key */
				*last_used_at = Max(*last_used_at, pending_last);
		}
		UnregisterSnapshot(snapshot);

		pg_memory_barrier();
		if (!shared || pg_atomic_read_u64(&amt_shared->flushes) == flushes)
			break;
		CHECK_FOR_INTERRUPTS();
	}
	add_own_calls(store, id, id_len, calls, last_used_at);
}

void
amt_usage_take_care(void)
{
	has_counted = true;
}

bool
amt_usage_has(AmtTag key_tag)
{
	bool		found = amt_table_lock(&amt_shared->usage, amt_area, key_tag, LW_SHARED) != NULL;

	amt_table_unlock(&amt_shared->usage, key_tag);
	return found;
}

/*
 * What the flusher holds stays with it until it ends: it may be about to write
 * that, if it finds a key of the same id by then, and who puts one there has to
 * wait for it.
 */
void
amt_usage_forget(AmtTag key_tag, TransactionId flusher)
{
	AmtUsageSlot *slot;

	pg_atomic_fetch_add_u64(&amt_shared->flushes, 1);
	slot = (AmtUsageSlot *) amt_table_lock(&amt_shared->usage, amt_area, key_tag, LW_EXCLUSIVE);
	if (slot != NULL && TransactionIdEquals(slot->flusher, flusher))
	{
		if (slot->flushing == 0)
			slot->flusher = InvalidTransactionId;
		pg_atomic_write_u64(&slot->pending, slot->flushing);
	}
	amt_table_unlock(&amt_shared->usage, key_tag);
}

static bool
sum_pending(AmtSlot *slot, void *arg)
{
	*(int64 *) arg += pg_atomic_read_u64(&((AmtUsageSlot *) slot)->pending);
	return true;
}

int64
amt_usage_pending_calls(void)
{
	int64		sum = 0;

	amt_table_scan(&amt_shared->usage, amt_area, sum_pending, &sum);
	return sum;
}

static bool
is_flushable(AmtUsageSlot *slot)
{
	return slot->database == MyDatabaseId &&
		!TransactionIdIsValid(slot->flusher) &&
		pg_atomic_read_u64(&slot->pending) > 0;
}

static bool
sum_pending_here(AmtSlot *base, void *arg)
{
	AmtUsageSlot *slot = (AmtUsageSlot *) base;

	if (slot->database == MyDatabaseId)
		*(int64 *) arg += pg_atomic_read_u64(&slot->pending);
	return true;
}

int64
amt_usage_pending_here(void)
{
	int64		sum = 0;

	amt_table_scan(&amt_shared->usage, amt_area, sum_pending_here, &sum);
	return sum;
}

/* What mark_slot() works on; the room is made before, nothing may fail within. */
typedef struct MarkState
{
	Oid			table;
	TransactionId xid;
	CommandId	command;
	Marked	   *room;
	int			n;
	int			limit;
} MarkState;

/* How many marks there would be now, so as not to make room for a full batch. */
static bool
count_flushable(AmtSlot *base, void *arg)
{
	AmtUsageSlot *slot = (AmtUsageSlot *) base;
	MarkState  *state = arg;

	if (slot->table == state->table && is_flushable(slot))
		state->limit++;
	return true;
}

static bool
mark_slot(AmtSlot *base, void *arg)
{
	AmtUsageSlot *slot = (AmtUsageSlot *) base;
	MarkState  *state = arg;
	LWLock	   *lock = amt_table_partition_lock(&amt_shared->usage, base->tag);

	if (slot->table != state->table || !is_flushable(slot))
		return true;
	if (state->n == state->limit)
		return false;
	LWLockAcquire(lock, LW_EXCLUSIVE);
	if (is_flushable(slot))
	{
		Marked	   *mark = &state->room[state->n++];

		slot->flusher = state->xid;
		slot->flushing = pg_atomic_read_u64(&slot->pending);
		mark->tag = base->tag;
		mark->calls = slot->flushing;
		mark->wanted = true;
		mark->written = false;
		mark->command = state->command;
		mark->counter = AMT_CALLS_FLUSHED;
		mark->last_used_at = (TimestampTz) pg_atomic_read_u64(&slot->last_used_at);
		mark->id_len = slot->id_len;
		memcpy(mark->id, slot->id, slot->id_len);
	}
	LWLockRelease(lock);
	return true;
}

/*
 * Change the mark: "done" calls are not pending any more, "flushing" still are
 * with the flusher, or nothing is and the mark goes.
 */
static void
change_mark(const Marked *mark, TransactionId flusher, uint64 flushing, uint64 done)
{
	AmtUsageSlot *slot = (AmtUsageSlot *)
	amt_table_lock(&amt_shared->usage, amt_area, mark->tag, LW_EXCLUSIVE);

	/* The key may have been forgotten, restored and marked by another. */
	if (slot != NULL && TransactionIdEquals(slot->flusher, marked_by))
	{
		slot->flusher = flusher;
		slot->flushing = flushing;
		pg_atomic_fetch_sub_u64(&slot->pending, (int64) done);
	}
	amt_table_unlock(&amt_shared->usage, mark->tag);
}

static int
compare_marked(const void *a, const void *b)
{
	const Marked *x = a;
	const Marked *y = b;
	int			order = memcmp(x->id, y->id, Min(x->id_len, y->id_len));

	return order != 0 ? order : (int) x->id_len - (int) y->id_len;
}

/*
 * What somebody has locked is skipped: a usage row, which a revocation deletes
 * last, or a key that is being revoked.  To lock rows and then to look them up
 * again takes more than twice the time of a plain update, which is for those
 * who have the whole table to themselves.  The last query is for the keys that
 * have no row yet, each at its first call.
 */
#define PENDING \
	" FROM ROWS FROM (pg_catalog.unnest($1), pg_catalog.unnest($2), pg_catalog.unnest($3))" \
	" AS p (key_id, calls, last_used_at)"

static const char update_query[] =
"UPDATE %s.amt_key_usage AS u"
" SET calls = u.calls OPERATOR(pg_catalog.+) p.calls,"
"  last_used_at = greatest(u.last_used_at, p.last_used_at)"
PENDING
" WHERE u.key_id OPERATOR(pg_catalog.=) p.key_id"
" RETURNING u.key_id";

static const char update_skipping_query[] =
"WITH l AS MATERIALIZED ("
" SELECT u.ctid AS place, p.calls, p.last_used_at"
PENDING
" JOIN %s.amt_key_usage AS u ON u.key_id OPERATOR(pg_catalog.=) p.key_id"
" ORDER BY u.key_id FOR NO KEY UPDATE OF u SKIP LOCKED)"
" UPDATE %s.amt_key_usage AS u"
" SET calls = u.calls OPERATOR(pg_catalog.+) l.calls,"
"  last_used_at = greatest(u.last_used_at, l.last_used_at)"
" FROM l WHERE u.ctid OPERATOR(pg_catalog.=) l.place"
" RETURNING u.key_id";

static const char insert_query[] =
"INSERT INTO %s.amt_key_usage AS u (key_id, calls, last_used_at)"
" SELECT p.key_id, p.calls, p.last_used_at"
PENDING
" ON CONFLICT (key_id) DO NOTHING"
" RETURNING u.key_id";

/* Note which of the sorted marks the query that has just run has written. */
static void
note_written(Marked *marks, int n)
{
	for (uint64 i = 0; i < SPI_processed; i++)
	{
		Marked		wanted;
		Marked	   *mark;
		bool		isnull;
		Datum		value = SPI_getbinval(SPI_tuptable->vals[i],
										  SPI_tuptable->tupdesc, 1, &isnull);
		text	   *id;

		if (isnull)
			continue;
		id = DatumGetTextPP(value);
		wanted.id_len = VARSIZE_ANY_EXHDR(id);
		if (wanted.id_len > AMT_ID_MAX)
			continue;			/* a trigger of the owner's */
		memcpy(wanted.id, VARDATA_ANY(id), wanted.id_len);
		mark = bsearch(&wanted, marks, n, sizeof(Marked), compare_marked);
		if (mark != NULL)
			mark->written = true;
	}
}

/* Execute a query for those of the sorted marks that it is wanted for. */
static void
write_marked(const AmtStore *store, int flags, const char *query, Marked *marks, int n)
{
	Datum	   *columns[3];
	Oid			types[3] = {TEXTARRAYOID, INT8ARRAYOID, TIMESTAMPTZARRAYOID};
	Datum		values[3];
	int			m = 0;

	for (int c = 0; c < 3; c++)
		columns[c] = palloc(sizeof(Datum) * n);
	for (int i = 0; i < n; i++)
	{
		if (!marks[i].wanted)
			continue;
		columns[0][m] = PointerGetDatum(cstring_to_text_with_len(marks[i].id, marks[i].id_len));
		columns[1][m] = Int64GetDatum((int64) marks[i].calls);
		columns[2][m] = TimestampTzGetDatum(marks[i].last_used_at);
		m++;
	}
	if (m == 0)
		return;
	values[0] = PointerGetDatum(construct_array(columns[0], m, TEXTOID, -1, false, TYPALIGN_INT));
	values[1] = PointerGetDatum(construct_array(columns[1], m, INT8OID, 8, FLOAT8PASSBYVAL, TYPALIGN_DOUBLE));
	values[2] = PointerGetDatum(construct_array(columns[2], m, TIMESTAMPTZOID, 8, FLOAT8PASSBYVAL, TYPALIGN_DOUBLE));

	SPI_connect();
	amt_store_execute(store, flags | AMT_EXECUTE_RESTRICTED, query, 3, types, values, NULL);
	note_written(marks, n);
	SPI_finish();
}

/*
 * Want the next query for the keys that have no row yet, with their own rows
 * locked: not for one that somebody has locked, or is updating, or that is
 * gone; nor if somebody is inserting the row.  The foreign key is checked with
 * the transaction's snapshot, so it must be the one that sees the key here.
 */
static void
want_first_calls(const AmtStore *store, Marked *marks, int n)
{
	Snapshot	snapshot = RegisterSnapshot(IsolationUsesXactSnapshot() ?
											GetTransactionSnapshot() : GetLatestSnapshot());

	for (int i = 0; i < n; i++)
	{
		Marked	   *mark = &marks[i];

		CHECK_FOR_INTERRUPTS();
		mark->wanted = !mark->written &&
			!amt_store_may_have_usage(store, mark->id, mark->id_len) &&
			amt_store_lock_key(store, mark->id, mark->id_len, snapshot);
	}
	UnregisterSnapshot(snapshot);
}

/*
 * The calls were not written.  If the key is gone, they go, too, when the
 * transaction commits: it may have deleted the key itself.  If its row is
 * locked, they stay, marked until then so that it does not try them again.
 */
static void
leave_unwritten(const AmtStore *store, Marked *mark)
{
	AmtKey		key;

	if (!amt_store_get_key(store, mark->id, mark->id_len, NULL, &key))
	{
		mark->counter = AMT_CALLS_DROPPED;
		return;
	}
	mark->calls = 0;
	change_mark(mark, marked_by, 0, 0);
}

/*
 * Mark and write one batch; the number of calls written, or -1 if there was
 * nothing to mark.  The marks are in the list before anything can fail.
 */
static int64
flush_batch(const AmtStore *store, bool alone)
{
	bool		whole;
	MarkState	state = {0};
	MemoryContext context;
	MemoryContext oldcontext;
	int64		calls = 0;

	state.table = store->key;
	amt_table_scan(&amt_shared->usage, amt_area, count_flushable, &state);
	if (state.limit == 0)
		return -1;
	state.xid = marked_by = GetTopTransactionId();
	state.command = GetCurrentCommandId(false);
	state.limit = Min(BATCH, state.limit + SPARE_SLOTS);
	state.room = MemoryContextAlloc(TopTransactionContext, sizeof(Marked) * state.limit);
	amt_table_scan(&amt_shared->usage, amt_area, mark_slot, &state);
	if (state.n == 0)
		return -1;

	qsort(state.room, state.n, sizeof(Marked), compare_marked);
	for (int i = 0; i < state.n; i++)
	{
		state.room[i].subid = GetCurrentSubTransactionId();
		state.room[i].next = marked;
		marked = &state.room[i];
	}

	context = AllocSetContextCreate(CurrentMemoryContext, "amt_keys usage", ALLOCSET_DEFAULT_SIZES);
	oldcontext = MemoryContextSwitchTo(context);
	whole = alone && state.n < state.limit &&
		ConditionalLockRelationOid(store->usage, ExclusiveLock);
	write_marked(store, 0, whole ? update_query : update_skipping_query, state.room, state.n);
	if (whole)
		UnlockRelationOid(store->usage, ExclusiveLock);
	want_first_calls(store, state.room, state.n);
	write_marked(store, AMT_EXECUTE_XACT_SNAPSHOT, insert_query, state.room, state.n);
	for (int i = 0; i < state.n; i++)
	{
		if (state.room[i].written)
			calls += state.room[i].calls;
		else
			leave_unwritten(store, &state.room[i]);
	}
	MemoryContextSwitchTo(oldcontext);
	MemoryContextDelete(context);
	return calls;
}

/* Slots to remove. */
typedef struct Removal
{
	Oid			database;
	Oid			table;			/* or InvalidOid for all */
	bool		idle_only;
	AmtTag		tags[256];
	int			n;
} Removal;

/* For amt_table_remove(): the calls go with the slot. */
static bool
drop_calls(const AmtSlot *slot)
{
	amt_stat_add(AMT_CALLS_DROPPED, pg_atomic_read_u64(&((AmtUsageSlot *) slot)->pending));
	return true;
}

static bool
is_idle(const AmtSlot *slot)
{
	AmtUsageSlot *usage = (AmtUsageSlot *) slot;

	return !TransactionIdIsValid(usage->flusher) &&
		pg_atomic_read_u64(&usage->pending) == 0;
}

static bool
find_removable(AmtSlot *base, void *arg)
{
	AmtUsageSlot *slot = (AmtUsageSlot *) base;
	Removal    *removal = arg;

	if (slot->database == removal->database &&
		(!OidIsValid(removal->table) || slot->table == removal->table) &&
		(!removal->idle_only || is_idle(base)))
		removal->tags[removal->n++] = base->tag;
	return removal->n < (int) lengthof(removal->tags);
}

static void
remove_slots(Oid database, Oid table, bool idle_only)
{
	Removal		removal;
	uint32		place = 0;
	bool		more;

	removal.database = database;
	removal.table = table;
	removal.idle_only = idle_only;
	do
	{
		removal.n = 0;
		more = amt_table_scan_on(&amt_shared->usage, amt_area, &place, find_removable, &removal);
		for (int i = 0; i < removal.n; i++)
			amt_table_remove(&amt_shared->usage, amt_area, removal.tags[i],
							 idle_only ? is_idle : drop_calls);
	} while (more);
}

/* Marks of others. */
typedef struct OthersMarks
{
	struct
	{
		AmtTag		tag;
		TransactionId flusher;
	}			mark[256];
	int			n;
} OthersMarks;

static bool
find_marked(AmtSlot *base, void *arg)
{
	AmtUsageSlot *slot = (AmtUsageSlot *) base;
	OthersMarks *marks = arg;

	if (slot->database == MyDatabaseId && TransactionIdIsValid(slot->flusher))
	{
		marks->mark[marks->n].tag = base->tag;
		marks->mark[marks->n++].flusher = slot->flusher;
	}
	return marks->n < (int) lengthof(marks->mark);
}

/*
 * Remove the mark of a transaction that has ended, in its place.  It is about to
 * do it itself, or could not.
 */
static void
settle_mark(AmtTag tag, TransactionId flusher)
{
	bool		committed = TransactionIdDidCommit(flusher);
	AmtUsageSlot *slot;

	if (committed)
		pg_atomic_fetch_add_u64(&amt_shared->flushes, 1);
	slot = (AmtUsageSlot *) amt_table_lock(&amt_shared->usage, amt_area, tag, LW_EXCLUSIVE);
	if (slot != NULL && TransactionIdEquals(slot->flusher, flusher))
	{
		if (committed)
			pg_atomic_fetch_sub_u64(&slot->pending, (int64) slot->flushing);
		slot->flusher = InvalidTransactionId;
		slot->flushing = 0;
	}
	amt_table_unlock(&amt_shared->usage, tag);
}

static void
settle_marks(void)
{
	OthersMarks marks;
	uint32		place = 0;
	bool		more;

	do
	{
		marks.n = 0;
		more = amt_table_scan_on(&amt_shared->usage, amt_area, &place, find_marked, &marks);
		for (int i = 0; i < marks.n; i++)
			if (!TransactionIdIsInProgress(marks.mark[i].flusher))
				settle_mark(marks.mark[i].tag, marks.mark[i].flusher);
	} while (more);
}

static Marked *
new_mark(AmtTag tag)
{
	Marked	   *mark = MemoryContextAllocZero(TopTransactionContext, sizeof(Marked));

	mark->subid = GetCurrentSubTransactionId();
	mark->tag = tag;
	mark->command = GetCurrentCommandId(false);
	mark->counter = -1;
	mark->next = marked;
	marked = mark;
	return mark;
}

/* Who has the slot marked?  0 if nobody has, or there is none. */
static TransactionId
flusher_of(AmtTag tag)
{
	AmtUsageSlot *slot = (AmtUsageSlot *)
	amt_table_lock(&amt_shared->usage, amt_area, tag, LW_SHARED);
	TransactionId flusher = slot != NULL ? slot->flusher : InvalidTransactionId;

	amt_table_unlock(&amt_shared->usage, tag);
	return flusher;
}

/* Have all calls marked with that mark; false if another was faster. */
static bool
mark_all_calls(AmtTag tag, Marked *mark)
{
	AmtUsageSlot *slot = (AmtUsageSlot *)
	amt_table_lock(&amt_shared->usage, amt_area, tag, LW_EXCLUSIVE);
	bool		free = slot == NULL || !TransactionIdIsValid(slot->flusher) ||
	TransactionIdEquals(slot->flusher, marked_by);

	if (slot != NULL && free)
	{
		slot->flusher = marked_by;
		slot->flushing = mark->calls = pg_atomic_read_u64(&slot->pending);
	}
	amt_table_unlock(&amt_shared->usage, tag);
	return free;
}

TransactionId
amt_usage_give_up(AmtTag tag, bool wait)
{
	Marked	   *mark = NULL;

	if (!amt_usage_has(tag))
		return InvalidTransactionId;
	has_counted = true;			/* what our mark hides meanwhile is ours */
	marked_by = GetTopTransactionId();
	for (;;)
	{
		TransactionId flusher = flusher_of(tag);

		if (!TransactionIdIsValid(flusher) || TransactionIdEquals(flusher, marked_by))
		{
			if (mark == NULL && TransactionIdIsValid(flusher))
				mark = find_mark(tag);
			if (mark == NULL)
				mark = new_mark(tag);
			if (mark_all_calls(tag, mark))
				return InvalidTransactionId;
			continue;
		}
		if (!wait)
			return flusher;
		XactLockTableWait(flusher, NULL, NULL, XLTW_None);
		settle_mark(tag, flusher);
	}
}

void
amt_usage_tidy(void)
{
	settle_marks();
	remove_slots(MyDatabaseId, InvalidOid, true);
}

/* The next larger OID that the slots name. */
typedef struct NextOid
{
	bool		databases;		/* of databases, or of tables in this one? */
	Oid			after;
	Oid			found;
} NextOid;

static bool
find_next_oid(AmtSlot *base, void *arg)
{
	AmtUsageSlot *slot = (AmtUsageSlot *) base;
	NextOid    *next = arg;
	Oid			oid = next->databases ? slot->database : slot->table;

	if ((next->databases || slot->database == MyDatabaseId) &&
		oid > next->after && (!OidIsValid(next->found) || oid < next->found))
		next->found = oid;
	return true;
}

static bool
next_oid(NextOid *next)
{
	next->after = next->found;
	next->found = InvalidOid;
	amt_table_scan(&amt_shared->usage, amt_area, find_next_oid, next);
	return OidIsValid(next->found);
}

void
amt_usage_forget_databases(void)
{
	NextOid		next = {.databases = true};

	while (next_oid(&next))
		if (!SearchSysCacheExists1(DATABASEOID, ObjectIdGetDatum(next.found)))
			remove_slots(next.found, InvalidOid, false);
}

/* Lock a table as writing to it will; false if it would have to wait. */
static bool
lock_table(Oid table, bool wait)
{
	if (!wait)
		return ConditionalLockRelationOid(table, RowExclusiveLock);
	LockRelationOid(table, RowExclusiveLock);
	return true;
}

/* Likewise its indexes, all of which the planner opens. */
static bool
lock_indexes(Oid table)
{
	Relation	rel = table_open(table, NoLock);
	List	   *indexes = RelationGetIndexList(rel);
	ListCell   *cell;
	bool		locked = true;

	foreach(cell, indexes)
		locked = locked && ConditionalLockRelationOid(lfirst_oid(cell), RowExclusiveLock);
	list_free(indexes);
	table_close(rel, NoLock);
	return locked;
}

/*
 * Write what is pending in this database, as part of the current transaction;
 * the number of calls written.  With "wait" unset, tables that somebody has
 * locked are left for later; "alone" if all of a table may be locked.  For the
 * foreign key alone, a weaker lock of amt_key would do, but it would let REINDEX
 * lock the indexes.
 */
static int64
flush(bool wait, bool alone)
{
	NextOid		next = {0};
	int64		total = 0;

	while (next_oid(&next))
	{
		const AmtStore *store;
		int64		calls;

		if (!lock_table(next.found, wait))
			continue;
		store = amt_store_of_table(next.found);
		if (store == NULL)
		{
			/* In somebody's transaction, which may bring it back. */
			if (wait)
				continue;
			UnlockRelationOid(next.found, RowExclusiveLock);
			remove_slots(MyDatabaseId, next.found, false);
			continue;
		}
		if (!lock_table(store->usage, wait) ||
			(!wait && !(lock_indexes(store->key) && lock_indexes(store->usage))))
			continue;
		while ((calls = flush_batch(store, alone)) >= 0)
			total += calls;
	}
	return total;
}

/* In a transaction of its own. */
static int64
flush_by_itself(bool alone)
{
	int64		calls = 0;

	SetCurrentStatementStartTimestamp();
	StartTransactionCommand();
	XactReadOnly = false;
	XactIsoLevel = XACT_READ_COMMITTED;
	if (amt_usage_pending_here() > 0)
	{
		PushActiveSnapshot(GetTransactionSnapshot());
		calls = flush(false, alone);
		PopActiveSnapshot();
	}
	CommitTransactionCommand();
	return calls;
}

void
amt_usage_flush_once(void)
{
	(void) flush_by_itself(true);
}

/*
 * Who exits announces that first, and then leaves alone what others have
 * marked.  So if somebody has announced it since we set our marks, we look
 * again once they are gone: what was counted meanwhile is nobody else's.  (Not
 * as long as there is something: while others count, there always is.)  What
 * cannot be written now is left, after some tries if others go on to exit.  No
 * such process takes all of the table, which would keep the others from writing.
 */
void
amt_usage_flush_last(void)
{
	uint64		exits = pg_atomic_add_fetch_u64(&amt_shared->exits, 1);
	uint64		before;
	int			in_vain = 0;

	amt_shield(settle_marks);
	do
	{
		before = exits;
		in_vain = flush_by_itself(false) > 0 ? 0 : in_vain + 1;
		exits = pg_atomic_fetch_add_u64(&amt_shared->exits, 0); /* a full barrier */
	} while (exits != before && in_vain < MAX_TRIES);
}

/*
 * A process that counted and exits while no worker is there writes what is
 * pending, as it removes its temporary tables: in a transaction of its own.
 */
static void
flush_at_exit(int code, Datum arg)
{
	if (!has_counted || RecoveryInProgress())
		return;

	/* First give up what our own transaction locks and keeps others from. */
	AbortOutOfAnyTransaction();
	/* Nobody can cancel us any more, so wait for no standby. */
	synchronous_commit = SYNCHRONOUS_COMMIT_LOCAL_FLUSH;
	if (!amt_worker_is_there())
		amt_usage_flush_last();
}

void
amt_usage_attached(void)
{
	before_shmem_exit(flush_at_exit, (Datum) 0);
}

static void
commit_counts(void)
{
	if (marked != NULL)
		pg_atomic_fetch_add_u64(&amt_shared->flushes, 1);
	for (Marked *mark = marked; mark != NULL; mark = mark->next)
	{
		change_mark(mark, InvalidTransactionId, 0, mark->calls);
		if (mark->counter >= 0)
			amt_stat_add((AmtCounter) mark->counter, mark->calls);
	}
	for (OwnCalls *own = own_calls; own != NULL; own = own->next)
	{
		if (!TransactionIdDidCommit(own->creator))
			continue;			/* in a subtransaction that failed */
		count(own->table, own->id, own->id_len,
			  amt_shmem_key_tag(own->table, own->id, own->id_len),
			  own->calls, own->last_used_at, false);
		amt_worker_want(GetCurrentTimestamp());
	}
}

static void
remove_marks(void)
{
	for (Marked *mark = marked; mark != NULL; mark = mark->next)
		change_mark(mark, InvalidTransactionId, 0, 0);
}

/* Those of a subtransaction that failed. */
static void
remove_failed(void)
{
	for (; failed != NULL; failed = failed->next)
		change_mark(failed, InvalidTransactionId, 0, 0);
}

/* Then all have been, or could not be, and their memory goes. */
static void
forget_all(void)
{
	marked = NULL;
	failed = NULL;
	own_calls = NULL;
	if (n_own_keys > 0)
		amt_table_reserve(&amt_shared->usage, -(int32) n_own_keys);
	n_own_keys = 0;
}

static void
end_transaction(XactEvent event, void *arg)
{
	if (marked == NULL && failed == NULL && own_calls == NULL)
		return;
	switch (event)
	{
		case XACT_EVENT_PRE_PREPARE:
			if (marked != NULL)
				ereport(ERROR,
						(errcode(ERRCODE_FEATURE_NOT_SUPPORTED),
						 errmsg("cannot PREPARE a transaction that has executed amt_flush_usage()")));
			break;
		case XACT_EVENT_PRE_COMMIT:
			/* Map the memory while an error may still be raised. */
			amt_table_map(&amt_shared->usage, amt_area);
			amt_shield(remove_failed);
			break;
		case XACT_EVENT_COMMIT:
			amt_shield(remove_failed);
			amt_shield(commit_counts);
			forget_all();
			break;
		case XACT_EVENT_ABORT:
		case XACT_EVENT_PREPARE:
			amt_shield(remove_failed);
			amt_shield(remove_marks);
			forget_all();
			break;
		default:
			break;
	}
}

static void
end_subtransaction(SubXactEvent event, SubTransactionId subid,
				   SubTransactionId parent, void *arg)
{
	bool		abort = event == SUBXACT_EVENT_ABORT_SUB;
	Marked	  **at = &marked;

	if (!abort && event != SUBXACT_EVENT_COMMIT_SUB)
		return;
	while (*at != NULL)
	{
		Marked	   *mark = *at;

		if (mark->subid == subid && abort)
		{
			*at = mark->next;
			mark->next = failed;
			failed = mark;
			continue;
		}
		if (mark->subid == subid)
			mark->subid = parent;
		at = &mark->next;
	}
	if (failed != NULL)
		amt_shield(remove_failed);
}

void
amt_usage_init(void)
{
	RegisterXactCallback(end_transaction, NULL);
	RegisterSubXactCallback(end_subtransaction, NULL);
}

PG_FUNCTION_INFO_V1(amt_flush_usage);
Datum
amt_flush_usage(PG_FUNCTION_ARGS)
{
	PreventCommandIfReadOnly("amt_flush_usage()");
	PreventCommandDuringRecovery("amt_flush_usage()");
	if (!amt_shmem_attach())
		PG_RETURN_INT64(0);
	has_counted = true;			/* what our marks hide meanwhile is ours */
	PG_RETURN_INT64(flush(true, false));
}

/* Is it a key whose row the policies let the caller see? */
static bool
can_see_key(const AmtStore *store, text *id)
{
	const char *org_id = amt_identity_org_id();
	AmtKey		key;

	if (!amt_token_is_id(VARDATA_ANY(id), VARSIZE_ANY_EXHDR(id)) ||
		!amt_store_get_key(store, VARDATA_ANY(id), VARSIZE_ANY_EXHDR(id), NULL, &key))
		return false;
	return check_enable_rls(store->key, InvalidOid, true) != RLS_ENABLED ||
		(org_id != NULL && amt_text_is(AmtKeyColumn(&key, org_id), org_id));
}

/*
 * amt_usage(key_id) for the view amt_keys: calls and last use, of keys whose
 * row the caller's policies let it see.
 */
PG_FUNCTION_INFO_V1(amt_usage);
Datum
amt_usage(PG_FUNCTION_ARGS)
{
	const AmtStore *store = amt_store(fcinfo);
	TupleDesc	tupdesc;
	int64		calls = 0;
	TimestampTz last_used_at = DT_NOBEGIN;
	Datum		values[2];
	bool		nulls[2] = {false, false};

	if (get_call_result_type(fcinfo, NULL, &tupdesc) != TYPEFUNC_COMPOSITE)
		elog(ERROR, "return type must be a row type");

	if (!PG_ARGISNULL(0) && can_see_key(store, PG_GETARG_TEXT_PP(0)))
	{
		text	   *id = PG_GETARG_TEXT_PP(0);

		amt_usage_read(store, VARDATA_ANY(id), VARSIZE_ANY_EXHDR(id), InvalidCommandId,
					   &calls, &last_used_at);
	}

	values[0] = Int64GetDatum(calls);
	values[1] = TimestampTzGetDatum(last_used_at);
	nulls[1] = last_used_at == DT_NOBEGIN;
	PG_RETURN_DATUM(HeapTupleGetDatum(heap_form_tuple(BlessTupleDesc(tupdesc), values, nulls)));
}
