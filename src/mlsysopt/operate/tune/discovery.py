"""Which ranges a server really takes, on this machine: found by starting it, without any load."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import TYPE_CHECKING, Any

from mlsysopt.core.errors import InfrastructureError, UsageError, near_misses
from mlsysopt.core.quantities import parse_quantity
from mlsysopt.core.space import Bool, Choice, Float, Int
from mlsysopt.core.study.events import Event, Listener
from mlsysopt.core.target import Failure, Limits, Outcome, Value
from mlsysopt.operate.tune.bisection import Ask, Verdict
from mlsysopt.operate.tune.range_search import RangeSearch, said
from mlsysopt.operate.tune.ranges import Discovery, FoundBound, excluded, narrowed, notes_of

if TYPE_CHECKING:
    from mlsysopt.core.store import Store
    from mlsysopt.operate.tune.server_target import ServerTarget
    from mlsysopt.operate.tune.session import ServerSession

__all__ = ["discover", "known"]

ROOM = "tune ranges"
"""Where the probes are kept in a store."""

_SANITY_EVERY = 10
# Pauses before the default is tried again: what spoils starts may be about to end.
_PAUSES_S = (0.0, 0.5, 2.0)
_SPOILT_TRIES = 3
_ORDER = {"start": 0, "outward": 1, "choice": 1, "bisection": 2, "check": 3}


def discover(
    target: ServerTarget,
    *,
    budget: str | float = "45s",
    knobs: Sequence[str] | None = None,
    store: Store | str | Path | None = None,
    again: bool = False,
    on_event: Listener | None = None,
) -> Discovery:
    """Find the ranges that a server takes, one knob at a time, the others at their defaults.

    From the default outward by factors 4, 16, 256, 2^16 until the server refuses, or until the bound in its own
    listing, the memory budget (sizes) or a factor of 2^20; then bisection to a factor of 1.5, and a check on each
    side of the end. Other choices and special values are tried once. Refusals count only while the default still
    starts: it is started after every killed start, every refusal that does not name the knob, and every tenth
    probe.

    "Starts" is not "safe": a server may accept what it cannot honour under load. What runs well is for trials to
    find out, and combinations of knobs for the rules that they teach.

    Args:
        target: What is started, in a session of its own.
        budget: Seconds. When they are over, every range is what has been seen to start so far; 0 probes nothing
            and returns what the store knows.
        knobs: Parameters of the target's space; None means all.
        store: Where probes are kept: those of this machine are not repeated. None means the user's own.
        again: Probe anew what is known.
        on_event: Told of every finished range.

    Returns:
        What was found; `target` in it has the new space.

    Raises:
        UsageError: an unknown knob.
        InfrastructureError: the default no longer starts.
        TargetError: the default has never started.
    """
    began = time.monotonic()
    budget_s = float(parse_quantity(budget, kind="seconds"))
    with ExitStack() as stack:
        opened = stack.enter_context(_open(store)) if not _is_store(store) else store
        searches = [RangeSearch(target, name) for name in _chosen(target, knobs)]
        run = _Run(target, searches, opened, stack, on_event or _nobody)
        if not again:
            run.remember()
        run.go(began + budget_s)
        found = tuple(one.found() for one in searches)
    changed = target.with_space(narrowed(target.space(), found))
    complete = all(one.complete for one in found)
    seconds = time.monotonic() - began
    return Discovery(changed, found, run.probes, seconds, run.voided, complete, notes_of(found))


def known(target: ServerTarget, store: Store | str | Path | None = None) -> ServerTarget:
    """Return a target with the ranges that a store knows for this machine; nothing is started."""
    return discover(target, budget=0.0, store=store).target


def _chosen(target: ServerTarget, knobs: Sequence[str] | None) -> list[str]:
    space = target.space()
    for name in knobs or ():
        if name not in space:
            raise UsageError(f"{name!r} is not tuned here; {near_misses(name, space.names, noun='knob')}")
    wanted = space.names if knobs is None else tuple(dict.fromkeys(knobs))
    return [name for name in wanted if isinstance(space[name], Int | Float | Bool | Choice)]


def _is_store(store: Store | str | Path | None) -> bool:
    return store is not None and not isinstance(store, str | Path)


def _open(store: Any) -> Any:
    from mlsysopt.core.places import state_dir
    from mlsysopt.core.store import Store

    return Store.open(store if store is not None else state_dir() / "ranges.db")


def _nobody(_: Event) -> None: ...


class _Run:
    """One run over all knobs: which probe is next, whether the machine can be trusted, what is kept."""

    def __init__(
        self, target: ServerTarget, searches: Sequence[RangeSearch], store: Any, stack: ExitStack, tell: Listener
    ) -> None:
        self.probes = self.voided = 0
        self._target, self._searches, self._store, self._stack, self._tell = target, searches, store, stack, tell
        self._session: ServerSession | None = None
        self._fresh: list[tuple[RangeSearch, Any]] = []
        self._spoilt: dict[tuple[str, Any], int] = {}
        self._since = 0
        self._id = time.time()
        self._told: set[tuple[str, str]] = set()

    def remember(self) -> None:
        """Take the probes of this machine from the store, those of the last run of each knob."""
        for one in self._searches:
            rows = [
                sample.row for sample in self._store.samples(ROOM, one.key) if sample.machine == self._store.machine_key
            ]
            one.run = max((row["run"] for row in rows), default=0.0)
            one.learn({row["value"]: _from_row(row) for row in rows if row["run"] == one.run})
            # What contradicted itself twice is not asked a third time.
            one.doubted = {side for side, end in one.found().sides.items() if end.contradiction}
        self._told = {(one.name, side) for one in self._searches for side in _finished(one.found())}

    def go(self, deadline: float) -> None:
        """Probe until nothing is left to ask, or time is up."""
        while (chosen := self._next()) is not None and time.monotonic() < deadline:
            search, ask = chosen
            self._probe(search, ask.value)
            if self._next() is None:
                # What was refused since the last sanity probe may have been the machine: then it is asked again.
                self._settle()
        self._settle()

    def _next(self) -> tuple[RangeSearch, Ask] | None:
        asked = [(one, ask) for one in self._searches for ask in one.asks()]

        def rank(pair: tuple[RangeSearch, Ask]) -> tuple[Any, ...]:
            one, ask = pair
            order = _ORDER[ask.phase]
            # A running server answers at once, and would have to be stopped in between.
            return not one.live, order, len(one.tried) if order < 2 else 0, -ask.width

        return min(asked, key=rank) if asked else None

    def _probe(self, one: RangeSearch, value: Any) -> None:
        outcome = self._start({one.name: value})
        if isinstance(outcome, Failure) and not outcome.blames_config:
            self.voided += 1
            tries = self._spoilt[one.name, value] = self._spoilt.get((one.name, value), 0) + 1
            self._check()
            if tries < _SPOILT_TRIES:
                return
        verdict = one.verdict(value, outcome)
        one.learn({value: verdict})
        one.doubt()
        self._fresh.append((one, value))
        if one.live and verdict.kind not in ("timeout", "crashed"):
            return
        self._since += 1
        named = one.name in (outcome.extra.get("named", ()) if isinstance(outcome, Failure) else ())
        unsure = not verdict.ok and verdict.used is None and (not named or verdict.kind in ("timeout", "degraded"))
        if unsure or self._since >= _SANITY_EVERY:
            self._check()

    def _start(self, config: Mapping[str, Value]) -> Outcome:
        if self._session is None:
            self._session = self._stack.enter_context(self._target.session(Limits()))
        self.probes += 1
        return self._session.probe(config)

    def _check(self) -> None:
        """Start the default: keep what was found since the last time if it starts, forget it if it does not.

        A session takes a new data folder after every failure, so trying again is also cleaning up.

        Raises:
            InfrastructureError: it does not start any more.
        """
        self._since = 0
        outcome = self._start({})
        if not isinstance(outcome, Failure):
            self._keep()
            return
        lost, self._fresh = self._fresh, []
        for one, value in lost:
            one.forget([value])
        self.voided += len(lost)
        for pause_s in _PAUSES_S:
            time.sleep(pause_s)
            outcome = self._start({})
            if not isinstance(outcome, Failure):
                return
        raise InfrastructureError(
            f"the default of {self._target.name} no longer starts: {said(outcome)}\n"
            f"{len(lost)} probes since it last did are void; those before are kept"
        )

    def _settle(self) -> None:
        """Make sure that no refusal is left that the machine may be to blame for."""
        if any(value in one.tried and not one.tried[value].ok for one, value in self._fresh):
            self._check()
        else:
            self._keep()

    def _keep(self) -> None:
        for one, value in self._fresh:
            if value in one.tried:
                one.run = one.run or self._id
                self._store.add_sample(ROOM, one.key, _to_row(one.run, value, one.tried[value]))
        self._fresh = []
        self._report()

    def _report(self) -> None:
        """Tell of every range that is newly finished, and keep it."""
        for one in self._searches:
            found = one.found()
            for side in _finished(found):
                if (one.name, side) in self._told:
                    continue
                self._told.add((one.name, side))
                if side == "choices":
                    self._keep_choices(one, found)
                    continue
                end = found.sides[side]
                self._store.add_bound(
                    one.key, one.name, origin=end.origin, **{side: end.value},
                    evidence={"message": end.message, "refused": end.refused, "contradiction": end.contradiction},
                )  # fmt: skip
                words = f"{one.name}: {side} end {found.shown(end.value)} ({end.words()})"
                self._tell(Event("note", words, {"knob": one.name, "side": side, "value": end.value,
                                                 "origin": end.origin, "message": end.message}))  # fmt: skip

    def _keep_choices(self, one: RangeSearch, found: FoundBound) -> None:
        for value, message in found.refused:
            text = excluded(one.name, value, self._target.space()[one.name])
            if text is not None:
                self._store.add_rule(one.key, text, origin="refused", evidence={"message": message})
            words = f"{one.name}: {found.shown(value)} is refused ({message})"
            self._tell(Event("note", words, {"knob": one.name, "refused": value, "message": message}))


def _finished(found: FoundBound) -> list[str]:
    """Return which parts of a range are finished."""
    sides = [name for name, side in found.sides.items() if side.state == "found"]
    return [*sides, "choices"] if found.complete else sides


def _to_row(run: float, value: Any, verdict: Verdict) -> dict[str, Any]:
    return {"run": run, "value": value, "ok": verdict.ok, "kind": verdict.kind, "message": verdict.message,
            "used": verdict.used, "stated": list(verdict.stated) if verdict.stated else None}  # fmt: skip


def _from_row(row: Mapping[str, Any]) -> Verdict:
    stated = tuple(row["stated"]) if row["stated"] else None
    return Verdict(row["ok"], row["kind"], row["message"], row["used"], stated)
