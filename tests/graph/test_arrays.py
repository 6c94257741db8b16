"""The array form says what the objects say."""

from __future__ import annotations

import numpy as np
import pytest

from mlsysopt.core.errors import UsageError
from mlsysopt.graph import Builder, Mesh, Placement, Replicate, Shard, cost, f32, flatten, parse

TEXT = """graph @f(%x: f32[B, 6]) {
  %w = const : f32[6, 3] blake2=00
  %y = matmul(%x, %w) : f32[B, 3]
  %a, %b = split(%y) {axis = 1, sizes = [1, 2]} : f32[B, 1], f32[B, 2]
  %c = mul(%a, %b) : f32[B, 2]
  return %c, %b
}"""


def test_arrays_follow_the_program() -> None:
    graph = parse(TEXT)
    flat = flatten(graph, B=5)
    names = [*(v.name for v in graph.inputs), *(c.name for c in graph.constants)]
    names += [value.name for op in graph.ops for value in op.results]
    assert [flat.kinds[k] for k in flat.kind] == [op.kind for op in graph.ops]
    for i, op in enumerate(graph.ops):
        reads = flat.operand[flat.operand_start[i] : flat.operand_start[i + 1]]
        assert [names[j] for j in reads] == [value.name for value in op.operands]
        made = range(flat.result_start[i], flat.result_start[i + 1])
        assert [names[j] for j in made] == [value.name for value in op.results]
    assert flat.bytes.tolist() == [graph.value(name).type.bytes.at(B=5) for name in names]
    assert flat.flops.sum() == cost(graph).flops.at(B=5)
    assert [names[j] for j in flat.outputs] == ["c", "b"]


def test_a_device_holds_its_part_rounded_up() -> None:
    mesh = Mesh(("data", "model"), (2, 4))
    builder = Builder("f")
    split = Placement(mesh, (Shard(0, uneven=True), Replicate()))
    x = builder.input("x", f32[7, 3].with_placement(split))
    flat = flatten(builder.finish([builder.op("exp", x)]))
    assert flat.local_bytes.tolist() == [48, 48]
    assert flat.devices.tolist() == [8]


def test_an_empty_program_and_a_missing_size() -> None:
    assert flatten(parse("graph @f() { return }")).bytes.shape == (0,)
    with pytest.raises(UsageError, match="needs a value for B"):
        flatten(parse(TEXT))
    assert flatten(parse(TEXT), B=0).bytes.dtype == np.int64
