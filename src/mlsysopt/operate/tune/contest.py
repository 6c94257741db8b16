"""Tuners compared on one target at equal measurement time, their winners verified together.

The tuner that has used the least time takes the next turn, so that a drift of the machine hits all alike.
What counts is the time in which the target is occupied: refusals are cheap, time-outs are not.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import Any, Literal

from mlsysopt.core.errors import UsageError, near_misses
from mlsysopt.core.processes import temporary_folder
from mlsysopt.core.quantities import parse_quantity
from mlsysopt.core.store import Store
from mlsysopt.core.study.events import Listener
from mlsysopt.core.study.objectives import parse_objectives
from mlsysopt.core.study.verification import looks_for
from mlsysopt.core.target import Target
from mlsysopt.operate.tune.contest_match import VALIDITY, Match, Plan
from mlsysopt.operate.tune.contest_rows import Entry, Row
from mlsysopt.operate.tune.contest_table import Contest

__all__ = ["TUNERS", "Contest", "Entry", "Row", "Validity", "check_tuners", "compare"]

Validity = Literal["all", "learned", "none"]

TUNERS = ("random", "qmc", "tpe", "gp", "cmaes", "dds", "td3")


def compare(
    target: Target,
    *,
    tuners: Sequence[str] = TUNERS,
    seconds: float | str = 90,
    seeds: int = 1,
    validity: Validity | Sequence[Validity] = "all",
    maximize: str | None = None,
    minimize: str | None = None,
    guard: Mapping[str, str | None] | Iterable[str] | None = None,
    store: str | Path | None = None,
    name: str = "contest",
    seed: int = 1,
    rounds: int | None = None,
    verify_seconds: float | str | None = None,
    recipe: Mapping[str, Any] | None = None,
    on_event: Listener | None = None,
) -> Contest:
    """Give every tuner the same measurement time on a target, and verify all winners together.

    Per seed, all tuners share the measurements of the default and the five starting points. Every tuner and
    seed is a study of its own, `NAME/TUNER/SEED`; the same call on the same store goes on where it was
    stopped, and may add tuners, seeds or seconds.

    Args:
        target: What is tuned, on ranges that are already known.
        tuners: Names of samplers; with "random" among them, the gap to it is told.
        seconds: Time for each, in which the target is occupied: starts, loads, failures and probes.
        seeds: How often the contest is repeated, with the seeds `seed`, `seed` + 1, ...
        validity: "all" and "learned" keep every tuner to what is likely to work, "none" does not; several
            words are crossed with the tuners. A target without probes runs "all" without it.
        maximize: Metric to make larger; None means the target's own objective.
        minimize: Metric to make smaller.
        guard: Metric -> limit, over the target's own guards.
        store: Path of a SQLite file or database URL; None keeps nothing afterwards.
        name: Studies of the store begin with it.
        seed: The first seed.
        rounds: Largest number of verification rounds; None means up to 20, stopping when decided.
        verify_seconds: Time for the verification; None means that the rounds alone decide.
        recipe: JSON from which the command line can build the target again.
        on_event: Called with every event of every study; its text begins with the tuner.

    Returns:
        The table. Ctrl-C gives the table so far, with `complete` False.

    Raises:
        UsageError: an unknown tuner, one named twice, or a number that cannot be meant.
        StudyError: the time is too short for the default and one trial.
        StoreError: the store has a contest of this name on another target.

    References:
        Schmied et al., Towards a General Framework for ML-based Self-tuning Databases, EuroMLSys 2021.

    >>> from mlsysopt.testing.planted import Planted
    >>> found = compare(Planted(noise=0.01), tuners=["random"], seconds=0.004, rounds=6)
    >>> found.complete, [row.tuner for row in found.rows]
    (True, ['random'])
    """
    words = (validity,) if isinstance(validity, str) else tuple(validity)
    plan = Plan(
        tuners=check_tuners(target, tuners),
        validity=_checked_validity(words),
        seconds=_positive("seconds", seconds),
        seeds=tuple(range(seed, seed + _at_least_one(seeds))),
        rounds=rounds,
        verify_seconds=None if verify_seconds is None else _positive("verify_seconds", verify_seconds),
        **_goal(target, maximize, minimize),
    )
    looks_for(rounds)
    with ExitStack() as stack:
        where = store or stack.enter_context(temporary_folder("mlsysopt-contest-")) / "contest.db"
        match = Match(
            target=target,
            plan=plan,
            store=stack.enter_context(Store.open(where)),
            where=where,
            kept=store is not None,
            name=name,
            guard=guard if guard is None or isinstance(guard, Mapping) else list(guard),
            recipe=recipe,
            listener=on_event,
        )
        return match.run()


def check_tuners(target: Target, tuners: Sequence[str]) -> tuple[str, ...]:
    """Refuse what is no list of different samplers, before anything is measured.

    Raises:
        UsageError: an unknown sampler, or one named twice.
        MissingExtra: one whose library is not installed.
    """
    from mlsysopt.core.search import registry

    if isinstance(tuners, str) or not tuners:
        raise UsageError(f"tuners={tuners!r}: a list of sampler names is needed, for example {list(TUNERS[:3])}")
    for tuner in tuners:
        registry.check(tuner)
    twice = [tuner for tuner, count in Counter(tuners).items() if count > 1]
    if twice:
        raise UsageError(f"tuner {twice[0]!r} is named twice; to repeat all of them, ask for more seeds")
    for tuner in tuners:
        registry.sampler(tuner, space=target.space(), seed=0)
    return tuple(tuners)


def _checked_validity(words: Sequence[str]) -> tuple[str, ...]:
    for word in words:
        if word not in VALIDITY:
            raise UsageError(f"validity {word!r}; {near_misses(word, VALIDITY, noun='word')}")
    if not words or len(set(words)) < len(words):
        raise UsageError(f"validity {list(words)}: one or several different ones of {', '.join(VALIDITY)} are needed")
    return tuple(words)


def _positive(what: str, given: float | str) -> float:
    amount = float(parse_quantity(given, kind="seconds"))
    if amount <= 0:
        raise UsageError(f"{what} must be positive, got {given}")
    return amount


def _at_least_one(seeds: int) -> int:
    if seeds < 1:
        raise UsageError(f"seeds must be at least 1, got {seeds}")
    return seeds


def _goal(target: Target, maximize: str | None, minimize: str | None) -> dict[str, Any]:
    """Return the one metric that is compared."""
    if maximize is not None and minimize is not None:
        raise UsageError("a contest has one metric: pass maximize or minimize")
    if maximize is None and minimize is None:
        own: str | None = getattr(target, "objective", None)
        if own is None:
            raise UsageError(f"target {target.name!r} names no metric of its own: pass maximize or minimize")
        better = target.metrics()[own].better
        maximize, minimize = (own, None) if better == "higher" else (None, own)
    parse_objectives(maximize, minimize, target.metrics(), clock="wall")
    return {"maximize": maximize, "minimize": minimize}
