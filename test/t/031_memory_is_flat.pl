# Calls leave nothing behind: neither in the memory of the process that makes them nor in shared memory.
#
# AMT_LONG=1 makes it ten million verifications instead of two hundred thousand, and ten times as many calls of all functions.
#
# slow test

use strict;
use warnings FATAL => 'all';
no warnings 'portable';    # addresses have 64 bits

use FindBin;
use lib "$FindBin::RealBin/../perl";

use AmtKeys;
use Session;
use PostgreSQL::Test::Utils;
use Test::More;

plan skip_all => 'needs /proc/<pid>/smaps_rollup' unless -r '/proc/self/smaps_rollup';

my $long = $ENV{AMT_LONG};
my $node = new_cluster(conf => "amt_keys.scrypt_ln = 1\namt_keys.usage_flush_interval = '100ms'\njit = off");
my $s = Session->new($node);

# Memory of a process that is its own, in kB.  (What the kernel calls private holds pages of the shared buffers, too, if no
# other process has touched them.)
sub private_memory
{
	my ($pid) = @_;
	return slurp_file("/proc/$pid/smaps_rollup") =~ /^Anonymous: +(\d+) kB/m ? $1 : die;
}

# Dynamic shared memory that is mapped into a process, in kB.
sub dynamic_memory
{
	my ($pid) = @_;
	my $maps = slurp_file("/proc/$pid/maps");
	my $sum = 0;
	$sum += hex($2) - hex($1) while $maps =~ m{^([0-9a-f]+)-([0-9a-f]+) .* /dev/shm/PostgreSQL\.}mg;
	return $sum / 1024;
}

# Many verifications on four connections.
{
	my $each = $long ? 2_500_000 : 50_000;
	my @tokens = split /\n/, $s->query(q{SELECT (amt_create_key('key ' || i, 'acme', 'editor')).token FROM generate_series(1, 100) AS i});
	$s->query('CREATE TABLE tokens (n int PRIMARY KEY, token text)');
	$s->query("INSERT INTO tokens VALUES ($_, '$tokens[$_ - 1]')") for 1 .. @tokens;
	my $run = start_pgbench($node, [ "\\set n random(1, 100)\nSELECT count(*) FROM tokens, amt_verify(token) WHERE n = :n;\n" ],
		'-c', 4, '-j', 1, '-T', 100_000, '-M', 'prepared');
	my $calls_at = sub {
		my ($n) = @_;
		wait_until(sub { $s->query('SELECT verified FROM amt_stat') > $n }, $long ? 3600 : 180) or die 'too slow';
		my @pids = split /\n/, $s->query("SELECT pid FROM pg_stat_activity WHERE application_name = 'pgbench' ORDER BY pid");
		return map { [ private_memory($_), dynamic_memory($_) ] } @pids;
	};
	my @early = $calls_at->($each * 4 * 0.2);
	my @late = $calls_at->($each * 4);
	$run->{harness}->kill_kill;
	is(scalar(@early), 4, 'four connections that verify, observed early');
	is(scalar(@late), 4, 'and after ' . 4 * $each . ' verifications');
	for my $i (0 .. 3)
	{
		note("kB, early and late: $early[$i][0] $late[$i][0], shared $early[$i][1] $late[$i][1]");
		cmp_ok($late[$i][0] - $early[$i][0], '<', 100, 'keep their memory');
		is($late[$i][1], $early[$i][1], 'and shared memory its size');
	}
}

# Every function, one transaction for each call.
my ($token) = $s->query(q{SELECT token FROM amt_create_key('a key', 'acme', 'editor')});
my $id = id_of($token);
my $headers = qq({"x-api-key": "$token"});
my %calls = (
	amt_org_id => 'PERFORM amt_org_id()',
	amt_role => 'PERFORM amt_role()',
	amt_actor => 'PERFORM amt_actor()',
	amt_key_id => 'PERFORM amt_key_id()',
	amt_has_role => [ q{PERFORM amt_has_role('editor')}, q{PERFORM amt_has_role('nobody')} ],
	amt_require_role => [ q{PERFORM amt_require_role('editor')}, q{PERFORM amt_require_role('owner')} ],
	amt_may_revoke => q{PERFORM amt_may_revoke('x', 'acme', 'somebody')},
	amt_create_key => [
		q{PERFORM amt_revoke((amt_create_key('a key', 'acme', 'editor')).key_id)}, q{PERFORM amt_create_key('', 'acme', 'editor')},
		q{PERFORM amt_create_key('a key', 'acme', 'editor'); RAISE 'undone'}
	],
	amt_revoke => [ q{PERFORM amt_revoke('nobody')}, "PERFORM amt_revoke('$token'); RAISE 'undone'" ],
	amt_whoami => [ 'PERFORM amt_whoami()', "SET LOCAL amt_keys.org_id = 'acme'; SET LOCAL amt_keys.key_id = '$id'; PERFORM amt_whoami()" ],
	amt_verify => [
		"PERFORM amt_verify('$token')", "PERFORM amt_verify('$token', true)", "PERFORM amt_verify('${token}x')", q{PERFORM amt_verify(NULL)},
		"PERFORM amt_verify(repeat('amt_x_', 20000))", "PERFORM amt_cache_clear(); PERFORM amt_verify('$token')",
		"PERFORM amt_verify('$token'); RAISE 'undone'"
	],
	amt_authenticate => [
		"PERFORM set_config('request.headers', '$headers', true); PERFORM amt_authenticate()",
		q{PERFORM set_config('request.headers', '{"x-api-key": "nobody"}', true); PERFORM amt_authenticate()},
		q[PERFORM set_config('request.headers', '{"broken', true); PERFORM amt_authenticate()],
		q{PERFORM set_config('request.jwt.claims', '{"org_id": "acme", "org_role": "editor", "sub": "somebody"}', true);
		  PERFORM amt_authenticate()}
	],
	amt_check_token => "PERFORM amt_check_token('$token')",
	amt_find_tokens => "PERFORM amt_find_tokens('curl -H x-api-key:$token, and again $token')",
	amt_usage => [ "PERFORM amt_usage('$id')", 'PERFORM count(*) FROM amt_keys' ],
	amt_flush_usage => "PERFORM amt_verify('$token'); PERFORM amt_flush_usage()",
	amt_cache_clear => 'PERFORM amt_cache_clear()',
	amt_stat_get => 'PERFORM * FROM amt_stat',
	amt_stat_reset => 'PERFORM amt_stat_reset()',
);

my @functions = split /\n/, $s->query(q{
	SELECT DISTINCT proname FROM pg_proc p JOIN pg_depend d ON d.classid = 'pg_proc'::regclass AND d.objid = p.oid
	JOIN pg_extension e ON d.refclassid = 'pg_extension'::regclass AND d.refobjid = e.oid
	WHERE extname = 'amt_keys' AND prorettype <> 'trigger'::regtype ORDER BY 1});
is(join(' ', sort keys %calls), join(' ', @functions), 'every function of the extension is called');

for my $function (@functions)
{
	for my $call (map { ref $_ ? @$_ : $_ } $calls{$function})
	{
		my $n = $long ? 100_000 : 5000;
		my $session = Session->new($node);
		my $pid = $session->backend;
		my $loop = sub {
			my ($times) = @_;
			# What fails, or is to be undone, is caught, as a caller would.
			return "DO \$do\$ BEGIN FOR i IN 1 .. $times LOOP BEGIN $call; EXCEPTION WHEN OTHERS THEN NULL; END; COMMIT; END LOOP; END \$do\$";
		};
		my $answer = $session->query($loop->($n));
		my ($private, $dynamic) = (private_memory($pid), dynamic_memory($pid));
		$answer .= $session->query($loop->($n));
		my ($more, $more_dynamic) = (private_memory($pid) - $private, dynamic_memory($pid) - $dynamic);
		(my $name = $call) =~ s/PERFORM //g;
		$name =~ s/_[0-9A-Za-z]{49}/_.../g;
		is($answer, '', "$n calls of $name");
		note("$more kB more, shared memory $more_dynamic kB more");
		cmp_ok($more, '<', $n / 100, 'take no memory');
		is($more_dynamic, 0, 'nor shared memory');
		$session->quit;
	}
}

done_testing();
