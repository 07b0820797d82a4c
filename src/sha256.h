/*
 * sha256.h
 *	  SHA-256, by OpenSSL.
 */
#ifndef AMT_SHA256_H
#define AMT_SHA256_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#define AMT_SHA256_LEN	32

/* Digest the bytes; false if OpenSSL fails. */
extern bool amt_sha256(const void *bytes, size_t len, uint8_t digest[AMT_SHA256_LEN]);

#endif							/* AMT_SHA256_H */
