/*
 * shmem.h
 *	  The shared memory of the extension, one for the whole server.
 */
#ifndef AMT_SHMEM_H
#define AMT_SHMEM_H

#include "utils/dsa.h"

#define AMT_SHMEM_RANDOM	48

/* Values for the initialization of a part. */
typedef struct AmtShmemInit
{
	int			lock_tranche;	/* for locks outside of hash tables */
	int			table_tranche;	/* for the locks of hash tables */
	uint8		random[AMT_SHMEM_RANDOM];	/* drawn once per server start */
} AmtShmemInit;

/* A part of the fixed-size segment.  Each file that needs one registers it. */
typedef struct AmtShmemPart
{
	Size		size;
	void		(*init) (void *part, const AmtShmemInit *init); /* must not fail */
	void		(*attached) (void *part);	/* in each process, once */
} AmtShmemPart;

/*
 * Register a part while the library is being loaded, always in the same
 * order.
 */
extern void amt_shmem_register(const AmtShmemPart *part);

/*
 * After all parts are registered: before 17, reserve the memory if the
 * library is preloaded.
 */
extern void amt_shmem_init(void);

/*
 * Attach this process, unless it is attached.  Returns false if there is no
 * shared memory, or if the first call is made in parallel mode.  The first
 * call must be made in a transaction.
 */
extern bool amt_shmem_attach(void);

/* The area for memory that grows; valid once attached. */
extern dsa_area *amt_area;

#endif							/* AMT_SHMEM_H */
