# Stored hashes are scrypt of the secret, as another implementation has it (Python's hashlib), and hashes that it makes verify here.

use strict;
use warnings FATAL => 'all';

use FindBin;
use lib "$FindBin::RealBin/../perl";

use AmtKeys;
use IPC::Run;
use PostgreSQL::Test::Utils;
use Session;
use Test::More;

# One line for each line: "check SECRET PHC" is answered "good" or "bad", "make SECRET SALT-IN-HEX LN R P LENGTH" by a PHC string.
my $python = <<'PYTHON';
import base64, hashlib, hmac, sys

def decode(s):
    return base64.b64decode(s + "=" * (-len(s) % 4), validate=True)

def encode(b):
    return base64.b64encode(b).decode().rstrip("=")

def scrypt(secret, salt, ln, r, p, length):
    return hashlib.scrypt(secret.encode(), salt=salt, n=1 << ln, r=r, p=p, dklen=length, maxmem=1 << 30)

for line in sys.stdin:
    what, secret, *rest = line.split()
    if what == "check":
        empty, name, parameters, salt, digest = rest[0].split("$")
        assert empty == "" and name == "scrypt"
        ln, r, p = (int(x.split("=")[1]) for x in parameters.split(","))
        digest = decode(digest)
        assert len(digest) == 32 and len(decode(salt)) == 16
        print("good" if hmac.compare_digest(digest, scrypt(secret, decode(salt), ln, r, p, len(digest))) else "bad")
    else:
        salt = bytes.fromhex(rest[0])
        ln, r, p, length = (int(x) for x in rest[1:])
        print(f"$scrypt$ln={ln},r={r},p={p}${encode(salt)}${encode(scrypt(secret, salt, ln, r, p, length))}")
PYTHON

sub ask_python
{
	my @lines = @_;
	my ($in, $out, $err) = (join('', map { "$_\n" } @lines), '', '');
	IPC::Run::run([ 'python3', '-c', $python ], '<', \$in, '>', \$out, '2>', \$err) or die "python3 failed: $err";
	return split /\n/, $out;
}

unless (eval { ask_python('check x $scrypt$ln=1,r=1,p=1$AAAAAAAAAAAAAAAAAAAAAA$AAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA'); 1 })
{
	plan skip_all => 'no python3 with hashlib.scrypt';
}

my $node = new_cluster();
my $s = Session->new($node);
my $secret = sub { $_[0] =~ /\Aamt_[0-9A-Za-z]+_(.*)\z/ ? $1 : die };

# Hashes made here, with the default parameters and others; the last two take more memory than OpenSSL allows by itself.
for my $parameters ([ 14, 8, 1 ], [ 1, 1, 1 ], [ 4, 8, 1 ], [ 10, 1, 16 ], [ 6, 16, 3 ], [ 3, 33, 7 ], [ 16, 8, 1 ], [ 15, 8, 3 ])
{
	my ($ln, $r, $p) = @$parameters;
	my @rows = split /\n/, $s->query(
		'RESET amt_keys.scrypt_r', 'RESET amt_keys.scrypt_p',
		"SET amt_keys.scrypt_ln = $ln", "SET amt_keys.scrypt_r = $r", "SET amt_keys.scrypt_p = $p",
		q{CREATE TEMP TABLE made AS SELECT n.* FROM generate_series(1, 3) AS i, amt_create_key('key ' || i, 'acme', 'viewer') AS n},
		q{SELECT token || ' ' || scrypt_hash FROM made JOIN amt_key USING (key_id)}, 'DROP TABLE made');
	my @checks = map { my ($token, $hash) = split / /; 'check ' . $secret->($token) . " $hash" } @rows;
	is(join(' ', ask_python(@checks)), 'good good good', "ln=$ln, r=$r, p=$p: Python accepts a hash that the server has made");
	like($rows[0], qr/ \$scrypt\$ln=$ln,r=$r,p=$p\$/, "ln=$ln, r=$r, p=$p: a hash that the server has made has these parameters");
	s/(.)( \$scrypt)/($1 eq 'x' ? 'y' : 'x') . $2/e for @checks;
	is(join(' ', ask_python(@checks)), 'bad bad bad', "ln=$ln, r=$r, p=$p: Python refuses another secret");
}

# Hashes made there, of any secret that is allowed, with salts and lengths that we would not choose, imported by the owner.
my @imports = (
	[ 'the example of the documentation', 'xyz789abcdefghij', '00' x 16, 14, 8, 1, 32 ],
	[ 'the shortest secret', '0123456789abcdef', '0123456789abcdef' x 2, 4, 8, 1, 32 ],
	[ 'the longest secret', join('', ('a' .. 'z', '_', '-', '0' .. '9') x 7)  =~ s/\A(.{256}).*\z/$1/r, 'ff' x 16, 4, 8, 1, 32 ],
	[ 'dashes and underscores', '_-_-_-_-_-_-_-_-_-', 'a5' x 16, 4, 8, 1, 32 ],
	[ 'a short salt and hash', 'short-salt-and-hash', '01' x 8, 5, 4, 2, 16 ],
	[ 'a long salt and hash', 'long-salt-and-hash', 'fe' x 64, 5, 4, 2, 64 ],
	[ 'the least of parameters', 'least-parameters', '02' x 16, 1, 1, 1, 32 ],
	[ 'r = 1 and a large p', 'a-large-p-and-little-r', '03' x 16, 10, 1, 64, 32 ],
	[ 'more memory than OpenSSL\'s own limit', 'more-memory-than-usual', '04' x 16, 16, 8, 1, 32 ]);
my $n = 0;
for my $import (@imports)
{
	my ($what, $text, @parameters) = @$import;
	my $id = 'imported' . ++$n;
	my ($hash) = ask_python("make $text @parameters");
	is( $s->query(
			"INSERT INTO amt_key (key_id, org_id, name, role, scrypt_hash, created_at) VALUES ('$id', 'acme', 'imported', 'viewer', '$hash', now())",
			"SELECT key_id FROM amt_verify('amt_${id}_$text')"),
		$id, "the server accepts a hash that Python has made: $what");
	(my $other = $text) =~ s/(.)\z/$1 eq 'x' ? 'y' : 'x'/e;
	is($s->query("SELECT count(*) FROM amt_verify('amt_${id}_$other')"), '0', "the server refuses another secret while the key is warm: $what");
	$s->query('SELECT amt_cache_clear()');
	is($s->query("SELECT count(*) FROM amt_verify('amt_${id}_$other')"), '0', "the server refuses another secret while the key is cold: $what");
	is($s->query("SELECT key_id FROM amt_verify('amt_${id}_$text')"), $id, "the server accepts the right secret after wrong ones: $what");
}

$s->quit;
$node->stop;
done_testing();
