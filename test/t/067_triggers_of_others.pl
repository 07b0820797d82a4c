# Triggers that were made by somebody who does not own the table.
#
# A trigger has no owner.  TRIGGER on a table, which is part of GRANT ALL, is enough to make one, and the extension writes
# its tables as their owner.  So it refuses to write a table with a trigger, or anything else, that could run somebody
# else's code.

use strict;
use warnings FATAL => 'all';

use FindBin;
use lib "$FindBin::RealBin/../perl";

use AmtKeys qw(:all);
use Session;
use Test::More;

my $node = new_cluster();
my $super = Session->new($node);

$super->query(
	'CREATE ROLE bob LOGIN', 'CREATE SCHEMA bobs AUTHORIZATION bob',
	'GRANT ALL ON ALL TABLES IN SCHEMA public TO bob', 'REVOKE INSERT, UPDATE, DELETE, TRUNCATE ON amt_key, amt_key_usage, amt_key_event FROM bob',
	'GRANT EXECUTE ON FUNCTION amt_key_guard(), amt_key_record() TO bob',
	q{CREATE FUNCTION owners() RETURNS trigger LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp AS $$ BEGIN RETURN coalesce(new, old); END $$});
my $bob = Session->new($node, user => 'bob');
$bob->query(q{CREATE FUNCTION bobs.rise() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN ALTER ROLE bob SUPERUSER; RETURN coalesce(new, old); END $$},
	q{CREATE FUNCTION bobs.rise(text) RETURNS boolean LANGUAGE plpgsql AS $$ BEGIN ALTER ROLE bob SUPERUSER; RETURN true; END $$});

sub is_no_superuser
{
	my ($what) = @_;
	return is($super->query(q{SELECT rolsuper FROM pg_roles WHERE rolname = 'bob'}), 'f', "$what gives its author no rights");
}

# What is written, and what must be refused meanwhile.
my %statement = (
	amt_key => q{SELECT token <> '' FROM amt_create_key('a key', 'acme', 'viewer')},
	amt_key_event => q{SELECT token <> '' FROM amt_create_key('a key', 'acme', 'viewer')},
	amt_key_usage => 'SELECT amt_flush_usage() > 0');
my %refusal = (amt_key => '42501', amt_key_event => '42501', amt_key_usage => '55000');

for my $table (sort keys %statement)
{
	for my $trigger (
		[ 'a function of one\'s own', 'EXECUTE FUNCTION bobs.rise()' ],
		[ 'a condition of one\'s own', q{WHEN (bobs.rise(new.key_id)) EXECUTE FUNCTION public.owners()} ],
		[ 'arguments', q{EXECUTE FUNCTION public.owners('bob')} ],
		[ 'a condition of one\'s own before the extension\'s function', q{WHEN (bobs.rise(new.key_id)) EXECUTE FUNCTION public.amt_key_guard()} ],
		[ 'a deferred call of the extension\'s function', q{EXECUTE FUNCTION public.amt_key_record()} ],
		[ 'arguments of the extension\'s function', q{EXECUTE FUNCTION public.amt_key_guard('bob')} ])
	{
		my ($what, $action) = @$trigger;
		$bob->query($what =~ /deferred/ ? "CREATE CONSTRAINT TRIGGER bobs AFTER INSERT ON $table DEFERRABLE INITIALLY DEFERRED FOR EACH ROW $action"
			: "CREATE TRIGGER bobs BEFORE INSERT ON $table FOR EACH ROW $action");
		is($super->query("SELECT count(*) FROM pg_trigger WHERE tgname = 'bobs'"), 1, "$what: TRIGGER is enough to put a trigger on $table");
		if ($table eq 'amt_key_usage')
		{
			$super->query("ALTER TABLE $table DISABLE TRIGGER bobs");
			my $key = create_key($node);
			$super->query("ALTER TABLE $table ENABLE TRIGGER bobs", "SELECT count(*) FROM amt_verify('$key')");
		}
		is($super->query($statement{$table}), "ERROR:  $refusal{$table}", "$what: nothing is written to $table as its owner");
		is_no_superuser("a trigger on $table with $what");
		$super->query("REVOKE TRIGGER ON $table FROM bob");
		is($super->query($statement{$table}), "ERROR:  $refusal{$table}", "$what: nothing is written to $table when its author has lost TRIGGER, either");
		is_no_superuser("a trigger on $table with $what, left behind,");
		$super->query("GRANT TRIGGER ON $table TO bob");
		$super->query("DROP TRIGGER bobs ON $table");
	}
	$super->query("CREATE TRIGGER owners BEFORE INSERT ON $table FOR EACH ROW EXECUTE FUNCTION owners()");
	if ($table eq 'amt_key_usage')
	{
		my $key = create_key($node);
		$super->query("SELECT count(*) FROM amt_verify('$key')");
	}
	is($super->query($statement{$table}), "ERROR:  $refusal{$table}", "a trigger on $table of its owner's, a superuser, is refused");
	$super->query("DROP TRIGGER owners ON $table");
}

# The functions of our own triggers, given away and replaced.
for my $function (qw(amt_key_guard amt_key_record))
{
	$super->query('GRANT CREATE ON SCHEMA public TO bob', "ALTER FUNCTION $function() OWNER TO bob");
	$bob->query("CREATE OR REPLACE FUNCTION $function() RETURNS trigger LANGUAGE plpgsql AS \$\$ BEGIN ALTER ROLE bob SUPERUSER; RETURN coalesce(new, old); END \$\$");
	is($super->query($statement{amt_key}), 'ERROR:  42501', "$function() that belongs to somebody else is not called as the table's owner");
	is_no_superuser("a replaced $function()");
	take_back($function);
}
is($super->query($statement{amt_key}), 't', 'keys are created again once the triggers have their own functions');

# Other code of somebody else's that a superuser has attached, and foreign keys.
$super->query('CREATE TABLE target (i int PRIMARY KEY)');
$bob->query('CREATE FUNCTION bobs.region() RETURNS text LANGUAGE plpgsql AS $$ BEGIN ALTER ROLE bob SUPERUSER; RETURN 1; END $$',
	'CREATE FUNCTION bobs.norm(text) RETURNS text LANGUAGE plpgsql IMMUTABLE AS $$ BEGIN ALTER ROLE bob SUPERUSER; RETURN $1; EXCEPTION WHEN OTHERS THEN RETURN $1; END $$',
	q{CREATE DOMAIN bobs.word AS text CHECK (bobs.norm(value) IS DISTINCT FROM 'y')}, 'CREATE TABLE bobs.refers (key_id text COLLATE "C")',
	q{CREATE TYPE bobs.color AS ENUM ('red')}, 'CREATE TYPE bobs.span AS RANGE (subtype = float8)', q{CREATE TABLE bobs.parts (k text) PARTITION BY HASH ((k || bobs.norm('x')))},
	q{CREATE FUNCTION bobs.differs(text, text) RETURNS boolean LANGUAGE plpgsql IMMUTABLE AS $$ BEGIN ALTER ROLE bob SUPERUSER; RETURN true; EXCEPTION WHEN OTHERS THEN RETURN true; END $$},
	'CREATE OPERATOR bobs.=== (LEFTARG = text, RIGHTARG = text, FUNCTION = texteq, NEGATOR = OPERATOR(bobs.!==))',
	'CREATE OPERATOR bobs.!== (LEFTARG = text, RIGHTARG = text, FUNCTION = bobs.differs, NEGATOR = OPERATOR(bobs.===))');
for my $code (
	[ 'a default', 'ALTER TABLE {t} ADD c text; ALTER TABLE {t} ALTER c SET DEFAULT bobs.region()', 'ALTER TABLE {t} DROP c' ],
	[ 'a default of a domain', q{ALTER TABLE {t} ADD c bobs.word; ALTER TABLE {t} ALTER c SET DEFAULT 'x'}, 'ALTER TABLE {t} DROP c' ],
	[ 'a generated column', 'ALTER TABLE {t} ADD c text GENERATED ALWAYS AS (bobs.norm(key_id)) STORED', 'ALTER TABLE {t} DROP c' ],
	[ 'a constraint', 'ALTER TABLE {t} ADD CONSTRAINT c CHECK (bobs.norm(key_id) IS NOT NULL)', 'ALTER TABLE {t} DROP CONSTRAINT c' ],
	[ 'a constraint on a cast to a domain', 'ALTER TABLE {t} ADD CONSTRAINT c CHECK (key_id::bobs.word IS NOT NULL) NOT VALID', 'ALTER TABLE {t} DROP CONSTRAINT c' ],
	[ 'an index on an expression', 'CREATE INDEX c ON {t} (bobs.norm(key_id))', 'DROP INDEX c' ],
	[ 'an index with a condition', q{CREATE INDEX c ON {t} (key_id) WHERE bobs.norm(key_id) = 'x'}, 'DROP INDEX c' ],
	[ 'a column of a domain', 'ALTER TABLE {t} ADD c bobs.word', 'ALTER TABLE {t} DROP c' ],
	[ 'a column of an array of a domain', 'ALTER TABLE {t} ADD c bobs.word[]', 'ALTER TABLE {t} DROP c' ],
	[ 'a column of an enum', 'ALTER TABLE {t} ADD c bobs.color', 'ALTER TABLE {t} DROP c' ],
	[ 'a column of a range', 'ALTER TABLE {t} ADD c bobs.span', 'ALTER TABLE {t} DROP c' ],
	[ 'an operator with a negator', q{ALTER TABLE {t} ADD CONSTRAINT c CHECK (NOT (key_id OPERATOR(bobs.===) 'x')) NOT VALID}, 'ALTER TABLE {t} DROP CONSTRAINT c' ],
	[ 'an operator with a negator, of a list', q{CREATE INDEX c ON {t} ((NOT (key_id OPERATOR(bobs.===) ANY ('{x,y}'::text[]))))}, 'DROP INDEX c' ],
	[ 'an expression that is not looked into', 'ALTER TABLE {t} ADD CONSTRAINT c CHECK (xmlelement(name x, key_id) IS NOT NULL)', 'ALTER TABLE {t} DROP CONSTRAINT c' ],
	[ 'an index on a constant expression', q{CREATE INDEX c ON {t} ((bobs.norm('x')))}, 'DROP INDEX c' ],
	[ 'an index with a constant condition', q{CREATE INDEX c ON {t} (key_id) WHERE bobs.norm('x') = 'x'}, 'DROP INDEX c' ],
	[ 'a built-in function that opens a table', q{ALTER TABLE {t} ADD CONSTRAINT c CHECK (satisfies_hash_partition('bobs.parts'::regclass, 1, 0, key_id) IS NOT NULL) NOT VALID}, 'ALTER TABLE {t} DROP CONSTRAINT c' ],
	[ 'a rule', 'CREATE RULE c AS ON INSERT TO {t} DO ALSO SELECT bobs.region()', 'DROP RULE c ON {t}' ],
	[ 'statistics on an expression', 'CREATE STATISTICS bobs.c ON (bobs.norm(key_id)), org_id FROM {t}', 'DROP STATISTICS bobs.c' ],
	[ 'a parent', 'CREATE TABLE bobs.parent (LIKE {t}); ALTER TABLE {t} INHERIT bobs.parent', 'ALTER TABLE {t} NO INHERIT bobs.parent; DROP TABLE bobs.parent' ],
	[ 'a parent without columns', 'CREATE TABLE bobs.parent (); ALTER TABLE {t} INHERIT bobs.parent', 'ALTER TABLE {t} NO INHERIT bobs.parent; DROP TABLE bobs.parent' ],
	[ 'a child', 'CREATE TABLE bobs.child () INHERITS ({t})', 'DROP TABLE bobs.child' ],
	[ 'a type of its own', q{DO $$ BEGIN EXECUTE (SELECT format('CREATE TYPE bobs.shape AS (%s)', string_agg(format('%I %s', attname, atttypid::regtype) || coalesce(' COLLATE ' || quote_ident(collname), ''), ',' ORDER BY attnum)) FROM pg_attribute LEFT JOIN pg_collation AS c ON c.oid = attcollation WHERE attrelid = '{t}'::regclass AND attnum > 0 AND NOT attisdropped);END $$; ALTER TABLE {t} OF bobs.shape},
		'ALTER TABLE {t} NOT OF; DROP TYPE bobs.shape' ],
	[ 'a foreign key of its own', 'ALTER TABLE {t} ADD c int; ALTER TABLE {t} ADD FOREIGN KEY (c) REFERENCES public.target', 'ALTER TABLE {t} DROP c' ],
	[ 'a foreign key that refers to it', 'ALTER TABLE bobs.refers ADD CONSTRAINT c FOREIGN KEY (key_id) REFERENCES {t} ON DELETE CASCADE', 'ALTER TABLE bobs.refers DROP CONSTRAINT c' ])
{
	my ($what, $add, $remove) = @$code;
	for my $table ($what =~ /refers/ ? 'amt_key' : ('amt_key', 'amt_key_event'))
	{
		my $victim = create_key($node);
		is($super->query(split /; /, $add =~ s/\{t\}/$table/gr), '', "a superuser adds $what to $table");
		$super->query('ALTER ROLE bob NOSUPERUSER');	# to add it may have run it, as the superuser
		is($super->query($statement{$table}), 'ERROR:  42501', "$table is not written while it has $what that is not its owner's") unless $what =~ /refers/;
		is($super->query("SELECT amt_revoke('" . id_of($victim) . "')"), 'ERROR:  42501', "no key is revoked while $table has $what");
		is_no_superuser("$what of $table");
		is($super->query(split /; /, $remove =~ s/\{t\}/$table/gr), '', "the superuser removes $what from $table");
		is($super->query("SELECT amt_revoke('" . id_of($victim) . "')"), 't', "without $what on $table the key is revoked");
	}
}

# The worker runs no expression, whoever has made it: a built-in function may take minutes, and looks for no cancel.
my $called = create_key($node);
for my $code (
	[ 'a constraint', 'ALTER TABLE {t} ADD CONSTRAINT c CHECK (calls >= 0)', 'ALTER TABLE {t} DROP CONSTRAINT c' ],
	[ 'a generated column', 'ALTER TABLE {t} ADD c bigint GENERATED ALWAYS AS (calls + 1) STORED', 'ALTER TABLE {t} DROP c' ],
	[ 'a column with a default', q{ALTER TABLE {t} ADD c int; ALTER TABLE {t} ALTER c SET DEFAULT position('b' in 'ab')}, 'ALTER TABLE {t} DROP c' ],
	[ 'an identity column', 'ALTER TABLE {t} ADD c int GENERATED BY DEFAULT AS IDENTITY', 'ALTER TABLE {t} DROP c' ],
	[ 'an index on an expression', 'CREATE INDEX c ON {t} ((calls + 1))', 'DROP INDEX c' ],
	[ 'an index with a condition', 'CREATE INDEX c ON {t} (calls) WHERE calls > 10', 'DROP INDEX c' ],
	[ 'an index of another kind', 'CREATE INDEX c ON {t} USING hash (key_id)', 'DROP INDEX c' ],
	[ 'an index on a column that was added', 'ALTER TABLE {t} ADD c int; CREATE INDEX ON {t} (c)', 'ALTER TABLE {t} DROP c' ])
{
	my ($what, $add, $remove) = map { s/\{t\}/amt_key_usage/gr } @$code;
	is($super->query(split /; /, $add), '', "a superuser adds $what to amt_key_usage");
	verify($node, $called);
	is($super->query('SELECT amt_flush_usage() > 0'), 'ERROR:  55000', "amt_key_usage is not written while it has $what");
	is($super->query($remove), '', "the superuser removes $what from amt_key_usage");
	is($super->query('SELECT amt_flush_usage() > 0'), 't', "amt_key_usage is written without $what");
}
is($super->query('CREATE INDEX c ON amt_key_usage (calls DESC, last_used_at)', "SELECT count(*) FROM amt_verify('$called')", 'SELECT amt_flush_usage() > 0'), "\n1\nt" =~ s/\A\n//r,
	'a plain index on the columns of amt_key_usage is maintained');

# A function of a trigger is given to bob, who replaces it; it goes back to the superuser, who restores it.
sub give_to_bob
{
	my ($function, $code) = @_;
	$super->query("ALTER FUNCTION $function() OWNER TO bob");
	$bob->query("CREATE OR REPLACE FUNCTION $function() RETURNS trigger LANGUAGE plpgsql AS \$\$ BEGIN ALTER ROLE bob SUPERUSER; $code RETURN coalesce(new, old); END \$\$");
	return;
}

sub take_back
{
	my ($function) = @_;
	$super->query("ALTER FUNCTION $function() OWNER TO " . superuser(), "CREATE OR REPLACE FUNCTION $function() RETURNS trigger LANGUAGE C AS '\$libdir/amt_keys'");
	return;
}

# A function that is given away while a call waits for another one's row: the call has its own code already.
for my $function ('amt_key_record', 'amt_key_guard')
{
	my $digest = create_key($node);
	my $holder = Session->new($node);
	my $victim = Session->new($node);
	my $pid = $victim->backend;
	my $import = "SELECT amt_import_key(sha256('$digest'), 'k', 'acme', 'viewer') IS NOT NULL";
	$holder->query('BEGIN', $import);
	$victim->send($import);
	ok(wait_for_lock($node, $pid), 'a creation waits for the unique index');
	give_to_bob($function, '');
	$holder->query('ROLLBACK');
	is($victim->receive, 't', "the creation that waited runs the library's code, though $function() was given away meanwhile");
	is_no_superuser("$function() that was replaced while a call waited");
	take_back($function);
	is($super->query("SELECT count(*) FROM amt_key JOIN amt_key_event USING (key_id) WHERE token_sha256 = sha256('$digest')"), 1, 'the creation that waited is recorded');
	$_->quit for $holder, $victim;
}

# A function that is given away while a call waits for an index, and that puts itself back when it has run.
for my $function ('amt_key_record', 'amt_key_guard')
{
	my $holder = Session->new($node);
	my $victim = Session->new($node);
	my $pid = $victim->backend;
	my $create = "SELECT key_id IS NOT NULL FROM amt_create_key('k', 'acme', 'viewer')";
	my $back = qq{CREATE OR REPLACE FUNCTION $function() RETURNS trigger LANGUAGE C VOLATILE AS '\$libdir/amt_keys'; ALTER FUNCTION $function() OWNER TO } . superuser();
	is($holder->query('CREATE INDEX stall ON amt_key (org_id, name)') . $victim->query($create), 't', 'a session has created a key');
	$holder->query('BEGIN', 'ALTER INDEX stall SET TABLESPACE pg_default');
	$victim->send($create);
	ok(wait_for_lock($node, $pid), 'a creation waits for an index');
	give_to_bob($function, "$back;");
	$holder->query('COMMIT');
	is($victim->receive, 'ERROR:  42501', "the creation that waited for an index does not call $function(), which was given away meanwhile");
	is_no_superuser("$function() that was replaced while a call waited for an index");
	take_back($function);
	is($victim->query($create), 't', "a key is created when $function() is as it was");
	$holder->query('DROP INDEX stall');
	$_->quit for $holder, $victim;
}

# So it is with a function that has settings: the server looks it up again when it calls it.
is($super->query('ALTER FUNCTION amt_key_guard() SET work_mem = 65', 'SELECT count(*) FROM amt_create_key($$k$$, $$acme$$, $$viewer$$)'), 'ERROR:  42501', 'a trigger function with settings is not called');
$super->query('ALTER FUNCTION amt_key_guard() RESET ALL');

# An index that is added while a call waits for another one.  To open it would evaluate its constant expressions.
{
	$super->query('CREATE DATABASE owned');
	my $owners = Session->new($node, dbname => 'owned');
	$owners->query('CREATE EXTENSION amt_keys', 'GRANT CREATE ON SCHEMA public TO bob', 'CREATE TABLE ran (who name)', 'GRANT INSERT ON ran TO PUBLIC',
		'ALTER TABLE amt_key OWNER TO bob', 'ALTER TABLE amt_key_event OWNER TO bob');
	my ($holder, $builder) = map { Session->new($node, dbname => 'owned', user => 'bob') } 1 .. 2;
	$builder->query('CREATE FUNCTION note() RETURNS void LANGUAGE plpgsql AS $$ BEGIN INSERT INTO public.ran VALUES (session_user); END $$',
		'CREATE FUNCTION evil(i int) RETURNS int IMMUTABLE LANGUAGE plpgsql AS $$ BEGIN PERFORM public.note(); RETURN i; END $$');
	my $victim = Session->new($node, dbname => 'owned');
	my $pid = $victim->backend;
	for my $table ('amt_key', 'amt_key_event')
	{
		$holder->query("CREATE INDEX stall ON $table (org_id, name)", 'BEGIN', 'ALTER INDEX stall SET TABLESPACE pg_default');
		$victim->send($statement{amt_key});
		ok(wait_for_lock($node, $pid), "a creation waits for an index of $table");
		$builder->send("CREATE INDEX CONCURRENTLY added ON $table ((evil(1)), key_id)");
		ok($node->poll_query_until("owned", q{SELECT to_regclass('added') IS NOT NULL}), "meanwhile an index is added to $table");
		$holder->query('COMMIT');
		is($victim->receive, 't', "a key is created while the owner of $table adds an index with a function");
		$builder->receive;
		is($owners->query(q{SELECT count(*) FROM ran WHERE who = '} . superuser() . q{'}), 0, "an index that is added to $table while a call waits is not opened by the call");
		is($victim->query($statement{amt_key}), 'ERROR:  42501', "the next call refuses the index of $table");
		is($owners->query(q{SELECT count(*) FROM ran WHERE who = '} . superuser() . q{'}), 0, "an index of $table that is refused is not opened");
		$holder->query('DROP INDEX added', 'DROP INDEX stall');
	}
	$_->quit for $holder, $builder, $victim, $owners;
}

# Built-in functions go on running.
for my $default ('timestamptz DEFAULT now()', q{text DEFAULT 'x'}, q{text[] DEFAULT array[lower('X'), current_user]})
{
	is($super->query("ALTER TABLE amt_key ADD c $default"), '', "a superuser adds a column: $default");
	is($super->query($statement{amt_key}), 't', "a table with a column is written: $default");
	$super->query('ALTER TABLE amt_key DROP c');
}

done_testing();
