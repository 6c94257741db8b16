"""How long variants take: cold weights, interleaved, without packing, in CPU time of the thread.

Weights are rotated past the last-level cache, because a model's next layer has driven them out of it; with residency
"warm" one copy is used again and again, as in a model whose weights stay in the cache.
"""

from __future__ import annotations

import itertools
import math
import os
import time
from collections.abc import Callable, Collection, Generator, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, Self

import numpy as np
import numpy.typing as npt

from mlsysopt.compile.variants.products import torch_module
from mlsysopt.compile.variants.registry import BASELINE
from mlsysopt.compile.variants.site import Call, Epilogue, Packed, Site, Variant
from mlsysopt.core.errors import UsageError
from mlsysopt.core.measure.micro import last_level_bytes, left_out
from mlsysopt.graph.symbolic import Dim

__all__ = ["RESIDENCIES", "Bench", "Row", "time_variants", "weight_bytes"]

RESIDENCIES = ("cold", "warm")

# Servers report hundreds of megabytes that all their guests share: more than this is not copied.
_MOST_BYTES = 1 << 30
# Weights so small that this many copies fit a cache are in one in real life, too.
_MOST_COPIES = 256
# The smallest interval of 95 % needs six values; a short call is read more often, since its noise is larger.
_BLOCKS, _BLOCKS_OF_SHORT, _SHORT_S = 6, 10, 5e-3
# A variant whose lower bound is this much above that of one at least as exact is not timed beyond two blocks; the
# baseline is, since every gain is a gain over it.
_HOPELESS = 1.15


@dataclass(frozen=True, slots=True)
class Row:
    """What a variant took for a site.

    Attributes:
        variant, version: Which one.
        site: All sizes known.
        residency: "cold" or "warm".
        seconds: Median of the blocks.
        low, high: Interval of the median, 95 %; of a variant that was dropped after two blocks their extremes, widened.
        clock: "thread" for CPU time, "wall" for elapsed time (more than one thread).
        pack_s: CPU seconds to bring the weights into form, once.
        copies: Copies of the weights that were rotated.
        blocks: Readings.
    """

    variant: str
    version: str
    site: Site
    residency: str
    seconds: float
    low: float
    high: float
    clock: str = "thread"
    pack_s: float = 0.0
    copies: int = 1
    blocks: int = 0

    @property
    def dropped(self) -> bool:
        """Whether it was so slow that it was not timed to the end."""
        return self.blocks < _BLOCKS

    def as_dict(self) -> dict[str, Any]:
        """Return everything as JSON values; `of` reads them."""
        site, epilogue = self.site, self.site.epilogue
        return {
            **{name: getattr(self, name) for name in self.__dataclass_fields__ if name != "site"},
            "op": site.op,
            "sizes": {name: int(size) for name, size in site.sizes},
            "dtype": site.dtype,
            "epilogue": [epilogue.bias, epilogue.activation, epilogue.residual],
            "constant_weights": site.constant_weights,
            "threads": site.threads,
        }

    @classmethod
    def of(cls, content: Mapping[str, Any]) -> Self:
        """Read what `as_dict` made.

        Raises:
            KeyError, TypeError, ValueError: it is something else.
        """
        sizes = tuple(sorted((str(name), Dim.of(int(size))) for name, size in content["sizes"].items()))
        bias, activation, residual = content["epilogue"]
        epilogue = Epilogue(bool(bias), str(activation), bool(residual))
        constant, threads = bool(content["constant_weights"]), int(content["threads"])
        site = Site(str(content["op"]), sizes, str(content["dtype"]), epilogue, constant, threads)
        return cls(site=site, **{name: content[name] for name in cls.__dataclass_fields__ if name != "site"})


@dataclass
class _Candidate:
    variant: Variant
    calls: Iterator[Call]
    copies: int
    pack_s: float
    loops: int = 1
    seconds: tuple[float, ...] = ()


class Bench:
    """One product with its weights in all forms, ready to be timed at any number of rows.

    Args:
        site: K and N known; M may vary.
        variants: Candidates; those that refuse the site are left out.
        residency: "cold" or "warm".
        block_s: Least time of one reading.

    Raises:
        UsageError: an unknown residency.
    """

    def __init__(
        self, site: Site, variants: Sequence[Variant], *, residency: str = "cold", block_s: float = 1.5e-3
    ) -> None:
        if residency not in RESIDENCIES:
            raise UsageError(f"residency {residency!r}: allowed are {' and '.join(map(repr, RESIDENCIES))}")
        self.site, self.residency, self._block_s = site, residency, block_s
        random = np.random.default_rng(0)
        n, k = site.number("N"), site.number("K")
        self._random = random
        # Sums of order one: no reading may be about denormal or infinite numbers.
        self._weights = [(random.standard_normal((n, k)) / math.sqrt(max(k, 1))).astype(np.float32)]
        self._bias = random.standard_normal(n).astype(np.float32) if site.epilogue.bias else None
        with _threads(site.threads):
            able = [one for one in variants if one.supports(site) is None]
            self._candidates = [self._candidate(one, len(able)) for one in able]

    def measure(self, rows: int, only: Collection[str] | None = None) -> list[Row]:
        """Time candidates against each other at a number of rows.

        Args:
            rows: M, at least 1.
            only: Names of those that take part; None means all that do this number of rows.
        """
        site = self.site.at(M=rows)
        active = [
            one
            for one in self._candidates
            if (only is None or one.variant.name in only) and one.variant.supports(site) is None
        ]
        x = self._tensor(rows, site.number("K"))
        given = (x, self._tensor(rows, site.number("N"))) if site.epilogue.residual else (x,)
        clock = time.thread_time if site.threads == 1 else time.perf_counter
        with _threads(site.threads):
            for one in active:
                self._calibrate(one, given, clock)
            self._interleave(active, given, clock)
        return [self._row(one, site) for one in active]

    def _candidate(self, variant: Variant, rivals: int) -> _Candidate:
        spent: list[float] = []

        def packed(weights: npt.NDArray[np.float32]) -> Packed:
            start = time.thread_time()
            made = variant.prepare(weights, self._bias, self.site)
            spent.append(time.thread_time() - start)
            return made

        first = packed(self._copy(0))
        touched = min(first.nbytes or self._weights[0].nbytes, self._weights[0].size * weight_bytes(variant))
        copies = 1 if self.residency == "warm" else _copies(touched, max(first.nbytes, touched), rivals)
        all_packed = [first, *(packed(self._copy(i)) for i in range(1, copies))]
        calls = [variant.bind(self.site, one, self._bias) for one in all_packed]
        # The first may have paid for a library that awakes.
        return _Candidate(variant, itertools.cycle(calls), copies, float(np.median(spent[1:] or spent)))

    def _copy(self, number: int) -> npt.NDArray[np.float32]:
        while len(self._weights) <= number:
            self._weights.append(self._weights[0].copy())
        return self._weights[number]

    def _tensor(self, rows: int, columns: int) -> Any:
        return torch_module().from_numpy(self._random.standard_normal((rows, columns), dtype=np.float32))

    def _calibrate(self, one: _Candidate, given: tuple[Any, ...], clock: Callable[[], float]) -> None:
        _reading(one, given, 1, clock)
        once = _reading(one, given, 1, clock)
        if once < self._block_s / 4:
            once = _reading(one, given, 8, clock)
        one.loops = max(1, math.ceil(self._block_s / max(once, 1e-7)))
        one.seconds = ()

    def _interleave(self, active: Sequence[_Candidate], given: tuple[Any, ...], clock: Callable[[], float]) -> None:
        left = list(active)
        forth = True
        while left:
            for one in left if forth else reversed(left):
                one.seconds += (_reading(one, given, one.loops, clock),)
            forth = not forth
            if len(left[0].seconds) == 2:
                left = [one for one in left if not self._hopeless(one, left)]
            left = [one for one in left if len(one.seconds) < _wanted(one)]

    def _hopeless(self, one: _Candidate, rivals: Sequence[_Candidate]) -> bool:
        if one.variant.name == BASELINE:
            return False
        site = self.site
        alike = [rival for rival in rivals if rival.variant.error(site) <= one.variant.error(site)]
        return min(one.seconds) > _HOPELESS * min(float(np.mean(rival.seconds)) for rival in alike)

    def _row(self, one: _Candidate, site: Site) -> Row:
        values, n = sorted(one.seconds), len(one.seconds)
        if n < _BLOCKS:
            low, high = values[0] / 1.1, values[-1] * 1.1
        else:
            low, high = values[left_out(n)], values[-1 - left_out(n)]
        middle = (values[(n - 1) // 2] + values[n // 2]) / 2
        clock = "thread" if site.threads == 1 else "wall"
        return Row(
            one.variant.name, one.variant.version, site, self.residency, middle, low, high, clock,
            one.pack_s, one.copies, n,
        )  # fmt: skip


def time_variants(site: Site, variants: Sequence[Variant], *, residency: str = "cold") -> list[Row]:
    """Time variants for one site; those that refuse it have no row.

    For several row counts of the same weights make a `Bench`, which packs them once.
    """
    return Bench(site, variants, residency=residency).measure(site.number("M"))


def weight_bytes(variant: Variant) -> int:
    """Return the bytes that a variant reads for one weight; 4 where it does not say."""
    return int(getattr(variant, "weight_bytes", 4))


def _wanted(one: _Candidate) -> int:
    return _BLOCKS if float(np.mean(one.seconds)) > _SHORT_S else _BLOCKS_OF_SHORT


def _reading(one: _Candidate, given: tuple[Any, ...], loops: int, clock: Callable[[], float]) -> float:
    calls = list(itertools.islice(one.calls, loops))
    start = clock()
    for call in calls:
        call(*given)
    return (clock() - start) / loops


def _copies(touched: int, kept: int, rivals: int) -> int:
    """Return how many copies pass the last-level cache twice, within an eighth of the memory for all rivals."""
    memory = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    wanted = math.ceil(min(2 * last_level_bytes(), _MOST_BYTES) / max(touched, 1))
    room = memory // 8 // max(rivals, 1) // max(kept, 1)
    return max(2, min(wanted, room, _MOST_COPIES))


@contextmanager
def _threads(wanted: int) -> Generator[None]:
    torch = torch_module()
    before = torch.get_num_threads()
    torch.set_num_threads(wanted)
    try:
        with torch.inference_mode():
            yield
    finally:
        torch.set_num_threads(before)
