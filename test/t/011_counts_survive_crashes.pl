# After a crash there are never more calls than were made, and at most those of the last interval are missing.
#
# AMT_ROUNDS is the number of crashes of each kind.

use strict;
use warnings FATAL => 'all';

use FindBin;
use lib "$FindBin::RealBin/../perl";

use AmtKeys qw(:all);
use Session;
use PostgreSQL::Test::Utils;
use Test::More;
use Time::HiRes qw(sleep time);

my $rounds = $ENV{AMT_ROUNDS} || 1;
my $interval = 0.5;
# The worker looks every quarter of a second, and a write takes its time on a busy machine.
my $slack = 1.2;
my $clients = 8;

my $node = new_cluster(conf => "amt_keys.usage_flush_interval = '${interval}s'\nrestart_after_crash = on");
my $token = create_key($node);
my $id = id_of($token);

# Crash the server at a random moment under load; returns the number of calls that were answered and are not in the table.
sub crash_under_load
{
	my ($what, $crash) = @_;
	my $before = calls_of($node, $id);
	my $reader = Session->new($node);
	my $run = start_load($node, $token, clients => $clients);
	wait_until(sub { calls_of($node, $id) > $before }) or die 'no client has made a call';
	my $until = time + 1.2 * ($interval + $slack) + rand $interval;
	my @seen;

	while (time < $until)
	{
		my $now = time;
		my ($calls, $last_used_at) = split /\|/,
		  $reader->query("SELECT calls, extract(epoch FROM last_used_at) FROM amt_keys WHERE key_id = '$id'");
		push @seen, { at => $now, calls => $calls, last_used_at => $last_used_at || 0 };
		sleep 0.02;
	}
	my $crashed_at = time;
	$crash->();
	$run->{harness}->finish;
	start_again($node) unless wait_until(sub { accepts_connections($node) }, 2);
	wait_until(sub { accepts_connections($node) }) or die 'no recovery';

	my $made = $before + answered($run);
	my ($calls, $last_used_at) = split /\|/, $node->safe_psql('postgres',
		"SELECT calls, extract(epoch FROM last_used_at) FROM amt_key_usage WHERE key_id = '$id'");
	my @old = grep { $_->{at} < $crashed_at - $interval - $slack } @seen;
	my $lost = $made - $calls;

	note(sprintf '%s: %d calls answered, %d lost, %d calls a second', $what, answered($run), $lost,
		answered($run) / ($crashed_at - $seen[0]{at}));
	cmp_ok($old[-1]{calls}, '>', $before, "$what: calls were made before the last interval");
	cmp_ok($calls, '<=', $made + $clients, "$what: there are no more calls than were made");
	cmp_ok($calls, '>=', $old[-1]{calls}, "$what: no call is lost that is older than the last interval");
	cmp_ok($last_used_at, '>=', $old[-1]{last_used_at}, "$what: no last use is lost that is older than the last interval");
	is(calls_of($node, $id), $calls, "$what: the view shows the calls that are stored");
	return $lost;
}

sub a_backend
{
	return $node->safe_psql('postgres', q{
		SELECT pid FROM pg_stat_activity WHERE backend_type = 'client backend' AND query ~ 'amt_verify' AND pid <> pg_backend_pid()
		LIMIT 1});
}

my $lost = 0;
for my $round (1 .. $rounds)
{
	$lost += crash_under_load("kill -9 of the postmaster, round $round", sub { kill_postmaster($node) });
	$lost += crash_under_load("kill -9 of a backend, round $round", sub { kill 'KILL', a_backend() });
	$lost += crash_under_load("kill -9 of the worker, round $round", sub { kill 'KILL', worker_pids($node) });
	$lost += crash_under_load("immediate shutdown, round $round", sub { $node->stop('immediate'); $node->start; });
}
cmp_ok($lost, '>', 0, 'calls that had not been written are lost with the memory, so the bound was put to the test');

# The last use only moves forward, whatever the clock does.
$node->safe_psql('postgres', "UPDATE amt_key_usage SET last_used_at = '2100-01-01Z' WHERE key_id = '$id'");
verify($node, $token);
my $query = "SELECT last_used_at = '2100-01-01Z' FROM amt_keys WHERE key_id = '$id'";
is($node->safe_psql('postgres', $query), 't', 'a use at an earlier time does not set the last use back');
flush($node);
is($node->safe_psql('postgres', $query), 't', 'writing the earlier use does not set the last use back');

$node->stop;
done_testing();
