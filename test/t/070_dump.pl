# Dumps: what each kind of role can dump and restore, and what tools do that touch every table.
#
# That a dump of everything by a superuser holds keys, counts and events is the subject of 030_life_of_a_database.pl.

use strict;
use warnings FATAL => 'all';

use FindBin;
use lib "$FindBin::RealBin/../perl";

use PostgreSQL::Test::Cluster;
use PostgreSQL::Test::Utils;
use Test::More;

my $superuser = getpwuid $>; # as initdb names it
my $node = PostgreSQL::Test::Cluster->new('main');
$node->init;
$node->append_conf('postgresql.conf', "amt_keys.scrypt_ln = 4\nlog_statement = none\n");
$node->start;
my $tempdir = PostgreSQL::Test::Utils::tempdir();
my ($major) = $node->safe_psql('postgres', 'SHOW server_version_num') =~ /\A(\d+)\d{4}\z/;

# The owner of a database who is no superuser, and one who makes backups of everything.
$node->safe_psql('postgres', q{
	CREATE ROLE boss LOGIN;
	CREATE ROLE backup LOGIN BYPASSRLS;
	GRANT pg_read_all_data TO backup});

# A database of boss, with the extension in a schema, a table of boss, and keys.
sub new_database
{
	my ($dbname, $schema) = @_;
	$node->safe_psql('postgres', "CREATE DATABASE $dbname OWNER boss");
	$node->safe_psql($dbname, ($schema eq 'public' ? '' : "CREATE SCHEMA $schema;") . qq{
		CREATE EXTENSION amt_keys SCHEMA $schema;
		SET ROLE boss;
		CREATE SCHEMA app;
		CREATE TABLE app.document AS SELECT 'a title' AS title});
	return;
}

sub create_keys
{
	my ($dbname, $schema, $n) = @_;
	return split /\n/, $node->safe_psql($dbname,
		"SELECT token FROM generate_series(1, $n) i, $schema.amt_create_key('key ' || i, 'acme', 'editor')");
}

sub good
{
	my ($dbname, $schema, @tokens) = @_;
	my $values = join ', ', map { "('$_')" } @tokens;
	return $node->safe_psql($dbname, "SELECT count(*) FROM (VALUES $values) AS t (token), $schema.amt_verify(token)");
}

sub dump_to
{
	my ($file, $user, @arguments) = @_;
	my @command = ('pg_dump', '-U', $user, '-f', $file, @arguments);
	return $node->command_ok(\@command, join ' ', 'a dump succeeds:', grep { $_ ne $file } @command);
}

sub dump_fails
{
	my ($user, $error, @arguments) = @_;
	my @command = ('pg_dump', '-U', $user, '-f', "$tempdir/failed", @arguments);
	return $node->command_fails_like(\@command, $error, join ' ', 'a dump fails:', grep { $_ ne "$tempdir/failed" } @command);
}

sub restored_database
{
	my ($statements) = @_;
	$node->safe_psql('postgres', 'DROP DATABASE IF EXISTS restored WITH (FORCE)');
	$node->safe_psql('postgres', 'CREATE DATABASE restored OWNER boss');
	$node->safe_psql('restored', $statements) if $statements;
	return;
}

my @rows = map { "SELECT t FROM amt.$_ AS t ORDER BY t::text COLLATE \"C\"" } qw(amt_key amt_key_usage amt_key_event);

new_database('own', 'amt');
my @tokens = create_keys('own', 'amt', 300);
my $revoked = pop @tokens;
is(good('own', 'amt', @tokens, $revoked), 300, 'three hundred keys verify');
is($node->safe_psql('own', "SELECT amt.amt_revoke('$revoked')"), 't', 'one of the keys is revoked');
$node->safe_psql('own', 'SELECT amt.amt_flush_usage()');
my @dumped = map { $node->safe_psql('own', $_) } @rows;
is(scalar(() = $dumped[1] =~ /^/mg), 299, 'each key has a row of usage');

subtest 'a parallel restore needs no workaround' => sub {
	for my $format ('-Fd', '-Fc')
	{
		my $file = "$tempdir/parallel$format";
		dump_to($file, $superuser, $format, ($format eq '-Fd' ? '-j4' : ()), 'own');
		for my $round (1 .. 3)
		{
			restored_database();
			$node->command_ok([ 'pg_restore', '--exit-on-error', '-j4', '-d', 'restored', $file ], "pg_restore -j4 of $format succeeds, round $round");
			is_deeply([ map { $node->safe_psql('restored', $_) } @rows ], \@dumped, "pg_restore -j4 of $format brings the same rows, round $round");
		}
		is(good('restored', 'amt', @tokens), 299, "the same tokens verify after pg_restore -j4 of $format");
		is(good('restored', 'amt', $revoked), 0, "the revoked token is refused after pg_restore -j4 of $format");
		is($node->safe_psql('restored', "SELECT amt.amt_revoke('$tokens[0]')"), 't', "a key is revoked after pg_restore -j4 of $format");
		is($node->safe_psql('restored', 'SELECT count(*) FROM amt.amt_key_event WHERE event_id > 301'), 1, "a revocation after pg_restore -j4 of $format has a new event number");
	}
};

subtest 'a dump is restored whatever clocks and encodings say' => sub {
	$node->safe_psql('postgres', q{CREATE DATABASE japanese TEMPLATE template0 ENCODING 'EUC_JP' LOCALE 'C'});
	$node->safe_psql('japanese', 'CREATE SCHEMA amt; CREATE EXTENSION amt_keys SCHEMA amt');
	my ($token) = create_keys('japanese', 'amt', 1);
	$node->safe_psql('japanese', q{SELECT amt.amt_create_key(convert_from('\xa1a1', 'EUC_JP'), 'acme', 'viewer');
		SELECT amt.amt_import_key(sha256('imported'), 'of a clock that is ahead', 'acme', 'viewer', created_at => now() + interval '1 day')});
	dump_to("$tempdir/japanese.sql", $superuser, 'japanese');
	restored_database();
	$node->command_ok([ 'psql', '-X', '-q', '-v', 'ON_ERROR_STOP=1', '-d', 'restored', '-f', "$tempdir/japanese.sql" ], 'a dump is restored into another encoding');
	is($node->safe_psql('restored', 'SELECT count(*) FROM amt.amt_key'), 3, 'all keys are restored into another encoding');
	is($node->safe_psql('restored', 'SELECT string_agg(event_id::text || event, $$ $$ ORDER BY event_id) FROM amt.amt_key_event'), '1created 2created 3created', 'a restore records nothing');
	is(good('restored', 'amt', $token), 1, 'a token verifies in another encoding');
};

subtest 'a dump with added columns is restored in steps' => sub {
	my $add = q{ALTER TABLE amt.amt_key ADD COLUMN team text; ALTER TABLE amt.amt_key_event ADD COLUMN seen bool DEFAULT false};
	$node->safe_psql('postgres', 'CREATE DATABASE wide TEMPLATE own');
	$node->safe_psql('wide', "$add; UPDATE amt.amt_key SET team = 'blue'");
	my @wide = map { $node->safe_psql('wide', $_) } @rows;
	dump_to("$tempdir/wide", $superuser, '-Fc', 'wide');
	restored_database();
	$node->command_fails([ 'pg_restore', '-d', 'restored', "$tempdir/wide" ], 'a dump with added columns is not restored at once');
	restored_database();
	for my $step ('--section=pre-data', $add, '--section=data', '--section=post-data')
	{
		$step =~ /\A--/
		  ? $node->command_ok([ 'pg_restore', '--exit-on-error', $step, '-d', 'restored', "$tempdir/wide" ], "pg_restore $step succeeds")
		  : $node->safe_psql('restored', $step);
	}
	is_deeply([ map { $node->safe_psql('restored', $_) } @rows ], \@wide, 'a restore in steps brings the same rows');
	is(good('restored', 'amt', @tokens), 299, 'the same tokens verify after a restore in steps');
};

subtest 'counts are restored again if keys were used during the restore' => sub {
	dump_to("$tempdir/used", $superuser, '-Fc', 'own');
	restored_database();
	$node->command_ok([ 'pg_restore', '--exit-on-error', '--section=pre-data', '-d', 'restored', "$tempdir/used" ], 'the definitions are restored');
	$node->command_ok([ 'pg_restore', '--exit-on-error', '--data-only', '-t', 'amt_key', '-d', 'restored', "$tempdir/used" ], 'the keys are restored');
	is(good('restored', 'amt', $tokens[0]), 1, 'a key is used before the counts are restored');
	$node->safe_psql('restored', 'SELECT amt.amt_flush_usage()');
	my @restore = ('pg_restore', '--exit-on-error', '--data-only', '-t', 'amt_key_usage', '-d', 'restored', "$tempdir/used");
	$node->command_fails_like(\@restore, qr/duplicate key value violates unique constraint "amt_key_usage_pkey"/, 'the counts are not restored over a new one');
	$node->safe_psql('restored', 'DELETE FROM amt.amt_key_usage');
	$node->command_ok(\@restore, 'the counts are restored into an empty table');
	is($node->safe_psql('restored', $rows[1]), $dumped[1], 'the restored counts are those of the dump');
	is(good('restored', 'amt', @tokens), 299, 'keys verify after their counts were restored again');
	$node->safe_psql('restored', 'SELECT amt.amt_flush_usage()');
	is($node->safe_psql('restored', 'SELECT count(*) FROM amt.amt_key_usage WHERE calls >= 2'), 299, 'calls are counted on from the restored counts');
};

subtest 'a role with BYPASSRLS and pg_read_all_data dumps everything' => sub {
	dump_to("$tempdir/backup", 'backup', '-Fc', 'own');
	restored_database();
	$node->command_ok([ 'pg_restore', '--exit-on-error', '-d', 'restored', "$tempdir/backup" ], 'a superuser restores the dump');
	is_deeply([ map { $node->safe_psql('restored', $_) } @rows ], \@dumped, 'the restored database has the same rows');
	is(good('restored', 'amt', @tokens), 299, 'the same tokens verify in the restored database');
};

subtest 'a database owner without superuser rights dumps everything else' => sub {
	dump_fails('boss', qr/permission denied for schema amt/, 'own');
	$node->safe_psql('own', 'GRANT USAGE ON SCHEMA amt TO PUBLIC');
	dump_fails('boss', qr/permission denied for table amt_key/, 'own');
	dump_to("$tempdir/schema-only.sql", 'boss', '--schema-only', 'own');

	my @plain = ([ '-n', 'app' ], [ '-N', 'amt', '-e', 'plpgsql' ], [ '-T', 'amt.*', '-e', 'plpgsql' ]);
	push @plain, ['--exclude-extension=amt_keys'] if $major >= 17;
	for my $options (@plain)
	{
		unlink "$tempdir/rest.sql";
		dump_to("$tempdir/rest.sql", 'boss', @$options, 'own');
		unlike(slurp_file("$tempdir/rest.sql"), qr/amt_key|\bEXTENSION\b/, "nothing of the extension is in a dump with @$options");
		restored_database();
		$node->safe_psql('restored', 'CREATE SCHEMA amt; CREATE EXTENSION amt_keys SCHEMA amt')
		  if slurp_file("$tempdir/rest.sql") !~ /CREATE SCHEMA amt/;
		$node->command_ok([ 'psql', '-X', '-q', '-U', 'boss', '-v', 'ON_ERROR_STOP=1', '-d', 'restored', '-f', "$tempdir/rest.sql" ],
			"the owner of the database restores a dump with @$options") if $options->[0] ne '-T' && $options->[0] !~ /exclude/;
	}

	unlink "$tempdir/rest.sql";
	dump_to("$tempdir/rest.sql", 'boss', '-N', 'amt', 'own');
	like(slurp_file("$tempdir/rest.sql"), qr/CREATE EXTENSION IF NOT EXISTS amt_keys WITH SCHEMA amt/, 'a dump with -N alone has CREATE EXTENSION in it');
	restored_database('CREATE SCHEMA amt');
	$node->command_ok([ 'psql', '-X', '-q', '-v', 'ON_ERROR_STOP=1', '-d', 'restored', '-f', "$tempdir/rest.sql" ],
		'a superuser restores a dump with CREATE EXTENSION where the schema exists');
	is($node->safe_psql('restored', 'SELECT title, (SELECT count(*) FROM amt.amt_key) FROM app.document'), 'a title|0',
		'a dump with -N restores the table and no keys');
};

subtest 'with the extension in public, the tables must be named' => sub {
	new_database('shared', 'public');
	create_keys('shared', 'public', 1);
	dump_fails('boss', qr/permission denied for table amt_key/, 'shared');
	dump_to("$tempdir/shared.sql", 'boss', '-T', 'public.amt_key*', 'shared');
	unlike(slurp_file("$tempdir/shared.sql"), qr/COPY public\.|setval/, 'no row of the extension is in the dump');
	if ($major >= 17)
	{
		unlink "$tempdir/shared.sql";
		dump_to("$tempdir/shared.sql", 'boss', '--exclude-extension=amt_keys', 'shared');
		unlike(slurp_file("$tempdir/shared.sql"), qr/amt_key/, 'nothing of the extension is in a dump with --exclude-extension');
	}
};

subtest 'settings of a database are in a dump with --create only' => sub {
	$node->safe_psql('own', q{ALTER DATABASE own SET session_preload_libraries = 'amt_keys'});
	dump_to("$tempdir/without.sql", $superuser, 'own');
	unlike(slurp_file("$tempdir/without.sql"), qr/session_preload_libraries/, 'a dump without --create has no settings of the database');
	dump_to("$tempdir/with.sql", $superuser, '--create', 'own');
	like(slurp_file("$tempdir/with.sql"), qr/^ALTER DATABASE own SET session_preload_libraries TO '?amt_keys'?;$/m, 'a dump with --create has the settings of the database');
};

# From the page: the query that shows triggers of another state than CREATE EXTENSION gave them, and the statements
# that mend them.
my $page = slurp_file("$FindBin::RealBin/../../doc/operations.md");
my ($show) = $page =~ /^```sql\n(SELECT[^`]*'amt_usage_replica'[^`]*)^```/m or die 'the page has no query for triggers';
my ($mend) = $page =~ /^```sql\n(ALTER TABLE[^`]*amt_usage_replica[^`]*)^```/m or die 'the page has no statement for triggers';

sub triggers
{
	my ($dbname) = @_;
	return $node->safe_psql($dbname, q{
		SELECT string_agg(format('%s %s', tgname, tgenabled), ', ' ORDER BY tgname) FROM pg_trigger
		WHERE tgrelid::regclass::text LIKE 'amt.%' AND NOT tgisinternal});
}

subtest 'a tool that enables all triggers changes ours, which can be seen and mended' => sub {
	my $intact = triggers('own');
	is($node->safe_psql('own', $show), '', 'the query of the page shows nothing at first');
	is($node->safe_psql('own', "BEGIN; DROP TRIGGER amt_key_record ON amt.amt_key; $show; ROLLBACK"), 'amt_key_record||O', 'the query of the page shows a trigger that was dropped');

	dump_to("$tempdir/tool", $superuser, '-Fc', '--data-only', 'own');
	restored_database('CREATE SCHEMA amt; CREATE EXTENSION amt_keys SCHEMA amt; CREATE SCHEMA app; CREATE TABLE app.document (title text)');
	$node->command_ok([ 'pg_restore', '--exit-on-error', '--data-only', '--disable-triggers', '-d', 'restored', "$tempdir/tool" ],
		'pg_restore --disable-triggers succeeds');
	is_deeply([ map { $node->safe_psql('restored', $_) } @rows ], \@dumped, 'pg_restore --disable-triggers restores the rows');
	isnt(triggers('restored'), $intact, 'pg_restore --disable-triggers leaves the triggers in another state');
	is($node->safe_psql('restored', $show), "amt_key_guard|O|A\namt_key_no_truncate|O|A\namt_usage_replica|O|R",
		'the query of the page shows triggers in another state');

	my $escalate = q{
		SET session_replication_role = replica;
		UPDATE amt.amt_key SET role = 'owner' WHERE name = 'key 3' RETURNING role};
	my ($rc, $out, $err) = $node->psql('restored', "BEGIN; $escalate; ROLLBACK");
	is($out, 'owner', 'the guard does not hold for a replicating superuser while its trigger is in another state');

	is(good('restored', 'amt', @tokens), 299, 'keys verify while triggers are in another state');
	is($node->safe_psql('restored', 'SELECT amt.amt_flush_usage() > 0'), 't', 'calls are written while triggers are in another state');
	is($node->safe_psql('restored', 'SELECT sum(calls) FROM amt.amt_key_usage'), 2 * 299, 'every call is written while triggers are in another state');
	is($node->safe_psql('restored', "SELECT amt.amt_revoke('$tokens[1]')"), 't', 'a key can be revoked while triggers are in another state');
	is(good('restored', 'amt', $tokens[1]), 0, 'a revoked key is refused while triggers are in another state');

	$node->safe_psql('restored', $mend);
	is(triggers('restored'), $intact, 'the statements of the page mend the triggers');
	is($node->safe_psql('restored', $show), '', 'the query of the page shows nothing when the triggers are mended');
	($rc, $out, $err) = $node->psql('restored', $escalate);
	like($err, qr/column "role" of a key cannot be changed/, 'the guard holds again when the triggers are mended');

	$node->safe_psql('restored', 'ALTER TABLE amt.amt_key DISABLE TRIGGER USER; ALTER TABLE amt.amt_key_usage DISABLE TRIGGER USER');
	is(scalar(split /\n/, $node->safe_psql('restored', $show)), 4, 'the query of the page shows triggers that were left disabled');
	$node->safe_psql('restored', $mend);
	is(triggers('restored'), $intact, 'the statements of the page mend triggers that were left disabled');
};

subtest 'a tool that truncates all tables of a schema does not truncate ours' => sub {
	my $truncate = sub {
		my ($dbname, $schema) = @_;
		return $node->psql($dbname, qq{DO \$\$ BEGIN EXECUTE (SELECT 'TRUNCATE ' || string_agg(format('%I.%I', schemaname, tablename), ', ')
			FROM pg_tables WHERE schemaname = '$schema'); END \$\$});
	};
	my ($rc, $out, $err) = $truncate->('own', 'app');
	is($rc, 0, 'TRUNCATE succeeds beside the extension in a schema of its own');
	is($node->safe_psql('own', 'SELECT (SELECT count(*) FROM app.document), (SELECT count(*) FROM amt.amt_key)'), '0|299',
		'TRUNCATE empties the tables of its own schema only');
	($rc, $out, $err) = $truncate->('shared', 'public');
	like($err, qr/cannot truncate table "amt_key"/, 'TRUNCATE fails where the extension is in the same schema');
};

$node->stop;
done_testing();
