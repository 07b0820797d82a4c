/*
 * identity.c
 *	  Who is calling: the identity, and what its role allows.
 *
 * The identity is held by four settings that only a superuser, or who was
 * granted SET on them, can change, so PostgreSQL's own rules protect it.  They
 * have to be read through this library, never by current_setting(): before the
 * library is loaded anybody can make a placeholder of that name, which loading
 * throws away.
 *
 * The C code sets them as SET LOCAL does (PGC_S_SESSION and GUC_ACTION_LOCAL):
 * the value ends with the transaction, savepoints restore it, and parallel
 * workers are given it.
 *
 * amt_authenticate() seals the identity until the end of the transaction.  It
 * serves web users whose session user may set the identity, and RESET ROLE
 * takes SQL that was smuggled into such a request back to that user.  While the
 * seal holds, SET is refused and nobody is trusted, but for a superuser's own
 * session.  A savepoint does not break it: it is a variable of this process,
 * compared with the transaction's number.  RESET asks no one,
 * so it is not refused but comes to nothing: the identities that the C code has
 * set since are remembered, and any other combination of the four settings is no
 * identity.  (Parallel workers do not know of the seal and read the settings as
 * they are; nothing is written there, and the organization cannot have become
 * another's.)
 */
#include "postgres.h"

#include "access/xact.h"
#include "miscadmin.h"
#include "utils/acl.h"
#include "utils/builtins.h"
#include "utils/guc.h"
#include "utils/memutils.h"
#include "utils/varlena.h"

#include "compat.h"
#include "identity.h"

static char *org_id_setting = NULL;
static char *role_setting = NULL;
static char *actor_setting = NULL;
static char *key_id_setting = NULL;
static char *roles_setting = NULL;
static char *manager_role_setting = NULL;

/* The check hook's reading of amt_keys.roles, lowest first. */
typedef struct RoleList
{
	int			n;
	int			offset[FLEXIBLE_ARRAY_MEMBER];	/* of each name, from the
												 * block's start */
} RoleList;

static RoleList *role_list = NULL;

static const char *
role_name(const RoleList *list, int i)
{
	return (const char *) list + list->offset[i];
}

static bool
roles_are_distinct(List *names)
{
	ListCell   *a;
	ListCell   *b;

	foreach(a, names)
	{
		for_each_cell(b, names, lnext(names, a))
		{
			if (strcmp(lfirst(a), lfirst(b)) == 0)
			{
				GUC_check_errdetail("Role \"%s\" appears twice.", (char *) lfirst(a));
				return false;
			}
		}
	}
	return true;
}

static RoleList *
make_role_list(List *names)
{
	Size		size = offsetof(RoleList, offset) + sizeof(int) * list_length(names);
	Size		at = size;
	RoleList   *list;
	ListCell   *cell;

	foreach(cell, names)
		size += strlen(lfirst(cell)) + 1;
	list = amt_guc_alloc(size);
	if (list == NULL)
		return NULL;
	list->n = 0;
	foreach(cell, names)
	{
		strcpy((char *) list + at, lfirst(cell));
		list->offset[list->n++] = at;
		at += strlen(lfirst(cell)) + 1;
	}
	return list;
}

static bool
check_roles(char **newval, void **extra, GucSource source)
{
	char	   *copy = pstrdup(*newval);
	List	   *names;
	ListCell   *cell;

	if (!SplitGUCList(copy, ',', &names))
	{
		GUC_check_errdetail("List syntax is invalid.");
		return false;
	}
	if (names == NIL)
	{
		GUC_check_errdetail("The list of roles is empty.");
		return false;
	}
	foreach(cell, names)
	{
		const char *name = lfirst(cell);

		if (*name == '\0' || strlen(name) >= NAMEDATALEN)
		{
			GUC_check_errdetail("A role's name must have 1 to %d bytes.", NAMEDATALEN - 1);
			return false;
		}
	}
	if (!roles_are_distinct(names))
		return false;
	*extra = make_role_list(names);
	list_free(names);
	pfree(copy);
	return *extra != NULL;
}

static void
assign_roles(const char *newval, void *extra)
{
	role_list = extra;
}

/* The transaction whose identity is sealed, if it still runs. */
static LocalTransactionId sealed_transaction = InvalidLocalTransactionId;

/* An identity that holds under the seal; empty for a part that is unset. */
typedef struct Sealed
{
	struct Sealed *next;
	char	   *part[4];
} Sealed;

static Sealed *sealed = NULL;	/* in the sealed transaction's memory */

/* Is amt_identity_set() at work? */
static bool setting = false;

bool
amt_identity_is_sealed(void)
{
	return LocalTransactionIdIsValid(sealed_transaction) &&
		sealed_transaction == amt_local_transaction_id() &&
		!superuser_arg(GetSessionUserId());
}

static bool
same_part(const char *a, const char *b)
{
	return strcmp(a != NULL ? a : "", b != NULL ? b : "") == 0;
}

/* Are the settings one of the identities that hold? */
static bool
is_among_sealed(void)
{
	for (Sealed *s = sealed; s != NULL; s = s->next)
		if (same_part(s->part[0], org_id_setting) && same_part(s->part[1], role_setting) &&
			same_part(s->part[2], actor_setting) && same_part(s->part[3], key_id_setting))
			return true;
	return false;
}

/* From now on the settings as they are hold, too. */
static void
add_sealed(void)
{
	const char *part[4] = {org_id_setting, role_setting, actor_setting, key_id_setting};
	Sealed	   *s;

	if (is_among_sealed())
		return;
	s = MemoryContextAllocZero(TopTransactionContext, sizeof(Sealed));
	for (int i = 0; i < 4; i++)
		s->part[i] = MemoryContextStrdup(TopTransactionContext, part[i] != NULL ? part[i] : "");
	s->next = sealed;
	sealed = s;
}

void
amt_identity_seal(void)
{
	if (sealed_transaction == amt_local_transaction_id())
		return;
	sealed = NULL;
	add_sealed();
	sealed_transaction = amt_local_transaction_id();
}

/* SET and its like, ALTER ROLE SET included; not a savepoint's restoring. */
static bool
check_identity(char **newval, void **extra, GucSource source)
{
	if (setting || source < PGC_S_TEST || !amt_identity_is_sealed())
		return true;
	GUC_check_errcode(ERRCODE_INSUFFICIENT_PRIVILEGE);
	GUC_check_errmsg("permission denied to set the identity");
	GUC_check_errdetail("The identity was decided by amt_authenticate() and stays until the end of the transaction.");
	return false;
}

static void
define_identity(const char *name, const char *short_desc, const char *long_desc, char **value)
{
	DefineCustomStringVariable(name, short_desc, long_desc, value, "",
							   PGC_SUSET, 0, check_identity, NULL, NULL);
}

void
amt_identity_init(void)
{
	define_identity("amt_keys.org_id",
					"The organization that is calling; empty for none.",
					"Row-level security of the extension's tables, and of yours through amt_org_id(), depends on it. See section 4 of the contract.",
					&org_id_setting);
	define_identity("amt_keys.role",
					"The caller's role in the organization; one of amt_keys.roles, or empty.",
					"Read it with amt_role(), test it with amt_has_role(). See section 4 of the contract.",
					&role_setting);
	define_identity("amt_keys.actor",
					"The person who is calling, as the application names it; empty for none.",
					"Recorded as created_by of new keys. See section 4 of the contract.",
					&actor_setting);
	define_identity("amt_keys.key_id",
					"The key that is calling; empty if none is.",
					"Set by amt_verify() and amt_authenticate(). See section 4 of the contract.",
					&key_id_setting);
	DefineCustomStringVariable("amt_keys.roles",
							   "Lists the names of roles, lowest first.",
							   "Each role includes those before it. See section 4 of the contract.",
							   &roles_setting,
							   "viewer, editor, admin, owner",
							   PGC_SUSET, GUC_LIST_INPUT,
							   check_roles, assign_roles, NULL);
	DefineCustomStringVariable("amt_keys.manager_role",
							   "Sets the lowest role that manages other people's keys.",
							   "One of amt_keys.roles; with any other name nobody does. See section 4 of the contract.",
							   &manager_role_setting,
							   "admin",
							   PGC_SUSET, 0, NULL, NULL, NULL);
}

static const char *
get_part(const char *value)
{
	if (value == NULL || value[0] == '\0' ||
		(amt_identity_is_sealed() && !is_among_sealed()))
		return NULL;
	return value;
}

const char *
amt_identity_org_id(void)
{
	return get_part(org_id_setting);
}

const char *
amt_identity_role(void)
{
	return get_part(role_setting);
}

const char *
amt_identity_actor(void)
{
	return get_part(actor_setting);
}

const char *
amt_identity_key_id(void)
{
	return get_part(key_id_setting);
}

static void
set_local(const char *name, const char *value)
{
	(void) set_config_option(name, value != NULL ? value : "",
							 PGC_SUSET, PGC_S_SESSION, GUC_ACTION_LOCAL,
							 true, 0, false);
}

void
amt_identity_set(const char *org_id, const char *role, const char *actor, const char *key_id)
{
	setting = true;
	PG_TRY();
	{
		set_local("amt_keys.org_id", org_id);
		set_local("amt_keys.role", role);
		set_local("amt_keys.actor", actor);
		set_local("amt_keys.key_id", key_id);
	}
	PG_FINALLY();
	{
		setting = false;
	}
	PG_END_TRY();
	if (amt_identity_is_sealed())
		add_sealed();
}

int
amt_role_rank(const char *role)
{
	for (int i = 0; i < role_list->n; i++)
		if (strcmp(role_name(role_list, i), role) == 0)
			return i;
	return -1;
}

void
amt_unknown_role(const char *role)
{
	ereport(ERROR,
			(errcode(ERRCODE_INVALID_PARAMETER_VALUE),
			 errmsg("role \"%s\" is not known", role),
			 errhint("The roles in \"amt_keys.roles\" are: %s.", roles_setting)));
}

/* A role that is known, in an organization. */
static bool
identity_reaches(int minimum)
{
	return amt_identity_role() != NULL && amt_identity_org_id() != NULL &&
		minimum >= 0 && amt_role_rank(amt_identity_role()) >= minimum;
}

bool
amt_identity_has_role(const char *minimum)
{
	int			rank = amt_role_rank(minimum);

	/* Without identity the answer is no, whatever the question. */
	if (rank < 0 && amt_identity_role() != NULL && amt_identity_org_id() != NULL)
		amt_unknown_role(minimum);
	return identity_reaches(rank);
}

bool
amt_identity_is_manager(void)
{
	return identity_reaches(amt_role_rank(manager_role_setting));
}

bool
amt_is_trusted(Oid roleid)
{
	if (amt_identity_is_sealed())
		return false;
	return pg_parameter_aclcheck("amt_keys.org_id", roleid, ACL_SET) == ACLCHECK_OK;
}

bool
amt_text_is(Datum text_value, const char *string)
{
	text	   *value = DatumGetTextPP(text_value);
	Size		len = VARSIZE_ANY_EXHDR(value);

	return len == strlen(string) && memcmp(VARDATA_ANY(value), string, len) == 0;
}

static Datum
text_or_null(FunctionCallInfo fcinfo, const char *value)
{
	if (value == NULL)
		PG_RETURN_NULL();
	PG_RETURN_TEXT_P(cstring_to_text(value));
}

PG_FUNCTION_INFO_V1(amt_org_id);
Datum
amt_org_id(PG_FUNCTION_ARGS)
{
	return text_or_null(fcinfo, amt_identity_org_id());
}

PG_FUNCTION_INFO_V1(amt_role);
Datum
amt_role(PG_FUNCTION_ARGS)
{
	return text_or_null(fcinfo, amt_identity_role());
}

PG_FUNCTION_INFO_V1(amt_actor);
Datum
amt_actor(PG_FUNCTION_ARGS)
{
	return text_or_null(fcinfo, amt_identity_actor());
}

PG_FUNCTION_INFO_V1(amt_key_id);
Datum
amt_key_id(PG_FUNCTION_ARGS)
{
	return text_or_null(fcinfo, amt_identity_key_id());
}

PG_FUNCTION_INFO_V1(amt_has_role);
Datum
amt_has_role(PG_FUNCTION_ARGS)
{
	if (PG_ARGISNULL(0))
		PG_RETURN_BOOL(false);
	PG_RETURN_BOOL(amt_identity_has_role(text_to_cstring(PG_GETARG_TEXT_PP(0))));
}

PG_FUNCTION_INFO_V1(amt_require_role);
Datum
amt_require_role(PG_FUNCTION_ARGS)
{
	if (PG_ARGISNULL(0) ||
		!amt_identity_has_role(text_to_cstring(PG_GETARG_TEXT_PP(0))))
		ereport(ERROR,
				(errcode(MAKE_SQLSTATE('P', 'T', '4', '0', '3')),
				 errmsg("forbidden_role")));
	PG_RETURN_VOID();
}
