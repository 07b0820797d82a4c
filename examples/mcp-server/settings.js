// Settings → API keys: the page's back end.
//
// It is a trusted gateway.  Who the person is, it knows from the application's own sign-in; it tells the database in
// three settings that end with the transaction, steps down to a role that may not change them, and from there on the
// database decides: which keys exist for this person, which role a new one gets, which may be revoked.  That is why no
// statement here names an organization, and why nothing that the browser sends can reach beyond it.
//
// A new token passes through here once, from amt_create_key() to the answer, and is kept nowhere.

import { fileURLToPath } from 'node:url';
import express from 'express';
import { transaction } from './transaction.js';

const PUBLIC = fileURLToPath(new URL('public/', import.meta.url));

/** Routes for the page; pool connects as the gateway, and req.person and req.csrf come from the application's sign-in. */
export function settings(pool) {
	const router = express.Router();
	router.use(express.static(PUBLIC, { index: false, cacheControl: false }));

	router.get('/settings/api-keys', (req, res) =>
		req.person ? res.sendFile('api-keys.html', { root: PUBLIC, cacheControl: false }) : res.redirect('/sign-in'));

	router.use('/api/keys', (req, res, next) => {
		if (!req.person)
			return res.status(401).json({ error: 'Sign in first.' });
		// The cookie alone proves nothing: another site's page can make the browser send it.
		if (req.method !== 'GET' && req.get('x-csrf-token') !== req.csrf)
			return res.status(403).json({ error: 'This request did not come from the settings page. Reload it.' });
		next();
	}, express.json());

	router.get('/api/keys', async (req, res) => {
		const { rows } = await asPerson(pool, req.person, db => db.query(
			`SELECT key_id, name, token_prefix, role, created_at, calls, last_used_at,
			        amt_may_manage(key_id, org_id, created_by) AS may_revoke
			   FROM amt_keys
			  ORDER BY created_at DESC, key_id`));
		const { name, organization, role } = req.person;
		res.json({ person: { name, organization, role }, csrf: req.csrf, keys: rows });
	});

	router.post('/api/keys', async (req, res) => {
		const { rows: [key] } = await asPerson(pool, req.person, db => db.query(
			'SELECT token, key_id, name, role FROM amt_create_key($1, role => $2)', [req.body?.name, req.body?.role]));
		res.status(201).json(key);
	});

	router.delete('/api/keys/:id', async (req, res) => {
		const { rows: [{ gone }] } = await asPerson(pool, req.person, db => db.query(
			'SELECT amt_revoke($1) AS gone', [req.params.id]));
		if (!gone)
			return res.status(404).json({ error: 'There is no such key any more.' });
		res.sendStatus(204);
	});

	// What the database refuses, it explains: its message and hint are meant for the person.
	router.use('/api/keys', (error, req, res, next) => {
		const status = { '42501': 403, '22023': 422 }[error.code];
		if (!status)
			return next(error);
		res.status(status).json({ error: error.message, hint: error.hint });
	});

	return router;
}

/** Runs work(db) in a transaction with the person's identity. */
const asPerson = (pool, { orgId, role, actor }, work) => transaction(pool, async db => {
	await db.query(
		`SELECT set_config('amt_keys.org_id', $1, true), set_config('amt_keys.role', $2, true),
		        set_config('amt_keys.actor', $3, true)`, [orgId, role, actor]);
	await db.query('SET LOCAL ROLE notes_person');
	return work(db);
});
