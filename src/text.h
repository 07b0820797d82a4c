/*
 * text.h
 *	  Text that comes from a caller or from a row.
 */
#ifndef AMT_TEXT_H
#define AMT_TEXT_H

#include "fmgr.h"

/* Is the text this string?  Compares bytes. */
extern bool amt_text_is(Datum text_value, const char *string);

/* Raise 22021 unless the text is valid in the database's encoding. */
extern void amt_check_encoding(const char *s, Size len);

/* Set a column of type text; NULL makes it null. */
extern void amt_set_text(Datum *values, bool *nulls, int attnum, const char *value);

/*
 * An argument as a C string; NULL if it is null.  Raises 22021 unless it is
 * valid in the database's encoding.
 */
extern char *amt_string_arg(FunctionCallInfo fcinfo, int n);

#endif							/* AMT_TEXT_H */
