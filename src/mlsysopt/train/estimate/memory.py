"""Whether a training fits: what is free, what its arrays take, what was measured of the rest."""

from __future__ import annotations

import re
import resource
from collections.abc import Iterable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from mlsysopt.core.errors import MlsysoptError
from mlsysopt.core.quantities import format_bytes
from mlsysopt.train.estimate.terms import Terms, numeric
from mlsysopt.train.estimate.trainers.registry import split_sum

if TYPE_CHECKING:
    from mlsysopt.train.estimate.characteristics import Characteristics
    from mlsysopt.train.estimate.ratings import Ratings
    from mlsysopt.train.estimate.samples import Sample
    from mlsysopt.train.estimate.trainers.registry import TrainerRecord

__all__ = ["DoesNotFit", "Free", "Peak", "arrays", "check", "free", "need", "peak_of", "stays"]

# A loaded trainset takes some 330 bytes a rating, with the process around it; measured as soon as there is a sample.
_GUESS_PER_RATING = {"trainset": 250.0, "csr": 24.0, "ratings": 40.0}
_GUESS_PROCESS = 50 * 2**20
# How far a peak may be off: allocators round, arrays overlap with what was freed.
_BELOW, _ABOVE = 0.93, 1.10
_UNLIMITED = 2**60
# A slope further off the guess than this comes from noise between small samples.
_FAR_OFF = 3.0


class DoesNotFit(MlsysoptError):
    """A training that would exceed the memory; nothing was started."""


@dataclass(frozen=True, slots=True)
class Free:
    """Memory that a new process may use.

    Attributes:
        bytes: The least of all limits.
        limit: Which limit that is.
        all: Every limit that was found, in bytes.
    """

    bytes: int
    limit: str
    all: Mapping[str, int]

    def text(self) -> str:
        """Return one clause for people."""
        return f"{format_bytes(self.bytes)} free ({self.limit})"


def free(limit_bytes: int | None = None, *, root: Path = Path("/")) -> Free:
    """Return what is free: the machine's memory, the container's, the address space, a limit of the user.

    Args:
        limit_bytes: The user's own limit.
        root: Where `/proc` and `/sys` are found.
    """
    found: dict[str, int] = {}
    if (available := _field(root / "proc/meminfo", "MemAvailable:")) is not None:
        found["MemAvailable"] = available
    with suppress(OSError, ValueError):
        groups = (root / "proc/self/cgroup").read_text().splitlines()
        for name, left in _groups(root, groups):
            found[name] = min(left, found.get(name, left))
    soft, _ = resource.getrlimit(resource.RLIMIT_AS)
    if soft != resource.RLIM_INFINITY:
        found["RLIMIT_AS"] = max(0, soft - (_field(root / "proc/self/status", "VmSize:") or 0))
    if limit_bytes is not None:
        found["--memory"] = limit_bytes
    if not found:
        return Free(_UNLIMITED, "nothing tells", {})
    least = min(found, key=lambda name: found[name])
    return Free(found[least], least, found)


@dataclass(frozen=True, slots=True)
class Peak:
    """Highest memory of a training.

    Attributes:
        process: Interpreter and libraries, bytes.
        loaded: The data as the trainer takes it.
        arrays: What training allocates: expression -> bytes.
        other: Buffers that no expression names, as the samples showed.
        measured: Whether process and loaded data were measured, or are guesses.
    """

    process: float
    loaded: float
    arrays: Mapping[str, float]
    other: float
    measured: bool

    @property
    def bytes(self) -> int:
        """Everything together."""
        return int(self.process + self.loaded + sum(self.arrays.values()) + self.other)

    @property
    def low(self) -> int:
        """Least that it may come to: the arrays are exact, the rest is uncertain."""
        certain = sum(self.arrays.values())
        return int(certain * 0.97 + (self.bytes - certain) * (_BELOW if self.measured else 0.3))

    @property
    def high(self) -> int:
        """Most that it may come to."""
        return int(self.bytes * (_ABOVE if self.measured else 1.6))

    def as_dict(self) -> dict[str, Any]:
        """Return everything as JSON values."""
        return {
            "bytes": self.bytes,
            "low": self.low,
            "high": self.high,
            "process": int(self.process),
            "loaded": int(self.loaded),
            "arrays": {name: int(value) for name, value in self.arrays.items()},
            "other": int(self.other),
            "measured": self.measured,
        }


def arrays(record: TrainerRecord, sizes: Characteristics, params: Mapping[str, Any] | None = None) -> dict[str, float]:
    """Return bytes that training allocates at its peak, by summand of the record's expression."""
    parts = split_sum(record.memory)
    values = Terms(parts).columns(sizes, record.params if params is None else params)
    return dict(zip(parts, values.tolist(), strict=True))


def stays(record: TrainerRecord, sizes: Characteristics) -> float:
    """Return bytes that the trained model keeps."""
    return float(Terms([record.stays]).columns(sizes, record.params)[0])


def peak_of(
    record: TrainerRecord,
    sizes: Characteristics,
    params: Mapping[str, Any] | None = None,
    samples: Iterable[Sample] = (),
) -> Peak:
    """Return the peak of one training: exact arrays, and the rest as measured on samples.

    Args:
        record: Settled record.
        sizes: Of the data in question.
        params: Hyper-parameters; None takes the record's.
        samples: With `loaded_bytes`, `base_bytes` and `growth_bytes` among their extra values.
    """
    seen = [one for one in samples if "loaded_bytes" in one.extra]
    found = arrays(record, sizes, params)
    if not seen:
        return Peak(_GUESS_PROCESS, _GUESS_PER_RATING[record.data] * sizes.R, found, 0.0, False)
    process = min(float(one.extra["base_bytes"]) for one in seen)
    loaded = _loaded(seen, sizes.R, _GUESS_PER_RATING[record.data])
    # What an exact expression leaves over is the same for every size: BLAS buffers, code that was loaded late.
    over = [one.extra["growth_bytes"] - sum(arrays(record, one.characteristics, one.params).values()) for one in seen]
    return Peak(process, loaded, found, max(0.0, sorted(over)[len(over) // 2]), True)


def need(record: TrainerRecord, sizes: Characteristics) -> str:
    """Say in words what the arrays of a training take: `cosine by item holds 5 squares ... = 25.2 GiB`."""
    total = sum(arrays(record, sizes).values())
    told = {**sizes.symbols(), **numeric(record.params)}
    words = record.words or f"{record.name} holds {record.memory}"
    shown = re.sub(r"\{(\w+)(:,)?\}", lambda found: f"{int(told.get(found[1], 0)):,}", words)
    return f"{shown} = {format_bytes(total)}"


def check(record: TrainerRecord, ratings: Ratings, room: Free, samples: Sequence[Sample] = ()) -> Peak:
    """Return the peak of a training, or refuse it with the arithmetic.

    Args:
        record: Settled record.
        ratings: All that would be trained on.
        room: What is free.
        samples: What was measured so far.

    Raises:
        DoesNotFit: not even the low end fits; names what would, and the largest share of rows that does.
    """
    sizes = ratings.characteristics
    peak = peak_of(record, sizes, samples=samples)
    if peak.low <= room.bytes:
        return peak
    lines = [f"{need(record, sizes)}, whole peak {format_bytes(peak.bytes)}; {room.text()}"]
    if others := _alternatives(record, ratings, room):
        lines.append(f"instead: {'; '.join(others)}")
    shares = {side: _largest_share(record, ratings, room, samples, side) for side in ("user", "item")}
    best = max(shares, key=lambda side: shares[side])
    lines.append(
        f"at most {shares[best]:.0%} of the {best}s fit; nothing was started"
        if shares[best] >= 0.01
        else "not even 1 % of the users or items fit; nothing was started"
    )
    raise DoesNotFit("\n".join(lines))


def _alternatives(record: TrainerRecord, ratings: Ratings, room: Free) -> list[str]:
    found: dict[str, float] = {}
    own = sum(arrays(record, ratings.characteristics).values())
    for change in record.alternatives:
        if all(record.params.get(name) == value for name, value in change.items()):
            continue
        other = record.settled(change, ratings)
        total = sum(arrays(other, ratings.characteristics).values())
        if total < own:
            text = ", ".join(f"{name}={str(value).lower()}" for name, value in change.items())
            found.setdefault(text, total)
    return [
        f"{text} needs {format_bytes(total)}{'' if total <= room.bytes else ' (too much as well)'}"
        for text, total in found.items()
    ][:3]


def _largest_share(record: TrainerRecord, ratings: Ratings, room: Free, samples: Sequence[Sample], side: str) -> float:
    from mlsysopt.train.estimate.sampling import subset

    low, high = 0.0, 1.0
    for _ in range(7):
        middle = (low + high) / 2
        part = subset(ratings, side, middle, seed=0)
        if peak_of(record.settled(ratings=part), part.characteristics, samples=samples).bytes <= room.bytes:
            low = middle
        else:
            high = middle
    return low


def _loaded(seen: Sequence[Sample], ratings: int, guess: float) -> float:
    """Return what the full data take when loaded, from the straight line through the samples.

    Part of what loading adds is the same for every size, and samples may be small: far below the full
    data the level alone would be multiplied with it.
    """
    r = np.array([float(one.characteristics.R) for one in seen])
    b = np.array([float(one.extra["loaded_bytes"]) for one in seen])
    slope = guess
    if r.max() > 1.5 * r.min():
        fitted = float(np.sum((r - r.mean()) * (b - b.mean())) / np.sum((r - r.mean()) ** 2))
        slope = min(max(fitted, guess / _FAR_OFF), guess * _FAR_OFF)
    largest = int(np.argmax(r))
    return max(0.0, float(b[largest] + slope * (ratings - r[largest])))


def _groups(root: Path, lines: Sequence[str]) -> Iterable[tuple[str, int]]:
    """Yield what each level of the container hierarchy leaves, version 1 and 2."""
    for line in lines:
        number, controllers, path = line.split(":", 2)
        if number == "0" and not controllers:
            names = ("memory.max", "memory.current", "inactive_file", "cgroup v2")
            tops = [root / "sys/fs/cgroup", root / "sys/fs/cgroup/unified"]
        elif "memory" in controllers.split(","):
            names = ("memory.limit_in_bytes", "memory.usage_in_bytes", "total_inactive_file", "cgroup v1")
            tops = [root / "sys/fs/cgroup/memory"]
        else:
            continue
        maximum, used, cached, name = names
        for top in tops:
            # Inside a container its own group is often mounted as the top: the path then leads nowhere.
            inner = [top.joinpath(*path.strip("/").split("/")[:depth]) for depth in range(path.count("/") + 1)]
            for folder in dict.fromkeys([top, *inner]):
                with suppress(OSError, ValueError):
                    limit = (folder / maximum).read_text().strip()
                    if limit == "max" or int(limit) >= _UNLIMITED:
                        continue
                    taken = int((folder / used).read_text())
                    # Cached file pages count as used, but make room at once.
                    yield name, max(0, int(limit) - taken + _stat(folder / "memory.stat", cached))


def _stat(path: Path, name: str) -> int:
    with suppress(OSError, ValueError):
        for line in path.read_text().splitlines():
            key, _, value = line.partition(" ")
            if key == name:
                return int(value)
    return 0


def _field(path: Path, name: str) -> int | None:
    with suppress(OSError, ValueError):
        for line in path.read_text().splitlines():
            if line.startswith(name):
                return int(line.split()[1]) * 1024
    return None
