# doc/migrating.md, followed literally with 10,000 keys of the old kind: from SHA-256 hashes, and from scrypt hashes.
#
# The guide for @better-auth/api-key is followed in test/node/migrate.test.js, with keys that the library made.

use strict;
use warnings FATAL => 'all';

use FindBin;
use lib "$FindBin::RealBin/../perl";

use Digest::SHA qw(sha256_hex);
use Pages;
use PostgreSQL::Test::Cluster;
use PostgreSQL::Test::Utils;
use Test::More;

my $page = slurp_file(top_directory() . '/doc/migrating.md');
my $tempdir = PostgreSQL::Test::Utils::tempdir();
my $keys = 10_000;

my $node = PostgreSQL::Test::Cluster->new('main');
$node->init;
$node->append_conf('postgresql.conf', "amt_keys.scrypt_ln = 4\nlog_statement = none\nmax_wal_size = 2GB\n");
$node->start;

# The statements of a guide, by what they are for.
sub guide
{
	my ($heading) = @_;
	my @blocks = grep { $_->{language} eq 'sql' } page_blocks(page_section($page, $heading));
	my %blocks = map {
		my $text = $_->{text};
		my $what = $text =~ /^CREATE VIEW/ ? 'view' : $text =~ /^BEGIN/ ? 'import' : $text =~ /AS missing/ ? 'check'
		  : $text =~ /^(?:UPDATE|DELETE)/ ? 'back' : $text =~ /token_prefixes/ ? 'prefixes' : $text =~ /amt_import_key/ ? 'one' : die $text;
		$what => $_
	} @blocks;
	is(scalar(keys %blocks), scalar(@blocks), "$heading: each statement has its purpose");
	return \%blocks;
}

sub run_block
{
	my ($dbname, $guide, $what) = @_;
	my ($printed) = run_blocks($node, [ $guide->{$what} // die $what ], name => "doc/migrating.md, $what", dbname => $dbname);
	return $printed;
}

# How many of the tokens in a table verify, by a condition.
sub verified
{
	my ($dbname, $condition) = @_;
	return $node->safe_psql($dbname, "SELECT count(*) FROM token AS t, amt.amt_verify(t.token) WHERE $condition");
}

sub new_database
{
	my ($dbname, $table, $rows, $tokens) = @_;
	$node->safe_psql('postgres', "CREATE DATABASE $dbname");
	$node->safe_psql($dbname, 'CREATE SCHEMA amt; CREATE EXTENSION amt_keys SCHEMA amt; CREATE TABLE token (n int PRIMARY KEY, token text);'
		. "CREATE TABLE $table");
	append_to_file("$tempdir/$dbname.rows", $rows);
	append_to_file("$tempdir/$dbname.tokens", $tokens);
	my ($name) = $table =~ /^(\w+)/;
	$node->safe_psql($dbname, "\\copy $name FROM '$tempdir/$dbname.rows'\n\\copy token FROM '$tempdir/$dbname.tokens'\n");
	return;
}

# The columns as the page names them.
sub table_of
{
	my ($name) = @_;
	my ($columns) = $page =~ /`$name \(([^)]*)\)`/s or die "the page does not describe $name";
	return "$name ($columns)";
}

sub check_import
{
	my ($dbname, $guide, $expected) = @_;
	my $printed = run_block($dbname, $guide, 'check');
	like($printed, qr/^\s*$expected \|\s*0 \|\s*0$/m, "$dbname: the check finds nothing missing or different");
	return;
}

subtest 'keys move from a table of SHA-256 hashes' => sub {
	my $guide = guide('From a table of SHA-256 hashes');
	my @alphabet = ('0' .. '9', 'a' .. 'z', 'A' .. 'Z');
	my @tokens = map { "sk_live_$_" . join '', map { $alphabet[ rand @alphabet ] } 1 .. 24 } 1 .. $keys;
	my $rows = join '', map {
		my $revoked = $_ % 10 == 0 ? 't' : 'f';
		my $used = $_ % 2 ? "2026-01-02 03:04:05+00" : '\N';
		my $label = $_ == 7 ? '' : $_ == 9 ? 'x' x 300 : "key $_";
		"$_\torganization " . $_ % 50 . "\t" . sha256_hex($tokens[ $_ - 1 ]) . "\t$label\t2025-06-07 08:09:10+00\t$used\t$revoked\n"
	} 1 .. $keys;
	new_database('hashes', table_of('api_keys'), $rows, join '', map { "$_\t$tokens[ $_ - 1 ]\n" } 1 .. $keys);

	is(verified('hashes', 'true'), 0, 'at first no old token verifies');
	run_block('hashes', $guide, $_) for 'view', 'import';
	check_import('hashes', $guide, $keys * 9 / 10);
	is(verified('hashes', 'n % 10 <> 0'), $keys * 9 / 10, 'every old token verifies after the import');
	is(verified('hashes', 'n % 10 = 0'), 0, 'each old token that was revoked is refused');
	is($node->safe_psql('hashes', 'SELECT scrypt_runs FROM amt.amt_stat'), 0, 'no scrypt was run for tokens with a SHA-256 hash');
	is($node->safe_psql('hashes', "SELECT org_id, name, role, created_at = '2025-06-07 08:09:10+00' FROM amt.amt_keys WHERE key_id = 'old11'"),
		'organization 11|key 11|editor|t', 'an imported key has its organization, name, role and time of creation');
	is($node->safe_psql('hashes', "SELECT calls FROM amt.amt_keys WHERE key_id = 'old11'"), 1, 'a call of an imported key is counted');
	is($node->safe_psql('hashes', "SELECT string_agg(length(name)::text, ' ' ORDER BY key_id) FROM amt.amt_keys WHERE key_id IN ('old7', 'old9')"),
		'7 100', 'labels that are no names have been mended');

	# Both are in force, and the old system is in charge.
	$node->safe_psql('hashes', q{UPDATE api_keys SET revoked = true WHERE id = 1; DELETE FROM api_keys WHERE id = 2;
		UPDATE api_keys SET revoked = false WHERE id = 3; UPDATE api_keys SET last_used_at = now() WHERE id = 4});
	is(verified('hashes', 'n IN (1, 2)'), 0, 'a key that the old system revokes or deletes is refused at once');
	is(verified('hashes', 'n IN (3, 4)'), 2, 'keys that the old system changes otherwise go on');
	is($node->safe_psql('hashes', "SELECT calls FROM amt.amt_keys WHERE key_id = 'old3'"), 2, 'keys that go on keep their calls');
	$node->safe_psql('hashes', q{BEGIN; UPDATE api_keys SET revoked = true WHERE id = 5; ROLLBACK});
	is(verified('hashes', 'n = 5'), 1, 'a revocation that the old system rolls back did not happen');
	$node->safe_psql('hashes', sprintf q{INSERT INTO api_keys VALUES (20001, 'acme', '%s', 'late', now(), NULL, false);
		INSERT INTO token VALUES (20001, 'a late token')}, sha256_hex('a-late-token'));
	is($node->safe_psql('hashes', "SELECT name FROM amt.amt_verify('a-late-token')"), 'late', 'a key that the old system creates verifies at once');
	check_import('hashes', $guide, $keys * 9 / 10 - 1);

	# The extension is in charge, and then no more.
	is($node->safe_psql('hashes', "SELECT amt.amt_revoke('$tokens[5]'), amt.amt_revoke('old8'), amt.amt_revoke('old10')"), 't|t|f',
		'imported keys are revoked in the extension, by token and by id');
	$node->safe_psql('hashes', "UPDATE amt.amt_keys SET suspended_at = now() WHERE key_id IN ('old11', 'old12');
		UPDATE amt.amt_keys SET suspended_at = NULL WHERE key_id = 'old12'");
	my $rotated = $node->safe_psql('hashes', "SELECT token FROM amt.amt_rotate_key('old13')");
	like($rotated, qr/^amt_/, 'an imported key is replaced by a native key');
	run_block('hashes', $guide, 'back');
	is($node->safe_psql('hashes', q{SELECT string_agg(id::text, ' ' ORDER BY id) FROM api_keys WHERE revoked AND id < 20}),
		'1 6 8 10 11 13', 'the way back revokes in the old table the keys that were revoked, suspended or replaced in the extension');
	is($node->safe_psql('hashes', q{SELECT count(*) FROM api_keys WHERE revoked}), $keys / 10 + 5, 'the way back revokes nothing else in the old table');

	my $id = run_block('hashes', $guide, 'one');
	is($node->safe_psql('hashes', "SELECT token_prefix, name FROM amt.amt_verify('sk_live_8Jb2mW5qXc7NfT0y') JOIN amt.amt_keys USING (key_id, name)"),
		'sk_live_8J...|One key', 'one key can be imported by itself');
};

subtest 'keys move from a table of scrypt hashes' => sub {
	my $guide = guide('From a table of scrypt hashes');

	# As another implementation computes them; ten of them cost as much as they do there.
	append_to_file("$tempdir/make.py", <<"PY");
import hashlib, secrets
rows, tokens = open("$tempdir/made.rows", "w"), open("$tempdir/made.tokens", "w")
for i in range(1, $keys + 1):
    secret, salt, n = secrets.token_urlsafe(24), secrets.token_bytes(16), 16384 if i <= 10 else 16
    hash = hashlib.scrypt(secret.encode(), salt=salt, n=n, r=8, p=1, dklen=64 if i % 2 else 32)
    revoked = "2026-01-01" if i % 10 == 0 else "\\\\N"
    rows.write(f"id{i}\\torganization {i % 50}\\tkey {i}\\t{n}\\t\\\\\\\\x{salt.hex()}\\t\\\\\\\\x{hash.hex()}\\t2025-06-07\\t{revoked}\\n")
    tokens.write(f"{i}\\tacme_id{i}_{secret}\\n")
PY
	command_ok([ 'python3', "$tempdir/make.py" ], 'Python has made hashes');
	new_database('scrypt', table_of('scrypt_keys'), slurp_file("$tempdir/made.rows"), slurp_file("$tempdir/made.tokens"));

	run_block('scrypt', $guide, $_) for 'view', 'import';
	is(verified('scrypt', 'n <= 100'), 0, 'without their prefix, old tokens are unknown');
	run_block('scrypt', $guide, 'prefixes');
	ok($node->poll_query_until('scrypt', "SELECT amt.amt_org_id() IS NULL AND current_setting('amt_keys.token_prefixes') = 'acme, amt'"),
		'the prefix of the old tokens is known after the reload');
	check_import('scrypt', $guide, $keys * 9 / 10);
	is(verified('scrypt', 'n % 10 <> 0'), $keys * 9 / 10, 'every old token verifies when its prefix is known');
	is(verified('scrypt', 'n % 10 = 0'), 0, 'each old token that was revoked is refused when its prefix is known');
	is($node->safe_psql('scrypt', q{SELECT count(*) FROM token AS t, amt.amt_verify(t.token || 'x') WHERE n <= 100}), 0, 'a wrong secret of an old token is refused');
	is($node->safe_psql('scrypt', "SELECT token_prefix, org_id, name FROM amt.amt_keys WHERE key_id = 'id11'"),
		'acme_id11...|organization 11|key 11', 'an imported key has its displayed prefix, organization and name');

	$node->safe_psql('scrypt', q{UPDATE scrypt_keys SET revoked_at = now() WHERE id = 'id21'; DELETE FROM scrypt_keys WHERE id = 'id22'});
	is(verified('scrypt', 'n IN (21, 22, 23)'), 1, 'a key that the old system revokes or deletes is refused at once, whatever its hash');
	like($node->safe_psql('scrypt', "SELECT token FROM amt.amt_rotate_key('acme_id24...')"), qr/^acme_/, 'a replaced key has the first prefix of the list');
	is($node->safe_psql('scrypt', "SELECT amt.amt_revoke('id25')"), 't', 'an imported key is revoked in the extension');
	run_block('scrypt', $guide, 'back');
	is($node->safe_psql('scrypt', q{SELECT string_agg(id, ' ' ORDER BY id) FROM scrypt_keys WHERE revoked_at > '2026-02-01'}), 'id21 id24 id25',
		'the way back revokes in the old table the keys that were revoked or replaced in the extension');

	my @blocks = page_blocks(page_section($page, 'Afterwards'));
	run_blocks($node, \@blocks, name => 'doc/migrating.md, afterwards', dbname => 'scrypt');
	is($node->safe_psql('scrypt', q{SELECT count(*) FROM pg_trigger WHERE tgname = 'follow_old_keys'}), 0, 'the trigger that follows the old table is gone afterwards');
	is(verified('scrypt', 'n IN (21, 22, 23)'), 1, 'the imported keys are not gone afterwards');
};

$node->stop;
done_testing();
