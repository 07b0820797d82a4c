// Starts examples/mcp-server as its README says, on a database of its own, and calls it as MCP clients do.

import { spawn } from 'node:child_process';
import { existsSync } from 'node:fs';
import { fileURLToPath } from 'node:url';
import { Client, StreamableHTTPClientTransport } from '@modelcontextprotocol/client';
import { startServer } from './server.js';

const EXAMPLE = fileURLToPath(new URL('../../examples/mcp-server/', import.meta.url));

/** port 0: any that is free.  Returns url, psql, connectionString, createKey(org, role, name, scopes) → token, output() (what the example printed), stop(). */
export async function startExample({ port = 0 } = {}) {
	if (!existsSync(`${EXAMPLE}node_modules`))
		throw new Error(`run "npm ci" in ${EXAMPLE} first`);

	const server = await startServer({ extension: 'CREATE SCHEMA amt; CREATE EXTENSION amt_keys SCHEMA amt' });
	let child, output = '';
	const stop = async () => {
		if (child && child.exitCode === null) {
			const exit = new Promise(resolve => child.once('exit', resolve));
			child.kill();
			await exit;
		}
		await server.stop();
	};
	try {
		await server.psql(`\\i ${EXAMPLE}schema.sql`);
		child = spawn(process.execPath, ['server.js'], {
			cwd: EXAMPLE,
			env: {
				...process.env,
				PORT: String(port),
				DATABASE_URL: server.connectionString('notes_mcp'),
				GATEWAY_DATABASE_URL: server.connectionString('notes_gateway'),
			},
		});
		const url = await new Promise((resolve, reject) => {
			const gather = data => {
				output += data;
				const listening = /Listening on (http:\S+)/.exec(output);
				if (listening)
					resolve(listening[1]);
			};
			child.stdout.on('data', gather);
			child.stderr.on('data', gather);
			child.once('exit', code => reject(new Error(`the example ended with ${code}: ${output}`)));
		});
		return {
			url, stop,
			output: () => output,
			psql: server.psql,
			connectionString: server.connectionString,
			createKey: (org, role, name = 'test', scopes = null) => server.psql(`SELECT token FROM amt.amt_create_key(
				'${name}', '${org}', '${role}', ${scopes ? `'{${scopes}}'` : 'NULL'})`),
		};
	} catch (error) {
		await stop();
		throw error;
	}
}

/** The official client, connected; mode is how it negotiates: 'legacy' (initialize) or 'auto' (per-request envelopes). */
export async function connectClient(url, token, mode = 'legacy') {
	const client = new Client({ name: 'test', version: '1.0.0' }, { versionNegotiation: { mode } });
	await client.connect(new StreamableHTTPClientTransport(new URL('/api/mcp', url),
		{ requestInit: { headers: token === undefined ? {} : { Authorization: `Bearer ${token}` } } }));
	return client;
}

/** What a tool answers, read from its text. */
export async function callTool(client, name, args = {}) {
	const { content, isError } = await client.callTool({ name, arguments: args });
	if (isError)
		throw new Error(content[0].text);
	return JSON.parse(content[0].text);
}
