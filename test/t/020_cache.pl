# A warm key is verified without scrypt. Whatever is warm is what scrypt has said of the hash that is stored now.

use strict;
use warnings FATAL => 'all';

use FindBin;
use lib "$FindBin::RealBin/../perl";

use AmtKeys qw(:all);
use Session;
use PostgreSQL::Test::Utils;
use Test::More;

my $node = new_cluster(conf => "max_prepared_transactions = 5\namt_keys.usage_flush_interval = '200ms'");
my $s = Session->new($node);
my $other = Session->new($node);

# The answers of verifications, and how many runs of scrypt they took.
sub answers
{
	my ($session, @tokens) = @_;
	my $before = $session->query('SELECT scrypt_runs FROM amt_stat');
	my @answers = map { verify($session, $_) } @tokens;
	my $runs = $session->query('SELECT scrypt_runs FROM amt_stat') - $before;
	return join(' ', @answers) . ", $runs runs";
}

sub create
{
	my ($session) = @_;
	return $session->query(q{SELECT token FROM amt_create_key('a key', 'acme', 'editor')});
}

sub warm_keys
{
	return $s->query('SELECT warm_keys FROM amt_stat');
}

# An SQL expression for the stored hash of a key.
sub hash_of
{
	my ($token) = @_;
	return q{'} . $s->query("SELECT scrypt_hash FROM amt_key WHERE key_id = '" . id_of($token) . q{'}) . q{'};
}

# Warm from its creation, for all sessions.
my $token = create($s);
is(answers($s, $token), '1, 0 runs', 'a key is warm from its creation');
is(answers($other, $token), '1, 0 runs', 'a new key is warm in other sessions, too');
is(answers($s, wrong_secret($token), wrong_secret($token)), '0 0, 0 runs', 'a wrong secret of a warm key is refused without scrypt');
is(answers($s, "$token "), '0, 0 runs', 'a text that is no token is refused without scrypt');
is(answers($s, with_id($token, 'nobody')), '0, 0 runs', 'a key that does not exist is refused without scrypt');

# Cold, once.
{
	my $calls = calls_of($node, id_of($token));
	$s->query('SELECT amt_cache_clear()');
	is(warm_keys(), 0, 'amt_cache_clear() makes all keys cold');
	is(calls_of($node, id_of($token)), $calls, 'amt_cache_clear() forgets no call');
}
is(answers($s, wrong_secret($token), wrong_secret($token)), '0 0, 2 runs', 'a wrong secret of a cold key takes scrypt each time');
is(warm_keys(), 0, 'a wrong secret makes nothing warm');
is(answers($s, $token, $token), '1 1, 1 runs', 'the right secret of a cold key takes scrypt once');
is(warm_keys(), 1, 'the right secret makes the key warm');
is(answers($other, $token, wrong_secret($token)), '1 0, 0 runs', 'the right secret makes the key warm for all sessions');

# An entry is about the hash that is stored.
{
	my $second = create($s);
	my ($id, $hash) = (id_of($token), hash_of($second));
	my $new = with_id($second, $id);
	is(answers($s, $new), '0, 0 runs', q{another key's secret is refused without scrypt});
	$s->query('BEGIN', "DELETE FROM amt_key WHERE key_id = '$id'", insert_key_sql($id, $hash), 'COMMIT');
	flush($node);
	is(answers($other, $token), '0, 1 runs', 'a key put back with another hash is not warm for its old secret');
	is(answers($other, $new), '1, 1 runs', 'a key put back with another hash accepts the new secret after scrypt');
	is(answers($s, $token, $new), '0 1, 0 runs', 'a key put back with another hash is warm after one verification');
	# The owner can switch off the trigger that freezes the hash.
	$hash = hash_of($token = create($s));
	$s->query('ALTER TABLE amt_key DISABLE TRIGGER amt_key_guard', "UPDATE amt_key SET scrypt_hash = $hash WHERE key_id = '$id'",
		'ALTER TABLE amt_key ENABLE ALWAYS TRIGGER amt_key_guard');
	is(answers($s, $new, with_id($token, $id)), '0 1, 2 runs', 'a hash that the owner changes counts at once');
	# The owner switches between two hashes: each time the stored one decides.
	for my $round (1 .. 3)
	{
		for my $stored ($second, $token)
		{
			$hash = hash_of($stored);
			$s->query('ALTER TABLE amt_key DISABLE TRIGGER amt_key_guard', "UPDATE amt_key SET scrypt_hash = $hash WHERE key_id = '$id'",
				'ALTER TABLE amt_key ENABLE ALWAYS TRIGGER amt_key_guard');
			like(answers($s, map { with_id($_, $id) } $second, $token), $stored eq $second ? qr/\A1 0,/ : qr/\A0 1,/,
				"round $round: the stored hash decides");
		}
	}
	$s->query("DELETE FROM amt_key WHERE key_id = '$id'");
}

# A creation that is rolled back leaves no key, and what memory holds of it does no harm.
{
	$s->query('BEGIN');
	my $new = create($s);
	is(answers($s, $new), '1, 0 runs', 'a key works, and is warm, in the transaction that creates it');
	is(answers($other, $new), '0, 0 runs', 'a key works in no other session before the commit of its creation');
	$s->query('ROLLBACK');
	is(answers($s, $new), '0, 0 runs', 'a key does not exist after the rollback of its creation');
	my $foreign = create($s);
	$s->query(insert_key_sql(id_of($new), hash_of($foreign)));
	is(answers($s, $new, with_id($foreign, id_of($new))), '0 1, 2 runs', 'a key imported under the id of a creation that was rolled back is not warm for its secret');

	$s->query('SELECT amt_cache_clear()', 'BEGIN', 'SAVEPOINT a');
	my $undone = create($s);
	$s->query('ROLLBACK TO a', 'SAVEPOINT b');
	my $kept = create($s);
	$s->query('RELEASE b', 'SAVEPOINT c');
	is(answers($s, $kept, $undone), '1 0, 0 runs', 'a key of a released savepoint works, one of an undone savepoint does not');
	$s->query('ROLLBACK TO c', 'COMMIT');
	is(answers($other, $undone, $kept), '0 1, 0 runs', 'after the commit a key of a released savepoint works, one of an undone savepoint does not');
	is(calls_of($node, id_of($kept)), 2, 'a call in a savepoint that is undone counts');

	$s->query('BEGIN');
	my $prepared = create($s);
	$s->query("PREPARE TRANSACTION 'creation'");
	is(answers($other, $prepared), '0, 0 runs', 'a prepared creation cannot be verified');
	$s->query("COMMIT PREPARED 'creation'");
	is(answers($other, $prepared), '1, 0 runs', 'a prepared creation can be verified after COMMIT PREPARED');
}

# A revocation counts when it commits, not before and not otherwise.
{
	my $key = create($s);
	for my $end ('ROLLBACK', q{PREPARE TRANSACTION 'revocation'; ROLLBACK PREPARED 'revocation'})
	{
		$s->query('BEGIN');
		is($s->query("SELECT amt_revoke('" . id_of($key) . "')"), 't', 'a key is revoked in an open transaction');
		is(answers($s, $key), '0, 0 runs', 'a key is refused in the transaction that revokes it');
		is(answers($other, $key), '1, 0 runs', 'a key works elsewhere before the commit of its revocation');
		$s->query(split /; /, $end);
		is(answers($s, $key), '1, 0 runs', "after $end of its revocation a key works");
		is(answers($other, $key, wrong_secret($key)), '1 0, 0 runs', "after $end of its revocation a key works in every session");
	}
	$s->query('BEGIN', 'SAVEPOINT a', "SELECT amt_revoke('" . id_of($key) . "')", 'ROLLBACK TO a', 'COMMIT');
	is(answers($s, $key), '1, 0 runs', 'a key works after a savepoint has undone its revocation');
	$s->query("SELECT amt_revoke('" . id_of($key) . "')");
	is(answers($other, $key), '0, 0 runs', 'a revocation counts at its commit');
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

	is(answers($there, $here), '0, 0 runs', 'a warm key of one database is unknown in the other');
	$there->query(insert_key_sql($id, $another_hash, 'globex'));
	is(answers($there, $here), '0, 1 runs', 'a secret is refused for the key of the same id in another database');
	is(answers($there, $same), '1, 1 runs', 'the secret of a key in another database takes scrypt');
	is(answers($s, $here, $same), '1 0, 0 runs', 'a key keeps its secret when another database has its id');
	is(answers($there, $here, $same), '0 1, 0 runs', 'a key with the id of one in another database has its own secret');
	is($there->query("SELECT org_id FROM amt_verify('$same')"), 'globex', 'a verification in one database returns the row of that database');
	is($s->query("SELECT org_id FROM amt_verify('$here')"), 'acme', 'a verification in the other database returns the row of the other');
	$there->query('DELETE FROM amt_key', insert_key_sql($id, $hash, 'globex'));
	is(answers($there, $here), '1, 1 runs', 'even the same hash is not warm in another database');
	is(calls_of($node, $id) . ' ' . calls_of($node, $id, 'other'), '2 1', 'each database counts for itself');
	$there->quit;
}

# A copy of a database, whose tables have the same OIDs.
{
	my $copied = create($s);
	my $id = id_of($copied);
	$_->quit for $s, $other;
	wait_for_no_worker($node);
	$node->safe_psql('template1', 'CREATE DATABASE copy TEMPLATE postgres');
	$s = Session->new($node);
	$other = Session->new($node);
	my $there = Session->new($node, dbname => 'copy');
	is($there->query(q{SELECT 'amt_key'::regclass::oid}), $s->query(q{SELECT 'amt_key'::regclass::oid}), 'a copied database has the same OIDs');
	is(answers($s, $copied), '1, 0 runs', 'a key is warm in the original of a copied database');
	is(answers($there, $copied), '1, 1 runs', 'a key is cold in a copied database');
	is(answers($s, $copied, wrong_secret($copied)), '1 0, 0 runs', 'a key stays warm in the original of a copied database');
	is(answers($there, $copied, wrong_secret($copied)), '1 0, 0 runs', 'a key is warm in a copied database after one verification');
	is(calls_of($node, $id) . ' ' . calls_of($node, $id, 'copy'), '2 2', 'original and copied database count for themselves');
	$there->query("SELECT amt_revoke('$id')");
	is(answers($there, $copied), '0, 0 runs', 'a key that is revoked in a copied database is refused there');
	is(answers($s, $copied), '1, 0 runs', 'a key that is revoked in a copied database works in the original');
	is(calls_of($node, $id), 3, 'a revocation in a copied database changes no calls in the original');
	$there->quit;
}

# An extension that is created anew knows nothing of what was warm.
{
	my $key = create($s);
	my $row = $s->query("SELECT amt_key FROM amt_key WHERE key_id = '" . id_of($key) . "'");
	is(answers($s, $key), '1, 0 runs', 'a key is warm before the extension is dropped');
	$s->query('DROP EXTENSION amt_keys', 'CREATE EXTENSION amt_keys', "INSERT INTO amt_key SELECT (\$r\$$row\$r\$::amt_key).*");
	is(answers($s, $key), '1, 1 runs', 'a key is cold in an extension that is created anew');
	is(calls_of($node, id_of($key)), 1, 'a key starts to count anew in an extension that is created anew');
}

# As many keys as cache_size are held, and those with calls that are not written in addition.
configure($node, 'amt_keys.cache_size' => 100, 'amt_keys.usage_flush_interval' => '1h');
{
	wait_for_no_worker($node);
	$s->query('SELECT amt_cache_clear()');
	my @tokens = create_keys($s, 1500);
	cmp_ok(warm_keys(), '<=', 100, 'no more keys are warm than cache_size');
	# The worker writes the first call at once, and then waits for its interval.
	verify($s, $tokens[0]);
	ok(is_written($node, id_of($tokens[0]), 1), 'a worker writes the first call');
	is(join('', map { verify($s, $_) } @tokens), '1' x 1500, 'more keys than cache_size work');
	is($s->query(q{SELECT count(*), sum(calls) FROM amt_keys WHERE name LIKE 'key %'}), '1500|1501', 'the view has every call of more keys than cache_size');
	is($s->query('SELECT calls_dropped FROM amt_stat'), stat_of($node, 'calls_dropped'), 'no call is dropped while calls are in memory only');
	my ($before) = $s->query('SELECT calls_dropped FROM amt_stat');
	flush($node);
	is($s->query(q{SELECT sum(u.calls) FROM amt_key_usage u JOIN amt_key USING (key_id) WHERE name LIKE 'key %'}), 1501, 'every call of more keys than cache_size is written');
	ok(wait_until(sub { warm_keys() <= 100 }, 20), 'only as many keys as cache_size are held after the calls are written');
	is(stat_of($node, 'calls_dropped'), $before, 'no call is dropped while the calls are written');
	is($s->query(q{SELECT sum(calls) FROM amt_keys WHERE name LIKE 'key %'}), 1501, 'the view has every call after the calls are written');

	# Keys in use stay warm.
	configure($node, 'amt_keys.usage_flush_interval' => '10ms');
	my @hot = @tokens[ 0 .. 9 ];
	answers($s, @hot);
	my $runs = 0;
	for my $batch (1 .. 8)
	{
		answers($s, @tokens[ 50 + $batch * 20 .. 69 + $batch * 20 ]);
		my ($more) = answers($s, @hot) =~ /, (\d+) runs/;
		$runs += $more;
	}
	cmp_ok($runs, '<', 20, "keys in use stay warm while others come and go ($runs runs for 80 calls)");

	splice @tokens, 300;
	for my $size (10, 0, 100_000)
	{
		configure($node, 'amt_keys.cache_size' => $size);
		$s = Session->new($node);
		like(answers($s, @tokens), qr/\A1( 1){299}, /, "cache_size = $size: all keys work");
		is(answers($s, wrong_secret($tokens[-1])), $size ? '0, 0 runs' : '0, 1 runs', "cache_size = $size: a wrong secret is refused");
		my ($again) = answers($s, @tokens) =~ /, (\d+) runs/;
		is($again, $size ? 0 : 300, "cache_size = $size: a second verification takes scrypt only without a cache") if $size != 10;
		if ($size < 100)
		{
			ok(wait_until(sub { warm_keys() <= $size }, 20), "cache_size = $size: no more keys than that are held in the end")
			  or diag $s->query('SELECT amt_stat FROM amt_stat', 'SELECT pid, backend_type, wait_event, query_start FROM pg_stat_activity');
		}
		else
		{
			is(warm_keys(), 300, "cache_size = $size: all keys are warm in the end");
		}
	}
	flush($node);
	is($s->query('SELECT count(*) FROM amt_keys JOIN amt_key_usage u USING (key_id) WHERE amt_keys.calls <> u.calls'), 0, 'table and view agree after every cache_size');
}

# More keys than fit at first, in a table that grows up to cache_size.
{
	my $n = 5000;
	$s->query('SELECT amt_cache_clear()');
	my @tokens = create_keys($s, $n);
	$s->query('CREATE TABLE tokens (n int, token text)');
	$s->query('INSERT INTO tokens (n, token) VALUES ' . join(',', map { "($_, '$tokens[$_]')" } 0 .. $#tokens));
	cmp_ok(warm_keys(), '>=', $n, "$n keys are warm");
	my $before = $s->query('SELECT scrypt_runs FROM amt_stat');
	is($s->query('SELECT count(*) FROM tokens, amt_verify(token)'), $n, "$n keys work") for 1 .. 2;
	is($s->query('SELECT scrypt_runs FROM amt_stat'), $before, "$n warm keys need no scrypt");
	flush($node);
	is($s->query('SELECT count(*) FROM tokens t JOIN amt_key_usage u ON u.key_id = substr(t.token, 5, 12) WHERE calls = 2'), $n, "all calls of $n keys are written");
	$s->query("DELETE FROM amt_key WHERE name ~ '^key '", 'DROP TABLE tokens');
}

# Many sessions at once in a cache that is much too small.
{
	configure($node, 'amt_keys.cache_size' => 5);
	my @tokens = create_keys($s, 20);
	$s->query('CREATE TABLE tokens AS SELECT * FROM unnest(ARRAY[' . join(',', map { "'$_'" } @tokens) . ']) WITH ORDINALITY AS t (token, n)');
	my $run = start_pgbench($node, [ <<'SQL' ], '-c', 8, '-j', 2, '-t', 1000, '-M', 'prepared');
\set n random(1, 20)
\set r random(1, 20)
SELECT 1 / count(*) FROM tokens t, amt_verify(t.token) v WHERE t.n = :n AND 'amt_' || v.key_id || '...' = left(t.token, 16) || '...';
SELECT 1 / (1 - count(*)) FROM tokens t, amt_verify(overlay(t.token placing 'AAAAAA' from 40)) WHERE t.n = :r;
SQL
	ok(finish_pgbench($run), 'a cache that changes all the time never gives a wrong answer');
	is($s->query(q{SELECT sum(calls) FROM amt_keys WHERE name ~ '^key '}), 8000, 'each call is counted while the cache changes all the time');
	ok(wait_until(sub { warm_keys() <= 5 }, 20), 'a cache that is too small holds no more keys than it may');
	is($s->query('SELECT sum(calls) FROM amt_key_usage JOIN amt_key USING (key_id) WHERE name ~ \'^key \''), 8000, 'each call is written while the cache changes all the time');
}

$_->quit for $s, $other;
$node->stop;
done_testing();
