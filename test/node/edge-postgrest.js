// PostgREST's part of a request, replayed: the transaction that it runs, statement by statement, and an HTTP server
// around that which understands as much of PostgREST's HTTP as examples/postgrest/README.md uses.
//
// The real program is in no registry that this suite may depend on.  The extension sees the SQL only: the
// access mode, one SELECT of set_config() with bind parameters, the pre-request function as the request's role, the main
// query, and which SQLSTATE becomes which status.  This is what PostgREST 13.0.8 and 14.17 send; on PostgreSQL 13 and
// later they send the same.  Left out: both repeat a transaction that fails with 40001 or 40P01, and begin one with the
// default_transaction_isolation of the role, if ALTER ROLE … SET gives it one.

import { createHmac, timingSafeEqual } from 'node:crypto';
import { once } from 'node:events';
import { readFileSync } from 'node:fs';
import http from 'node:http';
import pg from 'pg';

const ident = pg.escapeIdentifier;

/** postgrest.conf as an object. */
export const readConfiguration = file => Object.fromEntries(readFileSync(file, 'utf8').split('\n')
	.map(line => /^([a-z-]+)\s*=\s*"?(.*?)"?$/.exec(line)).filter(Boolean).map(([, name, value]) => [name, value]));

/** Named statements, counted in each session, as PostgREST makes them unless db-prepared-statements is false. */
const names = new WeakMap();

function execute(client, configuration, text, values) {
	if (configuration['db-prepared-statements'] === 'false')
		return client.query({ text, values, queryMode: 'extended' });
	if (!names.has(client))
		names.set(client, new Map());
	const named = names.get(client);
	if (!named.has(text))
		named.set(text, String(named.size));
	return client.query({ name: named.get(text), text, values });
}

/**
 * Runs one request's transaction on a client that is logged in as the authenticator.
 *
 * configuration: what readConfiguration() returns; with roleSettings, as roleSettings() returns them
 * request: { method, path, headers: { name: value }, claims: null or an object (a string goes as it is), role,
 *   main: { text, values }, readOnly, commit }; rawHeaders instead of headers is the text of request.headers itself, and
 *   null sets none.  A list of queries as main runs one after the other.  accept(rows) may throw to have it rolled back.
 * Returns the rows of the (last) main query; an error of the database is thrown after the ROLLBACK.
 */
export async function transaction(client, configuration, request) {
	const { method = 'GET', path = '/', headers = {}, claims = null, main } = request;
	const role = request.role ?? claims?.role ?? configuration['db-anon-role'];
	const readOnly = request.readOnly ?? ['GET', 'HEAD'].includes(method);
	const settings = [
		["'search_path'", `${ident(configuration['db-schemas'])}, "public"`],
		...Object.entries(configuration.roleSettings?.[role] ?? {}).map(([name, value]) => [null, value, name]),
		["'role'", role],
		["'request.jwt.claims'", typeof claims === 'string' ? claims : JSON.stringify({ ...claims, role })],
		["'request.method'", method],
		["'request.path'", path],
		["'request.headers'", 'rawHeaders' in request ? request.rawHeaders : JSON.stringify(headers)],
		["'request.cookies'", '{}'],
	].filter(([, value]) => value !== undefined && value !== null);
	const values = [];
	const parameter = value => `$${values.push(value)}`;
	const setAll = settings.map(([constant, value, name]) => `set_config(${constant ?? parameter(name)}, ${parameter(value)}, true)`);
	const run = (text, values) => execute(client, configuration, text, values);

	await run(`BEGIN ISOLATION LEVEL READ COMMITTED READ ${readOnly ? 'ONLY' : 'WRITE'}`);
	try {
		await run(`select ${setAll.join(', ')}`, values);
		const preRequest = configuration['db-pre-request'];
		if (preRequest)
			await run(`select ${preRequest.split('.').map(ident).join('.')}()`);
		let rows;
		for (const { text, values } of [main].flat())
			({ rows } = await run(text, values));
		request.accept?.(rows);
		await run(request.commit === false ? 'ROLLBACK' : 'COMMIT');
		return rows;
	} catch (error) {
		await client.query('ROLLBACK');
		throw error;
	}
}

const json = "coalesce(json_agg(_postgrest_t), '[]')";
const list = columns => columns.map(ident).join(', ');

const returned = (table, columns) => columns === false ? '1' : columns?.map(name => `${table}.${ident(name)}`).join(', ') ?? `${table}.*`;

/** What the main query of each kind of request looks like.  Lists of columns: null stands for all, false for none. */
export const mainQuery = {
	read: (schema, table, { columns = null, where = {}, order } = {}) => {
		const qualified = `${ident(schema)}.${ident(table)}`;
		const [condition, values] = filter(qualified, where);
		return answer(`SELECT ${returned(qualified, columns)} FROM ${qualified}`
			+ `${condition}${order ? ` ORDER BY ${qualified}.${ident(order)}` : ''}`, json, values);
	},

	insert: (schema, table, body, { returning = null, types = {} } = {}) => {
		const columns = Object.keys(body);
		const qualified = `${ident(schema)}.${ident(table)}`;
		return answer(`INSERT INTO ${qualified}(${list(columns)}) SELECT ${columns.map(name => `pgrst_body.${ident(name)}`).join(', ')}`
			+ ` ${fromBody(columns, types)} RETURNING ${returned(qualified, returning)}`, returning === false ? "''" : json, [JSON.stringify(body)]);
	},

	update: (schema, table, body, where, { returning = null, types = {} } = {}) => {
		const columns = Object.keys(body);
		const qualified = `${ident(schema)}.${ident(table)}`;
		const [condition, values] = filter(qualified, where, [JSON.stringify(body)]);
		return answer(`UPDATE ${qualified} SET ${columns.map(name => `${ident(name)} = pgrst_body.${ident(name)}`).join(', ')}`
			+ ` ${fromBody(columns, types)}${condition} RETURNING ${returned(qualified, returning)}`, returning === false ? "''" : json, values);
	},

	delete: (schema, table, where, { returning = null } = {}) => {
		const qualified = `${ident(schema)}.${ident(table)}`;
		const [condition, values] = filter(qualified, where);
		return answer(`DELETE FROM ${qualified}${condition} RETURNING ${returned(qualified, returning)}`, returning === false ? "''" : json, values);
	},

	/** routine: a row of the catalogue, see routines(). */
	call: (schema, routine, args = {}) => {
		const given = routine.parameters.filter(({ name }) => name in args);
		const call = `${ident(schema)}.${ident(routine.name)}(${given.map(({ name }) => `${ident(name)} := pgrst_body.${ident(name)}`).join(', ')})`;
		const types = Object.fromEntries(given.map(({ name, type }) => [name, type]));
		const body = given.length === 0 ? 'FROM ' : `${fromBody(Object.keys(types), types)}, LATERAL `;
		const source = routine.composite ? `SELECT pgrst_call.* ${body}${call} pgrst_call`
			: `SELECT pgrst_call.pgrst_scalar ${body}(SELECT ${call} pgrst_scalar) pgrst_call`;
		return answer(source, `coalesce(json_agg(_postgrest_t${routine.composite ? '' : '.pgrst_scalar'})${routine.set ? '' : '->0'},`
			+ ` '${routine.set ? '[]' : 'null'}')`, given.length === 0 ? [] : [JSON.stringify(args)]);
	},
};

const fromBody = (columns, types) => `FROM (SELECT $1::json AS json_data) pgrst_payload, LATERAL (SELECT ${list(columns)} FROM`
	+ ` json_to_record(pgrst_payload.json_data) AS _(${columns.map(name => `${ident(name)} ${types[name] ?? 'text'}`).join(', ')})) pgrst_body`;

/** WHERE for equality, or IS NULL, with its parameters behind those given. */
function filter(table, where, values = []) {
	const terms = Object.entries(where).map(([name, value]) => value === null ? `${table}.${ident(name)} IS NULL`
		: `${table}.${ident(name)} = $${(values = [...values, value]).length}`);
	return [terms.length ? ` WHERE ${terms.join(' AND ')}` : '', values];
}

const answer = (source, body, values = []) => ({
	text: `WITH pgrst_source AS (${source}) SELECT '' AS total_result_set, pg_catalog.count(_postgrest_t) AS page_total,`
		+ ` (${body})::text AS body, nullif(current_setting('response.headers', true), '') AS response_headers,`
		+ " nullif(current_setting('response.status', true), '') AS response_status"
		+ ' FROM (SELECT * FROM pgrst_source) _postgrest_t',
	values,
});

/** What ALTER ROLE … SET says for the roles that the client's user may become.  PostgREST sets it before the role. */
export async function roleSettings(client) {
	const { rows } = await client.query(`
		SELECT r.rolname AS role, json_object_agg(split_part(s, '=', 1), substr(s, strpos(s, '=') + 1)) AS settings
		FROM pg_auth_members m JOIN pg_roles r ON r.oid = m.roleid, unnest(r.rolconfig) s
		JOIN pg_settings ps ON ps.name = split_part(s, '=', 1) AND (ps.context = 'user' OR has_parameter_privilege(ps.name, 'SET'))
		WHERE m.member = current_user::regrole GROUP BY r.rolname`);
	return Object.fromEntries(rows.map(({ role, settings }) => [role, settings]));
}

/** The schema cache: types of columns by table. */
export async function columnTypes(client, schema) {
	const { rows } = await client.query(`
		SELECT c.relname AS name, json_object_agg(a.attname, format_type(a.atttypid, a.atttypmod)) AS types
		FROM pg_class c JOIN pg_attribute a ON a.attrelid = c.oid AND a.attnum > 0 AND NOT a.attisdropped
		WHERE c.relnamespace = $1::regnamespace AND c.relkind IN ('r', 'v', 'm', 'f', 'p') GROUP BY c.relname`, [schema]);
	return new Map(rows.map(({ name, types }) => [name, types]));
}

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
	const exact = { '23503': 409, '23505': 409, '25006': 405, '21000': 500, '53400': 500, '57P01': 503, 'P0001': 400, '42883': 404, '42P01': 404, '42P17': 500 };
	const classes = {
		'08': 503, '09': 500, '0L': 403, '0P': 403, '25': 500, '28': 403, '2D': 500, '38': 500, '39': 500, '3B': 500, '40': 500,
		'53': 503, '54': 500, '55': 500, '57': 500, '58': 500, 'F0': 500, 'HV': 500, 'P0': 500, 'XX': 500,
	};
	if (code.startsWith('PT'))
		return Number(code.slice(2));
	if (code === '42501')
		return anonymous ? 401 : 403;
	if (code === '22023' && /^role .* does not exist$/s.test(message))
		return 401;
	return exact[code] ?? classes[code.slice(0, 2)] ?? 400;
}

/** An HTTP server in PostgREST's place. */
export async function startPostgrest({ connectionString, configuration, jwtSecret, port = 0 }) {
	const pool = new pg.Pool({ connectionString, max: 4 });
	const schema = configuration['db-schemas'];
	const functions = await routines(pool, schema);
	const types = await columnTypes(pool, schema);
	configuration = { ...configuration, roleSettings: await roleSettings(pool) };

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
		const prefer = request.headers.prefer ?? '';
		const returning = /return=representation/.test(prefer);
		const routine = first === 'rpc' && functions.get(name);
		if (first === 'rpc' && !routine)
			return failure(404, { code: 'PGRST202', details: null, hint: null, message: `Could not find the function ${schema}.${name}` });
		if (first !== 'rpc' && !types.has(first))
			return failure(404, { code: 'PGRST205', details: null, hint: null, message: `Could not find the table '${schema}.${first}' in the schema cache` });
		const { where, columns, order } = readQuery(url.searchParams);
		const options = { returning: returning && columns, types: types.get(first) };
		const main = routine ? mainQuery.call(schema, routine, body ? JSON.parse(body) : Object.fromEntries(url.searchParams))
			: request.method === 'POST' ? mainQuery.insert(schema, first, JSON.parse(body), options)
				: request.method === 'PATCH' ? mainQuery.update(schema, first, JSON.parse(body), where, options)
					: request.method === 'DELETE' ? mainQuery.delete(schema, first, where, options)
						: mainQuery.read(schema, first, { columns, where, order });

		const client = await pool.connect();
		try {
			const [{ body: content }] = await transaction(client, configuration, {
				method: request.method, path: url.pathname, headers: request.headers, claims, main,
				readOnly: routine && !routine.volatile ? true : undefined,
				accept: ([{ page_total: total }]) => checkRows(request, prefer, Number(total)),
			});
			const single = /vnd.pgrst.object/.test(request.headers.accept ?? '');
			if (routine || request.method === 'GET' || returning)
				return { status: !routine && request.method === 'POST' ? 201 : 200, content: single ? JSON.stringify(JSON.parse(content)[0]) : content };
			return { status: request.method === 'POST' ? 201 : 204, content: '' };
		} catch (error) {
			const { code, detail = null, hint = null, message } = error;
			if (error.answer)
				return error.answer;
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

/** select, order and filters of equality in a query string. */
function readQuery(parameters) {
	const where = {};
	for (const [name, value] of parameters) {
		if (name === 'select' || name === 'order')
			continue;
		const [, operator, operand] = /^(eq|is)\.(.*)$/s.exec(value) ?? [];
		if (!operator || (operator === 'is' && operand !== 'null'))
			throw new Error(`the replay knows no filter ${name}=${value}`);
		where[name] = operator === 'is' ? null : operand;
	}
	const select = parameters.get('select');
	return { where, columns: select?.split(',') ?? null, order: parameters.get('order') };
}

/** What PostgREST asks of the number of rows before it commits. */
function checkRows({ headers, method }, prefer, rows) {
	const refuse = (status, content) => {
		throw Object.assign(new Error(content.message), { answer: failure(status, content) });
	};
	if (/vnd.pgrst.object/.test(headers.accept ?? '') && rows !== 1)
		refuse(406, { code: 'PGRST116', details: `The result contains ${rows} rows`, hint: null, message: 'Cannot coerce the result to a single JSON object' });
	const [, most] = /max-affected=(\d+)/.exec(prefer) ?? [];
	if (most !== undefined && /handling=strict/.test(prefer) && ['PATCH', 'DELETE'].includes(method) && rows > Number(most))
		refuse(400, { code: 'PGRST124', details: `The query affects ${rows} rows`, hint: null, message: 'Query result exceeds max-affected preference constraint' });
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
