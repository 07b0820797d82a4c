/*
 * cache.h
 *	  Secrets that scrypt has accepted before.
 */
#ifndef AMT_CACHE_H
#define AMT_CACHE_H

#include "store.h"
#include "table.h"

#define AMT_MAC_LEN		32

/* What is known of a key's secret; nothing of the secret itself. */
typedef struct AmtCacheEntry
{
	uint64		hash_tag;		/* the stored hash that it belongs to */
	uint8		mac[AMT_MAC_LEN];	/* of the key, the stored hash and the
									 * secret */
	AmtRowHint	hint;			/* where the row was seen last */
} AmtCacheEntry;

#define AMT_CACHE_SLOT_SIZE (sizeof(AmtSlot) + sizeof(AmtCacheEntry))

extern void amt_cache_init(void);

/* Is there a cache to find or enter something? */
extern bool amt_cache_is_on(void);

/* The key's entry, by its amt_shmem_key_tag(). */
extern bool amt_cache_find(AmtTag key_tag, AmtCacheEntry *entry);

/* The MAC of a presented secret; false if OpenSSL fails. */
extern bool amt_cache_mac(const AmtStore *store, const char *id, Size id_len,
						  const char *hash, Size hash_len,
						  const char *secret, Size secret_len, uint8 mac[AMT_MAC_LEN]);

/* Enter it, for a row that others can see.  It may push out an older entry. */
extern void amt_cache_warm(AmtTag key_tag, const AmtCacheEntry *entry);

/* The same in two steps, where memory cannot be allocated in the second. */
extern void amt_cache_make_room(uint32 more);
extern void amt_cache_enter(AmtTag key_tag, const AmtCacheEntry *entry);

/* The row has moved. */
extern void amt_cache_move(AmtTag key_tag, uint64 hash_tag, const AmtRowHint *hint);

extern void amt_cache_forget(AmtTag key_tag);

#endif							/* AMT_CACHE_H */
