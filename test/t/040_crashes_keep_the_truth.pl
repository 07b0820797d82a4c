# Whatever is killed at whatever moment: afterwards every committed key works, no revoked one does, none exists that was not
# committed, nobody waits for the dead, and no call is counted that was not made.
#
# Each round lets sessions create, revoke and verify keys, some of them cold and one of them slow, and kills something at a
# random moment: each kind of victim once in six rounds.  AMT_ROUNDS is the number of rounds; AMT_SEED, a seed that was
# printed, repeats the order of the victims.
#
# slow test

use strict;
use warnings FATAL => 'all';

use FindBin;
use lib "$FindBin::RealBin/../perl";

use AmtKeys;
use Session;
use List::Util qw(shuffle);
use PostgreSQL::Test::Utils;
use Test::More;
use Time::HiRes qw(sleep time);

my $rounds = $ENV{AMT_ROUNDS} || 12;
my $seed = $ENV{AMT_SEED} || int(rand(1 << 30));
srand($seed);
diag("AMT_SEED=$seed");

my $node = new_cluster(conf => <<'CONF');
restart_after_crash = on
amt_keys.scrypt_ln = 11
amt_keys.usage_flush_interval = '50ms'
amt_keys.max_concurrent_scrypt = 2
max_prepared_transactions = 5
CONF

# What is known: keys by token, with what became of them; in doubt is what was on its way when the crash came.
my %key;

# Something that one session is asked to do, and what is to be noted of the answer.  What it changes is in doubt until then.
sub some_key
{
	my ($state) = @_;
	my ($token) = grep { $key{$_} eq 'created' } sort keys %key;
	$key{$token} = $state if defined $token && defined $state;
	return $token // 'amt_nobody_0123456789abcdef';
}

my $nothing = sub { };
my @deeds = (
	sub {
		$_[0]->send(q{SELECT token FROM amt_create_key('a key', 'acme', 'editor')});
		return sub { $key{$1} = 'created' if $_[0] =~ /\A(amt_\w+)$/m };
	},
	sub {
		$_[0]->send('BEGIN', q{SELECT token FROM amt_create_key('never', 'acme', 'editor')}, 'ROLLBACK');
		return sub { $key{$1} = 'undone' if $_[0] =~ /\A(amt_\w+)$/m };
	},
	sub {
		my $token = some_key('in doubt');
		my $id = id_of($token);
		$_[0]->send(rand() < 0.5 ? "SELECT amt_revoke('$id')" : "DELETE FROM amt_key WHERE key_id = '$id' RETURNING true");
		return sub { $key{$token} = 'revoked' if $_[0] =~ /\At$/m };
	},
	sub {
		$_[0]->send('BEGIN', "SELECT amt_revoke('" . id_of(some_key()) . "')", 'ROLLBACK');
		return $nothing;
	},
	(sub { $_[0]->send('SELECT amt_cache_clear()'); return $nothing; }) x 2,
	sub { $_[0]->send('SELECT amt_flush_usage()'); return $nothing; },
);

# A key whose scrypt takes a tenth of a second and 64 MiB.  Several verify it all the time and make it cold again: one of
# them runs scrypt, the others wait for it.
my $slow_ln = 16;
my $slow = $node->safe_psql('postgres', "SET amt_keys.scrypt_ln = $slow_ln; SELECT token FROM amt_create_key('slow', 'acme', 'editor')");

# Whom to kill, as pg_stat_activity shows him.
my %victims = (
	'the postmaster' => undef,
	'the worker' => q{backend_type = 'amt_keys usage writer'},
	'a backend' => q{backend_type = 'client backend'},
	'who runs scrypt' => q{query ~ 'AS slow' AND state = 'active' AND wait_event_type IS NULL},
	'who waits for scrypt' => q{query ~ 'AS slow' AND state = 'active' AND wait_event_type = 'Extension'},
	'who writes' => q{query ~ 'amt_(create_key|revoke|flush)|DELETE' AND backend_xid IS NOT NULL},
);
my @order = map { shuffle(sort keys %victims) } 0 .. $rounds / keys %victims;

# Whether a process has the memory that a run of the slow key takes, where that can be seen.
sub has_memory_of_scrypt
{
	my ($pid) = @_;
	return 1 unless -r '/proc/self/status';
	open my $status, '<', "/proc/$pid/status" or return 0;
	local $/;
	return readline($status) =~ /^VmData:\s+(\d+) kB/m && $1 >= 1 << $slow_ln;
}

# Kill a victim if it is there just now.
sub kill_victim
{
	my ($victim, $observer) = @_;
	return kill_postmaster($node) if $victim eq 'the postmaster';
	my $pid = $observer->query(
		"SELECT pid FROM pg_stat_activity WHERE pid <> pg_backend_pid() AND $victims{$victim} ORDER BY random() LIMIT 1");
	return 0 if $pid eq '' || $victim eq 'who runs scrypt' && !has_memory_of_scrypt($pid);
	return kill 'KILL', $pid;
}

my %killed;
for my $round (1 .. $rounds)
{
	my $victim = $order[ $round - 1 ];

	# Committed before the round, and cold in it again and again.
	my @hot = split /\n/, $node->safe_psql('postgres',
		q{SELECT (amt_create_key('a key', 'acme', 'editor')).token FROM generate_series(1, 4)});
	@key{ @hot, $slow } = ('hot') x 5;
	my $load = start_pgbench($node, [ map { "SELECT count(*) FROM amt_verify('$_');\n" } @hot ],
		'-c', 6, '-j', 1, '-T', 600);
	my $slow_load = start_pgbench($node, ["SELECT amt_cache_clear();\nSELECT count(*) AS slow FROM amt_verify('$slow');\n"],
		'-c', 3, '-j', 1, '-T', 600);
	my $observer = Session->new($node);
	my @sessions = map { Session->new($node) } 1 .. 4;
	my @then;
	my $work = sub {
		for my $i (0 .. $#sessions)
		{
			next if $then[$i] && !$sessions[$i]->answers_within(0);
			$then[$i]->($sessions[$i]->receive) if $then[$i];
			$then[$i] = $deeds[ rand @deeds ]->($sessions[$i]);
		}
	};
	my $until = time + 0.2 + rand 0.6;
	while (time < $until)
	{
		$work->();
		sleep rand 0.01;
	}
	my $ids = join ',', map { "'" . id_of($_) . "'" } @hot;
	my $stored = $observer->query("SELECT coalesce(sum(calls), 0) FROM amt_key_usage WHERE key_id IN ($ids)");

	# They go on until there is a victim.
	$until = time + $PostgreSQL::Test::Utils::timeout_default;
	until (kill_victim($victim, $observer))
	{
		die "nobody to kill: $victim" if time > $until;
		$work->();
	}
	$killed{$victim}++;

	# Everybody loses the connection; what was on its way may have an answer or not.
	for my $i (0 .. $#sessions)
	{
		my $answer = eval { $sessions[$i]->receive(60) };
		if ($@)
		{
			fail("round $round, $victim killed: a session hangs");
		}
		$then[$i]->($answer) if defined $answer && $then[$i];
		$sessions[$i]->quit;
	}
	$observer->quit;
	$_->{harness}->finish for $load, $slow_load;
	if ($victim eq 'the postmaster')
	{
		start_again($node);
	}
	else
	{
		wait_until(sub { accepts_connections($node) }) or die 'no recovery';
	}

	# The state that the server must have now.
	my ($answered) = $load->{out} =~ /^number of transactions actually processed: (\d+)/m or die $load->{out};
	my $check = Session->new($node);
	my $calls = $check->query("SELECT sum(calls) FROM amt_keys WHERE key_id IN ($ids)");
	my %ids = map { $_ => 1 } split /\n/, $check->query('SELECT key_id FROM amt_key');
	my %wanted = (created => 1, hot => 1, revoked => 0, undone => 0);
	my @wrong;
	for my $token (sort keys %key)
	{
		my $works = $check->query("SET statement_timeout = '30s'", "SELECT count(*) FROM amt_verify('$token')");
		$key{$token} = $works eq '1' ? 'created' : 'revoked' if $key{$token} eq 'in doubt';
		push @wrong, "$key{$token} $token: $works" if $works ne $wanted{ $key{$token} };
		delete $ids{ id_of($token) } if $works eq '1';
	}
	# A creation whose answer the crash has swallowed may have been committed; one for each session.
	my $unknown = keys %ids;
	my $undone = $check->query(q{SELECT count(*) FROM amt_key WHERE name = 'never'});
	my $events = $check->query(q{
		SELECT count(*) FROM (SELECT key_id, count(*) FILTER (WHERE event = 'created') - count(*) FILTER (WHERE event = 'revoked') AS n
		                      FROM amt_key_event GROUP BY 1) e FULL JOIN amt_key k USING (key_id)
		WHERE coalesce(n, 0) <> CASE WHEN k IS NULL THEN 0 ELSE 1 END});

	my @faults;
	push @faults, @wrong if @wrong;
	push @faults, "$unknown keys that nobody was told of" if $unknown > @sessions;
	push @faults, "$undone keys whose creation was rolled back" if $undone;
	push @faults, "$events keys whose events do not match" if $events;
	push @faults, "more calls than were made: $calls of $answered" if $calls > $answered + 6;
	push @faults, "stored calls lost: $calls of $stored" if $calls < $stored;
	is(join("\n", @faults), '', "round $round, $victim killed: keys and calls are as they must be");
	note(sprintf '%d keys, %d calls answered, %d not counted', scalar(keys %key), $answered, $answered - $calls);

	# Start the next round small.
	$check->query("DELETE FROM amt_key WHERE name <> 'slow'");
	%key = ();
	$check->quit;
}
note(join ', ', map { "$_: $killed{$_}" } sort keys %killed);
is(join(', ', grep { ($killed{$_} // 0) < int($rounds / keys %victims) } sort keys %victims), '', 'no kind of victim was spared');

# Terminated politely, nobody leaves a place in the queue behind either.
is($node->safe_psql('postgres', q{SELECT count(pg_terminate_backend(pid)) >= 0 FROM pg_stat_activity WHERE backend_type = 'client backend' AND pid <> pg_backend_pid()}),
	't', 'the sessions that are left are terminated');
my $token = create_key($node);
is($node->safe_psql('postgres', "SELECT count(*) FROM amt_cache_clear(), amt_verify('$token')"), 1, 'the queue for scrypt is free after all sessions were terminated');

done_testing();
