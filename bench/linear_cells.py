"""What the benches of `linear` share: products timed cold and interleaved, paired ratios, geometric means.

Contestants of a cell run in blocks, in a new random order in each round. Each rotates over copies of its weights that
pass the last-level cache twice, so that weights are as cold as in a model. The clock is the CPU time of the thread.
"""

from __future__ import annotations

import itertools
import math
import random
import statistics
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from bench.compile_duel import geomean, width
from mlsysopt.core.measure import Ratio
from mlsysopt.core.measure.micro import last_level_bytes

__all__ = ["SHAPES", "Cell", "copies_of", "geomean", "host", "timed_cell"]

SHAPES = ((768, 768), (768, 3072), (3072, 768))
ROWS = (1, 2, 4, 8, 16, 32, 50, 128, 129, 512)
ROUNDS = 8
BLOCK_S = 3e-3


@dataclass(frozen=True)
class Cell:
    """Seconds of one product at one number of rows: contestant -> one value for each round."""

    seconds: Mapping[str, tuple[float, ...]]

    def median(self, name: str) -> float:
        return statistics.median(self.seconds[name])

    def faster(self, name: str, than: str) -> float:
        """Return how many times faster one is than another."""
        return 1 / self.ratio(name, than).value

    def ratio(self, name: str, over: str) -> Ratio:
        """Return the paired ratio of times with its interval."""
        return Ratio.of(
            self.seconds[over],
            self.seconds[name],
            metric="time",
            better="lower",
            clock="cpu",
            baseline_name=over,
            candidate_name=name,
            unit="s",
            machine="",
        )


def copies_of(nbytes: int, most: int = 64) -> int:
    """Return how many copies of some weights pass the last-level cache twice."""
    return max(2, min(most, math.ceil(2 * last_level_bytes() / max(nbytes, 1))))


def timed_cell(
    contestants: Mapping[str, Sequence[Callable[[Any], Any]]], x: Any, *, rounds: int = ROUNDS, block_s: float = BLOCK_S
) -> Cell:
    """Time contestants on one input.

    Args:
        contestants: Name -> the same product with several copies of its weights.
        x: What each call is given.
        rounds: Blocks of each.
        block_s: Least time of a block.
    """
    import torch

    rotating = {name: itertools.cycle(calls) for name, calls in contestants.items()}
    names = list(contestants)
    seconds: dict[str, list[float]] = {name: [] for name in names}
    with torch.inference_mode():
        loops: dict[str, int] = {}
        for name in names:
            # Every copy once: what decides, packs or compiles at first sight does it now.
            _block(rotating[name], x, len(contestants[name]))
            once = _block(rotating[name], x, 1)
            once = once if once > block_s / 4 else _block(rotating[name], x, 8)
            loops[name] = max(1, math.ceil(block_s / max(once, 1e-7)))
        order = random.Random(0)
        for _ in range(rounds):
            # Never A B C ... C B A here: its ends would run twice in a row, on caches and tables that they own.
            for name in order.sample(names, len(names)):
                seconds[name].append(_block(rotating[name], x, loops[name]))
    return Cell({name: tuple(values) for name, values in seconds.items()})


def host() -> tuple[str, str]:
    """Return "wide" (AVX-512) or "narrow", and the line that says so."""
    from mlsysopt.compile.codegen.target import host_isa

    isa = host_isa()
    kind = width()
    return kind, f"host: {kind} ({isa.name}, {isa.lanes} lanes)"


def _block(calls: Iterator[Callable[[Any], Any]], x: Any, loops: int) -> float:
    some = list(itertools.islice(calls, loops))
    start = time.thread_time()
    for call in some:
        call(x)
    return (time.thread_time() - start) / loops
