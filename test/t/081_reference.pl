# doc/reference.md forgets nothing: it is compared with the catalog, the settings and the source.
#
# Comments and descriptions are what psql shows without the page, so each object must have one that stands alone.

use strict;
use warnings FATAL => 'all';
use utf8;

use Encode qw(decode_utf8);
use FindBin;
use lib "$FindBin::RealBin/../perl";

use AmtKeys;
use Pages;
use PostgreSQL::Test::Utils;
use Test::More;

my $page = decode_utf8(slurp_file(top_directory() . '/doc/reference.md'));
my $node = new_cluster();

sub rows
{
	my ($sql) = @_;
	my $out = $node->safe_psql('postgres', $sql, extra_params => [ "--field-separator=\x1f" ]);
	return map { [ split /\x1f/, decode_utf8($_), -1 ] } split /\n/, $out;
}

# The rows of the tables in a text that name something in their first cell, as lists of cells.
sub table_rows
{
	my ($text, $name) = @_;
	my @rows = map { [ map { s/^\s+|\s+$//gr } split /(?<!\\)\|/, $_ =~ s/^\||\|$//gr ] } grep { /^\|/ } split /\n/, $text;
	return grep { $_->[0] =~ /`\Q$name\E(?:\(|`)/ } @rows;
}

my $members = q{
	FROM pg_depend d WHERE d.refclassid = 'pg_extension'::regclass AND d.deptype = 'e'
		AND d.refobjid = (SELECT oid FROM pg_extension WHERE extname = 'amt_keys')};

# --- functions -------------------------------------------------------------------

my $functions = 0;
for (rows(qq{
	SELECT proname, prorettype IN ('trigger'::regtype, 'internal'::regtype), pg_get_function_arguments(p.oid), pg_get_function_result(p.oid),
		array_to_string(ARRAY(SELECT proargnames[i] FROM generate_subscripts(proargmodes, 1) i WHERE proargmodes[i] = 'o'), ', '),
		has_function_privilege('public', p.oid, 'EXECUTE')
	FROM pg_proc p WHERE p.oid IN (SELECT d.objid $members AND d.classid = 'pg_proc'::regclass) ORDER BY 1}))
{
	my ($name, $is_internal, $arguments, $result, $columns, $public) = @$_;
	$functions++;
	if ($is_internal eq 't')
	{
		like($page, qr/^Functions that cannot be called[^#]*`\Q$name\E`/m, "function $name, which cannot be called, is in the reference");
		next;
	}
	for ($arguments, $result)
	{
		s/timestamp with time zone/timestamptz/g;
		s/DEFAULT NULL::[a-z\[\]]+/DEFAULT NULL/g;
		s/'00:00:00'::interval/'0'/;
	}
	$arguments = join ', ', grep { !/^OUT / } split /, /, $arguments;
	$result = "($columns)" if $result eq 'record' && $name ne 'amt_stat_get';
	my $signature = "`$name($arguments) → $result`";
	like($page, qr/^(?:\#{3} |\| )\Q$signature\E/m, "the reference has the arguments and the result of $name");

	my ($section) = $page =~ /^(#{2,3} [^\n]*`\Q$name\E\(.*?)(?=^#{2,3} )/ms;
	$section //= (grep { /^\| `\Q$name\E\(/m } split /^(?=## )/m, $page)[0];
	is($section =~ /\bNot executable by PUBLIC\b/ ? 'f' : 't', $public, "the reference says which callers may execute $name");
	like($section, qr/^```sql\n(?:(?!^```).)*\b\Q$name\E\(/ms, "the reference has an example of $name")
	  unless $name eq 'amt_stat_get' && $section =~ /FROM amt_stat_get/;
}
cmp_ok($functions, '>', 20, 'the functions of the extension were found');

# --- tables, views, types, sequences ------------------------------------------------

for (rows(qq{
	SELECT relname, relkind, relname = any ('{amt_key,amt_key_usage,amt_key_event}') FROM pg_class
	WHERE oid IN (SELECT d.objid $members AND d.classid = 'pg_class'::regclass
		UNION SELECT t.typrelid FROM pg_type t WHERE t.typtype = 'c' AND t.oid IN (SELECT d.objid $members AND d.classid = 'pg_type'::regclass))
	ORDER BY 1}))
{
	my ($name, $kind) = @$_;
	my %heading = (r => "### Table `$name`\n", v => "### View `$name`\n");
	my $section;

	if ($kind eq 'S')
	{
		like($page, qr/\bsequence `\Q$name\E`/i, "sequence $name is in the reference");
		next;
	}
	if ($kind eq 'c')
	{
		($section) = $page =~ /^- (`\Q$name\E`:.*?)(?=^- |^\n)/ms;
	}
	else
	{
		($section) = $page =~ /^(\Q$heading{$kind}\E.*?)(?=^#{2,3} )/ms;
	}
	ok(defined $section, "$name is in the reference") or next;
	for (rows("SELECT attname, format_type(atttypid, atttypmod) FROM pg_attribute
		WHERE attrelid = '$name'::regclass AND attnum > 0 AND NOT attisdropped ORDER BY attnum"))
	{
		my ($column, $type) = @$_;
		$type =~ s/timestamp with time zone/timestamptz/;
		like($section, qr/`\Q$column\E`/, "column $name.$column is in the reference");
		my ($row) = table_rows($section, $column);
		is($row ? $row->[1] : undef, $type, "the reference has the type of $name.$column") if $kind eq 'r';
	}
}

# --- settings ----------------------------------------------------------------------

my ($settings) = $page =~ /^(## Settings\n.*?)(?=^## )/ms;
my %known;
for (rows(q{LOAD 'amt_keys'; SELECT name, boot_val, coalesce(unit, ''), coalesce(min_val, ''), coalesce(max_val, ''), context, vartype
	FROM pg_settings WHERE name LIKE 'amt\_keys.%'}))
{
	my ($name, $value, $unit, $min, $max, $context, $type) = @$_;
	my ($row) = table_rows($settings, $name);

	$known{$name} = 1;
	ok(defined $row, "setting $name is in the reference") or next;
	my @names = $row->[0] =~ /`([^`]+)`/g;
	my ($i) = grep { $names[$_] eq $name } 0 .. $#names;
	# One default for all names of the row, or one for each.
	my @defaults = $row->[1] =~ /(`[^`]*`|[^`, ]+(?: m?s)?)/g;
	my $default = $type eq 'string' ? $value eq '' ? 'empty' : "`$value`" : $unit ? "$value $unit" : $value;
	is(@defaults == 1 ? $defaults[0] : $defaults[$i], $default, "the reference has the default of $name");
	is($row->[2], $type eq 'integer' ? "$min to $max" : '', "the reference has the range of $name");
	is($row->[3] =~ /^reload:/ ? 'sighup' : 'superuser', $context, "the reference says how $name is set");
}
cmp_ok(scalar keys %known, '>', 20, 'the settings were found');
$known{$_} or fail("the reference has a setting $_ that does not exist") for $settings =~ /^\| [^|]*`(amt_keys\.\w+)`/mg;

# --- errors and wait events, as the source raises and names them ---------------------

my $source = join "\n", map { slurp_file($_) } glob(top_directory() . '/src/*.[ch]');
my $codes = slurp_file($node->config_data('--includedir-server') . '/utils/errcodes.h');
my ($errors) = $page =~ /^(## Errors\n.*?)(?=^## )/ms;
my %state = map { $_ => 1 } map { s/[', ]//gr } $source =~ /errcode\(MAKE_SQLSTATE\(([^)]*)\)/g;

while ($source =~ /(?:errcode|GUC_check_errcode)\((ERRCODE_\w+)\)/g)
{
	my ($state) = $codes =~ /^#define \Q$1\E MAKE_SQLSTATE\(([^)]*)\)/m;
	$state{ $state =~ s/[', ]//gr } = 1;
}
cmp_ok(scalar keys %state, '>', 20, 'the SQLSTATEs were found');
for my $state (sort keys %state)
{
	ok(scalar table_rows($errors, $state), "SQLSTATE $state is in the reference");
}

my ($events) = $page =~ /^(## Wait events\n.*)/ms;
my @events = $source =~ /(?:amt_wait_event\(|amt_name_tranche\([^,]*, )"(\w+)"/g;
cmp_ok(scalar @events, '>', 5, 'the wait events were found');
like($events, qr/`\Q$_\E`/, "wait event $_ is in the reference") for @events;

# --- comments and descriptions ---------------------------------------------------------

my $refers = qr/\bsection\b|\bcontract\b|§|#\d/i;

for (rows(qq{
	SELECT pg_describe_object(o.classid, o.objid, o.objsubid),
		coalesce(CASE WHEN o.objsubid > 0 THEN col_description(o.objid, o.objsubid)
			ELSE obj_description(o.objid, (SELECT relname FROM pg_class WHERE oid = o.classid)) END, '')
	FROM (SELECT d.classid, d.objid, 0 AS objsubid $members
			AND NOT (d.classid = 'pg_class'::regclass AND d.objid IN (SELECT oid FROM pg_class WHERE relkind = 'S'))
			AND NOT (d.classid = 'pg_type'::regclass AND d.objid IN (SELECT oid FROM pg_type
				WHERE typelem <> 0 OR typrelid IN (SELECT oid FROM pg_class WHERE relkind <> 'c')))
		UNION ALL
		SELECT 'pg_class'::regclass, a.attrelid, a.attnum FROM pg_attribute a
		WHERE a.attnum > 0 AND NOT a.attisdropped AND a.attrelid IN
			(SELECT c.oid FROM pg_class c WHERE c.relkind IN ('r', 'v') AND c.oid IN (SELECT d.objid $members AND d.classid = 'pg_class'::regclass)
			UNION SELECT typrelid FROM pg_type WHERE typname IN ('amt_verified', 'amt_new_key'))
		UNION ALL
		SELECT 'pg_policy'::regclass, oid, 0 FROM pg_policy WHERE polrelid IN (SELECT d.objid $members)) AS o
	ORDER BY 1}))
{
	my ($object, $comment) = @$_;
	like($comment, qr/\.$/, "$object has a comment, which is a sentence");
	unlike($comment, $refers, "the comment of $object stands alone");
}

for (rows(q{LOAD 'amt_keys'; SELECT name, short_desc, coalesce(extra_desc, '') FROM pg_settings WHERE name LIKE 'amt\_keys.%'}))
{
	my ($name, $short, $extra) = @$_;
	like($short, qr/^[A-Z].*\.$/, "setting $name has a description, which is a sentence");
	unlike("$short $extra", $refers, "the description of $name stands alone");
}

$node->stop;
done_testing();
