/*
 * text.c
 *	  Text that comes from a caller or from a row.
 *
 * The server checks the encoding of queries and parameters, but not of
 * connection options.  So we check all text before we store or compare it.
 */
#include "postgres.h"

#include "mb/pg_wchar.h"
#include "utils/builtins.h"

#include "compat.h"
#include "text.h"

bool
amt_text_is(Datum text_value, const char *string)
{
	text	   *value = DatumGetTextPP(text_value);
	Size		len = VARSIZE_ANY_EXHDR(value);

	return len == strlen(string) && memcmp(VARDATA_ANY(value), string, len) == 0;
}

void
amt_check_encoding(const char *s, Size len)
{
	(void) pg_verify_mbstr(GetDatabaseEncoding(), s, len, false);
}

char *
amt_string_arg(FunctionCallInfo fcinfo, int n)
{
	char	   *arg;

	if (PG_ARGISNULL(n))
		return NULL;
	arg = text_to_cstring(PG_GETARG_TEXT_PP(n));
	amt_check_encoding(arg, strlen(arg));
	return arg;
}

void
amt_set_text(Datum *values, bool *nulls, int attnum, const char *value)
{
	nulls[attnum - 1] = value == NULL;
	values[attnum - 1] = value != NULL ? CStringGetTextDatum(value) : (Datum) 0;
}
