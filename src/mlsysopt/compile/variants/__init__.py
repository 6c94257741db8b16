"""Ways to carry out one op: what each needs, what it costs on this machine, and which is taken.

A variant is one file and one entry point of the group `mlsysopt.variants`.
"""
