"""Names, near-misses, missing extras, and plug-ins that break their promises."""

from __future__ import annotations

import importlib.util
import subprocess
import sys
import tomllib
from importlib.metadata import EntryPoint
from pathlib import Path
from typing import Any

import optuna
import pytest

from mlsysopt.core import plugins
from mlsysopt.core.errors import MissingExtra, PluginError, UsageError
from mlsysopt.core.search import SpaceSampler, own, registry
from mlsysopt.core.space import Float, Int, Space

SPACE = Space([Int("a", 1, 16, log=True), Float("b", 0.0, 1.0)], constraints=["a * b <= 12"])


def stranger(*, space: Space, seed: int) -> optuna.samplers.BaseSampler:
    """A factory that takes fewer arguments than it is offered."""
    return optuna.samplers.RandomSampler(seed=seed)


def raises(**settings: Any) -> Any:
    raise RuntimeError("always")


def no_sampler(**settings: Any) -> Any:
    return object()


class Fails(optuna.samplers.RandomSampler):
    def sample_independent(self, study: Any, trial: Any, param_name: str, param_distribution: Any) -> Any:
        raise ZeroDivisionError("in the middle of a study")


def fails(**settings: Any) -> optuna.samplers.BaseSampler:
    return Fails()


@pytest.fixture
def strangers(monkeypatch: pytest.MonkeyPatch) -> None:
    # Found under their own names, as an installed distribution's entry points are.
    monkeypatch.setitem(sys.modules, "strangers_samplers", sys.modules[__name__])
    found = [
        EntryPoint(name, f"strangers_samplers:{target}", "mlsysopt.samplers")
        for name, target in [
            ("stranger", "stranger"),
            ("raises", "raises"),
            ("no-sampler", "no_sampler"),
            ("fails", "fails"),
            ("absent", "nothing_here"),
        ]
    ]
    found += [EntryPoint(name, f"mlsysopt.core.search.own:{name}", "mlsysopt.samplers") for name in own.__all__]
    monkeypatch.setattr(plugins, "entry_points", lambda *, group: found if group == "mlsysopt.samplers" else [])


@pytest.mark.parametrize("name", ["auto", "structured", "icm", "tpe", "gp", "random", "qmc", "cmaes", "nsga2"])
def test_every_own_name_makes_a_sampler_that_keeps_to_the_space(name: str) -> None:
    study = optuna.create_study(sampler=registry.sampler(name, space=SPACE, seed=3))
    assert isinstance(study.sampler, SpaceSampler)
    for _ in range(8):
        trial = study.ask(SPACE.distributions())
        assert SPACE.violations(SPACE.from_params(trial.params)) == []
        study.tell(trial, trial.params["b"])
    assert registry.references(name)


def test_ours_are_what_the_project_registers() -> None:
    project = tomllib.loads((Path(__file__).parents[3] / "pyproject.toml").read_text())["project"]
    ours = {name: f"mlsysopt.core.search.own:{name}" for name in own.__all__}
    assert project["entry-points"]["mlsysopt.samplers"] == ours


@pytest.mark.parametrize("name", own.__all__)
def test_ours_are_found_like_a_strangers(strangers: None, name: str) -> None:
    assert plugins.load("mlsysopt.samplers", name, noun="sampler") is getattr(own, name)
    assert registry._factory(name) is getattr(own, name)


def test_what_is_registered_counts_for_our_names_too(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "strangers_samplers", sys.modules[__name__])
    entry = EntryPoint("random", "strangers_samplers:raises", "mlsysopt.samplers")
    monkeypatch.setattr(plugins, "entry_points", lambda *, group: [entry])
    with pytest.raises(PluginError, match="'random' from"):
        registry.sampler("random", space=SPACE, seed=1)


def test_names_are_listed_without_optuna() -> None:
    code = (
        "import sys\nfrom mlsysopt.core.search import registry\n"
        "assert 'tpe' in registry.names()\n"
        "assert not {'optuna', 'torch', 'numpy', 'sklearn'} & set(sys.modules), sorted(sys.modules)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr


def test_what_ours_raise_is_not_blamed_on_a_plug_in() -> None:
    made = registry.sampler("random", space=SPACE, seed=1)
    assert isinstance(made, SpaceSampler) and isinstance(made.base, optuna.samplers.RandomSampler)


def test_auto_goes_by_the_number_of_objectives() -> None:
    study = optuna.create_study(
        directions=["minimize", "maximize"], sampler=registry.sampler("auto", space=SPACE, seed=1)
    )
    for _ in range(8):
        trial = study.ask(SPACE.distributions())
        study.tell(trial, [trial.params["b"], trial.params["a"]])
    assert len(study.best_trials) >= 1


def test_unknown_name_lists_the_near_ones() -> None:
    with pytest.raises(UsageError, match="unknown sampler 'structred'; did you mean structured"):
        registry.sampler("structred", space=SPACE, seed=1)
    with pytest.raises(UsageError, match="known samplers"):
        registry.check("zzz")


def test_a_missing_library_names_the_install_line(monkeypatch: pytest.MonkeyPatch) -> None:
    real = importlib.util.find_spec
    monkeypatch.setattr(importlib.util, "find_spec", lambda name, *rest: None if name == "cmaes" else real(name, *rest))
    with pytest.raises(MissingExtra, match=r"pip install 'mlsysopt\[tune\]'"):
        registry.sampler("cmaes", space=SPACE, seed=1)


def test_a_stranger_is_a_sampler_like_ours(strangers: None) -> None:
    assert "stranger" in registry.names()
    study = optuna.create_study(sampler=registry.sampler("stranger", space=SPACE, seed=1, knowledge={"x": ["a"]}))
    study.ask(SPACE.distributions())
    assert registry.references("stranger") == []


@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("raises", ["'raises' from", "construction", "RuntimeError: always", "test_registry.py:"]),
        ("no-sampler", ["'no-sampler' from", "object", "no Optuna sampler"]),
        ("absent", ["'absent' from", "import", "nothing_here"]),
    ],
)
def test_a_broken_plug_in_is_named(strangers: None, name: str, words: list[str]) -> None:
    with pytest.raises(PluginError) as caught:
        registry.sampler(name, space=SPACE, seed=1)
    assert all(word in str(caught.value) for word in words), str(caught.value)
    # The others go on.
    registry.sampler("stranger", space=SPACE, seed=1)


def test_one_that_fails_in_a_study_is_named_with_its_hook(strangers: None) -> None:
    study = optuna.create_study(sampler=registry.sampler("fails", space=SPACE, seed=1))
    with pytest.raises(PluginError, match=r"'fails' from .* failed in sample_independent: ZeroDivisionError") as caught:
        study.ask(SPACE.distributions())
    assert "test_registry.py:" in str(caught.value)
