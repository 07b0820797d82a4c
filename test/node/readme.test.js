// README.md: its programs run as they stand, as the role that the README makes for them.  The limits of examples/nginx.

import assert from 'node:assert/strict';
import { execFile } from 'node:child_process';
import { mkdtempSync, readFileSync, rmSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { after, before, test } from 'node:test';
import { fileURLToPath } from 'node:url';
import { promisify } from 'node:util';
import { startServer } from './server.js';

const run = promisify(execFile);
const here = fileURLToPath(new URL('.', import.meta.url));
const readme = readFileSync(new URL('../../README.md', import.meta.url), 'utf8');
const nginx = readFileSync(new URL('../../examples/nginx/README.md', import.meta.url), 'utf8');
const [, section] = readme.match(/^## Application\n(.*?)^## /ms);
const block = (language, text = section) => text.match(new RegExp(`^\`\`\`${language}\n(.*?)^\`\`\`$`, 'ms'))[1];

let server, token, directory;

before(async () => {
	server = await startServer({ extension: 'CREATE SCHEMA amt; CREATE EXTENSION amt_keys SCHEMA amt;' });
	directory = mkdtempSync(join(here, '.readme-')); // here, so that Node finds pg
	await server.psql(block('sql'));
	token = (await server.psql("SELECT token FROM amt.amt_create_key('Bot', 'acme', 'editor')")).trim();
	assert.match(token, /^amt_\w+$/);
});

after(async () => {
	if (directory)
		rmSync(directory, { recursive: true });
	await server?.stop();
});

/** What a program prints, on one line, when it is started with an Authorization header. */
async function answer(program, file, authorization) {
	const { host, port, database } = server;
	const { stdout } = await run(program, [file], {
		cwd: directory,
		env: { ...process.env, PGHOST: host, PGPORT: String(port), PGDATABASE: database, PGUSER: 'backend', PGPASSWORD: 'change-me', AUTHORIZATION: authorization },
	});
	return stdout.replace(/\s+/g, ' ').trim();
}

test('the program for Node says who is calling, and nothing for a bad key', async () => {
	const file = join(directory, 'app.mjs');
	writeFileSync(file, block('js'));
	assert.equal(await answer(process.execPath, file, `Bearer ${token}`), "[ { org_id: 'acme', role: 'editor', key_name: 'Bot' } ]");
	assert.equal(await answer(process.execPath, file, 'Bearer amt_nonsense'), 'undefined');
});

test('the program for Python says who is calling, and nothing for a bad key', async t => {
	const python = '/usr/bin/python3'; // Debian's has Debian's psycopg
	try {
		await run(python, ['-c', 'import psycopg']);
	} catch {
		return t.skip('there is no psycopg 3');
	}
	const file = join(directory, 'app.py');
	writeFileSync(file, block('python'));
	assert.equal(await answer(python, file, `Bearer ${token}`), "[('acme', 'editor', 'Bot')]");
	assert.equal(await answer(python, file, 'Bearer amt_nonsense'), 'None');
});

test('nginx accepts the lines that limit requests', async () => {
	const lines = block('nginx', nginx).split('\n');
	const zones = lines.filter(line => line.startsWith('limit_req_zone')).join('\n');
	const limits = lines.filter(line => !line.startsWith('limit_req_zone')).join('\n');
	const file = join(directory, 'nginx.conf');
	writeFileSync(file, `pid ${directory}/pid; error_log stderr; events {} http { access_log off; client_body_temp_path ${directory}/body; proxy_temp_path ${directory}/proxy; fastcgi_temp_path ${directory}/fastcgi; uwsgi_temp_path ${directory}/uwsgi; scgi_temp_path ${directory}/scgi;\n${zones}\nserver { listen unix:${directory}/s;\n${limits} } }`);
	const { stderr } = await run('nginx', ['-t', '-p', directory, '-c', file], { env: { ...process.env, PATH: `${process.env.PATH}:/usr/sbin` } });
	assert.match(stderr, /test is successful/);
});
