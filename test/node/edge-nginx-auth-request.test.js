// examples/nginx: the real nginx, the real verify service, a real database, and a back end that tells what reached it.

import assert from 'node:assert/strict';
import { readFileSync } from 'node:fs';
import { after, before, test } from 'node:test';
import pg from 'pg';
import { examples, freePort, send, sent, startEcho, startNginx, startProgram, strangeToken } from './edge-support.js';
import { startServer } from './server.js';

const oddOrganization = 'Ünï "corp"\r\nX-Amt-Role: owner; 100%/ñ,\u{1f600}';

let database, admin, service, servicePort, echo, nginx;
const keys = {};

before(async () => {
	// Everything is logged, so that a key could be found there.
	database = await startServer({ extension: '', settings: { log_statement: 'all' } });
	await database.psql(`\\set password secret\n${readFileSync(`${examples}nginx/setup.sql`, 'utf8')}`);
	admin = new pg.Client(database.connectionString());
	await admin.connect();
	await admin.query("SET amt_keys.scrypt_ln = 4");
	for (const [name, organization, role] of [['acme', 'acme', 'editor'], ['odd', oddOrganization, 'viewer'], ['doomed', 'acme', 'viewer']])
		keys[name] = (await admin.query('SELECT * FROM amt.amt_create_key($1, $2, $3)', [name, organization, role])).rows[0];

	servicePort = await freePort();
	service = await startService();
	echo = await startEcho();
	nginx = await startNginx({
		configuration: `${examples}nginx/nginx.conf`,
		snippets: { 'snippets/amt-auth.conf': `${examples}nginx/amt-auth.conf` },
		replace: {
			'server 127.0.0.1:9180;': `server 127.0.0.1:${servicePort};`,
			'server 127.0.0.1:9000;': `server 127.0.0.1:${echo.port};`,
		},
	});
});

after(async () => {
	await nginx?.stop();
	await echo?.stop();
	await service?.stop();
	await admin?.end();
	await database?.stop();
});

function startService() {
	const url = new URL(database.connectionString('amt_gateway'));
	return startProgram(`${examples}nginx/verify.js`, servicePort, {
		PGHOST: url.searchParams.get('host'), PGPORT: String(database.port), PGDATABASE: database.database,
		PGUSER: 'amt_gateway', PGPASSWORD: url.searchParams.get('password') ?? '',
	});
}

const get = (path, ...lines) => send(nginx.port, [`GET ${path} HTTP/1.1`, ...lines]);
const bearer = key => `Authorization: Bearer ${key.token}`;

/** The identity that a back end reads from an echo. */
const identity = echoed => Object.fromEntries(['Org', 'Role', 'Scopes', 'Key'].map(name => [name, sent(echoed, `X-Amt-${name}`)]));
const acme = () => ({ Org: ['acme'], Role: ['editor'], Scopes: ['all'], Key: [keys.acme.key_id] });
const nobody = { Org: [], Role: [], Scopes: [], Key: [] };

/** Every header that some back end could take for one of ours. */
const lookalikes = echoed => echoed.headers.filter(([name]) => /^x[^a-z]amt/i.test(name)).map(([name]) => name).sort();

test('a good key reaches the back end as organization, role and key id', async () => {
	const answer = await get('/orders?page=2', bearer(keys.acme));
	assert.equal(answer.status, 200);
	assert.deepEqual(identity(answer.json), acme());
	assert.equal(answer.json.url, '/orders?page=2');
});

test('the key itself does not reach the back end', async () => {
	const answer = await get('/', bearer(keys.acme));
	assert.doesNotMatch(answer.body, new RegExp(keys.acme.token.slice(17)));
	assert.deepEqual(sent(answer.json, 'Authorization'), []);
});

test('the identity is not sent to the client', async () => {
	const answer = await get('/', bearer(keys.acme));
	assert.equal(answer.header('X-Amt-Org'), undefined);
	assert.equal(answer.header('X-Amt-Key'), undefined);
});

test('a request with a body passes whole', async () => {
	const answer = await send(nginx.port, ['POST /orders HTTP/1.1', bearer(keys.acme), 'Content-Length: 5'], 'hello');
	assert.equal(answer.json.method, 'POST');
	assert.deepEqual(sent(answer.json, 'Content-Length'), ['5']);
	assert.deepEqual(identity(answer.json), acme());
});

test('an organization of odd characters arrives encoded, in one header', async () => {
	const answer = await get('/', bearer(keys.odd));
	const { Org: [organization], Role } = identity(answer.json);
	assert.match(organization, /^[!-~]+$/);
	assert.equal(decodeURIComponent(organization), oddOrganization);
	assert.deepEqual(Role, ['viewer']);
});

test('scopes that narrow a key arrive as a list, an empty one too', async () => {
	for (const [scopes, arrived] of [[['orders:read', 'orders:write'], 'only orders:read orders:write'], [[], 'only']]) {
		const { rows: [key] } = await admin.query("SELECT * FROM amt.amt_create_key('narrow', 'acme', 'editor', $1)", [scopes]);
		assert.deepEqual(sent((await get('/', bearer(key))).json, 'X-Amt-Scopes'), [arrived]);
	}
});

test('a key may come as X-API-Key, and does not reach the back end', async () => {
	for (const line of [`X-API-Key: ${keys.acme.token}`, `x-api-key: Bearer ${keys.acme.token}`, `Authorization: ApiKey ${keys.acme.token}`, `Authorization: ${keys.acme.token}`]) {
		const answer = await get('/', line);
		assert.deepEqual(identity(answer.json), acme(), line);
		assert.doesNotMatch(answer.body, new RegExp(keys.acme.token.slice(17)));
	}
});

test('of X-API-Key and Authorization the first that begins like a key of ours is verified, and no other', async () => {
	const bad = strangeToken();
	for (const [apiKey, authorization, status] of [
		[keys.acme.token, `Bearer ${keys.odd.token}`, 200], [keys.acme.token, 'Bearer eyJhbGciOiJIUzI1NiJ9.e30.x', 200],
		['sb_publishable_abc', `Bearer ${keys.acme.token}`, 200], [bad, `Bearer ${keys.acme.token}`, 401],
		[keys.acme.token, `Bearer ${bad}`, 200], ['sb_publishable_abc', 'Bearer eyJhbGciOiJIUzI1NiJ9.e30.x', 401],
	]) {
		const answer = await get('/', `X-API-Key: ${apiKey}`, `Authorization: ${authorization}`);
		assert.equal(answer.status, status, `${apiKey} ${authorization}`);
		if (status === 200)
			assert.deepEqual(identity(answer.json), acme());
	}
});

test('an imported key, made elsewhere, is found by its hash', async () => {
	const token = `sk_live_${strangeToken().slice(17)}`;
	const { rows: [{ id }] } = await admin.query("SELECT amt.amt_import_key(sha256(convert_to($1, 'UTF8')), 'old', 'acme', 'viewer') AS id", [token]);
	assert.deepEqual(sent((await get('/', `Authorization: Bearer ${token}`)).json, 'X-Amt-Key'), [id]);
});

test('a request without credentials is 401 with WWW-Authenticate, and the back end does not see it', async () => {
	const before = echo.requests;
	const answer = await get('/');
	assert.equal(answer.status, 401);
	assert.equal(answer.header('WWW-Authenticate'), 'Bearer realm="api"');
	assert.equal(echo.requests, before);
});

for (const [what, value] of [
	['a key that was never made', () => `Bearer ${strangeToken()}`],
	['a wrong secret', () => `Bearer ${keys.acme.token.slice(0, 17)}${strangeToken().slice(17)}`],
	['half a key', () => `Bearer ${keys.acme.token.slice(0, 40)}`],
	['a key id alone', () => `Bearer ${keys.acme.key_id}`],
	['a key with something after it', () => `Bearer ${keys.acme.token}, Bearer ${keys.acme.token}`],
	['a key in quotes', () => `Bearer "${keys.acme.token}"`],
	['a tab behind the scheme', () => `Bearer\t${keys.acme.token}`],
	['the scheme twice', () => `Bearer Bearer ${keys.acme.token}`],
	['another scheme', () => `Basic ${Buffer.from(`x:${keys.acme.token}`).toString('base64')}`],
	['an attempt at SQL', () => `Bearer amt_'||(select 1)--`],
	['bytes that are not UTF-8', () => 'Bearer amt_\xff\xfe'],
	['7 kB of noise', () => `Bearer amt_${'x'.repeat(7000)}`],
])
	test(`a request with ${what} is 401 invalid_token, and the back end does not see it`, async () => {
		const before = echo.requests;
		const answer = await get('/', `Authorization: ${value()}`);
		assert.equal(answer.status, 401);
		assert.equal(answer.header('WWW-Authenticate'), 'Bearer realm="api", error="invalid_token"');
		assert.equal(echo.requests, before);
	});

test('a revoked key is refused at the next request', async () => {
	assert.equal((await get('/', bearer(keys.doomed))).status, 200);
	await admin.query('SELECT amt.amt_revoke($1)', [keys.doomed.key_id]);
	assert.equal((await get('/', bearer(keys.doomed))).status, 401);
});

const forgeries = ['X-Amt-Org: globex', 'X-Amt-Role: owner', 'X-Amt-Scopes: all', 'X-Amt-Key: forged'];

test("a client's own X-Amt-* are replaced where a key is asked for", async () => {
	const answer = await get('/', ...forgeries, bearer(keys.acme), ...forgeries);
	assert.deepEqual(identity(answer.json), acme());
});

test("a client's own X-Amt-* are removed where no key is asked for", async () => {
	const answer = await get('/public/', ...forgeries);
	assert.equal(answer.status, 200);
	assert.deepEqual(identity(answer.json), nobody);
});

for (const path of ['/', '/public/'])
	test(`no spelling of X-Amt-* reaches the back end from a client at ${path}`, async () => {
		const answer = await get(path, bearer(keys.acme), 'X_Amt_Org: globex', 'X-Amt_Org: globex', 'X_Amt-Role: owner',
			'x_amt_key: forged', 'X_Amt_Scopes: forged', 'X-AMT-ORG: globex', 'x.amt.org: globex', 'X~Amt~Org: globex', 'X+Amt-Org: globex');
		assert.equal(answer.status, 200);
		assert.deepEqual(lookalikes(answer.json), path === '/' ? ['X-Amt-Key', 'X-Amt-Org', 'X-Amt-Role', 'X-Amt-Scopes'] : []);
		assert.doesNotMatch(answer.body, /globex|forged|owner/);
	});

test('Connection: X-Amt-Org does not take the identity away', async () => {
	const answer = await send(nginx.port, `GET / HTTP/1.1\r\nHost: api.example\r\n`
		+ `Connection: close, X-Amt-Org, X-Amt-Role\r\n${bearer(keys.acme)}\r\n\r\n`);
	assert.deepEqual(identity(answer.json), acme());
	assert.doesNotMatch(sent(answer.json, 'Connection').join(), /amt/i);
});

for (const [what, breakLine] of [['LF', '\n'], ['CR', '\r'], ['folded line', '\r\n '], ['NUL', '\0']])
	test(`a ${what} in a header does not smuggle an identity`, async () => {
		const answer = await send(nginx.port, `GET / HTTP/1.1\r\nHost: api.example\r\nConnection: close\r\n`
			+ `${bearer(keys.acme)}\r\nX-Other: a${breakLine}X-Amt-Org: globex\r\n\r\n`);
		if (answer.status !== 400)
			assert.deepEqual(identity(answer.json), acme());
	});

test('of two Authorization headers at most the first counts', async () => {
	const refused = await get('/', `Authorization: Bearer ${strangeToken()}`, bearer(keys.acme));
	assert.ok([400, 401].includes(refused.status), `status ${refused.status}`);
	const first = await get('/', bearer(keys.acme), bearer(keys.odd));
	if (first.status !== 400) // nginx from 1.23 on
		assert.deepEqual(identity(first.json), acme());
});

test('the verify location is not there for clients', async () => {
	const answer = await get('/_amt_verify', bearer(keys.acme));
	assert.equal(answer.status, 404);
});

test('the login of the verify service can ask, and nothing else', async () => {
	const gateway = new pg.Client(database.connectionString('amt_gateway'));
	await gateway.connect();
	try {
		const refused = { code: '42501' };
		await assert.rejects(gateway.query('SELECT scrypt_hash FROM amt.amt_key'), refused);
		await assert.rejects(gateway.query('DELETE FROM amt.amt_key_event'), refused);
		await assert.rejects(gateway.query("SET amt_keys.org_id = 'acme'"), refused);
		await assert.rejects(gateway.query("SELECT amt.amt_create_key('mine', 'acme', 'owner')"), refused);
		assert.deepEqual((await gateway.query('SELECT * FROM amt.amt_keys')).rows, []);
	} finally {
		await gateway.end();
	}
});

test('each request counts one call of its key', async () => {
	const calls = async () => {
		const { rows } = await admin.query('SELECT calls FROM amt.amt_keys WHERE key_id = $1', [keys.acme.key_id]);
		return Number(rows[0].calls);
	};
	const before = await calls();
	for (let i = 0; i < 5; i++)
		assert.equal((await get('/', bearer(keys.acme))).status, 200);
	assert.equal(await calls(), before + 5);
});

test('a verify service that is down lets nobody in, and one that is back lets keys in again', async () => {
	await service.stop();
	const before = echo.requests;
	assert.equal((await get('/', bearer(keys.acme))).status, 500);
	assert.equal(echo.requests, before);
	service = await startService();
	// nginx rests an upstream that failed; with a single server it tries again at once.
	assert.equal((await get('/', bearer(keys.acme))).status, 200);
});

test('a database that ends its sessions costs no more than the requests of that moment', async () => {
	assert.equal((await get('/', bearer(keys.acme))).status, 200);
	await admin.query("SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE usename = 'amt_gateway'");
	let status;
	for (let tries = 0; tries < 20 && status !== 200; tries++) {
		({ status } = await get('/', bearer(keys.acme)));
		assert.ok([200, 500].includes(status), `status ${status}`);
	}
	assert.equal(status, 200);
});

test('no key is in the logs of nginx, of the service or of the database', () => {
	const logs = [nginx.log(), service.output(), database.log && readFileSync(database.log, 'utf8')];
	for (const log of logs)
		for (const key of Object.values(keys))
			assert.ok(!log?.includes(key.token.slice(17, 40)));
	// They were there to be found.
	assert.match(logs[0], /GET \/orders/);
	if (database.log)
		assert.ok(logs[2].includes(`amt_${keys.acme.key_id}_[redacted]`));
});
