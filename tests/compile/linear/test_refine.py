"""Refinement while running: one call in many, twenty pairs, cells that are judged once."""

from __future__ import annotations

import pickle
import threading

import numpy as np
import pytest

from mlsysopt.compile.linear.refine import PAIRS, Refiner
from mlsysopt.compile.variants.decision import Decision, Segment
from mlsysopt.core.errors import UsageError

ROWS = (1, 4, 16, 64)
TABLE = Decision(
    (
        Segment(1, "panel.f32", gain=2.0, low=1.9, high=2.1, runner_up="onednn.packed"),
        Segment(16, "aten.nt", runner_up="onednn.packed"),
    )
)


def feed(refiner: Refiner, rows: int, speed: dict[str, float], pairs: int, noise: float = 0.0, seed: int = 0) -> None:
    """Let calls run until so many pairs have been taken, or nobody asks any more."""
    rng = np.random.default_rng(seed)
    taken = 0
    for _ in range(20_000):
        if taken == pairs:
            return
        challenger = refiner.due(rows)
        if challenger is None:
            continue
        own = refiner.decision.at(rows)
        a, b = (speed[name] * float(np.exp(noise * rng.standard_normal())) for name in (own, challenger))
        refiner.record(rows, own, challenger, seconds=a, challenger_seconds=b)
        taken += 1


def test_one_call_in_five_hundred_is_compared() -> None:
    refiner = Refiner(TABLE, ROWS)
    asked = [refiner.due(8) for _ in range(2000)]
    assert [i + 1 for i, one in enumerate(asked) if one] == [500, 1000, 1500, 2000]


def test_a_threshold_moves_after_twenty_pairs_and_not_before() -> None:
    refiner = Refiner(TABLE, ROWS, every=1)
    speed = {"panel.f32": 2.0, "aten.nt": 1.0, "onednn.packed": 3.0}
    feed(refiner, 8, speed, PAIRS - 1)
    assert refiner.decision == TABLE
    feed(refiner, 8, speed, 1)
    assert refiner.decision.thresholds == (4,)
    assert refiner.decision.at(3) == "panel.f32"
    assert refiner.decision.at(4) == "aten.nt"


def test_a_faster_runner_up_takes_its_cell() -> None:
    refiner = Refiner(TABLE, ROWS, every=1)
    speed = {"panel.f32": 2.0, "aten.nt": 9.0, "onednn.packed": 1.0}
    feed(refiner, 2, speed, PAIRS)
    first = refiner.decision.segments[0]
    assert (first.first, first.variant, first.runner_up, first.source) == (1, "onednn.packed", "panel.f32", "measured")
    assert first.gain == pytest.approx(4.0)
    assert [one.first for one in refiner.decision.segments] == [1, 4, 16]


def test_noise_moves_nothing_and_a_cell_is_judged_once() -> None:
    moved = 0
    for seed in range(60):
        refiner = Refiner(TABLE, ROWS, every=1)
        same: dict[str, float] = dict.fromkeys(("panel.f32", "aten.nt", "onednn.packed"), 1.0)
        feed(refiner, 8, same, 400, noise=0.1, seed=seed)
        moved += refiner.decision != TABLE
        assert len(refiner.judged) <= 3
    assert moved <= 4


def test_a_slower_challenger_changes_nothing() -> None:
    refiner = Refiner(TABLE, ROWS, every=1)
    feed(refiner, 8, {"panel.f32": 1.0, "aten.nt": 2.0, "onednn.packed": 2.0}, 100)
    assert refiner.decision == TABLE
    assert refiner.due(8) is None


def test_the_table_stays_as_short_as_the_grid() -> None:
    rng = np.random.default_rng(2)
    refiner = Refiner(TABLE, ROWS, every=1)
    names: list[str] = ["panel.f32", "aten.nt", "onednn.packed"]
    for seed in range(60):
        rows = int(rng.integers(1, 300))
        speed = dict(zip(names, rng.uniform(1, 3, 3).tolist(), strict=True))
        feed(refiner, rows, speed, PAIRS, seed=seed)
        firsts = [one.first for one in refiner.decision.segments]
        assert len(firsts) <= len(ROWS)
        assert set(firsts) <= set(ROWS)


def test_only_the_rows_where_the_loser_ran_change_hands() -> None:
    table = Decision(
        (Segment(1, "panel.f32", runner_up="onednn.packed"), Segment(10, "aten.nt", runner_up="onednn.packed"))
    )
    refiner = Refiner(table, ROWS, every=1)
    feed(refiner, 6, {"panel.f32": 2.0, "aten.nt": 3.0, "onednn.packed": 1.0}, 2 * PAIRS)
    found = refiner.decision
    assert [found.at(rows) for rows in (3, 4, 9, 10, 15)] == [
        "panel.f32",
        "onednn.packed",
        "onednn.packed",
        "aten.nt",
        "aten.nt",
    ]


def test_the_baseline_has_no_gain_over_itself() -> None:
    refiner = Refiner(TABLE, ROWS, every=1)
    feed(refiner, 8, {"panel.f32": 2.0, "aten.nt": 1.0, "onednn.packed": 3.0}, PAIRS)
    (won,) = [one for one in refiner.decision.segments if one.variant == "aten.nt"]
    assert (won.gain, won.low, won.high) == (1.0, 1.0, 1.0)


def test_only_what_may_be_tried_is_tried() -> None:
    refiner = Refiner(TABLE, ROWS, able=("panel.f32", "aten.nt"), every=1)
    assert refiner.due(2) == "aten.nt", "the runner-up may not run"
    refiner = Refiner(TABLE, ROWS, able=("panel.f32",), every=1)
    assert refiner.due(2) is None


def test_each_of_both_is_first_in_every_other_pair() -> None:
    refiner = Refiner(TABLE, ROWS, every=1)
    firsts: list[str] = []
    for _ in range(4):
        firsts.append(refiner.first_of(8, "panel.f32", "aten.nt"))
        refiner.record(8, "panel.f32", "aten.nt", seconds=1.0, challenger_seconds=1.0)
    assert firsts == ["panel.f32", "aten.nt"] * 2


def test_verdicts_are_recalled_where_they_fit() -> None:
    first = Refiner(TABLE, ROWS, every=1)
    feed(first, 8, {"panel.f32": 2.0, "aten.nt": 1.0, "onednn.packed": 3.0}, 60)
    again = Refiner(TABLE, ROWS, every=1)
    again.recall(first.verdicts)
    assert again.decision == first.decision and again.judged == first.judged and again.moved == first.moved == 1
    assert again.due(8) is None, "nothing is left to learn there"
    for other in (Refiner(TABLE, (1, 4, 20, 64), every=1), Refiner(TABLE, ROWS, able=("panel.f32",), every=1)):
        other.recall(first.verdicts)
        assert other.decision == TABLE and not other.judged


def test_copies_go_on_from_where_they_were() -> None:
    refiner = Refiner(TABLE, ROWS, every=1, tell=lambda one: None)
    speed = {"panel.f32": 2.0, "aten.nt": 1.0, "onednn.packed": 3.0}
    feed(refiner, 8, speed, PAIRS - 1)
    again = pickle.loads(pickle.dumps(refiner))
    feed(again, 8, speed, 1)
    assert again.decision.at(8) == "aten.nt" and refiner.decision == TABLE and again.tell is None


def test_threads_lose_no_table() -> None:
    refiner = Refiner(TABLE, ROWS, every=2)
    speed = {"panel.f32": 2.0, "aten.nt": 1.0, "onednn.packed": 3.0}
    workers = [threading.Thread(target=feed, args=(refiner, 8, speed, 50)) for _ in range(4)]
    for one in workers:
        one.start()
    for one in workers:
        one.join()
    assert refiner.decision.at(8) == "aten.nt"
    assert refiner.decision.segments[0].first == 1


def test_times_that_are_no_times_are_not_counted() -> None:
    refiner = Refiner(TABLE, ROWS, every=1)
    for _ in range(50):
        refiner.record(8, "panel.f32", "aten.nt", seconds=0.0, challenger_seconds=1.0)
    assert refiner.pairs == {}
    with pytest.raises(UsageError, match="every must be at least 1"):
        Refiner(TABLE, ROWS, every=0)
