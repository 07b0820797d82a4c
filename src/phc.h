/*
 * phc.h
 *	  scrypt hashes as PHC strings: $scrypt$ln=14,r=8,p=1$<salt>$<hash>
 */
#ifndef AMT_PHC_H
#define AMT_PHC_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#define AMT_SALT_LEN		16	/* bytes that we write */
#define AMT_HASH_LEN		32
#define AMT_SALT_MAX		64	/* bytes that we accept */
#define AMT_SALT_MIN		8
#define AMT_HASH_MAX		64
#define AMT_HASH_MIN		16
#define AMT_PHC_MAX			256 /* room for any string and its NUL */

/* The most memory that one run of scrypt may take: 128 * 2^ln * r * p. */
#define AMT_SCRYPT_MEMORY_MAX	((uint64_t) 1 << 30)

/*
 * The most r * p.  PBKDF2 works on so many blocks, however small N is: a
 * second or two at the most.
 */
#define AMT_SCRYPT_BLOCKS_MAX	(1 << 17)

typedef struct AmtPhc
{
	int			ln;				/* log2 of N */
	int			r;				/* block size */
	int			p;				/* parallelization */
	size_t		salt_len;
	size_t		hash_len;
	uint8_t		salt[AMT_SALT_MAX];
	uint8_t		hash[AMT_HASH_MAX];
} AmtPhc;

/*
 * May scrypt run with these parameters?  Each must be at least 1, and 2^ln
 * below 2^(16 r), as scrypt requires.  The products must be within
 * AMT_SCRYPT_MEMORY_MAX and AMT_SCRYPT_BLOCKS_MAX.  Any values can be passed: nothing overflows.
 */
extern bool amt_scrypt_params_ok(int64_t ln, int64_t r, int64_t p);

/* Parse a string; false unless it is canonical and usable. */
extern bool amt_phc_parse(const char *s, size_t len, AmtPhc *phc);

/* Write a string, NUL-terminated.  Returns its length. */
extern size_t amt_phc_format(const AmtPhc *phc, char out[AMT_PHC_MAX]);

#endif							/* AMT_PHC_H */
