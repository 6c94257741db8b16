"""The automatic map recovers what was planted, and knowledge is a prior, not a law."""

from __future__ import annotations

import numpy as np
import pytest

from mlsysopt.core.errors import StudyError
from mlsysopt.core.search.subgoals import check_map, importances, prior_weights, subgoal_map

KNOBS = [f"k{i}" for i in range(8)]
GROUPS = [[i] for i in range(8)]


def _planted(n: int, seed: int) -> tuple[np.ndarray, dict[str, np.ndarray], np.ndarray]:
    rng = np.random.default_rng(seed)
    x = rng.random((n, 8))
    metrics = {
        "read": 3 * (x[:, 0] - 0.5) ** 2 * 4 + 1.5 * x[:, 1] + 0.05 * rng.standard_normal(n),
        "write": 2 * x[:, 4] - 2 * np.sin(3 * x[:, 5]) + 0.05 * rng.standard_normal(n),
    }
    return x, metrics, -metrics["read"] - metrics["write"]


@pytest.mark.parametrize("seed", range(4))
def test_the_planted_map_is_recovered(seed: int) -> None:
    x, metrics, y = _planted(60, seed)
    found = {s.metric: s for s in subgoal_map(x, metrics, y, KNOBS, GROUPS, prior={}, seed=seed)}
    assert set(found["read"].knobs[:2]) == {"k0", "k1"}
    assert set(found["write"].knobs[:2]) == {"k4", "k5"}
    assert all(2 <= len(s.knobs) <= 5 for s in found.values())


def test_data_overrule_wrong_knowledge() -> None:
    x, metrics, y = _planted(80, 5)
    wrong = prior_weights({"read": ["k6", "k7"], "write": ["k2", "k3"]}, KNOBS)
    found = {s.metric: s for s in subgoal_map(x, metrics, y, KNOBS, GROUPS, prior=wrong, seed=0)}
    assert set(found["read"].knobs[:2]) == {"k0", "k1"}


def test_knowledge_decides_while_there_are_few_trials() -> None:
    x, metrics, y = _planted(7, 6)
    told = prior_weights({"read": {"k6": 3.0, "k7": 1.0}}, KNOBS)
    found = {s.metric: s for s in subgoal_map(x, metrics, y, KNOBS, GROUPS, prior=told, seed=0)}
    assert found["read"].knobs == ("k6", "k7")
    assert found["read"].weights["k6"] == pytest.approx(0.75)
    assert len(found["write"].knobs) == len(KNOBS)


def test_one_quantity_measured_twice_is_one_subgoal() -> None:
    x, metrics, y = _planted(40, 7)
    metrics["read_p50"] = metrics["read"] + 0.001 * np.random.default_rng(0).standard_normal(40)
    found = {s.metric: s for s in subgoal_map(x, metrics, y, KNOBS, GROUPS, prior={}, seed=0)}
    assert len(found) == 2
    assert {name for s in found.values() for name in s.absorbed} in ({"read"}, {"read_p50"})


def test_same_knobs_but_other_values_stay_two_subgoals() -> None:
    rng = np.random.default_rng(8)
    x = rng.random((40, 8))
    metrics = {"a": x[:, 0] + x[:, 1], "b": x[:, 0] - x[:, 1]}
    found = subgoal_map(x, metrics, metrics["a"], KNOBS, GROUPS, prior={}, seed=0)
    assert [s.metric for s in found] == ["a", "b"]
    assert found[0].knobs == found[1].knobs


def test_importance_sums_to_one_and_is_reproducible() -> None:
    x, metrics, _ = _planted(20, 9)
    once, again = (importances(x, metrics["read"], GROUPS, seed=3) for _ in range(2))
    np.testing.assert_array_equal(once, again)
    assert once.sum() == pytest.approx(1.0)
    assert (once >= 0).all()


def test_a_constant_metric_blames_nobody() -> None:
    x = np.random.default_rng(10).random((20, 8))
    np.testing.assert_allclose(importances(x, np.ones(20), GROUPS, seed=0), np.full(8, 1 / 8))


def test_bad_maps_are_refused() -> None:
    with pytest.raises(StudyError, match="did you mean k1"):
        check_map({"read": ["k11"]}, KNOBS)
    with pytest.raises(StudyError, match="at least 0"):
        prior_weights({"read": {"k0": -1.0}}, KNOBS)
