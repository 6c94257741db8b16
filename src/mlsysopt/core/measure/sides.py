"""The two kinds of things that can be compared: Python callables and commands."""

from __future__ import annotations

import inspect
import os
import shlex
import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any, cast

from mlsysopt.core.errors import MeasureError
from mlsysopt.core.measure.clocks import Stopwatch
from mlsysopt.core.measure.surroundings import Conditions, conditions, counters
from mlsysopt.core.processes.child import Child, Ended, start_child
from mlsysopt.core.target import Failure

__all__ = ["Reading", "Runner", "Side", "SideFailed", "describe", "run_command", "runner"]

Side = Callable[..., Any] | Sequence[str] | str
"""A callable that takes the round's seed or nothing, or a command.

What a callable returns as a mapping are its metrics. In a command, `{seed}` stands for the round's
seed, which is also in the variable MLSYSOPT_SEED.
"""

_LOG_BYTES = 4096


@dataclass(frozen=True, slots=True)
class Reading:
    """One side of one round.

    Attributes:
        values: Metrics that the side reported; a command reports `wall_s`, `cpu_s`, `max_rss_bytes`.
        wall_s: Elapsed seconds.
        cpu_s: User + system seconds of the whole process tree.
        conditions: State of the machine, steal and faults during this reading.
    """

    values: dict[str, float]
    wall_s: float
    cpu_s: float
    conditions: Conditions


Runner = Callable[[int], Reading]


class SideFailed(MeasureError):
    """Raised by a side that gave no valid result: the candidate is dropped, the others go on."""

    def __init__(self, failure: Failure) -> None:
        super().__init__(f"{failure.kind}: {failure.reason}")
        self.failure = failure


def runner(side: Side, *, loops: int = 1) -> Runner:
    """Return what runs a side once, given the round's seed.

    Args:
        side: Callable or command.
        loops: Calls per reading, for a callable that is too short to be timed once; the reading is per call.

    Raises:
        MeasureError: neither a callable nor a command, or a callable that needs more than a seed.
    """
    if isinstance(side, str):
        return _command_runner(shlex.split(side))
    if not callable(side):
        return _command_runner([str(word) for word in side])
    call = _with_seed(side)

    def run(seed: int) -> Reading:
        before = counters()
        returned: object = None
        with Stopwatch() as watch:
            for _ in range(loops):
                returned = call(seed)
        values = _values(returned)
        return Reading(values, watch.wall_s / loops, watch.cpu_s / loops, conditions(before))

    return run


def describe(side: Side) -> str:
    """Return a short name of a side."""
    if callable(side):
        return str(getattr(side, "__name__", type(side).__name__))
    return side if isinstance(side, str) else shlex.join([str(word) for word in side])


def run_command(
    argv: Sequence[str],
    *,
    cwd: str | Path | None = None,
    env: Mapping[str, str] | None = None,
    timeout_s: float | None = None,
) -> Reading:
    """Run a command to its end and measure it, without any output.

    CPU seconds are those of the command and of all its descendants that were waited for, as the
    kernel hands them over at its end; nothing is sampled, and no guard program runs in front of it.
    What it leaves running in its process group when it ends is killed: it would disturb the next round.
    After a kill -9 of this process, the next orphan sweep finds the command by its environment.

    Args:
        argv: Program and arguments; no shell.
        cwd: Working directory.
        env: Environment; None means this process's own.
        timeout_s: The whole process group is killed after so long.

    Raises:
        MissingProgram: there is no such program.
        MeasureError: the working directory does not exist.
        InfrastructureError: it cannot be started.
        SideFailed: it ended with an error, or took too long.

    >>> run_command(["true"]).values.keys()
    dict_keys(['wall_s', 'cpu_s', 'max_rss_bytes'])
    """
    shown = shlex.join(argv)
    before = counters()
    with tempfile.TemporaryFile() as log:
        child = _start(argv, cwd, env, log)
        try:
            in_time = child.has_ended(timeout_s)
            wall_s = time.monotonic() - child.started_at
            if not in_time:
                child.kill()
            ended = child.wait()
        except BaseException:
            child.stop(grace_s=0)
            raise
        if not in_time or ended.returncode != 0:
            tail = _tail(log.fileno())
            failure = (
                Failure("crashed", f"`{shown}` {_ending(ended, tail)}", tail, wall_s, ended.cpu_s)
                if in_time
                else Failure("timeout", f"`{shown}` took longer than {timeout_s:g} s", tail, wall_s, ended.cpu_s)
            )
            raise SideFailed(failure)
    values = {"wall_s": wall_s, "cpu_s": ended.cpu_s, "max_rss_bytes": float(ended.max_rss_bytes)}
    return Reading(values, wall_s, ended.cpu_s, conditions(before))


def _command_runner(argv: list[str]) -> Runner:
    if not argv:
        raise MeasureError("an empty command cannot be compared; give a program and its arguments")

    def run(seed: int) -> Reading:
        words = [word.replace("{seed}", str(seed)) for word in argv]
        return run_command(words, env={**os.environ, "MLSYSOPT_SEED": str(seed)})

    return run


def _start(argv: Sequence[str], cwd: str | Path | None, env: Mapping[str, str] | None, log: IO[bytes]) -> Child:
    if cwd is not None and not Path(cwd).is_dir():
        raise MeasureError(f"the working directory {cwd} does not exist")
    # An environment that is given stands alone, while a child's is laid over this process's own.
    variables: dict[str, str | None] = {} if env is None else {**dict.fromkeys(os.environ), **env}
    return start_child(argv, cwd=cwd, env=variables, stderr=log, guarded=False)


def _tail(log: int) -> str:
    size = os.fstat(log).st_size
    return os.pread(log, _LOG_BYTES, max(0, size - _LOG_BYTES)).decode(errors="replace")


def _ending(ended: Ended, tail: str) -> str:
    how = f"ended with {ended.words()}" if ended.signal is None else f"was killed by {ended.words()}"
    last = tail.strip().rsplit("\n", 1)[-1]
    return f"{how}: {last}" if last else how


def _with_seed(call: Callable[..., Any]) -> Callable[[int], Any]:
    """Adapt a callable that takes the seed or nothing.

    A parameter with a default is only given the seed when it is called `seed`: `fit(steps=100)`
    must not run for a random number of steps.
    """
    try:
        parameters = list(inspect.signature(call).parameters.values())
    except (TypeError, ValueError):
        return lambda _seed: call()
    positional = (inspect.Parameter.POSITIONAL_ONLY, inspect.Parameter.POSITIONAL_OR_KEYWORD)
    needed = [p for p in parameters if p.default is p.empty and p.kind not in (p.VAR_POSITIONAL, p.VAR_KEYWORD)]
    named = any(p.name == "seed" and p.kind is not p.POSITIONAL_ONLY for p in parameters)
    if named and all(p.name == "seed" for p in needed):
        return lambda seed: call(seed=seed)
    if not needed:
        return lambda _seed: call()
    if len(needed) == 1 and needed[0].kind in positional:
        return call
    raise MeasureError(
        f"{describe(call)} needs {', '.join(p.name for p in needed)}; a side takes the round's seed or nothing: "
        "wrap it in a lambda"
    )


def _values(returned: object) -> dict[str, float]:
    if not isinstance(returned, Mapping):
        return {}
    pairs = cast(Mapping[Any, Any], returned).items()
    return {str(name): float(value) for name, value in pairs if isinstance(value, int | float)}
