/*
 * request.h
 *	  The headers and JWT claims of a PostgREST request.
 */
#ifndef AMT_REQUEST_H
#define AMT_REQUEST_H

#include "identity.h"

typedef enum AmtFound
{
	AMT_FOUND_NOTHING,
	AMT_FOUND_VALUE,
	AMT_FOUND_GARBAGE			/* present, but of the wrong form */
} AmtFound;

/*
 * Memory for copies of the request's token.  It must be closed, even after
 * an error; that wipes the copies.
 */
typedef struct AmtRequestMemory
{
	MemoryContext context;
	MemoryContext outer;		/* the context to return to */
	char	   *start;			/* where the copies begin, in the context's
								 * block */
	Size		size;			/* of the context's block */
} AmtRequestMemory;

extern void amt_request_init(void);

extern void amt_request_open(AmtRequestMemory *memory);
extern void amt_request_close(AmtRequestMemory *memory);

/*
 * The token in the headers.  *beside_jwt says whether a Bearer token that is
 * not ours comes with it.
 */
extern AmtFound amt_request_token(const char **s, Size *len, bool *beside_jwt);

/*
 * Does the request have a person's claims?  Without a JWT, PostgREST sets
 * claims with the anonymous role only.
 */
extern bool amt_request_has_persons_claims(void);

/*
 * The claims as an identity; false if they give none.  A DEBUG1 message says
 * why.  The user, or a role that it can become, must have set them.
 */
extern bool amt_request_identity(AmtIdentity *identity, Oid user);

/* Empty the claims until the end of the transaction. */
extern void amt_request_empty_claims(void);

#endif							/* AMT_REQUEST_H */
