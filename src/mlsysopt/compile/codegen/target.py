"""The machine that code is made for, and the way from LLVM's text to addresses.

Object code is cached on disk under a hash of everything that it depends on; a folder that cannot be written costs
one warning and the next start its compile time.
"""

from __future__ import annotations

import hashlib
import logging
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

from mlsysopt._version import __version__
from mlsysopt.compile.errors import CodegenError
from mlsysopt.core.errors import MissingExtra, UsageError, near_misses
from mlsysopt.core.places import cache_dir, replace_file, state_dir

if TYPE_CHECKING:
    from llvmlite import ir

__all__ = ["ISAS", "Isa", "Library", "Source", "build", "host_isa", "load", "new_module"]

log = logging.getLogger("mlsysopt.compile")


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
# Constants by distance; `load` puts all sections of an object side by side.
_CODE_MODEL = "small"
# What the second level finds more in our kernels is not faster, and takes a quarter more time to find.
_LEVEL = 1
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


@dataclass(frozen=True)
class Library:
    """Compiled code in this process.

    Attributes:
        objects: The bytes that an artefact keeps, the program's own first.
        addresses: Function -> address.
    """

    objects: tuple[bytes, ...]
    addresses: Mapping[str, int]
    _engine: Any = field(repr=False)  # frees the code when it goes

    def address(self, name: str) -> int:
        """Return where a function starts.

        Raises:
            CodegenError: no such function.
        """
        if name not in self.addresses:
            raise CodegenError(f"compiled code has no function {name!r}; {near_misses(name, self.addresses)}")
        return self.addresses[name]


def new_module(name: str) -> ir.Module:
    """Return an empty module for this process."""
    triple = _triple()
    from llvmlite import ir

    module = ir.Module(name)
    module.triple = triple
    return module


def build(module: ir.Module, isa: Isa, *, cached: bool = True) -> Library:
    """Compile a module and load it; every function that it defines with external linkage has an address.

    Args:
        module: The code.
        isa: What it may use.
        cached: Whether object code of the same text is taken from disk, and kept there.

    Raises:
        CodegenError: LLVM refuses the text, which is written to the state folder.
    """
    return Source.of(module).build(isa, cached=cached)


@dataclass(frozen=True, slots=True)
class Source:
    """A module as text: what LLVM reads, with no need for the interpreter lock while it does.

    Attributes:
        name: The module's, for messages.
        text: LLVM's assembly language.
        functions: Those that get an address.
        parts: Forms of weights whose blocks it calls.
    """

    name: str
    text: str
    functions: tuple[str, ...]
    parts: tuple[str, ...]

    @classmethod
    def of(cls, module: ir.Module) -> Source:
        """Write a module down."""
        from mlsysopt.compile.codegen.parts import needed

        names = (one.name for one in module.functions if not one.is_declaration and one.linkage in ("", "external"))
        return cls(module.name, str(module), tuple(names), needed(module))

    def object_code(self, isa: Isa, *, cached: bool = True) -> bytes:
        """Compile it without its parts.

        Raises:
            CodegenError: LLVM refuses the text.
        """
        place = _cache_file(self.text, isa) if cached else None
        code = _read(place)
        if code is None:
            code = _compile(self.text, isa, self.name)
            _keep(place, code)
        return code

    def build(self, isa: Isa, *, cached: bool = True) -> Library:
        """Compile it, and load it with its parts; see `build`."""
        from mlsysopt.compile.codegen.parts import object_code

        own = self.object_code(isa, cached=cached)
        return load([own, *(object_code(isa, form, cached=cached) for form in self.parts)], self.functions)


def load(objects: Sequence[bytes], names: Sequence[str]) -> Library:
    """Link object code that was made for a machine like this one.

    Args:
        objects: They may call each other.
        names: Functions that get an address.

    Raises:
        CodegenError: an object is damaged, or a function is missing.
    """
    llvm = _llvm()
    if any(code[:4] != b"\x7fELF" for code in objects):
        raise CodegenError("the object code is damaged: it does not begin as an object file does")
    machine = llvm.Target.from_default_triple().create_target_machine(opt=3, jit=True)
    # The newer linker puts all sections of an object side by side; the older one's memory manager that does so too
    # stops the process when an object ends within a few bytes of a page.
    engine = llvm.create_lljit_compiler(machine, use_jit_link=True, suppress_errors=True)
    builder = llvm.JITLibraryBuilder()
    for code in objects:
        builder.add_object_img(code)
    for name in names:
        builder.export_symbol(name)
    try:
        code = builder.link(engine, "code")
    except RuntimeError as error:
        raise CodegenError(f"the object code is damaged: {str(error).strip().splitlines()[0]}") from None
    return Library(tuple(objects), {name: code[name] for name in names}, (engine, code))


def assembly(module: ir.Module, isa: Isa) -> str:
    """Return what the processor will run, without parts, as text; tests look for spills and narrow registers in it."""
    llvm = _llvm()
    parsed, machine = _optimised(str(module), isa, llvm)
    return str(machine.emit_assembly(parsed))


def _compile(text: str, isa: Isa, name: str) -> bytes:
    llvm = _llvm()
    try:
        parsed, machine = _optimised(text, isa, llvm)
        return bytes(machine.emit_object(parsed))
    except RuntimeError as error:
        place = state_dir() / "refused" / f"{name}.ll"
        try:
            place.parent.mkdir(parents=True, exist_ok=True)
            place.write_text(text)
            where = f"the code is in {place}"
        except OSError as unwritable:
            where = f"the code could not be kept: {unwritable}"
        first = str(error).strip().splitlines()[0]
        raise CodegenError(f"LLVM refused {name}: {first}\n{where}") from error


def _optimised(text: str, isa: Isa, llvm: Any) -> tuple[Any, Any]:
    parsed = llvm.parse_assembly(text)
    parsed.verify()
    machine = llvm.Target.from_triple(parsed.triple).create_target_machine(
        cpu=llvm.get_host_cpu_name() if isa.name != "baseline" else "",
        features=_masked(isa),
        opt=3,
        reloc="pic",
        codemodel=_CODE_MODEL,
        jit=True,
    )
    options = llvm.create_pipeline_tuning_options(speed_level=_LEVEL)
    # Kernels are written in vectors already: what LLVM would add is guesswork about loops that are short.
    options.loop_vectorization = False
    options.slp_vectorization = False
    options.loop_unrolling = False
    passes = llvm.create_pass_builder(machine, options)
    passes.getModulePassManager().run(parsed, passes)
    return parsed, machine


def _masked(isa: Isa) -> str:
    """Return features with everything off that the host has and the cap forbids."""
    wide = sorted(name for name, able in _host_features().items() if able and name.startswith(("avx512", "avx10")))
    if isa.name == "avx512":
        return isa.features
    off = [f"-{name}" for name in wide]
    if isa.name == "baseline":
        off += [f"-{name}" for name in ("avx2", "avx", "fma", "f16c")]
    return ",".join(one for one in (isa.features, *off) if one)


def _cache_file(text: str, isa: Isa) -> Path:
    llvm = _llvm()
    host = llvm.get_host_cpu_name(), str(llvm.llvm_version_info)
    parts = (text, isa.features, isa.name, *host, _CODE_MODEL, str(_LEVEL), __version__)
    key = hashlib.sha256("\0".join(parts).encode()).hexdigest()
    return cache_dir() / "objects" / key[:2] / f"{key}.o"


def _read(place: Path | None) -> bytes | None:
    if place is None:
        return None
    try:
        code = place.read_bytes()
    except OSError:
        return None
    digest, rest = code[:32], code[32:]
    return rest if hashlib.sha256(rest).digest() == digest else None


_warned = False


def _keep(place: Path | None, code: bytes) -> None:
    global _warned
    if place is None:
        return
    try:
        place.parent.mkdir(parents=True, exist_ok=True)
        replace_file(place, hashlib.sha256(code).digest() + code)
    except OSError as error:
        if not _warned:
            log.warning("compiled code is kept in memory only: %s", error)
        _warned = True


@cache
def _host_features() -> dict[str, bool]:
    return dict(_llvm().get_host_cpu_features())


@cache
def _triple() -> str:
    # Asked once: LLVM answers nobody while another thread compiles.
    return str(_llvm().get_process_triple())


@cache
def _llvm() -> Any:
    try:
        import llvmlite.binding as llvm
    except ImportError as error:
        raise MissingExtra.of("generating code", "compile") from error
    llvm.initialize_native_target()
    llvm.initialize_native_asmprinter()
    return llvm
