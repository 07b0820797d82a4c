/*
 * hashtable.c
 *	  A hash table of fixed-size slots in dynamic shared memory.
 *
 * The server's dshash raises an error when memory runs out, and it cannot
 * replace an old entry by a new one.  A login path can afford neither.  So
 * this is the buffer manager's scheme: an array of slots, chained into
 * buckets, and a clock hand that looks for a slot to reuse.
 *
 * Locks.  A partition's lock guards the chains and payloads of its buckets.
 * `control` guards the free list, the hand and the number of slots in use.
 * A reader must hold one partition's lock.  To add or remove, a process must
 * hold `control` exclusively, then one partition's.  To scan, it must hold
 * `control` shared.  To grow, it must hold `growing`, then `control`, then
 * all partitions' in order.  So a holder of `control` or of a partition's
 * lock may rely on `memory`, `nbuckets` and `nslots`.  No process waits for
 * a lock that comes earlier in that order.
 *
 * A holder of `control` or of a partition's lock must not allocate, or wait
 * for anything else.  But dsa_get_address() may map a segment that another
 * process made, and may fail.  The rollback then releases our locks, so the
 * caller must be in a transaction.
 */
#include "postgres.h"

#include "port/pg_bitutils.h"

#include "hashtable.h"

#define FIRST_SLOTS		((uint32) 1024)
#define MAX_PROBES		128
#define SCAN_SLICE		4096	/* slots per hold of `control` */

#define PARTITION_LOCK(table, tag) \
	(&(table)->partition[(tag).lo % AMT_TABLE_PARTITIONS].lock)

/* A table as mapped in this process; valid while a lock is held. */
typedef struct TableView
{
	uint32	   *bucket;			/* first slot of each bucket, plus one; 0 if
								 * empty */
	char	   *slots;
	uint32		slot_size;
	uint32		mask;			/* number of buckets, minus one */
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

/*
 * Copy all slots into a larger table.  Each keeps its index: a scan that is
 * under way goes on from there, and the free list stays as it is.
 */
static void
copy_slots(TableView *from, uint32 n, TableView *to)
{
	memcpy(to->slots, from->slots, (Size) n * from->slot_size);
	for (uint32 i = 0; i < n; i++)
	{
		AmtSlot    *slot = view_slot(to, i);

		if (slot->used)
			link_slot(to, slot);
	}
}

void
amt_table_grow(AmtTable *table, dsa_area *area, uint32 before)
{
	uint32		nslots = Max(before * 2, FIRST_SLOTS);
	uint32		nbuckets = pg_nextpower2_32(nslots);
	Size		size = slots_offset(nbuckets) + (Size) nslots * table->slot_size;
	dsa_pointer memory;
	dsa_pointer old;
	TableView	to;

	if (nslots > AMT_TABLE_MAX_SLOTS)
		ereport(ERROR,
				(errcode(ERRCODE_PROGRAM_LIMIT_EXCEEDED),
				 errmsg("too many keys are in use")));

	/* One process allocates; the others wait for its table. */
	if (!LWLockAcquireOrWait(&table->growing, LW_EXCLUSIVE))
		return;
	if (table->nslots != before)	/* changed by holders of "growing" only */
	{
		LWLockRelease(&table->growing);
		return;
	}

	/* Map both tables now: nothing may fail under the locks. */
	old = amt_table_map(table, area);
	memory = dsa_allocate_extended(area, size, DSA_ALLOC_HUGE | DSA_ALLOC_ZERO);
	to = view_memory(dsa_get_address(area, memory), nbuckets, table->slot_size);

	lock_all(table);
	if (DsaPointerIsValid(old))
	{
		TableView	from = view_table(table, area);

		copy_slots(&from, table->nfresh, &to);
	}
	table->memory = memory;
	table->nbuckets = nbuckets;
	table->nslots = nslots;
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

void
amt_table_unlock(AmtTable *table, AmtTag tag)
{
	LWLockRelease(PARTITION_LOCK(table, tag));
}

/* Unlink the slot if it is evictable.  `control` must be held exclusively. */
static bool
unlink_if_evictable(AmtTable *table, TableView *view, AmtSlot *slot, AmtSlotTest evictable)
{
	bool		evicted;

	LWLockAcquire(PARTITION_LOCK(table, slot->tag), LW_EXCLUSIVE);
	evicted = evictable(slot);
	if (evicted)
	{
		unlink_slot(view, slot);
		table->nused--;
	}
	LWLockRelease(PARTITION_LOCK(table, slot->tag));
	return evicted;
}

/*
 * Let the clock hand look for an evictable slot.  `control` must be held
 * exclusively, and no partition's lock.  It gives up after some slots: a
 * table full of needed slots should grow.
 */
static AmtSlot *
evict_slot(AmtTable *table, TableView *view, AmtSlotTest evictable)
{
	for (int probes = 0; probes < MAX_PROBES && table->nfresh > 0; probes++)
	{
		AmtSlot    *slot;

		if (table->hand >= table->nfresh)
			table->hand = 0;
		slot = view_slot(view, table->hand++);
		if (!slot->used)
			continue;
		if (slot->recent)
			slot->recent = false;
		else if (unlink_if_evictable(table, view, slot, evictable))
			return slot;
	}
	return NULL;
}

/* Take a slot that is in no bucket.  `control` must be held exclusively. */
static AmtSlot *
take_slot(AmtTable *table, TableView *view, uint32 limit, AmtSlotTest evictable)
{
	AmtSlot    *slot = NULL;

	if (table->nused >= limit)
		slot = evict_slot(table, view, evictable);
	if (slot == NULL && table->free_head != 0)
	{
		slot = view_slot(view, table->free_head - 1);
		table->free_head = slot->next;
	}
	if (slot == NULL && table->nfresh < table->nslots)
		slot = view_slot(view, table->nfresh++);
	return slot;
}

AmtSlot *
amt_table_add(AmtTable *table, dsa_area *area, AmtTag tag, uint32 limit,
			  AmtSlotTest evictable, bool *added, uint32 *nslots)
{
	AmtSlot    *slot;
	AmtSlot    *room = NULL;
	TableView	view;

	*added = false;
	LWLockAcquire(&table->control, LW_EXCLUSIVE);
	*nslots = table->nslots;
	if (table->nslots == 0)
	{
		LWLockRelease(&table->control);
		return NULL;
	}
	view = view_table(table, area);

	/* No other process can add the tag while we hold `control`. */
	LWLockAcquire(PARTITION_LOCK(table, tag), LW_EXCLUSIVE);
	slot = find_slot(&view, tag);
	if (slot != NULL)
	{
		LWLockRelease(&table->control);
		return slot;
	}
	LWLockRelease(PARTITION_LOCK(table, tag));

	room = take_slot(table, &view, limit, evictable);
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

bool
amt_table_remove(AmtTable *table, dsa_area *area, AmtTag tag, AmtSlotTest unneeded)
{
	AmtSlot    *slot;
	bool		removed = false;

	LWLockAcquire(&table->control, LW_EXCLUSIVE);
	slot = amt_table_lock(table, area, tag, LW_EXCLUSIVE);
	if (slot != NULL && unneeded(slot))
	{
		TableView	view = view_table(table, area);

		unlink_slot(&view, slot);
		slot->next = table->free_head;
		table->free_head = slot_index(&view, slot) + 1;
		table->nused--;
		removed = true;
	}
	amt_table_unlock(table, tag);
	LWLockRelease(&table->control);
	return removed;
}

bool
amt_table_scan(AmtTable *table, dsa_area *area, uint32 *place,
			   bool (*visit) (AmtSlot *slot, void *arg), void *arg)
{
	bool		goes_on = true;
	bool		at_end = false;

	/* In slices, so that no process waits long for `control`. */
	while (goes_on && !at_end)
	{
		LWLockAcquire(&table->control, LW_SHARED);
		if (table->nused > 0)
		{
			TableView	view = view_table(table, area);
			uint32		slice_end = Min(*place + SCAN_SLICE, table->nfresh);

			while (goes_on && *place < slice_end)
			{
				AmtSlot    *slot = view_slot(&view, (*place)++);

				goes_on = !slot->used || visit(slot, arg);
			}
		}
		at_end = table->nused == 0 || *place >= table->nfresh;
		LWLockRelease(&table->control);
	}
	return !goes_on;
}
