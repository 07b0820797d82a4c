// doc/demo.md is what examples/demo prints.

import assert from 'node:assert/strict';
import { execFile } from 'node:child_process';
import { readFileSync } from 'node:fs';
import { test } from 'node:test';
import { fileURLToPath } from 'node:url';
import { promisify } from 'node:util';

const top = fileURLToPath(new URL('../../', import.meta.url));

/** The text without what differs from run to run; the same key has the same number in all of it. */
function normalized(text) {
	const keys = [];
	const number = id => `<key ${keys.includes(id) ? keys.indexOf(id) + 1 : keys.push(id)}>`;
	return text
		.replace(/\d{4}-\d\d-\d\d[ T]\d\d:\d\d:\d\d(\.\d+)?(\+\d\d|Z)?/g, '<time>')
		.replace(/amt_([0-9A-Za-z]{12})_[0-9A-Za-z]{49}/g, (_, id) => `<token of ${number(id)}>`)
		.replace(/amt_([0-9A-Za-z]{12})\.\.\./g, (_, id) => `<prefix of ${number(id)}>`)
		.replace(/\b[0-9A-Za-z]{12}\b/g, id => keys.includes(id) ? number(id) : id)
		.replace(/\$scrypt\$ln=14,r=8,p=1\$[A-Za-z0-9+/]{22}\$[A-Za-z0-9+/]{43}/, '<hash>')
		.replace(/localhost:\d+/, 'localhost:<port>')
		.replace(/\S+\/amt_keys-demo\.\w+/, '<directory>')
		.replace(/-{2,}/g, '--')
		.replace(/[ \t]+/g, ' ')
		.replace(/ $/gm, '')
		.trim();
}

test('doc/demo.md shows what the demo prints', async () => {
	const [, page] = readFileSync(`${top}doc/demo.md`, 'utf8').match(/^```text\n(.*?)^```$/ms);
	const { stdout } = await promisify(execFile)(`${top}examples/demo`, { env: { ...process.env, NO_COLOR: '1' } });
	assert.equal(normalized(stdout), normalized(page));
});
