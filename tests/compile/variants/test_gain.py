"""Intervals of predicted gains: narrow where two times go wrong together, wide where they do not."""

from __future__ import annotations

import math
from pathlib import Path

import numpy as np
import pytest

from mlsysopt.compile.variants import gain
from mlsysopt.compile.variants.gain import Misses, misses
from mlsysopt.compile.variants.machine import MachineProfile
from mlsysopt.compile.variants.price import price
from mlsysopt.compile.variants.site import Site
from mlsysopt.core.costmodel import DeclaredTerms
from tests.compile.variants.planted import Planted, row

FAST, PLAIN = Planted("test.fast"), Planted("test.plain")
SHAPES = [(n, k) for n in (128, 256, 512) for k in (128, 256, 512, 1024)]
ROWS = (1, 2, 4, 8, 16, 32, 64)


def truth(m: int, n: int, k: int) -> float:
    return 2e-6 + 4 * n * k / 1e10 + 2 * m * n * k / 8e10 + 1e-9 * m * (k + n)


def profile(together: bool, spread: float = 0.25, seed: int = 0) -> MachineProfile:
    """Twice as fast everywhere; what a shape takes more or less than the terms say hits both alike, or each alone."""
    rng = np.random.default_rng(seed)
    made = MachineProfile()
    for n, k in SHAPES:
        a, b = np.exp(spread * rng.standard_normal(2))
        for m in ROWS:
            seconds = truth(m, n, k)
            made.add([row("test.plain", m, n, k, a * seconds)])
            made.add([row("test.fast", m, n, k, 0.5 * (a if together else b) * seconds)])
    return made


def test_errors_that_two_variants_share_leave_the_gain() -> None:
    known = profile(together=True)
    low, high = misses(FAST, PLAIN, known).bounds(8)
    assert 0.95 < low <= 1.0 <= high < 1.05
    site = Site.linear(8, 384, 384)
    fast, plain = price(site, FAST, known), price(site, PLAIN, known)
    # The two intervals overlap, so that by themselves they prove nothing.
    assert plain.low < fast.high
    assert low * plain.mean / fast.mean > 1.8


def test_errors_of_their_own_make_it_wide() -> None:
    low, high = misses(FAST, PLAIN, profile(together=False)).bounds(8)
    assert low < 0.85
    assert high > 1.15


def test_bounds_hold_for_products_that_were_not_seen() -> None:
    rng = np.random.default_rng(1)
    inside: list[bool] = []
    for seed in range(12):
        known = profile(together=False, spread=0.15, seed=seed)
        bounds = misses(FAST, PLAIN, known).bounds(8)
        for _ in range(25):
            site = Site.linear(8, int(rng.integers(128, 512)), int(rng.integers(128, 1024)))
            a, b = np.exp(0.15 * rng.standard_normal(2))
            told = price(site, PLAIN, known).mean / price(site, FAST, known).mean
            inside.append(bounds[0] * told <= 2 * a / b <= bounds[1] * told)
    # Each bound holds in nine of ten; twelve products are few.
    assert np.mean(inside) >= 0.7


def test_few_rows_say_nothing() -> None:
    made = MachineProfile()
    made.add([row(name, m, 64, 64, 1e-5) for name in ("test.fast", "test.plain") for m in ROWS])
    assert misses(FAST, PLAIN, made).bounds(8) == (0.0, math.inf)
    assert misses(FAST, Planted("test.absent"), profile(together=True)).bounds(8) == (0.0, math.inf)
    assert misses(FAST, PLAIN, profile(together=True), threads=4).bounds(8) == (0.0, math.inf)


def test_widths_far_from_all_that_was_measured_are_not_judged() -> None:
    known = misses(FAST, PLAIN, profile(together=True))
    assert known.of(Site.linear(8, 600, 1500)) == known.bounds(8)
    assert known.of(Site.linear(8, 97, 1000)) == known.bounds(8)
    assert known.of(Site.linear(8, 64, 1000)) is None
    assert known.of(Site.linear(8, 512, 4096)) is None


def test_near_rows_are_asked_where_there_are_enough() -> None:
    small, large = ((1,) * 20, (0.0,) * 20), ((512,) * 20, (1.0,) * 20)
    both = Misses(small[0] + large[0], small[1] + large[1])
    assert both.bounds(1) == (1.0, 1.0)
    assert both.bounds(512)[0] == pytest.approx(math.exp(-1))
    assert both.bounds(30)[0] == pytest.approx(math.exp(-1))


def test_what_was_fitted_is_read_from_the_file_and_not_fitted_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    site = Site.linear(8, 384, 384)
    with MachineProfile.open(tmp_path / "machine.db") as known:
        known.add(profile(together=True).rows)
        first = price(site, FAST, known), misses(FAST, PLAIN, known)
    monkeypatch.setattr(gain, "fit_nonnegative", None)
    monkeypatch.setattr(DeclaredTerms, "fit", None)
    with MachineProfile.open(tmp_path / "machine.db") as known:
        assert (price(site, FAST, known), misses(FAST, PLAIN, known)) == first


def test_a_damaged_fit_is_made_again() -> None:
    known = profile(together=True)
    first = misses(FAST, PLAIN, known), price(Site.linear(8, 384, 384), FAST, known)
    for key, (rows, _) in list(known._fits.items()):
        known.keep_fit(key, rows, "{damaged")
    known.models.clear()
    assert (misses(FAST, PLAIN, known), price(Site.linear(8, 384, 384), FAST, known)) == first


def test_the_answer_is_kept_until_a_tenth_more_is_known() -> None:
    known = profile(together=True)
    first = misses(FAST, PLAIN, known)
    assert misses(FAST, PLAIN, known) is first
    known.add([row(name, 3, n, k, 1e-4) for name in ("test.fast", "test.plain") for n, k in SHAPES])
    assert misses(FAST, PLAIN, known) is not first
