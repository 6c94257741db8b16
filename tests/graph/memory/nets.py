"""Generated programs for memory planning: branches, views, scalars, several results, in-place chains."""

from __future__ import annotations

import numpy as np

from mlsysopt.graph import Builder, Graph, Value, f32


def branchy(seed: int, ops: int) -> Graph:
    """Return a program of about so many ops whose values have very different sizes."""
    rng = np.random.default_rng(seed)
    builder = Builder(f"net{seed}")
    values: list[Value] = [builder.input("x", f32[16, int(rng.integers(1, 9))])]
    if rng.random() < 0.3:
        values.append(builder.input("y", f32[16, int(rng.integers(1, 9))]))
    weights: dict[tuple[int, int], Value] = {}
    while len(builder.finish([]).ops) < ops:
        values += _grown(builder, values, weights, rng)
    used = {value for op in builder.finish([]).ops for value in op.operands}
    ends = [value for value in values if value not in used and value.name not in ("x", "y")]
    return builder.finish(ends[-3:] if rng.random() < 0.5 and len(ends) > 1 else ends[-1:] or values[-1:])


def _grown(
    builder: Builder, values: list[Value], weights: dict[tuple[int, int], Value], rng: np.random.Generator
) -> list[Value]:
    x = values[int(rng.integers(max(0, len(values) - 6), len(values)))]
    width = int(x.shape[-1]) if len(x.shape) == 2 else 0
    kind = rng.choice(["matmul", "matmul", "neg", "add", "concat", "split", "reshape", "scalar"])
    if x.type.rank != 2:
        return [builder.op("reshape", x, shape=(16, x.type.elements // 16))]
    if kind == "matmul":
        wide = int(rng.integers(1, 25))
        if (width, wide) not in weights:
            weights[width, wide] = builder.constant("w", np.ones((width, wide), np.float32))
        return [builder.op("matmul", x, weights[width, wide])]
    if kind == "neg":
        return [builder.op("neg", x)]
    if kind == "scalar":
        return [builder.op("mul", x, builder.scalar(2.0, x))]
    alike = [value for value in values if value.shape == x.shape and value is not x]
    if kind == "add" and alike:
        return [builder.op("add", x, alike[int(rng.integers(len(alike)))])]
    if kind == "concat":
        other = values[int(rng.integers(len(values)))]
        if other.type.rank == 2:
            return [builder.op("concat", x, other, axis=1)]
    if kind == "split" and width > 2:
        return list(builder.op("split", x, axis=1, sizes=(1, width - 1)))
    if kind == "reshape":
        return [builder.op("reshape", x, shape=(x.type.elements,))]
    return [builder.op("tanh", x)]


def chain_of_blocks(blocks: int) -> Graph:
    """Return a chain of blocks of four branches each, joined by additions."""
    builder = Builder("chain")
    x = builder.input("x", f32[64, 8])
    weights = {
        (a, b): builder.constant(f"w{a}_{b}", np.ones((a, b), np.float32))
        for a, b in [(8, 32), (32, 8), (8, 4), (4, 8), (8, 16), (16, 8)]
    }
    for _ in range(blocks):
        branches: list[Value] = []
        for wide in (32, 4, 16):
            branches.append(
                builder.op("matmul", builder.op("relu", builder.op("matmul", x, weights[8, wide])), weights[wide, 8])
            )
        branches.append(builder.op("tanh", x))
        total = branches[0]
        for branch in branches[1:]:
            total = builder.op("add", total, branch)
        x = total
    return builder.finish([x])


def wide(branches: int) -> Graph:
    """Return mutually unordered branches of different sizes, which no cut takes apart."""
    builder = Builder("wide")
    x = builder.input("x", f32[8, 8])
    ends: list[Value] = []
    for i in range(branches):
        grown = builder.op("concat", *[x] * (2 + i % 5), axis=0)
        cut = builder.op("slice", grown, starts=(0, 0), limits=(8 + i % 3, 8 - i % 4), strides=(1, 1))
        ends.append(builder.op("sum", builder.op("concat", cut, cut, axis=1), axes=(0, 1)))
    total = ends[0]
    for end in ends[1:]:
        total = builder.op("add", total, end)
    return builder.finish([total])
