"""Our samplers against Optuna's shipped contract suite and ours."""

from __future__ import annotations

from collections.abc import Callable

import pytest
from optuna.samplers import BaseSampler
from optuna.testing.pytest_samplers import BasicSamplerTestCase, RelativeSamplerTestCase, SingleOnlySamplerTestCase

from mlsysopt.core.search import ICMSampler, SpaceSampler, StructuredGPSampler, registry
from mlsysopt.core.space import Space
from mlsysopt.testing.samplers import SamplerContract


class TestStructuredInOptuna(BasicSamplerTestCase, RelativeSamplerTestCase, SingleOnlySamplerTestCase):
    @pytest.fixture
    def sampler(self) -> Callable[[], BaseSampler]:
        # Few starting points, so that the suite reaches the model.
        return lambda: StructuredGPSampler(seed=0, n_startup=2)


class TestIcmInOptuna(SingleOnlySamplerTestCase):
    """What it inherits is exercised above; BoTorch's fits would make the whole suite take minutes."""

    @pytest.fixture
    def sampler(self) -> Callable[[], BaseSampler]:
        return lambda: ICMSampler(seed=0, n_startup=4)


class TestStructured(SamplerContract):
    def make_sampler(self, space: Space, seed: int) -> BaseSampler:
        return registry.sampler("structured", space=space, seed=seed)


class TestStructuredAlone(SamplerContract):
    """Without the wrapper: it knows the space itself."""

    def make_sampler(self, space: Space, seed: int) -> BaseSampler:
        return StructuredGPSampler(space=space, seed=seed)


class TestIcm(SamplerContract):
    trials = 9
    learning_trials = 14
    learning_seeds = (1,)

    def make_sampler(self, space: Space, seed: int) -> BaseSampler:
        return SpaceSampler(ICMSampler(space=space, seed=seed), space, seed=seed)
