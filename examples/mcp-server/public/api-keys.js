// The page keeps nothing: the list is read from the server once a second, and the new token is in one box of the
// document, from which it is wiped when the next key is made and when the page is left, so that going back does not
// bring it back.  Whatever came from a person (names) is set as text, never as HTML.

const $ = id => document.getElementById(id);
const endpoint = `${location.origin}/api/mcp`;
let csrf;		// from the first reading of the list

class Problem extends Error {}

async function call(method, path, body) {
	const response = await fetch(path, {
		method,
		headers: { ...(csrf && { 'X-CSRF-Token': csrf }), ...(body && { 'Content-Type': 'application/json' }) },
		body: body && JSON.stringify(body),
	});
	if (response.status === 401)
		location.assign('/sign-in');
	const answer = response.headers.get('content-type')?.startsWith('application/json') ? await response.json() : {};
	if (!response.ok)
		throw new Problem([answer.error ?? `The server answered ${response.status}.`, answer.hint].filter(Boolean).join('. '));
	return answer;
}

// --- The list ------------------------------------------------------------------------------------------------------

const entries = new Map();		// key id → its two rows, kept from one reading to the next so that focus and hover stay put

let me;					// the person, and what keys the person may make
let lastRead = 0;

async function refresh() {
	const read = ++lastRead;
	const { person, keys, csrf: token } = await call('GET', '/api/keys');
	if (read !== lastRead)
		return;					// a later reading is on its way, or was faster
	csrf = token;
	me = person;
	showPerson(person);

	for (const [id, { row, details }] of entries)
		if (!keys.some(key => key.key_id === id)) {
			row.remove();
			details.remove();
			entries.delete(id);
		}
	const body = $('keys').tBodies[0];
	keys.forEach((key, i) => {
		const entry = entries.get(key.key_id) ?? newEntry(key);
		show(entry, key, keys.some(({ replaces }) => replaces === key.key_id));
		[entry.row, entry.details].forEach((row, j) => {
			if (body.rows[2 * i + j] !== row)
				body.insertBefore(row, body.rows[2 * i + j] ?? null);
		});
	});
	$('keys').hidden = keys.length === 0;
	$('empty').hidden = keys.length > 0;
	setText($('how-many'), keys.length > 0 ? String(keys.length) : '');
}

function newEntry(key) {
	const [row, details] = $('key-rows').content.cloneNode(true).children;
	const entry = { row, details };
	row.querySelector('.prefix code').textContent = key.token_prefix;
	showRole(row.querySelector('.role'), key.role);
	setText(row.querySelector('.may small'), key.scopes ? key.scopes.join(' ') || 'no scope' : '');
	showTime(row.querySelector('.created time'), key.created_at, date(key.created_at));
	setText(row.querySelector('.created small'), key.created_by ? `by ${key.created_by}` : '');

	details.id = `details-${key.key_id}`;
	const toggle = row.querySelector('.toggle');
	toggle.setAttribute('aria-controls', details.id);
	toggle.addEventListener('click', () => {
		details.hidden = !details.hidden;
		toggle.setAttribute('aria-expanded', String(!details.hidden));
		showHistory(entry);
	});
	details.querySelector('.rename').addEventListener('click', () => rename(entry));
	details.querySelector('.suspend').addEventListener('click', () => suspend(entry));
	details.querySelector('.rotate').addEventListener('submit', event => {
		event.preventDefault();
		rotate(entry);
	});
	details.querySelector('.revoke').addEventListener('click', () => askToRevoke(entry.key));
	entries.set(key.key_id, entry);
	return entry;
}

/** What can change in the rows of a key. */
function show(entry, key, replaced) {
	const { row, details } = entry;
	const changed = ['name', 'expires_at', 'suspended_at'].some(column => entry.key?.[column] !== key[column]);
	entry.key = key;
	setText(row.querySelector('.name bdi'), key.name);
	showTime(row.querySelector('.expires time'), key.expires_at, key.expires_at ? until(key.expires_at) : 'Never');
	setText(row.querySelector('.expires small'), key.suspended_at ? 'Suspended' : replaced ? 'Replaced' : '');

	const calls = row.querySelector('.calls');
	const before = calls.textContent;
	setText(calls, Number(key.calls).toLocaleString('en'));
	if (before !== '' && before !== calls.textContent) {
		calls.classList.remove('moved');
		void calls.offsetWidth;			// starts the animation anew
		calls.classList.add('moved');
	}
	showTime(row.querySelector('.used time'), key.last_used_at, key.last_used_at ? ago(key.last_used_at) : 'Never');

	label(row.querySelector('.toggle'), key.may_manage ? 'Manage' : 'Details', key.name);
	label(details.querySelector('.rename'), 'Rename', key.name);
	label(details.querySelector('.suspend'), key.suspended_at ? 'Resume' : 'Suspend', key.name);
	label(details.querySelector('.rotate button'), 'Rotate', key.name);
	label(details.querySelector('.revoke'), 'Revoke', key.name);
	const reason = whyNot(key);
	setText(details.querySelector('.reason'), reason);
	details.querySelector('.actions').hidden = !key.may_manage;
	details.querySelector('.rotate').hidden = reason !== '';
	if (changed)
		showHistory(entry);
}

/** Why something is not offered; empty if everything is.  The database refuses it anyway. */
function whyNot({ may_manage, created_by, suspended_at, role, scopes }) {
	if (!may_manage)
		return `Only ${created_by ? `${created_by} or ` : ''}someone who manages keys, like an admin, may change this key.`;
	if (suspended_at)
		return 'A suspended key cannot be rotated. Resume it first.';
	if (!me.may.roles.includes(role) || (me.narrowed && !scopes?.every(scope => me.may.scopes.includes(scope))))
		return 'You cannot rotate this key: the new one would have a role or scopes that you do not have.';
	return '';
}

function label(button, action, name) {
	setText(button, action);
	if (button.ariaLabel !== `${action} ${name}`)
		button.ariaLabel = `${action} ${name}`;
}

async function showHistory({ key, details }) {
	if (details.hidden)
		return;
	const events = await call('GET', `${path({ key })}/events`).catch(() => []);
	details.querySelector('.history').replaceChildren(...events.map((event, i) => {
		const item = document.createElement('li');
		const time = document.createElement('time');
		showTime(time, event.at, new Date(event.at).toLocaleString('en', { dateStyle: 'medium', timeStyle: 'short' }));
		item.append(time, ` ${whatHappened(event, events[i - 1], key)} by ${event.by}`);
		return item;
	}));
}

function whatHappened({ event, name, expires_at }, before, { replaces }) {
	if (event === 'created')
		return `created as “${name}”${replaces ? ` in place of the key ${replaces}` : ''}`;
	if (event !== 'changed')
		return event;
	return [
		name !== before?.name && `renamed to “${name}”`,
		expires_at !== before?.expires_at && (expires_at ? `set to expire on ${date(expires_at)}` : 'set to expire never'),
	].filter(Boolean).join(' and ');
}

function showPerson({ name, organization, role, may, narrowed }) {
	setText($('person'), name);
	for (const element of [$('organization'), document.querySelector('.organization')])
		setText(element, organization);
	showChoices(may, narrowed);
	if (document.activeElement !== $('my-role'))
		$('my-role').value = role;
}

let choices;

/** What a new key may get.  At first that is as much as its creator has. */
function showChoices(may, narrowed) {
	if (choices === (choices = JSON.stringify([may, narrowed])))
		return;
	$('role').replaceChildren(...may.roles.map(role => new Option(role)));
	$('role').value = may.roles.at(-1);
	$('everything-label').hidden = narrowed;
	$('everything').checked = !narrowed;
	$('scopes').replaceChildren(...may.scopes.map(scope => {
		const label = document.createElement('label');
		const box = Object.assign(document.createElement('input'), { type: 'checkbox', value: scope, checked: true });
		label.append(box, ` ${scope}`);
		return label;
	}));
	$('scopes').hidden = $('everything').checked;
}

$('everything').addEventListener('change', () => { $('scopes').hidden = $('everything').checked; });

function showRole(element, role) {
	setText(element, role);
	element.dataset.role = role;
}

function showTime(element, time, words) {
	setText(element, words);
	if (time && element.dateTime !== time) {
		element.dateTime = time;
		element.title = new Date(time).toLocaleString('en', { dateStyle: 'full', timeStyle: 'long' });
	}
}

const date = time => new Date(time).toLocaleDateString('en', { dateStyle: 'medium' });
const units = [['year', 365 * 86400], ['day', 86400], ['hour', 3600], ['minute', 60]];
const inWords = new Intl.RelativeTimeFormat('en');

function ago(time) {
	const seconds = Math.round((Date.now() - new Date(time)) / 1000);
	for (const [unit, length] of [...units.slice(1), ['second', 1]])
		if (seconds >= Math.max(length, 5))
			return inWords.format(-Math.floor(seconds / length), unit);
	return 'Just now';
}

function until(time) {
	const seconds = Math.round((new Date(time) - Date.now()) / 1000);
	for (const [unit, length] of units)
		if (seconds >= length)
			return inWords.format(Math.round(seconds / length), unit);
	return 'in a moment';
}

/** Touches the document only where it changes, so that selections and screen readers are left alone. */
function setText(element, text) {
	if (element.textContent !== text)
		element.textContent = text;
}

async function live() {
	if (!document.hidden)
		try {
			await refresh();
			$('offline').hidden = true;
		} catch {
			$('offline').hidden = false;
		}
	setTimeout(live, 1000);
}

// --- A new key -----------------------------------------------------------------------------------------------------

$('create').addEventListener('submit', async event => {
	event.preventDefault();
	const button = $('create').querySelector('button');
	button.disabled = true;
	try {
		const days = $('lifetime').value;
		const scopes = [...$('scopes').querySelectorAll(':checked')].map(({ value }) => value);
		const key = await call('POST', '/api/keys', {
			name: $('name').value,
			role: $('role').value,
			scopes: $('everything').checked ? null : scopes,
			expires_at: days === 'infinity' ? days : new Date(Date.now() + days * 86_400_000),
		});
		showProblem('');
		$('name').value = '';
		showToken(key);				// in place of the one before; a name that was refused leaves that to be copied
		await refresh();
	} catch (error) {
		showProblem(messageOf(error));
		$('name').focus();
	} finally {
		button.disabled = false;
	}
});

const messageOf = error => error instanceof Problem ? error.message : 'The server does not answer. Try again.';

function showProblem(message) {
	setText($('problem'), message && message[0].toUpperCase() + message.slice(1));
	$('problem').hidden = !message;
	$('name').setAttribute('aria-invalid', message ? 'true' : 'false');
}

function showToken({ key_id, name, role, token }) {
	const call = { jsonrpc: '2.0', id: 1, method: 'tools/call', params: { name: 'whoami', arguments: {} } };
	$('new-token').dataset.key = key_id;
	$('new-token-name').textContent = name;
	showRole($('new-token-role'), role);
	$('token').textContent = token;
	$('curl').textContent = [
		`curl ${endpoint}`,
		`-H 'Authorization: Bearer ${token}'`,
		"-H 'Content-Type: application/json'",
		"-H 'Accept: application/json, text/event-stream'",
		`-d '${JSON.stringify(call)}'`,
	].join(' \\\n  ');
	$('config').textContent = JSON.stringify(
		{ mcpServers: { notes: { type: 'http', url: endpoint, headers: { Authorization: `Bearer ${token}` } } } }, null, 2);
	$('new-token').hidden = false;
	$('new-token').focus();
}

function discardToken() {
	$('new-token').hidden = true;
	for (const id of ['token', 'curl', 'config', 'new-token-name'])
		$(id).textContent = '';
}

$('new-token-done').addEventListener('click', () => {
	discardToken();
	$('name').focus();
});
addEventListener('pagehide', discardToken);

for (const button of document.querySelectorAll('[data-copy]')) {
	const label = button.firstChild;
	button.addEventListener('click', async () => {
		const source = $(button.dataset.copy);
		try {
			await navigator.clipboard.writeText(source.textContent);
			label.data = 'Copied';
			say('Copied.');
		} catch {
			// Not allowed here (say, no https): select it, so that the person can.
			getSelection().selectAllChildren(source);
			label.data = 'Press Ctrl+C';
		}
		setTimeout(() => { label.data = 'Copy'; }, 2000);
	});
}

// --- Changing a key ------------------------------------------------------------------------------------------------

/** The change is in the list when this ends; a refusal is said. */
async function change(work) {
	try {
		await work();
	} catch (error) {
		say(messageOf(error));
		return false;
	}
	await refresh().catch(() => {});		// live() says that the server does not answer
	return true;
}

const path = ({ key }) => `/api/keys/${encodeURIComponent(key.key_id)}`;

/** In place: the name becomes a field. */
function rename(entry) {
	const name = entry.row.querySelector('.name bdi');
	if (name.hidden)
		return;
	const form = $('rename-form').content.firstElementChild.cloneNode(true);
	const field = form.querySelector('input');
	const done = () => {
		form.remove();
		name.hidden = false;
		entry.details.querySelector('.rename').focus();
	};
	field.value = entry.key.name;
	form.addEventListener('submit', async event => {
		event.preventDefault();
		if (await change(() => call('PATCH', path(entry), { name: field.value })))
			done();
		else
			field.focus();
	});
	form.addEventListener('keydown', event => { if (event.key === 'Escape') done(); });
	form.querySelector('[type=button]').addEventListener('click', done);
	name.hidden = true;
	name.after(form);
	field.select();
}

async function suspend(entry) {
	const { name, suspended_at } = entry.key;
	if (await change(() => call('PATCH', path(entry), { suspended: !suspended_at })))
		say(suspended_at ? `${name} works again.` : `${name} is suspended.`);
}

async function rotate(entry) {
	const grace = entry.details.querySelector('.rotate select').value;
	await change(async () => showToken(await call('POST', `${path(entry)}/rotation`, { grace })));
}

// --- Revoking ------------------------------------------------------------------------------------------------------

function askToRevoke(key) {
	const dialog = $('confirm');
	$('confirm-name').textContent = key.name;
	$('confirm-prefix').textContent = key.token_prefix;
	dialog.returnValue = '';
	dialog.onclose = () => {
		if (dialog.returnValue === 'revoke')
			revoke(key);
	};
	dialog.showModal();
}

async function revoke(key) {
	if (await change(() => call('DELETE', path({ key }))))
		say(`${key.name} is revoked.`);
	if ($('new-token').dataset.key === key.key_id)
		discardToken();
	$('keys-heading').focus();
}

let saidTimer;

function say(text) {
	$('said').textContent = text;
	clearTimeout(saidTimer);
	saidTimer = setTimeout(() => { $('said').textContent = ''; }, 6000);
}

// --- The demo's own ------------------------------------------------------------------------------------------------

$('my-role').addEventListener('change', async () => {
	await call('POST', '/demo/role', { role: $('my-role').value });
	await refresh();
	say(`You are ${$('my-role').value} now. Keys that exist keep their role.`);
});

$('endpoint').textContent = endpoint;
live();
