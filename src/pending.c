/*
 * pending.c
 *	  Entries with unwritten calls, for the worker that writes them.
 *
 * The worker copies such entries, writes the copies, and then notes in each
 * entry what is written.  Meanwhile the entry may be gone, or may be about
 * another key.  So a copy is valid only for the entry with its serial.
 */
#include "postgres.h"

#include "entry_private.h"
#include "pending.h"
#include "stat.h"

typedef struct Collection
{
	Oid			database;
	AmtDue	   *due;
	int			n;
	int			max;
} Collection;

/*
 * [W1] Copy the entry.  Calls may be added meanwhile.  So we read the number
 * before the time: the time must not be older than the calls.
 */
static bool
collect_entry(AmtSlot *slot, void *arg)
{
	Collection *collection = arg;
	Entry	   *entry = (Entry *) slot;
	LWLock	   *lock = &amt_entries->table.partition[slot->tag.lo % AMT_TABLE_PARTITIONS].lock;
	AmtDue	   *due = &collection->due[collection->n];

	/* A guess without the lock, to skip most entries. */
	if (entry->database != collection->database || unwritten(entry) == 0)
		return true;

	LWLockAcquire(lock, LW_SHARED);
	if (unwritten(entry) == 0)
	{
		LWLockRelease(lock);
		return true;
	}
	due->tag = slot->tag;
	due->serial = entry->serial;
	due->hash_tag = entry->hash_tag;
	due->counted = pg_atomic_read_u64(&entry->counted);
	pg_read_barrier();
	due->written = entry->written;
	due->base_known = HAS_BASE(entry);
	due->base = entry->base;
	due->used_at = (TimestampTz) pg_atomic_read_u64(&entry->used_at);
	due->table = entry->table;
	due->hint = entry->hint;
	due->id_len = entry->id_len;
	memcpy(due->id, entry->id, entry->id_len);
	due->done = false;
	LWLockRelease(lock);
	collection->n++;
	return collection->n < collection->max;
}

int
amt_entry_collect(Oid database, uint32 *place, AmtDue *due, int max, bool *more)
{
	Collection	collection = {database, due, 0, max};

	*more = amt_table_scan(&amt_entries->table, amt_area, place, collect_entry, &collection);
	return collection.n;
}

typedef struct Databases
{
	Oid		   *database;
	int			n;
	int			max;
} Databases;

static bool
note_database(AmtSlot *slot, void *arg)
{
	Databases  *found = arg;
	Entry	   *entry = (Entry *) slot;

	for (int i = 0; i < found->n; i++)
		if (found->database[i] == entry->database)
			return true;
	found->database[found->n++] = entry->database;
	return found->n < found->max;
}

int
amt_entry_databases(Oid *database, int max)
{
	Databases	found = {database, 0, max};
	uint32		place = 0;

	(void) amt_table_scan(&amt_entries->table, amt_area, &place, note_database, &found);
	return found.n;
}

/*
 * Lock the entry that was copied.  Returns NULL, with the lock held, if
 * another entry is there now.
 */
static Entry *
lock_due(const AmtDue *due, LWLockMode mode)
{
	Entry	   *entry = lock_entry(due->tag, mode);

	return entry != NULL && entry->serial == due->serial ? entry : NULL;
}

/* [W2_base] */
bool
amt_entry_set_base(AmtDue *due, uint64 base)
{
	Entry	   *entry = lock_due(due, LW_EXCLUSIVE);

	if (entry != NULL)
	{
		/* Another worker may have set it, and have written calls since. */
		if (!HAS_BASE(entry))
			entry->base = base;
		HAS_BASE(entry) = true;
		due->base = entry->base;
		due->base_known = true;
	}
	unlock_entry(due->tag);
	return entry != NULL;
}

/* [W5] */
uint64
amt_entry_set_written(const AmtDue *due)
{
	Entry	   *entry = lock_due(due, LW_EXCLUSIVE);
	uint64		calls = 0;

	if (entry != NULL && entry->written < due->counted)
	{
		calls = due->counted - entry->written;
		entry->written = due->counted;
	}
	unlock_entry(due->tag);
	return calls;
}

static uint64 serial_to_drop;

static bool
is_to_drop(const AmtSlot *slot)
{
	const Entry *entry = (const Entry *) slot;

	if (entry->serial != serial_to_drop)
		return false;
	amt_stat_add(AMT_CALLS_DROPPED, unwritten(entry));
	return true;
}

bool
amt_entry_drop(const AmtDue *due)
{
	serial_to_drop = due->serial;
	return amt_table_remove(&amt_entries->table, amt_area, due->tag, is_to_drop);
}

bool
amt_entry_is_written(const AmtDue *due, bool *gone)
{
	Entry	   *entry = lock_due(due, LW_SHARED);
	bool		written = entry != NULL && entry->written >= due->counted;

	*gone = entry == NULL;
	unlock_entry(due->tag);
	return written;
}

static Oid	database_to_drop;

static bool
is_of_database(const AmtSlot *slot)
{
	const Entry *entry = (const Entry *) slot;

	if (entry->database != database_to_drop)
		return false;
	amt_stat_add(AMT_CALLS_DROPPED, unwritten(entry));
	return true;
}

/* Tags of entries that may be removed. */
typedef struct Surplus
{
	AmtTag		tag[256];
	int			n;
} Surplus;

static bool
note_surplus(AmtSlot *slot, void *arg)
{
	Surplus    *surplus = arg;

	if (is_evictable(slot))
		surplus->tag[surplus->n++] = slot->tag;
	return surplus->n < (int) lengthof(surplus->tag);
}

static bool
note_of_database(AmtSlot *slot, void *arg)
{
	Surplus    *surplus = arg;

	if (((Entry *) slot)->database == database_to_drop)
		surplus->tag[surplus->n++] = slot->tag;
	return surplus->n < (int) lengthof(surplus->tag);
}

void
amt_entry_drop_database(Oid database)
{
	uint32		place = 0;
	bool		more = true;

	database_to_drop = database;
	while (more)
	{
		Surplus		surplus;

		surplus.n = 0;
		more = amt_table_scan(&amt_entries->table, amt_area, &place, note_of_database, &surplus);
		for (int i = 0; i < surplus.n; i++)
			(void) amt_table_remove(&amt_entries->table, amt_area, surplus.tag[i], is_of_database);
	}
}

void
amt_entry_trim(void)
{
	uint32		place = 0;
	bool		more = true;

	while (more && amt_table_used(&amt_entries->table) > (uint32) amt_cache_size)
	{
		Surplus		surplus;

		surplus.n = 0;
		more = amt_table_scan(&amt_entries->table, amt_area, &place, note_surplus, &surplus);
		for (int i = 0; i < surplus.n &&
			 amt_table_used(&amt_entries->table) > (uint32) amt_cache_size; i++)
			(void) amt_table_remove(&amt_entries->table, amt_area, surplus.tag[i], is_evictable);
	}
}

typedef struct SumArg
{
	Oid			database;
	AmtEntrySums *sums;
} SumArg;

static bool
sum_entry(AmtSlot *slot, void *arg)
{
	SumArg	   *sum = arg;
	Entry	   *entry = (Entry *) slot;

	if (!OidIsValid(sum->database) || entry->database == sum->database)
	{
		sum->sums->unwritten += unwritten(entry);
		sum->sums->proved += PROVED(entry) ? 1 : 0;
	}
	return true;
}

void
amt_entry_sum(Oid database, AmtEntrySums *sums)
{
	SumArg		sum = {database, sums};
	uint32		place = 0;

	memset(sums, 0, sizeof(AmtEntrySums));
	(void) amt_table_scan(&amt_entries->table, amt_area, &place, sum_entry, &sum);
}
