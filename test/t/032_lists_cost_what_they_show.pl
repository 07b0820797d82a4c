# The newest page of one organization's keys and events is read from an index that stops after the page.

use strict;
use warnings FATAL => 'all';

use FindBin;
use lib "$FindBin::RealBin/../perl";

use AmtKeys qw(:all);
use JSON::PP;
use Session;
use PostgreSQL::Test::Utils;
use Test::More;

# One organization has many keys, all others have a few. So the planner must know which one is asked for: an organization of
# average size would be sorted.
my ($own, $others, $organizations, $events) = (5_000, 45_000, 9_000, 4);
my $page = 20;

my $node = new_cluster(conf => 'autovacuum = off');
my $s = Session->new($node);
$s->query(qq{
	INSERT INTO amt_key (key_id, org_id, name, role, token_sha256, created_at)
	SELECT 'k' || i, CASE WHEN i % 10 = 0 THEN 'acme' ELSE 'org-' || i % $organizations END, 'key ' || i, 'editor',
		sha256(i::text::bytea), timestamptz '2026-01-01Z' + i * interval '1 second'
	FROM generate_series(1, @{[ $own + $others ]}) AS i});
$s->query(qq{
	INSERT INTO amt_key_event (at, event, key_id, org_id, name, role, db_user)
	SELECT timestamptz '2026-02-01Z' + i * interval '1 second', 'changed', key_id, org_id, name, role, 'app'
	FROM generate_series(1, $events) AS i, amt_key});
$s->query("INSERT INTO amt_key_usage SELECT key_id, 1, now() FROM amt_key WHERE key_id LIKE '%5'");
is($s->query(q{SELECT count(*) FROM amt_key WHERE org_id = 'acme'}), $own, 'one organization has many keys');

$s->query(q{CREATE ROLE acme_app LOGIN}, q{ALTER ROLE acme_app SET amt_keys.org_id = 'acme'}, q{ALTER ROLE acme_app SET amt_keys.role = 'viewer'},
	q{CREATE ROLE gateway LOGIN}, q{GRANT SET ON PARAMETER amt_keys.org_id, amt_keys.role TO gateway});

# All nodes of a plan.
sub nodes
{
	my ($plan) = @_;
	return ($plan, map { nodes($_) } @{ $plan->{Plans} // [] });
}

sub check_plan
{
	my ($what, $session, $index, $sql) = @_;
	my $plan = decode_json($session->query("EXPLAIN (ANALYZE, BUFFERS, FORMAT JSON) $sql"))->[0]{Plan};
	my @nodes = nodes($plan);
	my ($scan) = grep { ($_->{'Index Name'} // '') =~ $index } @nodes;

	is($plan->{'Actual Rows'}, $page, "$what: the page has $page rows");
	is(join(' ', grep { /Sort|Hash|Aggregate/ } map { $_->{'Node Type'} } @nodes), '', "$what: nothing is sorted");
	like($scan->{'Node Type'} // 'another', qr/\AIndex (Only )?Scan\z/, "$what: the index is scanned in its order");
	is($scan->{'Scan Direction'}, 'Backward', "$what: the scan begins at the newest row");
	cmp_ok($scan->{'Actual Rows'}, '<=', $page + 1, "$what: the scan stops after the page");
	cmp_ok($plan->{'Shared Hit Blocks'} + $plan->{'Shared Read Blocks'}, '<', 40 * $page, "$what: few blocks are read");
	note($session->query("EXPLAIN $sql"));
	return;
}

my $keys = 'SELECT key_id, name, calls, last_used_at FROM amt_keys ORDER BY created_at DESC LIMIT ' . $page;
my $history = 'SELECT event, key_id, at FROM amt_key_event ORDER BY event_id DESC LIMIT ' . $page;

$s->query('ANALYZE amt_key', 'ANALYZE amt_key_event', 'ANALYZE amt_key_usage');

# So large an organization may also be picked out of all events in their order.
my $event_index = qr/\Aamt_key_event_(org_idx|pkey)\z/;

# A login role of one organization, a gateway that sets it, and a superuser, who names it.
my $member = Session->new($node, user => 'acme_app');
my $gateway = Session->new($node, user => 'gateway');
$gateway->query(q{SET amt_keys.org_id = 'acme'}, q{SET amt_keys.role = 'viewer'});
for (['a member', $member, ''], ['a gateway', $gateway, ''], ['a superuser', $s, q{WHERE org_id = 'acme' }])
{
	my ($who, $session, $where) = @$_;
	check_plan("$who, newest keys", $session, qr/\Aamt_key_org_idx\z/, $keys =~ s/ORDER/${where}ORDER/r);
	check_plan("$who, newest events", $session, $event_index, $history =~ s/ORDER/${where}ORDER/r);
}
is($member->query("SELECT string_agg(name, ' ') FROM ($keys) AS k"), join(' ', map { 'key ' . 10 * ($own - $_) } 0 .. $page - 1), 'the newest keys of an organization are listed');

# The next page, as applications read it.
check_plan('the next page of keys', $member, qr/\Aamt_key_org_idx\z/,
	"SELECT key_id, calls FROM amt_keys WHERE created_at < timestamptz '2026-01-01Z' + interval '20000 seconds' ORDER BY created_at DESC LIMIT $page");
check_plan('the next page of events', $member, $event_index,
	"SELECT event, at FROM amt_key_event WHERE event_id < 100000 ORDER BY event_id DESC LIMIT $page");
my $plan = decode_json($member->query(q{EXPLAIN (ANALYZE, FORMAT JSON) SELECT event FROM amt_key_event WHERE key_id = 'k10'}))->[0]{Plan};
is(join(' ', grep { $_ eq 'Seq Scan' } map { $_->{'Node Type'} } nodes($plan)), '', 'the history of one key is read by an index');

$_->quit for $member, $gateway;
$s->quit;
$node->stop;
done_testing();
