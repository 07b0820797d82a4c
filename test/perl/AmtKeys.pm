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
  superuser new_cluster create_key id_of calls_of stored_calls stat_of worker_pids start_pgbench finish_pgbench
  kill_postmaster start_again accepts_connections wait_until
);
# By "use AmtKeys qw(:all)", for tests that have no functions of these names themselves.
our @EXPORT_OK = (
	@EXPORT, qw(
	  configure new_database create_keys insert_key_sql secret_of with_id wrong_secret verify_sql verify revoke
	  events_of is_written flush wait_for_worker wait_for_no_worker wait_for_lock is_gone wait_for_log
	  answered start_load end_load begin_stop await_stop stop_seconds seconds
	));
our %EXPORT_TAGS = (all => \@EXPORT_OK);

# --- servers -------------------------------------------------------------------

# The role that initdb makes: who runs the tests need not be called postgres.
sub superuser
{
	return scalar getpwuid $>;
}

# A running server with the extension in its database postgres. Options: name, conf, and those of init().
sub new_cluster
{
	my (%opt) = @_;
	my $conf = delete $opt{conf} // '';
	my $node = PostgreSQL::Test::Cluster->new(delete $opt{name} // 'main');

	$node->init(%opt);
	# scrypt costs next to nothing, except where its cost is the subject.
	$node->append_conf('postgresql.conf', "amt_keys.scrypt_ln = 4\nlog_statement = none\n$conf\n");
	$node->start;
	$node->safe_psql('postgres', 'CREATE EXTENSION amt_keys');
	return $node;
}

# Change settings, and return when new sessions see them.
sub configure
{
	my ($node, %setting) = @_;

	$node->append_conf('postgresql.conf', "$_ = '$setting{$_}'") for sort keys %setting;
	$node->reload;
	for my $name (sort keys %setting)
	{
		wait_until(
			sub {
				$node->safe_psql('template1', "SELECT current_setting('$name') = '$setting{$name}'
					OR (SELECT setting = '$setting{$name}' FROM pg_settings WHERE name = '$name')") eq 't';
			}) or die "$name does not become $setting{$name}";
	}
	return;
}

# A database with the extension and a key in it, whose token is returned.
sub new_database
{
	my ($node, $name) = @_;
	$node->safe_psql('postgres', "CREATE DATABASE $name");
	$node->safe_psql($name, 'CREATE EXTENSION amt_keys');
	return create_key($node, $name);
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

# Start a server whose postmaster was killed, as soon as its last process is gone.
sub start_again
{
	my ($node) = @_;
	my $ok = wait_until(sub { $node->start(fail_ok => 1) });
	die 'the server does not start' unless $ok;
	return;
}

# psql may be gone before it reads a statement, which would end the test; so this asks pg_isready.
sub accepts_connections
{
	my ($node) = @_;
	return PostgreSQL::Test::Utils::run_log([ $node->installed_command('pg_isready'), '-q', '-d', $node->connstr('postgres') ]);
}

# Ask a server to stop, without waiting for it.
sub begin_stop
{
	my ($node, $mode) = @_;
	PostgreSQL::Test::Utils::system_log($node->installed_command('pg_ctl'), '-D', $node->data_dir, '-m', $mode // 'fast', '--no-wait', 'stop');
	return;
}

# Wait until the server that was asked to stop has stopped.
sub await_stop
{
	my ($node) = @_;
	my $pid = $node->{_pid};
	wait_until(sub { !-e $node->data_dir . '/postmaster.pid' }) or die 'the server does not stop';
	$node->_update_pid(0);
	return;
}

# How long a fast stop takes.
sub stop_seconds
{
	my ($node) = @_;
	return seconds(sub { $node->stop('fast') });
}

# --- keys ----------------------------------------------------------------------

# A new key's token.
sub create_key
{
	my ($node, $dbname) = @_;
	return $node->safe_psql($dbname // 'postgres', q{SELECT token FROM amt_create_key('a key', 'acme', 'editor')});
}

# The tokens of n new keys, made in a session.
sub create_keys
{
	my ($session, $n) = @_;
	return split /\n/,
	  $session->query("SELECT (amt_create_key('key ' || i, 'acme', 'editor')).token FROM generate_series(1, $n) AS i");
}

# What the owner inserts to import a key with a stored hash (an SQL expression of text).
sub insert_key_sql
{
	my ($id, $hash, $org) = @_;
	$org //= 'acme';
	return 'INSERT INTO amt_key (key_id, org_id, name, role, scrypt_hash, created_at) '
	  . "VALUES ('$id', '$org', 'imported', 'editor', $hash, now())";
}

sub id_of
{
	my ($token) = @_;
	return $token =~ /\A[a-z0-9]+_([0-9A-Za-z]+)_/ ? $1 : die;
}

sub secret_of
{
	my ($token) = @_;
	return $token =~ /\A[a-z0-9]+_[0-9A-Za-z]+_(.+)\z/ ? $1 : die;
}

# The same secret under another key id.
sub with_id
{
	my ($token, $id) = @_;
	return "amt_${id}_" . secret_of($token);
}

# The same key id with another secret.
sub wrong_secret
{
	my ($token) = @_;
	my $last = substr $token, -1, 1, '';
	return $token . ($last eq 'a' ? 'b' : 'a');
}

sub verify_sql
{
	my ($token) = @_;
	return "SELECT count(*) FROM amt_verify('$token')";
}

# By a session, or by a new one of a server.
sub verify
{
	my ($where, $token, $dbname) = @_;
	return $where->query(verify_sql($token)) if $where->isa('Session');
	return $where->safe_psql($dbname // 'postgres', verify_sql($token));
}

sub revoke
{
	my ($node, $token, $dbname) = @_;
	return $node->safe_psql($dbname // 'postgres', "SELECT amt_revoke('" . id_of($token) . "')");
}

# --- calls ---------------------------------------------------------------------

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

# The calls in the events of a key's revocations.
sub events_of
{
	my ($node, $id, $dbname) = @_;
	return $node->safe_psql($dbname // 'postgres',
		"SELECT string_agg(calls::text, ' ' ORDER BY event_id) FROM amt_key_event WHERE event = 'revoked' AND key_id = '$id'");
}

# Wait until a key has so many calls in the table.
sub is_written
{
	my ($node, $id, $calls, $dbname) = @_;
	return wait_until(sub { stored_calls($node, $id, $dbname) eq $calls }, 30);
}

sub flush
{
	my ($node, $dbname) = @_;
	return $node->safe_psql($dbname // 'postgres', 'SELECT amt_flush_usage()');
}

# --- processes -----------------------------------------------------------------

# The usage writers that run now, of one database or of all.
sub worker_pids
{
	my ($node, $dbname) = @_;
	my $where = defined $dbname ? "AND datname = '$dbname'" : '';
	return split /\n/,
	  $node->safe_psql('template1', "SELECT pid FROM pg_stat_activity WHERE backend_type = 'amt_keys usage writer' $where");
}

sub wait_for_worker
{
	my ($node, $dbname) = @_;
	return wait_until(sub { worker_pids($node, $dbname) }, 30);
}

sub wait_for_no_worker
{
	my ($node, $dbname) = @_;
	return wait_until(sub { !worker_pids($node, $dbname) }, 30);
}

# Wait until all these backends wait for a lock.
sub wait_for_lock
{
	my ($node, @pids) = @_;
	my $pids = join ',', @pids;
	return wait_until(
		sub {
			$node->safe_psql('template1', "SELECT count(*) FROM pg_stat_activity WHERE pid IN ($pids) AND wait_event_type = 'Lock'") == @pids;
		});
}

sub is_gone
{
	my ($pid, $seconds) = @_;
	return wait_until(sub { !kill 0, $pid }, $seconds);
}

sub wait_for_log
{
	my ($node, $regex) = @_;
	return wait_until(sub { PostgreSQL::Test::Utils::slurp_file($node->logfile) =~ $regex });
}

# --- load ----------------------------------------------------------------------

# pgbench in the background, in the database postgres or the one given as an option { dbname => ... }, or wherever
# { connstr => ... } leads. The scripts are SQL texts, each as likely as the others.
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

# How many transactions have succeeded, as the clients know.
sub answered
{
	my ($run) = @_;
	return $run->{out} =~ /^number of transactions actually processed: (\d+)/m ? $1 : die "$run->{out}$run->{err}";
}

# Clients that verify a token until end_load(), which returns the number of their calls. Options: clients, dbname.
sub start_load
{
	my ($node, $token, %opt) = @_;
	my $clients = $opt{clients} // 4;
	return start_pgbench($node, [ "SELECT count(*) FROM amt_verify(:token);\n" ], { dbname => $opt{dbname} },
		'-c', $clients, '-j', 1, '-T', 600, '-M', 'prepared', '-D', "token=$token");
}

# Terminates the clients' backends. The last call of each may be counted although its answer did not arrive.
sub end_load
{
	my ($node, $run) = @_;
	my $terminate = q{SELECT count(pg_terminate_backend(pid)) FROM pg_stat_activity WHERE application_name = 'pgbench'};
	wait_until(sub { $node->safe_psql('template1', $terminate) eq '0' }) or die 'the load does not end';
	$run->{harness}->finish;
	return answered($run);
}

# --- time ----------------------------------------------------------------------

sub seconds
{
	my ($code) = @_;
	my $start = time;
	$code->();
	return time - $start;
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
