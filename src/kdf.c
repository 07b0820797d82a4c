/*
 * kdf.c
 *	  Hashing new secrets with the parameters that the settings give.
 *
 * The memory of one run bounds the three settings together.  Where they get
 * their values one by one, only the use checks them.  SET checks a value
 * against the other two.
 */
#include "postgres.h"

#include <openssl/crypto.h>

#include "access/parallel.h"
#include "miscadmin.h"
#include "utils/guc.h"

#include "kdf.h"
#include "scrypt.h"
#include "scrypt_queue.h"
#include "shmem.h"

#define DEFAULT_LN	14
#define DEFAULT_R	8
#define DEFAULT_P	1

static int	scrypt_ln = DEFAULT_LN;
static int	scrypt_r = DEFAULT_R;
static int	scrypt_p = DEFAULT_P;
static bool loading = true;

/* Loading, a login, a reload and a parallel worker set them one by one. */
static bool
check_params(int ln, int r, int p, GucSource source)
{
	if (loading || IsParallelWorker() || source < PGC_S_INTERACTIVE || amt_scrypt_params_ok(ln, r, p))
		return true;
	GUC_check_errdetail("ln=%d, r=%d, p=%d is beyond a limit: scrypt's own, 1 GiB for 128 * 2^ln * r * p bytes, or %d for r * p.",
						ln, r, p, AMT_SCRYPT_BLOCKS_MAX);
	GUC_check_errhint("Lower the other of \"amt_keys.scrypt_ln\", \"amt_keys.scrypt_r\" and \"amt_keys.scrypt_p\" first.");
	return false;
}

static bool
check_ln(int *newval, void **extra, GucSource source)
{
	return check_params(*newval, scrypt_r, scrypt_p, source);
}

static bool
check_r(int *newval, void **extra, GucSource source)
{
	return check_params(scrypt_ln, *newval, scrypt_p, source);
}

static bool
check_p(int *newval, void **extra, GucSource source)
{
	return check_params(scrypt_ln, scrypt_r, *newval, source);
}

void
amt_kdf_init(void)
{
	DefineCustomIntVariable("amt_keys.scrypt_ln",
							"Sets the binary logarithm of scrypt's cost N for new keys.",
							"One run takes 128 * 2^ln * r * p bytes, at most 1 GiB. Stored hashes keep their own.",
							&scrypt_ln, DEFAULT_LN, 1, 23,
							PGC_SUSET, 0, check_ln, NULL, NULL);
	DefineCustomIntVariable("amt_keys.scrypt_r",
							"Sets scrypt's block size r for new keys.",
							"See \"amt_keys.scrypt_ln\".",
							&scrypt_r, DEFAULT_R, 1, AMT_SCRYPT_BLOCKS_MAX,
							PGC_SUSET, 0, check_r, NULL, NULL);
	DefineCustomIntVariable("amt_keys.scrypt_p",
							"Sets scrypt's parallelization p for new keys.",
							"See \"amt_keys.scrypt_ln\".",
							&scrypt_p, DEFAULT_P, 1, AMT_SCRYPT_BLOCKS_MAX,
							PGC_SUSET, 0, check_p, NULL, NULL);
	loading = false;
}

/*
 * PBKDF2 takes as long for a block as the rest of scrypt with this N.  We
 * have measured 5 to 30, and count the most.
 */
#define PBKDF2_N	32

static uint64
cost(int ln, int r, int p)
{
	return (uint64) r * p * ((UINT64CONST(1) << ln) + PBKDF2_N);
}

bool
amt_kdf_is_costly(const AmtPhc *phc)
{
	return cost(phc->ln, phc->r, phc->p) >
		8 * Max(cost(DEFAULT_LN, DEFAULT_R, DEFAULT_P), cost(scrypt_ln, scrypt_r, scrypt_p));
}

/* Wait for a place in the queue, then run scrypt. */
static bool
hash_in_queue(const AmtToken *token, AmtPhc *phc)
{
	bool		done;
	uint64		tag;

	(void) amt_shmem_attach();
	memcpy(&tag, phc->salt, sizeof(tag));	/* random, so no other process has
											 * it */
	while (!amt_scrypt_enter(tag, false))
		CHECK_FOR_INTERRUPTS();
	/* Nothing may raise an error before we leave the place. */
	done = amt_scrypt_hash(token->secret, token->secret_len, phc);
	amt_scrypt_leave();
	return done;
}

void
amt_kdf_hash(const AmtToken *token, char string[AMT_PHC_MAX])
{
	AmtPhc		phc;

	if (!amt_scrypt_params_ok(scrypt_ln, scrypt_r, scrypt_p))
		ereport(ERROR,
				(errcode(ERRCODE_INVALID_PARAMETER_VALUE),
				 errmsg("scrypt parameters ln=%d, r=%d, p=%d cannot be used",
						scrypt_ln, scrypt_r, scrypt_p),
				 errdetail("They are beyond a limit: scrypt's own, 1 GiB for 128 * 2^ln * r * p bytes, or %d for r * p.",
						   AMT_SCRYPT_BLOCKS_MAX),
				 errhint("Change \"amt_keys.scrypt_ln\", \"amt_keys.scrypt_r\" or \"amt_keys.scrypt_p\".")));

	phc.ln = scrypt_ln;
	phc.r = scrypt_r;
	phc.p = scrypt_p;
	phc.salt_len = AMT_SALT_LEN;
	phc.hash_len = AMT_HASH_LEN;
	if (!pg_strong_random(phc.salt, phc.salt_len))
		ereport(ERROR,
				(errcode(ERRCODE_INTERNAL_ERROR),
				 errmsg("could not generate random bytes")));
	if (!hash_in_queue(token, &phc))
		ereport(ERROR,
				(errcode(ERRCODE_OUT_OF_MEMORY),
				 errmsg("could not run scrypt"),
				 errdetail("OpenSSL did not get the memory that ln=%d, r=%d, p=%d need, or its provider has no scrypt.",
						   scrypt_ln, scrypt_r, scrypt_p)));
	amt_phc_format(&phc, string);
	OPENSSL_cleanse(&phc, sizeof(phc));
}
