// The READMEs of the examples are programs: shell blocks, and after some of them a block with what they print.

import { spawn } from 'node:child_process';
import { once } from 'node:events';
import { readFileSync } from 'node:fs';

/** The shell blocks under a heading, as [{ commands, output }], output null where the README shows none. */
export function steps(file, heading) {
	const text = readFileSync(file, 'utf8');
	const section = text.split(/^## /m).find(part => part.startsWith(`${heading}\n`));
	if (!section)
		throw new Error(`${file} has no section "${heading}"`);
	const blocks = [...section.matchAll(/^```(\w+)\n(.*?)^```$/gms)];
	return blocks.flatMap(([, language, commands], i) => {
		if (language !== 'sh')
			return [];
		const next = blocks[i + 1];
		return [{ commands, output: next && next[1] !== 'sh' ? next[2] : null }];
	});
}

/** What a README shows, as a regular expression: "…" stands for anything but the end of the line. */
export const pattern = output =>
	new RegExp(`^${output.split('…').map(part => part.replace(/[\\^$.*+?()[\]{}|]/g, '\\$&')).join('[^\\n]+?')}$`);

/** A shell that is fed one step after the other, as by a person; run(commands) → what they printed. */
export function startShell({ cwd, env }) {
	const shell = spawn('bash', ['--norc', '--noprofile'], { cwd, env: { ...process.env, ...env }, stdio: ['pipe', 'pipe', 'pipe'] });
	let printed = '', waiting = null, turn = 0;
	shell.once('close', () => waiting?.reject(new Error(`the shell ended: ${printed}`)));
	for (const stream of [shell.stdout, shell.stderr])
		stream.setEncoding('utf8').on('data', text => {
			printed += text;
			const end = printed.indexOf(waiting?.mark);
			if (end >= 0) {
				waiting.resolve(printed.slice(0, end));
				printed = '';
			}
		});
	return {
		run: commands => new Promise((resolve, reject) => {
			const mark = `--- end of step ${++turn} ---\n`;
			waiting = { mark, resolve, reject };
			shell.stdin.write(`{\n${commands}\n} 2>&1\necho '${mark.trim()}'\n`);
		}),
		/** Ends the shell and the programs that it was told to leave running. */
		stop: async () => {
			if (shell.exitCode !== null)
				return;
			shell.stdin.end('kill $(jobs -p) 2>/dev/null; wait\n');
			await once(shell, 'exit');
		},
	};
}
