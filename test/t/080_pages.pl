# The statements in the pages succeed, and print what the pages say.
#
# How a page says so is described in test/perl/Pages.pm.  AMT_PAGES names other pages than all of them.

use strict;
use warnings FATAL => 'all';

use FindBin;
use lib "$FindBin::RealBin/../perl";

use Pages;
use PostgreSQL::Test::Cluster;
use PostgreSQL::Test::Utils;
use Test::More;

my @pages = split ' ', $ENV{AMT_PAGES} // 'README.md doc/reference.md doc/secret-scanning.md';

my $node = PostgreSQL::Test::Cluster->new('main');
$node->init(allows_streaming => 'logical');
$node->append_conf('postgresql.conf', 'log_statement = none');
$node->start;

run_page($node, $_) for @pages;

$node->stop;
done_testing();
