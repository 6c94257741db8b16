"""Models made faster on a CPU: `mlsysopt.compile(model)` is the whole pipeline, its parts are products of their own."""
