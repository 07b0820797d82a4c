# Runs the SQL of a Markdown page and compares what it prints with what the page says.
#
# The blocks of a page are run from top to bottom, in a database of the page's own, by psql as the superuser:
#
#	```sql     is run as it stands, psql's backslash commands included.  It must not fail.
#	```text    directly after a block that was run is what that block prints.
#
# Other blocks are not run.  A comment of the page before a block says what differs for it; a reader does not see it:
#
#	<!-- test: skip REASON -->         the block is not run
#	<!-- test: as ROLE -->             ROLE runs it, in a session of its own that later blocks of ROLE share
#	<!-- test: in DATABASE -->         it is run in another database
#	<!-- test: fails SQLSTATE -->      it ends with that error; the error's message is what it prints
#	<!-- test: output -->              the block is what the last block that was run has printed, whatever its language
#	<!-- test: run -->                 a block of sh is run by bash, with PGHOST and so on set, in one directory for the page
#	<!-- test: restart -->             the server is restarted before the block, and sessions are opened again
#	<!-- test: STATEMENTS; -->         statements, ended by a semicolon, that are run although the page does not show
#	                                   them.  They may span several lines.
#
# Several of them may stand in lines before one block.  One comment can combine "as", "in" and "fails", with commas between.
#
# Printed text is compared after both sides were normalized: a time becomes <time>, a token <token>, a displayed prefix
# <prefix>, a key's id <id>, a run of blanks one blank and a run of hyphens two.  In the page's text, … stands for
# anything within a line, and a line of nothing but … for any number of lines.

package Pages;

use strict;
use warnings FATAL => 'all';
use utf8;

use Encode qw(decode_utf8 encode_utf8);
use Exporter qw(import);
use File::Basename qw(dirname);
use IPC::Run;
use PostgreSQL::Test::Utils;
use Test::More;

our @EXPORT = qw(page_blocks page_section run_blocks run_page normalized top_directory);

my $end = '-- end of block --';

# The directory that README.md is in.
sub top_directory
{
	return dirname(__FILE__) . '/../..';
}

# The blocks of a text of Markdown: { language, text, line, tests => [...], after => the block it directly follows }.
sub page_blocks
{
	my ($page) = @_;
	my (@blocks, @tests);
	my $previous;

	while ($page =~ /\G(?:^<!-- test: (.*?) -->[ \t]*\n|^([ ]*)```(\w*)[^\n]*\n(.*?)^\2```[ \t]*\n|([^\n]*)\n)/gmsc)
	{
		my ($test, $indent, $language, $text, $other) = ($1, $2, $3, $4, $5);
		if (defined $test)
		{
			push @tests, $test;
		}
		elsif (defined $text)
		{
			my $line = 1 + (substr($page, 0, $-[0]) =~ tr/\n//);
			$text =~ s/^\Q$indent\E//gm if length $indent;
			push @blocks, { language => $language, text => $text, line => $line, tests => [@tests], after => $previous };
			$previous = $blocks[-1];
			@tests = ();
		}
		elsif ($other =~ /\S/)
		{
			$previous = undef;
		}
	}
	push @blocks, { language => '', text => '', line => 0, tests => [@tests] } if @tests;
	return @blocks;
}

# The part of a page under a heading, up to the next heading of that level or above.
sub page_section
{
	my ($page, $heading) = @_;
	my ($section) = $page =~ /^(\#+ \Q$heading\E\n.*)/ms or die "the page has no heading \"$heading\"";
	my ($level) = $section =~ /^(\#+)/;
	my $n = length $level;
	my $text = '';
	my $code = 0;

	for my $line (split /^/, $section)
	{
		$code = !$code if $line =~ /^\s*```/;
		last if length $text && !$code && $line =~ /^#{1,$n} /;
		$text .= $line;
	}
	return $text;
}

sub normalized
{
	my ($text) = @_;
	for ($text)
	{
		s/\b\d{4}-\d\d-\d\d[ T]\d\d:\d\d:\d\d(?:\.\d+)?(?:[+-]\d\d(?::?\d\d)?|Z)?/<time>/g;
		s/\b[a-z][a-z0-9]{1,15}_[0-9A-Za-z]{12}_(?:[0-9A-Za-z]{49}|[0-9A-Za-z]*…)/<token>/g;
		s/\b[a-z][a-z0-9]{1,15}_[0-9A-Za-z]{12}\.\.\./<prefix>/g;
		s/(?<![0-9A-Za-z_<])(?=[0-9]*[A-Za-z])(?=[a-z]*[0-9A-Z])(?=[A-Z]*[0-9a-z])[0-9A-Za-z]{12}(?![0-9A-Za-z_.>])/<id>/g;
		s/-{2,}/--/g;
		s/[ \t]+/ /g;
		s/ $//gm;
		s/^ //gm;
		s/\A\n+//;
		s/\n+\z//;
	}
	return $text;
}

# Does the printed text agree with the page's?
sub agrees
{
	my ($printed, $expected) = map { normalized(decode_utf8($_)) } @_;
	my $pattern = join '\n', map { $_ eq '…' ? '(?s:.*)' : join '[^\n]*', map { quotemeta } split /…/, $_, -1 } split /\n/, $expected, -1;
	return $printed =~ /\A$pattern\z/;
}

# A psql that prints as a page shows it, and what it complains of in between.
sub open_session
{
	my ($run, $role, $dbname) = @_;
	my $session = { in => '', out => '' };
	$session->{harness} = IPC::Run::start(
		[
			$run->{node}->installed_command('psql'), '-X', '-q', '-v', 'VERBOSITY=verbose', '-v', 'SHOW_CONTEXT=never',
			'-P', 'pager=off', '-d', $run->{node}->connstr($dbname) . " user='$role'"
		],
		'<', \$session->{in}, '>', \$session->{out}, '2>&1',
		$session->{timer} = IPC::Run::timeout($PostgreSQL::Test::Utils::timeout_default));
	return $session;
}

sub close_sessions
{
	my ($run) = @_;
	for my $session (values %{ delete $run->{sessions} // {} })
	{
		$session->{in} .= "\\q\n";
		eval { $session->{harness}->finish };
	}
	$run->{sessions} = {};
	return;
}

# Runs statements in the session of a role and a database; returns what was printed and the SQLSTATE of the last error.
sub run_sql
{
	my ($run, $role, $dbname, $sql) = @_;
	my $session = $run->{sessions}{"$role $dbname"} //= open_session($run, $role, $dbname);

	$session->{timer}->start($PostgreSQL::Test::Utils::timeout_default);
	$session->{out} = '';
	$session->{in} .= encode_utf8($sql) =~ s/\n*\z/\n/r . "\\echo '$end'\n";
	my $ok = eval {
		$session->{harness}->pump until $session->{out} =~ /^\Q$end\E\n/m;
		1;
	};
	die "the server has not answered to:\n$sql\nbut so far: $session->{out}" unless $ok;
	my ($out) = $session->{out} =~ /\A(.*?)^\Q$end\E\n/ms;
	my ($state) = $out =~ /.*^(?:psql:[^\n]*?: )?(?:ERROR|FATAL):  ([0-9A-Z]{5}):/ms;
	$state //= 'psql' if $out =~ /^(?:invalid command|psql:|\\\w+:)/m;

	# As psql prints errors by default.
	$out =~ s/^((?:ERROR|WARNING|NOTICE|FATAL|INFO|LOG):  )[0-9A-Z]{5}: /$1/gm;
	$out =~ s/^(?:LOCATION:  |LINE \d+: )[^\n]*\n(?:\s+\^\n)?//gm;
	return ($out, $state);
}

sub run_shell
{
	my ($run, $dbname, $text) = @_;
	my $node = $run->{node};
	my $bindir = dirname($node->installed_command('psql'));
	my ($in, $out) = ('set -euo pipefail' . "\n" . encode_utf8($text), '');

	local %ENV = (%ENV,
		PGHOST => $node->host, PGPORT => $node->port, PGDATABASE => $dbname, PGUSER => $run->{superuser},
		PATH => $bindir eq '.' ? $ENV{PATH} : "$bindir:$ENV{PATH}");
	my $cwd = $run->{cwd} //= PostgreSQL::Test::Utils::tempdir();
	my $ok = IPC::Run::run([ 'bash', '-c', "cd '$cwd'; source /dev/stdin" ], '<', \$in, '>', \$out, '2>&1');
	return ($out, $ok ? undef : 'sh');
}

# Runs blocks in a database.  Options: name (of the page, in test descriptions), dbname.  Returns what each printed.
sub run_blocks
{
	my ($node, $blocks, %opt) = @_;
	my $run = { node => $node, sessions => {}, superuser => $opt{superuser} // scalar getpwuid $< };
	my $default = $opt{dbname} // 'postgres';
	my (@printed, $last);

	for my $block (@$blocks)
	{
		my ($role, $dbname, $fails, $run_it) = ($run->{superuser}, $default, '', $block->{language} eq 'sql');
		my $output = $block->{language} eq 'text' && $block->{after} ? $block->{after}{printed} : undef;
		my $where = ($opt{name} // 'page') . ", line $block->{line}";
		for my $test (@{ $block->{tests} })
		{
			if ($test =~ /;\s*\z/)
			{
				my ($out, $state) = run_sql($run, $run->{superuser}, $default, decode_utf8($test));
				is($state, undef, "$where: statements that the page does not show succeed") or diag($out);
				next;
			}
			if ($test eq 'restart')
			{
				close_sessions($run);
				$node->restart;
				next;
			}
			for (split /, */, $test =~ /\Askip\b/ ? 'skip' : $test)
			{
				if (/\Askip\z/) { $run_it = 0 }
				elsif (/\Arun\z/) { $run_it = 1 }
				elsif (/\Aoutput\z/) { $output = $last }
				elsif (/\Aas (\S+)\z/) { $role = $1 }
				elsif (/\Ain (\S+)\z/) { $dbname = $1 }
				elsif (/\Afails (\S+)\z/) { $fails = $1 }
				else { fail("$where: no such instruction for the test: $_") }
			}
		}
		if (defined $output)
		{
			ok(agrees($output, $block->{text}), "$where: the page shows what its statements print")
			  or diag("printed:\n$output\nthe page has:\n$block->{text}");
			next;
		}
		next unless $run_it && length $block->{language};
		# psql would wait for the end of an unfinished statement, and run nothing.
		like($block->{text}, qr/(?:;|^\\\w.*|\\g\w*(?: .*)?)[ \t]*(?:--.*)?\n*\z/m, "$where: the last statement is complete")
		  if $block->{language} eq 'sql';

		my ($out, $state) = $block->{language} eq 'sh' ? run_shell($run, $dbname, decode_utf8($block->{text}))
		  : run_sql($run, $role, $dbname, decode_utf8($block->{text}));
		is($state // '', $fails, $fails ? "$where: the statements fail as the page says" : "$where: the statements succeed")
		  or diag("$block->{text}\nprinted:\n$out");
		$block->{printed} = $last = $out;
		push @printed, $out;
	}
	close_sessions($run);
	return @printed;
}

# Everything that a page may leave behind in a server.
sub roles_of
{
	my ($node) = @_;
	return split /\n/, $node->safe_psql('postgres', q{SELECT rolname FROM pg_roles WHERE rolname !~ '^pg_' ORDER BY 1});
}

sub databases_of
{
	my ($node) = @_;
	return split /\n/, $node->safe_psql('postgres', 'SELECT datname FROM pg_database WHERE NOT datistemplate ORDER BY 1');
}

# Runs a page, its path given from the top directory, in a database "app", and takes away what it has made.
sub run_page
{
	my ($node, $path) = @_;
	my $page = slurp_file(top_directory() . "/$path");
	my %role = map { $_ => 1 } roles_of($node);
	my %database = map { $_ => 1 } databases_of($node);

	subtest $path => sub {
		my @blocks = page_blocks($page);
		$node->safe_psql('postgres', 'CREATE DATABASE app');
		run_blocks($node, \@blocks, name => $path, dbname => 'app');
		my $n = grep { defined $_->{printed} } @blocks;
		cmp_ok($n, '>', 0, "$path has blocks that were run: $n");
	};
	$node->safe_psql('postgres', qq{DROP DATABASE "$_" WITH (FORCE)}) for grep { !$database{$_} } databases_of($node);
	$node->safe_psql('postgres', qq{DROP OWNED BY "$_" CASCADE; DROP ROLE "$_"}) for grep { !$role{$_} } roles_of($node);
	$node->safe_psql('postgres', 'ALTER SYSTEM RESET ALL');
	$node->reload;
	return;
}

1;
