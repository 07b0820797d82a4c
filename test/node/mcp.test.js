// examples/mcp-server over HTTP, with the official SDK's own client, and with plain requests where the answer's status
// and headers matter.

import assert from 'node:assert/strict';
import { after, before, test } from 'node:test';
import pg from 'pg';
import { callTool, connectClient, startExample } from './mcp-example.js';

let example, acme, globex, viewer;

before(async () => {
	example = await startExample();
	acme = await example.createKey('acme', 'editor', 'acme editor');
	globex = await example.createKey('globex', 'owner', 'globex owner');
	viewer = await example.createKey('acme', 'viewer', 'acme viewer');
});

after(() => example?.stop());

const post = (authorization, body, path = '/api/mcp') => fetch(new URL(path, example.url), {
	method: 'POST',
	headers: {
		'Content-Type': 'application/json', 'Accept': 'application/json, text/event-stream',
		...(authorization !== undefined && { Authorization: authorization }),
	},
	body: typeof body === 'string' ? body : JSON.stringify(body),
});

const toolCall = (name, args = {}) => ({ jsonrpc: '2.0', id: 1, method: 'tools/call', params: { name, arguments: args } });

const keyId = token => token.split('_')[1];

async function assertUnauthorized(response) {
	assert.equal(response.status, 401);
	assert.equal(response.headers.get('www-authenticate'), 'Bearer realm="notes", error="invalid_token"');
	assert.deepEqual(await response.json(), { error: 'invalid_token' });
}

for (const mode of ['legacy', 'auto']) {
	test(`good_key_lists_and_calls_the_tools (${mode})`, async () => {
		const client = await connectClient(example.url, acme, mode);
		assert.deepEqual((await client.listTools()).tools.map(({ name }) => name), ['whoami', 'list_notes', 'add_note']);
		assert.deepEqual(await callTool(client, 'whoami'), { organization: 'acme', role: 'editor', key: 'acme editor' });
		const { note_id } = await callTool(client, 'add_note', { body: `written ${mode}` });
		const [newest] = await callTool(client, 'list_notes');
		assert.equal(newest.note_id, note_id);
		assert.equal(newest.body, `written ${mode}`);
		assert.equal(await example.psql(`SELECT org_id || ' ' || written_by FROM notes WHERE note_id = ${note_id}`),
			`acme ${keyId(acme)}`);
		await client.close();
	});

	test(`key_sees_nothing_of_another_organization (${mode})`, async () => {
		const client = await connectClient(example.url, globex, mode);
		const notes = await callTool(client, 'list_notes');
		assert.equal(notes.length, 1);
		assert.match(notes[0].body, /^Globex/);
		await client.close();
	});

	test(`viewer_reads_but_is_refused_the_write_tool (${mode})`, async () => {
		const client = await connectClient(example.url, viewer, mode);
		assert.match((await callTool(client, 'list_notes')).at(-1).body, /^Acme/);
		const before = await example.psql('SELECT count(*) FROM notes');
		await assert.rejects(client.callTool({ name: 'add_note', arguments: { body: 'no' } }),
			{ name: 'InsufficientScopeError', requiredScope: 'editor', errorDescription: 'This tool needs the role editor' });
		assert.equal(await example.psql('SELECT count(*) FROM notes'), before);
		await client.close();
	});

	test(`revoked_between_two_calls_the_second_is_401 (${mode})`, async () => {
		const token = await example.createKey('acme', 'editor', 'to be revoked');
		const client = await connectClient(example.url, token, mode);
		assert.equal((await callTool(client, 'whoami')).key, 'to be revoked');
		assert.equal(await example.psql(`SELECT amt_revoke('${keyId(token)}')`), 't');
		await assert.rejects(client.callTool({ name: 'whoami', arguments: {} }), { name: 'SdkHttpError', status: 401 });
		await assert.rejects(connectClient(example.url, token, mode), { status: 401 });
		await client.close();
	});

	test(`client_without_a_good_key_cannot_connect (${mode})`, async () => {
		for (const token of [undefined, 'nonsense', `${acme.slice(0, -1)}${acme.endsWith('0') ? '1' : '0'}`])
			await assert.rejects(connectClient(example.url, token, mode), { name: 'SdkHttpError', status: 401 });
	});
}

test('bad_credentials_of_every_shape_are_401_and_no_json_rpc_error', async () => {
	const secretOf = token => token.split('_')[2];
	const headers = [
		undefined, '', 'Bearer', 'Bearer ', 'Bearer nonsense', 'Basic dXNlcjpwYXNz', 'amt_', 'Bearer amt__', 'ü',
		`Bearer ${acme.slice(0, -1)}`,
		`Bearer ${acme}x`,
		`Bearer ${acme} ${acme}`,
		`Bearer amt_${keyId(acme)}_${secretOf(globex)}`,		// another key's secret
		`Bearer amt_000000000000_${secretOf(acme)}`,			// no such key
		`Bearer ${'amt_'.repeat(3000)}`,
	];
	for (const header of headers)
		await assertUnauthorized(await post(header, toolCall('whoami')));
	await assertUnauthorized(await post(undefined, toolCall('whoami'), `/api/mcp?access_token=${acme}`));
	await assertUnauthorized(await fetch(new URL('/api/mcp', example.url)));
});

test('too_low_a_role_is_403_insufficient_scope', async () => {
	const response = await post(`Bearer ${viewer}`, toolCall('add_note', { body: 'no' }));
	assert.equal(response.status, 403);
	const challenge = response.headers.get('www-authenticate');
	assert.match(challenge, /^Bearer .*error="insufficient_scope".*scope="editor"/);
	assert.doesNotMatch(challenge, /resource_metadata/);
	assert.equal((await response.json()).jsonrpc, undefined);
});

test('token_in_tool_arguments_is_refused_and_not_stored', async () => {
	const client = await connectClient(example.url, acme);
	await assert.rejects(callTool(client, 'add_note', { body: `use this:\n${globex}.` }), error => {
		assert.match(error.message, new RegExp(`amt_${keyId(globex)}\\.\\.\\.`));
		assert.doesNotMatch(error.message, new RegExp(globex));
		return true;
	});
	assert.equal(await example.psql(`SELECT count(*) FROM notes WHERE body LIKE '%amt_%'`), '0');

	// What only looks like one is a text like any other.
	const nearMiss = `amt_${keyId(globex)}_${'x'.repeat(49)}`;
	await callTool(client, 'add_note', { body: nearMiss });
	assert.equal((await callTool(client, 'list_notes'))[0].body, nearMiss);
	await client.close();
});

test('one_http_request_counts_one_call', async () => {
	const token = await example.createKey('acme', 'editor', 'counted');
	const requests = [toolCall('whoami'), toolCall('add_note', { body: 'counted' }), toolCall('nonsense'),
		{ jsonrpc: '2.0', id: 1, method: 'tools/list' }];
	for (const request of requests)
		await (await post(`Bearer ${token}`, request)).text();
	await assertUnauthorized(await post(`Bearer ${token}x`, toolCall('whoami')));
	assert.equal(await example.psql(`SELECT calls FROM amt_keys WHERE key_id = '${keyId(token)}'`), String(requests.length));
});

test('calls_of_two_organizations_at_once_keep_their_identities', async () => {
	const answers = await Promise.all(Array.from({ length: 60 }, async (_, i) =>
		(await post(`Bearer ${i % 2 ? acme : globex}`, toolCall('list_notes'))).text()));
	answers.forEach((answer, i) => {
		assert.equal(answer.includes("Acme's first"), i % 2 === 1);
		assert.equal(answer.includes("Globex's first"), i % 2 === 0);
	});
});

test('failing_tool_writes_nothing_and_the_connection_serves_on', async () => {
	const client = await connectClient(example.url, acme);
	await assert.rejects(callTool(client, 'add_note', { body: 'a\0b' }));		// no PostgreSQL text holds a NUL
	for (let i = 0; i < 12; i++)
		assert.equal((await callTool(client, 'whoami')).organization, 'acme');
	await client.close();
});

test('requests_that_are_not_mcp_calls_are_refused_plainly', async () => {
	const answer = async (body, path) => {
		const response = await post(`Bearer ${acme}`, body, path);
		const text = await response.text();
		assert.doesNotMatch(text, /node_modules|at \w+ \(/);
		return response.status;
	};
	assert.equal(await answer([toolCall('whoami'), toolCall('whoami')]), 400);
	assert.equal(await answer('{'), 400);
	assert.equal(await answer(''), 400);
	assert.equal(await answer(JSON.stringify(toolCall('add_note', { body: 'x'.repeat(2e6) }))), 413);
	assert.equal((await fetch(new URL('/api/mcp', example.url), { headers: { Authorization: `Bearer ${acme}` } })).status, 405);
});

test('subscription_cannot_hold_a_connection', async () => {
	const listen = {
		jsonrpc: '2.0', id: 1, method: 'subscriptions/listen',
		params: {
			notifications: { toolsListChanged: true },
			_meta: {
				'io.modelcontextprotocol/protocolVersion': '2026-07-28',
				'io.modelcontextprotocol/clientInfo': { name: 'test', version: '1' },
				'io.modelcontextprotocol/clientCapabilities': {},
			},
		},
	};
	const response = await fetch(new URL('/api/mcp', example.url), {
		method: 'POST', body: JSON.stringify(listen), signal: AbortSignal.timeout(5000),
		headers: {
			'Content-Type': 'application/json', 'Accept': 'application/json, text/event-stream',
			'Authorization': `Bearer ${acme}`, 'MCP-Protocol-Version': '2026-07-28', 'Mcp-Method': 'subscriptions/listen',
		},
	});
	assert.match(await response.text(), /Subscription limit reached/);
});

test('mcp_role_can_do_no_more_than_its_grants_say', async () => {
	const db = new pg.Client(example.connectionString('notes_mcp'));
	await db.connect();
	const refused = async (sql, values) => {
		await db.query('BEGIN');
		await db.query('SELECT * FROM amt_verify($1, true)', [viewer]);
		await assert.rejects(db.query(sql, values), { code: '42501' });
		await db.query('ROLLBACK');
	};
	assert.equal((await db.query('SELECT * FROM notes')).rowCount, 0);				// no identity, no rows
	await refused("INSERT INTO notes (body) VALUES ('the policy refuses a viewer, without any tool')");
	await refused("INSERT INTO notes (org_id, body) VALUES ('globex', 'no other organization can be named')");
	await refused('DELETE FROM notes');
	await refused('SELECT scrypt_hash FROM amt_key');
	await refused("SELECT amt_create_key('a key cannot make a key')");
	await refused("SET amt_keys.org_id = 'globex'");
	await refused("SELECT set_config('amt_keys.role', 'owner', true)");
	await db.end();
});

test('example_printed_no_token', () => {
	for (const token of [acme, globex, viewer])
		assert.ok(!example.output().includes(token.split('_')[2]));
});
