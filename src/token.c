/*
 * token.c
 *	  The shape of a token: writing one, reading one, finding one in a text.
 *
 * A token that we write is amt_<12>_<43><6>: a public key id, the random part
 * of the secret and a checksum, all of 0-9A-Za-z.  43 such characters carry
 * 256 bits.  The checksum keeps no enemy out; it lets a scanner tell a token
 * from a lookalike without asking a database, so it must be what everybody
 * has at hand, zlib's CRC-32, and is worth no dependency for 60 bytes.
 *
 * Because writing is strict and reading is lenient there are two readers:
 * amt_token_check() knows what we write, amt_token_parse() what we accept.
 * Neither looks further than it must, so that a megabyte of noise is refused
 * as cheaply as an empty string.
 */
#include "token.h"

#include <stdint.h>
#include <string.h>

#include <openssl/crypto.h>

#include "ascii.h"

#define BASE			62
#define RANDOM_BLOCK	64		/* bytes asked of the random source at a time */
#define RANDOM_BLOCKS	64		/* a source that needs more is broken */

static const char digits[] = "0123456789ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz";

/*
 * CRC-32 of zlib and IEEE 802.3, four bits at a time: the table is what each
 * value of the four lowest bits does to the reflected polynomial 0xEDB88320.
 */
static uint32_t
crc32_ieee(const char *s, size_t len)
{
	static const uint32_t table[16] = {
		0x00000000, 0x1DB71064, 0x3B6E20C8, 0x26D930AC,
		0x76DC4190, 0x6B6B51F4, 0x4DB26158, 0x5005713C,
		0xEDB88320, 0xF00F9344, 0xD6D6A3E8, 0xCB61B38C,
		0x9B64C2B0, 0x86D3D2D4, 0xA00AE278, 0xBDBDF21C
	};
	uint32_t	crc = 0xFFFFFFFF;
	size_t		i;

	for (i = 0; i < len; i++)
	{
		crc ^= (unsigned char) s[i];
		crc = (crc >> 4) ^ table[crc & 15];
		crc = (crc >> 4) ^ table[crc & 15];
	}
	return ~crc;
}

/* The checksum of what stands before it; 62^6 is more than 2^32. */
static void
write_checksum(const char *s, size_t len, char out[AMT_CHECKSUM_LEN])
{
	uint32_t	crc = crc32_ieee(s, len);
	int			i;

	for (i = AMT_CHECKSUM_LEN - 1; i >= 0; i--)
	{
		out[i] = digits[crc % BASE];
		crc /= BASE;
	}
}

/*
 * Uniform digits.  A byte has 256 values, which 62 does not divide: those from
 * 248 on are thrown away, or the first eight digits would come more often.
 *
 * One byte in 32 is thrown away, so one block is nearly always enough.  The
 * bound is for a source that is stuck: no answer is better than no end.
 */
static bool
write_random(AmtRandom source, char *out, size_t len)
{
	unsigned char block[RANDOM_BLOCK];
	size_t		written = 0;
	int			blocks;

	for (blocks = 0; written < len && blocks < RANDOM_BLOCKS; blocks++)
	{
		size_t		i;

		if (!source(block, sizeof(block)))
			break;
		for (i = 0; written < len && i < sizeof(block); i++)
		{
			if (block[i] < 256 / BASE * BASE)
				out[written++] = digits[block[i] % BASE];
		}
	}
	OPENSSL_cleanse(block, sizeof(block));
	return written == len;
}

bool
amt_token_generate(AmtRandom source, char token[AMT_TOKEN_LEN + 1])
{
	const size_t separator = AMT_TOKEN_HEAD_LEN + AMT_ID_LEN;
	const size_t checksum = AMT_TOKEN_LEN - AMT_CHECKSUM_LEN;

	/* Random all the way to the checksum, then the separator over it. */
	if (!write_random(source, token + AMT_TOKEN_HEAD_LEN, checksum - AMT_TOKEN_HEAD_LEN))
	{
		OPENSSL_cleanse(token, AMT_TOKEN_LEN + 1);
		return false;
	}
	memcpy(token, AMT_TOKEN_HEAD, AMT_TOKEN_HEAD_LEN);
	token[separator] = '_';
	write_checksum(token, checksum, token + checksum);
	token[AMT_TOKEN_LEN] = '\0';
	return true;
}

static bool
all_base62(const char *s, size_t len)
{
	size_t		i;

	for (i = 0; i < len; i++)
	{
		if (!amt_is_base62(s[i]))
			return false;
	}
	return true;
}

bool
amt_token_is_id(const char *s, size_t len)
{
	return len >= 1 && len <= AMT_ID_MAX && all_base62(s, len);
}

static bool
starts_with_head(const char *s, size_t len)
{
	return len >= AMT_TOKEN_HEAD_LEN && memcmp(s, AMT_TOKEN_HEAD, AMT_TOKEN_HEAD_LEN) == 0;
}

bool
amt_token_parse(const char *s, size_t len, AmtToken *token)
{
	const char *end = s + len;
	const char *separator;
	const char *c;

	if (len > AMT_TOKEN_HEAD_LEN + AMT_ID_MAX + 1 + AMT_SECRET_MAX || !starts_with_head(s, len))
		return false;

	/* No '_' in an id: the first one ends it, and the secret may have more. */
	token->id = s + AMT_TOKEN_HEAD_LEN;
	separator = memchr(token->id, '_', end - token->id);
	if (separator == NULL)
		return false;
	token->id_len = separator - token->id;
	token->secret = separator + 1;
	token->secret_len = end - token->secret;

	if (!amt_token_is_id(token->id, token->id_len) ||
		token->secret_len < AMT_SECRET_MIN || token->secret_len > AMT_SECRET_MAX)
		return false;
	for (c = token->secret; c < end; c++)
	{
		if (!amt_is_secret_char(*c))
			return false;
	}
	return true;
}

bool
amt_token_check(const char *s, size_t len)
{
	const size_t separator = AMT_TOKEN_HEAD_LEN + AMT_ID_LEN;
	const size_t checksum = AMT_TOKEN_LEN - AMT_CHECKSUM_LEN;
	char		expected[AMT_CHECKSUM_LEN];

	if (len != AMT_TOKEN_LEN || !starts_with_head(s, len) || s[separator] != '_' ||
		!all_base62(s + AMT_TOKEN_HEAD_LEN, AMT_ID_LEN) ||
		!all_base62(s + separator + 1, AMT_SECRET_LEN))
		return false;
	write_checksum(s, checksum, expected);
	return memcmp(s + checksum, expected, AMT_CHECKSUM_LEN) == 0;
}

/*
 * Every "amt_" is tried, also inside what might have been another token: a
 * try costs AMT_TOKEN_LEN at most, and less unless the next "amt_" is further
 * away than that, since only one '_' may follow the head.
 */
size_t
amt_token_find(const char *s, size_t len, size_t from)
{
	const char *end = s + len;
	const char *p = s + (from < len ? from : len);

	while (end - p >= AMT_TOKEN_LEN)
	{
		/* Look for the head by its last character, the rarest in most texts. */
		const char *last = memchr(p + AMT_TOKEN_HEAD_LEN - 1, '_', end - p - (AMT_TOKEN_HEAD_LEN - 1));

		if (last == NULL)
			break;
		p = last - (AMT_TOKEN_HEAD_LEN - 1);
		if (end - p >= AMT_TOKEN_LEN && amt_token_check(p, AMT_TOKEN_LEN))
			return p - s;
		p++;
	}
	return len;
}
