# The statements in the pages succeed, and print what the pages say.
#
# How a page says so is described in test/perl/Pages.pm.  AMT_PAGES names other pages than all of them.

use strict;
use warnings FATAL => 'all';

use FindBin;
use lib "$FindBin::RealBin/../perl";

use Pages;
use Session;
use PostgreSQL::Test::Cluster;
use PostgreSQL::Test::Utils;
use Test::More;

# doc/migrating.md needs tables to migrate from: 073_migrating.pl and node's migrate.test.js follow it.
sub pages_with_sql
{
	my $top = top_directory();
	return grep { $_ ne 'doc/migrating.md' } map { s/^\Q$top\E\///r }
	  grep { slurp_file($_) =~ /^```sql$/m } "$top/README.md", glob("$top/doc/*.md");
}

my @pages = split ' ', $ENV{AMT_PAGES} // join ' ', pages_with_sql();

my $node = PostgreSQL::Test::Cluster->new('main');
$node->init(allows_streaming => 'logical');
$node->append_conf('postgresql.conf', "log_statement = none\nmax_prepared_transactions = 5");
$node->start;

run_page($node, $_) for @pages;

subtest 'the query for postgres_exporter returns the metrics of its file' => sub {
	my $yaml = slurp_file(top_directory() . '/doc/postgres_exporter.yaml');
	my ($query) = $yaml =~ /^  query: "(.*)"$/m or die;
	my @metrics = $yaml =~ /^    - (\w+):$/mg;
	my @usages = $yaml =~ /^        usage: "(COUNTER|GAUGE)"$/mg;
	my @descriptions = $yaml =~ /^        description: ".+"$/mg;
	is_deeply([ scalar @usages, scalar @descriptions ], [ (scalar @metrics) x 2 ], 'each metric has a usage and a description');

	$node->safe_psql('postgres', q{
		CREATE SCHEMA amt; CREATE EXTENSION amt_keys SCHEMA amt; CREATE ROLE exporter LOGIN;
		GRANT pg_monitor TO exporter; GRANT USAGE ON SCHEMA amt TO exporter});
	my $csv = $node->safe_psql('postgres', "COPY ($query) TO STDOUT (FORMAT csv, HEADER)", extra_params => [ '-U', 'exporter' ]);
	my ($header, $row) = split /\n/, $csv;
	is($header, join(',', @metrics), 'the columns of the query are the metrics');
	like($row, qr/\A[0-9.]+(?:,[0-9.]+){$#metrics}\z/, 'the values of the query are numbers');
	my $all = $node->safe_psql('postgres', q{SELECT string_agg(attname, ',' ORDER BY attnum) FROM pg_attribute
		WHERE attrelid = 'amt.amt_stat'::regclass AND attnum > 0 AND attname <> 'stats_reset'});
	is($header =~ s/scrypt_seconds/scrypt_time/r, $all, 'the query leaves no counter of amt_stat out');
};

subtest 'the page quotes the log lines as the sources have them' => sub {
	my $sources = join '', map { slurp_file($_) } glob(top_directory() . '/src/*.c');
	$sources =~ s/\\"/"/g;
	my @quoted = page_section(slurp_file(top_directory() . '/doc/operations.md'), 'Log lines') =~ /^\|[^|]*\| `([^`|]+)` \|/mg;
	cmp_ok(scalar(@quoted), '>', 5, 'the page quotes log lines');
	for my $line (grep { !/\Abackground worker/ } @quoted)	# this is PostgreSQL's
	{
		my $pattern = join '.{0,40}?', map { quotemeta } split /…/, $line, -1;
		like($sources, qr/"$pattern/s, "the sources have the log line: $line");
	}
};

subtest 'the page finds the session that a revocation waits for' => sub {
	my @blocks = page_blocks(page_section(slurp_file(top_directory() . '/doc/operations.md'), 'A revocation hangs'));
	is(scalar(@blocks), 2, 'the page has two queries for a revocation that hangs');
	my $token = $node->safe_psql('postgres', q{SELECT token FROM amt.amt_create_key('wanted', 'acme', 'editor')});
	my ($idle, $revoking) = map { Session->new($node) } 1 .. 2;
	my ($blocker, $waiting) = map { $_->backend } $idle, $revoking;

	is($idle->query('BEGIN', q{UPDATE amt.amt_keys SET name = 'unwanted' WHERE name = 'wanted'}), '', 'a transaction has changed the key and goes on');
	$revoking->send("SELECT amt.amt_revoke('$token')");
	ok($node->poll_query_until('postgres', "SELECT count(*) = 1 FROM ($blocks[0]{text}) AS q" =~ s/;\n?\)/)/r), 'the query finds the revocation');
	like($node->safe_psql('postgres', $blocks[0]{text}), qr/\A$waiting\|Lock\|transactionid\|$blocker\|idle in transaction\|/,
		'the query finds the transaction in the way of the revocation');
	$node->safe_psql('postgres', "SELECT pg_terminate_backend($blocker)");
	is($revoking->receive, 't', 'the key is revoked when the transaction in the way is terminated');
	is($node->safe_psql('postgres', "SELECT count(*) FROM amt.amt_verify('$token')"), 0, 'the revoked key is refused when its revocation no longer hangs');
	$idle->quit;

	my $preparing = Session->new($node);
	$token = $node->safe_psql('postgres', q{SELECT token FROM amt.amt_create_key('wanted', 'acme', 'editor')});
	is($preparing->query('BEGIN', "SELECT amt.amt_revoke('$token')", q{PREPARE TRANSACTION 'holds it up'}), 't', 'a holder of the token prepares its revocation');
	$revoking->send("SELECT amt.amt_revoke('$token')");
	ok($node->poll_query_until('postgres', "SELECT count(*) = 1 FROM ($blocks[1]{text}) AS q" =~ s/;\n?\)/)/r), 'the page finds the prepared transaction');
	like($node->safe_psql('postgres', $blocks[0]{text}), qr/\A$waiting\|Lock\|transactionid\|0\|/, 'the first query shows 0 for a prepared transaction');
	like($node->safe_psql('postgres', $blocks[1]{text}), qr/\Aholds it up\|/, 'the second query has the name of the prepared transaction');
	$node->safe_psql('postgres', q{ROLLBACK PREPARED 'holds it up'});
	is($revoking->receive, 't', 'the key is revoked when the prepared transaction is rolled back');

	# A prepared transaction that holds a table, not the key's row.
	$token = $node->safe_psql('postgres', q{SELECT token FROM amt.amt_create_key('wanted', 'acme', 'editor')});
	is($preparing->query('BEGIN', 'LOCK TABLE amt.amt_key IN SHARE MODE', q{PREPARE TRANSACTION 'holds the table'}), '', 'a transaction that has locked the table is prepared');
	$revoking->send("SELECT amt.amt_revoke('$token')");
	ok($node->poll_query_until('postgres', "SELECT count(*) = 1 FROM ($blocks[1]{text}) AS q" =~ s/;\n?\)/)/r), 'the page finds the prepared transaction that holds the table');
	like($node->safe_psql('postgres', $blocks[1]{text}), qr/\Aholds the table\|/, 'the second query has its name');
	$node->safe_psql('postgres', q{ROLLBACK PREPARED 'holds the table'});
	is($revoking->receive, 't', 'the key is revoked when the table is free');
	$_->quit for $preparing, $revoking;
};

$node->stop;
done_testing();
