CREATE TABLE orders (id integer PRIMARY KEY, aid integer NOT NULL, amount integer NOT NULL, note text NOT NULL);
INSERT INTO orders
    SELECT i, 1 + (i * 7919::bigint) % 1000000, i % 997, repeat(md5(i::text), 6) FROM generate_series(1, 400000) AS i;
VACUUM ANALYZE;
CHECKPOINT;
