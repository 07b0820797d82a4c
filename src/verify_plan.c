/*
 * verify_plan.c
 *	  What the planner makes of amt_verify() in FROM.
 *
 * A function that RETURNS TABLE has no row type of its own, so the executor
 * builds one from pg_proc's arrays at each execution.  For a function that is
 * executed for each request and takes a few microseconds that is a tenth of the
 * whole.  So the planner's support function puts a twin in its place, which does
 * the same and returns a named type, whose description the type cache has.
 *
 * Only in FROM, where nothing but the names and types of the columns matters.
 * In a select list the type of the call itself would change, under variables
 * that are to hold it.  The request does not tell the two apart, but the planner
 * looks at the functions in FROM first: as long as one of them is still
 * amt_verify() it is one of these, and when it comes to the select list all of
 * them have been replaced, or none.
 *
 * Who may call the twin is who may execute amt_verify(), asked by the twin, so
 * it is granted to PUBLIC.  If it is not, or if somebody has attached settings
 * or another user's rights to amt_verify(), the call stays as it is.
 */
#include "postgres.h"

#include "access/htup_details.h"
#include "catalog/pg_proc.h"
#include "catalog/pg_type.h"
#include "fmgr.h"
#include "miscadmin.h"
#include "nodes/makefuncs.h"
#include "nodes/pathnodes.h"
#include "nodes/supportnodes.h"
#include "utils/acl.h"
#include "utils/lsyscache.h"
#include "utils/syscache.h"

#include "compat.h"
#include "store.h"

#define TWIN	"amt_verify_row"

/* Is there a call of the function left in FROM? */
static bool
is_in_from(PlannerInfo *root, Oid function)
{
	ListCell   *rte_cell;
	ListCell   *cell;

	foreach(rte_cell, root->parse->rtable)
	{
		RangeTblEntry *rte = lfirst_node(RangeTblEntry, rte_cell);

		if (rte->rtekind != RTE_FUNCTION)
			continue;
		foreach(cell, rte->functions)
		{
			Node	   *call = lfirst_node(RangeTblFunction, cell)->funcexpr;

			if (IsA(call, FuncExpr) && ((FuncExpr *) call)->funcid == function)
				return true;
		}
	}
	return false;
}

/* The twin of a function that is as the extension has made it, if it may be used. */
static Oid
find_twin(Oid function)
{
	HeapTuple	tuple = SearchSysCache1(PROCOID, ObjectIdGetDatum(function));
	Form_pg_proc proc;
	Oid			twin = InvalidOid;

	if (!HeapTupleIsValid(tuple))
		return InvalidOid;
	proc = (Form_pg_proc) GETSTRUCT(tuple);
	if (!proc->prosecdef && heap_attisnull(tuple, Anum_pg_proc_proconfig, NULL))
	{
		twin = amt_get_function(proc->pronamespace, TWIN);
		if (OidIsValid(twin) &&
			amt_function_aclcheck(twin, GetUserId()) != ACLCHECK_OK)
			twin = InvalidOid;
	}
	ReleaseSysCache(tuple);
	return twin;
}

PG_FUNCTION_INFO_V1(amt_verify_support);
Datum
amt_verify_support(PG_FUNCTION_ARGS)
{
	Node	   *request = (Node *) PG_GETARG_POINTER(0);
	FuncExpr   *call;
	FuncExpr   *replaced;
	PlannerInfo *root;
	Oid			twin;

	if (!IsA(request, SupportRequestSimplify))
		PG_RETURN_POINTER(NULL);
	call = ((SupportRequestSimplify *) request)->fcall;
	root = ((SupportRequestSimplify *) request)->root;
	if (root == NULL || !call->funcretset || !is_in_from(root, call->funcid))
		PG_RETURN_POINTER(NULL);
	twin = find_twin(call->funcid);
	if (!OidIsValid(twin))
		PG_RETURN_POINTER(NULL);

	replaced = makeFuncExpr(twin, get_func_rettype(twin), call->args,
							InvalidOid, call->inputcollid, COERCE_EXPLICIT_CALL);
	replaced->funcretset = true;
	PG_RETURN_POINTER(replaced);
}
