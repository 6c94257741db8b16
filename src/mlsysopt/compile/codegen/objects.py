"""The way from LLVM's text to addresses.

Object code is cached on disk under a hash of everything that it depends on; a folder that cannot be written costs
one warning and the next start its compile time.
"""

from __future__ import annotations

import hashlib
import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from mlsysopt._version import __version__
from mlsysopt.compile.codegen.target import Isa, features_of, llvm
from mlsysopt.compile.errors import CodegenError
from mlsysopt.core.errors import near_misses
from mlsysopt.core.places import cache_dir, replace_file, state_dir

if TYPE_CHECKING:
    from llvmlite import ir

__all__ = ["Library", "Source", "assembly", "load"]

log = logging.getLogger("mlsysopt.compile")

# Constants by distance; `load` puts all sections of an object side by side.
_CODE_MODEL = "small"
_PASSES = (
    "always_inliner", "global_dead_code_eliminate", "simplify_cfg", "loop_rotate", "instruction_combine", "new_gvn",
    "simplify_cfg",
)  # fmt: skip
"""What kernels need that are written in vectors already: LLVM's first level takes eight times as long for code that is
not faster. Without rotated loops the code generator keeps constants in memory."""


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


@dataclass(frozen=True, slots=True)
class Source:
    """A module as text: what LLVM reads, with no need for the interpreter lock while it does.

    Attributes:
        name: The module's, for messages.
        text: LLVM's assembly language.
        functions: Those that get an address.
        declared: Those that somebody else defines.
    """

    name: str
    text: str
    functions: tuple[str, ...]
    declared: tuple[str, ...]

    @classmethod
    def of(cls, module: ir.Module) -> Source:
        """Write a module down."""
        names = [one.name for one in module.functions if not one.is_declaration and one.linkage in ("", "external")]
        declared = [one.name for one in module.functions if one.is_declaration]
        return cls(module.name, str(module), tuple(names), tuple(declared))

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


def load(objects: Sequence[bytes], names: Sequence[str]) -> Library:
    """Link object code that was made for a machine like this one.

    Args:
        objects: They may call each other.
        names: Functions that get an address.

    Raises:
        CodegenError: an object is damaged, or a function is missing.
    """
    binding = llvm()
    if any(code[:4] != b"\x7fELF" for code in objects):
        raise CodegenError("the object code is damaged: it does not begin as an object file does")
    machine = binding.Target.from_default_triple().create_target_machine(opt=3, jit=True)
    # The newer linker puts all sections of an object side by side; the older one's memory manager that does so too
    # stops the process when an object ends within a few bytes of a page.
    engine = binding.create_lljit_compiler(machine, use_jit_link=True, suppress_errors=True)
    builder = binding.JITLibraryBuilder()
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
    parsed, machine = _optimised(str(module), isa)
    return str(machine.emit_assembly(parsed))


def _compile(text: str, isa: Isa, name: str) -> bytes:
    try:
        parsed, machine = _optimised(text, isa)
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


def _optimised(text: str, isa: Isa) -> tuple[Any, Any]:
    binding = llvm()
    parsed = binding.parse_assembly(text)
    parsed.verify()
    machine = binding.Target.from_triple(parsed.triple).create_target_machine(
        cpu=binding.get_host_cpu_name() if isa.name != "baseline" else "",
        features=features_of(isa),
        opt=3,
        reloc="pic",
        codemodel=_CODE_MODEL,
        jit=True,
    )
    passes = binding.create_new_module_pass_manager()
    for name in _PASSES:
        getattr(passes, f"add_{name}_pass")()
    passes.run(parsed, binding.create_pass_builder(machine, binding.create_pipeline_tuning_options()))
    return parsed, machine


def _cache_file(text: str, isa: Isa) -> Path:
    binding = llvm()
    host = binding.get_host_cpu_name(), str(binding.llvm_version_info)
    parts = (text, isa.features, isa.name, *host, _CODE_MODEL, " ".join(_PASSES), __version__)
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
