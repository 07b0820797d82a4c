/*
 * phc.c
 *	  Fuzz target: scrypt hashes as PHC strings.
 */
#include "phc.h"

#include "fuzz.h"

static bool
reference_params_ok(int64_t ln, int64_t r, int64_t p)
{
	const int64_t most = INT64_C(1) << 31;

	if (ln < 1 || r < 1 || p < 1 || ln > 63 || r > most || p > most)
		return false;
	if (r < 4 && ln >= 16 * r)
		return false;
	return ((unsigned __int128) 1 << ln) * r * p <= AMT_SCRYPT_MEMORY_MAX / 128;
}

/* A hash that is read is usable, and is written the same. */
static void
try_text(const char *s, size_t len)
{
	AmtPhc		phc;
	char	   *text;

	if (!amt_phc_parse(s, len, &phc))
		return;
	EXPECT(reference_params_ok(phc.ln, phc.r, phc.p));
	EXPECT(phc.salt_len >= AMT_SALT_MIN && phc.salt_len <= AMT_SALT_MAX);
	EXPECT(phc.hash_len >= AMT_HASH_MIN && phc.hash_len <= AMT_HASH_MAX);
	text = allocate(AMT_PHC_MAX);
	EXPECT(amt_phc_format(&phc, text) == len && memcmp(text, s, len) == 0 && text[len] == '\0');
	free(text);
}

static int64_t
take(const uint8_t **data, size_t *size, size_t bytes)
{
	uint64_t	value = 0;

	for (; bytes > 0 && *size > 0; bytes--, (*data)++, (*size)--)
		value = value << 8 | **data;
	return (int64_t) value;
}

/* A hash that is written is read as it was, if it can be used. */
static void
try_struct(const uint8_t *data, size_t size)
{
	AmtPhc		phc;
	AmtPhc		again;
	char	   *text = allocate(AMT_PHC_MAX);
	size_t		len;
	bool		usable;

	memset(&phc, 0, sizeof(phc));
	phc.ln = (int) (take(&data, &size, 1) % 26);
	phc.r = (int) (take(&data, &size, 4) >> take(&data, &size, 1) % 32);
	phc.p = (int) (take(&data, &size, 4) >> take(&data, &size, 1) % 32);
	phc.salt_len = take(&data, &size, 1) % (AMT_SALT_MAX + 1);
	phc.hash_len = take(&data, &size, 1) % (AMT_HASH_MAX + 1);
	for (size_t i = 0; i < phc.salt_len; i++)
		phc.salt[i] = (uint8_t) take(&data, &size, 1);
	for (size_t i = 0; i < phc.hash_len; i++)
		phc.hash[i] = (uint8_t) take(&data, &size, 1);
	usable = reference_params_ok(phc.ln, phc.r, phc.p) &&
		phc.salt_len >= AMT_SALT_MIN && phc.hash_len >= AMT_HASH_MIN;

	len = amt_phc_format(&phc, text);
	EXPECT(len < AMT_PHC_MAX && strlen(text) == len);
	memset(&again, 0, sizeof(again));
	EXPECT(amt_phc_parse(text, len, &again) == usable);
	if (usable)
		EXPECT(memcmp(&phc, &again, sizeof(phc)) == 0);
	free(text);
}

int
LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
	int64_t		ln;
	int64_t		r;
	int64_t		p;

	try_text((const char *) data, size);
	try_struct(data, size);

	ln = take(&data, &size, 8);
	r = take(&data, &size, 8);
	p = take(&data, &size, 8);
	EXPECT(amt_scrypt_params_ok(ln, r, p) == reference_params_ok(ln, r, p));
	ln &= 31;
	r >>= 36;
	p >>= 36;
	EXPECT(amt_scrypt_params_ok(ln, r, p) == reference_params_ok(ln, r, p));
	return 0;
}
