# Calls leave nothing behind: neither in the memory of the process that makes them nor in shared memory.  Nor do entries in the
# log whose tokens are masked.  And a large argument takes a few times its size, not more.
#
# AMT_LONG=1 makes it ten million verifications instead of two hundred thousand, and a million calls of each function instead
# of ten thousand; that takes an hour or two.
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

# glibc's malloc gives large blocks back to the system as soon as they are freed, so they cannot hide later growth.
$ENV{MALLOC_MMAP_THRESHOLD_} = 1 << 20;
my $node = new_cluster(conf => "amt_keys.scrypt_ln = 1\namt_keys.cache_size = 1000\namt_keys.usage_flush_interval = '100ms'\njit = off");
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

# Connections that verify, with pgbench's options and script: their memory after a fifth of so many calls and after all.
sub stays_flat
{
	my ($what, $connections, $calls, $script, @options) = @_;
	my $before = $s->query('SELECT verified FROM amt_stat');
	my $run = start_pgbench($node, [$script], '-c', $connections, '-j', 1, '-T', 100_000, @options);
	my $observe = sub {
		my ($n) = @_;
		wait_until(sub { $s->query('SELECT verified FROM amt_stat') - $before > $n }, $long ? 4 * 3600 : 180) or die 'too slow';
		my @pids = split /\n/, $s->query("SELECT pid FROM pg_stat_activity WHERE application_name = 'pgbench' ORDER BY pid");
		return map { [ private_memory($_), dynamic_memory($_) ] } @pids;
	};
	my @early = $observe->($calls * 0.2);
	my @late = $observe->($calls);
	$run->{harness}->kill_kill;
	is(scalar(@early), $connections, "$what: $connections connections are observed early");
	is(scalar(@late), $connections, "$what: $connections connections are observed after $calls verifications");
	for my $i (0 .. $connections - 1)
	{
		note("kB, early and late: $early[$i][0] $late[$i][0], shared $early[$i][1] $late[$i][1]");
		cmp_ok($late[$i][0] - $early[$i][0], '<', 100, "$what: a connection keeps its private memory");
		is($late[$i][1], $early[$i][1], "$what: shared memory keeps its size");
	}
	wait_until(sub { $s->query("SELECT count(*) FROM pg_stat_activity WHERE application_name = 'pgbench'") eq '0' }) or die;
	return;
}

# Many verifications on four connections.
my @tokens = split /\n/, $s->query(q{SELECT (amt_create_key('key ' || i, 'acme', 'editor')).token FROM generate_series(1, 100) AS i});
$s->query('CREATE TABLE tokens (n int PRIMARY KEY, token text)');
$s->query("INSERT INTO tokens VALUES ($_, '$tokens[$_ - 1]')") for 1 .. @tokens;
stays_flat('many keys', 4, $long ? 10_000_000 : 200_000,
	"\\set n random(1, 100)\nSELECT count(*) FROM tokens, amt_verify(token) WHERE n = :n;\n", '-M', 'prepared');

# A session whose every statement is logged, with the token in it or as a parameter; and one that is logged as an error is.
{
	my $n = $long ? 100_000 : 5000;
	my $id = id_of($tokens[0]);
	{
		local $ENV{PGOPTIONS} = '-c log_statement=all -c log_min_duration_statement=0';
		stays_flat('logged statements', 1, $n, "SELECT count(*) FROM amt_verify('$tokens[0]');\n", '-M', 'simple');
		stays_flat('logged parameters', 1, $n, "SELECT count(*) FROM amt_verify(:token);\n", '-M', 'extended', '-D', "token=$tokens[0]");
	}
	my $session = Session->new($node, options => '-c client_min_messages=error -c log_min_error_statement=warning');
	my $pid = $session->backend;
	my $warn = "DO \$\$ BEGIN FOR i IN 1 .. $n LOOP RAISE WARNING '%', i USING DETAIL = '$tokens[0]', HINT = '$tokens[0]'; END LOOP; END \$\$";
	is($session->query('SELECT amt_org_id()', $warn), '', "$n warnings with a token are logged");
	my $private = private_memory($pid);
	is($session->query($warn), '', 'as many warnings with a token are logged again');
	my $more = private_memory($pid) - $private;
	note("$more kB more");
	cmp_ok($more, '<', 100, 'logging warnings with a token takes no memory');
	$session->quit;

	my $log = slurp_file($node->logfile);
	like($log, qr/$_/, "$_ is in the log") for "statement: .*amt_${id}_\\[redacted\\]", "[Pp]arameters: \\\$1 = 'amt_${id}_\\[redacted\\]'",
	  "DETAIL:  amt_${id}_\\[redacted\\]", "HINT:  amt_${id}_\\[redacted\\]", "STATEMENT:  DO .*amt_${id}_\\[redacted\\]";
}

# Every function, one transaction for each call.
my ($token) = $s->query(q{SELECT token FROM amt_create_key('a key', 'acme', 'editor')});
my $id = id_of($token);
my $headers = qq({"x-api-key": "$token"});
my %calls = (
	amt_org_id => 'PERFORM amt_org_id()',
	amt_is_own => [ q{PERFORM amt_is_own('acme')}, q{SET LOCAL amt_keys.org_id = 'acme'; PERFORM amt_is_own('acme')} ],
	amt_role => 'PERFORM amt_role()',
	amt_actor => 'PERFORM amt_actor()',
	amt_key_id => 'PERFORM amt_key_id()',
	amt_has_role => [ q{PERFORM amt_has_role('editor')}, q{PERFORM amt_has_role('nobody')} ],
	amt_require_role => [ q{PERFORM amt_require_role('editor')}, q{PERFORM amt_require_role('owner')} ],
	amt_may_manage => q{PERFORM amt_may_manage('x', 'acme', 'somebody')},
	amt_scopes => [ 'PERFORM amt_scopes()', q{SET LOCAL amt_keys.scopes = 'a,b,c'; PERFORM amt_scopes()} ],
	amt_has_scope => [ q{PERFORM amt_has_scope('a')}, q{SET LOCAL amt_keys.org_id = 'acme'; SET LOCAL amt_keys.scopes = 'a,b,c'; PERFORM amt_has_scope('c')} ],
	amt_require_scope => q{PERFORM amt_require_scope('a')},
	amt_rotate_key => [
		"PERFORM amt_rotate_key('$id'); RAISE 'undone'", "PERFORM amt_rotate_key('$id', '1 hour'); RAISE 'undone'", q{PERFORM amt_rotate_key('nobody')}
	],
	amt_import_key => [
		q{PERFORM amt_import_key(sha256('x'), 'a key', 'acme', 'editor'); RAISE 'undone'}, q{PERFORM amt_import_key('x', 'a key', 'acme', 'editor')}
	],
	amt_create_key => [
		q{PERFORM amt_revoke((amt_create_key('a key', 'acme', 'editor')).key_id)}, q{PERFORM amt_create_key('', 'acme', 'editor')},
		q{PERFORM amt_create_key('a key', 'acme', 'editor'); RAISE 'undone'}
	],
	amt_revoke => [ q{PERFORM amt_revoke('nobody')}, "PERFORM amt_revoke('$token'); RAISE 'undone'" ],
	amt_whoami => [ 'PERFORM amt_whoami()', "SET LOCAL amt_keys.org_id = 'acme'; SET LOCAL amt_keys.key_id = '$id'; PERFORM amt_whoami()" ],
	amt_verify => [
		"PERFORM amt_verify('$token')", "PERFORM * FROM amt_verify('$token')", "PERFORM amt_verify('$token', true)", "PERFORM amt_verify('${token}x')", q{PERFORM amt_verify(NULL)},
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
	amt_usage => [
		"PERFORM amt_usage('$id')", "PERFORM FROM amt_keys WHERE key_id = '$id'", "UPDATE amt_keys SET name = 'again', suspended_at = now() WHERE key_id = '$id'; RAISE 'undone'",
		"DELETE FROM amt_keys WHERE key_id = '$id'; RAISE 'undone'"
	],
	amt_flush_usage => "PERFORM amt_verify('$token'); PERFORM amt_flush_usage()",
	amt_cache_clear => 'PERFORM amt_cache_clear()',
	amt_stat_get => 'PERFORM * FROM amt_stat',
	amt_stat_reset => 'PERFORM amt_stat_reset()',
);

my @functions = split /\n/, $s->query(q{
	SELECT DISTINCT proname FROM pg_proc p JOIN pg_depend d ON d.classid = 'pg_proc'::regclass AND d.objid = p.oid
	JOIN pg_extension e ON d.refclassid = 'pg_extension'::regclass AND d.refobjid = e.oid
	WHERE extname = 'amt_keys' AND prorettype NOT IN ('trigger'::regtype, 'internal'::regtype) ORDER BY 1});
is(join(' ', sort keys %calls), join(' ', @functions), 'every function of the extension is called');

for my $function (@functions)
{
	for my $call (map { ref $_ ? @$_ : $_ } $calls{$function})
	{
		my $n = $long ? 500_000 : 5000;
		my $session = Session->new($node);
		my $pid = $session->backend;
		# What fails, or is to be undone, is caught, as a caller would.
		my $loop = "DO \$do\$ BEGIN FOR i IN 1 .. $n LOOP BEGIN $call; EXCEPTION WHEN OTHERS THEN NULL; END; COMMIT; END LOOP; END \$do\$";
		my $seconds = $long ? 4 * 3600 : undef;
		my $answer = $session->send($loop)->receive($seconds);
		my ($private, $dynamic) = (private_memory($pid), dynamic_memory($pid));
		$answer .= $session->send($loop)->receive($seconds);
		my ($more, $more_dynamic) = (private_memory($pid) - $private, dynamic_memory($pid) - $dynamic);
		(my $name = $call) =~ s/PERFORM //g;
		$name =~ s/_[0-9A-Za-z]{49}/_.../g;
		is($answer, '', "twice $n calls succeed: $name");
		note("$more kB more, shared memory $more_dynamic kB more");
		cmp_ok($more, '<', 100, "the second half of the calls takes no private memory: $name");
		is($more_dynamic, 0, "the second half of the calls takes no shared memory: $name");
		$session->quit;
	}
}

# One argument of 16 MB, and what a process takes at most while a function deals with it, in sizes of the argument.
SKIP:
{
	skip 'the peak of memory cannot be reset', 1 unless -w '/proc/self/clear_refs';
	my $size = 16 << 20;
	my %large = (
		noise => "repeat('x', $size)",
		heads => "repeat('amt_', $size / 4)",
		tokens => "repeat('$token ', $size / " . length("$token ") . ')',
		bearer => "'Bearer ' || repeat('amt_x_', $size / 6)",
		spaces => "repeat(' ', $size)",
	);
	$s->query('CREATE TABLE large (what text, arg text)', 'GRANT SELECT ON large TO PUBLIC', 'CREATE ROLE somebody');
	$s->query("INSERT INTO large VALUES ('$_', $large{$_})") for sort keys %large;
	$s->query(q{INSERT INTO large VALUES ('small', 'x')});

	# The call and its bound; then what the argument may be made of, what sets the scene, who calls.
	my $setting = sub { return "set_config('request.$_[0]', format('$_[1]', arg), true)" };
	my @all = sort keys %large;
	my @calls = (
		[ 'amt_has_role(arg)', 3 ],
		[ 'amt_require_role(arg)', 3 ],
		[ q{amt_is_own(arg)}, 3, ['noise'], undef, '-c role=somebody -c amt_keys.org_id=acme' ],
		[ q{amt_may_manage(arg, 'acme', arg)}, 3, ['noise'], undef, '-c role=somebody -c amt_keys.org_id=acme -c amt_keys.actor=me -c amt_keys.key_id=x' ],
		[ q{amt_create_key(arg, 'acme', 'editor')}, 4, \@all ],
		[ q{amt_create_key('a key', 'acme', arg)}, 6 ],      # which is an error that quotes it
		[ q{amt_create_key('a key', arg, 'editor')}, 11 ],    # which is stored, twice
		[ 'amt_revoke(arg)', 3, \@all ],
		[ 'amt_verify(arg)', 3, \@all ],
		[ 'amt_verify(arg, true)', 3 ],
		[ 'amt_has_scope(arg)', 3 ],
		[ 'amt_require_scope(arg)', 3 ],
		[ 'amt_rotate_key(arg)', 3, \@all ],
		[ q{amt_import_key(sha256('x'), arg, 'acme', 'editor')}, 4 ],
		[ 'amt_authenticate()', 6, [ 'noise', 'bearer' ], $setting->('headers', '{"x-api-key": "%s"}') ],
		[ 'amt_authenticate()', 6, [ 'noise', 'bearer' ], $setting->('headers', '{"authorization": "%s"}') ],
		[ 'amt_authenticate()', 6, ['noise'], $setting->('headers', '{%s') ],
		[ 'amt_authenticate()', 6, ['noise'], $setting->('jwt.claims', '{"org_id": "%s", "org_role": "editor", "sub": "me"}') ],
		[ 'amt_authenticate()', 6, ['noise'], $setting->('jwt.claims', '{"org_id": "acme", "org_role": "editor", "sub": "%s"}') ],
		[ 'amt_check_token(arg)', 3, \@all ],
		[ 'amt_find_tokens(arg)', 3, \@all ],
		[ 'amt_usage(arg)', 3 ],
	);
	my ($untested) = $s->query(q{
		SELECT string_agg(proname, ' ') FROM pg_proc WHERE proname ~ '^amt_' AND 'text'::regtype = ANY (proargtypes) AND proname NOT IN (}
		. join(', ', map { $_->[0] =~ /(\w+)/ ? "'$1'" : die } @calls) . ')');
	is($untested, '', 'every function with a text for an argument is called with 16 MB');

	for (@calls)
	{
		my ($call, $times, $shapes, $scene, $options) = @$_;
		my $session = Session->new($node, options => $options);
		my $pid = $session->backend;
		my $status = sub { slurp_file("/proc/$pid/status") =~ /^$_[0]:\s+(\d+) kB/m ? $1 : die };
		my $most = 0;
		for my $shape ('small', @{ $shapes // ['noise'] })
		{
			my $from = "FROM large WHERE what = '$shape'";
			$session->query('BEGIN', defined $scene ? "SELECT count(setting) FROM (SELECT $scene AS setting $from) AS scene" : ());
			append_to_file("/proc/$pid/clear_refs", '5');
			my $before = $status->('VmRSS');
			$session->query("SELECT count(called) FROM (SELECT $call AS called $from) AS call");
			my $more = ($status->('VmHWM') - $before) * 1024 / $size;
			$session->query('ROLLBACK');
			$most = $more if $more > $most;
		}
		(my $name = $call . ($scene // '')) =~ s/set_config\('(.*?)', format\('(.*)', arg\), true\)/ with $1 = $2/;
		note(sprintf '%.1f times', $most);
		cmp_ok($most, '<', $times, "16 MB take less than $times times as much: $name");
		$session->quit;
	}
}

done_testing();
