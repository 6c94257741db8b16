"""Forecasts from planted laws: coefficients and times come back, doubts are stated, files round-trip."""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Mapping
from dataclasses import replace
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mlsysopt.core.errors import ArtefactError, UsageError
from mlsysopt.train.estimate import rivals
from mlsysopt.train.estimate.characteristics import Characteristics
from mlsysopt.train.estimate.forecast import FLAG, Forecast, ForecastError, Sample, fit
from mlsysopt.train.estimate.intervals import Bank, Case
from mlsysopt.train.estimate.synthetic import ratings
from mlsysopt.train.estimate.whitebox import automatic, fitted

Law = Callable[[Characteristics, Mapping[str, Any]], float]
FULL = ratings("lognormal", "zipf1.0", n_users=4_000, n_items=1_500, n_ratings=80_000, seed=1)
SIZES = FULL.characteristics.with_walk(Wu=0.02)
DESIGN = [(0.01, 1, 10), (0.017, 4, 20), (0.03, 1, 40), (0.05, 4, 10), (0.085, 1, 20), (0.145, 4, 40)]
MF: Any = SimpleNamespace(
    name="planted",
    time=["n_epochs*n_factors*R", "n_epochs*R", "n_epochs*Wu", "n_factors*(U+I)", "R"],
    memory="8*(n_factors+1)*(U+I)",
    params={"n_factors": 20, "n_epochs": 20, "kind": "plain"},
)
BANK = Bank(
    tuple(Case("planted", "planted", float(np.exp(0.2 * z)), 1.0, 10.0, 0.1) for z in np.linspace(-2, 2, 41)), "planted"
)


def law(sizes: Characteristics, p: Mapping[str, Any]) -> float:
    return (
        0.004
        + 2e-9 * p["n_epochs"] * p["n_factors"] * sizes.R
        + 6e-8 * p["n_epochs"] * sizes.R
        + 1.5 * p["n_epochs"] * sizes.Wu
        + 1e-7 * p["n_factors"] * (sizes.U + sizes.I)
    )


def walk(sizes: Characteristics) -> Characteristics:
    # A walk gets dearer per rating as the data leave the cache.
    return sizes.with_walk(Wu=2.5e-7 * sizes.R * (sizes.R / 80_000) ** 0.5)


def taken(law: Law, noise: float = 0.0, seed: int = 0, design: Any = DESIGN, timed: bool = True) -> list[Sample]:
    rng = np.random.default_rng(seed)
    found = []
    for share, epochs, factors in design:
        sizes = FULL.subset_users(rng.random(FULL.n_users) < share).characteristics
        sizes = walk(sizes) if timed else sizes
        params = {"n_epochs": epochs, "n_factors": factors, "kind": "plain"}
        seconds = law(sizes, params) * float(np.exp(noise * rng.standard_normal()))
        found.append(Sample(share, sizes, params, seconds, 1.1 * seconds))
    return found


def test_without_noise_the_truth_comes_back_and_so_does_every_what_if() -> None:
    forecast = fit(MF, taken(law), SIZES, bank=BANK)
    assert forecast.seconds == pytest.approx(law(SIZES, MF.params), rel=1e-3)
    for asked in ({"n_epochs": 3}, {"n_factors": 100}, {"n_factors": 5, "n_epochs": 60}):
        assert forecast.at(**asked).seconds == pytest.approx(law(SIZES, {**MF.params, **asked}), rel=1e-2)
    assert forecast.rolling_error < 0.3
    assert forecast.wall_s == pytest.approx(1.1 * forecast.seconds)


@settings(max_examples=30)
@given(st.integers(0, 10_000), st.sampled_from([0.0, 0.1, 0.5]))
def test_no_coefficient_is_negative_and_more_work_never_costs_less(seed: int, noise: float) -> None:
    forecast = fit(MF, taken(law, noise, seed), SIZES, bank=BANK)
    assert all(c >= 0 for c in forecast.coefficients) and forecast.seconds > 0
    assert forecast.low <= forecast.seconds <= forecast.high
    assert forecast.at(n_epochs=40).seconds >= forecast.seconds
    assert sum(forecast.shares().values()) == pytest.approx(1)
    assert sum(forecast.contributions().values()) == pytest.approx(forecast.seconds)


def test_the_walk_is_what_tells_the_memory_hierarchy() -> None:
    heavy: Law = lambda sizes, p: law(sizes, p) + 0.4 * p["n_epochs"] * sizes.Wu  # noqa: E731
    with_walk = fit(MF, taken(heavy), walk(SIZES), bank=BANK)
    truth = heavy(walk(SIZES), MF.params)
    assert with_walk.seconds == pytest.approx(truth, rel=1e-2)
    without = next(rival for rival in with_walk.rivals if rival.name == "white box without the walk")
    assert without.seconds < 0.95 * truth


def test_what_goes_along_with_the_walk_is_no_walk() -> None:
    # In a sorted file both grow with R; only the bound tells that ten walks an epoch cannot be walks.
    plain: Law = lambda sizes, p: 4e-7 * p["n_epochs"] * sizes.R  # noqa: E731
    steady = [
        replace(one, characteristics=one.characteristics.with_walk(Wu=4e-8 * one.characteristics.R))
        for one in taken(plain, design=[(share, 1, 10) for share in (0.02, 0.05, 0.1)])
    ]
    slow = SIZES.with_walk(Wu=4e-7 * SIZES.R)
    forecast = fit(MF, steady, slow, params={"n_epochs": 1, "n_factors": 10}, bank=BANK)
    assert forecast.seconds <= (4e-7 + 2 * 4e-7) * SIZES.R * 1.05


def test_a_walk_that_was_not_timed_is_left_out_and_said() -> None:
    plain: Law = lambda sizes, p: 0.001 + 1e-8 * p["n_epochs"] * p["n_factors"] * sizes.R  # noqa: E731
    forecast = fit(MF, taken(plain, timed=False), FULL.characteristics, bank=BANK)
    assert forecast.dropped == ("n_epochs*Wu",)
    assert "no walk was timed" in str(forecast)
    assert "white box without the walk" not in {rival.name for rival in forecast.rivals}


def test_wrong_terms_are_flagged_and_the_dictionary_is_asked() -> None:
    quadratic: Law = lambda sizes, p: 0.001 + 2e-8 * sizes.Su * p["n_epochs"]  # noqa: E731
    wrong: Any = SimpleNamespace(name="my.knn", time=["U"], memory="", params={"n_epochs": 1})
    design = [(share, 1, 10) for share in (0.01, 0.02, 0.05, 0.1, 0.2)]
    forecast = fit(wrong, taken(quadratic, design=design), SIZES, bank=BANK, calibrated=False)
    assert forecast.flagged and forecast.rolling_error > FLAG
    assert "your terms explain the samples within" in str(forecast)
    assert forecast.auto is not None
    assert forecast.auto[1] == pytest.approx(quadratic(SIZES, {"n_epochs": 1}), rel=0.2)
    right: Any = SimpleNamespace(name="my.knn", time=["n_epochs*Su"], memory="", params={"n_epochs": 1})
    sure = fit(right, taken(quadratic, design=design), SIZES, bank=BANK)
    assert not sure.flagged and sure.auto is None
    assert forecast.high / forecast.low > 2 * sure.high / sure.low


def test_the_dictionary_finds_a_planted_pair_of_terms() -> None:
    planted: Law = lambda sizes, p: 0.002 + 5e-8 * sizes.Su + 3e-9 * sizes.I**2  # noqa: E731
    found = automatic(taken(planted, design=[(share, 1, 10) for share in (0.01, 0.02, 0.05, 0.1, 0.2, 0.3)]))
    told = float(found.terms.columns(SIZES, {"n_epochs": 1}) @ found.coefficients)
    assert told == pytest.approx(planted(SIZES, {}), rel=0.25)
    assert found.rolling_error < 0.1


def test_samples_of_weight_0_do_not_count() -> None:
    samples = taken(law)
    spoiled = [*samples, replace(samples[-1], cpu_s=50 * samples[-1].cpu_s, weight=0.0)]
    a, b = fitted(MF.time, samples), fitted(MF.time, spoiled)
    assert np.allclose(
        a.terms.columns(SIZES, MF.params) @ a.coefficients,
        b.terms.columns(SIZES, MF.params) @ b.coefficients,
        rtol=0.02,
    )


def test_far_beyond_the_samples_is_marked_and_widened() -> None:
    forecast = fit(MF, taken(law, 0.05), SIZES, bank=BANK)
    near, far = forecast.at(n_factors=150), forecast.at(n_factors=400)
    assert near.extrapolated == () and far.extrapolated == ("n_factors",)
    assert "n_factors is extrapolated" in str(far)
    assert far.high / far.low > near.high / near.low
    assert far.at(n_factors=20).low == pytest.approx(forecast.low)


def test_a_parameter_that_never_varied_is_known_at_one_value_only() -> None:
    forecast = fit(MF, taken(law, design=[(share, 20, 20) for share, _, _ in DESIGN]), SIZES, bank=BANK)
    assert forecast.extrapolated == ()
    assert forecast.at(n_epochs=40).extrapolated == ("n_epochs",)


def test_what_ifs_that_need_new_samples_are_refused() -> None:
    forecast = fit(MF, taken(law), SIZES, bank=BANK)
    with pytest.raises(UsageError, match="did you mean n_factors"):
        forecast.at(n_factor=3)
    with pytest.raises(UsageError, match="needs samples of its own"):
        forecast.at(kind="means")


def test_fewer_than_three_samples_make_no_forecast() -> None:
    with pytest.raises(ForecastError, match="2 good samples, a forecast needs at least 3") as caught:
        fit(MF, taken(law)[:2], SIZES, bank=BANK)
    assert caught.value.exit_code == 1
    with pytest.raises(UsageError, match="allowed are whitebox, average"):
        fit(MF, taken(law), SIZES, predictor="best", bank=BANK)  # type: ignore[arg-type]


def test_average_is_the_geometric_mean_with_log_log() -> None:
    samples = taken(law, 0.05)
    white, mean = fit(MF, samples, SIZES, bank=BANK), fit(MF, samples, SIZES, predictor="average", bank=BANK)
    told = rivals.log_log(samples, SIZES, MF.params)
    assert mean.seconds == pytest.approx(math.sqrt(white.seconds * told))
    assert mean.at(n_epochs=20).seconds == pytest.approx(mean.seconds)
    assert {rival.name: rival.seconds for rival in white.rivals}[rivals.WITH_LOGLOG] == pytest.approx(mean.seconds)


def test_memory_is_formula_plus_loaded_data() -> None:
    forecast = fit(MF, taken(law), SIZES, bank=BANK, loaded_bytes=1e8)
    assert forecast.array_bytes == 8 * 21 * (SIZES.U + SIZES.I)
    assert forecast.peak_bytes == 1e8 + forecast.array_bytes
    assert forecast.at(n_factors=40).array_bytes == 8 * 41 * (SIZES.U + SIZES.I)


def test_every_rival_is_shown_and_fitted_on_the_same_samples() -> None:
    samples = taken(law, 0.05)
    forecast = fit(MF, samples, SIZES, bank=BANK)
    shown = {rival.name: rival.seconds for rival in forecast.rivals}
    ours = {"white box", "white box without the walk", rivals.INFORMED, rivals.WITH_LOGLOG}
    assert set(shown) == {*ours, *rivals.BLACK_BOXES, rivals.MEAN}
    mean = math.exp(sum(math.log(shown[name]) for name in rivals.BLACK_BOXES) / len(rivals.BLACK_BOXES))
    assert shown[rivals.MEAN] == pytest.approx(mean)
    # A forest cannot leave the range of what it saw; that it is shown all the same is the point.
    assert shown["random forest"] <= max(sample.cpu_s for sample in samples)
    assert all(value >= min(sample.cpu_s for sample in samples) for value in shown.values())


def test_rivals_are_right_on_what_they_can_express() -> None:
    plain: Law = lambda sizes, p: 1e-6 * sizes.R * p["n_epochs"] * p["n_factors"]  # noqa: E731
    found = rivals.black_boxes(taken(plain), SIZES, MF.params)
    assert found["log-log"] == pytest.approx(plain(SIZES, MF.params), rel=0.02)
    flat: Law = lambda sizes, p: 0.5 + 1e-5 * sizes.R  # noqa: E731
    design = [(share, 1, 10) for share in (0.01, 0.02, 0.05, 0.1, 0.2, 0.3)]
    found = rivals.black_boxes(taken(flat, design=design), SIZES, {"n_epochs": 1, "n_factors": 10})
    assert found["linear"] == pytest.approx(flat(SIZES, {}), rel=0.05)


def test_file_round_trip() -> None:
    forecast = fit(MF, taken(law, 0.3, 5), SIZES, bank=BANK, loaded_bytes=1e8, digest="abc")
    again = Forecast.from_json(forecast.to_json())
    assert str(again) == str(forecast) and again.rivals == forecast.rivals
    assert again.explain() == forecast.explain()
    assert str(again.at(n_epochs=7)) == str(forecast.at(n_epochs=7))
    assert next(iter(json.loads(forecast.to_json()))) == "artefact"
    assert again.digest == "abc" and again.samples[0].as_dict() == forecast.samples[0].as_dict()


@pytest.mark.parametrize("text", ["", "{}", '{"artefact": {"format": "estimate", "version": 1}}', "[1]"])
def test_what_is_no_estimate_is_refused(text: str) -> None:
    with pytest.raises(ArtefactError):
        Forecast.from_json(text)


def test_newer_files_are_refused_by_name() -> None:
    content = json.loads(fit(MF, taken(law), SIZES, bank=BANK).to_json(with_rivals=False))
    content["artefact"]["version"] = 2
    with pytest.raises(ArtefactError, match="upgrade"):
        Forecast.from_json(json.dumps(content))


def test_text_says_time_interval_memory_and_what_it_cost() -> None:
    text = str(fit(MF, taken(law), SIZES, bank=BANK, loaded_bytes=3 * 2**30))
    assert text.startswith("planted: ") and "90 %, peak 3" in text and "6 samples, largest 14 % of the rows" in text


def test_a_sample_must_be_possible() -> None:
    with pytest.raises(UsageError, match="CPU seconds above 0"):
        Sample(0.1, SIZES, {}, 0.0, 0.0)
