/*
 * sha256.c
 *	  SHA-256, by OpenSSL.
 *
 * OpenSSL 3 takes longer to fetch the algorithm than to digest a short text.
 * So we fetch it once per process.  We reset the context after each digest,
 * which wipes the last block.
 */
#include "sha256.h"

#include <openssl/err.h>
#include <openssl/evp.h>

bool
amt_sha256(const void *bytes, size_t len, uint8_t digest[AMT_SHA256_LEN])
{
	static EVP_MD *algorithm = NULL;
	static EVP_MD_CTX *context = NULL;

	if (algorithm == NULL)
		algorithm = EVP_MD_fetch(NULL, "SHA256", NULL);
	if (context == NULL)
		context = EVP_MD_CTX_new();
	if (algorithm != NULL && context != NULL &&
		EVP_DigestInit_ex(context, algorithm, NULL) == 1 &&
		EVP_DigestUpdate(context, bytes, len) == 1 &&
		EVP_DigestFinal_ex(context, digest, NULL) == 1)
	{
		EVP_MD_CTX_reset(context);
		return true;
	}
	ERR_clear_error();
	return false;
}
