/*
 * cold.c
 *	  What a cold key's verification costs beside one run of scrypt.
 *
 *		cold PAIRS LN R P TOKEN
 *
 * Runs EVP_PBE_scrypt in this process, then has the server verify TOKEN, whose
 * stored hash has these parameters, after amt_cache_clear(); PAIRS times.  Both
 * are timed here, so the verification's time has the round trip and the server's
 * work on top of the run.  Clearing the cache is in neither.  The first pair is
 * a warm-up and not printed: the memory is fetched from the system then, and
 * malloc keeps it, in this process as in the server's.
 *
 * Prints the two times of each pair, in milliseconds; without arguments, OpenSSL's
 * version.
 */
#include <libpq-fe.h>
#include <openssl/crypto.h>
#include <openssl/evp.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

static double
now_ms(void)
{
	struct timespec t;

	clock_gettime(CLOCK_MONOTONIC, &t);
	return t.tv_sec * 1e3 + t.tv_nsec / 1e6;
}

static double
time_scrypt(const char *secret, int ln, uint64_t r, uint64_t p)
{
	const unsigned char salt[16] = "sixteen bytes...";
	unsigned char hash[32];
	uint64_t	n = (uint64_t) 1 << ln;
	double		start = now_ms();

	if (EVP_PBE_scrypt(secret, strlen(secret), salt, sizeof(salt), n, r, p,
					   128 * r * (n + p + 2) + (1 << 20), hash, sizeof(hash)) != 1)
	{
		fprintf(stderr, "EVP_PBE_scrypt failed\n");
		exit(1);
	}
	return now_ms() - start;
}

static void
check(PGconn *conn, PGresult *result, int rows)
{
	if (PQresultStatus(result) != PGRES_TUPLES_OK || PQntuples(result) != rows)
	{
		fprintf(stderr, "%d rows instead of %d. %s", PQntuples(result), rows, PQerrorMessage(conn));
		exit(1);
	}
	PQclear(result);
}

static double
time_verify(PGconn *conn, const char *token)
{
	double		start;
	double		end;

	check(conn, PQexec(conn, "SELECT amt_cache_clear()"), 1);
	start = now_ms();
	check(conn, PQexecPrepared(conn, "verify", 1, &token, NULL, NULL, 0), 1);
	end = now_ms();
	return end - start;
}

int
main(int argc, char **argv)
{
	PGconn	   *conn;

	if (argc == 1)
	{
		puts(OpenSSL_version(OPENSSL_VERSION));
		return 0;
	}
	if (argc != 6)
	{
		fprintf(stderr, "usage: cold PAIRS LN R P TOKEN\n");
		return 1;
	}
	conn = PQconnectdb("");
	PQclear(PQprepare(conn, "verify", "SELECT * FROM amt_verify($1)", 0, NULL));
	for (int i = 0; i <= atoi(argv[1]); i++)
	{
		double		raw = time_scrypt(strrchr(argv[5], '_') + 1, atoi(argv[2]), atol(argv[3]), atol(argv[4]));
		double		verify = time_verify(conn, argv[5]);

		if (i > 0)
			printf("%.4f %.4f\n", raw, verify);
	}
	PQfinish(conn);
	return 0;
}
