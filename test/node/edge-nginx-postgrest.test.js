// examples/postgrest/nginx.conf in the real nginx, before a server that tells what reached it.

import assert from 'node:assert/strict';
import { after, before, test } from 'node:test';
import { examples, makeJwt, send, sent, startEcho, startNginx, strangeToken } from './edge-support.js';

const key = strangeToken();
const otherKey = strangeToken();
const jwt = makeJwt({ role: 'web_user', sub: 'alice' }, 'x'.repeat(32));

let echo, nginx;

before(async () => {
	echo = await startEcho();
	nginx = await startNginx({
		configuration: `${examples}postgrest/nginx.conf`,
		replace: { 'server 127.0.0.1:3001;': `server 127.0.0.1:${echo.port};` },
	});
});

after(async () => {
	await nginx?.stop();
	await echo?.stop();
});

/** What reaches PostgREST of a request with these header lines. */
async function reaches(...lines) {
	const answer = await send(nginx.port, ['GET /note?select=body HTTP/1.1', ...lines]);
	assert.equal(answer.status, 200, answer.body);
	return { authorization: sent(answer.json, 'Authorization'), apiKey: sent(answer.json, 'X-API-Key'), echo: answer.json };
}

const arrivesAsKey = { authorization: [`ApiKey ${key}`], apiKey: [] };

test('a key in Authorization: Bearer arrives as Authorization: ApiKey, which PostgREST lets pass', async () => {
	const { authorization, apiKey } = await reaches(`Authorization: Bearer ${key}`);
	assert.deepEqual({ authorization, apiKey }, arrivesAsKey);
});

for (const scheme of ['bearer', 'BEARER', 'bEaReR'])
	test(`the scheme may be written "${scheme}"`, async () => {
		const { authorization, apiKey } = await reaches(`Authorization: ${scheme} ${key}`);
		assert.deepEqual({ authorization, apiKey }, arrivesAsKey);
	});

for (const [what, space] of [['two spaces', '  '], ['a tab', '\t']])
	test(`between scheme and key may be ${what}`, async () => {
		const { authorization, apiKey } = await reaches(`Authorization: Bearer${space}${key}`);
		assert.deepEqual({ authorization, apiKey }, arrivesAsKey);
	});

test('a JWT arrives untouched', async () => {
	const { authorization, apiKey } = await reaches(`Authorization: Bearer ${jwt}`);
	assert.deepEqual({ authorization, apiKey }, { authorization: [`Bearer ${jwt}`], apiKey: [] });
});

test('a JWT that contains amt_ is still a JWT', async () => {
	const { authorization, apiKey } = await reaches(`Authorization: Bearer ${jwt}amt_`);
	assert.deepEqual({ authorization, apiKey }, { authorization: [`Bearer ${jwt}amt_`], apiKey: [] });
});

for (const other of ['Basic YW10Xzp4', `ApiKey ${key}`, key, `Bearerx ${key}`, `Digest Bearer ${key}`, `Bearer AMT_${key.slice(4)}`])
	test(`Authorization: ${other.replace(key, 'amt_…')} is left to PostgREST`, async () => {
		const { authorization, apiKey } = await reaches(`Authorization: ${other}`);
		assert.deepEqual({ authorization, apiKey }, { authorization: [other], apiKey: [] });
	});

test('without credentials neither header arrives', async () => {
	const { authorization, apiKey } = await reaches();
	assert.deepEqual({ authorization, apiKey }, { authorization: [], apiKey: [] });
});

test('empty headers are no credentials', async () => {
	const { authorization, apiKey } = await reaches('Authorization:', 'X-API-Key:');
	assert.deepEqual({ authorization, apiKey }, { authorization: [], apiKey: [] });
});

test("a client's own X-API-Key arrives as it is", async () => {
	const { authorization, apiKey } = await reaches(`X-API-Key: ${key}`);
	assert.deepEqual({ authorization, apiKey }, { authorization: [], apiKey: [key] });
});

test("a client's own X-API-Key and a JWT next to it both arrive", async () => {
	const { authorization, apiKey } = await reaches(`Authorization: Bearer ${jwt}`, `X-API-Key: ${key}`);
	assert.deepEqual({ authorization, apiKey }, { authorization: [`Bearer ${jwt}`], apiKey: [key] });
});

for (const order of ['before', 'after'])
	test(`a client's own X-API-Key ${order} a key in Authorization arrives with it, and the database decides`, async () => {
		const lines = [`X-API-Key: ${otherKey}`, `Authorization: Bearer ${key}`];
		const { authorization, apiKey } = await reaches(...order === 'before' ? lines : lines.reverse());
		assert.deepEqual({ authorization, apiKey }, { authorization: [`ApiKey ${key}`], apiKey: [otherKey] });
	});

test("another gateway's X-API-Key does not take the place of a key in Authorization", async () => {
	const { authorization, apiKey } = await reaches('X-API-Key: sb_publishable_abc', `Authorization: Bearer ${key}`);
	assert.deepEqual({ authorization, apiKey }, { authorization: [`ApiKey ${key}`], apiKey: ['sb_publishable_abc'] });
});

test('a key in a header of another name, as amt_keys.header may have it, arrives beside a key in Authorization', async () => {
	const { authorization, echo: arrived } = await reaches(`apikey: ${otherKey}`, `Authorization: Bearer ${key}`);
	assert.deepEqual({ authorization, apikey: sent(arrived, 'apikey') }, { authorization: [`ApiKey ${key}`], apikey: [otherKey] });
});

test('of several X-API-Key headers one arrives', async () => {
	const { apiKey } = await reaches(`X-API-Key: ${key}`, `X-API-Key: ${otherKey}`);
	assert.equal(apiKey.length, 1);
	// nginx up to 1.22 takes the first; later ones join them, which is no token.
	assert.ok([key, `${key}, ${otherKey}`].includes(apiKey[0]), apiKey[0]);
});

for (const [what, first, second] of [
	['a JWT and a key', `Bearer ${jwt}`, `Bearer ${key}`],
	['a key and a JWT', `Bearer ${key}`, `Bearer ${jwt}`],
	['two keys', `Bearer ${key}`, `Bearer ${otherKey}`],
])
	test(`of two Authorization headers, ${what}, at most the first counts`, async () => {
		const answer = await send(nginx.port, ['GET / HTTP/1.1', `Authorization: ${first}`, `Authorization: ${second}`]);
		if (answer.status === 400) // nginx from 1.23 on
			return;
		assert.deepEqual(sent(answer.json, 'Authorization'), [first.replace('Bearer amt_', 'ApiKey amt_')]);
		assert.deepEqual(sent(answer.json, 'X-API-Key'), []);
	});

test('a name with an underscore does not pass for X-API-Key', async () => {
	const { echo: arrived } = await reaches(`X_API_Key: ${key}`, `X_API-Key: ${key}`, `X-API_Key: ${key}`, `X.API.Key: ${key}`);
	assert.doesNotMatch(JSON.stringify(arrived), /amt_/);
});

test('a space before the colon does not make a second X-API-Key', async () => {
	const answer = await send(nginx.port, ['GET / HTTP/1.1', `X-API-Key: ${key}`, `X-API-Key : ${otherKey}`]);
	if (answer.status !== 400)
		assert.deepEqual(sent(answer.json, 'X-API-Key'), [key]);
	assert.doesNotMatch(answer.body, new RegExp(otherKey));
});

test('a folded header does not smuggle a key', async () => {
	const answer = await send(nginx.port, ['GET / HTTP/1.1', 'X-Other: a', ` X-API-Key: ${otherKey}`, `Authorization: Bearer ${key}`]);
	if (answer.status !== 400)
		assert.deepEqual(sent(answer.json, 'X-API-Key'), []);
});

for (const [what, breakLine] of [['a bare LF', '\n'], ['a CR', '\r'], ['an encoded CR LF', '%0d%0a'], ['a NUL', '\0']])
	test(`${what} in the key cannot add a header to what PostgREST gets`, async () => {
		const answer = await send(nginx.port, `GET / HTTP/1.1\r\nHost: api.example\r\nConnection: close\r\n`
			+ `Authorization: Bearer ${key}${breakLine}X-API-Key: ${otherKey}\r\n\r\n`);
		if (answer.status === 400)
			return;
		// The text behind a line break is a header of the client's own, as if the client had sent it so.
		assert.equal(sent(answer.json, 'Authorization').length, 1);
		assert.ok(sent(answer.json, 'Authorization')[0].startsWith(`ApiKey ${key}`));
		assert.ok(sent(answer.json, 'X-API-Key').length <= 1);
	});

test('Connection: Authorization, X-API-Key does not take a key away', async () => {
	const answer = await send(nginx.port, `GET / HTTP/1.1\r\nHost: api.example\r\nConnection: close, Authorization, X-API-Key\r\n`
		+ `Authorization: Bearer ${key}\r\nX-API-Key: ${otherKey}\r\n\r\n`);
	assert.deepEqual(sent(answer.json, 'Authorization'), [`ApiKey ${key}`]);
	assert.deepEqual(sent(answer.json, 'X-API-Key'), [otherKey]);
	assert.deepEqual(sent(answer.json, 'Connection').filter(value => /api|auth/i.test(value)), []);
});

test('a header longer than nginx holds is refused and goes nowhere', async () => {
	const before = echo.requests;
	const answer = await send(nginx.port, ['GET / HTTP/1.1', `Authorization: Bearer amt_${'a'.repeat(100000)}`]);
	assert.equal(answer.status, 400);
	assert.equal(echo.requests, before);
});

test('a key as long as nginx holds is the database’s to refuse', async () => {
	const long = `amt_${'a'.repeat(7000)}`;
	const { authorization } = await reaches(`Authorization: Bearer ${long}`);
	assert.deepEqual(authorization, [`ApiKey ${long}`]);
});

test('method, path, query and other headers arrive unchanged', async () => {
	const answer = await send(nginx.port, ['POST /rpc/f?a=%20b HTTP/1.1', `Authorization: Bearer ${key}`,
		'Prefer: return=representation', 'Content-Length: 2'], '{}');
	const { method, url } = answer.json;
	assert.deepEqual({ method, url, prefer: sent(answer.json, 'Prefer') },
		{ method: 'POST', url: '/rpc/f?a=%20b', prefer: ['return=representation'] });
});

test('nginx wrote no key into its logs, not even one that a client put into the query string', async () => {
	await send(nginx.port, [`GET /rpc/amt_revoke?key=${key} HTTP/1.1`]);
	const log = nginx.log();
	assert.match(log, /GET \/note/);
	assert.match(log, /GET \/rpc\/amt_revoke/);
	assert.doesNotMatch(log, new RegExp(`${key.slice(0, 17)}|${otherKey.slice(0, 17)}`));
});
