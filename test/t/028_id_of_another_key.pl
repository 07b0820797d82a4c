# A token that was revoked and imported again has an entry about the earlier key, as long as that one's calls are not written.
# A verification then reads the row a second time, and its answer is what it sees there: whoever revoked the key in between may
# rely on it.  A library around OpenSSL stops it before it looks again.

use strict;
use warnings FATAL => 'all';

use FindBin;
use lib "$FindBin::RealBin/../perl";

use AmtKeys qw(:all);
use Session;
use PostgreSQL::Test::Utils;
use Test::More;

my $dir = PostgreSQL::Test::Utils::tempdir();
my ($stop, $stopped) = ("$dir/stop", "$dir/stopped");
open my $source, '>', "$dir/shim.c" or die;
print $source <<"C";
#define _GNU_SOURCE
#include <dlfcn.h>
#include <fcntl.h>
#include <stddef.h>
#include <unistd.h>
int EVP_DigestInit_ex(void *context, const void *algorithm, void *engine)
{
	static int calls;
	int (*real) (void *, const void *, void *) = (int (*) (void *, const void *, void *)) dlsym(RTLD_NEXT, "EVP_DigestInit_ex");
	if (access("$stop", F_OK) == 0 && ++calls == 2)
	{
		calls = 0;
		close(open("$stopped", O_CREAT | O_WRONLY, 0600));
		while (access("$stop", F_OK) == 0)
			usleep(1000);
	}
	return real(context, algorithm, engine);
}
C
close $source;
plan skip_all => 'needs cc' if system("cc -shared -fPIC -o $dir/shim.so $dir/shim.c -ldl") != 0;

my $node;
{
	local $ENV{LD_PRELOAD} = join ' ', "$dir/shim.so", $ENV{LD_PRELOAD} // ();
	$node = new_cluster(conf => "amt_keys.usage_flush_interval = 1h\n");
}
my $token = 'sk_live_0123456789abcdefghij';
my $import = "SELECT amt_import_key(sha256('$token'), 'k', 'acme', 'editor') <> ''";
my ($verifier, $other) = map { Session->new($node) } 1 .. 2;

sub touch
{
	my ($path) = @_;
	open my $file, '>', $path or die;
	close $file;
}

# The key is imported again while the entry has a call of the earlier one. A worker that has just started may write that call;
# later it waits for its interval.
sub make_another_key
{
	my $answer;
	for (1 .. 20)
	{
		$other->query("SELECT amt_revoke('$token')");
		$answer = $other->query($import, verify_sql($token), 'BEGIN', "SELECT amt_revoke('$token')", $import, 'COMMIT');
		wait_until(sub { $other->query(q{SELECT count(*) FROM pg_stat_activity WHERE backend_type = 'amt_keys usage writer' AND wait_event_type = 'Extension'}) eq '1' }, 20);
		last if $other->query('SELECT calls_pending > 0 FROM amt_stat') eq 't';
	}
	return $answer;
}

# Something is done between the two looks; the answer to the verification.
sub meanwhile
{
	my (@sql) = @_;
	touch($stop);
	$verifier->send(verify_sql($token));
	for (1 .. 3000)
	{
		last if -e $stopped || $verifier->answers_within(0);
		select undef, undef, undef, 0.01;
	}
	ok(-e $stopped, 'the verification looks again') or return 'it did not look again';
	my $done = $other->query(@sql);
	unlink $stop, $stopped;
	is($done, 't', 'the other session has done it');
	return $verifier->receive;
}

$verifier->query(verify_sql('x'));
is(make_another_key(), "t\n1\nt\nt", 'the token belongs to another key');
is(meanwhile('SELECT true'), 1, 'the other key works');
is($other->query('SELECT calls FROM amt_keys'), 1, 'the call is that key\'s');

for (
	[ 'revoked', "SELECT amt_revoke('$token')" ],
	[ 'suspended', 'UPDATE amt_keys SET suspended_at = now() RETURNING true' ],
	[ 'expired', q{UPDATE amt_keys SET expires_at = clock_timestamp() RETURNING true} ])
{
	my ($end, $sql) = @$_;
	make_another_key();
	is(meanwhile($sql), 0, "a key that was $end between the two looks does not work");
}

# A transaction that makes the other key itself does not look again: nobody else can end it.
$other->query("SELECT amt_revoke('$token')", $import, verify_sql($token));
is($other->query('BEGIN', "SELECT amt_revoke('$token')", $import, verify_sql($token), 'ROLLBACK'), "t\nt\n1", 'a key works in the transaction that makes it');
is($other->query('SELECT calls FROM amt_keys'), 1, 'its call is not the earlier key\'s');

$_->quit for $verifier, $other;
$node->stop;
done_testing();
