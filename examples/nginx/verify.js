// Answers nginx's auth_request: is the key in the request's headers good, and whose is it?
//
// The database decides; this only carries the question and the answer.  It keeps nothing, so a revoked key is refused at
// the very next request.  nginx lets 2xx through, hands 401 to the client, and makes 500 of everything else, so that a
// database out of reach lets nobody in.
//
// Environment: PGHOST, PGDATABASE, PGUSER and so on as for psql; HOST (127.0.0.1) and PORT (9180) to listen on;
// TOKEN_PREFIXES (amt), the same list as in amt_keys.token_prefixes.

import http from 'node:http';
import pg from 'pg';

const prefixes = (process.env.TOKEN_PREFIXES ?? 'amt').split(',').map(prefix => prefix.trim());

const pool = new pg.Pool({ connectionTimeoutMillis: 2000, query_timeout: 5000 });
pool.on('error', error => console.error(`idle connection: ${error.message}`));

// A header's value is ASCII without control characters, an organization's id is any text: percent-encoded, it cannot
// break out of its header, and an id of letters, digits and hyphens stays as it is.
const header = encodeURIComponent;

// A key comes as X-API-Key or in Authorization.  Both headers may hold something else, for instance another gateway's
// key: the first that begins like a key of ours is the one.  If neither does, the database is asked about Authorization,
// which may be an imported key.
function shownToken({ 'x-api-key': apiKey, authorization }) {
	const tokens = [apiKey, authorization].filter(Boolean).map(value => value.replace(/^(?:bearer|apikey) +/i, ''));
	return tokens.find(token => prefixes.some(prefix => token.startsWith(`${prefix}_`))) ?? tokens.at(-1);
}

async function answer(headers) {
	const token = shownToken(headers);
	if (!token)
		return [401, { 'WWW-Authenticate': 'Bearer realm="api"' }];

	const { rows: [key] } = await pool.query('SELECT key_id, org_id, role, scopes FROM amt.amt_verify($1)', [`Bearer ${token}`]);
	if (!key)
		return [401, { 'WWW-Authenticate': 'Bearer realm="api", error="invalid_token"' }];
	return [204, {
		'X-Amt-Org': header(key.org_id),
		'X-Amt-Role': header(key.role),
		// "all", or "only" and the scopes.  A back end that gets neither must take it for "only".
		'X-Amt-Scopes': key.scopes ? ['only', ...key.scopes].join(' ') : 'all',
		'X-Amt-Key': header(key.key_id),
	}];
}

const server = http.createServer(async (request, response) => {
	try {
		response.writeHead(...await answer(request.headers)).end();
	} catch (error) {
		console.error(`cannot verify: ${error.message}`);
		response.writeHead(503).end();
	}
});

server.listen(process.env.PORT ?? 9180, process.env.HOST ?? '127.0.0.1', () => {
	const { address, port } = server.address();
	console.log(`verifying keys on http://${address}:${port}`);
});
