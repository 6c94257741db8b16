"""The pace, walks and the staircase."""

from __future__ import annotations

import math

import pytest

from mlsysopt.train.estimate import clock, synthetic


def test_the_pace_is_that_of_a_fixed_loop() -> None:
    paces = [clock.pace() for _ in range(5)]
    assert all(pace > 0 for pace in paces)
    # A loop of thirty thousand additions, whatever the machine does meanwhile.
    assert 1e-5 < min(paces) < 1.0


def test_readings_say_less_of_a_longer_training() -> None:
    corrected = [clock.evened(1.0, read_s=2e-3, pace_s=1e-3, lasted_s=lasted) for lasted in (0.0, 0.5, 2.0, 30.0)]
    assert corrected[0] == pytest.approx(0.5)
    assert corrected == sorted(corrected) and 0.95 < corrected[-1] < 1.0
    assert clock.evened(3.0, read_s=1e-3, pace_s=1e-3, lasted_s=1.0) == 3.0


def test_walks_take_longer_over_more_ratings() -> None:
    small, large = (
        synthetic.ratings(n_users=200 * factor, n_items=100 * factor, n_ratings=3000 * factor, seed=1).trainset()
        for factor in (1, 10)
    )
    few, many = clock.walks(small, ("Wu", "Wi")), clock.walks(large, ("Wu", "Wi"))
    # Ten times as much at equal cost per rating; caches and noise may do what they like in between.
    assert few.keys() == many.keys() == {"Wu", "Wi"}
    assert all(many[name] > 3.0 * few[name] for name in few)
    assert clock.walks(small, ("Wi",)).keys() == {"Wi"} and clock.walks(small, ()) == {}


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
