"""Parameters check themselves where they are made, and say what is allowed."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest

from mlsysopt.core.errors import SpaceError
from mlsysopt.core.space import Bool, Choice, Float, Int, Permutation


def test_defaults_are_the_middle() -> None:
    assert Int("x", 1, 100).default == 50
    assert Int("x", 1, 256, log=True).default == 16
    assert Int("x", 0, 10, step=4).default == 4
    assert Float("x", 0, 1).default == 0.5
    assert Float("x", 0.01, 1, log=True).default == pytest.approx(0.1)
    assert Float("x", 0, 1, step=0.1).default == 0.5
    assert Bool("x").default is False
    assert Choice("x", ("u", "v")).default == "u"
    assert Permutation("x", 3).default == (0, 1, 2)


def test_bounds_may_be_quantities_and_move_to_the_grid() -> None:
    block = Int("block", "4KiB", "1MiB", default="64KiB", log=True)  # type: ignore[arg-type]
    assert (block.low, block.high, block.default) == (4096, 2**20, 65536)
    assert Int("x", 0, 10, step=3).high == 9
    assert Float("x", 0, 1, step=0.3).high == 0.9


def test_a_log_range_from_zero_gets_zero_as_special_value() -> None:
    ahead = Int("ahead", 0, 1024, log=True, default=0)
    assert (ahead.low, ahead.special, ahead.default) == (1, (0,), 0)
    share = Float("share", 0, 1, log=True, step=0.001)
    assert (share.low, share.special, share.step) == (0.001, (0.0,), None)


@pytest.mark.parametrize(
    ("make", "words"),
    [
        (lambda: Int("x", 5, 5), "parameter 'x': low must be below high, got low=5, high=5"),
        (lambda: Int("x", 9, 1), "low=9, high=1"),
        (lambda: Int("x", -4, 9, log=True), "starts above 0, got low=-4"),
        (lambda: Int("x", 1, 9, log=True, step=2), "a log range has step 1, got step=2"),
        (lambda: Int("x", 1, 9, step=0), "at least 1"),
        (lambda: Int("x", 1, 9, step=20), "must fit"),
        (lambda: Int("x", 1, 9, default=10), "its default must lie in 1 .. 9, got 10"),
        (lambda: Int("x", 1, 9, step=2, default=4), "1 plus a multiple of 2, got 4"),
        (lambda: Int("x", 1.5, 9), "low must be a whole number, got 1.5"),  # type: ignore[arg-type]
        (lambda: Int("x", True, 9), "low must be a whole number"),
        (lambda: Int("x", 1, 2**63), "within 2**62"),
        (lambda: Int("x", 1, 9, special=(5,)), "special value 5 must lie outside 1 .. 9"),
        (lambda: Int("x", 1, 9, special=(0, 0)), "must differ"),
        (lambda: Int("", 1, 9), "name"),
        (lambda: Int(" x", 1, 9), "name"),
        (lambda: Float("x", 0, 1, log=True), "cannot start at 0"),
        (lambda: Float("x", 0.1, 1, log=True, step=0.1), "a log range has no step"),
        (lambda: Float("x", 0, math.inf), "finite"),
        (lambda: Float("x", -1.7e308, 1.7e308), "too wide"),
        (lambda: Float("x", 0, 1, step=-1), "step must be positive"),
        (lambda: Float("x", 0, 1, default=math.nan), "finite"),
        (lambda: Bool("x", default=1), "must be true or false, got 1 (int)"),  # type: ignore[arg-type]
        (lambda: Choice("x", ()), "must be a list of values"),
        (lambda: Choice("x", "abc"), "must be a list of values"),  # type: ignore[arg-type]
        (lambda: Choice("x", (1, "1")), "choices must differ, got 1 twice"),
        (lambda: Choice("x", (None, "a")), "text or a number"),
        (lambda: Choice("x", ("fast", "dense"), default="fas"), "did you mean fast?"),
        (lambda: Permutation("x", 0), "from 1 to 10000"),
        (lambda: Permutation("x", 3, default=(0, 1, 1)), "an order of 0 .. 2"),
    ],
)
def test_refuses(make: Any, words: str) -> None:
    with pytest.raises(SpaceError) as caught:
        make()
    assert words in str(caught.value)


@pytest.mark.parametrize(
    ("parameter", "value", "kind"),
    [
        (Int("x", 1, 9), 3.0, "type"),
        (Int("x", 1, 9), True, "type"),
        (Int("x", 1, 9), np.int64(3), "type"),
        (Int("x", 1, 9), 10, "bounds"),
        (Int("x", 1, 9, step=2), 2, "step"),
        (Int("x", 1, 9, special=(-1,)), -1, None),
        (Float("x", 0, 1), 1, None),
        (Float("x", 0, 1), math.nan, "bounds"),
        (Float("x", 0, 1), "0.5", "type"),
        (Float("x", 0, 1, step=0.1), 0.1 + 0.2, None),
        (Float("x", 0, 1, step=0.1), 0.15, "step"),
        (Bool("x"), 1, "type"),
        (Choice("x", (1, 2)), True, "bounds"),
        (Choice("x", (1, 2)), 1.0, None),
        (Choice("x", ("1", "2")), 1, "bounds"),
        (Permutation("x", 3), [2, 0, 1], None),
        (Permutation("x", 3), (2, 0), "type"),
        (Permutation("x", 2), (True, False), "type"),
        (Permutation("x", 3), 7, "type"),
    ],
)
def test_fault(parameter: Any, value: Any, kind: str | None) -> None:
    fault = parameter.fault(value)
    assert (fault[0] if fault else None) == kind


@pytest.mark.parametrize(
    ("parameter", "given", "nearest"),
    [
        (Int("x", 1, 9), 3.4, 3),
        (Int("x", 1, 9), np.int64(4), 4),
        (Int("x", 1, 9), math.inf, 9),
        (Int("x", 1, 9), math.nan, 5),
        (Int("x", 1, 9), "7", 5),
        (Int("x", 1, 9, special=(-1,)), -1, -1),
        (Int("x", 1, 9, special=(-1,)), -5, 1),
        (Int("x", 0, 9, step=4), 7, 8),
        (Int("x", 1, 2**61), 2**61 - 1, 2**61 - 1),
        (Float("x", 0, 1, step=0.1), 0.1 + 0.2, 0.3),
        (Float("x", 0, 1), -3, 0.0),
        (Bool("x"), 1, True),
        (Bool("x", default=True), "no", True),
        (Choice("x", (1, "a")), 1.0, 1),
        (Choice("x", ("a", "b"), default="b"), "c", "b"),
        (Permutation("x", 3), [2, 0, 1], (2, 0, 1)),
        (Permutation("x", 3), [2, 2, 1], (0, 1, 2)),
    ],
)
def test_nearest_is_plain_and_allowed(parameter: Any, given: Any, nearest: Any) -> None:
    found = parameter.nearest(given)
    assert found == nearest
    assert type(found) is type(nearest)
    assert parameter.fault(found) is None
