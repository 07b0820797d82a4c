// The MCP endpoint.
//
// One HTTP request is one transaction, and the transaction's first statement is amt_verify().  That single call decides
// between an answer and a 401, counts the call, and makes the key's organization, role and scopes the transaction's
// identity, so that row-level security holds for everything the tools do.  Nothing is looked up twice and nothing can
// happen in between.  The identity ends with the transaction, so a pooled connection never carries it further.

import { createMcpHandler, McpServer, requireScopes } from '@modelcontextprotocol/server';
import express from 'express';
import * as z from 'zod';
import { ROLES, SCOPES } from './roles.js';
import { transaction } from './transaction.js';

/** Express handlers for the endpoint; pool connects as a role that may execute amt_verify() and use the table notes. */
export function mcpEndpoint(pool) {
	// A subscription would keep its request, and with it a connection to the database, open: there are none.
	const mcp = createMcpHandler(({ authInfo }) => notesServer(authInfo.extra.db), { maxSubscriptions: 0 });

	// Without sessions there is nothing to GET or DELETE, whoever asks.
	const postOnly = (req, res, next) =>
		req.method === 'POST' ? next() : res.status(405).set('Allow', 'POST').json({ error: 'method_not_allowed' });

	const answer = async (req, res) => {
		const token = tokenOf(req);
		const answered = token && await withKey(pool, token, async (db, key) => {
			if (Array.isArray(req.body))
				return Response.json({ error: 'JSON-RPC batches are not supported' }, { status: 400 });

			const response = await mcp.fetch(
				new Request(new URL(req.originalUrl, 'http://localhost'), { method: req.method, headers: req.headers }),
				{ parsedBody: req.body, authInfo: { clientId: key.key_id, scopes: scopesOf(key), extra: { db } } });
			// Read to the end, so that the tools are done and the transaction can commit before the client hears of it.
			return new Response(await response.text() || null, response);
		});

		if (!answered)
			return refuse(res, token);
		res.status(answered.status).set(Object.fromEntries(answered.headers)).send(await answered.text());
	};

	return [postOnly, express.json({ limit: '1mb' }), answer];
}

/** X-API-Key, or Authorization as "Bearer …" or the bare token; undefined if there is none, or another scheme's. */
const tokenOf = req => req.get('x-api-key') || /^(Bearer .*|\S+)$/i.exec(req.get('authorization') ?? '')?.[0];

/** What a key may do, in the one list that MCP has for it: each role up to the key's own, and its scopes. */
export const scopesOf = ({ role, scopes }) => [...ROLES.slice(0, ROLES.indexOf(role) + 1), ...scopes ?? SCOPES];

/** 401.  RFC 6750 wants an error code only where there was a token.  No resource_metadata: there is no OAuth here. */
function refuse(res, token) {
	const error = token ? 'invalid_token' : undefined;
	res.status(401)
		.set('WWW-Authenticate', `Bearer realm="notes"${error ? `, error="${error}"` : ''}, scope="${SCOPES.join(' ')}"`)
		.json(error ? { error, error_description: 'The API key is not valid: unknown, revoked, suspended or expired.' }
			: { error: 'unauthorized', error_description: 'Send an API key: Authorization: Bearer …' });
}

/** Runs work(db, key) in a transaction with the key's identity; without a good key, runs nothing and returns undefined. */
const withKey = (pool, token, work) => transaction(pool, async db => {
	const { rows: [key] } = await db.query('SELECT * FROM amt.amt_verify($1, identify => true)', [token]);
	return key && work(db, key);
});

/** The tools.  No statement mentions the organization: the policies in schema.sql do. */
function notesServer(db) {
	const server = new McpServer({ name: 'notes', version: '1.0.0' });

	const tool = (name, options, run) => server.registerTool(name, options, async args => {
		// Models paste secrets into arguments; refuse before one is stored.
		const leaked = await db.query('SELECT amt.amt_find_tokens($1) AS prefix', [JSON.stringify(args)]);
		if (leaked.rows.length > 0)
			return {
				isError: true,
				content: text(`The arguments contain the API key ${leaked.rows[0].prefix} — leave it out, and revoke it.`),
			};
		return { content: text(JSON.stringify(await run(args), null, 2)) };
	});

	tool('whoami', {
		description: 'Which organization, role, scopes and API key this call is made with',
		inputSchema: z.object({}),
		annotations: { readOnlyHint: true },
	}, async () => {
		const { rows } = await db.query(
			'SELECT org_id AS organization, role, scopes, key_name AS key FROM amt.amt_whoami()');
		return rows[0];
	});

	// scopeChallenge answers 403 insufficient_scope before the tool runs; the table's policies say the same once more.
	tool('list_notes', {
		description: 'The notes of this organization, newest first',
		inputSchema: z.object({}),
		annotations: { readOnlyHint: true },
		scopeChallenge: requireScopes('viewer', 'notes:read'),
	}, async () => {
		const { rows } = await db.query('SELECT note_id, body, written_at FROM notes ORDER BY note_id DESC LIMIT 100');
		return rows;
	});

	tool('add_note', {
		description: 'Write a note that everyone in this organization can read',
		inputSchema: z.object({ body: z.string().min(1).max(10_000) }),
		scopeChallenge: requireScopes('editor', 'notes:write'),
	}, async ({ body }) => {
		const { rows } = await db.query('INSERT INTO notes (body) VALUES ($1) RETURNING note_id', [body]);
		return rows[0];
	});

	return server;
}

const text = value => [{ type: 'text', text: value }];
