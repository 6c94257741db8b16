"""Conformal intervals over cases: brute force agrees, and coverage holds where cases are exchangeable."""

from __future__ import annotations

import itertools
import json
import math

import numpy as np
import pytest

from mlsysopt.core.errors import ArtefactError, UsageError
from mlsysopt.train.estimate import intervals
from mlsysopt.train.estimate.intervals import Bank, Case, bank_for, own_cases, remember, scale_of, shipped


def planted(seed: int, n: int, trainer: str = "svd") -> list[Case]:
    rng = np.random.default_rng(seed)
    cases = []
    for _ in range(n):
        rho, s_fit = float(np.exp(rng.uniform(0, 5))), float(rng.uniform(0.02, 0.5))
        miss = scale_of(rho, s_fit) * rng.standard_t(4)
        cases.append(Case(trainer, "planted", 10.0 * math.exp(miss), 10.0, rho, s_fit))
    return cases


def test_quantiles_equal_brute_force() -> None:
    bank = Bank(tuple(planted(1, 41)))
    scores = sorted(case.score for case in bank.cases)
    low, high = bank.quantiles(0.9)
    # The smallest cut-offs that leave at most 5 % of 42 places, the new case's own included, on each side.
    brute_high = next(s for s in scores if sum(other <= s for other in scores) >= math.ceil(42 * 0.95))
    brute_low = next(s for s in reversed(scores) if sum(other >= s for other in scores) >= math.ceil(42 * 0.95))
    assert (low, high) == (brute_low, brute_high)


def test_coverage_over_all_leave_one_out_cases() -> None:
    cases = planted(2, 60)
    inside = 0
    for j, case in enumerate(cases):
        low, high = Bank(tuple(cases[:j] + cases[j + 1 :])).interval(case.forecast_s, case.rho, case.s_fit)
        inside += low <= case.truth_s <= high
    assert 0.85 <= inside / len(cases) <= 1.0


def test_coverage_on_new_cases() -> None:
    hits = [
        low <= case.truth_s <= high
        for seed, case in itertools.product(range(10), planted(99, 100))
        for low, high in [Bank(tuple(planted(seed, 60))).interval(case.forecast_s, case.rho, case.s_fit)]
    ]
    assert 0.87 <= np.mean(hits) <= 0.97


def test_an_interval_is_wider_where_less_is_known() -> None:
    bank = Bank(tuple(planted(3, 60)))

    def width(rho: float, s_fit: float) -> float:
        low, high = bank.interval(10.0, rho, s_fit)
        assert low <= 10.0 <= high
        return high / low

    assert width(2, 0.1) < width(100, 0.1) < width(100, 0.5)
    assert width(0.5, 0.1) == width(1, 0.1)
    # Nothing is certain, however well the samples agree.
    assert 1.5 < width(1, 0.0) < width(1, 0.03)


def test_a_bank_too_small_says_so() -> None:
    low, high = Bank(tuple(planted(4, 18))).interval(10.0, 5.0, 0.1)
    assert (low, high) == (0.0, math.inf)
    assert Bank(()).interval(10.0, 5.0, 0.1) == (0.0, math.inf)


def test_a_bank_of_forecasts_all_too_low_keeps_the_forecast_inside() -> None:
    bank = Bank(tuple(Case("t", "s", 20.0 + j, 10.0, 2.0, 0.1) for j in range(30)))
    low, high = bank.interval(10.0, 2.0, 0.1)
    assert low == 10.0 < high


def test_json_round_trip() -> None:
    bank = Bank(tuple(planted(5, 25)), "planted")
    again = Bank.from_json(bank.to_json())
    assert again.about == "planted" and again.to_json() == bank.to_json()
    assert again.quantiles() == pytest.approx(bank.quantiles(), rel=1e-3)
    for text in (
        "{",
        "{}",
        bank.to_json().replace('"truth_s": ', '"truth": '),
        bank.to_json().replace('"rho": ', '"rho": -'),
    ):
        with pytest.raises(ArtefactError):
            Bank.from_json(text)


def test_a_case_must_be_possible() -> None:
    with pytest.raises(UsageError, match="above 0"):
        Case("svd", "s", 0.0, 1.0, 1.0, 0.1)


def test_own_cases_replace_the_shipped_bank_from_20_on() -> None:
    assert own_cases().cases == ()
    for case in planted(6, 19):
        remember(case)
    bank, words = bank_for("svd")
    assert bank is shipped() or bank.cases[0] in shipped().cases
    assert "finished trainings" not in words
    remember(planted(7, 1)[0])
    bank, words = bank_for("svd")
    assert len(bank.cases) == 20 and words.startswith("20 cases of svd: your own")
    # Another trainer has none of its own, but this machine's cases are nearer than the shipped ones.
    bank, words = bank_for("nmf")
    assert len(bank.cases) == 20 and "all trainers" in words


def test_damaged_lines_and_other_machines_are_left_out(caplog: pytest.LogCaptureFixture) -> None:
    remember(planted(8, 1)[0])
    path = intervals._own_path()
    row = json.loads(path.read_text())
    with path.open("a") as stream:
        stream.write(json.dumps({**row, "machine": "elsewhere"}) + "\n" + '{"trainer": "sv')
    assert len(own_cases().cases) == 1
    assert "a damaged line" in caplog.text


def test_the_shipped_bank_is_large_enough_and_of_fitting_shapes_only() -> None:
    from mlsysopt.train.estimate.synthetic import TEST

    bank = shipped()
    assert len(bank.cases) >= 60
    assert not [case for case in bank.cases if any(shape.name in case.shape for shape in TEST)]
    low, high = bank.quantiles()
    assert low < 0 < high < math.inf


def test_a_declared_trainer_is_labeled() -> None:
    bank, words = bank_for("my.mf", calibrated=False)
    assert bank is shipped() and words.startswith("not calibrated for this trainer")
