// A PostgreSQL server for one test file, with the extension in it.
//
// Each test file gets a server (or at least a database) of its own, because the examples create login roles, and roles
// belong to the whole cluster.  By default the server is thrown away.  initdb makes it in a temporary directory, and it
// trusts everybody who can reach its socket in that directory.  PostgreSQL refuses to run as
// root, so root starts it as the user postgres.  AMT_LOG_DIRECTORY, where that user can write, keeps its log.
//
// With AMT_TEST_URL (a superuser's connection string), or with PGHOST, PGPORT, PGUSER and so on, an existing server is
// used instead: a database is made there, and dropped at the end together with the roles that appeared meanwhile.
// Files that share such a server have to run one after the other.

import { execFile, execFileSync, spawn } from 'node:child_process';
import { chownSync, mkdtempSync, rmSync } from 'node:fs';
import { appendFile } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { basename, join } from 'node:path';
import { promisify } from 'node:util';

const run = promisify(execFile);

/**
 * Starts a server, or makes a database on the existing one.
 *
 * settings: lines of postgresql.conf, as { name: value }; a server of our own only
 * extension: the statement that makes the extension, or '' for none
 *
 * Returns connectionString(user), psql(input) → what psql printed, stop(), and for programs that want the parts:
 * host, port, database, directory and log (the last two null for an existing server).
 */
export async function startServer({ settings = {}, extension = 'CREATE EXTENSION amt_keys' } = {}) {
	const existing = process.env.AMT_TEST_URL || (process.env.PGHOST && 'postgresql://');
	const server = existing ? await useExisting(existing) : await startOwn(settings);

	try {
		if (extension)
			await server.psql(extension);
	} catch (error) {
		await server.stop();
		throw error;
	}
	return server;
}

async function startOwn(settings) {
	const root = process.getuid() === 0;
	const bin = execFileSync(process.env.PG_CONFIG || 'pg_config', ['--bindir'], { encoding: 'utf8' }).trim();
	const directory = mkdtempSync(join(tmpdir(), 'amt-node-'));
	const data = join(directory, 'data');
	const log = process.env.AMT_LOG_DIRECTORY ? join(process.env.AMT_LOG_DIRECTORY, `${basename(directory)}.log`) : join(directory, 'log');

	const asPostgres = (program, ...args) => root
		? ['runuser', ['-u', 'postgres', '--', join(bin, program), ...args]]
		: [join(bin, program), args];

	if (root)
		chownSync(directory, ...['-u', '-g'].map(flag => Number(execFileSync('id', [flag, 'postgres']))));

	// Also when the test dies halfway: node's runner ends a file that hangs with SIGTERM.
	let running = false;
	const stopNow = () => {
		if (running)
			execFileSync(...asPostgres('pg_ctl', 'stop', '-D', data, '-m', 'immediate', '-s'), { cwd: directory });
		running = false;
		rmSync(directory, { recursive: true, force: true });
	};
	onExit(stopNow);

	const user = 'postgres';
	await run(...asPostgres('initdb', '-D', data, '-U', user, '-A', 'trust', '-E', 'UTF8', '--locale=C.UTF-8', '--no-sync'),
		{ cwd: directory });
	const lines = Object.entries({
		listen_addresses: '', unix_socket_directories: directory, fsync: 'off', ...settings,
	}).map(([name, value]) => `${name} = '${String(value).replaceAll("'", "''")}'\n`);
	await appendFile(join(data, 'postgresql.conf'), lines.join(''));
	await run(...asPostgres('pg_ctl', 'start', '-D', data, '-w', '-s', '-l', log), { cwd: directory });
	running = true;

	const connectionString = (who = user) =>
		`postgresql:///postgres?host=${encodeURIComponent(directory)}&user=${encodeURIComponent(who)}`;
	return {
		host: directory, port: 5432, database: 'postgres', directory, log, connectionString,
		psql: input => psql(connectionString(), input),
		stop: async () => {
			await run(...asPostgres('pg_ctl', 'stop', '-D', data, '-m', 'fast', '-s'), { cwd: directory });
			running = false;
			rmSync(directory, { recursive: true, force: true });
			process.off('exit', stopNow);
		},
	};
}

async function useExisting(url) {
	const database = `amt_node_${process.pid}`;
	const password = 'amt-node-test';
	const rolesNow = async () => new Set((await psql(url, 'SELECT rolname FROM pg_roles')).split('\n'));
	const rolesBefore = await rolesNow();
	await psql(url, `CREATE DATABASE ${database}`);

	const [host, port, superuser] = (await psql(url, '\\echo :HOST\n\\echo :PORT\n\\echo :USER')).split('\n');
	const own = new URL(url);
	own.pathname = `/${database}`;
	const passwordSet = new Set();
	const connectionString = (who = superuser) => {
		if (who === superuser)
			return own.href;
		if (!passwordSet.has(who))
			execFileSync('psql', ['-XqAt', '-d', url, '-c', `ALTER ROLE "${who}" PASSWORD '${password}'`]);
		passwordSet.add(who);
		return `postgresql:///${database}?host=${encodeURIComponent(host)}&port=${port}`
			+ `&user=${encodeURIComponent(who)}&password=${password}`;
	};
	return {
		host, port: Number(port), database, directory: null, log: null, connectionString,
		psql: input => psql(own.href, input),
		stop: async () => {
			await psql(url, `DROP DATABASE ${database} WITH (FORCE)`);
			for (const role of await rolesNow())
				if (!rolesBefore.has(role))
					await psql(url, `DROP OWNED BY "${role}"; DROP ROLE "${role}"`);
		},
	};
}

/** Feeds input (SQL or psql's own commands) to psql; the first error ends it and is thrown with psql's message. */
function psql(url, input) {
	return new Promise((resolve, reject) => {
		const child = spawn('psql', ['-XqAt', '-v', 'ON_ERROR_STOP=1', '-d', url],
			{ env: { ...process.env, PGCLIENTENCODING: 'UTF8' } });
		let out = '', err = '';
		child.stdout.setEncoding('utf8').on('data', text => { out += text; });
		child.stderr.setEncoding('utf8').on('data', text => { err += text; });
		child.on('error', reject);
		child.on('close', code => code === 0 ? resolve(out.trimEnd()) : reject(new Error(err.trim() || `psql: exit code ${code}`)));
		child.stdin.end(input);
	});
}

function onExit(action) {
	process.once('exit', action);
	for (const signal of ['SIGINT', 'SIGTERM'])
		if (process.listenerCount(signal) === 0)
			process.once(signal, () => process.exit(1));
}
