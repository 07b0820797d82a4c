// Puts the parts together: the MCP endpoint, and beside it the settings page where people manage its keys.
// The two have a connection pool each, as different database roles, because they may do different things (schema.sql).

import { hostHeaderValidation, originValidation } from '@modelcontextprotocol/express';
import express from 'express';
import pg from 'pg';
import { demoSignIn } from './demo-sign-in.js';
import { mcpEndpoint } from './mcp.js';
import { settings } from './settings.js';

const { PORT = '8082', HOSTS = 'localhost,127.0.0.1,[::1]', DATABASE_URL, GATEWAY_DATABASE_URL } = process.env;
const hosts = HOSTS.split(',');

if (!DATABASE_URL) {
	console.error('Set DATABASE_URL, and GATEWAY_DATABASE_URL for the settings page: see README.md.');
	process.exit(1);
}

function connect(connectionString) {
	const pool = new pg.Pool({ connectionString, connectionTimeoutMillis: 5000 });
	// Without a listener, a connection that breaks while idle ends the process.
	pool.on('error', error => console.error(`database: ${error.message}`));
	return pool;
}

const app = express();
app.disable('x-powered-by');
app.use((req, res, next) => {
	res.set({
		'Cache-Control': 'no-store',
		'Content-Security-Policy': "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self'; "
			+ "connect-src 'self'; form-action 'self'; base-uri 'none'; frame-ancestors 'none'",
		'Cross-Origin-Opener-Policy': 'same-origin',
		'Cross-Origin-Resource-Policy': 'same-origin',
		'Referrer-Policy': 'same-origin',
		'X-Content-Type-Options': 'nosniff',
	});
	next();
});

// No other web site may use a visitor's browser against this server, neither under a name of its own for this address
// (DNS rebinding) nor by a script.  MCP demands it, and the settings page wants it too.
app.use(hostHeaderValidation(hosts), originValidation(hosts));

app.all('/api/mcp', mcpEndpoint(connect(DATABASE_URL)));

// After a 401, clients look here for an OAuth server.  Some show the answer to the person, so it says what to do.
app.all(['/.well-known/{*path}', '/api/mcp/.well-known/{*path}', '/register', '/authorize', '/token'], (req, res) =>
	res.status(404).json({
		error: 'not_found',
		error_description: 'This server takes API keys and has no OAuth. A key that it refuses is unknown, revoked, suspended or '
			+ 'expired, or lacks a role or scope.',
	}));

if (GATEWAY_DATABASE_URL)
	app.use(demoSignIn(), settings(connect(GATEWAY_DATABASE_URL)));

app.use((error, req, res, next) => {
	const status = error.status ?? 500;
	if (status >= 500)
		console.error(error.message);
	if (res.headersSent)
		return next(error);
	res.status(status).json({ error: status >= 500 ? 'The server failed. Try again.' : error.message });
});

// Loopback only: the demo's sign-in asks for no password.
const listener = app.listen(Number(PORT), '127.0.0.1', error => {
	if (error)
		throw error;
	console.log(`Listening on http://127.0.0.1:${listener.address().port} (/api/mcp${GATEWAY_DATABASE_URL ? ', /settings/api-keys' : ''})`);
});
for (const signal of ['SIGINT', 'SIGTERM'])
	process.once(signal, () => process.exit(0));
