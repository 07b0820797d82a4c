# A disk that takes long for each commit loses no calls: the worker waits for it, and writes more with each commit.

use strict;
use warnings FATAL => 'all';

use FindBin;
use lib "$FindBin::RealBin/../perl";

use AmtKeys qw(:all);
use Session;
use PostgreSQL::Test::Utils;
use Test::More;

my $dir = PostgreSQL::Test::Utils::tempdir();
my $flag = "$dir/slow";
open my $source, '>', "$dir/shim.c" or die;
print $source <<"C";
#define _GNU_SOURCE
#include <dlfcn.h>
#include <unistd.h>
int fdatasync(int fd)
{
	int (*real) (int) = (int (*) (int)) dlsym(RTLD_NEXT, "fdatasync");
	for (int i = 0; i < 230 && access("$flag", F_OK) == 0; i++)
		usleep(10000);
	return real(fd);
}
C
close $source;
plan skip_all => 'needs cc' if system("cc -shared -fPIC -o $dir/shim.so $dir/shim.c -ldl") != 0;

my $node;
{
	local $ENV{LD_PRELOAD} = join ' ', "$dir/shim.so", $ENV{LD_PRELOAD} // ();
	$node = new_cluster(conf => "fsync = on\nwal_sync_method = fdatasync\nautovacuum = off\namt_keys.usage_flush_interval = '1h'");
	my $s = Session->new($node);
	my @tokens = create_keys($s, 1000);
	verify($s, $_) for @tokens;
	$s->quit;
	my $lines = -s $node->logfile;
	open my $file, '>', $flag or die;
	close $file;
	note sprintf 'the stop takes %.1f s', stop_seconds($node);
	unlink $flag or die;
	$node->start;
	is($node->safe_psql('postgres', 'SELECT sum(calls) FROM amt_key_usage'), 1000, 'all calls are written before the server stops, with 2.3 s for each commit');
	unlike(slurp_file($node->logfile, $lines), qr/before the server stopped|terminating background worker/, 'the log reports no lost calls');
}

$node->stop;
done_testing();
