// Settings → API keys in a real browser (Debian's Chromium), with the official MCP client calling beside it.
//
// AMT_SCREENSHOT=1 rewrites the README's picture, doc/images/settings-api-keys.png.  Debian's fonts-inter makes it look
// as it was made; nothing else depends on a font.

import assert from 'node:assert/strict';
import { execFile } from 'node:child_process';
import { readFile } from 'node:fs/promises';
import { fileURLToPath } from 'node:url';
import { promisify } from 'node:util';
import { after, afterEach, before, beforeEach, test } from 'node:test';
import { chromium } from 'playwright-core';
import { callTool, connectClient, startExample } from './mcp-example.js';

const PICTURE = fileURLToPath(new URL('../../doc/images/settings-api-keys.png', import.meta.url));
const CSP = "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self'; connect-src 'self'; "
	+ "form-action 'self'; base-uri 'none'; frame-ancestors 'none'";

let example, browser, contexts;

before(async () => {
	example = await startExample({ port: process.env.AMT_SCREENSHOT ? 8082 : 0 });
	browser = await chromium.launch({
		executablePath: process.env.CHROMIUM || '/usr/bin/chromium',
		ignoreDefaultArgs: ['--disable-back-forward-cache'],
	});
});

after(async () => {
	await browser?.close();
	await example?.stop();
});

beforeEach(() => { contexts = []; });

afterEach(async () => {
	for (const { context } of contexts)
		await context.close();
	await example.psql('DELETE FROM amt.amt_key');
	for (const { complaints } of contexts)
		assert.deepEqual(complaints, []);		// no script failed, nothing was blocked by the policy, nobody said alert()
});

/** A browser of one's own, signed in, with the list read. */
async function open(person, options = {}) {
	const context = await browser.newContext({ viewport: { width: 1200, height: 900 }, ...options });
	const complaints = [];
	contexts.push({ context, complaints });
	context.on('weberror', ({ error }) => complaints.push(error().message));
	context.on('console', message => {
		if (message.type() === 'error' && !/the server responded with a status of 4/.test(message.text()))
			complaints.push(message.text());
	});
	context.on('dialog', dialog => complaints.push(dialog.message()));
	context.setDefaultTimeout(10_000);
	const page = await context.newPage();
	await page.goto(`${example.url}/`);
	await page.getByRole('button', { name: new RegExp(`^${person} `) }).click();
	await page.waitForURL('**/settings/api-keys');
	await page.locator('#keys:visible, #empty:visible').waitFor();
	return page;
}

/** scopes: the only ones that stay ticked; lifetime: as in the page's list. */
async function create(page, name, { role, scopes, lifetime } = {}) {
	await page.getByLabel('Key name').fill(name);
	if (role)
		await page.getByLabel('Role', { exact: true }).selectOption(role);
	if (lifetime)
		await page.getByLabel('Expires').selectOption(lifetime);
	if (scopes) {
		await page.getByLabel('all that its role allows').uncheck();
		for (const box of await page.locator('#scopes input').all())
			await box.setChecked(scopes.includes(await box.inputValue()));
	}
	await page.getByRole('button', { name: 'Create key' }).click();
	await page.locator('#new-token-name').filter({ hasText: name }).waitFor();
	await row(page, name).first().waitFor();
	return page.locator('#token').textContent();
}

const idOf = token => token.split('_')[1];
const row = (page, name) => page.getByRole('row').filter({ has: page.getByRole('rowheader', { name, exact: true }) });
const cell = (page, name, which) => row(page, name).locator(`.${which}`);
const names = page => page.locator('tbody .name bdi').allTextContents();
const button = (page, name) => page.getByRole('button', { name, exact: true });
const alter = (page, name) => button(page, `Manage ${name}`).click();

/** The status of a call with the key: 200 or 401. */
const works = async token => (await fetch(`${example.url}/api/mcp`, {
	method: 'POST', body: '{"jsonrpc":"2.0","id":1,"method":"tools/list"}',
	headers: { 'X-API-Key': token, 'Content-Type': 'application/json', 'Accept': 'application/json, text/event-stream' },
})).status;

/** What the page's own script would send, or a forger's variation of it. */
const send = (page, method, path, { body, headers = {}, csrf } = {}) => page.evaluate(async request => {
	const own = await (await fetch('/api/keys')).json();
	const response = await fetch(request.path, {
		method: request.method,
		headers: { 'Content-Type': 'application/json', 'X-CSRF-Token': request.csrf ?? own.csrf, ...request.headers },
		body: request.body && JSON.stringify(request.body),
	});
	return { status: response.status, ...(response.status === 204 ? {} : await response.json()) };
}, { method, path, body, headers, csrf });

test('key_is_created_copied_used_counted_and_revoked', async () => {
	const page = await open('Ada');
	await page.context().grantPermissions(['clipboard-read', 'clipboard-write']);
	await page.getByText('No keys yet.').waitFor();

	const token = await create(page, 'CI deploy');
	assert.equal(await example.psql(`SELECT amt.amt_check_token('${token}')`), 't');
	assert.ok(await page.getByText('This token is shown once.').isVisible());
	await page.getByRole('button', { name: 'Copy token' }).click();
	assert.equal(await page.evaluate(() => navigator.clipboard.readText()), token);
	assert.equal(await cell(page, 'CI deploy', 'prefix').textContent(), `amt_${token.split('_')[1]}...`);
	assert.equal(await cell(page, 'CI deploy', 'calls').textContent(), '0');
	assert.equal(await cell(page, 'CI deploy', 'used').textContent(), 'Never');

	const client = await connectClient(example.url, token);
	assert.deepEqual(await callTool(client, 'whoami'), { organization: 'acme', role: 'admin', scopes: null, key: 'CI deploy' });
	const counted = await example.psql(`SELECT calls FROM amt.amt_keys WHERE token_prefix = 'amt_${token.split('_')[1]}...'`);
	await cell(page, 'CI deploy', 'calls').filter({ hasText: new RegExp(`^${counted}$`) }).waitFor({ timeout: 2000 });
	assert.equal(await cell(page, 'CI deploy', 'used').textContent(), 'Just now');
	assert.match(await cell(page, 'CI deploy', 'used').locator('time').getAttribute('title'), /\d:\d\d:\d\d/);

	await alter(page, 'CI deploy');
	await page.getByRole('button', { name: 'Revoke CI deploy' }).click();
	const dialog = page.getByRole('dialog', { name: /Revoke .CI deploy./ });
	assert.match(await dialog.textContent(), /immediate and permanent/);
	await dialog.getByRole('button', { name: 'Keep it' }).click();
	assert.equal((await callTool(client, 'whoami')).key, 'CI deploy');

	await page.getByRole('button', { name: 'Revoke CI deploy' }).click();
	await dialog.getByRole('button', { name: 'Revoke key' }).click();
	await page.getByText('CI deploy is revoked.').waitFor();
	await assert.rejects(callTool(client, 'whoami'), { status: 401 });
	await page.getByText('No keys yet.').waitFor();
	assert.equal(await page.locator('#token').textContent(), '');
	await client.close();
});

test('curl_line_and_client_configuration_work_as_copied', async () => {
	const page = await open('Ada');
	await page.context().grantPermissions(['clipboard-read', 'clipboard-write']);
	await create(page, 'Copied');
	const copied = async name => {
		await page.getByRole('button', { name }).click();
		return page.evaluate(() => navigator.clipboard.readText());
	};

	const { stdout } = await promisify(execFile)('sh', ['-c', `${await copied('Copy curl line')} -sS`]);
	assert.match(stdout, /\\"organization\\": \\"acme\\"/);

	await page.getByText('Give it to an MCP client').click();
	const { url, headers } = JSON.parse(await copied('Copy MCP client configuration')).mcpServers.notes;
	const client = await connectClient(url, headers.Authorization.replace('Bearer ', ''));
	assert.equal((await callTool(client, 'whoami')).key, 'Copied');
	await client.close();
});

test('person_of_another_organization_sees_nothing_of_the_first', async () => {
	const ada = await open('Ada');
	const token = await create(ada, 'Acme only');
	const olga = await open('Olga');
	await olga.getByText('No keys yet.').waitFor();
	const foreign = await send(olga, 'DELETE', `/api/keys/${token.split('_')[1]}`);
	assert.equal(foreign.status, 404);
	assert.deepEqual(await send(olga, 'DELETE', '/api/keys/000000000000'), foreign);		// as if it did not exist
	await create(olga, 'Globex only');
	assert.deepEqual(await names(olga), ['Globex only']);
	await ada.waitForTimeout(1200);
	assert.deepEqual(await names(ada), ['Acme only']);
});

test('token_is_gone_with_the_next_key_and_with_the_page', async () => {
	const page = await open('Ada');
	const tokens = [await create(page, 'first'), await create(page, 'second')];
	assert.notEqual(tokens[0], tokens[1]);
	const content = await page.content();
	assert.ok(!content.includes(tokens[0]) && content.includes(tokens[1]));

	const kept = await page.evaluate(() => JSON.stringify([location.href, { ...localStorage }, { ...sessionStorage }, document.cookie]));
	assert.doesNotMatch(kept, /amt_/);

	// Away and back, from the back-forward cache where the browser keeps the page there.
	await page.goto(`${example.url}/sign-in`);
	await page.goBack();
	await row(page, 'second').waitFor();
	assert.ok(!(await page.content()).includes(tokens[1]));

	// What the cache would keep is the document as pagehide leaves it.
	tokens.push(await create(page, 'third'));
	await page.evaluate(() => dispatchEvent(new PageTransitionEvent('pagehide', { persisted: true })));
	assert.ok(!(await page.content()).includes(tokens[2]));

	tokens.push(await create(page, 'fourth'));
	await page.getByRole('button', { name: 'Done' }).click();
	assert.ok(!(await page.content()).includes(tokens[3]));

	tokens.push(await create(page, 'fifth'));
	await page.reload();
	await row(page, 'fifth').waitFor();
	assert.ok(!(await page.content()).includes(tokens[4]));
});

test('viewer_gets_a_viewers_key_and_may_revoke_only_that', async () => {
	const ada = await open('Ada');
	const adas = await create(ada, 'of Ada');
	const vera = await open('Vera');
	const veras = await create(vera, 'of Vera');
	assert.deepEqual(await names(vera), ['of Vera', 'of Ada']);
	assert.equal(await cell(vera, 'of Vera', 'role').textContent(), 'viewer');
	await alter(vera, 'of Vera');
	assert.ok(await button(vera, 'Revoke of Vera').isVisible());
	await button(vera, 'Details of Ada').click();
	assert.ok(await vera.getByText('Only ada@acme.example or someone who manages keys, like an admin, may change this key.').isVisible());
	for (const action of ['Rename', 'Suspend', 'Rotate', 'Revoke'])
		assert.ok(await button(vera, `${action} of Ada`).isHidden());
	await button(ada, 'Manage of Vera').waitFor();

	// Whatever the page sends, the database decides.
	const refused = await send(vera, 'DELETE', `/api/keys/${adas.split('_')[1]}`);
	assert.equal(refused.status, 403);
	assert.ok(refused.error);
	for (const role of ['editor', 'owner'])
		assert.equal((await send(vera, 'POST', '/api/keys', { body: { name: 'above', role } })).status, 403);
	assert.equal((await send(vera, 'POST', '/api/keys', { body: { name: 'unknown', role: 'emperor' } })).status, 422);
	const sneaky = await send(vera, 'POST', '/api/keys', { body: { name: 'elsewhere', org_id: 'globex', actor: 'x' } });
	assert.equal(sneaky.status, 201);
	assert.equal(await example.psql(`SELECT org_id || created_by || role FROM amt.amt_key WHERE key_id = '${sneaky.key_id}'`),
		'acmevera@acme.exampleviewer');
	assert.equal((await send(vera, 'DELETE', `/api/keys/${veras.split('_')[1]}`)).status, 204);
	assert.deepEqual(await callTool(await connectClient(example.url, adas), 'whoami'),
		{ organization: 'acme', role: 'admin', scopes: null, key: 'of Ada' });
});

test('role_scopes_and_expiry_are_chosen_and_never_more_than_ones_own', async () => {
	const stored = token => example.psql(`SELECT role || ' ' || coalesce(scopes::text, 'all') || ' '
		|| coalesce(round(extract(epoch FROM expires_at - created_at) / 86400)::text, 'never') FROM amt.amt_key WHERE key_id = '${idOf(token)}'`);
	const edgar = await open('Edgar');
	assert.deepEqual(await edgar.locator('#role option').allTextContents(), ['viewer', 'editor']);
	assert.equal(await edgar.getByLabel('Role', { exact: true }).inputValue(), 'editor');
	assert.equal(await stored(await create(edgar, 'as offered')), 'editor all 90');
	assert.equal(await stored(await create(edgar, 'chosen', { role: 'viewer', scopes: ['notes:read'], lifetime: 'in 7 days' })),
		'viewer {notes:read} 7');
	assert.equal(await cell(edgar, 'chosen', 'may').textContent(), 'viewer notes:read');
	assert.match(await cell(edgar, 'chosen', 'expires').textContent(), /^in 7 days/);
	assert.match(await cell(edgar, 'chosen', 'created').textContent(), /by edgar@acme\.example$/);
	assert.equal(await stored(await create(edgar, 'for nothing', { scopes: [], lifetime: 'never' })), 'viewer {} never');

	const rita = await open('Rita');
	assert.ok(await rita.getByLabel('all that its role allows').isHidden());
	assert.equal(await rita.locator('#scopes').textContent(), ' notes:read');
	assert.equal(await stored(await create(rita, 'of Rita')), 'editor {notes:read} 90');

	for (const [page, body, status] of [
		[edgar, { role: 'admin' }, 403], [edgar, { role: 'emperor' }, 422], [edgar, { role: ['viewer'] }, 422],
		[rita, { scopes: ['notes:write'] }, 403], [rita, { scopes: ['notes:read', 'billing:read'] }, 403], [rita, { role: 'admin' }, 403],
		[edgar, { scopes: ['two words'] }, 422], [edgar, { scopes: ['notes:read', 'notes:read'] }, 422], [edgar, { scopes: 'notes:read' }, 422],
		[edgar, { expires_at: '2001-01-01' }, 422], [edgar, { expires_at: 'soon' }, 422], [edgar, { expires_at: {} }, 422],
	]) {
		const answer = await send(page, 'POST', '/api/keys', { body: { name: 'more', ...body } });
		assert.equal(answer.status, status, JSON.stringify([body, answer]));
		assert.ok(answer.error.length > 10);
	}
	const least = await send(rita, 'POST', '/api/keys', { body: { name: 'unsaid' } });
	assert.equal(await stored(least.token), 'editor {notes:read} never');
});

test('suspended_key_stays_in_the_list_and_works_again_when_resumed', async () => {
	const page = await open('Ada');
	const token = await create(page, 'paused');
	assert.equal(await works(token), 200);
	await alter(page, 'paused');
	await button(page, 'Suspend paused').click();
	await page.getByText('paused is suspended.').waitFor();
	assert.equal(await works(token), 401);
	await cell(page, 'paused', 'expires').getByText('Suspended').waitFor();
	assert.ok(await button(page, 'Rotate paused').isHidden());
	assert.ok(await page.getByText('A suspended key cannot be rotated. Resume it first.').isVisible());
	assert.equal((await send(page, 'POST', `/api/keys/${idOf(token)}/rotation`)).status, 409);
	await button(page, 'Resume paused').click();
	await page.getByText('paused works again.').waitFor();
	assert.equal(await works(token), 200);
	await button(page, 'Rotate paused').waitFor();
	await page.getByText(/resumed by ada@acme\.example/).waitFor();
	assert.deepEqual((await page.locator('.history li').allTextContents()).map(text => text.replace(/^.* [AP]M /u, '')), [
		'created as “paused” by ada@acme.example', 'suspended by ada@acme.example', 'resumed by ada@acme.example',
	]);
});

test('rotated_key_works_on_for_the_grace_that_was_chosen', async () => {
	const page = await open('Ada');
	const old = await create(page, 'rotated', { role: 'editor', scopes: ['notes:read'], lifetime: 'in 30 days' });
	await alter(page, 'rotated');
	await page.getByLabel('old token works').selectOption('another hour');
	await button(page, 'Rotate rotated').click();
	await page.getByText('Replaced').waitFor();
	const young = await page.locator('#token').textContent();
	assert.notEqual(young, old);
	assert.deepEqual([await works(old), await works(young)], [200, 200]);
	assert.deepEqual(await page.locator('tbody .may').allTextContents(), ['editor notes:read', 'editor notes:read']);
	assert.match((await page.locator('tbody .expires').allTextContents()).join(), /^in 30 days ,in (1 hour|60 minutes|59 minutes) Replaced$/);
	await page.getByText(/set to expire on .* by ada@acme\.example/).waitFor();
	await button(page, 'Manage rotated').first().click();
	await page.getByText(`created as “rotated” in place of the key ${idOf(old)} by ada@acme.example`).waitFor();

	await page.getByLabel('old token works').first().selectOption('no longer');
	await button(page, 'Rotate rotated').first().click();
	await page.locator('#token').filter({ hasNotText: young }).waitFor();
	const youngest = await page.locator('#token').textContent();
	assert.deepEqual([await works(old), await works(young), await works(youngest)], [200, 401, 200]);
	const content = await page.content();
	assert.ok(content.includes(youngest) && !content.includes(young) && !content.includes(old));

	const brief = await send(page, 'POST', `/api/keys/${idOf(youngest)}/rotation`, { body: { grace: '1.5 seconds' } });
	assert.deepEqual([brief.status, await works(youngest), await works(brief.token)], [201, 200, 200]);
	await page.waitForTimeout(1600);
	assert.deepEqual([await works(youngest), await works(brief.token)], [401, 200]);
	for (const grace of ['-1 hour', 'a while', {}])
		assert.equal((await send(page, 'POST', `/api/keys/${idOf(brief.token)}/rotation`, { body: { grace } })).status, 422);
	assert.equal((await send(page, 'POST', '/api/keys/000000000000/rotation')).status, 404);
});

test('key_is_renamed_in_place', async () => {
	const page = await open('Ada');
	const token = await create(page, 'before');
	await alter(page, 'before');
	await button(page, 'Rename before').click();
	await page.getByLabel('New name').fill('never');
	await page.keyboard.press('Escape');
	assert.deepEqual(await names(page), ['before']);

	await button(page, 'Rename before').click();
	assert.equal(await page.getByLabel('New name').inputValue(), 'before');
	await page.getByLabel('New name').fill('x'.repeat(101));
	await page.keyboard.press('Enter');
	await page.locator('#said:not(:empty)').waitFor();
	assert.ok(await page.getByLabel('New name').evaluate(field => field === document.activeElement));
	await page.getByLabel('New name').fill('after');
	await page.waitForTimeout(1200);					// the list is read meanwhile, and leaves the field alone
	await button(page, 'Save').click();
	await row(page, 'after').waitFor();
	await page.getByText('renamed to “after” by ada@acme.example').waitFor();
	assert.equal((await callTool(await connectClient(example.url, token), 'whoami')).key, 'after');
	assert.equal(await example.psql(`SELECT string_agg(event || ' ' || name, ',' ORDER BY event_id) FROM amt.amt_key_event WHERE key_id = '${idOf(token)}'`),
		'created before,changed after');
});

test('action_that_is_not_offered_has_a_reason', async () => {
	const page = await open('Amara');
	await create(page, 'an admin’s');
	await page.getByLabel('You are Amara').selectOption('editor');
	await alter(page, 'an admin’s');
	await page.getByText('You cannot rotate this key: the new one would have a role or scopes that you do not have.').waitFor();
	assert.ok(await button(page, 'Rotate an admin’s').isHidden());
	assert.ok(await button(page, 'Suspend an admin’s').isVisible());
	const id = await example.psql('SELECT key_id FROM amt.amt_key');
	assert.equal((await send(page, 'POST', `/api/keys/${id}/rotation`)).status, 403);
	await page.getByLabel('You are Amara').selectOption('admin');
	await button(page, 'Rotate an admin’s').waitFor();
});

test('team_of_three_does_what_it_may_and_the_server_refuses_the_rest', async () => {
	const pages = { viewer: await open('Vera'), editor: await open('Edgar'), owner: await open('Oscar') };
	const stranger = await open('Olga');
	const roles = ['viewer', 'editor', 'admin', 'owner'];
	const make = async (page, role) => (await send(page, 'POST', '/api/keys', { body: { name: `a ${role}’s`, role } }));

	for (const [whose, page] of Object.entries(pages)) {
		const mayGive = roles.slice(0, roles.indexOf(whose) + 1);
		assert.deepEqual(await page.locator('#role option').allTextContents(), mayGive);
		for (const role of roles)
			assert.equal((await make(page, role)).status, mayGive.includes(role) ? 201 : 403, `${whose} makes a key of role ${role}`);
	}

	const attempts = id => [
		['PATCH', `/api/keys/${id}`, { name: 'renamed' }, 204], ['PATCH', `/api/keys/${id}`, { suspended: true }, 204],
		['PATCH', `/api/keys/${id}`, { suspended: false }, 204], ['POST', `/api/keys/${id}/rotation`, { grace: '1 day' }, 201],
		['DELETE', `/api/keys/${id}`, undefined, 204],
	];
	const before = () => example.psql('SELECT md5(string_agg(k::text, NULL ORDER BY key_id)) FROM amt.amt_key AS k');
	for (const [whose, page] of Object.entries({ ...pages, stranger }))
		for (const owner of Object.keys(pages)) {
			const { key_id } = await make(pages[owner], 'viewer');
			const may = whose === owner || whose === 'owner';
			const state = await before();
			for (const [method, path, body, status] of attempts(key_id)) {
				const answer = await send(page, method, path, { body });
				assert.equal(answer.status, may ? status : whose === 'stranger' ? 404 : 403, `${whose} does ${method} ${path} to a key of ${owner}`);
			}
			assert.equal(await before() === state, !may);
			const events = await page.evaluate(async id => (await fetch(`/api/keys/${id}/events`)).json(), key_id);
			assert.equal(events.length, whose === 'stranger' ? 0 : may ? 6 : 1);		// of another organization one hears nothing
		}
});

test('key_that_somebody_else_revoked_meanwhile_is_said_to_be_gone', async () => {
	const page = await open('Ada');
	const token = await create(page, 'gone');
	await alter(page, 'gone');
	await page.route('**/api/keys', route => route.request().method() === 'GET' ? route.abort() : route.continue());
	await example.psql(`SELECT amt.amt_revoke('${idOf(token)}')`);
	await button(page, 'Suspend gone').click();
	await page.getByText('There is no such key any more.').waitFor();
	await page.unroute('**/api/keys');
	await page.getByText('No keys yet.').waitFor();
	contexts[0].complaints = contexts[0].complaints.filter(text => !/ERR_FAILED/.test(text));		// this test cut requests off
});

test('old_keys_keep_the_role_that_the_person_had', async () => {
	const page = await open('Amara');
	const old = await create(page, 'made as admin');
	await page.getByLabel('You are Amara').selectOption('viewer');
	await page.locator('#role option:only-child', { hasText: 'viewer' }).waitFor({ state: 'attached' });
	const young = await create(page, 'made as viewer');
	assert.equal(await cell(page, 'made as admin', 'role').textContent(), 'admin');
	assert.equal(await cell(page, 'made as viewer', 'role').textContent(), 'viewer');
	const note = { name: 'add_note', arguments: { body: 'still an admin’s key' } };
	assert.ok(!(await (await connectClient(example.url, old)).callTool(note)).isError);
	await assert.rejects((await connectClient(example.url, young)).callTool(note), { name: 'InsufficientScopeError' });
	await page.getByLabel('You are Amara').selectOption('admin');
});

test('forged_requests_change_nothing', async () => {
	const page = await open('Ada');
	const token = await create(page, 'target');
	const id = token.split('_')[1];
	const { csrf: olgas } = await (await open('Olga')).evaluate(async () => (await fetch('/api/keys')).json());

	for (const csrf of ['', 'nonsense', olgas]) {
		assert.equal((await send(page, 'DELETE', `/api/keys/${id}`, { csrf })).status, 403);
		assert.equal((await send(page, 'POST', '/api/keys', { csrf, body: { name: 'forged' } })).status, 403);
		assert.equal(await page.evaluate(async token => (await fetch('/demo/role', {
			method: 'POST', headers: { 'Content-Type': 'application/json', 'X-CSRF-Token': token }, body: '{"role":"owner"}',
		})).status, csrf), 403);
	}

	// Without the browser's good manners: everything right except where it comes from.
	const [cookie] = await page.context().cookies();
	assert.deepEqual([cookie.name, cookie.httpOnly, cookie.sameSite], ['session', true, 'Strict']);
	const { csrf } = await page.evaluate(async () => (await fetch('/api/keys')).json());
	const request = (method, path, headers) => fetch(example.url + path, {
		method, redirect: 'manual',
		headers: { Cookie: `session=${cookie.value}`, Origin: example.url, 'X-CSRF-Token': csrf, ...headers },
	});
	for (const Origin of ['https://evil.example', 'null', ''])
		assert.equal((await request('DELETE', `/api/keys/${id}`, { Origin })).status, 403);
	assert.equal((await request('DELETE', `/api/keys/${id}`, { Cookie: '' })).status, 401);
	assert.equal((await request('GET', '/api/keys', { Cookie: 'session=nonsense' })).status, 401);
	assert.equal((await request('GET', '/settings/api-keys', { Cookie: '' })).headers.get('location'), '/sign-in');
	assert.equal((await request('POST', '/sign-in', { Origin: 'https://evil.example' })).status, 403);
	assert.deepEqual(await names(page), ['target']);

	// And as another site would: neither a form nor a frame of its own gets anywhere.
	const evil = await page.context().newPage();
	await evil.route('http://evil.example/', route => route.fulfill({
		contentType: 'text/html',
		body: `<form method="post" action="${example.url}/sign-out"></form><iframe src="${example.url}/settings/api-keys"></iframe>`,
	}));
	contexts[0].complaints.push = message => assert.match(message, /frame-ancestors|127\.0\.0\.1/);
	await evil.goto('http://evil.example/');
	assert.equal(await evil.frames()[1].getByText('API keys').count(), 0);
	const [answer] = await Promise.all([evil.waitForResponse('**/sign-out'), evil.evaluate(() => document.forms[0].submit())]);
	assert.equal(answer.status(), 403);
	delete contexts[0].complaints.push;
	assert.equal((await request('DELETE', `/api/keys/${id}`)).status, 204);		// the same request, from home
});

test('names_are_text_whatever_they_hold', async () => {
	const page = await open('Ada');
	const given = [
		'<script>alert(1)</script>', '"><img src=x onerror=alert(1)>', '&amp; {{7*7}}', 'مفتاح الاختبار', '\u202Efdp.tpircs',
		'鍵'.repeat(100), 'x'.repeat(100), '🗝️ '.repeat(20).trim(),
	];
	for (const name of given) {
		await page.getByLabel('Key name').fill(name);
		await page.getByRole('button', { name: 'Create key' }).click();
		await page.locator('#new-token-name').filter({ hasText: name }).waitFor();
	}
	assert.deepEqual(await names(page), given.toReversed());
	assert.equal(await page.locator('main img[src=x], main script').count(), 0);
	assert.equal(await page.locator('tbody .name bdi').count(), given.length);
	for (const width of [1200, 360]) {
		await page.setViewportSize({ width, height: 900 });
		assert.ok(await page.evaluate(() => document.documentElement.scrollWidth <= innerWidth), `no sideways scrolling at ${width}`);
	}
	await alter(page, given[0]);
	await page.getByText(`created as “${given[0]}” by ada@acme.example`).waitFor();
	await button(page, `Revoke ${given[0]}`).click();
	assert.equal(await page.locator('#confirm-name').textContent(), given[0]);
	await page.keyboard.press('Escape');
});

test('what_the_database_refuses_is_explained_at_the_field', async t => {
	const page = await open('Ada');
	for (const name of ['', '   ', 'x'.repeat(101), 'a\u0007b', `amt_${'a'.repeat(12)}_${'b'.repeat(49)}`]) {
		await page.getByLabel('Key name').fill(name);
		await page.getByLabel('Key name').evaluate(element => element.removeAttribute('aria-invalid'));
		await page.getByRole('button', { name: 'Create key' }).click();
		const field = page.getByLabel('Key name').and(page.locator('[aria-invalid]'));
		await field.waitFor();
		assert.ok((await page.getByRole('alert').textContent()).length > 20);
		assert.equal(await field.getAttribute('aria-invalid'), 'true');
		assert.ok(await field.evaluate(element => element === document.activeElement));
		assert.equal(await field.inputValue(), name);
		assert.ok(await page.locator('#new-token').isHidden());
	}
	await create(page, 'good');
	assert.ok(await page.getByRole('alert').isHidden());

	const alterSystem = sql => example.psql(`LOAD 'amt_keys'; ALTER SYSTEM ${sql}; SELECT pg_reload_conf()`);
	t.after(() => alterSystem('RESET amt_keys.max_lifetime'));
	await alterSystem('SET amt_keys.max_lifetime = 2592000');
	await page.waitForTimeout(500);
	await page.getByLabel('Key name').fill('too long');
	await page.getByLabel('Expires').selectOption('never');
	await button(page, 'Create key').click();
	await page.getByText(/Key must have an expiry\. .*The latest expiry is /).waitFor();
	await create(page, 'short enough', { lifetime: 'in 7 days' });
});

test('page_works_with_the_keyboard_alone', async () => {
	const page = await open('Ada');
	await page.getByLabel('Key name').focus();
	await page.keyboard.type('typed');
	await page.keyboard.press('Enter');
	await row(page, 'typed').waitFor();
	const focused = () => page.evaluate(() => document.activeElement.getAttribute('aria-label') ?? document.activeElement.textContent.trim());
	const tabTo = async name => {
		for (let i = 0; i < 30; i++) {
			if (await focused() === name)
				return;
			await page.keyboard.press('Tab');
		}
		assert.fail(`${name} is not reached with Tab`);
	};
	assert.match(await focused(), /^New token/);		// so that a screen reader starts reading there
	await tabTo('Copy token');
	await tabTo('curl line');
	await tabTo('Manage typed');
	await page.keyboard.press('Enter');
	await tabTo('Rename typed');
	await page.keyboard.press('Enter');
	assert.equal(await focused(), 'New name');
	await page.keyboard.type('named');
	await page.keyboard.press('Enter');
	await row(page, 'named').waitFor();
	assert.equal(await focused(), 'Rename named');
	await tabTo('Suspend named');
	await page.keyboard.press('Enter');
	await button(page, 'Resume named').waitFor();
	assert.equal(await focused(), 'Resume named');
	await page.keyboard.press('Space');
	await button(page, 'Suspend named').waitFor();		// the list is drawn anew, and the focus moves
	assert.equal(await focused(), 'Suspend named');
	await tabTo('Rotate named');
	await page.keyboard.press('Enter');
	await page.getByText('Replaced').waitFor();
	assert.match(await focused(), /^New token/);
	await button(page, 'Manage named').nth(1).focus();		// the old one
	assert.equal(await page.evaluate(() => document.activeElement.getAttribute('aria-expanded')), 'true');
	await tabTo('Revoke named');
	await page.keyboard.press('Enter');
	assert.equal(await focused(), 'Keep it');
	await page.keyboard.press('Escape');
	assert.equal(await focused(), 'Revoke named');
	await page.keyboard.press('Enter');
	await tabTo('Revoke key');
	await page.keyboard.press('Enter');
	await page.getByText('named is revoked.').waitFor();
	assert.match(await focused(), /^Active keys/);
});

test('answers_carry_the_headers_of_a_careful_site', async () => {
	const page = await open('Ada');
	for (const path of ['/settings/api-keys', '/api/keys', '/sign-in', '/api-keys.js']) {
		const response = await page.context().request.get(example.url + path);
		const headers = response.headers();
		assert.equal(headers['content-security-policy'], CSP, path);
		assert.equal(headers['cache-control'], 'no-store', path);
		assert.equal(headers['x-content-type-options'], 'nosniff', path);
		assert.equal(headers['x-powered-by'], undefined, path);
	}
	const html = await (await page.context().request.get(`${example.url}/settings/api-keys`)).text();
	assert.doesNotMatch(html, /<script(?![^>]* src=)|<style|\son\w+=|\sstyle=/);
});

test('phone_width_and_dark_mode_are_readable', async () => {
	const page = await open('Ada', { viewport: { width: 360, height: 740 }, colorScheme: 'dark' });
	await create(page, 'on a phone', { scopes: ['notes:read'] });
	await alter(page, 'on a phone');
	await button(page, 'Suspend on a phone').click();
	await cell(page, 'on a phone', 'expires').getByText('Suspended').waitFor();
	assert.ok(await page.evaluate(() => document.documentElement.scrollWidth <= innerWidth));
	assert.equal(await cell(page, 'on a phone', 'calls').evaluate(element => getComputedStyle(element, '::before').content), '"Calls"');
	assert.equal(await page.getByRole('rowheader').count(), 1);		// still a table to a screen reader
	assert.equal(await row(page, 'on a phone').getByRole('cell').count(), 7);
	await button(page, 'Rename on a phone').click();
	assert.ok(await page.evaluate(() => document.documentElement.scrollWidth <= innerWidth));

	const contrasts = () => page.evaluate(() => {
		const canvas = document.createElement('canvas').getContext('2d', { willReadFrequently: true });
		const rgb = color => {
			canvas.fillStyle = color;
			canvas.fillRect(0, 0, 1, 1);
			return [...canvas.getImageData(0, 0, 1, 1).data].map(value => value / 255);
		};
		const opaque = element => {
			for (; element; element = element.parentElement)
				if (!/, 0\)|transparent/.test(getComputedStyle(element).backgroundColor))
					return getComputedStyle(element).backgroundColor;
			return getComputedStyle(document.documentElement).backgroundColor;
		};
		const luminance = ([r, g, b]) => [r, g, b].map(v => v <= 0.04045 ? v / 12.92 : ((v + 0.055) / 1.055) ** 2.4)
			.reduce((sum, v, i) => sum + v * [0.2126, 0.7152, 0.0722][i], 0);
		return [...document.querySelectorAll('h1, h2, h3, p, label, legend, small, li, button, code, pre, summary, .role, td, th')]
			.filter(element => element.checkVisibility() && element.textContent.trim())
			.map(element => {
				const [a, b] = [luminance(rgb(getComputedStyle(element).color)), luminance(rgb(opaque(element)))];
				return [element.textContent.trim().slice(0, 30), (Math.max(a, b) + 0.05) / (Math.min(a, b) + 0.05)];
			}).filter(([, contrast]) => contrast < 4.5);
	});
	await page.mouse.move(0, 0);
	await page.waitForTimeout(2000);		// the animations are over
	assert.deepEqual(await contrasts(), []);
	await page.emulateMedia({ colorScheme: 'light' });
	assert.deepEqual(await contrasts(), []);
});

test('axe_finds_no_fault_with_the_page_and_its_dialog', async () => {
	const source = await readFile(fileURLToPath(import.meta.resolve('axe-core/axe.min.js')), 'utf8');
	for (const colorScheme of ['light', 'dark']) {
		const page = await open('Ada', { viewport: { width: 360, height: 740 }, colorScheme, bypassCSP: true });
		const faults = async () => (await page.evaluate(`${source}; axe.run()`)).violations.map(({ id, nodes }) => `${id}: ${nodes[0].html}`);
		const name = `seen in the ${colorScheme}`;
		await create(page, name, { scopes: ['notes:read'] });
		await alter(page, name);
		await button(page, `Rename ${name}`).click();
		await page.waitForTimeout(2000);		// the animations are over
		assert.deepEqual(await faults(), []);
		await button(page, `Revoke ${name}`).click();
		assert.deepEqual(await faults(), []);
		await page.goto(`${example.url}/sign-in`);
		assert.deepEqual(await faults(), []);
	}
});

test('picture_of_the_readme_can_be_taken', async () => {
	for (const [person, name, calls, choices] of [
		['Oscar', 'Nightly billing sync', 1204, { lifetime: 'never' }],
		['Vera', 'Dashboard', 86, { lifetime: 'in 30 days', scopes: ['notes:read'] }],
		['Edgar', 'Claude on Edgar’s laptop', 317, {}],
	]) {
		const page = await open(person);
		const token = await create(page, name, choices);
		await example.psql(`SELECT count(*) FROM generate_series(1, ${calls}) AS n, amt.amt_verify('${token}' || left(n::text, 0))`);
	}
	const page = await open('Ada', { viewport: { width: 1120, height: 800 }, deviceScaleFactor: 2 });
	await alter(page, 'Dashboard');
	await button(page, 'Suspend Dashboard').click();
	await page.getByText('suspended by').waitFor();
	await alter(page, 'Dashboard');
	await alter(page, 'Claude on Edgar’s laptop');
	await button(page, 'Rename Claude on Edgar’s laptop').click();
	await page.getByLabel('New name').fill('Claude on Edgar’s machine');
	await page.keyboard.press('Enter');
	await page.getByText('renamed to').waitFor();
	const token = await create(page, 'CI deploy', { role: 'editor' });
	const client = await connectClient(example.url, token);
	await callTool(client, 'whoami');
	await cell(page, 'CI deploy', 'used').getByText('Just now').waitFor();
	await page.mouse.move(0, 0);
	await page.waitForTimeout(7000);			// the animations and messages are over
	const picture = await page.screenshot({ fullPage: true, ...(process.env.AMT_SCREENSHOT && { path: PICTURE }) });
	assert.ok(picture.length > 50_000);
	await client.close();
});

test('example_printed_nothing_but_its_address', () => {
	assert.match(example.output(), /^Listening on http:\S+ \(\S+ \S+\)\n$/);
});
