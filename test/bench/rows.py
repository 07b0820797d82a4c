"""What is measured beside what.

Each row is a function that measures both sides in turn, round by round, and
checks that each side did what the row says: that each round verified and got
its row, or got none, and that scrypt ran exactly as often as it should. A
benchmark that measured errors would be fast.
"""

import os
import signal
import time
from collections import namedtuple
from statistics import median

from server import Server

VERIFY = "SELECT * FROM amt_verify($1)"
SELECT = "SELECT key_id, org_id, role, scopes, name, created_by, expires_at FROM amt_key WHERE key_id = $1"
# A look-up as people write it by hand, with a fast hash in a unique index; it counts nothing.
DIGEST = """SELECT key_id, org_id, role, scopes, name, created_by, expires_at
 FROM common WHERE token_hash = digest($1, 'sha256')"""
HEADERS = "SELECT set_config('request.headers', $1, true)"
PAGE = """SELECT key_id, name, token_prefix, org_id, role, scopes, created_at, created_by, expires_at,
 suspended_at, replaces{counts} FROM {source} ORDER BY created_at DESC LIMIT 20"""
EVENTS = "SELECT * FROM amt_key_event WHERE $1 = 'x' {where} ORDER BY event_id DESC LIMIT 20"
WORK = "SELECT pg_sleep(0.02)"
# Seconds before the clock starts, until each process has seen the pages of shared
# memory that it needs (the first touch of each costs it a page fault, which a pool's
# connections have behind them), and the worker has been started and has written once.
WARM_UP = 1.5
# Where each of 10,000 keys has a page of the table of its own.
WARM_UP_PAGES = 10
# Rounds, for each one that is asked for, of the rows that are nearest to what they
# shall reach: where the machine makes a round 10 % faster or slower, a median of
# eleven is good to some 4 %.
TIMES_NEAR = 2
# The common pattern in as few statements as it can have.
PATTERN = """UPDATE common SET last_used_at = now(), calls = calls + 1
 WHERE key_id = $1 AND secret_hash = digest($2, 'sha256')
 RETURNING key_id, org_id, role, name, created_by, expires_at"""

# The same, but a key that was used within a minute is not updated.
GRACE = """WITH used AS (UPDATE common SET last_used_at = now(), calls = calls + 1
  WHERE key_id = $1 AND secret_hash = digest($2, 'sha256') AND last_used_at < now() - interval '1 minute')
 SELECT key_id, org_id, role, name, created_by, expires_at FROM common
 WHERE key_id = $1 AND secret_hash = digest($2, 'sha256')"""

PLAIN_EVENT = """INSERT INTO plain_event (at, event, key_id, org_id, name, role, db_user, calls)
 VALUES (now(), 'revoked', 'revoked' || i, 'org' || i % 100, 'key ' || i, 'editor', current_user, 0);"""

# A row of the table. The reach is a least or greatest ratio, or an exact number, or
# none (the sense is then None): such a row is only printed. The unit is that of both
# sides' figures.
Row = namedtuple("Row", "name measured beside sense reach unit measure")
Result = namedtuple("Result", "row ours theirs ratios note")


class Side:
    """One side of a comparison: a load that can be run again and again."""

    def __init__(self, bench, database, params, statements, clients, rows, warm_up=WARM_UP,
                 options=(), user="postgres", server=None):
        self.bench, self.args, self.rows = bench, (database, params, statements, clients), rows
        self.warm_up, self.options, self.user = warm_up, options, user
        self.server = server or bench.server

    def load(self):
        load = self.server.load(*self.args, "-t", self.bench.seconds, "-w", self.warm_up,
                                *self.options, user=self.user)
        if load.rounds == 0 or load.rows != load.rounds * self.rows:
            raise SystemExit(f"{load.rows} rows from {load.rounds} rounds of {self.args[2]}, "
                             f"{self.rows} each expected")
        return load

    def run(self):
        """Rounds a second."""
        load = self.load()
        return load.rounds / load.seconds

    def milliseconds(self):
        """Of one round."""
        load = self.load()
        return 1000 * load.seconds / load.rounds


def verify(bench, database="keys", params="tokens", clients=8, rows=1, warm_up=WARM_UP):
    return Side(bench, database, bench.server.file(params), [VERIFY], clients, rows, warm_up)


def interleave(rounds, ours, theirs):
    """Both sides in turn; who begins changes, so that a drift favours neither."""
    pairs = []
    for i in range(rounds):
        if i % 2 == 0:
            a = ours()
            b = theirs()
        else:
            b = theirs()
            a = ours()
        pairs.append((a, b))
    return pairs


def ratio_of(pairs):
    return median(a / b for a, b in pairs)


def on_warm_keys(bench, measure):
    """Warm all keys, measure, and insist that scrypt did not run."""
    bench.warm()
    before = bench.server.stat()
    result = measure()
    runs = bench.server.stat()["scrypt_runs"] - before["scrypt_runs"]
    if runs != 0:
        raise SystemExit(f"scrypt ran {runs:.0f} times on warm keys")
    return result


def warm_loads(bench, ours, theirs, times=1):
    pairs = on_warm_keys(bench, lambda: interleave(times * bench.rounds, ours.run, theirs.run))
    return pairs, ""


def warm(clients):
    def measure(bench):
        theirs = Side(bench, "keys", bench.server.file("ids"), [SELECT], clients, 1)
        return warm_loads(bench, verify(bench, clients=clients), theirs, TIMES_NEAR)
    return measure


def hot(bench):
    theirs = Side(bench, "keys", bench.server.file("hot_ids"), [SELECT], 16, 1)
    return warm_loads(bench, verify(bench, params="hot", clients=16), theirs, TIMES_NEAR)


def in_transaction(bench, statements, params="hot"):
    return Side(bench, "keys", bench.server.file(params), ["BEGIN", *statements, WORK, "COMMIT"],
                16, len(statements), 0.5)


def work(bench):
    return warm_loads(bench, in_transaction(bench, [VERIFY]), in_transaction(bench, []))


def pattern(statement):
    def measure(bench):
        bench.make_common()
        return warm_loads(bench, in_transaction(bench, [VERIFY]),
                          in_transaction(bench, [statement], "hot_parts"))
    return measure


def digest(clients, read_only=False):
    def measure(bench):
        bench.make_common()
        sides = [Side(bench, "keys", bench.server.file("tokens"),
                      ["BEGIN READ ONLY", statement, "COMMIT"] if read_only else [statement], clients, 1)
                 for statement in (VERIFY, DIGEST)]
        return warm_loads(bench, *sides)
    return measure


def crowd(bench):
    """Two hundred clients cost any statement something: the note says what they cost a SELECT."""
    pairs, _ = warm_loads(bench, *[verify(bench, params="half_hot", clients=clients) for clients in (200, 16)])
    select = interleave(bench.rounds, *[Side(bench, "keys", bench.server.file("half_hot_ids"), [SELECT], clients, 1).run
                                        for clients in (200, 16)])
    return pairs, f"{COLUMNS} has a ratio of {ratio_of(select):.2f}"


def request(bench):
    """A PostgREST request: headers, pre-request, the query."""
    headers = bench.server.file("headers", ['{"x-api-key":"%s"}' % token.strip()
                                            for token in open(bench.server.file("tokens"))])

    def side(*called):
        return Side(bench, "keys", headers, ["BEGIN", HEADERS, *called, "SELECT 1", "COMMIT"], 8, 1)

    pairs, _ = warm_loads(bench, side("SELECT amt_authenticate()"), side())
    empty = interleave(bench.rounds, side("SELECT 2").run, side().run)
    return pairs, f"`SELECT 2` in place of the call has a ratio of {ratio_of(empty):.2f}"


def connect(settings):
    """The first call in a new connection, on a server of its own."""
    def measure(bench):
        server = Server()
        try:
            server.start(settings)
            server.psql("postgres", "CREATE EXTENSION amt_keys")
            token = server.psql("postgres", "SELECT token FROM amt_create_key('key', 'org', 'editor')")[0]
            sides = [Side(bench, "postgres", server.file(name, [value]), [statement], 1, 1,
                          options=("-r",), server=server)
                     for name, value, statement in (("token", token, VERIFY), ("id", token[4:16], SELECT))]
            return interleave(2 * bench.rounds, *[side.milliseconds for side in sides]), ""
        finally:
            server.stop()
    return measure


def page(bench):
    bench.make_events()
    params = bench.server.file("x", ["x"])
    ours = PAGE.format(counts=", calls, last_used_at", source="amt_keys WHERE $1 = 'x'")
    theirs = PAGE.format(counts="", source="amt_key WHERE $1 = 'x' AND org_id = 'org7' "
                         "AND (expires_at IS NULL OR expires_at > clock_timestamp())")
    sides = [Side(bench, "many", params, [ours], 1, 20, user="member"),
             Side(bench, "many", params, [theirs], 1, 20)]
    return interleave(bench.rounds, *[side.milliseconds for side in sides]), ""


def events(bench):
    bench.make_events()
    params = bench.server.file("x", ["x"])
    sides = [Side(bench, "many", params, [EVENTS.format(where="")], 1, 20, user="member"),
             Side(bench, "many", params, [EVENTS.format(where="AND org_id = 'org7'")], 1, 20)]
    return interleave(bench.rounds, *[side.milliseconds for side in sides]), ""


def create(bench):
    """Pairs of single runs of scrypt and of twenty creations."""
    program = bench.server.compile("cold")
    params = bench.server.file("name", ["a key"])

    def creation():
        load = bench.server.load("keys", params, ["SELECT key_id FROM amt_create_key($1, 'org', 'editor')"],
                                 1, "-n", 20, "-w", 0)
        return 1000 * load.seconds / load.rounds

    def scrypt():
        lines = bench.run(program, "10", "14", "8", "1", bench.default_token).splitlines()
        return median(float(line.split()[0]) for line in lines)
    return interleave(bench.rounds, creation, scrypt), ""


def revoke(bench):
    """
    2,000 keys one by one in one transaction, and the same rows by plain DELETEs. The note says
    what plain SQL takes that inserts a row of events as well.
    """
    loop = """DO $$ DECLARE i int; t timestamptz := clock_timestamp(); BEGIN
        FOR i IN 1..2000 LOOP {} END LOOP;
        RAISE NOTICE '%', extract(epoch FROM clock_timestamp() - t); END $$"""

    def seconds(statement):
        return float(bench.server.notice("keys", loop.format(statement))) * 1000 / 2000

    pairs, with_event = [], []
    for _ in range(bench.rounds):
        bench.make_copies()
        ours = seconds("PERFORM amt_revoke('revoked' || i);")
        theirs = seconds("DELETE FROM plain WHERE key_id = 'revoked' || i;")
        pairs.append((ours, theirs))
        with_event.append((seconds("DELETE FROM recorded WHERE key_id = 'revoked' || i;" + PLAIN_EVENT), theirs))
    return pairs, f"that `DELETE` with an `INSERT` of the event has a ratio of {ratio_of(with_event):.2f}"


def imported(bench):
    """10,000 tokens of 100,000 imported keys beside those of 10,000 of our own: as many are in use."""
    bench.make_imported()
    return warm_loads(bench, verify(bench, database="imported", params="imported"), verify(bench))


def writer_cost(bench):
    """Processor time of the worker for 100,000 keys that are due at once."""
    bench.make_imported()
    server = bench.server
    costs = []
    for _ in range(bench.rounds):
        server.psql("imported", "SELECT count(*) FROM (SELECT token FROM token LIMIT 1) AS t, amt_verify(token); "
                    "SELECT amt_flush_usage()")
        before = server.writer_seconds("imported")
        good = server.psql("imported", "SELECT count(*) FROM token, amt_verify(token)")
        server.psql("imported", "SELECT amt_flush_usage()")
        after = server.writer_seconds("imported")
        if good != ["100000"] or before is None or after is None:
            raise SystemExit(f"{good} of 100000 keys are good, or the worker has left")
        costs.append(((after - before) * 1e6 / 100_000, 1))
    return costs, "microseconds of a processor for each key"


def writer_latency(bench):
    """p99 of warm verifications while all of 100,000 keys are being called, with and without writing."""
    bench.make_imported()
    server, traffic = bench.server, verify(bench, clients=1)

    def p99():
        load = server.start_load("imported", server.file("imported"), [VERIFY], 1, "-t", 1000, "-w", 0)
        result = traffic.load().p99
        load.send_signal(signal.SIGTERM)
        load.wait()
        return result

    def without():
        with bench.setting("amt_keys.usage_flush_interval", 3_600_000):
            return p99()
    return interleave(bench.rounds, p99, without), ""


def restart(ln):
    """Seconds until 10,000 keys are warm after a restart, from a run of 200, on a server of its own."""
    def measure(_):
        server = Server()
        try:
            server.start()
            server.psql("postgres", f"""
                CREATE EXTENSION amt_keys; SET amt_keys.scrypt_ln = {ln};
                CREATE TABLE token AS SELECT k.token FROM generate_series(1, 200) AS i,
                    LATERAL amt_create_key('key ' || i, 'org', 'editor') AS k""")
            halves = [server.file(f"half{i}", server.psql("postgres", f"SELECT token FROM token LIMIT 100 OFFSET {100 * i}"))
                      for i in range(2)]
            server.restart()
            start = time.monotonic()
            loads = [server.start_script("postgres", half) for half in halves]
            for load in loads:
                if load.wait() != 0:
                    raise SystemExit("a token was not good")
            return [((time.monotonic() - start) * 50, 1)], "seconds for 10,000 keys on two processors"
        finally:
            server.stop()
    return measure


def cold(bench):
    """Pairs of single runs; a round is the median of ten of them on each side."""
    program = bench.server.compile("cold")
    token = bench.default_token
    before = bench.server.stat()["scrypt_runs"]
    pairs = []
    for _ in range(bench.rounds):
        lines = bench.run(program, "10", "14", "8", "1", token).splitlines()
        times = [tuple(map(float, line.split())) for line in lines]
        pairs.append((median(t[1] for t in times), median(t[0] for t in times)))
    runs = bench.server.stat()["scrypt_runs"] - before
    if runs != bench.rounds * 11:
        raise SystemExit(f"{runs:.0f} runs of scrypt, {bench.rounds * 11} expected")
    return pairs, ""


def herd(bench):
    """All connections are there and prepared when the key becomes cold."""
    params = bench.server.file("herd", [bench.default_token])
    pairs, waits = [], []
    for _ in range(bench.rounds):
        before = bench.server.stat()
        load = bench.server.load("keys", params, [VERIFY], 16,
                                 "-n", 1, "-b", "SELECT amt_cache_clear()")
        after = bench.server.stat()
        if load.rows != 16:
            raise SystemExit(f"{load.rows} of 16 connections were let in")
        pairs.append((after["scrypt_runs"] - before["scrypt_runs"], 1))
        waits.append(after["scrypt_waits"] - before["scrypt_waits"])
    return pairs, f"{median(waits):.0f} of the 16 waited for that run, the others came after it"


def wrong(bench):
    before = bench.server.stat()
    result = warm_loads(bench, verify(bench, params="wrong", rows=0), verify(bench))
    after = bench.server.stat()
    if any(after[c] != before[c] for c in after if c.startswith("rejected") and c != "rejected_wrong_secret"):
        raise SystemExit("wrong secrets were rejected as something else")
    return result


def many(bench):
    bench.make_many()
    return warm_loads(bench, verify(bench, database="many", warm_up=WARM_UP_PAGES),
                      verify(bench, warm_up=WARM_UP_PAGES))


def attack(bench):
    """Attackers start before the measurement and end after it."""
    bench.make_cold_keys()
    params = bench.server.file("attack")
    traffic = verify(bench)
    rates = []

    def under_attack():
        before = bench.server.stat()
        attackers = bench.server.start_load("keys", params, [VERIFY], 8, "-t", 1000, "-w", 0)
        while bench.server.stat()["scrypt_runs"] == before["scrypt_runs"]:
            time.sleep(0.05)
        before, start = bench.server.stat(), time.monotonic()
        rate = traffic.run()
        after, end = bench.server.stat(), time.monotonic()
        attackers.send_signal(signal.SIGTERM)
        if attackers.wait() != 0:
            raise SystemExit("the attackers failed")
        rates.append((after["scrypt_runs"] - before["scrypt_runs"]) / (end - start))
        if rates[-1] == 0:
            raise SystemExit("the attackers did not make scrypt run")
        return rate

    bench.warm()
    with bench.setting("amt_keys.max_concurrent_scrypt", 1):
        pairs = interleave(bench.rounds, under_attack, traffic.run)
    return pairs, f"{median(rates):.0f} runs of scrypt a second meanwhile"


def peer(concurrency):
    def measure(bench):
        bench.make_database("peer")
        script = os.path.join(os.path.dirname(os.path.abspath(__file__)), "node", "compare.js")
        lines = on_warm_keys(bench, lambda: bench.run(
            "node", script, str(bench.rounds), str(bench.seconds), str(concurrency),
            "peer", "keys", bench.server.file("tokens"))).splitlines()
        rates = [tuple(map(float, line.split())) for line in lines]
        hasty = median(hasty for _, hasty, _ in rates)
        return ([(ours, theirs) for theirs, _, ours in rates],
                f"theirs with `synchronous_commit = off`: {hasty:,.0f}/s, "
                f"ours is {median(ours / h for _, h, ours in rates):.1f} times that")
    return measure


COLUMNS = "`SELECT` of the same columns by primary key"
BY_HAND = "a look-up by `digest(token, 'sha256')`, which counts nothing"
ROWS = [
    Row("warm-1", "warm `amt_verify`, 1 client", COLUMNS, ">=", 1.0, "/s", warm(1)),
    Row("warm-8", "warm `amt_verify`, 8 clients", COLUMNS, ">=", 0.97, "/s", warm(8)),
    Row("warm-16", "warm `amt_verify`, 16 clients", COLUMNS, ">=", 0.97, "/s", warm(16)),
    Row("hot", "warm `amt_verify`, one hot key, 16 clients", COLUMNS, ">=", 1.0, "/s", hot),
    Row("digest-1", "warm `amt_verify`, 1 client", BY_HAND, ">=", 1.0, "/s", digest(1)),
    Row("digest-8", "warm `amt_verify`, 8 clients", BY_HAND, ">=", 1.0, "/s", digest(8)),
    Row("digest-16", "warm `amt_verify`, 16 clients", BY_HAND, ">=", 1.0, "/s", digest(16)),
    Row("digest-read-only", "the same, 8 clients, in a READ ONLY transaction", BY_HAND, ">=", 1.0, "/s", digest(8, True)),
    Row("request", "a request, 8 clients: BEGIN, headers, `amt_authenticate()`, a query, COMMIT",
        "the same without `amt_authenticate()`", ">=", 0.75, "/s", request),
    Row("connect-preloaded", "first call in a new connection, library in `shared_preload_libraries`",
        "a first " + COLUMNS, "<=", 1.1, "ms", connect("shared_preload_libraries = 'amt_keys'\n")),
    Row("connect", "first call in a new connection, library not preloaded", "a first " + COLUMNS, None, None, "ms", connect("")),
    Row("page", "newest 20 of one organization's 10,000 keys, among ten million", "the same page by SQL without "
        "row-level security and counts", "<=", 2, "ms", page),
    Row("events", "newest 20 events of one organization, among ten million", "the same page without row-level security",
        "<=", 2, "ms", events),
    Row("create", "`amt_create_key`", "one raw `EVP_PBE_scrypt`", "<=", 1.10, "ms", create),
    Row("revoke", "`amt_revoke`", "`DELETE` from a table with the same indexes", "<=", 3, "ms", revoke),
    Row("imported", "`amt_verify` of 100,000 imported keys, 8 clients", "10,000 keys of our own", ">=", 0.83, "/s", imported),
    Row("writer-cost", "the writer, 100,000 keys due", "1 µs a key", "<=", 5, "µs", writer_cost),
    Row("writer-p99", "p99 of warm `amt_verify`, while 100,000 keys are called and written",
        "the same without writing", "<=", 2, "µs", writer_latency),
    Row("restart-14", "10,000 keys warm after a restart, `scrypt_ln` = 14", "1 s", None, None, "s", restart(14)),
    Row("restart-12", "10,000 keys warm after a restart, `scrypt_ln` = 12", "1 s", None, None, "s", restart(12)),
    Row("restart-10", "10,000 keys warm after a restart, `scrypt_ln` = 10", "1 s", None, None, "s", restart(10)),
    Row("work", "one hot key, 16 clients, 20 ms of work in the transaction",
        "the work without verification", ">=", 0.97, "/s", work),
    Row("pattern", "one hot key, 16 clients, 20 ms of work in the transaction",
        "the common pattern: pgcrypto compare, `UPDATE … SET last_used_at`", ">=", 15, "/s", pattern(PATTERN)),
    Row("grace", "one hot key, 16 clients, 20 ms of work in the transaction",
        "the same pattern, but the UPDATE once in a minute", None, None, "/s", pattern(GRACE)),
    Row("cold", "cold `amt_verify`", "one raw `EVP_PBE_scrypt`", "<=", 1.10, "ms", cold),
    Row("herd", "16 connections at once on one cold key", "runs of scrypt", "==", 1, "runs", herd),
    Row("wrong", "wrong secret on a warm key, 8 clients", "right secret", ">=", 0.9, "/s", wrong),
    Row("many", "10,000,000 keys, 10,000 of them warm, 8 clients", "10,000 keys", ">=", 0.9, "/s", many),
    Row("crowd", "200 clients, half of their calls by one key", "16 clients, the same", ">=", 0.9, "/s", crowd),
    Row("attack", "warm traffic of 8 clients, 8 others throw wrong secrets at cold keys, "
        "`max_concurrent_scrypt = 1`", "warm traffic alone", ">=", 0.4, "/s", attack),
    Row("peer-1", "warm `amt_verify` from Node, one after the other",
        "`@better-auth/api-key`", ">=", 5, "/s", peer(1)),
    Row("peer-8", "warm `amt_verify` from Node, 8 at once",
        "`@better-auth/api-key`", ">=", 5, "/s", peer(8)),
]


def measure(bench, row):
    pairs, note = row.measure(bench)
    if row.sense == "==":
        ratios = [a for a, _ in pairs]
    else:
        ratios = [a / b for a, b in pairs]
    return Result(row, median(a for a, _ in pairs), median(b for _, b in pairs), ratios, note)


def reached(result):
    """None if there is nothing to reach."""
    ratio = median(result.ratios)
    if result.row.sense is None:
        return None
    if result.row.sense == ">=":
        return ratio >= result.row.reach
    if result.row.sense == "<=":
        return ratio <= result.row.reach
    return all(r == result.row.reach for r in result.ratios)
