/*
 * target.h
 *	  The key that a caller names, and whether the caller may manage it.
 */
#ifndef AMT_TARGET_H
#define AMT_TARGET_H

#include "rows.h"
#include "write.h"
#include "token.h"

typedef struct AmtTarget
{
	AmtKey		key;
	bool		is_whole_token; /* an imported key's token was presented */
	bool		has_secret;		/* "token" was presented; its secret is not
								 * proved */
	AmtToken	token;			/* the presented token; valid if "has_secret" */
} AmtTarget;

/*
 * Raise an error where keys cannot be managed: in a READ ONLY transaction, in
 * parallel mode, and in a security-restricted operation.
 */
extern void amt_check_writable(const char *command);

/*
 * Find the key named by an id, a displayed prefix or a whole token.  Raises
 * 21000 if a displayed prefix fits several keys within the caller's reach.
 */
extern bool amt_target_find(Oid extension, const char *s, Size len, AmtTarget *target);

/*
 * Was the key's own token presented, with the right secret?  Runs scrypt if it
 * must, and counts a wrong secret.
 */
extern bool amt_target_has_right_secret(Oid extension, const AmtTarget *target);

/* Does the caller reach the keys of this organization? */
extern bool amt_target_in_reach(Datum org_id);

/*
 * May the caller manage a key with these properties?  A trusted caller may.
 * In the identity's organization the key's creator and the manager role may.
 * A key may not.
 */
extern bool amt_may_manage_key(Datum org_id, bool has_creator, Datum created_by);

/*
 * May the caller revoke the key: may it manage the key, or is it the key
 * itself?
 */
extern bool amt_may_revoke_key(const AmtKey *key);

/*
 * Find and lock the key whose rights the caller has checked; false if it is
 * gone.  "write" must be a write to amt_key.  Raises 40001 if another key has
 * its id now, which is rare: the owner of the table has moved the row.
 */
extern bool amt_lock_key(AmtWrite *write, const AmtKey *checked);

/*
 * Raise 40001 with this detail unless the locked row has the same values in
 * the columns as the key that the caller has looked at.
 */
extern void amt_check_unchanged(AmtWrite *write, const AmtKey *checked,
								const AttrNumber *columns, int n, const char *detail);

/*
 * Revoke the key; false if it is gone.  The caller must have checked the
 * rights.
 */
extern bool amt_revoke_key(Relation rel, const AmtKey *checked);

#endif							/* AMT_TARGET_H */
