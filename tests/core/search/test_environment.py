"""The environment: Gymnasium's own checker, rewards, failures, targets."""

from __future__ import annotations

import importlib
import math
import sys
from collections.abc import Mapping
from typing import Any

import numpy as np
import pytest

from mlsysopt.core.errors import InfrastructureError, MissingExtra, TargetError, UsageError
from mlsysopt.core.space import Bool, Choice, Float, Int, Permutation, Space
from mlsysopt.core.target import Failure
from mlsysopt.testing.planted import Planted, PlantedSession

pytest.importorskip("gymnasium")

from gymnasium.utils.env_checker import check_env

from mlsysopt.core.search.environment import Scored, TuningEnv, scored

MIXED = Space(
    [
        Float("x", 0.0, 1.0),
        Int("n", 1, 64, log=True, special=(0,)),
        Bool("flag"),
        Choice("codec", ("a", "b")),
        Permutation("order", 3),
    ],
    constraints=["n <= 32 or x < 0.5"],
)
LINE = Space([Float("x", 0.0, 1.0)])


def _at(x: float) -> np.ndarray:
    return np.array([2 * x - 1], dtype=np.float32)


def test_gymnasiums_checker_finds_nothing() -> None:
    def score(config: Mapping[str, Any]) -> tuple[float, dict[str, float]]:
        return -((config["x"] - 0.3) ** 2), {"reads": config["x"], "writes": float(config["flag"])}

    check_env(TuningEnv(score, MIXED, metrics=("reads", "writes")), skip_render_check=True)
    check_env(TuningEnv(lambda config: -abs(config["x"]), LINE), skip_render_check=True)


def test_every_action_runs_a_valid_configuration() -> None:
    ran: list[Mapping[str, Any]] = []
    env = TuningEnv(lambda config: ran.append(config) or 0.0, MIXED, horizon=5)
    env.reset(seed=1)
    env.action_space.seed(1)
    ends = [env.step(env.action_space.sample())[3] for _ in range(5)]
    assert ends == [False] * 4 + [True]
    assert all(MIXED.violations(config) == [] for config in ran)


def test_rewards_compare_with_the_default_and_the_step_before() -> None:
    env = TuningEnv(lambda config: math.log(0.5 + config["x"]), LINE)
    env.reset(seed=0)
    # 1.25x of the default, and of the step before, which was the default.
    assert env.step(_at(0.75))[1] == pytest.approx((1.25**2 - 1) * 1.25)
    # Still 1.25x of the default, the same as before.
    assert env.step(_at(0.75))[1] == pytest.approx(1.25**2 - 1)
    # 0.75x of the default, 0.6x of the step before.
    assert env.step(_at(0.25))[1] == pytest.approx(-(1.25**2 - 1) * 1.4)
    env.reset()
    assert env.step(_at(0.75))[1] == pytest.approx((1.25**2 - 1) * 1.25)


def test_a_failure_earns_the_worst_reward_so_far() -> None:
    env = TuningEnv(lambda config: None if config["x"] > 0.9 else -config["x"], LINE)
    env.reset(seed=0)
    assert env.step(_at(1.0))[1] == 0.0
    worst = env.step(_at(0.5))[1]
    observed, earned, terminated, _, info = env.step(_at(1.0))
    assert earned == worst < 0.0
    assert not terminated
    assert observed.tolist() == [0.0]
    assert info["gain"] is None


def test_observations_are_bounded_and_named() -> None:
    env = TuningEnv(lambda config: (50.0, {"a": 1e9, "b": -0.5}), LINE, metrics=("b", "missing", "a"))
    env.reset(seed=0)
    observed, earned, _, _, info = env.step(_at(0.5))
    assert observed.tolist() == [-0.5, 0.0, 10.0]
    assert math.isfinite(earned)
    assert info["gain"] == 50.0
    env = TuningEnv(lambda config: math.nan, LINE)
    env.reset(seed=0)
    assert env.step(_at(0.5))[4]["gain"] is None


def test_what_cannot_be_meant_is_refused() -> None:
    with pytest.raises(UsageError, match="horizon must be at least 1, got 0"):
        TuningEnv(lambda config: 0.0, LINE, horizon=0)
    env = TuningEnv(lambda config: 0.0, LINE)
    with pytest.raises(UsageError, match="reset the environment first"):
        env.step(_at(0.5))
    env.reset(seed=0)
    with pytest.raises(UsageError, match=r"1 finite numbers .* got \[0.0, 0.0\]"):
        env.step(np.zeros(2, dtype=np.float32))
    with pytest.raises(UsageError, match="nan"):
        env.step(np.array([math.nan], dtype=np.float32))


def test_a_target_is_run_beside_its_default() -> None:
    target = Planted(noise=0.0)
    with scored(target, "get_us", seed=3) as score:
        assert score.metrics == ("throughput", "get_us", "write_us", "stalls")
        env = TuningEnv(score, target.space(), metrics=score.metrics)
        check_env(env, skip_render_check=True)
        env.reset(seed=1)
        config = {**target.space().default(), "block": 16}
        _, _, _, _, info = env.step(np.float32(2 * target.space().encode(config) - 1))
    assert info["config"]["block"] == 16
    expected = math.log(target.truth(config)["get_us"] / target.truth({})["get_us"])
    assert info["metrics"]["get_us"] == pytest.approx(expected)
    # Less time is better.
    assert info["gain"] == pytest.approx(-expected)


def test_failures_of_a_target() -> None:
    target = Planted()
    with scored(target, "throughput") as score:
        assert score({**target.space().default(), "block": 64, "buffers": 8}) is None
    with scored(Planted(broken_default=True), "throughput") as score, pytest.raises(TargetError, match="the default"):
        score({"block": 8})
    with pytest.raises(UsageError, match="planted measures no 'throughputs'; did you mean throughput"):
        scored(target, "throughputs").__enter__()
    with pytest.raises(UsageError, match="memory_bytes"):
        scored(target, "memory_bytes").__enter__()


def test_the_machines_faults_are_not_the_configurations(monkeypatch: pytest.MonkeyPatch) -> None:
    broken = Failure("infrastructure", "disk full")
    left = [broken]

    def measure(self: PlantedSession, config: Any, **settings: Any) -> Any:
        return left.pop() if left else real(self, config, **settings)

    real = PlantedSession.measure
    monkeypatch.setattr(PlantedSession, "measure", measure)
    with scored(Planted(), "throughput") as score:
        assert isinstance(score, Scored)
        assert score({"block": 8}) is not None
        left.extend([broken] * 3)
        with pytest.raises(InfrastructureError, match="disk full"):
            score({"block": 8})


def test_without_gymnasium_the_extra_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "gymnasium", None)
    monkeypatch.delitem(sys.modules, "mlsysopt.core.search.environment")
    with pytest.raises(MissingExtra, match=r"pip install 'mlsysopt\[tune\]'"):
        importlib.import_module("mlsysopt.core.search.environment")
