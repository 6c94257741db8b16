"""Whole rows, strata, ladders and designs."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from mlsysopt.core.errors import UsageError
from mlsysopt.train.estimate import Ratings, Sample
from mlsysopt.train.estimate.sampling import bound, ladder, levels, predicted, settings, subset
from mlsysopt.train.estimate.trainers import find
from tests.train.estimate.planted import planted, ratings

FULL = ratings(1000)


def rows_of(part: Ratings, side: str) -> dict[object, list[tuple[object, object, float]]]:
    """Return the triplets of each user or item, by name, in order."""
    found: dict[object, list[tuple[object, object, float]]] = {}
    names = part.user_names[part.user], part.item_names[part.item]
    for user, item, value in zip(*names, part.value.tolist(), strict=True):
        found.setdefault(user if side == "user" else item, []).append((user, item, value))
    return found


@given(share=st.floats(0.02, 0.9), seed=st.integers(0, 1000), tilt=st.sampled_from([-1, 0, 1]))
@pytest.mark.parametrize("side", ["user", "item"])
def test_rows_are_whole_and_in_the_order_of_the_file(side: str, share: float, seed: int, tilt: int) -> None:
    named = Ratings.from_codes(
        FULL.user, FULL.item, FULL.value, user_names=np.arange(FULL.n_users), item_names=np.arange(FULL.n_items)
    )
    part = subset(named, side, share, seed=seed, tilt=tilt)
    whole, few = rows_of(named, side), rows_of(part, side)
    assert all(few[name] == whole[name] for name in few)


@pytest.mark.parametrize("share", [0.05, 0.1, 0.3])
def test_the_law_of_activity_is_kept(share: float) -> None:
    part = subset(FULL, "user", share, seed=3)
    assert part.n_users == round(share * FULL.n_users)
    whole, few = FULL.characteristics, part.characteristics
    assert pytest.approx(whole.R / whole.U, rel=0.15) == few.R / few.U
    assert few.Su / few.R == pytest.approx(whole.Su / whole.R, rel=0.35)


def test_a_tilt_leans_and_keeps_the_number() -> None:
    light, straight, heavy = (subset(FULL, "user", 0.2, seed=1, tilt=tilt) for tilt in (-1, 0, 1))
    assert len(light) < len(straight) < len(heavy)
    assert abs(light.n_users - heavy.n_users) <= 2
    assert light.characteristics.Su / len(light) < heavy.characteristics.Su / len(heavy)


def test_the_same_seed_draws_the_same() -> None:
    assert subset(FULL, "user", 0.1, seed=5).digest == subset(FULL, "user", 0.1, seed=5).digest
    assert subset(FULL, "user", 0.1, seed=5).digest != subset(FULL, "user", 0.1, seed=6).digest


def test_the_design_tells_every_hyper_parameter_apart() -> None:
    for name in ("svd", "svdpp", "nmf", "cocluster", "als"):
        record = find(name).settled()
        six = list(itertools.islice(settings(record), 6))
        for parameter, values in levels(record).items():
            assert len({one[parameter] for one in six[:3]}) >= 2, (name, parameter)
            assert {one[parameter] for one in six} == set(values)
        logs = np.log([[float(one[parameter]) for parameter in levels(record)] for one in six])
        # No one of them is a function of another.
        for a, b in itertools.combinations(range(logs.shape[1]), 2):
            assert abs(np.corrcoef(logs[:, a], logs[:, b])[0, 1]) < 0.99


def test_one_epoch_in_question_stays_one() -> None:
    assert levels(find("svd").settled({"n_epochs": 1}))["n_epochs"] == (1,)
    assert levels(find("svd").settled({"n_epochs": 2}))["n_epochs"] == (2, 1)


def test_a_ladder_rises_and_ends_at_half() -> None:
    rungs = list(ladder(planted.settled(), FULL))
    shares = [rung.share for rung in rungs]
    assert shares == sorted(shares) and shares[-1] <= 0.5
    assert shares[0] * FULL.n_users >= 19
    assert {rung.tilt for rung in rungs} == {-1, 0, 1}


def test_many_epochs_are_approached_when_the_rows_are_used_up() -> None:
    few, many = (list(ladder(planted.settled({"n_epochs": epochs}), FULL)) for epochs in (20, 5000))
    assert [rung.params["n_epochs"] for rung in few][-1] <= 4
    assert [rung.params["n_epochs"] for rung in many][-4:] == [16, 64, 256, 1024]
    assert many[-1].share == 0.5 and len({rung.seed for rung in many}) == len(many)


def test_the_papers_protocol_keeps_the_question() -> None:
    record = planted.settled({"n_epochs": 7})
    rungs = list(ladder(record, FULL, protocol="paper"))
    assert [rung.share for rung in rungs] == [0.01, 0.04, 0.06, 0.10]
    assert all(rung.params == record.params for rung in rungs)


def test_an_unknown_protocol_is_named() -> None:
    with pytest.raises(UsageError, match="did you mean paper"):
        list(ladder(planted.settled(), FULL, protocol="papre"))


def sample(share: float, seconds: float, **params: int) -> Sample:
    part = subset(FULL, "user", share, seed=1)
    return Sample(share, part.characteristics, {**planted.params, **params}, seconds, seconds)


def test_the_bound_holds_for_any_coefficients() -> None:
    record = planted.settled()
    small = sample(0.1, 1.0, n_epochs=4)
    # Whatever the terms cost, none grows by more than the ratio of the fastest growing one.
    most = bound(record, small, FULL.characteristics, {**record.params, "n_epochs": 20})
    rises = FULL.characteristics.R / small.characteristics.R
    assert most == pytest.approx(rises * 5)


def test_a_prediction_needs_a_sample_and_never_exceeds_the_bound() -> None:
    record = planted.settled()
    assert np.isnan(predicted(record, [], FULL.characteristics, record.params))
    samples = [sample(0.05, 0.01, n_epochs=1), sample(0.1, 0.05, n_epochs=4)]
    told = predicted(record, samples, FULL.characteristics, record.params)
    assert 0 < told <= min(bound(record, one, FULL.characteristics, record.params) for one in samples)
