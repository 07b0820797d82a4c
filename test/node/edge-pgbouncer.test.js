// PgBouncer in transaction mode: a session serves one client's transaction after another's, so whatever outlives a
// transaction would be seen by a stranger.  200 clients share 8 sessions; keys of 50 organizations come interleaved with
// transactions that show no key at all.
//
// Prepared statements: a named statement survives between a client's transactions only from PgBouncer 1.21 on, which
// tracks them (max_prepared_statements).  Before that the extended protocol works with unnamed statements, which is what
// drivers are told to use there.  Both, and the simple protocol, are run; named ones are skipped where they cannot work.

import assert from 'node:assert/strict';
import { after, before, test } from 'node:test';
import pg from 'pg';
import { startPgBouncer } from './edge-support.js';
import { startServer } from './server.js';

const clients = 200;
const sessions = 8;
const organizations = 50;
const rounds = 10;

let server, bouncer, keys;

before(async () => {
	server = await startServer({ settings: { max_connections: 30 } });
	await server.psql(`
		CREATE ROLE app LOGIN;
		GRANT EXECUTE ON FUNCTION amt_verify TO app;
		CREATE TABLE document (org_id text NOT NULL, title text NOT NULL);
		INSERT INTO document SELECT 'org-' || o, 'document of org-' || o FROM generate_series(1, ${organizations}) o, generate_series(1, 3);
		ALTER TABLE document ENABLE ROW LEVEL SECURITY;
		CREATE POLICY own ON document USING (org_id = amt_org_id());
		GRANT SELECT ON document TO app;`);
	const admin = new pg.Client(server.connectionString());
	await admin.connect();
	await admin.query('SET amt_keys.scrypt_ln = 4');
	({ rows: keys } = await admin.query(`
		SELECT k.* FROM generate_series(1, $1) o, amt_create_key('key of ' || o, 'org-' || o, 'viewer') k`, [organizations]));
	await admin.end();
	bouncer = await startPgBouncer({ server, poolSize: sessions, clients });
});

after(async () => {
	await bouncer?.stop();
	await server?.stop();
});

const protocols = {
	'simple protocol': (client, text, values = []) =>
		client.query(values.reduce((sql, value, i) => sql.replace(`$${i + 1}`, client.escapeLiteral(value)), text)),
	'extended protocol, unnamed statements': (client, text, values = []) => client.query({ text, values, queryMode: 'extended' }),
	'extended protocol, named statements': (client, text, values = []) =>
		client.query({ name: `statement ${text.length} ${text.slice(0, 30)}`, text, values }),
};

const seen = `SELECT pg_backend_pid() AS session, amt_org_id() AS organization, amt_role() AS role, amt_actor() AS actor, amt_key_id() AS key,
	(SELECT coalesce(array_agg(DISTINCT title), '{}') FROM document) AS titles`;

const expected = key => key === null
	? { organization: null, role: null, actor: null, key: null, titles: [] }
	: { organization: key.org_id, role: 'viewer', actor: null, key: key.key_id, titles: [`document of ${key.org_id}`] };

for (const [protocol, query] of Object.entries(protocols))
	test(`${clients} clients on ${sessions} sessions see no identity but their own: ${protocol}`, async context => {
		if (/ named/.test(protocol) && !bouncer.tracksStatements)
			return context.skip(`PgBouncer ${bouncer.version} has no named statements in transaction mode`);

		const pids = new Set();
		let transactions = 0;

		/** One transaction: a key or none, sometimes rolled back, with a pause that lets the others in between. */
		const transaction = async (client, key, n) => {
			await query(client, n % 3 === 0 ? 'BEGIN READ ONLY' : 'BEGIN');
			if (key !== null) {
				const { rows } = await query(client, 'SELECT org_id FROM amt_verify($1, identify => true)', [key.token]);
				assert.deepEqual(rows, [{ org_id: key.org_id }]);
			}
			for (let look = 0; look < 2; look++) {
				const { rows: [{ session, ...what }] } = await query(client, seen);
				pids.add(session);
				assert.deepEqual(what, expected(key));
			}
			await query(client, n % 5 === 0 ? 'ROLLBACK' : 'COMMIT');
			transactions++;
		};

		await Promise.all(Array.from({ length: clients }, async (_, number) => {
			const client = new pg.Client({ host: '127.0.0.1', port: bouncer.port, user: 'app', database: 'app' });
			await client.connect();
			try {
				for (let n = 0; n < rounds; n++) {
					const which = (number * 7 + n * 13) % (organizations + 10);
					await transaction(client, keys[which] ?? null, number + n);
					// Outside of a transaction block too, on whichever session comes next.
					const { rows: [{ session, ...what }] } = await query(client, seen);
					pids.add(session);
					assert.deepEqual(what, expected(null));
				}
			} finally {
				await client.end();
			}
		}));
		assert.equal(transactions, clients * rounds);
		assert.equal(pids.size, sessions, 'all sessions, and no more, took part');
	});
