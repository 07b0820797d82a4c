# OpenSSL may get no memory for a SHA-256.  That is an error, and no answer: nothing is refused, revoked or imported by it.

use strict;
use warnings FATAL => 'all';

use FindBin;
use lib "$FindBin::RealBin/../perl";

use AmtKeys qw(:all);
use Session;
use PostgreSQL::Test::Utils;
use Test::More;

my $dir = PostgreSQL::Test::Utils::tempdir();
my $flag = "$dir/fail";
open my $source, '>', "$dir/shim.c" or die;
print $source <<"C";
#define _GNU_SOURCE
#include <dlfcn.h>
#include <unistd.h>
#include <stddef.h>
int EVP_DigestInit_ex(void *context, const void *algorithm, void *engine)
{
	int (*real) (void *, const void *, void *) = (int (*) (void *, const void *, void *)) dlsym(RTLD_NEXT, "EVP_DigestInit_ex");
	return access("$flag", F_OK) == 0 ? 0 : real(context, algorithm, engine);
}
C
close $source;
plan skip_all => 'needs cc' if system("cc -shared -fPIC -o $dir/shim.so $dir/shim.c -ldl") != 0;

my $node;
{
	local $ENV{LD_PRELOAD} = join ' ', "$dir/shim.so", $ENV{LD_PRELOAD} // ();
	$node = new_cluster();
}
my $s = Session->new($node);
my $token = create_key($node);
my $foreign = 'sk_live_0123456789abcdefghij';
my ($digest, $foreign_digest, $other_digest) = map { $s->query("SELECT sha256('$_')") } $token, $foreign, 'sk_live_other';
# The same token twice: made here, and imported.
is($s->query("SELECT amt_import_key('$digest', 'twin', 'acme', 'editor') <> '', amt_import_key('$foreign_digest', 'foreign', 'acme', 'editor') <> ''"), 't|t', 'two tokens are imported');
is($s->query(verify_sql($_)), 1, 'a token works') for $token, $foreign;

sub failing
{
	my ($sql) = @_;
	open my $file, '>', $flag or die;
	close $file;
	my $answer = $s->query($sql);
	unlink $flag or die;
	return $answer;
}

is(failing(verify_sql($foreign)), 'ERROR:  53200', 'a token that cannot be looked up is not answered as unknown');
is(failing("SELECT amt_revoke('$foreign')"), 'ERROR:  53200', 'a token that cannot be looked up is not answered as gone');
is(failing("SELECT amt_revoke('$token')"), 'ERROR:  53200', 'no key is revoked while its twin cannot be looked up');
is(failing("SELECT amt_import_key('$other_digest', 'shown', 'acme', 'editor', 'sk_live_other')"), 'ERROR:  53200', 'a displayed prefix that may be the token is refused');
is(failing('SELECT amt_authenticate()'), 'ERROR:  53200', 'an identity that cannot be sealed is an error');
is(failing("SELECT amt_import_key('$other_digest', 'hidden', 'acme', 'editor') <> ''"), 't', 'a token without one is imported');
is($s->query(verify_sql($_)), 1, 'the token still works') for $token, $foreign;
is($s->query("SELECT amt_revoke('$token'), amt_revoke('$foreign')"), 't|t', 'both are revoked when OpenSSL has memory');
is($s->query(verify_sql($_)), 0, 'the token is dead') for $token, $foreign;

$s->quit;
$node->stop;
done_testing();
