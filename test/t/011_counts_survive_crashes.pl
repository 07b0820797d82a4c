# After a crash there are never more calls than were made, and at most those of the last interval are missing.

use strict;
use warnings FATAL => 'all';

use FindBin;
use lib "$FindBin::RealBin/../perl";

use AmtKeys;
use Session;
use PostgreSQL::Test::Utils;
use Test::More;
use Time::HiRes qw(sleep time);

my $interval = 0.5;
# The worker looks every 0.2 s, and a write takes its time on a busy machine.
my $slack = 1.5;
my $clients = 8;

my $node = new_cluster(conf => "amt_keys.usage_flush_interval = '${interval}s'\nrestart_after_crash = on");
my $token = create_key($node);
my $id = id_of($token);

sub crash_under_load
{
	my ($what, $crash) = @_;
	my $before = calls_of($node, $id);
	my $reader = Session->new($node);
	my $run = start_pgbench($node, [ "SELECT count(*) FROM amt_verify(:token);\n" ],
		'-c', $clients, '-j', 2, '-T', 120, '-M', 'prepared', '-D', "token=$token");
	my $until = time + 2 * ($interval + $slack);
	my @seen;

	while (time < $until)
	{
		my $now = time;
		my ($calls, $last_used_at) = split /\|/,
		  $reader->query("SELECT calls, extract(epoch FROM last_used_at) FROM amt_keys WHERE key_id = '$id'");
		push @seen, { at => $now, calls => $calls, last_used_at => $last_used_at // 0 };
		sleep 0.02;
	}
	my $crashed_at = time;
	$crash->();
	$run->{harness}->finish;
	start_again($node) unless wait_until(sub { accepts_connections($node) }, 2);
	wait_until(sub { accepts_connections($node) }) or die 'no recovery';

	my ($answered) = $run->{out} =~ /^number of transactions actually processed: (\d+)/m or die $run->{out};
	my ($calls, $last_used_at) = split /\|/, $node->safe_psql('postgres',
		"SELECT calls, extract(epoch FROM last_used_at) FROM amt_key_usage WHERE key_id = '$id'");
	my @old = grep { $_->{at} < $crashed_at - $interval - $slack } @seen;
	my $lost = $before + $answered - $calls;

	note(sprintf '%s: %d calls answered, %d lost, %d calls a second', $what, $answered, $lost,
		$answered / ($crashed_at - $seen[0]{at}));
	cmp_ok($old[-1]{calls}, '>', $before, "$what: the load was there");
	cmp_ok($calls, '<=', $before + $answered + $clients, "$what: not more calls than were made");
	cmp_ok($calls, '>=', $old[-1]{calls}, "$what: no call is lost that is older than the last interval");
	cmp_ok($last_used_at, '>=', $old[-1]{last_used_at}, "$what: nor a last use");
	is(calls_of($node, $id), $calls, "$what: the view says the same");
	return $lost;
}

sub a_backend
{
	return $node->safe_psql('postgres', q{
		SELECT pid FROM pg_stat_activity WHERE backend_type = 'client backend' AND query ~ 'amt_verify' AND pid <> pg_backend_pid()
		LIMIT 1});
}

crash_under_load("kill -9 of the postmaster, round $_", sub { kill_postmaster($node) }) for 1 .. 2;
my $lost = 0;
$lost += crash_under_load("kill -9 of a backend, round $_", sub { kill 'KILL', a_backend() }) for 1 .. 2;
$lost += crash_under_load('kill -9 of the worker', sub { kill 'KILL', worker_pids($node) });
crash_under_load('immediate shutdown', sub { $node->stop('immediate'); $node->start; });
cmp_ok($lost, '>', 0, 'calls that had not been written are lost with the memory, so the bound was put to the test');

# last_used_at only moves forward, whatever the clock does.
$node->safe_psql('postgres', "UPDATE amt_key_usage SET last_used_at = '2100-01-01Z' WHERE key_id = '$id'");
$node->safe_psql('postgres', "SELECT FROM amt_verify('$token')");
my $query = "SELECT last_used_at = '2100-01-01Z' FROM amt_keys WHERE key_id = '$id'";
is($node->safe_psql('postgres', $query), 't', 'a use at an earlier time does not set the last use back');
$node->safe_psql('postgres', 'SELECT amt_flush_usage()');
is($node->safe_psql('postgres', $query), 't', 'nor when it is written');

done_testing();
