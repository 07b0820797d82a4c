/*
 * attempt.h
 *	  Run a function that may raise an error, and go on.
 */
#ifndef AMT_ATTEMPT_H
#define AMT_ATTEMPT_H

/*
 * Run body(arg) in a subtransaction.  Returns NULL, or the error that it
 * raised, in the caller's memory context.  Cancellation and termination are
 * raised again.  Must not be called in parallel mode.
 */
extern ErrorData *amt_attempt(void (*body) (void *), void *arg);

#endif							/* AMT_ATTEMPT_H */
