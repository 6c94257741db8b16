"""One fit: choose the method, begin or read back its chains, run them where they shall run, gather what they left."""

from __future__ import annotations

import signal
import threading
from collections.abc import Callable, Generator, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import numpy as np

from mlsysopt.core.errors import UsageError, near_misses
from mlsysopt.core.quantities import format_bytes
from mlsysopt.core.target import Failure
from mlsysopt.infer.engine import Chain, Engine
from mlsysopt.infer.fit import Fit
from mlsysopt.infer.folder import Folder
from mlsysopt.infer.sampling import ChainFailed, Progress, Request, Sampled, Start, run_chain

if TYPE_CHECKING:
    from mlsysopt.core.executors import Executor
    from mlsysopt.infer.compiled import Compiled

__all__ = ["BACKENDS", "infer", "resume"]

BACKENDS = ("python", "single", "threads", "executor")


def infer(
    compiled: Compiled,
    draws: int,
    *,
    warmup: int | None = None,
    thin: int = 1,
    chains: int = 4,
    seed: int = 0,
    backend: str = "single",
    executor: Executor | None = None,
    method: Literal["auto", "gibbs", "nuts"] = "auto",
    start: Start | Mapping[str, Any] = "auto",
    out: str | Path | None = None,
    progress: Progress | None = None,
) -> Fit:
    """Draw from the posterior; `Compiled.infer` has the details."""
    warmup = min(1000, draws) if warmup is None else warmup
    _check(
        compiled,
        draws=draws,
        warmup=warmup,
        thin=thin,
        chains=chains,
        backend=backend,
        executor=executor,
        method=method,
    )
    chosen = compiled.plan()
    engine = compiled.engine(draws, chosen)
    _check_memory(engine, draws, chains)
    given = compiled.starts if start == "auto" and compiled.starts else start
    request = Request(draws, warmup, thin, seed, given, "python" if backend == "python" else "single")
    settings = {
        "draws": draws,
        "warmup": warmup,
        "thin": thin,
        "chains": chains,
        "seed": seed,
        "backend": backend,
        "method": method,
    }
    smooth = _is_smooth(engine, method)
    rules = {name: one.update.rule for one in chosen.choices for name in one.update.variables}
    if smooth:
        rules = {name: "gradient" if rule != "forward" else rule for name, rule in rules.items()}
    folder = None if out is None else Folder.create(Path(out), compiled, settings, rules, given)
    run: Callable[..., Sampled] = (
        partial(_nuts, engine, request) if smooth else partial(_gibbs, engine, request, folder, progress)
    )
    run = partial(_ended_before, folder, engine, run)
    if not smooth and not (folder is not None and folder.finished):
        _compile(engine, request)
    with _interruptible() as stopped:
        if backend == "executor" and executor is not None:
            found = _with_executor(executor, engine, request, chains, smooth)
        else:
            found = _here(run, chains, threads=backend == "threads", stop=stopped)
    ended = [one for one in found.values() if isinstance(one, Sampled)]
    lost = {number: one for number, one in found.items() if isinstance(one, str)}
    lost |= {one.chain: one.error for one in ended if one.error not in ("", "stopped")}
    kept = [one for one in ended if not one.error or one.error == "stopped"]
    fit = Fit(
        compiled,
        kept,
        lost,
        "nuts" if smooth else "gibbs",
        rules,
        settings,
        folder.path if folder is not None else None,
        stopped.is_set(),
    )
    compiled.fitted = fit
    if folder is not None:
        folder.finish(fit, ended)
    if not kept and lost and not stopped.is_set():
        number, why = next(iter(lost.items()))
        raise ChainFailed(
            why if len(lost) == 1 else f"{why}\nall {len(lost)} chains failed; this is chain {number}'s reason"
        )
    return fit


def _gibbs(
    engine: Engine,
    request: Request,
    folder: Folder | None,
    progress: Progress | None,
    number: int,
    *,
    stop: Callable[[], bool],
) -> Sampled:
    chain = folder.read_chain(engine, request, number) if folder is not None else None
    save = folder.saver() if folder is not None else None
    return run_chain(engine, request, number, chain=chain, progress=progress, stop=stop, save=save)


def _ended_before(
    folder: Folder | None, engine: Engine, run: Callable[..., Sampled], number: int, *, stop: Callable[[], bool]
) -> Sampled:
    """Return a chain whose end is in the folder, or run it; one that has no states in between is saved as it ends."""
    found = folder.read_sampled(engine, number) if folder is not None else None
    if found is None:
        found = run(number, stop=stop)
        if folder is not None and not found.error:
            # Where the disk is full, finishing the fit tries again and says so.
            with suppress(OSError):
                folder.write_sampled(found)
    return found


def _nuts(engine: Engine, request: Request, number: int, *, stop: Callable[[], bool]) -> Sampled:
    from mlsysopt.infer.differentiate import nuts

    if stop():
        return Sampled(number, {}, np.zeros((0, 2)), error="stopped")
    one = nuts.sample(
        engine,
        draws=request.draws,
        warmup=request.warmup,
        seed=request.seed,
        chain=number,
        backend=request.backend,
        stop=stop,
    )
    keep, best = engine.keep, int(np.argmax(one.joint[:, 0])) if len(one.joint) else 0
    ended = len(one.joint) == request.draws
    return Sampled(
        number,
        {name: array for name, array in one.draws.items() if keep[name] in ("samples", "both")},
        one.joint,
        {name: array[best] for name, array in one.draws.items() if keep[name] in ("map", "both") and len(array)},
        {
            name: (array.mean(axis=0), array.var(axis=0) * len(array))
            for name, array in one.draws.items()
            if keep[name] == "summary" and len(array)
        },
        one.seconds,
        one.seconds * one.share,
        one.divergences,
        "" if ended else "stopped",
    )


def _here(
    run: Callable[..., Sampled], chains: int, *, threads: bool, stop: threading.Event
) -> dict[int, Sampled | str]:
    """Run chains in this process, one after another or each in a thread."""

    def one(number: int) -> Sampled | str:
        try:
            return run(number, stop=stop.is_set)
        except ChainFailed as error:
            return str(error)

    if not threads or chains == 1:
        found: dict[int, Sampled | str] = {}
        for number in range(chains):
            found[number] = one(number)
            if stop.is_set():
                break
        return found
    with ThreadPoolExecutor(chains) as pool:
        futures = {number: pool.submit(one, number) for number in range(chains)}
        return {number: future.result() for number, future in futures.items()}


def _with_executor(
    executor: Executor, engine: Engine, request: Request, chains: int, smooth: bool
) -> dict[int, Sampled | str]:
    """Run a chain a task; workers find the compiled code on disk."""
    work = partial(_task, engine, request, smooth)
    found: dict[int, Sampled | str] = {}
    for number, outcome in enumerate(executor.map(work, range(chains))):
        if isinstance(outcome, Failure):
            # A worker that died takes its chain along; the chain is its seed, so it runs again to the same draws.
            outcome = work(number)
        found[number] = outcome
    return found


def _task(engine: Engine, request: Request, smooth: bool, number: int) -> Sampled | str:
    try:
        if smooth:
            return _nuts(engine, request, number, stop=lambda: False)
        return run_chain(engine, request, number)
    except ChainFailed as error:
        return str(error)


def _compile(engine: Engine, request: Request) -> None:
    """Compile before the first chain: threads and workers then find the code, and no chain is billed for it."""
    if request.backend == "single":
        chain = Chain(engine, np.random.Generator(np.random.PCG64(0)), draws=1)
        chain.run(0, warm=True)
        chain.log_joint()


def _is_smooth(engine: Engine, method: str) -> bool:
    """Whether NUTS is asked for, or the better choice."""
    from mlsysopt.infer.analysis.blanket import Analysis
    from mlsysopt.infer.rules import Refusal
    from mlsysopt.infer.rules.gradient import Gradient, WholeModel, preferred

    if method == "nuts":
        found = Gradient().propose_model(Analysis(engine.program))
        if isinstance(found, Refusal):
            raise UsageError(f"{engine.program.name} cannot be sampled by NUTS: {found}; use method='gibbs'")
        return True
    return method == "auto" and isinstance(preferred(engine.plan, engine.bound), WholeModel)


@contextmanager
def _interruptible() -> Generator[threading.Event]:
    """Turn the first Ctrl-C into a request to stop; the second one is Python's own."""
    stopped = threading.Event()
    if threading.current_thread() is not threading.main_thread():
        yield stopped
        return
    before = signal.getsignal(signal.SIGINT)

    def stop(*_: Any) -> None:
        stopped.set()
        signal.signal(signal.SIGINT, before)

    signal.signal(signal.SIGINT, stop)
    try:
        yield stopped
    finally:
        signal.signal(signal.SIGINT, before)


def _check(
    compiled: Compiled, *, draws: int, warmup: int, thin: int, chains: int, backend: str, executor: object, method: str
) -> None:
    for name, value, least in (("draws", draws, 1), ("warmup", warmup, 0), ("thin", thin, 1), ("chains", chains, 1)):
        if value < least:
            raise UsageError(f"{name} is {value}; at least {least}")
    if backend not in BACKENDS:
        raise UsageError(f"unknown backend {backend!r}; {near_misses(backend, BACKENDS, noun='backend')}")
    if method not in ("auto", "gibbs", "nuts"):
        raise UsageError(f"unknown method {method!r}; known methods: auto, gibbs, nuts")
    if backend == "executor" and executor is None:
        raise UsageError(
            "backend='executor' needs executor=, one of mlsysopt.core.executors, such as executor('local')"
        )
    shapes = compiled.bound.shapes
    if shapes:
        name = sorted(shapes)[0]
        raise UsageError(
            f"{name} was passed as a Shape: such a model is executed, not inferred; pass data: .bind({name}=...)"
        )


def _check_memory(engine: Engine, draws: int, chains: int) -> None:
    """Refuse before the first sweep what would not fit."""
    import psutil

    sizes = {
        name: chains * draws * 8 * int(np.prod(engine.bound.lengths(engine.program.variables[name])))
        for name, how in engine.keep.items()
        if how in ("samples", "both")
    }
    limit = psutil.virtual_memory().available
    if sum(sizes.values()) > limit:
        worst = sorted(sizes, key=lambda name: -sizes[name])[:3]
        said = ", ".join(f"{name} {format_bytes(sizes[name])}" for name in worst)
        raise UsageError(
            f"the draws would take {format_bytes(sum(sizes.values()))} and {format_bytes(limit)} are free: {said}\n"
            f".{worst[0]}.retain = 'summary' keeps mean and sd only; or fewer draws, or thin="
        )


def resume(path: str | Path, *, backend: str | None = None, progress: Progress | None = None) -> Fit:
    """Go on with a fit that was stopped or killed, from its folder alone; a finished one is read.

    Its draws are those of a run that was never interrupted.

    Args:
        path: The folder.
        backend: Another one than before; the draws do not depend on it.
        progress: Is told (chain, sweeps done, sweeps in all).

    Raises:
        UsageError: there is no fit, or it is damaged.
    """
    folder = Folder.open(Path(path))
    compiled = folder.compiled()
    asked = dict(folder.content["settings"])
    asked["backend"] = backend or (asked["backend"] if asked["backend"] != "executor" else "single")
    fit = infer(compiled, asked.pop("draws"), out=path, progress=progress, start=folder.start(), **asked)
    compiled.fitted = fit
    return fit
