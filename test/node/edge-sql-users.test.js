// Clients of SQL: identify => true in autocommit does nothing and says so, through psql, node-postgres, psycopg
// and a pool; the order in which a gateway sets identity and role; headers that are passed as they came.

import assert from 'node:assert/strict';
import { spawn } from 'node:child_process';
import { readFileSync } from 'node:fs';
import { after, before, describe, test } from 'node:test';
import pg from 'pg';
import { examples } from './edge-support.js';
import { startServer } from './server.js';

let server, key, broken;

before(async () => {
	server = await startServer();
	await server.psql(`
		CREATE ROLE app LOGIN;
		GRANT EXECUTE ON FUNCTION amt_verify TO app;
		CREATE ROLE tenant NOLOGIN;
		CREATE ROLE gateway LOGIN NOINHERIT IN ROLE tenant;
		GRANT SET ON PARAMETER amt_keys.org_id, amt_keys.role, amt_keys.actor TO gateway;
		CREATE TABLE orders (org_id text, item text);
		INSERT INTO orders VALUES ('acme', 'anvil'), ('globex', 'laser');
		ALTER TABLE orders ENABLE ROW LEVEL SECURITY;
		CREATE POLICY own ON orders USING (org_id = (SELECT amt_org_id()));
		GRANT SELECT ON orders TO app, tenant;`);
	const [token, keyId] = (await server.psql("SET amt_keys.scrypt_ln = 4; SELECT token, key_id FROM amt_create_key('ci', 'acme', 'editor')")).split('|');
	key = { token, keyId };
	broken = `${token.slice(0, -4)}0000`;
});

after(() => server?.stop());

const warning = 'identify => true has an effect in transaction blocks only';
const verify = 'SELECT key_id FROM amt_verify($1, identify => true)';
const list = 'SELECT item FROM orders';

/** Runs a program with an input; what it wrote to both streams. */
const runProgram = (file, args, input, env = {}) => new Promise((resolve, reject) => {
	const child = spawn(file, args, { env: { ...process.env, ...env } });
	let out = '', err = '';
	child.stdout.setEncoding('utf8').on('data', text => { out += text; });
	child.stderr.setEncoding('utf8').on('data', text => { err += text; });
	child.on('error', reject);
	child.on('close', code => resolve({ code, out, err }));
	child.stdin.end(input);
});

describe('identify => true through psql', () => {
	const psql = input => runProgram('psql', ['-XqAt', '-v', 'ON_ERROR_STOP=1', '-v', `token=${key.token}`, '-d', server.connectionString('app')], input);
	const verifyHere = "SELECT key_id FROM amt_verify(:'token', identify => true)";

	test('a call in autocommit returns the key, warns, and is followed by no rows', async () => {
		const { code, out, err } = await psql(`\\set VERBOSITY verbose\n${verifyHere};\n${list};\n`);
		assert.deepEqual([code, out], [0, `${key.keyId}\n`]);
		assert.match(err, new RegExp(`^WARNING:  25P01: ${warning}$`, 'm'));
	});

	for (const [how, input] of [
		['in a block', `BEGIN; ${verifyHere}; ${list}; COMMIT;`],
		['with AUTOCOMMIT off', `\\set AUTOCOMMIT off\n${verifyHere};\n${list};\nCOMMIT;`],
		['in one message of two statements', `${verifyHere} \\; ${list};`],
		['after BEGIN of a read-only transaction', `BEGIN READ ONLY; ${verifyHere}; ${list}; COMMIT;`],
	])
		test(`a call ${how} returns the key, does not warn, and is followed by its rows`, async () => {
			assert.deepEqual(await psql(input), { code: 0, out: `${key.keyId}\nanvil\n`, err: '' });
		});

	test('a call in a function of the application’s does not warn, since the function may use the identity', async () => {
		await server.psql(`CREATE FUNCTION items(token text) RETURNS SETOF text LANGUAGE plpgsql AS $$ BEGIN
			PERFORM FROM amt_verify(token, identify => true); RETURN QUERY SELECT item FROM orders; END $$`);
		assert.deepEqual(await psql("SELECT items(:'token');"), { code: 0, out: 'anvil\n', err: '' });
	});

	test('a call with a token that is not valid warns as well', async () => {
		const { out, err } = await psql(`SELECT count(*) FROM amt_verify(:'token' || 'x', identify => true);\n`);
		assert.equal(out, '0\n');
		assert.match(err, new RegExp(`^WARNING:  ${warning}$`, 'm'));
	});

	test('a call without identify does not warn', async () => {
		assert.deepEqual(await psql("SELECT key_id FROM amt_verify(:'token');"), { code: 0, out: `${key.keyId}\n`, err: '' });
	});
});

describe('identify => true through node-postgres', () => {
	const warningsOf = client => {
		const warnings = [];
		client.on('notice', ({ severity, code, message }) => warnings.push([severity, code, message]));
		return warnings;
	};

	for (const [protocol, query] of [
		['simple protocol', (client, sql, values) => client.query(values ? sql.replace('$1', client.escapeLiteral(values[0])) : sql)],
		['extended protocol', (client, text, values) => client.query({ text, values, queryMode: 'extended' })],
		['named statement', (client, text, values) => client.query({ name: text.slice(0, 12), text, values })],
	])
		test(`a call by the ${protocol} warns in autocommit and does not warn in a block`, async () => {
			const client = new pg.Client(server.connectionString('app'));
			const warnings = warningsOf(client);
			await client.connect();
			try {
				for (let i = 0; i < 8; i++) { // also when the plan is one for all calls
					assert.deepEqual((await query(client, verify, [key.token])).rows, [{ key_id: key.keyId }]);
					assert.deepEqual((await query(client, list)).rows, []);
					assert.deepEqual(warnings.splice(0), [['WARNING', '25P01', warning]]);
					await client.query('BEGIN');
					assert.deepEqual((await query(client, verify, [key.token])).rows, [{ key_id: key.keyId }]);
					assert.deepEqual((await query(client, list)).rows, [{ item: 'anvil' }]);
					await client.query('COMMIT');
					assert.deepEqual(warnings, []);
				}
			} finally {
				await client.end();
			}
		});

	test('each connection of a pool in autocommit warns, and no call of anybody sees rows', async () => {
		const pool = new pg.Pool({ connectionString: server.connectionString('app'), max: 3 });
		const warnings = [];
		pool.on('connect', client => client.on('notice', ({ code }) => warnings.push(code)));
		try {
			const calls = 12;
			await Promise.all(Array.from({ length: calls }, async () => {
				assert.equal((await pool.query(verify, [key.token])).rowCount, 1);
				assert.deepEqual((await pool.query(list)).rows, []);
			}));
			assert.deepEqual(warnings, Array(calls).fill('25P01'));

			const client = await pool.connect();
			await client.query('BEGIN');
			await client.query(verify, [key.token]);
			assert.deepEqual((await client.query(list)).rows, [{ item: 'anvil' }]);
			assert.deepEqual((await pool.query(list)).rows, []);
			await client.query('COMMIT');
			assert.deepEqual((await client.query(list)).rows, []);
			client.release();
			assert.equal(warnings.length, calls);
		} finally {
			await pool.end();
		}
	});
});

describe('identify => true through psycopg', () => {
	const program = `
import json, os, psycopg
verify = "SELECT key_id FROM amt_verify(%s, identify => true)"
def run(autocommit):
    warnings = []
    with psycopg.connect(os.environ["DSN"], autocommit=autocommit) as connection:
        connection.add_notice_handler(lambda notice: warnings.append(notice.sqlstate))
        key = connection.execute(verify, [os.environ["TOKEN"]]).fetchall()
        items = connection.execute("SELECT item FROM orders").fetchall()
    return [key, items, warnings]
def block():
    warnings = []
    with psycopg.connect(os.environ["DSN"], autocommit=True) as connection:
        connection.add_notice_handler(lambda notice: warnings.append(notice.sqlstate))
        with connection.transaction():
            key = connection.execute(verify, [os.environ["TOKEN"]]).fetchall()
            items = connection.execute("SELECT item FROM orders").fetchall()
    return [key, items, warnings]
print(json.dumps([run(True), run(False), block()]))
`;

	test('a call warns with autocommit=True, and does not warn with psycopg’s default or in transaction()', async t => {
		// Debian's python has Debian's psycopg.
		const python = '/usr/bin/python3';
		const present = await runProgram(python, ['-c', 'import psycopg'], '').catch(() => ({ code: 1 }));
		if (present.code !== 0)
			return t.skip('there is no psycopg');
		const { code, out, err } = await runProgram(python, ['-c', program], '', { DSN: server.connectionString('app'), TOKEN: key.token });
		assert.deepEqual([code, err], [0, '']);
		const verified = [[key.keyId]];
		assert.deepEqual(JSON.parse(out), [[verified, [], ['25P01']], [verified, [['anvil']], []], [verified, [['anvil']], []]]);
	});
});

describe('a gateway that sets identity and role', () => {
	const asGateway = async action => {
		const client = new pg.Client(server.connectionString('gateway'));
		await client.connect();
		try {
			await client.query('BEGIN');
			return await action(client);
		} finally {
			await client.query('ROLLBACK');
			await client.end();
		}
	};
	const identity = "set_config('amt_keys.org_id', 'acme', true), set_config('amt_keys.role', 'viewer', true)";
	const role = "set_config('role', 'tenant', true)";

	test('a gateway sets the identity first, as the README of examples/nginx says, in one statement or several', async () => {
		assert.match(readFileSync(`${examples}nginx/README.md`, 'utf8'), /`SELECT set_config\('amt_keys.org_id', 'acme', true\), set_config\('amt_keys.role', 'viewer', true\), set_config\('role', 'app', true\)`/);
		for (const statements of [[`SELECT ${identity}, ${role}`], [`SELECT ${identity}`, `SELECT ${role}`], ["SET LOCAL amt_keys.org_id = 'acme'", "SET LOCAL amt_keys.role = 'viewer'", 'SET LOCAL ROLE tenant']])
			await asGateway(async client => {
				for (const sql of statements)
					await client.query(sql);
				assert.deepEqual((await client.query(list)).rows, [{ item: 'anvil' }]);
			});
	});

	const roleFirst = [`SELECT ${role}, ${identity}`, `SELECT ${role}; SELECT ${identity}`, "SET LOCAL ROLE tenant; SET LOCAL amt_keys.org_id = 'acme'"];

	test('a gateway that has set the role first cannot set the identity: 42501', async () => {
		for (const sql of roleFirst)
			await assert.rejects(asGateway(async client => {
				await client.query('SELECT amt_org_id()');
				await client.query(sql);
			}), { code: '42501', message: 'permission denied to set parameter "amt_keys.org_id"' });
	});

	test('a gateway that sets the role first in a session new to the extension is warned later, and sees no rows', async () => {
		for (const sql of roleFirst)
			await asGateway(async client => {
				const warnings = [];
				client.on('notice', ({ code, message }) => warnings.push([code, message]));
				await client.query(sql);
				assert.deepEqual((await client.query(list)).rows, []);
				assert.deepEqual(warnings[0], ['42501', 'permission denied to set parameter "amt_keys.org_id"']);
			});
	});
});

describe('a header that is passed to amt_verify() as it came', () => {
	const count = async text => {
		const client = new pg.Client(server.connectionString('app'));
		await client.connect();
		try {
			return (await client.query('SELECT FROM amt_verify($1)', [text])).rowCount;
		} finally {
			await client.end();
		}
	};

	for (const [what, text] of [['the token', token => token], ['Bearer', token => `Bearer ${token}`], ['bearer', token => `bearer ${token}`], ['two spaces', token => `BEARER  ${token}`]])
		test(`a header with ${what} is one row`, async () => assert.equal(await count(text(key.token)), 1));

	for (const [what, text] of [
		['quotes', token => `Bearer "${token}"`], ['a tab', token => `Bearer\t${token}`], ['a line end behind it', token => `${token}\n`],
		['CR and LF behind it', token => `Bearer ${token}\r\n`], ['a space behind it', token => `${token} `], ['a space before it', token => ` ${token}`],
		['Bearer twice', token => `Bearer Bearer ${token}`], ['ApiKey', token => `ApiKey ${token}`], ['a comma and another', token => `Bearer ${token}, Bearer ${token}`],
		['a wrong end', () => broken],
	])
		test(`a header with ${what} is no row`, async () => assert.equal(await count(text(key.token)), 0));

	test('amt_stat tells a text that is no token from an unknown token and from a wrong one', async () => {
		const rejected = async () => (await server.psql('SELECT rejected_malformed, rejected_unknown, rejected_wrong_secret FROM amt_stat')).split('|').map(Number);
		const difference = async text => {
			const before = await rejected();
			await count(text);
			return (await rejected()).map((n, i) => n - before[i]);
		};
		assert.deepEqual(await difference(`Bearer "${key.token}"`), [1, 0, 0]);
		assert.deepEqual(await difference(`${key.token}\n`), [1, 0, 0]);
		assert.deepEqual(await difference(key.token.replace(key.keyId, 'A'.repeat(12))), [0, 1, 0]);
		assert.deepEqual(await difference(`amt_${key.keyId}_${'x'.repeat(43)}000000`), [0, 0, 1]);
	});
});
