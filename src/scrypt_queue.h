/*
 * scrypt_queue.h
 *	  Which processes may run scrypt now.
 */
#ifndef AMT_SCRYPT_QUEUE_H
#define AMT_SCRYPT_QUEUE_H

#define AMT_SCRYPT_PLACES	64	/* the most that max_concurrent_scrypt can be */

extern void amt_scrypt_queue_init(void);

/*
 * Take a place to run scrypt for that key and stored hash.  False means that
 * the caller waited: it must read the row again and may call again.  Without
 * shared memory there is no queue, and the result is true.
 *
 * Only one process at once may be in a costly run.
 */
extern bool amt_scrypt_enter(uint64 tag, bool costly);

/* Leave the place, if this process has one.  Never fails. */
extern void amt_scrypt_leave(void);

#endif							/* AMT_SCRYPT_QUEUE_H */
