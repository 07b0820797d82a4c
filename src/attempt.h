/*
 * attempt.h
 *	  Something that may fail without the caller failing.
 */
#ifndef AMT_ATTEMPT_H
#define AMT_ATTEMPT_H

/*
 * Run body(arg) in a subtransaction of its own.  NULL if it succeeded, else
 * the error that it raised, allocated in the caller's memory context.
 * Cancellation and termination are passed on as errors, never answered.
 */
extern ErrorData *amt_attempt(void (*body) (void *), void *arg);

/*
 * Run body() where no error may be raised, as in a transaction's end callbacks.
 * It must be fit to be left half done.  An error is only logged.
 */
extern void amt_shield(void (*body) (void));

#endif							/* AMT_ATTEMPT_H */
