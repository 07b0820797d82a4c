// The MCP endpoint.
//
// One HTTP request is one transaction, and the transaction's first statement is amt_verify().  That single call answers
// "who is this?" for the 401, counts the call, and makes the key's organization and role the transaction's identity,
// so that row-level security holds for everything the tools do.  Nothing is looked up twice and nothing can happen in
// between; the identity ends with the transaction, so a pooled connection never carries it into the next request.

import { createMcpHandler, McpServer } from '@modelcontextprotocol/server';
import express from 'express';
import * as z from 'zod';
import { transaction } from './transaction.js';

/** Express handlers for the endpoint; pool connects as a role that may execute amt_verify() and use the table notes. */
export function mcpEndpoint(pool) {
	// A subscription would keep its request, and with it a connection to the database, open: there are none.
	const mcp = createMcpHandler(({ authInfo }) => notesServer(authInfo.extra.db), { maxSubscriptions: 0 });

	const answer = async (req, res) => {
		const answered = await withKey(pool, req.get('authorization'), async (db, key) => {
			if (Array.isArray(req.body))
				return Response.json({ error: 'JSON-RPC batches are not supported' }, { status: 400 });

			const response = await mcp.fetch(
				new Request(new URL(req.originalUrl, 'http://localhost'), { method: req.method, headers: req.headers }),
				{ parsedBody: req.body, authInfo: { clientId: key.key_id, scopes: [key.role], extra: { db } } });
			// Read to the end, so that the tools are done and the transaction can commit before the client hears of it.
			return new Response(await response.text() || null, response);
		});

		if (!answered)
			return res.status(401).set('WWW-Authenticate', 'Bearer realm="notes", error="invalid_token"')
				.json({ error: 'invalid_token' });
		res.status(answered.status).set(Object.fromEntries(answered.headers)).send(await answered.text());
	};

	return [express.json({ limit: '1mb' }), answer];
}

/** Runs work(db, key) in a transaction with the key's identity; without a good key, runs nothing and returns undefined. */
const withKey = (pool, authorization, work) => transaction(pool, async db => {
	const { rows: [key] } = await db.query('SELECT * FROM amt_verify($1, identify => true)', [authorization]);
	return key && work(db, key);
});

/** The tools.  No statement mentions the organization: the policies in schema.sql do. */
function notesServer(db) {
	const server = new McpServer({ name: 'notes', version: '1.0.0' });

	const tool = (name, options, run) => server.registerTool(name, options, async args => {
		// Models paste secrets into arguments; refuse before one is stored.
		const leaked = await db.query('SELECT amt_find_tokens($1) AS prefix', [JSON.stringify(args)]);
		if (leaked.rows.length > 0)
			return {
				isError: true,
				content: text(`The arguments contain the API key ${leaked.rows[0].prefix} — leave it out, and revoke it.`),
			};
		return { content: text(JSON.stringify(await run(args), null, 2)) };
	});

	// Answers 403 insufficient_scope before the tool runs; the table's policies say the same once more.
	const needs = role => async () => {
		const { rows: [{ ok }] } = await db.query('SELECT amt_has_role($1) AS ok', [role]);
		return ok ? undefined : { scopes: [role], errorDescription: `This tool needs the role ${role}` };
	};

	tool('whoami', {
		description: 'Which organization, role and API key this call is made with',
		inputSchema: z.object({}),
		annotations: { readOnlyHint: true },
	}, async () => {
		const { rows } = await db.query('SELECT org_id AS organization, role, key_name AS key FROM amt_whoami()');
		return rows[0];
	});

	tool('list_notes', {
		description: 'The notes of this organization, newest first',
		inputSchema: z.object({}),
		annotations: { readOnlyHint: true },
	}, async () => {
		const { rows } = await db.query('SELECT note_id, body, written_at FROM notes ORDER BY note_id DESC LIMIT 100');
		return rows;
	});

	tool('add_note', {
		description: 'Write a note that everyone in this organization can read',
		inputSchema: z.object({ body: z.string().min(1).max(10_000) }),
		scopeChallenge: needs('editor'),
	}, async ({ body }) => {
		const { rows } = await db.query('INSERT INTO notes (body) VALUES ($1) RETURNING note_id', [body]);
		return rows[0];
	});

	return server;
}

const text = value => [{ type: 'text', text: value }];
