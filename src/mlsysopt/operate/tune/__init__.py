"""Systems with knobs as targets: each function here makes one."""

from typing import TYPE_CHECKING

from mlsysopt._lazy import lazy

if TYPE_CHECKING:
    from mlsysopt.operate.tune.rocksdb.engines import rocksdb

__all__ = ["rocksdb"]
__getattr__, __dir__ = lazy(__name__, {"rocksdb": "mlsysopt.operate.tune.rocksdb"})
