# A clock that is set back by an hour does not stop the writing for an hour.

use strict;
use warnings FATAL => 'all';

use FindBin;
use lib "$FindBin::RealBin/../perl";

use AmtKeys;
use Session;
use PostgreSQL::Test::Cluster;
use PostgreSQL::Test::Utils;
use Test::More;

my ($library) = glob '/usr/lib/*/faketime/libfaketimeMT.so.1';
plan skip_all => 'needs libfaketime' unless defined $library;

my $offset = PostgreSQL::Test::Utils::tempdir() . '/offset';

sub set_clock
{
	open my $file, '>', "$offset.new" or die;
	print $file "$_[0]\n";
	close $file;
	rename "$offset.new", $offset or die;
	return;
}

set_clock('+0h');
my $node;
{
	local $ENV{LD_PRELOAD} = $library;
	local $ENV{FAKETIME_TIMESTAMP_FILE} = $offset;
	local $ENV{FAKETIME_NO_CACHE} = 1;
	local $ENV{FAKETIME_DONT_FAKE_MONOTONIC} = 1;
	$node = new_cluster(conf => "amt_keys.usage_flush_interval = '200ms'");
}
my $s = Session->new($node);
my $token = create_key($node);
my $id = id_of($token);

sub verify
{
	return $s->query("SELECT count(*) FROM amt_verify('$token')");
}

sub is_written
{
	return $s->query("SELECT calls_pending FROM amt_stat") == 0;
}

# In the midst of a worker's life.
verify();
ok(wait_until(\&is_written), 'a worker writes a call before the clock is set back');
my ($worker) = worker_pids($node);
my $before = $s->query('SELECT now()');
set_clock('-1h');
is($s->query("SELECT now() < '$before'::timestamptz"), 't', 'the clock goes back');
for (1 .. 3)
{
	verify();
	ok(wait_until(\&is_written, 5), 'calls are written after the clock is set back');
}
ok(wait_until(sub { !kill 0, $worker }, 10), 'a worker leaves when it is idle, although the clock was set back');
is(stored_calls($node, $id), 4, 'every call is written after the clock was set back');

# While none is there, and one has just been asked for.
set_clock('-2h');
verify();
ok(wait_until(sub { worker_pids($node) }, 10), 'a worker starts after the clock was set back again');
($worker) = worker_pids($node);
is($s->query("SELECT pg_terminate_backend($worker)"), 't', 'the worker is terminated');
ok(wait_until(sub { !kill 0, $worker }, 5), 'the terminated worker ends');
set_clock('-3h');
ok(wait_until(sub { verify(); worker_pids($node) }, 10), 'another worker starts after the clock was set back meanwhile');
ok(wait_until(\&is_written, 10), 'the other worker writes the calls');
is(calls_of($node, $id), stored_calls($node, $id), 'table and view agree after the clock was set back three times');
like($s->query("SELECT last_used_at > now() + interval '2 hours' FROM amt_keys WHERE key_id = '$id'"), qr/t/, 'the last use stays the latest that there was');

done_testing();
