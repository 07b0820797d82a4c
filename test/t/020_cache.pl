# A warm key is verified without scrypt; what is warm is never more than what scrypt has said of a stored hash.

use strict;
use warnings FATAL => 'all';

use FindBin;
use lib "$FindBin::RealBin/../perl";

use AmtKeys;
use Session;
use PostgreSQL::Test::Utils;
use Test::More;

my $node = new_cluster(conf => 'max_prepared_transactions = 5');
my $s = Session->new($node);
my $other = Session->new($node);

# What verifications say, and how many runs of scrypt they took.
sub verify
{
	my ($session, @tokens) = @_;
	my $before = $session->query('SELECT scrypt_runs FROM amt_stat');
	my @answers = map { $session->query("SELECT count(*) FROM amt_verify('$_')") } @tokens;
	my $runs = $session->query('SELECT scrypt_runs FROM amt_stat') - $before;
	return join(' ', @answers) . ", $runs runs";
}

sub create
{
	my ($session) = @_;
	return $session->query(q{SELECT token FROM amt_create_key('a key', 'acme', 'editor')});
}

sub wrong
{
	my ($token) = @_;
	my $last = substr $token, -1, 1, '';
	return $token . ($last eq 'a' ? 'b' : 'a');
}

# The same secret under another key id.
sub with_id
{
	my ($token, $id) = @_;
	return $token =~ s/\Aamt_[^_]+_/amt_${id}_/r;
}

sub hash_of
{
	my ($token) = @_;
	my $id = id_of($token);
	return $s->query("SELECT scrypt_hash FROM amt_key WHERE key_id = '$id'");
}

# Warm from its creation, for all sessions.
my $token = create($s);
is(verify($s, $token), '1, 0 runs', 'a key is warm after its creation');
is(verify($other, $token), '1, 0 runs', 'in other sessions, too');
is(verify($s, wrong($token), wrong($token)), '0 0, 0 runs', 'a wrong secret of a warm key is refused without scrypt');
is(verify($s, "$token "), '0, 0 runs', 'and so is a text that is no token');
is(verify($s, with_id($token, 'nobody')), '0, 0 runs', 'and a key that does not exist');

# Cold, once.
$s->query('SELECT amt_cache_clear()');
is($s->query('SELECT warm_keys FROM amt_stat'), 0, 'amt_cache_clear() makes all keys cold');
is(verify($s, wrong($token), wrong($token)), '0 0, 2 runs', 'a wrong secret of a cold key takes scrypt each time');
is($s->query('SELECT warm_keys FROM amt_stat'), 0, 'and warms nothing');
is(verify($s, $token, $token), '1 1, 1 runs', 'the right one takes it once');
is($s->query('SELECT warm_keys FROM amt_stat'), 1, 'and makes the key warm');
is(verify($other, $token, wrong($token)), '1 0, 0 runs', 'for all sessions');

# The stored hash is what the entry is about.
{
	my $second = create($s);
	my ($id, $hash) = (id_of($token), hash_of($second));
	my $old_row = $s->query("SELECT amt_key FROM amt_key WHERE key_id = '$id'");
	my $new = with_id($second, $id);
	is(verify($s, $new), '0, 0 runs', q{another key's secret is wrong});
	$s->query('BEGIN', "DELETE FROM amt_key WHERE key_id = '$id'",
		"INSERT INTO amt_key VALUES ('$id', 'acme', 'again', 'editor', '$hash', now())", 'COMMIT');
	is(verify($other, $token), '0, 1 runs', 'a key put back with another hash is not warm for its old secret');
	is(verify($other, $new), '1, 1 runs', 'and accepts the new one, after scrypt');
	is(verify($s, $token, $new), '0 1, 0 runs', 'and is warm then');
	# The owner can switch off the trigger that freezes the hash.
	$hash = hash_of($token = create($s));
	$s->query('ALTER TABLE amt_key DISABLE TRIGGER amt_key_guard', "UPDATE amt_key SET scrypt_hash = '$hash' WHERE key_id = '$id'",
		'ALTER TABLE amt_key ENABLE ALWAYS TRIGGER amt_key_guard');
	is(verify($s, $new, with_id($token, $id)), '0 1, 2 runs', 'a hash changed behind our back counts at once');
	$s->query("DELETE FROM amt_key WHERE key_id = '$id'");
}

# A creation that is rolled back leaves no entry, however it is verified meanwhile.
{
	$s->query('SELECT amt_cache_clear()');
	$s->query('BEGIN');
	my $new = create($s);
	is(verify($s, $new), '1, 1 runs', 'a key works in the transaction that creates it, by scrypt');
	is(verify($other, $new), '0, 0 runs', 'and nowhere else');
	is($other->query('SELECT warm_keys FROM amt_stat'), 0, 'it is not warm before the commit');
	my $row = $s->query('SELECT a FROM amt_key a WHERE key_id = ' . "'" . id_of($new) . "'");
	$s->query('ROLLBACK');
	is($other->query('SELECT warm_keys FROM amt_stat'), 0, 'nor after a rollback');
	is(verify($s, $new), '0, 0 runs', 'it does not exist');
	$s->query("INSERT INTO amt_key SELECT (\$r\$$row\$r\$::amt_key).*");
	is(verify($s, $new), '1, 1 runs', 'put back by hand, it is cold');

	$s->query('SELECT amt_cache_clear()', 'BEGIN', 'SAVEPOINT a');
	my $undone = create($s);
	$s->query('ROLLBACK TO a', 'SAVEPOINT b');
	my $kept = create($s);
	$s->query('RELEASE b', 'SAVEPOINT c');
	is(verify($s, $kept), '1, 1 runs', 'a key of a released savepoint works');
	$s->query('ROLLBACK TO c', 'COMMIT');
	is($other->query('SELECT warm_keys FROM amt_stat'), 1, 'at commit, what no savepoint has undone becomes warm');
	is(verify($other, $undone, $kept), '0 1, 0 runs', 'and only that exists');
	is(calls_of($node, id_of($kept)), 2, 'both calls count, that of the undone savepoint, too');

	$s->query('SELECT amt_cache_clear()', 'BEGIN');
	my $updated = create($s);
	$s->query("UPDATE amt_key SET name = 'renamed' WHERE key_id = '" . id_of($updated) . "'");
	is(verify($s, $updated), '1, 1 runs', 'a key created and renamed in this transaction');
	is($other->query('SELECT warm_keys FROM amt_stat'), 0, 'is not warm before the commit');
	$other->query('SELECT amt_flush_usage()');
	$s->query('COMMIT');
	is(calls_of($node, id_of($updated)), 1, 'and its call counts');

	my $calls = calls_of($node, id_of($updated));
	$s->query('BEGIN', "UPDATE amt_key SET name = 'again' WHERE key_id = '" . id_of($updated) . "'");
	is(verify($s, $updated), '1, 0 runs', 'a key renamed in this transaction');
	$s->query('ROLLBACK');
	is(calls_of($node, id_of($updated)), $calls + 1, 'counts, though the transaction rolls back');

	$s->query('SELECT amt_cache_clear()', 'BEGIN');
	my $prepared = create($s);
	$s->query("PREPARE TRANSACTION 'creation'");
	is($other->query('SELECT warm_keys FROM amt_stat'), 0, 'a prepared creation warms nothing');
	is(verify($other, $prepared), '0, 0 runs', 'and cannot be verified');
	$s->query("COMMIT PREPARED 'creation'");
	is(verify($other, $prepared), '1, 1 runs', 'until it is committed');
}

# A revocation counts when it commits, not before and not otherwise.
{
	my $key = create($s);
	for my $end ('ROLLBACK', q{PREPARE TRANSACTION 'revocation'; ROLLBACK PREPARED 'revocation'})
	{
		$s->query('BEGIN');
		is($s->query("SELECT amt_revoke('" . id_of($key) . "')"), 't', 'a key is revoked');
		is(verify($s, $key), '0, 0 runs', 'here it is');
		is(verify($other, $key), '1, 0 runs', 'elsewhere it is not, before the commit');
		$s->query(split /; /, $end);
		is(verify($s, $key), '1, 0 runs', "and works after $end");
		is(verify($other, $key, wrong($key)), '1 0, 0 runs', 'everywhere');
	}
	$s->query('BEGIN', 'SAVEPOINT a', "SELECT amt_revoke('" . id_of($key) . "')", 'ROLLBACK TO a', 'COMMIT');
	is(verify($s, $key), '1, 0 runs', 'a revocation undone by a savepoint never was');
	my $warm = $s->query('SELECT warm_keys FROM amt_stat');
	$s->query("SELECT amt_revoke('" . id_of($key) . "')");
	is(verify($other, $key), '0, 0 runs', 'a revocation counts at its commit');
	is($s->query('SELECT warm_keys FROM amt_stat'), $warm - 1, 'and gives its room back');
}

# Two databases that know the same key id, with different hashes, or with the same.
{
	$s->query('CREATE DATABASE other');
	$node->safe_psql('other', 'CREATE EXTENSION amt_keys');
	my $there = Session->new($node, dbname => 'other');
	my $here = create($s);
	my $another = create($s);
	my ($id, $hash, $another_hash) = (id_of($here), hash_of($here), hash_of($another));
	my $same = with_id($another, $id);

	is(verify($there, $here), '0, 0 runs', 'a warm key of one database is unknown in the other');
	$there->query("INSERT INTO amt_key VALUES ('$id', 'globex', 'theirs', 'viewer', '$another_hash', now())");
	is(verify($there, $here), '0, 1 runs', 'one that has its id there has its own secret');
	is(verify($there, $same), '1, 1 runs', 'which scrypt is asked for');
	is(verify($s, $here, $same), '1 0, 0 runs', 'here nothing has changed');
	is(verify($there, $here, $same), '0 1, 0 runs', 'nor there');
	is($there->query("SELECT org_id FROM amt_verify('$same')"), 'globex', 'each has its row');
	is($s->query("SELECT org_id FROM amt_verify('$here')"), 'acme', 'of its own');
	$there->query("DELETE FROM amt_key", "INSERT INTO amt_key VALUES ('$id', 'globex', 'theirs', 'viewer', '$hash', now())");
	is(verify($there, $here), '1, 1 runs', 'even the same hash is not warm in another database');
	is(calls_of($node, $id) . ' ' . calls_of($node, $id, 'other'), '2 1', 'and each counts for itself');
	$there->quit;
}

# A copy of a database, whose tables have the same numbers.
{
	my $copied = create($s);
	my $id = id_of($copied);
	$_->quit for $s, $other;
	$node->safe_psql('template1', 'CREATE DATABASE copy TEMPLATE postgres');
	$s = Session->new($node);
	$other = Session->new($node);
	my $there = Session->new($node, dbname => 'copy');
	is($there->query(q{SELECT 'amt_key'::regclass::oid}), $s->query(q{SELECT 'amt_key'::regclass::oid}), 'a copy of a database');
	is(verify($s, $copied), '1, 0 runs', 'a warm key');
	is(verify($there, $copied), '1, 1 runs', 'is cold in the copy');
	is(verify($s, $copied, wrong($copied)), '1 0, 0 runs', 'and warm in both then');
	is(verify($there, $copied, wrong($copied)), '1 0, 0 runs', 'at the same time');
	is(calls_of($node, $id) . ' ' . calls_of($node, $id, 'copy'), '2 2', 'each counts for itself');
	$there->query("SELECT amt_revoke('$id')");
	is(verify($there, $copied), '0, 0 runs', 'revoked there');
	is(verify($s, $copied), '1, 0 runs', 'it is not here');
	is(calls_of($node, $id), 3, 'and its calls are what they were');
	$there->quit;
}

# An extension that is created anew knows nothing of what was warm.
{
	my $key = create($s);
	my $row = $s->query("SELECT amt_key FROM amt_key WHERE key_id = '" . id_of($key) . "'");
	is(verify($s, $key), '1, 0 runs', 'a warm key');
	$s->query('DROP EXTENSION amt_keys', 'CREATE EXTENSION amt_keys', "INSERT INTO amt_key SELECT (\$r\$$row\$r\$::amt_key).*");
	is(verify($s, $key), '1, 1 runs', 'is cold in another extension');
	is(calls_of($node, id_of($key)), 1, 'and starts to count anew');
}

# As many as cache_size, and older ones make room.
{
	$node->append_conf('postgresql.conf', 'amt_keys.cache_size = 100');
	$node->reload;
	$s = Session->new($node);
	$s->query('SELECT amt_cache_clear()');
	my @tokens = split /\n/, $s->query(q{SELECT (amt_create_key('key ' || i, 'acme', 'editor')).token FROM generate_series(1, 300) i});
	cmp_ok($s->query('SELECT warm_keys FROM amt_stat'), '<=', 100, 'no more keys are warm than cache_size');
	is(verify($s, @tokens) =~ s/,.*//r, join(' ', (1) x 300), 'but all work');
	is($s->query('SELECT warm_keys FROM amt_stat'), 100, 'the cache is full');

	# Those in use stay.
	my @hot = @tokens[ 0 .. 9 ];
	verify($s, @hot);
	my $runs = 0;
	for my $batch (1 .. 8)
	{
		verify($s, @tokens[ 50 + $batch * 20 .. 69 + $batch * 20 ]);
		my ($more) = verify($s, @hot) =~ /, (\d+) runs/;
		$runs += $more;
	}
	cmp_ok($runs, '<', 20, "keys in use stay warm while others come and go ($runs runs for 80 calls)");

	for my $size (0, 10, 100_000)
	{
		$node->append_conf('postgresql.conf', "amt_keys.cache_size = $size");
		$node->reload;
		$s = Session->new($node);
		is($s->query('SHOW amt_keys.cache_size'), $size, "cache_size = $size after a reload");
		is(verify($s, @tokens) =~ s/,.*//r, join(' ', (1) x 300), 'all keys work');
		is(verify($s, wrong($tokens[-1])), $size ? '0, 0 runs' : '0, 1 runs', 'a wrong secret does not');
		my ($again) = verify($s, @tokens) =~ /, (\d+) runs/;
		cmp_ok($again, $size == 100_000 ? '==' : '>=', $size == 0 ? 300 : $size == 10 ? 290 : 0, "they took $again runs");
		cmp_ok($s->query('SELECT warm_keys FROM amt_stat'), '<=', $size || 100, 'and the cache is as large as it may be');
	}
	is($s->query('SELECT warm_keys FROM amt_stat'), 300, 'and all are warm in the end');
}

# Many sessions at once in a cache that is much too small.
{
	$node->append_conf('postgresql.conf', 'amt_keys.cache_size = 5');
	$node->reload;
	ok(wait_until(sub { $s->query('SHOW amt_keys.cache_size') eq '5' }, 30), 'cache_size = 5 has arrived');
	my @tokens = split /\n/, $s->query(q{SELECT (amt_create_key('key ' || i, 'acme', 'editor')).token FROM generate_series(1, 20) i});
	$s->query('CREATE TABLE tokens AS SELECT * FROM unnest(ARRAY[' . join(',', map { "'$_'" } @tokens) . ']) WITH ORDINALITY AS t (token, n)');
	my $run = start_pgbench($node, [ <<'SQL' ], '-c', 8, '-j', 2, '-T', 4, '-M', 'prepared');
\set n random(1, 20)
\set r random(1, 20)
SELECT 1 / count(*) FROM tokens t, amt_verify(t.token) v WHERE t.n = :n AND 'amt_' || v.key_id || '...' = left(t.token, 16) || '...';
SELECT 1 / (1 - count(*)) FROM tokens t, amt_verify(overlay(t.token placing 'AAAAAA' from 40)) WHERE t.n = :r;
SQL
	ok(finish_pgbench($run), 'a cache that changes all the time never gives a wrong answer');
	cmp_ok($s->query('SELECT warm_keys FROM amt_stat'), '<=', 5, 'nor grows');
}

done_testing();
