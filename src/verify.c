/*
 * verify.c
 *	  Is a token good, and whose is it?
 *
 * The row is read with the newest snapshot at each call, so what it says of
 * organization, role and expiry, and whether it is there at all, is never older
 * than the database.  Whether the secret belongs to the hash in that row is
 * answered by the cache, or by a run of scrypt when the key is cold.
 *
 * A run takes long enough for the key to be revoked meanwhile, and so does
 * waiting for one's turn (scrypt_queue.c).  Nothing of ours is held then: no
 * snapshot, no relation, no lock, neither one of the server's nor one of our shared
 * memory, which is reached by way of other files only.  So whatever was learned is
 * only about a stored hash, and the row is read again afterwards; only if it still
 * stores that hash is the answer yes.
 *
 * No input raises an error.  What can is the system: a query cancelled while
 * it waits, memory that OpenSSL does not get, or a table in shared memory that has
 * grown in this very moment and cannot be mapped.
 */
#include "postgres.h"

#include <openssl/crypto.h>

#include "access/xact.h"
#include "catalog/pg_type.h"
#include "funcapi.h"
#include "miscadmin.h"
#include "portability/instr_time.h"
#include "utils/builtins.h"
#include "utils/timestamp.h"
#include "utils/tuplestore.h"

#include "compat.h"
#include "atcommit.h"
#include "cache.h"
#include "header.h"
#include "identity.h"
#include "scrypt.h"
#include "scrypt_queue.h"
#include "shmem.h"
#include "stat.h"
#include "usage.h"
#include "verify.h"

/* What scrypt said about one stored hash. */
typedef struct ScryptAnswer
{
	bool		known;
	AmtScryptResult result;
	char	   *hash;
	Size		hash_len;
} ScryptAnswer;

static bool
same_hash(const ScryptAnswer *answer, const char *hash, Size hash_len)
{
	return answer->known && answer->hash_len == hash_len &&
		memcmp(answer->hash, hash, hash_len) == 0;
}

static AmtScryptResult
run_scrypt(const AmtToken *token, const char *hash, Size hash_len)
{
	AmtPhc		phc;
	AmtScryptResult result;
	instr_time	start;
	instr_time	end;

	if (!amt_phc_parse(hash, hash_len, &phc))
		return AMT_SCRYPT_MISMATCH;
	INSTR_TIME_SET_CURRENT(start);
	result = amt_scrypt_check(token->secret, token->secret_len, &phc);
	INSTR_TIME_SET_CURRENT(end);
	INSTR_TIME_SUBTRACT(end, start);
	amt_stat_add(AMT_SCRYPT_RUNS, 1);
	amt_stat_add(AMT_SCRYPT_MICROSECONDS, INSTR_TIME_GET_MICROSEC(end));
	return result;
}

/* The row as it is now, and what the cache says of the secret. */
typedef struct Look
{
	AmtVerdict	verdict;		/* AMT_GOOD, AMT_UNKNOWN or AMT_WRONG_SECRET */
	bool		undecided;		/* scrypt has to be asked */
	bool		no_mac;			/* the cache cannot: OpenSSL fails */
	AmtTag		key_tag;		/* these only with shared memory */
	uint64		hash_tag;
	AmtRowHint	hint;
} Look;

/* Does the cache know the secret of this stored hash? */
static bool
is_warm(const Look *seen, AmtCacheEntry *entry)
{
	return amt_cache_is_on() && amt_cache_find(seen->key_tag, entry) &&
		entry->hash_tag == seen->hash_tag;
}

static void
make_warm(const AmtStore *store, const AmtToken *token, const AmtKey *key,
		  const ScryptAnswer *answer, const Look *seen)
{
	static const AmtTag none = {0};
	AmtCacheEntry entry = {0};

	if (!amt_cache_is_on() || AmtTagEquals(seen->key_tag, none) ||
		!amt_cache_mac(store, token->id, token->id_len, answer->hash, answer->hash_len,
					   token->secret, token->secret_len, entry.mac))
		return;
	entry.hash_tag = seen->hash_tag;
	entry.hint = seen->hint;
	if (key->own)
		amt_at_commit_warm(seen->key_tag, &entry);
	else
		amt_cache_warm(seen->key_tag, &entry);
}

/*
 * In our place in the queue: run scrypt, unless somebody has made the key warm
 * since we looked.  What it proves is entered before the place is left, so
 * that those who wait find it.
 */
static pg_noinline void
ask_scrypt(const AmtStore *store, const AmtToken *token, const AmtKey *key,
		   const Look *seen, ScryptAnswer *answer)
{
	text	   *hash = DatumGetTextPP(AmtKeyColumn(key, scrypt_hash));
	AmtCacheEntry entry;

	if (!seen->no_mac && is_warm(seen, &entry))
		return;
	answer->hash_len = VARSIZE_ANY_EXHDR(hash);
	answer->hash = pnstrdup(VARDATA_ANY(hash), answer->hash_len);
	answer->result = run_scrypt(token, answer->hash, answer->hash_len);
	answer->known = true;
	if (answer->result == AMT_SCRYPT_MATCH)
		make_warm(store, token, key, answer, seen);
	if (answer->result == AMT_SCRYPT_FAILED)
		ereport(ERROR,
				(errcode(ERRCODE_OUT_OF_MEMORY),
				 errmsg("could not run scrypt"),
				 errdetail("OpenSSL did not get the memory that the key's parameters need, or its provider has no scrypt.")));
}

/* Wait for our turn, then ask; false if we waited and should look again. */
static bool
ask_scrypt_in_turn(const AmtStore *store, const AmtToken *token, const AmtKey *key,
				   const Look *seen, ScryptAnswer *answer)
{
	if (!amt_scrypt_enter(seen->hash_tag))
		return false;
	PG_TRY();
	{
		ask_scrypt(store, token, key, seen, answer);
	}
	PG_FINALLY();
	{
		amt_scrypt_leave();
	}
	PG_END_TRY();
	return true;
}

/* Compare with what the cache knows; undecided if it knows nothing. */
static void
ask_cache(const AmtStore *store, const AmtToken *token, const char *hash, Size hash_len,
		  const AmtCacheEntry *entry, Look *seen)
{
	uint8		mac[AMT_MAC_LEN];

	if (entry->hash_tag != seen->hash_tag)
		return;
	seen->no_mac = !amt_cache_mac(store, token->id, token->id_len, hash, hash_len,
								  token->secret, token->secret_len, mac);
	if (seen->no_mac)
		return;
	seen->undecided = false;
	amt_stat_add(AMT_CACHE_HITS, 1);
	seen->verdict = CRYPTO_memcmp(mac, entry->mac, sizeof(mac)) == 0 ?
		AMT_GOOD : AMT_WRONG_SECRET;
	if (!AmtRowHintEquals(entry->hint, seen->hint))
		amt_cache_move(seen->key_tag, seen->hash_tag, &seen->hint);
}

static void
look(const AmtStore *store, const AmtToken *token, const ScryptAnswer *answer,
	 AmtKey *key, Look *seen)
{
	bool		cached;
	AmtCacheEntry entry;
	text	   *hash_text;
	const char *hash;
	Size		hash_len;

	memset(seen, 0, sizeof(Look));
	if (amt_shmem_attach())
		seen->key_tag = amt_shmem_key_tag(store->key, token->id, token->id_len);
	cached = amt_cache_is_on() && amt_cache_find(seen->key_tag, &entry);
	if (cached)
	{
		seen->hint = entry.hint;
		amt_store_prefetch(&seen->hint);
	}

	seen->verdict = AMT_UNKNOWN;
	if (!amt_store_get_key(store, token->id, token->id_len, &seen->hint, key))
		return;
	hash_text = DatumGetTextPP(AmtKeyColumn(key, scrypt_hash));
	hash = VARDATA_ANY(hash_text);
	hash_len = VARSIZE_ANY_EXHDR(hash_text);
	if (same_hash(answer, hash, hash_len))
	{
		seen->verdict = answer->result == AMT_SCRYPT_MATCH ? AMT_GOOD : AMT_WRONG_SECRET;
		return;
	}

	seen->undecided = true;
	if (amt_shared != NULL)
		seen->hash_tag = amt_shmem_hash(hash, hash_len);
	if (cached)
		ask_cache(store, token, hash, hash_len, &entry, seen);
}

/* *key_tag is set if there is shared memory. */
static AmtVerdict
verify_secret(const AmtStore *store, const AmtToken *token, AmtKey *key, AmtTag *key_tag)
{
	ScryptAnswer answer = {0};
	Look		seen;
	bool		waited = false;

	for (;;)
	{
		look(store, token, &answer, key, &seen);
		if (!seen.undecided)
		{
			*key_tag = seen.key_tag;
			return seen.verdict;
		}
		if (!ask_scrypt_in_turn(store, token, key, &seen, &answer) && !waited)
		{
			waited = true;
			amt_stat_add(AMT_SCRYPT_WAITS, 1);
		}
		CHECK_FOR_INTERRUPTS();
	}
}

AmtVerdict
amt_verify_secret(const AmtStore *store, const AmtToken *token, AmtKey *key)
{
	AmtTag		key_tag;

	return verify_secret(store, token, key, &key_tag);
}

static AmtVerdict
verify_text(const AmtStore *store, const char *s, Size len, AmtKey *key)
{
	AmtToken	token;
	AmtTag		key_tag;
	AmtVerdict	verdict;
	TimestampTz now;

	amt_header_skip_bearer(&s, &len);
	if (!amt_token_parse(s, len, &token))
		return AMT_MALFORMED;
	verdict = verify_secret(store, &token, key, &key_tag);
	if (verdict != AMT_GOOD)
		return verdict;

	now = GetCurrentTimestamp();
	if (!AmtKeyColumnIsNull(key, expires_at) &&
		DatumGetTimestampTz(AmtKeyColumn(key, expires_at)) <= now)
		return AMT_EXPIRED;
	amt_usage_count(store, key, key_tag, now);
	return AMT_GOOD;
}

AmtVerdict
amt_verify_text(const AmtStore *store, const char *s, Size len, AmtKey *key)
{
	AmtVerdict	verdict;

	/* There is no newest snapshot to be had, so a function must not say so. */
	if (IsInParallelMode())
		ereport(ERROR,
				(errcode(ERRCODE_INVALID_TRANSACTION_STATE),
				 errmsg("cannot verify a key during a parallel operation")));
	(void) amt_shmem_attach();
	verdict = verify_text(store, s, len, key);

	/* The counters are in the verdicts' order. */
	amt_stat_add((AmtCounter) verdict, 1);
	return verdict;
}

void
amt_identify(const AmtKey *key)
{
	amt_identity_set(TextDatumGetCString(AmtKeyColumn(key, org_id)),
					 TextDatumGetCString(AmtKeyColumn(key, role)),
					 NULL,
					 TextDatumGetCString(AmtKeyColumn(key, key_id)));
}

StaticAssertDecl((int) AMT_MALFORMED == (int) AMT_REJECTED_MALFORMED &&
				 (int) AMT_UNKNOWN == (int) AMT_REJECTED_UNKNOWN &&
				 (int) AMT_WRONG_SECRET == (int) AMT_REJECTED_WRONG_SECRET &&
				 (int) AMT_EXPIRED == (int) AMT_REJECTED_EXPIRED &&
				 (int) AMT_GOOD == (int) AMT_VERIFIED,
				 "the counters are in the verdicts' order");

/* An empty result set for a function called in FROM or in a select list. */
static void
make_result_set(FunctionCallInfo fcinfo)
{
	ReturnSetInfo *rsinfo = (ReturnSetInfo *) fcinfo->resultinfo;
	MemoryContext oldcontext;

	if (rsinfo == NULL || !IsA(rsinfo, ReturnSetInfo))
		ereport(ERROR,
				(errcode(ERRCODE_FEATURE_NOT_SUPPORTED),
				 errmsg("set-valued function called in context that cannot accept a set")));
	if (!(rsinfo->allowedModes & SFRM_Materialize) || rsinfo->expectedDesc == NULL)
		ereport(ERROR,
				(errcode(ERRCODE_FEATURE_NOT_SUPPORTED),
				 errmsg("materialize mode required, but it is not allowed in this context")));

	/* The descriptor that the caller expects is ours; no need for a copy. */
	oldcontext = MemoryContextSwitchTo(rsinfo->econtext->ecxt_per_query_memory);
	rsinfo->returnMode = SFRM_Materialize;
	rsinfo->setResult = tuplestore_begin_heap(rsinfo->allowedModes & SFRM_Materialize_Random,
											  false, work_mem);
	rsinfo->setDesc = NULL;
	MemoryContextSwitchTo(oldcontext);
}

#define VERIFY_COLUMNS	6

static Datum
verify_call(FunctionCallInfo fcinfo, const AmtStore *store)
{
	ReturnSetInfo *rsinfo = (ReturnSetInfo *) fcinfo->resultinfo;
	bool		identify = !PG_ARGISNULL(1) && PG_GETARG_BOOL(1);
	AmtVerdict	verdict = AMT_MALFORMED;
	AmtKey		key;

	make_result_set(fcinfo);
	if (PG_ARGISNULL(0))
		amt_stat_add(AMT_REJECTED_MALFORMED, 1);
	else
	{
		text	   *token = PG_GETARG_TEXT_PP(0);

		verdict = amt_verify_text(store, VARDATA_ANY(token), VARSIZE_ANY_EXHDR(token), &key);
		if ((Pointer) token != DatumGetPointer(PG_GETARG_DATUM(0)))
			OPENSSL_cleanse(token, VARSIZE_ANY(token));
	}

	if (verdict == AMT_GOOD)
	{
		static const int columns[VERIFY_COLUMNS] = {
			Anum_amt_key_key_id, Anum_amt_key_org_id, Anum_amt_key_role,
			Anum_amt_key_name, Anum_amt_key_created_by, Anum_amt_key_expires_at
		};
		Datum		values[VERIFY_COLUMNS];
		bool		nulls[VERIFY_COLUMNS];

		for (int i = 0; i < VERIFY_COLUMNS; i++)
		{
			values[i] = key.values[columns[i] - 1];
			nulls[i] = key.nulls[columns[i] - 1];
		}
		tuplestore_putvalues(rsinfo->setResult, rsinfo->expectedDesc, values, nulls);
	}
	if (identify)
	{
		if (verdict == AMT_GOOD)
			amt_identify(&key);
		else
			amt_identity_set(NULL, NULL, NULL, NULL);
	}
	return (Datum) 0;
}

PG_FUNCTION_INFO_V1(amt_verify);
Datum
amt_verify(PG_FUNCTION_ARGS)
{
	return verify_call(fcinfo, amt_store(fcinfo));
}

/* Its twin (verify_plan.c), for those who may execute it. */
PG_FUNCTION_INFO_V1(amt_verify_row);
Datum
amt_verify_row(PG_FUNCTION_ARGS)
{
	const AmtStore *store = amt_store(fcinfo);
	AclResult	allowed = amt_function_aclcheck(store->verify, GetUserId());

	if (allowed != ACLCHECK_OK)
		aclcheck_error(allowed, OBJECT_FUNCTION, "amt_verify");
	return verify_call(fcinfo, store);
}
