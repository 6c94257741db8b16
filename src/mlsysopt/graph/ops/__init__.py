"""The ops a program is made of: their definitions, and the registry that finds them."""

from __future__ import annotations

from typing import TYPE_CHECKING

from mlsysopt._lazy import lazy

if TYPE_CHECKING:
    from mlsysopt.graph.ops.inference import Inference
    from mlsysopt.graph.ops.registry import REQUIRED, AttrSpec, Cost, OpDef, Variadic, define, kinds, lookup

__all__ = ["REQUIRED", "AttrSpec", "Cost", "Inference", "OpDef", "Variadic", "define", "kinds", "lookup"]

__getattr__, __dir__ = lazy(
    __name__,
    {
        "REQUIRED": "mlsysopt.graph.ops.registry",
        "AttrSpec": "mlsysopt.graph.ops.registry",
        "Cost": "mlsysopt.graph.ops.registry",
        "Inference": "mlsysopt.graph.ops.inference",
        "OpDef": "mlsysopt.graph.ops.registry",
        "Variadic": "mlsysopt.graph.ops.registry",
        "define": "mlsysopt.graph.ops.registry",
        "kinds": "mlsysopt.graph.ops.registry",
        "lookup": "mlsysopt.graph.ops.registry",
    },
)
