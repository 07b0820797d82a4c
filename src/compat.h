/*
 * compat.h
 *	  The differences between the supported versions of PostgreSQL, and
 *	  nothing else: whole statements or inline wrappers.
 */
#ifndef AMT_COMPAT_H
#define AMT_COMPAT_H

#include "access/parallel.h"
#include "catalog/dependency.h"
#include "common/jsonapi.h"
#include "executor/executor.h"
#include "mb/pg_wchar.h"
#include "nodes/parsenodes.h"
#include "parser/parse_relation.h"
#include "storage/bufmgr.h"
#include "storage/lwlock.h"
#include "storage/proc.h"
#include "storage/shmem.h"
#include "utils/acl.h"
#include "utils/guc.h"
#include "utils/guc_tables.h"
#include "utils/rel.h"
#include "utils/wait_event.h"

#if PG_VERSION_NUM < 150000
#error "amt_keys needs PostgreSQL 15 or later"
#endif

#if PG_VERSION_NUM >= 160000
#include "varatt.h"				/* postgres.h does not include it in 19 */
#endif

#if PG_VERSION_NUM >= 170000
#include "storage/dsm_registry.h"
#define AMT_HAVE_DSM_REGISTRY	/* named segments of dynamic shared memory */
#endif

/* Memory for the "extra" of a GUC check hook, which guc.c frees. */
static inline void *
amt_guc_alloc(Size size)
{
#if PG_VERSION_NUM >= 160000
	return guc_malloc(LOG, size);
#else
	return malloc(size);
#endif
}

/* Until version 15 the callback has no prototype, which C23 takes for "void". */
#if PG_VERSION_NUM >= 160000
#define amt_expression_tree_walker expression_tree_walker
#else
#define amt_expression_tree_walker(node, walker, context) \
	expression_tree_walker(node, (bool (*) ()) (void (*) (void)) (walker), context)
#endif

/* All settings of this process. */
static inline struct config_generic **
amt_all_settings(int *n)
{
#if PG_VERSION_NUM >= 160000
	return get_guc_variables(n);
#else
	*n = GetNumConfigOptions();
	return get_guc_variables();
#endif
}

/* Make a tranche of LWLocks.  Its number must be kept in shared memory. */
static inline int
amt_new_tranche(const char *name)
{
#if PG_VERSION_NUM >= 190000
	return LWLockNewTrancheId(name);
#else
	return LWLockNewTrancheId();
#endif
}

/* Make the tranche's name known to this process. */
static inline void
amt_name_tranche(int tranche, const char *name)
{
#if PG_VERSION_NUM >= 190000
#else
	LWLockRegisterTranche(tranche, name);
#endif
}

/*
 * The server's shared memory of that name.  The first call in the server
 * runs "init", which must not fail.
 */
typedef void (*AmtSegmentInit) (void *segment);

#if PG_VERSION_NUM >= 190000
static inline void
amt_call_segment_init(void *segment, void *arg)
{
	(*(AmtSegmentInit *) arg) (segment);
}
#endif

static inline void *
amt_get_segment(const char *name, Size size, AmtSegmentInit init)
{
	bool		found;
	void	   *segment;

#if PG_VERSION_NUM >= 190000
	segment = GetNamedDSMSegment(name, size, amt_call_segment_init, &found, &init);
#elif PG_VERSION_NUM >= 170000
	segment = GetNamedDSMSegment(name, size, init, &found);
#else
	LWLockAcquire(AddinShmemInitLock, LW_EXCLUSIVE);
	segment = ShmemInitStruct(name, size, &found);
	if (!found)
		init(segment);
	LWLockRelease(AddinShmemInitLock);
#endif
	return segment;
}

/* A wait event of that name, where the version supports it. */
static inline uint32
amt_wait_event(const char *name)
{
#if PG_VERSION_NUM >= 170000
	return WaitEventExtensionNew(name);
#else
	return PG_WAIT_EXTENSION;
#endif
}

/* The leader's transaction in a parallel worker, else this process's own. */
static inline LocalTransactionId
amt_leader_transaction_id(void)
{
	PGPROC	   *proc = IsParallelWorker() && MyProc->lockGroupLeader != NULL ?
	MyProc->lockGroupLeader : MyProc;

#if PG_VERSION_NUM >= 170000
	return proc->vxid.lxid;
#else
	return proc->lxid;
#endif
}

/* May "member" SET ROLE to the other role? */
static inline bool
amt_can_set_role(Oid member, Oid roleid)
{
#if PG_VERSION_NUM >= 160000
	return member_can_set_role(member, roleid);
#else
	return is_member_of_role(member, roleid);
#endif
}

/* The sequence of an identity column, or InvalidOid. */
static inline Oid
amt_identity_sequence(Relation rel, AttrNumber attnum)
{
#if PG_VERSION_NUM >= 170000
	return getIdentitySequence(rel, attnum, true);
#else
	return getIdentitySequence(RelationGetRelid(rel), attnum, true);
#endif
}

/*
 * Give the executor state a range table of one relation.  Returns the place
 * of its set of updated columns.
 */
static inline Bitmapset **
amt_init_range_table(EState *estate, RangeTblEntry *rte)
{
#if PG_VERSION_NUM >= 160000
	List	   *perminfos = NIL;
	RTEPermissionInfo *perminfo = addRTEPermissionInfo(&perminfos, rte);
#endif
#if PG_VERSION_NUM >= 180000
	ExecInitRangeTable(estate, list_make1(rte), perminfos, bms_make_singleton(1));
#elif PG_VERSION_NUM >= 160000
	ExecInitRangeTable(estate, list_make1(rte), perminfos);
#else
	ExecInitRangeTable(estate, list_make1(rte));
#endif
#if PG_VERSION_NUM >= 160000
	return &perminfo->updatedCols;
#else
	return &rte->updatedCols;
#endif
}

static inline void
amt_eval_plan_qual_init(EPQState *epqstate, EState *estate)
{
#if PG_VERSION_NUM >= 160000
	EvalPlanQualInit(epqstate, estate, NULL, NIL, -1, NIL);
#else
	EvalPlanQualInit(epqstate, estate, NULL, NIL, -1);
#endif
}

/* Turn transaction_timeout off, where the version has it. */
static inline void
amt_no_transaction_timeout(void)
{
#if PG_VERSION_NUM >= 170000
	SetConfigOption("transaction_timeout", "0", PGC_SUSET, PGC_S_OVERRIDE);
#endif
}

/* Pin the buffer, if it still holds that block of the relation. */
static inline bool
amt_read_recent_buffer(Relation rel, BlockNumber block, Buffer buffer)
{
#if PG_VERSION_NUM >= 160000
	return ReadRecentBuffer(rel->rd_locator, MAIN_FORKNUM, block, buffer);
#else
	return ReadRecentBuffer(rel->rd_node, MAIN_FORKNUM, block, buffer);
#endif
}

/* The result of a function that the server's JSON parser calls. */
#if PG_VERSION_NUM >= 160000
typedef JsonParseErrorType AmtJsonResult;
#define AMT_JSON_DONE	return JSON_SUCCESS
#else
typedef void AmtJsonResult;
#define AMT_JSON_DONE	return
#endif

/* A lexer for a text, which must not change meanwhile. */
static inline JsonLexContext *
amt_json_lexer(const char *text)
{
#if PG_VERSION_NUM >= 170000
	return makeJsonLexContextCstringLen(NULL, text, strlen(text), GetDatabaseEncoding(), true);
#else
	return makeJsonLexContextCstringLen(unconstify(char *, text), strlen(text), GetDatabaseEncoding(), true);
#endif
}

#endif							/* AMT_COMPAT_H */
