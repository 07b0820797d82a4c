/*
 * attempt.h
 *	  Run something that may fail without the caller failing.
 */
#ifndef AMT_ATTEMPT_H
#define AMT_ATTEMPT_H

/*
 * Run body(arg) in a subtransaction of its own.  Returns NULL if it succeeded,
 * else the error that it raised, allocated in the caller's memory context.
 * Cancellation and termination are raised again.  Must not be called in
 * parallel mode.
 */
extern ErrorData *amt_attempt(void (*body) (void *), void *arg);

#endif							/* AMT_ATTEMPT_H */
