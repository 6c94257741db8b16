"""The mixgraph workload as a stream of operations: what a social graph asks of its key-value store.

Every operation is a Get, a Put or a Seek with the scan that follows it.

- Which key: the key space is cut into equal ranges, and range x = 1, 2, ... is asked for in
  proportion to `a e^(b x) + c e^(d x)` (`keyrange_dist_*`). Inside a range the popularity of a rank
  follows the power law whose cumulative share is `a r^b` (`key_dist_*`), ranks being scattered over
  the range; without that law keys of a range are equally likely.
- How much: sizes of written values and lengths of scans are generalised-Pareto.

This is the model of db_bench's benchmark of the same name, with two differences. Key, kind and
amount are drawn independently, where db_bench derives all three from one random number, so that a
key there is either always read or always written. And key ranges count as soon as they are given;
db_bench (7.8 at least) silently uses uniform keys unless `key_dist_a` and `key_dist_b` are set too.

References:
    Cao, Dong, Vemuri and Du, FAST 2020, section 6; RocksDB wiki, "RocksDB Trace, Replay, Analyzer,
    and Workload Generation".
"""

from __future__ import annotations

import struct
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from mlsysopt.core.errors import UsageError

__all__ = ["GET", "PUT", "SEEK", "Stream", "key_numbers", "mixgraph", "pareto", "range_shares"]

GET, PUT, SEEK = 0, 1, 2
Ints = npt.NDArray[np.int64]
Floats = npt.NDArray[np.float64]
# db_bench writes no value below this, and takes a smaller share for never.
_SMALLEST_VALUE = 10
_NEVER = 1e-16
# Ranks beyond any key space; keeps a steep power law inside 64 bits.
_LAST_RANK = 2.0**62


@dataclass(frozen=True, slots=True)
class Stream:
    """Operations in their order.

    Attributes:
        kinds: GET, PUT or SEEK, shape (n,).
        keys: Numbers of the keys, shape (n,).
        amounts: Bytes of a Put's value, keys that a Seek's scan visits, 0 for a Get, shape (n,).
    """

    kinds: Ints
    keys: Ints
    amounts: Ints

    def __len__(self) -> int:
        return len(self.kinds)

    def then(self, other: Stream) -> Stream:
        """Return both, one after the other."""
        join = np.concatenate
        return Stream(
            join([self.kinds, other.kinds]), join([self.keys, other.keys]), join([self.amounts, other.amounts])
        )


def mixgraph(flags: Mapping[str, Any], operations: int, rng: np.random.Generator) -> Stream:
    """Draw a stream.

    Args:
        flags: db_bench's flags of this benchmark, all of them.
        operations: How many, n.
        rng: Source of everything but the order of the key ranges, which belongs to the workload.

    Raises:
        UsageError: shares or hotness that give nothing to draw from.
    """
    shares = np.array([float(flags[f"mix_{kind}_ratio"]) for kind in ("get", "put", "seek")])
    if shares.min() < 0 or shares.sum() <= 0:
        raise UsageError(f"mix_get_ratio, mix_put_ratio, mix_seek_ratio must be shares, got {shares.tolist()}")
    kinds = rng.choice(3, size=operations, p=shares / shares.sum()).astype(np.int64)
    keys = key_numbers(flags, operations, rng)
    # 1 - u lies in (0, 1]: the tail's end has no finite value.
    sizes = pareto(1.0 - rng.random(operations), theta=flags["value_theta"], k=flags["value_k"],
                   sigma=flags["value_sigma"])  # fmt: skip
    # What is too large is folded back, not cut off, as db_bench does it.
    largest = int(flags["mix_max_value_size"])
    sizes = np.where(sizes > largest, np.mod(sizes, largest), np.maximum(sizes, _SMALLEST_VALUE))
    steps = pareto(1.0 - rng.random(operations), theta=flags["iter_theta"], k=flags["iter_k"],
                   sigma=flags["iter_sigma"])  # fmt: skip
    steps = np.mod(steps, int(flags["mix_max_scan_len"]))
    amounts = np.select([kinds == PUT, kinds == SEEK], [sizes, steps], 0.0)
    return Stream(kinds, keys, amounts.astype(np.int64))


def key_numbers(flags: Mapping[str, Any], n: int, rng: np.random.Generator) -> Ints:
    """Draw the keys of n operations, numbers in [0, num)."""
    num = int(flags["num"])
    hotness = [float(flags[f"keyrange_dist_{term}"]) for term in "abcd"]
    ranges = max(1, int(flags["keyrange_num"])) if any(hotness) else 1
    size = num // ranges
    if size < 1:
        raise UsageError(f"keyrange_num={ranges} key ranges need at least as many keys, got num={num}")
    chosen = rng.choice(ranges, size=n, p=range_shares(ranges, *hotness)) if any(hotness) else np.zeros(n, np.int64)
    a, b = float(flags["key_dist_a"]), float(flags["key_dist_b"])
    if a and b:
        with np.errstate(over="ignore"):
            ranks = np.minimum(np.ceil((rng.random(n) / a) ** (1 / b)), _LAST_RANK)
        offsets = (_scatter(ranks.astype(np.uint64)) % np.uint64(size)).astype(np.int64)
    else:
        offsets = rng.integers(0, size, n)
    return chosen.astype(np.int64) * size + offsets


def range_shares(ranges: int, a: float, b: float, c: float, d: float) -> Floats:
    """Return the share of accesses that each key range gets, in the order of the key space, shape (ranges,).

    The order is shuffled, or hot ranges would all lie at one end; the parameters alone decide how, so
    that the hot ranges lie where they lay in every other run of this workload.
    """
    x = np.arange(1, ranges + 1)
    heat: Floats = a * np.exp(b * x) + c * np.exp(d * x)
    heat[heat < _NEVER] = 0.0
    if not np.isfinite(heat).all() or heat.sum() <= 0:
        raise UsageError(
            f"keyrange_dist a={a} b={b} c={c} d={d}: no key range is ever asked for, or one infinitely often"
        )
    seed = np.frombuffer(struct.pack("<q4d", ranges, a, b, c, d), dtype=np.uint32)
    np.random.default_rng(seed).shuffle(heat)
    return heat / heat.sum()


def pareto(u: Floats, *, theta: float, k: float, sigma: float) -> Floats:
    """Return generalised-Pareto values for survival probabilities u in (0, 1], rounded up to whole numbers.

    >>> pareto(np.array([1.0, 0.5]), theta=0.0, k=0.2615, sigma=25.45).tolist()
    [0.0, 20.0]
    """
    values = theta - sigma * np.log(u) if k == 0 else theta + sigma * (u**-k - 1) / k
    return np.ceil(values)


def _scatter(ranks: npt.NDArray[np.uint64]) -> npt.NDArray[np.uint64]:
    """Mix the bits of each rank (the finaliser of SplitMix64), so that neighbours in rank lie far apart."""
    mixed = ranks + np.uint64(0x9E3779B97F4A7C15)
    mixed = (mixed ^ (mixed >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    mixed = (mixed ^ (mixed >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return mixed ^ (mixed >> np.uint64(31))
