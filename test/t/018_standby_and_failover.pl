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

# A standby cannot write its calls, so a restart loses them, and the log says so.
{
	my $counted = create_key($primary);
	catch_up();
	verify($standby, $counted) for 1 .. 3;
	wait_for_worker($standby);
	$standby->restart;
	like(slurp_file($standby->logfile), qr/amt_keys could not write 3 counted calls before the server stopped/, 'the log says how many calls a restart of the standby loses');
	is(calls_of($standby, id_of($counted)), 0, 'the standby begins to count again');
	is(revoke($primary, $counted), 't', 'the key is revoked');
}

catch_up();
my $s = Session->new($standby);

# A key is good on the standby as soon as its creation is replayed, and no sooner.
my $token = create_key($primary);
my $id = id_of($token);
my $created_at = time;
ok(wait_until(sub { $s->query("SELECT count(*) FROM amt_verify('$token')") eq '1' }), 'a key is verified on the standby');
note(sprintf 'the first time %.3f s after its creation', time - $created_at);
is($s->query("SELECT key_id, org_id, role, name FROM amt_verify('$token')"), "$id|acme|editor|a key", 'a verification on the standby returns the row of the key');
is($s->query("SELECT count(*) FROM amt_verify('" . wrong_secret($token) . "')"), 0, 'a wrong secret is refused on the standby');
is($s->query('BEGIN', "SELECT count(*) FROM amt_verify('$token', identify => true)", 'SELECT amt_org_id(), amt_key_id()', 'COMMIT'),
	"1\nacme|$id", 'a verification on the standby sets the identity');
is($s->query("SELECT scrypt_runs, warm_keys FROM amt_stat"), '1|1', 'scrypt ran once: the standby has a cache of its own');

pause_replay();
my $later = create_key($primary);
is(verify($standby, $later), 0, 'a key whose creation has not been replayed is not known on the standby');
resume_replay();
is(verify($standby, $later), 1, 'a key is known on the standby when its creation has been replayed');

# Revoked on the primary, refused on the standby, warm or not, as soon as that is replayed, and no sooner.
{
	my ($warm, $old_snapshot) = map { create_key($primary) } 1 .. 2;
	catch_up();
	is(verify($standby, $warm), 1, 'a key is warm on the standby');
	is($s->query('BEGIN ISOLATION LEVEL REPEATABLE READ', "SELECT count(*) FROM amt_verify('$old_snapshot')"), 1,
		'another key works on the standby in a REPEATABLE READ transaction');
	my $hits = stat_of($standby, 'cache_hits');

	pause_replay();
	is(revoke($primary, $_), 't', 'a key is revoked on the primary') for $warm, $old_snapshot;
	is(verify($primary, $warm), 0, 'the primary refuses a revoked key at once');
	is(verify($standby, $warm), 1, 'the standby accepts a revoked key until the revocation is replayed');
	cmp_ok(stat_of($standby, 'cache_hits'), '>', $hits, 'the standby accepts a revoked key by its cache');
	resume_replay();
	is(verify($standby, $warm), 0, 'the standby refuses a revoked key when the revocation is replayed');
	is($s->query("SELECT count(*) FROM amt_verify('$old_snapshot')"), 0, 'the standby refuses a revoked key in a REPEATABLE READ transaction that began before');
	is($s->query("SELECT count(*) FROM amt_key WHERE key_id = '" . id_of($old_snapshot) . "'", 'COMMIT'), 1,
		'the snapshot of a REPEATABLE READ transaction still has the row of a revoked key');
	is(verify($standby, $token), 1, 'other keys still work on the standby');
}

# A call that would write is refused.
is($s->query($_), 'ERROR:  25006', 'the standby refuses: ' . s/\b\Q$id\E\b/a key/r)
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
	is(calls_of($standby, $primary_id), 3, 'the standby shows the calls that the primary has written');
	verify($standby, $primary_token) for 1 .. 4;
	verify($standby, $other_token, 'other') for 1 .. 2;
	verify($standby, $revoked_token) for 1 .. 5;
	is(calls_of($standby, $primary_id), 7, 'the standby adds its own calls to those of the primary');
	is(calls_of($standby, id_of($other_token), 'other'), 2, 'the standby adds its own calls in each database');
	is($standby->safe_psql('postgres',
		"SELECT last_used_at > now() - interval '1 minute' FROM amt_keys WHERE key_id = '$primary_id'"), 't', 'the standby shows its own last use');
	is(stored_calls($standby, $primary_id), 3, 'the calls of the standby are not stored');
	is(calls_of($primary, $primary_id), 3, 'the primary does not know the calls of the standby');
	is(stat_of($standby, 'worker_failures'), 0, 'no worker has failed on the standby');
	is(stat_of($standby, 'calls_flushed'), 0, 'no worker has written on the standby');

	verify($primary, $primary_token) for 1 .. 2;
	$primary->safe_psql('postgres', 'SELECT amt_flush_usage()');
	ok(wait_until(sub { stored_calls($primary, $primary_id) == 5 }), 'the primary writes more calls');
	catch_up();
	is(calls_of($standby, $primary_id), 9, 'the standby adds up its own calls and the new ones of the primary');

	is(revoke($primary, $revoked_token), 't', 'a key with calls on the standby is revoked');
	catch_up();
	is(stat_of($primary, 'calls_pending'), 0, 'the primary has no pending calls of the standby');
	is(events_of($primary, id_of($revoked_token)), 0, 'the event of a revocation has no calls of the standby');
	is($standby->safe_psql('postgres', "SELECT count(*) FROM amt_keys WHERE key_id = '" . id_of($revoked_token) . "'"), 0,
		'a revoked key is not in the list on the standby');
	# A worker comes with a call, and drops what belongs to nobody any more.
	verify($standby, $primary_token);
	ok(wait_until(sub { stat_of($standby, 'calls_dropped') == 5 + 3 }, 20), 'the standby drops the calls of all keys that are gone');
	is(calls_of($standby, $primary_id), 10, 'the standby keeps the calls of other keys');
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
	is($standby->safe_psql('postgres', q{SELECT count(*) FROM pg_database WHERE datname = 'gone'}), 0, 'a dropped database is gone on the standby');
	is(scalar(() = worker_pids($standby, 'gone')), 0, 'the worker of a dropped database is gone on the standby');
	ok(wait_until(sub { verify($standby, $primary_token); stat_of($standby, 'calls_dropped') == $dropped + 3 }, 30), 'the calls of a dropped database are dropped on the standby');
}

# Promoted, the standby writes what it has counted, without being asked.
my $pending = stat_of($standby, 'calls_pending');
cmp_ok($pending, '>=', 5 + 2, "$pending calls wait for the promotion");
my $calls = calls_of($standby, $id);
my $primary_calls = calls_of($standby, $primary_id);
$primary->stop;
$standby->promote;
ok(wait_until(sub { stored_calls($standby, $primary_id) eq $primary_calls }, 30), 'a promoted standby writes the calls that it has counted');
ok(wait_until(sub { stored_calls($standby, id_of($other_token), 'other') eq '2' }, 30), 'a promoted standby writes the calls of another database');
ok(wait_until(sub { stored_calls($standby, $id) eq $calls }, 30), 'a promoted standby writes the calls of each key');
is($standby->safe_psql('postgres', "SELECT last_used_at < now() FROM amt_key_usage WHERE key_id = '$primary_id'"), 't',
	'a promoted standby writes the last use');
is(calls_of($standby, $primary_id), $primary_calls, 'the view counts no call twice after the promotion');
ok(wait_until(sub { stat_of($standby, 'calls_pending') == 0 }, 30), 'no call is pending after the promotion');
is($standby->safe_psql('postgres', "SELECT count(*) FROM amt_key_usage WHERE key_id = '" . id_of($revoked_token) . "'"), 0,
	'a promoted standby writes no row of usage for a key that is gone');
is($standby->safe_psql('postgres', "SELECT count(*) FROM amt_key_event WHERE event = 'revoked'"), 4,
	'each revocation has its event after the promotion');

# From then on it is a primary like any other.
is($s->query("SELECT count(*) FROM amt_verify('$token')"), 1, 'a session from before the promotion goes on');
is($s->query("SELECT count(*) FROM amt_verify('" . wrong_secret($token) . "')"), 0, 'a session from before the promotion refuses a wrong secret');
ok(wait_until(sub { stored_calls($standby, $id) == $calls + 1 }, 30), 'calls of a session from before the promotion are written');
my $new = create_key($standby);
is(verify($standby, $new), 1, 'a key that was created on the promoted server works');
is($s->query(q{SELECT count(*) FROM amt_verify((amt_create_key('another', 'acme', 'editor')).token)}), 1,
	'a key that a session from before the promotion has created works');
is($standby->safe_psql('postgres',
	"SELECT count(*), count(DISTINCT event_id) FROM amt_key_event WHERE event = 'created' AND key_id = '" . id_of($new) . "'"),
	'1|1', 'a creation on the promoted server has one event');
is(revoke($standby, $token), 't', 'a key is revoked on the promoted server');
is($s->query("SELECT count(*) FROM amt_verify('$token')"), 0, 'a revoked key is refused on the promoted server');
is(calls_of($standby, id_of($new)), 1, 'calls are counted on the promoted server');
ok(wait_until(sub { (stored_calls($standby, id_of($new)) || 0) == 1 }, 30), 'calls are written on the promoted server');

$s->quit;
$standby->stop;
unlike(slurp_file($standby->logfile), qr{PANIC|WARNING}, 'the log of the standby has no warning');

done_testing();
