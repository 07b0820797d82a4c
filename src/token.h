/*
 * token.h
 *	  The shape of a token: writing one, reading one, finding one in a text.
 */
#ifndef AMT_TOKEN_H
#define AMT_TOKEN_H

#include <stdbool.h>
#include <stddef.h>

#define AMT_TOKEN_HEAD			"amt_"
#define AMT_TOKEN_HEAD_LEN		4

/* What amt_token_generate() writes. */
#define AMT_ID_LEN				12
#define AMT_SECRET_RANDOM_LEN	43
#define AMT_CHECKSUM_LEN		6
#define AMT_SECRET_LEN			(AMT_SECRET_RANDOM_LEN + AMT_CHECKSUM_LEN)
#define AMT_TOKEN_LEN			(AMT_TOKEN_HEAD_LEN + AMT_ID_LEN + 1 + AMT_SECRET_LEN)

/* What amt_token_parse() reads: keys made elsewhere can be imported. */
#define AMT_ID_MAX				64
#define AMT_SECRET_MIN			16
#define AMT_SECRET_MAX			256

/* A token taken apart; the pointers lead into the parsed text. */
typedef struct AmtToken
{
	const char *id;
	size_t		id_len;
	const char *secret;
	size_t		secret_len;
} AmtToken;

/* A source of cryptographically strong bytes; false when it cannot deliver. */
typedef bool (*AmtRandom) (void *buf, size_t len);

/* Write a new token, NUL-terminated; false when the random source fails. */
extern bool amt_token_generate(AmtRandom source, char token[AMT_TOKEN_LEN + 1]);

/* Is this a key id (1 to 64 of 0-9A-Za-z)? */
extern bool amt_token_is_id(const char *s, size_t len);

/* Take a whole text apart, leniently; false, and *token undefined, if it is none. */
extern bool amt_token_parse(const char *s, size_t len, AmtToken *token);

/* Is the whole text a token that amt_token_generate() could have written? */
extern bool amt_token_check(const char *s, size_t len);

/*
 * Offset of the first such token at or after "from", or len if there is none.
 * Linear in the text's length; neighbours of the token do not matter.
 */
extern size_t amt_token_find(const char *s, size_t len, size_t from);

#endif							/* AMT_TOKEN_H */
