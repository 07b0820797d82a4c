/*
 * redact.c
 *	  Masking secrets in the server's log.
 *
 * The hook sees an entry before it is written to any destination, and masks
 * tokens in all its texts.  A text that holds a token is freed and replaced
 * by a masked copy.  The server frees the texts of an entry one by one, so
 * the copy is in the entry's own memory context.
 *
 * The server takes an entry's STATEMENT from debug_query_string when it
 * writes the entry.  We point that to a masked copy, which lives until the
 * next one is made.  The running query has its own pointer to the original.
 * In a critical section only the error's memory may grow.  So we leave out a
 * statement that holds a token.
 *
 * The hook runs in every process that has loaded the library, on any level
 * of error, without locks.
 */
#include "postgres.h"

#include "miscadmin.h"
#include "tcop/tcopprot.h"
#include "utils/guc.h"
#include "utils/memutils.h"

#include "mask.h"
#include "prefixes.h"
#include "redact.h"

static bool redact_logs = true;
static emit_log_hook_type prev_emit_log_hook = NULL;

/*
 * Mask a field.  Without memory it becomes empty: an error here would take
 * the place of the one that is being reported.
 */
static void
mask_field(char **field, MemoryContext context)
{
	size_t		len;
	size_t		masked_len;
	bool		found;
	char	   *masked;

	if (*field == NULL)
		return;
	len = strlen(*field);
	masked_len = amt_mask(amt_prefixes(), *field, len, NULL, 0, &found);
	if (!found)
		return;
	masked = MemoryContextAllocExtended(context, masked_len + 1, MCXT_ALLOC_HUGE | MCXT_ALLOC_NO_OOM);
	if (masked == NULL)
	{
		(*field)[0] = '\0';
		return;
	}
	(void) amt_mask(amt_prefixes(), *field, len, masked, masked_len + 1, &found);
	pfree(*field);
	*field = masked;
}

/* Does the message quote a part of a text that was read as a date or a time? */
static bool
quotes_part(const ErrorData *edata)
{
	return edata->message != NULL && edata->message_id != NULL &&
		(strcmp(edata->message_id, "time zone \"%s\" not recognized") == 0 ||
		 strcmp(edata->message_id, "invalid value \"%s\" for \"%s\"") == 0);
}

/*
 * Mask what is as long as a secret.  No part of a zone's name, between
 * slashes, is, nor a word of a date.  Nobody can cancel us, so read the message
 * only once.
 */
static void
mask_long_runs(char *message)
{
	char	   *out = message;

	for (const char *at = message; *at != '\0';)
	{
		size_t		len = strspn(at, "0123456789ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz_-");

		if (len >= AMT_SECRET_MIN)
		{
			memcpy(out, AMT_MASK, strlen(AMT_MASK));	/* which is shorter */
			out += strlen(AMT_MASK);
			at += len;
			continue;
		}
		if (len == 0)
			len = 1;			/* the character between two runs */
		memmove(out, at, len);
		out += len;
		at += len;
	}
	*out = '\0';
}

/*
 * A command that starts parallel workers takes the statement's length, may
 * wait and log, and then copies the statement.  So the masked copy has room
 * for that length, and ends within it.
 */
static void
mask_statement(void)
{
	static char *copy = NULL;
	size_t		len;
	bool		found;

	if (debug_query_string == NULL || debug_query_string == copy)
		return;
	len = strlen(debug_query_string);
	(void) amt_mask(amt_prefixes(), debug_query_string, len, NULL, 0, &found);
	if (!found)
		return;
	if (CritSectionCount > 0)
	{
		debug_query_string = NULL;
		return;
	}
	if (copy != NULL)
		pfree(copy);
	copy = MemoryContextAllocExtended(TopMemoryContext, len + 1,
									  MCXT_ALLOC_HUGE | MCXT_ALLOC_NO_OOM | MCXT_ALLOC_ZERO);
	if (copy != NULL)
		(void) amt_mask(amt_prefixes(), debug_query_string, len, copy, len + 1, &found);
	debug_query_string = copy;
}

static void
redact(ErrorData *edata)
{
	if (redact_logs)
	{
		MemoryContext context = edata->assoc_context != NULL ? edata->assoc_context : ErrorContext;

		mask_field(&edata->message, context);
		if (quotes_part(edata))
			mask_long_runs(edata->message);
		mask_field(&edata->detail, context);
		mask_field(&edata->detail_log, context);
		mask_field(&edata->hint, context);
		mask_field(&edata->context, context);
		mask_field(&edata->internalquery, context);
		mask_statement();
	}
	if (prev_emit_log_hook)
		prev_emit_log_hook(edata);
}

void
amt_redact_init(void)
{
	DefineCustomBoolVariable("amt_keys.redact_logs",
							 "Masks the secrets of tokens in the server's log.",
							 "The key id stays readable. Works from the moment the library is loaded into a process.",
							 &redact_logs,
							 true,
							 PGC_SUSET, 0, NULL, NULL, NULL);
	prev_emit_log_hook = emit_log_hook;
	emit_log_hook = redact;
}
