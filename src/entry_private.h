/*
 * entry_private.h
 *	  The form of an entry, for the files that work on entries: entry.c, mac.c
 *	  and pending.c.
 */
#ifndef AMT_ENTRY_PRIVATE_H
#define AMT_ENTRY_PRIVATE_H

#include "port/atomics.h"

#include "entry.h"
#include "shmem.h"

#define AMT_MAC_KEY_LEN		32

typedef struct Entry
{
	AmtSlot		slot;			/* spare[0] is "proved", spare[1] "has base" */
	uint64		hash_tag;		/* of stored hash, organization, role */
	uint8		mac[AMT_MAC_LEN];	/* of the proved secret; valid if "proved" */
	AmtRowHint	hint;			/* where the key's row was seen */
	uint32		id_len;			/* length of "id" */
	pg_atomic_uint64 counted;	/* calls since the entry was made */
	pg_atomic_uint64 used_at;	/* time of the last call, a TimestampTz */
	uint64		serial;			/* number of the entry; never given twice */
	uint64		base;			/* calls in amt_key_usage when the entry was
								 * made */
	uint64		written;		/* how many of "counted" are in amt_key_usage */
	Oid			database;		/* the key's database */
	Oid			table;			/* the key's table in that database */
	char		id[AMT_ID_MAX]; /* the key's id */
} Entry;

StaticAssertDecl(sizeof(Entry) <= 192, "an entry fills three cache lines");

#define PROVED(entry)	((entry)->slot.spare[0])
#define HAS_BASE(entry) ((entry)->slot.spare[1])

typedef struct Entries
{
	uint64		seed[2];		/* seeds of tags and hashes; constant */
	uint8		mac_key[AMT_MAC_KEY_LEN];	/* key of the MACs; constant, in
											 * no file */
	pg_atomic_uint64 serials;	/* last serial that was given */
	AmtTable	table;			/* the entries */
} Entries;

/* Valid once amt_entry_attach() has returned true. */
extern Entries *amt_entries;

/* amt_keys.cache_size */
extern int	amt_cache_size;

static inline Entry *
lock_entry(AmtTag tag, LWLockMode mode)
{
	return (Entry *) amt_table_lock(&amt_entries->table, amt_area, tag, mode);
}

static inline void
unlock_entry(AmtTag tag)
{
	amt_table_unlock(&amt_entries->table, tag);
}

static inline uint64
unwritten(const Entry *entry)
{
	uint64		counted = pg_atomic_read_u64((pg_atomic_uint64 *) &entry->counted);

	/* A caller without the lock may see an entry that is being reset. */
	return counted > entry->written ? counted - entry->written : 0;
}

/* [evict] Only an entry whose calls are all written may go. */
static inline bool
is_evictable(const AmtSlot *slot)
{
	return unwritten((const Entry *) slot) == 0;
}

#endif							/* AMT_ENTRY_PRIVATE_H */
