"""Effective draws per CPU second, ours against a peer's, in rounds gated by convergence and the peer's means."""

from __future__ import annotations

import math
import os
import resource
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

# Before jax, BLAS or torch start threads: a peer is not to be billed for threads that spin.
for _name in ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS"):
    os.environ.setdefault(_name, "1")
os.environ.setdefault("XLA_FLAGS", "--xla_cpu_multi_thread_eigen=false intra_op_parallelism_threads=1")

import numpy as np  # noqa: E402
from numpy.typing import NDArray  # noqa: E402

from bench.protocol import Bench  # noqa: E402

__all__ = ["Run", "cpu_s", "duel", "fitted", "flat", "stopwatch"]

PEER_RHAT = 1.05
"""Above it the peer has not converged: its ESS flatters it, and its means are nothing to be compared with."""
ROUNDS = 6
"""The fewest of which a signed-rank interval of 95 % exists."""


@dataclass(frozen=True)
class Run:
    """What one side left of one round.

    Attributes:
        draws: Name of a number -> (chains, draws).
        sampling_s: CPU seconds of sampling after warming up.
        whole_s: CPU seconds with warming up and compiling.
    """

    draws: Mapping[str, NDArray[Any]]
    sampling_s: float
    whole_s: float

    def judged(self) -> tuple[float, float]:
        """Return (least bulk ESS, worst R-hat)."""
        from mlsysopt.infer.diagnostics import diagnose

        any_one = next(iter(self.draws.values()))
        rows = diagnose(dict(self.draws), any_one).rows
        moving = [row for row in rows if not row.constant]
        rhat = max((row.rhat for row in moving), default=math.nan)
        return min((row.ess_bulk for row in moving), default=math.nan), rhat


def cpu_s() -> float:
    """Return CPU seconds of this process and of its ended children."""
    mine, theirs = resource.getrusage(resource.RUSAGE_SELF), resource.getrusage(resource.RUSAGE_CHILDREN)
    return mine.ru_utime + mine.ru_stime + theirs.ru_utime + theirs.ru_stime


def flat(draws: Mapping[str, NDArray[Any]]) -> dict[str, NDArray[Any]]:
    """Return arrays (chains, draws, *shape) as numbers by name, `mu[2]`."""
    found: dict[str, NDArray[Any]] = {}
    for name, array in draws.items():
        shape = array.shape[2:]
        for i in range(int(np.prod(shape))):
            index = f"[{', '.join(map(str, np.unravel_index(i, shape)))}]" if shape else ""
            found[name + index] = array.reshape(*array.shape[:2], -1)[:, :, i]
    return found


def fitted(
    compiled: Any, names: tuple[str, ...], *, draws: int, warmup: int, seed: int, chains: int = 4, thin: int = 1
) -> Run:
    """Run ours; where a chain moves slowly, weighing every state for its log joint costs more than it tells: `thin`."""
    began = cpu_s()
    fit = compiled.infer(draws, warmup=warmup, chains=chains, seed=seed, thin=thin)
    whole = cpu_s() - began
    return Run(flat({name: fit[name] for name in names}), sum(one.kept_s for one in fit.chains), whole)


def duel(
    bench: Bench,
    ours: Callable[[int], Run],
    peer: Callable[[int], Run],
    *,
    bar: str,
    least: float,
    rounds: int = ROUNDS,
    about: str = "",
    converged: bool = True,
    must: bool = True,
) -> float:
    """Run both sides in interleaved rounds with fresh seeds, state the bar, return the lower end of the ratio.

    Args:
        bench: Takes rows and bars.
        ours: Seed -> run.
        peer: The same.
        bar: Name of the bar; `<bar>_gate` says whether ours converged to the peer's means.
        least: What the lower end of the ratio of ESS per CPU second has to reach.
        rounds: How many.
        about: What the bar is about.
        converged: Whether the peer is expected to converge; one that is stopped by time is not compared by means.
        must: Whether the bar is one.
    """
    from mlsysopt.core.measure.ratio import log_ratios
    from mlsysopt.core.stats import signed_rank_interval

    rates: dict[str, list[float]] = {"ours": [], "peer": [], "ours whole": [], "peer whole": []}
    worst_rhat, worst_z = 0.0, 0.0
    ours(0)  # what is compiled stays compiled on both sides; compile time is in the other line of the first round
    for number in range(rounds):
        runs: dict[str, Run] = {}
        order = ("ours", "peer") if number % 2 == 0 else ("peer", "ours")
        for side in order:
            runs[side] = (ours if side == "ours" else peer)(number + 1)
        said = {side: run.judged() for side, run in runs.items()}
        for side, run in runs.items():
            rates[side].append(said[side][0] / run.sampling_s)
            rates[f"{side} whole"].append(said[side][0] / run.whole_s)
        z = _worst_z(runs["ours"], runs["peer"]) if converged and said["peer"][1] < PEER_RHAT else 0.0
        worst_rhat, worst_z = max(worst_rhat, said["ours"][1]), max(worst_z, z)
        bench.round(
            number=number,
            ours_ess=said["ours"][0],
            ours_rhat=said["ours"][1],
            ours_s=runs["ours"].sampling_s,
            ours_whole_s=runs["ours"].whole_s,
            peer_ess=said["peer"][0],
            peer_rhat=said["peer"][1],
            peer_s=runs["peer"].sampling_s,
            peer_whole_s=runs["peer"].whole_s,
            worst_z=z,
        )
        print(
            f"round {number}: ours {rates['ours'][-1]:.1f} ESS/s (R-hat {said['ours'][1]:.4f}), "
            f"peer {rates['peer'][-1]:.2f} ESS/s "
            f"(R-hat {said['peer'][1]:.3f}), {rates['ours'][-1] / rates['peer'][-1]:.2f}x; worst |z| {z:.1f}",
            flush=True,
        )
    logs = log_ratios(rates["peer"], rates["ours"], metric="ESS per CPU second")
    low, high = signed_rank_interval(logs) if rounds >= ROUNDS else (float(logs.min()), float(logs.max()))
    whole = float(np.exp(np.median(log_ratios(rates["peer whole"], rates["ours whole"], metric="ESS per CPU second"))))
    bench.table(
        ["", "ours", "peer", "ratio"],
        [
            [
                "min ESS per CPU-s, sampling",
                f"{np.median(rates['ours']):.1f}",
                f"{np.median(rates['peer']):.2f}",
                f"{math.exp(float(np.median(logs))):.2f}x [{math.exp(low):.2f}, {math.exp(high):.2f}], {rounds} rounds",
            ],
            [
                "with warming up and compiling",
                f"{np.median(rates['ours whole']):.1f}",
                f"{np.median(rates['peer whole']):.2f}",
                f"{whole:.2f}x",
            ],
        ],
    )
    bench.bar(bar, math.exp(low), ">=", least, about=f"lower end; {about}".strip("; "), must=must)
    bench.bar(f"{bar}_rhat", worst_rhat, "<", 1.01, about="worst R-hat of ours", must=must)
    if converged:
        bench.bar(f"{bar}_z", worst_z, "<", 4.0, about="worst |z| of a mean against the peer's", must=must)
    bench.headline = (
        f"{math.exp(float(np.median(logs))):.1f}x [{math.exp(low):.1f}, {math.exp(high):.1f}] "
        f"ESS per CPU-s of sampling, {whole:.1f}x with compiling"
    )
    return math.exp(low)


def _worst_z(a: Run, b: Run) -> float:
    from mlsysopt.infer.diagnostics import statistics

    names = [name for name in a.draws if name in b.draws]
    mine, theirs = (np.stack([run.draws[name].astype(float) for name in names], axis=2) for run in (a, b))
    errors: list[NDArray[Any]] = []
    for values in (mine, theirs):
        ess = statistics().ess(values, chain_axis=0, draw_axis=1, method="mean")
        errors.append(values.var(axis=(0, 1)) / ess)
    z = np.abs(mine.mean(axis=(0, 1)) - theirs.mean(axis=(0, 1))) / np.sqrt(errors[0] + errors[1])
    return float(np.nanmax(z))


def stopwatch() -> Callable[[], float]:
    """Return what says how many CPU seconds have passed since."""
    began = cpu_s()
    return lambda: cpu_s() - began
