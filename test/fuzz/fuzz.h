/*
 * fuzz.h
 *	  What the fuzz targets share.
 *
 * Nothing here is taken from src/: a target compares what the code under test
 * says with what these few lines say, which were written for clarity alone.
 */
#ifndef FUZZ_H
#define FUZZ_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

/* What libFuzzer calls, with a buffer that has exactly this size. */
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

/* Is it amt_<12>_<49>, with the value of the last six digits right? */
static inline bool
reference_check(const char *s, size_t len)
{
	uint64_t	value = 0;

	if (len != 66 || memcmp(s, "amt_", 4) != 0)
		return false;
	for (size_t i = 4; i < 66; i++)
	{
		if (i == 16 ? s[i] != '_' : digit_value(s[i]) < 0)
			return false;
		if (i >= 60)
			value = value * 62 + digit_value(s[i]);
	}
	return value == reference_crc(s, 60);
}

/* Make the last six characters right. */
static inline void
reference_seal(char token[66])
{
	uint32_t	crc = reference_crc(token, 60);

	for (size_t i = 66; i-- > 60; crc /= 62)
		token[i] = alphabet[crc % 62];
}

/* A right token from up to 55 bytes; how many were used. */
static inline size_t
reference_token(const uint8_t *data, size_t size, char out[66])
{
	size_t		used = 0;

	memcpy(out, "amt_", 4);
	for (size_t i = 4; i < 60; i++)
		out[i] = i == 16 ? '_' : alphabet[used < size ? data[used++] % 62 : 0];
	reference_seal(out);
	return used;
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
