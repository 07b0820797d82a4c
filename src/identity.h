/*
 * identity.h
 *	  The identity of the caller, and what it allows.
 */
#ifndef AMT_IDENTITY_H
#define AMT_IDENTITY_H

#include "fmgr.h"

/* The parts of an identity; each is NULL when unset. */
typedef struct AmtIdentity
{
	const char *org_id;
	const char *role;
	const char *scopes;			/* a list, see roles.h */
	const char *actor;
	const char *key_id;
} AmtIdentity;

extern void amt_identity_init(void);

/* After all settings are defined: tell parallel workers of a refused session. */
extern void amt_identity_publish(void);

/*
 * The identity now; the strings stay valid until it changes.  In a
 * security-restricted operation it is empty.
 */
extern AmtIdentity amt_identity(void);

/* The same in any operation: for the record of what happens, not to decide. */
extern AmtIdentity amt_identity_recorded(void);

/* Set all parts until the end of the transaction. */
extern void amt_identity_set(const AmtIdentity *identity);

/*
 * Until the end of the transaction, only amt_identity_set() changes the
 * identity; after any other change there is none.
 */
extern void amt_identity_seal(void);
extern bool amt_identity_is_sealed(void);

/* Does the identity's role include this one? */
extern bool amt_identity_has_role(const char *minimum);

/* Does it include amt_keys.manager_role? */
extern bool amt_identity_is_manager(void);

/*
 * Is the current user trusted with the keys of all organizations?  It must have
 * SET on amt_keys.org_id.  Nobody is trusted while the identity is sealed or a
 * key's.
 */
extern bool amt_caller_is_trusted(void);

/* May this role set amt_keys.org_id? */
extern bool amt_role_may_identify(Oid roleid);

#endif							/* AMT_IDENTITY_H */
