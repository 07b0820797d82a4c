// Verification by @better-auth/api-key beside amt_verify, from one Node process.
//
//	node compare.js ROUNDS SECONDS CONCURRENCY THEIRS OURS TOKENS
//
// THEIRS and OURS are databases of the server that libpq's environment names;
// TOKENS is a file with warm keys of OURS. Better Auth is set up as its
// documentation says for PostgreSQL: a pool of node-postgres, which it drives
// through Kysely, tables by its own migration, keys hashed (its default, SHA-256),
// in the database, verified by auth.api.verifyApiKey(). One thing is changed:
// rate limiting is off, since it would refuse the eleventh call of a day and
// amt_verify has none. Both have as many keys, drawn at random, and as many
// connections.
//
// They write twice at each verification, and wait for the disk. So that nobody
// has to wonder what is left without the disk, they are measured a second time
// with synchronous_commit off.
//
// Prints one line for each round: their verifications a second, theirs without
// waiting for the disk, ours.
import { createHash, randomBytes } from 'node:crypto';
import { readFileSync } from 'node:fs';
import { apiKey } from '@better-auth/api-key';
import { betterAuth } from 'better-auth';
import { getMigrations } from 'better-auth/db/migration';
import pg from 'pg';

const [rounds, seconds, concurrency] = process.argv.slice(2, 5).map(Number);
const [theirDatabase, ourDatabase, tokensFile] = process.argv.slice(5);

const tokens = readFileSync(tokensFile, 'utf8').trim().split('\n');
const theirPool = new pg.Pool({ database: theirDatabase, max: concurrency });
const hastyPool = new pg.Pool({ database: theirDatabase, max: concurrency, options: '-c synchronous_commit=off' });
const ourPool = new pg.Pool({ database: ourDatabase, max: concurrency });

const secret = randomBytes(32).toString('hex');
const optionsOn = database => ({
	database,
	secret,
	baseURL: 'http://localhost:3000',
	logger: { disabled: true },
	telemetry: { enabled: false },
	emailAndPassword: { enabled: true },
	plugins: [apiKey({ rateLimit: { enabled: false } })]
});
const { runMigrations } = await getMigrations(optionsOn(theirPool));
await runMigrations();
const auth = betterAuth(optionsOn(theirPool));
const hastyAuth = betterAuth(optionsOn(hastyPool));

// One key is made by the library; the others are copies of its row with a hash
// of their own, which takes a second instead of minutes.
async function theirKeys(count) {
	const { user } = await auth.api.signUpEmail({
		body: { name: 'bench', email: `bench-${Date.now()}@example.com`, password: randomBytes(16).toString('hex') }
	});
	const first = await auth.api.createApiKey({ body: { name: 'bench', userId: user.id } });
	const keys = Array.from({ length: count - 1 }, () => randomBytes(48).toString('base64url'));
	const hashes = keys.map(key => createHash('sha256').update(key).digest('base64url'));
	const { rows } = await theirPool.query('SELECT * FROM apikey WHERE id = $1', [first.id]);
	const columns = Object.keys(rows[0]).map(name => `"${name}"`);
	const values = columns.map(name => name === '"id"' ? 'gen_random_uuid()::text' : name === '"key"' ? 'h' : `k.${name}`);
	await theirPool.query(
		`INSERT INTO apikey (${columns}) SELECT ${values} FROM apikey AS k, unnest($2::text[]) AS h WHERE k.id = $1`,
		[first.id, hashes]);
	await theirPool.query('VACUUM ANALYZE apikey');
	return [first.key, ...keys];
}

const verifyBy = auth => async key => (await auth.api.verifyApiKey({ body: { key } })).valid;
const verifyTheirs = verifyBy(auth);
const verifyHasty = verifyBy(hastyAuth);

async function verifyOurs(token) {
	const { rows } = await ourPool.query({ name: 'verify', text: 'SELECT * FROM amt_verify($1)', values: [token] });
	return rows.length === 1;
}

const draw = list => list[Math.floor(Math.random() * list.length)];

// Verifications a second by so many callers, each waiting for its answer.
async function measure(verify, list, seconds) {
	const end = performance.now() + seconds * 1000;
	let done = 0;
	await Promise.all(Array.from({ length: concurrency }, async () => {
		for (;;) {
			if (!await verify(draw(list)))
				throw new Error('a good key was refused');
			if (performance.now() >= end)
				return;
			done++;
		}
	}));
	return done / seconds;
}

const keys = await theirKeys(tokens.length);
if (await verifyTheirs('x'.repeat(64)) || await verifyOurs(tokens[0].slice(0, -1) + '_'))
	throw new Error('a bad key was accepted');

const sides = [[verifyTheirs, keys], [verifyHasty, keys], [verifyOurs, tokens]];
for (const [verify, list] of sides)
	await measure(verify, list, 0.5);
for (let round = 0; round < rounds; round++) {
	const rates = [];
	// The first one changes from round to round, so that a drift favours nobody.
	for (const i of round % 2 ? [2, 1, 0] : [0, 1, 2])
		rates[i] = (await measure(...sides[i], seconds)).toFixed(1);
	console.log(...rates);
}
await Promise.all([theirPool.end(), hastyPool.end(), ourPool.end()]);
