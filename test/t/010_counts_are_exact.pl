# Every verification counts exactly one call, whatever becomes of its transaction.

use strict;
use warnings FATAL => 'all';

use FindBin;
use lib "$FindBin::RealBin/../perl";

use AmtKeys qw(:all);
use Session;
use PostgreSQL::Test::Utils;
use Test::More;
use Time::HiRes qw(time);

my $clients = 16;
my $each = 10_000;
my $interval = 2;

# A third READ ONLY, a third rolled back.
my @scripts = (
	"SELECT count(*) FROM amt_verify(:token);\n",
	"BEGIN READ ONLY;\nSELECT count(*) FROM amt_verify(:token);\nCOMMIT;\n",
	"BEGIN;\nSELECT count(*) FROM amt_verify(:token);\nROLLBACK;\n");

# Verify one key with many clients, and read its calls all the time.
sub load
{
	my ($node, $token, $n) = @_;
	my $reader = Session->new($node);
	my $id = id_of($token);
	my $run = start_pgbench($node, \@scripts, '-c', $clients, '-j', 2, '-t', $n, '-M', 'prepared', '-D', "token=$token");
	my ($reads, $last, $last_used, $backwards) = (0, 0, '', 0);

	while ($run->{harness}->pumpable)
	{
		$run->{harness}->pump_nb;
		my ($calls, $used) = split /\|/,
		  $reader->query("SELECT calls, last_used_at AT TIME ZONE 'UTC' FROM amt_keys WHERE key_id = '$id'");
		$used //= '';
		$backwards++ if $calls < $last || $used lt $last_used;
		($last, $last_used) = ($calls, $used);
		$reads++;
	}
	ok(finish_pgbench($run), 'the clients run without an error');
	is($backwards, 0, 'neither calls nor last_used_at ever goes backwards');
	cmp_ok($reads, '>', 10, 'the calls are read all the time while the clients run');
	return;
}

my $node = new_cluster(conf => "amt_keys.usage_flush_interval = ${interval}s");
my $token = create_key($node);
my $id = id_of($token);
my $expected = $clients * $each;

is(calls_of($node, $id), 0, 'a new key has no calls');
load($node, $token, $each);
my $ended_at = time;
is(calls_of($node, $id), $expected, 'the view is exact as soon as the clients have ended');
cmp_ok(stat_of($node, 'calls_flushed'), '>', 0, 'some of the calls are written while the clients run');
my $session = Session->new($node);
wait_until(sub { $session->query("SELECT calls FROM amt_key_usage WHERE key_id = '$id'") eq $expected }, 30);
cmp_ok(time - $ended_at, '<', 2 * $interval, 'all calls are in the table within two intervals');
is(stored_calls($node, $id), $expected, 'the table is exact after two intervals');
is(calls_of($node, $id), $expected, 'the view is exact after all calls are written');
is(stat_of($node, 'calls_pending'), 0, 'no call is pending after all are written');
is(stat_of($node, 'calls_flushed'), $expected, 'calls_flushed counts as many calls as were made');
$session->quit;
$node->restart;
is(calls_of($node, $id), $expected, 'the view is exact after a clean restart');

# With a worker that writes as often as it can.
configure($node, 'amt_keys.usage_flush_interval' => '10ms');
load($node, $token, $each / 10);
$expected += $clients * $each / 10;
is(calls_of($node, $id), $expected, 'the view is exact with the shortest interval');
ok(is_written($node, $id, $expected), 'the table is exact with the shortest interval');

# Clean restarts with calls that are only in memory.
configure($node, 'amt_keys.usage_flush_interval' => '1h');
for my $mode (qw(fast smart))
{
	load($node, $token, 100);
	$expected += $clients * 100 + 1;
	# The worker may have written the others, if the machine is slow.
	my $caller = Session->new($node);
	$caller->query('SELECT 1');
	like($caller->query(verify_sql($token), 'SELECT calls_pending FROM amt_stat'), qr/\A1\n[1-9]/, "$mode: there are calls in memory only before the stop");
	$caller->quit;
	$node->stop($mode);
	$node->start;
	is(stored_calls($node, $id), $expected, "$mode: a clean restart loses no call");
	is(calls_of($node, $id), $expected, "$mode: the view is exact after a clean restart");
}

# A shutdown in the middle of the load: each call that was answered is there, and none that was not made. The answers to
# the very last calls may not have arrived.
for my $interval (qw(1h 10ms))
{
	configure($node, 'amt_keys.usage_flush_interval' => $interval);
	for my $round (1 .. 3)
	{
		my $what = "interval $interval, round $round";
		my $before = calls_of($node, $id);
		my $run = start_load($node, $token, clients => $clients);
		wait_until(sub { calls_of($node, $id) > $before + 500 }) or die 'no load';
		$node->stop('fast');
		$run->{harness}->finish;
		$node->start;
		my $counted = calls_of($node, $id) - $before;
		cmp_ok($counted, '>=', answered($run), "$what: a stop under load loses no answered call");
		cmp_ok($counted, '<=', answered($run) + $clients, "$what: a stop under load invents no call");
	}
}

# A key is called once on a server that has just started, which is stopped at once: no worker has written anything yet.
configure($node, 'amt_keys.usage_flush_interval' => '1s');
$node->restart;
$expected = calls_of($node, $id);
for my $round (1 .. 20)
{
	$expected += verify($node, $token);
	$node->restart;
}
is(calls_of($node, $id), $expected, 'in 20 rounds of a single first call and a stop, no call is lost');

$node->stop;
done_testing();
