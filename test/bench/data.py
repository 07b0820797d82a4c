"""The keys that the benchmark verifies.

The 10,000 keys are made by amt_create_key() with a low cost: a warm key does not
run scrypt, and ln=10,r=1 is as long to read as the default, ln=14,r=8. What measures scrypt
itself uses a key of the default cost. Keys that are never verified with success
(the rest of the ten million, and those under attack) are imported with a random
salt and hash.
"""

import contextlib
import time
import zlib

from server import output

LOW_COST = "SET amt_keys.scrypt_ln = 10; SET amt_keys.scrypt_r = 1;"
KEYS = 10_000
MANY_KEYS = 10_000_000

# As pg_dump's scripts do, so that millions of imported keys leave no events.
COLUMNS = "(key_id, token_prefix, org_id, name, role, scrypt_hash, created_at)"
IMPORT = f"SET row_security = off; INSERT INTO amt_key {COLUMNS} "
IMPORTED = """
SELECT id, 'amt_' || id || '...', 'org' || i % {orgs}, 'key ' || i, 'editor',
       '$scrypt$ln=14,r=8,p=1$' || encoded(16) || '$' || encoded(32),
       now() - interval '1 day' - i * interval '1 millisecond'
FROM (SELECT i, {id} AS id FROM generate_series(1, {count}) AS i) AS i
"""
RANDOM_ID = "substr(translate(encode(sha256(i::text::bytea), 'base64'), '+/=', ''), 1, 12)"
# Unpadded base64 of random bytes, from version 4 UUIDs.
ENCODED = """
CREATE FUNCTION encoded(n int) RETURNS text LANGUAGE sql VOLATILE AS $$
    SELECT rtrim(encode(substr(uuid_send(gen_random_uuid()) || uuid_send(gen_random_uuid()), 1, n),
                        'base64'), '=') $$;
"""


def split(token):
    _, key_id, secret = token.split("_", 2)
    return key_id, secret


def with_wrong_secret(token):
    """The same token but for one character of the secret, and so the checksum."""
    digits = "0123456789ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz"
    head = token[:-7] + ("a" if token[-7] != "a" else "b")
    crc = zlib.crc32(head.encode())
    return head + "".join(digits[crc // 62 ** i % 62] for i in range(5, -1, -1))


class Bench:
    """The server, its databases, and how long to measure."""

    def __init__(self, server, rounds, seconds):
        self.server, self.rounds, self.seconds = server, rounds, seconds
        self.databases = set()

    def run(self, *command):
        return output(*command, env=self.server.environment("keys"))

    def make_database(self, name):
        """True if it was not there."""
        if name in self.databases:
            return False
        self.server.psql("postgres", f"CREATE DATABASE {name}")
        self.databases.add(name)
        return True

    def make_keys(self):
        psql = self.server.psql
        self.make_database("keys")
        psql("keys", "CREATE EXTENSION amt_keys; CREATE EXTENSION pgcrypto;" + ENCODED)
        psql("keys", LOW_COST + f"""
            CREATE TABLE token AS
            SELECT k.token FROM generate_series(1, {KEYS}) AS i,
                LATERAL amt_create_key('key ' || i, 'org' || i % 100, 'editor') AS k;
            VACUUM ANALYZE; CHECKPOINT""")
        tokens = psql("keys", "TABLE token")
        self.default_token = psql("keys", "SELECT token FROM amt_create_key('key', 'org', 'editor')")[0]
        hot = tokens[KEYS // 2]
        self.server.file("tokens", tokens)
        self.server.file("ids", [split(t)[0] for t in tokens])
        self.server.file("wrong", map(with_wrong_secret, tokens))
        self.server.file("hot", [hot])
        self.server.file("hot_ids", [split(hot)[0]])
        self.server.file("hot_parts", ["\t".join(split(hot))])
        self.server.file("half_hot", [t for token in tokens for t in (token, hot)])
        self.server.file("half_hot_ids", [split(t)[0] for token in tokens for t in (token, hot)])

    def make_many(self):
        """The 10,000 keys in another database, scattered among others of a thousand organizations."""
        if not self.make_database("many"):
            return
        psql = self.server.psql
        psql("many", "CREATE EXTENSION amt_keys;" + ENCODED)
        psql("many", "CREATE UNLOGGED TABLE copied (LIKE amt_key); CREATE TABLE token (token text);")
        for table, select in ("copied", "TABLE amt_key"), ("token", "TABLE token"):
            path = self.server.file(table + ".copy")
            psql("keys", f"\\copy ({select}) TO '{path}'")
            psql("many", f"\\copy {table} FROM '{path}'")
        psql("many", f"""
            INSERT INTO copied {COLUMNS} {IMPORTED.format(id=RANDOM_ID, orgs=1000, count=MANY_KEYS - KEYS)};
            SET row_security = off;
            INSERT INTO amt_key SELECT * FROM copied ORDER BY random();
            DROP TABLE copied;
            VACUUM ANALYZE; CHECKPOINT""")

    def make_events(self):
        """Ten million events in the database of the many keys, and a member of one organization."""
        self.make_many()
        if "events" in self.databases:
            return
        self.databases.add("events")
        self.server.psql("many", """
            INSERT INTO amt_key_event (at, event, key_id, org_id, name, role, db_user)
            SELECT now(), 'created', 'key' || i, 'org' || i % 100, 'key ' || i, 'editor', 'postgres'
            FROM generate_series(1, 10000000) AS i;
            CREATE ROLE member LOGIN;
            ALTER ROLE member SET amt_keys.org_id = 'org7';
            ALTER ROLE member SET amt_keys.role = 'viewer';
            VACUUM ANALYZE; CHECKPOINT""")

    def make_imported(self):
        """A database of 100,000 keys made elsewhere, whose tokens are their numbers hashed."""
        if not self.make_database("imported"):
            return
        self.server.psql("imported", """
            CREATE EXTENSION amt_keys;
            CREATE TABLE token AS
            SELECT 'sk_' || encode(sha256(i::text::bytea), 'hex') AS token FROM generate_series(1, 100000) AS i;
            SELECT count(amt_import_key(sha256(token::bytea), 'key', 'org', 'editor')) FROM token;
            VACUUM ANALYZE; CHECKPOINT""")
        self.server.file("imported", self.server.psql("imported", f"SELECT token FROM token ORDER BY random() LIMIT {KEYS}"))

    def make_copies(self):
        """Keys to revoke, the same rows twice in plain tables with the same indexes, and a plain table of events."""
        self.server.psql("keys", f"""
            SET client_min_messages = warning;
            CREATE TABLE IF NOT EXISTS plain (LIKE amt_key INCLUDING INDEXES);
            CREATE TABLE IF NOT EXISTS recorded (LIKE amt_key INCLUDING INDEXES);
            CREATE TABLE IF NOT EXISTS plain_event (LIKE amt_key_event INCLUDING ALL);
            TRUNCATE plain, recorded, plain_event;
            {IMPORT} {IMPORTED.format(id="'revoked' || i", orgs=100, count=2000)};
            INSERT INTO plain SELECT * FROM amt_key;
            INSERT INTO recorded SELECT * FROM amt_key;""")

    def make_cold_keys(self):
        """Keys to attack, and tokens for them whose secret is not theirs."""
        if "attack" in self.databases:
            return
        self.databases.add("attack")
        self.server.psql("keys", IMPORT + IMPORTED.format(id="'attacked' || i", orgs=100, count=64))
        self.server.file("attack", [f"amt_attacked{i}_{'x' * 40}" for i in range(1, 65)])

    def make_common(self):
        """What is common: a row with a hash and counters, updated at each call."""
        if "common" in self.databases:
            return
        self.databases.add("common")
        self.server.psql("keys", """
            CREATE TABLE common (
                key_id text PRIMARY KEY, org_id text NOT NULL, role text NOT NULL, name text NOT NULL,
                created_by text, expires_at timestamptz, secret_hash bytea NOT NULL,
                token_hash bytea NOT NULL UNIQUE, scopes text[],
                calls bigint NOT NULL DEFAULT 0, last_used_at timestamptz);
            INSERT INTO common
            SELECT key_id, org_id, role, name, created_by, expires_at,
                   digest(split_part(token, '_', 3), 'sha256'), digest(token, 'sha256'), scopes
            FROM token JOIN amt_key ON key_id = split_part(token, '_', 2);
            VACUUM ANALYZE common; CHECKPOINT""")

    def warm(self):
        for database in {"keys", "many"} & self.databases:
            good = self.server.psql(database, "SELECT count(*) FROM token, amt_verify(token)")
            if good != [str(KEYS)]:
                raise SystemExit(f"{good} of {KEYS} keys are good in {database}")

    @contextlib.contextmanager
    def setting(self, name, value):
        """A setting of the whole server, in its unit, for as long as it lasts."""
        self.change(f"SET {name} = {value}", name, str(value))
        try:
            yield
        finally:
            default = self.server.psql("keys", f"LOAD 'amt_keys'; SELECT boot_val FROM pg_settings WHERE name = '{name}'")
            self.change(f"RESET {name}", name, default[0])

    def change(self, what, name, value):
        self.server.psql("keys", f"LOAD 'amt_keys'; ALTER SYSTEM {what}; SELECT pg_reload_conf()")
        while self.server.psql("keys", f"LOAD 'amt_keys'; SELECT setting FROM pg_settings WHERE name = '{name}'") != [value]:
            time.sleep(0.1)

    def check_counts(self):
        """Was every verification of the whole run counted, and none twice?"""
        stat = self.server.stat()
        where = {"many": " WHERE key_id IN (SELECT split_part(token, '_', 2) FROM token)"}  # not all of the ten million
        calls = sum(int(self.server.psql(d, "SELECT sum(calls) FROM amt_keys" + where.get(d, ""))[0])
                    for d in {"keys", "many", "imported"} & self.databases)
        if calls != stat["verified"] or stat["calls_dropped"] != 0:
            raise SystemExit(f"{calls} calls counted of {stat['verified']:.0f}, "
                             f"{stat['calls_dropped']:.0f} dropped")
        return calls
