/*
 * ascii.h
 *	  The characters that tokens are made of.
 *
 * Tokens are ASCII in every locale, so we do not use <ctype.h>.  Every
 * server encoding of PostgreSQL contains ASCII.  No byte of a longer
 * character looks like one of these.
 */
#ifndef AMT_ASCII_H
#define AMT_ASCII_H

#include <stdbool.h>

/* A prefix begins with one of these. */
static inline bool
amt_is_lower(char c)
{
	return c >= 'a' && c <= 'z';
}

/* A prefix consists of these. */
static inline bool
amt_is_lower_or_digit(char c)
{
	return amt_is_lower(c) || (c >= '0' && c <= '9');
}

/* A key id, and a secret that we write, consist of these. */
static inline bool
amt_is_base62(char c)
{
	return (c >= '0' && c <= '9') || (c >= 'A' && c <= 'Z') || (c >= 'a' && c <= 'z');
}

/* A secret that we read consists of these. */
static inline bool
amt_is_secret_char(char c)
{
	return amt_is_base62(c) || c == '_' || c == '-';
}

#endif							/* AMT_ASCII_H */
