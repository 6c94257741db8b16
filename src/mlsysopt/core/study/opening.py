"""How one process enters a study: load or create it, take a worker number, fix the clock, make the sampler."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Generator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal

from mlsysopt.core.measure import is_quiet
from mlsysopt.core.seeds import seed_sequence
from mlsysopt.core.space import Space
from mlsysopt.core.store import Store
from mlsysopt.core.study.objectives import Objective

if TYPE_CHECKING:
    import optuna

    from mlsysopt.core.search.evidence import Evidence

__all__ = ["Clock", "Opened", "enter", "make_sampler"]

Clock = Literal["wall", "cpu"]


@dataclass(frozen=True, slots=True)
class Opened:
    """What one run of a study holds open.

    Attributes:
        store: Where everything goes.
        optuna: The study in it, with its sampler.
        worker: Number of this process in the study.
        clock: Clock of the ratios that samplers are told.
        objectives: What is improved, by that clock.
    """

    store: Store
    optuna: optuna.Study
    worker: int
    clock: Clock
    objectives: tuple[Objective, ...]


def enter(
    store: Store,
    name: str,
    identity: Mapping[str, Any],
    *,
    clock: Clock | Literal["auto"],
    objectives: Callable[[Clock], tuple[Objective, ...]],
    facts: Mapping[str, Any],
    sampler: Callable[[int, int], optuna.samplers.BaseSampler],
) -> Opened:
    """Load or create a study and take part in it.

    Args:
        store: Open store.
        name: Name of the study.
        identity: What must agree with what is stored.
        clock: "auto" is wall on a quiet machine and CPU otherwise, fixed when the study is created.
        objectives: Resolves the objectives for a clock.
        facts: Written into a new study, for whoever reads it later.
        sampler: Makes the sampler from worker number and trials so far.
    """
    with _optuna_quiet():
        study = store.study(name, identity=identity, directions=["maximize"] * len(identity["objectives"]))
        worker = store.register_worker(name)
        fixed = _fixed_clock(study, clock, facts)
        resolved = objectives(fixed)
        study.set_metric_names([f"ln {objective.told} gain" for objective in resolved])
    study.sampler = sampler(worker, len(study.get_trials(deepcopy=False)))
    return Opened(store, study, worker, fixed, resolved)


def make_sampler(
    sampler: Any,
    *,
    space: Space,
    seed: int,
    worker: int,
    trials: int,
    knowledge: Mapping[str, Sequence[str]] | None,
    probes: Callable[[], Sequence[Evidence]] | None = None,
) -> optuna.samplers.BaseSampler:
    """Make a sampler from a seed that no earlier start of this study has used.

    Args:
        sampler: A registered name, or any Optuna sampler.
        space: What may be chosen.
        seed: Seed of the study.
        worker: Number of this process in the study.
        trials: Trials in the store.
        knowledge: Metric -> knobs that drive it, for samplers that can use it.
        probes: Reads what probes have shown; given, the sampler is kept to what is likely to work.
    """
    from mlsysopt.core.search import SpaceSampler, registry

    number = int(seed_sequence(seed, worker, trials, "sampler").generate_state(1)[0])
    if isinstance(sampler, str):
        made = registry.sampler(sampler, space=space, seed=number, knowledge=knowledge)
    else:
        made = SpaceSampler(sampler, space, seed=number)
    if probes is None:
        return made
    from mlsysopt.core.search.validity import ValiditySampler

    return ValiditySampler(made, space, seed=number, probes=probes)


def _fixed_clock(study: optuna.Study, asked: Clock | Literal["auto"], facts: Mapping[str, Any]) -> Clock:
    """Choose the clock once per study, before its first trial."""
    kept = study.user_attrs.get("clock")
    if kept in ("wall", "cpu"):
        return kept
    measured: Clock = "wall" if is_quiet() else "cpu"
    clock: Clock = measured if asked == "auto" else asked
    for key, value in {**facts, "clock": clock}.items():
        study.set_user_attr(key, value)
    return clock


@contextmanager
def _optuna_quiet() -> Generator[None]:
    """Keep Optuna from announcing a new study, and from warning of what we use knowingly."""
    import optuna

    level = optuna.logging.get_verbosity()
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", optuna.exceptions.ExperimentalWarning)
            yield
    finally:
        optuna.logging.set_verbosity(level)
