# Where shared memory cannot be had, verification stays right, and says so.

use strict;
use warnings FATAL => 'all';

use FindBin;
use lib "$FindBin::RealBin/../perl";

use AmtKeys qw(:all);
use Session;
use PostgreSQL::Test::Utils;
use Test::More;

# Segments are files then, and a directory that cannot be written makes none.
my $node = new_cluster(conf => "dynamic_shared_memory_type = mmap\nmax_parallel_workers_per_gather = 0");
my $dir = $node->data_dir . '/pg_dynshmem';

# Keys made while there was memory; then a server that never had any.
my @tokens = map { create_key($node) } 1 .. 2;
my $revoked = create_key($node);
$node->restart;
chmod 0500, $dir or die;

sub log_lines
{
	return scalar(() = slurp_file($node->logfile) =~ /amt_keys has no shared memory/g);
}

sub verify_sqls
{
	return map { verify_sql($_) } @_;
}

my $wrong = wrong_secret($tokens[0]);
my $s = Session->new($node);
my $first = $s->query('SELECT shared_memory FROM amt_stat');
plan skip_all => 'a directory without write permission is no hindrance here' if $first eq 't';

is($first, 'f', 'amt_stat says that there is no shared memory');
is(log_lines(), 1, 'the log says that there is no shared memory');
is($s->query(verify_sqls(@tokens, @tokens)), "1\n1\n1\n1", 'keys verify without shared memory');
is($s->query(verify_sqls($wrong, 'amt_nobody_0123456789abcdef', 'nonsense')), "0\n0\n0", 'a wrong secret, an unknown key and nonsense are refused without shared memory');
is($s->query('SELECT verified, rejected_wrong_secret, rejected_unknown, rejected_malformed, cache_hits, scrypt_runs, warm_keys, calls_pending, calls_dropped FROM amt_stat'),
	'4|1|1|1|0|5|0|0|4', 'each call runs scrypt without shared memory, and no call is counted');
is($s->query('SELECT org_id, role FROM amt_verify(' . "'$tokens[0]'" . ', identify => true)', 'SELECT amt_org_id()'), "WARNING:  25P01\nacme|editor\n",
	'identify warns outside a transaction block without shared memory');
is($s->query('BEGIN', "SELECT count(*) FROM amt_verify('$tokens[0]', true)", 'SELECT amt_org_id(), amt_has_role(' . "'viewer')", 'ROLLBACK'),
	"1\nacme|t", 'identify holds for the transaction without shared memory');
is($s->query('BEGIN READ ONLY', verify_sqls($tokens[0]), 'ROLLBACK'), 1, 'keys verify in READ ONLY transactions without shared memory');
is($s->query('BEGIN ISOLATION LEVEL SERIALIZABLE', verify_sqls($tokens[0]), 'COMMIT'), 1, 'keys verify in SERIALIZABLE transactions without shared memory');
is(log_lines(), 1, 'the log says once for a session that there is no shared memory');

# A revocation by another session, while this one is in the middle of everything.
my $other = Session->new($node);
is($s->query('BEGIN ISOLATION LEVEL REPEATABLE READ', verify_sqls($revoked)), 1, 'a key works in a REPEATABLE READ transaction without shared memory');
is($other->query("SELECT amt_revoke('$revoked')"), 't', 'another session revokes the key without shared memory');
is($s->query(verify_sqls($revoked), 'COMMIT'), 0, 'a revoked key is refused inside a REPEATABLE READ transaction without shared memory');
is(log_lines(), 2, 'the log says once for another session that there is no shared memory');

my $new = $s->query(q{SELECT token FROM amt_create_key('new', 'acme', 'editor')});
like($new, qr/\Aamt_/, 'keys are created without shared memory');
is($s->query('BEGIN', 'SAVEPOINT a', q{SELECT count(*) FROM amt_create_key('new', 'acme', 'editor')}, 'ROLLBACK TO a', verify_sqls($new), 'COMMIT'),
	"1\n1", 'keys are created and verified with savepoints without shared memory');
is($other->query(verify_sqls($new)), 1, 'a key that another session has created verifies without shared memory');
is($s->query('SELECT count(*), sum(calls) FROM amt_keys'), '3|0', 'the list of keys shows the stored counts without shared memory');
is($s->query('SELECT amt_flush_usage()', 'SELECT amt_cache_clear()', 'SELECT amt_stat_reset()', 'SELECT verified FROM amt_stat'), "0\n\n\n0",
	'the functions for operations have nothing to do without shared memory');
is($s->query("DELETE FROM amt_key WHERE key_id = '" . id_of($new) . "'", verify_sqls($new)), 0, 'DELETE revokes a key without shared memory');
is($s->query(q{SELECT count(*) FROM amt_key_event WHERE event = 'revoked'}), 2, 'each revocation without shared memory has its event');
is(scalar(() = worker_pids($node)), 0, 'no worker is started without shared memory');
$other->quit;

# It comes back, in new sessions at once and in old ones after a while.
chmod 0700, $dir or die;
$other = Session->new($node);
is($other->query('SELECT shared_memory FROM amt_stat', verify_sqls(@tokens, @tokens), 'SELECT scrypt_runs, cache_hits, warm_keys FROM amt_stat'),
	"t\n1\n1\n1\n1\n2|2|2", 'a new session has shared memory as soon as there is some again');
ok(wait_until(sub { $s->query('SELECT shared_memory FROM amt_stat') eq 't' }, 20), 'an old session has shared memory soon after there is some again');
is($s->query(verify_sqls($tokens[0]), 'SELECT scrypt_runs FROM amt_stat'), "1\n2", 'a key that another session has made warm needs no scrypt in an old session');
is(calls_of($node, id_of($tokens[0])), 3, 'calls count again when there is shared memory again');
is(log_lines(), 2, 'the log has no more lines when there is shared memory again');

# Memory that is there, but cannot grow.
$node->safe_psql('postgres', 'SELECT amt_flush_usage()');
$node->restart;
$s = Session->new($node);
is($s->query(verify_sqls($tokens[0])), 1, 'a key verifies while shared memory has little in it');
chmod 0500, $dir or die;
my @many = split /\n/, $s->query(q{SELECT (amt_create_key('key ' || i, 'acme', 'editor')).token FROM generate_series(1, 12000) AS i});
is(scalar(@many), 12000, 'twelve thousand keys are created while shared memory cannot grow');
is($s->query('SELECT amt_keys IS NOT NULL FROM (SELECT count(*) FROM amt_keys) AS amt_keys'), 't', 'the keys are listed while shared memory cannot grow');
$s->query('CREATE TABLE tokens (token text)', 'INSERT INTO tokens SELECT unnest(ARRAY[' . join(',', map { "'$_'" } @many) . '])');
is($s->query('SELECT count(*) FROM tokens, amt_verify(token)'), 12000, 'all keys verify while shared memory cannot grow');
my ($warm, $dropped) = split /\|/, $s->query('SELECT warm_keys, calls_dropped FROM amt_stat');
note("$warm are warm, $dropped calls dropped");
cmp_ok($warm, '<', 12000, 'not all keys become warm while shared memory cannot grow');
is($s->query('SELECT (SELECT sum(calls) FROM amt_keys) + (SELECT calls_dropped FROM amt_stat)'), 12000 + 6, 'each call is counted, or counted as dropped, while shared memory cannot grow');
is($s->query(q{SELECT count(*) FROM tokens, amt_verify(overlay(token PLACING 'AAAAAA' FROM 40)) WHERE random() < 0.02}), 0,
	'wrong secrets do not verify while shared memory cannot grow');
chmod 0700, $dir or die;

# Memory that others made and that a process cannot map: the process does without, and leaves nothing locked.
{
	$node->append_conf('postgresql.conf', "amt_keys.usage_flush_interval = '1h'");
	$node->restart;
	my ($writer, $victim, $reader) = map { Session->new($node) } 1 .. 3;
	is($writer->query(verify_sqls($tokens[0])), 1, 'a key verifies before shared memory grows');
	ok(wait_until(sub { worker_pids($node) }), 'a call starts a worker before shared memory grows');
	my ($worker) = worker_pids($node);
	my $lines = log_lines();
	my $backend = $victim->backend;
	ok(wait_until(sub { stat_of($node, 'calls_pending') == 0 }, 10), 'the worker writes the call before shared memory grows');
	is($victim->query('SELECT amt_flush_usage()'), 0, 'a session has looked at all of shared memory before it grows');
	is($reader->query(verify_sqls($tokens[1])), 1, 'another session has only verified before shared memory grows');
	kill 'STOP', $worker;
	my %old = map { $_ => 1 } glob "$dir/mmap.*";
	is($writer->query('SELECT count(*) FROM tokens, amt_verify(token)'), 12000, 'a session makes calls that need more shared memory');
	my @new = grep { !$old{$_} } glob "$dir/mmap.*";
	cmp_ok(scalar(@new), '>', 0, 'new shared memory is made for the calls');
	chmod 0, @new;
	is($reader->query(verify_sqls(@tokens, $wrong), 'SELECT shared_memory FROM amt_stat'), "1\n1\n0\nf", 'a session that cannot map new shared memory does without');
	is($node->safe_psql('postgres', "SELECT pg_terminate_backend($backend)"), 't', 'a session that cannot map new shared memory is terminated');
	ok(wait_until(sub { !kill 0, $backend }), 'the terminated session ends');
	kill 'CONT', $worker;
	ok(wait_until(sub { !kill 0, $worker }), 'a worker that cannot map new shared memory ends');
	is($writer->query("SELECT count(*) FROM pg_locks JOIN pg_class c ON c.oid = relation WHERE relname IN ('amt_key', 'amt_key_usage') AND NOT pid = pg_backend_pid()"),
		0, 'no process leaves a table locked');
	is($writer->query('SELECT worker_starts, worker_failures FROM amt_stat'), '1|1', 'amt_stat counts the failure of the worker');
	chmod 0600, @new;
	ok(wait_until(sub { $writer->query(verify_sqls($tokens[0])) && worker_pids($node) }), 'calls start another worker after a while');
	$_->quit for $writer, $reader;
	ok(wait_until(sub { stat_of($node, 'calls_pending') == 0 }), 'the other worker writes all calls');
	is($node->safe_psql('postgres', 'SELECT sum(calls) = (SELECT sum(calls) FROM amt_key_usage) FROM amt_keys'), 't', 'table and view agree after shared memory could not be mapped');
	is(log_lines(), $lines, 'the log has no more lines that there is no shared memory');
	like(slurp_file($node->logfile), qr/amt_keys could not map its shared memory/, 'the log tells that shared memory could not be mapped');
	$node->append_conf('postgresql.conf', "amt_keys.usage_flush_interval = '1s'");
}

# The hint of the log's line: preloaded.
$node->append_conf('postgresql.conf', "shared_preload_libraries = 'amt_keys'");
$node->restart;
$s = Session->new($node);
is($s->query('SHOW amt_keys.cache_size', verify_sqls(@tokens, @tokens), 'SELECT shared_memory, scrypt_runs, cache_hits FROM amt_stat'),
	"65536\n1\n1\n1\n1\nt|2|2", 'a preloaded library verifies from shared memory');

done_testing();
