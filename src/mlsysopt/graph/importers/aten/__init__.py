"""One small function for each ATen overload, grouped by what it does; `registry` finds them."""
