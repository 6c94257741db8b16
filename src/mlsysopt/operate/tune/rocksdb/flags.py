"""What db_bench can do: its help text as data, its version, the codecs that its build accepts.

Everything else about the program's flags follows from its own `--help`, so that another version
of RocksDB needs no change here.
"""

from __future__ import annotations

import functools
import hashlib
import json
import logging
import re
from collections.abc import Container, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Literal

from mlsysopt.core.errors import ArtefactError, TargetError, UsageError, near_misses
from mlsysopt.core.places import artefact_header, cache_dir, read_header
from mlsysopt.core.processes import program as find_program
from mlsysopt.core.processes import run_child, temporary_folder
from mlsysopt.core.quantities import parse_quantity
from mlsysopt.core.target import Limits, Value

__all__ = ["Binary", "Flag", "accepted_codecs", "find_db_bench", "help_of", "parse_help", "read_settings"]

FlagType = Literal["bool", "int", "float", "str"]
CODECS = ("none", "snappy", "zlib", "bzip2", "lz4", "lz4hc", "zstd")

_KINDS: Mapping[str, FlagType] = {
    "bool": "bool", "int32": "int", "int64": "int", "uint32": "int", "uint64": "int", "double": "float", "string": "str"
}  # fmt: skip
_HEAD = re.compile(r"^ {4}-(\w+)\s+\(", re.MULTILINE)  # a long name stands alone on its line
_TAIL = re.compile(r"^(?P<text>.*)\) type: (?P<type>\w+) default: (?P<default>.*?)(?: currently: .*)?$", re.DOTALL)
_CACHE = ("db-bench-help", 1)
log = logging.getLogger("mlsysopt.tune")


@dataclass(frozen=True, slots=True)
class Flag:
    """One flag of the program.

    Attributes:
        name: Without dashes.
        type: As the help prints it: int32, uint64, double, bool, string.
        default: The program's own default as a plain value.
        text: What the help says about it.
        file: Source file that declares it; the benchmark's own are in `db_bench_tool.cc`.
    """

    name: str
    type: str
    default: Value
    text: str
    file: str = ""

    @property
    def kind(self) -> FlagType:
        return _KINDS[self.type]

    def read(self, given: object) -> Value:
        """Turn a user's value into one of this flag's type; integers may be quantities such as 64MiB.

        >>> Flag("block_size", "int32", 4096, "").read("16KiB")
        16384
        """
        try:
            return self._read(given)
        except (TypeError, ValueError, KeyError) as error:
            raise UsageError(f"flag {self.name}: given {given!r}, allowed {_allowed(self.type)}") from error

    def _read(self, given: object) -> Value:
        if self.kind == "str":
            return str(given)
        if self.kind == "bool":
            words = {"true": True, "1": True, "yes": True, "false": False, "0": False, "no": False}
            return given if isinstance(given, bool) else words[str(given).lower()]
        if isinstance(given, bool) or not isinstance(given, str | int | float):
            raise TypeError(given)
        number = float(given) if self.kind == "float" else parse_quantity(given)
        if self.kind == "int":
            if number != int(number) or (self.type.startswith("u") and number < 0):
                raise ValueError(given)
            return int(number)
        return float(number)


def _allowed(type_: str) -> str:
    words = {"bool": "true or false", "double": "a number", "string": "text"}
    signed = "an integer >= 0" if type_.startswith("u") else "an integer"
    return words.get(type_, f"{signed} ({type_}), or a quantity such as 64MiB")


def read_settings(
    settings: Mapping[str, object], known: Mapping[str, Flag], engine: str, *, refused: Container[str] = ()
) -> dict[str, Value]:
    """Turn the flags that a user gives into values of their types.

    Raises:
        UsageError: the engine has no such flag, it is one that trials set themselves, or the value is wrong.
    """
    found: dict[str, Value] = {}
    for name, given in settings.items():
        if name not in known:
            raise UsageError(f"no flag {name!r} in {engine}; {near_misses(name, known, noun='flag')}")
        if name in refused:
            raise UsageError(f"flag {name!r} is set by every trial itself and cannot be given with --set")
        found[name] = known[name].read(given)
    return found


def parse_help(text: str) -> dict[str, Flag]:
    """Read the output of `--help`.

    The text of a flag may hold parentheses, line breaks and tabs; only the last
    `type: ... default: ...` before the next flag counts.

    >>> text = "  Flags from a.cc:\\n    -num (Keys (all\\n      of them)) type: int64\\n      default: 10\\n"
    >>> parse_help(text)["num"]
    Flag(name='num', type='int64', default=10, text='Keys (all of them)', file='a.cc')
    """
    flags: dict[str, Flag] = {}
    for section in re.split(r"^ {2}Flags from ", text, flags=re.MULTILINE)[1:]:
        file, _, body = section.partition(":\n")
        heads = list(_HEAD.finditer(body))
        for head, following in zip(heads, [*heads[1:], None], strict=True):
            rest = " ".join(body[head.end() : following.start() if following else None].split())
            tail = _TAIL.match(rest)
            if tail is None or tail["type"] not in _KINDS:
                raise TargetError(f"the help of db_bench has an entry that cannot be read: -{head[1]} ({rest[:120]}")
            flags[head[1]] = Flag(
                head[1], tail["type"], _default(tail["type"], tail["default"]), tail["text"].strip(), file
            )
    if not flags:
        raise TargetError(f"the help of db_bench lists no flags; it begins {text[:120]!r}")
    return flags


def _default(type_: str, text: str) -> Value:
    kind = _KINDS[type_]
    if kind == "bool":
        return text == "true"
    if kind == "str":
        return text.strip('"')
    return int(text) if kind == "int" else float(text)


@dataclass(frozen=True, slots=True)
class Binary:
    """One installed db_bench."""

    path: str
    version: str
    flags: Mapping[str, Flag]


def find_db_bench(given: str | Path | None = None) -> Path:
    """Return the path of db_bench, or raise MissingProgram with the line that installs it."""
    if given is not None and Path(given).is_file():
        return Path(given)
    return find_program(str(given or "db_bench"), package="rocksdb-tools", hint="or --engine embedded")


def help_of(program: Path) -> Binary:
    """Ask a binary for its version and flags; the answer is kept on disk until the file changes."""
    return _help_of(str(program), _stamp(program))


@functools.lru_cache(maxsize=8)
def _help_of(path: str, stamp: str) -> Binary:
    cached = _cached(f"db-bench-help-{stamp}.json")
    if cached is not None:
        return Binary(path, cached["version"], {row["name"]: Flag(**row) for row in cached["flags"]})
    limits = Limits(timeout_s=60)
    told = run_child([path, "--version"], limits=limits)
    version = re.search(r"version (\S+)", told.stdout + told.stderr)
    # gflags ends --help with exit status 1.
    helped = run_child([path, "--help"], limits=limits)
    if version is None or "Flags from" not in helped.stdout:
        raise TargetError(f"{path} does not answer like db_bench: {(told.stderr or told.stdout)[:200]!r}")
    binary = Binary(path, version[1], parse_help(helped.stdout))
    _cache(f"db-bench-help-{stamp}.json", version=binary.version, flags=[asdict(f) for f in binary.flags.values()])
    return binary


def accepted_codecs(program: Path) -> tuple[str, ...]:
    """Return the compression types that this build is linked with, by trying each one once."""
    return _accepted_codecs(str(program), _stamp(program))


@functools.lru_cache(maxsize=8)
def _accepted_codecs(path: str, stamp: str) -> tuple[str, ...]:
    cached = _cached(f"db-bench-codecs-{stamp}.json")
    if cached is not None:
        return tuple(cached["codecs"])
    found: list[str] = []
    for codec in CODECS:
        with temporary_folder("mlsysopt-codec-") as folder:
            tried = run_child(
                [path, "--benchmarks=fillseq", "--num=100", f"--compression_type={codec}", f"--db={folder / 'db'}"],
                limits=Limits(timeout_s=60),
            )
        # A build that knows a codec only by name warns and goes on uncompressed.
        if tried.returncode == 0 and "compression is not enabled" not in tried.stdout:
            found.append(codec)
    _cache(f"db-bench-codecs-{stamp}.json", codecs=found)
    return tuple(found)


def _stamp(program: Path) -> str:
    path = Path(program).resolve()
    status = path.stat()
    return hashlib.sha256(f"{path}:{status.st_mtime_ns}:{status.st_size}".encode()).hexdigest()[:16]


def _cached(name: str) -> dict[str, Any] | None:
    try:
        found = json.loads((cache_dir() / name).read_text())
        read_header(found, *_CACHE)
    except (OSError, ValueError, ArtefactError):
        return None
    return found


def _cache(name: str, **content: object) -> None:
    try:
        (cache_dir() / name).write_text(json.dumps({**artefact_header(*_CACHE), **content}))
    except OSError as error:
        log.info("not kept for next time: %s", error)
