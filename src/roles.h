/*
 * roles.h
 *	  Roles and scopes: their names, and which include which.
 */
#ifndef AMT_ROLES_H
#define AMT_ROLES_H

#include "fmgr.h"

#define AMT_SCOPES_MAX		64
#define AMT_SCOPE_LEN_MAX	100

extern void amt_roles_init(void);

/* A role's rank in amt_keys.roles, or -1 if it is unknown. */
extern int	amt_role_rank(const char *role);

/* The rank of amt_keys.manager_role, or -1. */
extern int	amt_manager_rank(void);

/* Raise 22023 for an unknown role. */
extern void amt_unknown_role(const char *role);

/*
 * A list of scopes is a text of names with commas between them; "," is the
 * list without names.  NULL means that no scope restricts the caller.
 */

/* Is this a list of scopes?  If not, *detail says why. */
extern bool amt_scopes_are_valid(const char *scopes, const char **detail);

/* Does the list have this scope, or all scopes of the other list? */
extern bool amt_scopes_have(const char *scopes, const char *scope, Size len);
extern bool amt_scopes_include(const char *scopes, const char *others);

/*
 * Convert an array of names to a list, and back.  Returns NULL and sets
 * *detail if the array is not a list of valid scopes.
 */
extern char *amt_scopes_from_array(Datum array, const char **detail);
extern Datum amt_scopes_to_array(const char *scopes);

#endif							/* AMT_ROLES_H */
