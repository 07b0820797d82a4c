/*
 * phc.c
 *	  scrypt hashes as PHC strings: $scrypt$ln=14,r=8,p=1$<salt>$<hash>
 *
 * The format is https://github.com/P-H-C/phc-string-format, restricted to
 * one spelling: three parameters in this order, decimal without leading
 * zeros, base64 without padding and without stray bits.  So a parsed string
 * is formatted to the same string again, and no two strings mean the same
 * hash.
 *
 * OpenSSL's base64 wants padding and accepts blanks.  To forbid that would
 * take more than the twenty lines here.
 */
#include "phc.h"

#include <stdio.h>
#include <string.h>

#define MAX_DIGITS	9			/* of a parameter; more than any usable one
								 * has */

static const char base64[] = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";

bool
amt_scrypt_params_ok(int64_t ln, int64_t r, int64_t p)
{
	const int64_t units = AMT_SCRYPT_MEMORY_MAX / 128;

	/* Each factor must fit by itself, or products could overflow. */
	if (ln < 1 || ln > 62 || r < 1 || r > AMT_SCRYPT_BLOCKS_MAX || p < 1 || p > AMT_SCRYPT_BLOCKS_MAX)
		return false;
	return ln < 16 * r && r * p <= AMT_SCRYPT_BLOCKS_MAX && r * p <= units >> ln;
}

/* Step over a word that must be there. */
static bool
read_word(const char **s, const char *end, const char *word)
{
	size_t		len = strlen(word);

	if ((size_t) (end - *s) < len || memcmp(*s, word, len) != 0)
		return false;
	*s += len;
	return true;
}

static bool
read_number(const char **s, const char *end, int *number)
{
	const char *start = *s;

	*number = 0;
	while (*s < end && **s >= '0' && **s <= '9' && *s - start < MAX_DIGITS)
		*number = *number * 10 + (*(*s)++ - '0');
	return *s > start && *start != '0';
}

/* Read bytes up to the first character that is not base64. */
static bool
read_bytes(const char **s, const char *end, uint8_t *out, size_t min, size_t max, size_t *len)
{
	uint32_t	bits = 0;		/* not yet written, at most 12 */
	int			nbits = 0;
	const char *digit;

	*len = 0;
	while (*s < end && (digit = memchr(base64, **s, 64)) != NULL)
	{
		(*s)++;
		bits = bits << 6 | (uint32_t) (digit - base64);
		nbits += 6;
		if (nbits >= 8)
		{
			if (*len == max)
				return false;
			nbits -= 8;
			out[(*len)++] = (uint8_t) (bits >> nbits);
			bits &= (1U << nbits) - 1;
		}
	}
	/* A whole digit left over, or stray bits, would be another spelling. */
	return nbits < 6 && bits == 0 && *len >= min;
}

bool
amt_phc_parse(const char *s, size_t len, AmtPhc *phc)
{
	const char *end = s + len;

	return read_word(&s, end, "$scrypt$ln=") &&
		read_number(&s, end, &phc->ln) &&
		read_word(&s, end, ",r=") &&
		read_number(&s, end, &phc->r) &&
		read_word(&s, end, ",p=") &&
		read_number(&s, end, &phc->p) &&
		amt_scrypt_params_ok(phc->ln, phc->r, phc->p) &&
		read_word(&s, end, "$") &&
		read_bytes(&s, end, phc->salt, AMT_SALT_MIN, AMT_SALT_MAX, &phc->salt_len) &&
		read_word(&s, end, "$") &&
		read_bytes(&s, end, phc->hash, AMT_HASH_MIN, AMT_HASH_MAX, &phc->hash_len) &&
		s == end;
}

/* Write bytes in base64.  Returns the end of the text. */
static char *
write_bytes(char *out, const uint8_t *bytes, size_t len)
{
	uint32_t	bits = 0;
	int			nbits = 0;
	size_t		i;

	for (i = 0; i < len; i++)
	{
		bits = bits << 8 | bytes[i];
		for (nbits += 8; nbits >= 6; nbits -= 6)
			*out++ = base64[bits >> (nbits - 6) & 63];
	}
	if (nbits > 0)
		*out++ = base64[bits << (6 - nbits) & 63];
	return out;
}

size_t
amt_phc_format(const AmtPhc *phc, char out[AMT_PHC_MAX])
{
	char	   *end = out;

	end += snprintf(end, AMT_PHC_MAX, "$scrypt$ln=%d,r=%d,p=%d$", phc->ln, phc->r, phc->p);
	end = write_bytes(end, phc->salt, phc->salt_len);
	*end++ = '$';
	end = write_bytes(end, phc->hash, phc->hash_len);
	*end = '\0';
	return end - out;
}
