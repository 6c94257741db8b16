"""What one loop over a program may compute: numbers, types, costs - each a domain."""

from __future__ import annotations

from typing import TYPE_CHECKING

from mlsysopt._lazy import lazy

if TYPE_CHECKING:
    from mlsysopt.graph.domains.loop import Domain, walk
    from mlsysopt.graph.domains.numeric import Numeric
    from mlsysopt.graph.domains.placed import assembled, scattered
    from mlsysopt.graph.domains.symbolic import Costs, Mixed, Types

__all__ = ["Costs", "Domain", "Mixed", "Numeric", "Types", "assembled", "scattered", "walk"]

__getattr__, __dir__ = lazy(
    __name__,
    {
        "Costs": "mlsysopt.graph.domains.symbolic",
        "Domain": "mlsysopt.graph.domains.loop",
        "Mixed": "mlsysopt.graph.domains.symbolic",
        "Numeric": "mlsysopt.graph.domains.numeric",
        "Types": "mlsysopt.graph.domains.symbolic",
        "assembled": "mlsysopt.graph.domains.placed",
        "scattered": "mlsysopt.graph.domains.placed",
        "walk": "mlsysopt.graph.domains.loop",
    },
)
