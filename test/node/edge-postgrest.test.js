// amt_authenticate() in the transaction that PostgREST runs, with the roles, schema and configuration of
// examples/postgrest: whose identity a request has, and what a web user cannot do to it.

import assert from 'node:assert/strict';
import { readFileSync } from 'node:fs';
import { after, before, describe, test } from 'node:test';
import pg from 'pg';
import { mainQuery, readConfiguration, routines, transaction } from './edge-postgrest.js';
import { examples, makeJwt, strangeToken } from './edge-support.js';
import { startServer } from './server.js';

const configuration = readConfiguration(`${examples}postgrest/postgrest.conf`);

const alice = { role: 'web_user', sub: 'alice', org_id: 'acme', org_role: 'admin' };
const vera = { role: 'web_user', sub: 'vera', org_id: 'acme', org_role: 'viewer' };
const bob = { role: 'web_user', sub: 'bob', org_id: 'globex', org_role: 'owner' };

let server, admin, pool, functions;
const keys = {};

before(async () => {
	server = await startServer({ extension: '' });
	await server.psql(`\\set password secret\n${readFileSync(`${examples}postgrest/setup.sql`, 'utf8')}`);
	admin = new pg.Client(server.connectionString());
	await admin.connect();
	await admin.query(`ALTER DATABASE ${server.database} SET amt_keys.scrypt_ln = 4`);
	// The attackers below may create temporary objects, as PostgreSQL allows by default.
	await admin.query(`GRANT TEMPORARY ON DATABASE ${server.database} TO PUBLIC`);
	await admin.query('SET amt_keys.scrypt_ln = 4');
	for (const [name, organization, role] of [['acme', 'acme', 'editor'], ['globex', 'globex', 'viewer'], ['revoked', 'acme', 'editor']])
		keys[name] = (await admin.query('SELECT * FROM amt.amt_create_key($1, $2, $3)', [name, organization, role])).rows[0];
	keys.expired = (await admin.query("SELECT * FROM amt.amt_create_key('expired', 'acme', 'editor', NULL, clock_timestamp() + interval '0.1 s')")).rows[0];
	await admin.query("SELECT amt.amt_revoke($1), pg_sleep(0.15)", [keys.revoked.key_id]);
	await admin.query("INSERT INTO api.note (org_id, author, body) VALUES ('acme', 'alice', 'road map'), ('globex', 'bob', 'doomsday machine')");

	// An application's function that runs whatever it is given, and a pre-request function of the application's own.
	await admin.query(`
		GRANT USAGE ON SCHEMA api, amt TO authenticator; -- as if the extension were in public
		CREATE FUNCTION api.run(sql text) RETURNS void LANGUAGE plpgsql AS 'BEGIN EXECUTE sql; END';
		CREATE FUNCTION api.before_request() RETURNS void LANGUAGE plpgsql AS $$
		BEGIN
			PERFORM amt.amt_authenticate();
			PERFORM set_config('app.checked', 'yes', true);
		END $$;
		CREATE FUNCTION api.before_request_definer() RETURNS void LANGUAGE plpgsql SECURITY DEFINER AS
			'BEGIN PERFORM amt.amt_authenticate(); END'`);
	functions = await routines(admin, 'api');
	pool = new pg.Pool({ connectionString: server.connectionString('authenticator'), max: 2 });
});

after(async () => {
	await pool?.end();
	await admin?.end();
	await server?.stop();
});

const whoIsIt = { text: `SELECT current_user::text AS "user", amt.amt_org_id() AS organization, amt.amt_role() AS role,
	amt.amt_actor() AS actor, amt.amt_key_id() AS key` };
const anonymous = { user: 'anon', organization: null, role: null, actor: null, key: null };
const asAlice = { user: 'web_user', organization: 'acme', role: 'admin', actor: 'alice', key: null };
const asKey = key => ({ user: 'web_agent', organization: key.org_id, role: key.role, actor: null, key: key.key_id });
const strangerWithJwt = { ...anonymous, user: 'web_user' };

const unauthenticated = { code: 'PT401', message: 'unauthenticated' };

/** Runs one request, by default asking who is calling, and makes sure that nothing of it is left in the session. */
async function request(options, client) {
	const connection = client ?? await pool.connect();
	try {
		const rows = await transaction(connection, options.configuration ?? configuration, { main: whoIsIt, ...options });
		return rows;
	} finally {
		const { rows: [left] } = await connection.query(`SELECT current_user::text AS "user", current_setting('amt_keys.org_id', true) AS organization,
			current_setting('amt_keys.role', true) AS role, current_setting('amt_keys.actor', true) AS actor, current_setting('amt_keys.key_id', true) AS key`);
		if (!client)
			connection.release();
		assert.deepEqual({ ...left, organization: left.organization || '', role: left.role || '', actor: left.actor || '', key: left.key || '' },
			{ user: 'authenticator', organization: '', role: '', actor: '', key: '' }, 'left in the session after the transaction');
	}
}

const identity = async options => (await request(options))[0];

/** A new session of the authenticator with other settings, which a superuser gave it. */
async function withSettings(settings, action) {
	const role = 'authenticator';
	const alter = `ALTER ROLE ${role} IN DATABASE ${server.database}`;
	const { rows: [{ before }] } = await admin.query(`SELECT coalesce(json_object_agg(split_part(s, '=', 1), substr(s, strpos(s, '=') + 1)), '{}') AS before
		FROM pg_db_role_setting r, unnest(setconfig) s WHERE setrole = $1::regrole AND setdatabase = (SELECT oid FROM pg_database WHERE datname = $2)`, [role, server.database]);
	for (const [name, value] of Object.entries(settings))
		await admin.query(`${alter} SET ${name} = ${pg.escapeLiteral(value)}`);
	const client = new pg.Client(server.connectionString(role));
	try {
		await client.connect();
		return await action(async options => (await request(options, client))[0], client);
	} finally {
		await client.end();
		for (const name of Object.keys(settings))
			await admin.query(name in before ? `${alter} SET ${name} = ${pg.escapeLiteral(before[name])}` : `${alter} RESET ${name}`);
	}
}

const apiKey = key => ({ 'x-api-key': key.token ?? key });

/** The error that a request ends with; none of its fields may tell anything of the client's. */
async function refusal(options, ...secrets) {
	const error = await request(options).then(rows => assert.fail(`not refused: ${JSON.stringify(rows)}`), error => error);
	assert.ok(error instanceof pg.DatabaseError, error.stack);
	for (const field of ['message', 'detail', 'hint', 'where', 'internalQuery'])
		for (const secret of secrets)
			assert.ok(!error[field]?.includes(secret), `${field}: ${error[field]}`);
	return { code: error.code, message: error.message };
}

for (const method of ['GET', 'POST'])
	describe(`${method}, which is READ ${method === 'GET' ? 'ONLY' : 'WRITE'}`, () => {
		test('an anonymous request has no identity', async () => {
			assert.deepEqual(await identity({ method }), anonymous);
		});

		test('a request with a JWT has the identity of its claims', async () => {
			assert.deepEqual(await identity({ method, claims: alice, headers: { authorization: `Bearer ${makeJwt(alice, 'x')}` } }), asAlice);
		});

		for (const [how, headers] of [
			['x-api-key', token => ({ 'x-api-key': token })],
			['x-api-key: Bearer', token => ({ 'x-api-key': `Bearer ${token}` })],
			['authorization: Bearer', token => ({ authorization: `Bearer ${token}` })],
			['authorization: bearer', token => ({ authorization: `bearer ${token}` })],
			['authorization: ApiKey', token => ({ authorization: `ApiKey ${token}` })],
			['authorization alone', token => ({ authorization: token })],
		])
			test(`a key in ${how} gives its identity and its database role`, async () => {
				assert.deepEqual(await identity({ method, headers: headers(keys.acme.token) }), asKey(keys.acme));
			});

		test('a key beside a JWT decides, and nothing of the JWT remains', async () => {
			assert.deepEqual(await identity({ method, claims: alice, headers: apiKey(keys.globex) }), asKey(keys.globex));
		});

		test('a key in x-api-key beside one in authorization decides', async () => {
			const headers = { ...apiKey(keys.globex), authorization: `ApiKey ${keys.acme.token}` };
			assert.deepEqual(await identity({ method, headers }), asKey(keys.globex));
		});

		for (const [what, token] of [
			['a key that was never made', () => strangeToken()],
			['a wrong secret', () => keys.acme.token.slice(0, 17) + strangeToken().slice(17)],
			['a revoked key', () => keys.revoked.token],
			['an expired key', () => keys.expired.token],
			['half a key', () => keys.acme.token.slice(0, 40)],
			['a key in lower case', () => keys.acme.token.toLowerCase()],
			['a key and more', () => `${keys.acme.token} `.repeat(2) + 'x'],
			['100 kB', () => `amt_${'x'.repeat(100000)}`],
		])
			for (const [who, claims] of [['alone', null], ['next to a good JWT', alice]])
				test(`${what}, ${who}, is PT401 and not a word of the client's is repeated`, async () => {
					const bad = token();
					assert.deepEqual(await refusal({ method, claims, headers: { 'x-api-key': bad } }, bad.slice(17, 40), 'alice'), unauthenticated);
				});

		for (const value of ['another-gateways-key', 'sb_publishable_abc', 'hunter2\r\nSet-Cookie: owned=1', 'amt', 'AMT_abc', 'xamt_abc', '   ', 'Bearer ', 'Bearer eyJhbGciOiJIUzI1NiJ9.e30.x'])
			test(`an x-api-key that is no key of ours, ${JSON.stringify(value)}, is passed over`, async () => {
				const headers = { 'x-api-key': value };
				assert.deepEqual(await identity({ method, headers }), anonymous);
				assert.deepEqual(await identity({ method, headers, claims: alice }), asAlice);
				assert.deepEqual(await identity({ method, headers: { ...headers, authorization: `ApiKey ${keys.acme.token}` } }), asKey(keys.acme));
			});

		test('an authorization header that is no key is not looked at', async () => {
			for (const authorization of ['Basic eDp5', 'Bearer eyJhbGciOiJIUzI1NiJ9.e30.x', '', 'Bearer', 'Bearer xamt_abc'])
				assert.deepEqual(await identity({ method, headers: { authorization } }), anonymous, authorization);
		});
	});

describe('headers and claims that are not what they should be', () => {
	const depth = 100000;
	// A key may have been meant, and it cannot be read.  A JWT beside it does not help.
	const unreadable = {
		'a blank': ' ',
		'cut off': '{"x-api-key": "amt_',
		'no JSON': 'x-api-key: TOKEN',
		'two values': '{} {"x-api-key": "TOKEN"}',
		'null': 'null',
		'a number': '17',
		'a string': '"TOKEN"',
		'a list': '["x-api-key", "TOKEN"]',
		'a list of objects': '[{"x-api-key": "TOKEN"}]',
		'a header that is a number': '{"x-api-key": 17}',
		'a header that is true': '{"x-api-key": true}',
		'a header that is an object': '{"x-api-key": {"x-api-key": "TOKEN"}}',
		'a header that is a list': '{"x-api-key": ["TOKEN"]}',
		'authorization that is a list': '{"authorization": ["Bearer TOKEN"]}',
		'U+0000': '{"x-api-key": "TOKEN\\u0000"}',
		'U+0000 elsewhere': '{"user-agent": "\\u0000"}',
		'half a surrogate pair': '{"x-api-key": "\\ud800"}',
		'half a surrogate pair elsewhere': '{"user-agent": "\\udc00x"}',
		'a bad escape': '{"x-api-key": "\\q"}',
		'deeply nested': `${'['.repeat(depth)}${']'.repeat(depth)}`,
		'deeply nested objects': '{"a":'.repeat(depth),
		'a huge number': `{"x-api-key": 1e${'9'.repeat(50)}}`,
	};

	for (const [what, text] of Object.entries(unreadable))
		for (const [who, claims] of [['alone', null], ['next to a JWT', alice]])
			test(`headers that cannot be read are PT401: ${what}, ${who}`, async () => {
				const { token } = keys.globex;
				assert.deepEqual(await refusal({ rawHeaders: text.replace('TOKEN', token), claims }, token.slice(17)), unauthenticated);
			});

	const withoutKey = {
		'not set': null,
		'empty': '',
		'no headers at all': '{}',
		'a header that is null': '{"x-api-key": null}',
		'an empty header': '{"x-api-key": ""}',
		'a nested header': '{"headers": {"x-api-key": "TOKEN"}}',
		'a name in capitals, which PostgREST never sends': '{"X-API-Key": "TOKEN"}',
		'a megabyte': `{"x": "${'x'.repeat(1 << 20)}"}`,
	};

	for (const [what, text] of Object.entries(withoutKey))
		test(`headers without a key let the claims decide: ${what}`, async () => {
			const rawHeaders = text?.replace('TOKEN', keys.globex.token) ?? null;
			assert.deepEqual(await identity({ rawHeaders }), anonymous);
			assert.deepEqual(await identity({ rawHeaders, claims: alice }), asAlice);
		});

	const brokenClaims = {
		'not set': null,
		'empty': '',
		'a blank': ' ',
		'cut off': '{"org_id": "acme", "org_role": "admin"',
		'no JSON': 'org_id=acme',
		'null': 'null',
		'a number': '17',
		'a string': '"acme"',
		'a list': '[{"org_id": "acme", "org_role": "admin"}]',
		'no claim of ours': '{"role": "web_user"}',
		'no organization': '{"org_role": "admin", "sub": "alice"}',
		'organization null': '{"org_id": null, "org_role": "admin"}',
		'organization empty': '{"org_id": "", "org_role": "admin"}',
		'organization an object': '{"org_id": {"id": "acme"}, "org_role": "admin"}',
		'organization a list': '{"org_id": ["acme"], "org_role": "admin"}',
		'organization one level too deep': '{"app": {"org_id": "acme", "org_role": "admin"}}',
		'organization with U+0000': '{"org_id": "acme\\u0000", "org_role": "admin"}',
		'organization half a surrogate pair': '{"org_id": "\\ud800", "org_role": "admin"}',
		'role unknown': '{"org_id": "acme", "org_role": "root"}',
		'role empty': '{"org_id": "acme", "org_role": ""}',
		'role null': '{"org_id": "acme", "org_role": null}',
		'role a number': '{"org_id": "acme", "org_role": 3}',
		'role a list': '{"org_id": "acme", "org_role": ["admin"]}',
		'role several at once': '{"org_id": "acme", "org_role": "viewer, admin"}',
		'deeply nested': `{"org_id": "acme", "org_role": ${'['.repeat(depth)}${']'.repeat(depth)}}`,
	};

	for (const [what, claims] of Object.entries(brokenClaims))
		for (const method of ['GET', 'POST'])
			test(`broken claims give no identity or PT401: ${what}, ${method}`, async () => {
				const result = await identity({ method, claims, role: 'web_user' }).catch(error => error);
				if (result instanceof Error)
					assert.deepEqual({ code: result.code, message: result.message }, unauthenticated);
				else
					assert.deepEqual(result, strangerWithJwt);
			});

	test('broken claims do not stop a key', async () => {
		for (const claims of Object.values(brokenClaims))
			assert.deepEqual(await identity({ claims, role: 'web_user', headers: apiKey(keys.acme) }), asKey(keys.acme));
	});

	test('a number in a claim is taken as its text', async () => {
		for (const [number, text] of [[42, '42'], ['9007199254740993', '9007199254740993'], [-1.5, '-1.5'], ['1e3', '1000']]) {
			const claims = `{"role": "web_user", "org_id": ${number}, "org_role": "viewer", "sub": 7}`;
			assert.deepEqual(await identity({ claims, role: 'web_user' }), { user: 'web_user', organization: text, role: 'viewer', actor: '7', key: null });
		}
	});

	test('a DEBUG1 message says why claims give no identity, and repeats nothing of them', async () => {
		const client = await pool.connect();
		const messages = [];
		const listen = ({ severity, message, detail }) => messages.push([severity, message, detail].join(': '));
		client.on('notice', listen);
		try {
			for (const [claims, detail] of [
				[{ ...alice, org_role: 'root-of-all' }, 'The claim "org_role" is not in "amt_keys.roles".'],
				[{ ...alice, org_id: ['acme-in-a-list'] }, 'The claim "org_id" is missing, or is neither a text nor a number.'],
				[{ ...alice, org_role: undefined }, 'The claim "org_role" is missing, or is neither a text nor a number.'],
			]) {
				messages.length = 0;
				await client.query('SET client_min_messages = debug1');
				assert.deepEqual((await request({ claims }, client))[0], strangerWithJwt);
				await client.query('RESET client_min_messages');
				assert.deepEqual(messages, [`DEBUG: request.jwt.claims give no identity: ${detail}`]);
			}
		} finally {
			client.off('notice', listen);
			client.release();
		}
	});

	test('after a key, nothing is left of the claims', async () => {
		const claimsLeft = { text: "SELECT current_setting('request.jwt.claims', true) AS claims" };
		assert.deepEqual(await request({ claims: alice, headers: apiKey(keys.globex), main: claimsLeft }), [{ claims: '' }]);
		assert.match((await request({ claims: alice, main: claimsLeft }))[0].claims, /"alice"/);
	});

	test('a claim that we do not know does no harm, and an actor is not needed', async () => {
		const { sub: _, ...nobody } = alice;
		assert.deepEqual(await identity({ claims: { ...nobody, aud: ['a', 'b'], nested: { org_id: 'globex' } } }), { ...asAlice, actor: null });
	});
});

describe('settings', () => {
	test('claims are found by dotted names inside objects', async () => {
		await withSettings({ 'amt_keys.org_claim': 'app_metadata.org.id', 'amt_keys.role_claim': 'app_metadata.org.role', 'amt_keys.actor_claim': 'user.email' }, async identity => {
			const claims = { role: 'web_user', app_metadata: { org: { id: 'acme', role: 'admin' } }, user: { email: 'alice@acme.example' }, org_id: 'globex', org_role: 'owner' };
			assert.deepEqual(await identity({ claims }), { ...asAlice, actor: 'alice@acme.example' });
			for (const app_metadata of [undefined, null, 'acme', [], {}, { org: null }, { org: 'acme' }, { org: [{ id: 'acme', role: 'admin' }] }, { 'org.id': 'acme' }, { org: { id: 'acme' } }])
				assert.deepEqual(await identity({ claims: { ...claims, app_metadata } }).then(({ user, organization, role }) => ({ user, organization, role })),
					{ user: 'web_user', organization: null, role: null }, JSON.stringify(app_metadata));
		});
	});

	test('another header can carry the key', async () => {
		await withSettings({ 'amt_keys.header': 'X-Acme-Token' }, async identity => {
			assert.deepEqual(await identity({ headers: { 'x-acme-token': keys.acme.token } }), asKey(keys.acme));
			assert.deepEqual(await identity({ headers: apiKey(keys.acme) }), anonymous);
			assert.deepEqual(await identity({ headers: { authorization: `ApiKey ${keys.acme.token}` } }), asKey(keys.acme));
		});
	});

	test('without db_role a key keeps the role of an anonymous request, and a person’s JWT beside it is refused', async () => {
		await withSettings({ 'amt_keys.db_role': '' }, async identity => {
			assert.deepEqual(await identity({ headers: apiKey(keys.acme) }), { ...asKey(keys.acme), user: 'anon' });
			await assert.rejects(identity({ headers: apiKey(keys.globex), claims: alice }), unauthenticated);
		});
	});

	test('{role} in db_role is the role of the key', async () => {
		await admin.query('CREATE ROLE agent_editor; CREATE ROLE agent_viewer; GRANT agent_editor, agent_viewer TO authenticator; GRANT USAGE ON SCHEMA amt TO agent_editor, agent_viewer');
		await withSettings({ 'amt_keys.db_role': 'agent_{role}' }, async identity => {
			assert.deepEqual(await identity({ headers: apiKey(keys.acme) }), { ...asKey(keys.acme), user: 'agent_editor' });
			assert.deepEqual(await identity({ headers: apiKey(keys.globex), claims: alice }), { ...asKey(keys.globex), user: 'agent_viewer' });
		});
	});

	test('a db_role that does not exist, or is not granted to the authenticator, ends the request', async () => {
		await admin.query('CREATE ROLE not_granted; GRANT USAGE ON SCHEMA amt TO not_granted');
		await withSettings({ 'amt_keys.db_role': 'no_such_{role}' }, identity =>
			assert.rejects(identity({ headers: apiKey(keys.acme) }), { code: 'F0000' }));
		await withSettings({ 'amt_keys.db_role': 'not_granted' }, identity =>
			assert.rejects(identity({ headers: apiKey(keys.acme) }), { code: 'F0000' }));
	});

	test('any_token verifies any text in the header, for imported keys', async () => {
		const token = `sk_live_${strangeToken().slice(17)}`;
		const { rows: [{ id }] } = await admin.query("SELECT amt.amt_import_key(sha256(convert_to($1, 'UTF8')), 'old', 'acme', 'viewer') AS id", [token]);
		assert.deepEqual(await identity({ headers: apiKey(token) }), anonymous);
		await withSettings({ 'amt_keys.any_token': 'on' }, async identity => {
			assert.deepEqual(await identity({ headers: apiKey(token) }), { user: 'web_agent', organization: 'acme', role: 'viewer', actor: null, key: id });
			assert.deepEqual(await identity({ headers: apiKey(keys.acme) }), asKey(keys.acme));
			await assert.rejects(identity({ headers: apiKey('sb_publishable_abc') }), unauthenticated);
			assert.deepEqual(await identity({ headers: { authorization: token } }), anonymous);
		});
	});

	test('require_authentication refuses every request without an identity', async () => {
		await withSettings({ 'amt_keys.require_authentication': 'on' }, async identity => {
			for (const options of [{}, { rawHeaders: null }, { rawHeaders: '{' }, { claims: { role: 'web_user' } }, { claims: { ...alice, org_role: 'root' } }, { headers: { authorization: 'Basic eDp5' } }])
				await assert.rejects(identity(options), unauthenticated, JSON.stringify(options));
			assert.deepEqual(await identity({ claims: alice }), asAlice);
			assert.deepEqual(await identity({ headers: apiKey(keys.acme) }), asKey(keys.acme));
		});
	});

	test('claims are believed only from a session user with SET on amt_keys.org_id', async () => {
		await admin.query('CREATE ROLE other_login LOGIN NOINHERIT; GRANT anon, web_user, web_agent TO other_login');
		const client = new pg.Client(server.connectionString('other_login'));
		await client.connect();
		try {
			const ask = options => transaction(client, configuration, { main: whoIsIt, ...options });
			assert.deepEqual(await ask({ claims: alice }), [strangerWithJwt]);
			assert.deepEqual(await ask({ headers: apiKey(keys.acme) }), [{ ...asKey(keys.acme), user: 'anon' }]);
		} finally {
			await client.end();
		}
	});
});

describe("a pre-request function of the application's own", () => {
	test('a pre-request function may call amt_authenticate(), and identity and role last until the end of the transaction', async () => {
		const own = { ...configuration, 'db-pre-request': 'api.before_request' };
		for (const method of ['GET', 'POST']) {
			assert.deepEqual(await identity({ method, configuration: own, headers: apiKey(keys.acme) }), asKey(keys.acme));
			assert.deepEqual(await identity({ method, configuration: own, claims: alice }), asAlice);
			assert.deepEqual(await identity({ method, configuration: own }), anonymous);
			await assert.rejects(identity({ method, configuration: own, headers: apiKey(strangeToken()) }), unauthenticated);
		}
	});

	test('a key shown later in the transaction replaces all of an identity by claims', async () => {
		const headers = JSON.stringify(apiKey(keys.globex));
		const again = [{ text: "SELECT set_config('request.headers', $1, true)", values: [headers] }, { text: 'SELECT amt.amt_authenticate()' }, whoIsIt];
		assert.deepEqual(await identity({ claims: alice, main: again }), asKey(keys.globex));
	});

	test('a pre-request function cannot be SECURITY DEFINER where a key has to switch the role, and says so', async () => {
		const own = { ...configuration, 'db-pre-request': 'api.before_request_definer' };
		await assert.rejects(identity({ configuration: own, headers: apiKey(keys.acme) }), { code: '42501' });
	});
});

const rpc = (name, args = {}) => ({ method: 'POST', path: `/rpc/${name}`, main: mainQuery.call('api', functions.get(name), args) });
const list = table => ({ path: `/${table}`, main: mainQuery.read('api', table) });
const body = async options => JSON.parse((await request(options))[0].body);

describe('the keys page', () => {
	test('a person creates a key by rpc and sees it in amt_keys; another organization does not', async () => {
		const created = await body({ ...rpc('amt_create_key', { name: 'ci', role: 'editor' }), claims: alice });
		assert.match(created.token, /^amt_[0-9A-Za-z]{12}_[0-9A-Za-z]{49}$/);
		assert.deepEqual({ ...created, token: '', key_id: '', token_prefix: '', created_at: '' },
			{ token: '', key_id: '', token_prefix: '', created_at: '', name: 'ci', org_id: 'acme', role: 'editor', scopes: null, expires_at: null, replaces: null });

		const seen = (await body({ ...list('amt_keys'), claims: alice })).find(({ key_id }) => key_id === created.key_id);
		assert.deepEqual({ name: seen.name, prefix: seen.token_prefix, role: seen.role, by: seen.created_by, calls: seen.calls },
			{ name: 'ci', prefix: `amt_${created.key_id}...`, role: 'editor', by: 'alice', calls: 0 });
		assert.ok(!('token' in seen) && !JSON.stringify(seen).includes(created.token.slice(17)));

		assert.ok(!(await body({ ...list('amt_keys'), claims: bob })).some(({ key_id }) => key_id === created.key_id));
		assert.deepEqual(await identity({ headers: apiKey(created) }), asKey(created));
	});

	test('the calls of a key are counted, also of requests that are rolled back', async () => {
		const { token, key_id } = await body({ ...rpc('amt_create_key', { name: 'counted' }), claims: alice });
		for (const options of [{}, { method: 'POST' }, { commit: false }])
			await identity({ ...options, headers: apiKey(token) });
		await assert.rejects(identity({ headers: apiKey(token), main: { text: 'SELECT 1/0' } }), { code: '22012' });
		const seen = (await body({ ...list('amt_keys'), claims: alice })).find(key => key.key_id === key_id);
		assert.equal(seen.calls, 4);
	});

	test("a viewer cannot mint an editor's key", async () => {
		assert.equal((await refusal({ ...rpc('amt_create_key', { name: 'mine', role: 'editor' }), claims: vera })).code, '42501');
		assert.equal((await body({ ...rpc('amt_create_key', { name: 'mine' }), claims: vera })).role, 'viewer');
	});

	test('a key cannot mint keys, nor can anyone without identity', async () => {
		assert.equal((await refusal({ ...rpc('amt_create_key', { name: 'child' }), headers: apiKey(keys.acme) })).code, '42501');
		assert.equal((await refusal({ ...rpc('amt_create_key', { name: 'mine' }) })).code, '42501');
		assert.equal((await refusal({ ...rpc('amt_create_key', { name: 'mine' }), claims: { role: 'web_user' } })).code, '42501');
	});

	test('creating over GET, which is READ ONLY, creates nothing', async () => {
		assert.equal((await refusal({ ...rpc('amt_create_key', { name: 'by GET' }), readOnly: true, claims: alice })).code, '25006');
	});

	test('a person revokes by rpc in the own organization only, and the next request with the key is PT401', async () => {
		const { token, key_id } = await body({ ...rpc('amt_create_key', { name: 'doomed' }), claims: alice });
		assert.equal(await body({ ...rpc('amt_revoke', { key: key_id }), claims: bob }), false);
		assert.deepEqual(await identity({ headers: apiKey(token) }).then(({ key }) => key), key_id);
		assert.equal(await body({ ...rpc('amt_revoke', { key: key_id }), claims: alice }), true);
		assert.deepEqual(await refusal({ headers: apiKey(token) }, token.slice(17)), unauthenticated);
	});

	test('an anonymous caller can revoke a key by its token, and not by a guess', async () => {
		const { token, key_id } = await body({ ...rpc('amt_create_key', { name: 'leaked' }), claims: alice });
		for (const guess of [key_id, `amt_${key_id}...`, token.slice(0, 17) + strangeToken().slice(17)]) {
			const answer = await body(rpc('amt_revoke', { key: guess })).catch(error => error.code);
			assert.ok(answer === false || answer === '42501', String(answer));
		}
		assert.equal((await identity({ headers: apiKey(token) })).key, key_id);
		assert.equal(await body(rpc('amt_revoke', { key: token })), true);
		assert.deepEqual(await refusal({ headers: apiKey(token) }), unauthenticated);
	});
});

describe("the application's own table", () => {
	const note = { method: 'POST', path: '/note' };

	test('the table shows each organization its own rows, to people and to keys', async () => {
		const bodies = async options => (await body({ ...list('note'), ...options })).map(({ body }) => body);
		assert.deepEqual(await bodies({ claims: alice }), ['road map']);
		assert.deepEqual(await bodies({ claims: bob }), ['doomsday machine']);
		assert.deepEqual(await bodies({ headers: apiKey(keys.acme) }), ['road map']);
		assert.deepEqual(await bodies({ headers: apiKey(keys.globex), claims: alice }), ['doomsday machine']);
		assert.deepEqual(await bodies({ claims: { role: 'web_user' } }), []);
		assert.equal((await refusal(list('note'))).code, '42501');
	});

	test('the table takes a note from an editor, with organization and author filled in, and none from a viewer', async () => {
		const insert = { ...note, main: mainQuery.insert('api', 'note', { body: 'hello' }), commit: false };
		const [{ org_id, author }] = await body({ ...insert, headers: apiKey(keys.acme) });
		assert.deepEqual({ org_id, author }, { org_id: 'acme', author: `key ${keys.acme.key_id}` });
		assert.equal((await body({ ...insert, claims: alice }))[0].author, 'alice');
		assert.equal((await refusal({ ...insert, claims: vera })).code, '42501');
		assert.equal((await refusal({ ...insert, headers: apiKey(keys.globex) })).code, '42501');
		assert.equal((await refusal({ ...insert, main: mainQuery.insert('api', 'note', { body: 'x', org_id: 'globex' }), claims: alice })).code, '42501');
	});

	test('amt_require_role() refuses too low a role with PT403', async () => {
		const all = { ...rpc('delete_all_notes'), commit: false };
		assert.deepEqual(await refusal({ ...all, headers: apiKey(keys.acme) }), { code: 'PT403', message: 'forbidden_role' });
		assert.equal(await body({ ...all, claims: alice }), 1);
	});
});

describe('a web user whose statement an rpc function runs', () => {
	const globex = `{"org_id": "globex", "org_role": "owner", "sub": "mallory", "role": "web_user"}`;
	const setIdentity = `set_config('amt_keys.org_id', 'globex', true), set_config('amt_keys.role', 'owner', true), set_config('amt_keys.actor', 'bob', true), set_config('amt_keys.key_id', '', true)`;
	const setOrganization = `set_config('amt_keys.org_id', 'globex', true)`;
	const inDatabase = what => `DO $$ BEGIN EXECUTE format('${what} %I SET amt_keys.org_id = ''globex''', current_database()); END $$`;
	const back = user => `; SET LOCAL ROLE ${user}`;

	/** Each is tried in a transaction of its own. */
	const attempts = user => ({
		'set_config': `SELECT ${setIdentity}`,
		'set_config for the session': `SELECT set_config('amt_keys.org_id', 'globex', false)`,
		'set_config of the role in the organization': `SELECT set_config('amt_keys.role', 'owner', true)`,
		'set_config of the actor': `SELECT set_config('amt_keys.actor', 'bob', true)`,
		'set_config of the key': `SELECT set_config('amt_keys.key_id', '', true)`,
		'set_config with a name in capitals': `SELECT set_config('AMT_KEYS.ORG_ID', 'globex', true)`,
		'SET': `SET amt_keys.org_id = 'globex'`,
		'SET LOCAL': `SET LOCAL amt_keys.org_id = 'globex'`,
		'SET to DEFAULT': `SET amt_keys.org_id TO DEFAULT`,
		'RESET': `RESET amt_keys.org_id`,
		'RESET ALL': `RESET ALL`,
		'RESET ALL and amt_authenticate() with other claims': `RESET ALL; SELECT set_config('request.jwt.claims', '${globex}', true); SELECT amt.amt_authenticate()`,
		'DO': `DO $$ BEGIN PERFORM ${setIdentity}; END $$`,
		'a subtransaction': `DO $$ BEGIN BEGIN PERFORM ${setIdentity}; EXCEPTION WHEN insufficient_privilege THEN NULL; END; END $$`,
		'ALTER ROLE of itself': `ALTER ROLE ${user} SET amt_keys.org_id = 'globex'`,
		'ALTER ROLE CURRENT_USER': `ALTER ROLE CURRENT_USER SET amt_keys.org_id = 'globex'`,
		'ALTER ROLE authenticator': `ALTER ROLE authenticator SET amt_keys.org_id = 'globex'`,
		'ALTER ROLE SESSION_USER in the database': inDatabase('ALTER ROLE SESSION_USER IN DATABASE'),
		'ALTER DATABASE': inDatabase('ALTER DATABASE'),
		'ALTER SYSTEM': `ALTER SYSTEM SET amt_keys.org_id = 'globex'`,
		'a function with SET': `CREATE FUNCTION pg_temp.f() RETURNS text LANGUAGE sql SET amt_keys.org_id = 'globex' AS 'SELECT amt.amt_org_id()'; SELECT pg_temp.f()`,
		'a function with SET FROM CURRENT': `CREATE FUNCTION pg_temp.f() RETURNS text LANGUAGE sql SET amt_keys.org_id FROM CURRENT AS 'SELECT amt.amt_org_id()'; SELECT pg_temp.f()`,
		'UPDATE pg_settings': `UPDATE pg_settings SET setting = 'globex' WHERE name = 'amt_keys.org_id'`,
		'GRANT SET to itself': `GRANT SET ON PARAMETER amt_keys.org_id TO ${user}; SET amt_keys.org_id = 'globex'`,
		'other claims': `SELECT set_config('request.jwt.claims', '${globex}', true)`,
		'other claims and amt_authenticate()': `SELECT set_config('request.jwt.claims', '${globex}', true); SELECT amt.amt_authenticate()`,
		'other claims, no headers, and amt_authenticate()': `SELECT set_config('request.headers', '{}', true), set_config('request.jwt.claims', '${globex}', true); SELECT amt.amt_authenticate()`,
		'other claims, headers unset, and amt_authenticate()': `RESET request.headers; SET request.jwt.claims = '${globex}'; SELECT amt.amt_authenticate()`,
		'other claims and amt_authenticate() in a DO': `DO $$ BEGIN PERFORM set_config('request.headers', '', true), set_config('request.jwt.claims', '${globex}', true); PERFORM amt.amt_authenticate(); END $$`,
		'other claims and amt_authenticate() in a function with SET': `CREATE FUNCTION pg_temp.f() RETURNS void LANGUAGE sql SET request.headers = '{}' SET request.jwt.claims = '${globex}' AS 'SELECT amt.amt_authenticate()'; SELECT pg_temp.f()`,
		'another claim name and amt_authenticate()': `SELECT set_config('amt_keys.org_claim', 'other', true), set_config('request.jwt.claims', '{"other": "globex", "org_role": "owner"}', true); SELECT amt.amt_authenticate()`,
		'another order of roles': `SET amt_keys.roles = 'owner, admin, editor, viewer'`,
		'a lower manager role': `SET amt_keys.manager_role = 'viewer'`,
		'another database role for keys': `SET amt_keys.db_role = 'postgres'`,
		'tokens back in the log': `SET amt_keys.redact_logs = off`,
		'RESET ROLE': `RESET ROLE; SELECT ${setOrganization}${back(user)}`,
		'SET ROLE NONE': `SET ROLE NONE; SELECT ${setOrganization}${back(user)}`,
		'SET LOCAL ROLE authenticator': `SET LOCAL ROLE authenticator; SELECT ${setOrganization}${back(user)}`,
		"set_config('role')": `SELECT set_config('role', 'authenticator', true); SELECT ${setOrganization}${back(user)}`,
		'SET SESSION AUTHORIZATION DEFAULT': `SET SESSION AUTHORIZATION DEFAULT; SELECT ${setOrganization}${back(user)}`,
		'RESET ROLE and SET': `RESET ROLE; SET amt_keys.org_id = 'globex'${back(user)}`,
		'RESET ROLE and ALTER ROLE': `RESET ROLE; ALTER ROLE authenticator SET amt_keys.org_id = 'globex'${back(user)}`,
		'RESET ROLE and ALTER ROLE IN DATABASE': `RESET ROLE; ${inDatabase('ALTER ROLE CURRENT_USER IN DATABASE')}${back(user)}`,
		'RESET ROLE and a function with SET': `RESET ROLE; CREATE FUNCTION pg_temp.f() RETURNS bigint LANGUAGE sql SET amt_keys.org_id = 'globex' SET role = '${user}' AS 'SELECT count(*) FROM api.note'; SELECT pg_temp.f()${back(user)}`,
		'RESET ROLE, other claims and amt_authenticate()': `RESET ROLE; SELECT set_config('request.headers', '', true), set_config('request.jwt.claims', '${globex}', true); SELECT amt.amt_authenticate()${back(user)}`,
		'SET ROLE of another web role': `SET LOCAL ROLE web_user; SELECT ${setIdentity}`,
		'SET ROLE of a superuser': `SET LOCAL ROLE postgres; SELECT ${setIdentity}`,
	});

	/** What each comes to, if not to 42501: another SQLSTATE, or none, and the identity afterwards is the request's own or nobody's. */
	const outcomes = {
		'RESET ALL': 'nobody',
		'RESET ALL and amt_authenticate() with other claims': 'nobody',
		'a subtransaction': 'own',
		'ALTER SYSTEM': '25001', // not in a transaction, and a function is in one
		'other claims': 'own',
		'other claims and amt_authenticate()': 'own',
		'other claims, no headers, and amt_authenticate()': 'own',
		'other claims, headers unset, and amt_authenticate()': 'own',
		'other claims and amt_authenticate() in a DO': 'own',
		'RESET ROLE, other claims and amt_authenticate()': 'own',
	};

	const victims = {
		'anonymous': { options: () => ({}), user: 'anon', organization: null },
		'with a JWT': { options: () => ({ claims: vera }), user: 'web_user', organization: 'acme' },
		'with a key': { options: () => ({ headers: apiKey(keys.acme) }), user: 'web_agent', organization: 'acme' },
	};

	test('every outcome that is listed belongs to an attempt', () => {
		assert.deepEqual(Object.keys(outcomes).filter(name => !(name in attempts('anon'))), []);
	});

	for (const [who, { options, user, organization }] of Object.entries(victims))
		describe(who, () => {
			for (const [name, sql] of Object.entries(attempts(user)))
				test(`a web user cannot take another identity by ${name}`, async () => {
					const own = await identity(options());
					const client = await pool.connect();
					let after;
					try {
						after = await transaction(client, configuration, { method: 'POST', ...options(), commit: false, main: [
							{ text: 'SAVEPOINT attempt' },
							{ text: 'SELECT api.run($1)', values: [sql] },
							whoIsIt,
						] }).catch(error => error);
					} finally {
						client.release();
					}
					const identityOf = ({ organization, role, actor, key }) => ({ organization, role, actor, key });
					const outcome = outcomes[name] ?? '42501';
					const wanted = { own: identityOf(own), nobody: identityOf(anonymous) }[outcome] ?? outcome;
					assert.deepEqual(after instanceof Error ? after.code : identityOf(after[0]), wanted, after.stack);
				});

			test('a web user cannot keep anything for the next request of the session', async () => {
				const client = await pool.connect();
				try {
					const kept = [];
					for (const sql of Object.values(attempts(user))) {
						await transaction(client, configuration, { method: 'POST', ...options(), main: { text: 'SELECT api.run($1)', values: [sql] } }).catch(() => {});
						const [next] = await transaction(client, configuration, { main: whoIsIt });
						if (next.organization !== null)
							kept.push(sql);
						await client.query('RESET ALL');
					}
					assert.deepEqual(kept, []);
				} finally {
					client.release(true);
				}
			});

			test('a web user cannot keep anything for other sessions', async () => {
				const { rows } = await admin.query("SELECT setrole::regrole::text, setconfig::text FROM pg_db_role_setting WHERE setconfig::text ~ 'org_id'");
				for (const { setrole } of rows) // or everything after this would fail too
					await admin.query(`ALTER ROLE ${setrole} RESET amt_keys.org_id; ALTER ROLE ${setrole} IN DATABASE ${server.database} RESET amt_keys.org_id`);
				assert.deepEqual(rows, []);
			});

			const refused = {
				'name another organization for a key': "SELECT amt.amt_create_key('x', 'globex', 'viewer')",
				'verify keys': "SELECT * FROM amt.amt_verify('amt_abc123_xyz789abcdefghij')",
				'take an identity by amt_verify()': "SELECT * FROM amt.amt_verify('amt_abc123_xyz789abcdefghij', identify => true)",
				'read a hash': 'SELECT scrypt_hash FROM amt.amt_key',
				'read whole rows': 'SELECT * FROM amt.amt_key',
				'read rows as values': 'SELECT k::text FROM amt.amt_key k',
				'read rows by DELETE … RETURNING': 'DELETE FROM amt.amt_key RETURNING scrypt_hash',
				'copy the table': 'CREATE TEMP TABLE stolen AS TABLE amt.amt_key',
				'insert a key': "INSERT INTO amt.amt_key (key_id, org_id, name, role, scrypt_hash) VALUES ('x', 'acme', 'x', 'owner', 'x')",
				'raise the role of a key': "UPDATE amt.amt_key SET role = 'owner'",
				'replace a hash': "UPDATE amt.amt_key SET scrypt_hash = ''",
				'change the counts': 'UPDATE amt.amt_key_usage SET calls = 0',
				'forge an event': "INSERT INTO amt.amt_key_event (event, key_id, org_id) VALUES ('created', 'x', 'acme')",
				'delete events': 'DELETE FROM amt.amt_key_event',
				'empty the table': 'TRUNCATE amt.amt_key CASCADE',
				'switch row-level security off': 'ALTER TABLE amt.amt_key DISABLE ROW LEVEL SECURITY',
				'add a policy': 'CREATE POLICY mine ON amt.amt_key USING (true)',
				'replace an accessor': "CREATE OR REPLACE FUNCTION amt.amt_org_id() RETURNS text LANGUAGE sql AS $$SELECT 'globex'$$",
				'reset the counters': 'SELECT amt.amt_stat_reset()',
				'empty the cache': 'SELECT amt.amt_cache_clear()',
				'flush the counts': 'SELECT amt.amt_flush_usage()',
			};
			for (const [what, sql] of Object.entries(refused))
				test(`a web user cannot ${what}`, async () => {
					assert.equal((await refusal({ method: 'POST', ...options(), commit: false, main: { text: 'SELECT api.run($1)', values: [sql] } })).code, '42501');
				});

			test('a web user cannot do anything of this as the authenticator', async () => {
				for (const sql of Object.values(refused)) {
					const { code } = await refusal({ method: 'POST', ...options(), commit: false,
						main: { text: 'SELECT api.run($1)', values: [`RESET ROLE; ${sql}`] } });
					assert.equal(code, '42501', sql);
				}
			});

			test('a web user sees no hash in the statistics', async () => {
				await admin.query('ANALYZE amt.amt_key');
				const rows = await request({ ...options(), main: { text: "SELECT attname FROM pg_stats WHERE schemaname = 'amt' AND tablename = 'amt_key' AND attname = 'scrypt_hash'" } });
				assert.deepEqual(rows, []);
			});

			test('a web user finds nothing of another organization by row-level security turned off or by a leaky function', async () => {
				const rows = await request({ ...options(), main: [
					{ text: "CREATE FUNCTION pg_temp.leak(text) RETURNS boolean LANGUAGE plpgsql COST 0.0000001 AS 'BEGIN RAISE NOTICE ''%'', $1; RETURN true; END'" },
					{ text: 'SELECT org_id FROM amt.amt_keys WHERE pg_temp.leak(org_id)' },
				], method: 'POST', commit: false }).catch(error => {
					assert.equal(error.code, '42501');
					return [];
				});
				for (const row of rows)
					assert.equal(row.org_id, organization);
			});
		});
});
