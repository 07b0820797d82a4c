/*
 * shmem.h
 *	  The shared memory of the extension, one for the whole server.
 */
#ifndef AMT_SHMEM_H
#define AMT_SHMEM_H

#include "utils/dsa.h"

#define AMT_SHMEM_RANDOM	48

/* What a part is initialized with. */
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

/* Register a part while the library is loaded; always in the same order. */
extern void amt_shmem_register(const AmtShmemPart *part);

/* After all parts are registered: reserve the memory if we are preloaded. */
extern void amt_shmem_init(void);

/*
 * Attach this process, the first time it is called.  Returns false if there is
 * no shared memory.  The first call in a process must be made in a transaction,
 * and not in parallel mode.
 */
extern bool amt_shmem_attach(void);

/* The area for memory that grows; valid once attached. */
extern dsa_area *amt_area;

#endif							/* AMT_SHMEM_H */
