"""Where values lie: strides under reshapes, layouts that travel backward, parts of concatenations, copies."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from mlsysopt.compile.dynamic.prepare import prepare
from mlsysopt.compile.dynamic.roles import is_copy
from mlsysopt.compile.dynamic.strides import dense, exact, refined, restride
from mlsysopt.compile.dynamic.views import View
from mlsysopt.graph import Builder, Dim, Facts, Graph, boolean, f32, i64

B, S, H = Dim.of("B"), Dim.of("S"), Dim.of("H")


def _dims(*sizes: int | Dim) -> tuple[Dim, ...]:
    return tuple(Dim.of(size) for size in sizes)


@st.composite
def _reshapes(draw: st.DrawFn) -> tuple[list[int], list[int], list[int]]:
    """Return a shape, an order of its axes, and another shape of as many elements."""
    pieces = draw(st.lists(st.sampled_from([1, 2, 3, 5]), min_size=1, max_size=5))

    def grouped() -> list[int]:
        shape = [1]
        for piece in pieces:
            if draw(st.booleans()):
                shape.append(piece)
            else:
                shape[-1] *= piece
        return shape

    shape = grouped()
    return shape, list(draw(st.permutations(range(len(shape))))), grouped()


@given(_reshapes())
def test_strides_under_a_reshape_are_those_of_numpy(case: tuple[list[int], list[int], list[int]]) -> None:
    shape, order, target = case
    count = int(np.prod(shape))
    memory = np.arange(count)
    x = memory.reshape(shape).transpose(order)
    strides = [step // memory.itemsize for step in x.strides]
    found = restride(_dims(*x.shape), _dims(*strides), _dims(*target), Facts())
    wanted = x.reshape(target)
    if found is None:
        assert not np.shares_memory(wanted, memory)  # numpy had to copy as well
        return
    steps = [int(step) * memory.itemsize for step in found]
    assert np.array_equal(np.lib.stride_tricks.as_strided(memory, target, steps), wanted)


def test_symbolic_axes_are_joined_and_cut() -> None:
    heads = restride((B, S, Dim.of(768)), dense((B, S, Dim.of(768))), (B, S, Dim.of(12), Dim.of(64)), Facts())
    assert heads == (768 * S, *_dims(768, 64, 1))
    turned = (768 * S, *_dims(64, 768, 1))  # [B, 12, S, 64] of a buffer [B, S, 12, 64]
    assert restride((B, Dim.of(12), S, Dim.of(64)), turned, (B, 12 * S, Dim.of(64)), Facts()) is None
    assert restride((B, S, H), dense((B, S, H)), (B * S * H,), Facts()) == _dims(1)


def test_equality_that_only_facts_know() -> None:
    T = Dim.of("T")
    facts = Facts().with_equal(S, T)
    assert restride((B, S), (S, Dim.of(1)), (B * T,), facts) == _dims(1)
    assert exact(S * 768, Dim.of(64)) == 12 * S
    assert exact(S, Dim.of(2)) is None


def test_pieces_of_two_shapes() -> None:
    pieces, of_x, of_y = refined(_dims(12, 64), _dims(2, 384), Facts()) or ([], [], [])
    assert [int(piece) for piece in pieces] == [2, 6, 64]
    assert (of_x, of_y) == ([[0, 1], [2]], [[0], [1, 2]])
    assert refined(_dims(4, 6), _dims(6, 4), Facts()) is None


def _copies(graph: Graph) -> list[str]:
    return [op.name for op in graph.ops if is_copy(op)]


def test_attention_writes_what_the_next_linear_reads() -> None:
    b = Builder("f")
    x = b.input("x", f32[B, S, 768])
    heads = b.op("transpose", b.op("reshape", x, shape=(B, S, 12, 64)), perm=(0, 2, 1, 3))
    y = b.op("attention", heads, heads, heads, name="attention")
    flat = b.op("reshape", b.op("transpose", y, perm=(0, 2, 1, 3)), shape=(B, S, 768), name="flat")
    w = b.constant("w", np.zeros((768, 768), np.float32))
    done = prepare(b.finish([b.op("linear", flat, w)]))
    view = done.layouts[done.graph.value("attention")]
    assert view == View(done.graph.value("flat"), Dim.of(0), (768 * S, *_dims(64, 768, 1)))
    assert done.layouts[heads].base == x
    assert _copies(done.graph) == []


def test_parts_of_a_concatenation_are_written_in_place() -> None:
    b = Builder("f")
    x, past = b.input("x", f32[B, S, 8]), b.input("past", f32[B, "P", 8])
    both = b.op("concat", past, b.op("exp", x, name="new"), axis=1, name="both")
    done = prepare(b.finish([both]))
    assert _copies(done.graph) == ["past.copy"]  # an input lies where it lies
    assert done.layouts[done.graph.value("new")].offset == 8 * Dim.of("P")
    assert done.layouts[done.graph.value("new")].base == both


def test_a_part_that_stands_twice_is_copied_once() -> None:
    b = Builder("f")
    e = b.op("exp", b.input("x", f32[S, 4]), name="e")
    done = prepare(b.finish([b.op("concat", e, e, axis=0)]))
    assert _copies(done.graph) == ["e.copy"]


@pytest.mark.parametrize("kind", ["input", "twice", "view", "number", "weight"])
def test_outputs_that_are_no_results_of_their_own(kind: str) -> None:
    b = Builder("f")
    x = b.input("x", f32[S, 4])
    y = b.op("exp", x, name="y")
    outputs = {
        "input": [x],
        "twice": [y, y],
        "view": [y, b.op("slice", y, starts=(0, 0), limits=(S, 2), strides=(1, 1))],
        "number": [b.full(1.0, f32[S, 4])],
        "weight": [b.constant("w", np.ones(3, np.float32))],
    }[kind]
    done = prepare(b.finish(outputs))
    assert len(_copies(done.graph)) == 1
    assert len(set(done.graph.outputs)) == len(outputs)
    for value in done.graph.outputs:
        assert done.layouts[value] == View.whole(value)


def test_rows_that_do_not_fit_together_are_copied_before_a_linear() -> None:
    b = Builder("f")
    x = b.input("x", f32[B, S, 8])
    w = b.constant("w", np.zeros((4, 8), np.float32))
    turned = b.op("transpose", x, perm=(1, 0, 2))
    assert _copies(prepare(b.finish([b.op("linear", turned, w)])).graph) == ["transpose.copy"]


def test_masks_that_keep_everything_vanish() -> None:
    b = Builder("f")
    mask = b.input("mask", i64[B, S])
    rows = b.op("reshape", b.op("iota", shape=(S,)), shape=(1, S, 1))
    kept = b.op("and", b.full(True, boolean[()]), b.op("ge", rows, b.full(0, i64[()])))
    seen = b.op("and", kept, b.op("reshape", b.op("cast", mask, to=boolean), shape=(B, 1, S)))
    q = b.input("q", f32[B, S, 16])
    done = prepare(b.finish([b.op("attention", q, q, q, seen)]))
    assert sorted(op.kind for op in done.graph.ops) == ["attention", "broadcast", "cast", "reshape"]
