"""Systems with knobs as targets; `discover` finds the ranges of one, `compare` sets tuners against each other."""

from typing import TYPE_CHECKING

from mlsysopt._lazy import lazy

if TYPE_CHECKING:
    from mlsysopt.operate.tune.contest import compare
    from mlsysopt.operate.tune.discovery import discover
    from mlsysopt.operate.tune.rocksdb.engines import rocksdb
    from mlsysopt.operate.tune.shipped import foundationdb, postgres, redis, server_of

__all__ = ["compare", "discover", "foundationdb", "postgres", "redis", "rocksdb", "server_of"]
__getattr__, __dir__ = lazy(
    __name__,
    {
        "compare": "mlsysopt.operate.tune.contest",
        "discover": "mlsysopt.operate.tune.discovery",
        "foundationdb": "mlsysopt.operate.tune.shipped",
        "postgres": "mlsysopt.operate.tune.shipped",
        "redis": "mlsysopt.operate.tune.shipped",
        "rocksdb": "mlsysopt.operate.tune.rocksdb",
        "server_of": "mlsysopt.operate.tune.shipped",
    },
)
