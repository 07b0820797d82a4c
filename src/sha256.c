/*
 * sha256.c
 *	  SHA-256, by OpenSSL.
 *
 * OpenSSL 3 takes longer to fetch the algorithm than to digest a short text.
 * So we fetch it once per process.  We reset the context after each digest,
 * which wipes the last block.
 */
#include "postgres.h"

#include <openssl/err.h>
#include <openssl/evp.h>

#include "sha256.h"

void
amt_sha256(const void *bytes, Size len, uint8 digest[AMT_SHA256_LEN])
{
	static EVP_MD *algorithm = NULL;
	static EVP_MD_CTX *context = NULL;

	if (algorithm == NULL)
		algorithm = EVP_MD_fetch(NULL, "SHA256", NULL);
	if (context == NULL)
		context = EVP_MD_CTX_new();
	if (algorithm == NULL || context == NULL ||
		EVP_DigestInit_ex(context, algorithm, NULL) != 1 ||
		EVP_DigestUpdate(context, bytes, len) != 1 ||
		EVP_DigestFinal_ex(context, digest, NULL) != 1)
	{
		ERR_clear_error();
		ereport(ERROR,
				(errcode(ERRCODE_OUT_OF_MEMORY),
				 errmsg("could not compute SHA-256"),
				 errdetail("OpenSSL did not get memory, or its provider has no SHA-256.")));
	}
	EVP_MD_CTX_reset(context);
}
