/*
 * entry.h
 *	  Keys in use: the proof of a key's secret, and its calls.
 */
#ifndef AMT_ENTRY_H
#define AMT_ENTRY_H

#include "datatype/timestamp.h"

#include "hashtable.h"
#include "rows.h"
#include "sha256.h"
#include "token.h"

#define AMT_MAC_LEN		32

/* A key whose entry is to be found. */
typedef struct AmtKeyRef
{
	AmtTag		tag;			/* of the key's entry */
	Oid			table;			/* the key's table, in this database */
	uint32		id_len;			/* 0 while the id is not known */
	const char *id;				/* NULL while the id is not known */
} AmtKeyRef;

/* The proof in an entry. */
typedef struct AmtProof
{
	bool		known;			/* was a secret proved for this stored hash? */
	uint64		hash_tag;		/* of stored hash, organization, role */
	uint8		mac[AMT_MAC_LEN];	/* amt_entry_mac() of the proved secret */
	AmtRowHint	hint;			/* where the key's row was seen */
} AmtProof;

/* The calls in an entry. */
typedef struct AmtCount
{
	uint64		serial;			/* the entry's number; 0 if there is none */
	bool		base_known;		/* has the worker set "base"? */
	uint64		base;			/* calls in amt_key_usage when the entry was
								 * made */
	uint64		counted;		/* calls since the entry was made */
	TimestampTz used_at;		/* time of the last call; DT_NOBEGIN if none */
} AmtCount;

/* The sum of two numbers of calls, at most the largest bigint. */
static inline int64
amt_total(uint64 base, uint64 counted)
{
	uint64		total = base + counted;

	return total < base || total > PG_INT64_MAX ? PG_INT64_MAX : (int64) total;
}

extern void amt_entry_init(void);

/*
 * Attach to the entries; false if there is no shared memory.  The functions
 * that use a tag or an entry must not be called before.
 */
extern bool amt_entry_attach(void);

/* May proofs be kept?  Not if amt_keys.cache_size is 0. */
extern bool amt_entry_may_prove(void);

/* A key of table "table" in this database.  The id is not copied. */
extern AmtKeyRef amt_entry_ref(Oid table, const char *id, Size id_len);

/*
 * An imported key's entry is found by the token's digest.  A caller knows
 * the digest before the id, so it may add the id later.
 */
extern AmtKeyRef amt_entry_ref_imported(Oid table, const uint8 sha256[AMT_SHA256_LEN]);

/*
 * The tag of a stored hash, organization and role.  It tells the key's entry
 * from that of an earlier key with the same id, and of the same key in another
 * organization or role.
 */
extern uint64 amt_entry_hash(const void *stored, Size len, const char *org_id, Size org_id_len,
							 const char *role, Size role_len);

/*
 * The tag of the row's stored hash, organization and role.  An imported key's
 * entry is found by the token, so its tag covers the id too.
 */
extern uint64 amt_entry_tag_of(const AmtKey *key);

/* The MAC of a presented secret; false if OpenSSL fails. */
extern bool amt_entry_mac(const AmtKeyRef *ref, const char *stored, Size stored_len,
						  const char *secret, Size secret_len, uint8 mac[AMT_MAC_LEN]);

/* Proofs: look one up, enter one, note the row's new place, forget all. */
extern bool amt_entry_find(const AmtKeyRef *ref, AmtProof *proof);
extern void amt_entry_prove(const AmtKeyRef *ref, const AmtProof *proof);
extern void amt_entry_move(const AmtKeyRef *ref, uint64 hash_tag, const AmtRowHint *hint);
extern void amt_entry_forget_proofs(void);

/*
 * Count one call of the key with that stored hash; false if that failed.
 * *other must be 0 at first, and is 0 afterwards if memory ran out.  An entry
 * about another hash with unwritten calls is left alone, and *other is set to
 * its serial.  The caller must then read the key's row again, and may call
 * again with the hash that is stored now.  An entry with the serial *other is
 * then replaced.
 */
extern bool amt_entry_count(const AmtKeyRef *ref, uint64 hash_tag, TimestampTz at,
							uint64 *other);

/*
 * Read the calls of the entry with that stored hash.  Without one, the
 * serial is 0.
 */
extern void amt_entry_read(const AmtKeyRef *ref, uint64 hash_tag, AmtCount *count);

#endif							/* AMT_ENTRY_H */
