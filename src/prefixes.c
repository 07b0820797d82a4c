/*
 * prefixes.c
 *	  The prefixes of tokens that are in force.
 */
#include "postgres.h"

#include "mb/pg_wchar.h"
#include "utils/guc.h"
#include "utils/varlena.h"

#include "compat.h"
#include "mask.h"
#include "prefixes.h"

#define MAX_QUOTED	63			/* bytes of a text in an error message */

static char *prefixes_setting = NULL;
static const AmtPrefixes *prefixes = NULL;

static bool
check_prefixes(char **newval, void **extra, GucSource source)
{
	char	   *copy = pstrdup(*newval);
	List	   *names;
	ListCell   *cell;
	AmtPrefixes list = {0};

	if (!SplitGUCList(copy, ',', &names) || names == NIL)
	{
		GUC_check_errdetail("List syntax is invalid, or the list is empty.");
		return false;
	}
	foreach(cell, names)
	{
		const char *name = lfirst(cell);

		if (!amt_prefixes_add(&list, name, strlen(name)))
		{
			GUC_check_errdetail("A prefix has %d to %d characters of a-z and 0-9, beginning with a letter, and no prefix is listed twice; there can be %d.",
								AMT_PREFIX_MIN, AMT_PREFIX_MAX, AMT_PREFIXES_MAX);
			return false;
		}
	}
	list_free(names);
	pfree(copy);
	*extra = amt_guc_alloc(sizeof(list));
	if (*extra == NULL)
		return false;
	memcpy(*extra, &list, sizeof(list));
	return true;
}

static void
assign_prefixes(const char *newval, void *extra)
{
	prefixes = extra;
}

void
amt_prefixes_init(void)
{
	DefineCustomStringVariable("amt_keys.token_prefixes",
							   "Lists the prefixes that tokens may begin with.",
							   "New tokens use the first. Tokens of all of them are verified, revoked, found in texts "
							   "and masked in the log. A prefix has 2 to 16 characters of a-z and 0-9, beginning with a letter.",
							   &prefixes_setting,
							   "amt",
							   PGC_SUSET, GUC_LIST_INPUT,
							   check_prefixes, assign_prefixes, NULL);
}

const AmtPrefixes *
amt_prefixes(void)
{
	return prefixes;
}

char *
amt_masked(const char *text)
{
	bool		found;
	size_t		size = MAX_QUOTED + MAX_MULTIBYTE_CHAR_LEN + 1;
	char	   *masked = palloc(size);
	size_t		len = amt_mask(prefixes, text, strlen(text), masked, size, &found);

	masked[pg_mbcliplen(masked, Min(len, size - 1), MAX_QUOTED)] = '\0';
	return masked;
}
