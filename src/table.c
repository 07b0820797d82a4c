/*
 * table.c
 *	  A hash table of fixed-size slots in dynamic shared memory.
 *
 * The server's own dshash raises an error when memory runs out, and it cannot
 * push out an old entry for a new one.  A login path can afford neither, so
 * this is the buffer manager's scheme instead: an array of slots, chained into
 * buckets, with a clock hand that looks for a slot to reuse.
 *
 * Locks.  A partition's lock guards the chains and payloads of its share of
 * the buckets.  The control lock guards what concerns the table as a whole:
 * the free list, the hand, the number of slots in use.  Adding and removing
 * takes the control lock exclusively, then one partition's; looking up takes
 * one partition's only, shared, or exclusively to change the payload.  A scan
 * takes the control lock shared: what it reads of a payload is a glance, of a
 * slot that was just added even zeros, and before it changes anything it takes
 * the partition's lock and looks again.  Resizing takes the control lock and
 * then all partitions', in order, so whoever holds any lock may rely on
 * "memory", "nbuckets" and "nslots".  At most one partition's lock is held at a
 * time otherwise, and never a partition's lock before the control lock: no
 * deadlock.
 *
 * Nothing is allocated, waited for or raised while one of these is held, but for
 * what dsa_get_address() does: it takes the area's own lock when a segment was
 * freed, and maps a segment that another process made, under the server's lock
 * for those.  Both come after ours, always.  Where mapping fails, the abort of
 * the transaction releases our locks; amt_shield() does so in a transaction's
 * end callbacks and in a process that exits, and so does the worker, which looks
 * at the tables in between, when it exits.
 *
 * The memory of a larger table is allocated before, by one process at a time:
 * the lock for that is taken before all others, and who would wait for it waits
 * for the table that another makes instead.  If that fails, the subtransaction
 * around it (attempt.c) releases the lock.
 *
 * Who will need slots in a moment when no memory can be had reserves them.
 * That is a number to which others pay attention before they add, without a
 * lock, so a few slots beyond it are to be spare; and only as long as memory can
 * be had.
 *
 * Every step leaves the chains in order; a process that dies by an error
 * releases its locks in the abort, and one that is killed makes the
 * postmaster start afresh with empty memory.
 */
#include "postgres.h"

#include "port/pg_bitutils.h"

#include "table.h"

#define PARTITION_LOCK(table, tag) \
	(&(table)->partition[(tag).lo % AMT_TABLE_PARTITIONS].lock)

/* A table as mapped here; valid while a lock is held. */
typedef struct TableView
{
	uint32	   *bucket;
	char	   *slots;
	uint32		slot_size;
	uint32		mask;
} TableView;

static inline Size
slots_offset(uint32 nbuckets)
{
	return MAXALIGN(sizeof(uint32) * (Size) nbuckets);
}

static inline TableView
view_memory(char *memory, uint32 nbuckets, uint32 slot_size)
{
	TableView	view;

	view.bucket = (uint32 *) memory;
	view.slots = memory + slots_offset(nbuckets);
	view.slot_size = slot_size;
	view.mask = nbuckets - 1;
	return view;
}

static inline TableView
view_table(AmtTable *table, dsa_area *area)
{
	return view_memory(dsa_get_address(area, table->memory),
					   table->nbuckets, table->slot_size);
}

static inline AmtSlot *
view_slot(TableView *view, uint32 index)
{
	return (AmtSlot *) (view->slots + (Size) index * view->slot_size);
}

static inline uint32
slot_index(TableView *view, AmtSlot *slot)
{
	return ((char *) slot - view->slots) / view->slot_size;
}

static inline uint32 *
view_bucket(TableView *view, AmtTag tag)
{
	return &view->bucket[tag.lo & view->mask];
}

static AmtSlot *
find_slot(TableView *view, AmtTag tag)
{
	uint32		at = *view_bucket(view, tag);

	while (at != 0)
	{
		AmtSlot    *slot = view_slot(view, at - 1);

		if (AmtTagEquals(slot->tag, tag))
			return slot;
		at = slot->next;
	}
	return NULL;
}

static void
link_slot(TableView *view, AmtSlot *slot)
{
	uint32	   *bucket = view_bucket(view, slot->tag);

	slot->next = *bucket;
	slot->used = true;
	*bucket = slot_index(view, slot) + 1;
}

static void
unlink_slot(TableView *view, AmtSlot *slot)
{
	uint32		self = slot_index(view, slot) + 1;
	uint32	   *at = view_bucket(view, slot->tag);

	while (*at != self)
		at = &view_slot(view, *at - 1)->next;
	*at = slot->next;
	slot->next = 0;
	slot->used = false;
}

void
amt_table_init(AmtTable *table, uint32 slot_size, int tranche)
{
	memset(table, 0, sizeof(AmtTable));
	LWLockInitialize(&table->growing, tranche);
	LWLockInitialize(&table->control, tranche);
	for (int i = 0; i < AMT_TABLE_PARTITIONS; i++)
		LWLockInitialize(&table->partition[i].lock, tranche);
	pg_atomic_init_u32(&table->reserved, 0);
	table->slot_size = MAXALIGN(slot_size);
	table->memory = InvalidDsaPointer;
}

static void
lock_all(AmtTable *table)
{
	LWLockAcquire(&table->control, LW_EXCLUSIVE);
	for (int i = 0; i < AMT_TABLE_PARTITIONS; i++)
		LWLockAcquire(&table->partition[i].lock, LW_EXCLUSIVE);
}

static void
unlock_all(AmtTable *table)
{
	for (int i = AMT_TABLE_PARTITIONS - 1; i >= 0; i--)
		LWLockRelease(&table->partition[i].lock);
	LWLockRelease(&table->control);
}

/* Doubling keeps the cost of growth proportional. */
uint32
amt_table_wants(AmtTable *table, uint32 limit, uint32 more, uint32 *now)
{
	uint32		nslots = *(volatile uint32 *) &table->nslots;
	uint64		needed = (uint64) amt_table_used(table) + more +
	pg_atomic_read_u32(&table->reserved);

	*now = nslots;
	if (nslots > limit)
		return limit;
	if (nslots < limit && needed > nslots)
		return Min(limit, Max(Max(nslots * 2, 1024), needed));
	return 0;
}

void
amt_table_reserve(AmtTable *table, int32 slots)
{
	pg_atomic_fetch_add_u32(&table->reserved, slots);
}

/* Copy up to nslots slots, those looked at recently first. */
static uint32
move_slots(TableView *from, uint32 nfrom, TableView *to, uint32 nto)
{
	uint32		n = 0;

	for (int pass = 0; pass < 2; pass++)
	{
		for (uint32 i = 0; i < nfrom && n < nto; i++)
		{
			AmtSlot    *old = view_slot(from, i);
			AmtSlot    *new;

			if (!old->used || old->recent != (pass == 0))
				continue;
			new = view_slot(to, n++);
			memcpy(new, old, from->slot_size);
			link_slot(to, new);
		}
	}
	return n;
}

void
amt_table_resize(AmtTable *table, dsa_area *area, uint32 before, uint32 nslots)
{
	uint32		nbuckets = pg_nextpower2_32(Max(nslots, AMT_TABLE_PARTITIONS));
	Size		size = slots_offset(nbuckets) + (Size) nslots * table->slot_size;
	dsa_pointer memory;
	dsa_pointer mapped;
	dsa_pointer old;
	TableView	to;

	if (!LWLockAcquireOrWait(&table->growing, LW_EXCLUSIVE))
		return;
	mapped = amt_table_map(table, area);	/* so that nothing fails under the
											 * locks */
	memory = dsa_allocate_extended(area, size, DSA_ALLOC_HUGE | DSA_ALLOC_ZERO);
	to = view_memory(dsa_get_address(area, memory), nbuckets, table->slot_size);

	lock_all(table);
	if (table->nslots != before || table->memory != mapped)
		old = memory;			/* somebody was faster */
	else
	{
		uint32		nused = 0;

		old = table->memory;
		if (DsaPointerIsValid(old))
		{
			TableView	from = view_table(table, area);

			nused = move_slots(&from, table->nslots, &to, nslots);
		}
		table->nused = nused;
		table->memory = memory;
		table->nbuckets = nbuckets;
		table->nslots = nslots;
		table->nfresh = table->nused;
		table->free_head = 0;
		table->hand = 0;
	}
	unlock_all(table);

	if (DsaPointerIsValid(old))
		dsa_free(area, old);
	LWLockRelease(&table->growing);
}

dsa_pointer
amt_table_map(AmtTable *table, dsa_area *area)
{
	dsa_pointer memory;

	LWLockAcquire(&table->control, LW_SHARED);
	memory = table->memory;
	(void) dsa_get_address(area, memory);	/* NULL, if there is none */
	LWLockRelease(&table->control);
	return memory;
}

AmtSlot *
amt_table_lock(AmtTable *table, dsa_area *area, AmtTag tag, LWLockMode mode)
{
	TableView	view;

	LWLockAcquire(PARTITION_LOCK(table, tag), mode);
	if (table->nslots == 0)
		return NULL;
	view = view_table(table, area);
	return find_slot(&view, tag);
}

LWLock *
amt_table_partition_lock(AmtTable *table, AmtTag tag)
{
	return PARTITION_LOCK(table, tag);
}

void
amt_table_unlock(AmtTable *table, AmtTag tag)
{
	LWLockRelease(PARTITION_LOCK(table, tag));
}

/* The clock's victim, unlinked; control lock held, no partition's. */
static AmtSlot *
evict_slot(AmtTable *table, TableView *view)
{
	for (;;)
	{
		AmtSlot    *slot = view_slot(view, table->hand);

		table->hand = (table->hand + 1) % table->nslots;
		if (slot->recent)
		{
			slot->recent = false;
			continue;
		}
		LWLockAcquire(PARTITION_LOCK(table, slot->tag), LW_EXCLUSIVE);
		unlink_slot(view, slot);
		LWLockRelease(PARTITION_LOCK(table, slot->tag));
		table->nused--;
		return slot;
	}
}

/* A slot to use, in no bucket; control lock held. */
static AmtSlot *
take_slot(AmtTable *table, TableView *view, bool evict)
{
	AmtSlot    *slot;

	if (table->free_head != 0)
	{
		slot = view_slot(view, table->free_head - 1);
		table->free_head = slot->next;
		return slot;
	}
	if (table->nfresh < table->nslots)
		return view_slot(view, table->nfresh++);
	if (evict && table->nused == table->nslots && table->nslots > 0)
		return evict_slot(table, view);
	return NULL;
}

AmtSlot *
amt_table_add(AmtTable *table, dsa_area *area, AmtTag tag, bool evict, bool *added)
{
	AmtSlot    *slot;
	AmtSlot    *room;
	TableView	view;

	*added = false;
	LWLockAcquire(&table->control, LW_EXCLUSIVE);
	if (table->nslots == 0)
	{
		LWLockRelease(&table->control);
		return NULL;
	}
	view = view_table(table, area);

	/* Only holders of the control lock add: what is absent now stays absent. */
	LWLockAcquire(PARTITION_LOCK(table, tag), LW_EXCLUSIVE);
	slot = find_slot(&view, tag);
	if (slot != NULL)
	{
		LWLockRelease(&table->control);
		return slot;
	}
	LWLockRelease(PARTITION_LOCK(table, tag));

	room = take_slot(table, &view, evict);
	if (room == NULL)
	{
		LWLockRelease(&table->control);
		return NULL;
	}

	LWLockAcquire(PARTITION_LOCK(table, tag), LW_EXCLUSIVE);
	memset(room, 0, table->slot_size);
	room->tag = tag;
	link_slot(&view, room);
	table->nused++;
	*added = true;
	LWLockRelease(&table->control);
	return room;
}

void
amt_table_remove(AmtTable *table, dsa_area *area, AmtTag tag,
				 bool (*unneeded) (const AmtSlot *slot))
{
	AmtSlot    *slot;

	LWLockAcquire(&table->control, LW_EXCLUSIVE);
	slot = amt_table_lock(table, area, tag, LW_EXCLUSIVE);
	if (slot != NULL && (unneeded == NULL || unneeded(slot)))
	{
		TableView	view = view_table(table, area);

		unlink_slot(&view, slot);
		slot->next = table->free_head;
		table->free_head = slot_index(&view, slot) + 1;
		if (--table->nused == 0)
		{
			/* Scans are as long as the table was full. */
			table->free_head = 0;
			table->nfresh = 0;
		}
	}
	amt_table_unlock(table, tag);
	LWLockRelease(&table->control);
}

void
amt_table_clear(AmtTable *table, dsa_area *area)
{
	lock_all(table);
	if (table->nslots > 0)
	{
		TableView	view = view_table(table, area);

		memset(view.bucket, 0,
			   slots_offset(table->nbuckets) + (Size) table->nslots * table->slot_size);
		table->nused = 0;
		table->nfresh = 0;
		table->free_head = 0;
		table->hand = 0;
	}
	unlock_all(table);
}

bool
amt_table_scan_on(AmtTable *table, dsa_area *area, uint32 *place,
				  bool (*visit) (AmtSlot *slot, void *arg), void *arg)
{
	bool		goes_on = true;

	LWLockAcquire(&table->control, LW_SHARED);
	if (table->nused > 0)
	{
		TableView	view = view_table(table, area);

		while (goes_on && *place < table->nfresh)
		{
			AmtSlot    *slot = view_slot(&view, (*place)++);

			goes_on = !slot->used || visit(slot, arg);
		}
	}
	LWLockRelease(&table->control);
	return !goes_on;
}

void
amt_table_scan(AmtTable *table, dsa_area *area,
			   bool (*visit) (AmtSlot *slot, void *arg), void *arg)
{
	uint32		place = 0;

	(void) amt_table_scan_on(table, area, &place, visit, arg);
}
