"""A faster configuration of an installed RocksDB, for one's own mix of reads, writes and scans.

`tune.rocksdb(...)` makes the target; `tune.rocksdb.Workload` and the other names are attributes.
"""

import sys
from types import ModuleType
from typing import TYPE_CHECKING, Any

from mlsysopt._lazy import lazy

if TYPE_CHECKING:
    from mlsysopt.operate.tune.rocksdb.target import DbBench, db_bench
    from mlsysopt.operate.tune.rocksdb.workloads import WORKLOADS, Workload

__all__ = ["WORKLOADS", "DbBench", "Workload", "db_bench"]
__getattr__, __dir__ = lazy(
    __name__,
    {
        "DbBench": "mlsysopt.operate.tune.rocksdb.target",
        "WORKLOADS": "mlsysopt.operate.tune.rocksdb.workloads",
        "Workload": "mlsysopt.operate.tune.rocksdb.workloads",
        "db_bench": "mlsysopt.operate.tune.rocksdb.target",
    },
)


class _Package(ModuleType):
    """A package that can be called: its name is also the name of the function that makes the target."""

    def __call__(self, *args: Any, **named: Any) -> Any:
        from mlsysopt.operate.tune.rocksdb.engines import rocksdb

        return rocksdb(*args, **named)

    @property
    def __signature__(self) -> Any:
        """What `inspect.signature` tells of it: the function's own parameters."""
        import inspect

        from mlsysopt.operate.tune.rocksdb.engines import rocksdb

        return inspect.signature(rocksdb)


sys.modules[__name__].__class__ = _Package
rocksdb = sys.modules[__name__]
