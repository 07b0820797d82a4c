/*
 * cache.h
 *	  Secrets that scrypt has accepted before.
 */
#ifndef AMT_CACHE_H
#define AMT_CACHE_H

#include "store.h"
#include "table.h"

typedef enum AmtWarmth
{
	AMT_COLD,					/* nothing known: ask scrypt */
	AMT_WARM_MATCH,				/* the secret is the key's */
	AMT_WARM_MISMATCH			/* it is not */
} AmtWarmth;

/* A presented secret, as the cache knows it; holds nothing of the secret. */
typedef struct AmtProof
{
	AmtTag		tag;			/* database, table, key id and stored hash */
	uint8		mac[32];		/* of these and the secret */
} AmtProof;

#define AMT_CACHE_MAC_LEN	sizeof(((AmtProof *) 0)->mac)
#define AMT_CACHE_SLOT_SIZE (sizeof(AmtSlot) + AMT_CACHE_MAC_LEN)

extern void amt_cache_init(void);

/* Compute the proof; false without shared memory. */
extern bool amt_cache_prove(const AmtStore *store, const char *id, Size id_len,
							const char *hash, Size hash_len,
							const char *secret, Size secret_len, AmtProof *proof);

extern AmtWarmth amt_cache_look(const AmtProof *proof);

/* Remember it now; for rows that others can see. */
extern void amt_cache_warm(const AmtProof *proof);

/* Remember it, or forget it, when the current transaction commits. */
extern void amt_cache_warm_at_commit(const AmtProof *proof);
extern void amt_cache_forget_at_commit(AmtTag tag);

/* The tag alone. */
extern AmtTag amt_cache_tag(const AmtStore *store, const char *id, Size id_len,
							const char *hash, Size hash_len);

#endif							/* AMT_CACHE_H */
