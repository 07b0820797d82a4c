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

VERIFY = "SELECT * FROM amt_verify($1)"
SELECT = "SELECT key_id, org_id, role, name, created_by, expires_at FROM amt_key WHERE key_id = $1"
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

# A row of the table. The reach is a least or greatest ratio, or an exact number;
# the unit is that of both sides' figures.
Row = namedtuple("Row", "name measured beside sense reach unit measure")
Result = namedtuple("Result", "row ours theirs ratios note")


class Side:
    """One side of a comparison: a load that can be run again and again."""

    def __init__(self, bench, database, params, statements, clients, rows, warm_up=WARM_UP):
        self.bench, self.args, self.rows = bench, (database, params, statements, clients), rows
        self.warm_up = warm_up

    def run(self):
        """Rounds a second."""
        load = self.bench.server.load(*self.args, "-t", self.bench.seconds, "-w", self.warm_up)
        if load.rounds == 0 or load.rows != load.rounds * self.rows:
            raise SystemExit(f"{load.rows} rows from {load.rounds} rounds of {self.args[2]}, "
                             f"{self.rows} each expected")
        return load.rounds / load.seconds


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
    return warm_loads(bench, verify(bench, params="hot", clients=16), verify(bench, clients=16),
                      TIMES_NEAR)


def in_transaction(bench, statements, params="hot"):
    return Side(bench, "keys", bench.server.file(params), ["BEGIN", *statements, WORK, "COMMIT"],
                16, len(statements), 0.5)


def work(bench):
    return warm_loads(bench, in_transaction(bench, [VERIFY]), in_transaction(bench, []))


def pattern(bench):
    bench.make_common()
    return warm_loads(bench, in_transaction(bench, [VERIFY]),
                      in_transaction(bench, [PATTERN], "hot_parts"))


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


def million(bench):
    bench.make_million()
    return warm_loads(bench, verify(bench, database="million", warm_up=WARM_UP_PAGES),
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


COLUMNS = "`SELECT` of the same six columns by primary key"
ROWS = [
    Row("warm-1", "warm `amt_verify`, 1 client", COLUMNS, ">=", 0.95, "/s", warm(1)),
    Row("warm-8", "warm `amt_verify`, 8 clients", COLUMNS, ">=", 0.95, "/s", warm(8)),
    Row("warm-16", "warm `amt_verify`, 16 clients", COLUMNS, ">=", 0.95, "/s", warm(16)),
    Row("hot", "warm `amt_verify`, one hot key, 16 clients", "10,000 keys", ">=", 0.95, "/s", hot),
    Row("work", "one hot key, 16 clients, 20 ms of work in the transaction",
        "the work without verification", ">=", 0.97, "/s", work),
    Row("pattern", "one hot key, 16 clients, 20 ms of work in the transaction",
        "the common pattern: pgcrypto compare, `UPDATE … SET last_used_at`", ">=", 15, "/s", pattern),
    Row("cold", "cold `amt_verify`", "one raw `EVP_PBE_scrypt`", "<=", 1.10, "ms", cold),
    Row("herd", "16 connections at once on one cold key", "runs of scrypt", "==", 1, "runs", herd),
    Row("wrong", "wrong secret on a warm key, 8 clients", "right secret", ">=", 0.9, "/s", wrong),
    Row("million", "1,000,000 keys, 10,000 of them warm, 8 clients", "10,000 keys", ">=", 0.9, "/s", million),
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
    ratio = median(result.ratios)
    if result.row.sense == ">=":
        return ratio >= result.row.reach
    if result.row.sense == "<=":
        return ratio <= result.row.reach
    return all(r == result.row.reach for r in result.ratios)
