/*
 * newkey.h
 *	  Making a new row of amt_key.
 */
#ifndef AMT_NEWKEY_H
#define AMT_NEWKEY_H

#include "fmgr.h"
#include "phc.h"
#include "rows.h"

/* A key to be made.  The strings are NULL where the column is null. */
typedef struct AmtNewKey
{
	const char *name;
	const char *org_id;
	const char *role;
	const char *scopes;			/* a list, see roles.h */
	const char *created_by;
	const char *replaces;
	TimestampTz created_at;
	TimestampTz expires_at;		/* DT_NOEND for none */
	const uint8 *token_sha256;	/* of an imported key, else NULL */
	char	   *token_prefix;
	char		token[AMT_TOKEN_MAX + 1];	/* of a new key */
	char		phc[AMT_PHC_MAX];	/* of a new key */
	char		key_id[AMT_ID_LEN + 1];
} AmtNewKey;

/*
 * Raise 42501 or 22023 unless the caller may create a key in this organization
 * with this role and these scopes.  NULL stands for the identity's, and is
 * replaced by it.
 */
extern void amt_newkey_check(const char **org_id, const char **role, const char **scopes);

/* Give the key a token, and hash its secret.  Runs scrypt; hold nothing. */
extern void amt_newkey_make_token(AmtNewKey *key);

/* Insert the row, remember the proof of its secret, wipe nothing. */
extern void amt_newkey_insert(Relation rel, AmtNewKey *key);

/* The row of type amt_new_key; checks that type. */
extern void amt_newkey_check_type(FunctionCallInfo fcinfo);
extern Datum amt_newkey_result(FunctionCallInfo fcinfo, const AmtNewKey *key);

/* Is amt_newkey_insert() at work?  Its key is new, whenever it was created. */
extern bool amt_newkey_is_inserting(void);

#endif							/* AMT_NEWKEY_H */
