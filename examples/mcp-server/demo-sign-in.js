// A sign-in for trying the settings page, NOT for copying: nine people, no passwords, sessions that a restart forgets.
// A real application brings its own.  What settings.js takes from it is req.person, { name, organization, orgId, role,
// scopes (null: no narrowing), actor }, and req.csrf, which the person's page has to send back with every change.

import { randomBytes } from 'node:crypto';
import express from 'express';
import { ROLES } from './roles.js';

const organizations = [{ orgId: 'acme', organization: 'Acme' }, { orgId: 'globex', organization: 'Globex' }];
const people = [
	['Vera', 'acme', 'viewer'], ['Edgar', 'acme', 'editor'], ['Ada', 'acme', 'admin'], ['Oscar', 'acme', 'owner'],
	['Rita', 'acme', 'editor', ['notes:read']],
	['Vikram', 'globex', 'viewer'], ['Elena', 'globex', 'editor'], ['Amara', 'globex', 'admin'], ['Olga', 'globex', 'owner'],
].map(([name, orgId, role, scopes = null]) => ({
	name, ...organizations.find(each => each.orgId === orgId), role, scopes, actor: `${name.toLowerCase()}@${orgId}.example`,
}));

const sessions = new Map();
const SESSION_LASTS = 8 * 60 * 60 * 1000;
const random = () => randomBytes(32).toString('base64url');

/** Routes /sign-in, /sign-out and /demo/role; and whatever is routed after them finds req.person and req.csrf. */
export function demoSignIn() {
	const router = express.Router();
	const form = express.urlencoded({ extended: false });

	router.use((req, res, next) => {
		// Everybody who reaches this machine may sign in, but no form or script of another site may do it for them.
		if (!['GET', 'HEAD'].includes(req.method) && req.headers.origin !== `${req.protocol}://${req.headers.host}`)
			return res.status(403).json({ error: 'This request did not come from this site.' });

		const id = /(?:^|;\s*)session=([\w-]+)/.exec(req.headers.cookie)?.[1];
		const session = sessions.get(id);
		if (session?.expires > Date.now())
			Object.assign(req, { sessionId: id, person: session.person, csrf: session.csrf });
		next();
	});

	router.get('/', (req, res) => res.redirect('/settings/api-keys'));
	router.get('/sign-in', (req, res) => res.send(signInPage()));

	router.post('/sign-in', form, (req, res) => {
		const person = people.find(({ actor }) => actor === req.body?.actor);
		if (!person)
			return res.sendStatus(400);
		for (const [id, { expires }] of sessions)
			if (expires <= Date.now())
				sessions.delete(id);
		const id = random();
		sessions.set(id, { person, csrf: random(), expires: Date.now() + SESSION_LASTS });
		res.cookie('session', id, { httpOnly: true, sameSite: 'strict', secure: req.secure });
		res.redirect(303, '/settings/api-keys');
	});

	router.post('/sign-out', (req, res) => {
		sessions.delete(req.sessionId);
		res.clearCookie('session');
		res.redirect(303, '/sign-in');
	});

	// In a real application somebody else does this, elsewhere.  Here it shows that keys keep the role they were made with.
	router.post('/demo/role', express.json(), (req, res) => {
		if (!req.person || req.get('x-csrf-token') !== req.csrf)
			return res.sendStatus(403);
		if (!ROLES.includes(req.body?.role))
			return res.sendStatus(400);
		req.person.role = req.body.role;
		res.sendStatus(204);
	});

	return router;
}

// Everything in this page is written above; nothing in it comes from a request.
const signInPage = () => `<!doctype html>
<html lang="en">
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<title>Sign in · Notes</title>
<link rel="icon" href="/icon.svg">
<link rel="stylesheet" href="/style.css">
<main class="sign-in">
	<h1>Who are you today?</h1>
	<p class="lead">Two organizations, a person for each role, and one who may only read. This is a demo: there are
	no passwords, and a real application brings its own sign-in.</p>
	<div class="organizations">
${organizations.map(({ orgId, organization }) => `
		<section class="card" aria-labelledby="${orgId}">
			<h2 id="${orgId}">${organization}</h2>
			<form method="post" action="/sign-in">
${people.filter(person => person.orgId === orgId).map(({ actor, name, role, scopes }) => `
				<button class="person" name="actor" value="${actor}"><span>${name}</span> ${
					scopes ? `<code>${scopes}</code> ` : ''}<span class="role" data-role="${role}">${role}</span></button>
`).join('')}
			</form>
		</section>
`).join('')}
	</div>
</main>
</html>
`;
