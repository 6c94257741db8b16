"""The text form: printed programs read back as they were, damaged ones are refused with their place."""

from __future__ import annotations

import numpy as np
import pytest

from mlsysopt.graph import (
    Builder,
    Graph,
    Loc,
    Mesh,
    Partial,
    Placement,
    Quant,
    Replicate,
    Shard,
    f32,
    i8,
    i64,
    parse,
    parse_type,
)
from mlsysopt.graph.errors import GraphTextError, WeightsError
from mlsysopt.graph.symbolic import dim, dims
from mlsysopt.graph.types import Blocked, Dense, Opaque, TensorType


def block() -> Graph:
    batch, length = dims("B", "S", max=(64, 512))
    builder = Builder("block")
    x = builder.input("x", f32[batch, length, 8])
    ids = builder.input("odd name", i64[batch, dim("T", low=1, high=512, divisor=8, likely={128: 0.5})])
    w = builder.constant("w", np.ones((8, 8), np.float32), label="layer0.qkv")
    q = builder.op("matmul", x, w, name="q", transpose_b=True, loc=Loc("bert.py", 214, "encoder.layer.0"))
    a, b = builder.op("split", q, axis=2, sizes=(3, 5), names=("a", "b"), loc=Loc(module="head"))
    c = builder.op("concat", b, a, axis=2)
    p = builder.op("pad", c, padding=((0, 0), (1, 2), (0, 0)), value=0.5)
    r = builder.op("reshape", p, shape=(batch * (length + 3), 8))
    m = builder.op(
        "max_pool", builder.op("reshape", r, shape=(batch, length + 3, 8)), kernel=(2,), strides=(2,), padding=((0, 0),)
    )
    n = builder.op("size", dim=(length + 1) // 2)
    k = builder.op("cast", builder.op("add", n, builder.op("sum", ids, axes=(0, 1), keepdims=False)), to=f32)
    return builder.finish([m, k])


def test_a_program_reads_back_as_it_was() -> None:
    graph = block()
    graph.verify()
    again = parse(str(graph))
    assert again == graph
    assert str(again) == str(graph)
    assert [op.loc for op in again.ops] == [op.loc for op in graph.ops]
    assert again.facts == graph.facts


def test_the_text_is_what_people_would_write() -> None:
    shown = str(block())
    assert "%q = matmul(%x, %w) {transpose_b = true} : f32[B, S, 8]  // bert.py:214 encoder.layer.0" in shown
    assert '%"odd name"' in shown
    assert "{axis = 2, sizes = [3, 5]}" in shown
    assert "where B in 1..64, S in 1..512, T in 1..512 step 8 likely {128: 0.5}" in shown
    assert "\n  %w = const @layer0.qkv : f32[8, 8] blake2=" in shown


MESH = Mesh(("data", "model"), (2, 4))
TYPES = [
    f32[()],
    f32["B", 3],
    TensorType(f32, f32["B", "C", "H"].shape, Dense((0, 2, 1))),
    TensorType(f32, f32[96, 64].shape, Blocked((0, 1), (48, 1))),
    TensorType(f32, f32[96].shape, Opaque("onednn.any")),
    TensorType(f32, f32[8, 8].shape, placement=Placement(MESH, (Shard(0), Replicate()))),
    TensorType(f32, f32[8, 8].shape, placement=Placement(MESH, (Shard(1, uneven=True), Partial()))),
    TensorType(i8, f32[8].shape, quant=Quant((0.1,), (3,))),
    TensorType(
        i8, f32[2, 2].shape, Dense((1, 0)), Placement(MESH, (Replicate(), Replicate())), Quant((0.1, 1e-20), (0, -1), 0)
    ),
]


@pytest.mark.parametrize("one", TYPES, ids=str)
def test_types_read_back(one: TensorType) -> None:
    assert parse_type(str(one)) == one


def test_formulas_in_types_read_back() -> None:
    from mlsysopt.graph import Dim, minimum

    s, h = Dim.of("S"), Dim.of("H")
    one = TensorType(f32, (2 * s + 1, ((h - 1) // 2 + 3) // 5, minimum(s, 3) * h, s % 4))
    assert parse_type(str(one)) == one


REGION = """graph @outer(%x: f32[4]) {
  %y = neg(%x) do (
    graph @body(%a: f32[4]) {
      %b = exp(%a) : f32[4]
      return %b
    }
  ) : f32[4]
  return %y
}"""


def test_regions_read_back() -> None:
    graph = parse(REGION)
    assert graph.ops[0].regions[0].ops[0].kind == "exp"
    assert str(graph) == REGION


HEAD = "graph @f(%x: f32[B, 4]) {\n"


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("grph @f() { return }", "text:1:1: expected 'graph', found 'grph"),
        ("graph f() { return }", "text:1:7: expected '@'"),
        (HEAD + "  %y = adx(%x, %x) : f32[B, 4]\n  return %y\n}", "text:2:8: unknown op 'adx'; did you mean "),
        (HEAD + "  %y = add(%x, %z) : f32[B, 4]\n  return %y\n}", "text:2:16: %z is not defined above"),
        (HEAD + "  %y = add(%x) : f32[B, 4]\n  return %y\n}", "text:2:8: add: 1 operands given, 2 needed"),
        (
            HEAD + "  %y = sum(%x) {axs = [0], keepdims = true} : f32[1, 4]\n  return %y\n}",
            "unknown attribute 'axs'; did you mean axes?",
        ),
        (
            HEAD + "  %y = sum(%x) {axes = 0, keepdims = true} : f32[1, 4]\n  return %y\n}",
            "attribute 'axes' must be ints, got 0",
        ),
        (HEAD + "  %y = sum(%x) : f32[1, 4]\n  return %y\n}", "attribute 'axes' (ints) is missing"),
        (HEAD + "  %y = neg(%x) : g32[B, 4]\n  return %y\n}", "text:2:18: unknown element type 'g32'"),
        (HEAD + "  %y = neg(%x) : float32[B, 4]\n  return %y\n}", "did you mean f32?"),
        (HEAD + "  %y = neg(%x) : f32[B, ]\n  return %y\n}", "text:2:25: expected a size"),
        (HEAD + "  %x = neg(%x) : f32[B, 4]\n  return %x\n}", "text:2:3: %x is defined twice"),
        (
            HEAD + "  %y = neg(%x) : f32[B, 4]\n",
            "expected '%' and the name of a value, or 'return', found the end of the text",
        ),
        (HEAD + "  %y, %z = neg(%x) : f32[B, 4]\n  return %y\n}", "2 results need as many types, got 1"),
        (HEAD + "  %w = const : f32[B] blake2=00\n  return %x\n}", "a constant's sizes are numbers"),
        ("graph @f(%x: f32[B]) where B in 9..1 {\n  return %x\n}", "text:1:28: in the where clause"),
        ("graph @f(%x: f32[B] @(data=2; S0, R)) {\n  return %x\n}", "the mesh has 1 axes, 2 words were given"),
        ("graph @f(%x: i8[B] q(0.0; 0)) {\n  return %x\n}", "scales must be above 0"),
        (HEAD + "  return %x\n}\nrest", "text:4:1: expected the end of the text, found 'rest'"),
    ],
)
def test_damage_is_refused_with_its_place(text: str, says: str) -> None:
    with pytest.raises(GraphTextError) as error:
        parse(text)
    assert says in str(error.value)
    assert error.value.exit_code == 2


def test_every_prefix_of_a_program_is_refused_in_words() -> None:
    text = str(block())
    for end in range(0, len(text) - 1, 7):
        with pytest.raises(GraphTextError):
            parse(text[:end], file="cut.mlg")


def test_weights_of_a_text_are_absent_and_say_so() -> None:
    graph = parse(str(block()))
    with pytest.raises(WeightsError, match=r"blake2=.* are not here"):
        graph.constant("layer0.qkv").source.load()


def test_comments_and_one_line_programs_are_read() -> None:
    text = "// a comment\ngraph @f(%x: f32[B]) where B in 1..8 likely {4: 1.0} { %y = neg(%x) : f32[B] return %y }"
    graph = parse(text)
    assert graph.facts.likely("B") == {4: 1.0}
    assert len(graph.ops) == 1
