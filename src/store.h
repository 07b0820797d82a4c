/*
 * store.h
 *	  The extension's tables: where they are, and a key's row.
 */
#ifndef AMT_STORE_H
#define AMT_STORE_H

#include "access/htup.h"
#include "access/tupdesc.h"
#include "fmgr.h"
#include "storage/block.h"
#include "storage/buf.h"
#include "storage/off.h"
#include "utils/snapshot.h"
#include "utils/timestamp.h"

/* Columns of amt_key, in the order of its definition. */
#define Anum_amt_key_key_id			1
#define Anum_amt_key_org_id			2
#define Anum_amt_key_name			3
#define Anum_amt_key_role			4
#define Anum_amt_key_scrypt_hash	5
#define Anum_amt_key_created_at		6
#define Anum_amt_key_created_by		7
#define Anum_amt_key_expires_at		8
#define Natts_amt_key				8

/* Columns of amt_key_usage. */
#define Anum_amt_key_usage_key_id		1
#define Anum_amt_key_usage_calls		2
#define Anum_amt_key_usage_last_used_at	3
#define Natts_amt_key_usage				3

/* The extension's objects in this database. */
typedef struct AmtStore
{
	Oid			schema;
	Oid			owner;			/* of amt_key */
	Oid			key;			/* table amt_key */
	Oid			key_pkey;
	Oid			usage;			/* table amt_key_usage */
	Oid			usage_pkey;
	Oid			event;			/* table amt_key_event */
	Oid			verify;			/* function amt_verify() */
} AmtStore;

/*
 * Where a row was seen: its place in the table, and the shared buffer that held
 * it.  Only a hint; buffer 0 is none.
 */
typedef struct AmtRowHint
{
	Buffer		buffer;
	BlockNumber block;
	OffsetNumber offset;
	uint16		byte;			/* of the page, where it was then */
} AmtRowHint;

#define AmtRowHintEquals(a, b) \
	((a).buffer == (b).buffer && (a).block == (b).block && (a).offset == (b).offset)

/* A key's row, in the memory context of the caller of amt_store_get_key(). */
typedef struct AmtKey
{
	Datum		values[Natts_amt_key];	/* detoasted */
	bool		nulls[Natts_amt_key];
	TransactionId xmin;			/* who wrote this version of the row */
	bool		updated;		/* is it not the row's first version? */
	bool		own;			/* did the current transaction create the key? */
} AmtKey;

#define AmtKeyColumn(k, column) \
	((k)->values[Anum_amt_key_##column - 1])
#define AmtKeyColumnIsNull(k, column) \
	((k)->nulls[Anum_amt_key_##column - 1])

extern void amt_store_init(void);

/* The store that the called function belongs to. */
extern const AmtStore *amt_store(FunctionCallInfo fcinfo);

/* The store whose table amt_key this is, or NULL. */
extern const AmtStore *amt_store_of_table(Oid key);

/* A function of amt_verify()'s arguments by its name, or InvalidOid. */
extern Oid	amt_get_function(Oid schema, const char *name);

/* The columns of a row of amt_key, as they are in the tuple. */
extern void amt_store_read_key(HeapTuple tuple, TupleDesc tupdesc, AmtKey *key);

/*
 * The key's row as committed just now (or by this transaction).  The hint, if
 * not NULL, may save the way through the index, and is set to where the row is.
 */
extern bool amt_store_get_key(const AmtStore *store, const char *id, Size id_len,
							  AmtRowHint *hint, AmtKey *key);

/* Have the memory of the row at hand in a moment. */
extern void amt_store_prefetch(const AmtRowHint *hint);

/* Its usage as written to the table, seen with the snapshot. */
extern void amt_store_get_usage(const AmtStore *store, const char *id, Size id_len,
								Snapshot snapshot, int64 *calls, TimestampTz *last_used_at);

/* Does a row of its usage exist, or will it if another transaction commits? */
extern bool amt_store_may_have_usage(const AmtStore *store, const char *id, Size id_len);

/*
 * Lock the key's row as the check of a foreign key does, but wait for nobody:
 * false if the snapshot does not see the row, or another transaction has locked,
 * deleted or updated it.
 */
extern bool amt_store_lock_key(const AmtStore *store, const char *id, Size id_len,
							   Snapshot snapshot);

/*
 * Nothing that the tables' owner has attached to them may wait for the end of
 * the transaction, when it would run with the rights of this process.
 */
#define AMT_EXECUTE_RESTRICTED		1

/* Under REPEATABLE READ and SERIALIZABLE, the transaction's snapshot. */
#define AMT_EXECUTE_XACT_SNAPSHOT	2

/*
 * Execute a query as the tables' owner, with the newest snapshot (but for the
 * flag) and the caller's SPI connection.  "%s" in the query stands for the
 * quoted schema.
 */
extern int	amt_store_execute(const AmtStore *store, int flags, const char *query, int nargs,
							  Oid *argtypes, Datum *values, const char *nulls);

#endif							/* AMT_STORE_H */
