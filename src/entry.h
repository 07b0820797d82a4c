/*
 * entry.h
 *	  Keys in use: what was proved of a key's secret, and its calls.
 */
#ifndef AMT_ENTRY_H
#define AMT_ENTRY_H

#include "datatype/timestamp.h"
#include "storage/block.h"
#include "storage/buf.h"
#include "storage/off.h"

#include "hashtable.h"
#include "sha256.h"
#include "token.h"

#define AMT_MAC_LEN		32

/*
 * Where a row of amt_key was seen: its place in the table, and the shared
 * buffer that held it.  Only a hint; buffer 0 is none.
 */
typedef struct AmtRowHint
{
	Buffer		buffer;
	BlockNumber block;
	OffsetNumber offset;
} AmtRowHint;

#define AmtRowHintEquals(a, b) \
	((a).buffer == (b).buffer && (a).block == (b).block && (a).offset == (b).offset)

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

/* An entry with calls to write, as copied for the writer. */
typedef struct AmtDue
{
	AmtTag		tag;
	uint64		serial;
	uint64		hash_tag;
	uint64		counted;
	uint64		written;
	bool		base_known;
	uint64		base;
	TimestampTz used_at;
	Oid			database;
	Oid			table;
	uint32		id_len;
	char		id[AMT_ID_MAX];
	bool		done;			/* for the writer's use */
} AmtDue;

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

/* A seeded hash of a stored hash: tells it from another one. */
extern uint64 amt_entry_hash(const void *stored, Size len);

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
 * Count one call of the key with that stored hash.  An entry about another hash
 * is replaced if "replace" is true.
 */
extern AmtCounted amt_entry_count(const AmtKeyRef *ref, uint64 hash_tag, TimestampTz at,
								  bool replace);

/* Read the calls that an entry with that stored hash knows of. */
extern void amt_entry_read(const AmtKeyRef *ref, uint64 hash_tag, AmtCount *count);

/*
 * For the writer.  Copy up to max entries of the database with unwritten calls,
 * from *place on, which is 0 at first.  Returns their number; *more is false at
 * the end of the table.
 */
extern int	amt_entry_collect(Oid database, uint32 *place, AmtDue *due, int max, bool *more);

/* Up to max databases that have entries with unwritten calls; their number. */
extern int	amt_entry_databases(Oid *database, int max);

/* Each is done only if the entry is still the one with that serial. */
extern bool amt_entry_set_base(const AmtDue *due, uint64 base);
extern void amt_entry_set_written(const AmtDue *due);
extern bool amt_entry_drop(const AmtDue *due);

/* Are the copied calls written?  *gone is true if the entry is not there. */
extern bool amt_entry_is_written(const AmtDue *due, bool *gone);

/* Free the entries of written keys beyond amt_keys.cache_size. */
extern void amt_entry_trim(void);

/* Sums over the entries of one database, or of all if it is InvalidOid. */
typedef struct AmtEntrySums
{
	uint64		unwritten;		/* calls that are not written */
	uint64		counted;		/* calls that were counted */
	uint64		proved;			/* entries with a proved secret */
} AmtEntrySums;

extern void amt_entry_sum(Oid database, AmtEntrySums *sums);

#endif							/* AMT_ENTRY_H */
