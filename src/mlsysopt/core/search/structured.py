"""A sampler that learns from what a run reports beside its objective.

A run of a system tells more than one number: latencies of kinds of operations, bytes written,
cache misses. Each of these depends on few knobs, so it is learnt from few runs; together they
predict the objective. After Alabed and Yoneki (EuroMLSys 2021); the analytic aggregator, the
residual model and the automatic map are ours.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, ClassVar, Literal

import numpy as np
from optuna.study import Study, StudyDirection

from mlsysopt.core.errors import StudyError
from mlsysopt.core.references import Reference
from mlsysopt.core.search.acquisition import BEST, Acquisition, nearest_validity, propose
from mlsysopt.core.search.history import History, Read, read
from mlsysopt.core.search.model import Model, Settings, fit
from mlsysopt.core.search.subgoals import FIRST_MAP, Subgoal, check_map, correlation, prior_weights, subgoal_map
from mlsysopt.core.search.threads import one_thread
from mlsysopt.core.search.whole import WholeSampler, in_common, refuse_several
from mlsysopt.core.seeds import integer_seed
from mlsysopt.core.space import Choice, Space

if TYPE_CHECKING:
    from optuna.trial import FrozenTrial

__all__ = ["Row", "StructuredGPSampler"]

MAP_EVERY = 5
MOST_SUBGOALS = 8
_TIME = re.compile(r"^(?!p\d).*_(s|ms|us|ns)$")
"""Names of mean times, by the convention that units stand in the name; percentiles do not add up."""

Knowledge = Mapping[str, Mapping[str, float] | Sequence[str]]
Validity = Callable[[History], Callable[[np.ndarray], np.ndarray]]


@dataclass(frozen=True, slots=True)
class Row:
    """One sub-goal and one knob that drives it, as `explain` reports them.

    Attributes:
        metric: The sub-goal.
        knob: The knob.
        weight: Share of the sub-goal's sensitivity.
        effect: d objective / d sub-goal at the default, in logarithms; 0 when the map is not in use.
        in_use: Whether the decomposition is used; otherwise one plain model is.
        aggregator: `formula`, `ridge` or `plain`.
        explained: Share of the objective's variance that the sub-goals explain out of sample.
    """

    metric: str
    knob: str
    weight: float
    effect: float
    in_use: bool
    aggregator: Literal["formula", "ridge", "plain"]
    explained: float | None


class StructuredGPSampler(WholeSampler):
    """Structured multi-task Gaussian processes with guards, as an ordinary Optuna sampler.

    What trials may carry in their user attributes: `metrics` (name -> logarithm of the ratio to a
    reference), `noise` (name -> its variance), `effective` (what the system made of the knobs), `state`
    ("valid", or why it failed). Constraints set with `Trial.set_constraint` are guards. Without any of
    these it is a plain Gaussian-process sampler. Its state is a function of the study's trials and the
    seed: a sampler that is built anew goes on as if it had never stopped.

    Args:
        subgoals: "auto" blends knowledge with what the trials show, and takes the result for a hint about
            which knobs matter; "knowledge" and a mapping from metric to knobs are used as they are: a
            sub-goal then depends on nothing but its knobs.
        knowledge: Metric -> knobs, or knob -> weight: where "auto" starts. Metrics that are not in it
            are not used as sub-goals; without knowledge all are.
        space: What may be chosen, with its constraints; None takes Optuna's intersection of the trials'.
        metrics: Reads a trial's intermediate metrics.
        effective: Reads the values that took effect.
        noise: Reads the variances.
        validity: Makes p(valid) from the history; None is a nearest-neighbour estimate.
        times: Metrics that are mean times of kinds of operations, whose sum the objective may be;
            None goes by their names (`get_us`, not `p99_get_us`).
        shares: Known shares of the default's time by metric; None fits them.
        seed: None draws one.
        n_startup: Sobol points before the model is used; with a `space`, its default comes first.
        residual: False leaves the residual model out (an ablation).
        decompose: False leaves the sub-goals out (an ablation).

    Raises:
        StudyError: a map over unknown knobs; a study with several objectives.

    >>> import optuna
    >>> study = optuna.create_study(sampler=StructuredGPSampler(seed=1))
    >>> study.optimize(lambda trial: (trial.suggest_float("x", -4, 4) - 1) ** 2, n_trials=15)
    >>> abs(study.best_params["x"] - 1) < 0.2
    True
    """

    references: ClassVar[list[Reference]] = [
        Reference(
            "alabed2021",
            "inproceedings",
            "High-Dimensional Bayesian Optimization with Multi-Task Learning for {RocksDB}",
            "S. Alabed and E. Yoneki",
            2021,
            {"booktitle": "EuroMLSys", "doi": "10.1145/3437984.3458841"},
        ),
        Reference(
            "ament2023",
            "inproceedings",
            "Unexpected Improvements to Expected Improvement for {Bayesian} Optimization",
            "S. Ament and S. Daulton and D. Eriksson and M. Balandat and E. Bakshy",
            2023,
            {"booktitle": "NeurIPS"},
        ),
        Reference(
            "hvarfner2024",
            "inproceedings",
            "Vanilla {Bayesian} Optimization Performs Great in High Dimensions",
            "C. Hvarfner and E. O. Hellsten and L. Nardi",
            2024,
            {"booktitle": "ICML"},
        ),
    ]

    def __init__(
        self,
        *,
        subgoals: Literal["auto", "knowledge"] | Mapping[str, Sequence[str]] = "auto",
        knowledge: Knowledge | None = None,
        space: Space | None = None,
        metrics: Read = lambda trial: trial.user_attrs.get("metrics"),
        effective: Read = lambda trial: trial.user_attrs.get("effective"),
        noise: Read = lambda trial: trial.user_attrs.get("noise"),
        validity: Validity | None = None,
        times: Sequence[str] | None = None,
        shares: Mapping[str, float] | None = None,
        seed: int | None = None,
        n_startup: int = 5,
        residual: bool = True,
        decompose: bool = True,
    ) -> None:
        if isinstance(subgoals, str) and subgoals not in ("auto", "knowledge"):
            raise StudyError(f"subgoals: allowed are 'auto', 'knowledge' or a mapping, got {subgoals!r}")
        if subgoals == "knowledge" and not knowledge:
            raise StudyError("subgoals='knowledge' needs knowledge=: metric -> knobs that drive it")
        if space is not None and not isinstance(subgoals, str):
            check_map(subgoals, space.names)
        super().__init__(space=space, seed=int(np.random.SeedSequence().generate_state(1)[0]) if seed is None else seed)
        self._subgoals, self._knowledge = subgoals, dict(knowledge or {})
        self._metrics, self._effective, self._noise = metrics, effective, noise
        self._validity, self._times, self._shares = validity, times, shares
        self._residual, self._decompose, self._n_startup = residual, decompose, n_startup
        self._found: tuple[tuple[Any, ...], tuple[Subgoal, ...], tuple[Subgoal, ...]] | None = None

    # --- proposing -------------------------------------------------------------------------------

    def whole(self, study: Study, trial: FrozenTrial, space: Space, round: int) -> dict[str, Any]:
        seed = integer_seed(self.seed, trials=trial.number, role="structured", round=round)
        history = self._read(study, space, ignore=trial.number)
        with one_thread():
            return self._propose(history, space, seed)

    def _read(self, study: Study, space: Space, *, ignore: int | None = None) -> History:
        return read(
            study.get_trials(deepcopy=False),
            space,
            sign=1.0 if study.direction == StudyDirection.MAXIMIZE else -1.0,
            metrics=self._metrics,
            effective=self._effective,
            noise=self._noise,
            ignore=ignore,
        )

    def _propose(self, history: History, space: Space, seed: int) -> dict[str, Any]:
        begun = len(history) + len(history.failed) + len(history.pending)
        if begun <= self._n_startup or len(history) < 2:
            return self._start(history, space, seed)
        settings = self._settings(space)
        model = self._fit(history, settings).expect(history.pending)
        make = self._validity
        tried, worked = history.tried
        validity = nearest_validity(tried, worked, settings.categorical) if make is None else make(history)
        feasible = np.flatnonzero(history.feasible)
        ranked = feasible if len(feasible) else np.arange(len(history))
        means, _ = model.predict(history.x[ranked])
        best = [history.x[ranked[i]] for i in np.argsort(-means, kind="stable")[:BEST]]
        found = propose(
            Acquisition(model, validity), space, best, categorical=settings.categorical, seen=history.seen, seed=seed
        )
        return found if found is not None else space.sample(np.random.default_rng(seed), 1)[0]

    def _start(self, history: History, space: Space, seed: int) -> dict[str, Any]:
        """Return the first starting point that nobody took: the default, then Sobol points."""
        points = [space.default()] if self.space is not None else []
        points += space.sobol(self._n_startup + 1, integer_seed(self.seed, role="start"))
        fresh = [point for point in points if space.canonical(point) not in history.seen]
        return fresh[0] if fresh else space.sample(np.random.default_rng(seed), 1)[0]

    def _settings(self, space: Space) -> Settings:
        columns = space.column_names()
        groups = {
            parameter.name: tuple(
                i
                for i, column in enumerate(columns)
                if column == parameter.name or column.split("#")[0] == parameter.name
            )
            for parameter in space
        }
        categorical = np.zeros(len(columns), dtype=bool)
        for parameter in space:
            if isinstance(parameter, Choice):
                categorical[list(groups[parameter.name])] = True
        times = self._times if self._times is not None else (*self._shares,) if self._shares else None
        return Settings(
            categorical,
            groups,
            times=frozenset(times) if times is not None else frozenset(),
            shares=self._shares,
            residual=self._residual,
            decompose=self._decompose,
            strict=self._subgoals != "auto",
        )

    def _fit(self, history: History, settings: Settings) -> Model:
        subgoals, guards = self._maps(history, settings)
        if self._times is None and not self._shares:
            by_name = frozenset(subgoal.metric for subgoal in subgoals if _TIME.match(subgoal.metric))
            settings = replace(settings, times=by_name)
        return fit(history, subgoals, settings, guards)

    def _maps(self, history: History, settings: Settings) -> tuple[tuple[Subgoal, ...], tuple[Subgoal, ...]]:
        """Return the sub-goals, and the knobs behind the guards that are none."""
        knobs = list(settings.columns_of)
        if not self._decompose:
            return (), ()
        if isinstance(self._subgoals, str):
            prior = prior_weights(self._knowledge, knobs)
            if self._subgoals == "auto":
                return self._automatic(history, prior, knobs, settings)
        else:
            check_map(self._subgoals, knobs)
            prior = prior_weights(self._subgoals, knobs)
        return tuple(_as_given(name, prior[name], knobs) for name in sorted(prior) if name in history.metrics), ()

    def _automatic(
        self, history: History, prior: Mapping[str, np.ndarray], knobs: Sequence[str], settings: Settings
    ) -> tuple[tuple[Subgoal, ...], tuple[Subgoal, ...]]:
        """Return the maps of the last trial at which they were due; the trials before it decide alone."""
        names = [name for name in history.metrics if name in prior] if prior else list(history.metrics)
        n = len(history)
        due = n if n < FIRST_MAP else n - (n - FIRST_MAP) % MAP_EVERY
        key = (history.numbers[:due], tuple(names), tuple(history.guards))
        if self._found is None or self._found[0] != key:
            x, gain = history.x[:due], history.gain[:due]
            groups = [settings.columns_of[knob] for knob in knobs]
            seed = integer_seed(self.seed, role="map")
            ranked = sorted(names, key=lambda name: -abs(correlation(history.metrics[name][:due], gain)))
            used = {name: history.metrics[name][:due] for name in ranked[:MOST_SUBGOALS]}
            found = subgoal_map(x, used, gain, knobs, groups, prior=prior, seed=seed)
            covered = {name for subgoal in found for name in (subgoal.metric, *subgoal.absorbed)}
            other = {name: excess[:due] for name, excess in history.guards.items() if name not in covered}
            behind = subgoal_map(x, other, gain, knobs, groups, prior=prior, seed=seed + len(used))
            self._found = (key, tuple(found), tuple(behind))
        return self._found[1], self._found[2]

    # --- explaining ------------------------------------------------------------------------------

    def model(self, study: Study) -> Model:
        """Fit the belief that the next proposal of this study would use.

        Raises:
            StudyError: fewer than two valid trials, several objectives, or no common parameters.
        """
        refuse_several(study)
        space = self._space_of(study)
        history = self._read(study, space)
        if len(history) < 2:
            raise StudyError(f"{len(history)} valid trials: at least 2 are needed to fit a model")
        with one_thread():
            return self._fit(history, self._settings(space))

    def explain(self, study: Study) -> list[Row]:
        """Return what each sub-goal depends on, and how much the objective depends on it.

        Rows are sorted by the size of the effect, then by weight; a study without intermediate
        metrics gives none.
        """
        space = self._space_of(study)
        history = self._read(study, space)
        model = self.model(study)
        in_use = model.choice is not None
        subgoals = model.subgoals if in_use else self._maps(history, self._settings(space))[0]
        effects = model.choice.rule.weights() if model.choice is not None else np.zeros(len(subgoals))
        rows = [
            Row(
                subgoal.metric,
                knob,
                subgoal.weights[knob],
                float(effect),
                in_use,
                model.choice.rule.name if model.choice is not None else "plain",
                model.explained,
            )
            for subgoal, effect in zip(subgoals, effects, strict=True)
            for knob in subgoal.knobs
        ]
        return sorted(rows, key=lambda row: (-abs(row.effect), row.metric, -row.weight))

    def _space_of(self, study: Study) -> Space:
        if self.space is not None:
            return self.space
        found = in_common(self._intersection, study)
        if not found:
            raise StudyError("the study's trials have no parameter in common; pass space=")
        return Space.from_distributions(found)


def _as_given(name: str, weights: np.ndarray, knobs: Sequence[str]) -> Subgoal:
    order = [int(i) for i in np.argsort(-weights, kind="stable") if weights[i] > 0]
    return Subgoal(name, tuple(knobs[i] for i in order), {knobs[i]: float(weights[i]) for i in order})
