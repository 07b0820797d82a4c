/*
 * scrypt.h
 *	  One run of scrypt, by OpenSSL, within the memory that its parameters need.
 */
#ifndef AMT_SCRYPT_H
#define AMT_SCRYPT_H

#include "phc.h"

typedef enum AmtScryptResult
{
	AMT_SCRYPT_MATCH,			/* the secret belongs to the hash */
	AMT_SCRYPT_MISMATCH,		/* the secret does not belong to the hash */
	AMT_SCRYPT_FAILED			/* OpenSSL could not run it (memory, FIPS) */
} AmtScryptResult;

/*
 * Fill phc->hash (phc->hash_len bytes) from the secret and phc's salt and
 * parameters.
 */
extern bool amt_scrypt_hash(const char *secret, size_t len, AmtPhc *phc);

/* Run scrypt over the secret as phc says, and compare in constant time. */
extern AmtScryptResult amt_scrypt_check(const char *secret, size_t len, const AmtPhc *phc);

#endif							/* AMT_SCRYPT_H */
