"""A recorded table in which failures are part of the system, and seconds are what a search spends.

What starts and what fails, and how, is one forest over the recorded outcomes, and it is certain: the same
configuration fails again. The seconds of a run are those of a forest on recorded seconds, those of a failure
the ones of the nearest recorded failure of its sort. Probes answer what a start alone would show, through the
same `Learner` that a study uses. Trials have simulated dates, so that samplers which read them see the seconds.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from datetime import datetime, timedelta
from typing import TYPE_CHECKING, Any

import numpy as np
import optuna
from numpy.typing import NDArray
from optuna.storages import InMemoryStorage
from optuna.trial import TrialState

from bench.replayed import STARTS, Floats, Forest, Replay, Table, _attributes, _violations
from mlsysopt.core.search.evidence import Evidence
from mlsysopt.core.store import MeasurementRow
from mlsysopt.core.study.learning import PROBING_SHARE, Learner, evidence_of_probes, owed_s
from mlsysopt.core.study.loop import _suggest
from mlsysopt.core.target import Config, Failure, Measurement, Outcome

if TYPE_CHECKING:
    from optuna.samplers import BaseSampler

    from mlsysopt.core.space import Space

RAN = "ran"
PROBE_S = 0.4
"""Seconds of a start-only probe."""
MOST_TRIALS = 1000
TREES = 100

Maker = Callable[["Space", int, Callable[[], Sequence[Evidence]]], "BaseSampler"]
"""Makes a sampler of a space and a seed; the third is what it may ask for the evidence of probes."""


class Sorts:
    """A forest over sorts of outcomes.

    Attributes:
        paired: Whether it also sees sums and differences of columns.
        accuracy: Share of rows that the trees which did not see them put on the right side of "it runs",
            the mean over the two sides.
    """

    def __init__(self, x: Floats, sorts: Sequence[str], *, paired: bool, seed: int) -> None:
        from sklearn.ensemble import RandomForestClassifier

        self.paired = paired
        forest = RandomForestClassifier(TREES, oob_score=True, random_state=seed, n_jobs=1)
        forest.fit(self._features(x), list(sorts))
        self._trees = [one.tree_ for one in forest.estimators_]
        self._names = [str(name) for name in forest.classes_]
        ran = np.array([sort == RAN for sort in sorts])
        if RAN not in self._names or ran.all():
            self.accuracy = 1.0
            return
        guessed = np.nan_to_num(forest.oob_decision_function_)[:, self._names.index(RAN)] >= 0.5
        self.accuracy = float(np.mean([guessed[ran].mean(), 1.0 - guessed[~ran].mean()]))

    def _features(self, x: Floats) -> NDArray[np.float32]:
        i, j = np.triu_indices(x.shape[1], 1)
        columns = [x, x[:, i] + x[:, j], x[:, i] - x[:, j]] if self.paired else [x]
        return np.ascontiguousarray(np.concatenate(columns, axis=1), dtype=np.float32)

    def __call__(self, x: Floats) -> list[str]:
        """Return the sort of each row: it runs where half of the votes say so, else the likeliest failure."""
        features = self._features(x)
        votes = np.mean([tree.predict(features) for tree in self._trees], axis=0)
        if RAN in self._names:
            place = self._names.index(RAN)
            votes[:, place] = np.where(votes[:, place] >= 0.5, 2.0, -1.0)
        return [self._names[int(best)] for best in votes.argmax(axis=1)]


@dataclass(frozen=True)
class Seen:
    """What one run shows.

    Attributes:
        seconds: How long it took.
        metrics: Logarithms of ratios to the default; None where it failed.
        failure: Why it failed; None where it ran.
    """

    seconds: float
    metrics: dict[str, float] | None
    failure: Failure | None


class TimedReplay(Replay):
    """The system that a table with failures and seconds stands for.

    Args:
        table: What was recorded, with the columns `wall_s`, `named` and `under_load`.
        seed: Seeds the forests.

    Attributes:
        default_s: Seconds of a run of the default.
        sorts: The forest that knows what runs.
    """

    def __init__(self, table: Table, *, seed: int = 0) -> None:
        loaded = table.columns["under_load"]
        self._sort = [
            RAN if kind is None else f"{kind} under load" if under else kind
            for kind, under in zip(table.failures, loaded, strict=True)
        ]
        forests = [Sorts(table.x, self._sort, paired=paired, seed=seed) for paired in (False, True)]
        # Of equal ones the plain one: what only pairs can see is the wrapper's own idea.
        self.sorts = max(forests, key=lambda one: (round(one.accuracy, 3), not one.paired))
        wall_s = np.array(table.columns["wall_s"], dtype=np.float64)
        ran = np.array([sort == RAN for sort in self._sort])
        self.default_s = float(np.median(wall_s[~table.trials]))
        self._wall_s = wall_s
        self._seconds = Forest(table.x[ran], np.log(wall_s[ran]), seed=seed)
        super().__init__(table, metrics=(), seed=seed)

    def truth(self, x: Floats) -> tuple[Floats, NDArray[np.bool_]]:
        """Return the noise-free objective and whether a configuration runs and meets every guard."""
        able = np.array([sort == RAN for sort in self.sorts(x)])
        for metric, (sign, limit) in self.table.guards.items():
            able &= sign * self.forests[metric](x) <= sign * limit
        return self.forests[self.table.objective](x), able

    def see(self, config: Mapping[str, Any], rng: np.random.Generator) -> Seen:
        """Run once, with noise."""
        u = np.asarray(self.table.space.encode_many([dict(config)]))
        row = int(rng.integers(len(self.residuals)))
        sort = self.sorts(u)[0]
        if sort != RAN:
            failure, seconds = self._failure(u, sort)
            return Seen(seconds, None, failure)
        metrics = {m: float(self.forests[m](u)[0] + self.residuals[row, i]) for i, m in enumerate(self.metrics)}
        return Seen(math.exp(float(self._seconds(u)[0])), metrics, None)

    def probe(self, config: Mapping[str, Any]) -> Outcome:
        """Return what a start alone shows."""
        u = np.asarray(self.table.space.encode_many([dict(config)]))
        sort = self.sorts(u)[0]
        if sort == RAN or sort.endswith(" under load"):
            return Measurement({}, {**self.table.space.default(), **config}, 0.0, 0.0, 0.0)
        return self._failure(u, sort)[0]

    def _failure(self, u: Floats, sort: str) -> tuple[Failure, float]:
        """Return the nearest recorded failure of a sort, and its seconds."""
        same = [i for i, one in enumerate(self._sort) if one == sort]
        nearest = same[int(np.argmin(np.linalg.norm(self.table.x[same] - u, axis=1)))]
        kind: Any = self.table.failures[nearest]
        named = self.table.columns["named"][nearest] or []
        under_load = bool(self.table.columns["under_load"][nearest])
        extra: dict[str, Any] = {**({"named": named} if named else {}), **({"under_load": True} if under_load else {})}
        if kind == "degraded" and not under_load:
            # Nothing but a correction is told by a start alone.
            extra["corrected"] = dict.fromkeys(named)
        said = self.table.columns["failure"][nearest] or {}
        return Failure(kind, str(said.get("reason", kind)), extra=extra), float(self._wall_s[nearest])


class Prober:
    """What a `Learner` needs of a measurer: it probes, counts the seconds, and keeps the rows of a store.

    Args:
        replay: The system.
        diagnose: Finds culprits by probes: (space, config, failure, probe) -> names.

    Attributes:
        rows: What a study would have recorded of probes and of trials that failed, with the canaries beside these.
        probing_s: Seconds that probes took.
    """

    def __init__(self, replay: TimedReplay, diagnose: Callable[..., Sequence[str]]) -> None:
        self._replay, self._diagnose = replay, diagnose
        self.rows: list[MeasurementRow] = []
        self.probing_s = 0.0
        self.prober = self

    @property
    def evidence(self) -> list[Evidence]:
        """What the probes have shown."""
        return evidence_of_probes(row for row in self.rows if row.role == "probe")

    def diagnose(self, config: Config, failure: Failure, probe: Callable[[Config], Outcome]) -> Sequence[str]:
        return self._diagnose(self._replay.table.space, config, failure, probe)

    def probe(self, config: Config, *, trial: int, round: int) -> Outcome:
        outcome = self._replay.probe(config)
        self.probing_s += PROBE_S
        self.rows.append(_row("probe", trial, config, outcome, PROBE_S, round=round))
        return outcome

    def failed(self, trial: int, config: Config, failure: Failure, wall_s: float, canary_s: float) -> None:
        """Record a trial that failed, and the canary beside it."""
        self.rows.append(_row("canary", trial, {}, Measurement({}, {}, 0.0, canary_s, 0.0), canary_s))
        self.rows.append(_row("trial", trial, config, failure, wall_s))


def _row(role: Any, trial: int, config: Config, outcome: Outcome, wall_s: float, *, round: int = 0) -> MeasurementRow:
    failure = outcome if isinstance(outcome, Failure) else None
    return MeasurementRow(
        study="", trial=trial, role=role, round=round, side=role, config=dict(config), effective={},
        metrics={} if failure is None else None, failure_kind=failure.kind if failure is not None else None,
        reason=failure.reason if failure is not None else None, log_tail="", seed=0, cpu_s=0.0, wall_s=wall_s,
        started_at=0.0, conditions={"extra": dict(outcome.extra)}, machine="", worker=0,
    )  # fmt: skip


class SimulatedStorage(InMemoryStorage):
    """Trials begin and end when the replay says.

    Attributes:
        now_s: Seconds since the study began.
    """

    def __init__(self) -> None:
        super().__init__()
        self.now_s = 0.0

    @property
    def _date(self) -> datetime:
        return datetime(2026, 1, 1) + timedelta(seconds=self.now_s)

    def create_new_trial(self, study_id: int, template_trial: optuna.trial.FrozenTrial | None = None) -> int:
        trial_id = super().create_new_trial(study_id, template_trial)
        trial = self._get_trial(trial_id)
        if trial.datetime_start is not None:
            trial.datetime_start = self._date
        if trial.datetime_complete is not None:
            trial.datetime_complete = self._date
        return trial_id

    def set_trial_state_values(self, trial_id: int, state: TrialState, values: Sequence[float] | None = None) -> bool:
        done = super().set_trial_state_values(trial_id, state, values)
        trial = self._get_trial(trial_id)
        if done and state == TrialState.RUNNING:
            trial.datetime_start = self._date
        if done and state.is_finished():
            trial.datetime_complete = self._date
        return done


@dataclass(frozen=True)
class TimedTrace:
    """What one study did in its seconds.

    Attributes:
        gains: True objective of each trial, -inf where it failed or broke a guard, shape (n,).
        ends_s: When each one ended, the default at 0, shape (n,).
        ran: Which ones ran, shape (n,).
        after_s: When the starting points, which all tuners share, are over.
        budget_s: Seconds in all; a trial that was not over by then is not here.
        starts: How many starting points there were beside the default.
        probes: Start-only probes.
        cpu_s: CPU seconds of each ask after the starts.
    """

    gains: Floats
    ends_s: Floats
    ran: NDArray[np.bool_]
    after_s: float
    budget_s: float
    starts: int
    probes: int
    cpu_s: Floats

    @property
    def best(self) -> float:
        """The best gain at the end."""
        return float(self.gains.max())

    @property
    def valid_share(self) -> float:
        """Share of trials after the starts that ran; NaN without any."""
        ran = self.ran[self.starts + 1 :]
        return float(ran.mean()) if len(ran) else math.nan

    @property
    def refused_share(self) -> float:
        """Share of the seconds after the starts that trials took which did not run, with the probes after them."""
        took = np.diff(self.ends_s)[self.starts :]
        return float(took[~self.ran[self.starts + 1 :]].sum()) / (self.budget_s - self.after_s)

    @classmethod
    def from_json(cls, obj: Mapping[str, Any]) -> TimedTrace:
        """Return what `to_json` wrote."""
        gains = [-math.inf if gain is None else gain for gain in obj["gains"]]
        told: dict[str, Any] = dict(obj)
        for name in ("ends_s", "ran", "cpu_s"):
            told[name] = np.array(obj[name])
        told["gains"] = np.array(gains)
        return cls(**told)

    def to_json(self) -> dict[str, Any]:
        """Return plain values; JSON has no infinity, so a trial without a feasible value is None."""
        gains = [gain if math.isfinite(gain) else None for gain in self.gains.tolist()]
        lists = {"gains": gains, "ends_s": self.ends_s.tolist(), "ran": self.ran.tolist(),
                 "cpu_s": [round(seconds, 3) for seconds in self.cpu_s.tolist()]}  # fmt: skip
        return {**asdict(self), **lists}

    def area(self, ceiling: float) -> float:
        """Return the mean over the seconds after the starts of ceiling less the best so far."""
        regret = ceiling - np.maximum.accumulate(self.gains)
        # What was found counts from the end of its trial on, until the next one ends.
        marks = np.clip(np.append(self.ends_s, self.budget_s), self.after_s, self.budget_s)
        return float((regret * np.diff(marks)).sum() / (self.budget_s - self.after_s))


def study_in_seconds(
    replay: TimedReplay,
    make: Maker,
    *,
    seed: int,
    budget_s: float,
    starts: Sequence[Config] | None = None,
    diagnose: Callable[..., Sequence[str]] | None = None,
    tells_fail: bool = False,
    beside_s: float = 0.0,
    most_trials: int = MOST_TRIALS,
) -> TimedTrace:
    """Run one study: default, starting points, then proposals until the seconds are spent.

    Args:
        replay: The system.
        make: Makes the sampler.
        seed: Seeds starts and noise, the same for every sampler, and the sampler.
        budget_s: Seconds of runs, failures and probes; asks take none.
        starts: Starting points; None means five Sobol points.
        diagnose: Looks into failures by probes, which may take what `Learner` allows.
        tells_fail: Failures are told as FAIL, not as the worst value with a broken constraint.
        beside_s: Seconds of what runs beside every trial, such as a canary.
        most_trials: Trials at most, the default included.
    """
    table, space = replay.table, replay.table.space
    first = space.sobol(STARTS, seed) if starts is None else list(starts)
    storage = SimulatedStorage()
    prober = Prober(replay, diagnose or (lambda *_: ()))
    measurer: Any = prober
    learner = Learner(measurer, most_s=PROBING_SHARE * budget_s, owed_s=lambda: owed_s(prober.rows))
    sampler = make(space, seed, lambda: prober.evidence)
    study = optuna.create_study(direction="maximize", sampler=sampler, storage=storage)
    study.set_user_attr("budget_s", budget_s)
    _place_default(study, replay)
    for point in first:
        study.enqueue_trial(space.to_params(point))
    gains, ends, ran, cpu = [0.0], [0.0], [True], []
    after_s = worst = 0.0
    broken = dict.fromkeys(table.guards, 0.0)
    for number in range(1, most_trials):
        began = time.process_time()
        trial, config = _ask(study, space)
        if number > len(first):
            cpu.append(time.process_time() - began)
        # The same noise for every sampler at the same trial of the same seed.
        got = replay.see(config, np.random.default_rng([seed, number]))
        storage.now_s += got.seconds + beside_s
        after_s += got.seconds + beside_s if number <= len(first) else 0.0
        blamed: tuple[str, ...] = ()
        if got.failure is not None and diagnose is not None:
            before = prober.probing_s
            prober.failed(number, config, got.failure, got.seconds, beside_s)
            blamed, _ = learner.blame(number, config, got.failure)
            storage.now_s += prober.probing_s - before
        if storage.now_s > budget_s:
            break
        gain, feasible = -math.inf, False
        if got.failure is None:
            true, able = replay.truth(np.asarray(space.encode_many([config])))
            gain, feasible = float(true[0]), bool(able[0])
        gains.append(gain if feasible else -math.inf)
        ends.append(storage.now_s)
        ran.append(got.failure is None)
        if got.metrics is not None:
            _tell_success(study, trial, replay, config, got.metrics)
            worst = min(worst, got.metrics[table.objective])
            broken = {name: max(broken[name], value) for name, value in _violations(table, got.metrics).items()}
        elif tells_fail:
            study.tell(trial, state=TrialState.FAIL)
        else:
            assert got.failure is not None
            _tell_failure(study, trial, space.canonical(config), got.failure, blamed, worst, broken)
    if len(gains) <= len(first):
        raise ValueError(f"{budget_s:g} s are over before the {len(first)} starting points: {storage.now_s:.0f} s")
    return TimedTrace(
        np.array(gains), np.array(ends), np.array(ran), after_s, budget_s, len(first),
        sum(row.role == "probe" for row in prober.rows), np.array(cpu),
    )  # fmt: skip


def _ask(study: optuna.Study, space: Space) -> tuple[optuna.Trial, dict[str, Any]]:
    """Ask as `Study` does: only what the sampler, or whoever enqueued, decided becomes a parameter."""
    trial = study.ask()
    fixed = study.get_trials(deepcopy=False)[trial.number].system_attrs.get("fixed_params")
    wanted = fixed if fixed is not None else trial.relative_params
    params = {name: _suggest(trial, name, one) for name, one in space.distributions().items() if name in wanted}
    return trial, space.from_params(params)


def _place_default(study: optuna.Study, replay: TimedReplay) -> None:
    space, even = replay.table.space, dict.fromkeys(replay.metrics, 0.0)
    default = space.default()
    params = space.to_params(default)
    study.add_trial(
        optuna.trial.create_trial(
            value=0.0,
            params=params,
            distributions={name: one for name, one in space.distributions().items() if name in params},
            user_attrs=_attributes(replay, default, even, share=3),
            constraints={"valid": -1.0, **_violations(replay.table, even)},
        )
    )


def _tell_success(
    study: optuna.Study, trial: optuna.Trial, replay: TimedReplay, config: dict[str, Any], metrics: dict[str, float]
) -> None:
    for name, value in {"valid": -1.0, **_violations(replay.table, metrics)}.items():
        trial.set_constraint(name, value)
    for name, value in _attributes(replay, config, metrics, share=1).items():
        trial.set_user_attr(name, value)
    study.tell(trial, metrics[replay.table.objective])


def _tell_failure(
    study: optuna.Study,
    trial: optuna.Trial,
    config: str,
    failure: Failure,
    blamed: Sequence[str],
    worst: float,
    broken: Mapping[str, float],
) -> None:
    """Tell the worst valid value and a broken constraint, as `Study` does."""
    learned = {"named": list(failure.extra.get("named", ())), "blamed": list(blamed)}
    told = {"state": failure.kind, "reason": failure.reason, "config": config}
    for name, value in {**told, **{key: one for key, one in learned.items() if one}}.items():
        trial.set_user_attr(name, value)
    for name, value in {"valid": 1.0, **broken}.items():
        trial.set_constraint(name, value)
    study.tell(trial, min(worst, 0.0))
