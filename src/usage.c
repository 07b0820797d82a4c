/*
 * usage.c
 *	  The calls of a key: counting one, and reading all.
 *
 * Counting is no part of any transaction.  It works in READ ONLY
 * transactions, on a standby, and when the surrounding transaction rolls
 * back.
 *
 * The reader must not add a call twice.  If the base is known, it answers
 * base + counted.  Otherwise it reads the table's row with a new snapshot,
 * and then the entry again.  If that is still the same entry without a base,
 * none of its calls are written, and the answer is row + counted.  Otherwise
 * the reader starts again.
 *
 * C, C2, C3 and R1 to R3 are labels of the model in test/model.
 */
#include "postgres.h"

#include "access/xact.h"
#include "miscadmin.h"

#include "compat.h"
#include "entry.h"
#include "stat.h"
#include "usage.h"
#include "writer_slot.h"

/* Has this transaction made or changed the key?  A rollback may still undo that. */
static bool
is_ours(Oid extension, const AmtKeyRef *ref)
{
	return TransactionIdIsValid(GetTopTransactionIdIfAny()) &&
		amt_key_is_ours(extension, ref->id, ref->id_len);
}

bool
amt_usage_count(Oid extension, const AmtKeyRef *ref, uint64 hash_tag, TimestampTz at,
				uint64 *other)
{
	bool		counted = false;

	if (ref->id != NULL && amt_entry_attach())
		counted = amt_entry_count(ref, hash_tag, at, other);	/* C, C3 */
	else
		*other = 0;
	if (!counted && *other != 0 && !is_ours(extension, ref))
		return false;
	if (counted)
		amt_writer_want(at);
	else
		amt_stat_add(AMT_CALLS_DROPPED, 1);
	return true;
}

void
amt_usage_read(Oid extension, Oid table, const AmtKey *key,
			   int64 *calls, TimestampTz *last_used_at)
{
	Size		id_len;
	const char *id = amt_key_id_of(key, &id_len);
	Size		stored_len;
	const char *stored = amt_key_stored_hash(key, &stored_len);
	bool		shared = id_len <= AMT_ID_MAX && amt_entry_attach();
	AmtKeyRef	ref;
	uint64		hash_tag;

	if (!shared)
	{
		(void) amt_usage_get(extension, id, id_len, calls, last_used_at);
		return;
	}
	if (AmtKeyIsNull(key, scrypt_hash) && stored_len == AMT_SHA256_LEN)
		ref = amt_entry_ref_imported(table, (const uint8 *) stored);
	else
		ref = amt_entry_ref(table, id, id_len);
	hash_tag = amt_entry_tag_of(key);
	for (;;)
	{
		AmtCount	before;
		AmtCount	after;

		amt_entry_read(&ref, hash_tag, &before);	/* R1 */
		(void) amt_usage_get(extension, id, id_len, calls, last_used_at);	/* R2 */
		if (before.serial == 0)
			return;
		if (before.base_known)
		{
			*calls = amt_total(before.base, before.counted);
			*last_used_at = Max(*last_used_at, before.used_at);
			return;
		}
		amt_entry_read(&ref, hash_tag, &after); /* R3 */
		if (after.serial == before.serial && !after.base_known)
		{
			*calls = amt_total(Max(*calls, 0), after.counted);
			*last_used_at = Max(*last_used_at, after.used_at);
			return;
		}
		CHECK_FOR_INTERRUPTS();
	}
}
