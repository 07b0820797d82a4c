# doc/secret-scanning.md: its rules find every token that the server makes and no near miss, and its numbers are right.
#
# The regular expressions are taken from the document.  They are written for RE2, and what they use means the same in
# Perl.

use strict;
use warnings FATAL => 'all';

use Compress::Zlib qw(crc32);
use File::Basename qw(dirname);
use PostgreSQL::Test::Cluster;
use PostgreSQL::Test::Utils;
use Test::More;

my $doc = slurp_file(dirname(__FILE__) . '/../../doc/secret-scanning.md');
my @digits = ('0' .. '9', 'A' .. 'Z', 'a' .. 'z');

sub block
{
	my ($language) = @_;
	return $doc =~ /^```$language\n(.*?)^```$/ms ? $1 : die "no block of $language in the document";
}

# The regular expressions in what the two scanners read.
sub regexes
{
	my ($toml, $yaml) = @_;
	return (gitleaks => $toml =~ /^regex = '''(.*)'''$/m, TruffleHog => $yaml =~ /^ +token: '(.*)'$/m);
}

my %rule = regexes(block('toml'), block('yaml'));
my ($gitleaks, $trufflehog) = @rule{qw(gitleaks TruffleHog)};

# What a scanner reports: the first group of each match.
sub findings
{
	my ($regex, $text) = @_;
	my @found;
	while ($text =~ /$regex/gm)
	{
		push @found, $1;
	}
	return \@found;
}

sub checksum
{
	my $rest = crc32($_[0]);
	my $text = '';
	for (1 .. 6)
	{
		$text = $digits[$rest % 62] . $text;
		$rest = int($rest / 62);
	}
	return $text;
}

my $node = PostgreSQL::Test::Cluster->new('main');
$node->init;
$node->append_conf('postgresql.conf', 'amt_keys.scrypt_ln = 4');
$node->start;
$node->safe_psql('postgres', 'CREATE SCHEMA amt; CREATE EXTENSION amt_keys SCHEMA amt; ALTER DATABASE postgres SET search_path = amt');
my @tokens = split /\n/, $node->safe_psql('postgres',
	q{SELECT k.token FROM generate_series(1, 200) n, amt_create_key('key ' || n, 'acme', 'viewer') k});
my ($token, $other) = @tokens;
is(scalar(@tokens), 200, 'there are two hundred tokens to look for');

is($gitleaks, $trufflehog, 'both rules have the same regular expression');

for my $name (sort keys %rule)
{
	my $regex = $rule{$name};
	unlike($regex, qr/\(\?[=!<]|\\[1-9]|[*+?}]\+|\(\?>/, "$name: the rule uses nothing that RE2 lacks");

	subtest "$name finds every token that the server makes" => sub {
		is_deeply(findings($regex, $_), [$_], "$name finds the whole token and nothing else") for @tokens;
	};

	my %in = (
		'an assignment' => "AMT_TOKEN=$token\nX=1",
		'quotes' => qq(token: "$token",),
		'JSON' => qq({"headers":{"Authorization":"Bearer $token"}}),
		'a header' => "Authorization: Bearer $token\r\n",
		'a URL' => "https://api.example/?key=$token&page=2",
		'the end of a sentence' => "The key is $token.",
		'a name before it' => "MY_TOKEN_$token",
		'letters before it' => "xyz$token ",
		'a name after it' => "${token}_old",
		'brackets' => "($token)[$token]",
		'a diff' => "+  key = '$token'\n-  key = ''\n",
		'a line that ends with it' => "a $token\nb",
	);
	for my $where (sort keys %in)
	{
		my @expected = ($token) x (() = $in{$where} =~ /\Q$token\E/g);
		is_deeply(findings($regex, $in{$where}), \@expected, "$name finds a token in $where");
	}
	is_deeply(findings($regex, "$token,$other\n$token $other"), [ $token, $other, $token, $other ], "$name finds several tokens in one text");

	my %near = (
		'one character short' => substr($token, 0, -1),
		'one character long' => "${token}0",
		'the displayed prefix' => substr($token, 0, 16) . '...',
		'a masked token' => substr($token, 0, 17) . '[redacted]',
		'a short key id' => 'amt_' . substr($token, 5),
		'a long key id' => 'amt_x' . substr($token, 4),
		'a capital head' => 'AMT' . substr($token, 3),
		'another head' => 'ant' . substr($token, 3),
		'a hyphen for the separator' => substr($token, 0, 16) . '-' . substr($token, 17),
		'a hyphen in the secret' => substr($token, 0, 40) . '-' . substr($token, 41),
		'a blank in the secret' => substr($token, 0, 40) . ' ' . substr($token, 41),
		'an underscore in the secret' => substr($token, 0, 40) . '_' . substr($token, 41),
		'a line break in the secret' => substr($token, 0, 40) . "\n" . substr($token, 40),
		'a name of the extension' => 'amt_key_event amt_create_key(amt_key_usage_calls)',
		'the example with the shortest secret' => 'amt_abc123_xyz789abcdefghij',
		'a SHA-256' => 'a' x 64,
	);
	for my $what (sort keys %near)
	{
		is_deeply(findings($regex, " $near{$what} "), [], "$name does not take $what for a token");
	}
}

subtest 'the statements of the page print rules for the prefixes in force' => sub {
	my @statements = $doc =~ /^```sql\n(SELECT format\(.*?)^```$/msg;
	is(scalar(@statements), 2, 'the page has one statement for each scanner');
	my $printed = sub {
		my ($prefixes) = @_;
		my $file = "$PostgreSQL::Test::Utils::tmp_check/rules.sql";
		my @outputs;
		for my $statement (@statements)
		{
			unlink $file;
			append_to_file($file, "SET amt_keys.token_prefixes = '$prefixes';\n$statement");
			my ($out, $err) = run_command([ 'psql', '-X', '-q', '-v', 'ON_ERROR_STOP=1', '-d', $node->connstr('postgres'), '-f', $file ]);
			is($err, '', "token_prefixes = $prefixes: a statement of the page runs without a message");
			push @outputs, $out;
		}
		return @outputs;
	};

	is_deeply([ map { "$_\n" } $printed->('amt') ], [ block('toml'), block('yaml') ], 'the statements print the rules of the page for the default prefix');
	my ($toml, $yaml) = $printed->('acme , amt,x9');
	my %several = regexes($toml, $yaml);
	like($toml, qr/^keywords = \["acme_", "amt_", "x9_"\]$/m, 'gitleaks knows each prefix as a keyword');
	like($yaml, qr/^    keywords:\n      - acme_\n      - amt_\n      - x9_\n    regex:$/m, 'TruffleHog knows each prefix as a keyword');
	my $own = $node->safe_psql('postgres', "SET amt_keys.token_prefixes = 'acme, amt, x9'; SELECT token FROM amt_create_key('own prefix', 'acme', 'viewer')");
	like($own, qr/^acme_/, 'a token has the first prefix of the list');
	for my $name (sort keys %several)
	{
		is_deeply(findings($several{$name}, "a $own b\n$token"), [ $own, $token ], "$name finds tokens of each prefix");
		is_deeply(findings($several{$name}, $own =~ s/^acme/other/r), [], "$name finds no token with another prefix");
	}
};

subtest 'the checksum refuses a text that the shape does not' => sub {
	my $lookalike = substr($token, 0, -1) . (substr($token, -1) eq '0' ? '1' : '0');
	is_deeply(findings($gitleaks, $lookalike), [$lookalike], 'a wrong checksum has the right shape');
	is($node->safe_psql('postgres', "SELECT amt_check_token('$lookalike')"), 'f', 'a text of the right shape with a wrong checksum is no token');
	is(checksum(substr $_, 0, -6), substr($_, -6), 'the checksum that the test computes is that of the server') for @tokens;
};

subtest 'the worked example of the page is right' => sub {
	my ($example) = $doc =~ /^(amt_[0-9A-Za-z]{12}_[0-9A-Za-z]{49})$/m or die;
	my ($summed) = $doc =~ /^\| text \| `(.*)` \|$/m or die;
	my ($hex, $decimal) = $doc =~ /^\| CRC-32 \| `0x([0-9a-f]{8})` = (\d+) \|$/m or die;
	my ($checksum) = $doc =~ /^\| read from the bottom, padded to six \| `(.{6})` \|$/m or die;

	is($summed . $checksum, $example, 'the summed text and the checksum make the token');
	is($node->safe_psql('postgres', "SELECT amt_check_token('$example')"), 't', 'the server takes it for a token');
	is(crc32($summed), $decimal, 'the CRC-32 of the page is that of zlib');
	is(hex $hex, $decimal, 'the CRC-32 of the page is the same in hexadecimal');

	my $rest = $decimal;
	my $read = '';
	while ($doc =~ /^\| (\d+) = (\d+) · 62 \+ (\d+) \| digit (\d+): `(.)` \|$/mg)
	{
		my ($left, $quotient, $remainder, $digit, $character) = ($1, $2, $3, $4, $5);
		is($left, $rest, "$left: the line goes on from the one before");
		is($quotient * 62 + $remainder, $left, "$left: the division is right");
		is($digit, $remainder, "$left: the digit is the remainder");
		is($character, $digits[$digit], "$left: the character is that of the digit");
		$read = $character . $read;
		$rest = $quotient;
	}
	is($rest, 0, 'no number is left after the last line');
	is(sprintf('%06s', $read), $checksum, 'the digits, read from the bottom, are the checksum');

	my @lines = $doc =~ /^(amt_\w+)\n(└.*)\n/m or die;
	utf8::decode($lines[1]);
	is(length $lines[1], length $lines[0], 'the drawing is as long as the token');
};

subtest 'the Python program of the page tells a token from another text' => sub {
	my $program = "$PostgreSQL::Test::Utils::tmp_check/is_token.py";
	append_to_file($program, block('python') . "\nimport sys\nprint(''.join('01'[is_token(t)] for t in sys.argv[1:]))\n");
	my ($stdout) = run_command([ 'python3', $program, @tokens[ 0 .. 20 ], substr($token, 0, -1), "${token}0", substr($token, 0, -1) . '-' ]);
	is($stdout, '1' x 21 . '000', 'the Python program of the page agrees with the server');
};

subtest 'a finder revokes a token by showing it' => sub {
	$node->safe_psql('postgres', 'CREATE ROLE finder LOGIN; GRANT USAGE ON SCHEMA amt TO finder');
	my $revoke = sub {
		return $node->safe_psql('postgres', "SELECT amt_revoke('$_[0]')", extra_params => [ '-U', 'finder' ]);
	};
	my $good = sub {
		return $node->safe_psql('postgres', "SELECT count(*) FROM amt_verify('$token')");
	};
	my $body = substr($token, 0, 17) . substr($other, 17, 43);

	is($revoke->(substr $token, 4, 12), 'f', 'a finder cannot revoke a key by its id');
	is($revoke->(substr($token, 0, 16) . '...'), 'f', 'a finder cannot revoke a key by its displayed prefix');
	is($revoke->($body . checksum($body)), 'f', 'a finder cannot revoke a key by a guess with a right checksum');
	is($good->(), 1, 'the key still works after attempts without the token');
	is($revoke->($token), 't', 'a finder revokes a key by its token');
	is($good->(), 0, 'a key that a finder has revoked is refused');
	is($revoke->($token), 'f', 'a key is revoked only once');
};

$node->stop;
done_testing();
