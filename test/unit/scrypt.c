/*
 * scrypt.c
 *	  Tests of src/scrypt.c.
 */
#include "scrypt.h"

#include <openssl/err.h>
#include <openssl/evp.h>

#include "tap.h"

#define COUNT(array)	(sizeof(array) / sizeof(array[0]))

/* RFC 7914, section 12. */
static void
test_rfc(void)
{
	static const struct
	{
		const char *secret;
		const char *salt;
		int			ln;
		int			r;
		int			p;
		unsigned char hash[64];
	}			vectors[] = {
		{"", "", 4, 1, 1,
			{0x77, 0xd6, 0x57, 0x62, 0x38, 0x65, 0x7b, 0x20, 0x3b, 0x19, 0xca, 0x42, 0xc1, 0x8a, 0x04, 0x97,
				0xf1, 0x6b, 0x48, 0x44, 0xe3, 0x07, 0x4a, 0xe8, 0xdf, 0xdf, 0xfa, 0x3f, 0xed, 0xe2, 0x14, 0x42,
				0xfc, 0xd0, 0x06, 0x9d, 0xed, 0x09, 0x48, 0xf8, 0x32, 0x6a, 0x75, 0x3a, 0x0f, 0xc8, 0x1f, 0x17,
		0xe8, 0xd3, 0xe0, 0xfb, 0x2e, 0x0d, 0x36, 0x28, 0xcf, 0x35, 0xe2, 0x0c, 0x38, 0xd1, 0x89, 0x06}},
		{"password", "NaCl", 10, 8, 16,
			{0xfd, 0xba, 0xbe, 0x1c, 0x9d, 0x34, 0x72, 0x00, 0x78, 0x56, 0xe7, 0x19, 0x0d, 0x01, 0xe9, 0xfe,
				0x7c, 0x6a, 0xd7, 0xcb, 0xc8, 0x23, 0x78, 0x30, 0xe7, 0x73, 0x76, 0x63, 0x4b, 0x37, 0x31, 0x62,
				0x2e, 0xaf, 0x30, 0xd9, 0x2e, 0x22, 0xa3, 0x88, 0x6f, 0xf1, 0x09, 0x27, 0x9d, 0x98, 0x30, 0xda,
		0xc7, 0x27, 0xaf, 0xb9, 0x4a, 0x83, 0xee, 0x6d, 0x83, 0x60, 0xcb, 0xdf, 0xa2, 0xcc, 0x06, 0x40}},
		{"pleaseletmein", "SodiumChloride", 14, 8, 1,
			{0x70, 0x23, 0xbd, 0xcb, 0x3a, 0xfd, 0x73, 0x48, 0x46, 0x1c, 0x06, 0xcd, 0x81, 0xfd, 0x38, 0xeb,
				0xfd, 0xa8, 0xfb, 0xba, 0x90, 0x4f, 0x8e, 0x3e, 0xa9, 0xb5, 0x43, 0xf6, 0x54, 0x5d, 0xa1, 0xf2,
				0xd5, 0x43, 0x29, 0x55, 0x61, 0x3f, 0x0f, 0xcf, 0x62, 0xd4, 0x97, 0x05, 0x24, 0x2a, 0x9a, 0xf9,
		0xe6, 0x1e, 0x85, 0xdc, 0x0d, 0x65, 0x1e, 0x40, 0xdf, 0xcf, 0x01, 0x7b, 0x45, 0x57, 0x58, 0x87}},
		{"pleaseletmein", "SodiumChloride", 20, 8, 1,
			{0x21, 0x01, 0xcb, 0x9b, 0x6a, 0x51, 0x1a, 0xae, 0xad, 0xdb, 0xbe, 0x09, 0xcf, 0x70, 0xf8, 0x81,
				0xec, 0x56, 0x8d, 0x57, 0x4a, 0x2f, 0xfd, 0x4d, 0xab, 0xe5, 0xee, 0x98, 0x20, 0xad, 0xaa, 0x47,
				0x8e, 0x56, 0xfd, 0x8f, 0x4b, 0xa5, 0xd0, 0x9f, 0xfa, 0x1c, 0x6d, 0x92, 0x7c, 0x40, 0xf4, 0xc3,
		0x37, 0x30, 0x40, 0x49, 0xe8, 0xa9, 0x52, 0xfb, 0xcb, 0xf4, 0x5c, 0x6f, 0xa7, 0x7a, 0x41, 0xa4}}
	};
	size_t		i;

	for (i = 0; i < COUNT(vectors); i++)
	{
		AmtPhc		phc = {.ln = vectors[i].ln, .r = vectors[i].r, .p = vectors[i].p, .hash_len = 64};

		/* The last one needs all the memory that we ever ask for. */
		if (vectors[i].ln == 20 && getenv("AMT_TEST_1_GIB") == NULL)
		{
			ok(true, "vector %zu of RFC 7914 has its hash # SKIP set AMT_TEST_1_GIB to let it use 1 GiB and seconds", i + 1);
			continue;
		}
		phc.salt_len = strlen(vectors[i].salt);
		memcpy(phc.salt, vectors[i].salt, phc.salt_len);
		ok(amt_scrypt_hash(vectors[i].secret, strlen(vectors[i].secret), &phc) &&
		   memcmp(phc.hash, vectors[i].hash, 64) == 0, "vector %zu of RFC 7914 has its hash", i + 1);
	}
}

#define X64		"xxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxx"

/* Made by Python: hashlib.scrypt(secret, salt=salt, n=1 << ln, r=r, p=p, maxmem=1 << 27, dklen=...) */
static const struct
{
	const char *secret;
	const char *phc;
}			made_elsewhere[] = {
	{"secret", "$scrypt$ln=14,r=8,p=1$AAECAwQFBgcICQoLDA0ODw$lUTkiXnaPIlt+39/W8AV+zIOgQ+DcviNZtmSHaWiqmU"},
	{"wqtEfncsahEG2ZV8fi7673opygh56Fze1dFMtaU73a7eox3R3",
	"$scrypt$ln=14,r=8,p=1$//79/Pv6+fj39vX08/Lx8A$yE6tj66zUCP2GYmjycNhn3b97rztX9ASuxGnHSaiRCo"},
	{"a-b_c", "$scrypt$ln=1,r=1,p=1$AAAAAAAAAAA$MNhq9BiCiSGlk+5KFSEEsA"},
	{X64 X64 X64 X64, "$scrypt$ln=10,r=8,p=2$AAECAwQFBgcICQoLDA0ODxAREhMUFRYXGBkaGxwdHh8gISIjJCUmJygpKissLS4vMDEyMzQ1Njc4OTo7PD0+Pw$pd7+j4GCh+JFuhfkMAcNhd6dfe1v8nb7G2OM9OUumFo3OZNORFQ8eUaZ+I9w9wF3VuoeZhDk6A84hMn5fAMrWA"},
	{"", "$scrypt$ln=4,r=3,p=5$c2FsdC1vZi0xNy1ieXRlcyE$cQmWbRQg7ytiWZ5BkzoiTIiX+Fmp/sWylKrMI5+vnA"}
};

static AmtScryptResult
check(const char *secret, size_t len, const AmtPhc *phc)
{
	char	   *copy = exact_copy(secret, len);
	AmtScryptResult result = amt_scrypt_check(copy, len, phc);

	free(copy);
	return result;
}

static void
test_made_elsewhere(void)
{
	size_t		i;

	for (i = 0; i < COUNT(made_elsewhere); i++)
	{
		const char *secret = made_elsewhere[i].secret;
		const char *text = made_elsewhere[i].phc;
		AmtPhc		phc;
		char		again[AMT_PHC_MAX];

		ok(amt_phc_parse(text, strlen(text), &phc) &&
		   check(secret, strlen(secret), &phc) == AMT_SCRYPT_MATCH, "the secret matches the hash that Python has made: %.24s", text);
		memset(phc.hash, 0, sizeof(phc.hash));
		ok(amt_scrypt_hash(secret, strlen(secret), &phc) && amt_phc_format(&phc, again) > 0 &&
		   strcmp(again, text) == 0, "our hash is the same as Python's");
	}
}

static void
test_mismatch(void)
{
	AmtPhc		phc = {.ln = 4, .r = 8, .p = 1, .salt_len = 16, .hash_len = 32};
	AmtPhc		changed;
	int			slips = 0;
	size_t		bit;

	ok(amt_scrypt_hash("secret", 6, &phc) && check("secret", 6, &phc) == AMT_SCRYPT_MATCH, "a secret matches the hash that we have made");
	ok(check("secres", 6, &phc) == AMT_SCRYPT_MISMATCH, "another secret does not match");
	ok(check("secre", 5, &phc) == AMT_SCRYPT_MISMATCH, "a shorter secret does not match");
	ok(check("secretx", 7, &phc) == AMT_SCRYPT_MISMATCH, "a longer secret does not match");
	ok(check("", 0, &phc) == AMT_SCRYPT_MISMATCH, "an empty secret does not match");

	for (bit = 0; bit < 8 * phc.hash_len; bit++)
	{
		changed = phc;
		changed.hash[bit / 8] ^= 1 << bit % 8;
		slips += check("secret", 6, &changed) != AMT_SCRYPT_MISMATCH;
	}
	ok(slips == 0, "every bit of the hash counts");
	for (bit = 0; bit < 8 * phc.salt_len; bit++)
	{
		changed = phc;
		changed.salt[bit / 8] ^= 1 << bit % 8;
		slips += check("secret", 6, &changed) != AMT_SCRYPT_MISMATCH;
	}
	ok(slips == 0, "every bit of the salt counts");

	changed = phc;
	changed.ln = 5;
	ok(check("secret", 6, &changed) == AMT_SCRYPT_MISMATCH, "the parameter ln counts");
	changed = phc;
	changed.r = 9;
	ok(check("secret", 6, &changed) == AMT_SCRYPT_MISMATCH, "the parameter r counts");
	changed = phc;
	changed.p = 2;
	ok(check("secret", 6, &changed) == AMT_SCRYPT_MISMATCH, "the parameter p counts");
}

/* The memory that we let OpenSSL use is enough, whichever parameter it goes to. */
static void
test_memory(void)
{
	static const struct
	{
		int			ln;
		int			r;
		int			p;
	}			cases[] = {
		{1, 1, 1}, {1, 1, 2}, {1, 1, 65536}, {1, 65536, 1}, {1, 256, 256}, {15, 1, 1}, {16, 2, 1},
		{15, 8, 1}, {14, 8, 2}, {14, 16, 1}, {2, 3, 5000}, {2, 5000, 3}
	};
	size_t		i;

	for (i = 0; i < COUNT(cases); i++)
	{
		AmtPhc		phc = {.ln = cases[i].ln, .r = cases[i].r, .p = cases[i].p, .salt_len = 16, .hash_len = 32};

		ok(amt_scrypt_hash("secret", 6, &phc), "there is enough memory for ln=%d r=%d p=%d", phc.ln, phc.r, phc.p);
	}
}

static void
test_failure(void)
{
	AmtPhc		phc = {.ln = 4, .r = 8, .p = 1, .salt_len = 16, .hash_len = 32};
	AmtPhc		bad[] = {phc, phc, phc, phc, phc, phc};
	size_t		i;

	bad[0].ln = 0;
	bad[1].ln = 64;
	bad[2].ln = 21;
	bad[3].r = 0;
	bad[4].p = -1;
	bad[5].ln = 16, bad[5].r = 1;
	for (i = 0; i < COUNT(bad); i++)
		ok(!amt_scrypt_hash("secret", 6, &bad[i]) && check("secret", 6, &bad[i]) == AMT_SCRYPT_FAILED,
		   "scrypt is not run with ln=%d r=%d p=%d", bad[i].ln, bad[i].r, bad[i].p);

	/* As where a FIPS provider does without scrypt. */
	EVP_set_default_properties(NULL, "provider=none");
	ok(EVP_PBE_scrypt("x", 1, (const unsigned char *) "x", 1, 2, 1, 1, 0, phc.hash, 16) == 0 &&
	   ERR_peek_error() != 0, "without scrypt, OpenSSL fails and queues errors");
	ERR_clear_error();
	ok(!amt_scrypt_hash("secret", 6, &phc), "no hash is made without scrypt");
	ok(check("secret", 6, &phc) == AMT_SCRYPT_FAILED, "a check without scrypt has no answer, which is not a mismatch");
	ok(ERR_peek_error() == 0, "no error is left in OpenSSL's queue");
	EVP_set_default_properties(NULL, "");
	ok(amt_scrypt_hash("secret", 6, &phc) && check("secret", 6, &phc) == AMT_SCRYPT_MATCH, "hashes are made and checked as before when there is scrypt again");
}

int
main(void)
{
	test_rfc();
	test_made_elsewhere();
	test_mismatch();
	test_memory();
	test_failure();
	return done_testing();
}
