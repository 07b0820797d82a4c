# The install script runs as a superuser in a schema that somebody else owns and has filled with traps: an operator of every
# name for every pair of types that occur in the script, and every function that the script calls, with the same and with
# nearly the same arguments.  Each trap makes its author a superuser, if it runs with the rights for that.

use strict;
use warnings FATAL => 'all';

use FindBin;
use lib "$FindBin::RealBin/../perl";

use AmtKeys;
use Session;
use PostgreSQL::Test::Utils;
use Test::More;

## The script as a text

my $script = join '', map { slurp_file($_) } sort glob "$FindBin::RealBin/../../sql/amt_keys--*.sql";

# What the server would look up by its name alone.
sub unqualified
{
	my ($sql) = @_;
	my @found;

	$sql =~ s/^\\echo.*$//mg;
	$sql =~ s{/\*.*?\*/}{}gs;
	$sql =~ s/--.*$//mg;
	$sql =~ s/'(?:[^']|'')*'/'x'/g;
	$sql =~ s/OPERATOR\(pg_catalog\.[^)]+\)/OPERATOR_OF_CATALOG/g;
	$sql =~ s/\bWITH \(\w+ = \w+\)//g; # options of a table or view
	$sql =~ s/\$\$//g;
	$sql =~ s/\@extschema\@/EXTSCHEMA/g;
	$sql =~ s/\bPOLICY "[^"]+"/POLICY x/g;
	$sql =~ s/\bSELECT s\.\*/SELECT s/g;
	push @found, "operator $1" while $sql =~ m{([-+*/<>=~!@#%^&|`?]+)}g;
	push @found, "cast $1" while $sql =~ /::(?!pg_catalog\.)(\S+)/g;
	push @found, "construct $1" while $sql =~ /\b(CASE\s+(?!WHEN)\S+|(?:NOT )?IN\s*\(|BETWEEN|LIKE|ILIKE|SIMILAR|DISTINCT|ORDER\s+BY|GROUP\s+BY|ANY\s*\(|SOME\s*\(|ALL\s*\(|NULLIF|GREATEST|LEAST|EXCEPT|INTERSECT|UNION(?! ALL)|NATURAL|OVERLAPS|CAST\s*\(|JOIN[^;]*?\bUSING\b)/g;
	push @found, "type $1" while $sql =~ /(?<![.\w"])(text|varchar|bool|boolean|int2|int4|int8|integer|bigint|smallint|float8|numeric|timestamptz|timestamp|bytea|interval|regclass|regprocedure|regtype|void|record|aclitem|cstring)\b(?!\s*\()/g;
	push @found, "collation $1" while $sql =~ /\bCOLLATE\s+(?!pg_catalog\.)(\S+)/g;
	my %word = map { $_ => 1 } qw(EXISTS coalesce CHECK KEY UNIQUE IDENTITY AS SELECT UPDATE USING LATERAL WITH FUNCTION AND OPERATOR_OF_CATALOG);
	while ($sql =~ /([\w."]+)\s*\(/g)
	{
		my $name = $1;
		my $before = substr $sql, 0, $-[0];
		push @found, "function $name" unless $name =~ /^(?:pg_catalog|EXTSCHEMA)\.\w+$/ || $word{$name};
	}
	push @found, "relation $1" while $sql =~ /\b(?:FROM|JOIN|ON|TABLE|INTO)\s+(?!LATERAL|\(|ON\b|FUNCTION|TYPE|EXTSCHEMA\.|pg_catalog\.|PUBLIC|true\b)(?![a-z]\.\w+ OPERATOR_OF|[a-z]\.)(\w+)/g;
	return grep { !/^relation (COLUMN|TABLE|EXTENSION|POLICY|TRIGGER|VIEW|REPLICA|AS|SELECT|BEFORE|AFTER|x)$/ } @found;
}

is(join("\n", unqualified($script)), '', 'the install script names the schema of everything that it uses');

# The check itself: each of these must be found.
for ([ '::pg_catalog.text', '::text' ], [ 'OPERATOR(pg_catalog.=)', '=' ], [ 'pg_catalog.format(', 'format(' ], [ 'CASE WHEN', 'CASE x WHEN' ], [ 'UNION ALL', 'UNION' ],
	[ 'COLLATE pg_catalog."C"', 'COLLATE "C"' ], [ 'pg_catalog.clock_timestamp()', 'clock_timestamp()' ], [ 'calls        pg_catalog.int8', 'calls int8' ],
	[ 'ON true', 'USING (oid)' ], [ 'FROM pg_catalog.pg_depend', 'FROM pg_depend' ], [ 'k.expires_at IS NULL', 'k.role IN (NULL)' ], [ 'RETURNS pg_catalog.void', 'RETURNS void' ],
	[ '@extschema@.amt_usage(k.key_id)', 'amt_usage(k.key_id)' ], [ 'FROM @extschema@.amt_key AS k', 'FROM amt_key AS k' ])
{
	my ($good, $bad) = @$_;
	my $changed = $script =~ s/\Q$good\E/$bad/r;
	isnt($changed, $script, "the script has \"$good\"");
	cmp_ok(scalar(unqualified($changed)), '>', 0, "\"$bad\" in its place would be found");
}

# The schema's owner can swap the schema between two look-ups of its name, so what is found in it may be made and named, but
# never called.
sub statements_that_call
{
	my ($sql) = @_;
	$sql =~ s/^\\echo.*$//mg;
	$sql =~ s{/\*.*?\*/}{}gs;
	$sql =~ s/--.*$//mg;
	$sql =~ s/'(?:[^']|'')*'/'x'/g;
	$sql =~ s/\$\$.*?\$\$/BODY/gs;
	$sql =~ s/(?:CREATE TABLE|ON) \@extschema\@\.\w+ \(/TABLE (/g;
	return grep { !/^\s*(?:(?:CREATE|ALTER) (?:FUNCTION|TRIGGER|POLICY|VIEW)|COMMENT ON|GRANT|REVOKE)\b/ && /\@extschema\@\.\w+\s*\(/ } split /;/, $sql;
}
is_deeply([ statements_that_call($script) ], [], 'the scripts call no function of the schema');
is(scalar(statements_that_call("$script\nSELECT \@extschema\@.amt_org_id();\nDO \$\$ \$\$;\nALTER TABLE \@extschema\@.x ADD c int DEFAULT \@extschema\@.f(1);")), 2, 'calls would be found');

# The scripts of the examples run as a superuser, too.
for my $file (glob "$FindBin::RealBin/../../examples/*/*.sql")
{
	my ($first) = slurp_file($file) =~ s/^(--|\\).*\n|^\n//mgr =~ /\ABEGIN;\n(.*)/;
	is($first, 'SET LOCAL search_path = pg_catalog, pg_temp;', ($file =~ s{.*/(examples/)}{$1}r) . ' looks into pg_catalog first');
}

## The script in a schema full of traps

my $node = new_cluster(conf => "amt_keys.usage_flush_interval = 10ms\n");
my $super = Session->new($node);
sub sql
{
	my ($session, @sql) = @_;
	my $answer = $session->query(@sql) // die 'the server is down';
	return $answer;
}
is(sql($super, 'DROP EXTENSION amt_keys', 'CREATE ROLE bob LOGIN', 'CREATE ROLE web LOGIN', 'CREATE DATABASE app OWNER bob'), '', 'a database belongs to a role that is no superuser');
$super->quit;

# Types of arguments, in the script and near those.
my @types = ('text', 'name', 'bool', '"char"', 'oid', 'int4', 'int8', 'regclass', 'regprocedure', 'regtype', 'timestamptz', 'interval', 'bytea', 'text[]', 'aclitem', 'aclitem[]', 'varchar', 'unknown');
# Functions that the script calls, its own included.
my %called = map { $_ => 1 } $script =~ /(?:pg_catalog|\@extschema\@)\.(\w+)\(/g;
my $called = join ', ', map { "'$_'" } sort keys %called;

my $traps = <<"SQL";
CREATE SEQUENCE sprung;
GRANT ALL ON SEQUENCE sprung TO PUBLIC;
CREATE FUNCTION spring() RETURNS bool LANGUAGE plpgsql AS \$\$
BEGIN
	PERFORM pg_catalog.nextval('public.sprung');
	BEGIN
		EXECUTE 'ALTER ROLE bob SUPERUSER';
	EXCEPTION WHEN OTHERS THEN NULL;
	END;
	RETURN true;
END
\$\$;
DO \$do\$
DECLARE
	types text[] := string_to_array('@{[ join ';', @types ]}', ';');
	l text;
	r text;
	f record;
	args text[];
	body text := 'LANGUAGE plpgsql AS \$\$ BEGIN PERFORM public.spring(); RETURN NULL; END \$\$';
	n int := 0;
BEGIN
	FOREACH l IN ARRAY types LOOP
		FOREACH r IN ARRAY types LOOP
			-- "unknown" is no argument type of plpgsql functions
			CONTINUE WHEN 'unknown' IN (l, r);
			n := n + 1;
			EXECUTE pg_catalog.format('CREATE FUNCTION public.op%s(%s, %s) RETURNS bool %s', n, l, r, replace(body, 'NULL', 'true'));
			EXECUTE pg_catalog.format('CREATE OPERATOR public.= (FUNCTION = public.op%s, LEFTARG = %s, RIGHTARG = %s)', n, l, r);
		END LOOP;
	END LOOP;
	-- the same arguments, and each of them as another type
	FOR f IN
		SELECT p.proname, p.pronargs, pg_catalog.format('%s', p.prorettype::regtype) AS result, i AS at, t,
		       (SELECT array_agg(CASE WHEN a = '"any"'::regtype THEN 'text' ELSE a::regtype::text END ORDER BY o) FROM unnest(p.proargtypes) WITH ORDINALITY AS u (a, o)) AS args
		FROM pg_catalog.pg_proc AS p, generate_series(0, p.pronargs) AS i, unnest(types) AS t
		WHERE p.pronamespace = 'pg_catalog'::regnamespace AND p.prokind = 'f' AND p.proname IN ($called) AND t <> 'unknown' AND (i > 0 OR t = 'text')
	LOOP
		args := coalesce(f.args, '{}');
		IF f.at > 0 THEN
			args[f.at] := f.t;
		END IF;
		BEGIN
			EXECUTE pg_catalog.format('CREATE FUNCTION public.%I(%s) RETURNS %s %s', f.proname, array_to_string(args, ', '), CASE WHEN f.result IN ('void', 'record') THEN 'text' ELSE f.result END, body);
		EXCEPTION WHEN duplicate_function THEN NULL;
		END;
	END LOOP;
	-- functions of the extension's, with other arguments
	FOREACH l IN ARRAY string_to_array('@{[ join ';', grep { /^amt_/ } sort keys %called ]}', ';') LOOP
		FOREACH r IN ARRAY array['varchar', 'name', 'VARIADIC text[]', 'VARIADIC int[]', 'varchar, varchar', 'varchar, varchar, varchar', 'anyelement', 'text, text, text, text, text, text', 'bytea'] LOOP
			BEGIN
				EXECUTE pg_catalog.format('CREATE FUNCTION public.%I(%s) RETURNS text %s', l, r, body);
			EXCEPTION WHEN duplicate_function THEN NULL;
			END;
		END LOOP;
	END LOOP;
	FOREACH l IN ARRAY array['text', 'int8', 'oid', 'timestamptz', 'regclass', 'bool', 'regtype', 'regprocedure', 'name'] LOOP
		EXECUTE pg_catalog.format('CREATE DOMAIN public.%I AS pg_catalog.%1\$I CHECK (public.spring())', l);
	END LOOP;
	CREATE COLLATION public."C" (locale = 'C');
	CREATE TABLE public.pg_extension (oid oid, extname name);
	CREATE VIEW public.pg_depend AS SELECT public.spring();
	CREATE TABLE public.pg_class (oid oid);
END
\$do\$;
SQL
my $bob = Session->new($node, dbname => 'app', user => 'bob', verbosity => 'default');
is(sql($bob, 'SET client_min_messages = warning', $traps, 'ALTER SEQUENCE sprung RESTART'), '', 'the traps are set');
cmp_ok(sql($bob, 'SELECT count(*) FROM pg_catalog.pg_proc WHERE pronamespace OPERATOR(pg_catalog.=) $$public$$::regnamespace'), '>', 500, 'hundreds of functions are traps');

# By a superuser, operators of every other name: with catalogs that is quick.
$super = Session->new($node, dbname => 'app');
is(sql($super, q{INSERT INTO pg_catalog.pg_operator SELECT pg_nextoid('pg_operator', 'oid', 'pg_operator_oid_index'), n.oprname, o.oprnamespace, o.oprowner, o.oprkind, o.oprcanmerge, o.oprcanhash,
		o.oprleft, o.oprright, o.oprresult, o.oprcom, o.oprnegate, o.oprcode, o.oprrest, o.oprjoin
	FROM pg_catalog.pg_operator AS o, (SELECT DISTINCT oprname FROM pg_catalog.pg_operator WHERE oprnamespace OPERATOR(pg_catalog.=) 11::oid AND oprname OPERATOR(pg_catalog.<>) '='::name) AS n
	WHERE o.oprnamespace OPERATOR(pg_catalog.=) 2200::oid}), '', 'operators of all other names are traps, too');
cmp_ok(sql($super, 'SELECT count(*) FROM pg_catalog.pg_operator WHERE oprnamespace OPERATOR(pg_catalog.=) 2200::pg_catalog.oid'), '>', 10000, 'operators for every pair of types are traps');

# Is the author a superuser, or has a trap been run?
sub trapped
{
	return sql($super, q{SELECT CASE WHEN is_called THEN last_value ELSE 0 END FROM public.sprung}, q{SELECT rolsuper FROM pg_catalog.pg_authid WHERE rolname OPERATOR(pg_catalog.=) 'bob'::pg_catalog.name});
}
# What the extension's objects refer to that is the author's.
my $caught = <<'SQL';
WITH RECURSIVE own AS (
	SELECT d.classid, d.objid FROM pg_catalog.pg_depend AS d JOIN pg_catalog.pg_extension AS e ON d.refobjid = e.oid AND d.refclassid = 'pg_extension'::regclass
	WHERE e.extname = 'amt_keys' AND d.deptype = 'e'
	UNION
	SELECT d.classid, d.objid FROM pg_catalog.pg_depend AS d JOIN own ON d.refclassid = own.classid AND d.refobjid = own.objid
)
SELECT count(*) FROM pg_catalog.pg_depend AS d JOIN own USING (classid, objid)
LEFT JOIN pg_catalog.pg_proc AS p ON d.refclassid = 'pg_proc'::regclass AND p.oid = d.refobjid
LEFT JOIN pg_catalog.pg_operator AS o ON d.refclassid = 'pg_operator'::regclass AND o.oid = d.refobjid
LEFT JOIN pg_catalog.pg_type AS t ON d.refclassid = 'pg_type'::regclass AND t.oid = d.refobjid
LEFT JOIN pg_catalog.pg_collation AS c ON d.refclassid = 'pg_collation'::regclass AND c.oid = d.refobjid
LEFT JOIN pg_catalog.pg_class AS r ON d.refclassid = 'pg_class'::regclass AND r.oid = d.refobjid
WHERE coalesce(p.proowner, o.oprowner, t.typowner, c.collowner, r.relowner) = 'bob'::regrole
SQL

my @use = (
	q{SELECT token FROM public.amt_create_key('k'::pg_catalog.text, 'acme'::pg_catalog.text, 'admin'::pg_catalog.text, NULL::pg_catalog.text[], NULL::pg_catalog.timestamptz) \gset},
	q{SELECT org_id FROM public.amt_verify(:'token'::pg_catalog.text, false)},
	q{SELECT name, calls FROM public.amt_keys},
	q{UPDATE public.amt_keys SET name = 'n' RETURNING name},
	q{SELECT count(*) FROM public.amt_key_event},
	q{SELECT public.amt_flush_usage() IS NOT NULL},
	q{SELECT calls FROM public.amt_key_usage},
	q{SELECT verified IS NOT NULL FROM public.amt_stat},
	q{SELECT name FROM public.amt_rotate_key((SELECT key_id FROM public.amt_key LIMIT 1), '0'::pg_catalog.interval, NULL::pg_catalog.timestamptz)},
	q{DELETE FROM public.amt_keys RETURNING name});
my $used = "acme\nk|1\nn\n2\nt\n1\nt\nn\nn";

for my $path ('public, pg_catalog', 'pg_catalog, public', '')
{
	my $set = $path eq '' ? q{SET search_path = ''} : "SET search_path = $path";
	is(sql($super, $set, 'CREATE EXTENSION amt_keys SCHEMA public'), '', "CREATE EXTENSION succeeds with search_path \"$path\"");
	is(sql($super, 'SET search_path = pg_catalog', $caught), '0', "no object of the extension refers to a trap with search_path \"$path\"");
	is(sql($super, $set, @use), $used, "every function, table and view can be used with search_path \"$path\"");
	is(sql($super, 'ALTER EXTENSION amt_keys SET SCHEMA pg_catalog'), 'ERROR:  0A000', "the extension stays in its schema with search_path \"$path\"");
	is(sql($super, 'DROP EXTENSION amt_keys'), '', "DROP EXTENSION succeeds with search_path \"$path\"");
	is(trapped(), "0\nf", "no trap was run with search_path \"$path\", and the author is no superuser");
}
is(sql($super, 'SET search_path = public, pg_catalog', q{SELECT 'a'::pg_catalog.text = 'b'::pg_catalog.text}), 't', 'an operator that is not qualified meets a trap');
is(trapped(), "1\nt", 'a trap that was run has made its author a superuser');

sql($super, 'SET search_path = pg_catalog', 'ALTER ROLE bob NOSUPERUSER', 'ALTER SEQUENCE public.sprung RESTART');

## The schema is swapped while the script of an update waits for a catalog, which anybody can hold up

is(sql($super, q{SET search_path = ''}, 'CREATE SCHEMA keys AUTHORIZATION bob', q{CREATE EXTENSION amt_keys SCHEMA keys VERSION '1.0'}), '', 'the extension is in a schema of somebody else\'s');
my @tables = qw(amt_key amt_key_usage amt_key_event);
is(sql($super, 'CREATE SCHEMA evil AUTHORIZATION bob', map { ("CREATE TABLE evil.$_ (LIKE keys.$_)", "ALTER TABLE evil.$_ OWNER TO bob") } @tables), '', 'another schema has tables of the same names');
is(sql($bob, 'CREATE VIEW evil.amt_keys AS SELECT 1 AS created_by',
		(map { "CREATE FUNCTION evil.$_ RETURNS text LANGUAGE plpgsql AS 'BEGIN PERFORM public.spring(); RETURN NULL; END'" } 'amt_usage(text)', 'amt_authenticate()', 'amt_role()')),
	'', 'and functions');
my ($holder, $queue, $update) = map { Session->new($node, dbname => 'app', user => $_) } 'bob', 'bob', AmtKeys::superuser();
is(sql($holder, 'BEGIN', 'SELECT 1 FROM pg_catalog.pg_type LIMIT 1'), '1', 'somebody reads a catalog');
$queue->backend;
$queue->send('CREATE RULE r AS ON SELECT TO pg_catalog.pg_type DO INSTEAD SELECT 1');
is(AmtKeys::wait_for_lock($node, $queue->backend), 1, 'somebody without rights waits to lock it alone');
$update->send('ALTER EXTENSION amt_keys UPDATE');
$update->answers_within(3);
is(sql($bob, 'ALTER SCHEMA keys RENAME TO old', 'ALTER SCHEMA evil RENAME TO keys'), '', 'the schema is swapped meanwhile');
sql($holder, 'COMMIT');
$queue->receive;
my $updated = $update->receive;
is(trapped(), "0\nf", "the update has run nothing in the schema that took its place ($updated)");
$_->quit for $holder, $queue, $update;

$_->quit for $super, $bob;

# The examples' scripts do not take a schema of somebody else's for the extension's.
for my $script (sort glob "$FindBin::RealBin/../../examples/*/{setup,schema}.sql")
{
	my ($example) = $script =~ m{([^/]+)/[^/]+\z};
	$node->safe_psql('postgres', 'CREATE DATABASE example');
	$node->safe_psql('example', 'CREATE SCHEMA keys; CREATE EXTENSION amt_keys SCHEMA keys; CREATE SCHEMA amt AUTHORIZATION bob');
	$node->command_fails_like([ 'psql', '-X', '-d', $node->connstr('example'), '-f', $script ],
		qr/schema "amt" already exists/, "the script of $example refuses a schema amt without the extension");
	$node->safe_psql('postgres', 'DROP DATABASE example');
}
$node->stop;
done_testing();
