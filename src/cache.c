/*
 * cache.c
 *	  Secrets that scrypt has accepted before.
 *
 * An entry proves a secret and nothing else.  It is found by a tag made of the
 * database, the table amt_key, the key id and the stored hash, and holds a MAC
 * of these and the secret under a random key that lives in shared memory only.
 * The caller has just read the row, so it passes the hash that is stored now:
 * an entry made for another hash, a row that is gone, another database or an
 * extension created anew is never found, and even a tag that collided could
 * not match, since all of it is under the MAC.  So nothing ever has to be
 * invalidated; what is obsolete is pushed out by newer entries, and a deleted
 * key's entry is removed at commit as a courtesy.
 *
 * A row is visible to others only after its transaction has committed.  What
 * that transaction itself learns about it is kept aside and entered at commit,
 * so that no entry is made for a key that never existed.  That list belongs to
 * the transaction's memory; subtransactions take their part of it with them
 * when they fail.
 *
 * Locks: the table's (table.c), held while 32 bytes are copied.
 */
#include "postgres.h"

#include <openssl/core_names.h>
#include <openssl/crypto.h>
#include <openssl/evp.h>
#include <openssl/params.h>

#include "access/xact.h"
#include "miscadmin.h"
#include "utils/guc.h"
#include "utils/memutils.h"

#include "compat.h"
#include "phc.h"
#include "cache.h"
#include "shmem.h"
#include "token.h"

typedef struct CacheSlot
{
	AmtSlot		slot;
	uint8		mac[AMT_CACHE_MAC_LEN];
} CacheSlot;

StaticAssertDecl(sizeof(CacheSlot) <= AMT_CACHE_SLOT_SIZE, "the slot fits");
StaticAssertDecl(AMT_CACHE_SLOT_SIZE + 2 * sizeof(uint32) <= 128,
				 "a warm key takes at most 128 bytes");

/* Something to do when the transaction commits. */
typedef struct AtCommit
{
	struct AtCommit *next;
	SubTransactionId subid;
	bool		forget;
	AmtProof	proof;			/* only its tag when it is to be forgotten */
} AtCommit;

static int	cache_size = 65536;
static AtCommit *at_commit = NULL;	/* oldest first */
static AtCommit **at_commit_end = &at_commit;
static int	n_to_forget = 0;

/* Forgetting is a courtesy: a mass deletion need not remember them all. */
#define MAX_TO_FORGET	1000

/* What a tag and a MAC are made of: this much, then the hash, then the secret. */
typedef struct ProofHead
{
	Oid			database;
	Oid			table;
	uint32		hash_len;
	uint32		secret_len;
	uint32		id_len;
	char		id[AMT_ID_MAX];
} ProofHead;

static Size
fill_head(ProofHead *head, const AmtStore *store, const char *id, Size id_len, Size hash_len)
{
	head->database = MyDatabaseId;
	head->table = store->key;
	head->hash_len = hash_len;
	head->secret_len = 0;		/* a tag is not about a secret */
	head->id_len = id_len;
	memcpy(head->id, id, id_len);
	return offsetof(ProofHead, id) + id_len;
}

AmtTag
amt_cache_tag(const AmtStore *store, const char *id, Size id_len,
			  const char *hash, Size hash_len)
{
	ProofHead	head;
	Size		head_len = fill_head(&head, store, id, id_len, hash_len);

	return amt_shmem_tag(&head, head_len, hash, hash_len);
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
	fresh = EVP_MAC_CTX_new(mac);
	EVP_MAC_free(mac);
	if (fresh != NULL &&
		EVP_MAC_init(fresh, amt_shared->mac_key, AMT_MAC_KEY_LEN, params) == 1)
		context = fresh;
	else
		EVP_MAC_CTX_free(fresh);
	return context;
}

bool
amt_cache_prove(const AmtStore *store, const char *id, Size id_len,
				const char *hash, Size hash_len,
				const char *secret, Size secret_len, AmtProof *proof)
{
	union
	{
		ProofHead	head;
		char		bytes[sizeof(ProofHead) + AMT_PHC_MAX + AMT_SECRET_MAX];
	}			message;
	Size		len;
	EVP_MAC_CTX *context;
	size_t		mac_len;
	bool		done;

	if (!amt_shmem_attach() || cache_size == 0 ||
		hash_len > AMT_PHC_MAX || secret_len > AMT_SECRET_MAX)
		return false;
	context = mac_context();
	if (context == NULL)
		return false;

	/* One piece: each update of the MAC has a price. */
	len = fill_head(&message.head, store, id, id_len, hash_len);
	proof->tag = amt_shmem_tag(message.bytes, len, hash, hash_len);
	message.head.secret_len = secret_len;
	memcpy(message.bytes + len, hash, hash_len);
	memcpy(message.bytes + len + hash_len, secret, secret_len);
	len += hash_len + secret_len;
	done = EVP_MAC_init(context, NULL, 0, NULL) == 1 &&
		EVP_MAC_update(context, (unsigned char *) message.bytes, len) == 1 &&
		EVP_MAC_final(context, proof->mac, &mac_len, sizeof(proof->mac)) == 1;
	OPENSSL_cleanse(message.bytes, len);
	return done;
}

AmtWarmth
amt_cache_look(const AmtProof *proof)
{
	AmtTable   *table = &amt_shared->cache;
	uint8		mac[AMT_CACHE_MAC_LEN];
	AmtSlot    *slot = amt_table_lock(table, amt_area, proof->tag, LW_SHARED);

	if (slot != NULL)
	{
		memcpy(mac, ((CacheSlot *) slot)->mac, sizeof(mac));
		if (!slot->recent)
			slot->recent = true;
	}
	amt_table_unlock(table, proof->tag);

	if (slot == NULL)
		return AMT_COLD;
	return CRYPTO_memcmp(mac, proof->mac, sizeof(mac)) == 0 ?
		AMT_WARM_MATCH : AMT_WARM_MISMATCH;
}

/* Enter it where there is room; may push out an older entry, never fails. */
static void
enter(const AmtProof *proof)
{
	AmtTable   *table = &amt_shared->cache;
	bool		added;
	AmtSlot    *slot = amt_table_add(table, amt_area, proof->tag, true, &added);

	if (slot == NULL)
		return;
	memcpy(((CacheSlot *) slot)->mac, proof->mac, sizeof(proof->mac));
	amt_table_unlock(table, proof->tag);
}

void
amt_cache_warm(const AmtProof *proof)
{
	amt_shmem_make_room(&amt_shared->cache, cache_size);
	enter(proof);
}

static AtCommit *
add_at_commit(void)
{
	AtCommit   *item = MemoryContextAllocZero(TopTransactionContext, sizeof(AtCommit));

	item->subid = GetCurrentSubTransactionId();
	*at_commit_end = item;
	at_commit_end = &item->next;
	return item;
}

void
amt_cache_warm_at_commit(const AmtProof *proof)
{
	AtCommit   *item = add_at_commit();

	item->proof = *proof;
	/* Memory can be allocated now, but not at commit. */
	amt_shmem_make_room(&amt_shared->cache, cache_size);
}

void
amt_cache_forget_at_commit(AmtTag tag)
{
	AtCommit   *item;

	if (n_to_forget == MAX_TO_FORGET)
		return;
	n_to_forget++;
	item = add_at_commit();
	item->forget = true;
	item->proof.tag = tag;
}

static void
do_at_commit(void)
{
	for (AtCommit *item = at_commit; item != NULL; item = item->next)
	{
		if (item->forget)
			amt_table_remove(&amt_shared->cache, amt_area, item->proof.tag, NULL);
		else
			enter(&item->proof);
	}
}

static void
end_transaction(XactEvent event, void *arg)
{
	if (at_commit == NULL)
		return;
	switch (event)
	{
		case XACT_EVENT_PRE_COMMIT:
			/* Map the memory while an error may still be raised. */
			amt_table_map(&amt_shared->cache, amt_area);
			break;
		case XACT_EVENT_COMMIT:
			do_at_commit();
			/* fall through */
		case XACT_EVENT_ABORT:
		case XACT_EVENT_PREPARE:
			at_commit = NULL;	/* its memory goes with the transaction */
			at_commit_end = &at_commit;
			n_to_forget = 0;
			break;
		default:
			break;
	}
}

static void
end_subtransaction(SubXactEvent event, SubTransactionId subid,
				   SubTransactionId parent, void *arg)
{
	if (event == SUBXACT_EVENT_COMMIT_SUB)
	{
		for (AtCommit *item = at_commit; item != NULL; item = item->next)
			if (item->subid == subid)
				item->subid = parent;
	}
	else if (event == SUBXACT_EVENT_ABORT_SUB)
	{
		AtCommit  **at = &at_commit;

		while (*at != NULL)
		{
			if ((*at)->subid == subid)
				*at = (*at)->next;
			else
				at = &(*at)->next;
		}
		at_commit_end = at;
	}
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
	RegisterXactCallback(end_transaction, NULL);
	RegisterSubXactCallback(end_subtransaction, NULL);
}
