"""Which knobs may be turned, how far, and how much memory a configuration takes.

The ranges of `paper10` are our reading of the "very wide" ranges of Alabed & Yoneki (2021).
"""

from __future__ import annotations

import logging
import re
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from mlsysopt.core.errors import SpaceError, UsageError, near_misses
from mlsysopt.core.quantities import format_bytes, parse_quantity
from mlsysopt.core.space import Bool, Choice, Expression, Float, Int, Space
from mlsysopt.core.target import Config, Value

if TYPE_CHECKING:
    from mlsysopt.operate.tune.rocksdb.flags import Flag

__all__ = [
    "FENCES",
    "KNOBS",
    "PAPER10",
    "PRESETS",
    "WIDE",
    "base_values",
    "build_space",
    "memory_budget",
    "memory_bytes",
]

KiB, MiB = 1024, 1024**2
log = logging.getLogger("mlsysopt.tune")

# Defaults are those of RocksDB 7.8 and its db_bench; `build_space` takes them from the binary's help.
Knob = Int | Float | Bool | Choice
KNOBS: Mapping[str, Knob] = {
    made.name: made
    for made in (
        Int("write_buffer_size", MiB, 256 * MiB, default=64 * MiB, log=True, unit="B", about="bytes of one memtable"),
        Int("max_write_buffer_number", 1, 32, default=2, log=True, about="memtables kept at most; 1 counts as 2"),
        Int("min_write_buffer_number_to_merge", 1, 8, default=1, about="memtables merged into one flushed file"),
        Int("max_background_compactions", 1, 32, default=1, log=True, about="compactions at a time"),
        Int("max_background_flushes", 1, 10, default=1, about="flushes at a time"),
        Int("max_bytes_for_level_multiplier", 5, 15, default=10, about="size of a level over the one above"),
        Int("block_size", 512, 512 * KiB, default=4 * KiB, log=True, unit="B", about="bytes of one data block"),
        Int("level0_file_num_compaction_trigger", 1, 64, default=4, log=True, about="L0 files that start a compaction"),
        Int("level0_slowdown_writes_trigger", 1, 256, default=20, log=True, about="L0 files that slow writes down"),
        Int("level0_stop_writes_trigger", 1, 256, default=36, log=True, about="L0 files that stop writes"),
        Int("cache_size", MiB, 1024 * MiB, default=8 * MiB, log=True, unit="B", about="bytes of the block cache"),
        Choice("compression_type", ("none", "snappy", "lz4", "zstd"), default="snappy", about="codec of data blocks"),
        Int("bloom_bits", 0, 20, default=0, about="bits per key of the file filters; 0 means no filter"),
        Bool("cache_index_and_filter_blocks", default=False, about="index and filters live in the block cache"),
        Bool("pin_l0_filter_and_index_blocks_in_cache", default=False, about="those of L0 stay there"),
        Int("max_bytes_for_level_base", 16 * MiB, 4096 * MiB, default=256 * MiB, log=True, unit="B",
            about="bytes of level 1"),
        Int("target_file_size_base", 4 * MiB, 512 * MiB, default=64 * MiB, log=True, unit="B",
            about="bytes of one file of level 1"),
        Int("max_background_jobs", 1, 16, default=2, log=True,
            about="threads for flushes and compactions where these two do not say"),
        Int("compaction_readahead_size", 64 * KiB, 16 * MiB, default=0, log=True, special=(0,), unit="B",
            about="bytes read ahead by a compaction; 0 means none"),
        Bool("level_compaction_dynamic_level_bytes", default=False, about="level sizes follow the last level's"),
        Bool("optimize_filters_for_hits", default=False, about="no filters in the last level"),
        Int("subcompactions", 1, 8, default=1, log=True, about="threads of one L0 compaction"),
        Choice("compaction_pri", (0, 1, 2, 3, 4), default=3, about="which file is compacted first"),
        Float("memtable_bloom_size_ratio", 0.0, 0.25, default=0.0, about="share of a memtable that is a filter"),
    )
}  # fmt: skip
WIDE: tuple[str, ...] = tuple(KNOBS)
PAPER10: tuple[str, ...] = WIDE[:10]
PRESETS: Mapping[str, tuple[str, ...]] = {"paper10": PAPER10, "wide": WIDE}

# The program's default is a code word; this is what it amounts to (RocksDB: DBImpl::GetBGJobLimits).
EQUIVALENT: Mapping[tuple[str, Value], Value] = {
    ("max_background_compactions", -1): 1,
    ("max_background_flushes", -1): 1,
    ("bloom_bits", -1): 0,
}
# What must survive a crash or be noticed when damaged: faster without, and not ours to give away.
FENCES: Mapping[str, frozenset[str]] = {
    "durability": frozenset({
        "disable_wal", "sync", "use_fsync", "bytes_per_sync", "wal_bytes_per_sync", "manual_wal_flush",
        "unordered_write", "avoid_flush_during_recovery", "track_and_verify_wals_in_manifest",
        "rate_limit_auto_wal_flush", "fifo_compaction_ttl", "ttl_seconds", "checksum_type", "file_checksum",
        "verify_checksum", "paranoid_checks", "force_consistency_checks", "check_flush_compaction_key_order",
        "memtable_protection_bytes_per_key", "write_batch_protection_bytes_per_key",
    })
}  # fmt: skip
# The trial itself sets these, they say what is done rather than how, or they take memory that the
# model below does not see.
RESERVED = frozenset({
    "benchmarks", "db", "seed", "use_existing_db", "use_existing_keys", "statistics", "histogram", "num", "reads",
    "writes", "deletes", "duration", "threads", "options_file", "report_file", "readonly", "secondary_path",
    "use_secondary_db", "num_multi_db", "num_column_families", "num_hot_column_families", "env_uri", "fs_uri",
    "wal_dir", "backup_dir", "restore_dir", "trace_file", "block_cache_trace_file", "stats_level", "perf_level",
    "progress_reports", "stats_interval", "stats_interval_seconds", "simulate_hdd", "disable_auto_compactions",
    "max_write_buffer_number_to_maintain", "max_write_buffer_size_to_maintain", "simcache_size",
    "compressed_secondary_cache_size", "compressed_cache_size", "blob_cache_size", "db_write_buffer_size",
    "benchmark_read_rate_limit", "benchmark_write_rate_limit",
})  # fmt: skip
# A further cache that adds to the memory of a configuration once somebody sets or tunes it.
_CACHES = ("row_cache_size",)
_BASE: Mapping[str, int] = {"cache_size": 8 * MiB, "write_buffer_size": 64 * MiB, "max_write_buffer_number": 2}


def base_values(flags: Mapping[str, Flag] | None, settings: Mapping[str, Value]) -> dict[str, Value]:
    """Return what a knob holds when nobody tunes it: the user's setting, else the program's own default."""
    own: dict[str, Value] = {name: knob.default for name, knob in KNOBS.items() if knob.default is not None}
    for name, flag in (flags or {}).items():
        own[name] = flag.default
    return {name: _in_our_words(name, value) for name, value in {**own, **settings}.items()}


def _in_our_words(name: str, value: Value) -> Value:
    """Resolve code words, and give a value the type of its parameter (10.0 -> 10)."""
    value = EQUIVALENT.get((name, value), value)
    if isinstance(value, float) and value.is_integer() and isinstance(KNOBS.get(name), Int):
        return int(value)
    return value


def memory_bytes(config: Config, base: Mapping[str, Value]) -> int:
    """Return the bytes of caches and memtables that a configuration may fill.

    RocksDB keeps at least two memtables, whatever `max_write_buffer_number` says.

    >>> memory_bytes({"max_write_buffer_number": 1}, {"cache_size": 8, "write_buffer_size": 64})
    136
    """
    value: dict[str, Value] = {**_BASE, **base, **config}
    memtables = _whole(value, "write_buffer_size") * max(2, _whole(value, "max_write_buffer_number"))
    return _whole(value, "cache_size") + memtables + sum(max(0, _whole(value, name)) for name in _CACHES)


def _whole(values: Mapping[str, Value], name: str) -> int:
    value = values.get(name, 0)
    return 0 if isinstance(value, tuple) else int(value)


def memory_budget(given: str | int | None, base: Mapping[str, Value]) -> int:
    """Return the budget in bytes; None is 1.5 times what the default needs.

    Raises:
        UsageError: the default itself would not fit, with the arithmetic.
    """
    need = memory_bytes({}, base)
    if given is None:
        return need * 3 // 2
    budget = int(parse_quantity(given, kind="bytes"))
    if budget < need:
        raise UsageError(
            f"memory {format_bytes(budget)} is below what the default needs: {_arithmetic(base)}\n"
            f"smallest workable budget: {format_bytes(need)} (--memory {need})"
        )
    return budget


def _arithmetic(base: Mapping[str, Value]) -> str:
    value: dict[str, Value] = {**_BASE, **base}
    caches = ["cache_size", *(name for name in _CACHES if _whole(value, name) > 0)]
    terms = [f"{name} {format_bytes(_whole(value, name))}" for name in caches]
    buffers = f"write_buffer_size {format_bytes(_whole(value, 'write_buffer_size'))}"
    terms.append(f"{buffers} * max(2, max_write_buffer_number {value['max_write_buffer_number']})")
    return f"{' + '.join(terms)} = {format_bytes(memory_bytes({}, base))}"


def build_space(
    flags: Mapping[str, Flag] | None,
    knobs: str | Sequence[str] | Mapping[str, tuple[Any, Any]],
    memory_budget_bytes: int,
    engine: str = "db_bench",
    *,
    available: Collection[str] | None = None,
    settings: Mapping[str, Value] | None = None,
    fixed: Collection[str] = (),
    codecs: Sequence[str] | None = None,
    unfence: Collection[str] = (),
) -> Space:
    """Build the space of a list of knobs.

    Args:
        flags: The program's flags, from `parse_help`; None when the engine has none, then `available` counts.
        knobs: A preset, flag names (`"a,b"` or a list), or names with bounds: `"block_size=4KiB..64KiB"`,
            `"compression_type=none|lz4"`, `{"block_size": (4096, 65536)}`. A preset may stand in a list.
        memory_budget_bytes: Limit of `memory_bytes`.
        engine: Name and version for messages.
        available: Names that the engine knows; None means all of `flags`, or all of `KNOBS`.
        settings: Flags that the user set to a value; a knob among them takes it as its default.
        fixed: Flags that the workload needs as they are.
        codecs: Compression types that the engine accepts; None keeps the four of `KNOBS`.
        unfence: Groups of `FENCES` that may be tuned after all.
    """
    known = set(available if available is not None else (flags if flags is not None else KNOBS))
    for group in unfence:
        if group not in FENCES:
            raise UsageError(f"no fence {group!r}; {near_misses(group, FENCES, noun='fence')}")
    fenced = {name: group for group, names in FENCES.items() if group not in unfence for name in names}
    base = base_values(flags, settings or {})
    asked = _asked(knobs)
    parameters: list[Knob] = []
    dropped: list[str] = []
    for name, bounds, from_preset in asked:
        if name not in known:
            if not from_preset:
                near = near_misses(name, [*known, *PRESETS], noun="flag")
                raise UsageError(f"no flag {name!r} in {engine}; {near}")
            dropped.append(name)
            continue
        if name in fenced:
            raise UsageError(f"knob {name!r} is fenced: it trades {fenced[name]} for speed (--unfence {fenced[name]})")
        if name in RESERVED or name in fixed:
            raise UsageError(
                f"flag {name!r} belongs to the trial or the workload and is no knob; use --set {name}=VALUE"
            )
        flag = flags.get(name) if flags is not None else None
        parameters.append(_parameter(name, flag, bounds, base, memory_budget_bytes, codecs))
    _follow_jobs(parameters, flags, settings or {})
    if dropped:
        log.warning("%s has no %s: left out of the space", engine, ", ".join(dropped))
    if not parameters:
        raise UsageError(f"none of the knobs {', '.join(name for name, _, _ in asked)} exists in {engine}")
    return Space(parameters, constraints=_constraints([p.name for p in parameters], base, memory_budget_bytes))


_Bounds = tuple[Any, Any] | list[str] | None  # low and high, or choices


def _asked(knobs: str | Sequence[str] | Mapping[str, tuple[Any, Any]]) -> list[tuple[str, _Bounds, bool]]:
    """Return (name, bounds, from a preset?) without repeats; an explicit mention wins over a preset's."""
    if isinstance(knobs, Mapping):
        return [(name, (low, high), False) for name, (low, high) in knobs.items()]
    items = [item.strip() for item in (knobs.split(",") if isinstance(knobs, str) else knobs)]
    items = [item for item in items if item]
    if not items:
        raise UsageError(f"no knobs given; presets: {', '.join(PRESETS)}; or flag names separated by commas")
    found: dict[str, tuple[str, _Bounds, bool]] = {}
    for item in items:
        if item in PRESETS:
            for name in PRESETS[item]:
                found.setdefault(name, (name, None, True))
            continue
        name, equals, text = item.partition("=")
        found[name] = (name, _bounds(item, text) if equals else None, False)
    return list(found.values())


def _bounds(item: str, text: str) -> _Bounds:
    if "|" in text:
        return [word.strip() for word in text.split("|")]
    low, dots, high = text.partition("..")
    if not dots or not low or not high:
        raise UsageError(f"knob {item!r}: bounds are written name=LOW..HIGH (block_size=4KiB..64KiB) or name=a|b")
    return (low, high)


def _parameter(
    name: str,
    flag: Flag | None,
    bounds: _Bounds,
    base: Mapping[str, Value],
    budget: int,
    codecs: Sequence[str] | None,
) -> Knob:
    default = base.get(name)
    if name == "compression_type" and codecs is not None:
        bounds = list(codecs) if bounds is None else bounds
        if lacking := [word for word in bounds if word not in codecs]:
            raise UsageError(f"knob compression_type: given {lacking[0]!r}, allowed {', '.join(codecs)}")
    if isinstance(bounds, list):
        return _with_choices(name, [flag.read(word) if flag else word for word in bounds], default, flag)
    knob = KNOBS.get(name) or _from_flag(name, flag, default, bounded=bounds is not None)
    if isinstance(knob, Bool | Choice):
        if bounds is not None:
            raise UsageError(f"knob {name!r} has no range: given {bounds[0]}..{bounds[1]}, allowed {name}=a|b")
        return replace(knob, default=default)
    if bounds is not None:
        low, high = (_number(name, flag, knob, bound) for bound in bounds)
        if not low < high:
            raise SpaceError(f"parameter {name!r}: low must be below high, got low={low}, high={high}")
        return replace(knob, low=low, high=high, default=default, log=knob.log and low > 0,
                       special=tuple(value for value in knob.special if not low <= value <= high),
                       low_origin="user", high_origin="user")  # fmt: skip
    # A cache may take what the budget leaves; more could never be valid.
    high = max(knob.low + 1, min(knob.high, budget)) if name in ("cache_size", *_CACHES) else knob.high
    if default in knob.special:
        return replace(knob, high=high, default=default)
    if not isinstance(default, int | float):
        raise UsageError(f"knob {name}: its default is given as {default!r}, allowed a number")
    # Another version, or a setting, may start outside our range.
    return replace(knob, low=min(knob.low, default), high=max(high, default), default=default)


def _number(name: str, flag: Flag | None, knob: Int | Float, given: Any) -> int | float:
    if flag is not None:
        number = flag.read(given)
        return int(number) if isinstance(knob, Int) else float(number)  # type: ignore[arg-type]
    number = parse_quantity(given)
    if isinstance(knob, Int) and number != int(number):
        raise UsageError(f"knob {name}: given {given!r}, allowed an integer, or a quantity such as 64MiB")
    return int(number) if isinstance(knob, Int) else float(number)


def _with_choices(name: str, choices: Iterable[Value], default: Value | None, flag: Flag | None) -> Choice:
    listed = list(dict.fromkeys(choices))
    if default is not None and default not in listed:
        listed.insert(0, default)
    about = KNOBS[name].about if name in KNOBS else (flag.text if flag else "")
    return Choice(name, tuple(listed), default=default, about=about)


def _from_flag(name: str, flag: Flag | None, default: Value | None, *, bounded: bool) -> Knob:
    """Make a parameter of any other flag: default/16 .. default*16, unless the user gives bounds."""
    if flag is None:
        raise UsageError(f"knob {name!r}: no range is known for it; give one: {name}=LOW..HIGH")
    if flag.kind == "bool":
        return Bool(name, default=bool(default), about=flag.text)
    if flag.kind == "str":
        raise UsageError(f"knob {name!r} holds text, so its values are needed: {name}=a|b (its default is {default!r})")
    kind = Int if flag.kind == "int" else Float
    number = float(default)  # type: ignore[arg-type]
    if number <= 0:
        if not bounded:
            raise UsageError(f"knob {name!r}: its default is {default}, so bounds are needed: {name}=LOW..HIGH")
        return kind(name, int(number), int(number) + 1, default=default, about=flag.text)  # type: ignore[arg-type]
    if kind is Float:
        return Float(name, number / 16, number * 16, default=number, log=True, about=flag.text)
    top = 2**31 - 1 if flag.type.endswith("32") else 2**62
    return Int(name, max(1, int(number) // 16), min(int(number) * 16, top), default=int(number), log=True,
               about=flag.text)  # fmt: skip


def _follow_jobs(parameters: list[Knob], flags: Mapping[str, Flag] | None, settings: Mapping[str, Value]) -> None:
    """Let the thread counts say "as max_background_jobs": set to a number, they would make it a dead knob."""
    if not any(p.name == "max_background_jobs" for p in parameters):
        return
    for i, parameter in enumerate(parameters):
        name = parameter.name
        if name in ("max_background_compactions", "max_background_flushes") and isinstance(parameter, Int):
            own = flags[name].default if flags is not None else -1
            default = -1 if own == -1 and name not in settings else parameter.default
            parameters[i] = replace(parameter, special=(-1,), default=default)


_RULES = (
    "{level0_file_num_compaction_trigger} <= {level0_slowdown_writes_trigger}",
    "{level0_slowdown_writes_trigger} <= {level0_stop_writes_trigger}",
    "{min_write_buffer_number_to_merge} < max(2, {max_write_buffer_number})",
)


def _constraints(names: Sequence[str], base: Mapping[str, Value], budget: int) -> list[Expression]:
    """Return the rules that mention a knob, with the value of everything that is no knob in its place."""
    written: list[Expression] = []
    caches = [name for name in ("cache_size", *_CACHES) if name in names or _whole(base, name) > 0]
    memory = " + ".join(f"{{{name}}}" for name in caches)
    memory = f"{memory} + " if memory else ""
    memory += f"{{write_buffer_size}} * max(2, {{max_write_buffer_number}}) <= {budget}"
    for rule in (*_RULES, memory):
        mentioned = re.findall(r"\{(\w+)\}", rule)
        if any(name in names for name in mentioned):
            text = rule.format(**{name: name if name in names else base[name] for name in mentioned})
            written.append(Expression.parse(text, origin="user" if rule is memory else "declared"))
    return written
