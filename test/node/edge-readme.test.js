// examples/postgrest/README.md and examples/nginx/README.md, followed line by line on a new server: what they say is
// printed is what is printed.  Where they start nginx for the whole machine a private one is started with the same file,
// and where they start PostgREST its transactions are replayed (edge-postgrest.js).

import assert from 'node:assert/strict';
import { after, before, describe, test } from 'node:test';
import { readConfiguration, startPostgrest } from './edge-postgrest.js';
import { pattern, startShell, steps } from './edge-readme.js';
import { examples, freePort, startNginx, startProgram } from './edge-support.js';
import { startServer } from './server.js';

/** Follows a section in the shell; a title is the first command. */
function follow(section, shell, adapt) {
	for (const { commands, output } of section)
		test(commands.trim().split('\n').find(line => !/^\w+\(\)|^[\t}]/.test(line)).slice(0, 100), async () => {
			const printed = await shell().run(adapt(commands));
			if (output !== null)
				assert.match(printed, pattern(output));
			else
				assert.equal(printed, '');
		});
}

describe('examples/postgrest/README.md', () => {
	const readme = `${examples}postgrest/README.md`;
	const jwtSecret = 'a secret that is as long as 32 bytes at least';
	let server, postgrest, nginx, shell;

	before(async () => {
		server = await startServer({ extension: '' });
		const [database, daemon, proxy] = steps(readme, 'Set up').map(({ commands }) => commands);
		assert.equal(database, 'createdb notes\npsql -d notes -v password=change-me -f setup.sql\n');
		assert.match(daemon, /^postgrest postgrest.conf &$/m);
		assert.match(proxy, /^sudo cp nginx.conf /m);

		shell = startShell({ cwd: `${examples}postgrest`, env: { PGRST_JWT_SECRET: jwtSecret } });
		assert.doesNotMatch(await shell.run(`psql -Xqd '${server.connectionString()}' -v password=change-me -f setup.sql`), /ERROR|WARNING/);
		postgrest = await startPostgrest({
			connectionString: server.connectionString('authenticator'),
			configuration: readConfiguration(`${examples}postgrest/postgrest.conf`),
			jwtSecret,
		});
		nginx = await startNginx({
			configuration: `${examples}postgrest/nginx.conf`,
			replace: { 'server 127.0.0.1:3001;': `server 127.0.0.1:${postgrest.port};` },
		});
	});

	after(async () => {
		shell?.stop();
		await nginx?.stop();
		await postgrest?.stop();
		await server?.stop();
	});

	follow(steps(readme, 'Try it'), () => shell, commands => commands.replace('http://localhost:8081', `http://127.0.0.1:${nginx.port}`));
});

describe('examples/nginx/README.md', () => {
	const readme = `${examples}nginx/README.md`;
	let server, service, backend, nginx, shell;

	before(async () => {
		server = await startServer({ extension: '' });
		const [database, key, daemons, proxy] = steps(readme, 'Set up').map(({ commands }) => commands);
		assert.match(database, /^psql -d orders -v password=change-me -f setup.sql$/m);
		assert.match(daemons, /^npm ci\n.*node verify.js &\nnode backend.js &$/ms);
		assert.match(proxy, /^sudo cp amt-auth.conf \/etc\/nginx\/snippets\/$/m);

		shell = startShell({ cwd: `${examples}nginx` });
		assert.doesNotMatch(await shell.run(`psql -Xqd '${server.connectionString()}' -v password=change-me -f setup.sql`), /ERROR|WARNING/);
		assert.equal(await shell.run(key.replace('-d orders', `-d '${server.connectionString()}'`)), '');

		const [servicePort, backendPort] = [await freePort(), await freePort()];
		const url = new URL(server.connectionString('amt_gateway'));
		service = await startProgram(`${examples}nginx/verify.js`, servicePort, {
			PGHOST: url.searchParams.get('host'), PGPORT: String(server.port), PGDATABASE: server.database,
			PGUSER: 'amt_gateway', PGPASSWORD: url.searchParams.get('password') ?? '',
		});
		backend = await startProgram(`${examples}nginx/backend.js`, backendPort, {});
		nginx = await startNginx({
			configuration: `${examples}nginx/nginx.conf`,
			snippets: { 'snippets/amt-auth.conf': `${examples}nginx/amt-auth.conf` },
			replace: {
				'server 127.0.0.1:9180;': `server 127.0.0.1:${servicePort};`,
				'server 127.0.0.1:9000;': `server 127.0.0.1:${backendPort};`,
			},
		});
	});

	after(async () => {
		shell?.stop();
		await nginx?.stop();
		await backend?.stop();
		await service?.stop();
		await server?.stop();
	});

	follow(steps(readme, 'Try it'), () => shell, commands => commands
		.replaceAll('http://localhost:8080', `http://127.0.0.1:${nginx.port}`)
		.replaceAll('psql -d orders', `psql -d '${server.connectionString()}'`));
});
