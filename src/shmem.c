/*
 * shmem.c
 *	  The shared memory of the extension, one for the whole server.
 *
 * Nothing has to be preloaded, so it is made by the first process that wants
 * it: a header of fixed size (from the registry of named segments where the
 * version has one, else from what the server's main shared memory has left),
 * and an area of dynamic shared memory for the two tables that grow.  The
 * header's name carries a layout number and sizes, so a library of another
 * layout, loaded after a package upgrade, never shares it.
 *
 * Locks.  Whoever comes first initializes the header under the lock of the
 * facility that it comes from; once that has the memory, nothing fails (but for
 * one tranche of locks too many, where the version has a limit to them).  The
 * header's constants are read without a lock.  The area is created, or attached
 * to, under the header's own lock, which is held with no other of ours; that
 * allocates and may fail, and the subtransaction around it (attempt.c) then
 * releases the lock.  Both stay until the server stops; after a crash the
 * postmaster starts without them.
 *
 * Getting the memory can fail at any step.  Then the caller does without, which
 * is slower but right, the log says so once per process, and later calls try
 * again after a while.  The same holds if a table was moved by another process and
 * cannot be mapped here: that is found out, by a glance without a lock, before a
 * call begins.  (Some releases' registry refuses a name for ever once it could not
 * make the segment, and an area a segment that it could not map, until the table is
 * moved again.)
 */
#include "postgres.h"

#include "access/xact.h"
#include "common/hashfn.h"
#include "miscadmin.h"
#include "storage/ipc.h"
#include "utils/memutils.h"
#include "utils/timestamp.h"

#include "attempt.h"
#include "cache.h"
#include "compat.h"
#include "elapsed.h"
#include "shmem.h"
#include "token.h"
#include "usage.h"

#define RETRY_AFTER_MS	10000
#define RESIZE_AGAIN_MS	1000

AmtShared  *amt_shared = NULL;
dsa_area   *amt_area = NULL;

/*
 * Random bytes for a new header, drawn before the facility registers its name:
 * nothing may fail between that and the end of the initialization.
 */
static struct
{
	uint8		mac_key[AMT_MAC_KEY_LEN];
	uint64		seed[2];
}			fresh;

static void
init_header(void *segment)
{
	AmtShared  *header = segment;

	memset(header, 0, sizeof(AmtShared));
	memcpy(header->mac_key, fresh.mac_key, sizeof(header->mac_key));
	memcpy(header->seed, fresh.seed, sizeof(header->seed));
	header->lock_tranche = amt_new_tranche("AmtKeys");
	header->table_tranche = amt_new_tranche("AmtKeysTable");
	header->area_tranche = amt_new_tranche("AmtKeysMemory");
	LWLockInitialize(&header->lock, header->lock_tranche);
	header->area = DSM_HANDLE_INVALID;
	pg_atomic_init_u64(&header->flushes, 0);
	pg_atomic_init_u64(&header->exits, 0);
	amt_table_init(&header->cache, AMT_CACHE_SLOT_SIZE, header->table_tranche);
	amt_table_init(&header->usage, AMT_USAGE_SLOT_SIZE, header->table_tranche);
	amt_scrypt_queue_init(&header->queue, header->lock_tranche);
	amt_workers_init(&header->workers, header->lock_tranche);
	amt_stats_init(&header->stats);
}

static dsa_area *
get_area(AmtShared *header)
{
	dsa_area   *area;

	LWLockAcquire(&header->lock, LW_EXCLUSIVE);
	if (header->area == DSM_HANDLE_INVALID)
	{
		area = dsa_create(header->area_tranche);
		dsa_pin(area);
		header->area = dsa_get_handle(area);
	}
	else
		area = dsa_attach(header->area);
	dsa_pin_mapping(area);
	LWLockRelease(&header->lock);
	return area;
}

/* What attach() finds. */
typedef struct Attached
{
	AmtShared  *header;
	dsa_area   *area;
} Attached;

static void
attach(void *arg)
{
	MemoryContext oldcontext = MemoryContextSwitchTo(TopMemoryContext);
	Attached   *attached = arg;
	AmtShared  *header;
	char		name[NAMEDATALEN];

	snprintf(name, sizeof(name), "amt_keys %d %zu %zu %zu", AMT_SHMEM_LAYOUT,
			 sizeof(AmtShared), AMT_CACHE_SLOT_SIZE, AMT_USAGE_SLOT_SIZE);
	if (!pg_strong_random(&fresh, sizeof(fresh)))
		ereport(ERROR,
				(errcode(ERRCODE_INTERNAL_ERROR),
				 errmsg("could not generate random bytes")));
	header = amt_get_segment(name, sizeof(AmtShared), init_header);
	explicit_bzero(&fresh, sizeof(fresh));
	amt_name_tranche(header->lock_tranche, "AmtKeys");
	amt_name_tranche(header->table_tranche, "AmtKeysTable");
	amt_name_tranche(header->area_tranche, "AmtKeysMemory");
	attached->area = get_area(header);
	attached->header = header;
	MemoryContextSwitchTo(oldcontext);
}

/* The tables' memory that was mapped last. */
static dsa_pointer mapped_cache = InvalidDsaPointer;
static dsa_pointer mapped_usage = InvalidDsaPointer;

static bool
tables_are_mapped(void)
{
	return *(volatile dsa_pointer *) &amt_shared->cache.memory == mapped_cache &&
		*(volatile dsa_pointer *) &amt_shared->usage.memory == mapped_usage;
}

static void
map_tables(void *arg)
{
	mapped_cache = amt_table_map(&amt_shared->cache, amt_area);
	mapped_usage = amt_table_map(&amt_shared->usage, amt_area);
}

bool
amt_shmem_attach(void)
{
	static TimestampTz failed_at = 0;
	static bool reported = false;
	Attached	attached;
	ErrorData  *error;

	if (likely(amt_shared != NULL && tables_are_mapped()))
		return true;
	if (amt_shared != NULL && IsInParallelMode())
		return true;			/* nothing can be attempted there */
	if (failed_at != 0 && !amt_elapsed(failed_at, GetCurrentTimestamp(), RETRY_AFTER_MS))
		return false;

	error = amt_shared == NULL ? amt_attempt(attach, &attached) : NULL;
	if (amt_shared == NULL && error == NULL)
	{
		amt_area = attached.area;
		amt_shared = attached.header;
		amt_stat_attached();
		amt_usage_attached();	/* last at exit: it may take a while */
		amt_scrypt_queue_attached();
	}
	if (error == NULL)
		error = amt_attempt(map_tables, NULL);
	if (error == NULL)
		return true;

	failed_at = GetCurrentTimestamp();
	if (!reported)
		ereport(LOG,
				(errcode(ERRCODE_INSUFFICIENT_RESOURCES),
				 errmsg("amt_keys has no shared memory: keys are verified by scrypt at each call, and calls are not counted"),
				 errdetail("%s", error->message),
				 errhint("Add amt_keys to \"shared_preload_libraries\" to reserve the memory at server start.")));
	reported = true;
	FreeErrorData(error);
	return false;
}

typedef struct ResizeRequest
{
	AmtTable   *table;
	uint32		before;
	uint32		nslots;
} ResizeRequest;

static void
resize(void *arg)
{
	ResizeRequest *request = arg;

	amt_table_resize(request->table, amt_area, request->before, request->nslots);
}

bool
amt_shmem_make_room(AmtTable *table, uint32 limit, uint32 more)
{
	static TimestampTz failed_at_of[2] = {0};
	TimestampTz *failed_at = &failed_at_of[table == &amt_shared->usage];
	ResizeRequest request;
	ErrorData  *error;

	request.table = table;
	request.nslots = amt_table_wants(table, limit, more, &request.before);
	if (request.nslots == 0)
		return true;
	if (*failed_at != 0 && !amt_elapsed(*failed_at, GetCurrentTimestamp(), RESIZE_AGAIN_MS))
		return false;			/* each failure costs */
	error = amt_attempt(resize, &request);
	*failed_at = 0;
	if (error == NULL)
		return true;
	*failed_at = GetCurrentTimestamp();
	FreeErrorData(error);
	return false;
}

uint64
amt_shmem_hash(const void *bytes, Size len)
{
	return hash_bytes_extended(bytes, len, amt_shared->seed[0]);
}

AmtTag
amt_shmem_key_tag(Oid table, const char *id, Size id_len)
{
	struct
	{
		Oid			database;
		Oid			table;
		char		id[AMT_ID_MAX];
	}			key;
	Size		len;
	AmtTag		tag;

	Assert(id_len <= AMT_ID_MAX);
	key.database = MyDatabaseId;
	key.table = table;
	memcpy(key.id, id, id_len);
	len = 2 * sizeof(Oid) + id_len;
	tag.lo = hash_bytes_extended((unsigned char *) &key, len, amt_shared->seed[0]);
	tag.hi = hash_bytes_extended((unsigned char *) &key, len, amt_shared->seed[1]);
	return tag;
}

#ifndef AMT_HAVE_DSM_REGISTRY

static shmem_request_hook_type prev_shmem_request_hook = NULL;

static void
request_header(void)
{
	if (prev_shmem_request_hook)
		prev_shmem_request_hook();
	RequestAddinShmemSpace(MAXALIGN(sizeof(AmtShared)));
}

#endif

/* Preloaded, reserve the header; otherwise it comes from what is left. */
void
amt_shmem_init(void)
{
#ifndef AMT_HAVE_DSM_REGISTRY
	if (process_shared_preload_libraries_in_progress)
	{
		prev_shmem_request_hook = shmem_request_hook;
		shmem_request_hook = request_header;
	}
#endif
}
