/*
 * write.c
 *	  Writing rows of the extension's tables.
 *
 * We execute no SQL.  Rows are written by the executor's functions for a
 * single relation, which logical replication uses.  They maintain the
 * indexes that were checked, check all constraints and fire row triggers.
 * They check no privilege and no policy: the caller must have decided that
 * the write is allowed.
 *
 * Triggers run as the table's owner, restricted, with a safe search_path.
 * None of their code can be deferred until the caller's rights return.
 * VACUUM and REINDEX run a table's code in this way, too.  Each table is
 * written as its own owner.
 *
 * After an error, the abort of the (sub)transaction restores the user and
 * the settings, and frees the rest.
 */
#include "postgres.h"

#include "access/genam.h"
#include "access/sysattr.h"
#include "access/table.h"
#include "access/tableam.h"
#include "access/xact.h"
#include "catalog/index.h"
#include "catalog/namespace.h"
#include "commands/trigger.h"
#include "executor/executor.h"
#include "miscadmin.h"
#include "nodes/makefuncs.h"
#include "optimizer/optimizer.h"
#include "rewrite/rewriteHandler.h"
#include "utils/guc.h"
#include "utils/rel.h"
#include "utils/snapmgr.h"

#include "compat.h"
#include "newest.h"
#include "rows.h"
#include "table_code.h"
#include "write.h"

#define SAFE_PATH	"pg_catalog, pg_temp"

/*
 * Open the indexes that were checked.  ExecOpenIndices() would ask for the list
 * again, and CREATE INDEX CONCURRENTLY may have added one meanwhile: to open an
 * index evaluates constants in its expressions.  It need not be maintained yet.
 * The command that adds it waits for our lock on the table before it builds it.
 */
static void
open_indexes(ResultRelInfo *target, List *indexes)
{
	ListCell   *cell;

	target->ri_IndexRelationDescs = palloc(sizeof(Relation) * list_length(indexes));
	target->ri_IndexRelationInfo = palloc(sizeof(IndexInfo *) * list_length(indexes));
	target->ri_NumIndices = 0;
	foreach(cell, indexes)
	{
		Relation	index = index_open(lfirst_oid(cell), RowExclusiveLock);

		target->ri_IndexRelationDescs[target->ri_NumIndices] = index;
		target->ri_IndexRelationInfo[target->ri_NumIndices++] = BuildIndexInfo(index);
	}
}

static void
make_estate(AmtWrite *write, List *indexes)
{
	EState	   *estate = CreateExecutorState();
	RangeTblEntry *rte = makeNode(RangeTblEntry);

	rte->rtekind = RTE_RELATION;
	rte->relid = RelationGetRelid(write->rel);
	rte->relkind = write->rel->rd_rel->relkind;
	rte->rellockmode = RowExclusiveLock;
	write->updated_columns = amt_init_range_table(estate, rte);
	estate->es_output_cid = GetCurrentCommandId(true);

	write->estate = estate;
	write->target = makeNode(ResultRelInfo);
	InitResultRelInfo(write->target, write->rel, 1, NULL, 0);
	open_indexes(write->target, indexes);
	amt_look_up_triggers(write->target, estate->es_query_cxt);
	/* There the executor looks for it when it fires AFTER triggers. */
	estate->es_opened_result_relations = list_make1(write->target);
	write->old_row = table_slot_create(write->rel, &estate->es_tupleTable);
	write->new_row = table_slot_create(write->rel, &estate->es_tupleTable);
	amt_eval_plan_qual_init(&write->epq, estate);
	EvalPlanQualSetSlot(&write->epq, write->old_row);
}

void
amt_write_begin(AmtWrite *write, Relation rel)
{
	List	   *indexes;

	write->rel = rel;
	GetUserIdAndSecContext(&write->save_userid, &write->save_sec_context);
	SetUserIdAndSecContext(rel->rd_rel->relowner,
						   write->save_sec_context | SECURITY_LOCAL_USERID_CHANGE |
						   SECURITY_RESTRICTED_OPERATION);
	write->save_nestlevel = NewGUCNestLevel();
	if (strcmp(namespace_search_path, SAFE_PATH) != 0)
		(void) set_config_option("search_path", SAFE_PATH, PGC_USERSET, PGC_S_SESSION,
								 GUC_ACTION_SAVE, true, 0, false);
	/* Our triggers must record events in a session that replicates, too. */
	if (SessionReplicationRole != SESSION_REPLICATION_ROLE_ORIGIN)
		(void) set_config_option("session_replication_role", "origin", PGC_SUSET, PGC_S_SESSION,
								 GUC_ACTION_SAVE, true, 0, false);
	indexes = amt_check_code(rel);

	PushActiveSnapshot(GetTransactionSnapshot());
	make_estate(write, indexes);
	list_free(indexes);
	AfterTriggerBeginQuery();
}

void
amt_write_end(AmtWrite *write)
{
	AfterTriggerEndQuery(write->estate);	/* our AFTER triggers run here */
	EvalPlanQualEnd(&write->epq);
	ExecResetTupleTable(write->estate->es_tupleTable, false);
	ExecCloseResultRelations(write->estate);	/* and the indexes */
	ExecCloseRangeTableRelations(write->estate);
	FreeExecutorState(write->estate);
	PopActiveSnapshot();
	CommandCounterIncrement();

	AtEOXact_GUC(false, write->save_nestlevel);
	SetUserIdAndSecContext(write->save_userid, write->save_sec_context);
}

/* Fill the columns that the owner has added with their defaults. */
static void
fill_defaults(AmtWrite *write, TupleTableSlot *slot, int natts)
{
	TupleDesc	tupdesc = RelationGetDescr(write->rel);
	ExprContext *econtext = GetPerTupleExprContext(write->estate);

	for (int i = natts; i < tupdesc->natts; i++)
	{
		Form_pg_attribute att = TupleDescAttr(tupdesc, i);
		Expr	   *expr;

		slot->tts_values[i] = (Datum) 0;
		slot->tts_isnull[i] = true;
		if (att->attisdropped || att->attgenerated)
			continue;
		expr = (Expr *) build_column_default(write->rel, i + 1);
		if (expr == NULL)
			continue;
		expr = expression_planner(expr);
		slot->tts_values[i] = ExecEvalExpr(ExecInitExpr(expr, NULL), econtext, &slot->tts_isnull[i]);
	}
}

static void
insert_row(AmtWrite *write)
{
	ExecSimpleRelationInsert(write->target, write->estate, write->new_row);
}

static void
update_row(AmtWrite *write)
{
	ExecSimpleRelationUpdate(write->target, write->estate, &write->epq, write->old_row,
							 write->new_row);
}

/*
 * The detail of a failed constraint quotes the row as far as the current
 * user may read it.  That is the table's owner here.  But the caller gets
 * the error, and must not read hashes.
 */
static void
run_without_details(void (*action) (AmtWrite *write), AmtWrite *write)
{
	MemoryContext context = CurrentMemoryContext;

	PG_TRY();
	{
		action(write);
	}
	PG_CATCH();
	{
		ErrorData  *error;

		MemoryContextSwitchTo(context);
		error = CopyErrorData();
		if (ERRCODE_TO_CATEGORY(error->sqlerrcode) != ERRCODE_INTEGRITY_CONSTRAINT_VIOLATION)
			PG_RE_THROW();
		FlushErrorState();
		error->detail = NULL;
		ReThrowError(error);
	}
	PG_END_TRY();
}

void
amt_write_insert(AmtWrite *write, const Datum *values, const bool *nulls, int natts)
{
	TupleTableSlot *slot = write->new_row;
	MemoryContext oldcontext;

	ResetPerTupleExprContext(write->estate);
	oldcontext = MemoryContextSwitchTo(GetPerTupleMemoryContext(write->estate));
	ExecClearTuple(slot);
	memcpy(slot->tts_values, values, sizeof(Datum) * natts);
	memcpy(slot->tts_isnull, nulls, sizeof(bool) * natts);
	fill_defaults(write, slot, natts);
	ExecStoreVirtualTuple(slot);
	run_without_details(insert_row, write);
	MemoryContextSwitchTo(oldcontext);
}

bool
amt_write_lock(AmtWrite *write, Oid index, const char *id, Size id_len, bool nowait, bool *busy)
{
	ExecClearTuple(write->old_row);
	return amt_row_lock(write->rel, index, id, id_len, nowait, write->old_row, busy);
}

bool
amt_write_find(AmtWrite *write, Oid index, const char *id, Size id_len)
{
	ExecClearTuple(write->old_row);
	return amt_row_find(write->rel, index, id, id_len, write->old_row);
}

void
amt_write_update(AmtWrite *write, int ncolumns, const AttrNumber *columns,
				 const Datum *values, const bool *nulls)
{
	TupleTableSlot *slot = write->new_row;
	int			natts = RelationGetDescr(write->rel)->natts;
	MemoryContext oldcontext;

	ResetPerTupleExprContext(write->estate);
	oldcontext = MemoryContextSwitchTo(GetPerTupleMemoryContext(write->estate));
	slot_getallattrs(write->old_row);
	ExecClearTuple(slot);
	memcpy(slot->tts_values, write->old_row->tts_values, sizeof(Datum) * natts);
	memcpy(slot->tts_isnull, write->old_row->tts_isnull, sizeof(bool) * natts);
	for (int i = 0; i < ncolumns; i++)
	{
		slot->tts_values[columns[i] - 1] = values[i];
		slot->tts_isnull[columns[i] - 1] = nulls[i];
	}
	ExecStoreVirtualTuple(slot);
	*write->updated_columns = NULL;
	for (int i = 0; i < ncolumns; i++)
		*write->updated_columns = bms_add_member(*write->updated_columns,
												 columns[i] - FirstLowInvalidHeapAttributeNumber);
	run_without_details(update_row, write);
	*write->updated_columns = NULL; /* it was allocated with the row */
	MemoryContextSwitchTo(oldcontext);
}

void
amt_write_delete(AmtWrite *write)
{
	MemoryContext oldcontext;

	ResetPerTupleExprContext(write->estate);
	oldcontext = MemoryContextSwitchTo(GetPerTupleMemoryContext(write->estate));
	ExecSimpleRelationDelete(write->target, write->estate, &write->epq, write->old_row);
	MemoryContextSwitchTo(oldcontext);
}
