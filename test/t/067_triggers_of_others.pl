# Triggers that were made by somebody who does not own the table.
#
# A trigger has no owner.  TRIGGER on a table, which is part of GRANT ALL, is enough to make one, and the extension writes
# its tables as their owner.  So it refuses to write a table with a trigger that could run somebody else's code.

use strict;
use warnings FATAL => 'all';

use FindBin;
use lib "$FindBin::RealBin/../perl";

use AmtKeys;
use Session;
use Test::More;

my $node = new_cluster();
my $super = Session->new($node);

$super->query(
	'CREATE ROLE bob LOGIN', 'CREATE SCHEMA bobs AUTHORIZATION bob',
	'GRANT ALL ON ALL TABLES IN SCHEMA public TO bob', 'REVOKE INSERT, UPDATE, DELETE, TRUNCATE ON amt_key, amt_key_usage, amt_key_event FROM bob',
	q{CREATE FUNCTION owners() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN RETURN coalesce(new, old); END $$});
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
		[ 'arguments', q{EXECUTE FUNCTION public.owners('bob')} ])
	{
		my ($what, $action) = @$trigger;
		$bob->query("CREATE TRIGGER bobs BEFORE INSERT ON $table FOR EACH ROW $action");
		is($super->query("SELECT count(*) FROM pg_trigger WHERE tgname = 'bobs'"), 1, "$what: TRIGGER is enough to put a trigger on $table");
		if ($table eq 'amt_key_usage')
		{
			$super->query("ALTER TABLE $table DISABLE TRIGGER bobs");
			my $key = create_key($node);
			$super->query("ALTER TABLE $table ENABLE TRIGGER bobs", "SELECT count(*) FROM amt_verify('$key')");
		}
		is($super->query($statement{$table}), "ERROR:  $refusal{$table}", "$what: nothing is written to $table as its owner");
		is_no_superuser("a trigger on $table with $what");
		$super->query("DROP TRIGGER bobs ON $table");
	}
	$super->query("CREATE TRIGGER owners BEFORE INSERT ON $table FOR EACH ROW EXECUTE FUNCTION owners()");
	if ($table eq 'amt_key_usage')
	{
		my $key = create_key($node);
		$super->query("SELECT count(*) FROM amt_verify('$key')");
	}
	is($super->query($statement{$table}), 't', "a trigger on $table of its owner's fires as ever");
	$super->query("DROP TRIGGER owners ON $table");
}

# The functions of our own triggers, given away and replaced.
for my $function (qw(amt_key_guard amt_key_record))
{
	$super->query('GRANT CREATE ON SCHEMA public TO bob', "ALTER FUNCTION $function() OWNER TO bob");
	$bob->query("CREATE OR REPLACE FUNCTION $function() RETURNS trigger LANGUAGE plpgsql AS \$\$ BEGIN ALTER ROLE bob SUPERUSER; RETURN coalesce(new, old); END \$\$");
	is($super->query($statement{amt_key}), 'ERROR:  42501', "$function() that belongs to somebody else is not called as the table's owner");
	is_no_superuser("a replaced $function()");
	$super->query("ALTER FUNCTION $function() OWNER TO postgres",
		"CREATE OR REPLACE FUNCTION $function() RETURNS trigger LANGUAGE C AS '\$libdir/amt_keys'");
}
is($super->query($statement{amt_key}), 't', 'keys are created again once the triggers have their own functions');

done_testing();
