"""What will it cost: models that are fitted on few measurements and say how sure they are."""

from __future__ import annotations

from typing import TYPE_CHECKING

from mlsysopt._lazy import lazy

if TYPE_CHECKING:
    from mlsysopt.core.costmodel.declared import DeclaredTerms
    from mlsysopt.core.costmodel.nonnegative import fit_near, fit_nonnegative
    from mlsysopt.core.costmodel.protocol import CostModel, Prediction, Score, score_of

__all__ = ["CostModel", "DeclaredTerms", "Prediction", "Score", "fit_near", "fit_nonnegative", "score_of"]

__getattr__, __dir__ = lazy(
    __name__,
    {
        "CostModel": "mlsysopt.core.costmodel.protocol",
        "DeclaredTerms": "mlsysopt.core.costmodel.declared",
        "Prediction": "mlsysopt.core.costmodel.protocol",
        "Score": "mlsysopt.core.costmodel.protocol",
        "fit_near": "mlsysopt.core.costmodel.nonnegative",
        "fit_nonnegative": "mlsysopt.core.costmodel.nonnegative",
        "score_of": "mlsysopt.core.costmodel.protocol",
    },
)
