"""Several workers on one study: each is the same search on the same store, in a process of its own.

Workers meet only in the store. It hands out trials and worker numbers, so no two propose the same point;
its leases tell whose trials are lost; and the machine's timing slot keeps two measurements from sharing
cores. On one machine workers therefore overlap what is not timed: asking a model, reading and writing. A
cluster's machines measure at the same time, each against its own default.
"""

from __future__ import annotations

import concurrent.futures
from collections.abc import Callable, Sequence
from concurrent.futures import Future
from typing import Any

from mlsysopt.core.errors import InfrastructureError, StudyError, near_misses
from mlsysopt.core.study.loop import TrialLoop
from mlsysopt.core.study.telling import told
from mlsysopt.core.target import Failure

__all__ = ["check", "search"]

PLACES = ("local", "ray")
"""Executors whose tasks are processes that can end without ending this one."""
POLL_S = 0.2


def check(workers: int, place: str, *, shared: bool) -> None:
    """Refuse what cannot be meant.

    Args:
        workers: How many are asked for.
        place: Name of an executor.
        shared: Whether the store can be opened by another process.

    Raises:
        StudyError: no workers, a store in memory, or an executor that is unknown or has no processes.
    """
    if place not in (*PLACES, "inprocess"):
        raise StudyError(f"unknown executor {place!r}; {near_misses(place, PLACES, noun='executor')}")
    if workers < 1:
        raise StudyError(f"workers must be at least 1, got {workers}")
    if workers > 1 and not shared:
        raise StudyError(f"{workers} workers share a store: give one with a place, for example store='tune.db'")
    if workers > 1 and place == "inprocess":
        raise StudyError(f"{workers} workers need processes of their own: executor 'local' or 'ray', not 'inprocess'")


def search(loop: TrialLoop, work: Callable[[], None], *, workers: int, place: str) -> None:
    """Run trials in workers until all have ended; tell each trial as it is finished.

    A worker that dies loses its trial, and the others go on. What a worker raises ends all of them.

    Args:
        loop: A prepared loop: the default is measured, the starting points are placed.
        work: Is one worker; it is sent to another process.
        workers: How many.
        place: Name of the executor that they run on.

    Raises:
        InfrastructureError: every worker died.
    """
    from mlsysopt.core.executors import executor

    known = {view.number for view in loop.views() if view.state != "running"}
    with executor(place, workers=workers) as crew:
        futures = [crew.submit(work, fresh=True) for _ in range(workers)]
        waiting = set(futures)
        while waiting:
            done, waiting = concurrent.futures.wait(waiting, POLL_S, concurrent.futures.FIRST_COMPLETED)
            for future in done:
                _settle(loop, future, left=len(waiting))
            known |= _tell_new(loop, known)
    _check_all(futures)


def _settle(loop: TrialLoop, future: Future[Any], *, left: int) -> None:
    outcome = future.result()
    if isinstance(outcome, Failure):
        loop.tell("note", f"a worker died ({outcome.reason}); {left} go on", {"log_tail": outcome.log_tail})
        loop.sweep()


def _tell_new(loop: TrialLoop, known: set[int]) -> set[int]:
    views = loop.views()
    new = [view for view in views if view.state != "running" and view.number not in known]
    for view in new:
        # The sweep has told the lost ones.
        if view.state != "lost":
            loop.tell(*told(view, loop.rating.objectives[0], views))
    return {view.number for view in new}


def _check_all(futures: Sequence[Future[Any]]) -> None:
    died = [outcome for future in futures if isinstance(outcome := future.result(), Failure)]
    if len(died) == len(futures):
        raise InfrastructureError(f"all {len(died)} workers died, the last one so: {died[-1].reason}")
