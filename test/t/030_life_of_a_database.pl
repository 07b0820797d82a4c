# Dumped and restored, upgraded, renamed, copied, dropped and created again: keys, counts and events are what they were.

use strict;
use warnings FATAL => 'all';

use FindBin;
use lib "$FindBin::RealBin/../perl";

use AmtKeys;
use Session;
use PostgreSQL::Test::Cluster;
use PostgreSQL::Test::Utils;
use Test::More;

my $node = new_cluster(extra => [ '--encoding=UTF8', '--locale=C' ]);
my $tempdir = PostgreSQL::Test::Utils::tempdir();

# The extension's schema, which is never the one that a search_path finds.
my $schema = 'auth';

# All that CREATE EXTENSION makes, as text.
my $description = q{
	WITH extension AS (
		SELECT * FROM pg_extension WHERE extname = 'amt_keys'
	), member AS (
		SELECT d.classid, d.objid FROM pg_depend d, extension e
		WHERE d.refclassid = 'pg_extension'::regclass AND d.refobjid = e.oid AND d.deptype = 'e'
	), relation AS (
		SELECT c.* FROM pg_class c JOIN member m ON m.classid = 'pg_class'::regclass AND m.objid = c.oid
		UNION SELECT c.* FROM pg_class c JOIN member m ON m.classid = 'pg_type'::regclass AND m.objid = c.reltype
	), privilege AS (
		SELECT oid::regclass::text AS object, relowner AS owner,
			coalesce(relacl, acldefault(CASE relkind WHEN 'S' THEN 's' ELSE 'r' END::"char", relowner)) AS acl
		FROM relation
		UNION ALL SELECT format('%s.%I', c.oid::regclass, a.attname), c.relowner, a.attacl
		FROM relation c JOIN pg_attribute a ON a.attrelid = c.oid
		UNION ALL SELECT p.oid::regprocedure::text, p.proowner, coalesce(p.proacl, acldefault('f', p.proowner))
		FROM pg_proc p JOIN member m ON m.classid = 'pg_proc'::regclass AND m.objid = p.oid
		UNION ALL SELECT t.oid::regtype::text, t.typowner, coalesce(t.typacl, acldefault('T', t.typowner))
		FROM pg_type t JOIN member m ON m.classid = 'pg_type'::regclass AND m.objid = t.oid
	)
	SELECT line FROM (
	SELECT concat_ws(' ', 'extension', extversion, extnamespace::regnamespace, extrelocatable,
		(SELECT string_agg(o::regclass::text, ' ' ORDER BY o::regclass::text) FROM unnest(extconfig) o), extcondition) FROM extension
	UNION ALL SELECT 'member ' || pg_describe_object(classid, objid, 0) FROM member
	UNION ALL SELECT concat_ws(' ', 'relation', oid::regclass, relkind, relpersistence, relrowsecurity, relforcerowsecurity,
		relreplident, reloptions) FROM relation
	UNION ALL SELECT concat_ws(' ', 'column', c.oid::regclass, row_number() OVER (PARTITION BY c.oid ORDER BY a.attnum), a.attname,
		format_type(a.atttypid, a.atttypmod), a.attcollation::regcollation, a.attnotnull, a.attidentity, a.attgenerated,
		a.attstorage, nullif(a.attstattarget, -1), pg_get_expr(d.adbin, d.adrelid))
	FROM relation c JOIN pg_attribute a ON a.attrelid = c.oid AND a.attnum > 0 AND NOT a.attisdropped
	LEFT JOIN pg_attrdef d ON d.adrelid = c.oid AND d.adnum = a.attnum
	UNION ALL SELECT concat_ws(' ', 'constraint', c.oid::regclass, k.conname, k.convalidated, pg_get_constraintdef(k.oid))
	FROM relation c JOIN pg_constraint k ON k.conrelid = c.oid
	UNION ALL SELECT 'index ' || pg_get_indexdef(i.indexrelid) FROM relation c JOIN pg_index i ON i.indrelid = c.oid
	UNION ALL SELECT concat_ws(' ', 'policy', c.oid::regclass, p.polname, p.polcmd, p.polpermissive, p.polroles,
		pg_get_expr(p.polqual, c.oid), pg_get_expr(p.polwithcheck, c.oid)) FROM relation c JOIN pg_policy p ON p.polrelid = c.oid
	UNION ALL SELECT concat_ws(' ', 'trigger', t.tgenabled, pg_get_triggerdef(t.oid))
	FROM relation c JOIN pg_trigger t ON t.tgrelid = c.oid WHERE NOT t.tgisinternal
	UNION ALL SELECT concat_ws(' ', 'view', oid::regclass, pg_get_viewdef(oid)) FROM relation WHERE relkind = 'v'
	UNION ALL SELECT concat_ws(' ', 'sequence', oid::regclass, seqtypid::regtype, seqstart, seqincrement, seqmax, seqmin, seqcache, seqcycle)
	FROM relation JOIN pg_sequence ON seqrelid = oid
	UNION ALL SELECT 'function ' || pg_get_functiondef(p.oid)
	FROM pg_proc p JOIN member m ON m.classid = 'pg_proc'::regclass AND m.objid = p.oid
	UNION ALL SELECT concat_ws(' ', 'privilege', object, string_agg(concat_ws(' ', CASE a.grantee WHEN 0 THEN 'everybody'
		WHEN p.owner THEN 'the owner' ELSE a.grantee::regrole::text END, a.privilege_type, a.is_grantable), ', '
		ORDER BY a.grantee = p.owner, a.grantee, a.privilege_type))
	FROM privilege p, aclexplode(acl) a GROUP BY object
	UNION ALL SELECT concat_ws(' ', 'comment', pg_describe_object(d.classoid, d.objoid, d.objsubid), d.description)
	FROM pg_description d WHERE (d.classoid, d.objoid) IN (SELECT classid, objid FROM member
		UNION SELECT 'pg_policy'::regclass, p.oid FROM pg_policy p JOIN relation c ON p.polrelid = c.oid
		UNION SELECT 'pg_class'::regclass, oid FROM relation)
	) AS object (line) ORDER BY line COLLATE "C"
};

sub describe
{
	my ($server, $dbname) = @_;
	return $server->safe_psql($dbname, $description);
}

# What the tables hold.
sub rows
{
	my ($server, $dbname) = @_;
	return join "\n", map { $server->safe_psql($dbname, "SELECT t FROM $schema.$_ AS t ORDER BY t::text COLLATE \"C\"") }
	  'amt_key', 'amt_key_usage', 'amt_key_event';
}

sub verify
{
	my ($server, $dbname, $token, $where) = @_;
	return $server->safe_psql($dbname, sprintf q{SELECT count(*) FROM %s.amt_verify('%s')}, $where // $schema, $token);
}

sub create
{
	my ($server, $dbname, $name, $where) = @_;
	return $server->safe_psql($dbname, sprintf q{SELECT token FROM %s.amt_create_key($name$%s$name$, 'acme', 'editor')},
		$where // $schema, $name // 'a key');
}

sub revoke
{
	my ($server, $dbname, $id, $where) = @_;
	return $server->safe_psql($dbname, sprintf q{SELECT %s.amt_revoke('%s')}, $where // $schema, $id);
}

sub new_database
{
	my ($dbname, $version) = @_;
	$node->safe_psql('postgres', "CREATE DATABASE $dbname");
	$node->safe_psql($dbname, "CREATE SCHEMA $schema; CREATE EXTENSION amt_keys SCHEMA $schema"
		. (defined $version ? " VERSION '$version'" : ''));
	return;
}

sub with_id
{
	my ($token, $id) = @_;
	return $token =~ s/\Aamt_[^_]+_/amt_${id}_/r;
}

# Keys of all kinds, with calls and events; which tokens are good and which are not.
sub fill
{
	my ($server, $dbname) = @_;
	my ($good, $odd, $expired, $revoked) =
	  map { create($server, $dbname, $_) } 'a key', q{Zoë's \N "key"}, 'expired', 'revoked';
	my $id = id_of($good);
	my $person = $server->safe_psql($dbname, qq{
		SET amt_keys.actor = 'zoe'; SET amt_keys.org_id = 'globex'; SET amt_keys.role = 'admin';
		SELECT token FROM $schema.amt_create_key('by a person', expires_at => now() + interval '1 year')});

	verify($server, $dbname, $good) for 1 .. 3;
	verify($server, $dbname, $_) for $odd, $revoked;
	is(revoke($server, $dbname, id_of($revoked)), 't', 'a key is revoked before the dump or upgrade');
	$server->safe_psql($dbname, qq{
		INSERT INTO $schema.amt_key (key_id, org_id, name, role, scrypt_hash, created_at)
			SELECT 'imported', org_id, name, role, scrypt_hash, '2020-02-02Z' FROM $schema.amt_key WHERE key_id = '$id';
		UPDATE $schema.amt_key SET expires_at = '2021-01-01Z' WHERE key_id = '} . id_of($expired) . q{'});
	wait_until(sub { $server->safe_psql($dbname, "SELECT $schema.amt_flush_usage()");
			$server->safe_psql($dbname, "SELECT sum(calls) FROM $schema.amt_key_usage") eq '4' }) or die 'calls are not written';
	return { id => $id, good => [ $good, $odd, $person, with_id($good, 'imported') ], bad => [ $expired, $revoked, with_id($odd, $id) ] };
}

# A database that should hold what another does, and goes on from there.
sub goes_on
{
	my ($server, $dbname, $rows, $keys, $what) = @_;
	is(rows($server, $dbname), $rows, "$what: the database has the same keys, counts and events");
	is(join('', map { verify($server, $dbname, $_) } @{ $keys->{good} }), 1 x @{ $keys->{good} }, "$what: the same tokens verify");
	is(join('', map { verify($server, $dbname, $_) } @{ $keys->{bad} }), 0 x @{ $keys->{bad} }, "$what: the same tokens are refused");
	my ($events, $last) = split /\|/,
	  $server->safe_psql($dbname, "SELECT count(*), max(event_id) FROM $schema.amt_key_event");
	my $new = create($server, $dbname);
	is(verify($server, $dbname, $new), 1, "$what: a new key works");
	is(revoke($server, $dbname, id_of($new)), 't', "$what: the new key is revoked");
	is($server->safe_psql($dbname, "SELECT count(*) FROM $schema.amt_key_event") - $events, 2, "$what: each event is recorded once");
	is($server->safe_psql($dbname, "SELECT string_agg(event, ' ' ORDER BY event_id) FROM $schema.amt_key_event WHERE event_id > $last"),
		'created revoked', "$what: each event has a number of its own");
	is($server->safe_psql($dbname, "SELECT calls FROM $schema.amt_keys WHERE key_id = '$keys->{id}'"), 4, "$what: calls are counted on");
	return;
}

new_database('fresh');
my $fresh = describe($node, 'fresh');
like($fresh, qr/^$_ /m, "the description has its $_")
  for qw(extension member relation column constraint index policy trigger view sequence function privilege comment);

# A dump, restored.
{
	new_database('original');
	my $keys = fill($node, 'original');
	my $rows = rows($node, 'original');
	my $events = () = $rows =~ /created|revoked/g;
	$node->safe_psql('postgres', 'CREATE ROLE dba LOGIN SUPERUSER; CREATE ROLE keeper LOGIN');
	my $file = "$tempdir/dump";

	my $restore = sub {
		my ($what, $dump, $into, $owner) = @_;
		$node->safe_psql('postgres', 'CREATE DATABASE restored' . (defined $owner ? " OWNER $owner" : ''));
		$node->command_ok([ 'pg_dump', @$dump, '-f', $file, 'original' ], "$what: pg_dump succeeds");
		$node->command_ok([ @$into, '-d', 'restored', $into->[0] eq 'psql' ? ('-f', $file) : $file ], "$what: the restore succeeds");
		is(describe($node, 'restored'), $fresh, "$what: the extension is the same as after a fresh install");
		goes_on($node, 'restored', $rows, $keys, $what);
		$node->safe_psql('postgres', 'DROP DATABASE restored WITH (FORCE)');
		PostgreSQL::Test::Utils::system_log('rm', '-r', $file);
	};
	my @psql = qw(psql -X -q -v ON_ERROR_STOP=1);
	my @pg_restore = qw(pg_restore --exit-on-error);
	$restore->('plain', [], \@psql);
	$restore->('plain, INSERT', ['--inserts'], [ @psql, '--single-transaction' ]);
	$restore->('custom', ['-Fc'], \@pg_restore);
	$restore->('custom, one transaction', ['-Fc'], [ @pg_restore, '--single-transaction' ]);
	$restore->('directory', [ '-Fd', '-j2' ], \@pg_restore);
	$restore->('as another owner', [ '-Fc', '--no-owner' ], [ @pg_restore, '--no-owner', '-U', 'dba' ], 'dba');

	$restore->('parallel', [ '-Fd', '-j2' ], [ @pg_restore, '-j2' ]);

	# Where the extension is in another schema, that takes the name of the dump's for the transaction of the restore.
	for my $format ('plain', 'custom')
	{
		my $what = "another schema, $format";
		$node->safe_psql('postgres', 'CREATE DATABASE restored');
		$node->safe_psql('restored', 'CREATE SCHEMA keys; CREATE EXTENSION amt_keys SCHEMA keys; CREATE TABLE keys.other ()');
		my $before = describe($node, 'restored');
		if ($format eq 'plain')
		{
			$node->command_ok([ 'pg_dump', '--data-only', '-e', 'amt_keys', '-f', "$file.sql", 'original' ], "$what: pg_dump of the rows succeeds");
		}
		else
		{
			$node->command_ok([ 'pg_dump', '-Fc', '-f', $file, 'original' ], "$what: pg_dump succeeds");
			$node->command_ok([ 'pg_restore', '--data-only', '-n', $schema, '-f', "$file.sql", $file ], "$what: pg_restore writes the rows as SQL");
		}
		$node->command_ok([ @psql, '-1', '-c', "ALTER SCHEMA keys RENAME TO $schema", '-f', "$file.sql", '-c', "ALTER SCHEMA $schema RENAME TO keys", 'restored' ],
			"$what: the rows are restored under the name of the dump's schema");
		is(describe($node, 'restored'), $before, "$what: the extension is as it was");
		{
			my $dumped = $schema;
			$schema = 'keys';
			goes_on($node, 'restored', $rows, $keys, $what);
			$schema = $dumped;
		}
		$node->safe_psql('postgres', 'DROP DATABASE restored WITH (FORCE)');
	}

	# The owner of the tables can dump and restore their rows, superuser or not.
	my $give = "ALTER TABLE $schema.amt_key OWNER TO keeper; ALTER TABLE $schema.amt_key_usage OWNER TO keeper;
		ALTER TABLE $schema.amt_key_event OWNER TO keeper; GRANT USAGE, CREATE ON SCHEMA $schema TO keeper";
	new_database('restored');
	$node->safe_psql($_, $give) for 'original', 'restored';
	$node->command_ok([ 'pg_dump', '-Fc', '--data-only', '-U', 'keeper', '-f', $file, 'original' ], 'owner of the tables: pg_dump of the rows succeeds');
	$node->command_ok([ @pg_restore, '-U', 'keeper', '-d', 'restored', $file ], 'owner of the tables: pg_restore of the rows succeeds');
	goes_on($node, 'restored', $rows, $keys, 'owner of the tables');
	$node->safe_psql('postgres', 'DROP DATABASE restored WITH (FORCE)');

	# The same rows by hand are keys that appear.
	new_database('restored');
	$node->safe_psql('restored', 'INSERT INTO auth.amt_key SELECT (r).* FROM (VALUES ' . join(', ', map { "(\$r\$$_\$r\$::auth.amt_key)" }
		split /\n/, $node->safe_psql('original', 'SELECT k FROM auth.amt_key AS k')) . ') AS v (r)');
	is($node->safe_psql('restored', "SELECT count(*), bool_and(event = 'created') FROM auth.amt_key_event"), '5|t',
		'the same rows, inserted by anything but a dump, are recorded');
	$node->safe_psql('postgres', "DROP DATABASE $_ WITH (FORCE)") for 'restored', 'original';
}

# Its schema.
{
	new_database('renamed');
	my $s = Session->new($node, dbname => 'renamed');
	$node->safe_psql('renamed', 'CREATE SCHEMA elsewhere; CREATE ROLE member LOGIN; GRANT USAGE ON SCHEMA auth TO member');
	$node->safe_psql('postgres', "ALTER ROLE member SET amt_keys.org_id = 'acme'; ALTER ROLE member SET amt_keys.role = 'viewer'");
	my $token = create($node, 'renamed');
	my $second = create($node, 'renamed');
	is($s->query("SELECT count(*) FROM auth.amt_verify('$token')"), 1, 'a session knows a key before its schema is renamed');
	is($s->query('ALTER EXTENSION amt_keys SET SCHEMA elsewhere'), 'ERROR:  0A000', 'the extension does not move to another schema');
	is($s->query("SELECT count(*) FROM auth.amt_verify('$token')"), 1, 'a key works after a refused ALTER EXTENSION ... SET SCHEMA');

	ok(wait_until(sub { worker_pids($node, 'renamed') }), 'a worker runs before the schema is renamed');
	is($s->query('ALTER SCHEMA auth RENAME TO "Auth \'2\'"'), '', 'the schema of the extension is renamed');
	my $new = q{"Auth '2'"};
	is($s->query("SELECT count(*) FROM $new.amt_verify('$token')"), 1, 'a session from before verifies a key in a renamed schema');
	is(verify($node, 'renamed', $token, $new), 1, 'a new session verifies a key in a renamed schema');
	is($s->query("SELECT count(*) FROM $new.amt_verify((SELECT token FROM $new.amt_create_key('third', 'acme', 'editor')))"), 1, 'a key is created in a renamed schema');
	is($s->query("SELECT $new.amt_revoke('" . id_of($second) . "')"), 't', 'a key is revoked in a renamed schema');
	is(verify($node, 'renamed', $second, $new), 0, 'a revoked key is refused in a renamed schema');
	is($s->query("SELECT count(*) FROM $new.amt_key_event"), 4, 'each change is recorded in a renamed schema');
	my $member = Session->new($node, dbname => 'renamed', user => 'member');
	is($member->query("SELECT name, calls FROM $new.amt_keys ORDER BY created_at"), "a key|4\nthird|1", 'keys are listed in a renamed schema');
	ok(wait_until(sub { $s->query("SELECT sum(calls) FROM $new.amt_key_usage") eq '5' }, 30), 'calls are written in a renamed schema');
	$_->quit for $s, $member;

	$node->safe_psql('postgres', 'ALTER DATABASE renamed RENAME TO again') if wait_until(sub { !worker_pids($node, 'renamed') }, 30);
	is(verify($node, 'again', $token, $new), 1, 'a renamed database knows its keys');
	is($node->safe_psql('again', "SELECT calls FROM $new.amt_keys WHERE key_id = '" . id_of($token) . "'"), 5, 'a renamed database knows the calls of its keys');
	$node->safe_psql('postgres', 'DROP DATABASE again WITH (FORCE)');
}

# Dropped and created again.
{
	new_database('dropped');
	my $s = Session->new($node, dbname => 'dropped');
	my $token = create($node, 'dropped');
	my $row = $s->query('SELECT k FROM auth.amt_key AS k');
	is($s->query("SELECT count(*) FROM auth.amt_verify('$token')"), 1, 'a key is warm before DROP EXTENSION');
	is($s->query('DROP EXTENSION amt_keys'), '', 'the extension is dropped');
	is($s->query("SELECT count(*) FROM pg_class WHERE relnamespace = 'auth'::regnamespace"), 0, 'a dropped extension leaves no table, view or sequence');
	is($s->query("SELECT count(*) FROM auth.amt_verify('$token')"), 'ERROR:  42883', 'a dropped extension leaves no function');
	is($s->query('CREATE EXTENSION amt_keys SCHEMA auth'), '', 'a dropped extension is created again');
	is(describe($node, 'dropped'), $fresh, 'an extension that is created again is the same as after a fresh install');
	is($s->query("SELECT count(*) FROM auth.amt_verify('$token')"), 0, 'an extension that is created again does not know the old key');
	is($s->query("SELECT count(*) FROM auth.amt_verify((SELECT token FROM auth.amt_create_key('new', 'acme', 'editor')))"), 1,
		'an extension that is created again verifies a new key');
	is($s->query("INSERT INTO auth.amt_key SELECT (\$r\$$row\$r\$::auth.amt_key).*", "SELECT count(*) FROM auth.amt_verify('$token')"), 1,
		'an extension that is created again verifies the old key when it is imported');
	$s->quit;
	$node->safe_psql('postgres', 'DROP DATABASE dropped WITH (FORCE)');
}

# The same key id in two databases, with different secrets.
sub two_databases
{
	my ($one, $two, $id, $one_token, $two_token, $what) = @_;
	my %token = ($one => $one_token, $two => $two_token);
	my %calls = map { $_ => $node->safe_psql($_, "SELECT calls FROM auth.amt_keys WHERE key_id = '$id'") } $one, $two;
	for my $dbname ($one, $two, $one, $two)
	{
		my $other = $dbname eq $one ? $two : $one;
		is(verify($node, $dbname, $token{$dbname}), 1, "$what: its own secret is right in $dbname");
		is(verify($node, $dbname, $token{$other}), 0, "$what: the other database's secret is refused in $dbname");
	}
	is($node->safe_psql($_, "SELECT calls FROM auth.amt_keys WHERE key_id = '$id'"), $calls{$_} + 2, "$what: each database counts for itself")
	  for $one, $two;
	return;
}

sub replace
{
	my ($dbname, $id, $from) = @_;
	$node->safe_psql($dbname, "DELETE FROM auth.amt_key WHERE key_id = '$id';
		INSERT INTO auth.amt_key (key_id, org_id, name, role, scrypt_hash, created_at)
			SELECT '$id', org_id, name, role, scrypt_hash, created_at FROM auth.amt_key WHERE key_id = '$from'");
	return;
}

{
	new_database($_) for 'one', 'two';
	my $token = create($node, 'one');
	my $id = id_of($token);
	my $second = create($node, 'two');
	replace('two', $id, id_of($second));
	two_databases('one', 'two', $id, $token, with_id($second, $id), 'two databases');

	# A copy has the same OIDs as its original.
	is(verify($node, 'one', $token), 1, 'a key is warm before its database is copied');
	$node->safe_psql('postgres', 'CREATE DATABASE copy TEMPLATE one');
	is($node->safe_psql('copy', q{SELECT 'auth.amt_key'::regclass::oid}), $node->safe_psql('one', q{SELECT 'auth.amt_key'::regclass::oid}),
		'a copied database has the same tables');
	is(verify($node, 'copy', $token), 1, 'a copied database has the same keys');
	my $third = create($node, 'copy');
	is(verify($node, 'one', $third), 0, 'a new key of a copied database is unknown in the original');
	replace('copy', $id, id_of($third));
	two_databases('one', 'copy', $id, $token, with_id($third, $id), 'original and copy');
	is(revoke($node, 'copy', $id), 't', 'a key is revoked in a copied database');
	is(verify($node, 'copy', with_id($third, $id)), 0, 'a key that is revoked in a copied database is refused there');
	is(verify($node, 'one', $token), 1, 'a key that is revoked in a copied database works in the original');
	$node->safe_psql('postgres', "DROP DATABASE $_ WITH (FORCE)") for 'one', 'two', 'copy';
}

# Updated from each released version, that is each whose script is in the tree, to the current one.
SKIP:
{
	my %released;
	for (glob "$FindBin::RealBin/../../sql/amt_keys--*.sql")
	{
		$released{$1} = 1 if m{/amt_keys--((?:(?!--)[^/])+)(?:--[^/]+)?\.sql\z};
	}
	my $current = $node->safe_psql('postgres', q{SELECT default_version FROM pg_available_extensions WHERE name = 'amt_keys'});
	delete $released{$current};
	skip "$current is the only version: there is none to update from", 1 unless %released;

	for my $version (sort keys %released)
	{
		my $dbname = 'updated_' . $version =~ s/\W/_/gr;
		is($node->safe_psql('postgres', "SELECT count(*) FROM pg_available_extension_versions WHERE name = 'amt_keys' AND version = '$version'"),
			1, "version $version can be installed (its script is among DATA in the Makefile)") or next;
		is($node->safe_psql('postgres', "SELECT path IS NOT NULL FROM pg_extension_update_paths('amt_keys') WHERE source = '$version' AND target = '$current'"),
			't', "there is a way from $version to $current") or next;
		new_database($dbname, $version);
		my $keys = fill($node, $dbname);
		my $before = $node->safe_psql($dbname, "SELECT key_id, scrypt_hash FROM auth.amt_key ORDER BY key_id");
		my $s = Session->new($node, dbname => $dbname);
		is($s->query("SELECT count(*) FROM auth.amt_verify('$keys->{good}[1]')"), 1, "$version: a session verifies a key before the update");
		$node->safe_psql($dbname, 'ANALYZE');
		is($s->query('ALTER EXTENSION amt_keys UPDATE'), '', "$version: ALTER EXTENSION ... UPDATE succeeds");
		$node->safe_psql($dbname, 'ANALYZE');
		is($s->query(q{SELECT count(*) FROM pg_statistic WHERE starelid IN ('auth.amt_key'::regclass, 'auth.amt_key_usage'::regclass, 'auth.amt_key_event'::regclass)}),
			0, "$version: no statistics are left after the update");
		is($s->query("SELECT count(*) FROM auth.amt_verify('$keys->{good}[1]')"), 1, "$version: the session verifies the key after the update");
		$s->quit;
		ok(wait_until(sub { $node->safe_psql($dbname, 'SELECT sum(calls) FROM auth.amt_key_usage') eq '6' }), "$version: the calls of the session are written after the update");
		is(describe($node, $dbname), $fresh, "$version: the updated extension is the same as after a fresh install");
		is($node->safe_psql($dbname, "SELECT key_id, scrypt_hash FROM auth.amt_key ORDER BY key_id"), $before, "$version: the update keeps the keys and their hashes");
		goes_on($node, $dbname, rows($node, $dbname), $keys, "updated from $version");
		$node->safe_psql('postgres', "DROP DATABASE $dbname WITH (FORCE)");
	}
}

# pg_upgrade, to the same version (which is all of it but the differences) and to each newer one on this machine.
my ($bindir) = $node->config_data('--bindir');
$bindir =~ s/\s+\z//;
my ($prefix, $major) = $bindir =~ m{\A(.*)/([0-9]+)/bin\z};

sub upgrade
{
	my ($to) = @_;
	my $what = defined $to ? "pg_upgrade to $to" : 'pg_upgrade';
	my $old = new_cluster(name => 'old' . ($to // ''));
	$old->safe_psql('postgres', "DROP EXTENSION amt_keys; CREATE SCHEMA $schema; CREATE EXTENSION amt_keys SCHEMA $schema");
	my $keys = fill($old, 'postgres');
	my $rows = rows($old, 'postgres');
	my $checksums = $old->safe_psql('postgres', 'SHOW data_checksums') eq 'on' ? '--data-checksums' : '--no-data-checksums';
	my $new = PostgreSQL::Test::Cluster->new('new' . ($to // ''), defined $to ? (install_path => "$prefix/$to") : ());
	# Checksums were off, and no such option existed, before version 18.
	$new->init(extra => [ ($to // $major // 0) < 18 && $checksums =~ /no/ ? () : $checksums ]);
	$old->stop;

	my $cwd = PostgreSQL::Test::Utils::tempdir();
	chdir $cwd or die;
	my $new_bindir = defined $to ? "$prefix/$to/bin" : $bindir;
	$new->command_ok(
		[
			"$new_bindir/pg_upgrade", '--no-sync', '-d', $old->data_dir, '-D', $new->data_dir, '-b', $bindir, '-B', $new_bindir,
			'-s', $new->host, '-p', $old->port, '-P', $new->port
		],
		"$what succeeds");
	$new->append_conf('postgresql.conf', "amt_keys.scrypt_ln = 4\n");
	$new->start;
	$new->safe_psql('postgres', "CREATE DATABASE fresh TEMPLATE template0");
	$new->safe_psql('fresh', "CREATE SCHEMA $schema; CREATE EXTENSION amt_keys SCHEMA $schema");
	is(describe($new, 'postgres'), describe($new, 'fresh'), "$what: the extension is the same as after a fresh install");
	goes_on($new, 'postgres', $rows, $keys, $what);
	$new->stop;
	return;
}

upgrade();

SKIP:
{
	skip "$bindir is not where other versions are beside it", 1 unless defined $major;
	my @newer = grep { $_ > $major && -x "$prefix/$_/bin/pg_upgrade" } map { m{/([0-9]+)\z} } glob "$prefix/*";
	skip "no newer PostgreSQL than $major under $prefix", 1 unless @newer;
	for my $to (@newer)
	{
	  SKIP:
		{
			skip "amt_keys is not installed for PostgreSQL $to", 1 unless -e "$prefix/$to/lib/amt_keys.so";
			upgrade($to);
		}
	}
}

done_testing();
