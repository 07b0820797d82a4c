// Runs work(db) between BEGIN and COMMIT on a connection of its own; whatever goes wrong is rolled back and thrown on.
// Everything that says who is asking is set inside, with LOCAL, so the connection goes back to the pool as nobody's.

export async function transaction(pool, work) {
	const db = await pool.connect();
	try {
		await db.query('BEGIN');
		const result = await work(db);
		await db.query('COMMIT');
		return result;
	} catch (error) {
		await db.query('ROLLBACK').catch(() => {});		// a broken connection is replaced by the pool
		throw error;
	} finally {
		db.release();
	}
}
