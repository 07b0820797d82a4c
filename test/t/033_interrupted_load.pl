# A statement that is cancelled while it loads the library leaves a session that works.

use strict;
use warnings FATAL => 'all';

use FindBin;
use lib "$FindBin::RealBin/../perl";

use AmtKeys qw(:all);
use Session;
use Test::More;

my $node = new_cluster();
$node->safe_psql('postgres', 'CREATE ROLE web LOGIN');

# The server warns of each setting that the user may not make, and looks for a cancel after each warning.
my $early = join '; ', map { "SET amt_keys.$_ = 'zz'" } qw(token_prefixes roles manager_role header org_claim role_claim db_role nonsense more_nonsense);
my ($cancelled, @broken) = 0;
for my $i (0 .. 199)
{
	my $session = Session->new($node, user => 'web');
	my $milliseconds = 1 + $i % 5;
	my $first = $session->query($early, "SET statement_timeout = $milliseconds", 'SELECT amt_org_id() IS NULL');
	$cancelled++ if $first =~ /57014/;
	my $second = $session->query(("SET statement_timeout = 0") x 3, 'SELECT amt_org_id() IS NULL');
	push @broken, $second unless ($second // '') =~ /^t\z/m; # the timeout may cancel the SET
	$session->quit;
}
note "$cancelled first calls were cancelled";
cmp_ok($cancelled, '>', 0, 'some first calls are cancelled');
is_deeply(\@broken, [], 'the second call works in every session');

done_testing();
