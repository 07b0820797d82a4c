# Somebody who owns the schema and the tables changes them while calls wait for a lock.  Each call then answers right, or
# with an error that has a SQLSTATE; code of the owner's never runs with anybody else's rights; and the server stays up.
#
# One round is: the tables are locked, every caller below makes a call and waits, the owner makes one change of the list and
# commits.  What the owner puts in the place of a table is full of traps: triggers, defaults and functions that note
# whose rights they have, and try to make their author a superuser.

# slow test

use strict;
use warnings FATAL => 'all';

use FindBin;
use lib "$FindBin::RealBin/../perl";

use AmtKeys;
use Session;
use Test::More;
use Time::HiRes qw(sleep);

my $node = new_cluster(conf => <<'CONF');
autovacuum = off
deadlock_timeout = 200ms
amt_keys.usage_flush_interval = 10ms
CONF
my $super = Session->new($node);
my $version = $super->query("SELECT current_setting('server_version_num')::int / 10000");
my $watch = Session->new($node); # a transaction that locks sees no news in pg_stat_activity
my $hash = '$scrypt$ln=4,r=8,p=1$MDEyMzQ1Njc4OWFiY2RlZg$4Z60JOvkyYBPBM4bVtRQfK+3gSDiIvgitxsuRN98NjU';
my $secret = '0123456789abcdef';

sub run
{
	my ($session, @sql) = @_;
	my $answer = $session->query(@sql);
	BAIL_OUT('the server is down') unless defined $answer;
	return $answer;
}

sub prepare
{
	my ($session, @sql) = @_;
	my $answer = run($session, @sql);
	die "$answer\nin: @sql" if $answer =~ /ERROR/;
	return $answer;
}

prepare($super,
	'DROP EXTENSION amt_keys', 'SET client_min_messages = warning',
	'CREATE ROLE bob LOGIN', 'CREATE ROLE carol LOGIN', 'CREATE ROLE app LOGIN', 'CREATE ROLE web LOGIN', 'CREATE ROLE member LOGIN',
	'CREATE ROLE gateway LOGIN', 'GRANT carol TO bob',
	'GRANT SET ON PARAMETER amt_keys.org_id, amt_keys.role, amt_keys.actor TO gateway',
	q{ALTER ROLE member SET amt_keys.org_id = 'acme'}, q{ALTER ROLE member SET amt_keys.role = 'admin'}, q{ALTER ROLE member SET amt_keys.actor = 'ann'},
	'GRANT CREATE ON DATABASE postgres TO bob, carol',
	'CREATE ACCESS METHOD heap2 TYPE TABLE HANDLER heap_tableam_handler',
	'CREATE FOREIGN DATA WRAPPER nothing', 'CREATE SERVER nothing FOREIGN DATA WRAPPER nothing', 'GRANT USAGE ON FOREIGN SERVER nothing TO bob',
	# Numbers that were taken stay taken, whatever is rolled back.
	'CREATE SEQUENCE ran', 'CREATE SEQUENCE caught', 'GRANT ALL ON SEQUENCE ran, caught TO PUBLIC',
	'CREATE SCHEMA bob AUTHORIZATION bob', 'GRANT USAGE ON SCHEMA bob TO PUBLIC');
my $bob = Session->new($node, user => 'bob');
prepare($bob,
	'SET client_min_messages = warning',
	q{CREATE FUNCTION bob.sprung(text) RETURNS text LANGUAGE plpgsql IMMUTABLE AS $$
	BEGIN
		PERFORM pg_catalog.nextval('public.ran');
		IF current_user OPERATOR(pg_catalog.<>) 'bob' AND current_user OPERATOR(pg_catalog.<>) 'carol' THEN
			PERFORM pg_catalog.nextval('public.caught');
		END IF;
		BEGIN
			EXECUTE 'ALTER ROLE bob SUPERUSER';
		EXCEPTION WHEN OTHERS THEN NULL;
		END;
		RETURN $1;
	END
	$$},
	q{CREATE FUNCTION bob.trap() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN PERFORM bob.sprung('x'); RETURN coalesce(new, old); END $$});

## Who calls

# The key of each call is named as the call.  "right" is a pattern for the answer, "effect" a condition on the true table
# that a right answer implies; in it, %s is that table.
my $there = 'EXISTS (SELECT FROM %s WHERE key_id = %L)';
my %call = (
	verify => { user => 'app', sql => "SELECT org_id FROM auth.amt_verify('amt_verify_$secret')", right => qr/^acme$/ },
	authenticate => { user => 'web', sql => q{SELECT auth.amt_authenticate()}, right => qr/^$/,
		setup => [ qq{SET request.headers = '{"x-api-key":"amt_authenticate_$secret"}'} ] },
	whoami => { user => superuser(), sql => 'SELECT key_name FROM auth.amt_whoami()', right => qr/^whoami$/,
		setup => [ q{SET amt_keys.org_id = 'acme'}, q{SET amt_keys.key_id = 'whoami'} ] },
	create => { user => 'member', sql => q{SELECT key_id FROM auth.amt_create_key('created')}, right => qr/^\w{12}$/, effect => q{EXISTS (SELECT FROM %s WHERE name = 'created')} },
	import => { user => 'gateway', sql => q{SELECT auth.amt_import_key(sha256('x'), 'imported', 'acme', 'admin')}, right => qr/^\w{12}$/,
		effect => q{EXISTS (SELECT FROM %s WHERE name = 'imported')} },
	revoke => { user => 'member', sql => q{SELECT auth.amt_revoke('revoke')}, right => qr/^t$/, gone => 1 },
	present => { user => 'web', sql => "SELECT auth.amt_revoke('amt_present_$secret')", right => qr/^t$/, gone => 1 },
	rotate => { user => 'member', sql => q{SELECT name FROM auth.amt_rotate_key('rotate')}, right => qr/^rotate$/, gone => 1 },
	grace => { user => 'member', sql => q{SELECT name FROM auth.amt_rotate_key('grace', '1 day')}, right => qr/^grace$/,
		effect => q{EXISTS (SELECT FROM %s WHERE key_id = 'grace' AND expires_at IS NOT NULL)} },
	list => { user => 'member', sql => 'SELECT count(*) > 4 FROM auth.amt_keys', right => qr/^t$/ },
	update => { user => 'member', sql => q{UPDATE auth.amt_keys SET name = 'new' WHERE key_id = 'update' RETURNING name}, right => qr/^new$/,
		effect => q{EXISTS (SELECT FROM %s WHERE key_id = 'update' AND name = 'new')} },
	suspend => { user => 'member', sql => q{UPDATE auth.amt_keys SET suspended_at = now() WHERE key_id = 'suspend' RETURNING name}, right => qr/^suspend$/,
		effect => q{EXISTS (SELECT FROM %s WHERE key_id = 'suspend' AND suspended_at IS NOT NULL)} },
	delete => { user => 'member', sql => q{DELETE FROM auth.amt_keys WHERE key_id = 'delete' RETURNING key_id}, right => qr/^delete$/, gone => 1 },
	flush => { user => superuser(), sql => 'SELECT auth.amt_flush_usage() >= 0', right => qr/^t$/, setup => [ q{SET statement_timeout = '250ms'} ] },
	rawinsert => { user => 'bob', sql => "INSERT INTO auth.amt_key (key_id, org_id, name, role, scrypt_hash, created_at) VALUES ('inserted', 'acme', 'n', 'admin', '$hash', now()) RETURNING key_id",
		right => qr/^(inserted)?$/ },
	rawupdate => { user => 'bob', sql => q{UPDATE auth.amt_key SET name = 'new' WHERE key_id = 'rawupdate' RETURNING name}, right => qr/^(new)?$/ },
	rawdelete => { user => 'bob', sql => q{DELETE FROM auth.amt_key WHERE key_id = 'rawdelete' RETURNING key_id}, right => qr/^(rawdelete)?$/ },
	events => { user => 'member', sql => 'SELECT count(*) FROM auth.amt_key_event', right => qr/^\d+$/ },
);
my @calls = sort keys %call;
# Those that cannot do without a table.
my %needs = (
	amt_key => [qw(verify authenticate whoami create import revoke present rotate grace)],
	amt_key_event => [qw(create import revoke present rotate grace update suspend delete)],
	amt_key_usage => [qw(revoke present rotate delete)],
);
for my $name (@calls)
{
	my $call = $call{$name};
	$call->{session} = Session->new($node, user => $call->{user});
	$call->{pid} = prepare($call->{session}, @{ $call->{setup} // [] }, 'SELECT pg_backend_pid()');
}

## What the owner changes

# Whatever stands in the place of a table: [name, statement].
my @kinds = (
	[ 'a table', 'CREATE TABLE %1$s (LIKE %2$s INCLUDING ALL); CREATE TRIGGER t BEFORE INSERT OR UPDATE OR DELETE ON %1$s FOR EACH ROW EXECUTE FUNCTION bob.trap();'
		. ' CREATE TRIGGER u AFTER INSERT OR UPDATE OR DELETE ON %1$s FOR EACH ROW EXECUTE FUNCTION bob.trap(); GRANT ALL ON %1$s TO PUBLIC' ],
	[ 'a view', 'CREATE VIEW %1$s AS SELECT *, bob.sprung(\'x\') FROM %2$s; GRANT ALL ON %1$s TO PUBLIC' ],
	[ 'a materialized view', 'CREATE MATERIALIZED VIEW %1$s AS SELECT * FROM %2$s; GRANT ALL ON %1$s TO PUBLIC' ],
	[ 'a foreign table', 'CREATE FOREIGN TABLE %1$s (key_id text) SERVER nothing; GRANT ALL ON %1$s TO PUBLIC' ],
	[ 'a partitioned table', 'CREATE TABLE %1$s (LIKE %2$s) PARTITION BY LIST (key_id); GRANT ALL ON %1$s TO PUBLIC' ],
	[ 'a sequence', 'CREATE SEQUENCE %1$s; GRANT ALL ON %1$s TO PUBLIC' ],
	[ 'a row type', 'CREATE TYPE %1$s AS (key_id text)' ],
	[ 'an index', 'CREATE TABLE auth.other (key_id text); CREATE INDEX %3$s ON auth.other (key_id)' ],
);
my %columns = (
	amt_key => [qw(key_id token_prefix org_id name role scopes scrypt_hash token_sha256 created_at created_by expires_at suspended_at replaces)],
	amt_key_usage => [qw(key_id calls last_used_at)],
	amt_key_event => [qw(event_id at event key_id org_id name role scopes expires_at actor by_key db_user calls)],
);
my %new_type = (scopes => 'text[][] COLLATE "C"', token_sha256 => 'text USING encode(token_sha256, \'hex\')', calls => 'numeric', event_id => 'int4',
	(map { $_ => "text USING $_\::text" } qw(created_at expires_at suspended_at last_used_at at)));
my @tables = sort keys %columns;
# A column's type can be changed when neither policy nor view uses it.  The view is locked by those who wait.
my %no_policies = (
	amt_key => 'DROP POLICY "!amt_key_own" ON auth.amt_key; DROP POLICY amt_key_select ON auth.amt_key',
	amt_key_usage => 'DROP POLICY "!amt_key_usage_own" ON auth.amt_key_usage',
	amt_key_event => 'DROP POLICY "!amt_key_event_own" ON auth.amt_key_event; DROP POLICY amt_key_event_select ON auth.amt_key_event',
);
my $unused = q{CREATE OR REPLACE VIEW auth.amt_keys AS SELECT 'x' COLLATE "C" AS key_id, 'x'::text AS name, 'x' COLLATE "C" AS token_prefix, 'x'::text AS org_id,
	'x'::text AS role, '{}'::text[] AS scopes, now() AS created_at, 'x'::text AS created_by, now() AS expires_at, now() AS suspended_at, 'x' COLLATE "C" AS replaces,
	0::bigint AS calls, now() AS last_used_at};
my @view_calls = qw(list update suspend delete);

# [description, statement by the owner, options]: "errors" names the table that is not ours any more, "by" another role,
# "without" calls that would make a deadlock of it, "still" those that work, "fails" the error of the change itself.
my @changes = (
	[ 'the schema is renamed, and another put in its place',
		'ALTER SCHEMA auth RENAME TO old; CREATE SCHEMA auth; GRANT ALL ON SCHEMA auth, old TO PUBLIC; '
		. join('; ', map { sprintf $kinds[0][1], "auth.$_", "old.$_" } @tables) ],
	[ 'the schema is renamed, and another put in its place, while the tables are a superuser\'s',
		'ALTER SCHEMA auth RENAME TO old; CREATE SCHEMA auth; GRANT ALL ON SCHEMA auth, old TO PUBLIC; '
		. join('; ', map { sprintf $kinds[0][1], "auth.$_", "old.$_" } @tables), { owner => superuser() } ],
	[ 'the schema is renamed', 'ALTER SCHEMA auth RENAME TO old' ],
	[ 'the extension is dropped and created again', 'DROP EXTENSION amt_keys; CREATE EXTENSION amt_keys SCHEMA auth', { by => superuser(), without => [ @view_calls, 'events' ] } ],
	[ 'the extension moves to another schema', 'ALTER EXTENSION amt_keys SET SCHEMA public', { by => superuser(), fails => '0A000' } ],
);
for my $table (@tables)
{
	push @changes, map { [ "$table is renamed, and $_->[0] put in its place", "ALTER TABLE auth.$table RENAME TO ${table}_2; " . sprintf($_->[1], "auth.$table", "auth.${table}_2", $table), { errors => $table } ] } @kinds;
	push @changes,
	  [ "$table is renamed", "ALTER TABLE auth.$table RENAME TO ${table}_2", { errors => $table } ],
	  [ "$table moves to another schema", "ALTER TABLE auth.$table SET SCHEMA bob", { errors => $table } ],
	  [ "$table is moved, and a table put in its place", "ALTER TABLE auth.$table SET SCHEMA bob; " . sprintf($kinds[0][1], "auth.$table", "bob.$table"), { errors => $table } ],
	  [ "$table is given to somebody else", "ALTER TABLE auth.$table OWNER TO carol", { by => superuser() } ],
	  [ "$table gets triggers, and is given to somebody else", "CREATE TRIGGER t BEFORE INSERT OR UPDATE OR DELETE ON auth.$table FOR EACH ROW EXECUTE FUNCTION bob.trap(); "
		. "RESET ROLE; ALTER TABLE auth.$table OWNER TO carol" ],
	  [ "$table becomes a partition", "CREATE TABLE auth.p (LIKE auth.$table) PARTITION BY LIST (key_id); ALTER TABLE auth.p ATTACH PARTITION auth.$table DEFAULT",
		# no identity column in partitions since version 17
		$version >= 17 && $table eq 'amt_key_event' ? { fails => '55000' } : { errors => $table } ],
	  [ "$table gets a parent", "CREATE TABLE auth.p (key_id text COLLATE \"C\" NOT NULL); ALTER TABLE auth.$table INHERIT auth.p" ],
	  [ "$table gets a child", "CREATE TABLE auth.c () INHERITS (auth.$table); CREATE TRIGGER t BEFORE INSERT OR UPDATE OR DELETE ON auth.c FOR EACH ROW EXECUTE FUNCTION bob.trap()" ],
	  [ "$table gets rules", join('; ', map { "CREATE RULE r_$_ AS ON $_ TO auth.$table DO ALSO SELECT bob.sprung('x')" } qw(insert update delete)) ],
	  [ "$table gets triggers", "CREATE TRIGGER t BEFORE INSERT OR UPDATE OR DELETE ON auth.$table FOR EACH ROW EXECUTE FUNCTION bob.trap(); "
		. "CREATE TRIGGER u AFTER INSERT OR UPDATE OR DELETE ON auth.$table FOR EACH ROW EXECUTE FUNCTION bob.trap()" ],
	  [ "$table gets a deferred trigger", "CREATE CONSTRAINT TRIGGER d AFTER INSERT OR UPDATE OR DELETE ON auth.$table DEFERRABLE INITIALLY DEFERRED FOR EACH ROW EXECUTE FUNCTION bob.trap()" ],
	  [ "$table gets a column with a default", "ALTER TABLE auth.$table ADD extra text DEFAULT bob.sprung('x') || clock_timestamp()::text" ],
	  [ "$table gets a generated column", "ALTER TABLE auth.$table ADD extra text GENERATED ALWAYS AS (bob.sprung(key_id)) STORED" ],
	  [ "$table gets a constraint", "ALTER TABLE auth.$table ADD CHECK (bob.sprung(key_id) IS NOT NULL)" ],
	  [ "$table gets an index on a function", "CREATE INDEX ON auth.$table (bob.sprung(key_id)); CREATE INDEX ON auth.$table (key_id) WHERE bob.sprung(key_id) IS NOT NULL" ],
	  [ "$table gets an exclusion constraint that is deferred", "ALTER TABLE auth.$table ADD EXCLUDE (key_id WITH =) DEFERRABLE INITIALLY DEFERRED" ],
	  [ "$table loses its primary key", "ALTER TABLE auth.$table DROP CONSTRAINT ${table}_pkey", { errors => $table, still => $table eq 'amt_key' ? qr/^(create|import)$/ : undef } ],
	  [ "the index ${table}_pkey belongs to another table", "ALTER TABLE auth.$table DROP CONSTRAINT ${table}_pkey; CREATE TABLE auth.other (key_id text, CONSTRAINT ${table}_pkey PRIMARY KEY (key_id))", { errors => $table, still => $table eq 'amt_key' ? qr/^(create|import)$/ : undef } ],
	  [ "the index ${table}_pkey has a condition", "ALTER TABLE auth.$table DROP CONSTRAINT ${table}_pkey; CREATE UNIQUE INDEX ${table}_pkey ON auth.$table ($columns{$table}[0]) WHERE bob.sprung(key_id) IS NULL", { errors => $table, still => $table eq 'amt_key' ? qr/^(create|import)$/ : undef } ],
	  [ "the index ${table}_pkey is on an expression", "ALTER TABLE auth.$table DROP CONSTRAINT ${table}_pkey; CREATE UNIQUE INDEX ${table}_pkey ON auth.$table (bob.sprung(key_id))", { errors => $table, still => $table eq 'amt_key' ? qr/^(create|import)$/ : undef } ],
	  [ "the index ${table}_pkey is a hash index", "ALTER TABLE auth.$table DROP CONSTRAINT ${table}_pkey; CREATE INDEX ${table}_pkey ON auth.$table USING hash ($columns{$table}[0])", { errors => $table, still => $table eq 'amt_key' ? qr/^(create|import)$/ : undef } ],
	  [ "the index ${table}_pkey sorts in another order", "ALTER TABLE auth.$table DROP CONSTRAINT ${table}_pkey; CREATE UNIQUE INDEX ${table}_pkey ON auth.$table ($columns{$table}[0] DESC)" ],
	  [ "$table has other storage", "ALTER TABLE auth.$table SET ACCESS METHOD heap2", { errors => $table } ],
	  [ "the triggers of $table are switched off", "ALTER TABLE auth.$table DISABLE TRIGGER USER" ],
	  [ "$table is written anew", "ALTER TABLE auth.$table SET UNLOGGED; CLUSTER auth.$table USING ${table}_pkey" ];
	for my $column (@{ $columns{$table} })
	{
		my $type = $new_type{$column} // 'varchar';
		my $before = $no_policies{$table} . ($table eq 'amt_key' ? "; $unused" : '');
		push @changes, [ "the type of $table.$column changes", "$before; ALTER TABLE auth.$table ALTER $column TYPE $type",
			{ errors => $table, without => $table eq 'amt_key' ? \@view_calls : [] } ];
	}
}

## The rounds

sub new_tables
{
	my ($owner) = @_;
	my @names = grep { $_ !~ /^(flush|list|events|create|import|rawinsert)$/ } @calls;
	prepare($super,
		'BEGIN', 'DROP EXTENSION IF EXISTS amt_keys CASCADE', 'DROP SCHEMA IF EXISTS auth, old CASCADE', 'CREATE SCHEMA auth AUTHORIZATION bob', 'CREATE EXTENSION amt_keys SCHEMA auth',
		'GRANT USAGE ON SCHEMA auth TO PUBLIC', 'GRANT EXECUTE ON FUNCTION auth.amt_verify TO app',
		($owner eq superuser() ? 'GRANT ALL ON auth.amt_key TO bob' : map { "ALTER TABLE auth.$_ OWNER TO bob" } @tables, 'amt_keys'),
		'ALTER TYPE auth.amt_new_key OWNER TO bob', 'ALTER TYPE auth.amt_verified OWNER TO bob',
		"INSERT INTO auth.amt_key (key_id, org_id, name, role, scrypt_hash, created_at) SELECT k, 'acme', k, 'admin', '$hash', now() FROM unnest(string_to_array('@names', ' ')) AS k",
		'COMMIT',
		"SELECT FROM auth.amt_verify('amt_rotate_$secret') AS a, auth.amt_verify('amt_delete_$secret') AS b");
	return;
}

# Until each of these processes has begun the statement with this mark, and waits or has answered.
sub wait_for_calls
{
	my ($mark, @names) = @_;
	my $pids = join ', ', map { $call{$_}{pid} } @names;
	return wait_until(sub {
		run($watch, "SELECT count(*) FROM pg_stat_activity WHERE pid IN ($pids) AND strpos(query, '$mark') > 0 AND (state <> 'active' OR wait_event_type IN ('Lock', 'Extension'))") == @names;
	}, 20);
}

my $round = 0;
for my $change (@changes)
{
	my ($what, $sql, $opt) = @$change;
	my $mark = '/* round ' . ++$round . ' */';
	my %without = map { $_ => 1 } @{ $opt->{without} // [] };
	my @names = grep { !$without{$_} } @calls;
	my @wrong;
	my %error;

	new_tables($opt->{owner} // 'bob');
	my ($table) = map { prepare($super, "SELECT '$_'::regclass::oid") } 'auth.amt_key';
	prepare($super, 'BEGIN', 'LOCK TABLE ' . join(', ', map { "auth.$_" } @tables) . ' IN ACCESS EXCLUSIVE MODE');
	$call{$_}{session}->send($call{$_}{sql} =~ s/ / $mark /r) for @names;
	wait_for_calls($mark, @names) or push @wrong, 'not all calls wait';
	my $changed = run($super, 'SET LOCAL ROLE ' . ($opt->{by} // 'bob'), $sql, 'COMMIT', 'RESET ROLE');
	push @wrong, "the change: $changed" if ($opt->{fails} // '') ne join ',', $changed =~ /ERROR:  (\w+)/g;

	for my $name (@names)
	{
		my $call = $call{$name};
		my $answer = $call->{session}->receive // BAIL_OUT("$what: $name has ended the server");
		$error{$name} = $1 if $answer =~ /^ERROR:  (\w{5})$/;
		push @wrong, "$name: $answer" if ($error{$name} // '') =~ /^XX/;
		next if $error{$name};
		push @wrong, "$name: $answer" if $answer !~ $call->{right};
		my $effect = $call->{gone} ? "NOT EXISTS (SELECT FROM %s WHERE key_id = '$name')" : $call->{effect} // next;
		my $found = run($super, 'SELECT ' . sprintf $effect, prepare($super, "SELECT $table\::regclass"));
		push @wrong, "$name: $answer, but in the table it is not so" if $found eq 'f';
	}
	for my $name (grep { $_ !~ ($opt->{still} // qr/^$/) } @{ $needs{ $opt->{errors} // '' } // [] })
	{
		push @wrong, "$name: no error about the table" if ($error{$name} // '') !~ /^(42P01|42704|42809|42804|42501)$/;
	}
	is(join("\n", @wrong), '', "$what: every call answers right, or with an error");
}
is($super->query('SELECT last_value, is_called FROM caught'), '1|f', 'no code of the owner\'s has run with the rights of anybody else');
is($super->query(q{SELECT rolsuper FROM pg_roles WHERE rolname = 'bob'}), 'f', 'the owner is no superuser');
cmp_ok($super->query('SELECT last_value FROM ran'), '>', 20, 'the traps were run as the owner');
unlike(PostgreSQL::Test::Utils::slurp_file($node->logfile), qr/terminated by signal|PANIC|TRAP/, 'the server was up all the time');

$_->quit for $super, $watch, $bob, map { $_->{session} } values %call;
$node->stop;
done_testing();
