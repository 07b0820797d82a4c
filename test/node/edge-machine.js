// The machine that the examples' READMEs assume: a shell in a copy of each example, in which sudo changes and starts an
// nginx of the test's own, postgrest starts the replay of edge-postgrest.js, and npm ci takes what is installed.
//
// The READMEs name ports.  Several tests may run on one machine, so each port becomes a free one, in the copies of the
// files and in the commands alike; nothing else is changed.

import { execFileSync } from 'node:child_process';
import { chmodSync, cpSync, mkdirSync, mkdtempSync, readFileSync, readdirSync, rmSync, statSync, symlinkSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { fileURLToPath } from 'node:url';
import { startShell } from './edge-readme.js';
import { examples, freePort, nginxMain, untilListening } from './edge-support.js';

/** The ports that an example's files name, as its README lists them. */
export const documentedPorts = { postgrest: [3001, 8081], nginx: [8080, 9000, 9180], 'mcp-server': [8082] };

const sudo = root => `#!/bin/bash
set -e
root=${root}
nginx() { command nginx -p "$root" -c "$root/nginx.conf" -e "$root/error.log" "$@"; }
case "$1 $2" in
cp\\ *)
	for file in "\${@:2:$#-2}"; do
		to=$root\${!##/etc/nginx}
		[ -d "$to" ] && to=$to/$(basename "$file")
		sed "s#/var/log/nginx/#$root/#" "$file" >"$to"
	done ;;
rm\\ *)
	for file in "\${@:2}"; do
		rm "$root\${file##/etc/nginx}"
	done ;;
"nginx -t") nginx -t -q ;;
"systemctl reload")
	if [ -s "$root/pid" ]; then nginx -s reload; else nginx; fi
	for port in $(sed -n 's/^ *listen 127.0.0.1:\\([0-9]*\\);/\\1/p' "$root"/conf.d/* 2>/dev/null); do
		for _ in {1..100}; do (: </dev/tcp/127.0.0.1/"$port") 2>/dev/null && break; sleep 0.05; done
	done ;;
*) echo "sudo: not here: $*" >&2; exit 1 ;;
esac
`;

const npm = '#!/bin/bash\n[ "$*" = ci ] && [ -d node_modules ]\n';
const postgrest = `#!/bin/bash\nexec node ${fileURLToPath(new URL('edge-postgrest-program.js', import.meta.url))} "$@"\n`;

/** server: of server.js.  Returns { shell(example) → { run(commands), port(documented) }, nginxLog(), stop() }. */
export async function startMachine(server) {
	const directory = mkdtempSync(join(tmpdir(), 'amt-machine-'));
	chmodSync(directory, 0o755);
	const root = join(directory, 'etc-nginx');
	for (const name of ['conf.d', 'snippets'])
		mkdirSync(join(root, name), { recursive: true });
	writeFileSync(join(root, 'nginx.conf'), nginxMain(root, 'conf.d/*.conf'));
	const bin = join(directory, 'bin');
	mkdirSync(bin);
	for (const [name, text] of Object.entries({ sudo: sudo(root), npm, postgrest }))
		writeFileSync(join(bin, name), text, { mode: 0o755 });

	const ports = new Map();
	for (const port of Object.values(documentedPorts).flat())
		ports.set(port, await freePort());
	const freed = text => text.replace(/(?<![\d.])\d{4}(?!\d)/g, number => ports.get(Number(number)) ?? number);

	/** The database server is not on its usual port or socket, and may be somebody else's, with one database for us. */
	const ownDatabase = commands => {
		const uri = user => server.connectionString(user);
		const quoted = text => `'${text}'`;
		return commands
			.replace(/^createdb \w+$/m, ':')
			.replace(/(?<=\bpsql -d )\w+/g, quoted(uri()))
			.replace(/postgres:\/\/(\w+):[^@]*@localhost\/\w+/g, (_, user) => quoted(uri(user)))
			.replace(/PGHOST=localhost PGDATABASE=\w+ PGUSER=(\w+) PGPASSWORD=\S+/g, (_, user) => {
				const { searchParams } = new URL(uri(user));
				return `PGHOST=${searchParams.get('host')} PGPORT=${server.port} PGDATABASE=${server.database} PGUSER=${user} PGPASSWORD=${searchParams.get('password') ?? ''}`;
			});
	};
	/** A server of our own has no other databases, so the commands can be followed as they are. */
	const ownServer = commands => commands
		.replace(/postgres:\/\/(\w+):([^@]*)@localhost\/(\w+)/g, (_, user, password, database) =>
			`'postgresql:///${database}?host=${encodeURIComponent(server.host)}&user=${user}&password=${password}'`)
		.replace(/PGHOST=localhost/g, `PGHOST=${server.host}`);
	const adapt = commands => freed(server.directory ? ownServer(commands) : ownDatabase(commands));

	const shells = [];
	const stopNginx = () => {
		const file = join(root, 'pid');
		if (statSync(file, { throwIfNoEntry: false }))
			process.kill(Number(readFileSync(file, 'utf8')), 'SIGTERM');
	};
	const stopNow = () => { // when the test ends halfway
		stopNginx();
		for (const shell of shells)
			shell.stop();
	};
	process.once('exit', stopNow);
	return {
		shell: example => {
			const cwd = join(directory, example);
			cpSync(`${examples}${example}`, cwd, { recursive: true, filter: name => !/\/node_modules$/.test(name) });
			for (const name of readdirSync(cwd))
				if (statSync(join(cwd, name)).isFile() && name !== 'package-lock.json')
					writeFileSync(join(cwd, name), freed(readFileSync(join(cwd, name), 'utf8')));
			if (statSync(`${examples}${example}/node_modules`, { throwIfNoEntry: false }))
				symlinkSync(`${examples}${example}/node_modules`, join(cwd, 'node_modules'));
			const env = {
				PATH: `${bin}:${execFileSync(process.env.PG_CONFIG || 'pg_config', ['--bindir'], { encoding: 'utf8' }).trim()}:${process.env.PATH}:/usr/sbin`,
				...server.directory && { PGHOST: server.host, PGUSER: 'postgres' },
			};
			const shell = startShell({ cwd, env });
			shells.push(shell);
			return { run: commands => shell.run(adapt(commands)), port: documented => ports.get(documented) };
		},
		untilListening: documented => untilListening(ports.get(documented)),
		nginxLog: () => readdirSync(root).filter(name => name.endsWith('.log')).map(name => readFileSync(join(root, name), 'utf8')).join(''),
		stop: async () => {
			process.off('exit', stopNow);
			for (const shell of shells)
				await shell.stop();
			stopNginx();
			rmSync(directory, { recursive: true, force: true });
		},
	};
}
