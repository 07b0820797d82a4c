/*
 * relations.h
 *	  The extension's tables: finding them, and checking that they are ours.
 */
#ifndef AMT_RELATIONS_H
#define AMT_RELATIONS_H

#include "access/tupdesc.h"
#include "fmgr.h"
#include "storage/lockdefs.h"
#include "utils/relcache.h"

/* Columns of amt_key, in the order of its definition. */
#define Anum_amt_key_key_id			1
#define Anum_amt_key_token_prefix	2
#define Anum_amt_key_org_id			3
#define Anum_amt_key_name			4
#define Anum_amt_key_role			5
#define Anum_amt_key_scopes			6
#define Anum_amt_key_scrypt_hash	7
#define Anum_amt_key_token_sha256	8
#define Anum_amt_key_created_at		9
#define Anum_amt_key_created_by		10
#define Anum_amt_key_expires_at		11
#define Anum_amt_key_suspended_at	12
#define Anum_amt_key_replaces		13
#define Natts_amt_key				13

/* Columns of amt_key_usage. */
#define Anum_amt_key_usage_key_id		1
#define Anum_amt_key_usage_calls		2
#define Anum_amt_key_usage_last_used_at	3
#define Natts_amt_key_usage				3

/* Columns of amt_key_event. */
#define Anum_amt_key_event_event_id		1
#define Anum_amt_key_event_at			2
#define Anum_amt_key_event_event		3
#define Anum_amt_key_event_key_id		4
#define Anum_amt_key_event_org_id		5
#define Anum_amt_key_event_name			6
#define Anum_amt_key_event_role			7
#define Anum_amt_key_event_scopes		8
#define Anum_amt_key_event_expires_at	9
#define Anum_amt_key_event_actor		10
#define Anum_amt_key_event_by_key		11
#define Anum_amt_key_event_db_user		12
#define Anum_amt_key_event_calls		13
#define Natts_amt_key_event				13

typedef enum AmtTableId
{
	AMT_KEY,
	AMT_KEY_USAGE,
	AMT_KEY_EVENT
} AmtTableId;

#define AMT_NTABLES		3

/* Indexes by which rows are found. */
typedef enum AmtIndexId
{
	AMT_KEY_BY_ID,
	AMT_KEY_BY_SHA256,
	AMT_KEY_BY_PREFIX,
	AMT_USAGE_BY_ID,
	AMT_EVENT_BY_ID
} AmtIndexId;

#define AMT_NINDEXES	5

extern void amt_relations_init(void);

/* The called function's extension. */
extern Oid	amt_extension(FunctionCallInfo fcinfo);

/* This database's extension "amt_keys", or InvalidOid. */
extern Oid	amt_extension_here(void);

/* Is there one, uncommitted ones included? */
extern bool amt_extension_is_coming(void);

/*
 * Open and lock a table of the extension.  Raises 42P01, 42809 or 42804 if
 * there is none that is ours.  amt_open_nowait() returns NULL if the lock is
 * not available, or if the table has just been replaced.
 */
extern Relation amt_open(Oid extension, AmtTableId table, LOCKMODE mode);
extern Relation amt_open_nowait(Oid extension, AmtTableId table, LOCKMODE mode);

/* Is the open relation that table of the extension? */
extern bool amt_is_table(Oid extension, AmtTableId table, Relation rel);

/*
 * Raise 42809 or 42804 unless rows of the open relation can be read by
 * position.
 */
extern void amt_check_table(Relation rel, AmtTableId table);

/*
 * The index by which rows are found, of a table that amt_open() has opened.
 * Raises 42704 if there is none.
 */
extern Oid	amt_index(Relation rel, AmtIndexId index);

/* The sequence of event_id.  Raises 42P01 if event_id is no identity column. */
extern Oid	amt_event_sequence(Relation rel);

/*
 * Raise 42804 unless rows of the descriptor have exactly these types.  The
 * owner of a composite type may have altered it.
 */
extern void amt_check_row_type(TupleDesc tupdesc, const Oid *types, int natts);

/*
 * The blessed descriptor of the called function's result.  Raises 42804
 * unless it has exactly these types.
 */
extern TupleDesc amt_result_tupdesc(FunctionCallInfo fcinfo, const Oid *types, int natts);

#endif							/* AMT_RELATIONS_H */
