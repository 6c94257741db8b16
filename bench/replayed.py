"""A recorded table as a system that samplers can be tried on a thousand times.

One random forest per metric on the logarithms of ratios to the canary is the truth; the *vectors* of
out-of-bag residuals, resampled whole, are the noise, so that metrics stay correlated as they were
measured. A forest on which runs failed decides what fails. A forest answers with the median of its
trees: their mean would smooth steps, such as those of write amplification, until almost nothing met
all guards at once. The canaries are rows of the default, each relative to the one before it.
"""

from __future__ import annotations

import gzip
import json
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import pairwise
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

if TYPE_CHECKING:
    from optuna.samplers import BaseSampler

    from mlsysopt.core.space import Space

Floats = NDArray[np.float64]

FOREST = 100
POOL = 8192
STARTS = 5
WORST = -2.0
"""Told for a failure while nothing valid was seen."""


@dataclass(frozen=True)
class Table:
    """Recorded trials as logarithms of ratios to the canary that precedes them.

    Attributes:
        name: What was recorded.
        space: What was chosen from.
        objective: The metric to maximise.
        guards: Metric -> (sign, ln limit): feasible where sign * z <= sign * ln limit.
        subgoals: The shipped knowledge.
        configs: Configurations of the m rows, those of the default among them.
        trials: Which rows are trials, not canaries, shape (m,).
        x: The same, encoded, shape (m, d).
        z: Metric -> ln ratio, shape (m,), NaN for failures.
        failures: Kind of failure per row, None where it ran.
        noise: Metric -> variance of one ln ratio on the recording machine, from neighbouring canaries.
        columns: What else was recorded of the rows, by name, each of m values.
    """

    name: str
    space: Space
    objective: str
    guards: dict[str, tuple[float, float]]
    subgoals: dict[str, Sequence[str]]
    configs: list[dict[str, Any]]
    trials: NDArray[np.bool_]
    x: Floats
    z: dict[str, Floats]
    failures: list[str | None]
    noise: dict[str, float]
    columns: dict[str, list[Any]] = field(default_factory=dict[str, list[Any]])

    @classmethod
    def load(cls, path: Path, *, objective: str = "throughput_cpu", absolute: bool = False) -> Table:
        """Read a table of `bench.tune_rocksdb_record` or `bench.tune_databases_record`."""
        name = path.name.removesuffix(".json.gz")
        with gzip.open(path, "rt") as stream:
            return cls.of_json(name, json.load(stream), objective=objective, absolute=absolute)

    @classmethod
    def of_json(cls, name: str, obj: Mapping[str, Any], *, objective: str, absolute: bool = False) -> Table:
        """Take a table as it was written.

        Args:
            name: What it is called.
            obj: The table.
            objective: The metric to maximise.
            absolute: Whether guards that are no ratio to the default count as well, as ratios to its median.
        """
        from mlsysopt.core.space import Space
        from mlsysopt.core.study.guards import Guard

        space = Space.from_json(obj["space"])
        columns = obj["columns"]
        rows = range(len(columns["role"]))
        canary_rows = [i for i in rows if columns["role"][i] == "canary"]
        # Every trial, and every canary but the first, has a canary before it.
        told = [i for i in rows if i > canary_rows[0]]
        before = [max(c for c in canary_rows if c < i) for i in told]
        # A recording may go on elsewhere: then a canary says nothing of the one before it.
        machines = columns.get("machine", [""] * len(rows))
        moved = [machines[i] != machines[c] for i, c in zip(told, before, strict=True)]
        same = np.array([machines[a] == machines[b] for a, b in pairwise(canary_rows)], dtype=bool)
        z, noise, medians = {}, {}, {}
        for metric, values in obj["metrics"].items():
            series = np.array([math.nan if value is None else float(value) for value in values])
            canaries = series[canary_rows]
            medians[metric] = float(np.median(canaries))
            if not np.isfinite(canaries).all():
                continue
            log = _logarithm(series, medians[metric])
            z[metric] = log[told] - log[before]
            steps = np.diff(log[canary_rows])[same]
            # A ratio has the noise of both its sides.
            noise[metric] = max(1e-6, float(np.mean(steps**2))) if len(steps) else 1e-4
        kinds = [(columns["failure"][i] or {}).get("kind") for i in told]
        default = space.default()
        asked = [{knob: values[i] for knob, values in obj["config"].items() if values[i] is not None} for i in told]
        configs = [{**default, **config} for config in asked]
        guards = {}
        for metric, text in obj["guards"].items():
            guard = Guard.parse(metric, text)
            sign = 1.0 if guard.relation == "<=" else -1.0
            if metric in z and guard.relative:
                guards[metric] = (sign, math.log(guard.limit))
            elif metric in z and absolute and guard.limit > 0 < medians[metric]:
                guards[metric] = (sign, math.log(guard.limit / medians[metric]))
        kept = [i for i, kind in enumerate(kinds) if kind not in ("infrastructure", "lost") and not moved[i]]
        return cls(
            name=name,
            space=space,
            objective=objective,
            guards=guards,
            subgoals=dict(obj["subgoals"]),
            configs=[configs[i] for i in kept],
            trials=np.array([columns["role"][told[i]] == "trial" for i in kept]),
            x=np.asarray(space.encode_many([configs[i] for i in kept])),
            z={metric: values[kept] for metric, values in z.items()},
            failures=[kinds[i] for i in kept],
            noise=noise,
            columns={column: [values[told[i]] for i in kept] for column, values in columns.items()},
        )


def _logarithm(series: Floats, reference: float) -> Floats:
    """Return logarithms; of 1 + value / reference for counters that can be zero."""
    if np.nanmin(series) > 0:
        return np.log(series)
    return np.log1p(np.maximum(series, 0.0) / (reference if reference > 0 else 1.0))


class Forest:
    """A random forest that answers with the median of its trees.

    Attributes:
        out_of_bag: Median over the trees that did not see a row, shape (n,).
    """

    def __init__(self, x: Floats, y: Floats, *, seed: int) -> None:
        from sklearn.ensemble import RandomForestRegressor

        forest = RandomForestRegressor(FOREST, random_state=seed, n_jobs=1).fit(x, y)
        # scikit-learn's own prediction spends milliseconds per call on checks.
        self._trees = [estimator.tree_ for estimator in forest.estimators_]
        votes = self._votes(x)
        for vote, drawn in zip(votes, forest.estimators_samples_, strict=True):
            vote[drawn] = np.nan
        unseen = np.isnan(votes).all(axis=0)
        votes[:, unseen] = y[unseen]
        self.out_of_bag: Floats = np.nanmedian(votes, axis=0)

    def __call__(self, x: Floats) -> Floats:
        return np.median(self._votes(x), axis=0)

    def mean(self, x: Floats) -> Floats:
        """Return the mean over trees, a probability where the forest was fitted to 0 and 1."""
        return self._votes(x).mean(axis=0)

    def _votes(self, x: Floats) -> Floats:
        rows = np.ascontiguousarray(x, dtype=np.float32)
        return np.array([tree.predict(rows)[:, 0] for tree in self._trees])


class Replay:
    """The system that a table stands for.

    Args:
        table: What was recorded.
        metrics: Which metrics to keep beside objective and guards; None keeps those of the knowledge.
        seed: Seeds the forests.
    """

    def __init__(self, table: Table, *, metrics: Sequence[str] | None = None, seed: int = 0) -> None:
        self.table = table
        wanted = list(metrics) if metrics is not None else list(table.subgoals)
        self.metrics = [m for m in dict.fromkeys([table.objective, *table.guards, *wanted]) if m in table.z]
        ran = np.array([kind is None for kind in table.failures])
        self.ran = ran
        self.forests = {m: Forest(table.x[ran], table.z[m][ran], seed=seed) for m in self.metrics}
        self.residuals = np.column_stack([table.z[m][ran] - self.forests[m].out_of_bag for m in self.metrics])
        self.residuals -= self.residuals.mean(axis=0)
        # What repeats of the default would show here: the replay's noise, not that of the recording machine.
        self.noise = {m: float(variance) for m, variance in zip(self.metrics, self.residuals.var(axis=0), strict=True)}
        self.kinds = [kind for kind in table.failures if kind is not None]
        self._fails = Forest(table.x, (~ran).astype(float), seed=seed) if self.kinds else None
        pool = [*table.space.sobol(POOL, seed), *table.configs]
        truth, feasible = self.truth(np.asarray(table.space.encode_many(pool)))
        self.ceiling = float(truth[feasible].max())
        self.feasible_share = float(feasible[:POOL].mean())
        met = ran.copy()
        for metric, (sign, limit) in table.guards.items():
            met[ran] &= sign * table.z[metric][ran] <= sign * limit
        self.observed_share = float(met[table.trials].mean())

    def quality(self) -> dict[str, float]:
        """Return the out-of-bag rank correlation of each forest."""
        from scipy.stats import spearmanr

        found: dict[str, float] = {}
        for metric in self.metrics:
            # Among trials: rows of the default are many and all alike.
            among = self.table.trials[self.ran]
            rank: Any = spearmanr(self.forests[metric].out_of_bag[among], self.table.z[metric][self.ran][among])
            found[metric] = float(rank.statistic)
        return found

    def truth(self, x: Floats) -> tuple[Floats, NDArray[np.bool_]]:
        """Return the noise-free objective and whether a configuration runs and meets every guard."""
        able = self._fails.mean(x) < 0.5 if self._fails is not None else np.ones(len(x), dtype=bool)
        for metric, (sign, limit) in self.table.guards.items():
            able &= sign * self.forests[metric](x) <= sign * limit
        return self.forests[self.table.objective](x), able

    def run(self, config: Mapping[str, Any], rng: np.random.Generator) -> dict[str, float] | str:
        """Return one noisy observation of all metrics, or the kind of failure."""
        u = np.asarray(self.table.space.encode_many([dict(config)]))
        draw, row = rng.random(), int(rng.integers(len(self.residuals)))
        if self._fails is not None and draw < float(self._fails.mean(u)[0]):
            return self.kinds[row % len(self.kinds)]
        return {m: float(self.forests[m](u)[0] + self.residuals[row, i]) for i, m in enumerate(self.metrics)}


@dataclass(frozen=True)
class Trace:
    """What one study did.

    Attributes:
        gains: True objective of each trial, -inf where it broke a guard or failed, shape (trials,).
        cpu_s: CPU seconds of each ask after the starts.
    """

    gains: Floats
    cpu_s: Floats

    def regret(self, ceiling: float) -> Floats:
        """Return ceiling less the best so far, shape (trials,); the default is always there."""
        return ceiling - np.maximum.accumulate(self.gains)

    def area(self, ceiling: float) -> float:
        """Return the mean regret after the starting points, which all samplers share."""
        return float(self.regret(ceiling)[STARTS + 1 :].mean())

    def reached(self, gain: float) -> int | None:
        """Return the number of trials after the starts until a gain was reached; None if never."""
        found = np.flatnonzero(np.maximum.accumulate(self.gains) >= gain)
        return max(0, int(found[0]) - STARTS) if len(found) else None


Maker = Callable[["Space", int], "BaseSampler"]


def study(replay: Replay, make: Maker, *, seed: int, trials: int = 30) -> Trace:
    """Run one study: default, five Sobol points, then proposals, told as the tuner tells them.

    Args:
        replay: The system.
        make: Makes the sampler of a space and a seed.
        seed: Seeds starts and noise, the same for every sampler, and the sampler.
        trials: Trials in all, the default included.
    """
    import time

    import optuna

    table = replay.table
    space = table.space
    distributions = space.distributions()
    study = optuna.create_study(direction="maximize", sampler=make(space, seed))
    default = space.default()
    study.add_trial(
        optuna.trial.create_trial(
            value=0.0,
            params=space.to_params(default),
            distributions=distributions,
            user_attrs=_attributes(replay, default, dict.fromkeys(replay.metrics, 0.0), share=3),
            constraints={"valid": -1.0, **_violations(table, dict.fromkeys(replay.metrics, 0.0))},
        )
    )
    for point in space.sobol(STARTS, seed):
        study.enqueue_trial(space.to_params(point))
    true, cpu = [0.0], []
    worst = 0.0
    broken = dict.fromkeys(table.guards, 0.0)
    for number in range(1, trials):
        before = time.process_time()
        trial = study.ask(distributions)
        if number > STARTS:
            cpu.append(time.process_time() - before)
        config = space.from_params(trial.params)
        # The same noise for every sampler at the same trial of the same seed.
        got = replay.run(config, np.random.default_rng([seed, number]))
        gain, feasible = replay.truth(np.asarray(space.encode_many([config])))
        true.append(float(gain[0]) if feasible[0] else -math.inf)
        if isinstance(got, str):
            for name, value in {"valid": 1.0, **broken}.items():
                trial.set_constraint(name, value)
            for name, value in {"state": got, "config": space.canonical(config)}.items():
                trial.set_user_attr(name, value)
            study.tell(trial, min(worst, 0.0))
            continue
        violations = _violations(table, got)
        for name, value in {"valid": -1.0, **violations}.items():
            trial.set_constraint(name, value)
        for name, value in _attributes(replay, config, got, share=1).items():
            trial.set_user_attr(name, value)
        worst = min(worst, got[table.objective])
        broken = {name: max(broken[name], value) for name, value in violations.items()}
        study.tell(trial, got[table.objective])
    return Trace(np.array(true), np.array(cpu))


def _attributes(replay: Replay, config: Mapping[str, Any], z: Mapping[str, float], *, share: int) -> dict[str, Any]:
    return {
        "state": "valid",
        "metrics": dict(z),
        "noise": {name: replay.noise[name] / share for name in z},
        "effective": dict(config),
        "config": replay.table.space.canonical(dict(config)),
    }


def _violations(table: Table, z: Mapping[str, float]) -> dict[str, float]:
    return {name: sign * (z[name] - limit) for name, (sign, limit) in table.guards.items()}
