// Settings → API keys: the page's back end.
//
// It is a trusted gateway.  It knows the person from the application's own sign-in, tells the database in settings that
// end with the transaction, and steps down to a role that may not change them.  From there on the database decides which
// keys exist for this person, what a new one may do, and which may be changed.  That is why no statement here names an
// organization, and why nothing that the browser sends can reach beyond it.
//
// A new token passes through here once, from amt_create_key() or amt_rotate_key() to the answer, and is kept nowhere.

import { fileURLToPath } from 'node:url';
import express from 'express';
import { ROLES, SCOPES } from './roles.js';
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
		const [mine, keys] = await asPerson(pool, req.person, async db => [
			// What a new key may have.
			await db.query(
				`SELECT ARRAY(SELECT name FROM unnest($1::text[]) AS name WHERE amt.amt_has_role(name)) AS roles,
				        ARRAY(SELECT name FROM unnest($2::text[]) AS name WHERE amt.amt_has_scope(name)) AS scopes`,
				[ROLES, SCOPES]),
			await db.query(
				`SELECT key_id, name, token_prefix, role, scopes, created_at, created_by, expires_at, suspended_at, replaces,
				        calls, last_used_at, amt.amt_may_manage(key_id, org_id, created_by) AS may_manage
				   FROM amt.amt_keys
				  ORDER BY created_at DESC, key_id`),
		]);
		const { name, organization, role, scopes } = req.person;
		res.json({
			person: { name, organization, role, narrowed: scopes !== null, may: mine.rows[0] }, csrf: req.csrf, keys: keys.rows,
		});
	});

	router.post('/api/keys', async (req, res) => {
		const { name, role, scopes, expires_at } = req.body ?? {};
		const { rows: [key] } = await asPerson(pool, req.person, db => db.query(
			`SELECT token, key_id, name, role, scopes
			   FROM amt.amt_create_key($1, role => $2, scopes => $3, expires_at => $4)`, [name, role, scopes, expires_at]));
		res.status(201).json(key);
	});

	router.post('/api/keys/:id/rotation', async (req, res) => {
		const { rows: [key] } = await asPerson(pool, req.person, db => db.query(
			'SELECT token, key_id, name, role, scopes FROM amt.amt_rotate_key($1, $2)', [req.params.id, req.body?.grace ?? '0']));
		res.status(201).json(key);
	});

	// A column that is not sent stays as it is.
	router.patch('/api/keys/:id', async (req, res) => {
		const { name, suspended } = req.body ?? {};
		const found = await asPerson(pool, req.person, async db => {
			const { rowCount } = await db.query(
				`UPDATE amt.amt_keys
				    SET name = coalesce($2, name),
				        suspended_at = CASE coalesce($3, suspended_at IS NOT NULL) WHEN true THEN coalesce(suspended_at, now()) END
				  WHERE key_id = $1`, [req.params.id, name, suspended]);
			return rowCount ? 'changed' : (await db.query('SELECT FROM amt.amt_keys WHERE key_id = $1', [req.params.id])).rowCount;
		});
		if (found === 'changed')
			return res.sendStatus(204);
		// The database passes over a key that the person may see but not change, as over one that is not there.
		if (found)
			return res.status(403).json({ error: 'Only its creator or someone who manages keys may change this key.' });
		res.status(404).json({ error: 'There is no such key any more.' });
	});

	router.delete('/api/keys/:id', async (req, res) => {
		const { rows: [{ gone }] } = await asPerson(pool, req.person, db => db.query(
			'SELECT amt.amt_revoke($1) AS gone', [req.params.id]));
		if (!gone)
			return res.status(404).json({ error: 'There is no such key any more.' });
		res.sendStatus(204);
	});

	router.get('/api/keys/:id/events', async (req, res) => {
		const { rows } = await asPerson(pool, req.person, db => db.query(
			`SELECT at, event, name, expires_at, coalesce(actor, by_key, db_user) AS by
			   FROM amt.amt_key_event
			  WHERE key_id = $1
			  ORDER BY event_id`, [req.params.id]));
		res.json(rows);
	});

	// What the database refuses, it explains: message, detail and hint are meant for the person.
	router.use('/api/keys', (error, req, res, next) => {
		const status = { 42501: 403, P0002: 404, 55000: 409 }[error.code] ?? (/^22/.test(error.code) ? 422 : undefined);
		if (!status)
			return next(error);
		res.status(status).json({ error: error.message, hint: [error.detail, error.hint].filter(Boolean).join(' ') });
	});

	return router;
}

/** Runs work(db) in a transaction with the person's identity. */
const asPerson = (pool, { orgId, role, scopes, actor }, work) => transaction(pool, async db => {
	await db.query(
		`SELECT set_config('amt_keys.org_id', $1, true), set_config('amt_keys.role', $2, true),
		        set_config('amt_keys.actor', $3, true), set_config('amt_keys.scopes', $4, true)`,
		[orgId, role, actor, scopes ? scopes.join() || ',' : '']);
	await db.query('SET LOCAL ROLE notes_person');
	return work(db);
});
