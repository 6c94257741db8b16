"""Options of an embedded RocksDB: which there are, and a file of them with some values changed.

The Python binding has setters for most options, but not for all knobs; it can read an OPTIONS file,
which holds every one of them under RocksDB's own name.
"""

from __future__ import annotations

import re
from collections.abc import Mapping

from mlsysopt.core.errors import UsageError
from mlsysopt.core.target import Config, Value
from mlsysopt.operate.tune.rocksdb.flags import Flag
from mlsysopt.operate.tune.rocksdb.options import CF, DB, TABLE, OptionsFile, effective
from mlsysopt.operate.tune.rocksdb.space import KNOBS

__all__ = ["UNSAFE", "flags_of", "with_knobs"]

# db_bench's name -> where the option stands and what it is called there, where the names differ.
_RENAMED: Mapping[str, tuple[str, str]] = {
    "subcompactions": (DB, "max_subcompactions"),
    "open_files": (DB, "max_open_files"),
    "compression_type": (CF, "compression"),
    "memtable_bloom_size_ratio": (CF, "memtable_prefix_bloom_size_ratio"),
    "bloom_bits": (TABLE, "filter_policy"),
}
_WORDS: Mapping[str, Mapping[Value, str]] = {
    "compression_type": {
        "none": "kNoCompression", "snappy": "kSnappyCompression", "zlib": "kZlibCompression",
        "bzip2": "kBZip2Compression", "lz4": "kLZ4Compression", "lz4hc": "kLZ4HCCompression", "zstd": "kZSTD",
    },
    "compaction_pri": {
        0: "kByCompensatedSize", 1: "kOldestLargestSeqFirst", 2: "kOldestSmallestSeqFirst", 3: "kMinOverlappingRatio",
        4: "kRoundRobin",
    },
}  # fmt: skip
UNSAFE = frozenset({
    "checksum", "wal_recovery_mode", "paranoid_file_checks", "paranoid_memory_checks", "flush_verify_memtable_count",
    "compaction_verify_record_count", "verify_sst_unique_id_in_manifest", "verify_compression", "atomic_flush",
    "detect_filter_construct_corruption", "block_protection_bytes_per_key", "strict_bytes_per_sync",
    "best_efforts_recovery", "avoid_flush_during_shutdown", "skip_checking_sst_file_sizes_on_db_open",
    "inplace_update_support", "fail_if_options_file_error", "persist_user_defined_timestamps", "allow_2pc",
    "two_write_queues", "ttl", "periodic_compaction_seconds", "write_dbid_to_manifest", "write_identity_file",
    "recycle_log_file_num", "WAL_ttl_seconds", "WAL_size_limit_MB",
})  # fmt: skip
"""Options under names that only OPTIONS files use and that belong behind the fence `durability`."""
# The trial opens the database itself, writes its log where it reads it, and compares bytes.
_OWN = frozenset({
    "create_if_missing", "create_missing_column_families", "error_if_exists", "info_log_level", "comparator",
    "table_factory", "memtable_factory", "prefix_extractor", "db_host_id", "keep_log_file_num", "log_file_time_to_roll",
    "max_log_file_size", "merge_operator",
})  # fmt: skip


def flags_of(options: OptionsFile, cache_size: int) -> dict[str, Flag]:
    """Return every option that can be set, as db_bench would list it in its help.

    Args:
        options: The OPTIONS file of a database that was opened with defaults.
        cache_size: Bytes of the default's block cache, which stands in no OPTIONS file.
    """
    renamed = {option for _, option in _RENAMED.values()}
    found = {"cache_size": Flag("cache_size", "uint64", cache_size, KNOBS["cache_size"].about)}
    for section in (DB, CF, TABLE):
        for name, text in options.sections.get(section, {}).items():
            if name in renamed or name in _WORDS or name in _OWN or (flag := _flag(name, text)) is None:
                continue
            found[name] = flag
    for name, value in effective(options, {}, names=[*_RENAMED, *_WORDS]).items():
        kind = "int64" if isinstance(value, int) else "double" if isinstance(value, float) else "string"
        found[name] = Flag(name, kind, value, KNOBS[name].about if name in KNOBS else "")
    return found


def _flag(name: str, text: str) -> Flag | None:
    about = KNOBS[name].about if name in KNOBS else ""
    if text in ("true", "false"):
        return Flag(name, "bool", text == "true", about)
    if re.fullmatch(r"-?\d+", text):
        return Flag(name, "int64", int(text), about)
    if re.fullmatch(r"-?\d+\.\d+", text):
        return Flag(name, "double", float(text), about)
    # Enumerations are words such as kCompactionStyleLevel; pointers, lists and structures are no knobs.
    return Flag(name, "string", text, about) if re.fullmatch(r"k[A-Z]\w+", text) else None


def with_knobs(options: OptionsFile, knobs: Config) -> OptionsFile:
    """Return the file with knobs set; `cache_size`, which no OPTIONS file holds, is passed over.

    Raises:
        UsageError: an option that this RocksDB does not have.
    """
    for name, value in knobs.items():
        if name == "cache_size":
            continue
        section, option = _RENAMED.get(name) or _place(options, name)
        options = options.with_values(section, **{option: _text(name, value)})
    return options


def _place(options: OptionsFile, name: str) -> tuple[str, str]:
    for section in (DB, CF, TABLE):
        if name in options.sections.get(section, {}):
            return section, name
    raise UsageError(f"no option {name!r} in this RocksDB")


def _text(name: str, value: Value) -> str:
    if name == "bloom_bits":
        return f"bloomfilter:{value}:false" if isinstance(value, int) and value > 0 else "nullptr"
    if name in _WORDS:
        if value not in _WORDS[name]:
            raise UsageError(f"knob {name}: given {value!r}, allowed {', '.join(str(word) for word in _WORDS[name])}")
        return _WORDS[name][value]
    return str(value).lower() if isinstance(value, bool) else str(value)
