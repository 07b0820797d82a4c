# A suspended key is refused from the commit on, in every session and isolation level and however warm it was; resumed, it works
# at once, without scrypt.
#
# In each round four connections make a key warm, three of them in transactions that stay open, of every isolation level; a
# fifth suspends it and commits; all four verify it; the fifth resumes it; all four verify it again.

use strict;
use warnings FATAL => 'all';

use FindBin;
use lib "$FindBin::RealBin/../perl";

use AmtKeys qw(:all);
use Session;
use PostgreSQL::Test::Utils;
use Test::More;

my $rounds = 1000;
my $node = new_cluster();
my $manager = Session->new($node);
my @levels = ('READ COMMITTED', 'READ COMMITTED', 'REPEATABLE READ', 'SERIALIZABLE');
my @sessions = map { Session->new($node) } @levels;
my @tokens = create_keys($manager, $rounds);
my (%before, %suspended, %resumed);
my $failed = 0;

my $runs = stat_of($node, 'scrypt_runs');
for my $token (@tokens)
{
	my $id = id_of($token);
	my $sql = verify_sql($token);

	$sessions[$_]->send($_ ? "BEGIN ISOLATION LEVEL $levels[$_]" : 'SELECT', 'SELECT count(*) FROM amt_key_usage WHERE false', $sql) for 0 .. $#levels;
	$before{ $_->receive =~ s/\A\n//r }++ for @sessions;
	$failed++ if $manager->query("UPDATE amt_keys SET suspended_at = now() WHERE key_id = '$id' RETURNING true") ne 't';
	$_->send($sql, $sql) for @sessions;
	$suspended{ $_->receive }++ for @sessions;
	$failed++ if $manager->query("UPDATE amt_keys SET suspended_at = NULL WHERE key_id = '$id' RETURNING true") ne 't';
	$sessions[$_]->send($sql, $_ ? 'COMMIT' : 'SELECT') for 0 .. $#levels;
	$resumed{ $_->receive =~ s/\n\z//r }++ for @sessions;
}
is($failed, 0, "a key is suspended and resumed in $rounds rounds");
is_deeply(\%before, { "0\n1" => 4 * $rounds }, 'a key works in every session before it is suspended');
is_deeply(\%suspended, { "0\n0" => 4 * $rounds }, 'not one verification succeeds while a key is suspended');
is_deeply(\%resumed, { 1 => 4 * $rounds }, 'no verification is refused after a key is resumed');
is(stat_of($node, 'scrypt_runs'), $runs, 'suspending and resuming a key needs no run of scrypt');
is(stat_of($node, 'rejected_suspended'), 8 * $rounds, 'rejected_suspended counts every refusal');
is($manager->query('SELECT count(*), count(*) FILTER (WHERE calls = 8) FROM amt_keys'), "$rounds|$rounds", 'every successful verification counts as a call, and no refusal does');
is($manager->query(q{SELECT string_agg(DISTINCT events, ' ') FROM (SELECT string_agg(event, ',' ORDER BY event_id) AS events FROM amt_key_event GROUP BY key_id) AS e}),
	'created,suspended,resumed', 'each suspension and each resumption has its event');

# A suspended key that is cold: a wrong secret says nothing about it, and the right one is not accepted.
{
	my $token = create_key($node);
	$manager->query("UPDATE amt_keys SET suspended_at = now() WHERE key_id = '" . id_of($token) . "'", 'SELECT amt_cache_clear()');
	my $before = stat_of($node, 'rejected_suspended');
	is(verify($manager, $token), 0, 'a cold suspended key is refused');
	is(verify($manager, wrong_secret($token)), 0, 'a wrong secret of a cold suspended key is refused');
	is(stat_of($node, 'rejected_suspended'), $before + 1, 'the wrong secret is not counted as that of a suspended key');
	$manager->query("UPDATE amt_keys SET suspended_at = NULL WHERE key_id = '" . id_of($token) . "'");
	is(verify($manager, $token), 1, 'a cold key works when it is resumed');
}

# Rolled back, a suspension never was; before the commit it holds for nobody else.
for my $end ('ROLLBACK', 'COMMIT')
{
	my $token = create_key($node);
	$manager->query('BEGIN', "UPDATE amt_keys SET suspended_at = now() WHERE key_id = '" . id_of($token) . "'");
	is(verify($manager, $token), 0, 'the suspending transaction sees the key as suspended');
	is(verify($sessions[0], $token), 1, 'other sessions accept the key before the suspending transaction ends');
	$manager->query($end);
	is(verify($sessions[0], $token), $end eq 'COMMIT' ? 0 : 1, "after $end other sessions see whether the key is suspended");
}

$_->quit for $manager, @sessions;
$node->stop;
done_testing();
