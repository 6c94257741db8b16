"""Time left: beliefs about epochs, events of every kind, stopping."""

from __future__ import annotations

import io
import math
from contextlib import redirect_stdout
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from mlsysopt.core.errors import UsageError
from mlsysopt.train.estimate import Estimate, Sample, Tracker, TrainingStopped
from mlsysopt.train.estimate.forecast import fit
from mlsysopt.train.estimate.intervals import own_cases
from mlsysopt.train.estimate.memory import Free, peak_of
from mlsysopt.train.estimate.sampling import subset
from mlsysopt.train.estimate.track import EpochClock, Left, truncated_left
from mlsysopt.train.estimate.trainers import find
from tests.train.estimate.planted import BANK, burn, planted, ratings


def test_a_forecast_that_was_wrong_is_forgotten() -> None:
    clock = EpochClock(10.0, 0.3)
    before = clock.left(20)
    for _ in range(5):
        clock.add(4.0)
    seconds, low, high = clock.left(15)
    assert seconds == pytest.approx(60.0, rel=0.05)
    assert high / low < 0.5 * before[2] / before[1]


@given(seed=st.integers(0, 50))
def test_noise_does_not_move_it_far(seed: int) -> None:
    rng = np.random.default_rng(seed)
    clock = EpochClock(2.0, 0.2)
    for _ in range(12):
        clock.add(2.0 * math.exp(0.05 * rng.standard_normal()))
    assert clock.epoch_s == pytest.approx(2.0, rel=0.1)


@pytest.mark.parametrize("factor", [0.5, 1.5, 2.0, 3.0])
def test_a_changed_machine_is_noticed_within_three_epochs(factor: float) -> None:
    rng = np.random.default_rng(1)
    clock = EpochClock(1.0, 0.2)
    for _ in range(20):
        clock.add(math.exp(0.02 * rng.standard_normal()))
    for _ in range(3):
        clock.add(factor * math.exp(0.02 * rng.standard_normal()))
    assert clock.epoch_s == pytest.approx(factor, rel=0.1)


def test_the_interval_covers_what_comes() -> None:
    rng = np.random.default_rng(3)
    inside = 0
    for _ in range(300):
        factor, noise = math.exp(0.25 * rng.standard_normal()), 0.05
        epochs = factor * np.exp(noise * rng.standard_normal(20))
        clock = EpochClock(1.0, 0.25)
        for seconds in epochs[:5]:
            clock.add(float(seconds))
        _, low, high = clock.left(15)
        inside += low <= epochs[5:].sum() <= high
    assert inside / 300 >= 0.85


@given(spread=st.floats(0.05, 0.6), share=st.floats(0.0, 1.5))
def test_time_left_without_epochs_agrees_with_simulation(spread: float, share: float) -> None:
    forecast = 10.0
    ends = forecast * np.exp(spread * np.random.default_rng(0).standard_normal(400_000))
    later = ends[ends > share * forecast]
    if len(later) < 4000:
        return
    mean, low, high = truncated_left(forecast, spread, share * forecast)
    assert mean == pytest.approx(float(np.mean(later)) - share * forecast, rel=0.05, abs=0.02)
    assert low == pytest.approx(float(np.quantile(later, 0.05)) - share * forecast, rel=0.15, abs=0.05)
    assert high == pytest.approx(float(np.quantile(later, 0.95)) - share * forecast, rel=0.1, abs=0.05)


def test_far_beyond_the_forecast_something_is_still_left() -> None:
    mean, low, high = truncated_left(10.0, 0.05, 100.0)
    assert 0 < mean < math.inf and low <= mean <= high


class Hands:
    """A clock that is moved by hand."""

    def __init__(self) -> None:
        self.now = 100.0

    def __call__(self) -> float:
        return self.now


def test_lines_begin_epochs_and_set_up_is_apart() -> None:
    hands, told = Hands(), []
    tracker = Tracker(
        epochs=4, epoch_s=1.0, setup_s=3.0, spread=0.3, line=r"epoch (\d+)", on_left=told.append, clock=hands
    )
    with redirect_stdout(io.StringIO()) as shown, tracker:
        assert tracker.left().seconds == pytest.approx(7.0)
        hands.now += 3.0
        for epoch in range(4):
            write(f"Processing epoch {epoch}\n")
            hands.now += 2.0
        write("done\n")
    assert shown.getvalue().count("Processing epoch") == 4
    assert tracker.events == pytest.approx([5.0, 7.0, 9.0])
    assert tracker.finished_s == pytest.approx(11.0)
    lefts: list[Left] = told
    assert lefts[-1].seconds == pytest.approx(2.0, rel=0.1)
    assert lefts[-1].done == 0.75


def test_what_has_passed_of_an_epoch_counts() -> None:
    hands = Hands()
    with Tracker(epochs=10, epoch_s=2.0, spread=0.1, clock=hands) as tracker:
        hands.now += 2.0
        tracker.step()
        whole = tracker.left().seconds
        hands.now += 1.0
        assert tracker.left().seconds == pytest.approx(whole - 1.0)
        # A running epoch is never worth more than one.
        hands.now += 50.0
        assert tracker.left().seconds == pytest.approx(whole - 2.0)


def test_parts_of_a_line_are_put_together() -> None:
    tracker = Tracker(epochs=3, epoch_s=1.0, line=r"^epoch \d")
    with redirect_stdout(io.StringIO()), tracker:
        write("epo")
        write("ch 0\nepoch 1\n")
        write("epoch 2")
    assert tracker.done == 1


def test_output_is_given_back_also_after_an_error() -> None:
    import sys

    before = sys.stdout
    with pytest.raises(ZeroDivisionError), Tracker(epochs=2, epoch_s=1.0, line="x"):
        assert sys.stdout is not before
        raise ZeroDivisionError
    assert sys.stdout is before


def test_a_trainer_without_epochs_cannot_be_stepped() -> None:
    tracker = Tracker(epochs=None, epoch_s=10.0)
    with pytest.raises(UsageError, match="no epochs"), tracker:
        tracker.step()
    with pytest.raises(UsageError, match="at least one"):
        Tracker(epochs=0, epoch_s=1.0)


def test_phases_are_kept_and_can_stop_the_training() -> None:
    data = ratings(150).trainset()
    record = find("knn").settled({"user_based": False, "sim": "pearson_baseline"})
    tracker = Tracker(epochs=None, epoch_s=1.0, phase=record.line)
    with redirect_stdout(io.StringIO()), tracker:
        record.fit(data, verbose=True, **record.params)
    assert [text.split()[0] for _, text in tracker.phases] == ["Estimating", "Computing", "Done"]
    stopped = Tracker(epochs=None, epoch_s=1.0, phase=record.line)
    with redirect_stdout(io.StringIO()), pytest.raises(TrainingStopped), stopped:
        stopped.stop("no time")
        record.fit(data, verbose=True, **record.params)


def estimated(tmp_path: Path) -> Estimate:
    """Return an estimate of a planted trainer, made without a training."""
    data = ratings(1000)
    record = planted.settled({"n_factors": 8, "n_epochs": 5})
    samples = [
        Sample(share, part.characteristics, {**record.params, "n_epochs": epochs}, cost, 1.5 * cost)
        for share, epochs in ((0.05, 1), (0.1, 4), (0.2, 1), (0.3, 4), (0.4, 1))
        if (part := subset(data, "user", share, seed=1)) and (cost := 0.002 + 2e-8 * len(part) * 8 * epochs)
    ]
    made = fit(record, samples, data.characteristics, bank=BANK, digest=data.digest)
    return Estimate(
        trainer="planted", params=dict(record.params), source="here", digest=data.digest, forecast=made, about_s=0.0,
        peak=peak_of(record, data.characteristics), room=Free(2**30, "--memory", {}), within_s=None, verdict="fits",
        reasons=(), spent_s=1.0, load_s=0.0, wall_per_cpu=1.5, record=record,
    )  # fmt: skip


def test_an_estimate_gives_the_prior(tmp_path: Path) -> None:
    found = estimated(tmp_path)
    tracker = found.track(remember=False)
    left = tracker.left()
    assert left.seconds == pytest.approx(1.5 * found.seconds, rel=0.05)
    assert left.low < left.seconds < left.high
    assert tracker.epochs == 5


def test_a_finished_training_becomes_a_case_of_ones_own(tmp_path: Path) -> None:
    found = estimated(tmp_path)
    with found.track() as tracker:
        for _ in range(5):
            burn(0.01)
            tracker.step()
    (case,) = own_cases().cases
    assert case.trainer == "planted" and case.truth_s == pytest.approx(0.05, rel=0.5)
    with pytest.raises(ZeroDivisionError), found.track():
        raise ZeroDivisionError
    assert len(own_cases().cases) == 1


def write(text: Any) -> None:
    import sys

    sys.stdout.write(text)


@pytest.mark.parametrize("noise", [0.03, 0.06, 0.15])
def test_a_slower_machine_is_noticed_after_three_epochs_however_noisy(noise: float) -> None:
    rng = np.random.default_rng(0)
    off, steady = [], []
    for _ in range(200):
        epochs = 0.1 * np.exp(noise * rng.standard_normal(40))
        clock, slowed = EpochClock(0.1, 0.25), epochs.copy()
        for seconds in epochs[:20]:
            clock.add(seconds)
        steady.append(abs(clock.left(20)[0] / epochs[20:].sum() - 1))
        # It slows down in the middle of one epoch.
        slowed[20] *= 1 + 0.7 * rng.random()
        slowed[21:] *= 1.7
        for seconds in slowed[20:23]:
            clock.add(seconds)
        off.append(abs(clock.left(17)[0] / slowed[23:].sum() - 1))
    assert np.median(off) < max(0.06, 1.2 * noise)
    # And where nothing happens, noise is not taken for news.
    assert np.median(steady) < max(0.02, 0.35 * noise)


def test_a_pace_that_wanders_is_not_taken_for_news() -> None:
    rng = np.random.default_rng(0)
    off, plain = [], []
    for _ in range(200):
        # Each epoch takes after the one before it, as on cores that others work on as well.
        wander = rng.standard_normal(40)
        for k in range(1, 40):
            wander[k] = 0.5 * wander[k - 1] + math.sqrt(0.75) * wander[k]
        epochs = np.exp(0.2 * wander)
        clock = EpochClock(1.0, 0.3)
        for seconds in epochs[:10]:
            clock.add(seconds)
        off.append(abs(clock.left(30)[0] / epochs[10:].sum() - 1))
        plain.append(abs(3.0 * epochs[:10].sum() / epochs[10:].sum() - 1))
    # Whoever sees news in it forgets what would have averaged out.
    assert np.median(off) < 1.1 * np.median(plain)
