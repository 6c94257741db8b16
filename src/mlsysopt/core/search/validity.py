"""Where a system works: a model of p(valid), and a wrapper that keeps any sampler to where it is likely.

Rules that one can read come first; what they leave over is a forest's. The wrapper asks its base
again, and at last takes the likely configuration that is nearest to what the base proposed.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from functools import cached_property
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray
from optuna.samplers import BaseSampler
from optuna.search_space import IntersectionSearchSpace

from mlsysopt.core.search.evidence import Evidence, evidence_of, inside
from mlsysopt.core.search.forest import Forest
from mlsysopt.core.search.rules import LearnedRule, learn
from mlsysopt.core.search.space_sampler import SpaceSampler
from mlsysopt.core.search.threads import one_thread
from mlsysopt.core.search.whole import in_common
from mlsysopt.core.seeds import stream
from mlsysopt.core.space import Expression, Float, Int, Permutation, Space
from mlsysopt.core.space.columns import (
    Codes,
    active_masks,
    at_positions,
    configs_of,
    of_configs,
    positions_of,
    rows_of,
    valid_at,
    valid_rows,
)

if TYPE_CHECKING:
    from optuna.distributions import BaseDistribution
    from optuna.study import Study
    from optuna.trial import FrozenTrial, TrialState

    from mlsysopt.core.search.history import History

__all__ = ["ValidityModel", "ValiditySampler", "for_structured"]

Floats = NDArray[np.float64]
Probes = Callable[[], Sequence[Evidence]]

TREES = 100
FLOOR = 1e-12
ACCEPTED, REFUTING, EVERY = 0.5, 0.2, 10
"""The p that a proposal needs; and for one ask in ten: a wrong model must be able to meet its refutation."""
CANDIDATES = 1024
REASKS, HOPE = 2, 0.25
"""How often a base is asked again; the second time only if one of two answers had this part of the p that is needed.

What a base says again mostly fails for the same reason: on recorded PostgreSQL trials an eighth of TPE's first further
answers were likely and 1 in 25 of its fifth, each at the cost of a whole ask; of DDS's first ones three quarters were.
"""
SAME = 0.01
"""Answers nearer than this, in every column, are one answer: the base has nothing else to say."""
STEPS = (0.02, 0.08, 0.25)
MARGIN = 0.1


class ValidityModel:
    """p(valid) of configurations, from labelled ones.

    0 under a broken hard rule; else the forest's estimate, times 2 / (support + 2) for every broken
    soft rule; 1 as long as nothing has failed. What fails under load is estimated apart from what does not
    even start, so that a start-only success counts for what it is.

    Args:
        space: What may be chosen.
        evidence: What is known.
        seed: Seeds the forest.

    >>> from mlsysopt.core.space import Int
    >>> space = Space([Int("threads", 1, 1024, log=True, default=8)])
    >>> known = [Evidence({"threads": n}, n <= 64, "" if n <= 64 else "crashed") for n in (1, 4, 16, 64, 128, 256, 512)]
    >>> model = ValidityModel(space, known)
    >>> bool(model.p([{"threads": 32}])[0] > 0.5 > model.p([{"threads": 400}])[0])
    True
    """

    def __init__(self, space: Space, evidence: Sequence[Evidence], *, seed: int = 0) -> None:
        self.space, self._seed = space, seed
        self._evidence = inside(evidence, space)

    @property
    def has_failures(self) -> bool:
        """Whether anything has failed yet."""
        return any(not one.valid for one in self._evidence)

    @cached_property
    def rules(self) -> tuple[LearnedRule, ...]:
        """The rules that follow, the hard ones first."""
        return learn(self.space, self._evidence) if self.has_failures else ()

    @cached_property
    def worked(self) -> Floats:
        """Positions of what worked, the default first, shape (n, d)."""
        return self.space.encode_many([{}, *(one.config for one in self._evidence if one.valid)])

    def p(self, configs: Sequence[Mapping[str, Any]]) -> Floats:
        """Return p(valid) of n configurations, shape (n,); a missing parameter takes its default."""
        near = [
            {one.name: one.nearest(config[one.name]) for one in self.space if one.name in config} for config in configs
        ]
        return self._estimate(self.space.encode_many(near), of_configs(self.space, near))

    def log_p(self, x: Floats) -> Floats:
        """Return ln p(valid) at positions of the cube, (n, d) -> (n,); never below ln 1e-12, for climbers."""
        return np.log(np.maximum(self._estimate(x, at_positions(self.space, x)), FLOOR))

    def _estimate(self, x: Floats, codes: Codes) -> Floats:
        p = np.ones(len(x))
        if not len(x):
            return p
        for forest in self._forests:
            p *= forest(x)
        masks = active_masks(self.space, codes)
        for rule, expression in self._expressions:
            broken = ~valid_rows(self.space, codes, masks, [expression])
            p[broken] *= 0.0 if rule.hard else 2.0 / (rule.support + 2.0)
        return p

    @cached_property
    def _expressions(self) -> list[tuple[LearnedRule, Expression]]:
        return [(rule, Expression.parse(rule.text)) for rule in self.rules]

    @cached_property
    def _forests(self) -> list[Forest]:
        """One for starting, one for load, as far as there were failures of the kind."""
        known = self._evidence
        at_start = [one for one in known if one.at_start]
        under_load = [one for one in known if not one.valid and not one.at_start]
        started = [one for one in known if one.valid or not one.at_start]
        ran = [one for one in known if one.valid and not one.probe]
        classes = [(good, bad) for good, bad in ((started, at_start), (ran, under_load)) if bad]
        numeric = np.array(
            [isinstance(one, Int | Float) for one in self.space for _ in range(_width(one))], dtype=np.bool_
        )
        with one_thread():
            return [
                Forest.fit(
                    # The default works: the space is made around it, and probes and trials are compared with it.
                    self.space.encode_many([{}, *(one.config for one in good)]),
                    self.space.encode_many([one.config for one in bad]),
                    numeric=numeric,
                    trees=TREES // len(classes),
                    seed=self._seed + i,
                )
                for i, (good, bad) in enumerate(classes)
            ]


class ValiditySampler(BaseSampler):
    """Keeps any sampler to what is likely to work.

    Before the first failure it is exactly its base. Afterwards a proposal with p(valid) < 0.5 is asked
    for again, twice where that promises something; then the nearest likely one of 1,024 candidates takes
    its place. What a user enqueued is never judged. Its answers follow from trials, probes, seed and base alone.

    Args:
        base: The sampler that proposes.
        space: What may be chosen, with its rules; None takes Optuna's intersection of the trials'.
        seed: Seeds the forest and the candidates.
        probes: Returns what is known beside the trials, such as start-only probes.

    Attributes:
        asked_again: How often the base was asked again so far.

    >>> import optuna
    >>> from mlsysopt.core.space import Int
    >>> space = Space([Int("threads", 1, 1024, log=True, default=8)])
    >>> known = [Evidence({"threads": n}, n <= 64, "" if n <= 64 else "crashed") for n in (1, 4, 16, 64, 128, 256, 512)]
    >>> sampler = ValiditySampler(optuna.samplers.RandomSampler(seed=0), space, seed=0, probes=lambda: known)
    >>> study = optuna.create_study(sampler=sampler)
    >>> max(study.ask(space.distributions()).params["threads"] for _ in range(9)) < 256
    True
    """

    def __init__(
        self, base: BaseSampler, space: Space | None = None, *, seed: int, probes: Probes | None = None
    ) -> None:
        self.base, self.space, self.asked_again = base, space, 0
        self._seed, self._probes = int(seed), probes
        self._intersection = IntersectionSearchSpace()
        self._keeper: SpaceSampler | None = None
        self._known: tuple[list[Evidence], ValidityModel] | None = None

    def __str__(self) -> str:
        return f"ValiditySampler({self.base})"

    def model(self, study: Study) -> ValidityModel | None:
        """Return what the next proposal of this study would be judged by; None without any common parameter."""
        space = self._space_of(study)
        if space is None:
            return None
        evidence = evidence_of(study.get_trials(deepcopy=False), space)
        evidence += self._probes() if self._probes is not None else []
        if self._known is None or self._known[1].space != space or self._known[0] != evidence:
            self._known = evidence, ValidityModel(space, evidence, seed=self._seed)
        return self._known[1]

    def reseed_rng(self) -> None:
        """Give the base and this sampler new random streams."""
        self.base.reseed_rng()
        self._seed = int(np.random.SeedSequence().generate_state(1)[0])
        self._known = None

    def before_trial(self, study: Study, trial: FrozenTrial) -> None:
        """Pass on to the base."""
        self.base.before_trial(study, trial)

    def after_trial(self, study: Study, trial: FrozenTrial, state: TrialState, values: Sequence[float] | None) -> None:
        """Pass on to the base."""
        self.base.after_trial(study, trial, state, values)

    def infer_relative_search_space(self, study: Study, trial: FrozenTrial) -> dict[str, BaseDistribution]:
        """Return the base's; once something has failed, together with the whole space."""
        model, found = self.model(study), self.base.infer_relative_search_space(study, trial)
        return found if model is None or not model.has_failures else found | model.space.distributions()

    def sample_relative(
        self, study: Study, trial: FrozenTrial, search_space: dict[str, BaseDistribution]
    ) -> dict[str, Any]:
        """Return the base's proposal, or the nearest likely one."""
        model = self.model(study)
        if model is None or not model.has_failures:
            return self.base.sample_relative(study, trial, search_space)
        own, keeper = model.space.distributions(), self._keeper_of(model.space)
        params = keeper.sample_relative(study, trial, search_space)
        whole = all(search_space.get(name) == one for name, one in own.items())
        # Somebody else has decided a part of it: a user who enqueued it, or a sampler around this one.
        if not whole or trial.system_attrs.get("fixed_params"):
            return params
        chosen = model.space.to_params(self._likely(study, trial, model, keeper, model.space.from_params(params)))
        return {name: value for name, value in params.items() if name not in own} | chosen

    def sample_independent(
        self, study: Study, trial: FrozenTrial, param_name: str, param_distribution: BaseDistribution
    ) -> Any:
        """Pass on to the base."""
        return self.base.sample_independent(study, trial, param_name, param_distribution)

    def _space_of(self, study: Study) -> Space | None:
        if self.space is not None:
            return self.space
        found = in_common(self._intersection, study)
        return Space.from_distributions(found) if found else None

    def _keeper_of(self, space: Space) -> SpaceSampler:
        """Return the base as one that decides whole configurations of the space."""
        if isinstance(self.base, SpaceSampler) and self.base.space == space:
            return self.base
        if self._keeper is None or self._keeper.space != space:
            self._keeper = SpaceSampler(self.base, space, seed=self._seed)
        return self._keeper

    def _likely(
        self, study: Study, trial: FrozenTrial, model: ValidityModel, keeper: SpaceSampler, first: dict[str, Any]
    ) -> dict[str, Any]:
        space, least = model.space, REFUTING if trial.number % EVERY == EVERY - 1 else ACCEPTED
        # The keeper has to know what becomes of its proposal, and this sampler what others wait for.
        history = keeper.history
        taken = history.taken(study, trial.number)
        # A base that is asked but once fits its model anew for every answer.
        reasks = REASKS if keeper.reasks else 0
        config, p = first, [float(model.p([first])[0])]
        while not (likely := p[-1] >= least and space.canonical(config) not in taken):
            hopeless = len(p) > 1 and max(p) < HOPE * least
            if len(p) > reasks or hopeless:
                break
            self.asked_again += 1
            again = space.from_params(keeper.sample_relative(study, trial, space.distributions()))
            if np.abs(space.encode(again) - space.encode(config)).max() < SAME:
                break
            config = again
            p.append(float(model.p([config])[0]))
        if not likely:
            config = _nearest(model, first, least, taken, stream(self._seed, trials=trial.number, role="validity"))
        history.remember(trial.number, space.canonical(config))
        return config


def for_structured(
    space: Space, probes: Probes | None = None, *, seed: int = 0
) -> Callable[[History], Callable[[Floats], Floats]]:
    """Return what `StructuredGPSampler(validity=...)` takes: p(valid) from its history and from probes.

    A history knows that a trial ran out of time, but no other kind of failure: these count as
    failures under load. Rules come from the probes.

    Args:
        space: The sampler's space.
        probes: Returns what is known beside the trials.
        seed: Seeds the forest.
    """

    def validity(history: History) -> Callable[[Floats], Floats]:
        known = [Evidence(space.decode(u), True) for u in history.x]
        for u, late in zip(history.failed, history.timeouts, strict=True):
            known.append(Evidence(space.decode(u), False, "timeout" if late else "crashed"))
        model = ValidityModel(space, [*known, *(probes() if probes is not None else ())], seed=seed)
        return lambda x: np.exp(model.log_p(x))

    return validity


def _nearest(
    model: ValidityModel, config: dict[str, Any], least: float, taken: set[str], rng: np.random.Generator
) -> dict[str, Any]:
    """Return the likely candidate that is nearest to a configuration, else the likeliest."""
    space, at = model.space, model.space.encode(config)
    codes, masks = valid_at(space, _candidates(at, model.worked, rng))
    x = positions_of(space, codes, masks)
    p, far = np.exp(model.log_p(x)), np.linalg.norm(x - at, axis=1)
    for i in np.lexsort((far, -np.minimum(p, least))):
        row = slice(i, i + 1)
        (found,) = configs_of(space, rows_of(codes, row), rows_of(masks, row))
        if space.canonical(found) not in taken:
            return found
    return config


def _candidates(at: Floats, worked: Floats, rng: np.random.Generator) -> Floats:
    """Return 1,024 positions: half of them Sobol points around what worked, neighbours of it, lines to it."""
    from scipy.stats import qmc

    half, quarter, d = CANDIDATES // 2, CANDIDATES // 4, len(at)
    low, high = worked.min(axis=0), worked.max(axis=0)
    margin = MARGIN * (high - low) + STEPS[0]
    engine = qmc.Sobol(d, scramble=True, seed=rng)  # pyright: ignore[reportCallIssue]
    box = low - margin + engine.random(half) * (high - low + 2.0 * margin)
    near, ends = worked[rng.integers(len(worked), size=(2, quarter))]
    widths = np.asarray(STEPS)[np.arange(quarter) % len(STEPS)][:, None]
    moved = rng.random((quarter, d)) < max(1.0 / 3.0, 1.0 / d)
    near = near + moved * widths * rng.standard_normal((quarter, d))
    line = at + rng.random((quarter, 1)) * (ends - at)
    return np.clip(np.concatenate([box, near, line]), 0.0, 1.0)


def _width(parameter: Any) -> int:
    return parameter.n if isinstance(parameter, Permutation) else 1
