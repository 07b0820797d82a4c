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
is(log_lines(), 1, 'so does the log');
is($s->query(verify_sqls(@tokens, @tokens)), "1\n1\n1\n1", 'keys verify');
is($s->query(verify_sqls($wrong, 'amt_nobody_0123456789abcdef', 'nonsense')), "0\n0\n0", 'and nothing else does');
is($s->query('SELECT verified, rejected_wrong_secret, rejected_unknown, rejected_malformed, cache_hits, scrypt_runs, warm_keys, calls_pending, calls_dropped FROM amt_stat'),
	'4|1|1|1|0|5|0|0|4', 'each call runs scrypt, and none is counted');
is($s->query('SELECT org_id, role FROM amt_verify(' . "'$tokens[0]'" . ', identify => true)', 'SELECT amt_org_id()'), "WARNING:  25P01\nacme|editor\n",
	'with identify, too, which warns outside a transaction block');
is($s->query('BEGIN', "SELECT count(*) FROM amt_verify('$tokens[0]', true)", 'SELECT amt_org_id(), amt_has_role(' . "'viewer')", 'ROLLBACK'),
	"1\nacme|t", 'for the transaction');
is($s->query('BEGIN READ ONLY', verify_sqls($tokens[0]), 'ROLLBACK'), 1, 'in READ ONLY transactions');
is($s->query('BEGIN ISOLATION LEVEL SERIALIZABLE', verify_sqls($tokens[0]), 'COMMIT'), 1, 'and SERIALIZABLE ones');
is(log_lines(), 1, 'the log says it once');

# A revocation by another session, while this one is in the middle of everything.
my $other = Session->new($node);
is($s->query('BEGIN ISOLATION LEVEL REPEATABLE READ', verify_sqls($revoked)), 1, 'a key works');
is($other->query("SELECT amt_revoke('$revoked')"), 't', 'another session revokes it');
is($s->query(verify_sqls($revoked), 'COMMIT'), 0, 'and it works no more');
is(log_lines(), 2, 'the other session says it once, too');

my $new = $s->query(q{SELECT token FROM amt_create_key('new', 'acme', 'editor')});
like($new, qr/\Aamt_/, 'keys are created');
is($s->query('BEGIN', 'SAVEPOINT a', q{SELECT count(*) FROM amt_create_key('new', 'acme', 'editor')}, 'ROLLBACK TO a', verify_sqls($new), 'COMMIT'),
	"1\n1", 'with savepoints');
is($other->query(verify_sqls($new)), 1, 'and verify elsewhere');
is($s->query('SELECT count(*), sum(calls) FROM amt_keys'), '3|0', 'the list of keys shows what is stored');
is($s->query('SELECT amt_flush_usage()', 'SELECT amt_cache_clear()', 'SELECT amt_stat_reset()', 'SELECT verified FROM amt_stat'), "0\n\n\n0",
	'the functions for operations have nothing to do');
is($s->query("DELETE FROM amt_key WHERE key_id = '" . id_of($new) . "'", verify_sqls($new)), 0, 'DELETE revokes');
is($s->query(q{SELECT count(*) FROM amt_key_event WHERE event = 'revoked'}), 2, 'and is recorded');
is(scalar(() = worker_pids($node)), 0, 'no worker is started');
$other->quit;

# It comes back, in new sessions at once and in old ones after a while.
chmod 0700, $dir or die;
$other = Session->new($node);
is($other->query('SELECT shared_memory FROM amt_stat', verify_sqls(@tokens, @tokens), 'SELECT scrypt_runs, cache_hits, warm_keys FROM amt_stat'),
	"t\n1\n1\n1\n1\n2|2|2", 'when memory can be had again, a new session has it');
ok(wait_until(sub { $s->query('SELECT shared_memory FROM amt_stat') eq 't' }, 20), 'and an old one soon');
is($s->query(verify_sqls($tokens[0]), 'SELECT scrypt_runs FROM amt_stat'), "1\n2", 'with all that is warm');
is(calls_of($node, id_of($tokens[0])), 3, 'and calls count again');
is(log_lines(), 2, 'the log has no more to say');

# Memory that is there, but cannot grow.
$node->safe_psql('postgres', 'SELECT amt_flush_usage()');
$node->restart;
$s = Session->new($node);
is($s->query(verify_sqls($tokens[0])), 1, 'shared memory, with little in it');
chmod 0500, $dir or die;
my @many = split /\n/, $s->query(q{SELECT (amt_create_key('key ' || i, 'acme', 'editor')).token FROM generate_series(1, 12000) AS i});
is(scalar(@many), 12000, 'twelve thousand keys');
is($s->query('SELECT amt_keys IS NOT NULL FROM (SELECT count(*) FROM amt_keys) AS amt_keys'), 't', 'are listed');
$s->query('CREATE TABLE tokens (token text)', 'INSERT INTO tokens SELECT unnest(ARRAY[' . join(',', map { "'$_'" } @many) . '])');
is($s->query('SELECT count(*) FROM tokens, amt_verify(token)'), 12000, 'and verify, though not all of them become warm');
my ($warm, $dropped) = split /\|/, $s->query('SELECT warm_keys, calls_dropped FROM amt_stat');
note("$warm are warm, $dropped calls dropped");
cmp_ok($warm, '<', 12000, 'for want of memory');
is($s->query('SELECT (SELECT sum(calls) FROM amt_keys) + (SELECT calls_dropped FROM amt_stat)'), 12000 + 6, 'each call is counted, or counted as dropped');
is($s->query(q{SELECT count(*) FROM tokens, amt_verify(overlay(token PLACING 'AAAAAA' FROM 40)) WHERE random() < 0.02}), 0,
	'wrong secrets do not verify');
chmod 0700, $dir or die;

# Memory that others made and that a process cannot map: the process does without, and leaves nothing locked.
{
	$node->append_conf('postgresql.conf', "amt_keys.usage_flush_interval = '1h'");
	$node->restart;
	my ($writer, $victim, $reader) = map { Session->new($node) } 1 .. 3;
	is($writer->query(verify_sqls($tokens[0])), 1, 'a call');
	ok(wait_until(sub { worker_pids($node) }), 'starts a worker');
	my ($worker) = worker_pids($node);
	my $lines = log_lines();
	my $backend = $victim->backend;
	ok(wait_until(sub { stat_of($node, 'calls_pending') == 0 }, 10), 'the worker writes it');
	is($victim->query('SELECT amt_flush_usage()'), 0, 'another session has looked at all of the memory');
	is($reader->query(verify_sqls($tokens[1])), 1, 'another session only verifies');
	kill 'STOP', $worker;
	my %old = map { $_ => 1 } glob "$dir/mmap.*";
	is($writer->query('SELECT count(*) FROM tokens, amt_verify(token)'), 12000, 'more calls need more memory');
	my @new = grep { !$old{$_} } glob "$dir/mmap.*";
	cmp_ok(scalar(@new), '>', 0, 'which is made');
	chmod 0, @new;
	is($reader->query(verify_sqls(@tokens, $wrong), 'SELECT shared_memory FROM amt_stat'), "1\n1\n0\nf", 'a session that cannot map it does without');
	is($node->safe_psql('postgres', "SELECT pg_terminate_backend($backend)"), 't', 'a session is terminated');
	ok(wait_until(sub { !kill 0, $backend }), 'it goes');
	kill 'CONT', $worker;
	ok(wait_until(sub { !kill 0, $worker }), 'so does the worker, which cannot do without');
	is($writer->query("SELECT count(*) FROM pg_locks JOIN pg_class c ON c.oid = relation WHERE relname IN ('amt_key', 'amt_key_usage') AND NOT pid = pg_backend_pid()"),
		0, 'nothing stays locked');
	is($writer->query('SELECT worker_starts, worker_failures FROM amt_stat'), '1|1', 'the worker has failed');
	chmod 0600, @new;
	ok(wait_until(sub { $writer->query(verify_sqls($tokens[0])) && worker_pids($node) }), 'calls start another worker, after a while');
	$_->quit for $writer, $reader;
	ok(wait_until(sub { stat_of($node, 'calls_pending') == 0 }), 'it writes all calls');
	is($node->safe_psql('postgres', 'SELECT sum(calls) = (SELECT sum(calls) FROM amt_key_usage) FROM amt_keys'), 't', 'table and view agree');
	is(log_lines(), $lines, 'that is another message');
	like(slurp_file($node->logfile), qr/amt_keys could not map its shared memory/, 'the log tells');
	$node->append_conf('postgresql.conf', "amt_keys.usage_flush_interval = '1s'");
}

# The hint of the log's line: preloaded.
$node->append_conf('postgresql.conf', "shared_preload_libraries = 'amt_keys'");
$node->restart;
$s = Session->new($node);
is($s->query('SHOW amt_keys.cache_size', verify_sqls(@tokens, @tokens), 'SELECT shared_memory, scrypt_runs, cache_hits FROM amt_stat'),
	"65536\n1\n1\n1\n1\nt|2|2", 'preloaded, all is the same');

done_testing();
