// Managing keys through the API of examples/postgrest: the wrappers ask for EXECUTE at each call, and PATCH and DELETE of
// api.amt_keys do what the extension's view allows, with RETURNING and rows that are passed over.

import assert from 'node:assert/strict';
import { readFileSync } from 'node:fs';
import { after, before, describe, test } from 'node:test';
import pg from 'pg';
import { columnTypes, mainQuery, readConfiguration, routines, startPostgrest, transaction } from './edge-postgrest.js';
import { examples, makeJwt } from './edge-support.js';
import { startServer } from './server.js';

const configuration = readConfiguration(`${examples}postgrest/postgrest.conf`);
const jwtSecret = 'a secret that is as long as 32 bytes at least';

const alice = { role: 'web_user', sub: 'alice', org_id: 'acme', org_role: 'admin' };
const vera = { role: 'web_user', sub: 'vera', org_id: 'acme', org_role: 'viewer' };
const bob = { role: 'web_user', sub: 'bob', org_id: 'globex', org_role: 'owner' };

let server, admin, functions, types, postgrest;

before(async () => {
	server = await startServer({ extension: '' });
	await server.psql(`\\set password secret\n${readFileSync(`${examples}postgrest/setup.sql`, 'utf8')}`);
	admin = new pg.Client(server.connectionString());
	await admin.connect();
	await admin.query(`ALTER DATABASE ${server.database} SET amt_keys.scrypt_ln = 4`);
	await admin.query('SET amt_keys.scrypt_ln = 4');
	functions = await routines(admin, 'api');
	types = await columnTypes(admin, 'api');
	postgrest = await startPostgrest({ connectionString: server.connectionString('authenticator'), configuration, jwtSecret });
});

after(async () => {
	await postgrest?.stop();
	await admin?.end();
	await server?.stop();
});

/** A key made by a superuser, as a row of amt_new_key. */
const newKey = async ({ name = 'key', organization = 'acme', role = 'viewer', createdBy = null }) => {
	await admin.query('BEGIN');
	if (createdBy)
		await admin.query(`SELECT set_config('amt_keys.org_id', $1, true), set_config('amt_keys.role', 'owner', true), set_config('amt_keys.actor', $2, true)`, [organization, createdBy]);
	const { rows: [key] } = await admin.query('SELECT * FROM amt.amt_create_key($1, $2, $3)', [name, organization, role]);
	await admin.query('COMMIT');
	return key;
};

describe('EXECUTE is asked for at each call, in a session that served others before', () => {
	// With named statements, as PostgREST works by default, PostgreSQL goes over to a plan for all calls after five.
	const prepared = { ...configuration, 'db-prepared-statements': 'true' };
	let key;
	before(async () => { key = await newKey({ role: 'admin' }); });

	const callers = {
		'a person': () => ({ claims: alice }),
		'a key': () => ({ headers: { 'x-api-key': key.token } }),
		'an anonymous caller': () => ({}),
	};
	const everybody = Object.keys(callers);
	const functionsOf = {
		whoami: { args: {}, allowed: ['a person', 'a key'] },
		delete_all_notes: { args: {}, allowed: ['a person', 'a key'] },
		amt_create_key: { args: { name: 'x' }, allowed: ['a person'] },
		amt_rotate_key: { args: { key: 'no-such-key' }, allowed: ['a person'] },
		amt_revoke: { args: { key: 'no-such-key' }, allowed: everybody },
	};

	test('this test knows each function of the API', () => {
		assert.deepEqual([...functions.keys()].sort(), Object.keys(functionsOf).sort());
	});

	const session = async action => {
		const client = new pg.Client(server.connectionString('authenticator'));
		await client.connect();
		try {
			await action((name, args, who) => transaction(client, prepared, { method: 'POST', commit: false, ...callers[who](), main: mainQuery.call('api', functions.get(name), args) })
				.then(() => 'called', ({ code, message }) => /^permission denied for function/.test(message) ? 'no EXECUTE' : `called: ${code}`), client);
		} finally {
			await client.end();
		}
	};

	for (const [name, { args, allowed }] of Object.entries(functionsOf))
		for (const first of everybody)
			for (const second of everybody.filter(who => who !== first))
				test(`${name} asks for EXECUTE in each of eight calls by ${first} and eight by ${second}`, () => session(async call => {
					for (const who of [first, second])
						for (let i = 0; i < 8; i++) {
							const outcome = await call(name, args, who);
							assert.equal(outcome.startsWith('called'), allowed.includes(who), `call ${i + 1} by ${who}: ${outcome}`);
						}
				}));

	test('a wrapper that can be inlined is open to everybody after eight calls by a person', async () => {
		await admin.query(`CREATE FUNCTION api.inlinable() RETURNS text LANGUAGE sql STABLE BEGIN ATOMIC SELECT amt.amt_role(); END;
			REVOKE EXECUTE ON FUNCTION api.inlinable() FROM PUBLIC; GRANT EXECUTE ON FUNCTION api.inlinable() TO web_user`);
		functions.set('inlinable', (await routines(admin, 'api')).get('inlinable'));
		try {
			await session(async call => assert.equal(await call('inlinable', {}, 'an anonymous caller'), 'no EXECUTE'));
			await session(async call => {
				for (let i = 0; i < 8; i++)
					assert.equal(await call('inlinable', {}, 'a person'), 'called');
				assert.equal(await call('inlinable', {}, 'an anonymous caller'), 'called');
			});
		} finally {
			functions.delete('inlinable');
			await admin.query('DROP FUNCTION api.inlinable()');
		}
	});

	test('no function of the API can be inlined', async () => {
		const { rows } = await admin.query(`SELECT proname FROM pg_proc p JOIN pg_language l ON l.oid = prolang
			WHERE pronamespace = 'api'::regnamespace AND lanname = 'sql' AND proconfig IS NULL`);
		assert.deepEqual(rows, []);
	});
});

const call = async (method, path, { claims, key, body, ...headers } = {}) => {
	if (claims)
		headers.authorization = `Bearer ${makeJwt(claims, jwtSecret)}`;
	if (key)
		headers['x-api-key'] = key.token;
	const response = await fetch(`http://127.0.0.1:${postgrest.port}${path}`, { method, headers, body: body && JSON.stringify(body) });
	const text = await response.text();
	return { status: response.status, body: text && JSON.parse(text) };
};
const representation = { prefer: 'return=representation' };
const exactlyOne = { ...representation, accept: 'application/vnd.pgrst.object+json' };
const one = ({ key_id }) => `/amt_keys?key_id=eq.${key_id}`;
const verifies = async ({ token }) => (await admin.query('SELECT FROM amt.amt_verify($1)', [token])).rowCount === 1;
const stored = async ({ key_id }) => (await admin.query('SELECT name, expires_at, suspended_at FROM amt.amt_key WHERE key_id = $1', [key_id])).rows[0];

describe('PATCH', () => {
	test('an admin renames a key, and the representation is the row as it is now', async () => {
		const key = await newKey({ name: 'before' });
		const { status, body: [row, ...more] } = await call('PATCH', one(key), { claims: alice, ...representation, body: { name: 'after' } });
		assert.deepEqual([status, more], [200, []]);
		assert.deepEqual(Object.keys(row).sort(), Object.keys(types.get('amt_keys')).sort());
		assert.deepEqual([row.key_id, row.name, row.can_manage], [key.key_id, 'after', true]);
		assert.equal((await stored(key)).name, 'after');
	});

	test('an admin sets an expiry, suspends and resumes a key, and each takes effect at the next call', async () => {
		const key = await newKey({});
		const patch = body => call('PATCH', one(key), { claims: alice, ...exactlyOne, body });
		const expiry = '2100-01-01T00:00:00+00:00';
		assert.equal((await patch({ expires_at: expiry })).body.expires_at, expiry);
		assert.equal((await stored(key)).expires_at.toISOString(), '2100-01-01T00:00:00.000Z');
		assert.ok(await verifies(key));
		const { status, body } = await patch({ suspended_at: '2026-01-01T00:00:00Z' });
		assert.equal(status, 200);
		assert.ok(body.suspended_at);
		assert.ok(!await verifies(key));
		assert.equal((await patch({ suspended_at: null })).body.suspended_at, null);
		assert.ok(await verifies(key));
	});

	test('a change of name, expiry and suspension at once leaves one event each of changed and suspended', async () => {
		const key = await newKey({});
		assert.equal((await call('PATCH', one(key), { claims: alice, body: { name: 'new', expires_at: '2100-01-01', suspended_at: '2026-01-01' } })).status, 204);
		const { rows } = await admin.query('SELECT event, actor FROM amt.amt_key_event WHERE key_id = $1 ORDER BY event_id', [key.key_id]);
		assert.deepEqual(rows.map(({ event }) => event).sort(), ['changed', 'created', 'suspended']);
		assert.deepEqual(rows.slice(1).map(({ actor }) => actor), ['alice', 'alice']);
	});

	test('the creator may change a key, whatever the role', async () => {
		const key = await newKey({ createdBy: 'vera' });
		assert.equal((await call('PATCH', one(key), { claims: vera, ...exactlyOne, body: { name: 'mine' } })).body.name, 'mine');
	});

	for (const [who, options, visible] of [['a viewer who did not create it', { claims: vera }, true], ['an owner of another organization', { claims: bob }, false]])
		test(`for ${who} a key is passed over and does not change, and asking for exactly one row is 406`, async () => {
			const key = await newKey({ name: 'alien' });
			assert.equal((await call('GET', one(key), options)).body.length, visible ? 1 : 0);
			assert.deepEqual(await call('PATCH', one(key), { ...options, ...representation, body: { name: 'stolen' } }), { status: 200, body: [] });
			assert.deepEqual(await call('PATCH', one(key), { ...options, body: { name: 'stolen' } }), { status: 204, body: '' });
			assert.equal((await call('PATCH', one(key), { ...options, ...exactlyOne, body: { name: 'stolen' } })).status, 406);
			assert.equal((await stored(key)).name, 'alien');
		});

	test('a key may change no row, not even its own, and nobody without credentials may', async () => {
		const key = await newKey({ role: 'owner' });
		for (const options of [{ key }, {}]) {
			const { status, body } = await call('PATCH', one(key), { ...options, ...representation, body: { name: 'x' } });
			assert.deepEqual([status, body.code], [401, '42501']);
		}
		assert.equal((await stored(key)).name, 'key');
	});

	for (const column of ['key_id', 'token_prefix', 'role', 'scopes', 'created_at', 'created_by', 'replaces', 'calls', 'last_used_at', 'can_manage'])
		test(`${column} cannot be written`, async () => {
			const key = await newKey({});
			const { status, body } = await call('PATCH', one(key), { claims: alice, body: { [column]: null } });
			assert.deepEqual([status, body.code], column === 'can_manage' ? [400, '0A000'] : [403, '42501'], body.message);
		});

	test('an expiry in the past ends the key at once, and takes it off the list', async () => {
		const key = await newKey({});
		assert.equal((await call('PATCH', one(key), { claims: alice, ...representation, body: { expires_at: '2001-01-01' } })).body.length, 1);
		assert.ok(!await verifies(key));
		assert.deepEqual((await call('GET', one(key), { claims: alice })).body, []);
	});

	test('a name that is not valid is 400', async () => {
		const key = await newKey({});
		for (const body of [{ name: '' }, { name: 'x'.repeat(101) }, { name: key.token }, { name: null }]) {
			const answer = await call('PATCH', one(key), { claims: alice, body });
			assert.equal(answer.status, 400, JSON.stringify([body, answer]));
		}
		assert.equal((await stored(key)).name, 'key');
	});

	test('PATCH without a filter changes all keys that the caller may manage, and only these', async () => {
		await admin.query("DELETE FROM amt.amt_key WHERE org_id = 'acme'");
		const mine = await newKey({ name: 'mine', createdBy: 'vera' });
		const other = await newKey({ name: 'other' });
		const { body } = await call('PATCH', '/amt_keys', { claims: vera, ...representation, body: { name: 'all' } });
		assert.deepEqual(body.map(({ key_id }) => key_id), [mine.key_id]);
		assert.equal((await stored(other)).name, 'other');
		const strict = { claims: alice, prefer: 'return=representation, handling=strict, max-affected=1', body: { name: 'everything' } };
		assert.equal((await call('PATCH', '/amt_keys', strict)).body.code, 'PGRST124');
		assert.deepEqual([(await stored(mine)).name, (await stored(other)).name], ['all', 'other']);
	});
});

describe('DELETE', () => {
	test('an admin revokes a key, and the representation is the row as it was', async () => {
		const key = await newKey({ name: 'doomed' });
		assert.ok(await verifies(key));
		const { status, body: [row, ...more] } = await call('DELETE', one(key), { claims: alice, ...representation });
		assert.deepEqual([status, more, row.key_id, row.name, row.calls], [200, [], key.key_id, 'doomed', 1]);
		assert.ok(!await verifies(key));
		const { rows } = await admin.query("SELECT actor, calls FROM amt.amt_key_event WHERE key_id = $1 AND event = 'revoked'", [key.key_id]);
		assert.deepEqual(rows, [{ actor: 'alice', calls: '1' }]);
	});

	test('the creator may revoke a key, whatever the role', async () => {
		const key = await newKey({ createdBy: 'vera' });
		assert.deepEqual(await call('DELETE', one(key), { claims: vera }), { status: 204, body: '' });
		assert.ok(!await verifies(key));
	});

	for (const [who, options] of [['a viewer who did not create it', { claims: vera }], ['an owner of another organization', { claims: bob }]])
		test(`for ${who} a key is passed over and works on`, async () => {
			const key = await newKey({});
			assert.deepEqual(await call('DELETE', one(key), { ...options, ...representation }), { status: 200, body: [] });
			assert.deepEqual(await call('DELETE', one(key), options), { status: 204, body: '' });
			assert.equal((await call('DELETE', one(key), { ...options, ...exactlyOne })).status, 406);
			assert.ok(await verifies(key));
		});

	test('a request for exactly one row that fits two revokes none', async () => {
		const twins = [await newKey({ name: 'twin' }), await newKey({ name: 'twin' })];
		assert.equal((await call('DELETE', '/amt_keys?name=eq.twin', { claims: alice, ...exactlyOne })).status, 406);
		for (const key of twins)
			assert.ok(await verifies(key));
		assert.equal((await call('DELETE', '/amt_keys?name=eq.twin', { claims: alice, ...representation })).body.length, 2);
		for (const key of twins)
			assert.ok(!await verifies(key));
	});

	test('DELETE without a filter revokes all keys that the caller may revoke, and none of another organization', async () => {
		await admin.query("DELETE FROM amt.amt_key WHERE org_id = 'acme'");
		const [mine, other, foreign] = [await newKey({ createdBy: 'vera' }), await newKey({}), await newKey({ organization: 'globex' })];
		assert.deepEqual((await call('DELETE', '/amt_keys', { claims: vera, ...representation })).body.map(({ key_id }) => key_id), [mine.key_id]);
		assert.ok(await verifies(other));
		const strict = { claims: alice, prefer: 'handling=strict, max-affected=0' };
		assert.equal((await call('DELETE', '/amt_keys', strict)).body.code, 'PGRST124');
		assert.ok(await verifies(other));
		assert.deepEqual((await call('DELETE', '/amt_keys', { claims: alice, ...representation })).body.map(({ key_id }) => key_id), [other.key_id]);
		assert.ok(await verifies(foreign));
	});

	test('a key may revoke no key, and nobody without credentials may', async () => {
		const key = await newKey({ role: 'owner' });
		for (const options of [{ key }, {}])
			assert.deepEqual(await call('DELETE', one(key), options).then(({ status, body }) => [status, body.code]), [401, '42501']);
		assert.ok(await verifies(key));
	});
});

describe('GET', () => {
	test('GET shows nothing secret and not the organization, and can_manage agrees with PATCH', async () => {
		await admin.query("DELETE FROM amt.amt_key WHERE org_id = 'acme'");
		for (const name of ['others', 'veras'])
			await newKey({ name, createdBy: name === 'veras' ? 'vera' : 'alice' });
		const { body } = await call('GET', '/amt_keys?select=name,can_manage&order=name', { claims: vera });
		assert.deepEqual(body, [{ name: 'others', can_manage: false }, { name: 'veras', can_manage: true }]);
		assert.deepEqual(Object.keys(types.get('amt_keys')).sort(), ['calls', 'can_manage', 'created_at', 'created_by', 'expires_at', 'key_id',
			'last_used_at', 'name', 'replaces', 'role', 'scopes', 'suspended_at', 'token_prefix']);
		for (const column of ['scrypt_hash', 'token_sha256', 'org_id'])
			assert.equal((await call('GET', `/amt_keys?select=${column}`, { claims: alice })).status, 400);
	});

	test('none of the relations and functions of the extension itself is in the API', async () => {
		const { rows } = await admin.query(`SELECT coalesce(c.relname, p.proname) AS name, p.oid IS NOT NULL AS is_function
			FROM pg_depend d JOIN pg_extension e ON e.extname = 'amt_keys' AND d.refobjid = e.oid AND d.deptype = 'e'
			LEFT JOIN pg_class c ON d.classid = 'pg_class'::regclass AND c.oid = d.objid AND c.relkind IN ('r', 'v')
			LEFT JOIN pg_proc p ON d.classid = 'pg_proc'::regclass AND p.oid = d.objid
			WHERE coalesce(c.oid, p.oid) IS NOT NULL`);
		assert.ok(rows.length > 30);
		const wrapped = ['amt_keys', 'amt_create_key', 'amt_rotate_key', 'amt_revoke'];
		for (const { name, is_function } of rows.filter(({ name }) => !wrapped.includes(name)))
			assert.equal((await call(is_function ? 'POST' : 'GET', is_function ? `/rpc/${name}` : `/${name}`, { claims: alice, body: is_function ? {} : undefined })).status, 404, name);
	});
});

describe('rotating', () => {
	test('rotating gives a key like the old one, which works on for the grace', async () => {
		const key = await newKey({ name: 'ci', role: 'editor' });
		const { status, body } = await call('POST', '/rpc/amt_rotate_key', { claims: alice, body: { key: key.key_id, grace: '1 hour' } });
		assert.equal(status, 200);
		assert.deepEqual([body.name, body.role, body.replaces], ['ci', 'editor', key.key_id]);
		assert.ok(await verifies(body));
		assert.ok(await verifies(key));
		assert.equal((await call('POST', '/rpc/amt_rotate_key', { claims: alice, body: { key: body.key_id } })).status, 200);
		assert.ok(!await verifies(body));
	});

	test('another organization’s key is as if it were not there', async () => {
		const key = await newKey({});
		const foreign = await call('POST', '/rpc/amt_rotate_key', { claims: bob, body: { key: key.key_id } });
		assert.deepEqual(foreign, await call('POST', '/rpc/amt_rotate_key', { claims: bob, body: { key: 'nothinghere0' } }));
		assert.equal(foreign.body.code, 'P0002');
	});
});
