"""The machine a number was measured on: no ratio is worth much without it."""

from __future__ import annotations

import hashlib
import json
import os
import platform
from dataclasses import asdict, dataclass
from functools import lru_cache
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

__all__ = ["Machine", "cache_bytes", "machine"]

# Only what changes which kernels a numerical library picks.
_ISA = (
    *("sse4_2", "avx", "f16c", "fma", "avx2", "avx_vnni"),
    *("avx512f", "avx512bw", "avx512vl", "avx512_vnni", "avx512_bf16", "avx512_fp16"),
    *("amx_tile", "amx_int8", "amx_bf16"),
    *("asimd", "asimddp", "asimdhp", "i8mm", "bf16", "sve", "sve2"),
)
_CACHES = Path("/sys/devices/system/cpu/cpu0/cache")
_SHOWN = {"sse4_2", "avx", "avx2", "avx512f", "amx_tile", "asimd", "sve", "sve2"}
_PACKAGES = ("mlsysopt", "numpy", "scipy", "optuna", "botorch", "gpytorch", "torch", "scikit-learn", "rocksdict")


@dataclass(frozen=True, slots=True)
class Machine:
    """One machine, as far as it matters to a measurement.

    Attributes:
        cpu: Model name.
        cores: CPUs that this process may use.
        memory_bytes: Memory of the machine; 0 where unknown.
        kernel: Name and release.
        isa: Vector extensions in a fixed order.
        python: Version of the interpreter.
        packages: Versions of what is installed of the libraries that matter.
    """

    cpu: str
    cores: int
    memory_bytes: int
    kernel: str
    isa: tuple[str, ...]
    python: str
    packages: dict[str, str]

    @property
    def multiplies_bf16(self) -> bool:
        """Whether it has dot products of bfloat16 operands."""
        return not {"avx512_bf16", "amx_bf16"}.isdisjoint(self.isa)

    def as_dict(self) -> dict[str, Any]:
        """Return everything as JSON values."""
        return {**asdict(self), "isa": list(self.isa), "key": self.key()}

    def key(self) -> str:
        """Return a short hash of CPU, cores, memory in GiB, vector extensions and kernel series.

        A new patch release of the kernel, of Python or of a package leaves it as it is.
        """
        series = ".".join(self.kernel.split("-")[0].split(".")[:2])
        parts = [self.cpu, self.cores, round(self.memory_bytes / 2**30), list(self.isa), series]
        return hashlib.sha256(json.dumps(parts).encode()).hexdigest()[:12]

    def text(self) -> str:
        """Return one line for people."""
        widest = next((name for name in reversed(self.isa) if name in _SHOWN), "")
        vector = f", {widest}" if widest else ""
        return (
            f"{self.cpu}, {self.cores} core{'s' if self.cores != 1 else ''}{vector}, "
            f"{self.memory_bytes / 2**30:.0f} GiB, {self.kernel}, Python {self.python}"
        )


@lru_cache(maxsize=1)
def machine() -> Machine:
    """Describe this machine; read once per process.

    >>> machine().cores >= 1
    True
    """
    fields = _cpuinfo()
    flags = set((fields.get("flags") or fields.get("Features") or "").split())
    return Machine(
        cpu=_cpu_name(fields),
        cores=_cores(),
        memory_bytes=_memory_bytes(),
        kernel=f"{platform.system()} {platform.release()}",
        isa=tuple(name for name in _ISA if name in flags),
        python=platform.python_version(),
        packages={name: found for name in _PACKAGES if (found := _version(name)) is not None},
    )


def cache_bytes() -> tuple[int, ...]:
    """Return the sizes of the data caches of one core, the nearest first; empty where the system does not tell.

    The last level is what the system reports: on some servers what all their guests share.
    """
    sizes = [_size(place) for place in _CACHES.glob("index*") if _text(place / "type") != "Instruction"]
    return tuple(sorted(size for size in sizes if size))


def _size(place: Path) -> int:
    text = _text(place / "size")
    unit = {"K": 1 << 10, "M": 1 << 20, "G": 1 << 30}.get(text[-1:], 1)
    digits = text.rstrip("KMG")
    return int(digits) * unit if digits.isdigit() else 0


def _text(place: Path) -> str:
    try:
        return place.read_text().strip()
    except OSError:
        return ""


def _cpu_name(fields: dict[str, str]) -> str:
    name = fields.get("model name") or fields.get("Model") or platform.processor() or platform.machine()
    return " ".join(name.replace("(R)", "").replace("(TM)", "").split())


def _cpuinfo() -> dict[str, str]:
    """Read the first processor's fields; empty where there is no such file."""
    fields: dict[str, str] = {}
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        return fields
    for line in lines:
        name, found, value = line.partition(":")
        if found:
            fields.setdefault(name.strip(), value.strip())
    return fields


def _cores() -> int:
    affinity = getattr(os, "sched_getaffinity", None)
    return len(affinity(0)) if affinity is not None else os.cpu_count() or 1


def _memory_bytes() -> int:
    try:
        return os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    except (ValueError, OSError):
        return 0


def _version(package: str) -> str | None:
    try:
        return version(package)
    except PackageNotFoundError:
        return None
