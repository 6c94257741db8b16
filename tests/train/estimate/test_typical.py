"""Typical proportions: learned from many trainings, looked up by exactly the same terms, used when samples are few."""

from __future__ import annotations

import json
from typing import Any

import numpy as np
import pytest

from mlsysopt.core.errors import ArtefactError
from mlsysopt.train.estimate.forecast import Forecast, fit
from mlsysopt.train.estimate.intervals import Bank
from mlsysopt.train.estimate.samples import Sample, steady
from mlsysopt.train.estimate.synthetic import ratings
from mlsysopt.train.estimate.trainers import find
from mlsysopt.train.estimate.typical import NOTHING, Typical, learned, shipped, usual
from mlsysopt.train.estimate.whitebox import completed, fitted

FULL = ratings("lognormal", "zipf1.0", n_users=4_000, n_items=1_500, n_ratings=80_000, seed=1)
TERMS = ("Su", "I**2", "R")
COSTS = {"Su": 5e-8, "I**2": 1e-8, "R": 3e-7, "1": 1e-3}
KNOWN = Typical({("pairs", tuple(COSTS)): tuple(COSTS.values())}, "planted")


def samples(factor: float, noise: float = 0.0, shares: Any = (0.01, 0.04, 0.06, 0.1), seed: int = 0) -> list[Sample]:
    rng = np.random.default_rng(seed)
    found = []
    for share in shares:
        sizes = FULL.subset_users(rng.random(FULL.n_users) < share).characteristics
        seconds = factor * told(sizes) * float(np.exp(noise * rng.standard_normal()))
        found.append(Sample(share, sizes, {}, seconds, seconds))
    return found


def told(sizes: Any) -> float:
    return 5e-8 * sizes.Su + 1e-8 * sizes.I**2 + 3e-7 * sizes.R + 1e-3


def test_few_noisy_samples_are_forecast_better_near_the_proportions() -> None:
    truth = 1.7 * told(FULL.characteristics)
    errors = {"plain": [], "near": []}
    for seed in range(20):
        taken = samples(1.7, 0.2, seed=seed)
        for name, known in (("plain", NOTHING), ("near", KNOWN)):
            white = fitted(TERMS, taken, trainer="pairs", typical=known)
            seconds = float(white.terms.columns(FULL.characteristics, {}) @ white.coefficients)
            errors[name].append(abs(np.log(seconds / truth)))
    assert np.mean(errors["near"]) < 0.2 < np.mean(errors["plain"])


def test_another_trainer_or_other_terms_are_not_held() -> None:
    taken = samples(1.0, 0.2)
    plain = fitted(TERMS, taken).coefficients
    assert np.array_equal(fitted(TERMS, taken, trainer="others", typical=KNOWN).coefficients, plain)
    assert KNOWN.expected("pairs", ["Su", "R", "1"]) is None
    assert KNOWN.of("others").rows == {}


def test_a_ramp_is_known_whatever_it_is_over() -> None:
    known = Typical({("knn", ("Su*ramp", "1")): (1e-8, 1e-3)})
    found = known.expected("knn", ["1", "Su*ramp(56*I**2)"])
    assert found is not None and found.tolist() == [1e-3, 1e-8]


def test_proportions_are_learned_from_several_machines_worth_of_noise() -> None:
    terms = completed(TERMS)
    cases = []
    for seed in range(6):
        taken = samples(1.0, 0.1, seed=seed)
        phi = np.array([terms.columns(one.characteristics, {}) for one in taken])
        cases.append((phi, np.array([one.cpu_s for one in taken]), False))
        cases.append((terms.columns(FULL.characteristics, {}), np.array(told(FULL.characteristics)), True))
    found = learned(cases, terms.texts)
    assert found.keys() == {"Su", "I**2", "R", "1"}
    assert all(value > 0 for value in found.values())
    # What a term comes to in the full training, not the term alone, is what the cases can tell.
    parts = terms.columns(FULL.characteristics, {}) * np.array([found[text] for text in terms.texts])
    assert parts.sum() == pytest.approx(told(FULL.characteristics), rel=0.05)
    assert parts[0] == pytest.approx(5e-8 * FULL.characteristics.Su, rel=0.25)


def test_the_file_round_trips_and_damage_is_told() -> None:
    again = Typical.from_json(KNOWN.to_json(machine_key="m"))
    assert again == KNOWN
    with pytest.raises(ArtefactError, match="estimate-typical"):
        Typical.from_json("{")
    damaged = json.loads(KNOWN.to_json())
    del damaged["rows"][0]["seconds"]
    with pytest.raises(ArtefactError, match="damaged"):
        Typical.from_json(json.dumps(damaged))


@pytest.mark.parametrize(
    ("name", "params"),
    [
        *((name, {}) for name in ("svd", "svdpp", "nmf", "knn", "slopeone", "cocluster", "baseline", "als")),
        ("knn", {"user_based": False, "sim": "pearson"}),
        ("knn", {"kind": "means"}),
        ("knn", {"kind": "zscore", "user_based": False}),
        ("knn", {"kind": "baseline"}),
        ("knn", {"sim": "pearson_baseline", "user_based": False}),
        ("baseline", {"method": "sgd"}),
        ("als", {"solver": "cholesky"}),
    ],
)
def test_what_is_shipped_knows_the_settings_of_every_trainer(name: str, params: dict[str, Any]) -> None:
    record = find(name).settled(params)
    known = usual(record.name, calibrated=record.calibrated).expected(record.name, completed(record.time).texts)
    assert known is not None and np.all(known > 0)
    assert usual(record.name, calibrated=False) is NOTHING
    assert "fitting shapes" in shipped().about


def test_a_forecast_keeps_what_it_was_held_near() -> None:
    record: Any = type("Pairs", (), {"name": "pairs", "time": TERMS, "memory": "", "params": {}})()
    made = fit(record, samples(1.0, 0.1), FULL.characteristics, bank=Bank(()), typical=KNOWN)
    again = Forecast.from_json(made.to_json())
    assert again.typical == KNOWN and again.coefficients == made.coefficients


def test_samples_are_brought_to_one_pace() -> None:
    slow, fast, unknown = (
        Sample(0.1, FULL.characteristics, {}, seconds, seconds, pace_s=pace)
        for seconds, pace in ((4e-3, 2e-3), (2e-3, 1e-3), (7e-3, 0.0))
    )
    even = steady([slow, fast, unknown])
    assert [one.cpu_s for one in even] == pytest.approx([3e-3, 3e-3, 7e-3], rel=5e-3)
    assert even[0].extra["timed_s"] == 4e-3 and steady(even) == even
    assert steady([unknown]) == (unknown,)


@pytest.mark.parametrize("repeats", [1, 10])
def test_a_long_sample_saw_more_paces_than_were_read_beside_it(repeats: int) -> None:
    long = Sample(0.1, FULL.characteristics, {}, 6.0 / repeats, 6.0 / repeats, pace_s=2e-3, repeats=repeats)
    short = Sample(0.1, FULL.characteristics, {}, 0.01, 0.01, pace_s=1e-3)
    even = steady([long, short])[0]
    # Brought to the mean pace in full, it would be three quarters of that.
    assert 0.9 * long.cpu_s < even.cpu_s < long.cpu_s


def test_factors_beyond_a_multiple_of_32_cost_more_in_als() -> None:
    def seconds(factors: int) -> float:
        record = find("als").settled({"factors": factors})
        terms = completed(record.time)
        known = shipped().expected("als", terms.texts)
        assert known is not None
        return float(terms.columns(FULL.characteristics, record.params) @ known)

    assert seconds(31) > seconds(32)
    assert seconds(63) - seconds(32) > 1.5 * (seconds(64) - seconds(32)) > 0
