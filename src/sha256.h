/*
 * sha256.h
 *	  SHA-256, by OpenSSL.
 */
#ifndef AMT_SHA256_H
#define AMT_SHA256_H

#define AMT_SHA256_LEN	32

/* Digest the bytes.  Raises 53200 if OpenSSL fails. */
extern void amt_sha256(const void *bytes, Size len, uint8 digest[AMT_SHA256_LEN]);

#endif							/* AMT_SHA256_H */
