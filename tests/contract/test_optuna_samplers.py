"""Optuna's own samplers inside a space keep our contract, and the wrapper keeps Optuna's."""

from __future__ import annotations

import importlib.util
import warnings
from collections.abc import Callable

import optuna
import pytest
from optuna.samplers import BaseSampler
from optuna.testing.pytest_samplers import BasicSamplerTestCase, MultiObjectiveSamplerTestCase, RelativeSamplerTestCase

from mlsysopt.core.search import SpaceSampler
from mlsysopt.core.space import Float, Int, Space
from mlsysopt.testing.samplers import SamplerContract


class TestRandom(SamplerContract):
    learns = False

    def make_sampler(self, space: Space, seed: int) -> BaseSampler:
        return SpaceSampler(optuna.samplers.RandomSampler(seed=seed), space, seed=seed)


class TestTPE(SamplerContract):
    def make_sampler(self, space: Space, seed: int) -> BaseSampler:
        return SpaceSampler(optuna.samplers.TPESampler(seed=seed, n_startup_trials=6), space, seed=seed)


class TestNSGA2(SamplerContract):
    learning_trials = 60

    def make_sampler(self, space: Space, seed: int) -> BaseSampler:
        return SpaceSampler(optuna.samplers.NSGAIISampler(seed=seed, population_size=10), space, seed=seed)


class TestQMC(SamplerContract):
    learns = False

    def make_sampler(self, space: Space, seed: int) -> BaseSampler:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", optuna.exceptions.ExperimentalWarning)
            base = optuna.samplers.QMCSampler(seed=seed, scramble=True, warn_independent_sampling=False)
        return SpaceSampler(base, space, seed=seed)


@pytest.mark.skipif(importlib.util.find_spec("torch") is None, reason="torch is not installed")
class TestGP(SamplerContract):
    trials = 8
    learning_trials = 18
    learning_seeds = (1,)

    def make_sampler(self, space: Space, seed: int) -> BaseSampler:
        base = optuna.samplers.GPSampler(seed=seed, n_startup_trials=6, warn_independent_sampling=False)
        return SpaceSampler(base, space, seed=seed)


@pytest.mark.skipif(importlib.util.find_spec("cmaes") is None, reason="cmaes is not installed")
class TestCMAES(SamplerContract):
    learning_trials = 60

    def make_sampler(self, space: Space, seed: int) -> BaseSampler:
        base = optuna.samplers.CmaEsSampler(seed=seed, n_startup_trials=4, warn_independent_sampling=False)
        return SpaceSampler(base, space, seed=seed)


class TestOptunasContract(BasicSamplerTestCase, RelativeSamplerTestCase, MultiObjectiveSamplerTestCase):
    """The suites ask for parameters of their own; those of the space are proposed beside them."""

    @pytest.fixture
    def sampler(self) -> Callable[[], BaseSampler]:
        space = Space([Int("v", 1, 9), Float("w", 0.0, 10.0)], constraints=["v <= 5 or w <= 3"])
        return lambda: SpaceSampler(optuna.samplers.RandomSampler(seed=0), space, seed=0)
