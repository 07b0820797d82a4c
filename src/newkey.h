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
	const char *scopes;			/* a list as in roles.h */
	const char *created_by;
	const char *replaces;
	TimestampTz created_at;
	TimestampTz expires_at;		/* DT_NOEND if it has none */
	const uint8 *token_sha256;	/* of an imported key, else NULL */
	char	   *token_prefix;	/* the displayed prefix */
	char		token[AMT_TOKEN_MAX + 1];	/* with the secret; empty if the
											 * key is imported */
	char		phc[AMT_PHC_MAX];	/* hash of the secret; empty if the key is
									 * imported */
	char		key_id[AMT_ID_LEN + 1];
} AmtNewKey;

/*
 * Raise 42501 or 22023 unless the caller may create a key in this
 * organization with this role and these scopes.  A NULL is replaced by the
 * identity's value.
 */
extern void amt_newkey_check(const char **org_id, const char **role, const char **scopes);

/*
 * Give the key an id, which the unique index refuses if it is taken, and a
 * displayed prefix if there is none.  Unless it is imported, give it a token,
 * too, and hash the secret: that runs scrypt, so the caller must hold no lock.
 */
extern void amt_newkey_make_token(AmtNewKey *key);

/*
 * Insert the row, and enter the proof of its secret.  The caller must wipe
 * the key.
 */
extern void amt_newkey_insert(Relation rel, AmtNewKey *key);

/* Check the type amt_new_key, and make a row of it. */
extern void amt_newkey_check_type(FunctionCallInfo fcinfo);
extern Datum amt_newkey_result(FunctionCallInfo fcinfo, const AmtNewKey *key);

#endif							/* AMT_NEWKEY_H */
