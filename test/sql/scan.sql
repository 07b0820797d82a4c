--
-- amt_find_tokens(): the tokens in a text, shown as it is safe to show them
--
\set VERBOSITY default
CREATE EXTENSION amt_keys;

-- checksums that zlib computed
\set one 'amt_000000000000_00000000000000000000000000000000000000000000OJlLF'
\set two 'amt_5Rdz3ZDYRM3y_fx6lZhQrgl7GhHBUpojs3oDhf5tO7gSIhWVvP7csU6900NQuY'

SELECT amt_find_tokens(:'one');
SELECT * FROM amt_find_tokens('curl -H "Authorization: Bearer ' || :'two' || '" https://api.example/mcp');
SELECT what, array_agg(found ORDER BY n) AS found
FROM (VALUES
	(1, 'nothing', 'no token here, amt_, amt_x, amt_abc123_xyz789abcdefghij'),
	(2, 'empty', ''),
	(3, 'two, in order', :'two' || ' and ' || :'one'),
	(4, 'twice the same', :'one' || E'\n' || :'one'),
	(5, 'without anything between', :'one' || :'two'),
	(6, 'within other characters', 'xxamt_' || :'two' || '_amt_' || :'one' || 'xx'),
	(7, 'after the beginning of one', left(:'one', 30) || :'two'),
	(8, 'in JSON', '{"token":"' || :'two' || '","n":1}'),
	(9, 'in a URL', 'https://example.org/?k=' || :'two' || '&x=1#' || :'one'),
	(10, 'wrong checksum', left(:'one', 65) || 'G'),
	(11, 'cut short', left(:'one', 65)),
	(12, 'other case', upper(:'two')),
	(13, 'over a line''s end', left(:'one', 40) || E'\n' || substr(:'one', 41)),
	(14, 'among other scripts', convert_from('\xd182d0bed0bad0b5d0bd3a20', 'UTF8') || :'two' || convert_from('\xe38082', 'UTF8')),
	(15, 'control characters around', E'\x01' || :'two' || E'\x7f')) AS v (ord, what, content)
LEFT JOIN LATERAL amt_find_tokens(content) WITH ORDINALITY AS f (found, n) ON true
GROUP BY ord, what ORDER BY ord;
SELECT count(*) FROM amt_find_tokens(NULL);

-- large texts: a megabyte of what looks like tokens, and ten thousand real ones
SELECT count(*) FROM amt_find_tokens(repeat('amt_', 262144));
SELECT count(*) FROM amt_find_tokens(repeat('amt_000000000000_', 61681));
SELECT count(*), count(DISTINCT f) FROM amt_find_tokens(repeat(:'one' || ' ' || :'two' || E'\n', 5000)) AS f;
SELECT * FROM amt_find_tokens(repeat(:'one', 5000)) LIMIT 1;

-- a column's worth
CREATE TEMP TABLE message (id int, text text);
INSERT INTO message SELECT i, CASE WHEN i % 100 = 0 THEN 'see ' || :'one' ELSE 'nothing' END FROM generate_series(1, 1000) AS i;
SELECT count(*) FROM message, amt_find_tokens(text);
SELECT count(*) FROM message WHERE amt_check_token(substr(text, 5));
-- no index, as the answer depends on a setting
\set VERBOSITY sqlstate
CREATE INDEX ON message ((amt_check_token(substr(text, 5))));
\set VERBOSITY default

DROP EXTENSION amt_keys;
