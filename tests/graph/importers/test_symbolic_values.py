"""Bounds and quotients of sizes, against brute force over small numbers."""

from __future__ import annotations

import itertools

import numpy as np
import pytest

from mlsysopt.graph import Builder
from mlsysopt.graph.facts import Facts
from mlsysopt.graph.importers.symbolic_values import Sizes, as_value, missing_size, slice_bounds, truncated_quotient
from mlsysopt.graph.interpreter import interpret
from mlsysopt.graph.symbolic import Dim, dims
from mlsysopt.graph.types import i32

N, A, E = dims("N", "A", "E")


@pytest.mark.parametrize("low", [None, 0, 1], ids=lambda low: f"from {low}")
def test_slice_bounds_are_those_of_numpy(low: int | None) -> None:
    facts = Facts().with_range("N", 1, 6)
    if low is not None:
        facts = facts.with_range("A", low, 9).with_range("E", low, 9)
    begin, limit = slice_bounds(A, E, N, facts)
    values = range(-9 if low is None else low, 10)
    for n, a, e in itertools.product(range(1, 7), values, values):
        assert range(n)[slice(begin.at(N=n, A=a, E=e), limit.at(N=n, A=a, E=e))] == range(n)[slice(a, e)]
        assert 0 <= begin.at(N=n, A=a, E=e) <= limit.at(N=n, A=a, E=e) <= n


def test_bounds_that_are_proven_stay_plain() -> None:
    facts = Facts().with_range("N", 4, 64)
    one = Dim.of(1)
    assert slice_bounds(one, Dim.of(2**63 - 1), N, facts) == (one, N)
    assert slice_bounds(Dim.of(-(2**63)), Dim.of(-1), N, facts) == (Dim.of(0), N - 1)
    assert slice_bounds(N - 2, N, N, facts) == (N - 2, N)
    assert slice_bounds(Dim.of(0), Dim.of(9), Dim.of(5), facts) == (Dim.of(0), Dim.of(5))


def test_quotients_round_toward_zero_or_are_not_given() -> None:
    facts = Facts().with_range("N", 1, 20).with_range("A", 1, 20)
    for a, b in itertools.product(range(-9, 10), (-3, -2, 1, 2, 5)):
        assert truncated_quotient(Dim.of(a), Dim.of(b), facts) == int(a / b)
    assert truncated_quotient(N, Dim.of(4), facts) == N // 4
    assert truncated_quotient(-N, Dim.of(4), facts) == -(N // 4)
    assert truncated_quotient(N - A, Dim.of(4), facts) is None
    assert truncated_quotient((N - A) * 4, Dim.of(4), facts) == N - A
    assert truncated_quotient(N - A - (N - A) % 4, Dim.of(4), facts) == (N - A) // 4
    assert truncated_quotient(N, Dim.of(0), facts) is None


def test_the_open_size_of_a_reshape() -> None:
    assert missing_size((N, A, Dim.of(768)), (N, Dim.of(12))) == A * 64
    assert missing_size((N * A, E), (A, E)) == N
    quotient = (N - 1) // 32 + 1
    assert missing_size((A, quotient, quotient, Dim.of(8)), (A, Dim.of(8))) == quotient * quotient
    assert missing_size((Dim.of(24),), ()) == 24


@pytest.mark.parametrize("shape", [(), (3,), (2, 2)])
def test_known_and_symbolic_tensors_become_values(shape: tuple[int, ...]) -> None:
    count = 1
    for size in shape:
        count *= size
    for dims_ in ([Dim.of(i) for i in range(count)], [N + i for i in range(count)]):
        sizes = Sizes(Sizes.of(dims_).array.reshape(shape), i32)
        b = Builder()
        b.input("x", i32[N])
        value = as_value(b, sizes, "made")
        graph = b.finish([value])
        assert graph.verify() is None and value.type.dtype is i32
        found = interpret(graph, x=np.zeros(7, np.int32))[value.name]
        assert found.shape == shape and found.reshape(-1).tolist() == [size.at(N=7) for size in dims_]
