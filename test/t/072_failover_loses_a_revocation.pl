# A failover that loses the last commits brings a revoked key back; the remedies of doc/operations.md.

use strict;
use warnings FATAL => 'all';

use FindBin;
use lib "$FindBin::RealBin/../perl";

use AmtKeys qw(new_cluster create_keys id_of);
use Pages;
use Session;
use PostgreSQL::Test::Cluster;
use PostgreSQL::Test::Utils;
use Test::More;
use Time::HiRes qw(sleep);

my $tempdir = PostgreSQL::Test::Utils::tempdir();

# A primary and a standby with the extension in a database app, and keys; both know all of them.
sub new_pair
{
	my ($name) = @_;
	my $primary = PostgreSQL::Test::Cluster->new("${name}_primary");
	$primary->init(allows_streaming => 1);
	$primary->append_conf('postgresql.conf', "amt_keys.scrypt_ln = 4\nlog_statement = none\n");
	$primary->start;
	$primary->safe_psql('postgres', 'CREATE DATABASE app');
	$primary->safe_psql('app', 'CREATE SCHEMA amt; CREATE EXTENSION amt_keys SCHEMA amt');
	$primary->backup('backup');
	my $standby = PostgreSQL::Test::Cluster->new("${name}_standby");
	$standby->init_from_backup($primary, 'backup', has_streaming => 1);
	$standby->start;
	return ($primary, $standby);
}

sub create
{
	my ($node, $name) = @_;
	return $node->safe_psql('app', "SELECT token FROM amt.amt_create_key('$name', 'acme', 'editor')");
}

sub verify
{
	my ($node, @tokens) = @_;
	return join '', map { $node->safe_psql('app', "SELECT count(*) FROM amt.amt_verify('$_')") } @tokens;
}

sub events
{
	my ($node) = @_;
	return $node->safe_psql('app', q{SELECT string_agg(event || ' ' || name, ', ' ORDER BY event_id) FROM amt.amt_key_event
		WHERE event <> 'created'});
}

# No change reaches the standby any more.
sub stop_receiving
{
	my ($standby) = @_;
	$standby->safe_psql('postgres', q{ALTER SYSTEM SET primary_conninfo = ''});
	$standby->reload;
	return $standby->poll_query_until('postgres', 'SELECT count(*) = 0 FROM pg_stat_wal_receiver');
}

# The revocation of the page, for one key.
my $page = slurp_file(top_directory() . '/doc/operations.md');
my ($revocation) = $page =~ /^```sql\n(BEGIN;\nSET LOCAL synchronous_commit = local;.*?)^```/ms or die 'no revocation in the page';

sub revoke_by_the_page
{
	my ($token) = @_;
	my $n = (my $statements = $revocation) =~ s/amt_revoke\('[^']*'\)/amt_revoke('$token')/;
	die 'the page revokes nothing' unless $n;
	return $statements;
}

subtest 'an asynchronous failover loses changes that were not received, and they can be applied again' => sub {
	my ($primary, $standby) = new_pair('async');
	my %token = map { $_ => create($primary, $_) } qw(good revoked suspended resumed moved expired rotated);
	my $suspend = sub {
		my ($name, $at) = @_;
		$primary->safe_psql('app', "UPDATE amt.amt_keys SET suspended_at = $at WHERE name = '$name'");
	};
	$suspend->('resumed', 'now()');
	$primary->wait_for_catchup($standby, 'replay', $primary->lsn('insert'));
	my @all = @token{qw(good revoked suspended resumed moved expired rotated)};
	is(verify($standby, @all), '1110111', 'the standby knows the keys');

	ok(stop_receiving($standby), 'the standby receives nothing more');
	is($primary->safe_psql('app', "SELECT amt.amt_revoke('$token{revoked}')"), 't', 'a key is revoked on the primary');
	$suspend->('suspended', 'now()');
	$suspend->('resumed', 'NULL');
	$primary->safe_psql('app', q{UPDATE amt.amt_keys SET expires_at = now() WHERE name = 'expired'});
	$primary->safe_psql('app', "SELECT FROM amt.amt_rotate_key('$token{rotated}', '1 millisecond')");
	my ($section) = page_section($page, 'An organization is renamed') =~ /^```sql\n(.*?)^```/ms;
	$primary->safe_psql('app', $section =~ s/= 'globex'/= 'acme' AND name = 'moved'/r);
	is(verify($primary, @all), '1001100', 'the primary knows all changes');

	my $pid = $primary->{_pid};
	$primary->kill9;
	$standby->promote;
	is(verify($standby, @all), '1110111', 'after the failover the revoked key works again, and the suspended one');
	unlike(events($standby), qr/revoked/, 'the new primary has no event of the revocation');
	# A later event of the same kind, which does not touch what was lost.
	$standby->safe_psql('app', "UPDATE amt.amt_keys SET name = '$_->[1]' WHERE name = '$_->[0]'") for [ 'expired', 'renamed' ], [ 'renamed', 'expired' ];

	# The old primary comes back, by itself.
	for (1 .. 100)
	{
		last unless kill 0, $pid;
		sleep 0.1;
	}
	$primary->start;
	my @blocks = grep { $_->{language} eq 'sh' } page_blocks(page_section($page, 'A failover that loses commits'));
	is(scalar(@blocks), 2, 'the page has a command for the old primary and one for the new one');
	my $run = sub {
		my ($node, $script, $what) = @_;
		local $ENV{PGHOST} = $node->host;
		local $ENV{PGPORT} = $node->port;
		command_ok([ 'bash', '-euo', 'pipefail', '-c', "cd '$tempdir'\n$script" ], $what);
	};
	$run->($primary, $blocks[0]{text}, 'the events are read from the old primary');
	$primary->stop;
	for my $round ('once', 'twice')
	{
		$run->($standby, $blocks[1]{text}, "the events are applied on the new primary, $round");
		is(verify($standby, @all), '1000000', "the new primary knows all ends of keys after they were applied $round");
	}
	is($standby->safe_psql('app', "SELECT org_id FROM amt.amt_verify('$token{good}')"), 'acme', 'a key that was not touched works on the new primary');
	like(events($standby), qr/revoked revoked.*suspended suspended/, 'the new primary has events for all lost ends');

	# What the new primary has changed since stays.
	$standby->safe_psql('app', q{UPDATE amt.amt_keys SET suspended_at = NULL WHERE name = 'suspended'; UPDATE amt.amt_key SET expires_at = NULL WHERE name IN ('expired', 'good');
		UPDATE amt.amt_keys SET expires_at = now() + interval '1 day' WHERE name = 'good'});
	my $before = $standby->safe_psql('app', 'SELECT k FROM amt.amt_key AS k ORDER BY key_id');
	$run->($standby, $blocks[1]{text}, 'the events are applied once more');
	is($standby->safe_psql('app', 'SELECT k FROM amt.amt_key AS k ORDER BY key_id'), $before, 'old events change nothing that the new primary has changed since');
	is(verify($standby, @all), '1010010', 'keys are as the new primary has them');
	$standby->stop;
};

subtest 'a revocation that waits for the standby holds there when it returns' => sub {
	my ($primary, $standby) = new_pair('sync');
	$primary->append_conf('postgresql.conf', sprintf "synchronous_standby_names = '%s'\nsynchronous_commit = local\n", $standby->name);
	$primary->reload;
	$primary->poll_query_until('postgres', q{SELECT count(*) = 1 FROM pg_stat_replication WHERE sync_state = 'sync'});
	my ($token, $second) = map { create($primary, $_) } 'first', 'second';
	$primary->wait_for_catchup($standby, 'replay', $primary->lsn('insert'));
	is(verify($standby, $token, $second), '11', 'the standby knows two keys');

	like($primary->safe_psql('app', revoke_by_the_page($token)), qr/\At\n/, 'a key is revoked as the page says');
	is(verify($standby, $token), '0', 'the standby refuses the key without a wait when its revocation has returned');

	ok(stop_receiving($standby), 'the standby receives nothing more');
	is($primary->safe_psql('app', 'CREATE TABLE t AS SELECT 1 AS n; SELECT n FROM t'), '1', 'other transactions do not wait for the standby');
	my $session = Session->new($primary, dbname => 'app', verbosity => 'default');
	my $backend = $session->backend;
	$session->send(revoke_by_the_page($second));
	ok($primary->poll_query_until('postgres', "SELECT wait_event = 'SyncRep' FROM pg_stat_activity WHERE pid = $backend"),
		'a revocation waits for the standby');
	ok(!$session->answers_within(1), 'a revocation does not return while the standby receives nothing');
	is(verify($primary, $second), '0', 'the primary refuses the key meanwhile');
	$primary->safe_psql('postgres', "SELECT pg_cancel_backend($backend)");
	like($session->receive, qr/\At\n.*The transaction has already committed locally, but might not have been replicated to the standby/s,
		'a cancelled revocation warns that the standby may not have it');
	is(verify($primary, $second), '0', 'the primary refuses the key of a cancelled revocation');

	my $third = create($primary, 'third');
	$session->send("BEGIN; SET LOCAL synchronous_commit = remote_apply; SELECT amt.amt_revoke('$third'); COMMIT");
	ok($primary->poll_query_until('postgres', "SELECT wait_event = 'SyncRep' FROM pg_stat_activity WHERE pid = $backend"), 'a revocation waits for the standby in its own transaction');
	is(verify($primary, $third), '1', 'until it ends the key works on the primary, as the page says');
	$primary->safe_psql('postgres', "SELECT pg_cancel_backend($backend)");
	$session->receive;
	is(verify($primary, $third), '0', 'a cancel ends the wait and the key');

	$primary->kill9;
	$standby->promote;
	is(verify($standby, $token), '0', 'a revocation that had returned holds after a failover');
	is(verify($standby, $second), '1', 'a cancelled revocation is lost by a failover');
	$session->quit;
	$standby->stop;
};

# After a failover to a logical subscriber the sequence of the events may be behind them.
subtest 'sessions that find the sequence of the events behind get numbers of their own' => sub {
	my $node = new_cluster(name => 'numbers');
	my $gate = Session->new($node);
	my @sessions = map { Session->new($node) } 1 .. 8;
	my @ids = map { id_of($_) } create_keys($gate, scalar @sessions);
	my @answers;

	for my $round (1 .. 50)
	{
		# All of them begin when the gate opens.
		$gate->query('SELECT pg_advisory_lock(1)',
			"SELECT setval(pg_get_serial_sequence('amt_key_event', 'event_id'), max(event_id) - 1 - $round % 4) FROM amt_key_event");
		$sessions[$_]->send('BEGIN', 'SELECT pg_advisory_lock_shared(1)', 'SELECT pg_advisory_unlock_shared(1)',
			"UPDATE amt_key SET name = 'in round $round' WHERE key_id = '$ids[$_]'", 'COMMIT')
		  for 0 .. $#sessions;
		$gate->query('SELECT pg_advisory_unlock(1)');
		push @answers, map { $_->receive } @sessions;
	}
	is(join('', grep { /ERROR/ } @answers), '', 'no change fails for its number');
	is($gate->query("SELECT count(*) FROM amt_key_event WHERE event = 'changed'"), 50 * @sessions, 'each change has its event');
	$_->quit for $gate, @sessions;
	$node->stop;
};

done_testing();
