"""The mixgraph workload as a stream of operations: what a social graph asks of its key-value store.

Every operation is a Get, a Put or a Seek with the scan that follows it.

- Which key: without `key_dist_a` and `key_dist_b` every key is equally likely. With both, the key
  space is cut into equal ranges; range x = 1, 2, ... is asked for in proportion to
  `a e^(b x) + c e^(d x)` (`keyrange_dist_*`), and inside a range the popularity of a rank follows the
  power law whose cumulative share is `a r^b` (`key_dist_*`), ranks being scattered over the range.
- How much: sizes of written values and lengths of scans are generalised-Pareto.

One random number decides all three, as in db_bench's benchmark of the same name, whose operations
these are number for number. So keys are nearly always read or always written, and under equally
likely keys the longest scans begin at the lowest ones. That is no model of anything, but what a
cache makes of it is: with kind and amount drawn independently, hot keys would soon be answered by
the memtable they were written to.

References:
    Cao, Dong, Vemuri and Du, FAST 2020, section 6; RocksDB wiki, "RocksDB Trace, Replay, Analyzer,
    and Workload Generation".
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from mlsysopt.core.errors import UsageError

__all__ = ["GET", "PUT", "SEEK", "Stream", "key_ranges", "mixgraph", "pareto", "to_key_numbers"]

GET, PUT, SEEK = 0, 1, 2
Ints = npt.NDArray[np.int64]
Floats = npt.NDArray[np.float64]
Words = npt.NDArray[np.uint64]
# db_bench writes no value below this, and takes a smaller share for never.
_SMALLEST_VALUE = 10
_NEVER = 1e-16
# Ranks beyond any key space; keeps a steep power law inside 64 bits.
_LAST_RANK = 2.0**62
# Words of the generator's state, and how many generators run side by side: 312 times as many words.
_STATE, _BLOCK = 312, 4096


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
        rng: Source of everything but which keys are popular, which belongs to the workload.

    Raises:
        UsageError: shares or hotness that give nothing to draw from.
    """
    shares = np.array([float(flags[f"mix_{kind}_ratio"]) for kind in ("get", "put", "seek")])
    if shares.min() < 0 or shares.sum() <= 0:
        raise UsageError(f"mix_get_ratio, mix_put_ratio, mix_seek_ratio must be shares, got {shares.tolist()}")
    num = int(flags["num"])
    drawn = rng.integers(0, num, operations)
    # Shares are rounded up to thousandths, each for itself.
    ends = np.cumsum(np.ceil(1000 * (shares / shares.sum()))).astype(np.int64)
    kinds = np.searchsorted(ends, drawn % ends[-1], side="right").astype(np.int64)
    u = drawn / num
    sizes = pareto(u, theta=flags["value_theta"], k=flags["value_k"], sigma=flags["value_sigma"])
    # What is too large is folded back, not cut off.
    largest = int(flags["mix_max_value_size"])
    sizes = np.where(sizes > largest, np.mod(sizes, largest), np.maximum(sizes, _SMALLEST_VALUE))
    steps = pareto(u, theta=flags["iter_theta"], k=flags["iter_k"], sigma=flags["iter_sigma"])
    steps = np.mod(steps, int(flags["mix_max_scan_len"]))
    amounts = np.select([kinds == PUT, kinds == SEEK], [sizes, steps], 0.0)
    return Stream(kinds, to_key_numbers(flags, drawn), amounts.astype(np.int64))


def to_key_numbers(flags: Mapping[str, Any], drawn: Ints) -> Ints:
    """Turn uniform numbers into the keys that they stand for, both in [0, num), shape (n,).

    Range and rank of a key come from the same number, one as its remainder by the sum of all shares
    and one as its remainder by the size of a range.

    Raises:
        UsageError: hotness that gives nothing to draw from, or more ranges than keys.
    """
    num = int(flags["num"])
    a, b = float(flags["key_dist_a"]), float(flags["key_dist_b"])
    if not a or not b:
        # Hot ranges alone count for nothing in db_bench (7.8 at least), so they must not here either.
        return drawn
    if a < 0 or b < 0:
        raise UsageError(f"key_dist_a and key_dist_b must be above 0, or 0 for uniform keys, got {a} and {b}")
    hotness = [float(flags[f"keyrange_dist_{term}"]) for term in "abcd"]
    ranges = max(1, int(flags["keyrange_num"])) if any(hotness) else 1
    size = num // ranges
    if size < 1:
        raise UsageError(f"keyrange_num={ranges} key ranges need at least as many keys, got num={num}")
    starts = np.zeros_like(drawn)
    if any(hotness):
        ends = np.cumsum(key_ranges(ranges, *hotness))
        starts = np.searchsorted(ends, drawn % ends[-1], side="right") * size
    with np.errstate(over="ignore"):
        ranks = np.minimum(np.ceil((drawn % size / size / a) ** (1 / b)), _LAST_RANK)
    found, where = np.unique(ranks.astype(np.uint64), return_inverse=True)
    offsets = (_scattered(found) % np.uint64(size)).astype(np.int64)
    return starts + offsets[where]


def key_ranges(ranges: int, a: float, b: float, c: float, d: float) -> Ints:
    """Return how many numbers in a row lead to each key range, in the order of the key space, shape (ranges,).

    The order is shuffled, or hot ranges would all lie at one end; the parameters alone decide how, so
    that the hot ranges lie where they lay in every other run of this workload.
    """
    x = np.arange(ranges, 0, -1)
    with np.errstate(over="ignore", invalid="ignore"):
        heat: Floats = a * np.exp(b * x) + c * np.exp(d * x)
    asked = heat[heat >= _NEVER]
    # The last range that is ever asked for gets one number, the others as many as they are hotter.
    counts = np.floor((np.floor(1 / asked[:1]) + 1) * np.where(heat >= _NEVER, heat, 0.0)) if len(asked) else heat
    if not np.isfinite(heat).all() or not 0 < counts.sum() < 2.0**62:
        raise UsageError(
            f"keyrange_dist a={a} b={b} c={c} d={d}: no key range is ever asked for, or one infinitely often"
        )
    found = counts.astype(np.int64)
    picks = _twister(np.array([found.sum()], np.uint64), ranges)[:, 0] % np.uint64(ranges)
    for i, pick in enumerate(picks.tolist()):
        found[[i, pick]] = found[[pick, i]]
    return found


def pareto(u: Floats, *, theta: float, k: float, sigma: float) -> Floats:
    """Return generalised-Pareto values for survival probabilities u in [0, 1], rounded up to whole numbers.

    What no 64-bit number holds is 0: the value at u = 0 where the tail has no end, and its neighbours.

    >>> pareto(np.array([1.0, 0.5]), theta=0.0, k=0.2615, sigma=25.45).tolist()
    [0.0, 20.0]
    """
    with np.errstate(divide="ignore"):
        values = np.ceil(theta - sigma * np.log(u) if k == 0 else theta + sigma * (u**-k - 1) / k)
    return np.where(values < 2.0**63, values, 0.0)


def _scattered(ranks: Words) -> Words:
    """Return one word for each rank, so that neighbours in rank lie far apart, shape (n,)."""
    blocks = range(0, len(ranks), _BLOCK)
    return np.concatenate([_twister(ranks[i : i + _BLOCK], 1)[0] for i in blocks]) if len(ranks) else ranks


def _twister(seeds: Words, n: int) -> Words:
    """Return the first n outputs of a 64-bit Mersenne Twister for each seed, shape (n, len(seeds)).

    Which keys are popular in db_bench follows from this generator, and numpy has only the 32-bit one.

    References:
        Nishimura, "Tables of 64-bit Mersenne Twisters", ACM TOMACS 10(4), 2000.
    """
    state = [seeds]
    for i in range(1, _STATE):
        last = state[-1]
        state.append((last ^ (last >> np.uint64(62))) * np.uint64(6364136223846793005) + np.uint64(i))
    low = np.uint64(0x7FFFFFFF)
    for i in range(n):
        joined = (state[i] & ~low) | (state[i + 1] & low)
        odd = (joined & np.uint64(1)) * np.uint64(0xB5026F5AA96619E9)
        state.append(state[i + _STATE // 2] ^ (joined >> np.uint64(1)) ^ odd)
    words = np.array(state[_STATE:])
    words ^= (words >> np.uint64(29)) & np.uint64(0x5555555555555555)
    words ^= (words << np.uint64(17)) & np.uint64(0x71D67FFFEDA60000)
    words ^= (words << np.uint64(37)) & np.uint64(0xFFF7EEE000000000)
    return words ^ (words >> np.uint64(43))
