"""What times depend on, beside the site and the variant: the processor and the libraries."""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from functools import cache
from importlib.metadata import PackageNotFoundError, version
from typing import Any, Self

from mlsysopt.compile.codegen.target import ISAS
from mlsysopt.core.measure import machine
from mlsysopt.core.measure.hardware import cache_bytes

__all__ = ["Fingerprint", "fingerprint"]

# What decides which kernels run; variants of ours say by their version that they have changed.
_LIBRARIES = ("torch", "llvmlite")
_UNITS = {"avx512": "avx512f", "avx2": "avx2"}


@dataclass(frozen=True, slots=True)
class Fingerprint:
    """What times depend on, beside site and variant.

    Attributes:
        cpu: Model name.
        cores: Processors that may be used.
        isa: Vector extensions.
        cap: Widest unit that generated code may use, "" for no cap.
        caches: Bytes of the data caches, the nearest first.
        libraries: Version by name; torch brings MKL and oneDNN.
    """

    cpu: str
    cores: int
    isa: tuple[str, ...]
    cap: str
    caches: tuple[int, ...]
    libraries: tuple[tuple[str, str], ...]

    @property
    def key(self) -> str:
        """A short hash of all of it."""
        return hashlib.sha256(json.dumps(asdict(self)).encode()).hexdigest()[:12]

    def __str__(self) -> str:
        caches = "/".join(f"{size >> 10}K" for size in self.caches) or "unknown caches"
        libraries = ", ".join(f"{name} {found}" for name, found in self.libraries) or "no libraries"
        cap = f", capped at {self.cap}" if self.cap else ""
        return f"{self.cpu}, {self.cores} cores, {caches}{cap}, {libraries}"

    @classmethod
    def of(cls, content: Mapping[str, Any]) -> Self:
        """Read what `asdict` made and JSON kept."""
        return cls(
            str(content["cpu"]),
            int(content["cores"]),
            tuple(map(str, content["isa"])),
            str(content["cap"]),
            tuple(map(int, content["caches"])),
            tuple((str(name), str(found)) for name, found in content["libraries"]),
        )


def fingerprint(cap: str | None = None) -> Fingerprint:
    """Describe this machine as far as times depend on it.

    Args:
        cap: Cap on vector units; None takes the variable MLSYSOPT_ISA.
    """
    return _fingerprint(os.environ.get("MLSYSOPT_ISA", "") if cap is None else cap)


@cache
def _fingerprint(cap: str) -> Fingerprint:
    here = machine()
    widest = next((unit for unit, flag in _UNITS.items() if flag in here.isa), "baseline")
    # A cap that takes nothing away makes no other machine.
    held_back = cap in ISAS and ISAS.index(cap) > ISAS.index(widest)
    found = [(name, _version(name)) for name in _LIBRARIES]
    libraries = tuple((name, told) for name, told in found if told)
    return Fingerprint(here.cpu, here.cores, here.isa, cap if held_back else "", cache_bytes(), libraries)


def _version(name: str) -> str:
    try:
        return version(name)
    except PackageNotFoundError:
        return ""
