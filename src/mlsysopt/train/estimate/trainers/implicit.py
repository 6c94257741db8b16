"""Alternating least squares of implicit 0.7 on the processor."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from mlsysopt.train.estimate.trainers.registry import TrainerRecord, Variant, trainer

if TYPE_CHECKING:
    from mlsysopt.train.estimate.ratings import Ratings

__all__ = ["als"]


# The kernels of OpenBLAS take 32 factors at a time (`n & -32`) and what is left over one by one, each of those some
# three times as slowly: 31 factors take longer than 64.
_BLOCKS, _OVER = "(factors//32)", "(factors%32)"


def _fit_als(matrix: Any, *, solver: str, cg_steps: int, callback: Any = None, **params: Any) -> Any:
    from implicit.cpu.als import AlternatingLeastSquares

    model = AlternatingLeastSquares(use_cg=solver == "cg", **params)
    model.cg_steps = cg_steps
    model.fit(matrix, show_progress=False, callback=callback)
    return model


def _als_variant(params: Mapping[str, Any], ratings: Ratings | None) -> Variant:
    if params["solver"] == "cg":
        # Each step of each row is a handful of calls, whatever they are called with; of each rating two.
        steps = "iterations*R*(1+cg_steps)"
        time = (
            f"{steps}*{_BLOCKS}", f"{steps}*{_OVER}", steps, "iterations*factors**2*(U+I)*(2+cg_steps)",
            "iterations*(U+I)*(2+cg_steps)", "R",
        )  # fmt: skip
    else:
        squares = "iterations*factors*R"
        time = (
            f"{squares}*{_BLOCKS}", f"{squares}*{_OVER}", squares, "iterations*factors**3*(U+I)", "iterations*(U+I)",
            "iterations*R", "R",
        )  # fmt: skip
    # The transpose; weighting makes a copy of the matrix before that.
    matrices = 8 if float(params["alpha"]) == 1.0 else 16
    return Variant(
        time=time,
        # The square is a product, a scaled unit matrix and their sum at once.
        memory=f"{matrices}*R + 4*factors*(U+I) + 4*(U+I) + 16*factors**2",
        words="ALS holds the matrix a second time and factors of {U:,} users and {I:,} items",
        stays="4*factors*(U+I)",
    )


als: TrainerRecord = trainer(
    "als",
    fit=_fit_als,
    time=("R",),
    params={"factors": 100, "iterations": 15, "solver": "cg", "cg_steps": 3, "alpha": 1.0, "num_threads": 1},
    choices={"solver": ("cg", "cholesky")},
    accepts=("regularization", "random_state", "dtype", "use_native", "calculate_training_loss", "callback"),
    data="csr",
    variant=_als_variant,
    events="callback",
    extra="train",
    modules=("implicit",),
    threads="num_threads",
    calibrated=True,
    about="alternating least squares on implicit feedback (implicit)",
)
