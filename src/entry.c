/*
 * entry.c
 *	  Keys in use: what was proved of a key's secret, and its calls.
 *
 * One entry in shared memory serves both.  It belongs to a key with a certain
 * stored hash: database, table, key id, and a tag of the hash.  The proof is a
 * MAC of all these and the secret, under a random key that lives in shared
 * memory only.  The caller has just read the row, so an entry about a hash that
 * is not stored any more proves nothing, and no entry ever has to be
 * invalidated.
 *
 * Calls are counted here and written by the worker of the database (writer.c),
 * which is the only process that sets "base" and "written".  An entry may make
 * room for another when written = counted.  A new entry of the same key has a
 * new serial.  doc/internals.md has the states, and says which process may change
 * which field.  The names in brackets are labels of the model in test/model.
 *
 * Locks: those of hashtable.c.  Counting holds a partition's lock shared and
 * adds atomically; everything else that changes an entry holds it exclusively.
 */
#include "postgres.h"

#include <openssl/core_names.h>
#include <openssl/crypto.h>
#include <openssl/err.h>
#include <openssl/evp.h>
#include <openssl/params.h>

#include "access/xact.h"
#include "common/hashfn.h"
#include "miscadmin.h"
#include "port/atomics.h"
#include "utils/guc.h"
#include "utils/timestamp.h"

#include "attempt.h"
#include "compat.h"
#include "elapsed.h"
#include "entry.h"
#include "phc.h"
#include "shmem.h"
#include "stat.h"

#define MAC_KEY_LEN			32
#define GROW_AGAIN_MS		1000
#define MAX_TRIES			10

typedef struct Entry
{
	AmtSlot		slot;			/* spare[0] is "proved", spare[1] "has base" */
	uint64		hash_tag;		/* of the stored hash that all this is about */
	uint8		mac[AMT_MAC_LEN];	/* valid if a secret was proved */
	AmtRowHint	hint;
	uint32		id_len;
	pg_atomic_uint64 counted;	/* calls since the entry was made */
	pg_atomic_uint64 used_at;	/* time of the last call, a TimestampTz */
	uint64		serial;			/* never given twice */
	uint64		base;			/* calls in the table when it was made */
	uint64		written;		/* how many of "counted" are in the table */
	Oid			database;
	Oid			table;
	char		id[AMT_ID_MAX];
} Entry;

StaticAssertDecl(sizeof(Entry) <= 192, "an entry fills three cache lines");

#define PROVED(entry)	((entry)->slot.spare[0])
#define HAS_BASE(entry) ((entry)->slot.spare[1])

typedef struct Entries
{
	uint64		seed[2];		/* of tags and hashes; constant */
	uint8		mac_key[MAC_KEY_LEN];	/* constant, never on disk */
	pg_atomic_uint64 serials;	/* the last serial that was given */
	AmtTable	table;
} Entries;

static Entries *entries = NULL;
static int	cache_size = 65536;

static void
init_entries(void *part, const AmtShmemInit *init)
{
	Entries    *new = part;

	memcpy(new->seed, init->random, sizeof(new->seed));
	memcpy(new->mac_key, init->random + sizeof(new->seed), MAC_KEY_LEN);
	pg_atomic_init_u64(&new->serials, 0);
	amt_table_init(&new->table, sizeof(Entry), init->table_tranche);
}

StaticAssertDecl(sizeof(((Entries *) 0)->seed) + MAC_KEY_LEN == AMT_SHMEM_RANDOM,
				 "all random bytes are used");

static void
attach_entries(void *part)
{
	entries = part;
}

void
amt_entry_init(void)
{
	static const AmtShmemPart part = {sizeof(Entries), init_entries, attach_entries};

	amt_shmem_register(&part);
	DefineCustomIntVariable("amt_keys.cache_size",
							"Sets the number of keys that shared memory holds.",
							"A key that is held is verified without scrypt. Each takes about 200 bytes. "
							"Keys with calls that are not written yet are held in addition. "
							"0 makes every verification run scrypt.",
							&cache_size,
							65536, 0, AMT_TABLE_MAX_SLOTS,
							PGC_SIGHUP, 0, NULL, NULL, NULL);
}

/*
 * The table's memory that was mapped last.  Mapping may fail, so it is done
 * before a lock is taken.
 */
static dsa_pointer mapped = InvalidDsaPointer;

static void
map_table(void *arg)
{
	mapped = amt_table_map(&entries->table, amt_area);
}

bool
amt_entry_attach(void)
{
	static bool reported = false;
	ErrorData  *error;

	if (!amt_shmem_attach())
		return false;
	if (likely(*(volatile dsa_pointer *) &entries->table.memory == mapped))
		return true;
	if (IsInParallelMode())
		return false;
	error = amt_attempt(map_table, NULL);
	if (error == NULL)
		return true;
	if (!reported)
		ereport(LOG,
				(errcode(error->sqlerrcode),
				 errmsg("amt_keys could not map its shared memory: %s", error->message),
				 errdetail("This session verifies keys by scrypt, and does not count calls, until it can.")));
	reported = true;
	FreeErrorData(error);
	return false;
}

bool
amt_entry_may_prove(void)
{
	return cache_size > 0;
}

uint64
amt_entry_hash(const void *stored, Size len)
{
	return hash_bytes_extended(stored, len, entries->seed[0]);
}

/* The tag of a key of that table in this database. */
static AmtTag
make_tag(Oid table, const void *name, Size len, bool imported)
{
	struct
	{
		Oid			database;
		Oid			table;
		uint32		imported;
		char		name[AMT_ID_MAX];
	}			key;
	Size		key_len = 3 * sizeof(uint32) + len;
	AmtTag		tag;

	Assert(len <= AMT_ID_MAX);
	key.database = MyDatabaseId;
	key.table = table;
	key.imported = imported;
	memcpy(key.name, name, len);
	tag.lo = hash_bytes_extended((unsigned char *) &key, key_len, entries->seed[0]);
	tag.hi = hash_bytes_extended((unsigned char *) &key, key_len, entries->seed[1]);
	return tag;
}

AmtKeyRef
amt_entry_ref(Oid table, const char *id, Size id_len)
{
	AmtKeyRef	ref;

	ref.tag = make_tag(table, id, id_len, false);
	ref.table = table;
	ref.id = id;
	ref.id_len = id_len;
	return ref;
}

AmtKeyRef
amt_entry_ref_imported(Oid table, const uint8 sha256[AMT_SHA256_LEN])
{
	AmtKeyRef	ref;

	ref.tag = make_tag(table, sha256, AMT_SHA256_LEN, true);
	ref.table = table;
	ref.id = NULL;
	ref.id_len = 0;
	return ref;
}

/* A context for the MAC with the server's key in it, made once per process. */
static EVP_MAC_CTX *
mac_context(void)
{
	static EVP_MAC_CTX *context = NULL;
	EVP_MAC    *mac;
	EVP_MAC_CTX *fresh;
	char		digest[] = "SHA256";
	OSSL_PARAM	params[2];

	if (context != NULL)
		return context;
	params[0] = OSSL_PARAM_construct_utf8_string(OSSL_MAC_PARAM_DIGEST, digest, 0);
	params[1] = OSSL_PARAM_construct_end();
	mac = EVP_MAC_fetch(NULL, "HMAC", NULL);
	fresh = mac != NULL ? EVP_MAC_CTX_new(mac) : NULL;
	EVP_MAC_free(mac);
	if (fresh != NULL && EVP_MAC_init(fresh, entries->mac_key, MAC_KEY_LEN, params) == 1)
		context = fresh;
	else
	{
		EVP_MAC_CTX_free(fresh);
		ERR_clear_error();
	}
	return context;
}

/* The message begins with this; id, stored hash and secret follow. */
typedef struct MessageHead
{
	Oid			database;
	Oid			table;
	uint32		id_len;
	uint32		stored_len;
	uint32		secret_len;
} MessageHead;

bool
amt_entry_mac(const AmtKeyRef *ref, const char *stored, Size stored_len,
			  const char *secret, Size secret_len, uint8 mac[AMT_MAC_LEN])
{
	/* In one piece, since each update of a MAC costs. */
	char		message[sizeof(MessageHead) + AMT_ID_MAX + AMT_PHC_MAX + AMT_SECRET_MAX];
	MessageHead head;
	char	   *end = message;
	EVP_MAC_CTX *context = mac_context();
	size_t		mac_len;
	bool		done;

	if (context == NULL || stored_len > AMT_PHC_MAX || secret_len > AMT_SECRET_MAX)
		return false;
	head.database = MyDatabaseId;
	head.table = ref->table;
	head.id_len = ref->id_len;
	head.stored_len = stored_len;
	head.secret_len = secret_len;
	end = (char *) memcpy(end, &head, sizeof(head)) + sizeof(head);
	end = (char *) memcpy(end, ref->id, ref->id_len) + ref->id_len;
	end = (char *) memcpy(end, stored, stored_len) + stored_len;
	end = (char *) memcpy(end, secret, secret_len) + secret_len;

	done = EVP_MAC_init(context, NULL, 0, NULL) == 1 &&
		EVP_MAC_update(context, (unsigned char *) message, end - message) == 1 &&
		EVP_MAC_final(context, mac, &mac_len, AMT_MAC_LEN) == 1;
	OPENSSL_cleanse(message, end - message);
	return done;
}

static Entry *
lock_entry(AmtTag tag, LWLockMode mode)
{
	return (Entry *) amt_table_lock(&entries->table, amt_area, tag, mode);
}

static void
unlock_entry(AmtTag tag)
{
	amt_table_unlock(&entries->table, tag);
}

static uint64
unwritten(const Entry *entry)
{
	return pg_atomic_read_u64((pg_atomic_uint64 *) &entry->counted) - entry->written;
}

/* [evict] Only an entry whose calls are all written may go. */
static bool
is_evictable(const AmtSlot *slot)
{
	return unwritten((const Entry *) slot) == 0;
}

/*
 * Make the entry one of a key with that stored hash, of which nothing is known
 * yet.  Calls of another key of the same id, which is gone, are dropped.
 */
static void
reset_entry(Entry *entry, const AmtKeyRef *ref, uint64 hash_tag, bool added)
{
	if (!added && unwritten(entry) > 0)
		amt_stat_add(AMT_CALLS_DROPPED, unwritten(entry));
	PROVED(entry) = false;
	HAS_BASE(entry) = false;
	entry->hash_tag = hash_tag;
	memset(&entry->hint, 0, sizeof(entry->hint));
	pg_atomic_init_u64(&entry->counted, 0);
	pg_atomic_init_u64(&entry->used_at, (uint64) DT_NOBEGIN);
	entry->serial = pg_atomic_add_fetch_u64(&entries->serials, 1);
	entry->base = 0;
	entry->written = 0;
	entry->database = MyDatabaseId;
	entry->table = ref->table;
	entry->id_len = ref->id_len;
	memcpy(entry->id, ref->id, ref->id_len);
}

static void
grow_table(void *arg)
{
	amt_table_grow(&entries->table, amt_area, *(uint32 *) arg);
	map_table(NULL);
}

/* Grow the table; false if that failed now or a moment ago. */
static bool
make_room(uint32 nslots)
{
	static TimestampTz failed_at = 0;
	ErrorData  *error;

	if (IsInParallelMode() ||
		(failed_at != 0 && !amt_elapsed(failed_at, GetCurrentTimestamp(), GROW_AGAIN_MS)))
		return false;
	error = amt_attempt(grow_table, &nslots);
	failed_at = 0;
	if (error == NULL)
		return true;
	failed_at = GetCurrentTimestamp();
	FreeErrorData(error);
	return false;
}

typedef enum Replace
{
	NEVER,						/* an entry about another stored hash */
	IF_WRITTEN,
	ALWAYS
} Replace;

/*
 * Find or make the entry of the key with that stored hash, locked exclusively.
 * Returns NULL without a lock if there is no memory, or if the entry is about
 * another stored hash and may not be replaced (then *other is true).
 */
static Entry *
add_entry(const AmtKeyRef *ref, uint64 hash_tag, Replace replace, bool *other)
{
	uint32		limit = Max(cache_size, 1);

	*other = false;
	for (int tries = 0; tries < MAX_TRIES; tries++)
	{
		bool		added;
		uint32		nslots;
		Entry	   *entry = (Entry *) amt_table_add(&entries->table, amt_area, ref->tag, limit,
													is_evictable, &added, &nslots);

		if (entry != NULL)
		{
			*other = !added && entry->hash_tag != hash_tag;
			if (added || (*other && (replace == ALWAYS ||
									 (replace == IF_WRITTEN && unwritten(entry) == 0))))
			{
				reset_entry(entry, ref, hash_tag, added);
				*other = false;
			}
			if (!*other)
				return entry;
			unlock_entry(ref->tag);
			return NULL;
		}
		/* Other processes may take the room that we make. */
		if (!make_room(nslots))
		{
			/* Without more memory, another entry has to make room. */
			if (limit <= nslots)
				break;
			limit = nslots;
		}
	}
	return NULL;
}

bool
amt_entry_find(const AmtKeyRef *ref, AmtProof *proof)
{
	Entry	   *entry = lock_entry(ref->tag, LW_SHARED);

	if (entry != NULL)
	{
		proof->known = PROVED(entry);
		proof->hash_tag = entry->hash_tag;
		memcpy(proof->mac, entry->mac, AMT_MAC_LEN);
		proof->hint = entry->hint;
		if (!entry->slot.recent)
			entry->slot.recent = true;
	}
	unlock_entry(ref->tag);
	return entry != NULL;
}

void
amt_entry_prove(const AmtKeyRef *ref, const AmtProof *proof)
{
	bool		other;
	Entry	   *entry = add_entry(ref, proof->hash_tag, IF_WRITTEN, &other);

	if (entry == NULL)
		return;
	memcpy(entry->mac, proof->mac, AMT_MAC_LEN);
	entry->hint = proof->hint;
	PROVED(entry) = true;
	unlock_entry(ref->tag);
}

void
amt_entry_move(const AmtKeyRef *ref, uint64 hash_tag, const AmtRowHint *hint)
{
	Entry	   *entry = lock_entry(ref->tag, LW_EXCLUSIVE);

	if (entry != NULL && entry->hash_tag == hash_tag)
		entry->hint = *hint;
	unlock_entry(ref->tag);
}

/* Advance the time of the last use, atomically. */
static void
advance(pg_atomic_uint64 *used_at, TimestampTz at)
{
	uint64		before = pg_atomic_read_u64(used_at);

	while ((TimestampTz) before < at &&
		   !pg_atomic_compare_exchange_u64(used_at, &before, (uint64) at))
		;
}

static void
add_call(Entry *entry, TimestampTz at)
{
	pg_atomic_fetch_add_u64(&entry->counted, 1);
	advance(&entry->used_at, at);
}

/* [C] */
AmtCounted
amt_entry_count(const AmtKeyRef *ref, uint64 hash_tag, TimestampTz at, bool replace)
{
	Entry	   *entry = lock_entry(ref->tag, LW_SHARED);
	bool		counted = entry != NULL && entry->hash_tag == hash_tag;
	bool		other;

	if (likely(counted))
		add_call(entry, at);
	unlock_entry(ref->tag);
	if (likely(counted))
		return AMT_COUNTED;

	entry = add_entry(ref, hash_tag, replace ? ALWAYS : NEVER, &other);
	if (entry == NULL)
		return other ? AMT_OTHER_HASH : AMT_NO_ROOM;
	add_call(entry, at);
	unlock_entry(ref->tag);
	return AMT_COUNTED;
}

/* [R1, R3] */
void
amt_entry_read(const AmtKeyRef *ref, uint64 hash_tag, AmtCount *count)
{
	Entry	   *entry = lock_entry(ref->tag, LW_SHARED);

	memset(count, 0, sizeof(AmtCount));
	count->used_at = DT_NOBEGIN;
	if (entry != NULL && entry->hash_tag == hash_tag)
	{
		count->serial = entry->serial;
		count->base_known = HAS_BASE(entry);
		count->base = entry->base;
		count->counted = pg_atomic_read_u64(&entry->counted);
		count->used_at = (TimestampTz) pg_atomic_read_u64(&entry->used_at);
	}
	unlock_entry(ref->tag);
}

static bool
forget_proof(AmtSlot *slot, void *arg)
{
	LWLock	   *lock = &entries->table.partition[slot->tag.lo % AMT_TABLE_PARTITIONS].lock;

	LWLockAcquire(lock, LW_EXCLUSIVE);
	PROVED((Entry *) slot) = false;
	LWLockRelease(lock);
	return true;
}

void
amt_entry_forget_proofs(void)
{
	uint32		place = 0;

	(void) amt_table_scan(&entries->table, amt_area, &place, forget_proof, NULL);
}

typedef struct Collection
{
	Oid			database;
	AmtDue	   *due;
	int			n;
	int			max;
} Collection;

/* [W1] Copy the entry; its lock keeps the copy consistent. */
static bool
collect_entry(AmtSlot *slot, void *arg)
{
	Collection *collection = arg;
	Entry	   *entry = (Entry *) slot;
	LWLock	   *lock = &entries->table.partition[slot->tag.lo % AMT_TABLE_PARTITIONS].lock;
	AmtDue	   *due = &collection->due[collection->n];

	/* Without the lock this is a guess, good enough to pass over most. */
	if (entry->database != collection->database || unwritten(entry) == 0)
		return true;

	LWLockAcquire(lock, LW_SHARED);
	due->tag = slot->tag;
	due->serial = entry->serial;
	due->hash_tag = entry->hash_tag;
	due->counted = pg_atomic_read_u64(&entry->counted);
	due->written = entry->written;
	due->base_known = HAS_BASE(entry);
	due->base = entry->base;
	due->used_at = (TimestampTz) pg_atomic_read_u64(&entry->used_at);
	due->database = entry->database;
	due->table = entry->table;
	due->id_len = entry->id_len;
	memcpy(due->id, entry->id, entry->id_len);
	due->done = false;
	LWLockRelease(lock);
	collection->n++;
	return collection->n < collection->max;
}

int
amt_entry_collect(Oid database, uint32 *place, AmtDue *due, int max, bool *more)
{
	Collection	collection = {database, due, 0, max};

	*more = amt_table_scan(&entries->table, amt_area, place, collect_entry, &collection);
	return collection.n;
}

typedef struct Databases
{
	Oid		   *database;
	int			n;
	int			max;
} Databases;

static bool
note_database(AmtSlot *slot, void *arg)
{
	Databases  *found = arg;
	Entry	   *entry = (Entry *) slot;

	if (unwritten(entry) == 0)
		return true;
	for (int i = 0; i < found->n; i++)
		if (found->database[i] == entry->database)
			return true;
	found->database[found->n++] = entry->database;
	return found->n < found->max;
}

int
amt_entry_databases(Oid *database, int max)
{
	Databases	found = {database, 0, max};
	uint32		place = 0;

	(void) amt_table_scan(&entries->table, amt_area, &place, note_database, &found);
	return found.n;
}

/* Lock the entry that was copied; NULL, but locked, if it is another one now. */
static Entry *
lock_due(const AmtDue *due, LWLockMode mode)
{
	Entry	   *entry = lock_entry(due->tag, mode);

	return entry != NULL && entry->serial == due->serial ? entry : NULL;
}

/* [W2] */
bool
amt_entry_set_base(const AmtDue *due, uint64 base)
{
	Entry	   *entry = lock_due(due, LW_EXCLUSIVE);

	if (entry != NULL && !HAS_BASE(entry))
	{
		entry->base = base;
		HAS_BASE(entry) = true;
	}
	unlock_entry(due->tag);
	return entry != NULL;
}

/* [W5] */
void
amt_entry_set_written(const AmtDue *due)
{
	Entry	   *entry = lock_due(due, LW_EXCLUSIVE);

	if (entry != NULL && entry->written < due->counted)
		entry->written = due->counted;
	unlock_entry(due->tag);
}

static uint64 serial_to_drop;

static bool
is_to_drop(const AmtSlot *slot)
{
	const Entry *entry = (const Entry *) slot;

	if (entry->serial != serial_to_drop)
		return false;
	amt_stat_add(AMT_CALLS_DROPPED, unwritten(entry));
	return true;
}

bool
amt_entry_drop(const AmtDue *due)
{
	serial_to_drop = due->serial;
	return amt_table_remove(&entries->table, amt_area, due->tag, is_to_drop);
}

bool
amt_entry_is_written(const AmtDue *due, bool *gone)
{
	Entry	   *entry = lock_due(due, LW_SHARED);
	bool		written = entry != NULL && entry->written >= due->counted;

	*gone = entry == NULL;
	unlock_entry(due->tag);
	return written;
}

/* Tags of entries that may be removed. */
typedef struct Surplus
{
	AmtTag		tag[256];
	int			n;
} Surplus;

static bool
note_surplus(AmtSlot *slot, void *arg)
{
	Surplus    *surplus = arg;

	if (is_evictable(slot))
		surplus->tag[surplus->n++] = slot->tag;
	return surplus->n < (int) lengthof(surplus->tag);
}

void
amt_entry_trim(void)
{
	uint32		place = 0;
	bool		more = true;

	while (more && amt_table_used(&entries->table) > (uint32) cache_size)
	{
		Surplus		surplus;

		surplus.n = 0;
		more = amt_table_scan(&entries->table, amt_area, &place, note_surplus, &surplus);
		for (int i = 0; i < surplus.n &&
			 amt_table_used(&entries->table) > (uint32) cache_size; i++)
			(void) amt_table_remove(&entries->table, amt_area, surplus.tag[i], is_evictable);
	}
}

typedef struct SumArg
{
	Oid			database;
	AmtEntrySums *sums;
} SumArg;

static bool
sum_entry(AmtSlot *slot, void *arg)
{
	SumArg	   *sum = arg;
	Entry	   *entry = (Entry *) slot;

	if (!OidIsValid(sum->database) || entry->database == sum->database)
	{
		sum->sums->unwritten += unwritten(entry);
		sum->sums->counted += pg_atomic_read_u64(&entry->counted);
		sum->sums->proved += PROVED(entry) ? 1 : 0;
	}
	return true;
}

void
amt_entry_sum(Oid database, AmtEntrySums *sums)
{
	SumArg		sum = {database, sums};
	uint32		place = 0;

	memset(sums, 0, sizeof(AmtEntrySums));
	(void) amt_table_scan(&entries->table, amt_area, &place, sum_entry, &sum);
}
