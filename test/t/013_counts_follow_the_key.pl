# What a key has counted is its own: not its predecessor's of the same id, not lost and not doubled by whoever writes it when.

use strict;
use warnings FATAL => 'all';

use FindBin;
use lib "$FindBin::RealBin/../perl";

use AmtKeys;
use Session;
use PostgreSQL::Test::Utils;
use Test::More;

my $node = new_cluster(conf => "amt_keys.usage_flush_interval = '1h'");
my ($s, $a, $b, $c) = map { Session->new($node) } 1 .. 4;

sub create
{
	return $_[0]->query(q{SELECT token FROM amt_create_key('a key', 'acme', 'editor')});
}

sub verify
{
	my ($session, $token) = @_;
	return $session->query("SELECT count(*) FROM amt_verify('$token')");
}

sub row_of
{
	my ($token) = @_;
	return $s->query("SELECT k FROM amt_key k WHERE key_id = '" . id_of($token) . "'");
}

sub delete_sql
{
	return "DELETE FROM amt_key WHERE key_id = '" . id_of($_[0]) . "'";
}

sub insert_sql
{
	return "INSERT INTO amt_key SELECT (\$r\$$_[0]\$r\$::amt_key).*";
}

# Deleted and put back, with calls in memory.
{
	my $token = create($s);
	my $row = row_of($token);
	verify($s, $token) for 1 .. 3;
	$s->query(delete_sql($token));
	is($s->query(q{SELECT calls FROM amt_key_event WHERE event = 'revoked'}), 3, 'the event of the revocation has the calls');
	$s->query(insert_sql($row));
	is(calls_of($node, id_of($token)), 0, 'a key put back starts anew');
	verify($s, $token);
	is(calls_of($node, id_of($token)), 1, 'and counts');
	$s->query('SELECT amt_flush_usage()');
	is(stored_calls($node, id_of($token)), 1, 'and is written');

	verify($s, $token);
	$s->query('BEGIN', delete_sql($token), insert_sql($row));
	is(verify($s, $token), 1, 'put back in the transaction that deleted it');
	is(calls_of($node, id_of($token)), 2, 'elsewhere it is still the one before');
	$s->query('COMMIT');
	is(calls_of($node, id_of($token)), 1, 'until the commit');

	$s->query('BEGIN', delete_sql($token), insert_sql($row));
	verify($s, $token);
	verify($a, $token);
	$s->query('ROLLBACK');
	is(calls_of($node, id_of($token)), 2, 'a rollback leaves the key with its calls');
}

# A flusher that found the row locked, and knows nothing of the key that has taken its place since.
{
	my $token = create($s);
	my $row = row_of($token);
	verify($s, $token) for 1 .. 5;
	$a->query('BEGIN', delete_sql($token));
	$b->query('BEGIN', 'SELECT amt_flush_usage()');
	$a->query('COMMIT');
	$s->send(insert_sql($row));
	ok($s->answers_within(5), 'who puts the key back does not wait for that one, which has nothing of it any more') or $b->query('COMMIT');
	$s->receive;
	verify($s, $token);
	is($a->query('BEGIN', 'SELECT amt_flush_usage()'), 1, 'another writes the call of the key that was put back');
	$b->query('COMMIT');
	$c->send('SELECT amt_flush_usage()');
	$c->answers_within(0.5);    # it would wait for the one before
	$a->query('COMMIT');
	is($c->receive, 0, 'who finds nothing to write');
	is(calls_of($node, id_of($token)), 1, 'the call is counted once');
	is(stored_calls($node, id_of($token)), 1, 'and written once');
	is($s->query('SELECT calls_pending FROM amt_stat'), 0, 'nothing is pending');
}

# A flusher that has the calls of a key, is busy with another, and would find a new key of the same id when it comes to it.
{
	my ($token, $slow) = map { create($s) } 1 .. 2;
	my ($id, $row) = (id_of($token), row_of($token));
	verify($s, $slow);
	$s->query('SELECT amt_flush_usage()',
		q{CREATE FUNCTION take_your_time() RETURNS trigger LANGUAGE plpgsql AS 'BEGIN PERFORM pg_advisory_xact_lock(1); RETURN NEW; END'},
		'CREATE TRIGGER slow BEFORE UPDATE ON amt_key_usage FOR EACH ROW EXECUTE FUNCTION take_your_time()');
	verify($s, $_) for ($token) x 5, $slow;
	$c->query('SELECT pg_advisory_lock(1)');
	my $pid = $b->backend;
	$b->send('SELECT amt_flush_usage()');
	ok(wait_until(sub { $s->query("SELECT wait_event FROM pg_stat_activity WHERE pid = $pid") eq 'advisory' }), 'somebody writes, and it takes time');
	is($a->query(delete_sql($token)), '', 'a key with calls is deleted meanwhile');
	$a->send(insert_sql($row));
	ok(!$a->answers_within(0.5), 'who puts it back waits');
	$c->query('SELECT pg_advisory_unlock(1)');
	is($b->receive, 1, 'until the other is done');
	is($a->receive, '', 'then it is there');
	is(calls_of($node, $id), 0, 'and has none of the calls');
	is($s->query("SELECT calls FROM amt_key_event WHERE event = 'revoked' AND key_id = '$id'"), 5, 'which are on record');
	verify($s, $token);
	$s->query('DROP TRIGGER slow ON amt_key_usage', 'SELECT amt_flush_usage()');
	is(stored_calls($node, $id), 1, 'its own are counted');
}

# Several who write at once.
{
	my @tokens = map { create($s) } 1 .. 20;
	my $before = $s->query('SELECT (SELECT sum(calls) FROM amt_keys) - (SELECT verified FROM amt_stat)');
	my $run = start_pgbench($node, [
			(map { "SELECT count(*) FROM amt_verify('$_');\n" } @tokens),
			(map { "BEGIN;\nSELECT amt_flush_usage();\n$_;\n" } ('COMMIT', 'ROLLBACK') x 3),
		], '-c', 8, '-j', 2, '-t', 1000);
	ok(finish_pgbench($run), 'many who count and write');
	is($s->query('SELECT (SELECT sum(calls) FROM amt_keys) - (SELECT verified FROM amt_stat)'), $before, 'no call is lost or doubled');
	$s->query('SELECT amt_flush_usage()');
	is($s->query('SELECT (SELECT sum(calls) FROM amt_keys) = (SELECT sum(calls) FROM amt_key_usage)'), 't', 'all is written');
}

# They go with a key only when its end is committed.
{
	my $token = create($s);
	my ($id, $row) = (id_of($token), row_of($token));
	verify($s, $token) for 1 .. 2;
	like($a->query('BEGIN', "SELECT amt_revoke('$id')", 'SELECT amt_flush_usage()'), qr/\At\n[0-9]+\z/, 'a key is revoked and then the calls are written');
	is(calls_of($node, $id), 2, 'for others it is there, with its calls');
	$a->query('ROLLBACK');
	is(calls_of($node, $id), 2, 'and rolled back, it is');
	$a->query('BEGIN', 'SAVEPOINT x', "SELECT amt_revoke('$id')", 'SELECT amt_flush_usage()', 'ROLLBACK TO x', 'COMMIT');
	is(calls_of($node, $id), 2, 'or to a savepoint');
	like($a->query('BEGIN', 'ALTER TABLE amt_key RENAME TO other', 'SELECT amt_flush_usage()', 'ROLLBACK'), qr/\A[0-9]+\z/,
		'the calls are written after the table was renamed');
	is(calls_of($node, $id), 2, 'and rolled back, they are there');

	$s->query('CREATE TABLE skew (i int)');
	$a->query('BEGIN ISOLATION LEVEL SERIALIZABLE', 'SELECT count(*) FROM skew', delete_sql($token), insert_sql($row), 'INSERT INTO skew VALUES (1)');
	$b->query('BEGIN ISOLATION LEVEL SERIALIZABLE', 'SELECT count(*) FROM skew', 'INSERT INTO skew VALUES (1)', 'COMMIT');
	is($a->query('COMMIT'), 'ERROR:  40001', 'a key that is put in its own place by a transaction whose commit fails');
	is(calls_of($node, $id), 2, 'has its calls');
	$s->query('SELECT amt_flush_usage()');
	is(stored_calls($node, $id), 2, 'and they are written');

	# Put back while somebody is writing, or has written, what the event has.
	verify($s, $token);
	$a->query('BEGIN', delete_sql($token));
	$b->query('BEGIN', 'SELECT amt_flush_usage()');
	$a->query(insert_sql($row));
	$a->send('COMMIT');
	ok(!$a->answers_within(0.3), 'a key that is put back waits for who is writing its calls');
	$b->query('COMMIT');
	is($a->receive, '', 'until he is done');
	is(calls_of($node, $id), 0, 'and starts anew');
	verify($s, $token);
	$a->query('BEGIN', 'SELECT amt_flush_usage()');
	verify($s, $token);
	$a->query(delete_sql($token), insert_sql($row), 'COMMIT');
	is(calls_of($node, $id), 0, 'as it does if it was itself');
	is($s->query("SELECT last_used_at FROM amt_keys WHERE key_id = '$id'"), '', 'never used');
	verify($s, $token) for 1 .. 2;

	verify($s, $token);
	my $dropped = stat_of($node, 'calls_dropped');
	$a->query('BEGIN', "SELECT amt_revoke('$id')", 'SELECT amt_flush_usage()', 'COMMIT');
	is($s->query("SELECT calls FROM amt_key_event WHERE event = 'revoked' AND key_id = '$id' ORDER BY at DESC LIMIT 1"), 3, 'its end committed, the event has them');
	is(stat_of($node, 'calls_dropped'), $dropped + 3, 'and what was in memory is dropped');
}

# Written by the very statement that deletes the key, before or after it does: the event has them all.
for my $sql ('WITH k AS (DELETE FROM amt_key WHERE key_id = %s RETURNING 1) SELECT amt_flush_usage() > 0 FROM k',
	'WITH f AS MATERIALIZED (SELECT amt_flush_usage() > 0 AS f) DELETE FROM amt_key USING f WHERE key_id = %s RETURNING f')
{
	my $token = create($s);
	verify($s, $token) for 1 .. 2;
	$s->query('SELECT amt_flush_usage()');
	verify($s, $token) for 1 .. 3;
	is($a->query('BEGIN', sprintf($sql, "'" . id_of($token) . "'"), 'COMMIT'), 't', $sql);
	is($s->query("SELECT calls FROM amt_key_event WHERE event = 'revoked' AND key_id = '" . id_of($token) . "'"), 5, 'and the event has the calls');
}

# Calls of one's own new keys have their room at the commit, however many others have filled since.
{
	my $node = new_cluster(name => 'room', conf => "amt_keys.usage_flush_interval = '1h'");
	my @own = map { Session->new($node) } 1 .. 3;
	is($_->query('BEGIN', q{CREATE TEMP TABLE own AS SELECT token FROM generate_series(1, 600) AS i, LATERAL amt_create_key('key ' || i, 'acme', 'editor')},
			'SELECT count(*) FROM own, amt_verify(token)'), 600, 'keys are made, and verified at once')
	  for @own;
	is($_->query('COMMIT'), '', 'their transactions commit') for @own;
	is(stat_of($node, 'calls_dropped'), 0, 'no call is dropped');
	is($node->safe_psql('postgres', 'SELECT count(*), sum(calls) FROM amt_keys'), '1800|1800', 'and each is counted');
	$_->quit for @own;
	$node->stop;
}

# Under REPEATABLE READ and SERIALIZABLE a revocation does not stumble over calls that were written since its snapshot.
for my $level ('REPEATABLE READ', 'SERIALIZABLE')
{
	for my $sql ('SELECT amt_revoke(%s)', 'DELETE FROM amt_key WHERE key_id = %s RETURNING true')
	{
		my $token = create($s);
		verify($s, $token);
		$s->query('SELECT amt_flush_usage()');
		$a->query("BEGIN ISOLATION LEVEL $level", 'SELECT count(*) FROM amt_key_usage');
		verify($s, $token);
		$s->query('SELECT amt_flush_usage()');
		verify($s, $token);
		is($a->query(sprintf $sql, "'" . id_of($token) . "'"), 't', "$level: " . sprintf $sql, '...');
		is($a->query('COMMIT'), '', 'commits');
		is(verify($s, $token), 0, 'and counts at once');
		is($s->query("SELECT calls FROM amt_key_event WHERE event = 'revoked' AND key_id = '" . id_of($token) . "'"), 3,
			'with the calls of the moment');

		# The same with calls that are being written at that moment.
		$token = create($s);
		for my $written (0, 1)
		{
			$a->query("BEGIN ISOLATION LEVEL $level", 'SELECT count(*) FROM amt_key_usage');
			verify($s, $token);
			$b->query('BEGIN', 'SELECT amt_flush_usage()');
			verify($s, $token);
			$a->send(sprintf $sql, "'" . id_of($token) . "'");
			$a->answers_within(0.3);    # it may wait
			$b->query('COMMIT');
			is($a->receive, 't', "$level, while calls are written: " . sprintf $sql, '...');
			is($a->query($written ? 'COMMIT' : 'ROLLBACK'), '', 'goes well');
			is(calls_of($node, id_of($token)), $written ? '' : 2, 'and the calls are as they should be');
		}
	}
}

# A table that is rewritten hides its rows from snapshots of before; who has waited for it sees them all the same.
{
	my $key = create_key($node);
	my $key_id = id_of($key);
	my ($a, $b, $c) = map { Session->new($node) } 1 .. 3;
	$a->query(("SELECT FROM amt_verify('$key')") x 5, 'SELECT amt_flush_usage()',
		'BEGIN', 'ALTER TABLE amt_key_usage ADD COLUMN note float8 DEFAULT random()');
	$_->query('SELECT amt_org_id()') for $b, $c;
	my $pids = join ',', map { $_->backend } $b, $c;
	$b->send("SELECT calls FROM amt_keys WHERE key_id = '$key_id'");
	$c->send("SELECT amt_revoke('$key_id')");
	ok(wait_until(sub { $node->safe_psql('postgres', "SELECT count(*) FROM pg_stat_activity WHERE pid IN ($pids) AND wait_event_type = 'Lock'") == 2 }),
		'a reader and a revocation wait for a table that is rewritten');
	$a->query('COMMIT');
	is($c->receive, 't', 'the key is revoked then');
	is($a->query("SELECT calls FROM amt_key_event WHERE key_id = '$key_id' AND event = 'revoked'"), '5', 'with all its calls on record');
	like($b->receive, qr/\A(5|0|)\z/, 'the reader has seen it before or after');
	$_->quit for $a, $b, $c;
}

# A call of a key of one's own, found in a version of its row that a subtransaction took back, is a call.
{
	my $s = Session->new($node);
	my $answer = $s->query('BEGIN', q{SELECT token FROM amt_create_key('own', 'acme', 'editor')});
	my $key_id = id_of($answer);
	is($s->query("SELECT count(*) FROM amt_verify('$answer')", 'SAVEPOINT s', "UPDATE amt_key SET name = 'm' WHERE key_id = '$key_id'",
			"SELECT count(*) FROM amt_verify('$answer')", 'ROLLBACK TO s', 'COMMIT', "SELECT calls FROM amt_keys WHERE key_id = '$key_id'"),
		"1\n1\n2", 'verified before and after its row was changed in a savepoint');
	$s->quit;
}

done_testing();
