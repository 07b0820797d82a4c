/*
 * rows.h
 *	  Reading rows of the extension's tables.
 */
#ifndef AMT_ROWS_H
#define AMT_ROWS_H

#include "access/htup.h"
#include "access/tupdesc.h"
#include "datatype/timestamp.h"
#include "executor/tuptable.h"
#include "utils/relcache.h"
#include "utils/snapshot.h"

#include "relations.h"
#include "rowhint.h"
#include "token.h"

/* A row of amt_key, copied into the caller's memory context. */
typedef struct AmtKey
{
	Datum		values[Natts_amt_key];	/* detoasted */
	bool		nulls[Natts_amt_key];
} AmtKey;

#define AmtKeyValue(k, column) \
	((k)->values[Anum_amt_key_##column - 1])
#define AmtKeyIsNull(k, column) \
	((k)->nulls[Anum_amt_key_##column - 1])

/* The columns of a row of amt_key, as they are in the tuple. */
extern void amt_key_deform(HeapTuple tuple, TupleDesc tupdesc, AmtKey *key);

/* The same, copied and detoasted. */
extern void amt_key_copy(HeapTuple tuple, TupleDesc tupdesc, AmtKey *key);

/* The key's id as bytes. */
extern const char *amt_key_id_of(const AmtKey *key, Size *len);

/* The stored hash of the token, as bytes: scrypt_hash or token_sha256. */
extern const char *amt_key_stored_hash(const AmtKey *key, Size *len);

/*
 * Find a row of amt_key, as committed just now or as changed by the current
 * transaction, whatever the isolation level.  "rel" was opened by amt_open().
 * No privilege is checked.
 */
extern bool amt_key_by_id(Relation rel, const char *id, Size id_len, AmtKey *key);

/*
 * Find keys with this displayed prefix for which wanted(key) is true.  Returns
 * their number, at most max.
 */
extern int	amt_keys_by_prefix(Relation rel, const char *prefix, Size len,
							   bool (*wanted) (const AmtKey *key), AmtKey *keys, int max);

/*
 * The same by id or by the token's digest, at the place of the hint if the row
 * is there; the hint is set to where it is.
 */
extern bool amt_key_by_hint(Relation rel, const char *id, Size id_len,
							AmtRowHint *hint, AmtKey *key);
extern bool amt_key_by_sha256(Relation rel, const uint8 sha256[32],
							  AmtRowHint *hint, AmtKey *key);

/* Open amt_key for one look by id, and close it again. */
extern bool amt_key_get(Oid extension, const char *id, Size id_len, AmtRowHint *hint,
						Oid *table, AmtKey *key);

/* Has this transaction created, changed or deleted the key? */
extern bool amt_key_is_ours(Oid extension, const char *id, Size id_len);

/*
 * Call visit(id, id_len, arg) for up to max stored usages, in the order of their
 * ids, from the first one after "after".  Returns true if there may be more.
 */
extern bool amt_usage_visit(Relation rel, const char *after, Size after_len, int max,
							void (*visit) (const char *id, Size id_len, void *arg), void *arg);

/* The stored usage of a key, with the newest snapshot; false if there is none. */
extern bool amt_usage_get(Oid extension, const char *id, Size id_len,
						  int64 *calls, TimestampTz *last_used_at);

/* A key id as a text datum, in the caller's buffer. */
typedef union AmtIdText
{
	struct varlena header;
	char		buffer[VARHDRSZ + AMT_ID_MAX];
} AmtIdText;

/* False if it is too long for an id, which its owner must have forced in. */
extern bool amt_make_id_text(AmtIdText *text_id, const char *id, Size id_len);

/*
 * Take and register the newest snapshot.  Parallel mode has none newer than the
 * active one.
 */
extern Snapshot amt_newest_snapshot(void);

#endif							/* AMT_ROWS_H */
