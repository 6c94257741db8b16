"""Canonical form, common subexpressions, dead code and size arithmetic."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from mlsysopt.graph import Builder, Dim, canonical_hash, f32, parse, sources
from mlsysopt.graph.passes import canonicalize, fold_sizes, merge_equal, remove_dead

ONE = "%c = full() {dtype = f32, shape = [], value = 1.0} : f32[] "
HEAD = "graph @f(%x: f32[B, 4], %y: f32[C, 4]) where B in 1..8, C = B {\n"


def kinds(body: str) -> list[str]:
    graph = parse(HEAD + body + "\n}")
    simpler = canonicalize(graph)
    simpler.verify()
    assert canonicalize(simpler) == simpler
    assert [value.type.rank for value in simpler.outputs] == [value.type.rank for value in graph.outputs]
    return [op.kind for op in simpler.ops]


@pytest.mark.parametrize(
    ("body", "left"),
    [
        ("%a = reshape(%x) {shape = [B, 4]} : f32[B, 4] return %a", []),
        ("%a = reshape(%x) {shape = [C, 4]} : f32[C, 4] return %a", []),
        (
            "%a = reshape(%x) {shape = [4*B]} : f32[4*B] %b = reshape(%a) {shape = [2, 2*B]} : f32[2, 2*B] return %b",
            ["reshape"],
        ),
        ("%a = transpose(%x) {perm = [0, 1]} : f32[B, 4] return %a", []),
        ("%a = transpose(%x) {perm = [1, 0]} : f32[4, B] %b = transpose(%a) {perm = [1, 0]} : f32[B, 4] return %b", []),
        ("%a = broadcast(%x) {shape = [B, 4]} : f32[B, 4] return %a", []),
        ("%a = cast(%x) {to = f32} : f32[B, 4] return %a", []),
        ("%a = cast(%x) {to = f64} : f64[B, 4] %b = cast(%a) {to = f32} : f32[B, 4] return %b", ["cast", "cast"]),
        ("%a = slice(%x) {starts = [0, 0], limits = [B, 4], strides = [1, 1]} : f32[B, 4] return %a", []),
        ("%a = slice(%x) {starts = [0, 0], limits = [B, 3], strides = [1, 1]} : f32[B, 3] return %a", ["slice"]),
        ("%a = pad(%x) {padding = [[0, 0], [0, 0]]} : f32[B, 4] return %a", []),
        ("%a = concat(%x) {axis = 0} : f32[B, 4] return %a", []),
        (ONE + "%a = mul(%c, %x) : f32[B, 4] return %a", []),
        (ONE + "%a = div(%x, %c) : f32[B, 4] return %a", []),
        (ONE + "%a = div(%c, %x) : f32[B, 4] return %a", ["full", "div"]),
        (
            "%c = full() {dtype = f32, shape = [2, 1, 1], value = 1.0} : f32[2, 1, 1] "
            "%a = mul(%c, %x) : f32[2, B, 4] return %a",
            ["full", "mul"],
        ),
        ("%a = exp(%x) : f32[B, 4] %b = exp(%x) : f32[B, 4] %c = add(%a, %b) : f32[B, 4] return %c", ["exp", "add"]),
        (
            "%a = add(%x, %y) : f32[B, 4] %b = add(%y, %x) : f32[B, 4] %c = sub(%a, %b) : f32[B, 4] return %c",
            ["add", "sub"],
        ),
    ],
)
def test_what_moves_nothing_vanishes_and_what_counts_stays(body: str, left: list[str]) -> None:
    assert kinds(body) == left


def test_equal_weights_become_one() -> None:
    builder = Builder("f")
    x = builder.input("x", f32[2])
    one, other = (builder.constant("w", np.ones(2, np.float32), label=label) for label in ("a", "b"))
    graph = builder.finish([builder.op("mul", builder.op("add", x, one), other)])
    assert len(merge_equal(graph).constants) == 1


def test_only_constants_that_may_be_equal_are_hashed(monkeypatch: pytest.MonkeyPatch) -> None:
    hashed: list[int] = []
    honest = sources.content_key

    def counted(array: Any) -> str:
        hashed.append(1)
        return honest(array)

    monkeypatch.setattr(sources, "content_key", counted)
    rng = np.random.default_rng(0)
    table = rng.standard_normal((300, 7)).astype(np.float32)
    # Differs in one element that no glimpse takes.
    other = table.copy()
    other[1, 3] += 1
    builder = Builder("f")
    held = [table, table.copy(), other, *(rng.standard_normal((300, 7)).astype(np.float32) for _ in range(4))]
    read = [builder.constant(f"w{i}", array) for i, array in enumerate(held)]
    merged = merge_equal(builder.finish([builder.op("concat", *read, axis=0)]))
    assert [constant.name for constant in merged.constants] == ["w0", "w2", "w3", "w4", "w5", "w6"]
    assert len(hashed) == 3


def test_ops_with_symbols_of_their_own_are_not_merged() -> None:
    builder = Builder("f")
    x = builder.input("x", f32["N"])
    a, b = (builder.op("nonzero", x, symbol=name) for name in ("u0", "u1"))
    assert len(merge_equal(builder.finish([a, b])).ops) == 2


def test_size_arithmetic_becomes_a_formula() -> None:
    builder = Builder("f")
    builder.input("x", f32["B", "S"])
    product = builder.op("mul", builder.op("size", dim=Dim.of("B")), builder.op("size", dim=Dim.of("S")))
    graph = builder.finish([builder.op("add", product, builder.scalar(3, product))])
    folded = fold_sizes(graph)
    assert [str(op.attrs["dim"]) for op in folded.ops if op.kind == "size"] == ["B*S + 3"]
    assert len(folded.ops) == 1


def test_inputs_stay_when_nobody_reads_them() -> None:
    graph = remove_dead(parse("graph @f(%x: f32[4], %y: f32[4]) { %z = neg(%y) : f32[4] return %x }"))
    assert [value.name for value in graph.inputs] == ["x", "y"]
    assert graph.ops == ()


def test_a_program_written_in_two_ways_has_one_hash() -> None:
    one = parse(
        HEAD
        + "%a = reshape(%x) {shape = [4*B]} : f32[4*B] %b = reshape(%a) {shape = [B, 2, 2]} : f32[B, 2, 2] return %b }"
    )
    two = parse(HEAD + "%b = reshape(%x) {shape = [B, 2, 2]} : f32[B, 2, 2] return %b }")
    assert canonical_hash(one) != canonical_hash(two)
    assert canonical_hash(canonicalize(one)) == canonical_hash(canonicalize(two))
