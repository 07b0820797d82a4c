/*
 * table.h
 *	  A hash table of fixed-size slots in dynamic shared memory.
 */
#ifndef AMT_TABLE_H
#define AMT_TABLE_H

#include "port/atomics.h"
#include "storage/lwlock.h"
#include "utils/dsa.h"

#define AMT_TABLE_PARTITIONS	32

/* The largest number of slots that any table may grow to. */
#define AMT_TABLE_MAX_SLOTS		((uint32) 1 << 26)

/* What a slot is found by: 128 bits of a seeded hash of the real key. */
typedef struct AmtTag
{
	uint64		lo;
	uint64		hi;
} AmtTag;

#define AmtTagEquals(a, b)		((a).lo == (b).lo && (a).hi == (b).hi)

/* The head of every slot; the owner's payload follows. */
typedef struct AmtSlot
{
	AmtTag		tag;			/* fixed while the slot is in use */
	uint32		next;			/* next in the bucket or on the free list,
								 * plus one; 0 ends the chain */
	bool		used;			/* in a bucket? */
	bool		recent;			/* looked at since the hand passed; hint, set
								 * under a shared partition lock, and cleared
								 * under the control lock */
} AmtSlot;

typedef struct AmtTable
{
	LWLock		growing;		/* see table.c, like the next two */
	LWLock		control;
	LWLockPadded partition[AMT_TABLE_PARTITIONS];
	uint32		slot_size;		/* never changes */
	dsa_pointer memory;			/* bucket heads, then slots; all locks to
								 * change, any of them to read; and to be
								 * glanced at */
	uint32		nbuckets;		/* likewise; a power of two */
	uint32		nslots;			/* likewise, and to be glanced at */
	uint32		nused;			/* the rest: control lock */
	uint32		nfresh;			/* slots from here on were never used */
	uint32		free_head;
	uint32		hand;
	pg_atomic_uint32 reserved;	/* slots that somebody will need */
} AmtTable;

extern void amt_table_init(AmtTable *table, uint32 slot_size, int tranche);

/*
 * Unless somebody has done so since it had "before" slots, or is doing so, who is
 * waited for.  May raise an error; call through amt_attempt(), without locks.
 */
extern void amt_table_resize(AmtTable *table, dsa_area *area, uint32 before, uint32 nslots);

/* Map the memory, which is returned, into this process; may raise an error. */
extern dsa_pointer amt_table_map(AmtTable *table, dsa_area *area);

/* The slot, or NULL; either way with the partition's lock held. */
extern AmtSlot *amt_table_lock(AmtTable *table, dsa_area *area, AmtTag tag, LWLockMode mode);
extern void amt_table_unlock(AmtTable *table, AmtTag tag);

/*
 * The slot, added with a zeroed payload if there was none (then *added), with
 * the partition's lock held exclusively; NULL, and no lock, if there is no
 * room.  "evict" lets an older slot make room.
 */
extern AmtSlot *amt_table_add(AmtTable *table, dsa_area *area, AmtTag tag, bool evict, bool *added);

/*
 * Remove the slot, if it is there and "unneeded" (when given) says so under
 * the partition's exclusive lock.
 */
extern void amt_table_remove(AmtTable *table, dsa_area *area, AmtTag tag,
							 bool (*unneeded) (const AmtSlot *slot));
extern void amt_table_clear(AmtTable *table, dsa_area *area);

/* For a visitor that changes a payload: the lock of the slot's partition. */
extern LWLock *amt_table_partition_lock(AmtTable *table, AmtTag tag);

/*
 * Call visit(slot, arg) for each slot until it answers false, with the
 * control lock held shared: no slot comes or goes meanwhile, but one that has just
 * been added may have no payload yet, and others may change.  What is seen without
 * the partition's lock is a glance.
 */
extern void amt_table_scan(AmtTable *table, dsa_area *area,
						   bool (*visit) (AmtSlot *slot, void *arg), void *arg);

/*
 * The same from the place where another scan was ended, 0 at first, to be called
 * again for the rest as long as it answers true.  In between slots may have moved,
 * so that one may be visited twice or not at all.
 */
extern bool amt_table_scan_on(AmtTable *table, dsa_area *area, uint32 *place,
							  bool (*visit) (AmtSlot *slot, void *arg), void *arg);

/*
 * The number of slots that the table should have before so many can be added,
 * instead of those that it has now; or 0 if it is right as it is.
 */
extern uint32 amt_table_wants(AmtTable *table, uint32 limit, uint32 more, uint32 *now);

/* So many slots are to be left free by others, or no longer. */
extern void amt_table_reserve(AmtTable *table, int32 slots);

/* A glance without locks, for statistics and decisions that are checked later. */
static inline uint32
amt_table_used(const AmtTable *table)
{
	return *(volatile const uint32 *) &table->nused;
}

#endif							/* AMT_TABLE_H */
