/*
 * checks.h
 *	  Rules for the texts and times of a key.
 */
#ifndef AMT_CHECKS_H
#define AMT_CHECKS_H

#include "datatype/timestamp.h"

#define AMT_NAME_MAX_CHARS		100
#define AMT_ORG_MAX_CHARS		255

extern void amt_checks_init(void);

/*
 * Each returns false and sets *problem if the text is not valid.  Its
 * encoding must have been verified.  Those named "stored" judge rows,
 * however they came in.
 */
extern bool amt_org_id_is_valid(const char *org_id, const char **problem);
extern bool amt_stored_org_id_is_valid(const char *org_id, const char **problem);
extern bool amt_stored_name_is_valid(const char *name, const char **problem);
extern bool amt_stored_token_prefix_is_valid(const char *prefix, const char **problem);

/* Does the text hold a token, or what may be a part of one? */
extern bool amt_holds_token(const char *s);

/*
 * Check a caller's argument.  Raises 22023 if it is not valid or holds a
 * token.  amt_check_name() returns the name without surrounding spaces.
 */
extern char *amt_check_name(const char *name);
extern void amt_check_token_prefix(const char *prefix);

/* Raise 22023, with a hint. */
extern void amt_invalid(const char *problem, const char *hint);

/*
 * The expiry of a key that is created without one.  DT_NOEND stands for
 * none.
 */
extern TimestampTz amt_default_expiry(TimestampTz now);

/*
 * Raise 22023 if amt_keys.max_lifetime forbids this expiry of a key that was
 * created then.  DT_NOEND stands for none.
 */
extern void amt_check_lifetime(TimestampTz created_at, TimestampTz expires_at);

#endif							/* AMT_CHECKS_H */
