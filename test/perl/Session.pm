# A psql that stays connected, so that a test can have several sessions at once.
#
# PostgreSQL's own BackgroundPsql differs from version to version and waits for each answer before the next session can be
# asked.  Here asking and answering are apart: send() to several sessions, then receive() from each.  What psql prints and
# what it complains of come together, errors as "ERROR:  42501": the SQLSTATE and nothing else.

package Session;

use strict;
use warnings FATAL => 'all';

use IO::Handle;
use IO::Select;
use IPC::Run;
use PostgreSQL::Test::Utils;
use Time::HiRes qw(time);

my $marker = '-- answered --';

# Options: dbname, user, options (PGOPTIONS), verbosity.
sub new
{
	my ($class, $node, %opt) = @_;
	my $connstr = $node->connstr($opt{dbname} // 'postgres');
	$connstr .= " user='$opt{user}'" if defined $opt{user};
	local $ENV{PGOPTIONS} = $opt{options} // '';
	my $in = IO::Handle->new;
	my $out = IO::Handle->new;
	my $psql = IPC::Run::start(
		[
			$node->installed_command('psql'), '-XAtq', '-v', 'VERBOSITY=' . ($opt{verbosity} // 'sqlstate'),
			'-d', $connstr
		],
		'<pipe', $in, '>pipe', $out, '2>&1');
	$in->blocking(1);
	$in->autoflush(1);
	return bless { psql => $psql, in => $in, out => $out, buffer => '' }, $class;
}

sub send
{
	my ($self, @sql) = @_;
	local $SIG{PIPE} = 'IGNORE';
	print { $self->{in} } (map { "$_\n;\n" } @sql), "\\echo $marker\n";
	return $self;
}

# The answer to the oldest send() that has none yet; undef if the server has closed the connection.
sub receive
{
	my ($self, $timeout) = @_;
	my $until = time + ($timeout // $PostgreSQL::Test::Utils::timeout_default);

	while ($self->{buffer} !~ /^\Q$marker\E\n/m)
	{
		return undef unless $self->read_more($until - time);
	}
	(my $answer, $self->{buffer}) = $self->{buffer} =~ /\A(.*?)^\Q$marker\E\n(.*)\z/ms;
	chomp $answer;
	return $answer;
}

# Is there an answer, or the connection closed, within so many seconds?
sub answers_within
{
	my ($self, $seconds) = @_;
	my $until = time + $seconds;

	while ($self->{buffer} !~ /^\Q$marker\E\n/m)
	{
		return 0 unless $self->can_read($until - time);
		return 1 unless $self->read_more(1);
	}
	return 1;
}

# Is there something to read, or the end, within so many seconds?  A signal, as when a child ends, only interrupts the wait.
sub can_read
{
	my ($self, $seconds) = @_;
	my $select = IO::Select->new($self->{out});
	my $until = time + $seconds;

	do
	{
		my $left = $until - time;
		return 1 if $select->can_read($left > 0 ? $left : 0);
	} while (time < $until);
	return 0;
}

# False at the end.
sub read_more
{
	my ($self, $seconds) = @_;
	die "no answer in time; so far: $self->{buffer}\n" unless $self->can_read($seconds);
	return sysread $self->{out}, $self->{buffer}, 65536, length $self->{buffer};
}

sub query
{
	my ($self, @sql) = @_;
	return $self->send(@sql)->receive;
}

# The process that serves this session.
sub backend
{
	my ($self) = @_;
	return $self->{backend} //= $self->query('SELECT pg_backend_pid()');
}

sub quit
{
	my ($self) = @_;
	return unless defined $self->{psql};
	local $SIG{PIPE} = 'IGNORE';
	close $self->{in};
	local $/;
	my $rest = readline $self->{out};
	close $self->{out};
	(delete $self->{psql})->finish;
	return $rest;
}

sub DESTROY
{
	my ($self) = @_;
	local ($?, $!, $@);
	return unless defined $self->{psql};
	$self->{psql}->signal('TERM');
	$self->quit;
	return;
}

1;
