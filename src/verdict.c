/*
 * verdict.c
 *	  Whether a token is valid, and which key it belongs to.
 *
 * Each call reads the row with the newest snapshot.  The key's entry in
 * shared memory tells whether the secret belongs to the hash in the row.  If
 * it does not know, we run scrypt.  An imported key is found by the SHA-256
 * of its whole token, and needs neither.
 *
 * While scrypt runs or waits, the key may be revoked.  We hold no snapshot,
 * relation or lock then, and read the row again afterwards.  The token is
 * valid only if the row still stores the hash.
 *
 * No text raises an error.  The system may: a query is cancelled while it
 * waits, OpenSSL gets no memory, or an owner broke the tables.
 */
#include "postgres.h"

#include <openssl/crypto.h>

#include "access/table.h"
#include "access/xact.h"
#include "miscadmin.h"
#include "portability/instr_time.h"
#include "utils/builtins.h"
#include "utils/rel.h"
#include "utils/timestamp.h"

#include "compat.h"
#include "entry.h"
#include "header.h"
#include "kdf.h"
#include "prefixes.h"
#include "scrypt.h"
#include "scrypt_queue.h"
#include "sha256.h"
#include "shmem.h"
#include "stat.h"
#include "text.h"
#include "usage.h"
#include "verdict.h"

#define IMPORTED_TOKEN_MAX	512

/* The result of scrypt for one stored hash. */
typedef struct ScryptAnswer
{
	bool		known;			/* has scrypt run? */
	AmtScryptResult result;
	char	   *hash;			/* the stored hash that scrypt ran for */
	Size		hash_len;
} ScryptAnswer;

/* A token that is being verified, and the state of its key. */
typedef struct Attempt
{
	const AmtToken *token;
	AmtKey	   *key;			/* filled each time the row is read */
	bool		shared;			/* is there shared memory? */
	bool		no_mac;			/* OpenSSL cannot compute the MAC */
	AmtKeyRef	ref;			/* of the key's entry; zeros without shared
								 * memory */
	uint64		hash_tag;		/* tag of the stored hash; 0 without shared
								 * memory */
	AmtProof	proof;			/* as read from the entry */
	ScryptAnswer answer;		/* as long as the stored hash is the same */
	const char *hash;			/* the stored hash, in "key" */
	Size		hash_len;
} Attempt;

static bool
same_hash(const Attempt *attempt)
{
	const ScryptAnswer *answer = &attempt->answer;

	return answer->known && answer->hash_len == attempt->hash_len &&
		memcmp(answer->hash, attempt->hash, attempt->hash_len) == 0;
}

static AmtScryptResult
run_scrypt(const AmtToken *token, const AmtPhc *phc)
{
	AmtScryptResult result;
	instr_time	start;
	instr_time	end;

	INSTR_TIME_SET_CURRENT(start);
	result = amt_scrypt_check(token->secret, token->secret_len, phc);
	INSTR_TIME_SET_CURRENT(end);
	INSTR_TIME_SUBTRACT(end, start);
	amt_stat_add(AMT_SCRYPT_RUNS, 1);
	amt_stat_add(AMT_SCRYPT_MICROSECONDS, INSTR_TIME_GET_MICROSEC(end));
	return result;
}

/* Does the entry have a proof for the hash that is stored now? */
static bool
find_proof(Attempt *attempt)
{
	return attempt->shared && amt_entry_attach() && amt_entry_may_prove() &&
		amt_entry_find(&attempt->ref, &attempt->proof) && attempt->proof.known &&
		attempt->proof.hash_tag == attempt->hash_tag;
}

static void
enter_proof(const Attempt *attempt)
{
	const ScryptAnswer *answer = &attempt->answer;
	AmtProof	proof = {0};

	if (!attempt->shared || !amt_entry_attach() || !amt_entry_may_prove() ||
		!amt_entry_mac(&attempt->ref, answer->hash, answer->hash_len,
					   attempt->token->secret, attempt->token->secret_len, proof.mac))
		return;
	proof.hash_tag = attempt->hash_tag;
	proof.hint = attempt->proof.hint;
	amt_entry_prove(&attempt->ref, &proof);
}

/*
 * Run scrypt, unless another process has proved the secret since we looked.
 * The caller must hold a place in the queue.  It must enter a proof before
 * it leaves the place, so that waiting processes find it.
 */
static pg_noinline void
ask_scrypt(Attempt *attempt, const AmtPhc *phc)
{
	ScryptAnswer *answer = &attempt->answer;

	if (!attempt->no_mac && find_proof(attempt))
		return;
	answer->hash_len = attempt->hash_len;
	answer->hash = pnstrdup(attempt->hash, attempt->hash_len);
	answer->result = phc == NULL ? AMT_SCRYPT_MISMATCH : run_scrypt(attempt->token, phc);
	answer->known = true;
	if (answer->result == AMT_SCRYPT_MATCH)
		enter_proof(attempt);
	if (answer->result == AMT_SCRYPT_FAILED)
		ereport(ERROR,
				(errcode(ERRCODE_OUT_OF_MEMORY),
				 errmsg("could not run scrypt"),
				 errdetail("OpenSSL did not get the memory that the key's parameters need, or its provider has no scrypt.")));
}

/*
 * Wait for a place, then run scrypt.  False means that we waited and must
 * look again.
 */
static bool
ask_scrypt_in_turn(Attempt *attempt)
{
	AmtPhc		phc;
	bool		valid = amt_phc_parse(attempt->hash, attempt->hash_len, &phc);

	if (!amt_scrypt_enter(attempt->hash_tag, valid && amt_kdf_is_costly(&phc)))
		return false;
	PG_TRY();
	{
		ask_scrypt(attempt, valid ? &phc : NULL);
	}
	PG_FINALLY();
	{
		amt_scrypt_leave();
	}
	PG_END_TRY();
	return true;
}

/* Compare the secret with the proof; false if OpenSSL gives no MAC. */
static bool
compare_proof(Attempt *attempt, AmtVerdict *verdict)
{
	uint8		mac[AMT_MAC_LEN];

	attempt->no_mac = !amt_entry_mac(&attempt->ref, attempt->hash, attempt->hash_len,
									 attempt->token->secret, attempt->token->secret_len, mac);
	if (attempt->no_mac)
		return false;
	amt_stat_add(AMT_CACHE_HITS, 1);
	*verdict = CRYPTO_memcmp(mac, attempt->proof.mac, sizeof(mac)) == 0 ?
		AMT_GOOD : AMT_WRONG_SECRET;
	return true;
}

/* Forget which entry was looked at. */
static void
forget_entry(Attempt *attempt)
{
	memset(&attempt->ref, 0, sizeof(attempt->ref));
	memset(&attempt->proof, 0, sizeof(attempt->proof));
	attempt->hash_tag = 0;
}

/* Read the key's row, at the place where the entry last saw it. */
static bool
read_key(Oid extension, Attempt *attempt)
{
	const AmtToken *token = attempt->token;
	Relation	rel = amt_open(extension, AMT_KEY, AccessShareLock);
	AmtRowHint	hint;
	bool		found;

	forget_entry(attempt);
	if (attempt->shared)
	{
		attempt->ref = amt_entry_ref(RelationGetRelid(rel), token->id, token->id_len);
		(void) amt_entry_find(&attempt->ref, &attempt->proof);
	}
	hint = attempt->proof.hint;
	found = amt_key_by_hint(rel, token->id, token->id_len, &hint, attempt->key);

	/* Unlock at once: a login must not block DDL. */
	table_close(rel, AccessShareLock);

	if (attempt->proof.known && found && !AmtRowHintEquals(hint, attempt->proof.hint))
		amt_entry_move(&attempt->ref, attempt->proof.hash_tag, &hint);
	attempt->proof.hint = hint;
	return found && !AmtKeyIsNull(attempt->key, scrypt_hash);
}

/* Look at row and entry; false if scrypt must run. */
static bool
decide(Oid extension, Attempt *attempt, AmtVerdict *verdict)
{
	attempt->shared = amt_entry_attach();
	if (!read_key(extension, attempt))
	{
		*verdict = AMT_UNKNOWN;
		return true;
	}
	attempt->hash = amt_key_stored_hash(attempt->key, &attempt->hash_len);
	if (attempt->shared)
		attempt->hash_tag = amt_entry_tag_of(attempt->key);
	if (same_hash(attempt))
	{
		*verdict = attempt->answer.result == AMT_SCRYPT_MATCH ? AMT_GOOD : AMT_WRONG_SECRET;
		return true;
	}
	return attempt->proof.known && amt_entry_may_prove() &&
		attempt->proof.hash_tag == attempt->hash_tag && compare_proof(attempt, verdict);
}

static AmtVerdict
verify_secret(Oid extension, Attempt *attempt)
{
	AmtVerdict	verdict;
	bool		waited = false;

	while (!decide(extension, attempt, &verdict))
	{
		if (!ask_scrypt_in_turn(attempt) && !waited)
		{
			waited = true;
			amt_stat_add(AMT_SCRYPT_WAITS, 1);
		}
		CHECK_FOR_INTERRUPTS();
	}
	return verdict;
}

AmtVerdict
amt_verify_secret(Oid extension, const AmtToken *token, AmtKey *key)
{
	Attempt		attempt = {0};

	attempt.token = token;
	attempt.key = key;
	return verify_secret(extension, &attempt);
}

/* Is the text printable ASCII without spaces, and not too long? */
static bool
may_be_imported(const char *s, Size len)
{
	if (len < 1 || len > IMPORTED_TOKEN_MAX)
		return false;
	for (Size i = 0; i < len; i++)
		if (s[i] <= ' ' || s[i] > '~')
			return false;
	return true;
}

/* Find an imported key, at the place where its entry last saw the row. */
static bool
find_imported(Oid extension, const char *s, Size len, Attempt *attempt)
{
	uint8		digest[AMT_SHA256_LEN];
	AmtRowHint	hint = {0};
	bool		has_entry = false;
	Relation	rel;
	bool		found;
	const char *id;
	Size		id_len;

	if (!may_be_imported(s, len))
		return false;
	amt_sha256(s, len, digest);
	forget_entry(attempt);
	attempt->shared = amt_entry_attach();
	rel = amt_open(extension, AMT_KEY, AccessShareLock);
	if (attempt->shared)
	{
		attempt->ref = amt_entry_ref_imported(RelationGetRelid(rel), digest);
		has_entry = amt_entry_find(&attempt->ref, &attempt->proof);
		if (has_entry)
			hint = attempt->proof.hint;
	}
	found = amt_key_by_sha256(rel, digest, &hint, attempt->key);
	table_close(rel, AccessShareLock);
	OPENSSL_cleanse(digest, sizeof(digest));

	if (!found)
		return false;
	id = amt_key_id_of(attempt->key, &id_len);
	if (id_len > AMT_ID_MAX)
		return false;			/* the table's owner has forced it in */
	if (attempt->shared)
	{
		attempt->ref.id = id;
		attempt->ref.id_len = id_len;
		attempt->hash_tag = amt_entry_tag_of(attempt->key);
		if (has_entry && !AmtRowHintEquals(hint, attempt->proof.hint))
			amt_entry_move(&attempt->ref, attempt->hash_tag, &hint);
	}
	return found;
}

bool
amt_find_imported(Oid extension, const char *s, Size len, AmtKey *key)
{
	Attempt		attempt = {0};

	attempt.key = key;
	return find_imported(extension, s, len, &attempt);
}

/* Find the token's key, and judge it as it is now. */
static AmtVerdict
judge(Oid extension, const char *s, Size len, Attempt *attempt, TimestampTz *now)
{
	const AmtKey *key = attempt->key;
	AmtVerdict	verdict = AMT_MALFORMED;

	if (attempt->token != NULL)
		verdict = verify_secret(extension, attempt);
	if ((verdict == AMT_MALFORMED || verdict == AMT_UNKNOWN) &&
		find_imported(extension, s, len, attempt))
		verdict = AMT_GOOD;
	if (verdict != AMT_GOOD)
		return verdict;

	*now = GetCurrentTimestamp();
	if (!AmtKeyIsNull(key, suspended_at))
		return AMT_SUSPENDED;
	if (!AmtKeyIsNull(key, expires_at) &&
		DatumGetTimestampTz(AmtKeyValue(key, expires_at)) <= *now)
		return AMT_EXPIRED;
	return AMT_GOOD;
}

static AmtVerdict
verify_text(Oid extension, const char *s, Size len, AmtKey *key)
{
	Attempt		attempt = {0};
	AmtToken	token;
	AmtVerdict	verdict;
	TimestampTz now;
	uint64		other = 0;

	attempt.key = key;
	amt_header_skip_bearer(&s, &len);
	if (amt_token_parse(amt_prefixes(), s, len, &token))
		attempt.token = &token;
	while ((verdict = judge(extension, s, len, &attempt, &now)) == AMT_GOOD &&	/* C2 */
		   !amt_usage_count(extension, &attempt.ref, attempt.hash_tag, now, &other))
		CHECK_FOR_INTERRUPTS();
	return verdict;
}

/*
 * A session that sees only bad tokens must attach too.  Otherwise its counts
 * are lost with it.
 */
void
amt_count_verdict(AmtVerdict verdict)
{
	(void) amt_shmem_attach();
	amt_stat_add((AmtCounter) verdict, 1);
}

AmtVerdict
amt_verify_text(Oid extension, const char *s, Size len, AmtKey *key)
{
	AmtVerdict	verdict;

	/* A parallel operation has no newer snapshot than its own. */
	if (IsInParallelMode())
		ereport(ERROR,
				(errcode(ERRCODE_INVALID_TRANSACTION_STATE),
				 errmsg("cannot verify a key during a parallel operation")));
	verdict = verify_text(extension, s, len, key);
	amt_count_verdict(verdict);
	return verdict;
}

StaticAssertDecl((int) AMT_MALFORMED == (int) AMT_REJECTED_MALFORMED &&
				 (int) AMT_UNKNOWN == (int) AMT_REJECTED_UNKNOWN &&
				 (int) AMT_WRONG_SECRET == (int) AMT_REJECTED_WRONG_SECRET &&
				 (int) AMT_SUSPENDED == (int) AMT_REJECTED_SUSPENDED &&
				 (int) AMT_EXPIRED == (int) AMT_REJECTED_EXPIRED &&
				 (int) AMT_GOOD == (int) AMT_VERIFIED,
				 "the counters are in the verdicts' order");
