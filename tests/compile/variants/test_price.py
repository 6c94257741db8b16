"""Prices: a row, a line between two, a model of all, a bound; in this order."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from mlsysopt.compile.variants.calibration import Roofline
from mlsysopt.compile.variants.machine import MachineProfile
from mlsysopt.compile.variants.price import between, price
from mlsysopt.compile.variants.site import Epilogue, Site
from tests.compile.variants.planted import Planted, row

VARIANT = Planted("test.a")


def planted(m: int, n: int, k: int, *, block: int = 1, noise: float = 1.0) -> float:
    """The time of a variant that obeys the terms of the model."""
    blocks = math.ceil(m / block) * block
    return noise * (2e-6 + 4 * n * k / 1e10 + 2 * blocks * n * k / 8e10 + 1e-9 * m * (k + n))


def profile(*rows: object, roofline: Roofline | None = None) -> MachineProfile:
    made = MachineProfile(_roofline=roofline)
    made.add(rows)  # type: ignore[arg-type]
    return made


def test_a_row_is_the_price() -> None:
    known = profile(row("test.a", 8, 64, 32, 1e-4))
    found = price(Site.linear(8, 64, 32), VARIANT, known)
    assert (found.mean, found.source, found.note) == (1e-4, "measured", "")
    assert found.low < found.mean < found.high
    assert price(Site.linear(8, 64, 32), VARIANT, known, residency="warm").source == "roofline"
    assert price(Site.linear(8, 64, 32), Planted("test.a", version="2"), known).source == "roofline"


def test_between_two_rows_time_goes_by_blocks() -> None:
    variant = Planted("test.a", block=6)
    known = profile(row("test.a", 128, 64, 32, 22e-4), row("test.a", 192, 64, 32, 32e-4))
    for m, blocks in ((132, 22), (133, 23), (191, 32)):
        found = price(Site.linear(m, 64, 32), variant, known)
        assert found.mean == pytest.approx(blocks * 1e-4)
        assert (found.source, found.note) == ("measured", "between 128 and 192 rows")
        assert found.low == pytest.approx(0.9 * found.mean)


def test_points_far_apart_say_nothing_about_what_lies_between() -> None:
    known = profile(row("test.a", 1, 64, 32, 1e-4), row("test.a", 512, 64, 32, 9e-3))
    assert price(Site.linear(100, 64, 32), VARIANT, known).source == "roofline"
    assert price(Site.linear(1000, 64, 32), VARIANT, known).source == "roofline"


def test_another_epilogue_is_priced_by_the_plain_one() -> None:
    gelu = Site.linear(8, 64, 32, epilogue=Epilogue(bias=True, activation="gelu"))
    known = profile(row("test.a", 8, 64, 32, 1e-4))
    found = price(gelu, VARIANT, known)
    assert (found.mean, found.source, found.note) == (1e-4, "measured", "measured without bias+gelu")
    assert price(Site.linear(8, 64, 32, epilogue=Epilogue(bias=True)), VARIANT, known).note == ""
    known.add([row("test.a", 8, 64, 32, 3e-4, epilogue=Epilogue(activation="gelu"))])
    assert price(gelu, VARIANT, known).mean == 3e-4


def shapes(count: int, seed: int) -> list[tuple[int, int]]:
    random = np.random.default_rng(seed)
    return [(int(a), int(b)) for a, b in (2 ** random.uniform(6, 12, (count, 2))).astype(int)]


@pytest.mark.parametrize("block", [1, 6])
def test_the_model_prices_unseen_weights(block: int) -> None:
    variant, random = Planted("test.a", block=block), np.random.default_rng(1)
    known = profile(
        *(
            row("test.a", m, n, k, planted(m, n, k, block=block, noise=float(random.uniform(0.97, 1.03))))
            for k, n in shapes(8, seed=2)
            for m in (1, 4, 16, 64, 256)
        )
    )
    inside = 0
    cases = [(m, k, n) for k, n in shapes(10, seed=3) for m in (1, 7, 50, 129)]
    for m, k, n in cases:
        found = price(Site.linear(m, n, k), variant, known)
        assert found.source == "model"
        assert found.mean == pytest.approx(planted(m, n, k, block=block), rel=0.05)
        inside += found.low <= planted(m, n, k, block=block) <= found.high
    assert inside >= 0.85 * len(cases)


def test_the_model_learns_as_rows_come() -> None:
    known = profile(*(row("test.a", m, 64, 64, 1e-4) for m in range(1, 12)))
    site = Site.linear(4, 500, 500)
    first = price(site, VARIANT, known)
    assert price(site, VARIANT, known) == first
    known.add(row("test.a", m, 500, 400, 9e-4) for m in range(1, 12))
    assert price(site, VARIANT, known).mean > 2 * first.mean


def test_threads_that_were_not_measured() -> None:
    known = profile(*(row("test.a", m, n, k, planted(m, n, k)) for k, n in shapes(4, seed=2) for m in (1, 4, 16, 64)))
    one, four = (price(Site.linear(9, 333, 333, threads=threads), VARIANT, known) for threads in (1, 4))
    assert (four.source, four.note) == ("model", "not measured at 4 threads")
    assert one.mean / 4 < four.mean < one.mean
    assert four.low == pytest.approx(one.low / 4)
    assert four.high == pytest.approx(one.high)
    assert known.threads_measured() == (1,)


def test_without_rows_a_bound() -> None:
    known = profile(roofline=Roofline(1e11, 1e10, measured=True))
    few, many = (price(Site.linear(m, 1000, 1000), VARIANT, known) for m in (1, 1000))
    assert few.mean == pytest.approx((4e6 + 8e3) / 1e10)
    assert many.mean == pytest.approx(2e9 / 1e11)
    assert (few.source, few.low, few.high, few.note) == ("roofline", few.mean, math.inf, "")
    assert price(Site.linear(1, 9, 9), VARIANT, MachineProfile()).note == "guessed by the vector unit"


@given(
    st.integers(1, 500), st.integers(0, 500), st.floats(1e-6, 1.0), st.floats(0.0, 1.0), st.integers(1, 9), st.data()
)
def test_between_meets_both_ends_and_never_leaves_them(
    first: int, more: int, low: float, rise: float, block: int, data: st.DataObject
) -> None:
    last = first + more
    ends = (first, low), (last, low + rise)
    assert between(first, *ends, block) == low
    if more:
        assert between(last, *ends, block) == pytest.approx(low + rise)
    m = data.draw(st.integers(first, last))
    assert low <= between(m, *ends, block) <= low + rise + 1e-12
    assert between(m, *ends, block) <= between(min(m + 1, last), *ends, block) + 1e-12
