/*
 * load.c
 *	  Prepared statements from many connections: how many rounds a second?
 *
 *		load [-c CLIENTS] [-t SECONDS | -n ROUNDS] [-w SECONDS] [-b BEFORE] [-r] PARAMS STATEMENT...
 *
 * Each client is a process with one connection, as libpq's environment says.
 * A round executes the statements one after the other, all prepared.  PARAMS is
 * a file of lines.  Each round draws one; its fields, separated by tabs, are
 * the parameters.  pgbench cannot draw strings from a file.
 *
 * Each client runs rounds for the -w seconds before the clock starts; these
 * should be more than the five after which the server decides between custom
 * and generic plans.  Only rounds that end within the time count; with -n, each
 * client does so many and the time is what the last one needed.  BEFORE is a
 * statement for the moment when all clients are ready and none has begun.
 * SIGTERM ends the time early.
 *
 * With -r, each round has a connection of its own, and nothing is prepared.
 *
 * Prints rounds, seconds, the rows that statements with parameters returned in
 * those rounds, and the microseconds within which 99 % of the rounds ended; any
 * error ends it with exit code 1.
 */
#include <libpq-fe.h>
#include <limits.h>
#include <semaphore.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

#define MAX_CLIENTS		1024
#define MAX_STATEMENTS	8
#define MAX_FIELDS		4
#define TICK			1e-5	/* of the histogram of times, in seconds */
#define TICKS			100000	/* longer rounds count as the longest */

/* What the clients and their parent share. */
typedef struct Shared
{
	volatile int ready;			/* clients that wait for the next signal */
	sem_t		warm_up;		/* all are connected; */
	sem_t		go;				/* all are warm */
	volatile int stop;
	unsigned	took[TICKS];	/* rounds by their time */
	struct
	{
		long		rounds;
		long		rows;
		char		pad[48];
	}			client[MAX_CLIENTS];
} Shared;

typedef struct Line
{
	const char *field[MAX_FIELDS];
} Line;

static Shared *shared;
static Line *lines;
static size_t nlines;
static char **statements;
static int	nstatements;
static int	nfields[MAX_STATEMENTS];	/* parameters of each statement */
static int	reconnect = 0;

static void
fail(const char *what)
{
	perror(what);
	exit(1);
}

static void
read_lines(const char *path)
{
	FILE	   *f = fopen(path, "r");
	char	   *line = NULL;
	size_t		size = 0;
	size_t		room = 0;
	ssize_t		len;

	if (f == NULL)
		fail(path);
	while ((len = getline(&line, &size, f)) > 0)
	{
		char	   *rest;

		if (line[len - 1] == '\n')
			line[len - 1] = '\0';
		if (nlines == room)
		{
			room = room * 2 + 1024;
			lines = realloc(lines, room * sizeof(Line));
			if (lines == NULL)
				fail("realloc");
		}
		rest = strdup(line);
		for (int i = 0; i < MAX_FIELDS; i++)
			lines[nlines].field[i] = strsep(&rest, "\t");
		nlines++;
	}
	fclose(f);
	if (nlines == 0)
	{
		fprintf(stderr, "%s is empty\n", path);
		exit(1);
	}
}

static int
count_params(const char *statement)
{
	int			n = 0;

	for (int i = 1; i <= MAX_FIELDS; i++)
	{
		char		mark[3] = {'$', '0' + i, '\0'};

		if (strstr(statement, mark) != NULL)
			n = i;
	}
	return n;
}

static PGresult *
check(PGconn *conn, PGresult *result)
{
	ExecStatusType status = PQresultStatus(result);

	if (status != PGRES_TUPLES_OK && status != PGRES_COMMAND_OK)
	{
		fprintf(stderr, "%s", PQerrorMessage(conn));
		_exit(1);
	}
	return result;
}

/* One round; the rows that statements with parameters returned. */
static int
run_round(PGconn *conn, unsigned *seed)
{
	size_t		draw = ((size_t) rand_r(seed) << 31) ^ (size_t) rand_r(seed);
	const Line *line = &lines[draw % nlines];
	int			rows = 0;

	for (int i = 0; i < nstatements; i++)
	{
		char		name[2] = {'a' + i, '\0'};
		PGresult   *result = check(conn, reconnect ?
								   PQexecParams(conn, statements[i], nfields[i], NULL, line->field, NULL, NULL, 0) :
								   PQexecPrepared(conn, name, nfields[i], line->field, NULL, NULL, 0));

		if (nfields[i] > 0)
			rows += PQntuples(result);
		PQclear(result);
	}
	return rows;
}

static double
now(void)
{
	struct timespec t;

	clock_gettime(CLOCK_MONOTONIC, &t);
	return t.tv_sec + t.tv_nsec / 1e9;
}

static PGconn *
connect_as_environment_says(void)
{
	PGconn	   *conn = PQconnectdb("");

	if (PQstatus(conn) != CONNECTION_OK)
	{
		fprintf(stderr, "%s", PQerrorMessage(conn));
		_exit(1);
	}
	return conn;
}

static void
prepare(PGconn *conn)
{
	for (int i = 0; i < nstatements; i++)
	{
		char		name[2] = {'a' + i, '\0'};

		PQclear(check(conn, PQprepare(conn, name, statements[i], 0, NULL)));
	}
}

/* A round on the connection, or on one of its own. */
static int
run_connected(PGconn *conn, unsigned *seed)
{
	int			rows;

	if (!reconnect)
		return run_round(conn, seed);
	conn = connect_as_environment_says();
	rows = run_round(conn, seed);
	PQfinish(conn);
	return rows;
}

static void
note_time(double seconds)
{
	long		tick = seconds / TICK;

	__atomic_add_fetch(&shared->took[tick < TICKS ? tick : TICKS - 1], 1, __ATOMIC_RELAXED);
}

/*
 * Tell the parent that we are ready, and wait for it.  Sleep: if hundreds of
 * clients looked again and again, the others would not become ready.
 */
static void
wait_for(sem_t *signal)
{
	__atomic_add_fetch(&shared->ready, 1, __ATOMIC_SEQ_CST);
	while (sem_wait(signal) != 0)
		;
}

static void
run_client(int n, long limit, double warm_up)
{
	PGconn	   *conn = connect_as_environment_says();
	unsigned	seed = (unsigned) getpid() * 2654435761u;
	long		rounds = 0;
	long		rows = 0;

	if (!reconnect)
		prepare(conn);
	wait_for(&shared->warm_up);
	for (double end = now() + warm_up; now() < end;)
		run_connected(conn, &seed);
	wait_for(&shared->go);
	while (rounds < limit)
	{
		double		start = now();
		int			r = run_connected(conn, &seed);

		if (shared->stop)
			break;
		note_time(now() - start);
		rounds++;
		rows += r;
	}
	shared->client[n].rounds = rounds;
	shared->client[n].rows = rows;
	PQfinish(conn);
}

/* Microseconds within which 99 % of the rounds ended. */
static double
percentile_99(long rounds)
{
	long		within = 0;
	int			tick = 0;

	while (tick < TICKS - 1 && (within += shared->took[tick]) < rounds * 0.99)
		tick++;
	return (tick + 1) * TICK * 1e6;
}

static void
stop_early(int signum)
{
	(void) signum;
	shared->stop = 1;
}

static void
wait_until_ready(int clients)
{
	while (shared->ready < clients)
	{
		usleep(1000);
		if (waitpid(-1, NULL, WNOHANG) > 0)
			exit(1);			/* it has said why */
	}
	shared->ready = 0;
}

static void
signal_all(sem_t *signal, int clients)
{
	for (int i = 0; i < clients; i++)
		sem_post(signal);
}

static void
start_clients(int clients, long limit, double warm_up)
{
	for (int i = 0; i < clients; i++)
	{
		pid_t		pid = fork();

		if (pid < 0)
			fail("fork");
		if (pid == 0)
		{
			prctl(PR_SET_PDEATHSIG, SIGKILL);
			signal(SIGTERM, SIG_DFL);
			run_client(i, limit, warm_up);
			_exit(0);
		}
	}
	wait_until_ready(clients);
	signal_all(&shared->warm_up, clients);
	wait_until_ready(clients);
}

int
main(int argc, char **argv)
{
	int			clients = 1;
	double		seconds = 1;
	long		limit = 0;
	double		warm_up = 0.1;
	const char *before = NULL;
	int			failed = 0;
	long		rounds = 0;
	long		rows = 0;
	double		start;
	double		end = 0;
	int			option;

	while ((option = getopt(argc, argv, "c:t:n:w:b:r")) != -1)
	{
		if (option == 'c')
			clients = atoi(optarg);
		else if (option == 't')
			seconds = atof(optarg);
		else if (option == 'n')
			limit = atol(optarg);
		else if (option == 'w')
			warm_up = atof(optarg);
		else if (option == 'b')
			before = optarg;
		else if (option == 'r')
			reconnect = 1;
		else
			return 1;
	}
	nstatements = argc - optind - 1;
	if (clients < 1 || clients > MAX_CLIENTS || nstatements < 1 || nstatements > MAX_STATEMENTS)
	{
		fprintf(stderr, "usage: load [-c CLIENTS] [-t SECONDS | -n ROUNDS] [-w SECONDS] [-b BEFORE] [-r] PARAMS STATEMENT...\n");
		return 1;
	}
	read_lines(argv[optind]);
	statements = argv + optind + 1;
	for (int i = 0; i < nstatements; i++)
		nfields[i] = count_params(statements[i]);

	shared = mmap(NULL, sizeof(Shared), PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
	if (shared == MAP_FAILED)
		fail("mmap");
	if (sem_init(&shared->warm_up, 1, 0) != 0 || sem_init(&shared->go, 1, 0) != 0)
		fail("sem_init");
	signal(SIGTERM, stop_early);
	start_clients(clients, limit > 0 ? limit : LONG_MAX, warm_up);
	if (before != NULL)
	{
		PGconn	   *conn = connect_as_environment_says();

		PQclear(check(conn, PQexec(conn, before)));
		PQfinish(conn);
	}

	start = now();
	signal_all(&shared->go, clients);
	if (limit == 0)
	{
		while (!shared->stop && now() < start + seconds)
			usleep(5000);
		shared->stop = 1;
		end = now();
	}
	for (int i = 0; i < clients; i++)
	{
		int			status;

		if (wait(&status) > 0)
			failed |= status;
	}
	if (limit > 0)
		end = now();
	for (int i = 0; i < clients; i++)
	{
		rounds += shared->client[i].rounds;
		rows += shared->client[i].rows;
	}
	printf("%ld %.6f %ld %.0f\n", rounds, end - start, rows, percentile_99(rounds));
	return failed ? 1 : 0;
}
