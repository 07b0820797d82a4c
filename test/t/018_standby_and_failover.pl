# A standby verifies what it has replayed, counts in memory, and writes what it counted when it is promoted.

use strict;
use warnings FATAL => 'all';

use FindBin;
use lib "$FindBin::RealBin/../perl";

use AmtKeys qw(:all);
use Session;
use PostgreSQL::Test::Cluster;
use PostgreSQL::Test::Utils;
use Test::More;
use Time::HiRes qw(time);

my $primary = new_cluster(name => 'primary', allows_streaming => 1);
$primary->safe_psql('postgres', 'CREATE DATABASE other');
$primary->safe_psql('other', 'CREATE EXTENSION amt_keys');

my $standby = PostgreSQL::Test::Cluster->new('standby');
$primary->backup('backup');
$standby->init_from_backup($primary, 'backup', has_streaming => 1);
# Nothing but what a test asks for comes between a session and the replay.
$standby->append_conf('postgresql.conf', "max_standby_streaming_delay = -1\nhot_standby_feedback = on\n");
$standby->start;

sub catch_up
{
	$primary->wait_for_catchup($standby, 'replay', $primary->lsn('insert'));
	return;
}

sub pause_replay
{
	$standby->safe_psql('postgres', 'SELECT pg_wal_replay_pause()');
	wait_until(sub { $standby->safe_psql('postgres', 'SELECT pg_get_wal_replay_pause_state()') eq 'paused' })
	  or die 'replay does not pause';
	return;
}

sub resume_replay
{
	$standby->safe_psql('postgres', 'SELECT pg_wal_replay_resume()');
	catch_up();
	return;
}

catch_up();
my $s = Session->new($standby);

# A key is good on the standby as soon as its creation is replayed, and no sooner.
my $token = create_key($primary);
my $id = id_of($token);
my $created_at = time;
ok(wait_until(sub { $s->query("SELECT count(*) FROM amt_verify('$token')") eq '1' }), 'a key is verified on the standby');
note(sprintf 'the first time %.3f s after its creation', time - $created_at);
is($s->query("SELECT key_id, org_id, role, name FROM amt_verify('$token')"), "$id|acme|editor|a key", 'the answer has the row of the key');
is($s->query("SELECT count(*) FROM amt_verify('" . wrong_secret($token) . "')"), 0, 'a wrong secret is refused');
is($s->query('BEGIN', "SELECT count(*) FROM amt_verify('$token', identify => true)", 'SELECT amt_org_id(), amt_key_id()', 'COMMIT'),
	"1\nacme|$id", 'the identity is set there');
is($s->query("SELECT scrypt_runs, warm_keys FROM amt_stat"), '1|1', 'scrypt ran once: the standby has a cache of its own');

pause_replay();
my $later = create_key($primary);
is(verify($standby, $later), 0, 'a key whose creation has not been replayed is not known');
resume_replay();
is(verify($standby, $later), 1, 'it is known when it has been replayed');

# Revoked on the primary, refused on the standby, warm or not, as soon as that is replayed, and no sooner.
{
	my ($warm, $old_snapshot) = map { create_key($primary) } 1 .. 2;
	catch_up();
	is(verify($standby, $warm), 1, 'a key is warm on the standby');
	is($s->query('BEGIN ISOLATION LEVEL REPEATABLE READ', "SELECT count(*) FROM amt_verify('$old_snapshot')"), 1,
		'another key works in a transaction with a snapshot of its own');
	my $hits = stat_of($standby, 'cache_hits');

	pause_replay();
	is(revoke($primary, $_), 't', 'revoked on the primary') for $warm, $old_snapshot;
	is(verify($primary, $warm), 0, 'the primary refuses it at once');
	is(verify($standby, $warm), 1, 'the standby accepts it until the revocation is replayed');
	cmp_ok(stat_of($standby, 'cache_hits'), '>', $hits, 'the standby does so by its cache');
	resume_replay();
	is(verify($standby, $warm), 0, 'then the standby refuses it');
	is($s->query("SELECT count(*) FROM amt_verify('$old_snapshot')"), 0, 'a transaction that began before refuses it, too');
	is($s->query("SELECT count(*) FROM amt_key WHERE key_id = '" . id_of($old_snapshot) . "'", 'COMMIT'), 1,
		'the snapshot of that transaction still has the row');
	is(verify($standby, $token), 1, 'other keys still work');
}

# A call that would write is refused.
is($s->query($_), 'ERROR:  25006', 'refused on the standby: ' . s/\b\Q$id\E\b/a key/r)
  for 'SELECT amt_flush_usage()', "SELECT amt_create_key('a key', 'acme', 'editor')", "SELECT amt_revoke('$id')",
  "DELETE FROM amt_key WHERE key_id = '$id'";
is($s->query('SELECT amt_cache_clear()', "SELECT count(*) FROM amt_verify('$token')"), "\n1",
	'the cache of the standby can be cleared');

# Calls on the standby wait in its memory, and its view adds them to those that the primary has written.
my $primary_token = create_key($primary);
my $primary_id = id_of($primary_token);
my $other_token = create_key($primary, 'other');
my $revoked_token = create_key($primary);
my $stored;
{
	verify($primary, $primary_token) for 1 .. 3;
	$primary->safe_psql('postgres', 'SELECT amt_flush_usage()');
	wait_until(sub { $primary->safe_psql('postgres', 'SELECT sum(calls) FROM amt_key_usage WHERE key_id = ' . "'$primary_id'") eq '3' })
	  or die 'the primary does not write';
	catch_up();
	is(calls_of($standby, $primary_id), 3, 'the standby shows what the primary has written');
	verify($standby, $primary_token) for 1 .. 4;
	verify($standby, $other_token, 'other') for 1 .. 2;
	verify($standby, $revoked_token) for 1 .. 5;
	is(calls_of($standby, $primary_id), 7, 'it adds its own calls');
	is(calls_of($standby, id_of($other_token), 'other'), 2, 'it does so in each database');
	is($standby->safe_psql('postgres',
		"SELECT last_used_at > now() - interval '1 minute' FROM amt_keys WHERE key_id = '$primary_id'"), 't', 'it shows its own last use');
	is(stored_calls($standby, $primary_id), 3, 'its calls are not stored');
	is(calls_of($primary, $primary_id), 3, 'the primary does not know of them');
	is(stat_of($standby, 'worker_failures'), 0, 'no worker has failed on the standby');
	is(stat_of($standby, 'calls_flushed'), 0, 'no worker has written on the standby');

	verify($primary, $primary_token) for 1 .. 2;
	$primary->safe_psql('postgres', 'SELECT amt_flush_usage()');
	ok(wait_until(sub { stored_calls($primary, $primary_id) == 5 }), 'the primary writes more');
	catch_up();
	is(calls_of($standby, $primary_id), 9, 'the standby adds up both');

	is(revoke($primary, $revoked_token), 't', 'a key with calls on the standby is revoked');
	catch_up();
	is(stat_of($primary, 'calls_pending'), 0, 'the primary knows nothing of its calls');
	is(events_of($primary, id_of($revoked_token)), 0, 'the event has none of its calls');
	is($standby->safe_psql('postgres', "SELECT count(*) FROM amt_keys WHERE key_id = '" . id_of($revoked_token) . "'"), 0,
		'the key is not in the list on the standby');
	# A worker comes with a call, and drops what belongs to nobody any more.
	verify($standby, $primary_token);
	ok(wait_until(sub { stat_of($standby, 'calls_dropped') == 5 + 3 }, 20), 'the standby drops the calls of keys that are gone, these and the earlier ones');
	is(calls_of($standby, $primary_id), 10, 'calls of other keys stay');
}

# A database that is dropped on the primary goes on the standby, although its worker has calls that it cannot write.
{
	my $gone = new_database($primary, 'gone');
	catch_up();
	verify($standby, $gone, 'gone') for 1 .. 3;
	ok(wait_for_worker($standby, 'gone'), 'a database of the standby has a worker');
	my ($pending, $dropped) = split /\|/, $standby->safe_psql('postgres', 'SELECT calls_pending, calls_dropped FROM amt_stat');
	wait_for_no_worker($primary, 'gone');
	$primary->safe_psql('postgres', 'DROP DATABASE gone');
	cmp_ok(seconds(\&catch_up), '<', 10, 'the replay of DROP DATABASE waits for nobody');
	is($standby->safe_psql('postgres', q{SELECT count(*) FROM pg_database WHERE datname = 'gone'}), 0, 'the database is gone on the standby');
	is(scalar(() = worker_pids($standby, 'gone')), 0, 'its worker is gone');
	ok(wait_until(sub { verify($standby, $primary_token); stat_of($standby, 'calls_dropped') == $dropped + 3 }, 30), 'its calls are dropped');
}

# Promoted, the standby writes what it has counted, without being asked.
my $pending = stat_of($standby, 'calls_pending');
cmp_ok($pending, '>=', 5 + 2, "$pending calls wait for the promotion");
my $calls = calls_of($standby, $id);
my $primary_calls = calls_of($standby, $primary_id);
$primary->stop;
$standby->promote;
ok(wait_until(sub { stored_calls($standby, $primary_id) eq $primary_calls }, 30), 'what was counted on the standby is written');
ok(wait_until(sub { stored_calls($standby, id_of($other_token), 'other') eq '2' }, 30), 'calls of the other database are written, too');
ok(wait_until(sub { stored_calls($standby, $id) eq $calls }, 30), 'calls of each key are written');
is($standby->safe_psql('postgres', "SELECT last_used_at < now() FROM amt_key_usage WHERE key_id = '$primary_id'"), 't',
	'the last use is written');
is(calls_of($standby, $primary_id), $primary_calls, 'the view counts nothing twice');
ok(wait_until(sub { stat_of($standby, 'calls_pending') == 0 }, 30), 'nothing is pending any more');
is($standby->safe_psql('postgres', "SELECT count(*) FROM amt_key_usage WHERE key_id = '" . id_of($revoked_token) . "'"), 0,
	'the calls of a key that is gone bring nothing back');
is($standby->safe_psql('postgres', "SELECT count(*) FROM amt_key_event WHERE event = 'revoked'"), 3,
	'each revocation has its event');

# From then on it is a primary like any other.
is($s->query("SELECT count(*) FROM amt_verify('$token')"), 1, 'a session from before goes on');
is($s->query("SELECT count(*) FROM amt_verify('" . wrong_secret($token) . "')"), 0, 'it refuses a wrong secret');
ok(wait_until(sub { stored_calls($standby, $id) == $calls + 1 }, 30), 'calls of that session are written');
my $new = create_key($standby);
is(verify($standby, $new), 1, 'a key that was created on the promoted server works');
is($s->query(q{SELECT count(*) FROM amt_verify((amt_create_key('another', 'acme', 'editor')).token)}), 1,
	'so does one created by a session from before');
is($standby->safe_psql('postgres',
	"SELECT count(*), count(DISTINCT event_id) FROM amt_key_event WHERE event = 'created' AND key_id = '" . id_of($new) . "'"),
	'1|1', 'its creation has one event');
is(revoke($standby, $token), 't', 'a key is revoked');
is($s->query("SELECT count(*) FROM amt_verify('$token')"), 0, 'it is refused');
is(calls_of($standby, id_of($new)), 1, 'calls are counted');
ok(wait_until(sub { (stored_calls($standby, id_of($new)) || 0) == 1 }, 30), 'calls are written');

$s->quit;
$standby->stop;
unlike(slurp_file($standby->logfile), qr{PANIC|WARNING}, 'the log of the standby has no warning');

done_testing();
