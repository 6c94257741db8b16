"""Matrix products with constant weights, each in its best form for every number of rows."""
