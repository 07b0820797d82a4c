/*
 * rows.h
 *	  Reading rows of the extension's tables.
 */
#ifndef AMT_ROWS_H
#define AMT_ROWS_H

#include "access/genam.h"
#include "access/htup.h"
#include "access/tupdesc.h"
#include "datatype/timestamp.h"
#include "executor/tuptable.h"
#include "storage/block.h"
#include "storage/buf.h"
#include "storage/off.h"
#include "utils/relcache.h"
#include "utils/snapshot.h"

#include "relations.h"
#include "token.h"

/* A row of amt_key. */
typedef struct AmtKey
{
	Datum		values[Natts_amt_key];	/* of the tuple, or detoasted copies */
	bool		nulls[Natts_amt_key];
} AmtKey;

#define AmtKeyValue(k, column) \
	((k)->values[Anum_amt_key_##column - 1])
#define AmtKeyIsNull(k, column) \
	((k)->nulls[Anum_amt_key_##column - 1])

/*
 * The place where a row of amt_key was seen, and the shared buffer that held
 * it.  Only a hint; buffer 0 means that there is none.
 */
typedef struct AmtRowHint
{
	Buffer		buffer;
	BlockNumber block;
	OffsetNumber offset;
} AmtRowHint;

#define AmtRowHintEquals(a, b) \
	((a).buffer == (b).buffer && (a).block == (b).block && (a).offset == (b).offset)

/* Get the columns of a row of amt_key.  The values point into the tuple. */
extern void amt_key_deform(HeapTuple tuple, TupleDesc tupdesc, AmtKey *key);

/* The key's id as bytes. */
extern const char *amt_key_id_of(const AmtKey *key, Size *len);

/* Does the row have this id? */
extern bool amt_key_has_id(const AmtKey *key, const char *id, Size id_len);

/* The stored hash of the token, as bytes: scrypt_hash or token_sha256. */
extern const char *amt_key_stored_hash(const AmtKey *key, Size *len);

/*
 * Find a row of amt_key, as last committed or as this transaction has
 * changed it, in every isolation level.  "rel" must have been opened by
 * amt_open().  No privilege is checked.
 */
extern bool amt_key_by_id(Relation rel, const char *id, Size id_len, AmtKey *key);

/*
 * Find keys with this displayed prefix for which wanted(key) is true.  Returns
 * their number, at most max.
 */
extern int	amt_keys_by_prefix(Relation rel, const char *prefix, Size len,
							   bool (*wanted) (const AmtKey *key), AmtKey *keys, int max);

/*
 * Copy the row at the hint's place.  Returns NULL unless the buffer still
 * holds that block of the table, and the snapshot sees a row there.  The
 * caller must check whether it is the right row, and otherwise use the
 * index.
 */
extern HeapTuple amt_row_by_hint(Relation rel, Snapshot snapshot, const AmtRowHint *hint);

/*
 * Find a key by id, or by the token's digest.  Looks at the hint's place
 * first, and sets the hint to the row's place.  The row is the visible one
 * when it has been read, however long that took.
 */
extern bool amt_key_by_hint(Relation rel, const char *id, Size id_len,
							AmtRowHint *hint, AmtKey *key);
extern bool amt_key_by_sha256(Relation rel, const uint8 sha256[32],
							  AmtRowHint *hint, AmtKey *key);

/* Open amt_key, find a key by id, and close it.  "table" may be NULL. */
extern bool amt_key_get(Oid extension, const char *id, Size id_len, Oid *table, AmtKey *key);

/* Has this transaction created or changed the key?  False if it is gone. */
extern bool amt_key_is_ours(Oid extension, const char *id, Size id_len);

/*
 * Read a key's row of amt_key_usage with the newest snapshot; false if there
 * is none.
 */
extern bool amt_usage_get(Oid extension, const char *id, Size id_len,
						  int64 *calls, TimestampTz *last_used_at);

/* A key id as a text datum that needs no allocation. */
typedef union AmtIdText
{
	struct varlena header;
	int32		aligned;
	char		buffer[VARHDRSZ + AMT_ID_MAX];
} AmtIdText;

/*
 * False if it is too long for an id.  Then the table's owner has forced it
 * in.
 */
extern bool amt_make_id_text(AmtIdText *text_id, const char *id, Size id_len);

/* Register the newest snapshot.  In parallel mode that is the active one. */
extern Snapshot amt_newest_snapshot(void);

/*
 * Begin a scan of all versions by an index, and register a snapshot for
 * amt_is_visible().  It is newer than the wait for the index.  And it is
 * older than the scan: one of the heap, as ignore_system_indexes has it, looks
 * at no block that is added later.
 */
extern SysScanDesc amt_begin_scan(Relation rel, Oid index, ScanKey key, Snapshot *snapshot);

/* Does the snapshot see this version of a row, which the scan has found? */
extern bool amt_is_visible(SysScanDesc scan, HeapTuple tuple, Snapshot snapshot);

#endif							/* AMT_ROWS_H */
