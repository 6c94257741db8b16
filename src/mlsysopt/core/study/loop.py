"""The trial loop: default, starts, proposals, each told relative to the default run beside it."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from mlsysopt.core.errors import StudyError, TargetError
from mlsysopt.core.quantities import format_seconds
from mlsysopt.core.seeds import integer_seed
from mlsysopt.core.space import Space
from mlsysopt.core.store import Store
from mlsysopt.core.study.budget import Budget
from mlsysopt.core.study.events import Event, EventKind, Listener
from mlsysopt.core.study.learning import Learner
from mlsysopt.core.study.measuring import Measurer
from mlsysopt.core.study.rating import VALID, Pair, Rating
from mlsysopt.core.study.telling import INTERVAL_Z, told
from mlsysopt.core.study.trials import TrialView, leader, views
from mlsysopt.core.target import Failure, Measurement, Target

if TYPE_CHECKING:
    import optuna

__all__ = ["BASELINE_RUNS", "STARTS", "SharedCanary", "TrialLoop", "smallest_budget_s"]

BASELINE_RUNS = 3
STARTS = 5
VERIFY_ROUNDS = 6
MOST_ROUNDS = 3
"""Paired rounds that a trial can earn by challenging the leader."""
RACING_SHARE = 1 / 3
"""Part of the time that further rounds of would-be leaders may take: a short search is for looking around."""
MOST_REFUSALS = 200
"""Refused proposals in a row after which the sampler is plainly unable to find a valid one."""


@dataclass
class SharedCanary:
    """A run of the default that holds for the next few trials, of whichever study they are.

    Args:
        every: Trials for which one run holds.
    """

    every: int = 4
    _last: Measurement | None = None
    _used: int = 0

    def get(self, run: Callable[[], Measurement]) -> Measurement:
        """Return the last run of the default, or make a new one when it has held long enough."""
        if self._last is None or self._used >= self.every:
            self._last, self._used = run(), 0
        self._used += 1
        return self._last


def smallest_budget_s(run_s: float) -> float:
    """Return the least time a study needs: reference, one trial with its canary, verification.

    Args:
        run_s: Seconds of one measurement.
    """
    return run_s * (BASELINE_RUNS + 2 + 2 * VERIFY_ROUNDS)


@dataclass
class TrialLoop:
    """Runs trials until the budget is spent: `prepare`, then `run`.

    Args:
        study: The Optuna study, with its sampler.
        space: What may be chosen.
        rating: Turns measurements into what is told.
        worker: Number of this process in the study.
        spent_s: Seconds that earlier runs of this study used up.
        clock: What a budget of time is counted by.
        verifies: Whether time is set aside for a verification.
        learner: Looks into failures; None leaves them as they are.
        canaries: Runs of the default that several studies share; None gives every trial one of its own.

    Attributes:
        run_s: Seconds of one run of the default.
        ask_cpu_s: CPU seconds that the sampler took so far, for proposals and for what it was told.
    """

    study: optuna.Study
    store: Store
    target: Target
    space: Space
    measurer: Measurer
    rating: Rating
    budget: Budget
    seed: int
    worker: int
    machine: str
    tell_listener: Listener
    spent_s: float = 0.0
    clock: Callable[[], float] = time.monotonic
    verifies: bool = True
    learner: Learner | None = None
    canaries: SharedCanary | None = None
    run_s: float = 0.0
    ask_cpu_s: float = 0.0
    _racing_s: float = 0.0
    _started: float = 0.0
    _refusals: int = 0

    def prepare(self) -> None:
        """Measure the default and place the starting points: what must be there before the first trial."""
        self._started = self.clock()
        self.sweep()
        self._baseline()
        self._check_budget()
        self.budget.announce(self.study, aside_s=self._aside_s + BASELINE_RUNS * self.run_s)
        # The slot: of several workers of this machine one is first; it may also be the heir of one that was killed.
        with self.measurer.exclusive():
            self._place_starts()

    def run(self) -> None:
        """Run trials until the budget is spent."""
        while self.step():
            pass

    def step(self) -> bool:
        """Run one trial; False when the budget allows no other.

        Raises:
            StudyError: the sampler is plainly unable to find what the target's static limits allow.
        """
        if not self._may_start_another():
            return False
        self._refusals = 0 if self._one_trial() else self._refusals + 1
        if self._refusals >= MOST_REFUSALS:
            raise StudyError(
                f"{self._refusals} proposals in a row broke a static limit of {self.target.name}; "
                "declare that limit as a constraint of the space, or widen it"
            )
        self.sweep()
        return True

    def sweep(self) -> None:
        """Mark the trials of dead workers as lost, and tell them."""
        for number in self.store.sweep_lost(self.study):
            self.tell("note", f"trial {number} is lost: the process that ran it is gone", {"trial": number})

    # --- the default -----------------------------------------------------------------------------

    def _baseline(self) -> None:
        kept = [row for row in self.store.measurements(self.study.study_name, role="baseline") if self._ours(row)]
        self.rating.defaults = [row.metrics for row in kept if row.metrics is not None]
        walls = [row.wall_s for row in kept if row.metrics is not None]
        failures: list[Failure] = []
        while len(self.rating.defaults) < BASELINE_RUNS:
            round = len(self.rating.defaults) + len(failures)
            with self.measurer.exclusive():
                seed = integer_seed(self.seed, worker=self.worker, role="baseline", round=round)
                outcome = self.measurer.take({}, trial=-1, role="baseline", round=round, side="default", seed=seed)
            if isinstance(outcome, Failure):
                failures.append(outcome)
                self.tell("baseline", f"default failed: {outcome.reason}", {"failure": outcome.kind})
                self._stop_when_default_fails(failures)
                continue
            failures.clear()
            self.rating.defaults.append(outcome.metrics)
            walls.append(outcome.wall_s)
            shown = ", ".join(f"{o.told} {outcome.metrics[o.told]:.4g}" for o in self.rating.objectives)
            self.tell(
                "baseline",
                f"default {len(self.rating.defaults)}/{BASELINE_RUNS}: {shown} in {format_seconds(outcome.wall_s)}",
                {"metrics": dict(outcome.metrics), "wall_s": outcome.wall_s},
            )
        self.run_s = sum(walls) / len(walls)
        self.rating.fix_scale()
        for objective in self.rating.objectives:
            if objective.told not in self.rating.scale:
                raise TargetError(f"target {self.target.name!r} did not report {objective.told}, which it declares")

    def _stop_when_default_fails(self, failures: Sequence[Failure]) -> None:
        if len(failures) >= 3:
            last = failures[-1]
            raise TargetError(
                f"the default itself fails ({last.kind}: {last.reason}), three times in a row: "
                f"repair {self.target.name} before tuning it\n{last.log_tail[-600:]}".rstrip()
            )

    def _ours(self, row: Any) -> bool:
        return row.machine == self.machine

    def _before(self, number: int, round: int, seed: int) -> Measurement:
        """Return the run of the default that a trial is compared with; one that defends a lead has its own."""
        if self.canaries is None or round > 0:
            return self._canary(number, round, seed)
        return self.canaries.get(lambda: self._canary(number, round, seed))

    def _canary(self, number: int, round: int, seed: int) -> Measurement:
        failures: list[Failure] = []
        while True:
            outcome = self.measurer.take({}, trial=number, role="canary", round=round, side="default", seed=seed)
            if isinstance(outcome, Measurement):
                self.rating.defaults.append(outcome.metrics)
                return outcome
            failures.append(outcome)
            self._stop_when_default_fails(failures)

    # --- budget ----------------------------------------------------------------------------------

    @property
    def elapsed_s(self) -> float:
        return self.spent_s + self.clock() - self._started

    def _check_budget(self) -> None:
        if self.budget.seconds is None or not self.verifies:
            return
        least = smallest_budget_s(self.run_s)
        if self.budget.seconds < least:
            raise StudyError(
                f"budget {self.budget.text()}: one run takes {format_seconds(self.run_s)}, and {BASELINE_RUNS} runs "
                f"of the default, one trial with its canary and {VERIFY_ROUNDS} verification rounds of two are "
                f"{BASELINE_RUNS + 2 + 2 * VERIFY_ROUNDS} runs: "
                f"the smallest workable budget is {format_seconds(math.ceil(least))}"
            )

    def left_s(self) -> float:
        """Seconds left for trials, verification set aside; infinite when the budget counts trials."""
        if self.budget.seconds is None:
            return math.inf
        return self.budget.seconds - self.elapsed_s - self._aside_s

    @property
    def _aside_s(self) -> float:
        """Seconds that are kept for the verification."""
        return self.run_s * 2 * (VERIFY_ROUNDS + 1) if self.verifies else 0.0

    def _may_start_another(self) -> bool:
        if self.budget.trials is not None:
            return len(self._counted()) < self.budget.trials
        return self.left_s() >= 2 * self.run_s

    def _counted(self) -> list[TrialView]:
        """Trials that count against the budget: not the lost ones, nor what never ran."""
        return [trial for trial in self.views() if trial.state not in ("lost", "refused", "infrastructure")]

    def views(self) -> list[TrialView]:
        """Return every trial of the study so far."""
        return views(self.study.get_trials(deepcopy=False))

    # --- one trial -------------------------------------------------------------------------------

    def _place_starts(self) -> None:
        """Put the default as trial 0 and the same Sobol points first, whatever the sampler."""
        import optuna

        if self.study.get_trials(deepcopy=False):
            return
        default = self.space.default()
        params = self.space.to_params(default)
        self.study.add_trial(
            optuna.trial.create_trial(
                values=[0.0] * len(self.rating.objectives),
                params=params,
                distributions={name: dist for name, dist in self.space.distributions().items() if name in params},
                user_attrs={
                    "config": self.space.canonical(default),
                    "state": "valid",
                    "metrics": dict.fromkeys(self.rating.scale, 0.0),
                    "noise": self.rating.noise(BASELINE_RUNS),
                    "effective": default,
                    "rounds": 0,
                },
                constraints=self.rating.default_constraints(),
            )
        )
        for point in self.space.sobol(STARTS, self.seed):
            self.study.enqueue_trial(self.space.to_params(point))

    def _one_trial(self) -> bool:
        """Ask, measure, tell; False when the proposal was refused before it cost a run."""
        from optuna.exceptions import UpdateFinishedTrialError

        trial, config = self._ask()
        with self.store.lease(trial):
            try:
                return self._measure_and_tell(trial, config)
            except UpdateFinishedTrialError:
                # This process was silent for longer than its lease: a machine that slept, for one.
                self.tell("note", f"trial {trial.number} was taken for lost meanwhile", {"trial": trial.number})
                return True
            except BaseException as error:
                self._abandon(trial, error)
                raise

    def _ask(self) -> tuple[optuna.Trial, dict[str, Any]]:
        began = time.process_time()
        trial = self.study.ask()
        fixed = self.store.fixed_params(trial)
        # Optuna asks the sampler only now.
        wanted = fixed if fixed is not None else trial.relative_params
        self.ask_cpu_s += time.process_time() - began
        params = {
            name: _suggest(trial, name, distribution)
            for name, distribution in self.space.distributions().items()
            if name in wanted
        }
        config = self.space.from_params(params)
        self.store.annotate(trial, {"config": self.space.canonical(config)})
        self.tell("asked", f"trial {trial.number}", {"trial": trial.number, "config": config})
        return trial, config

    def _measure_and_tell(self, trial: optuna.Trial, config: dict[str, Any]) -> bool:
        refused = self.rating.refusals(config)
        if refused:
            self._tell_failure(trial, Failure("degraded", "; ".join(refused)), state="refused")
            return False
        pairs: list[Pair] = []
        while True:
            # One seed for both: the same operations in the same order, so that their noise cancels.
            seed = integer_seed(self.seed, worker=self.worker, trials=trial.number, role="trial", round=len(pairs))
            with self.measurer.exclusive():
                before = self.clock()
                canary = self._before(trial.number, len(pairs), seed)
                outcome = self.measurer.take(
                    config, trial=trial.number, role="trial", round=len(pairs), side="trial", seed=seed
                )
            if isinstance(outcome, Failure):
                blamed = self._look_into(trial.number, config, outcome)
                self._tell_failure(trial, outcome, state=outcome.kind, blamed=blamed)
                return True
            pairs.append((canary, outcome))
            self._racing_s += self.clock() - before if len(pairs) > 1 else 0.0
            if not self._earns_another_round(pairs, config):
                break
        self._tell_success(trial, config, pairs)
        return True

    def _earns_another_round(self, pairs: Sequence[Pair], config: Mapping[str, Any]) -> bool:
        """Whether a would-be leader must defend its lead before it is believed.

        Only a trial above the leader is measured again, and only while its upper bound stays above:
        lucky single rounds are what a search would otherwise select. One that breaks a guard by more
        than noise cannot lead.
        """
        rating = self.rating
        if len(rating.objectives) != 1 or len(pairs) >= MOST_ROUNDS or self.left_s() < 4 * self.run_s:
            return False
        if self._racing_s > RACING_SHARE * (self.clock() - self._started):
            return False
        best = leader(self.views())
        bar = max(best.gains[0], 0.0) if best is not None else 0.0
        noise = rating.noise(len(pairs))
        if any(
            rating.violation(guard, pairs, config) > INTERVAL_Z * math.sqrt(noise.get(guard.metric, 0.0))
            for guard in rating.guards
        ):
            return False
        gain = rating.gains(rating.ratios(pairs))[0]
        spread = math.sqrt(noise.get(rating.objectives[0].told, 0.0))
        return gain > bar if len(pairs) == 1 else gain + INTERVAL_Z * spread > bar

    # --- telling ---------------------------------------------------------------------------------

    def _tell_success(self, trial: optuna.Trial, config: Mapping[str, Any], pairs: Sequence[Pair]) -> None:
        ratios, noise = self.rating.ratios(pairs), self.rating.noise(len(pairs))
        gains, constraints = self.rating.gains(ratios), self.rating.constraints(pairs, config)
        effective = {name: value for name, value in pairs[-1][1].effective_config.items() if name in self.space}
        self.store.annotate(
            trial,
            {
                "state": "valid",
                "metrics": ratios,
                "noise": {name: noise[name] for name in ratios if name in noise},
                "effective": {**config, **effective},
                "rounds": len(pairs),
            },
            constraints=constraints,
        )
        self._tell(trial, gains)
        trials = self.views()
        view = next(view for view in trials if view.number == trial.number)
        self.tell(*told(view, self.rating.objectives[0], trials))

    def _look_into(self, number: int, config: Mapping[str, Any], failure: Failure) -> tuple[str, ...]:
        """Return the parameters that made a trial fail, as far as probes tell."""
        if self.learner is None or not failure.blames_config:
            return ()
        self.tell("note", f"trial {number} {failure.kind}: looking for what made it fail", {"trial": number})
        blamed, text = self.learner.blame(number, config, failure)
        self.tell("note", f"trial {number}: {text}", {"trial": number, "blamed": list(blamed)})
        return blamed

    def _tell_failure(self, trial: optuna.Trial, failure: Failure, *, state: str, blamed: Sequence[str] = ()) -> None:
        """Tell the worst valid value and a broken constraint: samplers skip trials that FAIL.

        Every trial carries the same constraints, since some samplers fit one model per name; a
        failed one carries the worst violation that was seen of each guard.
        """
        valid = [view for view in self.views() if view.valid]
        worst = [min((view.gains[i] for view in valid), default=-1.0) for i in range(len(self.rating.objectives))]
        seen = {
            guard.metric: max([0.0, *(view.constraints.get(guard.metric, 0.0) for view in valid)])
            for guard in self.rating.guards
        }
        learned = {"named": list(failure.extra.get("named", ())), "blamed": list(blamed)}
        self.store.annotate(
            trial,
            {
                "state": state,
                "reason": failure.reason,
                "rounds": 0,
                **{key: one for key, one in learned.items() if one},
            },
            constraints={VALID: 1.0, **seen},
        )
        self._tell(trial, [min(value, 0.0) for value in worst])
        kind: EventKind = "refused" if state == "refused" else "trial"
        self.tell(
            kind, f"trial {trial.number}: {state}: {failure.reason}",
            {"trial": trial.number, "state": state, "reason": failure.reason, "log_tail": failure.log_tail},
        )  # fmt: skip

    def _tell(self, trial: optuna.Trial, values: Sequence[float]) -> None:
        began = time.process_time()
        self.study.tell(trial, list(values))
        self.ask_cpu_s += time.process_time() - began

    def _abandon(self, trial: optuna.Trial, error: BaseException) -> None:
        """Leave no trial running when this process stops in the middle of one."""
        import optuna

        stored = self.study.get_trials(deepcopy=False)[trial.number]
        if stored.state.is_finished():
            return
        reason = "interrupted" if isinstance(error, KeyboardInterrupt) else f"{type(error).__name__}: {error}"
        self.store.annotate(trial, {"state": "lost", "reason": reason})
        self.study.tell(trial, state=optuna.trial.TrialState.FAIL)

    def tell(self, kind: EventKind, text: str, data: Mapping[str, Any]) -> None:
        """Send an event to whoever listens, with the state of the budget."""
        left = None if self.budget.seconds is None else max(0.0, self.budget.seconds - self.elapsed_s)
        done = len(self._counted()) if kind in ("trial", "refused") else None
        self.tell_listener(
            Event(kind, text, {**data, "elapsed_s": self.elapsed_s, "left_s": left, "trials_done": done})
        )


def _suggest(trial: optuna.Trial, name: str, distribution: Any) -> Any:
    """Ask for one parameter through Optuna's public words."""
    import optuna.distributions as known

    if isinstance(distribution, known.IntDistribution):
        return trial.suggest_int(
            name, distribution.low, distribution.high, step=distribution.step, log=distribution.log
        )
    if isinstance(distribution, known.FloatDistribution):
        return trial.suggest_float(
            name, distribution.low, distribution.high, step=distribution.step, log=distribution.log
        )
    return trial.suggest_categorical(name, list(distribution.choices))
