// examples/mcp-server over HTTP, with the official SDK's own client, and with plain requests where the answer's status
// and headers matter.

import assert from 'node:assert/strict';
import { spawn } from 'node:child_process';
import { readFile } from 'node:fs/promises';
import { createServer, request } from 'node:http';
import { after, before, test } from 'node:test';
import { setTimeout } from 'node:timers/promises';
import { fileURLToPath } from 'node:url';
import pg from 'pg';
import { callTool, connectClient, startExample } from './mcp-example.js';

let example, acme, globex, viewer;

const REFUSED = 'Bearer realm="notes", error="invalid_token", scope="notes:read notes:write"';
const NO_KEY = 'Bearer realm="notes", scope="notes:read notes:write"';

before(async () => {
	example = await startExample();
	acme = await example.createKey('acme', 'editor', 'acme editor');
	globex = await example.createKey('globex', 'owner', 'globex owner');
	viewer = await example.createKey('acme', 'viewer', 'acme viewer');
});

after(() => example?.stop());

const send = (method, headers, body, path = '/api/mcp') => fetch(new URL(path, example.url), {
	method, body: body === undefined || typeof body === 'string' ? body : JSON.stringify(body),
	headers: { 'Content-Type': 'application/json', 'Accept': 'application/json, text/event-stream', ...headers },
});

const post = (authorization, body, path) => send('POST', authorization === undefined ? {} : { Authorization: authorization }, body, path);

const toolCall = (name, args = {}) => ({ jsonrpc: '2.0', id: 1, method: 'tools/call', params: { name, arguments: args } });

const keyId = token => token.split('_')[1];

async function assertUnauthorized(response, challenge = REFUSED) {
	assert.equal(response.status, 401);
	assert.equal(response.headers.get('www-authenticate'), challenge);
	const { error, error_description, ...rest } = await response.json();
	assert.equal(error, challenge === REFUSED ? 'invalid_token' : 'unauthorized');
	assert.match(error_description, /API key/);
	assert.deepEqual(rest, {});			// no JSON-RPC error
}

/** The status, and the scopes that the challenge asks for. */
async function refusal(response) {
	await response.text();
	const challenge = response.headers.get('www-authenticate');
	assert.doesNotMatch(challenge ?? '', /resource_metadata/);
	return [response.status, /^Bearer error="insufficient_scope".*scope="(.*)"$/.exec(challenge)?.[1]];
}

for (const mode of ['legacy', 'auto']) {
	test(`good_key_lists_and_calls_the_tools (${mode})`, async () => {
		const client = await connectClient(example.url, acme, mode);
		assert.deepEqual((await client.listTools()).tools.map(({ name }) => name), ['whoami', 'list_notes', 'add_note']);
		assert.deepEqual(await callTool(client, 'whoami'), { organization: 'acme', role: 'editor', scopes: null, key: 'acme editor' });
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
			{ name: 'InsufficientScopeError', requiredScope: 'editor notes:write' });
		assert.equal(await example.psql('SELECT count(*) FROM notes'), before);
		await client.close();
	});

	test(`key_revoked_between_two_calls_is_401_at_the_second (${mode})`, async () => {
		const token = await example.createKey('acme', 'editor', 'to be revoked');
		const client = await connectClient(example.url, token, mode);
		assert.equal((await callTool(client, 'whoami')).key, 'to be revoked');
		assert.equal(await example.psql(`SELECT amt.amt_revoke('${keyId(token)}')`), 't');
		await assert.rejects(client.callTool({ name: 'whoami', arguments: {} }), { name: 'SdkHttpError', status: 401 });
		await assert.rejects(connectClient(example.url, token, mode), { status: 401 });
		await client.close();
	});

	test(`client_without_a_good_key_cannot_connect (${mode})`, async () => {
		for (const token of [undefined, 'nonsense', `${acme.slice(0, -1)}${acme.endsWith('0') ? '1' : '0'}`])
			await assert.rejects(connectClient(example.url, token, mode), { name: 'SdkHttpError', status: 401 });
	});
}

test('bad_keys_of_every_shape_are_401_and_no_json_rpc_error', async () => {
	const secretOf = token => token.split('_')[2];
	const headers = [
		'Bearer', 'Bearer nonsense', 'amt_', 'Bearer amt__', 'ü',
		`Bearer ${acme.slice(0, -1)}`,
		`Bearer ${acme}x`,
		`Bearer ${acme} ${acme}`,
		`Bearer Bearer ${acme}`,
		`Bearer "${acme}"`,
		`Bearer amt_${keyId(acme)}_${secretOf(globex)}`,		// another key's secret
		`Bearer amt_000000000000_${secretOf(acme)}`,			// no such key
		`Bearer ${'amt_'.repeat(3000)}`,
	];
	for (const header of headers)
		await assertUnauthorized(await post(header, toolCall('whoami')));
	await assertUnauthorized(await send('POST', { 'X-API-Key': 'nonsense' }, toolCall('whoami')));
});

test('request_without_a_key_is_401_without_an_error_code', async () => {
	for (const header of [undefined, '', 'Basic dXNlcjpwYXNz', `Token ${acme}`])
		await assertUnauthorized(await post(header, toolCall('whoami')), NO_KEY);
	await assertUnauthorized(await post(undefined, toolCall('whoami'), `/api/mcp?access_token=${acme}`), NO_KEY);
});

test('key_is_taken_from_x_api_key_and_from_authorization_with_or_without_bearer', async () => {
	for (const headers of [
		{ 'X-API-Key': acme }, { 'X-API-Key': `Bearer ${acme}` }, { 'X-API-Key': acme, 'Authorization': 'Basic dXNlcjpwYXNz' },
		{ Authorization: `Bearer ${acme}` }, { Authorization: `bEARER   ${acme}` }, { Authorization: acme },
	])
		assert.match(await (await send('POST', headers, toolCall('whoami'))).text(), /acme editor/, JSON.stringify(headers));
});

test('suspended_key_is_401_until_it_is_resumed', async () => {
	const token = await example.createKey('acme', 'editor', 'paused');
	const call = () => post(`Bearer ${token}`, toolCall('whoami'));
	assert.equal((await call()).status, 200);
	await example.psql(`UPDATE amt.amt_keys SET suspended_at = now() WHERE key_id = '${keyId(token)}'`);
	await assertUnauthorized(await call());
	await example.psql(`UPDATE amt.amt_keys SET suspended_at = NULL WHERE key_id = '${keyId(token)}'`);
	assert.equal((await call()).status, 200);
});

test('tool_needs_its_role_and_its_scope_and_the_403_names_both', async () => {
	const keys = {};
	for (const [name, role, scopes] of [
		['viewer', 'viewer', null], ['editor', 'editor', null], ['owner', 'owner', null],
		['reader', 'owner', ['notes:read']], ['writer', 'editor', ['notes:write']], ['both', 'editor', ['notes:read', 'notes:write']],
		['low', 'viewer', ['notes:write']], ['nothing', 'owner', []], ['other', 'owner', ['billing:read']],
	])
		keys[name] = await example.createKey('acme', role, name, scopes);
	const answers = async tool => Object.fromEntries(await Promise.all(Object.entries(keys).map(async ([name, token]) => {
		const [status, scopes] = await refusal(await post(`Bearer ${token}`, tool));
		return [name, status === 200 ? 'yes' : `${status} ${scopes}`];
	})));

	const noList = '403 viewer notes:read', noAdd = '403 editor notes:write';
	const before = Number(await example.psql('SELECT count(*) FROM notes'));
	assert.deepEqual(await answers(toolCall('whoami')), Object.fromEntries(Object.keys(keys).map(name => [name, 'yes'])));
	assert.deepEqual(await answers(toolCall('list_notes')), {
		viewer: 'yes', editor: 'yes', owner: 'yes', reader: 'yes', writer: noList, both: 'yes', low: noList, nothing: noList, other: noList,
	});
	assert.deepEqual(await answers(toolCall('add_note', { body: 'allowed' })), {
		viewer: noAdd, editor: 'yes', owner: 'yes', reader: noAdd, writer: 'yes', both: 'yes', low: noAdd, nothing: noAdd, other: noAdd,
	});
	assert.equal(Number(await example.psql('SELECT count(*) FROM notes')), before + 4);
});

test('policies_ask_for_role_and_scope_without_any_tool', async () => {
	const db = new pg.Client(example.connectionString('notes_mcp'));
	await db.connect();
	const as = async (role, scopes, sql) => {
		const token = await example.createKey('acme', role, 'for SQL', scopes);
		await db.query('BEGIN');
		try {
			await db.query('SELECT FROM amt.amt_verify($1, true)', [token]);
			return (await db.query(sql)).rowCount;
		} catch (error) {
			return error.code;
		} finally {
			await db.query('ROLLBACK');
		}
	};
	const insert = "INSERT INTO notes (body) VALUES ('by SQL') RETURNING note_id";
	assert.equal(await as('editor', null, insert), 1);
	assert.equal(await as('editor', ['notes:write'], insert), 1);
	assert.equal(await as('owner', ['notes:read'], insert), '42501');
	assert.equal(await as('owner', [], insert), '42501');
	assert.equal(await as('viewer', ['notes:write'], insert), '42501');
	assert.ok(await as('viewer', null, 'SELECT FROM notes') > 0);
	assert.ok(await as('viewer', ['notes:read'], 'SELECT FROM notes') > 0);
	assert.equal(await as('owner', ['notes:write'], 'SELECT FROM notes'), 0);
	await db.end();
});

test('other_sites_and_other_names_for_this_address_are_403', async () => {
	const headers = { Authorization: `Bearer ${acme}` };
	for (const Origin of ['https://evil.example', 'http://127.0.0.1.evil.example', 'null', 'nonsense', 'file:///'])
		for (const method of ['POST', 'GET', 'DELETE'])
			assert.equal((await send(method, { ...headers, Origin }, method === 'POST' ? toolCall('whoami') : undefined)).status, 403);
	assert.equal((await send('POST', { Origin: 'https://evil.example' }, toolCall('whoami'))).status, 403);		// before any 401
	for (const Origin of [example.url, 'http://localhost:6274'])
		assert.equal((await send('POST', { ...headers, Origin }, toolCall('whoami'))).status, 200);

	// fetch() sets Host itself.
	const { hostname, port } = new URL(example.url);
	const statusFor = host => new Promise((resolve, reject) => request(
		{ hostname, port, path: '/api/mcp', method: 'POST', headers: { ...headers, Host: host } },
		response => { response.resume(); resolve(response.statusCode); }).on('error', reject).end());
	assert.equal(await statusFor(`rebound.example:${port}`), 403);
	assert.equal(await statusFor(`localhost:${port}`), 415);		// for want of a Content-Type
});

test('clients_that_look_for_oauth_after_a_401_are_told_that_there_is_none', async () => {
	for (const [method, path] of [
		['GET', '/.well-known/oauth-protected-resource'], ['GET', '/.well-known/oauth-protected-resource/api/mcp'],
		['GET', '/.well-known/oauth-authorization-server'], ['GET', '/.well-known/oauth-authorization-server/api/mcp'],
		['GET', '/.well-known/openid-configuration'], ['GET', '/api/mcp/.well-known/openid-configuration'],
		['POST', '/register'], ['GET', '/authorize'], ['POST', '/token'],
	]) {
		const response = await send(method, {}, method === 'POST' ? {} : undefined, path);
		assert.equal(response.status, 404, path);
		assert.equal((await response.json()).error, 'not_found', path);
	}
});

test('get_and_delete_are_405_with_and_without_a_key', async () => {
	for (const method of ['GET', 'DELETE', 'PUT'])
		for (const headers of [{}, { Authorization: `Bearer ${acme}` }, { Authorization: 'Bearer nonsense' }]) {
			const response = await send(method, headers);
			assert.equal(response.status, 405);
			assert.equal(response.headers.get('allow'), 'POST');
		}
});

test('headers_that_contradict_the_body_are_400', async () => {
	const modern = toolCall('whoami');
	modern.params._meta = {
		'io.modelcontextprotocol/protocolVersion': '2026-07-28',
		'io.modelcontextprotocol/clientInfo': { name: 'test', version: '1' },
		'io.modelcontextprotocol/clientCapabilities': {},
	};
	const right = { 'MCP-Protocol-Version': '2026-07-28', 'Mcp-Method': 'tools/call', 'Mcp-Name': 'whoami' };
	const answer = async headers => {
		const sent = Object.fromEntries(Object.entries({ ...right, ...headers }).filter(([, value]) => value !== undefined));
		const response = await send('POST', { 'X-API-Key': acme, ...sent }, modern);
		return [response.status, (await response.json().catch(() => undefined))?.error?.code];
	};
	assert.equal((await answer({}))[0], 200);
	for (const wrong of [
		{ 'Mcp-Name': 'add_note' }, { 'Mcp-Name': undefined }, { 'Mcp-Method': 'tools/list' }, { 'Mcp-Method': undefined },
		{ 'MCP-Protocol-Version': '2025-06-18' }, { 'MCP-Protocol-Version': undefined },
	])
		assert.deepEqual(await answer(wrong), [400, -32020], JSON.stringify(wrong));
	assert.equal((await send('POST', { 'X-API-Key': acme, 'MCP-Protocol-Version': '1999-01-01' }, toolCall('whoami'))).status, 400);
});

test('token_in_tool_arguments_is_refused_and_not_stored', async () => {
	const client = await connectClient(example.url, acme);
	await assert.rejects(callTool(client, 'add_note', { body: `use this:\n${globex}.` }), error => {
		assert.match(error.message, new RegExp(`amt_${keyId(globex)}\\.\\.\\.`));
		assert.doesNotMatch(error.message, new RegExp(globex));
		return true;
	});
	assert.equal(await example.psql(`SELECT count(*) FROM notes WHERE body LIKE '%amt_%'`), '0');

	// A text that only looks like one is stored like any other.
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
	assert.equal(await example.psql(`SELECT calls FROM amt.amt_keys WHERE key_id = '${keyId(token)}'`), String(requests.length));
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
		await db.query('SELECT * FROM amt.amt_verify($1, true)', [viewer]);
		await assert.rejects(db.query(sql, values), { code: '42501' });
		await db.query('ROLLBACK');
	};
	assert.equal((await db.query('SELECT * FROM notes')).rowCount, 0);				// no identity, no rows
	await refused("INSERT INTO notes (body) VALUES ('the policy refuses a viewer, without any tool')");
	await refused("INSERT INTO notes (org_id, body) VALUES ('globex', 'no other organization can be named')");
	await refused('DELETE FROM notes');
	await refused('SELECT scrypt_hash FROM amt.amt_key');
	await refused("SELECT amt.amt_create_key('a key cannot make a key')");
	await refused("SET amt_keys.org_id = 'globex'");
	await refused("SELECT set_config('amt_keys.role', 'owner', true)");
	await db.end();
});

test('counters_tell_trouble_with_the_header_from_a_revoked_key', async () => {
	const columns = ['verified', ...['malformed', 'unknown', 'wrong_secret', 'suspended', 'expired'].map(reason => `rejected_${reason}`)];
	const counters = async () => (await example.psql(`SELECT ${columns} FROM amt.amt_stat`)).split('|').map(Number);
	const grows = async headers => {
		const before = await counters();
		await (await send('POST', headers, toolCall('whoami'))).text();
		const after = await counters();
		return columns.filter((_, i) => after[i] === before[i] + 1).join();
	};
	const [revoked, suspended, expired] = await Promise.all([1, 2, 3].map(() => example.createKey('acme', 'editor')));
	await example.psql(`SELECT amt.amt_revoke('${revoked}');
		UPDATE amt.amt_keys SET suspended_at = now() WHERE key_id = '${keyId(suspended)}';
		UPDATE amt.amt_keys SET expires_at = clock_timestamp() + interval '10 ms' WHERE key_id = '${keyId(expired)}'; SELECT pg_sleep(0.05)`);
	const bearer = value => ({ Authorization: `Bearer ${value}` });
	assert.equal(await grows({}), '');
	for (const value of [`"${acme}"`, `Bearer ${acme}`, '${NOTES_KEY}', 'sk-1234567890abcdefghij'])
		assert.equal(await grows(bearer(value)), 'rejected_malformed', value);
	assert.equal(await grows(bearer(revoked)), 'rejected_unknown');
	assert.equal(await grows(bearer(acme.slice(0, -5))), 'rejected_wrong_secret');
	assert.equal(await grows(bearer(suspended)), 'rejected_suspended');
	assert.equal(await grows(bearer(expired)), 'rejected_expired');
	assert.equal(await grows(bearer(acme)), 'verified');
});

test('shorter_way_of_the_readme_works_as_it_stands', async t => {
	const readme = await readFile(new URL('../../examples/mcp-server/README.md', import.meta.url), 'utf8');
	const { port } = await new Promise(resolve => {
		const probe = createServer().listen(0, '127.0.0.1', () => { const address = probe.address(); probe.close(() => resolve(address)); });
	});
	const script = spawn(process.execPath, ['--input-type=module'], {
		cwd: fileURLToPath(new URL('../../examples/mcp-server/', import.meta.url)), stdio: ['pipe', 'inherit', 'inherit'],
		env: { ...process.env, DATABASE_URL: example.connectionString('notes_mcp') },
	});
	t.after(() => script.kill());
	script.stdin.end(/```js\n(.*?)```/s.exec(readme)[1].replace('8082', port));
	const url = `http://127.0.0.1:${port}`;
	const call = (token, headers = {}) => fetch(`${url}/api/mcp`, {
		method: 'POST', body: JSON.stringify(toolCall('greet')),
		headers: {
			'Content-Type': 'application/json', 'Accept': 'application/json, text/event-stream',
			...(token && { Authorization: `Bearer ${token}` }), ...headers,
		},
	});
	for (let i = 0; i < 100 && !await call().catch(() => undefined); i++)
		await setTimeout(50);

	const lasting = await example.psql("SELECT token FROM amt.amt_create_key('lasting', 'acme', 'viewer', expires_at => now() + interval '1 day')");
	for (const token of [acme, lasting]) {
		const client = await connectClient(url, token);
		assert.equal((await client.callTool({ name: 'greet', arguments: {} })).content[0].text, 'Hello, acme');
		await client.close();
	}
	const narrow = await example.createKey('acme', 'owner', 'narrow', ['billing:read']);
	assert.deepEqual(await refusal(await call(narrow)), [403, 'viewer notes:read']);
	assert.equal((await call(`${acme}x`)).status, 401);
	assert.match((await call(`${acme}x`)).headers.get('www-authenticate'), /error="invalid_token"/);
	assert.equal((await call()).status, 401);
	assert.equal((await call(acme, { Origin: 'https://evil.example' })).status, 403);
});

test('schema_goes_into_a_second_database_of_the_same_server', async t => {
	const schema = fileURLToPath(new URL('../../examples/mcp-server/schema.sql', import.meta.url));
	const name = `amt_second_${process.pid}`;
	await example.psql(`CREATE DATABASE ${name}`);
	t.after(() => example.psql(`DROP DATABASE ${name} WITH (FORCE)`));
	assert.equal((await example.psql(`\\c ${name}\nCREATE SCHEMA amt; CREATE EXTENSION amt_keys SCHEMA amt;\n\\i ${schema}\nSELECT count(*) FROM notes`)), '2');
});

test('example_printed_no_token', () => {
	for (const token of [acme, globex, viewer])
		assert.ok(!example.output().includes(token.split('_')[2]));
});
