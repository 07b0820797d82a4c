/*
 * hashtable.h
 *	  A hash table of fixed-size slots in dynamic shared memory.
 */
#ifndef AMT_HASHTABLE_H
#define AMT_HASHTABLE_H

#include "storage/lwlock.h"
#include "utils/dsa.h"

#define AMT_TABLE_PARTITIONS	32

/* The largest number of slots that a table may grow to. */
#define AMT_TABLE_MAX_SLOTS		((uint32) 1 << 26)

/* The key of a slot: 128 bits of a seeded hash of the real key. */
typedef struct AmtTag
{
	uint64		lo;
	uint64		hi;
} AmtTag;

#define AmtTagEquals(a, b)		((a).lo == (b).lo && (a).hi == (b).hi)

/* The head of every slot; the payload follows. */
typedef struct AmtSlot
{
	AmtTag		tag;			/* fixed while the slot is in use */
	uint32		next;			/* next slot in the bucket or on the free
								 * list, plus one; 0 ends the chain */
	bool		used;			/* is the slot in a bucket? */
	bool		recent;			/* was the slot found since the clock hand
								 * passed?  A hint: set under a shared
								 * partition lock, cleared under `control`. */
	char		spare[2];		/* for the payload's owner; zero in a new slot */
} AmtSlot;

typedef struct AmtTable
{
	LWLock		growing;		/* held while a larger table is allocated */
	LWLock		control;		/* guards the free list, the hand and "nused" */
	LWLockPadded partition[AMT_TABLE_PARTITIONS];	/* each guards chains and
													 * payloads of its buckets */
	uint32		slot_size;		/* never changes */
	dsa_pointer memory;			/* bucket heads, then slots; changed under all
								 * locks, read under any */
	uint32		nbuckets;		/* a power of two; changed under all locks,
								 * read under any */
	uint32		nslots;			/* slots in "memory"; changed under all locks,
								 * read under any */
	uint32		nused;			/* slots in buckets; under `control` */
	uint32		nfresh;			/* slots from here on were never used; under
								 * `control` */
	uint32		free_head;		/* first removed slot, plus one, or 0; under
								 * `control` */
	uint32		hand;			/* next slot for the clock hand; under
								 * `control` */
} AmtTable;

/* May this slot be removed?  Called under its partition's lock. */
typedef bool (*AmtSlotTest) (const AmtSlot *slot);

extern void amt_table_init(AmtTable *table, uint32 slot_size, int tranche);

/*
 * Double the number of slots, if it is still "before".  May raise an error:
 * call it through amt_attempt(), without locks.
 */
extern void amt_table_grow(AmtTable *table, dsa_area *area, uint32 before);

/* Map the memory into this process and return it; may raise an error. */
extern dsa_pointer amt_table_map(AmtTable *table, dsa_area *area);

/* Find the slot, or NULL.  In both cases the partition's lock is then held. */
extern AmtSlot *amt_table_lock(AmtTable *table, dsa_area *area, AmtTag tag, LWLockMode mode);
extern void amt_table_unlock(AmtTable *table, AmtTag tag);

/*
 * Find the slot, or add one with a zeroed payload (then *added is true).
 * Returns it with the partition's lock held exclusively.  If "limit" slots
 * are in use, an evictable one must make room, if one is found.  Returns
 * NULL without a lock if there is no room; *nslots is then the table's size.
 */
extern AmtSlot *amt_table_add(AmtTable *table, dsa_area *area, AmtTag tag, uint32 limit,
							  AmtSlotTest evictable, bool *added, uint32 *nslots);

/* Remove the slot if it is there and "unneeded" says so. */
extern bool amt_table_remove(AmtTable *table, dsa_area *area, AmtTag tag, AmtSlotTest unneeded);

/*
 * Call visit(slot, arg) for each slot from *place on, until it returns
 * false.  *place must be 0 at first, and is advanced.  Returns true if there
 * may be more.  During a visit the scan holds `control` shared, so no slot
 * comes or goes.  Payloads may change, and a new slot's payload may be
 * empty.
 */
extern bool amt_table_scan(AmtTable *table, dsa_area *area, uint32 *place,
						   bool (*visit) (AmtSlot *slot, void *arg), void *arg);

/* The number of slots in use, read without a lock. */
static inline uint32
amt_table_used(const AmtTable *table)
{
	return *(volatile const uint32 *) &table->nused;
}

#endif							/* AMT_HASHTABLE_H */
