# PgBouncer in transaction mode: a session serves one client's transaction after another's, so whatever outlives a transaction
# would be seen by a stranger.
#
# Each statement that looks fails by a division by zero where it sees another identity than it must, and with it pgbench.

use strict;
use warnings FATAL => 'all';

use FindBin;
use lib "$FindBin::RealBin/../perl";

use AmtKeys;
use IPC::Run;
use PostgreSQL::Test::Utils;
use Test::More;

my $clients = 200;
my $each = 20;
my $sessions = 8;
my $organizations = 50;
my $keys = 2 * $organizations;

my $node = new_cluster();
my $bouncer;

# --- PgBouncer ---------------------------------------------------------------

# Debian keeps it where only root's PATH leads.
local $ENV{PATH} = "$ENV{PATH}:/usr/sbin";
my ($major, $minor) = `pgbouncer --version` =~ /^PgBouncer (\d+)\.(\d+)/ or die 'no PgBouncer';
# Before 1.21 it did not know that a named statement belongs to a client, not to a session.
my $tracks_statements = $major > 1 || $minor >= 21;
my $directory = PostgreSQL::Test::Utils::tempdir_short();

sub start_bouncer
{
	my %setting = (
		unix_socket_dir => $directory,
		listen_port => $node->port,
		auth_type => 'any',
		pool_mode => 'transaction',
		default_pool_size => $sessions,
		max_client_conn => $clients,
		listen_backlog => $clients,    # they come all at once
		$tracks_statements ? (max_prepared_statements => 100) : ());
	append_to_file("$directory/pgbouncer.ini", join "\n",
		'[databases]', 'postgres = user=app host=' . $node->host . ' port=' . $node->port,
		'[pgbouncer]', (map { "$_ = $setting{$_}" } sort keys %setting), '');

	my $log = "$PostgreSQL::Test::Utils::log_path/pgbouncer.log";
	$bouncer = IPC::Run::start([ 'pgbouncer', "$directory/pgbouncer.ini" ], '<', \undef, '>', $log, '2>&1');
	wait_until(sub { -S "$directory/.s.PGSQL." . $node->port }) or die "PgBouncer does not start: $log";
	return;
}

sub stop_bouncer
{
	$bouncer->kill_kill if $bouncer;
	$bouncer = undef;
	return;
}

END
{
	local $?;
	stop_bouncer();
}

# --- what the clients do -------------------------------------------------------

# In the simple protocol pgbench puts the values into the text as they are.
sub scripts
{
	my ($protocol) = @_;
	my $value = $protocol eq 'simple' ? 'quote_literal' : '';
	my $key = "\\set n random(1, $keys)\n"
	  . 'SELECT ' . join(', ', map { "$value($_) AS $_" } qw(token key_id org_id role))
	  . ", nextval('presented_' || n) AS times FROM made WHERE n = :n \\gset\n";
	my $nobody = "SELECT 1 / (num_nonnulls(amt_org_id(), amt_role(), amt_actor(), amt_key_id()) = 0)::int;\n";
	my $itself = 'SELECT 1 / ((amt_org_id(), amt_role(), amt_key_id()) IS NOT DISTINCT FROM (:org_id, :role, :key_id)'
	  . " AND amt_actor() IS NULL)::int;\n";
	my $verify = 'SELECT 1 / count(*) FROM amt_verify(:token, identify => true)'
	  . " WHERE (key_id, org_id, role) = (:key_id, :org_id, :role);\n";
	my $set = 'SELECT ' . join(', ', map { "set_config('amt_keys.$_', :$_, false)" } qw(org_id role key_id)) . ";\n";
	my $in_transaction = "$nobody$verify$itself$itself";

	return {
		commit => "${key}BEGIN;\n${in_transaction}COMMIT;\n",
		rollback => "${key}BEGIN;\n${in_transaction}ROLLBACK;\n",
		read_only => "${key}BEGIN READ ONLY;\n${in_transaction}COMMIT;\n",
		statement => "$key$verify$nobody",
		nobody => "BEGIN;\n${nobody}${nobody}COMMIT;\n",
		leak => "${key}BEGIN;\n${set}${itself}COMMIT;\n",
	};
}

# A thread for each client: pgbench prepares a statement without looking at the thread's other clients meanwhile, which may be
# those that hold the sessions it waits for.
sub start_clients
{
	my ($protocol, $each, @names) = @_;
	my $connstr = "host=$directory port=" . $node->port . ' dbname=postgres';
	return start_pgbench($node, [ @{ scripts($protocol) }{@names} ], { connstr => $connstr },
		'-c', $clients, '-j', $clients, '-t', $each, '-M', $protocol);
}

# The keys, and for each a sequence, which knows how often the key was presented whatever becomes of a transaction.
$node->safe_psql('postgres', qq{
	CREATE TABLE made AS
		SELECT n, k.* FROM generate_series(1, $keys) n, amt_create_key('key ' || n, 'org-' || n % $organizations,
			(ARRAY['viewer', 'editor', 'admin', 'owner'])[1 + n % 4]) k;
	CREATE UNIQUE INDEX ON made (n);
	SELECT format('CREATE SEQUENCE presented_%s', n) FROM made \\gexec

	CREATE ROLE app LOGIN;
	GRANT EXECUTE ON FUNCTION amt_verify TO app;
	GRANT SELECT ON made TO app;
	GRANT USAGE ON ALL SEQUENCES IN SCHEMA public TO app;});
start_bouncer();

for my $protocol (qw(simple extended prepared))
{
  SKIP:
	{
		skip "PgBouncer $major.$minor does not track prepared statements", 1 if $protocol eq 'prepared' && !$tracks_statements;
		$node->safe_psql('postgres', 'SELECT amt_cache_clear()');
		ok(finish_pgbench(start_clients($protocol, $each, qw(commit rollback read_only statement nobody))),
			"$clients clients see no identity but their own: $protocol");
	}
}
is($node->safe_psql('postgres', q{SELECT count(*) FROM pg_stat_activity WHERE usename = 'app'}), $sessions,
	"the clients are served by $sessions sessions");

is($node->safe_psql('postgres', q{
		SELECT key_id, calls, pg_sequence_last_value(('presented_' || n)::regclass) FROM amt_keys JOIN made USING (key_id)
		WHERE calls IS DISTINCT FROM pg_sequence_last_value(('presented_' || n)::regclass)}),
	'', 'each key has as many calls as it was verified');
is($node->safe_psql('postgres', 'SELECT verified - (SELECT sum(calls) FROM amt_keys) FROM amt_stat'), 0,
	'all keys together have as many calls as were verified');
cmp_ok(stat_of($node, 'verified'), '>', $clients * $each, 'there were many verifications');

# The look itself: who sets an identity for the session is found out.
$node->safe_psql('postgres', 'GRANT SET ON PARAMETER amt_keys.org_id, amt_keys.role, amt_keys.key_id TO app');
{
	my $run = start_clients('simple', 5, qw(leak statement));
	ok(!$run->{harness}->finish, 'an identity that outlives its transaction would be seen');
	like($run->{err}, qr/division by zero/, 'an identity that outlives its transaction is seen by the next one of its session');
}

stop_bouncer();
done_testing();
