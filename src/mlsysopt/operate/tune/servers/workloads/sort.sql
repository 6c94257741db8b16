\set first random(1, 360000)
SELECT max(place) FROM (SELECT rank() OVER (ORDER BY note, id) AS place FROM orders WHERE id BETWEEN :first AND :first + 39999) sorted;
