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

const rows = new Map();		// key id → its <tr>, kept from one reading to the next so that focus and hover stay put

let lastRead = 0;

async function refresh() {
	const read = ++lastRead;
	const { person, keys, csrf: token } = await call('GET', '/api/keys');
	if (read !== lastRead)
		return;					// a later reading is on its way, or was faster
	csrf = token;
	showPerson(person);

	for (const [id, row] of rows)
		if (!keys.some(key => key.key_id === id)) {
			row.remove();
			rows.delete(id);
		}
	keys.forEach((key, i) => {
		const row = rows.get(key.key_id) ?? newRow(key);
		show(row, key);
		const body = $('keys').tBodies[0];
		if (body.rows[i] !== row)
			body.insertBefore(row, body.rows[i] ?? null);
	});
	$('keys').hidden = keys.length === 0;
	$('empty').hidden = keys.length > 0;
	setText($('how-many'), keys.length > 0 ? String(keys.length) : '');
}

function newRow(key) {
	const row = $('key-row').content.firstElementChild.cloneNode(true);
	row.querySelector('.name bdi').textContent = key.name;
	row.querySelector('.prefix code').textContent = key.token_prefix;
	showRole(row.querySelector('.role'), key.role);
	showTime(row.querySelector('.created time'), key.created_at, new Date(key.created_at).toLocaleDateString('en', { dateStyle: 'medium' }));
	const button = row.querySelector('button');
	button.setAttribute('aria-label', `Revoke ${key.name}`);
	button.addEventListener('click', () => askToRevoke(key));
	rows.set(key.key_id, row);
	return row;
}

/** What can change in a row. */
function show(row, key) {
	const calls = row.querySelector('.calls');
	const before = calls.textContent;
	setText(calls, Number(key.calls).toLocaleString('en'));
	if (before !== '' && before !== calls.textContent) {
		calls.classList.remove('moved');
		void calls.offsetWidth;			// starts the animation anew
		calls.classList.add('moved');
	}
	showTime(row.querySelector('.used time'), key.last_used_at, key.last_used_at ? ago(key.last_used_at) : 'Never');
	row.querySelector('button').hidden = !key.may_revoke;
}

function showPerson({ name, organization, role }) {
	setText($('person'), name);
	for (const element of [$('organization'), document.querySelector('.organization')])
		setText(element, organization);
	showRole($('role-now'), role);
	if (document.activeElement !== $('my-role'))
		$('my-role').value = role;
}

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

function ago(time) {
	const seconds = Math.round((Date.now() - new Date(time)) / 1000);
	const relative = new Intl.RelativeTimeFormat('en');
	for (const [unit, length] of [['day', 86400], ['hour', 3600], ['minute', 60], ['second', 5]])
		if (seconds >= length)
			return relative.format(-Math.floor(seconds / (unit === 'second' ? 1 : length)), unit);
	return 'Just now';
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
		const key = await call('POST', '/api/keys', { name: $('name').value });
		showProblem('');
		$('name').value = '';
		showToken(key);				// in place of the one before; a name that was refused leaves that to be copied
		await refresh();
	} catch (error) {
		showProblem(error instanceof Problem ? error.message : 'The server does not answer. Try again.');
		$('name').focus();
	} finally {
		button.disabled = false;
	}
});

function showProblem(message) {
	setText($('name-problem'), message && message[0].toUpperCase() + message.slice(1));
	$('name-problem').hidden = !message;
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
	try {
		await call('DELETE', `/api/keys/${encodeURIComponent(key.key_id)}`);
		say(`${key.name} is revoked.`);
	} catch (error) {
		say(error.message);
	}
	if ($('new-token').dataset.key === key.key_id)
		discardToken();
	$('keys-heading').focus();
	await refresh();
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
