"""Memory of calls: contexts that grow, are trimmed, and are never shared."""

from __future__ import annotations

import ctypes
from threading import Barrier, Thread

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mlsysopt.compile.dynamic.arena import Arenas, Context
from mlsysopt.compile.dynamic.slots import Touch, assign
from mlsysopt.compile.errors import CompileError
from mlsysopt.graph import Facts, Value, f32
from mlsysopt.graph.symbolic import Dim, ceildiv

PAGE = 4096


def test_an_arena_grows_by_half_and_stops_at_the_declared_maximum() -> None:
    context = Context(1, 1)
    held: list[int] = []
    for needed in (10 * PAGE, 11 * PAGE, 16 * PAGE, 18 * PAGE, 20 * PAGE):
        context.reserve(needed, 0, 20 * PAGE)
        held.append(context.held_bytes // PAGE)
    assert held == [10, 15, 20, 20, 20]


def test_a_call_above_the_maximum_gets_what_it_needs() -> None:
    context = Context(0, 0)
    context.reserve(8 * PAGE, PAGE, 2 * PAGE)
    assert context.held_bytes == 9 * PAGE


def test_scratch_lies_behind_the_arena_and_all_of_it_can_be_written() -> None:
    context = Context(2, 1)
    context.reserve(192, 100, None)
    assert (context.arena % 64, context.scratch - context.arena) == (0, 192)
    ctypes.memset(context.arena, 1, 292)


def test_memory_that_does_not_exist_is_an_error_and_the_context_lives_on() -> None:
    arenas = Arenas(1, 1)
    context = arenas.take()
    with pytest.raises(CompileError, match="this call needs 4611686018427387904 bytes of memory"):
        arenas.reserve(context, 1 << 62, 0)
    arenas.reserve(context, 64, 0)
    ctypes.memset(context.arena, 1, 64)


def test_a_context_that_was_given_back_is_taken_again() -> None:
    arenas = Arenas(1, 1)
    first = arenas.take()
    second = arenas.take()
    assert first is not second
    arenas.give(first)
    assert arenas.take() is first


def test_counts_of_all_contexts_add_up_also_of_those_that_are_gone() -> None:
    arenas = Arenas(1, 1)
    contexts = [arenas.take() for _ in range(40)]
    for i, context in enumerate(contexts):
        arenas.reserve(context, 64 * i, 0)
        context.calls += 1
        context.copies += 2
        arenas.give(context)
    used = arenas.usage()
    assert (used.calls, used.copies, used.arena_bytes, used.peak_bytes) == (40, 80, 64 * 39, 64 * 39)
    assert used.held_bytes <= 16 * PAGE


def test_concurrent_calls_never_share_a_context() -> None:
    arenas, barrier, clashes = Arenas(1, 1), Barrier(4), list[int]()
    users: dict[int, int] = {}

    def work(me: int) -> None:
        barrier.wait()
        for _ in range(300):
            context = arenas.take()
            users[id(context)] = me
            arenas.reserve(context, 64 * me + 64, 0)
            if users[id(context)] != me:
                clashes.append(me)
            context.calls += 1
            arenas.give(context)

    threads = [Thread(target=work, args=(i,)) for i in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not clashes
    assert arenas.usage().calls == 1200


S = Dim.of("S")


def value(name: str, elements: Dim | int) -> Value:
    return Value(name, f32[Dim.of(elements)])


def test_slots_are_taken_again_and_results_go_into_the_place_of_operands() -> None:
    a, b, c, d = (value(name, S) for name in "abcd")
    touches = [Touch((), (a,)), Touch((a,), (b,), a), Touch((b,), (c,)), Touch((c,), (d,)), Touch((d,), ())]
    found = assign(touches, [a, b, c, d], Facts())
    assert [found.of[name] for name in "abcd"] == [0, 0, 1, 0]
    assert found.sizes == (4 * S, 4 * S)


def test_the_place_of_an_operand_is_for_the_first_result_only() -> None:
    out, a, b, whole = (value(name, S) for name in ("out", "a", "b", "whole"))
    # The first result lies outside the arena, or has its place already.
    found = assign([Touch((), (a,)), Touch((a,), (out, b), a), Touch((b,), ())], [a, b], Facts())
    assert found.of["b"] != found.of["a"]
    touches = [Touch((), (whole,)), Touch((), (a,)), Touch((a,), (whole, b), a), Touch((b, whole), ())]
    found = assign(touches, [a, b, whole], Facts())
    assert len({found.of[name] for name in ("a", "b", "whole")}) == 3


def test_a_value_that_is_written_in_parts_lives_until_its_last_reader() -> None:
    whole, other, last = value("whole", S), value("other", S), value("last", S)
    touches = [Touch((), (whole,)), Touch((), (other,)), Touch((other,), (whole,)), Touch((whole,), (last,))]
    found = assign([*touches, Touch((last,), ())], [whole, other, last], Facts())
    assert found.of["whole"] != found.of["other"]
    assert found.of["last"] == found.of["other"]


def test_values_outside_the_arena_take_no_slot() -> None:
    x, y = value("x", S), value("y", S)
    assert assign([Touch((x,), (y,), x)], [], Facts()).sizes == ()


@given(st.data())
def test_values_that_are_needed_at_one_time_never_share_a_slot(data: st.DataObject) -> None:
    values = [value(f"v{i}", data.draw(st.sampled_from([S, 2 * S, S + 3, Dim.of(64)]))) for i in range(12)]
    touches: list[Touch] = []
    last: dict[str, int] = {}
    for i, made in enumerate(values):
        reads = tuple(data.draw(st.lists(st.sampled_from(values[:i]), max_size=3, unique=True))) if i else ()
        touches.append(Touch(reads, (made,), data.draw(st.sampled_from([None, *reads]))))
        for one in (*reads, made):
            last[one.name] = i
    found = assign(touches, values, Facts())
    for i, made in enumerate(values):
        alive = [v for v in values[:i] if last[v.name] > i or (last[v.name] == i and v is not touches[i].reuses)]
        assert found.of[made.name] not in {found.of[v.name] for v in alive}
    total = sum((ceildiv(size, 64) * 64 for size in found.sizes), Dim.of(0))
    assert total.at(S=1) <= 64 * len(values) * 2
