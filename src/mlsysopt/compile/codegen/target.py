"""The machine that code is made for."""

from __future__ import annotations

import os
from dataclasses import dataclass
from functools import cache
from typing import TYPE_CHECKING, Any

from mlsysopt.core.errors import MissingExtra, UsageError, near_misses

if TYPE_CHECKING:
    from llvmlite import ir

__all__ = ["ISAS", "Isa", "features_of", "host_isa", "llvm", "new_module"]


@dataclass(frozen=True, slots=True)
class Isa:
    """What of the processor's vector units generated code may use.

    Attributes:
        name: "avx512", "avx2" or "baseline".
        lanes: 32-bit floats in one register.
        registers: Vector registers.
        features: LLVM's feature string.
        bf16: Whether there is a dot product of bfloat16.
    """

    name: str
    lanes: int
    registers: int
    features: str
    bf16: bool = False

    @property
    def bits(self) -> int:
        return self.lanes * 32


ISAS = ("avx512", "avx2", "baseline")
_AVX2 = "+sse4.2,+popcnt,+avx,+avx2,+fma,+f16c,+bmi,+bmi2"
_AVX512 = ("avx512f", "avx512bw", "avx512dq", "avx512vl", "avx512cd")


@cache
def host_isa(cap: str | None = None) -> Isa:
    """Return the widest vector unit of this machine that is not above a cap.

    Args:
        cap: "avx512", "avx2" or "baseline"; None takes the variable MLSYSOPT_ISA, or else sets no cap.

    Raises:
        UsageError: no such unit.
    """
    wanted = cap or os.environ.get("MLSYSOPT_ISA") or ISAS[0]
    if wanted not in ISAS:
        raise UsageError(f"unknown instruction set {wanted!r}; {near_misses(wanted, ISAS, noun='instruction set')}")
    able = _host_features()
    allowed = ISAS[ISAS.index(wanted) :]
    if "avx512" in allowed and all(able.get(name) for name in _AVX512):
        more = [name for name in ("avx512bf16", "avx512vnni") if able.get(name)]
        # Without evex512, LLVM 20 takes vectors of 512 bits apart on processors that it does not know by name.
        features = ",".join([_AVX2, *(f"+{name}" for name in (*_AVX512, "evex512", *more))])
        return Isa("avx512", 16, 32, features, bf16="avx512bf16" in more)
    if "avx2" in allowed and able.get("avx2") and able.get("fma"):
        return Isa("avx2", 8, 16, _AVX2)
    return Isa("baseline", 4, 16, "+sse4.2" if able.get("sse4.2") else "")


def new_module(name: str) -> ir.Module:
    """Return an empty module for this process."""
    triple = _triple()
    from llvmlite import ir

    module = ir.Module(name)
    module.triple = triple
    return module


def features_of(isa: Isa) -> str:
    """Return features with everything off that the host has and the cap forbids."""
    wide = sorted(name for name, able in _host_features().items() if able and name.startswith(("avx512", "avx10")))
    if isa.name == "avx512":
        return isa.features
    off = [f"-{name}" for name in wide]
    if isa.name == "baseline":
        off += [f"-{name}" for name in ("avx2", "avx", "fma", "f16c")]
    return ",".join(one for one in (isa.features, *off) if one)


@cache
def _host_features() -> dict[str, bool]:
    return dict(llvm().get_host_cpu_features())


@cache
def _triple() -> str:
    # Asked once: LLVM answers nobody while another thread compiles.
    return str(llvm().get_process_triple())


@cache
def llvm() -> Any:
    """Return llvmlite's binding, ready for this machine.

    Raises:
        MissingExtra: llvmlite is not installed.
    """
    try:
        import llvmlite.binding as binding
    except ImportError as error:
        raise MissingExtra.of("generating code", "compile") from error
    binding.initialize_native_target()
    binding.initialize_native_asmprinter()
    return binding
