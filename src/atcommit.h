/*
 * atcommit.h
 *	  What happens to shared memory when the current transaction commits.
 */
#ifndef AMT_ATCOMMIT_H
#define AMT_ATCOMMIT_H

#include "cache.h"

extern void amt_at_commit_init(void);

/* Enter this into the cache: the key will be there for others then. */
extern void amt_at_commit_warm(AmtTag key_tag, const AmtCacheEntry *entry);

/*
 * Forget what is cached and counted of the key: it will be gone then, or it is
 * a new one, and that is about another that had its id.
 */
extern void amt_at_commit_forget(AmtTag key_tag, bool is_new);

#endif							/* AMT_ATCOMMIT_H */
