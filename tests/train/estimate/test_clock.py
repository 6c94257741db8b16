"""References, walks and the staircase."""

from __future__ import annotations

import math

import pytest

from mlsysopt.train.estimate import clock, synthetic


def test_references_remember_the_best_and_tell_what_is_slower() -> None:
    pair = clock.References()
    readings = [pair.read() for _ in range(3)]
    best = pair.best
    assert best is not None
    assert best.arithmetic_s <= min(one.arithmetic_s for one in readings)
    assert best.walk_s <= min(one.walk_s for one in readings)
    slow = clock.Reference(best.arithmetic_s * 2, best.walk_s)
    assert pair.around(best, slow) == pytest.approx(2.0)
    assert pair.around(best, best) == 1.0


@pytest.mark.parametrize("side", ["user", "item"])
def test_a_walk_takes_longer_over_more_ratings(side: str) -> None:
    small, large = (
        synthetic.ratings(n_users=200 * factor, n_items=100 * factor, n_ratings=3000 * factor, seed=1).trainset()
        for factor in (1, 10)
    )
    # Ten times as much at equal cost per rating; caches and noise may do what they like in between.
    assert clock.walk(large, side) > 3.0 * clock.walk(small, side)


def test_the_staircase_rises_and_its_ramp_lies_inside() -> None:
    steps = clock.staircase(steps_mib=(1, 4, 16, 64))
    assert len(steps.seconds) == 4 and all(seconds > 0 for seconds in steps.seconds)
    low, high = steps.ramp()
    assert 0 < low < high


def test_a_flat_staircase_gives_the_default_ramp() -> None:
    assert clock.Staircase((1, 2, 4), (1.0, 1.1, 1.05)).ramp() == clock.DEFAULT_RAMP


def test_one_high_step_does_not_move_the_ramp() -> None:
    sizes = tuple(2**20 * 2**n for n in range(9))
    clean = (1.0, 1.0, 1.0, 1.5, 3.0, 4.0, 4.0, 4.0, 4.0)
    disturbed = (1.0, 2.9, 1.0, 1.5, 3.0, 4.0, 4.0, 4.0, 4.0)
    assert clock.Staircase(sizes, disturbed).ramp() == pytest.approx(clock.Staircase(sizes, clean).ramp())


def test_the_probe_respects_what_is_free() -> None:
    steps = clock.staircase(most_bytes=5 * 2**20, steps_mib=(1, 4, 16))
    assert steps.sizes_bytes == (2**20, 4 * 2**20)
    assert not any(math.isnan(seconds) for seconds in steps.seconds)
