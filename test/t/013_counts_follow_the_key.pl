# What a key has counted is its own, from its creation to its end.

use strict;
use warnings FATAL => 'all';

use FindBin;
use lib "$FindBin::RealBin/../perl";

use AmtKeys qw(:all);
use Session;
use PostgreSQL::Test::Utils;
use Test::More;

my $node = new_cluster(conf => "max_prepared_transactions = 5\namt_keys.usage_flush_interval = '200ms'");
my ($s, $a, $b) = map { Session->new($node) } 1 .. 3;

sub new_key
{
	return $_[0]->query(q{SELECT token FROM amt_create_key('a key', 'acme', 'editor')});
}

# In the memory of the server, not in the table.
sub pending
{
	return $s->query('SELECT calls_pending FROM amt_stat');
}

sub nothing_pending
{
	return wait_until(sub { pending() == 0 }, 30);
}

sub usage_rows
{
	my ($token) = @_;
	return $s->query("SELECT count(*) FROM amt_key_usage WHERE key_id = '" . id_of($token) . "'");
}

# A creation that is rolled back leaves nothing, however often the key was called.
for my $end ('ROLLBACK', q{PREPARE TRANSACTION 'gone'; ROLLBACK PREPARED 'gone'}, 'ROLLBACK TO x; COMMIT')
{
	my $dropped = stat_of($node, 'calls_dropped');
	$a->query('BEGIN', 'SAVEPOINT x');
	my $token = new_key($a);
	is(verify($a, $token), 1, 'a key works in the transaction that creates it') for 1 .. 3;
	$a->query(split /; /, $end);
	is(verify($s, $token), 0, "after $end the key does not exist");
	ok(nothing_pending(), "after $end no call stays in memory");
	is(stat_of($node, 'calls_dropped'), $dropped + 3, "after $end calls_dropped has grown by the calls of the key");
	is(usage_rows($token), 0, "after $end the key has no row of usage");
}

# Created and called in one transaction, the calls wait until it has ended.
for my $end ('COMMIT', q{PREPARE TRANSACTION 'new'; COMMIT PREPARED 'new'}, 'RELEASE x; COMMIT')
{
	$a->query('BEGIN', 'SAVEPOINT x');
	my $token = new_key($a);
	verify($a, $token) for 1 .. 3;
	is($a->query("SELECT calls FROM amt_keys WHERE key_id = '" . id_of($token) . "'"), 3, 'the transaction that creates a key sees its calls');
	my $other = new_key($s);
	verify($s, $other);
	ok(is_written($node, id_of($other), 1), 'calls of another key are written while a creation is open');
	is(pending(), 3, 'calls of a new key wait while its creation is open');
	$a->query(split /; /, $end);
	is(calls_of($node, id_of($token)), 3, "after $end the view has the calls");
	ok(is_written($node, id_of($token), 3), "after $end the calls are written");
}

# A revocation records all calls, and leaves no row of usage, in every isolation level and by every way.
for my $level ('READ COMMITTED', 'REPEATABLE READ', 'SERIALIZABLE')
{
	for my $sql ("SELECT amt_revoke('ID')", "DELETE FROM amt_keys WHERE key_id = 'ID' RETURNING true",
		"DELETE FROM amt_key WHERE key_id = 'ID' RETURNING true")
	{
		my $token = new_key($s);
		my $id = id_of($token);
		my $what = "$level, $sql";
		verify($s, $token);
		flush($node);
		$a->query("BEGIN ISOLATION LEVEL $level", 'SELECT count(*) FROM amt_key_usage');
		verify($s, $token);
		flush($node);
		verify($s, $token);
		is($a->query($sql =~ s/ID/$id/r), 't', "$what: a key is revoked whose calls were written after the snapshot");
		is($a->query('COMMIT'), '', "$what: the transaction commits");
		is(verify($s, $token), 0, "$what: the key is refused");
		is(events_of($node, $id), 3, "$what: the event has all calls");
		is(usage_rows($token), 0, "$what: the row of usage is gone");
		ok(nothing_pending(), "$what: no call stays in memory");
	}
}

# A revocation that does not commit changes nothing.
for my $end ('ROLLBACK', 'ROLLBACK TO x; COMMIT', q{PREPARE TRANSACTION 'revocation'; ROLLBACK PREPARED 'revocation'})
{
	my $token = new_key($s);
	my $id = id_of($token);
	verify($s, $token);
	flush($node);
	verify($s, $token);
	is($a->query('BEGIN', 'SAVEPOINT x', "SELECT amt_revoke('$id')"), 't', 'a key is revoked in an open transaction');
	is(verify($s, $token), 1, 'a key works until the commit of its revocation');
	is(calls_of($node, $id), 3, 'other sessions see the calls of a key until the commit of its revocation');
	$a->query(split /; /, $end);
	is(calls_of($node, $id), 3, "after $end of its revocation a key has its calls");
	ok(is_written($node, $id, 3), "after $end of its revocation the calls of a key are written");
}

# A first row of usage that is inserted while the key is revoked does not outlive it.
{
	my $make = "SELECT token AS t%d, key_id AS k%d FROM amt_create_key('short', 'acme', 'editor') \\gset\n";
	my $script = join '', map({ sprintf $make, $_, $_ } 1, 2), (map { "SELECT FROM amt_verify(':t$_');\n" } 1, 2, 1, 2),
	  "BEGIN;\n", (map { "SELECT amt_revoke(':k$_');\n" } 2, 1), "COMMIT;\n";
	configure($node, 'amt_keys.usage_flush_interval' => '10ms');
	my $run = start_pgbench($node, [$script], '-c', 8, '-j', 2, '-t', 100);
	ok(finish_pgbench($run), 'keys are made, called and revoked, two by two, while the worker writes');
	is($node->safe_psql('postgres', q{SELECT count(*), sum(calls) FROM amt_key_event WHERE event = 'revoked' AND name = 'short'}),
		'1600|3200', 'the events of keys that are revoked two by two have all calls');
	is($node->safe_psql('postgres', q{SELECT deadlocks FROM pg_stat_database WHERE datname = 'postgres'}), 0, 'keys that are revoked two by two make no deadlock with the worker');
	ok(nothing_pending(), 'no call of a revoked key stays in memory');
	is($s->query('SELECT count(*) FROM amt_key_usage WHERE key_id NOT IN (SELECT key_id FROM amt_key)'), 0, 'no row of usage is left of a key that is gone');
	configure($node, 'amt_keys.usage_flush_interval' => '200ms');
}

# The calls of a key are written while a transaction changes it, once the key has a row.
{
	my $token = new_key($s);
	my $id = id_of($token);
	verify($s, $token);
	ok(is_written($node, $id, 1), 'the first call of a key is written');
	my $other = Session->new($node);
	$other->query('BEGIN', "UPDATE amt_keys SET name = 'another' WHERE key_id = '$id'");
	verify($s, $token);
	ok(is_written($node, $id, 2), 'a call is written while a transaction changes the key');
	$other->query("DELETE FROM amt_keys WHERE key_id = '$id'");
	is(verify($s, $token), 1, 'the key works until the transaction ends');
	is($other->query('COMMIT', "SELECT count(*) FROM amt_key_usage WHERE key_id = '$id'"), 0, 'no usage is left when the transaction has revoked the key as well');
	$other->quit;
}

# Calls of a key whose row has moved, while another key's row has taken its place.
{
	my $token = $s->query(q{SELECT token FROM amt_create_key(repeat('a', 100), 'acme', 'editor')});
	my $id = id_of($token);
	my $place = sub { $s->query("SELECT ctid FROM amt_key WHERE key_id = '$_[0]'") };
	my $old = $place->($id);
	my ($page) = $old =~ /(\d+)/;
	my $make_until = sub {
		my ($pattern) = @_;
		for (1 .. 500) { return 1 if $place->(id_of(new_key($s))) =~ $pattern }
	};
	ok($make_until->(qr/^\((?!$page,)/), 'the page of a key is full');
	$a->query('BEGIN', 'LOCK TABLE amt_key_usage IN EXCLUSIVE MODE');
	verify($s, $token);
	$s->query("UPDATE amt_keys SET name = repeat('b', 100) WHERE key_id = '$id'", 'VACUUM (INDEX_CLEANUP on) amt_key');
	ok($make_until->(qr/^\Q$old\E$/), 'the row of another key is where that of the key was');
	$a->query('COMMIT');
	ok(is_written($node, $id, 1), 'the call of a key is written after its row has moved');
	is(verify($s, $token), 1, 'a key is verified after its row has moved');
}

# Rows of usage that belong to no key are invisible, and a worker that starts sweeps them.
{
	wait_for_no_worker($node);
	my $token = new_key($s);
	$s->query(q{INSERT INTO amt_key_usage SELECT 'orphan' || i, 7, now() FROM generate_series(1, 500) AS i});
	is($s->query(q{SELECT count(*) FROM amt_keys WHERE key_id ~ 'orphan'}), 0, 'the view does not show usage without a key');
	my $person = Session->new($node, options => '');
	is($person->query('CREATE ROLE passerby', 'SET SESSION AUTHORIZATION passerby', 'SELECT count(*) FROM amt_key_usage'), 0, 'a role without an identity sees no usage without a key');
	$person->quit;
	verify($s, $token);
	ok(is_written($node, id_of($token), 1), 'a worker that starts writes the calls of a key');
	ok(wait_until(sub { $s->query(q{SELECT count(*) FROM amt_key_usage WHERE key_id ~ 'orphan'}) eq '0' }), 'a worker that starts sweeps usage without a key');
	ok($s->query('SELECT count(*) FROM amt_key_usage') > 0, 'a worker that starts leaves the usage of keys alone');
}

# An id that is created again is another key, if its hash is another.
for my $written (0, 1)
{
	my ($first, $second) = map { new_key($s) } 1 .. 2;
	my $id = id_of($first);
	my $again = with_id($second, $id);
	my $hash = q{(SELECT scrypt_hash FROM amt_key WHERE key_id = '} . id_of($second) . q{')};
	my $what = $written ? 'with calls in the table' : 'with calls in memory';
	configure($node, 'amt_keys.usage_flush_interval' => $written ? '200ms' : '1h');
	verify($s, $first) for 1 .. 3;
	flush($node) if $written;
	$a->query('BEGIN', "DELETE FROM amt_key WHERE key_id = '$id'", insert_key_sql($id, $hash), 'COMMIT');
	is(events_of($node, $id), 3, "$what: the event of the deletion has the calls of the first key");
	is(calls_of($node, $id), 0, "$what: the second key has no calls");
	is($s->query("SELECT last_used_at IS NULL FROM amt_keys WHERE key_id = '$id'"), 't', "$what: the second key was never used");
	is(verify($s, $first), 0, "$what: the secret of the first key is refused");
	is(verify($s, $again), 1, "$what: the secret of the second key works") for 1 .. 2;
	is(calls_of($node, $id), 2, "$what: the second key counts its own calls");
	configure($node, 'amt_keys.usage_flush_interval' => '200ms');
	ok(is_written($node, $id, 2), "$what: the calls of the second key are written");

	# In a transaction that is rolled back, the first one stays.
	$a->query('BEGIN', "DELETE FROM amt_key WHERE key_id = '$id'", insert_key_sql($id, q{'$scrypt$ln=4,r=8,p=1$AAAAAAAAAAAAAAAAAAAAAA$AAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA'}));
	verify($s, $again);
	$a->query('ROLLBACK');
	is(calls_of($node, $id), 3, "$what: a replacement that is rolled back changes no calls in the view");
	ok(is_written($node, $id, 3), "$what: a replacement that is rolled back changes no calls in the table");
}

# The same row put back is never shown with calls that were not made.
{
	my $token = new_key($s);
	my $id = id_of($token);
	my $row = $s->query("SELECT k FROM amt_key k WHERE key_id = '$id'");
	verify($s, $token) for 1 .. 3;
	flush($node);
	$s->query("DELETE FROM amt_key WHERE key_id = '$id'", "INSERT INTO amt_key SELECT (\$r\$$row\$r\$::amt_key).*");
	is(events_of($node, $id), 3, 'the event of the deletion has the calls');
	verify($s, $token);
	cmp_ok(calls_of($node, $id), '<=', 4, 'a key put back has no calls that were not made');
	cmp_ok(calls_of($node, $id), '>=', 1, 'a key put back counts its calls');
	flush($node);
	is(stored_calls($node, $id), calls_of($node, $id), 'table and view agree on a key put back');
}

# Many new keys, each called for the first time in the transaction that made it.
{
	my @own = map { Session->new($node) } 1 .. 3;
	my ($before) = $s->query('SELECT sum(calls) FROM amt_keys');
	my $dropped = stat_of($node, 'calls_dropped');
	is($_->query('BEGIN', q{CREATE TEMP TABLE own AS SELECT token FROM generate_series(1, 1500) AS i, LATERAL amt_create_key('key ' || i, 'acme', 'editor')},
			'SELECT count(*) FROM own, amt_verify(token)'), 1500, 'fifteen hundred keys are made, and verified in the same transaction')
	  for @own;
	is($_->query('COMMIT'), '', 'the transaction that made and verified the keys commits') for @own;
	is(stat_of($node, 'calls_dropped'), $dropped, 'no call of a new key is dropped');
	is($s->query('SELECT sum(calls) FROM amt_keys'), $before + 4500, 'each call of a new key is counted');
	flush($node);
	is($s->query('SELECT sum(calls) FROM amt_key_usage'), $before + 4500, 'each call of a new key is written');
	$_->quit for @own;
}

# A table that is rewritten hides its rows from snapshots of before; a session that waited for it sees them nevertheless.
{
	my $token = new_key($s);
	my $id = id_of($token);
	my ($reader, $revoker) = map { Session->new($node) } 1 .. 2;
	verify($s, $token) for 1 .. 5;
	flush($node);
	$a->query('BEGIN', 'ALTER TABLE amt_key_usage ADD COLUMN note float8 DEFAULT random()', 'ALTER TABLE amt_key_usage ALTER note DROP DEFAULT');
	my @pids = map { $_->backend } $reader, $revoker;
	$reader->send("SELECT calls FROM amt_keys WHERE key_id = '$id'");
	$revoker->send("SELECT amt_revoke('$id')");
	ok(wait_for_lock($node, @pids), 'a reader and a revocation wait for a table that is rewritten');
	$a->query('COMMIT');
	is($revoker->receive, 't', 'a revocation that waited for a rewritten table revokes the key');
	is(events_of($node, $id), 5, 'a revocation that waited for a rewritten table records all calls');
	like($reader->receive, qr/\A(5|0|)\z/, 'a reader that waited for a rewritten table sees the key as before or after the revocation');
	$_->quit for $reader, $revoker;
	$token = new_key($s);
	verify($s, $token);
	ok(is_written($node, id_of($token), 1), 'calls are written into the table with the additional column');
}

# A call of a key that is found in a version of its row that a subtransaction took back is a call.
{
	$a->query('BEGIN');
	my $token = new_key($a);
	my $id = id_of($token);
	is($a->query(verify_sql($token), 'SAVEPOINT s', "UPDATE amt_key SET name = 'm' WHERE key_id = '$id'", verify_sql($token),
			'ROLLBACK TO s', 'COMMIT', "SELECT calls FROM amt_keys WHERE key_id = '$id'"),
		"1\n1\n2", 'a key is verified before and after its row was changed in a savepoint');
	ok(is_written($node, $id, 2), 'calls before and after a savepoint that is undone are written');
}

$_->quit for $s, $a, $b;
$node->stop;
done_testing();
