# After the commit of a revocation no verification succeeds: in no session, in no isolation level, however warm the key was,
# and not if another key takes its id.
#
# In each round four connections make a key warm, three of them in transactions that stay open, of every isolation level; a
# fifth revokes it and commits; then all four verify it again.

use strict;
use warnings FATAL => 'all';

use FindBin;
use lib "$FindBin::RealBin/../perl";

use AmtKeys qw(:DEFAULT id_of wait_for_lock);
use Session;
use PostgreSQL::Test::Utils;
use Test::More;

my $rounds = 1000;
my $node = new_cluster();
my $revoker = Session->new($node);
my @levels = ('READ COMMITTED', 'READ COMMITTED', 'REPEATABLE READ', 'SERIALIZABLE');
my @sessions = map { Session->new($node) } @levels;

# Another key's hash, for the one that takes the id.
my $foreign = create_key($node);
my $foreign_secret = $foreign =~ s/\Aamt_[^_]+_//r;
$revoker->query('CREATE TABLE foreign_key AS SELECT * FROM amt_key');

sub create
{
	my ($n) = @_;
	return split /\n/,
	  $revoker->query("SELECT (amt_create_key('key ' || i, 'acme', 'editor')).token FROM generate_series(1, $n) AS i");
}

my %ways = (
	'amt_revoke(id)' => ["SELECT amt_revoke('ID')"],
	'amt_revoke(token)' => ["SELECT amt_revoke('TOKEN')"],
	'DELETE' => ["DELETE FROM amt_key WHERE key_id = 'ID' RETURNING true"],
	'DELETE from the view' => ["DELETE FROM amt_keys WHERE key_id = 'ID' RETURNING true"],
	'rotation without grace' => ["SELECT replaces = 'ID' FROM amt_rotate_key('ID')"],
	'expiry' => ["UPDATE amt_key SET expires_at = '2020-01-01Z' WHERE key_id = 'ID' RETURNING true"],
	'another key of the same id' => [
		'BEGIN',
		"DELETE FROM amt_key WHERE key_id = 'ID' RETURNING true",
		"INSERT INTO amt_key (key_id, org_id, name, role, scrypt_hash, created_at) SELECT 'ID', org_id, 'restored', role, scrypt_hash, created_at FROM foreign_key",
		'COMMIT'
	],
	'the hash of another key' => [
		'BEGIN',
		'ALTER TABLE amt_key DISABLE TRIGGER amt_key_guard',
		"UPDATE amt_key SET scrypt_hash = (SELECT scrypt_hash FROM foreign_key) WHERE key_id = 'ID' RETURNING true",
		'ALTER TABLE amt_key ENABLE ALWAYS TRIGGER amt_key_guard',
		'COMMIT'
	],
);

for my $way (sort keys %ways)
{
	my $n = $way =~ /amt_revoke\(id|another/ ? $rounds : int($rounds / 5);
	my (%before, %after, %theirs);
	my $failed = 0;

	# Altering the table takes a lock that an open transaction would withhold, so there is none; nor in the first session.
	my @begin = map { $_ == 0 || $way =~ /hash/ ? '' : "BEGIN ISOLATION LEVEL $levels[$_]" } 0 .. $#levels;
	my @commit = map { $_ == 0 || $way =~ /hash/ ? '' : 'COMMIT' } 0 .. $#levels;

	for my $token (create($n))
	{
		my $id = id_of($token);
		my $verify = "SELECT count(*) FROM amt_verify('$token')";

		# Their snapshots are older than the revocation.
		$sessions[$_]->send($begin[$_], 'SELECT count(*) FROM foreign_key', $verify) for 0 .. $#levels;
		$before{ $_->receive }++ for @sessions;

		my @sql = map { s/ID/$id/gr =~ s/TOKEN/$token/r } @{ $ways{$way} };
		$failed++ if $revoker->query(@sql) ne 't';

		my @again = ($verify, $way =~ /another/ ? "SELECT count(*) FROM amt_verify('amt_${id}_$foreign_secret')" : ());
		$sessions[$_]->send(@again, $commit[$_]) for 0 .. $#levels;
		$after{ $_->receive }++ for @sessions;
	}
	is($failed, 0, "$way: the key is revoked in each of $n rounds");
	is_deeply(\%before, { "1\n1" => 4 * $n }, "$way: every session accepts the key before the revocation");
	is_deeply(\%after, { $way =~ /another/ ? "0\n1" : 0 => 4 * $n },
		"$way: no session accepts the key after the revocation" . ($way =~ /another/ ? ', and each accepts the other secret' : ''));
}

# While others verify without a pause, whatever state the key's entry and its place in the queue are in: once it has failed
# in a session it fails for ever, and it has failed in each at the latest when the revocation is committed.
{
	my ($worked, $revived, $after) = (0, 0, 0);
	my $cold = 0;
	for my $token (create($rounds / 10))
	{
		$revoker->query('SELECT amt_cache_clear()') if $cold++ % 2;
		$_->send("SELECT count(*) FROM amt_verify('$token');\n" x 40) for @sessions;
		$revoker->query("SELECT amt_revoke('" . id_of($token) . "')");
		$after += $revoker->query("SELECT count(*) FROM amt_verify('$token')");
		for my $answers (map { $_->receive =~ s/\n//gr } @sessions)
		{
			$worked += $answers =~ tr/1//;
			$revived++ if $answers !~ /\A1*0*\z/;
		}
	}
	note("$worked verifications succeeded before the revocations");
	cmp_ok($worked, '>', 0, 'keys are verified while they are revoked');
	is($after, 0, 'a key is never verified after the commit of its revocation');
	is($revived, 0, 'a session that has refused a key never accepts it again');
}

# A verification that waits for an index of the keys, or of their values out of line, while the key is revoked.
{
	my $toast_index = 'pg_toast.pg_toast_' . $revoker->query(q{SELECT 'amt_key'::regclass::oid}) . '_index';
	my $large = q{(SELECT array_agg(md5(i::text) || md5('a' || i) || md5('b' || i)) FROM generate_series(1, 64) AS i)};
	my $session = Session->new($node);
	my $pid = $session->backend;

	$revoker->query(q{SELECT FROM amt_import_key(sha256('an-imported-token-0123456789'), 'imported', 'acme', 'editor')});
	# [what, the index, the key's token, whether its row is moved: then it is not where the hint says]
	for ([ 'the primary key', 'amt_key_pkey', $revoker->query(q{SELECT token FROM amt_create_key('a key', 'acme', 'editor')}), 1 ],
		[ 'the index of imported tokens', 'amt_key_sha256_key', 'an-imported-token-0123456789', 1 ],
		[ 'the values out of line of a row in its place', $toast_index, $revoker->query("SELECT token FROM amt_create_key('large', 'acme', 'editor', $large)"), 0 ],
		[ 'the values out of line of a row that has moved', $toast_index, $revoker->query("SELECT token FROM amt_create_key('large', 'acme', 'editor', $large)"), 1 ])
	{
		my ($what, $index, $token, $moves) = @$_;
		my $verify = "SELECT key_id FROM amt_verify('$token')";
		my $id = $session->query($verify);
		like($id, qr/^\w{12}$/, "a key is verified, before $what are locked");
		$revoker->query("UPDATE amt_keys SET name = 'moved' WHERE key_id = '$id'") if $moves;
		$revoker->query('BEGIN', "REINDEX INDEX $index");
		$session->send($verify);
		ok(wait_for_lock($node, $pid), "a verification waits for $what");
		is($revoker->query("SELECT amt_revoke('$id')", 'COMMIT'), 't', "the key is revoked while a verification waits for $what");
		is($session->receive, '', "a verification that waited for $what knows the revocation");
	}

	# REINDEX TABLE locks the index of the values out of line first, then those of the table.
	for my $call ('SELECT count(*) FROM amt_verify(\'TOKEN\')', 'SELECT amt_revoke(\'amt_ID...\')')
	{
		my $token = $revoker->query("SELECT token FROM amt_create_key('large', 'acme', 'editor', $large)");
		my $id = id_of($token);
		my $sql = $call =~ s/TOKEN/$token/r =~ s/ID/$id/r;
		$revoker->query('BEGIN', "REINDEX INDEX $toast_index");
		$session->send($sql);
		ok(wait_for_lock($node, $pid), "a call waits for the values out of line: $call");
		is($revoker->query('REINDEX INDEX amt_key_pkey', 'REINDEX INDEX amt_key_prefix_idx', 'COMMIT'), '', "its table is reindexed meanwhile: $call");
		like($session->receive, qr/\A[1t]\z/, "no deadlock: $call");
	}
}

done_testing();
