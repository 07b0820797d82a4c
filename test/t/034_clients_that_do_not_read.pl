# Clients that do not read hold up nobody else: their sessions can be terminated, and send them no messages in the midst of our work.

use strict;
use warnings FATAL => 'all';

use FindBin;
use lib "$FindBin::RealBin/../perl";

use AmtKeys qw(:all);
use Session;
use PostgreSQL::Test::Utils;
use Test::More;

my $node = new_cluster(conf => 'max_worker_processes = 0');
my $token = create_key($node);

# psql does not read on while nobody reads what it prints.
{
	my $session = Session->new($node, verbosity => 'default');
	my $pid = $session->backend;
	$session->send(q{SELECT count(set_config('amt_keys.' || repeat('a', 1000000) || i, 'x', false)) FROM generate_series(1, 5) AS i},
		'SELECT amt_org_id()');
	ok(wait_until(sub { $node->safe_psql('postgres', "SELECT wait_event FROM pg_stat_activity WHERE pid = $pid") eq 'ClientWrite' }),
		'the server waits for the client, with warnings about settings, while the library is loaded');
	is($node->safe_psql('postgres', "SELECT pg_terminate_backend($pid, 30000)"), 't', 'that session can be terminated');
	$session->quit;
}

# The first proof after a start makes the table, with a place to run scrypt held. And no worker can start.
{
	$node->restart;
	my $session = Session->new($node, verbosity => 'default');
	my $answer = $session->query('SET client_min_messages = debug5', "SELECT name FROM amt_verify('$token')");
	like($answer, qr/^DEBUG:  /m, 'a client may ask for debug messages');
	like($answer, qr/^a key$/m, 'and gets its answer');
	unlike($answer, qr/SubTransaction/, 'but gets none while memory is made for the key');
	unlike($answer, qr/background worker/, 'nor what the log says of the worker');
	like(slurp_file($node->logfile), qr/could not start its background worker/, 'which the log does say');
	is($node->safe_psql('postgres', 'SELECT warm_keys FROM amt_stat'), 1, 'the key is in the memory');
	is($session->query('SHOW client_min_messages') =~ s/^DEBUG:.*\n//gmr, 'debug5', 'the client\'s setting is as before');
	$session->quit;
}

done_testing();
