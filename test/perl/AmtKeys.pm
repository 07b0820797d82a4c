# What the tests of a whole server have in common.

package AmtKeys;

use strict;
use warnings FATAL => 'all';

use Exporter qw(import);
use IPC::Run;
use PostgreSQL::Test::Cluster;
use PostgreSQL::Test::Utils;
use Time::HiRes qw(sleep time);

our @EXPORT = qw(
  new_cluster create_key id_of calls_of stored_calls stat_of worker_pids start_pgbench finish_pgbench
  kill_postmaster start_again accepts_connections wait_until
);

# A running server with the extension in its database postgres.  Options: name, conf, and those of init().
sub new_cluster
{
	my (%opt) = @_;
	my $conf = delete $opt{conf} // '';
	my $node = PostgreSQL::Test::Cluster->new(delete $opt{name} // 'main');

	$node->init(%opt);
	# scrypt costs next to nothing, where its cost is not the subject.
	$node->append_conf('postgresql.conf', "amt_keys.scrypt_ln = 4\nlog_statement = none\n$conf\n");
	$node->start;
	$node->safe_psql('postgres', 'CREATE EXTENSION amt_keys');
	return $node;
}

# A new key's token.
sub create_key
{
	my ($node, $dbname) = @_;
	return $node->safe_psql($dbname // 'postgres', q{SELECT token FROM amt_create_key('a key', 'acme', 'editor')});
}

sub id_of
{
	my ($token) = @_;
	return $token =~ /\Aamt_([0-9A-Za-z]+)_/ ? $1 : die;
}

# Calls as the view shows them, and as they are stored.
sub calls_of
{
	my ($node, $id, $dbname) = @_;
	return $node->safe_psql($dbname // 'postgres', "SELECT calls FROM amt_keys WHERE key_id = '$id'");
}

sub stored_calls
{
	my ($node, $id, $dbname) = @_;
	return $node->safe_psql($dbname // 'postgres', "SELECT calls FROM amt_key_usage WHERE key_id = '$id'");
}

# A counter of amt_stat.
sub stat_of
{
	my ($node, $name) = @_;
	return $node->safe_psql('postgres', "SELECT $name FROM amt_stat");
}

# The usage writers that run now, of one database or of all.
sub worker_pids
{
	my ($node, $dbname) = @_;
	my $where = defined $dbname ? "AND datname = '$dbname'" : '';
	return split /\n/,
	  $node->safe_psql('template1', "SELECT pid FROM pg_stat_activity WHERE backend_type = 'amt_keys usage writer' $where");
}

# pgbench in the background, in the database postgres or the one given as an option { dbname => ... }, or wherever
# { connstr => ... } leads.  The scripts are SQL texts, each as likely as the others.
sub start_pgbench
{
	my ($node, $scripts, @options) = @_;
	my $opt = ref $options[0] ? shift @options : {};
	my $connstr = $opt->{connstr} // $node->connstr($opt->{dbname} // 'postgres');
	my $dir = PostgreSQL::Test::Utils::tempdir();
	my $n = 0;
	my @files = map {
		my $file = "$dir/" . ++$n . '.sql';
		PostgreSQL::Test::Utils::append_to_file($file, $_);
		('-f', $file);
	} @$scripts;
	my %run = (out => '', err => '');

	$run{harness} = IPC::Run::start(
		[ $node->installed_command('pgbench'), '-n', @files, @options, "$connstr application_name=pgbench" ],
		'<', \undef, '>', \$run{out}, '2>', \$run{err},
		IPC::Run::timeout(10 * $PostgreSQL::Test::Utils::timeout_default));
	return \%run;
}

# Did all go well?
sub finish_pgbench
{
	my ($run) = @_;
	my $ok = $run->{harness}->finish;
	Test::More::diag($run->{err}) unless $ok;
	return $ok;
}

# SIGKILL, and wait until it is gone.
sub kill_postmaster
{
	my ($node) = @_;
	my $pid = $node->{_pid};
	$node->kill9;
	wait_until(sub { !kill 0, $pid }) or die 'the postmaster survives';
	return 1;
}

# Start a server whose postmaster was killed, once its last process is gone.
sub start_again
{
	my ($node) = @_;
	my $ok = wait_until(sub { $node->start(fail_ok => 1) });
	die 'the server does not start' unless $ok;
	return;
}

# (psql, given a statement, may be gone before it reads it, and that ends the test.)
sub accepts_connections
{
	my ($node) = @_;
	return PostgreSQL::Test::Utils::run_log([ $node->installed_command('pg_isready'), '-q', '-d', $node->connstr('postgres') ]);
}

sub wait_until
{
	my ($condition, $seconds) = @_;
	my $until = time + ($seconds // $PostgreSQL::Test::Utils::timeout_default);

	while (1)
	{
		my $result = $condition->();
		return $result if $result;
		return 0 if time > $until;
		sleep 0.05;
	}
}

1;
