# A secret stays nowhere on disk, and no function leaves a copy of its own in the memory of an idle session.
#
# Any piece of a secret that has 15 characters or more contains one of its aligned pieces of eight, and those are looked for:
# as random as they are, they turn up nowhere else.  That the search finds what is there is shown with the keys' public ids,
# and in memory with the moment just after a verification.
#
# What a session's memory holds then is PostgreSQL's own, five to ten copies: the network's receive buffer and the message in
# it; with a literal, the query string, where pg_stat_activity shows it, the scanner's buffer and the parse tree's constant;
# with a parameter, its value; and a plan's constant.  PostgreSQL wipes none of it.  It is free memory afterwards, of which
# the statements to come write over most; one or two copies have been seen to outlive several of 8 to 16 kB.  So each function
# is compared with one that does nothing with its argument: it must leave no copy that the other does not.  No copy may
# stand by itself, without the token's beginning before it, as it would if a copy of the secret alone (for scrypt, for the
# MAC) were left, and none may be on the stack.
#
# What a client does to itself is not looked at here: a literal in a PREPARE that stays, EXECUTE with a literal under
# pg_stat_statements (which keeps such statements as they were written), a setting that holds a request's headers.

use strict;
use warnings FATAL => 'all';

use FindBin;
use lib "$FindBin::RealBin/../perl";

use AmtKeys qw(:all);
use Session;
use File::Find;
use PostgreSQL::Test::Cluster;
use PostgreSQL::Test::Utils;
use Test::More;

# From 17 on a buffer of the server may or may not be moved when it grows, and so leave a copy of the client's message.
my $pg_config = $ENV{PG_CONFIG} // 'pg_config';
my $tolerance = `$pg_config --version` =~ /PostgreSQL (\d+)/ && $1 >= 17 ? 1 : 0;

# Statements are logged, their parameters are not, and nothing in the log is masked.
my $node = new_cluster(conf => q{
log_statement = all
log_parameter_max_length = 0
log_parameter_max_length_on_error = 0
amt_keys.redact_logs = off
shared_buffers = 8MB
});
my $unlogged = '-c log_statement=none';

# Contrib need not be there.
my ($pkglibdir) = map { s/\s+\z//r } $node->config_data('--pkglibdir');
my $has_statements = grep { -e "$pkglibdir/pg_stat_statements$_" } '.so', '.dylib';
if ($has_statements)
{
	$node->append_conf('postgresql.conf', "shared_preload_libraries = 'pg_stat_statements'");
	$node->restart;
	$node->safe_psql('postgres', 'CREATE EXTENSION pg_stat_statements');
}

sub pieces
{
	my ($secret) = @_;
	return map { substr $secret, 8 * $_, 8 } 0 .. length($secret) / 8 - 1;
}

sub wrong
{
	my ($token) = @_;
	return $token =~ s/(.*_)(.+)\z/$1 . reverse $2/er;
}

# A session of pgbench's that runs a script once and then stays idle.  What the script names as :token and so on are
# parameters, or literals in the mode that has none.
sub idle_session
{
	my ($mode, $token, @script) = @_;
	my %value = (token => $token, wrong => wrong($token), headers => qq({"x-api-key":"$token"}), bearer => qq({"authorization":"Bearer $token"}),
		short => 'x' x 200, map { ("long$_" => 'x' x ($_ * 1024)) } 8, 12, 16);
	local $ENV{PGOPTIONS} = '';
	if ($mode eq 'simple')
	{
		$ENV{PGOPTIONS} = $unlogged;
		s/:(\w+)/'$value{$1}'/g for @script;
	}
	my $run = start_pgbench($node, [ join("\n", @script, '\sleep 1000 s', '') ], '-c', 1, '-t', 1, '-M', $mode,
		map { ('-D', "$_=$value{$_}") } keys %value);
	wait_until(
		sub {
			$run->{pid} = $node->safe_psql('postgres', q{
				SELECT pid FROM pg_stat_activity WHERE backend_type = 'client backend' AND state = 'idle' AND query ~ ' AS last'
				AND state_change < clock_timestamp() - interval '0.2 s'});
		}, 60) or die 'pgbench does not get there';
	return $run;
}

sub end
{
	my ($run) = @_;
	$run->{harness}->kill_kill;
	wait_until(sub { $node->safe_psql('postgres', "SELECT count(*) FROM pg_stat_activity WHERE pid = $run->{pid}") eq '0' })
	  or die 'the session does not end';
	return;
}

# The copies of a secret in a process's memory, each with the eight bytes before it; undef if it cannot be read.
sub copies
{
	my ($pid, $secret) = @_;
	no warnings 'portable';
	my %found;
	my %offset;
	@offset{ pieces($secret) } = map { 8 * $_ } 0 .. length $secret;
	my $pieces = join '|', pieces($secret);

	open my $maps, '<', "/proc/$pid/maps" or return;
	open my $mem, '<:raw', "/proc/$pid/mem" or return;
	while (my $line = <$maps>)
	{
		my ($from, $to) = map { hex } $line =~ /\A([0-9a-f]+)-([0-9a-f]+) rw/ or next;
		sysseek $mem, $from, 0 or next;
		my ($memory, $part) = ('');
		$memory .= $part while length $memory < $to - $from && sysread $mem, $part, $to - $from - length $memory;
		while ($memory =~ /($pieces)/g)
		{
			my $at = pos($memory) - 8 - $offset{$1};
			$found{ $from + $at } //= ($line =~ /\[stack\]/ ? 'stack ' : '') . ($at >= 8 ? substr($memory, $at - 8, 8) =~ s/[^ -~]/./gr : '');
		}
	}
	return \%found;
}

# All files of the server that contain one of the texts.
sub files_with
{
	my (@texts) = @_;
	my $texts = join '|', @texts;
	my %found;
	find(
		sub {
			return unless -f $_;
			my $path = $File::Find::name =~ s/\A\Q${\ $node->basedir}\E//r;
			$found{$path} = 1 if slurp_file($_) =~ /$texts/;
		},
		$node->data_dir);
	$found{log} = 1 if slurp_file($node->logfile) =~ /$texts/;
	return sort keys %found;
}

$node->safe_psql('postgres',
	q{CREATE FUNCTION amt_nolook(text, boolean DEFAULT false) RETURNS integer VOLATILE LANGUAGE internal AS 'textlen'});
my @traffic = (
	'SELECT length(:short);', 'SELECT length(:long8);', 'SELECT length(:long12);', 'SELECT length(:short);',
	'SELECT length(:long16);', 'SELECT repeat(:short, 100);', 'SELECT length(:short) AS last;');
my @keys = map {
	Session->new($node, options => $unlogged)->query("SELECT token FROM amt_create_key('key $_', 'acme', 'editor')")
} 1 .. 4;
my $supports_memory = -r "/proc/$$/maps";

# The memory of an idle session.
SKIP:
{
	skip 'there is no /proc to read a process by', 1 unless $supports_memory;
	for my $mode ('simple', 'extended', 'prepared')
	{
		my $token = shift @keys;
		push @keys, $token;
		my $secret = secret_of($token);
		$node->safe_psql('postgres', 'SELECT amt_cache_clear()');

		# amt_nolook() is the control: called in the same way, by a name as long, it does nothing with its argument.
		my %left;
		for my $call ('amt_nolook', 'amt_verify', 'amt_verify')
		{
			my $what = $call eq 'amt_nolook' ? 'the control' : 'amt_verify() of a ' . ($left{amt_verify} ? 'warm' : 'cold') . ' key';
			for my $more ([], \@traffic)
			{
				my $when = @$more ? 'after a few more statements' : 'just after';
				my $run = idle_session($mode, $token, 'SELECT count(*)' . (@$more ? '' : ' AS last') . " FROM $call(:token);", @$more);
				my $found = copies($run->{pid}, $secret);
				end($run);
				skip 'the memory of a process of the same user cannot be read here', 1 unless defined $found;
				my $n = $left{$call}{$when} = keys %$found;
				note("$mode: $n copies: $when, $what");
				next if $call eq 'amt_nolook';
				is(join(' ', grep { /\Astack/ } values %$found), '', "$mode: $what, $when: no copy is on the stack");
				if (@$more)
				{
					cmp_ok($n, '<', $left{$call}{'just after'}, "$mode: $what, $when: there are fewer copies than just after");
					next;
				}
				cmp_ok($n, '>', 0, "$mode: $what, $when: the search finds the statement");
				cmp_ok($n, '<=', $left{amt_nolook}{$when} + $tolerance, "$mode: $what, $when: there are no more copies than after any function");
				is(join(' ', grep { !/_\z/ } values %$found), '', "$mode: $what, $when: no copy is without the token's beginning");
			}
		}
	}
}

# Other functions that are given a token, each beside the same statements without the function.
SKIP:
{
	skip 'there is no /proc to read a process by', 1 unless $supports_memory;
	my $set_headers = q{SELECT set_config('request.headers', :headers, true);};
	my $set_bearer = q{SELECT set_config('request.headers', :bearer, true);};
	my %calls = (
		'amt_revoke() of a whole token' => 'SELECT amt_revoke(:token);',
		'amt_revoke() of a wrong token' => 'SELECT amt_revoke(:wrong);',
		'amt_verify() of a wrong token' => 'SELECT count(*) FROM amt_verify(:wrong, true);',
		'amt_check_token()' => 'SELECT amt_check_token(:token);',
		'amt_find_tokens()' => 'SELECT count(*) FROM amt_find_tokens(:headers);',
		'amt_authenticate()' => "$set_headers SELECT amt_authenticate();",
		'amt_authenticate() by another header' => "$set_bearer SELECT amt_authenticate();",
	);
	# The control: functions with names as long, which do nothing.
	$node->safe_psql('postgres', q{
		CREATE FUNCTION non_revoke(text) RETURNS integer LANGUAGE internal AS 'textlen';
		CREATE FUNCTION non_verify(text, boolean) RETURNS integer LANGUAGE internal AS 'textlen';
		CREATE FUNCTION non_check_token(text) RETURNS integer LANGUAGE internal AS 'textlen';
		CREATE FUNCTION non_find_tokens(text) RETURNS SETOF text LANGUAGE sql AS 'SELECT NULL::text';
		CREATE FUNCTION non_authenticate() RETURNS void LANGUAGE sql AS 'SELECT'});
	for my $what (sort keys %calls)
	{
		my $token = $keys[0];
		my $wrong = wrong($token);
		# amt_find_tokens() answers with what the server shows anyway; what is compared is the secret.
		my $secret = secret_of($what =~ /wrong/ ? $wrong : $token);
		my @n;
		for my $script ($calls{$what} =~ s/amt_/non_/gr, $calls{$what})
		{
			$node->safe_psql('postgres', 'SELECT amt_cache_clear()');
			my $run = idle_session('extended', $token, 'BEGIN;', (map { "$_;" } split /; */, $script), 'ROLLBACK;', 'SELECT 1 AS last;');
			my $found = copies($run->{pid}, $secret);
			end($run);
			skip 'the memory of a process of the same user cannot be read here', 1 unless defined $found;
			push @n, scalar keys %$found;
			next if @n == 1;
			is(join(' ', grep { /\Astack/ } values %$found), '', "$what leaves no copy on the stack");
			cmp_ok($n[1], '<=', $n[0] + $tolerance, "$what leaves no more copies than the statements do without it");
		}
	}
}

# The session that has created or rotated a key, whose token only its answer has.
SKIP:
{
	skip 'there is no /proc to read a process by', 1 unless $supports_memory;
	my $creator = Session->new($node, options => $unlogged);
	my $pid = $creator->query('SELECT pg_backend_pid()');
	my $token = $creator->query(q{SELECT token FROM amt_create_key('created', 'acme', 'editor')});
	my $rotated = $creator->query("SELECT token FROM amt_rotate_key('" . id_of($token) . "')");
	my %found = map { $_ => copies($pid, secret_of($_)) } $token, $rotated;
	skip 'the memory of a process of the same user cannot be read here', 1 unless defined $found{$token};
	cmp_ok(keys %{ $found{$rotated} }, '>', 0, 'the search finds the answer of amt_rotate_key()');
	for ([ 'a created key', $token ], [ 'a rotated key', $rotated ])
	{
		my ($what, $new) = @$_;
		is(join(' ', grep { /\Astack|[^_]\z/ } values %{ $found{$new} }), '', "$what leaves no copy on the stack, and no copy without the token's beginning");
		cmp_ok(keys %{ $found{$new} }, '<=', 6, "$what leaves no more copies than an answer has");
		note($what . ': ' . keys(%{ $found{$new} }) . ' copies');
	}
	push @keys, $rotated;
	$creator->quit;
}

# On disk.
for my $token (@keys[ 0 .. 2 ])
{
	for my $mode ('extended', 'prepared')
	{
		end(idle_session($mode, $_, 'SELECT count(*) AS last FROM amt_verify(:token, true);')) for $token, wrong($token);
	}
}
my $session = Session->new($node, options => $unlogged);
is($session->query("SELECT count(*) FROM amt_verify('$keys[0]')"), 1, 'a key that a literal names is verified');
is($session->query("SELECT count(*) FROM amt_verify('" . wrong($keys[0]) . "')"), 0, 'a wrong token that a literal names is refused');
end(idle_session('extended', $keys[0], 'SELECT amt_revoke(:token) AS last;'));
is($session->query("SELECT amt_revoke('$keys[1]')"), 't', 'a key is revoked by its whole token');
is($session->query("SELECT amt_revoke('" . id_of($keys[2]) . "')"), 't', 'a key is revoked by its id');
is($session->query('SELECT amt_flush_usage() >= 0'), 't', 'calls are written before the files are searched');
$session->query('CHECKPOINT');

is($session->query("SELECT count(*) FROM amt_key_event WHERE event = 'revoked'"), $supports_memory ? 4 : 3, 'each revoked key has its event');
my @secrets = map { (pieces(secret_of($_)), pieces(secret_of(wrong($_)))) } @keys;
my $secrets = join '|', @secrets;
unlike($node->safe_psql('postgres', 'SELECT e FROM amt_key_event AS e; SELECT k FROM amt_key AS k'), qr/$secrets/,
	'no secret is in the tables');
my @with_id = files_with(map { id_of($_) } @keys);
ok((grep { /$_/ } @with_id), "the search finds a key's id in $_") for qr/base/, qr/pg_wal/;
like(slurp_file($node->logfile), qr/FROM amt_verify\(\$1, true\)/, 'statements are in the log');
is(join(' ', files_with(@secrets)), '', 'no secret is in the data directory or the log');

SKIP:
{
	skip 'pg_stat_statements is not installed', 1 unless $has_statements;
	my $statements = $session->query('SELECT query FROM pg_stat_statements');
	like($statements, qr/amt_verify\(\$1\)/, 'pg_stat_statements knows the verification');
	unlike($statements, qr/$secrets/, 'pg_stat_statements knows no secret');
}

# A clean stop writes the rest.
$session->quit;
$node->stop;
is(join(' ', files_with(@secrets)), '', 'no secret is in the data directory or the log after the server has stopped');

done_testing();
