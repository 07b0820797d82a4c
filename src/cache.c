/*
 * cache.c
 *	  Secrets that scrypt has accepted before.
 *
 * An entry proves a secret and nothing else.  It is found by database, table
 * and key id, and holds a tag of the stored hash that it was made for and a MAC
 * of all these and the secret, under a random key that lives in shared memory
 * only.  The caller has just read the row, so it compares with the hash that is
 * stored now: an entry made for another hash is not about this row, and even a
 * tag that collided could not match, since all of it is under the MAC.  So
 * nothing ever has to be invalidated; an entry for a row that is gone is never
 * asked, and is pushed out or replaced in time.
 *
 * The entry also remembers where the row was seen, so that the next reading of
 * the row can do without the index (store.c).  That is no more than a hint.
 *
 * Locks: the table's (table.c), held while an entry is copied.
 */
#include "postgres.h"

#include <openssl/core_names.h>
#include <openssl/crypto.h>
#include <openssl/err.h>
#include <openssl/evp.h>
#include <openssl/params.h>

#include "miscadmin.h"
#include "utils/guc.h"

#include "cache.h"
#include "compat.h"
#include "phc.h"
#include "shmem.h"
#include "token.h"

typedef struct CacheSlot
{
	AmtSlot		slot;
	AmtCacheEntry entry;
} CacheSlot;

StaticAssertDecl(sizeof(CacheSlot) <= AMT_CACHE_SLOT_SIZE, "the slot fits");
StaticAssertDecl(AMT_CACHE_SLOT_SIZE + 2 * sizeof(uint32) <= 128,
				 "a warm key takes at most 128 bytes");

static int	cache_size = 65536;

bool
amt_cache_is_on(void)
{
	return cache_size > 0 && amt_shmem_attach();
}

bool
amt_cache_find(AmtTag key_tag, AmtCacheEntry *entry)
{
	AmtTable   *table = &amt_shared->cache;
	AmtSlot    *slot = amt_table_lock(table, amt_area, key_tag, LW_SHARED);

	if (slot != NULL)
	{
		*entry = ((CacheSlot *) slot)->entry;
		if (!slot->recent)
			slot->recent = true;
	}
	amt_table_unlock(table, key_tag);
	return slot != NULL;
}

/* A context for the MAC with the server's key in it, made once per process. */
static EVP_MAC_CTX *
mac_context(void)
{
	static EVP_MAC_CTX *context = NULL;
	EVP_MAC    *mac;
	EVP_MAC_CTX *fresh;
	char		digest[] = "SHA256";
	OSSL_PARAM	params[2];

	if (context != NULL)
		return context;
	params[0] = OSSL_PARAM_construct_utf8_string(OSSL_MAC_PARAM_DIGEST, digest, 0);
	params[1] = OSSL_PARAM_construct_end();
	mac = EVP_MAC_fetch(NULL, "HMAC", NULL);
	fresh = mac != NULL ? EVP_MAC_CTX_new(mac) : NULL;
	EVP_MAC_free(mac);
	if (fresh != NULL &&
		EVP_MAC_init(fresh, amt_shared->mac_key, AMT_MAC_KEY_LEN, params) == 1)
		context = fresh;
	else
	{
		EVP_MAC_CTX_free(fresh);
		ERR_clear_error();
	}
	return context;
}

/* The message begins with this; id, stored hash and secret follow. */
typedef struct MessageHead
{
	Oid			database;
	Oid			table;
	uint32		id_len;
	uint32		hash_len;
	uint32		secret_len;
} MessageHead;

bool
amt_cache_mac(const AmtStore *store, const char *id, Size id_len,
			  const char *hash, Size hash_len,
			  const char *secret, Size secret_len, uint8 mac[AMT_MAC_LEN])
{
	/* One piece: each update of a MAC has its price. */
	char		message[sizeof(MessageHead) + AMT_ID_MAX + AMT_PHC_MAX + AMT_SECRET_MAX];
	MessageHead head;
	char	   *end = message;
	EVP_MAC_CTX *context = mac_context();
	size_t		mac_len;
	bool		done;

	if (context == NULL || hash_len > AMT_PHC_MAX)
		return false;
	head.database = MyDatabaseId;
	head.table = store->key;
	head.id_len = id_len;
	head.hash_len = hash_len;
	head.secret_len = secret_len;
	end = (char *) memcpy(end, &head, sizeof(head)) + sizeof(head);
	end = (char *) memcpy(end, id, id_len) + id_len;
	end = (char *) memcpy(end, hash, hash_len) + hash_len;
	end = (char *) memcpy(end, secret, secret_len) + secret_len;

	done = EVP_MAC_init(context, NULL, 0, NULL) == 1 &&
		EVP_MAC_update(context, (unsigned char *) message, end - message) == 1 &&
		EVP_MAC_final(context, mac, &mac_len, AMT_MAC_LEN) == 1;
	OPENSSL_cleanse(message, end - message);
	return done;
}

void
amt_cache_make_room(uint32 more)
{
	(void) amt_shmem_make_room(&amt_shared->cache, cache_size, more);
}

void
amt_cache_enter(AmtTag key_tag, const AmtCacheEntry *entry)
{
	AmtTable   *table = &amt_shared->cache;
	bool		added;
	AmtSlot    *slot = amt_table_add(table, amt_area, key_tag, true, &added);

	if (slot == NULL)
		return;
	((CacheSlot *) slot)->entry = *entry;
	amt_table_unlock(table, key_tag);
}

void
amt_cache_warm(AmtTag key_tag, const AmtCacheEntry *entry)
{
	amt_cache_make_room(1);
	amt_cache_enter(key_tag, entry);
}

void
amt_cache_move(AmtTag key_tag, uint64 hash_tag, const AmtRowHint *hint)
{
	AmtTable   *table = &amt_shared->cache;
	CacheSlot  *slot = (CacheSlot *) amt_table_lock(table, amt_area, key_tag, LW_EXCLUSIVE);

	if (slot != NULL && slot->entry.hash_tag == hash_tag)
		slot->entry.hint = *hint;
	amt_table_unlock(table, key_tag);
}

void
amt_cache_forget(AmtTag key_tag)
{
	amt_table_remove(&amt_shared->cache, amt_area, key_tag, NULL);
}

PG_FUNCTION_INFO_V1(amt_cache_clear);
Datum
amt_cache_clear(PG_FUNCTION_ARGS)
{
	if (amt_shmem_attach())
		amt_table_clear(&amt_shared->cache, amt_area);
	PG_RETURN_VOID();
}

void
amt_cache_init(void)
{
	DefineCustomIntVariable("amt_keys.cache_size",
							"Sets the number of keys that the server keeps warm.",
							"A warm key is verified without scrypt. Each takes at most 128 bytes of shared memory; older ones make room. 0 turns the cache off. See section 8 of the contract.",
							&cache_size,
							65536, 0, AMT_TABLE_MAX_SLOTS,
							PGC_SIGHUP, 0, NULL, NULL, NULL);
}
