"""The study as a user writes it: what is trained, what can be off, and how it is run."""

from __future__ import annotations

import logging
import os
import statistics
import tempfile
from collections.abc import Callable, Generator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any, Self

from mlsysopt.core.errors import MlsysoptError, StudyError, near_misses
from mlsysopt.core.executors import Executor, executor
from mlsysopt.core.quantities import parse_quantity
from mlsysopt.core.store import Store
from mlsysopt.core.study.budget import Budget
from mlsysopt.design.ablate import designs, options
from mlsysopt.design.ablate.batches import two_batches
from mlsysopt.design.ablate.deltas import Component, Row, merged
from mlsysopt.design.ablate.fingerprint import Fingerprint, fingerprint
from mlsysopt.design.ablate.kit import Kit, save
from mlsysopt.design.ablate.plan import Plan, PlanRow
from mlsysopt.design.ablate.records import Records, set_aside
from mlsysopt.design.ablate.result import Result
from mlsysopt.design.ablate.running import Spending, Trainer
from mlsysopt.design.ablate.trial import in_worker, run_trial
from mlsysopt.design.ablate.verdict import looks_up_to

__all__ = ["Study", "study"]

log = logging.getLogger("mlsysopt.ablate")
DESIGNS = ("loco", "screening", "add_one_in")
SCREEN_ABOVE = 30


@dataclass(frozen=True, slots=True)
class _Modules:
    """Module selectors as they were given; they are resolved when the model exists."""

    selectors: tuple[Any, ...]
    groups: Mapping[str, Any]
    how: str


def study(make_model: Callable[..., Any], train: Callable[..., Any], data: Any = None, **settings: Any) -> Study:
    """Begin an ablation study; see `Study` for the arguments.

    >>> def train(model, data, *, seed, bonus=1.0):
    ...     return bonus + seed / 1000
    >>> study(dict, train, maximize="score").options(bonus=0.0).plan().trainings()
    (7, 21)
    """
    return Study(make_model, train, data, **settings)


class Study:
    """Which parts of a model are needed.

    Every method that names something to take away returns the study, so that calls can be chained.

    Args:
        make_model: Builds the whole model; called under the trial's seed.
        train: `train(model, data, *, seed, ...)`; returns the validation metric, or a mapping that holds it.
        data: Handed to `train`.
        maximize: Name of the metric, when more is better.
        minimize: Name of the metric, when less is better.
        margin: Largest effect that does not matter, in the metric's unit; without it no row can be
            called negligible, and useless parts run to the last seed.
        store: SQLite file or URL that keeps the trainings; None keeps them in memory.
        name: Of the study in its store.
        batch: One input of the model, or a function of (data, batch size); None looks for it in `data`.
        names: Names of the features by position, or name -> region of an image, for data that carries none.
        resolution: Smallest step of the metric; None takes the smallest difference seen.

    Raises:
        StudyError: what was given and what is allowed.
    """

    def __init__(
        self,
        make_model: Callable[..., Any],
        train: Callable[..., Any],
        data: Any = None,
        *,
        maximize: str | None = None,
        minimize: str | None = None,
        margin: float | None = None,
        store: str | Path | None = None,
        name: str = "ablation",
        batch: Any = None,
        names: Sequence[str] | Mapping[str, str] | None = None,
        resolution: float | None = None,
    ) -> None:
        if (maximize is None) == (minimize is None):
            raise StudyError("name one metric: maximize='accuracy' or minimize='loss'")
        if not callable(make_model):
            raise StudyError(f"make_model must be a function that builds the model, got {type(make_model).__name__}")
        options.check_train(train)
        options.check_numbers(margin=margin, max_seeds=3, workers=None)
        if resolution is not None and resolution < 0:
            raise StudyError(f"resolution must be at least 0, got {resolution}: the smallest step of the metric")
        self.make_model, self.train, self.given = make_model, train, data
        self.metric = str(maximize or minimize)
        self.better = "higher" if maximize is not None else "lower"
        self.margin, self.store, self.name, self.step = margin, store, name, resolution
        self.batch, self.names = batch, names
        self.variants: dict[str, Callable[..., Any]] = {}
        self._asked: list[_Modules | Component] = []
        self._pairs: list[tuple[str, str]] = []
        self.pairs_top = 0
        self._all_pairs = False
        self._design = ""
        self._planned: tuple[Plan, list[Component]] | None = None

    # --- what can be off -------------------------------------------------------------------------

    def modules(self, *selectors: Any, groups: Mapping[str, Any] | None = None, replace: str = "auto") -> Self:
        """Take modules of the model away, one row each; a group is one row.

        Args:
            selectors: `blocks.0`, `*` within a segment, `**` across, `type:Class`, `prefix:...`, a list (one
                group), or a function of (path, module).
            groups: Name -> selector; everything it matches is one component.
            replace: `auto`, `identity`, `neutral`, `linear` or `matched`.
        """
        self._add(_Modules(selectors, dict(groups or {}), replace))
        return self

    def features(self, *names: str, groups: Mapping[str, Sequence[str]] | None = None, how: str = "mean") -> Self:
        """Take input features away.

        Args:
            names: Features, one row each: names, or regions of an image (`columns:0-2`, `channel:1`, `patch:0-3,4-7`).
            groups: Name -> features that go together.
            how: `mean`, `permute`, or `drop` (`make_model` must take `features=`).

        Raises:
            StudyError: a feature that the data does not have, or a maker that takes no `features`.
        """
        if how not in ("drop", "mean", "permute"):
            raise StudyError(f"features(how={how!r}): {near_misses(how, ('drop', 'mean', 'permute'), noun='way')}")
        if how == "drop":
            options.check_keyword(self.make_model, "features", "features(how='drop')")
        wanted = [(name, [name]) for name in names] + [(name, list(them)) for name, them in (groups or {}).items()]
        from mlsysopt.design.ablate import features

        features.check(self.given, [one for _, them in wanted for one in them], names=self.names)
        for name, them in wanted:
            self._add(Component(name, "features", {"features": them, "how": how}))
        return self

    def options(self, **off: Any) -> Self:
        """Set keywords of `train` to the value that switches something off, one row each.

        Raises:
            StudyError: no such keyword, or the value is its default.
        """
        for name, value in off.items():
            options.option_off(self.train, name, value)
            self._add(Component(f"{name}={value!r}", "option", {"name": name, "value": value}))
        return self

    def data(self, *, fraction: float | Sequence[float]) -> Self:
        """Train on a part of the training rows, one row each.

        Raises:
            StudyError: a share outside (0, 1].
        """
        for share in [fraction] if isinstance(fraction, int | float) else fraction:
            if not 0.0 < share <= 1.0:
                raise StudyError(f"data fraction must be above 0 and at most 1, got {share}")
            if share < 1.0:
                self._add(Component(f"data {share:.0%}", "data", {"fraction": float(share)}))
        return self

    def variant(self, name: str, make_model: Callable[..., Any]) -> Self:
        """Add a row whose model another function builds."""
        if name in self.variants:
            raise StudyError(f"two variants are called {name!r}: give one of them another name")
        self.variants[name] = make_model
        self._add(Component(name, "variant", {"name": name}))
        return self

    def pairs(self, *which: tuple[str, str], top: int = 0, every: bool = False) -> Self:
        """Take two components away together.

        Args:
            which: Names of two components each.
            top: All pairs among so many of the largest effects, chosen after the singles.
            every: All pairs of single components.
        """
        if top == 1 or top < 0:
            raise StudyError(f"pairs(top={top}): at least 2 components make a pair")
        self._pairs += [(a, b) for a, b in which]
        self.pairs_top, self._all_pairs, self._planned = max(self.pairs_top, top), self._all_pairs or every, None
        return self

    def design(self, kind: str) -> Self:
        """Choose another design than leaving one out.

        Args:
            kind: `loco`, `screening` (many components, about as many rows), or `add_one_in`.
        """
        if kind not in DESIGNS:
            raise StudyError(f"unknown design {kind!r}; {near_misses(kind, DESIGNS, noun='design')}")
        self._design, self._planned = kind, None
        return self

    def _add(self, one: _Modules | Component) -> None:
        self._asked.append(one)
        self._planned = None

    # --- planning --------------------------------------------------------------------------------

    def plan(self, *, max_seeds: int = 10, seeds: str | int = "adaptive", strict: bool = False) -> Plan:
        """Say what will be trained, what will not, and what it costs. Nothing is trained.

        Args:
            max_seeds: Seeds at most.
            seeds: `adaptive`, or a number that every row gets.
            strict: Raise when something is refused.

        Raises:
            StudyError: nothing to take away, a name for two things, a refusal under `strict`.
        """
        looks = looks_of(seeds, max_seeds)
        if self._planned is None:
            self._planned = self._resolve(looks)
        plan, _ = self._planned
        if strict and plan.refusals:
            name, why = plan.refusals[0]
            raise StudyError(f"{len(plan.refusals)} of the components cannot be taken away (--strict): {name}: {why}")
        return replace(plan, looks=looks, seconds=self._seconds())

    def _seconds(self) -> float | None:
        """Return the CPU seconds of a training, where the store knows some."""
        if self.store is None or "://" in str(self.store) or not Path(self.store).exists():
            return None
        try:
            with Store.open(self.store, create=False, read_only=True) as store:
                found = [float(trial["cpu_s"]) for trial in Records(store, self.name).trials()]
        except MlsysoptError:
            # What is wrong with the store is said when it is used.
            return None
        return statistics.median(found) if found else None

    def _resolve(self, looks: tuple[int, ...]) -> tuple[Plan, list[Component]]:
        from mlsysopt.design.ablate.proving import Proving

        proving = Proving(self)
        components: list[Component] = []
        for one in self._asked:
            components += proving.components(one.selectors, one.groups, one.how) if isinstance(one, _Modules) else [one]
        if not components:
            raise StudyError("nothing is to be taken away: name modules(...), features(...), options(...) or data(...)")
        components = merged(components)
        rows: list[PlanRow] = []
        kept: list[Component] = []
        refusals: list[tuple[str, str]] = []
        for one in components:
            row, refusal = proving.row(one)
            if refusal:
                refusals.append((one.name, refusal))
            else:
                rows.append(row)
                kept.append(one)
        design = self._rows(kept) if kept else designs.loco([])
        warnings = self._warnings(len(kept))
        return Plan(tuple(rows), design, tuple(refusals), tuple(warnings), looks, modules=proving.listing()), kept

    def _rows(self, components: list[Component]) -> designs.Design:
        if self._design == "screening":
            return designs.screening(components)
        design = designs.loco(components)
        if self._design == "add_one_in":
            extra = designs.add_one_in(components)
            design = design.plus(extra.rows, extra.questions, 0)
        by_name = {one.name: one for one in components}
        asked: list[tuple[Row, designs.Question]] = []
        for a, b in self._pairs:
            for name in (a, b):
                if name not in by_name:
                    raise StudyError(f"pairs: {name!r} is no component; {near_misses(name, by_name, noun='component')}")
            asked.append(designs.pair(by_name[a], by_name[b]))
        if self._all_pairs:
            asked += designs.all_pairs(components)
        asked = list({question.name: (row, question) for row, question in asked}.values())
        top = min(self.pairs_top, len(components))
        return design.plus([row for row, _ in asked], [q for _, q in asked], top * (top - 1) // 2)

    def _warnings(self, components: int) -> list[str]:
        found: list[str] = []
        if self.margin is None:
            found.append("no margin: no row can be called negligible, and parts without effect run to the last seed")
        elif self.step is not None and self.step > self.margin:
            found.append(f"the metric moves in steps of {self.step:g}, more than the margin {self.margin:g}")
        if components > SCREEN_ABOVE and self._design != "screening":
            found.append(
                f"{components} components: design('screening') needs about {components + 4} rows and fewer seeds"
            )
        return found

    def module_paths(self) -> tuple[str, ...]:
        """Return the paths of all modules of the model."""
        from mlsysopt.design.ablate.proving import Proving

        proving = Proving(self)
        proving.model()
        return proving.listing()

    def components(self) -> list[Component]:
        """Return the components that can be taken away, in the order of the plan."""
        self.plan()
        assert self._planned is not None
        return self._planned[1]

    def fingerprint(self) -> Fingerprint:
        """Return the identity of code and data."""
        return fingerprint([self.make_model, self.train, *self.variants.values()], self.given)

    def kit(self) -> Kit:
        """Return what a training needs."""
        kit = Kit(self.make_model, self.train, self.given, self.metric, self.variants, names=self.names)
        if any(one.kind == "modules" for one in self.components()):
            kit.batch, kit.second_batch = two_batches(self.given, self.batch)
        return kit

    # --- running ---------------------------------------------------------------------------------

    def run(
        self,
        *,
        seeds: str | int = "adaptive",
        max_seeds: int = 10,
        first_seed: int = 0,
        workers: int | None = None,
        executor: str | Executor | None = None,
        budget: str | int | float | None = None,
        timeout: str | float | None = None,
        memory: str | int | None = None,
        strict: bool = False,
        new_store: bool = False,
        inference: bool = True,
        tell: Callable[[str], None] | None = None,
        recipe: Mapping[str, Any] | None = None,
    ) -> Result:
        """Train until every row has its word, the seeds are used up, or the budget ends.

        Run again with the same store, it goes on where it was: no row is trained twice with one seed.

        Args:
            seeds: `adaptive`, or a number that every row gets.
            max_seeds: Seeds at most, at least 3.
            first_seed: Seeds are counted from here.
            workers: Processes; 0 trains in this one, None takes all cores.
            executor: `inprocess`, `local`, `ray`, or an executor; None takes `workers`.
            budget: Trainings (200) or time (5min); None is no limit.
            timeout: Longest training (30s); each one then has a process of its own.
            memory: Largest memory of a training (2GiB); the same.
            strict: Refuse to start when a component is refused.
            new_store: Put an existing store aside and begin anew.
            inference: Compare inference CPU time for negligible modules at the end.
            tell: Called with one line per training.
            recipe: Kept in the store, so that the command line can resume.

        Raises:
            StudyError: what was given and what is allowed.
            StoreError: the store holds trainings of other code or data.
        """
        from mlsysopt.design.ablate.campaign import Campaign

        plan = self.plan(max_seeds=max_seeds, seeds=seeds, strict=strict)
        if not plan.rows:
            name, why = plan.refusals[0]
            raise StudyError(f"nothing is left to train: {name}: {why}")
        if new_store and (aside := set_aside(self.store)) is not None:
            log.warning("the old store is kept as %s", aside)
        space = plan.design.space(first_seed + max(plan.looks)).to_json()
        with self.trainer(
            workers=workers, executor=executor, budget=budget, timeout=timeout, memory=memory, tell=tell,
            recipe={**dict(recipe or {}), "space": space},
        ) as trainer:  # fmt: skip
            result = Campaign(self, plan, trainer, first_seed=first_seed, inference=inference).run()
            trainer.records.keep("result", {"result": result.to_json()})
            return result

    @contextmanager
    def trainer(
        self,
        *,
        workers: int | None = None,
        executor: str | Executor | None = None,
        budget: str | int | float | None = None,
        timeout: str | float | None = None,
        memory: str | int | None = None,
        tell: Callable[[str], None] | None = None,
        recipe: Mapping[str, Any] | None = None,
    ) -> Generator[Trainer]:
        """Open the store and the workers; see `run` for the arguments."""
        options.check_numbers(margin=self.margin, max_seeds=3, workers=workers)
        timeout_s = None if timeout is None else float(parse_quantity(timeout, kind="seconds"))
        memory_bytes = None if memory is None else int(parse_quantity(memory, kind="bytes"))
        spending, print_of = _spending(budget), self.fingerprint()
        with Store.open(self.store) as store:
            records = Records(store, self.name)
            records.claim(print_of, {**dict(recipe or {}), "metric": self.metric, "better": self.better})
            try:
                with self._pool(executor, workers) as (pool, fn, at_once):
                    yield Trainer(
                        pool,
                        fn,
                        records,
                        print_of.digest(),
                        spending,
                        at_once,
                        timeout_s,
                        memory_bytes,
                        tell or _silent,
                        owns_executor=executor is None or isinstance(executor, str),
                    )
            finally:
                records.release()

    @contextmanager
    def _pool(
        self, given: str | Executor | None, workers: int | None
    ) -> Generator[tuple[Executor, Callable[[Any], dict[str, Any]], int]]:
        count = len(os.sched_getaffinity(0)) if workers is None else workers
        if given == "inprocess" or (given is None and count == 0):
            with executor("inprocess") as pool:
                yield pool, partial(run_trial, self.kit()), 1
            return
        with tempfile.TemporaryDirectory(prefix="mlsysopt-ablate-") as folder:
            save(self.kit(), Path(folder))
            fn = partial(in_worker, folder)
            if given is None or isinstance(given, str):
                settings = {} if given == "inprocess" else {"workers": max(1, count)}
                with executor(given or "local", **settings) as pool:
                    yield pool, fn, max(1, count)
            else:
                yield given, fn, max(1, count)

    def prune(self, result: Result, **settings: Any) -> Result:
        """Drop the least needed components one after another while the total effect stays inside the margin.

        What is left is verified with fresh seeds; see `Pruning`.

        Raises:
            StudyError: the study has no margin.
        """
        from mlsysopt.design.ablate.pruning import prune

        return prune(self, result, **settings)


def looks_of(seeds: str | int, max_seeds: int) -> tuple[int, ...]:
    """Return the looks of a run.

    Raises:
        StudyError: neither `adaptive` nor a number from 3.
    """
    if seeds == "adaptive":
        options.check_numbers(margin=None, max_seeds=max_seeds, workers=None)
        return looks_up_to(max_seeds)
    if not str(seeds).isdigit() or int(seeds) < 3:
        raise StudyError(f"seeds must be 'adaptive' or a number from 3, got {seeds!r}")
    return (int(seeds),)


def _spending(budget: str | int | float | None) -> Spending:
    if budget is None:
        return Spending()
    parsed = Budget.parse(budget)
    return Spending(parsed.trials, parsed.seconds)


def _silent(line: str) -> None:
    log.info("%s", line)
