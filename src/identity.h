/*
 * identity.h
 *	  Who is calling: the identity, and what its role allows.
 */
#ifndef AMT_IDENTITY_H
#define AMT_IDENTITY_H

#include "fmgr.h"

extern void amt_identity_init(void);

/* The identity's parts; NULL when unset. */
extern const char *amt_identity_org_id(void);
extern const char *amt_identity_role(void);
extern const char *amt_identity_actor(void);
extern const char *amt_identity_key_id(void);

/* Set all parts until the end of the transaction; NULL clears. */
extern void amt_identity_set(const char *org_id, const char *role,
							 const char *actor, const char *key_id);

/*
 * Until the end of the transaction, only amt_identity_set() changes it; what
 * else happens to the settings makes it none.
 */
extern void amt_identity_seal(void);
extern bool amt_identity_is_sealed(void);

/* A role's rank in amt_keys.roles, or -1 if it is unknown. */
extern int	amt_role_rank(const char *role);

/* Raise the error for an unknown role. */
extern void amt_unknown_role(const char *role);

/* Does the identity's role include this one? */
extern bool amt_identity_has_role(const char *minimum);

/* Does it include amt_keys.manager_role? */
extern bool amt_identity_is_manager(void);

/* May this database role set amt_keys.org_id?  Not while it is sealed. */
extern bool amt_is_trusted(Oid roleid);

/* Is the text this string?  (No collation: bytes.) */
extern bool amt_text_is(Datum text_value, const char *string);

#endif							/* AMT_IDENTITY_H */
