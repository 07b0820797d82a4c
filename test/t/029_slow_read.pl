# A key that is ended while the pages of its verification are read does not verify.

use strict;
use warnings FATAL => 'all';

use FindBin;
use lib "$FindBin::RealBin/../perl";

use AmtKeys qw(:all);
use Session;
use PostgreSQL::Test::Utils;
use Test::More;

# While there is a file with a path, reads of that path wait.
my $dir = PostgreSQL::Test::Utils::tempdir();
my $flag = "$dir/slow";
open my $source, '>', "$dir/shim.c" or die;
print $source <<"C";
#define _GNU_SOURCE
#include <dlfcn.h>
#include <fcntl.h>
#include <stdio.h>
#include <string.h>
#include <sys/uio.h>
#include <unistd.h>
static void wait_if_slow(int fd)
{
	char slow[256] = "", name[64], path[1024] = "";
	int file = open("$flag", O_RDONLY);
	if (file < 0)
		return;
	(void) !read(file, slow, sizeof(slow) - 1);
	close(file);
	snprintf(name, sizeof(name), "/proc/self/fd/%d", fd);
	(void) !readlink(name, path, sizeof(path) - 1);
	if (slow[0] == 0 || strstr(path, slow) == NULL)
		return;
	close(open("$flag.waits", O_CREAT | O_WRONLY, 0600));
	for (int i = 0; i < 6000 && access("$flag", F_OK) == 0; i++)
		usleep(10000);
}
#define SLOW(name, ...) \\
	wait_if_slow(fd); \\
	return ((ssize_t (*) (int, __VA_ARGS__, off_t)) dlsym(RTLD_NEXT, name))
ssize_t pread(int fd, void *buf, size_t n, off_t at)
{
	SLOW("pread", void *, size_t) (fd, buf, n, at);
}
ssize_t pread64(int fd, void *buf, size_t n, off_t at)
{
	SLOW("pread64", void *, size_t) (fd, buf, n, at);
}
ssize_t preadv(int fd, const struct iovec *iov, int n, off_t at)
{
	SLOW("preadv", const struct iovec *, int) (fd, iov, n, at);
}
ssize_t preadv64(int fd, const struct iovec *iov, int n, off_t at)
{
	SLOW("preadv64", const struct iovec *, int) (fd, iov, n, at);
}
C
close $source;
plan skip_all => 'needs cc' if system("cc -shared -fPIC -o $dir/shim.so $dir/shim.c -ldl") != 0;

my $node;
{
	local $ENV{LD_PRELOAD} = join ' ', "$dir/shim.so", $ENV{LD_PRELOAD} // ();
	$node = new_cluster(conf => 'autovacuum = off');
}
my $own = create_key($node);
my $imported = 'sk_live_0123456789abcdefghijklmnopqrstuv';
my $id = $node->safe_psql('postgres', "SELECT amt_import_key(sha256('$imported'), 'Old client', 'acme', 'viewer')");
my $index = $node->safe_psql('postgres', q{SELECT pg_relation_filepath('amt_key_sha256_key')});

for my $end ([ 'nothing', 'SELECT 1', $id ],
	[ 'a suspension', "UPDATE amt_keys SET suspended_at = now() WHERE key_id = '$id'", '' ],
	[ 'a resumption', "UPDATE amt_keys SET suspended_at = NULL WHERE key_id = '$id'", $id ],
	[ 'a revocation', "SELECT amt_revoke('$id')", '' ])
{
	my ($what, $sql, $answer) = @$end;
	local $ENV{LD_PRELOAD} = join ' ', "$dir/shim.so", $ENV{LD_PRELOAD} // ();
	$node->restart;
	my $session = Session->new($node);
	verify($session, $own);
	append_to_file($flag, $index);
	$session->send("SELECT key_id FROM amt_verify('$imported')");
	ok(wait_until(sub { -e "$flag.waits" }), "a verification waits for its index, then there is $what");
	$node->safe_psql('postgres', $sql);
	unlink $flag, "$flag.waits";
	is($session->receive, $answer, "its answer is that of the key after $what");
	$session->quit;
}

done_testing();
