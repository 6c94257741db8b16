"""The knapsack over forms against brute force, and budgets as people write them."""

from __future__ import annotations

import numpy as np
import pytest

from bench.linear_table import random_modules, same_forms
from mlsysopt.compile.linear.forms import ORIGINAL, UNIT_BYTES, Choice, choices, choose, parse_budget
from mlsysopt.compile.linear.segments import Costs
from mlsysopt.core.errors import UsageError


def test_equals_brute_force() -> None:
    rng = np.random.default_rng(3)
    assert all(same_forms(*random_modules(rng)) for _ in range(120))


def test_nothing_that_fits_is_an_error() -> None:
    with pytest.raises(UsageError, match=r"no choice of forms fits 65536 extra bytes: the smallest needs 131072"):
        choose([[Choice(("panel",), 2 * UNIT_BYTES, 1.0)]], UNIT_BYTES)


def test_memory_that_saves_nothing_is_not_taken() -> None:
    plain, wasteful = Choice((ORIGINAL,), 0, 1.0), Choice((ORIGINAL, "panel"), 1 << 20, 1.0)
    assert choose([[plain, wasteful]], 1 << 30) == [0]


def test_a_large_model_takes_a_moment() -> None:
    # 7 GB of weights, 200 modules, a second copy of everything allowed.
    row = [Choice((ORIGINAL,), 0, 2.0), Choice((ORIGINAL, "panel"), 35 << 20, 1.0), Choice(("panel",), 0, 1.1)]
    assert choose([row] * 200, 200 * (35 << 20)) == [1] * 200


def test_at_no_extra_memory_the_panel_form_replaces_the_original() -> None:
    costs = Costs((1, 64), (0.5, 0.5), {"aten.nt": [2.0, 4.0], "panel.f32": [1.0, 2.0], "mkl.packed": [1.9, 1.0]})
    form_of = {"aten.nt": ORIGINAL, "panel.f32": "panel", "mkl.packed": "mkl"}
    bytes_of = {ORIGINAL: 1 << 20, "panel": 1 << 20, "mkl": 1 << 20}
    found = choices(costs, form_of, bytes_of, replacing=("panel",))
    at = {budget: found[choose([found], budget)[0]] for budget in (0, 1 << 20, 2 << 20)}
    assert at[0].forms == ("panel",)
    assert at[0].extra_bytes == 0
    # Where the original is gone panels run alone, so that a second form needs it beside.
    assert at[1 << 20].forms == (ORIGINAL, "mkl")
    assert at[2 << 20].forms == (ORIGINAL, "mkl", "panel")
    assert at[0].seconds > at[1 << 20].seconds > at[2 << 20].seconds
    # Nothing that cannot give the original back stands alone.
    kept = choices(costs, form_of, bytes_of)
    assert all(ORIGINAL in one.forms for one in kept)


def test_choices_that_cost_more_and_gain_nothing_are_dropped() -> None:
    costs = Costs((1,), (1.0,), {"aten.nt": [1.0], "panel.f32": [1.0]})
    found = choices(costs, {"aten.nt": ORIGINAL, "panel.f32": "panel"}, {ORIGINAL: 10, "panel": 10})
    assert found == [Choice((ORIGINAL,), 0, 1.0)]


@pytest.mark.parametrize(
    ("text", "expected"), [("0x", 0), ("1x", 1000), ("2x", 2000), ("0.25x", 250), ("512MiB", 512 << 20), (4096, 4096)]
)
def test_budgets(text: str | int, expected: int) -> None:
    assert parse_budget(text, 1000) == expected


@pytest.mark.parametrize("text", ["-1x", "x", "", "1 y", "-5MiB", "5s", -3])
def test_budgets_that_cannot_be_read_name_the_allowed_ones(text: str | int) -> None:
    with pytest.raises(UsageError) as told:
        parse_budget(text, 1000)
    assert str(told.value) == f'memory budget {text!r}; allowed forms: "0x", "1x", "512MiB"'
    assert told.value.exit_code == 2


def test_a_module_without_any_form_is_refused() -> None:
    with pytest.raises(UsageError, match="module 1 has no form"):
        choose([[Choice((ORIGINAL,), 0, 1.0)], []], 0)


def test_half_a_budget_goes_where_it_saves_most() -> None:
    slow = Costs((1, 64), (0.5, 0.5), {"aten.nt": [2.0, 4.0], "panel.f32": [1.0, 2.0]})
    slight = Costs((1, 64), (0.5, 0.5), {"aten.nt": [2.0, 4.0], "panel.f32": [1.8, 3.6]})
    form_of = {"aten.nt": ORIGINAL, "panel.f32": "panel"}
    rows = [choices(one, form_of, {ORIGINAL: 1 << 20, "panel": 1 << 20}) for one in (slight, slow, slight, slow)]
    picked = [row[i].forms for row, i in zip(rows, choose(rows, 3 << 20), strict=True)]
    assert picked[1] == picked[3] == (ORIGINAL, "panel")
    assert picked.count((ORIGINAL,)) == 1
