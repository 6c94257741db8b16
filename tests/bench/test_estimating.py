"""What the estimator's benches share: errors by hand, ratios over whole sets, recorded outcomes that come back."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from bench import estimating
from bench.estimating import Outcome, crossed, paper, read_recorded, situations, with_order, write_recorded
from bench.estimating_errors import WHITE, Errors
from bench.protocol import Bench
from mlsysopt.train.estimate.forecast import Sample
from mlsysopt.train.estimate.rivals import BLACK_BOXES, MEAN
from mlsysopt.train.estimate.synthetic import FITTING, TEST
from mlsysopt.train.estimate.trainers import find


def outcome(situation: str, *, seed: int = 1, slower: float = 1.0, known: bool = True) -> Outcome:
    """Return samples of a planted quadratic law, whose full training is `slower` than the law."""
    data = situations(FITTING[:1], 20_000, seed=seed)[0].ratings
    record = replace(find("slopeone").settled({}), calibrated=known)
    samples = []
    for rung in paper(record, data, 1000 * seed):
        sizes = estimating.subset(data, "user", rung.share, seed=rung.seed, tilt=rung.tilt).characteristics
        seconds = 1e-3 + 1e-7 * sizes.Su
        samples.append(Sample(rung.share, sizes, {}, seconds, seconds))
    truth = slower * (1e-3 + 1e-7 * data.characteristics.Su)
    return Outcome(situation, "slopeone", seed, record, data.characteristics, (truth, truth, 9 * truth), tuple(samples))


def test_errors_by_hand() -> None:
    # Proportions of the real trainer are not those of the planted law.
    exact, slow = outcome("a", known=False), outcome("b", slower=2.0, known=False)
    errors = Errors.over([exact, slow])
    assert errors.of[WHITE] == pytest.approx([0.0, 0.5], abs=0.02)
    assert errors.mape(WHITE) == pytest.approx(0.25, abs=0.02) and errors.mape(WHITE, [1]) == pytest.approx(
        0.5, abs=0.02
    )
    assert errors.best_black_box() in BLACK_BOXES
    assert all(errors.mape(errors.best_black_box()) <= errors.mape(name) for name in BLACK_BOXES)


def test_the_table_has_every_row_and_every_predictor(
    capsys: pytest.CaptureFixture[str],
) -> None:
    errors = Errors.over([outcome("a b", known=False), outcome("c d", slower=2.0, known=False)])
    bench = Bench("estimate_x", "claim", "peer", "protocol")
    errors.show(bench)
    errors.by_trainer(bench)
    shown = capsys.readouterr().out
    assert "MAPE %" in shown and "slopeone" in shown and "GP chars" in shown
    assert [row["situation"] for row in bench.rounds if "situation" in row] == ["a b", "c d"]
    assert bench.rounds[1]["ape"][WHITE] == pytest.approx(0.5, abs=0.02)
    assert set(bench.rounds[0]["told"]) >= {WHITE, MEAN, *BLACK_BOXES}


def test_a_ratio_resamples_whole_sets() -> None:
    def errors(values: dict[str, list[float]]) -> Errors:
        found = [outcome(name) for name in "abc" for _ in range(2)]
        return Errors(found, {name: np.array(rows) for name, rows in values.items()})

    same: list[float] = [0.1] * 6
    rivals: Any = {name: [0.4] * 6 for name in BLACK_BOXES}
    value, low, high = errors({WHITE: same, MEAN: [0.2] * 6, **rivals}).ratio(MEAN)
    assert (value, low, high) == pytest.approx((0.5, 0.5, 0.5))
    # One bad set: whoever resamples rows instead of sets sees a narrower interval.
    value, low, high = errors({WHITE: [0.1] * 4 + [0.7] * 2, MEAN: [0.4] * 6, **rivals}).ratio("best")
    assert value == pytest.approx(0.75) and low == pytest.approx(0.25)
    # Of 27 resamples one has the bad set three times (1.75), six have it twice (1.25).
    assert high == pytest.approx(1.25 + 0.35 * 0.5)


def test_recorded_outcomes_come_back(tmp_path: Path) -> None:
    found = [outcome("a b c"), outcome("d e f", slower=3.0)]
    write_recorded(found, tmp_path / "cases.jsonl")
    again = read_recorded(tmp_path / "cases.jsonl")
    for one, other in zip(found, again, strict=True):
        assert other.situation == one.situation and other.record.time == one.record.time
        assert other.truth_s == pytest.approx(one.truth_s, rel=1e-4)
        assert other.forecast().seconds == pytest.approx(one.forecast().seconds, rel=1e-3)
    assert (tmp_path / "cases.jsonl").stat().st_size < 2 * 3_000


def test_situations_turn_orders_and_sides() -> None:
    found = situations(TEST, 12_000)
    assert [one.name.split()[-1] for one in found] == ["user", "time", "shuffled"]
    sides = [one.ratings.n_users / one.ratings.n_items for one in found]
    assert sides[0] > 3 and 0.8 < sides[1] < 1.25 and sides[2] < 0.35
    resorted = with_order(found[2], "sorted", 1)
    assert np.all(np.diff(resorted.ratings.user) >= 0) and resorted.name.endswith("sorted")
    assert resorted.ratings.characteristics.symbols() == found[2].ratings.characteristics.symbols()


def test_designs() -> None:
    data = situations(FITTING[:1], 40_000)[0].ratings
    record = find("svd").settled({"n_factors": 20, "n_epochs": 40})
    assert [rung.share for rung in paper(record, data, 0)][-1] == 0.1
    assert all(dict(rung.params) == dict(record.params) for rung in paper(record, data, 0))
    ladder = crossed(record, data, 0)
    assert max(rung.share for rung in ladder) <= estimating.LADDER
    assert len({rung.params["n_epochs"] for rung in ladder}) >= 2 <= len({rung.params["n_factors"] for rung in ladder})
