// doc/migrating.md, its guide for @better-auth/api-key, followed literally: keys that the library itself has made and
// stored verify here afterwards with the same tokens.
//
// The library is in migrate/, with a lock file of its own.  AMT_KEYS is the number of keys.

import assert from 'node:assert/strict';
import { createHash, randomBytes } from 'node:crypto';
import { existsSync, readFileSync } from 'node:fs';
import { execFileSync } from 'node:child_process';
import { createRequire } from 'node:module';
import { after, before, test } from 'node:test';
import { fileURLToPath, pathToFileURL } from 'node:url';

import { startServer } from './server.js';

const directory = fileURLToPath(new URL('./migrate/', import.meta.url));
const count = Number(process.env.AMT_KEYS ?? 10_000);
const fromLibrary = Math.min(count, 500);

const page = readFileSync(new URL('../../doc/migrating.md', import.meta.url), 'utf8');
const find = (heading, pattern) => {
	const section = page.split(/\n###? /).find(text => text.startsWith(`${heading}\n`));
	const found = [...section.matchAll(/^```sql\n(.*?)^```$/gms)].map(([, sql]) => sql).filter(sql => pattern.test(sql));
	assert.equal(found.length, 1, `one statement under "${heading}" matches ${pattern}`);
	return found[0];
};
const statements = {
	role: find('The role', /^CREATE ROLE/),
	view: find('From @better-auth/api-key', /^CREATE VIEW/m),
	functions: find('The import', /^CREATE FUNCTION/m),
	run: find('The import', /^SELECT/),
	grant: find('The way back', /^GRANT/),
	back: find('The way back', /^UPDATE public\.apikey /),
	afterwards: find('Afterwards', /^DROP/),
};

let pg, server, pool, auth, user, organization, other;
const keys = [];

const query = async (sql, values) => (await pool.query(sql, values)).rows;
const value = async (sql, values) => Object.values((await query(sql, values))[0])[0];
const verify = async token => (await query('SELECT * FROM amt.amt_verify($1)', [token]))[0];
const runAs = async (role, sql) => {
	const client = new pg.Client({ connectionString: server.connectionString(role) });
	await client.connect();
	try {
		return (await client.query(sql)).rows;
	} finally {
		await client.end();
	}
};
// What a run of the import has imported, revoked and left out.
const runImport = async () => Object.values((await runAs('key_import', statements.run))[0]);
const libraryAccepts = async key => (await auth.api.verifyApiKey({ body: { key } })).valid;

before(async () => {
	if (!existsSync(`${directory}node_modules/.package-lock.json`))
		execFileSync('npm', ['ci', '--no-audit', '--no-fund'], { cwd: directory, stdio: ['ignore', 'ignore', 'inherit'] });
	const require = createRequire(`${directory}package.json`);
	const load = name => import(pathToFileURL(require.resolve(name)));
	({ default: pg } = await load('pg'));
	const { betterAuth } = await load('better-auth');
	const { getMigrations } = await load('better-auth/db/migration');
	const { organization: organizationPlugin } = await load('better-auth/plugins');
	const { apiKey } = await load('@better-auth/api-key');

	server = await startServer({ extension: 'CREATE SCHEMA amt; CREATE EXTENSION amt_keys SCHEMA amt' });
	pool = new pg.Pool({ connectionString: server.connectionString(), max: 8 });
	auth = betterAuth({
		baseURL: 'http://localhost:3000',
		secret: randomBytes(32).toString('hex'),
		database: pool,
		emailAndPassword: { enabled: true },
		logger: { disabled: true },
		telemetry: { enabled: false },
		plugins: [organizationPlugin(), apiKey({ references: 'organization', rateLimit: { enabled: false } })],
	});
	await (await getMigrations(auth.options)).runMigrations();

	({ user } = await auth.api.signUpEmail({ body: { name: 'Zoe', email: 'zoe@example.com', password: 'a long password' } }));
	const create = slug => auth.api.createOrganization({ body: { name: slug, slug, userId: user.id } });
	[organization, other] = [await create('acme'), await create('globex')];

	const make = async i => {
		const body = { organizationId: (i % 3 ? organization : other).id, userId: user.id };
		if (i % 5) body.name = `key ${i}`;
		if (i % 4 === 1) body.expiresIn = 30 * 24 * 3600;
		if (i % 6 === 1) body.permissions = { files: ['read', 'write'], billing: ['read'] };
		if (i % 7 === 1) body.prefix = 'acme-';
		if (i === 2) body.remaining = 10;
		const made = await auth.api.createApiKey({ body });
		keys.push({ ...made, i, name: body.name ?? null, organizationId: body.organizationId });
	};
	for (let i = 0; i < fromLibrary; i++)
		await make(i);
	for (const key of keys.filter(key => key.i % 10 === 3)) {
		await auth.api.updateApiKey({ body: { keyId: key.id, userId: user.id, enabled: false } });
		key.disabled = true;
	}

	// The rest is what the library would have stored; its own code decides below whether it takes them.
	const rest = Array.from({ length: count - fromLibrary }, (_, n) => {
		const key = randomBytes(48).toString('base64url').replace(/[-_]/g, 'x').padEnd(64, 'y');
		return { key, hash: createHash('sha256').update(key).digest('base64url'), id: randomBytes(16).toString('hex'), disabled: n % 10 === 0 };
	});
	await query(`INSERT INTO apikey SELECT (jsonb_populate_record(a, jsonb_build_object('id', r.id, 'key', r.hash, 'start', left(r.token, 6),
			'name', 'bulk', 'enabled', NOT r.disabled, 'permissions', NULL, 'expiresAt', NULL, 'prefix', NULL))).*
		FROM apikey AS a, unnest($1::text[], $2::text[], $3::text[], $4::bool[]) AS r (id, hash, token, disabled) WHERE a.id = $5`,
		[...['id', 'hash', 'key', 'disabled'].map(name => rest.map(row => row[name])), keys[0].id]);
	keys.push(...rest);
	assert.equal(await value('SELECT count(*)::int FROM apikey'), count);
	await query('CREATE ROLE app LOGIN; ALTER TABLE apikey OWNER TO app');
});

after(async () => {
	await pool?.end();
	await server?.stop();
});

const metered = key => key.i === 2;
const usable = () => keys.filter(key => !key.disabled && !metered(key));

test('the library accepts its own keys, and those that the test has stored in its manner', async () => {
	for (const key of [keys[0], keys[1], keys.at(-2), keys.at(-3)].filter(key => !key.disabled))
		assert.equal(await libraryAccepts(key.key), true);
	assert.equal(await libraryAccepts(keys[3].key), false);
});

test('after the import every old token verifies, and each disabled one is refused', async () => {
	await server.psql(statements.role);
	const [asSuperuser, asRole] = statements.view.split('\\connect - key_import\n');
	await server.psql(asSuperuser);
	await runAs('key_import', asRole);
	await runAs('key_import', statements.functions);
	assert.deepEqual(await runImport(), [count - 1, 0, 0]);
	assert.deepEqual(await runImport(), [0, 0, 0], 'nothing is missing or different');

	await query('CREATE TABLE token (n int, token text, good bool)');
	await query('INSERT INTO token SELECT * FROM unnest($1::int[], $2::text[], $3::bool[])',
		[keys.map((_, n) => n), keys.map(key => key.key), keys.map(key => !key.disabled && !metered(key))]);
	const verified = good => value('SELECT count(*)::int FROM token AS t, amt.amt_verify(t.token) WHERE good = $1', [good]);
	assert.equal(await verified(true), usable().length);
	assert.equal(await verified(false), 0);
	assert.ok(usable().length >= count * 0.89);
});

test('organization, name, expiry, scopes and suspension are as they were', async () => {
	for (const key of keys.slice(0, 60).filter(key => !metered(key))) {
		const [row] = await query(`SELECT org_id, name, token_prefix, scopes, suspended_at IS NOT NULL AS suspended, expires_at, created_at
			FROM amt.amt_key WHERE token_sha256 = sha256(convert_to($1, 'UTF8'))`, [key.key]);
		assert.equal(row.org_id, key.organizationId);
		assert.equal(row.name, key.name ?? 'Unnamed');
		assert.equal(row.token_prefix, `${key.key.slice(0, 6)}...`);
		assert.deepEqual(row.scopes?.sort() ?? null, key.i % 6 === 1 ? ['billing:read', 'files:read', 'files:write'] : null);
		assert.equal(row.suspended, key.disabled ?? false);
		assert.equal(row.expires_at?.getTime(), key.expiresAt ? new Date(key.expiresAt).getTime() : undefined);
		assert.equal(row.created_at.getTime(), new Date(key.createdAt).getTime());
	}
});

test('while both are in force, a change by the library holds in the extension after the next run', async () => {
	const made = await auth.api.createApiKey({ body: { organizationId: organization.id, userId: user.id, name: 'late' } });
	assert.deepEqual(await runImport(), [1, 0, 0]);
	assert.equal((await verify(made.key)).name, 'late');
	assert.equal(await libraryAccepts(made.key), true);
	assert.deepEqual(await runImport(), [0, 0, 0], 'and a verification by the library changes nothing');

	const update = async changes => {
		await auth.api.updateApiKey({ body: { keyId: made.id, userId: user.id, ...changes } });
		assert.deepEqual(await runImport(), [1, 1, 0]);
	};
	await update({ name: 'renamed' });
	assert.equal((await verify(made.key)).name, 'renamed');
	await update({ enabled: false });
	assert.equal(await verify(made.key), undefined);
	await update({ enabled: true });
	assert.ok(await verify(made.key));

	const [gone] = keys.filter(key => key.i === 4);
	assert.ok(await verify(gone.key));
	await query('DELETE FROM apikey WHERE id = $1', [gone.id]);
	assert.deepEqual(await runImport(), [0, 1, 0]);
	assert.equal(await verify(gone.key), undefined);
});

test('a key whose permissions the library narrows has the narrower scopes after the next run', async () => {
	const [key] = keys.filter(key => key.i === 7);
	assert.deepEqual((await verify(key.key)).scopes.sort(), ['billing:read', 'files:read', 'files:write']);
	await auth.api.updateApiKey({ body: { keyId: key.id, userId: user.id, permissions: { files: ['read'] } } });
	assert.deepEqual(await runImport(), [1, 1, 0]);
	assert.deepEqual((await verify(key.key)).scopes, ['files:read']);
});

test('a key that is given a budget of requests is refused after the next run, disabled or not', async () => {
	const [key] = keys.filter(key => key.i === 10);
	assert.ok(await verify(key.key));
	await auth.api.updateApiKey({ body: { keyId: key.id, userId: user.id, remaining: 100 } });
	assert.deepEqual(await runImport(), [0, 1, 0]);
	assert.equal(await verify(key.key), undefined);
	await auth.api.updateApiKey({ body: { keyId: key.id, userId: user.id, enabled: false } });
	assert.deepEqual(await runImport(), [0, 0, 0]);
	assert.equal(await verify(key.key), undefined);
});

test('a key that was revoked or suspended in the extension stays so, whatever the library does with its row', async () => {
	const [revoked, suspended] = [11, 12].map(i => keys.find(key => key.i === i));
	assert.equal(await value('SELECT amt.amt_revoke($1)', [revoked.key]), true);
	await query('UPDATE amt.amt_keys SET suspended_at = now() WHERE key_id = $1', [(await verify(suspended.key)).key_id]);
	const refused = async () => assert.deepEqual(await Promise.all([revoked, suspended].map(key => verify(key.key))), [undefined, undefined]);

	await query('UPDATE apikey SET name = name, enabled = enabled, "expiresAt" = "expiresAt", "updatedAt" = now(), "lastRequest" = now() WHERE id = ANY ($1)',
		[[revoked.id, suspended.id]]);
	assert.deepEqual(await runImport(), [0, 0, 0]);
	await refused();
	assert.equal(await value('SELECT count(*)::int FROM amt.amt_keys WHERE suspended_at IS NOT NULL AND token_prefix = $1', [`${suspended.key.slice(0, 6)}...`]), 1);

	for (const enabled of [false, true])
		for (const key of [revoked, suspended]) {
			await auth.api.updateApiKey({ body: { keyId: key.id, userId: user.id, enabled } });
			assert.equal((await runImport())[0], 0);
			await refused();
		}
});

test('on the way back the library refuses keys that were revoked or suspended in the extension', async () => {
	const [revoked, suspended, kept] = keys.filter(key => [6, 8, 9].includes(key.i));
	assert.equal(await value('SELECT amt.amt_revoke($1)', [revoked.key]), true);
	await query('UPDATE amt.amt_keys SET suspended_at = now() WHERE key_id = $1', [(await verify(suspended.key)).key_id]);
	assert.equal(await libraryAccepts(revoked.key), true, 'which it does not know by itself');

	await runAs('key_import', statements.grant);
	await runAs('app', statements.back);
	assert.deepEqual(await Promise.all([revoked, suspended, kept].map(key => libraryAccepts(key.key))), [false, false, true]);
	assert.ok(await verify(kept.key));
	assert.equal(await value('SELECT count(*)::int FROM apikey'), count, 'one came, one went, none was deleted by the way back');

	await server.psql(statements.afterwards);
	assert.ok(await verify(kept.key), 'and the imported keys outlive the import');
});
