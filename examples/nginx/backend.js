// A back end to try the recipe with: it knows nothing of keys, and says who nginx told it is calling.
//
// Environment: PORT (9000).

import http from 'node:http';

const told = value => value === undefined ? null : decodeURIComponent(value);

http.createServer((request, response) => {
	const { headers } = request;
	response.setHeader('Content-Type', 'application/json');
	response.end(JSON.stringify({
		organization: told(headers['x-amt-org']),
		role: told(headers['x-amt-role']),
		scopes: headers['x-amt-scopes'] ?? null,
		key: told(headers['x-amt-key']),
	}) + '\n');
}).listen(process.env.PORT ?? 9000, '127.0.0.1');
