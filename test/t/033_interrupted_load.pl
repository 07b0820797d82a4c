# The library is loaded in one piece or not at all: a cancel waits, and want of memory takes nothing from the identity.

use strict;
use warnings FATAL => 'all';

use FindBin;
use lib "$FindBin::RealBin/../perl";

use AmtKeys qw(:all);
use Session;
use PostgreSQL::Test::Utils;
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

# Memory is refused in pieces of a size while there is a file; if it has a number, only that one of a process's pieces.
my $dir = PostgreSQL::Test::Utils::tempdir();
my $flag = "$dir/fail";
open my $source, '>', "$dir/shim.c" or die;
print $source <<"C";
#include <fcntl.h>
#include <stdlib.h>
#include <unistd.h>
void *__libc_malloc(size_t);
static size_t from, to;
static int pieces;
static int is_refused(void)
{
	char text[8] = "";
	int file = open("$flag", O_RDONLY);
	if (file < 0)
		return 0;
	(void) !read(file, text, sizeof(text) - 1);
	close(file);
	return text[0] == 0 || ++pieces == atoi(text);
}
void *malloc(size_t size)
{
	return from <= size && size < to && is_refused() ? NULL : __libc_malloc(size);
}
__attribute__((constructor)) static void set(void)
{
	from = atol(getenv("FAIL_FROM"));
	to = atol(getenv("FAIL_TO"));
}
C
close $source;

SKIP: {
	skip 'needs cc and glibc', 1 if system("cc -shared -fPIC -o $dir/shim.so $dir/shim.c") != 0 || !-e "$dir/shim.so" || `ldd --version 2>&1` !~ /GLIBC|GNU/;
	my $scopes = join ',', map { sprintf '%03d-%s', $_, 's' x 90 } 1 .. 64;
	# Much; whatever is large; and a copy of the value itself, which the server of version 15 asks malloc() for.
	for my $sizes ([ 4_000_000, 5_000_000 ], [ 6_000, 1_000_000 ], [ 1 + length $scopes, 2 + length $scopes ])
	{
		my $what = "pieces of $sizes->[0] to $sizes->[1] bytes";
		my $poor;
		{
			local @ENV{qw(LD_PRELOAD FAIL_FROM FAIL_TO)} = ("$dir/shim.so", @$sizes);
			$poor = new_cluster(name => "poor_$sizes->[0]");
		}
		$poor->safe_psql('postgres', "CREATE ROLE narrow LOGIN; ALTER ROLE narrow SET amt_keys.org_id = 'acme'; ALTER ROLE narrow SET amt_keys.scopes = '$scopes'");
		my $whole = 'acme|f';
		my $ask = q{SELECT amt_org_id(), amt_has_scope('more')};
		my $session = Session->new($poor, user => 'narrow');
		$session->query('SELECT 1');
		open my $file, '>', $flag or die;
		close $file;
		my $first = $session->query($ask) // '';
		unlink $flag or die;
		my $second = $session->query($ask) // 'no session';
		like($first, qr/\A(?:(?:WARNING: .*\n)*ERROR:  (?:53200|42501)|\Q$whole\E)\z/, "an identity is whole or an error without $what");
		like($second, qr/\A(?:ERROR:  42501|no session|\Q$whole\E)\z/, "it is so when there is memory again after a lack of $what");
		note "$first; $second";
		like($first, qr/\AERROR:  53200\z/, 'the library is not loaded with so little memory') if $sizes->[0] == 4_000_000;
		$session->quit;
		# At login the server itself leaves out what it has no memory for.
		my @answers;
		for my $n (1 .. 8)
		{
			append_to_file($flag, $n);
			$session = Session->new($poor, user => 'narrow');
			$session->query('SELECT 1');
			unlink $flag or die;
			push @answers, $session->query($ask) // 'no session';
			$session->quit;
		}
		note join '; ', @answers;
		is(join('', grep { !/\A(?:ERROR:  42501|no session|\Q$whole\E)\z/ } @answers), '', "an identity is whole or refused after a login without one of the $what");
		$session = Session->new($poor, user => 'narrow');
		is($session->query($ask), $whole, 'another session has the identity');
		$session->quit;
		$poor->stop;
	}
}

done_testing();
