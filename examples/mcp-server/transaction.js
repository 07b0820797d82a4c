// Runs work(db) between BEGIN and COMMIT on a connection of its own. If anything goes wrong, the connection is closed, and its
// transaction with it: a ROLLBACK might not get through.
// Everything that says who is asking is set inside, with LOCAL, so the connection goes back to the pool as nobody's.

export async function transaction(pool, work) {
	const db = await pool.connect();
	let failure;
	try {
		await db.query('BEGIN');
		const result = await work(db);
		await db.query('COMMIT');
		return result;
	} catch (error) {
		throw failure = error;
	} finally {
		db.release(failure);
	}
}
