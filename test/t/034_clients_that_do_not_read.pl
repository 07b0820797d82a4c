# A session that waits for a client that does not read can be terminated, whatever message of ours it sends.

use strict;
use warnings FATAL => 'all';

use FindBin;
use lib "$FindBin::RealBin/../perl";

use AmtKeys qw(:all);
use Session;
use Test::More;

my $node = new_cluster(conf => 'max_worker_processes = 0');
my $token = create_key($node);

# psql does not read on while nobody reads what it prints.
sub terminates
{
	my ($what, @sql) = @_;
	my $session = Session->new($node, verbosity => 'default');
	my $pid = $session->backend;
	$session->send(@sql);
	ok(wait_until(sub { $node->safe_psql('postgres', "SELECT wait_event FROM pg_stat_activity WHERE pid = $pid") eq 'ClientWrite' }), "the server waits for the client: $what");
	is($node->safe_psql('postgres', "SELECT pg_terminate_backend($pid, 30000)"), 't', "the session ends: $what");
	$session->quit;
	return;
}

terminates('warnings about settings, while the library is loaded',
	q{SELECT count(set_config('amt_keys.' || repeat('a', 1000000) || i, 'x', false)) FROM generate_series(1, 5) AS i},
	'SELECT amt_org_id()');
terminates('no worker can start',
	'SET client_min_messages = log',
	qq{DO \$\$ BEGIN RAISE NOTICE '%', repeat('x', 100000); EXECUTE 'SELECT amt_verify(''$token'') --' || repeat('x', 4000000); END \$\$});

done_testing();
