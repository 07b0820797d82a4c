# A client's connection option can hold any bytes, and current_setting() hands them to a function.  Text that is
# not valid in the database's encoding is neither stored nor compared: it raises 22021, or is no key.

use strict;
use warnings FATAL => 'all';

use FindBin;
use lib "$FindBin::RealBin/../perl";

use AmtKeys;
use Session;
use PostgreSQL::Test::Utils;
use Test::More;

my $node = new_cluster(extra => [ '--encoding=UTF8', '--locale=C' ]);
my $super = Session->new($node);
$super->query('SET client_min_messages = warning', 'CREATE ROLE gateway LOGIN', 'CREATE ROLE member LOGIN', 'CREATE ROLE app LOGIN', 'GRANT EXECUTE ON FUNCTION amt_verify, amt_flush_usage TO app',
	'GRANT SET ON PARAMETER amt_keys.org_id, amt_keys.role, amt_keys.scopes, amt_keys.actor, amt_keys.key_id TO gateway', q{ALTER ROLE member SET amt_keys.org_id = 'acme'}, q{ALTER ROLE member SET amt_keys.role = 'admin'},
	q{ALTER ROLE member SET amt_keys.scopes = 'a'});
my $token = $super->query(q{SELECT token FROM amt_create_key('k', 'acme', 'admin')});
my $id = id_of($token);

# The last byte begins a character of four, or is none at all; or a character is cut off, too long, or half a surrogate.
my %bytes = ('a lead byte at the end' => "x\xf0", 'a byte that is none' => "x\xff", 'a character that is cut off' => "\xe2\x82", 'a lead byte in the middle' => "\xf0x", 'an overlong slash' => "\xc0\xaf",
	'half a surrogate' => "\xed\xa0\x80", 'a continuation alone' => "\x80", 'beyond Unicode' => "\xf4\x90\x80\x80", 'a lead byte after a hundred letters' => 'x' x 100 . "\xf0");
my $n = q{current_setting('my.n')};
# [user, expression, answer]; the answer to invalid text.
my @calls = (
	[ 'member', "amt_create_key($n)", '22021' ], [ 'gateway', "amt_create_key('k', $n, 'admin')", '22021' ], [ 'gateway', "amt_create_key('k', 'acme', $n)", '22021' ],
	[ 'gateway', "amt_create_key('k', 'acme', 'admin', array[$n])", '22021|22023' ],
	[ 'gateway', "amt_import_key(sha256('x'), $n, 'acme', 'admin')", '22021' ], [ 'gateway', "amt_import_key(sha256('x'), 'k', $n, 'admin')", '22021' ], [ 'gateway', "amt_import_key(sha256('x'), 'k', 'acme', $n)", '22021' ],
	[ 'gateway', "amt_import_key(sha256('x'), 'k', 'acme', 'admin', $n)", '22021' ], [ 'gateway', "amt_import_key(sha256('x'), 'k', 'acme', 'admin', NULL, array[$n])", '22021|22023' ],
	[ 'gateway', "amt_import_key(sha256('x'), 'k', 'acme', 'admin', NULL, NULL, NULL, $n)", '22021' ],
	[ 'member', "amt_revoke($n)", '22021' ], [ 'member', "amt_revoke('amt_' || $n)", '22021' ], [ 'member', "amt_revoke($n || '...')", '22021' ], [ 'member', "amt_rotate_key($n)", '22021' ],
	[ 'member', "amt_has_role($n)", '22021' ], [ 'member', "amt_require_role($n)", '22021' ], [ 'member', "amt_has_scope($n)", '22021' ], [ 'member', "amt_require_scope($n)", '22021' ],
	[ 'member', "amt_is_own($n)", 'f' ], [ 'member', "amt_may_manage($n, $n, $n)", '22021|f' ], [ 'member', "amt_may_manage('x', 'globex', $n)", '22021|f' ], [ 'member', "(amt_usage($n)).calls", '22021|' ],
	[ 'app', "(SELECT count(*) FROM amt_verify($n))", '0' ], [ 'app', "(SELECT count(*) FROM amt_verify('$token' || $n, true))", '0' ], [ 'app', "(SELECT count(*) FROM amt_verify($n || '$token'))", '0' ],
	[ 'app', "(SELECT count(*) FROM amt_verify('amt_' || $n || '_0123456789abcdef'))", '0' ], [ 'app', "amt_check_token('$token' || $n)", 'f' ],
	[ 'app', "amt_find_tokens($n || ' $token ' || $n)", quotemeta("amt_$id...") ],
	(map { [ 'gateway', "set_config('amt_keys.$_', $n, true)", '22021|22023' ] } qw(org_id role scopes actor key_id)),
	[ 'member', "amt_authenticate() FROM set_config('request.jwt.claims', '{\"org_id\":\"' || $n || '\",\"org_role\":\"admin\"}', true)", '' ],
	[ 'gateway', "coalesce(amt_org_id(), '-') FROM set_config('request.jwt.claims', '{\"org_id\":\"' || $n || '\",\"org_role\":\"admin\"}', true), amt_authenticate()", '-' ],
	[ 'gateway', "amt_authenticate() FROM set_config('request.headers', '{\"x-api-key\":\"$token' || $n || '\"}', true)", 'PT401' ],
	[ 'gateway', "amt_authenticate() FROM set_config('request.headers', '{\"other\":\"' || $n || '\"}', true)", 'PT401' ],
);
my @statements = ([ 'member', "UPDATE amt_keys SET name = $n", '22021' ], [ superuser(), "UPDATE amt_key SET name = $n", '22021' ],
	map { my $column = $_; [ superuser(), "INSERT INTO amt_key (key_id, token_prefix, org_id, name, role, scopes, token_sha256, created_at, created_by, replaces) SELECT "
		. join(', ', map { $_ eq $column ? ($_ eq 'scopes' ? "array[$n]" : $n) : $_ eq 'scopes' ? q{'{a}'} : $_ eq 'token_sha256' ? q{sha256('y')} : $_ eq 'created_at' ? 'now()' : q{'x'} }
			qw(key_id token_prefix org_id name role scopes token_sha256 created_at created_by replaces)), '22021|23514' ] } qw(key_id token_prefix org_id name role scopes created_by replaces));

for my $what (sort keys %bytes)
{
	my %session = map { $_ => Session->new($node, user => $_, options => "-c my.n=$bytes{$what}") } qw(member gateway app), superuser();
	my @wrong;
	for (@calls, @statements)
	{
		my ($user, $call, $right) = @$_;
		my $sql = $call =~ /^(UPDATE|INSERT)/ ? $call : "SELECT $call";
		my ($answer) = ($session{$user}->query('BEGIN', $sql, 'ROLLBACK') // BAIL_OUT("the server is down: $call")) =~ /\A(?:ERROR:  )?(.*)\z/s;
		$answer = '' if $answer =~ /\A\s*\z/;
		push @wrong, "$call: $answer" if $answer !~ /\A(?:$right)\z/;
	}
	is(join("\n", @wrong), '', "$what is neither stored nor compared by any function, setting, claim or statement");
	$_->quit for values %session;

	# An identity that is set by a connection option, before the library is there.
	my $s = Session->new($node, user => 'gateway', options => "-c amt_keys.org_id=$bytes{$what} -c amt_keys.actor=$bytes{$what} -c amt_keys.role=admin");
	my $answer = $s->query(q{SELECT amt_org_id() IS NULL, amt_actor() IS NULL}) // BAIL_OUT('the server is down');
	like($answer =~ s/^WARNING.*\n//mgr, qr/^(t\|t|ERROR:  42501)$/, "$what gives no identity by a connection option");
	$s->quit;
}
is($super->query('SELECT name, count(*) OVER () FROM amt_key'), 'k|1', 'no text that is not valid was stored');
$node->command_ok([ 'pg_dump', '-f', "$node->{_basedir}/dump", '-d', $node->connstr('postgres') ], 'the database is dumped');
$super->query('CREATE DATABASE restored');
$node->command_ok([ 'psql', '-XqAt', '-v', 'ON_ERROR_STOP=1', '-f', "$node->{_basedir}/dump", '-d', $node->connstr('restored') ], 'the dump is restored');
is(Session->new($node, dbname => 'restored')->query("SELECT org_id FROM amt_verify('$token')", 'SELECT event FROM amt_key_event'), "acme\ncreated", 'the restored database has its key and its event');

# The name of a role that was made in a database with another encoding
{
	$super->query(q{CREATE DATABASE western ENCODING 'LATIN1' TEMPLATE template0 LOCALE 'C'});
	is(Session->new($node, dbname => 'western')->query('SET client_encoding = LATIN1', "CREATE ROLE \"jos\xe9\" SUPERUSER LOGIN"), '', 'a role has a name that is not valid in UTF-8');
	is(Session->new($node, user => "jos\xe9")->query(q{SELECT name FROM amt_create_key('x', 'acme', 'viewer')}, q{DELETE FROM amt_keys WHERE name = 'x'}), 'x', 'the role creates and revokes a key');
	is($super->query(q{SELECT string_agg(event, ' ' ORDER BY event_id) FROM amt_key_event AS e JOIN pg_authid AS a ON a.oid::text = e.db_user WHERE name = 'x'}), 'created revoked', 'the events have the number of the role');
}

# The name of a role that was dropped while its session goes on
{
	$super->query('CREATE ROLE leaver LOGIN');
	my $leaver = Session->new($node, user => 'leaver');
	my ($number, $left) = split /\|/, $super->query(q{SELECT 'leaver'::regrole::oid, token FROM amt_create_key('left', 'acme', 'viewer')});
	is($leaver->query('SELECT 1'), 1, 'a session is there');
	$super->query('DROP ROLE leaver');
	is($leaver->query("SELECT amt_revoke('$left')"), 't', 'it revokes by the token after its role was dropped');
	is($super->query(q{SELECT db_user FROM amt_key_event WHERE name = 'left' AND event = 'revoked'}), $number, 'the event has the number of the role');
	$leaver->quit;
}

# Characters that forge lines or hide a name, in every encoding
$super->query(q{CREATE DATABASE latin ENCODING 'LATIN1' TEMPLATE template0 LOCALE 'C'}, q{CREATE DATABASE ascii ENCODING 'SQL_ASCII' TEMPLATE template0 LOCALE 'C'}, q{CREATE DATABASE eucjp ENCODING 'EUC_JP' TEMPLATE template0 LOCALE 'C'});
for ([ 'postgres', 'utf8', 'zero width' => "\xe2\x80\x8b" ], [ 'postgres', 'utf8', 'a line separator' => "x\xe2\x80\xa8y" ], [ 'postgres', 'utf8', 'a paragraph separator' => "x\xe2\x80\xa9y" ], [ 'postgres', 'utf8', 'directions' => "\xe2\x80\xae\xe2\x80\xac" ],
	[ 'postgres', 'utf8', 'no-break spaces' => "\xc2\xa0\xc2\xa0" ], [ 'postgres', 'utf8', 'a C1 character' => "x\xc2\x85y" ], [ 'postgres', 'utf8', 'an imported form of a token' => 'amt_x_0123456789abcdef' ],
	[ 'latin', 'latin1', 'a C1 character' => "x\x85y" ], [ 'latin', 'latin1', 'no-break spaces' => "\xa0\xa0" ], [ 'ascii', 'sql_ascii', 'a C1 character' => "x\x85y" ], [ 'ascii', 'sql_ascii', 'a C1 character in UTF-8' => "x\xc2\x85y" ],
	[ 'ascii', 'sql_ascii', 'zero width' => "\xe2\x80\x8b" ], [ 'eucjp', 'eucjp', 'half a character' => "x\xa4" ], [ 'eucjp', 'eucjp', 'a lead byte of three' => "x\x8f" ])
{
	my ($db, $encoding, $what, $name) = @$_;
	my $s = Session->new($node, dbname => $db, options => "-c my.n=$name");
	like($s->query('SET client_min_messages = error', 'CREATE EXTENSION IF NOT EXISTS amt_keys', "SELECT amt_create_key($n, 'acme', 'admin')") // 'down', qr/^ERROR:  2202[13]$/, "in $encoding, $what is no name");
	$s->quit;
}
for ([ 'postgres', "caf\xc3\xa9\xe6\x97\xa5\xe6\x9c\xac" ], [ 'latin', "caf\xe9" ], [ 'ascii', "caf\xe9" ], [ 'ascii', "caf\xc3\xa9" ], [ 'eucjp', "\xc6\xfc\xcb\xdc" ])
{
	my $s = Session->new($node, dbname => $_->[0], options => "-c my.n=$_->[1]");
	like($s->query("SELECT (amt_create_key($n, 'acme', 'admin')).key_id") // 'down', qr/^\w{12}$/, "a name of letters in $_->[0] is accepted");
}

# A value of the identity that is not valid is thrown away with a warning when nobody can be told of an error.  Without
# scopes nothing would be narrowed, so the session is refused.
for my $scopes ('read write', 'a,,b', '["read"]', "a\xff")
{
	my $sessions = Session->new($node, dbname => 'template1');	# which has not loaded the library
	$sessions->query("ALTER ROLE member SET amt_keys.scopes = E'" . ($scopes =~ s/([^ -~])/sprintf '\\x%02x', ord $1/ger) . q{'});
	$sessions->quit;
	my $member = Session->new($node, user => 'member');
	like($member->query('SELECT amt_scopes()'), qr/ERROR:  42501$/, 'scopes that are not valid, set for a role, give its sessions no identity');
	like($member->query(q{SELECT amt_create_key('k')}), qr/ERROR:  42501$/, 'scopes that are not valid, set for a role, let its sessions create no key');
	$member->quit;
	next if $scopes =~ /\xff/;
	my $gateway = Session->new($node, user => 'gateway');
	like($gateway->query('BEGIN', q{SET LOCAL amt_keys.org_id = 'acme'}, q{SET LOCAL amt_keys.role = 'admin'}, "SET LOCAL amt_keys.scopes = '$scopes'", q{SELECT amt_create_key('k')}, 'ROLLBACK'),
		qr/ERROR:  42501/, 'a gateway that sets scopes that are not valid before the library is loaded creates no key');
	$gateway->quit;
	my $loaded = Session->new($node, user => 'gateway');
	is($loaded->query('SELECT amt_org_id()', "SET amt_keys.scopes = '$scopes'", 'SELECT amt_scopes()'), "\nERROR:  22023\n", 'a gateway that sets scopes that are not valid later is told of the error');
	$loaded->quit;
}

$super->quit;
# An earlier request has left the session another encoding: the server takes the claims' bytes for other characters.
{
	my $gateway = Session->new($node, user => 'gateway');
	my $identity = sub {
		my ($encoding, $org) = @_;
		return $gateway->query('BEGIN', "SET LOCAL client_encoding = $encoding", qq(SELECT '' FROM set_config('request.jwt.claims', '{"org_id":"$org","org_role":"admin"}', true)),
			'SELECT amt_authenticate()', q{SELECT coalesce(encode(amt_org_id()::bytea, 'hex'), 'nobody')}, 'COMMIT') =~ s/^\n+//r;
	};
	my $of = sub { unpack 'H*', $_[0] };
	for (
		[ 'UTF8', "m\xc3\xbcnchen", $of->("m\xc3\xbcnchen") ], [ 'SQL_ASCII', "m\xc3\xbcnchen", $of->("m\xc3\xbcnchen") ],
		[ 'LATIN1', "m\xc3\xbcnchen", 'nobody' ], [ 'WIN1252', "m\xc3\xbcnchen", 'nobody' ], [ 'LATIN1', 'acme', $of->('acme') ],
		[ 'LATIN1', 'm\\u00fcnchen', $of->("m\xc3\xbcnchen") ])
	{
		my ($encoding, $org, $expected) = @$_;
		is($identity->($encoding, $org), $expected, "claims of $org in a session whose client_encoding is $encoding");
	}
	$gateway->quit;
}

$node->stop;
done_testing();
