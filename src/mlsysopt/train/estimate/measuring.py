"""Taking samples: checked first, timed beside the machine's pace, kept in the store, never above the budget."""

from __future__ import annotations

import hashlib
import json
import logging
import math
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from types import TracebackType
from typing import TYPE_CHECKING, Any

from mlsysopt.core.errors import InfrastructureError
from mlsysopt.core.processes.slot import exclusive_slot
from mlsysopt.core.target import Failure
from mlsysopt.train.estimate import clock
from mlsysopt.train.estimate.forks import LEAST_CPU_S
from mlsysopt.train.estimate.host import Host, Job, Reading
from mlsysopt.train.estimate.memory import Free, peak_of
from mlsysopt.train.estimate.samples import Sample
from mlsysopt.train.estimate.sampling import Rung, subset

if TYPE_CHECKING:
    from mlsysopt.core.executors import Executor
    from mlsysopt.core.store import Store
    from mlsysopt.train.estimate.characteristics import Characteristics
    from mlsysopt.train.estimate.ratings import Ratings
    from mlsysopt.train.estimate.trainers.registry import TrainerRecord

__all__ = ["Measuring", "Note", "Part"]

log = logging.getLogger("mlsysopt.estimate")

_ROOM = "estimate"
# What a sample counts during which the machine changed its pace.
_HALF = 0.5
# What a sample costs beside its training: a fork, files, two readings of the pace; and for each rating it loads.
_OVERHEAD_S, _OVERHEAD_PER_RATING_S = 0.06, 8e-6
_LONGEST_GRACE_S = 5.0
# Loading and walking all the data has to stay in proportion to what was asked for.
_WALK_PER_RATING_S = 5e-6
_MOST_LOADING = 6.0


@dataclass(frozen=True, slots=True)
class Note:
    """One thing that happened, for whoever watches.

    Attributes:
        kind: `walk`, `sample`, `failure`, `stop`.
        text: One line.
        data: JSON values.
    """

    kind: str
    text: str
    data: Mapping[str, Any]


@dataclass(frozen=True, slots=True)
class Part:
    """A rung with the rows that it drew."""

    rung: Rung
    ratings: Ratings
    record: TrainerRecord
    key: str


class Measuring:
    """Everything that costs machine time, under one budget; close it with `with`.

    Args:
        ratings: All of them.
        budget_s: CPU seconds that may be spent.
        room: Memory that may be used.
        store: Where samples are kept; None keeps them nowhere.
        executor: Where the host of the samples runs; None means here.
        threads: Threads of one training.
        modules: What the host imports before it forks.
        watch: Called with each `Note`.
    """

    def __init__(
        self,
        ratings: Ratings,
        *,
        budget_s: float,
        room: Free,
        store: Store | None = None,
        executor: Executor | None = None,
        threads: int = 1,
        modules: tuple[str, ...] = (),
        watch: Callable[[Note], object] | None = None,
    ) -> None:
        self.ratings = ratings
        self.budget_s = budget_s
        self.room = room
        self.loading_s = 0.0
        self.from_store = 0
        self._store = store
        self._watch = watch or (lambda note: None)
        self._host = Host(executor, modules=modules, threads=threads)
        self._stored_s = 0.0
        self._cpu_before = time.process_time()
        self._paths: dict[str, str] = {}

    def __enter__(self) -> Measuring:
        self._host.__enter__()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._host.__exit__(kind, error, trace)

    @property
    def spent_s(self) -> float:
        """CPU seconds so far, here and in the samples, loading of the full data left out; stored samples count."""
        here = time.process_time() - self._cpu_before
        return here + self._host.spent_s + self._stored_s - self.loading_s

    @property
    def left_s(self) -> float:
        """What is left of the budget."""
        return self.budget_s - self.spent_s

    def walked(self, record: TrainerRecord) -> Characteristics:
        """Return the characteristics of all the data, with the walks and the ramp that the record needs."""
        sizes = self.ratings.characteristics
        if record.has_ramp:
            sizes = sizes.with_ramp(**dict(zip(("W1", "W2"), self._ramp(), strict=True)))
        if not record.walks:
            return sizes
        key = f"walk:{record.data}:{self.ratings.digest}"
        stored = self._stored(key)
        missing = [name for name in record.walks if stored is None or name not in stored]
        if missing:
            found = self._walk(record)
            if found is None:
                return sizes
            stored = {**(stored or {}), **found}
            self._keep(key, stored)
        assert stored is not None
        return sizes.with_walk(**{name: stored[name] for name in record.walks})

    def part(self, record: TrainerRecord, rung: Rung) -> Part:
        """Draw the rows of a rung."""
        few = subset(self.ratings, record.side, rung.share, seed=rung.seed, tilt=rung.tilt)
        # Memory that depends on the rows themselves is that of these rows.
        own = record.settled(ratings=few)
        what = {
            "data": self.ratings.digest,
            "trainer": record.name,
            "time": list(record.time),
            "params": {name: str(value) for name, value in sorted(rung.params.items())},
            "side": record.side,
            "share": round(rung.share, 9),
            "tilt": rung.tilt,
            "seed": rung.seed,
        }
        key = hashlib.sha256(json.dumps(what, sort_keys=True).encode()).hexdigest()[:32]
        return Part(rung, few, own, f"sample:{key}")

    def overhead_s(self, part: Part) -> float:
        """Return what taking a sample is expected to cost beside its training."""
        return _OVERHEAD_S + _OVERHEAD_PER_RATING_S * len(part.ratings)

    def known(self, part: Part) -> Sample | None:
        """Return the sample of this part from the store, None where it was never taken on this machine."""
        row = self._stored(part.key)
        if row is None:
            return None
        sample = Sample.from_dict(row)
        self._stored_s += sample.spent_s
        self.from_store += 1
        return sample

    def take(self, part: Part, sizes: Characteristics, *, expected_s: float = math.nan) -> Sample | Failure:
        """Take one sample: check its memory, time it, repeat it once when the machine changed meanwhile, keep it.

        Args:
            part: Rung and rows.
            sizes: Of all the data: its ramp is that of the sample as well.
            expected_s: What the training is expected to take; bounds how long it may.
        """
        before = self.spent_s
        own = part.ratings.characteristics.with_ramp(W1=sizes.W1, W2=sizes.W2)
        peak = peak_of(part.record, own, part.rung.params)
        if peak.low > self.room.bytes:
            return self._failed(part, Failure("rejected", f"its peak of {peak.bytes} bytes is above what is free"))
        path = self._host.keep(part.ratings)
        try:
            found = self._timed(part, path, expected_s)
            if isinstance(found, Reading) and found.disturbed and self.left_s > found.spent_s * 1.5:
                again = self._timed(part, path, expected_s)
                found = again if isinstance(again, Reading) and not again.disturbed else found
        finally:
            self._host.forget(path)
        if isinstance(found, Failure):
            return self._failed(part, found)
        sample = Sample(
            rows_share=min(1.0, part.rung.share),
            characteristics=own.with_walk(**found.walks),
            params=dict(part.rung.params),
            cpu_s=found.cpu_s,
            wall_s=found.wall_s,
            weight=_HALF if found.disturbed else 1.0,
            peak_bytes=found.peak_bytes,
            seed=part.rung.seed,
            repeats=found.repeats,
            pace_s=found.pace_s,
            spent_s=self.spent_s - before,
            extra={
                "base_bytes": found.base_bytes,
                "loaded_bytes": found.loaded_bytes,
                "growth_bytes": found.growth_bytes,
                "load_s": found.load_s,
                "tilt": part.rung.tilt,
            },
        )
        self._keep(part.key, sample.as_dict())
        self._say(
            "sample",
            f"{part.record.name}: {100 * sample.rows_share:.2g} % of the {part.record.side}s, "
            f"{sample.characteristics.R:,} ratings: {sample.cpu_s:.3g} s",
            share=sample.rows_share,
            cpu_s=sample.cpu_s,
            spent_s=self.spent_s,
            trainer=part.record.name,
        )
        return sample

    def _timed(self, part: Part, path: str, expected_s: float) -> Reading | Failure:
        allowed = max(self.left_s, 1.0) if math.isnan(expected_s) else 6.0 * expected_s + self.overhead_s(part)
        job = Job(
            path,
            part.record,
            dict(part.rung.params),
            walks=part.record.walks,
            data=part.record.data,
            timeout_s=allowed + _LONGEST_GRACE_S,
            memory_bytes=self.room.bytes,
            least_cpu_s=LEAST_CPU_S,
        )
        with exclusive_slot():
            found = self._host.ask(job)
        if isinstance(found, Failure) and found.kind == "infrastructure":
            raise InfrastructureError(f"samples cannot be taken: {found.reason}")
        return found

    def _walk(self, record: TrainerRecord) -> dict[str, float] | None:
        number = len(self.ratings)
        if number * _WALK_PER_RATING_S > _MOST_LOADING * self.budget_s:
            log.warning("loading %d ratings for the walk would cost more than the budget: it is left out", number)
            return None
        peak = peak_of(replace(record, memory="0"), self.ratings.characteristics)
        if peak.low > self.room.bytes:
            log.warning("the loaded data do not fit: the walk is left out")
            return None
        path = self._host.keep(self.ratings)
        try:
            job = Job(path, None, {}, walks=record.walks, data=record.data, memory_bytes=self.room.bytes)
            with exclusive_slot():
                found = self._host.ask(job)
        finally:
            self._host.forget(path)
        if isinstance(found, Failure):
            self._say("failure", f"walk over all ratings: {found.kind}: {found.reason}", what=found.kind)
            return None
        # Loading is what the training needs anyway; what walks cost counts.
        self.loading_s += max(0.0, found.spent_s - sum(found.walks.values()))
        shown = ", ".join(f"{name} {seconds:.3g} s" for name, seconds in found.walks.items())
        self._say("walk", f"walk over all {number:,} ratings: {shown}", **found.walks)
        return found.walks

    def _ramp(self) -> tuple[float, float]:
        stored = self._stored("staircase")
        if stored is None:
            with exclusive_slot():
                steps = clock.staircase(most_bytes=max(2**20, self.room.bytes // 4))
            stored = {
                "sizes_bytes": list(steps.sizes_bytes),
                "seconds": list(steps.seconds),
                "ramp": list(steps.ramp()),
            }
            self._keep("staircase", stored)
        low, high = stored["ramp"]
        return float(low), float(high)

    def _failed(self, part: Part, failure: Failure) -> Failure:
        self._say(
            "failure",
            f"{part.record.name}: {100 * part.rung.share:.2g} % of the {part.record.side}s: "
            f"{failure.kind}: {failure.reason}",
            what=failure.kind,
            reason=failure.reason,
            log_tail=failure.log_tail,
        )
        return failure

    def _say(self, kind: str, text: str, **data: Any) -> None:
        log.info("%s", text)
        self._watch(Note(kind, text, data))

    def _stored(self, key: str) -> dict[str, Any] | None:
        if self._store is None:
            return None
        rows = [row for row in self._store.samples(_ROOM, key) if row.machine == self._store.machine_key]
        return rows[-1].row if rows else None

    def _keep(self, key: str, row: Mapping[str, Any]) -> None:
        if self._store is not None:
            self._store.add_sample(_ROOM, key, row)
