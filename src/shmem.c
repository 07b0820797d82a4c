/*
 * shmem.c
 *	  The shared memory of the extension, one for the whole server.
 *
 * Nothing has to be preloaded, so the first process that needs shared memory
 * makes it.  A segment of fixed size holds all registered parts.  An area of
 * dynamic shared memory holds what grows.  The segment comes from the
 * registry of named segments where the version has one, else from the main
 * segment's spare memory.  Its name carries a layout number and its size.
 * So a library of another layout, loaded after an upgrade, never shares it.
 *
 * Locks.  `GetNamedDSMSegment()` holds a lock while we initialize the
 * segment, so the init functions must not fail.  (Before 17 we hold
 * AddinShmemInitLock ourselves.)  The segment's lock guards the creation of
 * the area.  No other lock of ours may be held meanwhile.  After an error,
 * the rollback in attempt.c releases it.
 *
 * Any step may fail.  The caller then goes on without shared memory: keys
 * are verified by scrypt, and calls are not counted.  The log says so once
 * per process, and later calls try again after a while.
 */
#include "postgres.h"

#include "access/xact.h"
#include "miscadmin.h"
#include "storage/ipc.h"
#include "utils/memutils.h"
#include "utils/timestamp.h"

#include "attempt.h"
#include "compat.h"
#include "elapsed.h"
#include "shmem.h"

/* Must be changed when anything in shared memory changes its meaning. */
#define AMT_SHMEM_LAYOUT	2

#define MAX_PARTS			8
#define RETRY_AFTER_MS		10000

typedef struct SegmentHeader
{
	LWLock		lock;			/* guards "area" while it is being created */
	int			lock_tranche;	/* constant after initialization */
	int			table_tranche;	/* constant after initialization */
	int			area_tranche;	/* constant after initialization */
	dsa_handle	area;			/* DSM_HANDLE_INVALID until it is created */
} SegmentHeader;

dsa_area   *amt_area = NULL;

static const AmtShmemPart *parts[MAX_PARTS];
static int	nparts = 0;
static bool attached = false;

/*
 * Random bytes for a new segment.  They are drawn before its initialization,
 * which must not fail.
 */
static uint8 fresh_random[AMT_SHMEM_RANDOM];

void
amt_shmem_register(const AmtShmemPart *part)
{
	Assert(nparts < MAX_PARTS);
	parts[nparts++] = part;
}

static Size
segment_size(void)
{
	Size		size = MAXALIGN(sizeof(SegmentHeader));

	for (int i = 0; i < nparts; i++)
		size += CACHELINEALIGN(parts[i]->size);
	return size + PG_CACHE_LINE_SIZE;
}

static void *
part_address(SegmentHeader *header, int n)
{
	char	   *address = (char *) CACHELINEALIGN((char *) header + sizeof(SegmentHeader));

	for (int i = 0; i < n; i++)
		address += CACHELINEALIGN(parts[i]->size);
	return address;
}

static void
init_segment(void *segment)
{
	SegmentHeader *header = segment;
	AmtShmemInit init;

	memset(header, 0, segment_size());
	header->lock_tranche = amt_new_tranche("AmtKeys");
	header->table_tranche = amt_new_tranche("AmtKeysTable");
	header->area_tranche = amt_new_tranche("AmtKeysMemory");
	LWLockInitialize(&header->lock, header->lock_tranche);
	header->area = DSM_HANDLE_INVALID;

	init.lock_tranche = header->lock_tranche;
	init.table_tranche = header->table_tranche;
	memcpy(init.random, fresh_random, sizeof(init.random));
	for (int i = 0; i < nparts; i++)
		parts[i]->init(part_address(header, i), &init);
	explicit_bzero(&init, sizeof(init));
}

static dsa_area *
get_area(SegmentHeader *header)
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

typedef struct Attachment
{
	SegmentHeader *header;
	dsa_area   *area;
} Attachment;

/*
 * Get segment and area; may raise an error.  Both stay mapped, even if the
 * attempt fails afterwards.
 */
static void
attach(void *arg)
{
	MemoryContext oldcontext = MemoryContextSwitchTo(TopMemoryContext);
	Attachment *attachment = arg;
	SegmentHeader *header;
	char		name[NAMEDATALEN];

	snprintf(name, sizeof(name), "amt_keys %d %zu", AMT_SHMEM_LAYOUT, segment_size());
	if (!pg_strong_random(fresh_random, sizeof(fresh_random)))
		ereport(ERROR,
				(errcode(ERRCODE_INTERNAL_ERROR),
				 errmsg("could not generate random bytes")));
	header = amt_get_segment(name, segment_size(), init_segment);
	explicit_bzero(fresh_random, sizeof(fresh_random));
	amt_name_tranche(header->lock_tranche, "AmtKeys");
	amt_name_tranche(header->table_tranche, "AmtKeysTable");
	amt_name_tranche(header->area_tranche, "AmtKeysMemory");
	attachment->header = header;
	attachment->area = get_area(header);
	MemoryContextSwitchTo(oldcontext);
}

static void
report_failure(ErrorData *error)
{
	static bool reported = false;

	if (!reported)
		ereport(LOG_SERVER_ONLY,
				(errcode(ERRCODE_INSUFFICIENT_RESOURCES),
				 errmsg("amt_keys has no shared memory: keys are verified by scrypt at each call, and calls are not counted"),
				 errdetail("%s", error->message),
				 errhint("Add amt_keys to \"shared_preload_libraries\" to reserve the memory at server start.")));
	reported = true;
}

bool
amt_shmem_attach(void)
{
	static TimestampTz failed_at = 0;
	static Attachment attachment = {0};
	ErrorData  *error;

	if (likely(attached))
		return true;
	if (IsInParallelMode())
		return false;			/* no subtransaction can be started there */
	if (failed_at != 0 && !amt_elapsed(failed_at, GetCurrentTimestamp(), RETRY_AFTER_MS))
		return false;

	error = attachment.area == NULL ? amt_attempt(attach, &attachment) : NULL;
	if (error != NULL)
	{
		failed_at = GetCurrentTimestamp();
		report_failure(error);
		FreeErrorData(error);
		return false;
	}
	amt_area = attachment.area;
	for (int i = 0; i < nparts; i++)
		parts[i]->attached(part_address(attachment.header, i));
	attached = true;
	return true;
}

#ifndef AMT_HAVE_DSM_REGISTRY

static shmem_request_hook_type prev_shmem_request_hook = NULL;

static void
request_segment(void)
{
	if (prev_shmem_request_hook)
		prev_shmem_request_hook();
	RequestAddinShmemSpace(MAXALIGN(segment_size()));
}

#endif

void
amt_shmem_init(void)
{
#ifndef AMT_HAVE_DSM_REGISTRY
	if (process_shared_preload_libraries_in_progress)
	{
		prev_shmem_request_hook = shmem_request_hook;
		shmem_request_hook = request_segment;
	}
#endif
}
