--
-- Tokens as amt_create_key() makes them, and amt_check_token()
--
\set VERBOSITY default
SET client_min_messages = warning;
CREATE EXTENSION amt_keys;
SET amt_keys.scrypt_ln = 1;

-- checksums that zlib computed
SELECT amt_check_token(t) FROM (VALUES
	('amt_000000000000_00000000000000000000000000000000000000000000OJlLF'),
	('amt_zzzzzzzzzzzz_zzzzzzzzzzzzzzzzzzzzzzzzzzzzzzzzzzzzzzzzzzz2VCcBd'),
	('amt_5Rdz3ZDYRM3y_fx6lZhQrgl7GhHBUpojs3oDhf5tO7gSIhWVvP7csU6900NQuY')) AS v (t);

CREATE TEMP TABLE made AS
	SELECT k.* FROM generate_series(1, 10000) AS i, amt_create_key('key ' || i, 'acme', 'viewer') AS k;

-- all of the right shape, none twice
SELECT count(*), count(DISTINCT token), count(DISTINCT key_id),
       bool_and(token ~ '^amt_[0-9A-Za-z]{12}_[0-9A-Za-z]{49}$') AS shape,
       bool_and(amt_check_token(token)) AS checked,
       bool_and(substr(token, 5, 12) = key_id) AS key_id,
       bool_and('amt_' || key_id || '...' = token_prefix) AS token_prefix
FROM made;

-- no character is favoured: within six standard deviations of the mean
SELECT what, count(*) AS characters,
       bool_and(abs(n - total / 62) < 6 * sqrt(total / 62)) AS even
FROM (SELECT what, c, count(*) AS n, sum(count(*)) OVER (PARTITION BY what) AS total
      FROM made CROSS JOIN LATERAL (
      	SELECT 'key id' AS what, regexp_split_to_table(key_id, '')
      	UNION ALL
      	SELECT 'secret', regexp_split_to_table(substr(token, 18, 43), '')) AS s (what, c)
      GROUP BY what, c) AS counted
GROUP BY what ORDER BY what;

-- one changed character anywhere makes it no token: in each of the 10,000 one,
-- and in one of them every character into every other
SELECT count(*), count(*) FILTER (WHERE amt_check_token(changed)) AS still_good
FROM (SELECT overlay(token placing chr(ascii(c) + CASE WHEN c IN ('9', 'Z', 'z') THEN -1 ELSE 1 END) from at for 1) AS changed
      FROM (SELECT token, at, substr(token, at, 1) AS c
            FROM (SELECT token, (row_number() OVER () % 66 + 1)::int AS at FROM made) AS m) AS n) AS o;
SELECT count(*), count(*) FILTER (WHERE amt_check_token(overlay(token placing chr(c) from at for 1))) AS still_good
FROM (SELECT token FROM made LIMIT 1) AS one, generate_series(1, 66) AS at, generate_series(1, 255) AS c
WHERE chr(c) <> substr(token, at, 1);

-- so do two that changed places, one less, one more, and what stands around it
SELECT change, count(*) FILTER (WHERE amt_check_token(changed)) AS still_good
FROM made CROSS JOIN LATERAL (VALUES
	('swapped', CASE WHEN substr(token, 30, 1) <> substr(token, 31, 1)
	                 THEN overlay(token placing reverse(substr(token, 30, 2)) from 30 for 2) END),
	('without the last', left(token, -1)),
	('without the first', substr(token, 2)),
	('one more', token || '0'),
	('newline behind', token || E'\n'),
	('blank before', ' ' || token),
	('with its scheme', 'Bearer ' || token),
	('in upper case', 'amt_' || upper(substr(token, 5))),
	('displayed prefix', token_prefix),
	('other separator', overlay(token placing '-' from 17 for 1))) AS v (change, changed)
GROUP BY change ORDER BY change COLLATE "C";
SELECT amt_check_token(t) FROM (VALUES (''), (NULL), ('amt_abc123_xyz789abcdefghij'), (repeat('amt_', 250000))) AS v (t);

-- all verify, each as itself
SELECT count(*) FROM made AS m, amt_verify(m.token) AS v WHERE v.key_id = m.key_id AND v.name = m.name;

-- what is stored: a PHC string of the parameters in force, a salt for each
SELECT count(DISTINCT split_part(scrypt_hash, '$', 4)) AS salts, count(DISTINCT split_part(scrypt_hash, '$', 5)) AS hashes,
       bool_and(scrypt_hash ~ '^\$scrypt\$ln=1,r=8,p=1\$[A-Za-z0-9+/]{22}\$[A-Za-z0-9+/]{43}$') AS phc
FROM amt_key;
SET amt_keys.scrypt_ln = 5;
SET amt_keys.scrypt_r = 3;
SET amt_keys.scrypt_p = 2;
SELECT key_id, token FROM amt_create_key('other parameters', 'acme', 'viewer') \gset
SELECT substr(scrypt_hash, 1, 20) FROM amt_key WHERE key_id = :'key_id';
RESET amt_keys.scrypt_ln;
RESET amt_keys.scrypt_r;
RESET amt_keys.scrypt_p;
SELECT name FROM amt_verify(:'token');
SELECT key_id FROM amt_create_key('default parameters', 'acme', 'viewer') \gset
SELECT substr(scrypt_hash, 1, 22) FROM amt_key WHERE key_id = :'key_id';

-- and nothing else of the secret, anywhere
SELECT count(*) FROM made AS m JOIN amt_key AS k USING (key_id)
WHERE strpos(k::text, substr(m.token, 18)) > 0;
SELECT count(*) FROM made AS m JOIN amt_key_event AS e USING (key_id)
WHERE strpos(e::text, substr(m.token, 18)) > 0;
SELECT count(*) FROM made AS m JOIN amt_keys AS k USING (key_id)
WHERE strpos(k::text, substr(m.token, 18)) > 0;

DROP EXTENSION amt_keys;
