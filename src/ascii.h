/*
 * ascii.h
 *	  What tokens are made of.
 *
 * ASCII by definition, so the C library's <ctype.h>, which asks the locale,
 * has no say here.  Every server encoding of PostgreSQL is a superset of
 * ASCII in which no byte of a longer character looks like one of these.
 */
#ifndef AMT_ASCII_H
#define AMT_ASCII_H

#include <stdbool.h>

/* Prefixes begin with one of these. */
static inline bool
amt_is_lower(char c)
{
	return c >= 'a' && c <= 'z';
}

/* Prefixes. */
static inline bool
amt_is_lower_or_digit(char c)
{
	return amt_is_lower(c) || (c >= '0' && c <= '9');
}

/* Key ids, and the secrets that we write. */
static inline bool
amt_is_base62(char c)
{
	return (c >= '0' && c <= '9') || (c >= 'A' && c <= 'Z') || (c >= 'a' && c <= 'z');
}

/* Secrets that we read. */
static inline bool
amt_is_secret_char(char c)
{
	return amt_is_base62(c) || c == '_' || c == '-';
}

#endif							/* AMT_ASCII_H */
