"""RocksDB's OPTIONS files: read, write, compare, and what a configuration amounts to in them.

RocksDB corrects bad combinations without refusing them (level-0 triggers out of order, more
buffers to merge than there are); the OPTIONS file of an open database holds what it really uses.
"""

from __future__ import annotations

import re
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from pathlib import Path

from mlsysopt.core.errors import ArtefactError
from mlsysopt.core.target import Config, Value

__all__ = ["OptionsFile", "diff", "effective", "newest_options", "warnings_of"]

DB, CF, TABLE = "DBOptions", 'CFOptions "default"', 'TableOptions/BlockBasedTable "default"'
# Flags whose option has another name or another spelling of its values.
_RENAMED: Mapping[str, tuple[str, str]] = {
    "subcompactions": (DB, "max_subcompactions"),
    "open_files": (DB, "max_open_files"),
    "compression_type": (CF, "compression"),
    "memtable_bloom_size_ratio": (CF, "memtable_prefix_bloom_size_ratio"),
    "bloom_bits": (TABLE, "filter_policy"),
}
_CODECS: Mapping[str, str] = {
    "kNoCompression": "none", "kSnappyCompression": "snappy", "kZlibCompression": "zlib", "kBZip2Compression": "bzip2",
    "kLZ4Compression": "lz4", "kLZ4HCCompression": "lz4hc", "kZSTD": "zstd",
}  # fmt: skip
_COMPACTION_PRI: Mapping[str, int] = {
    "kByCompensatedSize": 0, "kOldestLargestSeqFirst": 1, "kOldestSmallestSeqFirst": 2, "kMinOverlappingRatio": 3,
    "kRoundRobin": 4,
}  # fmt: skip
_SECTION = re.compile(r"^\[(.+)\]$")
_OPTIONS = re.compile(r"^OPTIONS-(\d+)$")
_FILTER_BITS = re.compile(r"(?:bloom|ribbon)filter:([\d.]+)")
_CAPACITY = re.compile(r"^\s*block_cache_options:\s*\n\s*capacity : (\d+)", re.MULTILINE)
_WARN = re.compile(r"^\S+ \S+ \[WARN\] (?:\[[^\]]*\] )?(.+)$", re.MULTILINE)


@dataclass(frozen=True, slots=True)
class OptionsFile:
    """Sections -> option -> value, all as text, in the order of the file."""

    sections: Mapping[str, Mapping[str, str]]

    @classmethod
    def parse(cls, text: str) -> OptionsFile:
        """Read the INI dialect of RocksDB: `#` starts a comment unless it is escaped.

        >>> OptionsFile.parse("# hello\\n[DBOptions]\\n  max_open_files=-1\\n").sections
        {'DBOptions': {'max_open_files': '-1'}}
        """
        sections: dict[str, dict[str, str]] = {}
        current: dict[str, str] | None = None
        for number, raw in enumerate(text.splitlines(), 1):
            line = re.split(r"(?<!\\)#", raw, maxsplit=1)[0].strip()
            if not line:
                continue
            head = _SECTION.match(line)
            if head:
                current = sections.setdefault(head[1], {})
                continue
            name, equals, value = line.partition("=")
            if not equals or current is None:
                raise ArtefactError(f"OPTIONS line {number}: expected [Section] or name=value, got {line[:80]!r}")
            current[name.strip()] = value.strip()
        if DB not in sections:
            raise ArtefactError(f"not a RocksDB OPTIONS file: it has no [{DB}] section")
        return cls(sections)

    @classmethod
    def read(cls, path: Path) -> OptionsFile:
        return cls.parse(path.read_text())

    def text(self, *, header: str = "") -> str:
        """Write the file that `parse` reads back; every line of `header` becomes a comment."""
        lines = [f"# {line}".rstrip() for line in header.splitlines()] + [""]
        for section, options in self.sections.items():
            lines += [f"[{section}]", *(f"  {name}={value}" for name, value in options.items()), "  "]
        return "\n".join(lines) + "\n"

    def find(self, option: str) -> str | None:
        """Return the value of an option of the database, the default column family or its tables."""
        for section in (DB, CF, TABLE):
            value = self.sections.get(section, {}).get(option)
            if value is not None:
                return value
        return None

    def with_values(self, section: str, **values: str) -> OptionsFile:
        """Return the file with options of one section set, where they exist."""
        old = self.sections.get(section, {})
        return OptionsFile({**self.sections, section: {**old, **{k: v for k, v in values.items() if k in old}}})


def diff(a: OptionsFile, b: OptionsFile) -> dict[str, tuple[str | None, str | None]]:
    """Return the options that differ, as `section/option` -> (value in a, value in b)."""
    found: dict[str, tuple[str | None, str | None]] = {}
    for section in dict.fromkeys([*a.sections, *b.sections]):
        left, right = a.sections.get(section, {}), b.sections.get(section, {})
        for name in dict.fromkeys([*left, *right]):
            if left.get(name) != right.get(name):
                found[f"{section}/{name}"] = (left.get(name), right.get(name))
    return found


def newest_options(database: Path) -> Path | None:
    """Return the OPTIONS file that RocksDB wrote last, None when there is no database."""
    numbered = [(int(m[1]), path) for path in database.glob("OPTIONS-*") if (m := _OPTIONS.match(path.name))]
    return max(numbered)[1] if numbered else None


def warnings_of(log_text: str) -> list[str]:
    """Return the [WARN] messages of a RocksDB LOG, without time and thread."""
    return list(dict.fromkeys(_WARN.findall(log_text)))


def effective(
    options: OptionsFile, requested: Config, *, log_text: str = "", names: Collection[str] = ()
) -> dict[str, Value]:
    """Return what a configuration amounts to: the value in use of each requested knob and each of `names`.

    What the OPTIONS file does not hold (the block cache's size) is taken from the LOG, and a flag that
    neither of them knows keeps its requested value. The -1 of the two background limits is resolved
    by RocksDB's own rule (DBImpl::GetBGJobLimits): a quarter of `max_background_jobs` flushes.
    """
    found: dict[str, Value] = {}
    for name in dict.fromkeys([*requested, *names]):
        value = _value(options, name, log_text)
        if value is None:
            value = requested.get(name)
        if value is not None:
            like = requested.get(name)
            found[name] = (
                int(value) if isinstance(like, int) and isinstance(value, float) and value.is_integer() else value
            )
    return found


def _value(options: OptionsFile, name: str, log_text: str) -> Value | None:
    if name == "cache_size":
        capacity = _CAPACITY.search(log_text)
        return int(capacity[1]) if capacity else None
    if name in ("max_background_compactions", "max_background_flushes"):
        return _background(options)[name]
    section, option = _RENAMED.get(name, ("", name))
    text = options.sections.get(section, {}).get(option) if section else options.find(option)
    if text is None:
        return None
    if name == "compression_type":
        return _CODECS.get(text, text)
    if name == "compaction_pri":
        return _COMPACTION_PRI.get(text, text)
    if name == "bloom_bits":
        bits = _FILTER_BITS.search(text)
        return round(float(bits[1])) if bits else 0
    return _plain(text)


def _background(options: OptionsFile) -> dict[str, int]:
    found = options.sections.get(DB, {})
    flushes, compactions = (
        int(found.get("max_background_flushes", -1)),
        int(found.get("max_background_compactions", -1)),
    )
    if flushes == -1 and compactions == -1:
        jobs = int(found.get("max_background_jobs", 2))
        flushes = max(1, jobs // 4)
        compactions = max(1, jobs - flushes)
    return {"max_background_compactions": max(1, compactions), "max_background_flushes": max(1, flushes)}


def _plain(text: str) -> Value:
    if text in ("true", "false"):
        return text == "true"
    for kind in (int, float):
        try:
            return kind(text)
        except ValueError:
            continue
    return text
