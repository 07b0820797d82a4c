# doc/migrating.md, followed literally with 10,000 keys of the old kind: from SHA-256 hashes, and from scrypt hashes.
# What the old system, its owner and other roles do must neither bring a revoked key back nor get them any rights.
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
use Session;
use Test::More;

my $page = slurp_file(top_directory() . '/doc/migrating.md');
my $tempdir = PostgreSQL::Test::Utils::tempdir();
my $keys = 10_000;

my $node = PostgreSQL::Test::Cluster->new('main');
$node->init;
$node->append_conf('postgresql.conf', "amt_keys.scrypt_ln = 4\nlog_statement = none\nmax_wal_size = 2GB\n");
$node->start;
$node->safe_psql('postgres', 'CREATE ROLE app LOGIN; CREATE ROLE nobody LOGIN');

# The statements of a guide, by what they are for.
sub guide
{
	my ($heading, $table) = @_;
	my @own = page_blocks(page_section($page, $heading));
	my @back = page_blocks(page_section($page, 'The way back'));
	my @import = page_blocks(page_section($page, 'The import'));
	my %guide = (
		role => [ page_blocks(page_section($page, 'The role')) ],
		view => [ grep { $_->{text} =~ /^CREATE VIEW/m } @own ],
		prefixes => [ grep { $_->{text} =~ /token_prefixes/ } @own ],
		one => [ grep { $_->{text} =~ /^SELECT amt\.amt_import_key/ } @own ],
		functions => [ grep { $_->{text} =~ /^CREATE/ } @import ],
		run => [ grep { $_->{text} =~ /^SELECT/ } @import ],
		back => [ grep { $_->{text} =~ /^GRANT|^UPDATE public\.$table / } @back ],
		afterwards => [ page_blocks(page_section($page, 'Afterwards')) ]);
	is(@{ $guide{view} } + @{ $guide{prefixes} } + @{ $guide{one} }, @own, "$heading: each statement has its purpose");
	is(join(' ', map { scalar @{ $guide{$_} } } qw(role view functions run back afterwards)), '1 1 1 1 2 1', "$heading: the guide is complete");
	return \%guide;
}

sub run_guide
{
	my ($dbname, $guide, @what) = @_;
	my @blocks = map { @{ $guide->{$_} } } @what;
	die "@what" unless @blocks;
	return (run_blocks($node, \@blocks, name => "doc/migrating.md, @what", dbname => $dbname))[-1];
}

# A run of the import prints the numbers of keys that were imported, revoked and left out.
sub import_prints
{
	my ($dbname, $guide, $expected, $why) = @_;
	my ($numbers) = run_guide($dbname, $guide, 'run') =~ /^ *(\d+ \| *\d+ \| *\d+)$/m;
	is(($numbers // 'an error') =~ s/ //gr, $expected, $why);
	return;
}

# How many of the tokens in a table verify, by a condition.
sub verified
{
	my ($dbname, $condition) = @_;
	return $node->safe_psql($dbname, "SELECT count(*) FROM token AS t, amt.amt_verify(t.token) WHERE $condition");
}

# The old system changes its table.
sub old_system
{
	my ($dbname, $sql) = @_;
	$node->safe_psql($dbname, $sql, extra_params => [ '-U', 'app' ]);
	return;
}

# The id of the key that stands for a row of the old table.
sub key_of
{
	my ($dbname, $old_id) = @_;
	return $node->safe_psql($dbname, "SELECT key_id FROM key_import.carried WHERE (old).old_id = '$old_id'");
}

# The database belongs to the owner of the old table, who is no superuser.
sub new_database
{
	my ($dbname, $table, $rows, $tokens) = @_;
	$node->safe_psql('postgres', "CREATE DATABASE $dbname OWNER app");
	$node->safe_psql($dbname, 'CREATE SCHEMA amt; CREATE EXTENSION amt_keys SCHEMA amt; CREATE TABLE token (n int PRIMARY KEY, token text)');
	old_system($dbname, "CREATE TABLE $table");
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

subtest 'keys move from a table of SHA-256 hashes' => sub {
	my $guide = guide('From a table of SHA-256 hashes', 'api_keys');
	my @alphabet = ('0' .. '9', 'a' .. 'z', 'A' .. 'Z');
	my @tokens = map { "sk_live_$_" . join '', map { $alphabet[ rand @alphabet ] } 1 .. 24 } 1 .. $keys;
	my $rows = join '', map {
		my $revoked = $_ % 10 == 0 ? 't' : 'f';
		my $used = $_ % 2 ? "2026-01-02 03:04:05+00" : '\N';
		my $label = $_ == 7 ? '' : $_ == 9 ? 'x' x 300 : "key $_";
		"$_\torganization " . $_ % 50 . "\t" . sha256_hex($tokens[ $_ - 1 ]) . "\t$label\t2025-06-07 08:09:10+00\t$used\t$revoked\n"
	} 1 .. $keys;
	new_database('hashes', table_of('api_keys'), $rows, join '', map { "$_\t$tokens[ $_ - 1 ]\n" } 1 .. $keys);
	my $native = $node->safe_psql('hashes', "SELECT token FROM amt.amt_create_key('native', 'organization 1', 'owner')");

	is(verified('hashes', 'true'), 0, 'at first no old token verifies');
	run_guide('hashes', $guide, qw(role view functions));
	import_prints('hashes', $guide, '9000|0|0', 'the first run imports every key that is not revoked');
	import_prints('hashes', $guide, '0|0|0', 'a second run finds nothing missing or different');
	is(verified('hashes', 'n % 10 <> 0'), $keys * 9 / 10, 'every old token verifies after the import');
	is(verified('hashes', 'n % 10 = 0'), 0, 'each old token that was revoked is refused');
	is($node->safe_psql('hashes', 'SELECT scrypt_runs FROM amt.amt_stat'), 0, 'no scrypt was run for tokens with a SHA-256 hash');
	is($node->safe_psql('hashes', "SELECT org_id, name, role, token_prefix, created_at = '2025-06-07 08:09:10+00', calls FROM amt.amt_keys WHERE key_id = '" . key_of('hashes', 11) . "'"),
		'organization 11|key 11|editor|old11...|t|1', 'an imported key has its organization, name, role, prefix, time of creation and calls');
	is($node->safe_psql('hashes', "SELECT string_agg(length(name)::text, ' ' ORDER BY token_prefix) FROM amt.amt_keys WHERE token_prefix IN ('old7...', 'old9...')"),
		'7 100', 'labels that are no names have been mended');

	# Both are in force, and the old system is in charge.
	old_system('hashes', q{UPDATE api_keys SET revoked = true WHERE id = 1; DELETE FROM api_keys WHERE id = 2;
		UPDATE api_keys SET revoked = false, label = label WHERE id = 3; UPDATE api_keys SET last_used_at = now() WHERE id = 4;
		BEGIN; UPDATE api_keys SET revoked = true WHERE id = 5; ROLLBACK;
		UPDATE api_keys SET label = 'renamed' WHERE id = 14; UPDATE api_keys SET sha256 = upper(sha256) WHERE id = 16});
	old_system('hashes', sprintf q{UPDATE api_keys SET sha256 = '%s' WHERE id = 15;
		INSERT INTO api_keys VALUES (20001, 'acme', '%s', 'late', now(), NULL, false), (20002, 'acme', '%s', E'no\x01name', now(), NULL, false)},
		map { sha256_hex($_) } 'a-new-token', 'a-late-token', 'a-token-without-a-name');
	import_prints('hashes', $guide, '3|4|1', 'a run carries over what the old system has changed, and leaves out a row that does not fit');
	is(verified('hashes', 'n IN (1, 2)'), 0, 'a key that the old system has revoked or deleted is refused after the next run');
	is(verified('hashes', 'n IN (3, 4, 5, 16)'), 4, 'keys that the old system has not really changed go on');
	is($node->safe_psql('hashes', "SELECT calls FROM amt.amt_keys WHERE key_id = '" . key_of('hashes', 3) . "'"), 2, 'keys that go on keep their calls');
	is($node->safe_psql('hashes', "SELECT name FROM amt.amt_verify('$tokens[13]')"), 'renamed', 'a key that the old system has renamed has the new name');
	is(verified('hashes', 'n = 15'), 0, 'a token that the old system has replaced is refused after the next run');
	is($node->safe_psql('hashes', "SELECT name FROM amt.amt_verify('a-new-token')"), 'key 15', 'the token that replaces it verifies');
	is($node->safe_psql('hashes', "SELECT name FROM amt.amt_verify('a-late-token')"), 'late', 'a key that the old system has created verifies after the next run');
	old_system('hashes', 'DELETE FROM api_keys WHERE id = 20002; UPDATE api_keys SET revoked = false WHERE id = 1');
	import_prints('hashes', $guide, '1|0|0', 'a key that only the old system had revoked is imported when it is valid there again');
	is(verified('hashes', 'n = 1'), 1, 'the token of such a key verifies again');

	# The extension is in charge, and the old system goes on writing its table.
	is($node->safe_psql('hashes', "SELECT amt.amt_revoke('$tokens[5]'), amt.amt_revoke('" . key_of('hashes', 8) . "'), amt.amt_revoke('old10...')"), 't|t|f',
		'imported keys are revoked in the extension, by token and by id');
	$node->safe_psql('hashes', q{UPDATE amt.amt_keys SET suspended_at = now() WHERE token_prefix IN ('old11...', 'old12...', 'old18...');
		UPDATE amt.amt_keys SET suspended_at = NULL WHERE token_prefix = 'old12...';
		UPDATE amt.amt_keys SET name = 'named here' WHERE token_prefix = 'old17...'});
	my $rotated = $node->safe_psql('hashes', "SELECT token FROM amt.amt_rotate_key('" . key_of('hashes', 13) . "')");
	like($rotated, qr/^amt_/, 'an imported key is replaced by a native key');
	old_system('hashes', 'UPDATE api_keys SET label = label, revoked = revoked, sha256 = sha256, last_used_at = now() WHERE id < 20');
	import_prints('hashes', $guide, '0|0|0', 'a run carries nothing over when the old system saves rows without a change');
	is(verified('hashes', 'n IN (6, 8, 11, 13, 18)'), 0, 'a saved row brings back no key that was revoked, suspended or replaced in the extension');
	is(verified('hashes', 'n IN (12, 17)'), 2, 'a saved row ends no key that was resumed or renamed in the extension');

	old_system('hashes', q{UPDATE api_keys SET label = 'changed' WHERE id IN (6, 11, 17);
		CREATE TABLE kept AS SELECT * FROM api_keys WHERE id IN (8, 18); DELETE FROM api_keys WHERE id IN (8, 18)});
	import_prints('hashes', $guide, '0|3|0', 'a run revokes a key that was changed or suspended in the extension when its row changes or goes');
	is(verified('hashes', 'n IN (6, 11, 17)'), 0, 'a changed row brings back no key that was revoked, suspended or changed in the extension');
	old_system('hashes', 'INSERT INTO api_keys SELECT * FROM kept; UPDATE api_keys SET revoked = true WHERE id IN (6, 11)');
	import_prints('hashes', $guide, '0|0|0', 'a run does not import the token of a key that was revoked or suspended in the extension');
	old_system('hashes', 'UPDATE api_keys SET revoked = false WHERE id IN (6, 11)');
	import_prints('hashes', $guide, '0|0|0', 'a run does not import such a token when the old system takes its revocation back');
	is(verified('hashes', 'n IN (6, 8, 11, 18)'), 0, 'a row that comes back brings back no key that was revoked or suspended in the extension');

	# A person suspends the key while the run revokes it for a change of its row.
	my ($person, $run) = (Session->new($node, dbname => 'hashes'), Session->new($node, dbname => 'hashes', user => 'key_import'));
	$person->send(q{BEGIN; UPDATE amt.amt_keys SET suspended_at = now() WHERE token_prefix = 'old19...'})->receive;
	old_system('hashes', q{UPDATE api_keys SET label = 'changed' WHERE id = 19});
	$run->send('SELECT * FROM key_import.run()');
	ok($node->poll_query_until('hashes', q{SELECT count(*) = 1 FROM pg_stat_activity WHERE usename = 'key_import' AND wait_event_type = 'Lock'}), 'a run waits for a person who is suspending the key');
	$person->send('COMMIT')->receive;
	is($run->receive, '0|1|0', 'a key that is suspended while the run revokes it is not imported again');
	is(verified('hashes', 'n = 19'), 0, 'the token of such a key is refused');

	# The way back.
	old_system('hashes', 'UPDATE api_keys SET revoked = true WHERE id = 1');
	import_prints('hashes', $guide, '0|1|0', 'the last run carries over the last revocation');
	run_guide('hashes', $guide, 'back');
	is($node->safe_psql('hashes', q{SELECT string_agg(id::text, ' ' ORDER BY id) FROM api_keys WHERE revoked AND id < 20}),
		'1 6 8 10 11 13 17 18 19', 'the way back revokes in the old table the keys that were revoked, suspended or replaced in the extension');
	is($node->safe_psql('hashes', q{SELECT count(*) FROM api_keys WHERE revoked}), $keys / 10 + 8, 'the way back revokes nothing else in the old table');

	run_guide('hashes', $guide, 'one');
	is($node->safe_psql('hashes', "SELECT token_prefix, name FROM amt.amt_verify('sk_live_8Jb2mW5qXc7NfT0y') JOIN amt.amt_keys USING (key_id, name)"),
		'sk_live_8J...|One key', 'one key can be imported by itself');

	old_system('hashes', 'TRUNCATE api_keys');
	like(run_guide('hashes', $guide, 'run'), qr/^ *0 \| *89\d\d \| *0$/m, 'a run after a TRUNCATE of the old table revokes the keys that were imported');
	is(verified('hashes', 'true'), 0, 'no old token verifies after a TRUNCATE of the old table and a run');
	is($node->safe_psql('hashes', "SELECT count(*) FROM (VALUES ('$native'), ('$rotated'), ('sk_live_8Jb2mW5qXc7NfT0y')) AS t (token), amt.amt_verify(token)"), 3,
		'a run leaves alone the keys that it has not imported');
	run_guide('hashes', $guide, 'afterwards');
};

subtest 'keys move from a table of scrypt hashes' => sub {
	my $guide = guide('From a table of scrypt hashes', 'scrypt_keys');

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

	run_guide('scrypt', $guide, qw(role view functions));
	import_prints('scrypt', $guide, '9000|0|0', 'the first run imports every scrypt hash that is not revoked');
	is(verified('scrypt', 'n <= 100'), 0, 'without their prefix, old tokens are unknown');
	run_guide('scrypt', $guide, 'prefixes');
	ok($node->poll_query_until('scrypt', "SELECT amt.amt_org_id() IS NULL AND current_setting('amt_keys.token_prefixes') = 'acme, amt'"),
		'the prefix of the old tokens is known after the reload');
	import_prints('scrypt', $guide, '0|0|0', 'a second run finds no scrypt hash missing or different');
	is(verified('scrypt', 'n % 10 <> 0'), $keys * 9 / 10, 'every old token verifies when its prefix is known');
	is(verified('scrypt', 'n % 10 = 0'), 0, 'each old token that was revoked is refused when its prefix is known');
	is($node->safe_psql('scrypt', q{SELECT count(*) FROM token AS t, amt.amt_verify(t.token || 'x') WHERE n <= 100}), 0, 'a wrong secret of an old token is refused');
	is($node->safe_psql('scrypt', "SELECT token_prefix, org_id, name FROM amt.amt_keys WHERE key_id = 'id11'"),
		'acme_id11...|organization 11|key 11', 'an imported key has its displayed prefix, organization and name');

	old_system('scrypt', q{UPDATE scrypt_keys SET revoked_at = now() WHERE id = 'id21'; DELETE FROM scrypt_keys WHERE id = 'id22';
		UPDATE scrypt_keys SET name = 'renamed' WHERE id = 'id26';
		UPDATE scrypt_keys SET (n, salt, hash) = (SELECT n, salt, hash FROM scrypt_keys WHERE id = 'id1') WHERE id = 'id27'});
	import_prints('scrypt', $guide, '2|4|0', 'a run carries over what the old system has changed');
	is(verified('scrypt', 'n IN (21, 22, 23)'), 1, 'a key that the old system has revoked or deleted is refused after the next run, whatever its hash');
	is($node->safe_psql('scrypt', 'SELECT name FROM token AS t, amt.amt_verify(t.token) WHERE n = 26'), 'renamed', 'a key that the old system has renamed goes on under its id');
	is(verified('scrypt', 'n = 27'), 0, 'a secret that the old system has replaced is refused after the next run');
	is($node->safe_psql('scrypt', q{SELECT name FROM token AS t, amt.amt_verify(replace(t.token, 'id1_', 'id27_')) WHERE n = 1}), 'key 27', 'the secret that replaces it verifies');

	like($node->safe_psql('scrypt', "SELECT token FROM amt.amt_rotate_key('acme_id24...')"), qr/^acme_/, 'a replaced key has the first prefix of the list');
	is($node->safe_psql('scrypt', "SELECT amt.amt_revoke('id25')"), 't', 'an imported key is revoked in the extension');
	old_system('scrypt', q{UPDATE scrypt_keys SET name = 'changed', salt = salt WHERE id = 'id25'; UPDATE scrypt_keys SET revoked_at = NULL WHERE id = 'id24'});
	import_prints('scrypt', $guide, '0|0|0', 'a run imports no scrypt hash whose key was revoked or replaced in the extension');
	is(verified('scrypt', 'n IN (24, 25)'), 0, 'a changed row brings back no scrypt key that was revoked or replaced in the extension');
	run_guide('scrypt', $guide, 'back');
	is($node->safe_psql('scrypt', q{SELECT string_agg(id, ' ' ORDER BY id) FROM scrypt_keys WHERE revoked_at > '2026-02-01'}), 'id21 id24 id25',
		'the way back revokes in the old table the keys that were revoked or replaced in the extension');

	# The owner of the old table may now use the schema, for the way back.  One function in it has a superuser's rights.
	my (undef, undef, $stderr) = $node->psql('scrypt', 'SELECT key_import.run()', extra_params => [ '-U', 'app' ], on_error_stop => 1);
	like($stderr, qr/permission denied for table carried/, 'the owner of the old table cannot run the import');
	(undef, undef, $stderr) = $node->psql('scrypt', q{SELECT key_import.import_scrypt('stolen', 'x', 'x', 'x', 'owner', 'x', NULL, now(), NULL)},
		extra_params => [ '-U', 'app' ], on_error_stop => 1);
	like($stderr, qr/permission denied for function import_scrypt/, 'nobody but the role of the import may store a scrypt hash');

	run_guide('scrypt', $guide, 'afterwards');
	is($node->safe_psql('scrypt', q{SELECT count(*) FROM pg_namespace WHERE nspname = 'key_import'}), 0, 'all that the guide has made is gone afterwards');
	is(verified('scrypt', 'n IN (21, 22, 23)'), 1, 'the imported keys are not gone afterwards');
};

subtest 'the import gives nobody any rights' => sub {
	my $guide = guide('From a table of SHA-256 hashes', 'api_keys');
	new_database('hostile', table_of('api_keys'), join('', map { "$_\tacme\t" . sha256_hex("token $_") . "\tkey\t2025-06-07\t\\N\tf\n" } 1 .. 3),
		join('', map { "$_\ttoken $_\n" } 1 .. 3));

	# The owner of schema public and of the old table lays traps before and after.
	my $trap = q{INSERT INTO public.ran VALUES (current_user); BEGIN EXECUTE 'ALTER ROLE app SUPERUSER';
		EXCEPTION WHEN insufficient_privilege THEN NULL; END};
	my $rights = q{SELECT rolsuper OR rolbypassrls OR rolcreaterole FROM pg_roles WHERE rolname = 'app'};
	old_system('hostile', qq{CREATE TABLE ran (by_role name); GRANT INSERT ON ran TO PUBLIC;
		CREATE FUNCTION trap() RETURNS text LANGUAGE plpgsql AS \$\$ BEGIN $trap; RETURN 'x'; END \$\$;
		CREATE FUNCTION trap(a text, b bigint) RETURNS text LANGUAGE plpgsql AS \$\$ BEGIN $trap; RETURN a || b::text; END \$\$;
		CREATE FUNCTION "left"(a text, b bigint) RETURNS text LANGUAGE plpgsql AS \$\$ BEGIN $trap; RETURN a; END \$\$;
		CREATE OPERATOR || (FUNCTION = trap, LEFTARG = text, RIGHTARG = bigint);
		ALTER TABLE api_keys ENABLE ROW LEVEL SECURITY;
		CREATE POLICY trap ON api_keys USING (public.trap() = 'x')});
	run_guide('hostile', $guide, qw(role view functions));
	old_system('hostile', qq{CREATE VIEW imported AS SELECT trap() AS key_id; CREATE VIEW old_key AS SELECT trap() AS token_id;
		CREATE VIEW carried AS SELECT trap() AS token_id;
		CREATE FUNCTION run() RETURNS text LANGUAGE plpgsql AS \$\$ BEGIN $trap; RETURN 'x'; END \$\$});
	import_prints('hostile', $guide, '3|0|0', 'policies of the old table hide no key from the import');
	old_system('hostile', q{UPDATE api_keys SET revoked = true WHERE id = 1});
	import_prints('hostile', $guide, '0|1|0', 'a run carries a revocation over whatever is in schema public');
	is($node->safe_psql('hostile', 'SELECT count(*) FROM ran'), 0, 'no function of the old table or of schema public runs in an import');
	is($node->safe_psql('hostile', $rights), 'f', 'the owner of schema public and of the old table gets no rights by an import');

	# Before PostgreSQL 16 the owner of an empty table can make a view of it.
	if ($node->pg_version < 16)
	{
		old_system('hostile', q{DROP POLICY trap ON api_keys; ALTER TABLE api_keys DISABLE ROW LEVEL SECURITY; TRUNCATE api_keys;
			CREATE RULE "_RETURN" AS ON SELECT TO api_keys DO INSTEAD
			SELECT 1::bigint AS id, 'acme' AS org_id, repeat('0', 64) AS sha256, trap() AS label, now() AS created_at, now() AS last_used_at, false AS revoked});
		run_guide('hostile', $guide, 'run');
		is($node->safe_psql('hostile', "SELECT string_agg(DISTINCT by_role, ' ') FROM ran"), 'key_import', 'an old table that has become a view runs its functions as the role of the import');
		is($node->safe_psql('hostile', $rights), 'f', 'the owner of an old table that has become a view gets no rights');
	}

	# A role without any privilege.
	is($node->safe_psql('hostile', q{SELECT count(*) FROM pg_proc WHERE pronamespace = 'key_import'::regnamespace AND prosecdef}), 0, 'no function of this import has other rights than its caller');
	is($node->safe_psql('hostile', q{SELECT count(*) FROM pg_trigger WHERE tgrelid = 'api_keys'::regclass AND NOT tgisinternal}), 0, 'the old table has no trigger of the import');
	is($node->safe_psql('hostile', q{SELECT count(*) FROM pg_proc WHERE prorettype = 'trigger'::regtype AND pronamespace::regnamespace::text NOT IN ('pg_catalog', 'amt')}), 0,
		'there is no trigger function that a role could put on a table of its own');
	my $native = $node->safe_psql('hostile', "SELECT token FROM amt.amt_create_key('native', 'globex', 'owner')");
	for my $role ('nobody', 'app')
	{
		for my $sql ('SELECT key_import.run()', 'DELETE FROM key_import.carried', 'SELECT * FROM key_import.old_key', 'SELECT * FROM key_import.ended')
		{
			my (undef, undef, $stderr) = $node->psql('hostile', $sql, extra_params => [ '-U', $role ], on_error_stop => 1);
			like($stderr, qr/permission denied for schema key_import/, "$role cannot run: $sql");
		}
	}
	is($node->safe_psql('hostile', "SELECT count(*) FROM amt.amt_verify('$native')"), 1, 'a native key outlives what roles without privileges have tried');
	run_guide('hostile', $guide, 'afterwards');
};

$node->stop;
done_testing();
