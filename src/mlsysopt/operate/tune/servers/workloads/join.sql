\set first random(1, 396000)
SELECT sum(o.amount), sum(a.abalance) FROM orders o JOIN pgbench_accounts a ON a.aid = o.aid WHERE o.id BETWEEN :first AND :first + 3999;
