"""Native kernels through LLVM: one module per executable, no compiler on the user's machine.

`target` compiles and caches, `kernel` is the one calling convention of every kernel, `program` says what a
fused kernel computes, `row` and its neighbours emit it; `panel` and `attention` are the two templates.
"""
