// What the tests of the HTTP edge share: nginx as the examples configure it, an echo server to put behind it, requests
// that no well-behaved client would send, and tokens and JWTs.

import { createHmac, randomInt } from 'node:crypto';
import { once } from 'node:events';
import { execFileSync, spawn } from 'node:child_process';
import { chmodSync, mkdirSync, mkdtempSync, readdirSync, readFileSync, rmSync, writeFileSync } from 'node:fs';
import http from 'node:http';
import net from 'node:net';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { fileURLToPath } from 'node:url';
import { setTimeout as sleep } from 'node:timers/promises';
import { crc32 } from 'node:zlib';

export const examples = fileURLToPath(new URL('../../examples/', import.meta.url));

// Debian keeps nginx and pgbouncer where only root's PATH leads.
const environment = { ...process.env, PATH: `${process.env.PATH}:/usr/sbin` };

const digits = '0123456789ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz';
const random = length => Array.from({ length }, () => digits[randomInt(62)]).join('');

/** A token with a right checksum that no server has made. */
export function strangeToken() {
	const body = `amt_${random(12)}_${random(43)}`;
	let rest = crc32(body), checksum = '';
	for (let i = 0; i < 6; i++, rest = Math.floor(rest / 62))
		checksum = digits[rest % 62] + checksum;
	return body + checksum;
}

export function makeJwt(claims, secret) {
	const part = value => Buffer.from(JSON.stringify(value)).toString('base64url');
	const signed = `${part({ alg: 'HS256', typ: 'JWT' })}.${part(claims)}`;
	return `${signed}.${createHmac('sha256', secret).update(signed).digest('base64url')}`;
}

export async function freePort() {
	const server = net.createServer().listen(0, '127.0.0.1');
	await once(server, 'listening');
	const { port } = server.address();
	server.close();
	await once(server, 'close');
	return port;
}

/** A server that answers with what it was sent, as { method, url, headers: [[name, value], …] }, names as they came. */
export async function startEcho(port = 0) {
	let requests = 0;
	const server = http.createServer((request, response) => {
		requests++;
		const headers = [];
		for (let i = 0; i < request.rawHeaders.length; i += 2)
			headers.push([request.rawHeaders[i], request.rawHeaders[i + 1]]);
		response.setHeader('Content-Type', 'application/json');
		response.end(JSON.stringify({ method: request.method, url: request.url, headers }));
	});
	server.listen(port, '127.0.0.1');
	await once(server, 'listening');
	return {
		port: server.address().port,
		/** How many requests have come, for "the back end never saw it". */
		get requests() { return requests; },
		stop: () => new Promise(resolve => {
			server.close(resolve);
			server.closeAllConnections();
		}),
	};
}

/** The values of one header of an echo, however its name was written. */
export const sent = (echo, name) =>
	echo.headers.filter(([key]) => key.toLowerCase() === name.toLowerCase()).map(([, value]) => value);

/**
 * The real nginx with an example's configuration.  Its addresses are replaced by ports of the test's own: replace maps
 * each text to another and must find it.  Snippets maps the names in include directives to files.
 *
 * Returns { port, log(), stop() }; log() is everything nginx has written, access logs included.
 */
export async function startNginx({ configuration, replace, snippets = {} }) {
	const directory = mkdtempSync(join(tmpdir(), 'amt-nginx-'));
	const port = await freePort();

	let site = readFileSync(configuration, 'utf8').replaceAll('/var/log/nginx/', `${directory}/`);
	for (const [from, to] of [...Object.entries(replace), [site.match(/listen 127\.0\.0\.1:\d+;/)?.[0] ?? 'listen on loopback', `listen 127.0.0.1:${port};`]]) {
		if (!site.includes(from))
			throw new Error(`${configuration} has no "${from}"`);
		site = site.replaceAll(from, to);
	}
	writeFileSync(join(directory, 'site.conf'), site);
	for (const [name, file] of Object.entries(snippets)) {
		mkdirSync(join(directory, name, '..'), { recursive: true });
		writeFileSync(join(directory, name), readFileSync(file));
	}
	writeFileSync(join(directory, 'nginx.conf'), nginxMain(directory, 'site.conf'));

	const errorLog = join(directory, 'error.log');
	const nginx = spawn('nginx', ['-p', directory, '-c', join(directory, 'nginx.conf'), '-e', errorLog, '-g', 'daemon off;'],
		{ env: environment, stdio: ['ignore', 'ignore', 'inherit'] });
	const stopNow = () => nginx.kill('SIGTERM');
	process.once('exit', stopNow);
	await untilListening(port, nginx);

	return {
		port,
		log: () => readdirSync(directory).filter(name => name.endsWith('.log')).map(name => readFileSync(join(directory, name), 'utf8')).join(''),
		stop: async () => {
			process.off('exit', stopNow);
			if (nginx.exitCode === null) {
				nginx.kill('SIGTERM');
				await once(nginx, 'exit');
			}
			rmSync(directory, { recursive: true, force: true });
		},
	};
}

/** nginx.conf for an nginx that keeps everything in a directory; site is what it includes inside http { }. */
export const nginxMain = (directory, site) => `
	${process.getuid() === 0 ? 'user root;' : ''}
	worker_processes 1;
	pid ${directory}/pid;
	events { worker_connections 256; }
	http {
		${['client_body', 'proxy', 'fastcgi', 'uwsgi', 'scgi'].map(kind => `${kind}_temp_path ${directory}/${kind};`).join('\n\t\t')}
		access_log ${directory}/access.log combined;
		include ${site};
	}`;

/** Starts a Node program that listens on a port, and waits until it does. */
export async function startProgram(file, port, variables) {
	const child = spawn(process.execPath, [file],
		{ env: { ...environment, PORT: String(port), ...variables }, stdio: ['ignore', 'pipe', 'pipe'] });
	let output = '';
	for (const stream of [child.stdout, child.stderr])
		stream.setEncoding('utf8').on('data', text => { output += text; });
	const stopNow = () => child.kill();
	process.once('exit', stopNow);
	await untilListening(port, child);
	return {
		output: () => output,
		stop: async () => {
			process.off('exit', stopNow);
			if (child.exitCode === null) {
				child.kill();
				await once(child, 'exit');
			}
		},
	};
}

export async function untilListening(port, child) {
	for (let tries = 0; tries < 200; tries++) {
		if (child && child.exitCode !== null)
			throw new Error(`${child.spawnfile} ended with ${child.exitCode}`);
		const socket = net.connect(port, '127.0.0.1');
		const open = await new Promise(resolve => {
			socket.once('connect', () => resolve(true)).once('error', () => resolve(false));
		});
		socket.destroy();
		if (open)
			return;
		await sleep(25);
	}
	throw new Error(`nothing listens on port ${port}`);
}

/**
 * Sends a request exactly as written, so that it can be as wrong as it likes, and reads the answer.
 * lines: the request line and the header lines; a string is sent as it is.
 */
export async function send(port, lines, body = '') {
	const text = Array.isArray(lines)
		? [...lines, 'Host: api.example', 'Connection: close', '', body].join('\r\n')
		: lines;
	const socket = net.connect(port, '127.0.0.1');
	const chunks = [];
	socket.on('data', chunk => chunks.push(chunk)).on('error', () => {});
	socket.write(text, 'latin1');
	await once(socket, 'close');
	const answer = Buffer.concat(chunks).toString('latin1');
	const [head, ...rest] = answer.split('\r\n\r\n');
	const [statusLine, ...headerLines] = head.split('\r\n');
	const headers = headerLines.map(line => [line.slice(0, line.indexOf(':')), line.slice(line.indexOf(':') + 1).trim()]);
	let content = rest.join('\r\n\r\n');
	if (headers.some(([name, value]) => /^transfer-encoding$/i.test(name) && value === 'chunked'))
		content = unchunk(content);
	content = Buffer.from(content, 'latin1').toString();
	return {
		status: Number(statusLine.split(' ')[1]),
		header: name => headers.find(([key]) => key.toLowerCase() === name.toLowerCase())?.[1],
		body: content,
		get json() { return JSON.parse(content); },
	};
}

function unchunk(text) {
	let whole = '';
	for (;;) {
		const end = text.indexOf('\r\n');
		const size = Number.parseInt(text.slice(0, end), 16);
		if (!size)
			return whole;
		whole += text.slice(end + 2, end + 2 + size);
		text = text.slice(end + 2 + size + 2);
	}
}

/**
 * The real PgBouncer in transaction mode, before a server of server.js: { port, version, tracksStatements, log(), stop() }.
 * PgBouncer refuses to run as root, so root starts it as the user postgres, like the server.
 */
export async function startPgBouncer({ server, poolSize, clients }) {
	const [, major, minor] = /PgBouncer (\d+)\.(\d+)/.exec(execFileSync('pgbouncer', ['--version'], { env: environment, encoding: 'utf8' }));
	const tracksStatements = major > 1 || minor >= 21;
	const directory = mkdtempSync(join(tmpdir(), 'amt-pgbouncer-'));
	const port = await freePort();
	const settings = {
		listen_addr: '127.0.0.1', listen_port: port, unix_socket_dir: '',
		auth_type: 'any', admin_users: 'postgres', pool_mode: 'transaction',
		default_pool_size: poolSize, max_client_conn: clients + 10, max_db_connections: poolSize,
		...tracksStatements && { max_prepared_statements: 100 },
	};
	writeFileSync(join(directory, 'pgbouncer.ini'), `
[databases]
app = host=${server.host} port=${server.port} dbname=${server.database} user=app
[pgbouncer]
${Object.entries(settings).map(([name, value]) => `${name} = ${value}`).join('\n')}
`);
	const options = { env: environment, stdio: ['ignore', 'ignore', 'pipe'] };
	if (process.getuid() === 0) {
		chmodSync(directory, 0o755);
		[options.uid, options.gid] = ['-u', '-g'].map(flag => Number(execFileSync('id', [flag, 'postgres'])));
	}
	const child = spawn('pgbouncer', ['-q', join(directory, 'pgbouncer.ini')], options);
	let log = '';
	child.stderr.setEncoding('utf8').on('data', text => { log += text; });
	const stopNow = () => child.kill('SIGTERM');
	process.once('exit', stopNow);
	await untilListening(port, child);
	return {
		port,
		version: `${major}.${minor}`,
		tracksStatements,
		log: () => log,
		stop: async () => {
			process.off('exit', stopNow);
			if (child.exitCode === null) {
				child.kill('SIGTERM');
				await once(child, 'exit');
			}
			rmSync(directory, { recursive: true, force: true });
		},
	};
}
