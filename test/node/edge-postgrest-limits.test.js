// The surroundings of a PostgREST with keys: the set-up in more than one database, the README's pre-request function,
// timeouts, logs, nginx asking as well, and how little SQL in a request can do to later requests when the server is set up
// as the README says.

import assert from 'node:assert/strict';
import { execFile } from 'node:child_process';
import { mkdtempSync, readFileSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir, userInfo } from 'node:os';
import { join } from 'node:path';
import { after, before, describe, test } from 'node:test';
import pg from 'pg';
import { readConfiguration, roleSettings, startPostgrest, transaction } from './edge-postgrest.js';
import { examples, freePort, makeJwt, send, startNginx, startProgram, strangeToken } from './edge-support.js';
import { startServer } from './server.js';

const configuration = readConfiguration(`${examples}postgrest/postgrest.conf`);
const readme = readFileSync(`${examples}postgrest/README.md`, 'utf8');
const setup = example => readFileSync(`${examples}${example}/setup.sql`, 'utf8');
const withPassword = (example, password) => `\\set password ${password}\n${setup(example)}`;

const alice = { role: 'web_user', sub: 'alice', org_id: 'acme', org_role: 'admin' };
const unauthenticated = { code: 'PT401', message: 'unauthenticated' };

let server, admin, key;

before(async () => {
	server = await startServer({ extension: '' });
	await server.psql(withPassword('postgrest', 'secret'));
	admin = new pg.Client(server.connectionString());
	await admin.connect();
	await admin.query(`ALTER DATABASE ${server.database} SET amt_keys.scrypt_ln = 4`);
	await admin.query('SET amt_keys.scrypt_ln = 4');
	key = (await admin.query("SELECT * FROM amt.amt_create_key('ci', 'acme', 'editor')")).rows[0];
	await admin.query("CREATE FUNCTION api.run(sql text) RETURNS void LANGUAGE plpgsql AS 'BEGIN EXECUTE sql; END'");
});

after(async () => {
	await admin?.end();
	await server?.stop();
});

const withKey = () => ({ headers: { 'x-api-key': key.token } });
const whoIsIt = { text: `SELECT current_user::text AS "user", amt.amt_org_id() AS organization, amt.amt_actor() AS actor, amt.amt_key_id() AS key` };

async function withClient(action, connectionString = server.connectionString('authenticator')) {
	const client = new pg.Client(connectionString);
	await client.connect();
	try {
		return await action(client);
	} finally {
		await client.end();
	}
}

const ask = (options, settings = configuration) =>
	withClient(async client => (await transaction(client, { ...settings, roleSettings: await roleSettings(client) }, { main: whoIsIt, ...options }))[0]);

describe('a second database', () => {
	const second = `amt_node_second_${process.pid}`;
	const inSecond = user => {
		const url = new URL(server.connectionString(user));
		url.pathname = `/${second}`;
		return url.href;
	};
	const psql = input => new Promise((resolve, reject) => {
		const child = execFile('psql', ['-XqAt', '-v', 'ON_ERROR_STOP=1', '-d', inSecond()], (error, stdout, stderr) => error ? reject(new Error(stderr)) : resolve(stderr));
		child.stdin.end(input);
	});

	before(() => admin.query(`CREATE DATABASE ${second}`));
	after(() => admin.query(`DROP DATABASE ${second} WITH (FORCE)`));

	test('a second database takes the set-up of PostgREST, and without a password the login keeps the one it has', async () => {
		const password = async () => (await admin.query("SELECT rolpassword FROM pg_authid WHERE rolname = 'authenticator'")).rows;
		const before = await password();
		assert.doesNotMatch(await psql(setup('postgrest')), /ERROR|WARNING/);
		assert.deepEqual(await password(), before);
	});

	test('both databases take the set-up of nginx beside that of PostgREST', async () => {
		assert.doesNotMatch(await psql(withPassword('nginx', 'secret')), /ERROR|WARNING/);
		await server.psql(setup('nginx'));
	});

	test('a second database has its own keys and people, and those of the first are unknown there', async () => {
		const { token, key_id } = await withClient(async client => {
			await client.query('SET amt_keys.scrypt_ln = 4');
			return (await client.query("SELECT * FROM amt.amt_create_key('there', 'acme', 'viewer')")).rows[0];
		}, inSecond());
		const there = options => withClient(async client => (await transaction(client, configuration, { main: whoIsIt, ...options }))[0], inSecond('authenticator'));
		assert.deepEqual(await there({ headers: { 'x-api-key': token } }), { user: 'web_agent', organization: 'acme', actor: null, key: key_id });
		assert.deepEqual(await there({ claims: alice }), { user: 'web_user', organization: 'acme', actor: 'alice', key: null });
		await assert.rejects(there(withKey()), unauthenticated);
		await assert.rejects(ask({ headers: { 'x-api-key': token } }), unauthenticated);
		assert.equal((await ask(withKey())).key, key.key_id);
	});

	test('the verify service of a database knows the keys of that database only', async () => {
		const count = (connectionString, token) => withClient(async client => (await client.query('SELECT FROM amt.amt_verify($1)', [token])).rowCount, connectionString);
		assert.equal(await count(server.connectionString('amt_gateway'), key.token), 1);
		assert.equal(await count(inSecond('amt_gateway'), key.token), 0);
	});
});

describe('timeouts', () => {
	const timeout = { text: "SELECT current_user::text AS user, current_setting('statement_timeout') AS timeout" };
	after(() => admin.query('ALTER ROLE web_agent RESET statement_timeout; ALTER ROLE anon RESET statement_timeout; ALTER ROLE web_user RESET statement_timeout'));

	test('the timeout of the role that a JWT names is applied, and a key gets the timeout of anon and not that of web_agent', async () => {
		await admin.query("ALTER ROLE web_user SET statement_timeout = '7s'; ALTER ROLE web_agent SET statement_timeout = '3s'");
		assert.deepEqual(await ask({ claims: alice, main: timeout }), { user: 'web_user', timeout: '7s' });
		assert.deepEqual(await ask({ ...withKey(), main: timeout }), { user: 'web_agent', timeout: '0' });
		await admin.query("ALTER ROLE anon SET statement_timeout = '4s'");
		assert.deepEqual(await ask({ ...withKey(), main: timeout }), { user: 'web_agent', timeout: '4s' });
	});
});

describe("the README's pre-request function", () => {
	const own = { ...configuration, 'db-pre-request': 'private.before_request' };
	const requestTo = path => ({ method: 'POST', path, main: whoIsIt });

	before(async () => {
		const section = readme.split('## A pre-request function of your own\n')[1];
		assert.match(section, /`db-pre-request = "private.before_request"`/);
		await admin.query(/^```sql\n(.*?)^```$/ms.exec(section)[1]);
	});

	test('the function ends a key’s statements after its timeout, and nobody else’s', async () => {
		const timeout = { text: "SELECT current_user::text AS user, current_setting('statement_timeout') AS timeout" };
		assert.deepEqual(await ask({ ...withKey(), main: timeout }, own), { user: 'web_agent', timeout: '5s' });
		assert.deepEqual(await ask({ claims: alice, main: timeout }, own), { user: 'web_user', timeout: '0' });
		const text = (await admin.query("SELECT pg_get_functiondef('private.before_request'::regproc) AS text")).rows[0].text;
		await admin.query(text.replace("'5s'", "'0.1s'"));
		await assert.rejects(ask({ ...withKey(), main: { text: 'SELECT pg_sleep(10)' } }, own), { code: '57014' });
		await admin.query(text);
	});

	test('the function lets a person and a key in, and nobody without an identity', async () => {
		assert.deepEqual(await ask({ claims: alice, ...requestTo('/note') }, own), { user: 'web_user', organization: 'acme', actor: 'alice', key: null });
		assert.deepEqual(await ask({ ...withKey(), ...requestTo('/note') }, own), { user: 'web_agent', organization: 'acme', actor: null, key: key.key_id });
		for (const options of [{}, { claims: { role: 'web_user' } }, { headers: { 'x-api-key': strangeToken() } }])
			await assert.rejects(ask({ ...options, ...requestTo('/note') }, own), unauthenticated);
	});

	test('the function lets a person without a login revoke a found key, and require_authentication does not', async () => {
		assert.deepEqual(await ask(requestTo('/rpc/amt_revoke'), own), { user: 'anon', organization: null, actor: null, key: null });
		await assert.rejects(ask({ headers: { 'x-api-key': strangeToken() }, ...requestTo('/rpc/amt_revoke') }, own), unauthenticated);
		await admin.query(`ALTER ROLE authenticator IN DATABASE ${server.database} SET amt_keys.require_authentication = on`);
		await assert.rejects(ask(requestTo('/rpc/amt_revoke')), unauthenticated);
		await admin.query(`ALTER ROLE authenticator IN DATABASE ${server.database} RESET amt_keys.require_authentication`);
	});
});

describe('settings of authenticator', () => {
	test('settings of authenticator reach sessions that begin later, and no others', async () => {
		const change = what => admin.query(`ALTER ROLE authenticator IN DATABASE ${server.database} ${what}`);
		await withClient(async client => {
			const here = () => transaction(client, configuration, { main: whoIsIt, headers: { 'x-other': key.token } }).then(([row]) => row.key);
			assert.equal(await here(), null);
			await change("SET amt_keys.header = 'x-other'");
			assert.equal(await here(), null);
			assert.equal((await ask({ headers: { 'x-other': key.token } })).key, key.key_id);
		});
		await change('RESET amt_keys.header');
	});
});

describe('a mistake in amt_keys.db_role', () => {
	const change = what => admin.query(`ALTER ROLE authenticator IN DATABASE ${server.database} ${what}`);
	after(() => change("SET amt_keys.db_role = 'web_agent'"));

	test('a role that cannot be taken on is 500 for every key, and only the log tells which role', async () => {
		await admin.query('CREATE ROLE not_granted_editor');
		for (const name of ['no_such_', 'not_granted_']) {
			await change(`SET amt_keys.db_role = '${name}{role}'`);
			const postgrest = await startPostgrest({ connectionString: server.connectionString('authenticator'), configuration, jwtSecret: 'x'.repeat(32) });
			try {
				const answer = await send(postgrest.port, ['GET /note HTTP/1.1', `X-API-Key: ${key.token}`]);
				assert.equal(answer.status, 500);
				assert.equal(answer.json.code, 'F0000');
				assert.ok(!answer.body.includes(name), answer.body);
				if (server.log)
					assert.ok(readFileSync(server.log, 'utf8').includes(`"${name}editor"`));
			} finally {
				await postgrest.stop();
			}
		}
	});

	test('without amt_keys.db_role a key beside a JWT is 401, and either alone is good', async () => {
		await change("SET amt_keys.db_role = ''");
		await admin.query('GRANT SELECT ON api.note TO anon');
		const postgrest = await startPostgrest({ connectionString: server.connectionString('authenticator'), configuration, jwtSecret: 'x'.repeat(32) });
		try {
			const jwt = `Authorization: Bearer ${makeJwt(alice, 'x'.repeat(32))}`;
			const status = async (...lines) => (await send(postgrest.port, ['GET /note HTTP/1.1', ...lines])).status;
			assert.deepEqual([await status(jwt), await status(`X-API-Key: ${key.token}`), await status(jwt, `X-API-Key: ${key.token}`)], [200, 200, 401]);
		} finally {
			await postgrest.stop();
			await admin.query('REVOKE SELECT ON api.note FROM anon');
		}
	});
});

describe('SQL that got into a request', () => {
	const smuggle = (client, sql, settings = configuration) =>
		transaction(client, settings, { method: 'POST', claims: alice, main: { text: 'SELECT api.run($1)', values: [sql] } });
	const next = (client, settings = configuration) => transaction(client, settings, { main: whoIsIt }).then(([row]) => row);
	const nobody = { user: 'anon', organization: null, actor: null, key: null };
	/** Puts a statement that makes everybody bob of globex in the place of each that is prepared for the settings of a request. */
	const replaceStatements = `DO $do$
		DECLARE s record;
		BEGIN
			FOR s IN SELECT name, cardinality(parameter_types) AS n FROM pg_prepared_statements WHERE statement ~ '^select set_config'
			LOOP
				EXECUTE format('DEALLOCATE %I', s.name);
				EXECUTE format('PREPARE %I (%s) AS SELECT %s set_config(''role'', ''web_user'', true), set_config(''request.headers'', ''{}'', true), set_config(''request.jwt.claims'', %L, true)',
					s.name, (SELECT string_agg('text', ',') FROM generate_series(1, s.n)),
					(SELECT string_agg(format('$%s::text,', i), ' ') FROM generate_series(1, s.n) i),
					'{"role":"web_user","org_id":"globex","org_role":"owner","sub":"bob"}');
			END LOOP;
		END $do$`;

	test('with prepared statements, as PostgREST has them by default, SQL in a request decides who later requests are', () => withClient(async client => {
		const prepared = { ...configuration, 'db-prepared-statements': 'true' };
		assert.deepEqual(await next(client, prepared), nobody);
		await smuggle(client, replaceStatements, prepared);
		assert.deepEqual(await next(client, prepared), { user: 'web_user', organization: 'globex', actor: 'bob', key: null });
	}));

	test('without prepared statements, as configured here, SQL in a request does not decide who later requests are', () => withClient(async client => {
		assert.equal(configuration['db-prepared-statements'], 'false');
		assert.deepEqual(await next(client), nobody);
		await smuggle(client, replaceStatements);
		const names = ['', ...Array.from({ length: 20 }, (_, i) => String(i))];
		for (const name of names)
			await smuggle(client, `PREPARE "${name || 'unnamed'}" AS SELECT 1`).catch(() => {});
		assert.deepEqual(await next(client), nobody);
	}));

	test('SQL in a request cannot change the settings that PostgREST reads from the database, such as pgrst.jwt_secret', () => withClient(async client => {
		const alter = "ALTER ROLE authenticator SET pgrst.jwt_secret = 'known to the attacker, 32 bytes'";
		for (const sql of [alter, `RESET ROLE; ${alter}`, `RESET ROLE; SET pgrst.jwt_secret = 'x'; ${alter}`])
			await assert.rejects(smuggle(client, sql), { code: '42501' });
	}));

	test('SQL in a request leaves no temporary table for later requests to find', () => withClient(async client => {
		for (const user of ['', 'RESET ROLE; '])
			await assert.rejects(smuggle(client, `${user}CREATE TEMPORARY TABLE note (org_id text, author text, body text)`), { code: '42501' });
	}));

	test('SQL in a request cannot create anything that outlives the request in a schema that others look into', () => withClient(async client => {
		for (const user of ['', 'RESET ROLE; '])
			for (const schema of ['api', 'amt', 'public'])
				await assert.rejects(smuggle(client, `${user}CREATE FUNCTION ${schema}.f() RETURNS text LANGUAGE sql AS 'SELECT 1::text'`), { code: '42501' });
	}));

	test('SQL in a request that sets for the rest of the session does not make anybody else of later requests', () => withClient(async client => {
		for (const sql of ["SET search_path = pg_temp", "SET role = web_user", `SET request.jwt.claims = '${JSON.stringify({ ...alice, org_id: 'globex' })}'`, `SET request.headers = '{"x-api-key": "${key.token}"}'`])
			await smuggle(client, sql);
		assert.deepEqual(await next(client), nobody);
	}));

	test('a password that SQL in a request gives itself opens no door where authenticator logs in as the README says', async t => {
		if (!server.directory)
			return t.skip('the server is somebody else’s');
		const [, hba] = /In `pg_hba.conf`.*?^```text\n(.*?)^```$/ms.exec(readme);
		const [, ident] = /in `pg_ident.conf`.*?^```text\n(.*?)^```$/ms.exec(readme);
		const [hbaFile, identFile] = ['pg_hba.conf', 'pg_ident.conf'].map(name => join(server.directory, 'data', name));
		const [hbaBefore, identBefore] = [hbaFile, identFile].map(file => readFileSync(file, 'utf8'));
		const login = (database = server.database) => {
			const url = new URL(server.connectionString('authenticator'));
			url.pathname = `/${database}`;
			url.searchParams.set('password', 'known');
			return withClient(client => client.query('SELECT 1'), url.href).then(() => 'in', error => error.code);
		};
		const configure = async user => {
			writeFileSync(hbaFile, `${hba.replace(/\bnotes\b/, server.database)}local all all trust\n`);
			writeFileSync(identFile, ident.replace(/^postgrest  postgrest /m, `postgrest  ${user} `));
			await admin.query('SELECT pg_reload_conf(), pg_sleep(0.3)');
		};
		try {
			await withClient(client => smuggle(client, "RESET ROLE; ALTER ROLE authenticator PASSWORD 'known'"));
			await configure(userInfo().username);
			assert.equal(await login(), 'in');
			assert.equal(await login('template1'), '28000');
			await configure('another_user_of_the_system');
			assert.equal(await login(), '28000');
			// A password would have let them in.
			writeFileSync(hbaFile, 'local all authenticator scram-sha-256\nlocal all all trust\n');
			await admin.query('SELECT pg_reload_conf(), pg_sleep(0.3)');
			assert.equal(await login(), 'in');
		} finally {
			writeFileSync(hbaFile, hbaBefore);
			writeFileSync(identFile, identBefore);
			await admin.query('SELECT pg_reload_conf()');
		}
	});
});

describe('the log, with log_statement = all', () => {
	const jwt = makeJwt(alice, 'x'.repeat(32));
	const request = setting => withClient(async client => {
		await transaction(client, configuration, { main: whoIsIt, claims: alice, headers: { authorization: `Bearer ${jwt}`, 'x-mark': setting, 'x-api-key': key.token } });
	});

	test('the log masks keys and keeps JWTs, and without parameters it keeps neither', async t => {
		if (!server.log)
			return t.skip('the server’s log is somebody else’s');
		const alter = `ALTER ROLE authenticator IN DATABASE ${server.database}`;
		await admin.query(`${alter} SET log_statement = 'all'`);
		await request('with parameters');
		const logged = readFileSync(server.log, 'utf8');
		assert.match(logged, /with parameters/);
		assert.ok(logged.includes(jwt));
		assert.ok(!logged.includes(key.token.slice(17, 40)));
		await admin.query(`${alter} SET log_parameter_max_length = 0`);
		await request('without parameters');
		const more = readFileSync(server.log, 'utf8').slice(logged.length);
		assert.match(more, /select set_config\('search_path'/);
		assert.ok(!more.includes(jwt));
		assert.doesNotMatch(more, /without parameters/);
		await admin.query(`${alter} RESET log_statement; ${alter} RESET log_parameter_max_length`);
	});
});

describe('nginx asks by auth_request, and PostgREST behind it by amt_authenticate()', () => {
	let service, postgrest, nginx, directory;

	before(async () => {
		await server.psql(setup('nginx'));
		const url = new URL(server.connectionString('amt_gateway'));
		const port = await freePort();
		service = await startProgram(`${examples}nginx/verify.js`, port, {
			PGHOST: url.searchParams.get('host'), PGPORT: String(server.port), PGDATABASE: server.database, PGUSER: 'amt_gateway', PGPASSWORD: url.searchParams.get('password') ?? '',
		});
		postgrest = await startPostgrest({ connectionString: server.connectionString('authenticator'), configuration, jwtSecret: 'x'.repeat(32) });
		directory = mkdtempSync(join(tmpdir(), 'amt-twice-'));
		const snippet = join(directory, 'amt-auth.conf');
		writeFileSync(snippet, readFileSync(`${examples}nginx/amt-auth.conf`, 'utf8').replace('proxy_set_header X-API-Key "";', ''));
		nginx = await startNginx({
			configuration: `${examples}nginx/nginx.conf`,
			snippets: { 'snippets/amt-auth.conf': snippet },
			replace: { 'server 127.0.0.1:9180;': `server 127.0.0.1:${port};`, 'server 127.0.0.1:9000;': `server 127.0.0.1:${postgrest.port};` },
		});
	});

	after(async () => {
		await nginx?.stop();
		await postgrest?.stop();
		await service?.stop();
		if (directory)
			rmSync(directory, { recursive: true });
	});

	test('a request through nginx counts two calls, and one to PostgREST alone counts one', async () => {
		const calls = async () => Number((await admin.query('SELECT calls FROM amt.amt_keys WHERE key_id = $1', [key.key_id])).rows[0].calls);
		const request = ['GET /note HTTP/1.1', `X-API-Key: ${key.token}`];
		const before = await calls();
		assert.equal((await send(nginx.port, request)).status, 200);
		assert.equal(await calls(), before + 2);
		assert.equal((await send(postgrest.port, request)).status, 200);
		assert.equal(await calls(), before + 3);
	});
});
