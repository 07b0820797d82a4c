// PostgREST's part of a request, replayed: the transaction that it runs, statement by statement, and an HTTP server
// around that which understands as much of PostgREST's HTTP as examples/postgrest/README.md uses.
//
// The real program is in no registry that this suite may depend on.  What matters to the extension is the SQL: the
// access mode, one SELECT of set_config() with bind parameters, the pre-request function as the request's role, the main
// query, and which SQLSTATE becomes which status.  This follows PostgREST 13.

import { createHmac, timingSafeEqual } from 'node:crypto';
import { once } from 'node:events';
import { readFileSync } from 'node:fs';
import http from 'node:http';
import pg from 'pg';

const ident = pg.escapeIdentifier;

/** postgrest.conf as an object. */
export const readConfiguration = file => Object.fromEntries(readFileSync(file, 'utf8').split('\n')
	.map(line => /^([a-z-]+)\s*=\s*"?(.*?)"?$/.exec(line)).filter(Boolean).map(([, name, value]) => [name, value]));

/**
 * Runs one request's transaction on a client that is logged in as the authenticator.
 *
 * request: { method, path, headers: { name: value }, claims: null or an object (a string goes as it is), role,
 *   main: { text, values }, readOnly, commit }; rawHeaders instead of headers is the text of request.headers itself, and
 *   null sets none.  A list of queries as main runs one after the other.
 * Returns the rows of the (last) main query; an error of the database is thrown after the ROLLBACK.
 */
export async function transaction(client, configuration, request) {
	const { method = 'GET', path = '/', headers = {}, claims = null, main } = request;
	const role = request.role ?? claims?.role ?? configuration['db-anon-role'];
	const readOnly = request.readOnly ?? ['GET', 'HEAD'].includes(method);
	const settings = {
		search_path: `${ident(configuration['db-schemas'])}, "public"`,
		role,
		'request.jwt.claims': typeof claims === 'string' ? claims : JSON.stringify({ ...claims, role }),
		'request.method': method,
		'request.path': path,
		'request.headers': 'rawHeaders' in request ? request.rawHeaders : JSON.stringify(headers),
		'request.cookies': '{}',
	};
	const present = Object.entries(settings).filter(([, value]) => value !== undefined && value !== null);

	await client.query(`BEGIN ISOLATION LEVEL READ COMMITTED READ ${readOnly ? 'ONLY' : 'WRITE'}`);
	try {
		await client.query(`select ${present.map(([name], i) => `set_config('${name}', $${i + 1}, true)`).join(', ')}`,
			present.map(([, value]) => value));
		const preRequest = configuration['db-pre-request'];
		if (preRequest)
			await client.query(`select ${preRequest.split('.').map(ident).join('.')}()`);
		let rows;
		for (const { text, values } of [main].flat())
			({ rows } = await client.query(text, values));
		await client.query(request.commit === false ? 'ROLLBACK' : 'COMMIT');
		return rows;
	} catch (error) {
		await client.query('ROLLBACK');
		throw error;
	}
}

/** What the main query of each kind of request looks like. */
export const mainQuery = {
	read: (schema, table, { columns = '*', order } = {}) => answer(
		`SELECT ${columns === '*' ? `${ident(schema)}.${ident(table)}.*` : columns.split(',').map(ident).join(', ')}`
		+ ` FROM ${ident(schema)}.${ident(table)}${order ? ` ORDER BY ${ident(order)}` : ''}`, "coalesce(json_agg(_postgrest_t), '[]')"),

	insert: (schema, table, values, returning = true) => {
		const columns = Object.keys(values).map(ident);
		const body = `FROM (SELECT $1::json AS json_data) pgrst_payload, LATERAL (SELECT ${columns.join(', ')}`
			+ ` FROM json_to_record(pgrst_payload.json_data) AS _(${columns.map(name => `${name} text`).join(', ')})) pgrst_body`;
		return answer(`INSERT INTO ${ident(schema)}.${ident(table)}(${columns.join(', ')})`
			+ ` SELECT ${columns.map(name => `pgrst_body.${name}`).join(', ')} ${body}`
			+ ` RETURNING ${returning ? `${ident(schema)}.${ident(table)}.*` : '1'}`,
		returning ? "coalesce(json_agg(_postgrest_t), '[]')" : "''", [JSON.stringify(values)]);
	},

	/** routine: a row of the catalogue, see routines(). */
	call: (schema, routine, args = {}) => {
		const given = routine.parameters.filter(({ name }) => name in args);
		const call = `${ident(schema)}.${ident(routine.name)}(${given.map(({ name }) => `${ident(name)} := pgrst_body.${ident(name)}`).join(', ')})`;
		const body = given.length === 0 ? '' : '(SELECT $1::json AS json_data) pgrst_payload, LATERAL (SELECT * FROM'
			+ ` json_to_record(pgrst_payload.json_data) AS _(${given.map(({ name, type }) => `${ident(name)} ${type}`).join(', ')})) pgrst_body, LATERAL `;
		const scalar = !routine.composite;
		return answer(scalar ? `SELECT pgrst_call.pgrst_scalar FROM ${body}(SELECT ${call} pgrst_scalar) pgrst_call`
			: `SELECT pgrst_call.* FROM ${body}${call} pgrst_call`,
		`coalesce(json_agg(_postgrest_t${scalar ? '.pgrst_scalar' : ''})${routine.set ? '' : '->0'}, '${routine.set ? '[]' : 'null'}')`,
		given.length === 0 ? [] : [JSON.stringify(args)]);
	},
};

const answer = (source, body, values = []) => ({
	text: `WITH pgrst_source AS (${source}) SELECT pg_catalog.count(_postgrest_t) AS page_total, (${body})::text AS body`
		+ ' FROM (SELECT * FROM pgrst_source) _postgrest_t',
	values,
});

/** The schema cache: functions of the exposed schema by name. */
export async function routines(client, schema) {
	const { rows } = await client.query(`
		SELECT p.proname AS name, p.proretset AS set, p.provolatile = 'v' AS volatile,
			t.typtype = 'c' OR t.oid = 'record'::regtype AS composite,
			(SELECT coalesce(json_agg(json_build_object('name', a.name, 'type', format_type(a.type, NULL)) ORDER BY a.n), '[]')
			 FROM unnest(p.proargnames, coalesce(p.proallargtypes, p.proargtypes::oid[]), p.proargmodes)
				WITH ORDINALITY AS a(name, type, mode, n)
			 WHERE coalesce(a.mode, 'i') IN ('i', 'b')) AS parameters
		FROM pg_proc p JOIN pg_type t ON t.oid = p.prorettype
		WHERE p.pronamespace = $1::regnamespace`, [schema]);
	return new Map(rows.map(row => [row.name, row]));
}

/** The status that PostgREST makes of an SQLSTATE; anonymous: the request carried no JWT. */
export function statusOf({ code, message }, anonymous) {
	if (code.startsWith('PT'))
		return Number(code.slice(2));
	if (code === '42501')
		return anonymous ? 401 : 403;
	if (code === '22023' && /^role .* does not exist$/.test(message))
		return 401;
	return { '25006': 405, '42883': 404, '42P01': 404, '23505': 409 }[code] ?? (/^28|^0[LP]/.test(code) ? 403 : /^2[25]0|^P0001|^4[12]|^22/.test(code) ? 400 : 500);
}

/** An HTTP server in PostgREST's place. */
export async function startPostgrest({ connectionString, configuration, jwtSecret, port = 0 }) {
	const pool = new pg.Pool({ connectionString, max: 4 });
	const schema = configuration['db-schemas'];
	const functions = await routines(pool, schema);

	const server = http.createServer(async (request, response) => {
		let body = '';
		for await (const chunk of request.setEncoding('utf8'))
			body += chunk;
		const { status, reason, headers, content } = await handle(request, body);
		response.writeHead(status, reason ?? http.STATUS_CODES[status], { 'Content-Type': 'application/json; charset=utf-8', ...headers });
		response.end(content);
	});

	async function handle(request, body) {
		const claims = checkJwt(request.headers.authorization, jwtSecret);
		if (claims === false)
			return failure(401, { code: 'PGRST301', details: null, hint: null, message: 'JWT cryptographic operation failed' },
				'Bearer error="invalid_token", error_description="JWT cryptographic operation failed"');

		const url = new URL(request.url, 'http://localhost');
		const [, first, name] = url.pathname.split('/');
		const representation = /return=representation/.test(request.headers.prefer ?? '');
		const routine = first === 'rpc' && functions.get(name);
		if (first === 'rpc' && !routine)
			return failure(404, { code: 'PGRST202', details: null, hint: null, message: `Could not find the function ${schema}.${name}` });
		if (routine?.volatile && request.method === 'GET')
			return failure(405, { code: 'PGRST101', details: null, hint: null, message: 'Cannot use the GET method on RPC' });
		const main = routine ? mainQuery.call(schema, routine, body ? JSON.parse(body) : Object.fromEntries(url.searchParams))
			: request.method === 'POST' ? mainQuery.insert(schema, first, JSON.parse(body), representation)
				: mainQuery.read(schema, first, { columns: url.searchParams.get('select') ?? '*', order: url.searchParams.get('order') });

		const client = await pool.connect();
		try {
			const [{ body: content }] = await transaction(client, configuration, {
				method: request.method, path: url.pathname, headers: request.headers, claims, main,
				readOnly: routine ? !routine.volatile : undefined,
			});
			return { status: !routine && request.method === 'POST' ? 201 : 200, content };
		} catch (error) {
			const { code, detail = null, hint = null, message } = error;
			if (!code)
				throw error;
			const status = statusOf(error, claims === null);
			const answer = failure(status, { code, details: detail, hint, message }, status === 401 ? 'Bearer' : undefined);
			// The message goes into the status line as it is, which is why it must hold nothing of the client's.
			return code.startsWith('PT') ? { ...answer, reason: message } : answer;
		} finally {
			client.release();
		}
	}

	server.listen(port, '127.0.0.1');
	await once(server, 'listening');
	return {
		port: server.address().port,
		stop: async () => {
			await new Promise(resolve => {
				server.close(resolve);
				server.closeAllConnections();
			});
			await pool.end();
		},
	};
}

const failure = (status, content, challenge) =>
	({ status, headers: challenge ? { 'WWW-Authenticate': challenge } : {}, content: JSON.stringify(content) });

/** The claims of a bearer token; null without one, false if it is bad. */
function checkJwt(authorization, secret) {
	const [, token] = /^bearer\s+(.*)$/i.exec(authorization ?? '') ?? [];
	if (token === undefined)
		return null;
	const [head, payload, signature, ...more] = token.split('.');
	const expected = createHmac('sha256', secret).update(`${head}.${payload}`).digest();
	const actual = Buffer.from(signature ?? '', 'base64url');
	if (more.length || actual.length !== expected.length || !timingSafeEqual(actual, expected))
		return false;
	return JSON.parse(Buffer.from(payload, 'base64url'));
}
