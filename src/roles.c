/*
 * roles.c
 *	  Roles and scopes: their names, and which include which.
 *
 * The application chooses the names of roles, lowest first.  Each role
 * includes those before it.  Scopes are names too, and narrow the rights of
 * a role.  No scope includes another.
 */
#include "postgres.h"

#include "access/parallel.h"
#include "catalog/pg_type.h"
#include "utils/array.h"
#include "utils/builtins.h"
#include "utils/guc.h"
#include "utils/varlena.h"

#include "compat.h"
#include "prefixes.h"
#include "roles.h"

static char *roles_setting = NULL;
static char *manager_role_setting = NULL;

/* amt_keys.roles as parsed by the check hook, lowest first. */
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

static int
find_role(const RoleList *list, const char *role)
{
	for (int i = 0; list != NULL && i < list->n; i++)
		if (strcmp(role_name(list, i), role) == 0)
			return i;
	return -1;
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
role_names_are_valid(List *names)
{
	ListCell   *a;
	ListCell   *b;

	if (names == NIL)
	{
		GUC_check_errdetail("The list of roles is empty.");
		return false;
	}
	foreach(a, names)
	{
		const char *name = lfirst(a);

		if (*name == '\0' || strlen(name) >= NAMEDATALEN)
		{
			GUC_check_errdetail("A role's name must have 1 to %d bytes.", NAMEDATALEN - 1);
			return false;
		}
		for_each_cell(b, names, lnext(names, a))
		{
			if (strcmp(name, lfirst(b)) == 0)
			{
				GUC_check_errdetail("Role \"%s\" appears twice.", name);
				return false;
			}
		}
	}
	return true;
}

/* Report a manager role that is not one of the roles: then nobody has it. */
static void
check_manager(const RoleList *list, const char *roles, const char *manager, GucSource source)
{
	/* A parallel worker gets its settings one by one. */
	if (list == NULL || manager == NULL || source == PGC_S_DEFAULT || IsParallelWorker() ||
		find_role(list, manager) >= 0)
		return;
	ereport(source >= PGC_S_INTERACTIVE ? WARNING : LOG,
			(errcode(ERRCODE_INVALID_PARAMETER_VALUE),
			 errmsg("\"amt_keys.manager_role\" is \"%s\", which is not in \"amt_keys.roles\"", manager),
			 errdetail("Nobody can manage other people's keys."),
			 errhint("The roles in \"amt_keys.roles\" are: %s.", roles)));
}

static bool
check_roles(char **newval, void **extra, GucSource source)
{
	char	   *copy = pstrdup(*newval);
	List	   *names;

	if (!SplitGUCList(copy, ',', &names))
	{
		GUC_check_errdetail("List syntax is invalid.");
		return false;
	}
	if (!role_names_are_valid(names))
		return false;
	*extra = make_role_list(names);
	list_free(names);
	pfree(copy);
	if (*extra == NULL)
		return false;
	check_manager(*extra, *newval, manager_role_setting, source);
	return true;
}

static void
assign_roles(const char *newval, void *extra)
{
	role_list = extra;
}

static bool
check_manager_role(char **newval, void **extra, GucSource source)
{
	check_manager(role_list, roles_setting, *newval, source);
	return true;
}

void
amt_roles_init(void)
{
	DefineCustomStringVariable("amt_keys.roles",
							   "Lists the names of roles, lowest first.",
							   "Each role includes those before it.",
							   &roles_setting,
							   "viewer, editor, admin, owner",
							   PGC_SUSET, GUC_LIST_INPUT,
							   check_roles, assign_roles, NULL);
	DefineCustomStringVariable("amt_keys.manager_role",
							   "Sets the lowest role that manages other people's keys.",
							   "It must be one of amt_keys.roles; with any other name nobody manages them.",
							   &manager_role_setting,
							   "admin",
							   PGC_SUSET, 0, check_manager_role, NULL, NULL);
}

int
amt_role_rank(const char *role)
{
	return find_role(role_list, role);
}

int
amt_manager_rank(void)
{
	return amt_role_rank(manager_role_setting);
}

void
amt_unknown_role(const char *role)
{
	ereport(ERROR,
			(errcode(ERRCODE_INVALID_PARAMETER_VALUE),
			 errmsg("role \"%s\" is not known", amt_masked(role)),
			 errhint("The roles in \"amt_keys.roles\" are: %s.", roles_setting)));
}

/* A scope-token of RFC 6749 without commas. */
static bool
scope_is_valid(const char *scope, Size len)
{
	if (len < 1 || len > AMT_SCOPE_LEN_MAX)
		return false;
	for (Size i = 0; i < len; i++)
		if (scope[i] <= ' ' || scope[i] > '~' || strchr("\"\\,", scope[i]) != NULL)
			return false;
	return true;
}

/* Get the next name of a list and advance *at; false at the end. */
static bool
next_scope(const char **at, const char **scope, Size *len)
{
	if (**at == '\0')
		return false;
	*scope = *at;
	*len = strcspn(*at, ",");
	*at += *len;
	if (**at == ',')
		(*at)++;
	return true;
}

static bool
list_has(const char *list, const char *end, const char *scope, Size len)
{
	const char *at = list;
	const char *name;
	Size		name_len;

	while (at < end && next_scope(&at, &name, &name_len))
		if (name_len == len && memcmp(name, scope, len) == 0)
			return true;
	return false;
}

bool
amt_scopes_are_valid(const char *scopes, const char **detail)
{
	const char *at = scopes;
	const char *scope;
	Size		len;
	int			n = 0;

	if (strcmp(scopes, ",") == 0)
		return true;
	while (next_scope(&at, &scope, &len))
	{
		if (!scope_is_valid(scope, len))
			*detail = "A scope has 1 to 100 printable ASCII characters without space, comma, double quote and backslash.";
		else if (list_has(scopes, scope, scope, len))
			*detail = "A scope is listed twice.";
		else if (++n > AMT_SCOPES_MAX)
			*detail = "There can be at most 64 scopes.";
		else
			continue;
		return false;
	}
	if (at > scopes && at[-1] == ',')
	{
		*detail = "The list ends with a comma.";
		return false;
	}
	return true;
}

bool
amt_scopes_have(const char *scopes, const char *scope, Size len)
{
	return scopes == NULL ||
		(len > 0 && list_has(scopes, scopes + strlen(scopes), scope, len));
}

bool
amt_scopes_include(const char *scopes, const char *others)
{
	const char *at = others;
	const char *scope;
	Size		len;

	if (scopes == NULL)
		return true;
	if (others == NULL)
		return false;
	while (next_scope(&at, &scope, &len))
		if (len > 0 && !amt_scopes_have(scopes, scope, len))
			return false;
	return true;
}

char *
amt_scopes_from_array(Datum array, const char **detail)
{
	ArrayType  *names = DatumGetArrayTypeP(array);
	StringInfoData scopes;
	Datum	   *elements;
	bool	   *nulls;
	int			n;

	if (ARR_ELEMTYPE(names) != TEXTOID || ARR_NDIM(names) > 1)
	{
		*detail = "The scopes are not a list of one dimension.";
		return NULL;
	}
	deconstruct_array(names, TEXTOID, -1, false, TYPALIGN_INT, &elements, &nulls, &n);
	initStringInfo(&scopes);
	for (int i = 0; i < n; i++)
	{
		text	   *scope = nulls[i] ? NULL : DatumGetTextPP(elements[i]);

		if (scope == NULL || !scope_is_valid(VARDATA_ANY(scope), VARSIZE_ANY_EXHDR(scope)))
		{
			*detail = "A scope has 1 to 100 printable ASCII characters without space, comma, double quote and backslash.";
			return NULL;
		}
		if (i > 0)
			appendStringInfoChar(&scopes, ',');
		appendBinaryStringInfo(&scopes, VARDATA_ANY(scope), VARSIZE_ANY_EXHDR(scope));
	}
	if (n == 0)
		appendStringInfoChar(&scopes, ',');
	return amt_scopes_are_valid(scopes.data, detail) ? scopes.data : NULL;
}

Datum
amt_scopes_to_array(const char *scopes)
{
	Datum		elements[AMT_SCOPES_MAX];
	const char *at = scopes;
	const char *scope;
	Size		len;
	int			n = 0;

	while (n < AMT_SCOPES_MAX && next_scope(&at, &scope, &len))
		if (len > 0)
			elements[n++] = PointerGetDatum(cstring_to_text_with_len(scope, len));
	return PointerGetDatum(construct_array(elements, n, TEXTOID, -1, false, TYPALIGN_INT));
}
