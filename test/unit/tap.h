/*
 * tap.h
 *	  As much of the Test Anything Protocol as tests in C need.
 *
 * Each test program includes this once and ends with "return done_testing();".
 */
#ifndef TAP_H
#define TAP_H

#include <stdarg.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

static int	tap_run;
static int	tap_failed;

static inline bool ok(bool passed, const char *name,...) __attribute__((format(printf, 2, 3)));
static inline void note(const char *format,...) __attribute__((format(printf, 1, 2)));

/* One test point, named like printf() would, control characters apart. */
static inline bool
ok(bool passed, const char *name,...)
{
	char		text[200];
	char	   *c;
	va_list		args;

	va_start(args, name);
	vsnprintf(text, sizeof(text), name, args);
	va_end(args);
	for (c = text; *c != '\0'; c++)
	{
		if ((unsigned char) *c < ' ')
			*c = ' ';
	}
	tap_run++;
	if (!passed)
		tap_failed++;
	printf("%sok %d - %s\n", passed ? "" : "not ", tap_run, text);
	fflush(stdout);
	return passed;
}

/* Two texts are the same; shows both if not. */
static inline bool
is_text(const char *got, const char *expected, const char *name)
{
	bool		passed = ok(strcmp(got, expected) == 0, "%s", name);

	if (!passed)
		printf("#      got: %s\n# expected: %s\n", got, expected);
	return passed;
}

/* A line for the reader. */
static inline void
note(const char *format,...)
{
	va_list		args;

	printf("# ");
	va_start(args, format);
	vprintf(format, args);
	va_end(args);
	putchar('\n');
}

static inline int
done_testing(void)
{
	printf("1..%d\n", tap_run);
	return tap_failed == 0 ? 0 : 1;
}

/*
 * A copy with nothing behind it, not even a NUL: what reads too far is seen by
 * valgrind and the address sanitizer.  To be freed.
 */
static inline char *
exact_copy(const char *s, size_t len)
{
	char	   *copy = malloc(len > 0 ? len : 1);

	if (copy == NULL)
		abort();
	memcpy(copy, s, len);
	return copy;
}

/* Seconds of CPU time that this process has used. */
static inline double
cpu_seconds(void)
{
	return (double) clock() / CLOCKS_PER_SEC;
}

#endif							/* TAP_H */
