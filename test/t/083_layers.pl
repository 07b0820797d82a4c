# The C files depend on one another as doc/internals.md says: on their own layer and those above it, in no circle.

use strict;
use warnings FATAL => 'all';

use File::Basename qw(basename);
use FindBin;
use lib "$FindBin::RealBin/../perl";

use Pages;
use PostgreSQL::Test::Utils;
use Test::More;

my $top = top_directory();
my %text = map { basename($_) => scalar slurp_file($_) } glob "$top/src/*.[ch]";
my %includes = map { $_ => [ grep { exists $text{$_} } $text{$_} =~ /^#include "(\w+\.h)"$/mg ] } keys %text;

my ($table) = page_section(slurp_file("$top/doc/internals.md"), 'Layers') =~ /^\| --- \| --- \|\n((?:\|.*\n)+)/m;
my %layer;
my $depth = 0;
for my $row (split /\n/, $table)
{
	$layer{$_} = $depth for $row =~ /`(\w+)`/g;
	$depth++;
}

my %names = map { s/\.[ch]\z//r => 1 } keys %text;
is(join(' ', sort keys %layer), join(' ', sort keys %names), 'each file of src has a layer, and each name in the table is a file');

my @upwards;
for my $file (sort keys %includes)
{
	my $name = $file =~ s/\.[ch]\z//r;
	push @upwards, map { "$file: $_" } grep { $layer{s/\.h\z//r} > $layer{$name} } @{ $includes{$file} };
}
is(join(', ', @upwards), '', 'no file includes a header of a layer below its own');

# What each file uses, by name; entry_private.h is a part of entry.
my %uses;
for my $file (keys %includes)
{
	my ($name, @used) = map { s/\.[ch]\z//r =~ s/_private\z//r } $file, @{ $includes{$file} };
	$uses{$name}{$_} = 1 for grep { $_ ne $name } @used;
}

sub add_reached
{
	my ($name, $reached) = @_;
	add_reached($_, $reached) for grep { !$reached->{$_}++ } keys %{ $uses{$name} };
	return $reached;
}
is(join(' ', grep { add_reached($_, {})->{$_} } sort keys %uses), '', 'no file uses itself through others');

my %lines = map { $_ => $text{$_} =~ tr/\n// } keys %text;
is(join(', ', map { "$_ has $lines{$_}" } grep { $lines{$_} > 500 } sort keys %lines), '', 'no file has more than 500 lines');

done_testing();
