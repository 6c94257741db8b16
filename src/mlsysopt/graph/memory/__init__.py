"""What a program needs in memory: peak as a formula, the order with the smallest peak, offsets, slots."""

from __future__ import annotations

from typing import TYPE_CHECKING

from mlsysopt._lazy import lazy

if TYPE_CHECKING:
    from mlsysopt.graph.memory.colouring import Slots, slots
    from mlsysopt.graph.memory.formula import Peak, peak
    from mlsysopt.graph.memory.liveness import Accounting, Profile, profile
    from mlsysopt.graph.memory.order import Order, best_order
    from mlsysopt.graph.memory.packing import Packing, offsets

__all__ = [
    "Accounting",
    "Order",
    "Packing",
    "Peak",
    "Profile",
    "Slots",
    "best_order",
    "offsets",
    "peak",
    "profile",
    "slots",
]

_WHERE = {
    "colouring": ("Slots", "slots"),
    "formula": ("Peak", "peak"),
    "liveness": ("Accounting", "Profile", "profile"),
    "order": ("Order", "best_order"),
    "packing": ("Packing", "offsets"),
}
__getattr__, __dir__ = lazy(
    __name__, {name: f"{__name__}.{module}" for module, names in _WHERE.items() for name in names}
)
