"""The benchmarks that the embedded engine knows, as streams of operations, and the bytes that they move."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from mlsysopt.core.errors import UsageError, near_misses
from mlsysopt.operate.tune.rocksdb.flags import Flag
from mlsysopt.operate.tune.rocksdb.mixgraph import GET, PUT, SEEK, Ints, Stream, mixgraph
from mlsysopt.operate.tune.rocksdb.workloads import DEFAULT_KEYS, Workload

__all__ = ["FLAGS", "check_workload", "load_keys", "run_stream", "text_of_values", "text_starts", "to_keys"]

# What a workload may set, with db_bench's names and defaults.
FLAGS: Mapping[str, Flag] = {
    flag.name: flag
    for flag in (
        Flag("num", "int64", DEFAULT_KEYS, "keys"),
        Flag("reads", "int64", -1, "operations of the timed run; below 0: as many as keys"),
        Flag("key_size", "int32", 16, "bytes of a key"),
        Flag("value_size", "int32", 100, "bytes of a loaded value"),
        Flag("compression_ratio", "double", 0.5, "how far values can be compressed"),
        Flag("readwritepercent", "int32", 90, "share of Gets in readrandomwriterandom"),
        Flag("seek_nexts", "int32", 0, "keys that a scan of seekrandom visits"),
        Flag("mix_get_ratio", "double", 1.0, "share of Gets in mixgraph"),
        Flag("mix_put_ratio", "double", 0.0, "share of Puts in mixgraph"),
        Flag("mix_seek_ratio", "double", 0.0, "share of Seeks in mixgraph"),
        Flag("mix_max_scan_len", "int64", 10_000, "longest scan"),
        Flag("mix_max_value_size", "int64", 1024, "largest written value"),
        Flag("sine_mix_rate", "bool", False, "a varying rate; not in this engine"),
        Flag("keyrange_num", "int64", 1, "number of key ranges"),
        Flag("keyrange_dist_a", "double", 0.0, "hotness of key ranges, a e^(b x) + c e^(d x); needs key_dist_*"),
        Flag("keyrange_dist_b", "double", 0.0, "hotness of key ranges"),
        Flag("keyrange_dist_c", "double", 0.0, "hotness of key ranges"),
        Flag("keyrange_dist_d", "double", 0.0, "hotness of key ranges"),
        Flag("key_dist_a", "double", 0.0, "power law of keys inside a range, a r^b; 0: uniform keys"),
        Flag("key_dist_b", "double", 0.0, "power law of keys inside a range"),
        Flag("value_theta", "double", 0.0, "location of value sizes"),
        Flag("value_k", "double", 0.2615, "shape of value sizes"),
        Flag("value_sigma", "double", 25.45, "scale of value sizes"),
        Flag("iter_theta", "double", 0.0, "location of scan lengths"),
        Flag("iter_k", "double", 2.517, "shape of scan lengths"),
        Flag("iter_sigma", "double", 14.236, "scale of scan lengths"),
    )
}
_LOADS = ("fillrandom", "fillseq", "filluniquerandom")
_RUNS = ("mixgraph", "readrandom", "readrandomwriterandom", "overwrite", "seekrandom")
# Every load here ends flushed and quiet, and every phase reads its statistics anyway.
_DONE_ANYWAY = frozenset({"flush", "waitforcompaction", "stats", "levelstats", "sstables", "resetstats"})
# db_bench's values are cut out of a text of this size, made of pieces of that size.
_TEXT_BYTES, _PIECE_BYTES = 1 << 20, 100


def check_workload(workload: Workload) -> None:
    """Refuse what this engine cannot run.

    Raises:
        UsageError: a benchmark that only db_bench has, or a flag with a value that means nothing here.
    """
    for phase, known in (("load", _LOADS), ("run", _RUNS)):
        for name in getattr(workload, phase):
            steps = _DONE_ANYWAY if phase == "load" else _DONE_ANYWAY - {"flush", "waitforcompaction"}
            if name not in known and name not in steps:
                raise UsageError(
                    f"workload {workload.name!r}: the embedded engine has no {phase} benchmark {name!r}; "
                    f"{near_misses(name, known, noun='benchmark')} (all others need --engine db_bench)"
                )
    flags = workload.flags
    if flags.get("sine_mix_rate"):
        raise UsageError("flag sine_mix_rate: the embedded engine runs as fast as it can; use --engine db_bench")
    for name, low in (("num", 1), ("key_size", 1), ("value_size", 0)):
        if flags.get(name, FLAGS[name].default) < low:
            raise UsageError(f"flag {name}: given {flags[name]}, allowed {low} and above")


def load_keys(benchmarks: Sequence[str], flags: Mapping[str, Any], rng: np.random.Generator) -> Ints:
    """Return the numbers of the keys that are loaded, in their order.

    `fillrandom` draws with replacement, as in db_bench: 63 % of the keys then exist.
    """
    num = int(_filled(flags)["num"])
    parts: list[Ints] = []
    for name in benchmarks:
        if name == "fillrandom":
            parts.append(rng.integers(0, num, num))
        elif name == "fillseq":
            parts.append(np.arange(num))
        elif name == "filluniquerandom":
            parts.append(rng.permutation(num))
    return np.concatenate(parts)


def run_stream(benchmarks: Sequence[str], flags: Mapping[str, Any], rng: np.random.Generator) -> Stream:
    """Return the operations of the timed run."""
    flags = _filled(flags)
    n = int(flags["reads"]) if flags["reads"] >= 0 else int(flags["num"])
    streams = [_stream(name, flags, n, rng) for name in benchmarks if name in _RUNS]
    whole = streams[0]
    for stream in streams[1:]:
        whole = whole.then(stream)
    return whole


def _stream(name: str, flags: Mapping[str, Any], n: int, rng: np.random.Generator) -> Stream:
    if name == "mixgraph":
        return mixgraph(flags, n, rng)
    keys = rng.integers(0, int(flags["num"]), n)
    if name == "readrandom":
        return Stream(np.full(n, GET), keys, np.zeros(n, np.int64))
    if name == "seekrandom":
        return Stream(np.full(n, SEEK), keys, np.full(n, int(flags["seek_nexts"])))
    # db_bench's readrandomwriterandom: of each hundred operations, first the Gets, then the Puts.
    reads = int(flags["readwritepercent"]) if name == "readrandomwriterandom" else 0
    kinds = np.where(np.arange(n) % 100 < reads, GET, PUT)
    return Stream(kinds, keys, np.where(kinds == PUT, int(flags["value_size"]), 0))


def _filled(flags: Mapping[str, Any]) -> dict[str, Any]:
    return {**{name: flag.default for name, flag in FLAGS.items()}, **flags}


def to_keys(numbers: Ints, key_size: int) -> list[bytes]:
    """Write key numbers as db_bench does: eight bytes, most significant first, filled up with zeros (characters).

    >>> to_keys(np.array([258]), 10)
    [b'\\x00\\x00\\x00\\x00\\x00\\x00\\x01\\x0200']
    """
    digits = numbers.astype(">u8").view(np.uint8).reshape(len(numbers), 8)
    if key_size < 8:
        digits = digits[:, 8 - key_size :]
    rows = np.full((len(numbers), key_size), ord("0"), np.uint8)
    rows[:, : digits.shape[1]] = digits
    whole = rows.tobytes()
    return [whole[i : i + key_size] for i in range(0, len(whole), key_size)]


def text_of_values(largest: int, ratio: float, rng: np.random.Generator) -> bytes:
    """Return a text whose pieces compress to about `ratio` of their size; values are slices of it."""
    pieces = max(_TEXT_BYTES, 2 * largest) // _PIECE_BYTES + 1
    fresh = min(_PIECE_BYTES, max(1, round(_PIECE_BYTES * ratio)))
    letters = rng.integers(ord(" "), ord("~") + 1, (pieces, fresh), dtype=np.uint8)
    return np.tile(letters, -(-_PIECE_BYTES // fresh))[:, :_PIECE_BYTES].tobytes()


def text_starts(amounts: Ints, text_bytes: int) -> list[int]:
    """Return where each value begins: one after the other, from the front again at the end of the text."""
    if len(amounts) == 0:
        return []
    ends = np.cumsum(amounts)
    return ((ends - amounts) % (text_bytes - int(amounts.max()))).tolist()
