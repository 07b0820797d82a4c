# Every page's links lead somewhere, the tests that doc/security.md names exist, and README.md stays short.

use strict;
use warnings FATAL => 'all';

use Encode qw(decode_utf8 encode_utf8);
use File::Basename qw(dirname);
use FindBin;
use lib "$FindBin::RealBin/../perl";

use Pages;
use PostgreSQL::Test::Utils;
use Test::More;

my $top = top_directory();

# A page without its blocks of code.
sub prose_of
{
	my ($file) = @_;
	return decode_utf8(slurp_file($file)) =~ s/^[ ]*```.*?^[ ]*```$//gmsr;
}

# The anchors of a page's headings, as GitHub makes them.
sub anchors_of
{
	my ($file) = @_;
	return map { lc($_) =~ s/`//gr =~ s/[^\w\- ]//gr =~ tr/ /-/r } prose_of($file) =~ /^#+ (.*)$/mg;
}

my @pages = grep { !m{/node_modules/} } map { glob "$top/$_" } qw(*.md doc/*.md examples/*/*.md test/*.md test/*/*.md);
cmp_ok(scalar @pages, '>', 10, 'the pages were found');
for my $page (@pages)
{
	my $name = $page =~ s/^\Q$top\E\///r;
	my $prose = prose_of($page);
	my @dead;

	for my $link ($prose =~ /\]\(([^)\s]+)\)/g)
	{
		next if $link =~ /^https?:/;
		my ($path, $anchor) = $link =~ /^([^#]*)(?:#(.*))?$/;
		my $file = $path eq '' ? $page : dirname($page) . "/$path";
		push @dead, $link if !-e $file || (defined $anchor && !grep { $_ eq $anchor } anchors_of($file));
	}
	is(encode_utf8("@dead"), '', "the links of $name lead somewhere");
}

my @named = prose_of("$top/doc/security.md") =~ /(?:^|[ (])((?:t|sql|pgtap|specs|unit|node|fuzz)\/[\w.-]+)/mg;
cmp_ok(scalar @named, '>', 20, 'doc/security.md names tests');
is(join(' ', grep { !-e "$top/test/$_" } @named), '', 'the tests that doc/security.md names exist');

# A newcomer has a minute.
my @readme = split /\n/, slurp_file("$top/README.md");
my ($installed) = grep { $readme[$_] =~ /^CREATE EXTENSION/ } 0 .. $#readme;
cmp_ok(scalar @readme, '<', 350, 'README.md has less than 350 lines');
cmp_ok($installed + 1, '<', 60, 'README.md creates the extension before its line 60');

done_testing();
