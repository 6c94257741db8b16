"""Matrix products with constant weights, each in its best form for every number of rows."""

from __future__ import annotations

from typing import TYPE_CHECKING

from mlsysopt._lazy import lazy

if TYPE_CHECKING:
    from mlsysopt.compile.linear.accelerate import decisions
    from mlsysopt.compile.linear.adapting import adapt, plan_of, refresh, restore
    from mlsysopt.compile.linear.comparing import Compared, compare
    from mlsysopt.compile.linear.module import AdaptiveLinear
    from mlsysopt.compile.linear.plan import Plan
    from mlsysopt.compile.linear.profiling import profile
    from mlsysopt.compile.linear.sites import products

__all__ = [
    "AdaptiveLinear",
    "Compared",
    "Plan",
    "adapt",
    "compare",
    "decisions",
    "plan_of",
    "products",
    "profile",
    "refresh",
    "restore",
]

__getattr__, __dir__ = lazy(
    __name__,
    {
        "AdaptiveLinear": "mlsysopt.compile.linear.module",
        "Compared": "mlsysopt.compile.linear.comparing",
        "Plan": "mlsysopt.compile.linear.plan",
        "adapt": "mlsysopt.compile.linear.adapting",
        "compare": "mlsysopt.compile.linear.comparing",
        "decisions": "mlsysopt.compile.linear.accelerate",
        "plan_of": "mlsysopt.compile.linear.adapting",
        "products": "mlsysopt.compile.linear.sites",
        "profile": "mlsysopt.compile.linear.profiling",
        "refresh": "mlsysopt.compile.linear.adapting",
        "restore": "mlsysopt.compile.linear.adapting",
    },
)
