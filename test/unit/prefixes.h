/*
 * prefixes.h
 *	  Lists of prefixes for the tests.
 */
#ifndef PREFIXES_H
#define PREFIXES_H

#include <stdlib.h>
#include <string.h>

#include "token.h"

/* The prefixes in a text, with a space between them. */
static inline AmtPrefixes
prefixes(const char *names)
{
	AmtPrefixes list = {0};

	while (*names != '\0')
	{
		size_t		len = strcspn(names, " ");

		if (!amt_prefixes_add(&list, names, len))
			abort();
		names += len;
		names += strspn(names, " ");
	}
	return list;
}

#endif							/* PREFIXES_H */
