/*
 * shmem.h
 *	  The shared memory of the extension, one for the whole server.
 */
#ifndef AMT_SHMEM_H
#define AMT_SHMEM_H

#include "port/atomics.h"
#include "storage/lwlock.h"
#include "utils/dsa.h"

#include "scrypt_queue.h"
#include "stat.h"
#include "table.h"
#include "worker.h"

/*
 * Change it when what lies in shared memory changes its meaning; sizes are part
 * of the name anyway.
 */
#define AMT_SHMEM_LAYOUT	1

#define AMT_MAC_KEY_LEN		32

typedef struct AmtShared
{
	LWLock		lock;			/* guards "area" while it is being made */
	int			lock_tranche;	/* constant after initialization, like the
								 * next four */
	int			table_tranche;
	int			area_tranche;
	uint64		seed[2];		/* of tags */
	uint8		mac_key[AMT_MAC_KEY_LEN];	/* of the warm secrets' MACs; new
											 * at each server start, never on
											 * disk */
	dsa_handle	area;			/* what the tables are allocated in */
	pg_atomic_uint64 flushes;	/* see usage.c, like the next */
	pg_atomic_uint64 exits;
	AmtTable	cache;			/* see cache.c */
	AmtTable	usage;			/* see usage.c */
	AmtScryptQueue queue;		/* see scrypt_queue.c */
	AmtWorkers	workers;		/* see worker.c */
	AmtStats	stats;			/* see stat.c */
} AmtShared;

/*
 * Both are NULL until a call of amt_shmem_attach() has attached; afterwards it may
 * answer false all the same, if the tables cannot be mapped.
 */
extern AmtShared *amt_shared;
extern dsa_area *amt_area;

extern void amt_shmem_init(void);

/*
 * Is there shared memory?  The first call in a process must be in a
 * transaction, and neither in its end callbacks nor in parallel mode.
 */
extern bool amt_shmem_attach(void);

/* Let the table have room for so many more; false if memory runs out. */
extern bool amt_shmem_make_room(AmtTable *table, uint32 limit, uint32 more);

/* A seeded hash of these bytes, for what need not be told apart for sure. */
extern uint64 amt_shmem_hash(const void *bytes, Size len);

/* The tag that a key's slots are found by, in any of the tables. */
extern AmtTag amt_shmem_key_tag(Oid table, const char *id, Size id_len);

#endif							/* AMT_SHMEM_H */
