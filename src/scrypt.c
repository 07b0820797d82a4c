/*
 * scrypt.c
 *	  One run of scrypt, by OpenSSL, within the memory that its parameters
 *	  need.
 *
 * EVP_PBE_scrypt() takes its working memory (16 MiB by our defaults) from
 * malloc.  It wipes and frees the memory before it returns, so an error
 * around it leaks nothing.  It cannot be interrupted, so the caller must
 * limit how many processes run it.
 *
 * OpenSSL's default limit of 32 MiB would refuse even ln=15, so we pass our
 * own.  OpenSSL takes 128 r (N + p + 2) bytes: the table, two scratch blocks
 * and p blocks.  As r p is limited, that is at most 48 MiB more than the
 * textbook's 128 N r p.
 */
#include "scrypt.h"

#include <openssl/crypto.h>
#include <openssl/err.h>
#include <openssl/evp.h>

/* Added to the amount that OpenSSL takes today. */
#define MEMORY_SLACK	((uint64_t) 1 << 20)

static bool
derive(const char *secret, size_t len, const AmtPhc *phc, uint8_t *hash)
{
	uint64_t	n;
	uint64_t	r = (uint64_t) phc->r;
	uint64_t	p = (uint64_t) phc->p;

	if (!amt_scrypt_params_ok(phc->ln, phc->r, phc->p))
		return false;
	n = (uint64_t) 1 << phc->ln;
	if (EVP_PBE_scrypt(secret, len, phc->salt, phc->salt_len, n, r, p,
					   128 * r * (n + p + 2) + MEMORY_SLACK,
					   hash, phc->hash_len) == 1)
		return true;

	/* OpenSSL queues errors per thread: its next user would see ours. */
	ERR_clear_error();
	return false;
}

bool
amt_scrypt_hash(const char *secret, size_t len, AmtPhc *phc)
{
	return derive(secret, len, phc, phc->hash);
}

AmtScryptResult
amt_scrypt_check(const char *secret, size_t len, const AmtPhc *phc)
{
	uint8_t		hash[AMT_HASH_MAX];
	AmtScryptResult result = AMT_SCRYPT_FAILED;

	if (derive(secret, len, phc, hash))
		result = CRYPTO_memcmp(hash, phc->hash, phc->hash_len) == 0 ?
			AMT_SCRYPT_MATCH : AMT_SCRYPT_MISMATCH;
	OPENSSL_cleanse(hash, sizeof(hash));
	return result;
}
