"""Which RocksDB is tuned: the installed db_bench, or the one inside a Python wheel."""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, cast

from mlsysopt.core.errors import MissingProgram, UsageError, near_misses

if TYPE_CHECKING:
    from mlsysopt.core.target import Target
    from mlsysopt.operate.tune.rocksdb.workloads import Workload

__all__ = ["ENGINES", "rocksdb"]

ENGINES = ("auto", "db_bench", "embedded")
log = logging.getLogger("mlsysopt.tune")


def rocksdb(
    workload: str | Workload = "mixgraph",
    *,
    engine: Literal["auto", "db_bench", "embedded"] = "auto",
    knobs: str | Sequence[str] | Mapping[str, tuple[Any, Any]] = "paper10",
    memory: str | int | None = None,
    directory: str | Path | None = None,
    settings: Mapping[str, Any] | None = None,
    unfence: Sequence[str] = (),
    threads: int = 1,
    program: str | Path | None = None,
) -> Target:
    """Make RocksDB a target: its knobs, its workload, its memory budget.

    Args:
        workload: `mixgraph` (the mix of FAST 2020 on uniform keys: db_bench heeds key ranges only where
            `key_dist_a` and `key_dist_b` are set), `mixgraph-hot` (with its hot key ranges), `ycsb-a`,
            `ycsb-b`, `ycsb-c`, or a `Workload`.
        engine: `db_bench`, `embedded` (the rocksdict wheel), or `auto`: db_bench when it is installed.
        knobs: `paper10`, `wide`, flag names, or names with bounds (`"block_size=4KiB..64KiB"`).
        memory: Budget of block cache and memtables; None is 1.5 times what the default needs.
        directory: Where verification keeps its databases; None is the user's state folder.
        settings: Flags that hold for the default and every candidate alike.
        unfence: Groups of knobs that trade safety for speed and may be tuned after all.
        threads: Threads of the timed run.
        program: Path or name of db_bench.

    Raises:
        MissingProgram: db_bench is not installed, and the engine is not `auto`.
        MissingExtra: the embedded engine's wheel is not installed.
        UsageError: an unknown name, a wrong value, or a budget below what the default needs.

    References:
        Alabed and Yoneki, EuroMLSys 2021; Cao et al., FAST 2020 (mixgraph).
    """
    if engine not in ENGINES:
        raise UsageError(f"no engine {engine!r}; {near_misses(engine, ENGINES, noun='engine')}")
    shared: dict[str, Any] = {
        "knobs": knobs, "memory": memory, "directory": directory, "settings": settings, "unfence": unfence,
        "threads": threads,
    }  # fmt: skip
    if engine != "embedded":
        from mlsysopt.operate.tune.rocksdb.target import db_bench

        try:
            return cast("Target", db_bench(workload, program=program, **shared))
        except MissingProgram as missing:
            if engine == "db_bench" or program is not None:
                raise
            log.warning("%s; using the embedded engine", missing)
    from mlsysopt.operate.tune.rocksdb.embedded import embedded

    return cast("Target", embedded(workload, **shared))
