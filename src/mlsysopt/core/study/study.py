"""A study: target, space, guards, sampler and store; measured, searched and verified.

A run measures the default, runs trials that are told as log ratios to the default run beside
them, and verifies the best candidates in fresh interleaved rounds. What it reports is verified.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Generator, Iterable, Mapping, Sequence
from contextlib import AbstractContextManager, ExitStack, contextmanager, nullcontext
from copy import copy
from dataclasses import asdict, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from mlsysopt.core.errors import StudyError
from mlsysopt.core.measure import machine
from mlsysopt.core.processes import exclusive_slot, sweep_orphans
from mlsysopt.core.space import Space
from mlsysopt.core.store import Store
from mlsysopt.core.study import crew, unfinished, verdicts
from mlsysopt.core.study.budget import Budget
from mlsysopt.core.study.events import Event, Listener
from mlsysopt.core.study.guards import Guard, parse_guards
from mlsysopt.core.study.judging import Verification
from mlsysopt.core.study.learning import PROBING_SHARE, Learner, evidence_of_probes, learned_rules, owed_s
from mlsysopt.core.study.loop import SharedCanary, TrialLoop
from mlsysopt.core.study.measuring import Measurer
from mlsysopt.core.study.minimal import ROUNDS, Minimal, find_minimal
from mlsysopt.core.study.noise import typical
from mlsysopt.core.study.objectives import parse_objectives
from mlsysopt.core.study.opening import Clock, Opened, enter, make_sampler
from mlsysopt.core.study.pareto import front
from mlsysopt.core.study.rating import Rating
from mlsysopt.core.study.result import Candidate, Result, Status
from mlsysopt.core.study.trials import TrialView, counts, given, views
from mlsysopt.core.study.turns import Turns
from mlsysopt.core.study.verification import looks_for, ranked
from mlsysopt.core.target import Limits, Purpose, Session, Target

if TYPE_CHECKING:
    import optuna

    from mlsysopt.core.study.explanation import Explanation

__all__ = ["Study"]

log = logging.getLogger("mlsysopt.study")

MOST_CANDIDATES = 3


class Study:
    """One search over one target.

    Args:
        target: What is tuned.
        maximize: Metric, or several, to make larger.
        minimize: Metric, or several, to make smaller.
        guard: Metric -> limit (`"<= 1.1x"`, `"<= 256MiB"`, `"off"`), over the target's own guards.
        sampler: Name of a registered sampler, or any Optuna sampler.
        store: Path of a SQLite file, database URL, or None to keep everything in memory.
        name: Name of the study in the store; None means the target's name.
        seed: Seed of every random stream.
        limits: What a child of the target may use.
        validity: "learned" keeps any sampler to what is likely to work and looks into failures by probes;
            "none" does not; "auto" is learned for a target that can be probed.
        charged_s: Seconds of a budget that were used before the study, by a search for valid ranges.
        clock: "auto" tells samplers wall ratios on a quiet machine and CPU ratios otherwise.
        recipe: JSON from which the command line can build the target again on resume.
        on_event: Called with every `Event`.

    Raises:
        StudyError: unknown metric, guard or sampler.

    References:
        Alabed, Yoneki, High-Dimensional Bayesian Optimization with Multi-Task Learning for
        RocksDB, EuroMLSys 2021, for the tuning loop; canaries, racing and verification are ours.
    """

    def __init__(
        self,
        target: Target,
        *,
        maximize: str | Sequence[str] | None = None,
        minimize: str | Sequence[str] | None = None,
        guard: Mapping[str, str | None] | Iterable[str] | None = None,
        sampler: Any = "auto",
        store: str | Path | None = None,
        name: str | None = None,
        seed: int = 0,
        limits: Limits | None = None,
        validity: Literal["auto", "learned", "none"] = "auto",
        charged_s: float = 0.0,
        clock: Clock | Literal["auto"] = "auto",
        recipe: Mapping[str, Any] | None = None,
        on_event: Listener | None = None,
    ) -> None:
        self.target = target
        self.space: Space = target.space()
        self.name = name or target.name
        self.seed = int(seed)
        self.sampler = sampler
        self.guards: tuple[Guard, ...] = parse_guards(guard, target.guards, target.metrics())
        self._maximize, self._minimize = maximize, minimize
        self._clock: Clock | Literal["auto"] = clock
        parse_objectives(maximize, minimize, target.metrics(), clock="wall")
        if isinstance(sampler, str) and sampler != "auto":
            from mlsysopt.core.search import registry

            registry.check(sampler)
        self._where = store
        self._memory: Store | None = None
        self._limits = limits or Limits()
        self._learns = validity == "learned" or (validity == "auto" and getattr(target, "learns_validity", False))
        self._charged_s = charged_s
        self._recipe = dict(recipe) if recipe is not None else None
        self._listener = on_event

    # --- opening ---------------------------------------------------------------------------------

    def identity(self) -> dict[str, Any]:
        """Return what two studies must share to share a store entry."""
        asked = parse_objectives(self._maximize, self._minimize, self.target.metrics(), clock="wall")
        return {
            "target": {"name": self.target.name, **self.target.fingerprint()},
            "space": self.space.identity(),
            "objectives": [f"{objective.better} {objective.metric}" for objective in asked],
        }

    def open_store(self) -> Store:
        """Open the store; one that lives in memory lives as long as this object."""
        if self._where is not None:
            return Store.open(self._where)
        if self._memory is None:
            self._memory = Store.open(None)
        return self._memory

    def _borrowed(self) -> AbstractContextManager[Store]:
        """Return the store for a while: one with a place is closed afterwards, one in memory is kept."""
        store = self.open_store()
        return store if self._where is not None else nullcontext(store)

    def _enter(self, stack: ExitStack) -> Opened:
        store = stack.enter_context(self._borrowed())
        facts = {
            "seed": self.seed,
            "sampler": self._sampler_name(),
            "guards": [guard.text() for guard in self.guards],
            "space": self.space.to_json(),
            **({"recipe": self._recipe} if self._recipe is not None else {}),
        }
        return enter(
            store,
            self.name,
            self.identity(),
            clock=self._clock,
            objectives=lambda clock: parse_objectives(
                self._maximize, self._minimize, self.target.metrics(), clock=clock
            ),
            facts=facts,
            sampler=lambda worker, trials: make_sampler(
                self.sampler,
                space=self.space,
                seed=self.seed,
                worker=worker,
                trials=trials,
                knowledge=getattr(self.target, "subgoals", None),
                probes=(lambda: evidence_of_probes(store.measurements(self.name, role="probe")))
                if self._learns
                else None,
            ),
        )

    def _sampler_name(self) -> str:
        return self.sampler if isinstance(self.sampler, str) else str(self.sampler)

    # --- running ---------------------------------------------------------------------------------

    def run(
        self,
        budget: Budget | int | float | str = 20,
        *,
        verify: bool = True,
        workers: int = 1,
        executor: str = "local",
    ) -> Result:
        """Search within a budget, then verify; the same call again goes on where it stopped.

        Args:
            budget: Trials in all, the default included (`20`), or time (`"4min"`). Several workers may
                finish a trial each beyond a number of trials.
            verify: Whether to verify the best candidates at the end.
            workers: Processes that run trials on the store; measurements on one machine still come one
                after the other. The verification is this process's.
            executor: Where workers run: `local`, or `ray`, whose machines measure at the same time.

        Returns:
            The verified result. Ctrl-C ends the search cleanly with status `interrupted`.

        Raises:
            StudyError: the budget is too small for one trial and its verification, or several workers
                without a store that they can share.
            TargetError: the default itself fails three times in a row.
            InfrastructureError: the machine failed twice in a row.
        """
        plan = Budget.parse(budget)
        crew.check(workers, executor, shared=self._where is not None)
        with ExitStack() as stack:
            for what in sweep_orphans():
                self._note(f"swept what a dead run left behind: {what}")
            opened = self._enter(stack)
            trials = self._trials(opened.optuna)
            spent = self._spent(opened)
            self._say_started(opened, plan, trials)
            try:
                loop = self._search(opened, plan, spent, workers, executor)
                known = verdicts.stored_verdict(opened.optuna)
                if verify and known is not None and verdicts.judges(known, self._trials(opened.optuna)):
                    self._note("nothing left to do: this is the stored result; `verify` measures it again")
                    return self._finished(replace(known, study=self))
                left = None if plan.seconds is None else max(plan.seconds - loop.elapsed_s, loop.run_s * 12)
                result = (
                    self._verify(opened, None, left, budget=plan.text())
                    if verify
                    else self._result(opened, "unverified", [])
                )
            except KeyboardInterrupt:
                result = self._result(opened, "interrupted", [])
            verdicts.keep(opened.optuna, result)
        return self._finished(result)

    def _search(self, opened: Opened, plan: Budget, spent: float, workers: int, place: str) -> TrialLoop:
        with self._measurer(opened, "search") as measurer:
            loop = self._loop(opened, plan, measurer, spent)
            loop.prepare()
            if unfinished.searched(opened.optuna, plan.text()):
                return loop
            if workers == 1:
                loop.run()
        if workers > 1:
            try:
                crew.search(loop, self._worker(plan), workers=workers, place=place)
            finally:
                loop.sweep()
            # What a worker that died has left undone.
            with self._measurer(opened, "search") as measurer:
                loop.measurer = measurer
                loop.run()
        return loop

    def _worker(self, plan: Budget) -> Callable[[], None]:
        """Return what a worker runs: this study without what belongs to this process."""
        sent = copy(self)
        sent._listener = None

        def work() -> None:
            if not isinstance(sent.sampler, str):
                # A copy of a sampler has a copy of its random stream.
                sent.sampler.reseed_rng()
            with ExitStack() as stack:
                opened = sent._enter(stack)
                with sent._measurer(opened, "search") as measurer:
                    loop = sent._loop(opened, plan, measurer, sent._spent(opened))
                    loop.prepare()
                    loop.run()

        return work

    def verify(self, *, top: int = 1, rounds: int | None = None) -> Result:
        """Verify the best candidates of a study that has trials.

        A verification that was stopped, by Ctrl-C or a kill, goes on with its finished rounds when the
        same one is asked for again on the same machine and file system. A stored verdict stays until there
        is a new one.

        Args:
            top: How many are verified together, corrected by Holm; 1 tests them in order.
            rounds: Largest number of rounds; None means up to 20, stopping when decided.

        Raises:
            StudyError: the study has no trials, or fewer than 6 rounds are asked for.
        """
        looks_for(rounds)
        with ExitStack() as stack:
            opened = self._enter(stack)
            if not self._trials(opened.optuna):
                raise StudyError(f"study {self.name!r} has no trials yet; run it first")
            try:
                result = self._verify(opened, rounds, None, top=top)
            except KeyboardInterrupt:
                result = self._result(opened, "interrupted", [])
            verdicts.keep(opened.optuna, result)
        return self._finished(result)

    def judge(
        self,
        configs: Sequence[Mapping[str, Any]],
        *,
        session: Session | None = None,
        rounds: int | None = None,
        seconds: float | None = None,
        early: bool = True,
    ) -> list[Candidate]:
        """Verify given configurations against the default, all in the same interleaved rounds.

        Nothing is stored but the rounds: a judgement that was stopped goes on with those it finished.

        Args:
            configs: Valid configurations; `Candidate.trial` is the place in this list.
            session: An open session to use; None opens one.
            rounds: Largest number of rounds; None means up to 20, stopping when decided.
            seconds: Time for all of it; None means the looks alone decide.
            early: Whether it may stop, and leave out who is decided, before `rounds` are over.

        Raises:
            StudyError: fewer than 6 rounds are asked for.
            SpaceError: a configuration that is not valid.
        """
        looks = looks_for(rounds)
        looks = looks if early else looks[-1:]
        for config in configs:
            self.space.check(config)
        candidates = [given(number, config, self.space) for number, config in enumerate(configs)]
        with ExitStack() as stack:
            opened = self._enter(stack)
            measurer = (
                stack.enter_context(self._measurer(opened, "verify"))
                if session is None
                else self._measuring(opened, session)
            )
            done = self._verification(opened, measurer).run(candidates, max(2, len(candidates)), looks, seconds)
            # Asked again, it is measured again.
            unfinished.close(opened.optuna)
            return done

    @contextmanager
    def turns(
        self, budget: Budget | int | float | str, *, session: Session, canaries: SharedCanary | None = None
    ) -> Generator[Turns]:
        """Run the study a trial at a time, on a session that several studies share.

        Args:
            budget: Trials, or seconds in which the target is occupied; nothing is set aside for a
                verification.
            session: An open session of the target.
            canaries: Runs of the default that the studies share; None gives every trial one of its own.
        """
        plan = Budget.parse(budget)
        with ExitStack() as stack:
            opened = self._enter(stack)
            measurer = self._measuring(opened, session)
            loop = self._loop(opened, plan, measurer, self._spent(opened))
            loop.clock, loop.verifies, loop.canaries = (lambda: measurer.occupied_s), False, canaries
            yield Turns(self.name, opened, loop)

    def _loop(self, opened: Opened, plan: Budget, measurer: Measurer, spent: float) -> TrialLoop:
        loop = TrialLoop(
            study=opened.optuna,
            store=opened.store,
            target=self.target,
            space=self.space,
            measurer=measurer,
            rating=self._rating(opened),
            budget=plan,
            seed=self.seed,
            worker=opened.worker,
            machine=opened.store.machine_key,
            tell_listener=self._emit,
            spent_s=spent,
        )
        if self._learns and measurer.prober is not None:
            loop.learner = self._learner(opened, loop)
        return loop

    def _learner(self, opened: Opened, loop: TrialLoop) -> Learner:
        plan = loop.budget
        probed_s = sum(row.wall_s for row in opened.store.measurements(self.name, role="probe"))

        def trial_s() -> float:
            # A budget of trials becomes time by what a run of the default takes, its canary beside it.
            return 2.0 * loop.run_s

        def most_s() -> float:
            budget_s = plan.seconds if plan.seconds is not None else (plan.trials or 0) * trial_s()
            return PROBING_SHARE * budget_s - self._charged_s

        def owed() -> float:
            rows = opened.store.measurements(self.name)
            return owed_s(rows, trial_s=trial_s() if plan.trials is not None else None)

        return Learner(loop.measurer, most_s=most_s, owed_s=owed, spent_s=probed_s)

    def _rating(self, opened: Opened) -> Rating:
        return Rating(self.target, self.space, opened.objectives, self.guards)

    @contextmanager
    def _measurer(self, opened: Opened, purpose: Purpose) -> Generator[Measurer]:
        with self.target.session(self._limits, purpose=purpose) as session:
            yield self._measuring(opened, session)

    def _measuring(self, opened: Opened, session: Session) -> Measurer:
        return Measurer(
            store=opened.store,
            study=self.name,
            target=self.target,
            session=session,
            worker=opened.worker,
            machine=opened.store.machine_key,
            exclusive=exclusive_slot,
        )

    def _verify(
        self,
        opened: Opened,
        rounds: int | None,
        seconds: float | None,
        *,
        top: int = 1,
        budget: str | None = None,
    ) -> Result:
        trials = self._trials(opened.optuna)
        first, *others = opened.objectives
        candidates = front(trials) if others else ranked(trials, first)
        candidates = candidates[: max(top, MOST_CANDIDATES)]
        top = len(candidates) if others else top
        if not candidates:
            return self._result(opened, "not proven", [], "no trial was better than the default within its guards")
        looks = looks_for(rounds)
        with self._measurer(opened, "verify") as measurer:
            done = self._verification(opened, measurer).run(candidates, top, looks, seconds, budget)
        proven = [candidate for candidate in done if candidate.verdict == "proven"]
        if proven:
            return self._result(opened, "proven", done, winner=proven[0])
        return self._result(opened, "not proven", done, "; ".join(_why(candidate) for candidate in done))

    def _verification(self, opened: Opened, measurer: Measurer) -> Verification:
        return Verification(
            study=self.name,
            seed=self.seed,
            space=self.space,
            opened=opened,
            rating=self._rating(opened),
            measurer=measurer,
            tell_listener=self._emit,
        )

    # --- reading ---------------------------------------------------------------------------------

    def trials(self) -> list[TrialView]:
        """Return every trial of the study so far."""
        with self._borrowed() as store:
            study = store.study(
                self.name,
                identity=self.identity(),
                directions=["maximize"] * len(self.identity()["objectives"]),
                load_only=True,
            )
            return self._trials(study)

    def write(self, result: Result, path: str | Path) -> Path:
        """Write the verified configuration in the form that the system reads; the default if none is proven."""
        destination = Path(path)
        self.target.export(result.config, destination)
        return destination

    def explain(self, result: Result | None = None) -> Explanation:
        """Say which knobs moved which metric, from the stored trials.

        Args:
            result: What was verified; None takes the study's last result.

        Raises:
            StudyError: the study has no result yet.
        """
        from mlsysopt.core.study.explanation import explain

        known = result or self._last_result()
        return explain(known, self.trials(), self.space, self.target.metrics(), seed=self.seed)

    def minimal(self, result: Result | None = None, *, rounds: int = ROUNDS, session: Session | None = None) -> Minimal:
        """Find the smallest set of the winner's changes that keeps 90 % of its gain, in one joint verification.

        Args:
            result: With a winner; None takes the study's last result.
            rounds: Rounds of the verification.
            session: An open session of the target; None opens one.

        Raises:
            StudyError: nothing was proven, or only one knob was changed.
        """
        return find_minimal(result or self._last_result(), self, self.trials(), rounds=rounds, session=session)

    def report(self, result: Result | None, folder: str | Path, *, command: str = "") -> Path:
        """Write the report folder of a result and return its `index.html`."""
        from mlsysopt.core.study.reporting import write_report

        known = result or self._last_result()
        with self._borrowed() as store:
            rows = store.measurements(self.name)
        return write_report(known, self, self.trials(), rows, Path(folder), command=command)

    def _last_result(self) -> Result:
        with self._borrowed() as store:
            result = verdicts.stored_result(store, store.find(self.name))
        if result is None:
            raise StudyError(f"study {self.name!r} has no result yet; run it to its end first")
        return replace(result, study=self)

    def _trials(self, study: optuna.Study) -> list[TrialView]:
        return views(study.get_trials(deepcopy=False))

    def _spent(self, opened: Opened) -> float:
        """Seconds that earlier runs on this machine took; a time budget goes on from there."""
        rows = opened.store.measurements(self.name)
        own = [row for row in rows if row.machine == opened.store.machine_key and row.role != "verify"]
        return self._charged_s + sum(row.wall_s for row in own)

    def _result(
        self,
        opened: Opened,
        status: Status,
        candidates: Sequence[Candidate],
        reason: str = "",
        *,
        winner: Candidate | None = None,
    ) -> Result:
        trials = self._trials(opened.optuna)
        rows = opened.store.measurements(self.name, role="baseline")
        several = len(opened.objectives) > 1
        return Result(
            status=status,
            reason=reason or verdicts.default_reason(status, trials, verdicts.stored_verdict(opened.optuna)),
            objectives=tuple(objective.told for objective in opened.objectives),
            winner=winner,
            candidates=tuple(candidates),
            counts=counts(trials),
            baseline=typical([row.metrics for row in rows if row.metrics is not None]),
            setting={
                "study": self.name,
                "store": opened.store.url,
                "target": self.target.name,
                "fingerprint": self.target.fingerprint(),
                "sampler": self._sampler_name(),
                "seed": self.seed,
                "clock": opened.clock,
                "guards": [guard.text() for guard in self.guards],
                "machine": machine().text(),
            },
            study=self,
            pareto=tuple(
                {"trial": view.number, "config": dict(view.config), "gains": list(view.gains)}
                for view in (front(trials) if several else ())
            ),
            rules=self._rules(opened),
        )

    def _rules(self, opened: Opened) -> tuple[dict[str, Any], ...]:
        """Return what was learned about which configurations work; nothing where nobody was to learn."""
        if not self._learns:
            return ()
        trials, rows = opened.optuna.get_trials(deepcopy=False), opened.store.measurements(self.name, role="probe")
        return tuple(asdict(rule) for rule in learned_rules(self.space, trials, rows))

    def _finished(self, result: Result) -> Result:
        self._emit(Event("finished", result.text(), {"result": result.to_json()}))
        return result

    # --- telling ---------------------------------------------------------------------------------

    def _say_started(self, opened: Opened, plan: Budget, trials: Sequence[TrialView]) -> None:
        so_far = f", resumed after {len(trials)} trials" if trials else ""
        metrics = ", ".join(f"{o.better} {o.told}" for o in opened.objectives)
        self._emit(
            Event(
                "started",
                f"tuning {self.target.name}: {metrics}, {len(self.space)} knobs, budget {plan.text()}, "
                f"{opened.clock} clock{so_far}",
                {
                    "target": self.target.name,
                    "knobs": list(self.space.names),
                    "budget_trials": plan.trials,
                    "budget_s": plan.seconds,
                    "clock": opened.clock,
                    "worker": opened.worker,
                    "trials": len(trials),
                    "objectives": [objective.told for objective in opened.objectives],
                },
            )
        )

    def _note(self, text: str) -> None:
        self._emit(Event("note", text))

    def _emit(self, event: Event) -> None:
        log.info("%s", event.text)
        if self._listener is not None:
            self._listener(event)


def _why(candidate: Candidate) -> str:
    return f"trial {candidate.trial} {candidate.verdict} ({candidate.reason})"
