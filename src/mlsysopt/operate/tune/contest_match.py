"""A contest of tuners while it runs: turns at equal time, then one verification of all winners."""

from __future__ import annotations

import json
import math
from collections import Counter
from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Literal, cast

from mlsysopt.core.errors import StudyError
from mlsysopt.core.measure import is_quiet, machine
from mlsysopt.core.processes import sweep_orphans
from mlsysopt.core.quantities import format_seconds
from mlsysopt.core.references import Reference
from mlsysopt.core.stats import SequentialRule
from mlsysopt.core.store import MeasurementRow, Store
from mlsysopt.core.study import Budget, Candidate, Event, Study, TrialView
from mlsysopt.core.study.events import Listener
from mlsysopt.core.study.learning import learned_rules
from mlsysopt.core.study.loop import BASELINE_RUNS, STARTS, SharedCanary
from mlsysopt.core.study.objectives import Objective, parse_objectives
from mlsysopt.core.study.turns import Turns
from mlsysopt.core.study.verification import looks_for
from mlsysopt.core.target import Limits, Session, Target
from mlsysopt.operate.tune.contest_rows import RANDOM, Entry, fairness, rows_of
from mlsysopt.operate.tune.contest_table import Contest, facts, headline, so_far

__all__ = ["VALIDITY", "Match", "Plan"]

VALIDITY: dict[str, Literal["auto", "learned", "none"]] = {"all": "auto", "learned": "learned", "none": "none"}
"""Word of a contest -> word of its studies."""

CANARY_EVERY = 4
"""Turns for which one run of the default holds; they follow one another within half a minute."""
_NEVER_RAN = ("lost", "running", "refused", "infrastructure")
_JUDGED = "contest"


@dataclass(frozen=True, slots=True)
class Plan:
    """What was asked for, checked."""

    tuners: tuple[str, ...]
    validity: tuple[str, ...]
    seconds: float
    seeds: tuple[int, ...]
    rounds: int | None
    verify_seconds: float | None
    maximize: str | None
    minimize: str | None

    @property
    def looks(self) -> tuple[int, ...]:
        return looks_for(self.rounds)


@dataclass(frozen=True, slots=True)
class _Entrant:
    """One tuner of one seed, while it plays."""

    tuner: str
    validity: str
    seed: int
    name: str
    study: Study
    turns: Turns


@dataclass
class Match:
    """One contest while it runs."""

    target: Target
    plan: Plan
    store: Store
    where: str | Path
    kept: bool
    name: str
    guard: Mapping[str, str | None] | list[str] | None
    recipe: Mapping[str, Any] | None
    listener: Listener | None
    clock: Literal["wall", "cpu"] = "wall"
    canaries: SharedCanary = field(default_factory=SharedCanary)
    entries: list[Entry] = field(default_factory=list[Entry])
    notes: list[str] = field(default_factory=list[str])

    def run(self) -> Contest:
        """Play every seed, verify the winners, and return the table; Ctrl-C returns what there is."""
        for what in sweep_orphans():
            self._tell("note", f"swept what a dead run left behind: {what}")
        self.clock = self._fixed_clock()
        self._tell("started", self._opening(), {"budget_s": self.plan.seconds, "tuners": list(self.plan.tuners)})
        verified = False
        try:
            # On the file system that the user will run on, for the searches as for the verification.
            with self.target.session(Limits(), purpose="verify") as session:
                for seed in self.plan.seeds:
                    self._play(seed, session)
                self._verify(session)
            verified = True
        except KeyboardInterrupt:
            again = "; the same call on the same store goes on" if self.kept else ""
            self.notes.append(f"stopped by the user, so that nothing is verified{again}")
        contest = self._contest(verified)
        self._tell("finished", contest.text(), {"contest": contest.to_json()})
        return contest

    # --- searching -------------------------------------------------------------------------------

    def _play(self, seed: int, session: Session) -> None:
        entrants: list[_Entrant] = []
        # Whoever takes the next turn runs the default for the turns after it as well: time is equal in the end.
        self.canaries = SharedCanary(CANARY_EVERY)
        with ExitStack() as stack:
            try:
                for validity in self.plan.validity:
                    for tuner in self.plan.tuners:
                        entrants.append(self._enter(stack, tuner, validity, seed, session, first=not entrants))
                going = list(entrants)
                while going:
                    least = min(going, key=lambda entrant: entrant.turns.spent_s)
                    if not least.turns.step():
                        going.remove(least)
            except KeyboardInterrupt:
                self.entries += [self._entry(entrant) for entrant in entrants]
                raise
            self.entries += [self._entry(entrant) for entrant in entrants]

    def _enter(
        self, stack: ExitStack, tuner: str, validity: str, seed: int, session: Session, *, first: bool
    ) -> _Entrant:
        name = f"{self.name}/{tuner}/{seed}" + ("" if validity == "all" else f"/{validity}")
        who = self._who(tuner, validity, seed)
        recipe = self.recipe and {
            **self.recipe, "sampler": tuner, "seed": seed, "validity": validity,
            "budget": f"{self.plan.seconds:g}s",
        }  # fmt: skip
        study = self._study(
            name, tuner, seed, VALIDITY[validity], recipe,
            lambda event: self._pass_on(event, f"{who}: {event.text}", tuner=tuner, validity=validity, seed=seed),
        )  # fmt: skip
        turns = stack.enter_context(
            study.turns(Budget(seconds=self.plan.seconds), session=session, canaries=self.canaries)
        )
        turns.adopt(self._shared_default(name, seed))
        turns.prepare()
        if first:
            self._check_seconds(self._defaults(name))
        return _Entrant(tuner, validity, seed, name, study, turns)

    def _study(
        self, name: str, sampler: str, seed: int, validity: Literal["auto", "learned", "none"],
        recipe: Mapping[str, Any] | None, listener: Listener,
    ) -> Study:  # fmt: skip
        return Study(
            self.target, maximize=self.plan.maximize, minimize=self.plan.minimize, guard=self.guard, sampler=sampler,
            store=self.where, name=name, seed=seed, validity=validity, clock=self.clock, recipe=recipe,
            on_event=listener,
        )  # fmt: skip

    def _defaults(self, name: str) -> list[MeasurementRow]:
        rows = self.store.measurements(name, role="baseline")
        return [row for row in rows if row.machine == self.store.machine_key]

    def _shared_default(self, name: str, seed: int) -> list[MeasurementRow]:
        """Return the runs of the default that another study of this seed has made; each study is charged for them."""
        for other in self._studies():
            _, _, rest = other.removeprefix(f"{self.name}/").partition("/")
            if other != name and rest.split("/")[0] == str(seed) and (rows := self._defaults(other)):
                return rows
        return []

    def _studies(self) -> list[str]:
        return [info.name for info in self.store.studies() if info.name.startswith(f"{self.name}/")]

    def _check_seconds(self, defaults: Sequence[MeasurementRow]) -> None:
        walls = [row.wall_s for row in defaults if row.metrics is not None]
        run_s = sum(walls) / len(walls)
        least = sum(row.wall_s for row in defaults) + 2 * run_s
        if self.plan.seconds < least:
            raise StudyError(
                f"seconds {self.plan.seconds:g}: one run takes {format_seconds(run_s)}, and {BASELINE_RUNS} runs of "
                f"the default and one trial with its canary are {BASELINE_RUNS + 2} runs: "
                f"the smallest workable time is {format_seconds(_rounded_up(least))}"
            )

    def _entry(self, entrant: _Entrant) -> Entry:
        turns, objective = entrant.turns, self._objective
        measured = [t for t in turns.trials() if not t.is_default and t.state not in _NEVER_RAN]
        later = [trial for trial in measured if trial.number > STARTS]
        spent_s, walls = self._walls(entrant.name)
        best = turns.candidates()[:1] if measured else []
        return Entry(
            tuner=entrant.tuner,
            validity=entrant.validity,
            seed=entrant.seed,
            study=entrant.name,
            counts=dict(sorted(Counter(trial.state for trial in measured).items())),
            worked=sum(trial.valid for trial in later),
            tried=len(later),
            spent_s=turns.spent_s,
            ask_cpu_s=turns.ask_cpu_s,
            longest_s=max(walls.values(), default=0.0),
            observed=math.exp(objective.sign * best[0].gains[0]) if best else 1.0,
            config=dict(best[0].config) if best else None,
            winner=None if not best else _unverified(best[0], objective),
            curve=_curve(turns.trials(), spent_s, walls, objective),
            rules=self._rules(entrant),
        )

    def _walls(self, name: str) -> tuple[float, dict[int, float]]:
        """Return the seconds of the default's runs, and of each trial: canaries, rounds and probes."""
        first, walls = 0.0, Counter[int]()
        for row in self.store.measurements(name):
            if row.machine == self.store.machine_key and row.role == "baseline":
                first += row.wall_s
            elif row.machine == self.store.machine_key and row.role != "verify":
                walls[row.trial] += row.wall_s  # pyright: ignore[reportArgumentType]
        return first, dict(walls)

    def _rules(self, entrant: _Entrant) -> tuple[dict[str, Any], ...]:
        """Return what the trials and probes of a study teach about which configurations work."""
        if not any(trial.state not in ("valid", *_NEVER_RAN) for trial in entrant.turns.trials()):
            return ()
        stored = self._stored(entrant.study)
        rows = self.store.measurements(entrant.name, role="probe")
        rules = learned_rules(entrant.study.space, stored.get_trials(deepcopy=False), rows)
        return tuple({"text": rule.text, "origin": rule.origin, "hard": rule.hard} for rule in rules)

    # --- verifying -------------------------------------------------------------------------------

    def _verify(self, session: Session) -> None:
        """Verify every winner in the same rounds, an identical one once; a finished verification is kept."""
        space = self.target.space()
        shared: dict[str, list[int]] = {}
        for place, entry in enumerate(self.entries):
            if entry.config is not None:
                shared.setdefault(space.canonical(entry.config), []).append(place)
        if not shared:
            return
        names = [" = ".join(self._label(self.entries[place]) for place in places) for places in shared.values()]
        self.notes += [f"{one}: the same winner, verified once" for one in names if " = " in one]
        judge = self._study(
            f"{self.name}/verification", RANDOM, self.plan.seeds[0], "none", None,
            lambda event: self._pass_on(event, _renamed(event, names)),
        )  # fmt: skip
        configs = [dict(cast(Mapping[str, Any], self.entries[places[0]].config)) for places in shared.values()]
        candidates = self._known_verdicts(judge, list(shared))
        if candidates is None:
            candidates = judge.judge(
                configs, session=session, rounds=self.plan.rounds, seconds=self.plan.verify_seconds
            )
            self._keep_verdicts(judge, list(shared), candidates)
        for places, candidate in zip(shared.values(), candidates, strict=True):
            for place in places:
                entry = self.entries[place]
                seen = cast(Candidate, entry.winner)
                winner = replace(candidate, trial=seen.trial, observed=entry.observed)
                self.entries[place] = replace(entry, winner=winner)
        self._say_what_rounds_could(len(candidates))

    def _known_verdicts(self, judge: Study, configs: Sequence[str]) -> list[Candidate] | None:
        if judge.name not in self._studies():
            return None
        kept = self._stored(judge).user_attrs.get(_JUDGED)
        if kept is None or kept["asked"] != self._asked(judge, configs):
            return None
        self._tell("note", "nothing is left to verify: these are the stored verdicts")
        return [Candidate.from_json(candidate) for candidate in kept["candidates"]]

    def _keep_verdicts(self, judge: Study, configs: Sequence[str], candidates: Sequence[Candidate]) -> None:
        found = [candidate.to_json() for candidate in candidates]
        self._stored(judge).set_user_attr(_JUDGED, {"asked": self._asked(judge, configs), "candidates": found})

    def _asked(self, judge: Study, configs: Sequence[str]) -> dict[str, Any]:
        guards = [guard.text() for guard in judge.guards]
        return json.loads(
            json.dumps({
                "configs": configs, "rounds": self.plan.rounds, "seconds": self.plan.verify_seconds, "guards": guards,
                "machine": self.store.machine_key,
            })
        )  # fmt: skip

    def _say_what_rounds_could(self, winners: int) -> None:
        rule = SequentialRule.for_looks(self.plan.looks)
        if not any(rule.at(0.05 / winners).boundaries):
            self.notes.append(f"{self.plan.looks[-1]} rounds cannot prove one of {winners} winners: allow more rounds")

    # --- telling ---------------------------------------------------------------------------------

    def _contest(self, verified: bool) -> Contest:
        from mlsysopt.core.search import registry

        objective, plan = self._objective, self.plan
        rows = rows_of(
            self.entries, metric=objective.told, better=objective.better, looks=plan.looks, verified=verified
        )
        differ_s, equal = fairness(self.entries)
        cited: dict[str, Reference] = {
            reference.key: reference
            for reference in (*self.target.references, *(one for t in plan.tuners for one in registry.references(t)))
        }
        factor = len(plan.validity) > 1
        last = (
            headline(rows, better=objective.better, factor=factor)
            if verified
            else so_far(rows, plan.seconds, better=objective.better)
        )
        setting: dict[str, Any] = {
            "target": self.target.name,
            "about": str(getattr(self.target, "about", "")),
            "fingerprint": self.target.fingerprint(),
            "metric": objective.told,
            "better": objective.better,
            "seconds": plan.seconds,
            "seeds": list(plan.seeds),
            "tuners": list(plan.tuners),
            "validity": list(plan.validity),
            "looks": list(plan.looks),
            "clock": self.clock,
            "guards": [g.text() for g in self._study("", RANDOM, 0, "none", None, lambda _: None).guards],
            "knobs": list(self.target.space().names),
            "constraints": [expression.text for expression in self.target.space().constraints],
            "study": self.name,
            "store": self.store.url if self.kept else "",
            "machine": machine().text(),
            "spent_differ_s": differ_s,
            "longest_trial_s": max((entry.longest_s for entry in self.entries), default=0.0),
            "equal": equal,
        }
        notes = [*facts(setting, self.entries, self._label), *self.notes]
        return Contest(rows, last, verified, setting, tuple(notes), tuple(cited.values()))

    @property
    def _objective(self) -> Objective:
        plan = self.plan
        return parse_objectives(plan.maximize, plan.minimize, self.target.metrics(), clock=self.clock)[0]

    def _fixed_clock(self) -> Literal["wall", "cpu"]:
        """Return one clock for all studies: that of a stored one, else what the machine allows now."""
        import optuna

        for name in self._studies():
            kept = optuna.load_study(study_name=name, storage=self.store.optuna).user_attrs.get("clock")
            if kept in ("wall", "cpu"):
                return kept
        return "wall" if is_quiet() else "cpu"

    def _stored(self, study: Study) -> Any:
        return self.store.study(study.name, identity=study.identity(), directions=["maximize"], load_only=True)

    def _label(self, entry: Entry) -> str:
        return self._who(entry.tuner, entry.validity, entry.seed)

    def _who(self, tuner: str, validity: str, seed: int) -> str:
        said = f"{tuner} ({validity})" if len(self.plan.validity) > 1 else tuner
        return f"{said}, seed {seed}" if len(self.plan.seeds) > 1 else said

    def _opening(self) -> str:
        plan = self.plan
        entrants = len(plan.tuners) * len(plan.validity) * len(plan.seeds)
        return (
            f"comparing {', '.join(plan.tuners)} on {self.target.name}: "
            f"{self._objective.better} {self._objective.told}, {len(self.target.space())} knobs, "
            f"{format_seconds(plan.seconds)} each, "
            f"{format_seconds(entrants * plan.seconds)} in all, then the winners together; {self.clock} clock"
        )

    def _pass_on(self, event: Event, text: str, **data: Any) -> None:
        if event.kind != "finished":
            self._tell(event.kind, text, {**event.data, **data})

    def _tell(self, kind: Any, text: str, data: Mapping[str, Any] | None = None) -> None:
        if self.listener is not None:
            self.listener(Event(kind, text, data or {}))


def _unverified(view: TrialView, objective: Objective) -> Candidate:
    observed = math.exp(objective.sign * view.gains[0])
    return Candidate(view.number, dict(view.config), dict(view.effective), observed, {}, [], "unverified", "")


def _renamed(event: Event, names: Sequence[str]) -> str:
    """Return a line of the verification with the tuners in place of numbers."""
    said = str(event.data.get("candidate", ""))
    number = said.removeprefix("trial ")
    if event.kind != "verify" or not number.isdigit() or int(number) >= len(names):
        return f"verification: {event.text}"
    return event.text.replace(f"{said},", f"{names[int(number)]},", 1)


def _curve(
    trials: Sequence[TrialView], first_s: float, walls: Mapping[int, float], objective: Objective
) -> tuple[tuple[float, float], ...]:
    """Return (seconds spent, best ratio seen) after the default and after every trial."""
    spent, best = first_s, 0.0
    points = [(first_s, 1.0)]
    for trial in trials:
        if trial.is_default:
            continue
        spent += walls.get(trial.number, 0.0)
        if trial.feasible:
            best = max(best, trial.gains[0])
        points.append((spent, math.exp(objective.sign * best)))
    return tuple(points)


def _rounded_up(seconds: float) -> float:
    """Return a time with two digits that is not less."""
    scale = 10.0 ** (math.floor(math.log10(seconds)) - 1)
    return math.ceil(seconds / scale) * scale
