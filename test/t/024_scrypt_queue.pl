# Runs of scrypt are few: one for each key at a time, and a limited number in the server.  A process that waits for one can always stop waiting.

use strict;
use warnings FATAL => 'all';

use FindBin;
use lib "$FindBin::RealBin/../perl";

use AmtKeys;
use Session;
use PostgreSQL::Test::Utils;
use Test::More;
use Time::HiRes qw(sleep time);

my $node = new_cluster();
my $s = Session->new($node);
# Since version 17 extensions can name what they wait for.
my $wait_event = $s->query('SHOW server_version_num') >= 170000 ? 'AmtKeysScrypt' : 'Extension';

# A key whose scrypt takes some tenths of a second (and 128 MiB), or some seconds (512 MiB).
sub slow_key
{
	my ($ln) = @_;
	return $s->query("SET amt_keys.scrypt_ln = $ln", q{SELECT token FROM amt_create_key('slow', 'acme', 'editor')},
		'RESET amt_keys.scrypt_ln');
}

sub verify_sql
{
	return "SELECT count(*) FROM amt_verify('$_[0]')";
}

# How many wait in the queue, and how many verify without waiting.
sub waiting
{
	return $s->query(q{
		SELECT count(*) FROM pg_stat_activity
		WHERE query ~ 'amt_verify' AND state = 'active' AND wait_event_type = 'Extension' AND pid <> pg_backend_pid()});
}

sub running
{
	return $s->query(q{
		SELECT count(*) FROM pg_stat_activity
		WHERE query ~ 'amt_verify' AND state = 'active' AND wait_event_type IS NULL AND pid <> pg_backend_pid()});
}

# Hold a process in the midst of its run, so that the run lasts as long as the test needs.
sub held
{
	my ($pid, $what) = @_;
	ok(wait_until(sub { running() == 1 }, 10), 'a run of scrypt begins');
	sleep 0.1;
	kill 'STOP', $pid or die;
	$what->();
	kill 'CONT', $pid or die;
	return;
}

sub counters
{
	return { runs => $s->query('SELECT scrypt_runs FROM amt_stat'), waits => $s->query('SELECT scrypt_waits FROM amt_stat') };
}

my $slow = slow_key(17);
my $very_slow = slow_key(20);
my $duration = do {
	$s->query('SELECT amt_cache_clear()');
	my $start = time;
	$s->query(verify_sql($very_slow));
	time - $start;
};
note(sprintf 'a slow run takes %.1f s', $duration);

# Sixteen at once on one cold key.
{
	my @sessions = map { Session->new($node) } 1 .. 16;
	$_->backend for @sessions;
	for my $round (1 .. 3)
	{
		$s->query('SELECT amt_cache_clear()', 'SELECT amt_stat_reset()');
		$_->send(verify_sql($slow)) for @sessions;
		is(join(' ', map { $_->receive } @sessions), join(' ', (1) x 16), "sixteen sessions at once verify one cold key, round $round");
		is(counters()->{runs}, 1, "sixteen verifications of one cold key make one run of scrypt, round $round");
		cmp_ok(counters()->{waits}, '>=', 10, "sessions wait for the run of another on the same key, round $round");
	}

	# With runs so short that some look just before one ends, and are at the queue just after it.
	my $fast = slow_key(8);
	my $more = 0;
	for my $round (1 .. 100)
	{
		$s->query('SELECT amt_cache_clear()', 'SELECT amt_stat_reset()');
		$_->send(verify_sql($fast)) for @sessions;
		$_->receive for @sessions;
		$more += counters()->{runs} - 1;
	}
	is($more, 0, 'a quick key takes one run of scrypt in each of a hundred rounds');

	$s->query('SELECT amt_cache_clear()', 'SELECT amt_stat_reset()');
	my $wrong = $slow =~ s/.\z//r;
	$sessions[$_]->send(verify_sql($_ % 4 ? $wrong : $slow)) for 0 .. 7;
	is(join(' ', map { $_->receive } @sessions[ 0 .. 7 ]), '1 0 0 0 1 0 0 0', 'right and wrong secrets at once are told apart');
	cmp_ok(counters()->{runs}, '<=', 7, 'some wrong secrets are refused without scrypt once the key is warm');
}

# A process that waits can be cancelled, can time out and can be terminated, while the run goes on.
{
	my ($runner, @waiters) = map { Session->new($node) } 1 .. 5;
	$_->backend for @waiters;
	$s->query('SELECT amt_cache_clear()', 'SELECT amt_stat_reset()');
	my $pid = $runner->backend;
	$runner->send(verify_sql($very_slow));
	held($pid, sub {
		$waiters[0]->send(verify_sql($very_slow));
		$waiters[1]->send("SET statement_timeout = '200ms'", verify_sql($very_slow));
		$waiters[2]->send(verify_sql($very_slow));
		$waiters[3]->send(verify_sql($very_slow));
		ok(wait_until(sub { waiting() >= 3 }, 10), 'sessions wait for the run of another');
		is($s->query(q{SELECT DISTINCT wait_event FROM pg_stat_activity WHERE query ~ 'amt_verify' AND wait_event_type = 'Extension'}),
			$wait_event, 'pg_stat_activity shows the name of the event that a session waits for');
		is($s->query('SELECT pg_cancel_backend(' . $waiters[0]->backend . ')'), 't', 'a session that waits for scrypt is cancelled');
		is($waiters[0]->receive, 'ERROR:  57014', 'a cancelled session stops waiting for scrypt');
		is($waiters[1]->receive, 'ERROR:  57014', 'a session that runs into its timeout stops waiting for scrypt');
		$s->query('SELECT pg_terminate_backend(' . $waiters[2]->backend . ')');
		is($waiters[2]->receive, undef, 'a terminated session stops waiting for scrypt');
		ok(!$runner->answers_within(0), 'the run of scrypt goes on when others stop waiting for it');
	});
	is($waiters[0]->query('SELECT 1'), 1, 'a session works after its wait for scrypt was cancelled');
	is($runner->receive, 1, 'the session that runs scrypt accepts the key');
	is($waiters[3]->receive, 1, 'a session that has waited for scrypt accepts the key');
	is(counters()->{runs}, 1, 'the sessions that waited have made no other run of scrypt');
}

# A cancelled or terminated runner leaves its place.
for my $how ('cancel', 'terminate')
{
	my ($runner, $waiter) = map { Session->new($node) } 1 .. 2;
	my $pid = $runner->backend;
	$s->query('SELECT amt_cache_clear()', 'SELECT amt_stat_reset()');
	$runner->send(verify_sql($very_slow));
	ok(wait_until(sub { running() == 1 }, 10), "a run of scrypt begins before pg_${how}_backend()");
	$waiter->send(verify_sql($very_slow));
	ok(wait_until(sub { waiting() == 1 }, 10), "another session waits for the run of scrypt before pg_${how}_backend()");
	is($s->query("SELECT pg_${how}_backend($pid)"), 't', "pg_${how}_backend() reaches the session that runs scrypt");
	my $answer = $runner->receive;
	is($answer, $how eq 'cancel' ? 'ERROR:  57014' : undef, "the session that runs scrypt notices pg_${how}_backend() after the run");
	is($waiter->receive(3 * $duration + 20), 1, "a session that waits for scrypt gets an answer after pg_${how}_backend()");
	is($s->query(verify_sql($very_slow)), 1, "the key is free after pg_${how}_backend()");
	cmp_ok(counters()->{runs}, '<=', 2, "pg_${how}_backend() costs one more run of scrypt at the most");
}

# As many runs in the server as the setting says.
for my $max (1, 2, 3)
{
	$node->append_conf('postgresql.conf', "amt_keys.max_concurrent_scrypt = $max");
	$node->reload;
	my @tokens = map { slow_key(16) } 1 .. 6;
	my @sessions = map { Session->new($node) } @tokens;
	is($sessions[0]->query('SHOW amt_keys.max_concurrent_scrypt'), $max, "max_concurrent_scrypt = $max is in force");
	$s->query('SELECT amt_cache_clear()', 'SELECT amt_stat_reset()');
	my @samples;

	# A wrong secret at a time keeps every key cold.
	for my $session (0 .. $#sessions)
	{
		my $wrong = $tokens[$session] =~ s/.\z//r;
		$sessions[$session]->send((verify_sql($wrong)) x 3, verify_sql($tokens[$session]));
	}
	while (grep { !$_->answers_within(0) } @sessions)
	{
		push @samples, running();
		sleep 0.01;
	}
	is($_->receive, "0\n0\n0\n1", "max_concurrent_scrypt = $max: each session gets its answer") for @sessions;
	@samples = sort { $a <=> $b } @samples;
	# A process that has just been woken is not in scrypt, but does not wait either.
	is($samples[ @samples / 2 ], $max, "max_concurrent_scrypt = $max: so many sessions run scrypt at once, in the median of " . @samples . ' looks');
	is(counters()->{runs}, 24, "max_concurrent_scrypt = $max: each session makes its own runs");
}

# Keys that cost much more than usual have one place for all: their owner may have made many. They cost time by a large N, or by
# many blocks.
$s->query(q{INSERT INTO amt_key (key_id, org_id, name, role, scrypt_hash, created_at)
	SELECT 'blocks' || i, 'acme', 'blocks', 'viewer', '$scrypt$ln=1,r=1,p=131072$' || repeat(i::text, 16) || '$' || repeat('A', 32), now() FROM generate_series(1, 2) AS i});
for my $keys ([ 'a large N', 1, slow_key(18), slow_key(18) ], [ 'many blocks', 0, map { "amt_blocks${_}_0123456789abcdef" } 1, 2 ])
{
	my ($what, $answer, $first, $second) = @$keys;
	my $usual = create_key($node);
	my ($runner, $waiter) = map { Session->new($node) } 1, 2;
	my $pid = $runner->backend;
	$s->query('SELECT amt_cache_clear()');
	$runner->send(verify_sql($first));
	held($pid, sub {
		$waiter->send(verify_sql($second));
		ok(wait_until(sub { waiting() == 1 }, 10), "a second costly run by $what waits for the first, although places are free");
		is($s->query(verify_sql($usual)), 1, "a usual run takes a place beside a costly one by $what");
		ok(!$waiter->answers_within(0), "the second costly run by $what still waits");
	});
	is($_->receive, $answer, "a costly run by $what gives its answer") for $runner, $waiter;
}

# The queue holds no lock: all else goes on during a run.
{
	my $runner = Session->new($node);
	my $token = create_key($node);
	my $pid = $runner->backend;
	$s->query('SELECT amt_cache_clear()');
	$runner->send('BEGIN', verify_sql($very_slow));
	held($pid, sub {
		$s->query('SET amt_keys.scrypt_ln = 4');
		is($s->query("SET statement_timeout = '1min'", "SET lock_timeout = '10s'", 'ALTER TABLE amt_key ADD COLUMN extra int', 'ALTER TABLE amt_key DROP COLUMN extra'),
			'', 'the table can be altered during a run of scrypt');
		is($s->query(verify_sql($token)), 1, 'another cold key is verified during a run of scrypt');
		is($s->query("SELECT amt_revoke('" . id_of($very_slow) . "')"), 't', 'a key is revoked during its own run of scrypt');
		is($s->query(verify_sql($very_slow)), 0, 'a key that is revoked during its own run of scrypt is refused');
		ok(!$runner->answers_within(0), 'the run of scrypt outlasts the statements of other sessions');
	});
	is($runner->receive, 0, 'a verification that began before the revocation is refused, too');
	is($runner->query('COMMIT'), '', 'the transaction of a refused verification ends without an error');
}

# A run proves a secret for the hash that it was made with, even if the key has got another hash meanwhile.
{
	my $runner = Session->new($node);
	my ($old, $new) = (slow_key(18), slow_key(4));
	my $renewed = 'amt_' . id_of($old) . '_' . (split /_/, $new)[2];
	my $pid = $runner->backend;
	$s->query('SELECT amt_cache_clear()');
	$runner->send(verify_sql($old));
	held($pid, sub {
		is( $s->query('CREATE TEMP TABLE k AS SELECT * FROM amt_key WHERE key_id = \'' . id_of($old) . q{'},
				'UPDATE k SET scrypt_hash = (SELECT scrypt_hash FROM amt_key WHERE key_id = \'' . id_of($new) . q{')},
				'BEGIN', 'DELETE FROM amt_key WHERE key_id IN (SELECT key_id FROM k)', 'INSERT INTO amt_key SELECT * FROM k', 'COMMIT'),
			'', 'the key is replaced by one of the same id and another hash');
		is($s->query(verify_sql($renewed)), 1, 'the secret of the new hash is accepted during a run with the old one');
	});
	is($runner->receive, 0, 'a verification that began with the old hash is refused');
	is($s->query(verify_sql($old)), 0, 'a verification with the secret of the old hash is refused');
	is($s->query(verify_sql($renewed)), 1, 'the secret of the new hash is accepted after a run with the old one');
}

done_testing();
