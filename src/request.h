/*
 * request.h
 *	  What PostgREST hands over of a request: its headers and its JWT's claims.
 */
#ifndef AMT_REQUEST_H
#define AMT_REQUEST_H

#include "identity.h"

typedef enum AmtFound
{
	AMT_FOUND_NOTHING,
	AMT_FOUND_VALUE,
	AMT_FOUND_GARBAGE			/* something, but not what it should be */
} AmtFound;

/*
 * The memory that holds copies of the request's token.  It must be closed, after
 * an error too, and wipes them then.
 */
typedef struct AmtRequestMemory
{
	MemoryContext context;
	MemoryContext outer;
	char	   *start;
	Size		size;
} AmtRequestMemory;

extern void amt_request_init(void);

extern void amt_request_open(AmtRequestMemory *memory);
extern void amt_request_close(AmtRequestMemory *memory);

/*
 * The token that the headers carry.  *beside_jwt says whether a Bearer token that
 * is not ours comes with it.
 */
extern AmtFound amt_request_token(const char **s, Size *len, bool *beside_jwt);

/*
 * Have a person's claims come with the request?  Without a JWT PostgREST sets
 * claims that hold nothing but the anonymous role.
 */
extern bool amt_request_has_persons_claims(void);

/* The claims as an identity; false if they are none.  A DEBUG1 message says why. */
extern bool amt_request_identity(AmtIdentity *identity);

/* Empty the claims until the end of the transaction. */
extern void amt_request_empty_claims(void);

#endif							/* AMT_REQUEST_H */
