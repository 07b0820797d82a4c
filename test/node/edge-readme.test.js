// examples/postgrest/README.md and examples/nginx/README.md, followed line by line on one new server, both at the same
// time, and with examples/mcp-server beside them: what they say is printed is what is printed.  edge-machine.js has what stands for nginx, sudo and PostgREST.

import assert from 'node:assert/strict';
import { readFileSync } from 'node:fs';
import { after, before, describe, test } from 'node:test';
import { documentedPorts, startMachine } from './edge-machine.js';
import { pattern, steps } from './edge-readme.js';
import { examples } from './edge-support.js';
import { startServer } from './server.js';

let server, machine;
const shells = {};

before(async () => {
	server = await startServer({ extension: '' });
	machine = await startMachine(server);
});

after(async () => {
	await machine?.stop();
	await server?.stop();
});

/** Follows the sections of an example's README in one shell.  A test's name ends with the first command. */
function follow(example, listening, sections) {
	let shell;
	before(() => { shell = shells[example] = machine.shell(example); });
	for (const section of sections)
		for (const { commands, output } of steps(`${examples}${example}/README.md`, section))
			test(`${section}: the step prints what the page shows: ${commands.trim().split('\n').find(line => !/^\w+\(\)|^[\t}]/.test(line)).slice(0, 100)}`, async () => {
				const printed = await shell.run(commands);
				if (output !== null)
					assert.match(printed, pattern(output));
				else
					assert.doesNotMatch(printed, /\b(error|warning|fatal|not found|failed|no such|denied)\b/i);
				for (const port of listening.filter(port => commands.match(/&$/m) && commands.includes({ 3001: 'postgrest', 9180: 'verify.js', 9000: 'backend.js' }[port])))
					await machine.untilListening(port);
			});
}

describe('examples/postgrest/README.md', () => follow('postgrest', [3001], ['Set up', 'Try it']));
describe('examples/nginx/README.md, while the other one is still running', () => follow('nginx', [9180, 9000], ['Set up', 'Try it']));

describe('examples/mcp-server, while both are still running', () => {
	let shell;
	before(() => { shell = shells['mcp-server'] = machine.shell('mcp-server'); });

	test('the set-up of the MCP server finds room on the same server, and its program on the same machine', async () => {
		assert.doesNotMatch(await shell.run(`createdb mcp_notes
			psql -d mcp_notes -qc 'CREATE SCHEMA IF NOT EXISTS amt' -c 'CREATE EXTENSION IF NOT EXISTS amt_keys SCHEMA amt' 2>&1 | grep -v NOTICE
			psql -d mcp_notes -qf schema.sql`), /error|warning|fatal/i);
		assert.equal(await shell.run('DATABASE_URL=postgres://notes_mcp:x@localhost/mcp_notes node server.js >server.log &'), '');
		await machine.untilListening(8082);
		const response = await fetch(`http://127.0.0.1:${shell.port(8082)}/api/mcp`, { method: 'POST', headers: { 'content-type': 'application/json' }, body: '{}' });
		assert.equal(response.status, 401);
	});

	test('the programs of the other examples still listen', async () => {
		for (const port of [3001, 8081, 9180, 9000, 8080])
			await machine.untilListening(port);
	});
});

test('no key is in a log of nginx', () => {
	const log = machine.nginxLog();
	assert.match(log, /"GET \/amt_keys" 200/);
	assert.match(log, /GET \/orders/);
	assert.doesNotMatch(log, /amt_[0-9A-Za-z]+_[0-9A-Za-z]{8}/);
});

describe('the examples are removed as their READMEs say', () => {
	for (const example of ['mcp-server', 'nginx', 'postgrest'])
		test(`nothing is left of ${example}`, async t => {
			if (!server.directory)
				return t.skip('the server is somebody else\'s');
			await shells[example].run('kill $(jobs -p); wait');
			for (const { commands } of steps(`${examples}${example}/README.md`, 'Remove it'))
				assert.doesNotMatch(await shells[example].run(commands), /\b(error|fatal|not found|failed|no such|cannot)\b/i);
		});

	test('no database and no role of the examples is left', async t => {
		if (!server.directory)
			return t.skip('the server is somebody else\'s');
		assert.equal(await shells.nginx.run(`psql postgres -XAtc "SELECT datname FROM pg_database WHERE datname IN ('notes', 'orders', 'mcp_notes')
			UNION ALL SELECT rolname FROM pg_roles WHERE rolname ~ '^(authenticator|anon|web_|notes_|amt_)'"`), '');
	});
});

test('the examples name different ports and databases, and their READMEs name them', () => {
	const all = Object.values(documentedPorts).flat();
	assert.equal(new Set(all).size, all.length);
	const text = (example, ...files) => files.map(file => readFileSync(`${examples}${example}/${file}`, 'utf8')).join('\n');
	const ports = source => [...new Set([...source.matchAll(/(?:127\.0\.0\.1:|PORT \?\? |PORT = '|server-port = |listen )(\d{4})/g)].map(([, port]) => Number(port)))].sort();
	assert.deepEqual(ports(text('postgrest', 'nginx.conf', 'postgrest.conf')), documentedPorts.postgrest);
	assert.deepEqual(ports(text('nginx', 'nginx.conf', 'verify.js', 'backend.js')), documentedPorts.nginx);
	assert.deepEqual(ports(text('mcp-server', 'server.js')), documentedPorts['mcp-server']);
	for (const [example, others] of [['postgrest', ['nginx', 'mcp-server']], ['nginx', ['postgrest', 'mcp-server']]])
		for (const other of others)
			for (const port of documentedPorts[other])
				assert.match(text(example, 'README.md'), new RegExp(`\\b${port}\\b`), `${example}/README.md names ${other}'s port ${port}`);
	const databases = Object.keys(documentedPorts).map(example => new Set([...text(example, 'README.md').matchAll(/psql -d (\w+)/g)].map(([, name]) => name)));
	assert.deepEqual(databases.map(names => names.size), [1, 1, 1]);
	assert.equal(new Set(databases.flatMap(names => [...names])).size, 3);
});
