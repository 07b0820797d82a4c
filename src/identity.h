/*
 * identity.h
 *	  The identity of the caller, and its rights.
 */
#ifndef AMT_IDENTITY_H
#define AMT_IDENTITY_H

#include "fmgr.h"

/* The parts of an identity; each is NULL when unset. */
typedef struct AmtIdentity
{
	const char *org_id;
	const char *role;
	const char *scopes;			/* a list as in roles.h */
	const char *actor;
	const char *key_id;
} AmtIdentity;

extern void amt_identity_init(void);

/* Called before the settings are defined: no part of the identity may be lost. */
extern void amt_identity_expect(void);

/*
 * After all settings are defined: tell parallel workers if the session is
 * refused.
 */
extern void amt_identity_publish(void);

/*
 * Once before the identity is used, and before a plan with parallel workers
 * uses it: refuse the session if a stored part has not arrived.
 */
extern void amt_identity_compare(void);

/*
 * The identity now; the strings stay valid until it changes.  In a
 * security-restricted operation it is empty.
 */
extern AmtIdentity amt_identity(void);

/*
 * The identity in any operation.  For records only: it must never give a
 * right.
 */
extern AmtIdentity amt_identity_recorded(void);

/* Set all parts until the end of the transaction. */
extern void amt_identity_set(const AmtIdentity *identity);

/*
 * Seal the identity until the end of the transaction.  While the identity is
 * sealed, only amt_identity_set() changes it.  After any other change,
 * amt_identity() answers "nobody".
 */
extern void amt_identity_seal(void);
extern bool amt_identity_is_sealed(void);

/* Does the identity's role include this one?  Raises 22023 if it is unknown. */
extern bool amt_identity_has_role(const char *minimum);

/* Does the identity's role include amt_keys.manager_role? */
extern bool amt_identity_is_manager(void);

/*
 * Has the transaction set and reset the id of the key?  RESET ALL asks for no
 * right, so code with other rights may have done that.
 */
extern bool amt_identity_was_reset(void);

/*
 * Is the current user trusted with the keys of all organizations?  It must
 * have SET on amt_keys.org_id.  No user is trusted while the identity is
 * sealed or is a key.
 */
extern bool amt_caller_is_trusted(void);

/* May this role set amt_keys.org_id? */
extern bool amt_role_may_identify(Oid roleid);

#endif							/* AMT_IDENTITY_H */
