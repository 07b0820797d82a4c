/*
 * expression.c
 *	  Which expressions run nothing but harmless built-in functions.
 *
 * A function is harmless if it can run no SQL and opens no object.  We do not
 * look into every kind of expression: those that we do not know count as
 * code of others.
 */
#include "postgres.h"

#include "access/htup_details.h"
#include "access/transam.h"
#include "catalog/pg_language.h"
#include "catalog/pg_proc.h"
#include "catalog/pg_type.h"
#include "nodes/nodeFuncs.h"
#include "utils/fmgroids.h"
#include "utils/syscache.h"

#include "compat.h"
#include "expression.h"

bool
amt_is_built_in(Oid object)
{
	return object < FirstNormalObjectId;
}

/*
 * May the built-in function open an object that it is given?  A table's partition
 * key, for one, has functions that the server then runs.
 */
static bool
takes_object(Form_pg_proc proc)
{
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

/* Must the function not run in an expression? */
static bool
is_foreign_function(Oid function, void *arg)
{
	HeapTuple	tuple;
	Form_pg_proc proc;
	bool		is_foreign;

	if (!amt_is_built_in(function))
		return true;
	tuple = SearchSysCache1(PROCOID, ObjectIdGetDatum(function));
	if (!HeapTupleIsValid(tuple))
		return true;
	proc = (Form_pg_proc) GETSTRUCT(tuple);
	/* Stable functions can run SQL: database_to_xml(), for one. */
	is_foreign = proc->prolang != INTERNALlanguageId || takes_object(proc) ||
		(proc->provolatile != PROVOLATILE_IMMUTABLE && function != F_NOW);
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

/*
 * Does the node have an operator of others?  Instead of it the planner may
 * take its negator, whose function is not in the node.
 */
static bool
has_foreign_operator(const Node *node)
{
	switch (nodeTag(node))
	{
		case T_OpExpr:
		case T_DistinctExpr:
		case T_NullIfExpr:
			return !amt_is_built_in(((const OpExpr *) node)->opno);
		case T_ScalarArrayOpExpr:
			return !amt_is_built_in(((const ScalarArrayOpExpr *) node)->opno);
		default:
			return false;
	}
}

static bool
walk(Node *node, void *arg)
{
	if (node == NULL)
		return false;
	if (!IsA(node, List) && !IsA(node, CaseWhen) &&
		(!is_plain(node) || !amt_is_built_in(exprType(node)) || has_foreign_operator(node) ||
		 check_functions_in_node(node, is_foreign_function, arg)))
		return true;
	return amt_expression_tree_walker(node, walk, arg);
}

bool
amt_is_foreign_code(Node *expression)
{
	return walk(expression, NULL);
}
