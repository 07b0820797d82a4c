/*
 * scan.c
 *	  Tokens in texts: amt_check_token() and amt_find_tokens().
 *
 * No table is read.  A right checksum does not tell whether the key exists.
 */
#include "postgres.h"

#include "fmgr.h"
#include "funcapi.h"
#include "miscadmin.h"
#include "utils/builtins.h"

#include "compat.h"
#include "prefixes.h"
#include "session.h"

PG_FUNCTION_INFO_V1(amt_check_token);
Datum
amt_check_token(PG_FUNCTION_ARGS)
{
	text	   *token;

	/* The function is STRICT, but its owner may have changed that. */
	amt_session_check();
	if (PG_ARGISNULL(0))
		PG_RETURN_NULL();
	token = PG_GETARG_TEXT_PP(0);
	PG_RETURN_BOOL(amt_token_check(amt_prefixes(), VARDATA_ANY(token), VARSIZE_ANY_EXHDR(token)));
}

/* A search that is under way. */
typedef struct Search
{
	text	   *text;
	Size		at;				/* where the search goes on */
	MemoryContextCallback wipe;
} Search;

/* Called when the search ends, or is given up. */
static void
wipe_text(void *arg)
{
	explicit_bzero(arg, VARSIZE(arg));
}

PG_FUNCTION_INFO_V1(amt_find_tokens);
Datum
amt_find_tokens(PG_FUNCTION_ARGS)
{
	FuncCallContext *context;
	Search	   *search;
	const char *s;
	Size		len;
	Size		found;
	size_t		token_len;

	amt_session_check();
	if (SRF_IS_FIRSTCALL())
	{
		MemoryContext oldcontext;

		context = SRF_FIRSTCALL_INIT();
		if (PG_ARGISNULL(0))
			SRF_RETURN_DONE(context);
		oldcontext = MemoryContextSwitchTo(context->multi_call_memory_ctx);
		search = palloc0(sizeof(Search));
		search->text = DatumGetTextPCopy(PG_GETARG_DATUM(0));
		search->wipe.func = wipe_text;
		search->wipe.arg = search->text;
		MemoryContextRegisterResetCallback(context->multi_call_memory_ctx, &search->wipe);
		context->user_fctx = search;
		MemoryContextSwitchTo(oldcontext);
	}
	context = SRF_PERCALL_SETUP();
	search = context->user_fctx;
	s = VARDATA_ANY(search->text);
	len = VARSIZE_ANY_EXHDR(search->text);

	CHECK_FOR_INTERRUPTS();
	found = amt_token_find(amt_prefixes(), s, len, search->at, &token_len);
	if (found == len)
		SRF_RETURN_DONE(context);
	search->at = found + token_len;
	SRF_RETURN_NEXT(context,
					CStringGetTextDatum(psprintf("%.*s...",
												 (int) (token_len - 1 - AMT_SECRET_LEN), s + found)));
}
