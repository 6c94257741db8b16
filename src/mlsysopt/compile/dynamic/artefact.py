"""A compiled program in one file, `.mlx`: a zip of its program, weights, plan and object code.

    header.json   format, version, machine; hashes of the other parts; options
    source.mlg    the program that was compiled; source.mlg.safetensors, its weights
    program.mlg   the same in the form that was planned
    plan.json     what is done
    code.o        what does it; code1.o ..., the parts that it calls

Object code of another machine, or a damaged part beside an intact program, costs one line in the log: the rest is
made again from the program.
"""

from __future__ import annotations

import hashlib
import itertools
import json
import logging
import os
import tempfile
import zipfile
from collections.abc import Iterator, Mapping
from dataclasses import asdict, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from mlsysopt._version import __version__
from mlsysopt.compile.codegen.objects import load as load_code
from mlsysopt.compile.codegen.target import Isa, host_isa
from mlsysopt.compile.dynamic.executable import Executable
from mlsysopt.compile.dynamic.plan_text import plan_from, plan_json
from mlsysopt.compile.errors import CodegenError, ExecutableError
from mlsysopt.compile.options import Options
from mlsysopt.core.errors import ArtefactError, MlsysoptError
from mlsysopt.core.places import artefact_header, read_header
from mlsysopt.graph import files
from mlsysopt.graph.ir import Graph
from mlsysopt.graph.reader import parse
from mlsysopt.graph.sources import Absent, InMemory
from mlsysopt.graph.text import print_graph

if TYPE_CHECKING:
    from mlsysopt.compile.dynamic.plan import Plan

__all__ = ["load", "save"]

log = logging.getLogger("mlsysopt.compile")

_FORMAT, _VERSION = "executable", 1
_HEADER, _PROGRAM, _SOURCE, _PLAN, _CODE = "header.json", "program.mlg", "source.mlg", "plan.json", "code.o"
_WEIGHTS = ".safetensors"


def save(executable: Executable, path: str | Path) -> Path:
    """Write an executable to one file; the file is whole or not there.

    Raises:
        WeightsError: the bytes of a constant are not at hand.
        ExecutableError: the folder cannot be written.
    """
    target = Path(path)
    isa = executable.isa
    graph, source = executable.graph, executable.source
    # Weights of the planned program are those of its source, and lie in the file once.
    shared = {one.name: one for one in source.constants}
    own = [one for one in graph.constants if shared.get(one.name) != one]
    texts = {
        _PROGRAM: print_graph(
            replace(graph, constants=tuple(replace(c, source=Absent(c.name)) for c in graph.constants))
        ),
        _PLAN: json.dumps(plan_json(executable.plan)),
    }
    try:
        with tempfile.TemporaryDirectory(dir=target.parent, prefix=f".{target.name}.") as name:
            folder = Path(name)
            files.save(replace(source, constants=(*source.constants, *own)), folder / _SOURCE)
            for part, text in texts.items():
                (folder / part).write_text(text, encoding="utf-8")
            for name, code in zip(_code_names(), executable.library.objects, strict=False):
                (folder / name).write_bytes(code)
            parts = sorted(folder.iterdir())
            header = {
                **artefact_header(_FORMAT, _VERSION, machine=_machine(isa)),
                "isa": asdict(isa),
                "options": asdict(executable.options),
                "functions": sorted(executable.library.addresses),
                "notes": list(executable.notes),
                "parts": {part.name: _digest(part.read_bytes()) for part in parts},
            }
            whole = folder / "whole"
            with zipfile.ZipFile(whole, "w", zipfile.ZIP_STORED) as archive:
                archive.writestr(_HEADER, json.dumps(header, indent=1))
                for part in parts:
                    archive.write(part, part.name)
            os.replace(whole, target)
    except OSError as error:
        raise ExecutableError(f"{target} cannot be written: {error.strerror or error}") from None
    return target


def load(path: str | Path) -> Executable:
    """Read what `save` wrote.

    Without torch installed it runs all the same, on one thread, unless a step leaves native code.

    Raises:
        ExecutableError: no such file, not one of ours, or its program is damaged: the part is named.
        ArtefactError: written by a newer version.
    """
    source = Path(path)
    parts = _parts(source)
    header = _header(parts, source)
    broken = [name for name, digest in header["parts"].items() if _digest(parts.get(name)) != digest]
    bad_program = [name for name in broken if name.startswith((_PROGRAM, _SOURCE))]
    if bad_program:
        raise ExecutableError(f"{source} is damaged: {bad_program[0]} is not what was saved; compile the model again")
    graph, before = _programs(parts, source)
    options = Options(**header["options"])
    reason = f"{broken[0]} is damaged" if broken else _misfit(header)
    if not reason:
        try:
            plan = plan_from(json.loads(parts[_PLAN]))
            names = itertools.takewhile(header["parts"].__contains__, _code_names())
            library = load_code([parts[name] for name in names], list(header["functions"]))
            return Executable(graph, plan, library, Isa(**header["isa"]), options, source=before, notes=header["notes"])
        except (CodegenError, KeyError, TypeError, ValueError) as error:
            reason = f"{_PLAN} or {_CODE} cannot be used: {error}"
    log.warning("%s: %s; made again from its program", source, reason)
    from mlsysopt.compile.dynamic.building import build

    return build(before, options, _decisions(parts))


def _code_names() -> Iterator[str]:
    yield _CODE
    yield from (f"code{i}.o" for i in itertools.count(1))


def _decisions(parts: Mapping[str, bytes]) -> Mapping[str, Any]:
    try:
        plan: Plan = plan_from(json.loads(parts[_PLAN]))
    except (KeyError, TypeError, ValueError):
        return {}
    return plan.decisions


def _misfit(header: Mapping[str, Any]) -> str:
    """Return why object code cannot run here, "" when it can."""
    package = header["artefact"]["package"]
    if package != __version__:
        return f"it was written by mlsysopt {package}, this is {__version__}"
    made, here = header["isa"], host_isa()
    wanted = {word for word in str(made["features"]).split(",") if word}
    able = {word for word in here.features.split(",") if word}
    lost = sorted(wanted - able)
    if lost:
        return f"its code needs {', '.join(word.removeprefix('+') for word in lost)}, which this machine has not"
    saved = header["artefact"]["machine"]
    return "" if saved == _machine(Isa(**made)) else f"its code was made for {saved}, this is {_machine(here)}"


def _machine(isa: Isa) -> str:
    import llvmlite.binding as llvm

    return f"{llvm.get_process_triple()} {llvm.get_host_cpu_name()} {isa.name}"


def _parts(source: Path) -> dict[str, bytes]:
    try:
        with zipfile.ZipFile(source) as archive:
            return {info.filename: _content(archive, info) for info in archive.infolist()}
    except OSError as error:
        raise ExecutableError(f"{source}: {error.strerror or error}") from None
    except zipfile.BadZipFile as error:
        raise ExecutableError(
            f"{source} is no compiled model, or was cut short: {error}; compile the model again"
        ) from None


def _content(archive: zipfile.ZipFile, info: zipfile.ZipInfo) -> bytes:
    try:
        return archive.read(info)
    except zipfile.BadZipFile:
        return b""  # its hash will say that it is damaged


def _header(parts: Mapping[str, bytes], source: Path) -> dict[str, Any]:
    try:
        header = json.loads(parts[_HEADER])
        read_header(header, _FORMAT, _VERSION)
        asked = {name: header[name] for name in ("isa", "options", "functions", "notes", "parts", "artefact")}
        Options(**asked["options"])
    except ArtefactError as error:
        if isinstance(error, ExecutableError):
            raise
        raise ExecutableError(f"{source}: {error}") from None
    except (KeyError, TypeError, ValueError, MlsysoptError) as error:
        raise ExecutableError(f"{source} is damaged: {_HEADER} cannot be read ({type(error).__name__})") from None
    return asked


def _programs(parts: Mapping[str, bytes], source: Path) -> tuple[Graph, Graph]:
    """Read the planned program and its source; weights are read too, since the files go away."""
    with tempfile.TemporaryDirectory() as folder:
        for name in (_SOURCE, _SOURCE + _WEIGHTS):
            if name in parts:
                Path(folder, name).write_bytes(parts[name])
        try:
            before = files.load(Path(folder, _SOURCE))
            graph = parse(parts[_PROGRAM].decode(), file=_PROGRAM)
            held = {one.name: InMemory(np.array(one.source.load())) for one in before.constants}
        except (MlsysoptError, KeyError, UnicodeDecodeError) as error:
            raise ExecutableError(f"{source} is damaged: {error}; compile the model again") from None
    return _with(graph, held), _with(before, held)


def _with(graph: Graph, held: Mapping[str, InMemory]) -> Graph:
    return replace(graph, constants=tuple(replace(one, source=held[one.name]) for one in graph.constants))


def _digest(content: bytes | None) -> str:
    return hashlib.sha256(content).hexdigest() if content is not None else ""
