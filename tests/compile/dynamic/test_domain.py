"""Places in loops: followed through moves, cut by reshapes, refused where no loops say it."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from mlsysopt.compile.dynamic.domain import arrange, operand_place
from mlsysopt.compile.dynamic.indices import HERE, Index, Refused, SplitLoop, cut, reindexed
from mlsysopt.compile.dynamic.roles import roles_of
from mlsysopt.graph import Builder, Dim, Facts, f32

S, T = Dim.of("S"), Dim.of("T")
LOOPS = {0: S, 1: T, 2: Dim.of(8)}
FACTS = Facts().with_range("S", 0, None).with_range("T", 0, None)


def test_a_flat_index_is_cut_into_its_loops() -> None:
    flat = Index(((0, 8 * T), (1, Dim.of(8)), (2, Dim.of(1))))
    whole, rest = cut(flat, Dim.of(8), LOOPS, FACTS)
    assert (whole, rest) == (Index(((0, T), (1, Dim.of(1)))), Index.loop(2))
    assert cut(whole, T, LOOPS, FACTS) == (Index.loop(0), Index.loop(1))


def test_a_loop_that_runs_across_a_cut_is_split() -> None:
    with pytest.raises(SplitLoop) as wish:
        cut(Index.loop(2), Dim.of(4), LOOPS, FACTS)
    assert (wish.value.loop, wish.value.inner) == (2, 4)


def test_what_is_not_known_to_divide_is_named() -> None:
    with pytest.raises(Refused) as refused:
        cut(Index.loop(0), T, LOOPS, FACTS)
    assert refused.value.fact == "T divides S"


def test_what_runs_backward_is_not_cut() -> None:
    with pytest.raises(Refused, match="backward"):
        cut(Index(((2, Dim.of(-1)),), Dim.of(7)), Dim.of(4), LOOPS, FACTS)


@given(st.lists(st.sampled_from([2, 3, 4]), min_size=1, max_size=4), st.data())
def test_places_under_a_reshape_are_those_of_numpy(sizes: list[int], data: st.DataObject) -> None:
    joins = data.draw(st.lists(st.booleans(), min_size=len(sizes), max_size=len(sizes)))
    target = [1]
    for size, join in zip(sizes, joins, strict=True):
        if join:
            target[-1] *= size
        else:
            target.append(size)
    loops = {i: Dim.of(size) for i, size in enumerate(sizes)}
    shape, other = [Dim.of(size) for size in sizes], [Dim.of(size) for size in target]
    there = reindexed([Index.loop(i) for i in loops], shape, other, loops, FACTS)
    back = reindexed(there, other, shape, loops, FACTS)
    assert back == tuple(Index.loop(i) for i in loops)
    for at in np.ndindex(*sizes):
        place = [sum(at[loop] * int(factor) for loop, factor in index.terms) for index in there]
        assert np.ravel_multi_index(place, target) == np.ravel_multi_index(at, sizes)


def test_moves_shift_turn_and_stretch_places() -> None:
    b = Builder("f")
    x = b.input("x", f32[8, "T"])
    at = (Index.loop(2), Index.loop(1))

    def read(kind: str, **attrs: object) -> tuple[Index, ...]:
        b.op(kind, x, **attrs)  # pyright: ignore[reportArgumentType]
        return operand_place(b.last, 0, at, LOOPS, FACTS)

    assert read("slice", starts=(2, 0), limits=(8, T), strides=(3, 1))[0] == Index(((2, Dim.of(3)),), Dim.of(2))
    assert read("flip", axes=(0,))[0] == Index(((2, Dim.of(-1)),), Dim.of(7))
    assert read("pad", padding=((2, 1), (0, 0)))[0] == Index(((2, Dim.of(1)),), Dim.of(-2))
    assert read("transpose", perm=(1, 0)) == (Index.loop(1), Index.loop(2))


def test_a_size_that_may_be_one_is_followed_by_a_formula() -> None:
    b = Builder("f")
    b.op("add", b.input("x", f32["S"]), b.input("y", f32["T"]))
    (known,) = operand_place(b.last, 1, (Index.loop(0),), LOOPS, b.facts)
    assert known == Index.loop(0)  # the rule of add has learnt that they are equal
    (open_,) = operand_place(b.last, 1, (Index.loop(0),), LOOPS, FACTS)
    ((loop, factor),) = open_.terms
    assert (loop, factor.at(T=1), factor.at(T=5)) == (0, 0, 1)


def test_loops_of_a_grouped_norm_are_pieces_of_its_axes() -> None:
    b = Builder("f")
    x = b.input("x", f32["N", 64, "H"])
    w = b.constant("w", np.ones(64, np.float32))
    y = b.op("group_norm", x, w, w, groups=8)
    from mlsysopt.compile.dynamic.prepare import prepare

    graph = prepare(b.finish([y])).graph
    found = arrange(graph.ops, graph.ops, graph.outputs, roles_of(graph), {"N": 2, "H": 9}, graph.facts)
    channel = found.at[graph.outputs[0].name][1]
    assert sorted(str(found.loops[loop]) for loop in channel.loops) == ["8", "8"]
    assert len(found.row) == 2


def test_reductions_of_different_rows_are_refused() -> None:
    b = Builder("f")
    x = b.input("x", f32["N", "M", 8])
    outputs = [b.op("sum", x, axes=(2,)), b.op("sum", x, axes=(1, 2))]
    graph = b.finish(outputs)
    found = arrange(graph.ops, graph.ops, graph.outputs[1:], roles_of(graph), {"N": 2, "M": 3}, graph.facts)
    with pytest.raises(Refused, match="another row"):
        found.folded(graph.ops[0], (Index.loop(0), HERE), graph.facts)
