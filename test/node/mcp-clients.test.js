// examples/mcp-server as people's own clients meet it: the Inspector's command line, and mcp-remote, which gives clients
// that can only start a program a way to a server.  Their messages here are those in the README's
// table for trouble.

import assert from 'node:assert/strict';
import { execFile } from 'node:child_process';
import { mkdtempSync, rmSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { after, before, test } from 'node:test';
import { fileURLToPath } from 'node:url';
import { promisify } from 'node:util';
import { Client } from '@modelcontextprotocol/client';
import { StdioClientTransport } from '@modelcontextprotocol/client/stdio';
import { callTool, startExample } from './mcp-example.js';

const program = name => fileURLToPath(new URL(`mcp-clients/node_modules/${name}`, import.meta.url));
const INSPECTOR = program('@modelcontextprotocol/inspector/clients/launcher/build/index.js');
const MCP_REMOTE = program('mcp-remote/dist/proxy.js');

let example, home, env, editor, viewer, revoked;

before(async () => {
	home = mkdtempSync(join(tmpdir(), 'amt-mcp-clients-'));		// they keep files in the home directory
	env = { PATH: process.env.PATH, HOME: home, NO_COLOR: '1' };
	example = await startExample();
	editor = await example.createKey('acme', 'editor', 'an editor’s');
	viewer = await example.createKey('acme', 'viewer', 'a viewer’s');
	revoked = await example.createKey('acme', 'editor', 'revoked');
	await example.psql(`SELECT amt.amt_revoke('${revoked}')`);
});

after(async () => {
	await example?.stop();
	rmSync(home, { recursive: true, force: true });
});

/** What the Inspector prints, read as JSON; a failure is thrown with its message. */
async function inspect(headers, ...args) {
	const options = Object.entries(headers).flatMap(([name, value]) => ['--header', `${name}: ${value}`]);
	try {
		const { stdout } = await promisify(execFile)(process.execPath,
			[INSPECTOR, '--cli', `${example.url}/api/mcp`, '--transport', 'http', ...options, ...args], { env, timeout: 60_000 });
		return JSON.parse(stdout);
	} catch (error) {
		throw new Error(/^\{"error".*\}$/m.exec(error.stderr) ? JSON.parse(/^\{"error".*\}$/m.exec(error.stderr)[0]).error.message : error.message);
	}
}

const bearer = token => ({ Authorization: `Bearer ${token}` });
const call = (tool, ...args) => ['--method', 'tools/call', '--tool-name', tool, ...args.flatMap(arg => ['--tool-arg', arg])];

test('inspector_lists_and_calls_the_tools', async () => {
	const { tools } = await inspect(bearer(editor), '--method', 'tools/list');
	assert.deepEqual(tools.map(({ name }) => name), ['whoami', 'list_notes', 'add_note']);
	const { content } = await inspect({ 'X-API-Key': editor }, ...call('whoami'));
	assert.deepEqual(JSON.parse(content[0].text), { organization: 'acme', role: 'editor', scopes: null, key: 'an editor’s' });
	await inspect(bearer(editor), ...call('add_note', 'body=by the Inspector'));
	assert.equal(await example.psql("SELECT org_id FROM notes WHERE body = 'by the Inspector'"), 'acme');
});

test('inspector_says_which_scopes_are_missing', async () => {
	await assert.rejects(inspect(bearer(viewer), ...call('add_note', 'body=no')),
		{ message: 'Insufficient scope: required "editor notes:write"' });
});

test('inspector_tries_to_sign_in_with_a_revoked_key', async () => {
	await assert.rejects(inspect(bearer(revoked), '--method', 'tools/list'), /Interactive OAuth requires a TTY/);
	await assert.rejects(inspect({}, '--method', 'tools/list'), /Interactive OAuth requires a TTY/);
});

test('inspector_is_refused_from_another_origin', async () => {
	await assert.rejects(inspect({ ...bearer(editor), Origin: 'https://evil.example' }, '--method', 'tools/list'),
		/Invalid Origin: evil\.example/);
});

const NO_OAUTH = /This server takes API keys and has no OAuth\. A key that it refuses is unknown, revoked, suspended or expired, or lacks a role or scope\./;

/** A client whose server is mcp-remote, with these headers, until the test t ends; what mcp-remote says is in the array said. */
async function remote(t, headers, said = []) {
	const options = Object.entries(headers).flatMap(([name, value]) => ['--header', `${name}:${value}`]);
	const transport = new StdioClientTransport({
		command: process.execPath, args: [MCP_REMOTE, `${example.url}/api/mcp`, '--allow-http', ...options], env, stderr: 'pipe',
	});
	transport.stderr.setEncoding('utf8').on('data', text => said.push(text));
	const client = new Client({ name: 'test', version: '1.0.0' });
	t.after(() => client.close());
	await client.connect(transport);
	return client;
}

test('mcp_remote_carries_the_key_in_either_header', async t => {
	assert.equal((await callTool(await remote(t, bearer(viewer)), 'whoami')).key, 'a viewer’s');
	assert.equal((await callTool(await remote(t, { 'X-API-Key': editor }), 'whoami')).key, 'an editor’s');
});

test('mcp_remote_takes_a_refusal_for_a_wish_to_sign_in_and_says_what_happened', async t => {
	const client = await remote(t, bearer(viewer));
	await assert.rejects(client.callTool({ name: 'add_note', arguments: { body: 'no' } }), NO_OAUTH);

	const said = [];
	await assert.rejects(remote(t, bearer(revoked), said), /Connection closed/);
	assert.match(said.join(''), NO_OAUTH);
});

test('mcp_remote_is_refused_from_another_origin', async t => {
	const said = [];
	await assert.rejects(remote(t, { ...bearer(editor), Origin: 'https://evil.example' }, said), /Connection closed/);
	assert.match(said.join(''), /Invalid Origin: evil\.example/);
});
