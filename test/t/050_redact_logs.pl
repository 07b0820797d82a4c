# Nothing secret in the server's log: tokens in every field of an entry and in every format of the log.
#
# Every scenario writes the same tokens into the log twice, with amt_keys.redact_logs on and off.  On, no part of a secret
# may be in any of the three logs, and the key ids must be; off, each log must show a secret.  So a scenario that never
# reaches the log, or a check that finds nothing, fails.
#
# All scenarios run a second time with tokens of another prefix, one of amt_keys.token_prefixes.

use strict;
use warnings FATAL => 'all';
use utf8;

use FindBin;
use lib "$FindBin::RealBin/../perl";

use AmtKeys;
use PostgreSQL::Test::Cluster;
use PostgreSQL::Test::Utils;
use Session;
use Test::More;
use Time::HiRes qw(usleep);

my %log = (stderr => 'server.log', csvlog => 'server.csv', jsonlog => 'server.json');

my $node = PostgreSQL::Test::Cluster->new('main');
$node->init;
$node->append_conf('postgresql.conf', q{
logging_collector = on
log_destination = 'stderr, csvlog, jsonlog'
log_directory = 'log'
log_filename = 'server.log'
log_rotation_age = 0
log_rotation_size = 0
log_min_messages = notice
log_statement = 'all'
log_min_duration_statement = 0
log_error_verbosity = verbose
session_preload_libraries = 'auto_explain, amt_keys'
auto_explain.log_verbose = on
amt_keys.scrypt_ln = 4
amt_keys.token_prefixes = 'amt, acmekey1'
});
$node->start;
$node->safe_psql('postgres', q{
	CREATE EXTENSION amt_keys;
	CREATE TABLE unique_token (token text UNIQUE, n int NOT NULL DEFAULT 0, CHECK (n < 10));
	CREATE TABLE child (token text REFERENCES unique_token (token));
});

my ($token, $second) = map {
	$node->safe_psql('postgres', "SELECT token FROM amt_create_key('key $_', 'acme', 'editor')")
} 1 .. 2;
# A key made elsewhere: any length of id, and - and _ in the secret.
my $imported = 'amt_Old7_Zq3_vT9-wX1bR5_nM8-kL2pD6';

# A text that is cast to a date is taken apart before the cast fails.
my $in_parts = $second =~ s/^amt_[^_]+/amt_J0YzejYl2aGY/r;

my ($id, $second_id) = map { /^amt_(.{12})_/ or die; $1 } $token, $second;
my @secrets = map { /^amt_[0-9A-Za-z]+_(.*)/ or die; $1 } $token, $second, $imported;

# Any 16 characters in a row of any secret, in whatever case: an identifier without quotes is folded.
my $any_part = do {
	my %part;
	for my $secret (@secrets)
	{
		$part{ substr($secret, $_, 16) } = 1 for 0 .. length($secret) - 16;
	}
	my $parts = join '|', map quotemeta, sort keys %part;
	qr/$parts/i;
};
# And the first character of a secret, if it follows its key id.
my $any_start = do {
	my $starts = join '|', map { /^amt(_[0-9A-Za-z]+_)(.)/ or die; quotemeta $1 . $2 } $token, $second, $imported;
	qr/(?:amt|acmekey1)(?:$starts)/i;
};

sub leak
{
	my ($text) = @_;
	return $text =~ /^(.*(?:$any_part|$any_start).*)$/m ? $1 : undef;
}

# What each log says from now on, once it has said everything.
my $marks = 0;

sub size_of_logs
{
	return { map { $_ => -s $node->data_dir . "/log/$log{$_}" } keys %log };
}

sub logs_since
{
	my ($sizes) = @_;
	my %text;
	my $mark = sprintf 'end of scenario %d', ++$marks;

	$node->safe_psql('postgres', "SELECT '$mark'");
	for my $format (sort keys %log)
	{
		for my $try (1 .. 500)
		{
			$text{$format} = substr slurp_file($node->data_dir . "/log/$log{$format}"), $sizes->{$format};
			last if $text{$format} =~ /$mark/;
			usleep 20_000;
		}
		die "$mark is not in the $format" unless $text{$format} =~ /$mark/;
	}
	return \%text;
}

# The prefix of the tokens in the statements to come.
my $prefix = 'amt';

sub with_prefix
{
	my ($text) = @_;
	my $ids = join '|', $id, $second_id, 'Old7', 'J0YzejYl2aGY';
	return $text =~ s/amt_(?=(?:$ids)_)/${prefix}_/gr;
}

sub run_psql
{
	my ($redact, $sql) = @_;
	$sql = with_prefix($sql);
	local $ENV{PGOPTIONS} = "-c amt_keys.redact_logs=$redact";
	$node->psql('postgres', $sql, on_error_stop => 0);
}

# The extended protocol, with each token in a bind parameter.
sub run_bound
{
	my ($redact, $mode, $sql, %variable) = @_;
	my $script = "$PostgreSQL::Test::Utils::tmp_check/bound.sql";
	open my $file, '>', $script or die;
	print $file with_prefix($sql);
	close $file;
	local $ENV{PGOPTIONS} = "-c amt_keys.redact_logs=$redact";
	my @define = map { ('-D', "$_=" . with_prefix($variable{$_})) } sort keys %variable;
	$node->run_log([ 'pgbench', '-n', '-t', '1', '-M', $mode, '-f', $script, @define, 'postgres' ]);
}

my @scenarios;

# scenario(name => statements, settings…): sent by psql, one after the other, errors and all.
sub scenario
{
	my ($name, $sql, @settings) = @_;
	my $set = join '', map "SET $_;\n", @settings;
	push @scenarios, { name => $name, run => sub { run_psql($_[0], $set . $sql) } };
}

sub bound_scenario
{
	my ($name, $mode, $sql, %variable) = @_;
	push @scenarios, { name => $name, run => sub { run_bound($_[0], $mode, $sql, %variable) } };
}

my $statement_only = 'log_min_duration_statement = -1';
my $duration_only = 'log_statement = none';
# Errors show the statement too; these leave it out, so that the other fields are what is seen.
my @fields_only = ('log_statement = none', 'log_min_duration_statement = -1', 'log_min_error_statement = panic');

scenario 'the text of a statement, log_statement = all', "SELECT amt_check_token('$token');", $statement_only;
scenario 'the text of a statement, log_min_duration_statement = 0', "SELECT amt_check_token('$token');", $duration_only;
scenario 'the statement of an error', "SELECT 1/0, '$token';", 'log_statement = none', 'log_min_duration_statement = -1';
scenario 'DDL, log_statement = ddl', "COMMENT ON TABLE child IS '$token';", 'log_statement = ddl', 'log_min_duration_statement = -1';
scenario 'a prepared statement and its execution', "PREPARE q(text) AS SELECT '$token', \$1; EXECUTE q('$second');";
scenario 'verification and revocation by statement text', "SELECT * FROM amt_verify('Bearer $token'); SELECT amt_revoke('$token' || 'x');";

for my $mode (qw(extended prepared))
{
	bound_scenario "bind parameters, $mode", $mode, 'SELECT * FROM amt_verify(:token);', token => $token;
	bound_scenario "bind parameters of a failing statement, $mode", $mode,
	  "SET log_parameter_max_length_on_error = -1;\nSELECT 1 / (length(:token) - length(:token));", token => $token;
	bound_scenario "PostgREST's request headers as a bind parameter, $mode", $mode,
	  "SELECT set_config('request.headers', :headers, true);",
	  headers => qq({"accept":"*/*","x-api-key":"$token","authorization":"ApiKey $second"});
}

scenario "errors that quote their input: $_", "SELECT '$token'::$_;", @fields_only
  for qw(int bigint numeric float8 uuid boolean date timestamptz interval inet json jsonb point regclass);
scenario "errors that quote a part of their input: $_", "SELECT '$in_parts'::$_;", @fields_only
  for qw(date time timestamp timestamptz timetz);
scenario "errors that quote what a format leaves of a token: $_", "SELECT to_timestamp('$token', 'amt_$_');", @fields_only for qw(Mon Day AM AD);
scenario 'errors that quote their input: imported key', "SELECT '$imported'::int;", @fields_only;
scenario 'an XML error that quotes the head of a token',
  "SELECT xmlparse(document '<a>' || repeat(' ', 40) || '&b;' || repeat(' ', 12) || '$imported');", @fields_only;
scenario 'an XML error that quotes the rest of a token, and has a tab',
  "SELECT xmlparse(document '<a>' || '$imported' || E'\\t' || repeat(' ', 39) || '&b;');", @fields_only;
scenario 'a syntax error at a token', "SELECT 1 '$token';", @fields_only;
scenario 'a string without an end', "SELECT 'x $token", @fields_only;
scenario 'a token as a column, folded to lower case', "SELECT $token FROM child;", @fields_only;
scenario 'a token as an identifier that is too long', "SELECT 1 AS \"$token\";", @fields_only;
scenario 'a token as a relation, a function, a type and a role',
  qq(SELECT * FROM "$token"; SELECT "$token"(); SELECT NULL::"$token"; SET ROLE "$token";), @fields_only;
scenario 'a token in a setting that takes none', "SET work_mem = '$token';", @fields_only;
scenario 'a token in a text search query', "SELECT to_tsquery('$token &');", @fields_only;

scenario 'a unique violation', "INSERT INTO unique_token VALUES ('$token'), ('$token');", @fields_only;
scenario 'a not-null violation', "INSERT INTO unique_token VALUES ('$token', NULL);", @fields_only;
scenario 'a check violation', "INSERT INTO unique_token VALUES ('$token', 10);", @fields_only;
scenario 'a foreign key violation', "INSERT INTO child VALUES ('$token');", @fields_only;

# psql reads the data of a COPY from where the statements come from.
scenario 'the context of COPY', "COPY unique_token FROM STDIN;\n$token\t$second\n\\.\n", @fields_only;
scenario 'the context of COPY, a long line that is cut', "COPY unique_token FROM STDIN;\n" . 'x' x 60 . " $token\t1\tone too many\n\\.\n", @fields_only;

scenario 'messages, details and hints of PL/pgSQL', qq(
	DO \$\$ BEGIN
		RAISE WARNING 'message $token' USING DETAIL = 'detail $second', HINT = 'hint $imported';
	END \$\$;), @fields_only;
scenario 'the detail that only the log has', qq(CREATE TABLE base (n int);
CREATE VIEW "$token" AS TABLE base;
DROP TABLE base;
DROP TABLE base CASCADE;), @fields_only;
scenario 'the context and the internal query of PL/pgSQL', qq(
	DO \$\$ BEGIN EXECUTE 'SELECT 1/0, ''$token'''; END \$\$;
	DO \$\$ BEGIN EXECUTE 'SELECT nothing, ''$token'''; END \$\$;), @fields_only;

scenario 'a token in JSON', qq(SELECT '{"tool":"search","arguments":{"headers":{"authorization":"Bearer $token"},"n":1}}'::jsonb;);
scenario 'several tokens in a line', "SELECT '$token', '$second $imported', '$token,$second;$imported|$token';";
scenario 'tokens without anything between them', "SELECT '$token$second$token', '$token-$second', '${token}_$imported';";
scenario 'tokens among letters', "SELECT 'x$token', '_$token', 'token=$token&next=1', 'https://x.example/?k=$token#top';";
scenario 'tokens in several lines', "SELECT '\n$token\n$second\r\n\t$imported\n';";
scenario 'a token in a text of half a megabyte', "SELECT length('" . 'lorem ipsum ' x 20_000 . $token . ' dolor sit' x 20_000 . "');";
scenario 'a token next to letters beyond ASCII', "SELECT 'ключ$token', 'é$second', '鍵${imported}鍵';";

scenario 'auto_explain', "SELECT * FROM unique_token WHERE token = '$token' OR token = '$second';",
  'auto_explain.log_min_duration = 0', @fields_only;
scenario 'auto_explain in JSON', "SELECT * FROM unique_token WHERE token = '$token';",
  'auto_explain.log_min_duration = 0', 'auto_explain.log_format = json', @fields_only;
bound_scenario 'auto_explain with parameters', 'extended',
  "SET auto_explain.log_min_duration = 0;\nSET log_statement = none;\nSET log_min_duration_statement = -1;\n"
  . 'SELECT * FROM unique_token WHERE token = :token;', token => $token;

# PostgreSQL cuts what it quotes; wherever the cut falls, nothing of the secret may be left.
bound_scenario 'parameters cut at every length', 'extended',
  join('', map "SET log_parameter_max_length = $_;\nSELECT :token;\n", 1 .. length $token), token => $token;
bound_scenario 'parameters in JSON cut at every length', 'extended',
  join('', map "SET log_parameter_max_length = $_;\nSELECT :headers;\n", 1 .. 90), headers => qq({"x-api-key":"$token"});
push @scenarios, {
	name => 'parameters of failing statements cut at every length',
	run => sub {
		my ($redact) = @_;
		for my $length (map 8 * $_, 2 .. 9)
		{
			run_bound($redact, 'extended', join('', map "SET $_;\n", @fields_only)
				. "SET log_parameter_max_length_on_error = $length;\nSELECT 1 / (length(:token) - length(:token));\n", token => $token);
		}
	},
};

# The context of a JSON error shows up to 50 characters before it and begins with "..." in the middle of the token.
scenario 'the context of JSON errors, cut at every place',
  join('', map { my $gap = ' ' x $_; qq(SELECT '{"some": "thing", "x-api-key": "$token"$gap oops}'::jsonb;\n) } 0 .. 60), @fields_only;
scenario 'the context of JSON errors inside of a token',
  join('', map { my $broken = substr($token, 0, $_) . '\\q' . substr($token, $_); qq(SELECT '{"some": "thing", "x-api-key": "$broken"}'::json;\n) } 60 .. 66), @fields_only;

for my $scenario (map { my $name = $_; map { { %$_, prefix => $name } } @scenarios } 'amt', 'acmekey1')
{
	my %said;
	$prefix = $scenario->{prefix};
	for my $redact (qw(on off))
	{
		my $sizes = size_of_logs();
		$scenario->{run}->($redact);
		$said{$redact} = logs_since($sizes);
	}
	subtest "$prefix: no secret reaches the log: $scenario->{name}" => sub {
		for my $format (sort keys %log)
		{
			my $leak = leak($said{on}{$format});
			ok(!defined $leak, "$format shows no secret") or diag $leak;
			ok(defined leak($said{off}{$format}), "$format shows a secret with redact_logs = off");
			like($said{on}{$format}, qr/\[redacted\]/, "$format tells that there was a secret");
		}
	};
}

for my $name ('acmekey1', 'amt')
{
	$prefix = $name;
	subtest "$prefix: a masked entry still tells which key" => sub {
		my $sizes = size_of_logs();
		run_psql('on', "SELECT '$token', '$second', '$imported'; SELECT '$token'::int;");
		my $said = logs_since($sizes);
		for my $format (sort keys %log)
		{
			like($said->{$format}, qr/\Q${prefix}_${_}_[redacted]\E/, "$format shows the id of the key: ${prefix}_$_") for $id, $second_id, 'Old7';
		}
	};
}

subtest 'with a prefix that is not listed, what we could have written is masked' => sub {
	my $sizes = size_of_logs();
	run_psql('on', "SELECT '" . ($token =~ s/^amt/acmekey2/r) . "', '" . ($token =~ s/^amt_/acmekey_/r) . "', 'acmekey3_Old7_abcdefghijklmnop'");
	my $said = logs_since($sizes);
	for my $format (sort keys %log)
	{
		like($said->{$format}, qr/acmekey2_${id}_\[redacted\]/, "$format: a token with the prefix acmekey2 is masked");
		like($said->{$format}, qr/acmekey_${id}_\[redacted\]/, "$format: a token with the prefix acmekey is masked");
		like($said->{$format}, qr/acmekey3_Old7_abcdefghijklmnop/, "$format: a token of another shape with the prefix acmekey3 is not masked");
	}
};

subtest 'a text that is no token is not masked' => sub {
	my @plain = (
		'SELECT key_id FROM amt_key_usage JOIN amt_key_event USING (key_id)',
		q{SELECT amt_org_id(), amt_has_role('viewer'), amt_find_tokens('x') FROM amt_keys},
		'SELECT amt_cache_clear(), amt_flush_usage(), amt_stat_reset()',
		"SELECT 'amt_$id...', 'amt_$id'",
		"SELECT 'what about ... and so on'",
		"SELECT 'a0eebc99-9c0b-4ef8-bb6d-6bb9bd380a11'",
		"SELECT 'iamt_a_team', 'amt_', 'amt__', 'amt_x', 'samt_weste'",
	);
	my $sizes = size_of_logs();
	run_psql('on', join '', map "$_;\n", @plain);
	my $said = logs_since($sizes);
	for my $format (qw(stderr csvlog jsonlog))
	{
		like($said->{$format}, qr/\Q$_\E/, "$format shows the statement as it was: $_") for @plain;
		unlike($said->{$format}, qr/\[redacted\]/, "$format masks nothing in statements without a token");
	}
};

subtest 'csvlog and jsonlog keep their form' => sub {
	my $sizes = size_of_logs();
	run_psql('on', qq(SELECT '{"k": "$token", "quote": "\\"", "path": "C:\\\\"}'::json, 'comma, $second "quoted"', '$imported'::int;));
	my $said = logs_since($sizes);

	require JSON::PP;
	my @entries = map { JSON::PP->new->utf8->decode($_) } split /\n/, $said->{jsonlog};
	ok(scalar(grep { ($_->{statement} // '') =~ /\Qamt_${id}_[redacted]\E.*\Qamt_${second_id}_[redacted]\E/ } @entries),
		'jsonlog has one JSON object in each line, with the statement field masked');

	my $quoted = qr/(?:[^,"\n]*|"(?:[^"]|"")*")/;
	my $rest = $said->{csvlog};
	my $lines = 0;
	$lines++ while $rest =~ s/\A$quoted(?:,$quoted){22,}\n//;
	is($rest, '', 'csvlog has nothing but lines of quoted fields');
	cmp_ok($lines, '>', 2, 'csvlog has several lines');
};

subtest 'a new key is not in the log' => sub {
	my $sizes = size_of_logs();
	my $new = $node->safe_psql('postgres', "SELECT token FROM amt_create_key('quiet', 'acme', 'viewer')");
	my $said = logs_since($sizes);
	unlike($said->{$_}, qr/\Q@{[substr $new, 17]}\E/, "$_ shows nothing of the new secret") for sort keys %log;
};

subtest 'only a role that may set redact_logs can switch masking off' => sub {
	$node->safe_psql('postgres', 'CREATE ROLE web LOGIN');
	my ($status, undef, $stderr) = $node->psql('postgres', 'SET amt_keys.redact_logs = off', extra_params => [ '-U', 'web' ]);
	isnt($status, 0, 'SET amt_keys.redact_logs is refused for an ordinary role');
	like($stderr, qr/permission denied to set parameter/, 'the refusal is for want of permission');

	my $sizes = size_of_logs();
	{
		local $ENV{PGOPTIONS} = '-c amt_keys.redact_logs=off';
		$node->psql('postgres', "SELECT '$token'", extra_params => [ '-U', 'web' ]);
	}
	my $said = logs_since($sizes);
	is(leak($said->{$_}), undef, "$_: the options of an ordinary role do not switch masking off") for sort keys %log;

	$sizes = size_of_logs();
	for my $setting (qw(max_concurrent_scrypt cache_size scrypt_ln default_lifetime))
	{
		local $ENV{PGOPTIONS} = "-c amt_keys.$setting=$token";
		$node->psql('postgres', 'SELECT 1');
	}
	$said = logs_since($sizes);
	like($said->{$_}, qr/invalid value for parameter .{1,4}amt_keys\.scrypt_ln/, "$_: the server quotes the values that our settings refuse") for sort keys %log;
	is(leak($said->{$_}), undef, "$_: a token in the options of a connection is masked where our settings are refused") for sort keys %log;
};

# The postmaster reports what a session did that has ended badly.  It does not know the prefixes of the database.
subtest 'after a crash, a token with a prefix that a database lists is masked' => sub {
	my $crash = PostgreSQL::Test::Cluster->new('crash');
	$crash->init;
	$crash->append_conf('postgresql.conf', "shared_preload_libraries = 'amt_keys'\namt_keys.scrypt_ln = 4\nlog_statement = none\nrestart_after_crash = on\n");
	$crash->start;
	$crash->safe_psql('postgres', q{CREATE EXTENSION amt_keys; ALTER DATABASE postgres SET amt_keys.token_prefixes = 'acmekey, amt'});
	my $new = $crash->safe_psql('postgres', q{SELECT token FROM amt_create_key('k', 'acme', 'viewer')});
	like($new, qr/^acmekey_/, 'the database gives new tokens its prefix');
	my $psql = IPC::Run::start([ $crash->installed_command('psql'), '-X', '-d', $crash->connstr('postgres'), '-c', "SELECT pg_sleep(600), '$new'" ], '>', \my $out, '2>', \my $err);
	my $sleeping = q{FROM pg_stat_activity WHERE query LIKE '%600%' AND wait_event = 'PgSleep'};
	ok($crash->poll_query_until('postgres', "SELECT count(*) = 1 $sleeping"), 'a session has a token in its statement');
	kill 'KILL', $crash->safe_psql('postgres', "SELECT pid $sleeping");
	$psql->finish;
	ok($crash->wait_for_log(qr/Failed process was running: .*/), 'the postmaster reports the statement of the killed session');
	my $log = slurp_file($crash->logfile);
	my $head = substr $new, 0, 21;
	like($log, qr/Failed process was running: .*\Q$head\E\[redacted\]/, 'the report names the key');
	unlike($log, qr/\Q@{[substr $new, 21, 16]}\E/, 'the report has no secret');
	$crash->stop('immediate');
};

# Nobody can cancel the masking, so it must not take long for a long text with many words: read again for each word, this takes minutes.
{
	my $parts = 300_000;
	local $ENV{PGOPTIONS} = '-c log_statement=none -c log_min_duration_statement=-1 -c log_min_error_statement=panic';
	my ($rc, $out, $err) = $node->psql('postgres', "SELECT to_timestamp(repeat('aaaaaaaaaaaaaaaa.', $parts), 'MON')", timeout => 60, timed_out => \my $timed_out);
	ok(!$timed_out, 'a message with very many words as long as a secret is masked in time');
}

# A command with parallel workers takes the length of its statement, waits for a lock, which is logged, and copies the statement.
{
	my $locker = Session->new($node);
	my $builder = Session->new($node, options => join ' ', map { "-c $_" } qw(
		log_statement=none log_min_duration_statement=-1 log_lock_waits=on deadlock_timeout=10ms temp_tablespaces=pg_default
		max_parallel_maintenance_workers=2 maintenance_work_mem=256MB min_parallel_table_scan_size=0));
	is($builder->query('CREATE TABLE large AS SELECT generate_series(1, 200000) AS i', 'CREATE INDEX large_i ON large (i)', 'DROP INDEX large_i'), '', 'an index is built by parallel workers');
	is($locker->query('BEGIN', 'LOCK TABLE pg_tablespace'), '', 'tablespaces are locked');
	$builder->send('CREATE INDEX large_i /* amt_abcdefghijkl_' . 'A' x 20_000_000 . ' */ ON large (i)');
	my $log = $node->data_dir . '/log/server.log';
	ok(wait_until(sub { slurp_file($log) =~ /still waiting for AccessShareLock.*?CREATE INDEX large_i .{0,9}amt_abcdefghijkl_\[redacted\]/s }), 'the wait is logged with its statement');
	$locker->query('ROLLBACK');
	is($builder->receive, '', 'parallel workers get a statement that was masked while it ran');
	is($node->safe_psql('postgres', q{SELECT count(*) FROM pg_class WHERE relname = 'large_i'}), 1, 'the index is there, and so is the server');
	$_->quit for $locker, $builder;
}

$node->stop;
done_testing();
