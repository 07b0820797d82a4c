/*
 * session.c
 *	  Whether this session's settings are to be relied on.
 *
 * A client's connection option outranks what the server's configuration sets
 * for its role and its database.  The server refuses an option for a setting
 * that the user may not set, but it does not know our settings before the
 * library is loaded, and makes a placeholder.  Loading the library throws the
 * client's value away, and the one that it outranked is gone with it: anybody
 * could shake off an identity, or have a limit at its default, by naming it.
 * What the configuration says cannot be known any more.  So such a session is
 * refused.
 *
 * The server also throws a value of the identity away that is not valid, unless
 * it can tell somebody of the error.  Scopes that are lost would
 * narrow nothing, and a lost key id would make a person of a key.  Such a session
 * is refused, too.
 *
 * Settings cannot be changed in parallel mode.  If the library were loaded
 * there for the first time, its placeholders would be lost, so it refuses that.
 */
#include "postgres.h"

#include "access/xact.h"
#include "miscadmin.h"
#include "storage/proc.h"
#include "utils/acl.h"
#include "utils/guc.h"
#include "utils/memutils.h"

#include "compat.h"
#include "session.h"

#define OUR_PREFIX	"amt_keys."

static List *named_by_client = NIL;
static AmtRefusal refusal = AMT_NOT_REFUSED;

static bool
is_ours(const char *name)
{
	return pg_strncasecmp(name, OUR_PREFIX, strlen(OUR_PREFIX)) == 0;
}

void
amt_session_before_settings(void)
{
	MemoryContext oldcontext = MemoryContextSwitchTo(TopMemoryContext);
	int			n;
	struct config_generic **settings = amt_all_settings(&n);

	for (int i = 0; i < n; i++)
	{
		if (!is_ours(settings[i]->name))
			continue;
		if (IsInParallelMode())
			ereport(ERROR,
					(errcode(ERRCODE_OBJECT_NOT_IN_PREREQUISITE_STATE),
					 errmsg("library \"amt_keys\" cannot be loaded during a parallel operation"),
					 errdetail("Its settings would be lost, among them the identity."),
					 errhint("Add amt_keys to \"session_preload_libraries\", or call amt_org_id() before.")));
		if (settings[i]->reset_source == PGC_S_CLIENT || settings[i]->source == PGC_S_CLIENT)
			named_by_client = lappend(named_by_client, pstrdup(settings[i]->name));
	}
	MemoryContextSwitchTo(oldcontext);
}

/* May the user who logged in set this setting in a session? */
static bool
may_set(const char *name)
{
	int			n;
	struct config_generic **settings = amt_all_settings(&n);

	for (int i = 0; i < n; i++)
	{
		if (pg_strcasecmp(settings[i]->name, name) != 0)
			continue;
		return settings[i]->context == PGC_SUSET && IsTransactionState() &&
			pg_parameter_aclcheck(name, MyProc->roleId, ACL_SET) == ACLCHECK_OK;
	}
	return true;				/* no setting of ours; it was thrown away */
}

void
amt_session_after_settings(void)
{
	ListCell   *cell;

	foreach(cell, named_by_client)
	{
		if (!may_set(lfirst(cell)))
		{
			amt_session_refuse(AMT_REFUSED_OPTION);
			break;
		}
	}
}

void
amt_session_refuse(AmtRefusal why)
{
	refusal = why;
}

bool
amt_session_is_refused(void)
{
	return refusal != AMT_NOT_REFUSED;
}

void
amt_session_check(void)
{
	if (likely(refusal == AMT_NOT_REFUSED))
		return;
	if (refusal == AMT_REFUSED_OPTION)
		ereport(ERROR,
				(errcode(ERRCODE_INSUFFICIENT_PRIVILEGE),
				 errmsg("functions of amt_keys cannot be used in this session"),
				 errdetail("The connection's options name a setting of amt_keys that the user may not set, so what the server has set for the session is not known."),
				 errhint("Connect without that option.")));
	ereport(ERROR,
			(errcode(ERRCODE_INSUFFICIENT_PRIVILEGE),
			 errmsg("functions of amt_keys cannot be used in this session"),
			 errdetail("A setting that holds the identity was given a value that is not valid, so the caller is not known."),
			 errhint("Correct what ALTER ROLE, ALTER DATABASE, the configuration or the connection sets, and connect again.")));
}
