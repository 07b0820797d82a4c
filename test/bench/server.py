"""A throw-away server with the extension, and programs that talk to it.

PostgreSQL refuses to run as root, so root starts it as the user postgres. It
listens on a socket in its own temporary directory only, and durability is as
it is by default: what the benchmark compares with writes rows.
"""

import os
import pwd
import shutil
import subprocess
import tempfile
from collections import namedtuple

SETTINGS = """
listen_addresses = ''
unix_socket_directories = '{directory}'
max_connections = 250
shared_buffers = 512MB
max_wal_size = 4GB
"""

Load = namedtuple("Load", "rounds seconds rows p99")


def output(*command, **kwargs):
    """What a command prints; its complaints go where ours go."""
    return subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True, **kwargs).stdout


def pg_config(what):
    return output(os.environ.get("PG_CONFIG", "pg_config"), "--" + what).strip()


class Server:
    def __init__(self):
        self.directory = tempfile.mkdtemp(prefix="amt_keys-bench.")
        self.bindir = pg_config("bindir")
        self.as_owner = []
        if os.getuid() == 0:
            owner = pwd.getpwnam("postgres")
            os.chown(self.directory, owner.pw_uid, owner.pw_gid)
            self.as_owner = ["runuser", "-u", "postgres", "--"]
        self.data = os.path.join(self.directory, "data")
        self.log = os.path.join(self.directory, "log")
        self.started = False

    def start(self, settings=""):
        self.control("initdb", "-D", self.data, "-U", "postgres", "--auth=trust",
                     "--locale=C.UTF-8", "--encoding=UTF8")
        with open(os.path.join(self.data, "postgresql.conf"), "a") as conf:
            conf.write(SETTINGS.format(directory=self.directory) + settings)
        self.started = True
        self.control("pg_ctl", "-D", self.data, "-l", self.log, "-s", "-w", "start")

    def restart(self):
        self.control("pg_ctl", "-D", self.data, "-l", self.log, "-m", "fast", "-s", "-w", "restart")

    def stop(self):
        if self.started:
            self.control("pg_ctl", "-D", self.data, "-m", "fast", "-s", "-w", "stop")
        shutil.rmtree(self.directory)

    def control(self, program, *args):
        output(*self.as_owner, os.path.join(self.bindir, program), *args, cwd=self.directory)

    def file(self, name, lines=None):
        """The path of a file in our directory, written if there are lines."""
        path = os.path.join(self.directory, name)
        if lines is not None:
            with open(path, "w") as file:
                file.writelines(line + "\n" for line in lines)
        return path

    def environment(self, database, user="postgres"):
        clean = {k: v for k, v in os.environ.items() if not k.startswith("PG")}
        return dict(clean, PGHOST=self.directory, PGUSER=user, PGDATABASE=database)

    def psql(self, database, sql):
        """Execute statements, each its own transaction; the lines they print."""
        return output(os.path.join(self.bindir, "psql"), "-XAtq", "-v", "ON_ERROR_STOP=1",
                      input=sql, env=self.environment(database)).splitlines()

    def notice(self, database, sql):
        """The text of the notice that a statement raises."""
        done = subprocess.run([os.path.join(self.bindir, "psql"), "-XAtq", "-v", "ON_ERROR_STOP=1", "-c", sql],
                              check=True, stderr=subprocess.PIPE, text=True, env=self.environment(database))
        return done.stderr.split("NOTICE:")[1].split()[0]

    def start_script(self, database, tokens):
        """A psql that verifies each token of a file once, and fails if one is refused."""
        script = self.file(os.path.basename(tokens) + ".sql", [
            f"SELECT 1 / count(*) FROM amt_verify('{token.strip()}');" for token in open(tokens)])
        return subprocess.Popen([os.path.join(self.bindir, "psql"), "-XAtq", "-v", "ON_ERROR_STOP=1", "-f", script],
                                stdout=subprocess.DEVNULL, env=self.environment(database))

    def compile(self, name):
        """Build a program of this directory, once."""
        source = os.path.join(os.path.dirname(os.path.abspath(__file__)), name + ".c")
        program = self.file(name)
        if not os.path.exists(program):
            subprocess.run(["gcc", "-O2", "-Wall", "-Wextra", "-Werror", "-I", pg_config("includedir"),
                            "-o", program, source, "-L", pg_config("libdir"), "-lpq", "-lcrypto"],
                           check=True)
        return program

    def start_load(self, database, params, statements, clients, *options, user="postgres"):
        return subprocess.Popen([self.compile("load"), "-c", str(clients), *map(str, options),
                                 params, *statements],
                                env=self.environment(database, user), stdout=subprocess.PIPE, text=True)

    def load(self, *args, user="postgres"):
        """Run load.c to its end."""
        process = self.start_load(*args, user=user)
        printed = process.communicate()[0].split()
        if process.returncode != 0:
            raise SystemExit("load failed")
        return Load(int(printed[0]), float(printed[1]), int(printed[2]), float(printed[3]))

    def writer_seconds(self, database):
        """Processor seconds that the worker of the database has used; None without one."""
        pids = self.psql("postgres", "SELECT pid FROM pg_stat_activity WHERE datname = "
                         f"'{database}' AND backend_type = 'amt_keys usage writer'")
        if not pids:
            return None
        with open(f"/proc/{pids[0]}/stat") as stat:
            fields = stat.read().rsplit(")", 1)[1].split()
        return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")

    def stat(self):
        """amt_stat, as numbers; its last two columns are none."""
        names = self.psql("keys", "SELECT json_object_keys(to_json(s)) FROM amt_stat AS s")
        values = self.psql("keys", "TABLE amt_stat")[0].split("|")
        return {n: float(v) for n, v in list(zip(names, values))[:-2]}
