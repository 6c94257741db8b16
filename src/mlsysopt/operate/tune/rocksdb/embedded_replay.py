"""Replaying a stream of operations on an embedded RocksDB, one call each, with a clock around every call.

Batches of Gets would measure MultiGet, batches of Puts the group commit; so nothing is batched. A
scan alone runs without any Python between its keys.
"""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np

from mlsysopt.operate.tune.rocksdb.embedded_stream import run_stream, text_of_values, text_starts, to_keys
from mlsysopt.operate.tune.rocksdb.mixgraph import GET, PUT, SEEK, Ints
from mlsysopt.operate.tune.rocksdb.output import PERCENTILES

__all__ = ["Replay"]

Get = Callable[[bytes], object]
Put = Callable[[bytes, bytes], object]
Scan = Callable[[bool, bytes], Iterable[object]]

_KINDS = {"get": GET, "write": PUT, "seek": SEEK}
# Enough for a mean; the rest of a longer stream costs the same.
_IDLE_OPERATIONS = 30_000
# Of each operation the fastest: a neighbour on the machine rarely hits the same one twice.
_IDLE_REPEATS = 2


class Replay:
    """The timed run, prepared so that no work is left between two operations.

    Args:
        benchmarks: Benchmarks of the timed run.
        flags: All flags of the workload.
        rng: Source of keys, kinds and amounts.
        letters: Source of the text that values are cut from.
    """

    def __init__(
        self,
        benchmarks: Sequence[str],
        flags: Mapping[str, Any],
        rng: np.random.Generator,
        letters: np.random.Generator,
    ) -> None:
        stream = run_stream(benchmarks, flags, rng)
        written = np.where(stream.kinds == PUT, stream.amounts, 0)
        largest = max(int(flags["value_size"]), int(written.max(initial=0)))
        self.text = text_of_values(largest, float(flags["compression_ratio"]), letters)
        self._num = int(flags["num"])
        self._kinds = stream.kinds
        self._scanned = np.where(stream.kinds == SEEK, stream.amounts, 0)
        self._keys = to_keys(stream.keys, int(flags["key_size"]))
        self._amounts: list[int] = stream.amounts.tolist()
        self._starts = text_starts(written, len(self.text))

    def on(self, get: Get, put: Put, scan: Scan, keys: Iterable[bytes] | None = None) -> Ints:
        """Run the operations and return the nanoseconds of each, shape (n,).

        One operation's end is the next one's beginning, as in db_bench: the latencies add up to the
        time of the whole run.

        Args:
            get: Called with a key.
            put: Called with a key and a value.
            scan: Called with False (forwards) and a key; yields what it visits.
            keys: Keys instead of the stream's own, as many as operations are to be run.
        """
        text, clock, exhaust = self.text, time.perf_counter_ns, deque[object](maxlen=0).extend
        spent: list[int] = []
        add = spent.append
        rows: Iterator[tuple[bytes, int, int, int]] = zip(
            keys if keys is not None else self._keys, self._kinds.tolist(), self._starts, self._amounts, strict=False
        )
        last = clock()
        for key, kind, start, amount in rows:
            if kind == GET:
                get(key)
            elif kind == PUT:
                put(key, text[start : start + amount])
            else:
                exhaust(islice(scan(False, key), amount))
            now = clock()
            add(now - last)
            last = now
        return np.array(spent, dtype=np.int64)

    def idle(self, folder: Path, visited: int) -> dict[str, float]:
        """Return the microseconds that an operation takes where RocksDB has next to nothing to do.

        A small database whose few tiny entries all lie in its memtable; a Put ends in a batch that is
        never written. What is left is Python, the binding and RocksDB's fixed path: no knob moves it.

        Args:
            folder: Where that database goes; must not exist.
            visited: Keys that the scans of the timed run saw; fewer than they wanted where they met the end.
        """
        import rocksdict

        plain = rocksdict.Options(raw_mode=True)
        plain.create_if_missing(True)
        n = min(len(self._keys), _IDLE_OPERATIONS)
        # As many keys as the longest scan wants, but no more than the workload has.
        entries = min(int(self._scanned.max(initial=0)), self._num)
        batch = rocksdict.WriteBatch(raw_mode=True)
        with rocksdict.Rdict(str(folder), plain) as db:
            for key in to_keys(np.arange(entries), 8):
                db.put(key, b"")
            times = [self.on(db.get, batch.put, db.values, [b""] * n) for _ in range(_IDLE_REPEATS)]
        found = {name: float(spent.mean()) / 1e3 for name, spent in self._by_kind(np.min(times, axis=0))}
        if entries and "seek" in found:
            found["seek"] *= min(1.0, visited / int(np.minimum(self._scanned, entries).sum()))
        return found

    def idle_share(self, idle: Mapping[str, float], cpu_s: float) -> float:
        """Return the share of the run's CPU seconds that idle operations alone would have taken."""
        fixed_us = sum(idle[name] * int((self._kinds == _KINDS[name]).sum()) for name in idle)
        return min(1.0, fixed_us / 1e6 / max(cpu_s, 1e-6))

    def latencies(self, spent: Ints) -> dict[str, dict[str, float]]:
        """Return mean, p50, p95 and p99 of each kind of operation, in microseconds."""
        found: dict[str, dict[str, float]] = {}
        for name, times in self._by_kind(spent):
            cuts = np.percentile(times, PERCENTILES) / 1e3
            found[name] = {"mean": float(times.mean()) / 1e3}
            found[name] |= {f"p{p}": float(cut) for p, cut in zip(PERCENTILES, cuts, strict=True)}
        return found

    def _by_kind(self, spent: Ints) -> list[tuple[str, Ints]]:
        kinds = self._kinds[: len(spent)]
        parts = [(name, spent[kinds == kind]) for name, kind in _KINDS.items()]
        return [(name, times) for name, times in parts if len(times)]
