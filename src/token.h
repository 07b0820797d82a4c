/*
 * token.h
 *	  The shape of a token: writing one, reading one, finding one in a text.
 */
#ifndef AMT_TOKEN_H
#define AMT_TOKEN_H

#include <stdbool.h>
#include <stddef.h>

/* Lengths of a prefix. */
#define AMT_PREFIX_MIN			2
#define AMT_PREFIX_MAX			16
#define AMT_PREFIXES_MAX		32	/* prefixes in one list */

/* Lengths that amt_token_generate() writes. */
#define AMT_ID_LEN				12
#define AMT_SECRET_RANDOM_LEN	43
#define AMT_CHECKSUM_LEN		6
#define AMT_SECRET_LEN			(AMT_SECRET_RANDOM_LEN + AMT_CHECKSUM_LEN)
#define AMT_TOKEN_MAX			(AMT_PREFIX_MAX + 1 + AMT_ID_LEN + 1 + AMT_SECRET_LEN)

/*
 * Lengths that amt_token_parse() accepts: keys made elsewhere can be
 * imported.
 */
#define AMT_ID_MAX				64
#define AMT_SECRET_MIN			16
#define AMT_SECRET_MAX			256

/* One prefix, without the '_' that follows it in a token. */
typedef struct AmtPrefix
{
	unsigned char len;
	char		name[AMT_PREFIX_MAX + 1];	/* NUL-terminated */
} AmtPrefix;

/*
 * The prefixes in force; new tokens get the first.  No name is listed twice.
 * There must be no pointers in it, so that it can be copied.  All zeros is
 * the empty list, under which no text is a token.
 */
typedef struct AmtPrefixes
{
	int			n;
	AmtPrefix	prefix[AMT_PREFIXES_MAX];
} AmtPrefixes;

/* A parsed token; the pointers lead into the text. */
typedef struct AmtToken
{
	const char *prefix;
	size_t		prefix_len;
	const char *id;
	size_t		id_len;
	const char *secret;
	size_t		secret_len;
} AmtToken;

/* A source of cryptographically strong bytes; false if it fails. */
typedef bool (*AmtRandom) (void *buf, size_t len);

/* Is this a prefix (2 to 16 of a-z0-9, beginning with a letter)? */
extern bool amt_prefix_is_valid(const char *name, size_t len);

/*
 * Append a prefix; false if it is not valid or already listed, or if the
 * list is full.
 */
extern bool amt_prefixes_add(AmtPrefixes *list, const char *name, size_t len);

/*
 * The longest listed prefix that ends where the text does and is shorter than
 * "limit" characters; NULL if there is none.
 */
extern const AmtPrefix *amt_prefixes_find_last(const AmtPrefixes *list, const char *s, size_t len, size_t limit);

/*
 * Write a new token with the first prefix, NUL-terminated.  If the random
 * source fails or the list is empty, wipes the whole buffer and returns
 * false.
 */
extern bool amt_token_generate(const AmtPrefixes *list, AmtRandom source, char token[AMT_TOKEN_MAX + 1]);

/* Is this a key id (1 to 64 of 0-9A-Za-z)? */
extern bool amt_token_is_id(const char *s, size_t len);

/* Does the text begin with a listed prefix and '_'? */
extern bool amt_token_has_prefix(const AmtPrefixes *list, const char *s, size_t len);

/*
 * Parse a whole text, leniently.  If it is no token, returns false, and
 * *token is undefined.
 */
extern bool amt_token_parse(const AmtPrefixes *list, const char *s, size_t len, AmtToken *token);

/* Could amt_token_generate() have written the whole text, with any listed prefix? */
extern bool amt_token_check(const AmtPrefixes *list, const char *s, size_t len);

/*
 * The offset of the first token at or after "from".  Sets *token_len.  If
 * there is none: len, and 0.  Neighbours of the token do not matter.  Where
 * tokens with several prefixes end at the same place, the longest is found.
 * Linear in the text's length.
 */
extern size_t amt_token_find(const AmtPrefixes *list, const char *s, size_t len, size_t from, size_t *token_len);

#endif							/* AMT_TOKEN_H */
