# Every verification counts exactly one call, whatever becomes of its transaction.

use strict;
use warnings FATAL => 'all';

use FindBin;
use lib "$FindBin::RealBin/../perl";

use AmtKeys;
use Session;
use PostgreSQL::Test::Utils;
use Test::More;

my $clients = 16;
my $each = 10_000;

# A third READ ONLY, a third rolled back.
my @scripts = (
	"SELECT count(*) FROM amt_verify(:token);\n",
	"BEGIN READ ONLY;\nSELECT count(*) FROM amt_verify(:token);\nCOMMIT;\n",
	"BEGIN;\nSELECT count(*) FROM amt_verify(:token);\nROLLBACK;\n");

# Verify one key with many clients, reading its calls all the while.
sub load
{
	my ($node, $token, $n) = @_;
	my $reader = Session->new($node);
	my $id = id_of($token);
	my $run = start_pgbench($node, \@scripts, '-c', $clients, '-j', 2, '-t', $n, '-M', 'prepared', '-D', "token=$token");
	my ($reads, $last, $last_used, $backwards, $idle_reads) = (0, 0, '', 0, 0);

	while ($run->{harness}->pumpable)
	{
		$run->{harness}->pump_nb;
		my ($calls, $used) = split /\|/, $reader->query("SELECT calls, last_used_at AT TIME ZONE 'UTC' FROM amt_keys WHERE key_id = '$id'");
		$used //= '';
		$backwards++ if $calls < $last || $used lt $last_used;
		($last, $last_used) = ($calls, $used);
		$reads++;
	}
	ok(finish_pgbench($run), 'the clients ran without an error');
	is($backwards, 0, 'neither calls nor last_used_at ever went backwards');
	note("$reads reads meanwhile");
	cmp_ok($reads, '>', 10, 'and were looked at all the time');
	return;
}

# With a worker that writes as often as it can.
my $node = new_cluster(conf => 'amt_keys.usage_flush_interval = 10ms');
my $token = create_key($node);
my $id = id_of($token);

is(calls_of($node, $id), 0, 'a new key has no calls');
load($node, $token, $each);
is(calls_of($node, $id), $clients * $each, 'the view is exact at once');
cmp_ok(stat_of($node, 'calls_flushed'), '>', 0, 'with a part of the calls written and a part not, on the way');

$node->safe_psql('postgres', 'SELECT amt_flush_usage()');
$node->poll_query_until('postgres', "SELECT calls = @{[ $clients * $each ]} FROM amt_key_usage WHERE key_id = '$id'");
is(stored_calls($node, $id), $clients * $each, 'the table is exact after amt_flush_usage()');
is(calls_of($node, $id), $clients * $each, 'and the view still');
is(stat_of($node, 'calls_pending'), 0, 'nothing is pending any more');

# Clean restarts, with calls in memory.
my $expected = $clients * $each;
for my $mode (qw(fast smart))
{
	$node->append_conf('postgresql.conf', 'amt_keys.usage_flush_interval = 1h');
	$node->reload;
	load($node, $token, 100);
	$expected += $clients * 100;
	# One more just before we look: the worker may have written the others, if it took us two seconds to get here.
	my $session = Session->new($node);
	$session->query('SELECT 1');
	like($session->query("SELECT count(*) FROM amt_verify('$token')", 'SELECT calls_pending FROM amt_stat'), qr/\A1\n[1-9]/,
		"$mode: there are calls in memory only");
	$session->quit;
	$expected++;
	$node->stop($mode);
	$node->start;
	is(stored_calls($node, $id), $expected, "a $mode restart loses no call");
	is(calls_of($node, $id), $expected, "$mode: the view says the same");
}

# A shutdown in the middle of the load: each call that was answered is there, and none that was not made.  The answers to
# the very last ones may not have arrived.
sub stop_under_load
{
	my ($what, @options) = @_;
	my $before = calls_of($node, $id);
	my $run = start_pgbench($node, [ $scripts[0] ], '-c', $clients, '-j', 2, '-T', 120, '-M', 'prepared', '-D', "token=$token",
		@options);
	wait_until(sub { calls_of($node, $id) > $before + 500 }) or die 'no load';
	$node->stop('fast');
	$run->{harness}->finish;
	$node->start;

	my ($answered) = $run->{out} =~ /^number of transactions actually processed: (\d+)/m or die $run->{out};
	my $counted = calls_of($node, $id) - $before;
	cmp_ok($counted, '>=', $answered, "$what: no answered call is lost");
	cmp_ok($counted, '<=', $answered + $clients, "$what: none is invented");
	return;
}

for my $interval (qw(1h 10ms))
{
	$node->append_conf('postgresql.conf', "amt_keys.usage_flush_interval = $interval");
	$node->reload;
	stop_under_load("stopped under load, interval $interval, round $_") for 1 .. 3;
}

# Without a single slot for a worker, sessions write as they leave.
$node->append_conf('postgresql.conf', 'max_worker_processes = 0');
$node->restart;
$expected = calls_of($node, $id);
load($node, $token, 500);
$expected += $clients * 500;
is(calls_of($node, $id), $expected, 'no worker slots: the view is exact');
cmp_ok(stat_of($node, 'worker_failures'), '>', 0, 'no worker slots: the worker could not be started');
for my $round (1 .. 5)
{
	my $run = start_pgbench($node, [ $scripts[0] ], '-c', $clients, '-j', 2, '-t', 25, '-C', '-M', 'extended', '-D', "token=$token");
	ok(finish_pgbench($run), "no worker slots: a connection for each call, round $round");
	$expected += $clients * 25;
	is(calls_of($node, $id), $expected, 'no worker slots: the view is exact');
	$node->restart;
	is(stored_calls($node, $id), $expected, 'no worker slots: a clean restart loses no call');
}
my $session = Session->new($node);
is($session->query("SELECT count(*) FROM amt_verify('$token')"), 1, 'no worker slots: a call by a session that stays');
$expected++;
$node->restart;
is(stored_calls($node, $id), $expected, 'no worker slots: a clean restart does not lose it');
stop_under_load("no worker slots, stopped under load, round $_") for 1 .. 3;

done_testing();
