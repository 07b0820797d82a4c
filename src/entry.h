/*
 * entry.h
 *	  Keys in use: what was proved of a key's secret, and its calls.
 */
#ifndef AMT_ENTRY_H
#define AMT_ENTRY_H

#include "datatype/timestamp.h"

#include "hashtable.h"
#include "rowhint.h"
#include "rows.h"
#include "sha256.h"
#include "token.h"

#define AMT_MAC_LEN		32

/* A key, as its entry is found by. */
typedef struct AmtKeyRef
{
	AmtTag		tag;
	Oid			table;			/* of the key's row; in this database */
	uint32		id_len;
	const char *id;
} AmtKeyRef;

/* What an entry says of the secret. */
typedef struct AmtProof
{
	bool		known;			/* was a secret proved for this stored hash? */
	uint64		hash_tag;		/* amt_entry_hash() of the stored hash */
	uint8		mac[AMT_MAC_LEN];	/* amt_entry_mac() of the secret */
	AmtRowHint	hint;
} AmtProof;

/* What an entry says of the calls. */
typedef struct AmtCount
{
	uint64		serial;			/* the entry's number; 0 if there is none */
	bool		base_known;
	uint64		base;			/* calls in the table when it was made */
	uint64		counted;		/* calls since then */
	TimestampTz used_at;		/* DT_NOBEGIN if there was no call */
} AmtCount;

/* The total of two numbers of calls, in the range of a bigint. */
static inline int64
amt_total(uint64 base, uint64 counted)
{
	uint64		total = base + counted;

	return total < base || total > PG_INT64_MAX ? PG_INT64_MAX : (int64) total;
}

extern void amt_entry_init(void);

/* Is there shared memory for entries?  Every other function needs it. */
extern bool amt_entry_attach(void);

/* May secrets be remembered (amt_keys.cache_size is not 0)? */
extern bool amt_entry_may_prove(void);

/* A key of table "table" in this database.  The id is not copied. */
extern AmtKeyRef amt_entry_ref(Oid table, const char *id, Size id_len);

/*
 * The same for an imported key, whose entry is found by the digest of its token,
 * since that is what is known of it first.  The id may be given later.
 */
extern AmtKeyRef amt_entry_ref_imported(Oid table, const uint8 sha256[AMT_SHA256_LEN]);

/* A seeded hash of a stored hash, and of the key's id if that is given. */
extern uint64 amt_entry_hash(const void *stored, Size len, const void *id, Size id_len);

/*
 * What tells the entry of a key from that of an earlier key: a hash of what its
 * row stores of the token.  An imported key's entry is found by the token, so the
 * key's id is in the hash too.
 */
extern uint64 amt_entry_tag_of(const AmtKey *key);

/* The MAC of a secret that was presented; false if OpenSSL fails. */
extern bool amt_entry_mac(const AmtKeyRef *ref, const char *stored, Size stored_len,
						  const char *secret, Size secret_len, uint8 mac[AMT_MAC_LEN]);

/* Prove: look up, enter, and say that the row has moved. */
extern bool amt_entry_find(const AmtKeyRef *ref, AmtProof *proof);
extern void amt_entry_prove(const AmtKeyRef *ref, const AmtProof *proof);
extern void amt_entry_move(const AmtKeyRef *ref, uint64 hash_tag, const AmtRowHint *hint);
extern void amt_entry_forget_proofs(void);

typedef enum AmtCounted
{
	AMT_COUNTED,
	AMT_NO_ROOM,				/* memory ran out */
	AMT_OTHER_HASH				/* the entry is about another stored hash */
} AmtCounted;

/*
 * Count one call of the key with that stored hash.  If the entry is about another
 * hash and has unwritten calls, the call is not counted, and *other is set to the
 * entry's serial.  The caller must look whether the key's row still stores the
 * hash, and may then call again: an entry with the serial *other is replaced.
 * *other must be 0 at first.
 */
extern AmtCounted amt_entry_count(const AmtKeyRef *ref, uint64 hash_tag, TimestampTz at,
								  uint64 *other);

/* Read the calls that an entry with that stored hash knows of. */
extern void amt_entry_read(const AmtKeyRef *ref, uint64 hash_tag, AmtCount *count);

#endif							/* AMT_ENTRY_H */
