/*
 * entry.c
 *	  Keys in use: the proof of a key's secret, and its calls.
 *
 * One entry in shared memory has both.  It belongs to a key with a certain
 * stored hash: database, table, key id, and a tag of the hash, the
 * organization and the role.  The proof (mac.c) is a MAC of database, table,
 * id, stored hash and secret.  The caller has just read the row.  An entry
 * with another tag therefore proves nothing to it.  So no process has to
 * invalidate an entry.
 *
 * Backends count calls here.  The worker of the database (writer.c) writes
 * them, and only it sets "base" and "written".  An entry may make room for
 * another when written = counted.  A new entry of the same key has a new
 * serial.  doc/internals.md lists the states, and the process that may
 * change each field.  The names in brackets are labels of the model in
 * test/model.
 *
 * Locks: see hashtable.c.  To count, a process must hold a partition's lock
 * shared, and add atomically.  For any other change of an entry it must hold
 * the lock exclusively, except of the hint `recent`.
 */
#include "postgres.h"

#include "access/xact.h"
#include "common/hashfn.h"
#include "miscadmin.h"
#include "utils/guc.h"
#include "utils/timestamp.h"

#include "attempt.h"
#include "compat.h"
#include "elapsed.h"
#include "entry_private.h"
#include "stat.h"

#define GROW_AGAIN_MS		1000
#define MAX_TRIES			10

Entries    *amt_entries = NULL;
int			amt_cache_size = 65536;

static void
init_entries(void *part, const AmtShmemInit *init)
{
	Entries    *new = part;

	memcpy(new->seed, init->random, sizeof(new->seed));
	memcpy(new->mac_key, init->random + sizeof(new->seed), AMT_MAC_KEY_LEN);
	pg_atomic_init_u64(&new->serials, 0);
	amt_table_init(&new->table, sizeof(Entry), init->table_tranche);
}

StaticAssertDecl(sizeof(((Entries *) 0)->seed) + AMT_MAC_KEY_LEN == AMT_SHMEM_RANDOM,
				 "all random bytes are used");

static void
attach_entries(void *part)
{
	amt_entries = part;
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
							&amt_cache_size,
							65536, 0, AMT_TABLE_MAX_SLOTS,
							PGC_SIGHUP, 0, NULL, NULL, NULL);
}

/*
 * The table's memory that this process mapped last.  Mapping may fail, so we
 * map before we take a lock.
 */
static dsa_pointer mapped = InvalidDsaPointer;

static void
map_table(void *arg)
{
	mapped = amt_table_map(&amt_entries->table, amt_area);
}

bool
amt_entry_attach(void)
{
	static bool reported = false;
	ErrorData  *error;

	if (!amt_shmem_attach())
		return false;
	if (likely(*(volatile dsa_pointer *) &amt_entries->table.memory == mapped))
		return true;
	if (IsInParallelMode())
		return false;
	error = amt_attempt(map_table, NULL);
	if (error == NULL)
		return true;
	if (!reported)
		ereport(LOG_SERVER_ONLY,
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
	return amt_cache_size > 0;
}

uint64
amt_entry_hash(const void *stored, Size len, const char *org_id, Size org_id_len,
			   const char *role, Size role_len)
{
	uint64		hash = hash_bytes_extended(stored, len, amt_entries->seed[0]);

	hash = hash_bytes_extended((const unsigned char *) org_id, org_id_len, hash);
	return hash_bytes_extended((const unsigned char *) role, role_len, hash);
}

uint64
amt_entry_tag_of(const AmtKey *key)
{
	Size		len;
	const char *stored = amt_key_stored_hash(key, &len);
	text	   *org_id = DatumGetTextPP(AmtKeyValue(key, org_id));
	text	   *role = DatumGetTextPP(AmtKeyValue(key, role));
	uint64		hash = amt_entry_hash(stored, len, VARDATA_ANY(org_id), VARSIZE_ANY_EXHDR(org_id),
									  VARDATA_ANY(role), VARSIZE_ANY_EXHDR(role));
	Size		id_len;
	const char *id;

	if (!AmtKeyIsNull(key, scrypt_hash))
		return hash;
	id = amt_key_id_of(key, &id_len);
	return hash_bytes_extended((const unsigned char *) id, id_len, hash);
}

/* The tag of a key of a table in this database. */
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
	tag.lo = hash_bytes_extended((unsigned char *) &key, key_len, amt_entries->seed[0]);
	tag.hi = hash_bytes_extended((unsigned char *) &key, key_len, amt_entries->seed[1]);
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

/*
 * Initialize the entry for the key with that stored hash.  Unwritten calls
 * of an earlier key with the same id are dropped.
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
	pg_atomic_write_u64(&entry->counted, 0);
	pg_atomic_write_u64(&entry->used_at, (uint64) DT_NOBEGIN);
	entry->serial = pg_atomic_add_fetch_u64(&amt_entries->serials, 1);
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
	amt_table_grow(&amt_entries->table, amt_area, *(uint32 *) arg);
	map_table(NULL);
}

/* Grow the table; false if that failed now or a moment ago. */
static bool
make_room(uint32 nslots)
{
	static TimestampTz failed_at = 0;
	static bool reported = false;
	ErrorData  *error;

	if (IsInParallelMode() ||
		(failed_at != 0 && !amt_elapsed(failed_at, GetCurrentTimestamp(), GROW_AGAIN_MS)))
		return false;
	error = amt_attempt(grow_table, &nslots);
	failed_at = 0;
	if (error == NULL)
		return true;
	failed_at = GetCurrentTimestamp();
	if (!reported)
		ereport(LOG_SERVER_ONLY,
				(errcode(error->sqlerrcode),
				 errmsg("amt_keys could not get shared memory for more keys: %s", error->message),
				 errdetail("Where no other key makes room, keys are verified by scrypt each time, and their calls are not counted.")));
	reported = true;
	FreeErrorData(error);
	return false;
}

/*
 * Find or make the entry of the key with that stored hash, locked
 * exclusively.  An entry about another hash is replaced if all its calls are
 * written, or if its serial is *other.  Otherwise sets *other to its serial,
 * and returns NULL without a lock.  If there is no memory, returns NULL and
 * *other is 0.
 */
static Entry *
add_entry(const AmtKeyRef *ref, uint64 hash_tag, uint64 *other)
{
	uint32		limit = Max(amt_cache_size, 1);
	uint64		replaceable = *other;

	*other = 0;
	for (int tries = 0; tries < MAX_TRIES; tries++)
	{
		bool		added;
		uint32		nslots;
		Entry	   *entry = (Entry *) amt_table_add(&amt_entries->table, amt_area, ref->tag, limit,
													is_evictable, &added, &nslots);

		if (entry != NULL)
		{
			bool		is_ours = !added && entry->hash_tag == hash_tag;

			if (!is_ours && (added || entry->serial == replaceable || unwritten(entry) == 0))
			{
				reset_entry(entry, ref, hash_tag, added);
				is_ours = true;
			}
			if (is_ours)
				return entry;
			*other = entry->serial;
			unlock_entry(ref->tag);
			return NULL;
		}
		/* Other processes may take the room that we make. */
		if (!make_room(nslots))
		{
			/* Without more memory, another entry must make room. */
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
	uint64		other = 0;
	Entry	   *entry = add_entry(ref, proof->hash_tag, &other);

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

/* Set the time first: a process that sees the call must see its time. */
static void
add_call(Entry *entry, TimestampTz at)
{
	advance(&entry->used_at, at);
	pg_atomic_fetch_add_u64(&entry->counted, 1);
}

/* [C] */
bool
amt_entry_count(const AmtKeyRef *ref, uint64 hash_tag, TimestampTz at, uint64 *other)
{
	Entry	   *entry = lock_entry(ref->tag, LW_SHARED);
	bool		counted = entry != NULL && entry->hash_tag == hash_tag;

	if (likely(counted))
		add_call(entry, at);
	unlock_entry(ref->tag);
	if (likely(counted))
		return true;

	entry = add_entry(ref, hash_tag, other);
	if (entry == NULL)
		return false;
	add_call(entry, at);
	unlock_entry(ref->tag);
	return true;
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
		pg_read_barrier();		/* see add_call() */
		count->used_at = (TimestampTz) pg_atomic_read_u64(&entry->used_at);
	}
	unlock_entry(ref->tag);
}

static bool
forget_proof(AmtSlot *slot, void *arg)
{
	LWLock	   *lock = &amt_entries->table.partition[slot->tag.lo % AMT_TABLE_PARTITIONS].lock;

	LWLockAcquire(lock, LW_EXCLUSIVE);
	PROVED((Entry *) slot) = false;
	LWLockRelease(lock);
	return true;
}

void
amt_entry_forget_proofs(void)
{
	uint32		place = 0;

	(void) amt_table_scan(&amt_entries->table, amt_area, &place, forget_proof, NULL);
}
