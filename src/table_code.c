/*
 * table_code.c
 *	  The code that runs when one of our tables is written.
 *
 * We write a table as its owner, on behalf of any caller.  So another role's
 * code on the table would get the owner's rights.  And the owner's code
 * would run in other people's sessions, where even a restricted operation
 * leaves it ways to their rights.  Therefore:
 *
 * - Our own triggers may run, and expressions of built-in types and
 *   functions that can run no SQL.
 * - The owner's code may run if the owner is a superuser and its functions
 *   look into pg_temp last.  That is a trigger with nothing but a function of
 *   the owner, or an expression of built-in functions.
 * - Anything else is an error: code of other roles, functions in expressions,
 *   types and operator classes that are not built in, and expressions that we
 *   do not look into.  So are foreign keys, from and to the table: the tables
 *   behind them have code of their own.
 *
 * Our worker makes no exception: in one process it may write tables of one
 * owner after those of another.
 *
 * The result is kept until something changes that it depends on.
 */
#include "postgres.h"

#include "access/genam.h"
#include "access/htup_details.h"
#include "access/transam.h"
#include "catalog/dependency.h"
#include "catalog/pg_class.h"
#include "catalog/pg_index.h"
#include "catalog/pg_language.h"
#include "catalog/pg_proc.h"
#include "catalog/pg_type.h"
#include "commands/trigger.h"
#include "miscadmin.h"
#include "nodes/nodeFuncs.h"
#include "rewrite/rewriteHandler.h"
#include "utils/acl.h"
#include "utils/array.h"
#include "utils/builtins.h"
#include "utils/fmgroids.h"
#include "utils/inval.h"
#include "utils/rel.h"
#include "utils/syscache.h"
#include "utils/varlena.h"

#include "compat.h"
#include "table_code.h"

/* What a table has of its owner's code. */
typedef enum OwnersCode
{
	NO_CODE,
	SAFE_CODE,					/* its functions look into pg_temp last */
	CODE						/* others' temporary objects may catch its
								 * names */
} OwnersCode;

/* The tables that were checked last. */
#define NCHECKED	3
static struct
{
	Oid			relid;
	OwnersCode	code;
}			checked[NCHECKED];

/* A check that is under way. */
typedef struct Check
{
	Relation	rel;
	List	   *indexes;
	Oid			owner;
	OwnersCode	code;
} Check;

static void
forget_relation(Datum arg, Oid relid)
{
	for (int i = 0; i < NCHECKED; i++)
		if (!OidIsValid(relid) || checked[i].relid == relid)
			checked[i].relid = InvalidOid;
}

static void
forget_all(Datum arg, int cacheid, uint32 hashvalue)
{
	memset(checked, 0, sizeof(checked));
}

void
amt_table_code_init(void)
{
	CacheRegisterRelcacheCallback(forget_relation, (Datum) 0);
	CacheRegisterSyscacheCallback(PROCOID, forget_all, (Datum) 0);
	CacheRegisterSyscacheCallback(TYPEOID, forget_all, (Datum) 0);
	CacheRegisterSyscacheCallback(RELOID, forget_all, (Datum) 0);
	CacheRegisterSyscacheCallback(AUTHOID, forget_all, (Datum) 0);
}

static void
refuse(const Check *check, const char *detail, const char *name)
{
	ereport(ERROR,
			(errcode(ERRCODE_INSUFFICIENT_PRIVILEGE),
			 errmsg("table \"%s\" has code that must not run with the rights of its owner",
					RelationGetRelationName(check->rel)),
			 errdetail(detail, name),
			 errhint("The table's owner must remove it.")));
}

static bool
is_built_in(Oid object)
{
	return object < FirstNormalObjectId;
}

/* Does code of this role count as the table owner's? */
static bool
is_owners(const Check *check, Oid role)
{
	return role == check->owner || (superuser_arg(role) && superuser_arg(check->owner));
}

static void
note_code(Check *check, bool is_safe)
{
	check->code = Max(check->code, is_safe ? SAFE_CODE : CODE);
}

/* Does the search_path name pg_temp once, at its end? */
static bool
ends_with_temp(const List *path)
{
	ListCell   *cell;

	foreach(cell, path)
	{
		if (strcmp(lfirst(cell), "pg_temp") == 0)
			return lnext(path, cell) == NULL;
	}
	return false;
}

/*
 * Has the function a search_path of its own that ends with pg_temp?  It runs as
 * its owner in other people's sessions, like a SECURITY DEFINER function, and must
 * not find their temporary objects in place of its own.
 */
static bool
has_safe_path(HeapTuple proc)
{
	static const char name[] = "search_path=";
	bool		isnull;
	Datum		value = SysCacheGetAttr(PROCOID, proc, Anum_pg_proc_proconfig, &isnull);
	Datum	   *settings;
	int			n;

	if (isnull)
		return false;
	deconstruct_array(DatumGetArrayTypeP(value), TEXTOID, -1, false, TYPALIGN_INT, &settings, NULL, &n);
	for (int i = 0; i < n; i++)
	{
		char	   *setting = TextDatumGetCString(settings[i]);
		List	   *path;

		if (strncmp(setting, name, strlen(name)) == 0)
			return SplitIdentifierString(setting + strlen(name), ',', &path) && ends_with_temp(path);
	}
	return false;
}

/*
 * May the built-in function open an object that it is given?  A table's partition
 * key, for one, has functions that the server then runs.
 */
static bool
takes_object(Form_pg_proc proc)
{
	if (proc->oid == F_NEXTVAL)
		return false;
	for (int i = 0; i < proc->pronargs; i++)
		switch (proc->proargtypes.values[i])
		{
			case OIDOID:
			case REGCLASSOID:
			case REGPROCOID:
			case REGPROCEDUREOID:
			case REGOPEROID:
			case REGOPERATOROID:
			case REGTYPEOID:
			case REGROLEOID:
			case REGNAMESPACEOID:
			case REGCONFIGOID:
			case REGDICTIONARYOID:
				return true;
		}
	return false;
}

/* Note a function that an expression calls; true if it must not run. */
static bool
note_function(Oid function, void *arg)
{
	HeapTuple	tuple;
	Form_pg_proc proc;
	bool		is_foreign;

	if (!is_built_in(function))
		return true;
	tuple = SearchSysCache1(PROCOID, ObjectIdGetDatum(function));
	if (!HeapTupleIsValid(tuple))
		return true;
	proc = (Form_pg_proc) GETSTRUCT(tuple);
	is_foreign = takes_object(proc);
	if (proc->prolang != INTERNALlanguageId || proc->provolatile != PROVOLATILE_IMMUTABLE)
		note_code(arg, true);
	ReleaseSysCache(tuple);
	return is_foreign;
}

/* Is this a kind of node that runs only the functions that it names? */
static bool
is_plain(const Node *node)
{
	switch (nodeTag(node))
	{
		case T_Var:
		case T_Const:
		case T_FuncExpr:
		case T_NamedArgExpr:
		case T_OpExpr:
		case T_DistinctExpr:
		case T_NullIfExpr:
		case T_ScalarArrayOpExpr:
		case T_BoolExpr:
		case T_RelabelType:
		case T_CoerceViaIO:
		case T_ArrayCoerceExpr:
		case T_CollateExpr:
		case T_CaseExpr:
		case T_CaseTestExpr:
		case T_ArrayExpr:
		case T_CoalesceExpr:
		case T_MinMaxExpr:
		case T_SQLValueFunction:
		case T_NullTest:
		case T_BooleanTest:
		case T_NextValueExpr:
			return true;
		default:
			return false;
	}
}

/* Does the expression run code that must not run? */
static bool
is_foreign_code(Node *node, void *arg)
{
	if (node == NULL)
		return false;
	if (!IsA(node, List) && !IsA(node, CaseWhen) &&
		(!is_plain(node) || !is_built_in(exprType(node)) ||
		 check_functions_in_node(node, note_function, arg)))
		return true;
	return amt_expression_tree_walker(node, is_foreign_code, arg);
}

static void
check_columns(Check *check)
{
	TupleDesc	tupdesc = RelationGetDescr(check->rel);

	for (int i = 0; i < tupdesc->natts; i++)
	{
		Form_pg_attribute att = TupleDescAttr(tupdesc, i);

		if (!att->attisdropped &&
			(!is_built_in(att->atttypid) ||
			 is_foreign_code(build_column_default(check->rel, i + 1), check)))
			refuse(check, "Column \"%s\" is of a type, or its default has a function, that may run code of another role.",
				   NameStr(att->attname));
	}
}

static void
check_constraints(Check *check)
{
	TupleConstr *constr = RelationGetDescr(check->rel)->constr;

	for (int i = 0; constr != NULL && i < constr->num_check; i++)
		if (is_foreign_code(stringToNode(constr->check[i].ccbin), check))
			refuse(check, "Constraint \"%s\" has a type or a function that may run code of another role.",
				   constr->check[i].ccname);
}

/*
 * The expressions or the predicate of an index, as stored.  The relation
 * cache would evaluate functions of constants in them, as the current user.
 */
static Node *
get_stored_node(Relation index, AttrNumber attnum)
{
	bool		isnull;
	Datum		value = SysCacheGetAttr(INDEXRELID, index->rd_indextuple, attnum, &isnull);

	return isnull ? NULL : stringToNode(TextDatumGetCString(value));
}

static void
check_index(Check *check, Oid relid)
{
	Relation	index = index_open(relid, AccessShareLock);
	bool		is_foreign = !is_built_in(index->rd_rel->relam) ||
	is_foreign_code(get_stored_node(index, Anum_pg_index_indexprs), check) ||
	is_foreign_code(get_stored_node(index, Anum_pg_index_indpred), check);

	for (int i = 0; i < IndexRelationGetNumberOfKeyAttributes(index); i++)
		is_foreign = is_foreign || !is_built_in(index->rd_opfamily[i]);
	if (is_foreign)
		refuse(check, "Index \"%s\" has a type, a function or an operator class that may run code of another role.",
			   RelationGetRelationName(index));
	index_close(index, NoLock);
}

static void
check_indexes(Check *check)
{
	ListCell   *cell;

	foreach(cell, check->indexes)
		check_index(check, lfirst_oid(cell));
}

/* Does the function belong to the table's extension? */
static bool
is_our_function(const Check *check, Oid function)
{
	Oid			extension = getExtensionOfObject(ProcedureRelationId, function);

	return OidIsValid(extension) &&
		extension == getExtensionOfObject(RelationRelationId, RelationGetRelid(check->rel));
}

/* Has another role than the owner the privilege to make triggers? */
static bool
others_may_make_triggers(const Check *check)
{
	HeapTuple	tuple = SearchSysCache1(RELOID, ObjectIdGetDatum(RelationGetRelid(check->rel)));
	bool		isnull;
	Datum		value;
	Acl		   *acl;
	bool		others = false;

	if (!HeapTupleIsValid(tuple))
		return true;
	value = SysCacheGetAttr(RELOID, tuple, Anum_pg_class_relacl, &isnull);
	acl = isnull ? NULL : DatumGetAclP(value);
	for (int i = 0; acl != NULL && i < ACL_NUM(acl); i++)
		others = others || (ACL_DAT(acl)[i].ai_grantee != check->owner &&
							(ACL_DAT(acl)[i].ai_privs & ACL_TRIGGER) != 0);
	ReleaseSysCache(tuple);
	return others;
}

/*
 * A trigger has no owner.  Any role that was granted TRIGGER may have made
 * it, with any function, arguments and condition.
 */
static bool
is_foreign_trigger(Check *check, const Trigger *trigger)
{
	HeapTuple	tuple;
	Form_pg_proc proc;
	bool		is_own;

	if (trigger->tgisinternal)
	{
		note_code(check, true);
		return OidIsValid(trigger->tgconstrrelid);
	}
	if (trigger->tgnargs != 0 || trigger->tgqual != NULL)
		return true;
	tuple = SearchSysCache1(PROCOID, ObjectIdGetDatum(trigger->tgfoid));
	if (!HeapTupleIsValid(tuple))
		return true;
	proc = (Form_pg_proc) GETSTRUCT(tuple);
	if (proc->prolang == ClanguageId && is_our_function(check, trigger->tgfoid))
	{
		/* Another owner could replace it at any moment. */
		if (!superuser_arg(proc->proowner))
			ereport(ERROR,
					(errcode(ERRCODE_INSUFFICIENT_PRIVILEGE),
					 errmsg("function \"%s\" of extension \"amt_keys\" does not belong to a superuser",
							NameStr(proc->proname)),
					 errhint("Give the extension's functions to a superuser.")));
		is_own = true;
	}
	else
	{
		is_own = is_owners(check, proc->proowner) && !is_built_in(trigger->tgfoid) &&
			!others_may_make_triggers(check);
		note_code(check, has_safe_path(tuple));
	}
	ReleaseSysCache(tuple);
	return !is_own;
}

static void
check_triggers(Check *check)
{
	/* A copy: catalog lookups may replace the original. */
	TriggerDesc *triggers = CopyTriggerDesc(check->rel->trigdesc);

	for (int i = 0; triggers != NULL && i < triggers->numtriggers; i++)
	{
		const Trigger *trigger = &triggers->triggers[i];

		if (trigger->tgenabled != TRIGGER_DISABLED && is_foreign_trigger(check, trigger))
			refuse(check, trigger->tgisinternal ?
				   "A foreign key has the trigger \"%s\"." :
				   "Trigger \"%s\" has arguments, a condition or a function of another role, or another role has TRIGGER on the table.",
				   trigger->tgname);
	}
}

/* What the table has of its owner's code.  Raises 42501 for code of others. */
static OwnersCode
get_code(Relation rel, List *indexes)
{
	Check		check = {rel, indexes, rel->rd_rel->relowner, NO_CODE};
	int			i = 0;

	while (i < NCHECKED && checked[i].relid != RelationGetRelid(rel))
		i++;
	if (i < NCHECKED)
		return checked[i].code;

	for (i = 0; i < NCHECKED - 1 && OidIsValid(checked[i].relid); i++)
		;
	checked[i].relid = RelationGetRelid(rel);	/* an invalidation may reset
												 * it meanwhile */
	PG_TRY();
	{
		check_columns(&check);
		check_constraints(&check);
		check_indexes(&check);
		check_triggers(&check);
	}
	PG_CATCH();
	{
		checked[i].relid = InvalidOid;
		PG_RE_THROW();
	}
	PG_END_TRY();
	checked[i].code = check.code;
	return check.code;
}

List *
amt_check_code(Relation rel)
{
	Oid			owner = rel->rd_rel->relowner;
	/* Nothing may come between: a result is kept for the list that it is of. */
	List	   *indexes = RelationGetIndexList(rel);
	OwnersCode	code = get_code(rel, indexes);

	if (code == NO_CODE)
		return indexes;
	if (!superuser_arg(owner))
		ereport(ERROR,
				(errcode(ERRCODE_INSUFFICIENT_PRIVILEGE),
				 errmsg("table \"%s\" has code of its owner, which must not run in this session",
						RelationGetRelationName(rel)),
				 errdetail("The owner is no superuser, and has added a trigger, an expression or a type."),
				 errhint("The owner must remove it.")));
	/* In a superuser's session, too: other people's functions may have run in it. */
	if (code == CODE)
		ereport(ERROR,
				(errcode(ERRCODE_INSUFFICIENT_PRIVILEGE),
				 errmsg("table \"%s\" has code of its owner, which must not run in this session",
						RelationGetRelationName(rel)),
				 errdetail("A function of the owner would find the session's temporary objects before its own."),
				 errhint("The owner must give it a search_path that ends with pg_temp, as a SECURITY DEFINER function needs.")));
	return indexes;
}
