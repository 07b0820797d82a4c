// Answers nginx's auth_request: is the key in the Authorization header good, and whose is it?
//
// The database decides; this only carries the question and the answer.  It keeps nothing, so a revoked key is refused at
// the very next request.  nginx lets 2xx through, hands 401 to the client, and makes 500 of everything else, so that a
// database out of reach lets nobody in.
//
// Environment: PGHOST, PGDATABASE, PGUSER and so on as for psql; HOST (127.0.0.1) and PORT (9180) to listen on.

import http from 'node:http';
import pg from 'pg';

const pool = new pg.Pool({ connectionTimeoutMillis: 2000, query_timeout: 5000 });
pool.on('error', error => console.error(`idle connection: ${error.message}`));

// A header's value is ASCII without control characters, an organization's id is any text: percent-encoded, it cannot
// break out of its header, and an id of letters, digits and hyphens stays as it is.
const header = encodeURIComponent;

async function answer(authorization) {
	if (!authorization)
		return [401, { 'WWW-Authenticate': 'Bearer realm="api"' }];

	const { rows: [key] } = await pool.query('SELECT key_id, org_id, role FROM amt_verify($1)', [authorization]);
	if (!key)
		return [401, { 'WWW-Authenticate': 'Bearer realm="api", error="invalid_token"' }];
	return [204, { 'X-Amt-Org': header(key.org_id), 'X-Amt-Role': header(key.role), 'X-Amt-Key': header(key.key_id) }];
}

const server = http.createServer(async (request, response) => {
	try {
		response.writeHead(...await answer(request.headers.authorization)).end();
	} catch (error) {
		console.error(`cannot verify: ${error.message}`);
		response.writeHead(503).end();
	}
});

server.listen(process.env.PORT ?? 9180, process.env.HOST ?? '127.0.0.1', () => {
	const { address, port } = server.address();
	console.log(`verifying keys on http://${address}:${port}`);
});
