/*
 * token.c
 *	  The shape of a token: writing one, reading one, finding one in a text.
 *
 * A token that we write is <prefix>_<12>_<43><6>: a public key id, the
 * random part of the secret and a checksum, all of 0-9A-Za-z.  43 such
 * characters carry 256 bits.  The checksum stops no attacker.  It lets a
 * scanner tell a token from a lookalike without a database.  Every language
 * must have it, so it is zlib's CRC-32.
 *
 * No prefix contains '_'.  So the first '_' of a token ends its prefix, and
 * the part before it must be a listed name.
 *
 * There are two readers: amt_token_check() accepts the tokens that we write,
 * amt_token_parse() others too.  Neither looks further than it must: a
 * megabyte of noise is refused as cheaply as an empty string.
 */
#include "token.h"

#include <stdint.h>
#include <string.h>

#include <openssl/crypto.h>

#include "ascii.h"

/* Length from the '_' after the prefix on; the same for all prefixes. */
#define TAIL_LEN		(1 + AMT_ID_LEN + 1 + AMT_SECRET_LEN)

#define BASE			62
#define RANDOM_BLOCK	64		/* bytes asked of the random source at a time */
#define RANDOM_BLOCKS	64		/* a source that needs more is broken */

/* More than the frames of all functions that see a part of a new secret. */
#define STACK_TO_CLEAR	8192

#define NOINLINE		__attribute__((noinline))

static const char digits[] = "0123456789ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz";

/*
 * CRC-32 of zlib and IEEE 802.3, four bits at a time, with the reflected
 * polynomial 0xEDB88320.  The table has the effect of each value of the four
 * lowest bits.
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

/* Write the checksum of a text; 62^6 is more than 2^32. */
static NOINLINE void
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

static bool
checksum_is_right(const char *s, size_t len)
{
	char		expected[AMT_CHECKSUM_LEN];

	write_checksum(s, len - AMT_CHECKSUM_LEN, expected);
	return memcmp(s + len - AMT_CHECKSUM_LEN, expected, AMT_CHECKSUM_LEN) == 0;
}

bool
amt_prefix_is_valid(const char *name, size_t len)
{
	size_t		i;

	if (len < AMT_PREFIX_MIN || len > AMT_PREFIX_MAX || !amt_is_lower(name[0]))
		return false;
	for (i = 1; i < len; i++)
	{
		if (!amt_is_lower_or_digit(name[i]))
			return false;
	}
	return true;
}

static bool
is_listed(const AmtPrefixes *list, const char *name, size_t len)
{
	int			i;

	for (i = 0; i < list->n; i++)
	{
		if (list->prefix[i].len == len && memcmp(list->prefix[i].name, name, len) == 0)
			return true;
	}
	return false;
}

bool
amt_prefixes_add(AmtPrefixes *list, const char *name, size_t len)
{
	AmtPrefix  *prefix;

	if (list->n >= AMT_PREFIXES_MAX || !amt_prefix_is_valid(name, len) || is_listed(list, name, len))
		return false;
	prefix = &list->prefix[list->n++];
	memset(prefix, 0, sizeof(*prefix));
	prefix->len = (unsigned char) len;
	memcpy(prefix->name, name, len);
	return true;
}

const AmtPrefix *
amt_prefixes_find_last(const AmtPrefixes *list, const char *s, size_t len, size_t limit)
{
	const AmtPrefix *longest = NULL;
	int			i;

	for (i = 0; i < list->n; i++)
	{
		const AmtPrefix *prefix = &list->prefix[i];

		if (prefix->len <= len && prefix->len < limit &&
			(longest == NULL || prefix->len > longest->len) &&
			memcmp(s + len - prefix->len, prefix->name, prefix->len) == 0)
			longest = prefix;
	}
	return longest;
}

/*
 * Write uniform digits.  62 does not divide the 256 values of a byte, so
 * those from 248 on are discarded.  Otherwise the first eight digits would
 * come more often.
 *
 * One byte in 32 is discarded, so one block is nearly always enough.  The
 * bound is for a source that is stuck: rather fail than never end.
 */
static NOINLINE bool
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

/* amt_token_generate() without the cleaning up. */
static NOINLINE bool
write_token(const AmtPrefixes *list, AmtRandom source, char *token)
{
	const AmtPrefix *prefix = &list->prefix[0];
	char	   *tail;
	char	   *checksum;

	if (list->n == 0)
		return false;
	tail = token + prefix->len;
	checksum = tail + TAIL_LEN - AMT_CHECKSUM_LEN;

	/* Random digits up to the checksum, then the separators over them. */
	if (!write_random(source, tail + 1, checksum - (tail + 1)))
		return false;
	memcpy(token, prefix->name, prefix->len);
	tail[0] = '_';
	tail[1 + AMT_ID_LEN] = '_';
	write_checksum(token, checksum - token, checksum);
	checksum[AMT_CHECKSUM_LEN] = '\0';
	return true;
}

/* Overwrite the stack that earlier calls have used. */
static NOINLINE void
clear_stack(void)
{
	char		area[STACK_TO_CLEAR];

	OPENSSL_cleanse(area, sizeof(area));
}

/*
 * The compiler may keep parts of the secret in registers, and a called
 * function may save registers on the stack.  So this function and
 * write_token() must not touch the secret.  Only frames below them do: those
 * of write_random(), of the source and of write_checksum().  We overwrite
 * that stack when they have returned.  The compiler must inline none of
 * them.
 */
bool
amt_token_generate(const AmtPrefixes *list, AmtRandom source, char token[AMT_TOKEN_MAX + 1])
{
	bool		written = write_token(list, source, token);

	clear_stack();
	if (!written)
		OPENSSL_cleanse(token, AMT_TOKEN_MAX + 1);
	return written;
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

/*
 * The length of the listed prefix that the text begins with, before a '_';
 * or 0.
 */
static size_t
get_prefix_len(const AmtPrefixes *list, const char *s, size_t len)
{
	const char *end;

	if (len <= AMT_PREFIX_MIN)
		return 0;
	end = memchr(s, '_', len < AMT_PREFIX_MAX + 1 ? len : AMT_PREFIX_MAX + 1);
	return end != NULL && is_listed(list, s, end - s) ? end - s : 0;
}

bool
amt_token_has_prefix(const AmtPrefixes *list, const char *s, size_t len)
{
	return get_prefix_len(list, s, len) > 0;
}

bool
amt_token_parse(const AmtPrefixes *list, const char *s, size_t len, AmtToken *token)
{
	const char *end = s + len;
	const char *separator;
	const char *c;

	if (len > AMT_PREFIX_MAX + 1 + AMT_ID_MAX + 1 + AMT_SECRET_MAX)
		return false;
	token->prefix = s;
	token->prefix_len = get_prefix_len(list, s, len);
	if (token->prefix_len == 0)
		return false;

	/*
	 * An id has no '_', so the first one ends it.  The secret may have more.
	 */
	token->id = s + token->prefix_len + 1;
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

/* Have these TAIL_LEN characters the shape of a token after its prefix? */
static bool
is_tail(const char *s)
{
	const char *id = s + 1;
	const char *separator = id + AMT_ID_LEN;

	return *s == '_' && *separator == '_' &&
		all_base62(id, AMT_ID_LEN) && all_base62(separator + 1, AMT_SECRET_LEN);
}

bool
amt_token_check(const AmtPrefixes *list, const char *s, size_t len)
{
	return len >= AMT_PREFIX_MIN + TAIL_LEN && len <= AMT_TOKEN_MAX &&
		is_tail(s + len - TAIL_LEN) &&
		is_listed(list, s, len - TAIL_LEN) &&
		checksum_is_right(s, len);
}

/*
 * We try every '_' as the end of a prefix, even inside a text that may be
 * another token.  A try costs TAIL_LEN at most.  It mostly ends early: a
 * tail has two '_' at fixed places, and no third.  Prefixes are compared
 * only before a right tail, the longest first.  "amt" is found in "xamt" if
 * the checksum says so.
 */
size_t
amt_token_find(const AmtPrefixes *list, const char *s, size_t len, size_t from, size_t *token_len)
{
	const char *end = s + len;
	const char *start = s + (from < len ? from : len);
	const char *p = start;

	while (list->n > 0 && end - p >= TAIL_LEN)
	{
		const char *tail = memchr(p, '_', end - p - (TAIL_LEN - 1));
		const AmtPrefix *prefix;
		size_t		limit = AMT_PREFIX_MAX + 1;

		if (tail == NULL)
			break;
		while (is_tail(tail) &&
			   (prefix = amt_prefixes_find_last(list, start, tail - start, limit)) != NULL)
		{
			if (checksum_is_right(tail - prefix->len, prefix->len + TAIL_LEN))
			{
				*token_len = prefix->len + TAIL_LEN;
				return tail - prefix->len - s;
			}
			limit = prefix->len;
		}
		p = tail + 1;
	}
	*token_len = 0;
	return len;
}
