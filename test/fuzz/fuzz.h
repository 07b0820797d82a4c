/*
 * fuzz.h
 *	  Shared by all fuzz targets.
 *
 * Nothing here is taken from src/.  A target compares the answers of the code
 * under test with those of these few lines, which were written for clarity
 * alone.
 */
#ifndef FUZZ_H
#define FUZZ_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

/* libFuzzer calls this with a buffer that has exactly this size. */
extern int	LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

#define EXPECT(condition) \
	do { \
		if (!(condition)) \
		{ \
			fprintf(stderr, "%s:%d: not so: %s\n", __FILE__, __LINE__, #condition); \
			abort(); \
		} \
	} while (0)

static const char alphabet[] = "0123456789ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz";

/* 0 to 61, or -1. */
static inline int
digit_value(char c)
{
	if (c >= '0' && c <= '9')
		return c - '0';
	if (c >= 'A' && c <= 'Z')
		return c - 'A' + 10;
	if (c >= 'a' && c <= 'z')
		return c - 'a' + 36;
	return -1;
}

static inline bool
is_run_char(char c)
{
	return digit_value(c) >= 0 || c == '_' || c == '-';
}

/* CRC-32, one bit after the other. */
static inline uint32_t
reference_crc(const char *s, size_t len)
{
	uint32_t	crc = UINT32_MAX;

	while (len-- > 0)
	{
		crc ^= (uint8_t) *s++;
		for (int bit = 0; bit < 8; bit++)
			crc = crc & 1 ? crc >> 1 ^ 0xEDB88320 : crc >> 1;
	}
	return crc ^ UINT32_MAX;
}

static inline void *
allocate(size_t size)
{
	void	   *memory = malloc(size > 0 ? size : 1);

	if (memory == NULL)
		abort();
	return memory;
}

#endif							/* FUZZ_H */
