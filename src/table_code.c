/*
 * table_code.c
 *	  The code that runs when one of our tables is written.
 *
 * We write a table as its owner, on behalf of any caller.  So another role's
 * code on the table would get the owner's rights.  And the owner's code
 * would run in other people's sessions, where even a restricted operation
 * leaves it ways to their rights.  Nor does it help to ask whose code it is:
 * a function can be given away while a call waits.  So no code may run but
 *
 * - the extension's own triggers, whose functions must belong to a superuser,
 *   and be the library's own when the executor gets them;
 * - expressions of built-in types and functions that can run no SQL.
 *
 * Anything else is an error, and so are expressions that we do not look into,
 * and foreign keys, from and to the table: the tables behind them have code
 * of their own.
 *
 * We also refuse what does nothing when we write, but gives its author the
 * rights of whoever owns the table next: rules, statistics on expressions,
 * which ANALYZE computes as the owner, and a parent, whose privileges hold
 * for our rows.  Once the table has another owner, nothing shows who made it.
 *
 * Our worker makes no exception: in one process it may write tables of one
 * owner after those of another.  It runs no expression at all: a built-in
 * function may take minutes, and looks for no cancel and no shutdown.
 *
 * The result is kept until something changes that it depends on.
 */
#include "postgres.h"

#include "access/genam.h"
#include "access/htup_details.h"
#include "catalog/dependency.h"
#include "catalog/pg_am.h"
#include "catalog/pg_class.h"
#include "catalog/pg_index.h"
#include "catalog/pg_inherits.h"
#include "catalog/pg_language.h"
#include "catalog/pg_proc.h"
#include "catalog/pg_statistic_ext.h"
#include "commands/trigger.h"
#include "miscadmin.h"
#include "rewrite/rewriteHandler.h"
#include "utils/builtins.h"
#include "utils/inval.h"
#include "utils/rel.h"
#include "utils/syscache.h"

#include "expression.h"
#include "relations.h"
#include "table_code.h"

/* The tables that were checked last. */
#define NCHECKED	3
static Oid	checked[NCHECKED];

static const PGFunction *our_functions;

/* Must the table have no expressions? */
static bool no_expressions = false;

/* A check that is under way. */
typedef struct Check
{
	Relation	rel;
	List	   *indexes;
	const char *problem;		/* NULL if there is none */
	const char *hint;
} Check;

static void
forget_relation(Datum arg, Oid relid)
{
	for (int i = 0; i < NCHECKED; i++)
		if (!OidIsValid(relid) || checked[i] == relid)
			checked[i] = InvalidOid;
}

static void
forget_all(Datum arg, int cacheid, uint32 hashvalue)
{
	memset(checked, 0, sizeof(checked));
}

void
amt_table_code_init(const PGFunction *trigger_functions)
{
	our_functions = trigger_functions;
	CacheRegisterRelcacheCallback(forget_relation, (Datum) 0);
	CacheRegisterSyscacheCallback(PROCOID, forget_all, (Datum) 0);
	CacheRegisterSyscacheCallback(TYPEOID, forget_all, (Datum) 0);
	CacheRegisterSyscacheCallback(RELOID, forget_all, (Datum) 0);
	CacheRegisterSyscacheCallback(AUTHOID, forget_all, (Datum) 0);
}

void
amt_code_forbid_expressions(void)
{
	no_expressions = true;
}

static void
refuse(Check *check, const char *detail, const char *name)
{
	check->problem = psprintf(detail, name);
	check->hint = "The table's owner must remove it.";
}

static void
check_columns(Check *check)
{
	TupleDesc	tupdesc = RelationGetDescr(check->rel);

	for (int i = 0; i < tupdesc->natts; i++)
	{
		Form_pg_attribute att = TupleDescAttr(tupdesc, i);

		if (no_expressions && !att->attisdropped && (att->atthasdef || att->attidentity != '\0'))
			refuse(check, "Column \"%s\" is generated or has a default, and the worker runs no expressions.",
				   NameStr(att->attname));
		else if (!att->attisdropped &&
				 (!amt_is_built_in(att->atttypid) ||
				  amt_is_foreign_code(build_column_default(check->rel, i + 1))))
			refuse(check, "Column \"%s\" is of a type, or its default has a function, that may run code of others.",
				   NameStr(att->attname));
	}
}

static void
check_constraints(Check *check)
{
	TupleConstr *constr = RelationGetDescr(check->rel)->constr;

	for (int i = 0; constr != NULL && i < constr->num_check; i++)
		if (no_expressions)
			refuse(check, "Constraint \"%s\" has an expression, and the worker runs none.",
				   constr->check[i].ccname);
		else if (amt_is_foreign_code(stringToNode(constr->check[i].ccbin)))
			refuse(check, "Constraint \"%s\" has a type or a function that may run code of others.",
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

/*
 * Is the index a B-tree on the first columns only?  To enter a large value, or its
 * parts, into another index may take long, too.
 */
static bool
is_small(Relation index)
{
	if (index->rd_rel->relam != BTREE_AM_OID)
		return false;
	for (int i = 0; i < index->rd_index->indnatts; i++)
		if (index->rd_index->indkey.values[i] < 1 ||
			index->rd_index->indkey.values[i] > Natts_amt_key_usage)
			return false;
	return heap_attisnull(index->rd_indextuple, Anum_pg_index_indpred, NULL);
}

static void
check_index(Check *check, Oid relid)
{
	Relation	index = index_open(relid, AccessShareLock);
	bool		is_foreign = !amt_is_built_in(index->rd_rel->relam) ||
	amt_is_foreign_code(get_stored_node(index, Anum_pg_index_indexprs)) ||
	amt_is_foreign_code(get_stored_node(index, Anum_pg_index_indpred));

	for (int i = 0; i < IndexRelationGetNumberOfKeyAttributes(index); i++)
		is_foreign = is_foreign || !amt_is_built_in(index->rd_opfamily[i]);
	if (is_foreign)
		refuse(check, "Index \"%s\" has a type, a function or an operator class that may run code of others.",
			   RelationGetRelationName(index));
	else if (no_expressions && !is_small(index))
		refuse(check, "Index \"%s\" is not just on columns of the extension's own, and the worker maintains no other.",
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

/* Is it a trigger other than the extension's own? */
static bool
is_foreign_trigger(Check *check, const Trigger *trigger)
{
	HeapTuple	tuple;
	Form_pg_proc proc;
	bool		is_ours;

	if (trigger->tgisinternal || trigger->tgnargs != 0 || trigger->tgqual != NULL ||
		trigger->tgdeferrable)
		return true;
	tuple = SearchSysCache1(PROCOID, ObjectIdGetDatum(trigger->tgfoid));
	if (!HeapTupleIsValid(tuple))
		return true;
	proc = (Form_pg_proc) GETSTRUCT(tuple);
	is_ours = proc->prolang == ClanguageId && is_our_function(check, trigger->tgfoid);
	/* Another owner could replace it at any moment. */
	if (is_ours && !superuser_arg(proc->proowner))
	{
		refuse(check, "Trigger function \"%s\" does not belong to a superuser.", NameStr(proc->proname));
		check->hint = "Check its definition before you give it to a superuser: its owner may have changed it.";
	}
	ReleaseSysCache(tuple);
	return !is_ours;
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
				   "A constraint has the trigger \"%s\"." :
				   "Trigger \"%s\" is not the extension's own.",
				   trigger->tgname);
	}
}

static void
check_rules(Check *check)
{
	if (check->rel->rd_rules != NULL)
		refuse(check, "Table \"%s\" has a rule.", RelationGetRelationName(check->rel));
}

static void
check_statistics(Check *check)
{
	List	   *statistics = RelationGetStatExtList(check->rel);
	ListCell   *cell;

	foreach(cell, statistics)
	{
		HeapTuple	tuple = SearchSysCache1(STATEXTOID, ObjectIdGetDatum(lfirst_oid(cell)));
		Datum		value;
		bool		isnull;

		if (!HeapTupleIsValid(tuple))
			continue;			/* dropped meanwhile */
		value = SysCacheGetAttr(STATEXTOID, tuple, Anum_pg_statistic_ext_stxexprs, &isnull);
		if (!isnull && amt_is_foreign_code(stringToNode(TextDatumGetCString(value))))
			refuse(check, "Statistics \"%s\" have a type or a function that may run code of others.",
				   pstrdup(NameStr(((Form_pg_statistic_ext) GETSTRUCT(tuple))->stxname)));
		ReleaseSysCache(tuple);
	}
	list_free(statistics);
}

/*
 * The result is not kept: to become a child need not invalidate anything.
 * But it takes a lock that conflicts with a writer's.  To become a parent does
 * not, and does no harm until the next check.
 */
static void
check_inheritance(Check *check)
{
	Oid			relid = RelationGetRelid(check->rel);

	if (has_superclass(relid) ||
		(check->rel->rd_rel->relhassubclass && find_inheritance_children(relid, NoLock) != NIL))
		refuse(check, "Table \"%s\" inherits from another table, or another one from it.",
			   RelationGetRelationName(check->rel));
	/* DROP TYPE … CASCADE would drop the table, and the extension with it. */
	if (OidIsValid(check->rel->rd_rel->reloftype))
		refuse(check, "Table \"%s\" is a typed table.", RelationGetRelationName(check->rel));
}

static void
check_all(Check *check)
{
	void		(*const checks[]) (Check *) = {
		check_columns, check_constraints, check_indexes, check_triggers, check_rules, check_statistics
	};

	for (int i = 0; i < (int) lengthof(checks) && check->problem == NULL; i++)
		checks[i] (check);
}

/* Fill in the indexes, and the problem, if there is one. */
static void
check_table(Check *check)
{
	int			i = 0;

	/* Nothing may come between: a result is kept for the list that it is of. */
	check->indexes = RelationGetIndexList(check->rel);
	while (i < NCHECKED && checked[i] != RelationGetRelid(check->rel))
		i++;
	if (i < NCHECKED)
		return;

	for (i = 0; i < NCHECKED - 1 && OidIsValid(checked[i]); i++)
		;
	checked[i] = RelationGetRelid(check->rel);	/* an invalidation may reset
												 * it meanwhile */
	PG_TRY();
	{
		check_all(check);
	}
	PG_CATCH();
	{
		checked[i] = InvalidOid;
		PG_RE_THROW();
	}
	PG_END_TRY();
	if (check->problem != NULL)
		checked[i] = InvalidOid;
}

bool
amt_has_foreign_code(Relation rel)
{
	Check		check = {.rel = rel};

	check_inheritance(&check);
	check_table(&check);
	list_free(check.indexes);
	return check.problem != NULL;
}

static void
raise_problem(const Check *check)
{
	if (check->problem != NULL)
		ereport(ERROR,
				(errcode(ERRCODE_INSUFFICIENT_PRIVILEGE),
				 errmsg("table \"%s\" cannot be written as it is",
						RelationGetRelationName(check->rel)),
				 errdetail("%s", check->problem),
				 errhint("%s", check->hint)));
}

List *
amt_check_code(Relation rel)
{
	Check		check = {.rel = rel};

	check_inheritance(&check);
	check_table(&check);
	raise_problem(&check);
	return check.indexes;
}

static bool
is_in_library(PGFunction function)
{
	const PGFunction *ours = our_functions;

	while (*ours != NULL && *ours != function)
		ours++;
	return *ours != NULL;
}

void
amt_look_up_triggers(ResultRelInfo *target, MemoryContext context)
{
	TriggerDesc *triggers = target->ri_TrigDesc;
	Check		check = {.rel = target->ri_RelationDesc};

	for (int i = 0; triggers != NULL && i < triggers->numtriggers; i++)
	{
		const Trigger *trigger = &triggers->triggers[i];
		FmgrInfo   *function = &target->ri_TrigFunctions[i];

		if (trigger->tgenabled == TRIGGER_DISABLED)
			continue;
		fmgr_info_cxt(trigger->tgfoid, function, context);
		if (!is_in_library(function->fn_addr))
			refuse(&check, "The function of trigger \"%s\" has settings of its own, or another role's code.", trigger->tgname);
	}
	raise_problem(&check);
}
