"""What may be chosen: typed, conditional, constrained parameters."""

from __future__ import annotations

from typing import TYPE_CHECKING

from mlsysopt._lazy import lazy

if TYPE_CHECKING:
    from mlsysopt.core.space.expressions import Expression
    from mlsysopt.core.space.parameters import Bool, Choice, Float, Int, Origin, Parameter, Permutation
    from mlsysopt.core.space.space import Space
    from mlsysopt.core.space.violations import Violation

__all__ = [
    "Bool",
    "Choice",
    "Expression",
    "Float",
    "Int",
    "Origin",
    "Parameter",
    "Permutation",
    "Space",
    "Violation",
]

__getattr__, __dir__ = lazy(
    __name__,
    {
        "Bool": "mlsysopt.core.space.parameters",
        "Choice": "mlsysopt.core.space.parameters",
        "Expression": "mlsysopt.core.space.expressions",
        "Float": "mlsysopt.core.space.parameters",
        "Int": "mlsysopt.core.space.parameters",
        "Origin": "mlsysopt.core.space.parameters",
        "Parameter": "mlsysopt.core.space.parameters",
        "Permutation": "mlsysopt.core.space.parameters",
        "Space": "mlsysopt.core.space.space",
        "Violation": "mlsysopt.core.space.violations",
    },
)
