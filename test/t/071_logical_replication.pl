# A logical subscriber verifies what its publisher has created, refuses what it has revoked, and counts for itself.

use strict;
use warnings FATAL => 'all';

use FindBin;
use lib "$FindBin::RealBin/../perl";

use PostgreSQL::Test::Cluster;
use PostgreSQL::Test::Utils;
use Test::More;

my $conf = "amt_keys.scrypt_ln = 4\nlog_statement = none\nwal_receiver_status_interval = 1s\nwal_retrieve_retry_interval = 100ms\n";
my $extension = 'CREATE SCHEMA amt; CREATE EXTENSION amt_keys SCHEMA amt;';

sub new_server
{
	my ($name) = @_;
	my $node = PostgreSQL::Test::Cluster->new($name);
	$node->init(allows_streaming => 'logical');
	$node->append_conf('postgresql.conf', $conf);
	$node->start;
	return $node;
}

my $publisher = new_server('publisher');
$publisher->safe_psql('postgres', "$extension CREATE TABLE document (id int PRIMARY KEY); CREATE PUBLICATION everything FOR ALL TABLES");
my ($major) = $publisher->safe_psql('postgres', 'SHOW server_version_num') =~ /\A(\d+)\d{4}\z/;

sub wait_for
{
	my ($node, $query, $expected) = @_;
	return $node->poll_query_until('postgres', $query, $expected // 't');
}

sub create
{
	my ($node, $name) = @_;
	return $node->safe_psql('postgres', "SELECT token FROM amt.amt_create_key('$name', 'acme', 'editor')");
}

sub id_of
{
	my ($token) = @_;
	return $token =~ /\Aamt_([0-9A-Za-z]+)_/ ? $1 : die "no token: $token";
}

sub verify
{
	my ($node, $token) = @_;
	return $node->safe_psql('postgres', "SELECT count(*) FROM amt.amt_verify('$token')");
}

sub calls
{
	my ($node, $token) = @_;
	return $node->safe_psql('postgres', sprintf q{SELECT calls FROM amt.amt_keys WHERE key_id = '%s'}, id_of($token));
}

sub stored
{
	my ($node, $token) = @_;
	$node->safe_psql('postgres', 'SELECT amt.amt_flush_usage()');
	return $node->safe_psql('postgres', sprintf q{SELECT calls FROM amt.amt_key_usage WHERE key_id = '%s'}, id_of($token));
}

# What an organization's keys and events are, without what each server counts.
my $keys = 'SELECT k FROM amt.amt_key AS k ORDER BY key_id';
my $events = 'SELECT e FROM amt.amt_key_event AS e ORDER BY event_id';

sub agrees
{
	my ($subscriber, $what) = @_;
	is($subscriber->safe_psql('postgres', $_), $publisher->safe_psql('postgres', $_), "$what: the subscriber has the same "
		. ($_ eq $keys ? 'keys' : 'events')) for $keys, $events;
	return;
}

sub no_errors
{
	my ($subscriber, $what) = @_;
	unlike(slurp_file($subscriber->logfile), qr/duplicate key|logical replication .* exited with exit code 1|ERROR:  (?!cannot)/,
		"$what: replication never stopped");
	return;
}

# What a subscriber of all tables goes through, from a subscription that is in force.
sub goes_through
{
	my ($subscriber, $name, $what) = @_;
	my $catch_up = sub { $publisher->wait_for_catchup($name) };

	my $token = create($publisher, 'new');
	$catch_up->();
	is(verify($subscriber, $token), 1, "$what: a new key verifies at the subscriber");
	is($subscriber->safe_psql('postgres', "SELECT org_id, role, name FROM amt.amt_verify('$token')"), 'acme|editor|new',
		"$what: a new key has its organization, role and name at the subscriber");
	is(stored($subscriber, $token), 2, "$what: the subscriber writes its calls, before the publisher has any");

	verify($publisher, $token) for 1 .. 3;
	is(stored($publisher, $token), 3, "$what: the publisher writes its own calls");
	$catch_up->();
	is(calls($subscriber, $token), 2, "$what: calls of the publisher change nothing at the subscriber");
	verify($subscriber, $token);
	verify($publisher, $token);
	is(stored($subscriber, $token) . ' ' . stored($publisher, $token), '3 4', "$what: both servers count on");

	my $other = create($publisher, 'other');
	$publisher->safe_psql('postgres', sprintf q{UPDATE amt.amt_keys SET suspended_at = now() WHERE key_id = '%s'}, id_of($token));
	$catch_up->();
	is(verify($subscriber, $token), 0, "$what: a key that the publisher suspends is refused");
	is(verify($subscriber, $other), 1, "$what: another key is not refused");
	$publisher->safe_psql('postgres', sprintf q{UPDATE amt.amt_keys SET suspended_at = NULL WHERE key_id = '%s'}, id_of($token));
	$catch_up->();
	is(verify($subscriber, $token), 1, "$what: a key that the publisher resumes is accepted");

	my $rotated = $publisher->safe_psql('postgres', sprintf q{SELECT token FROM amt.amt_rotate_key('%s')}, id_of($other));
	$catch_up->();
	is(verify($subscriber, $other) . verify($subscriber, $rotated), '01', "$what: a rotated key is replaced");

	is($publisher->safe_psql('postgres', "SELECT amt.amt_revoke('$token')"), 't', "$what: a key is revoked at the publisher");
	$catch_up->();
	is(verify($subscriber, $token), 0, "$what: a key that the publisher revokes is refused at the subscriber");
	is($subscriber->safe_psql('postgres', sprintf q{SELECT count(*) FROM amt.amt_key_usage WHERE key_id = '%s'}, id_of($token)), 0,
		"$what: the subscriber's count of a key goes with the key");
	is(verify($subscriber, $rotated), 1, "$what: other keys go on at the subscriber");

	$publisher->safe_psql('postgres', 'INSERT INTO document SELECT coalesce(max(id), 0) + 1 FROM document');
	$catch_up->();
	return $rotated;
}

# Keys from before, some of them used.
my @before = map { create($publisher, $_) } 'before, used at the publisher', 'before', 'before, to be revoked';
verify($publisher, $before[0]) for 1 .. 5;
is(stored($publisher, $before[0]), 5, 'the publisher has written calls before there is a subscriber');

# All tables, with what is in them.
my $copying = new_server('copying');
$copying->safe_psql('postgres', "$extension CREATE TABLE document (id int PRIMARY KEY);
	CREATE SUBSCRIPTION copying CONNECTION '" . $publisher->connstr . q{ dbname=postgres' PUBLICATION everything});
$copying->wait_for_subscription_sync($publisher, 'copying');
agrees($copying, 'copy_data');
is($copying->safe_psql('postgres', 'SELECT count(*) FROM amt.amt_key_usage'), 0, 'copy_data: no counts are copied');
is(join('', map { verify($copying, $_) } @before), '111', 'copy_data: keys from before verify');
is(stored($copying, $before[0]), 1, 'copy_data: calls of keys from before are counted from 0');
my $kept = goes_through($copying, 'copying', 'copy_data');
agrees($copying, 'copy_data');
no_errors($copying, 'copy_data');

# All tables, from now on.
my $later = new_server('later');
$later->safe_psql('postgres', "$extension CREATE TABLE document (id int PRIMARY KEY);
	CREATE SUBSCRIPTION later CONNECTION '" . $publisher->connstr . q{ dbname=postgres' PUBLICATION everything WITH (copy_data = false)});
$later->wait_for_subscription_sync($publisher, 'later');
is(join('', map { verify($later, $_) } @before), '000', 'without copy_data: keys from before are unknown');
is($publisher->safe_psql('postgres', "SELECT amt.amt_revoke('$before[2]')"), 't',
	'without copy_data: a key from before is revoked at the publisher');
goes_through($later, 'later', 'without copy_data');
is($later->safe_psql('postgres', 'SELECT string_agg(name, $$, $$ ORDER BY name) FROM amt.amt_key'), 'other',
	'without copy_data: the subscriber has later keys only');
no_errors($later, 'without copy_data');
$later->safe_psql('postgres', 'DROP SUBSCRIPTION later');
$later->stop;

$publisher->wait_for_catchup('copying');
is(verify($copying, $before[2]), 0, 'copy_data: a key that is revoked later is refused as well');

subtest 'a key that is managed at the subscriber stops the replication' => sub {
	my $stray = new_server('stray');
	$stray->safe_psql('postgres', "$extension CREATE TABLE document (id int PRIMARY KEY);
		CREATE SUBSCRIPTION stray CONNECTION '" . $publisher->connstr . q{ dbname=postgres' PUBLICATION everything});
	$stray->wait_for_subscription_sync($publisher, 'stray');
	is($stray->safe_psql('postgres', "SELECT amt.amt_revoke('$before[1]')"), 't', 'a key can be revoked at the subscriber');
	is(verify($stray, $before[1]) . verify($publisher, $before[1]), '01', 'a revocation at the subscriber holds there only');
	create($publisher, 'collides');
	# Since version 18 the log calls it a conflict.
	ok($stray->wait_for_log(qr/duplicate key value violates unique constraint "amt_key_event_pkey"|"amt\.amt_key_event": conflict=insert_exists/),
		'an event of the subscriber collides with the next one of the publisher');
	$stray->safe_psql('postgres', 'ALTER SUBSCRIPTION stray DISABLE; ALTER SUBSCRIPTION stray SET (slot_name = NONE); DROP SUBSCRIPTION stray');
	$stray->stop;
	wait_for($publisher, q{SELECT count(*) = 0 FROM pg_replication_slots WHERE slot_name = 'stray' AND active});
	$publisher->safe_psql('postgres', q{SELECT pg_drop_replication_slot('stray')});
};

# A standby becomes a subscriber.
SKIP:
{
	skip 'pg_createsubscriber is of version 17', 1 if $major < 17;
	subtest 'a standby is made a subscriber by pg_createsubscriber' => sub {
		my $standby = PostgreSQL::Test::Cluster->new('standby');
		$publisher->backup('backup');
		$standby->init_from_backup($publisher, 'backup', has_streaming => 1);
		$standby->append_conf('postgresql.conf', 'hot_standby_feedback = on');
		$standby->start;
		$publisher->wait_for_catchup($standby);
		is(calls($standby, $before[0]), 5, 'the standby shows the calls of its primary');
		$standby->stop;
		$standby->command_ok(
			[
				'pg_createsubscriber', '--verbose', '-D', $standby->data_dir, '-P', $publisher->connstr('postgres'),
				'-s', $standby->host, '-p', $standby->port, '-d', 'postgres', '--subscription', 'made', '--publication', 'made',
				'--replication-slot', 'made'
			],
			'pg_createsubscriber succeeds');
		$standby->start;
		$standby->wait_for_subscription_sync($publisher, 'made');
		agrees($standby, 'pg_createsubscriber');
		is(calls($standby, $before[0]), 5, 'calls that the primary had written are kept');
		is(verify($standby, $before[1]), 1, 'a key verifies at the new subscriber');
		is(stored($standby, $before[1]), 2, 'a call at the new subscriber is added to those that the primary had written');
		goes_through($standby, 'made', 'pg_createsubscriber');
		no_errors($standby, 'pg_createsubscriber');
		agrees($standby, 'pg_createsubscriber');
		$standby->safe_psql('postgres', 'DROP SUBSCRIPTION made');
		$standby->stop;
	};
}

subtest 'what the publisher ends stays ended when the subscriber crashes' => sub {
	$copying->append_conf('postgresql.conf', 'wal_writer_delay = 10s');
	$copying->restart;
	my @ended = map { create($publisher, $_) } 1 .. 3;
	$publisher->wait_for_catchup('copying');
	is(join('', map { verify($copying, $_) } @ended), '111', 'the keys verify at the subscriber');
	$copying->safe_psql('postgres', 'CHECKPOINT');
	for my $i (0 .. 2)
	{
		my $id = id_of($ended[$i]);
		$publisher->safe_psql('postgres', ("SELECT amt.amt_revoke('$id')", "UPDATE amt.amt_keys SET suspended_at = now() WHERE key_id = '$id'",
			"UPDATE amt.amt_keys SET expires_at = now() WHERE key_id = '$id'")[$i]);
		ok(wait_for($copying, "SELECT count(*) = 0 FROM amt.amt_verify('$ended[$i]')"), 'the subscriber refuses a key that the publisher has ended');
		$publisher->stop('immediate');
		$copying->stop('immediate');
		$copying->start;
		is(verify($copying, $ended[$i]), 0, 'a key that the publisher has ended is refused after a crash of the subscriber, before it hears of the publisher');
		$publisher->start;
		$publisher->wait_for_catchup('copying');
	}
};

# The publisher is gone, and the subscriber takes over.
$publisher->wait_for_catchup('copying');
my $last = $copying->safe_psql('postgres', 'SELECT max(event_id) FROM amt.amt_key_event');
cmp_ok($last, '>', 10, 'the subscriber has events of the publisher');
$publisher->stop('immediate');
$copying->safe_psql('postgres', 'ALTER SUBSCRIPTION copying DISABLE; ALTER SUBSCRIPTION copying SET (slot_name = NONE); DROP SUBSCRIPTION copying');
is(verify($copying, $kept), 1, 'failover: a key verifies');
is($copying->safe_psql('postgres', "SELECT amt.amt_revoke('$kept')"), 't', 'failover: a key is revoked at the former subscriber');
is(verify($copying, $kept), 0, 'failover: the revoked key is refused');
my $new = create($copying, 'after the failover');
is(verify($copying, $new), 1, 'failover: a new key verifies');
is(stored($copying, $new), 1, 'failover: a call of the new key is counted');
is($copying->safe_psql('postgres', "SELECT string_agg(event || ' ' || (event_id - $last), ', ' ORDER BY event_id)
	FROM amt.amt_key_event WHERE event_id > $last"), 'revoked 1, created 2', 'failover: the numbers of events go on');

$copying->stop;
done_testing();
