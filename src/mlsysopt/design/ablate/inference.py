"""What dropping a negligible part saves when the model is used: paired, interleaved CPU time."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, Any

from mlsysopt.core.errors import MeasureError
from mlsysopt.design.ablate.deltas import Row
from mlsysopt.design.ablate.result import Result
from mlsysopt.design.ablate.streams import seeded
from mlsysopt.design.ablate.trial import build

if TYPE_CHECKING:
    from mlsysopt.design.ablate.builder import Study

__all__ = ["with_inference"]

_SECONDS = 10.0


def with_inference(study: Study, result: Result) -> Result:
    """Compare the inference of each negligible module row with the base's.

    Args:
        study: Its components and batch are used.
        result: Of a run that is finished.
    """
    modules = {one.name: one for one in study.components() if one.kind == "modules"}
    rows = [
        replace(row, inference=_ratio(study, Row.without([modules[row.name]])))
        if row.word == "negligible" and row.name in modules
        else row
        for row in result.rows
    ]
    return result.with_rows(rows)


def _ratio(study: Study, row: Row) -> str:
    import torch

    from mlsysopt.core.measure import compare
    from mlsysopt.design.ablate.probe import call_model

    kit = study.kit()
    sides: list[Any] = []
    for one in (Row(()), row):
        with seeded(0):
            model, _, _ = build(kit, one, 0)
        sides.append(model.eval())

    def use(model: Any) -> None:
        with torch.no_grad():
            call_model(model, kit.batch)

    try:
        ratio = compare(
            lambda: use(sides[0]), lambda: use(sides[1]), clock="cpu", max_seconds=_SECONDS, names=("base", "without")
        )
    except MeasureError as error:
        return f"inference not compared: {error}"
    # What stands in costs a call of its own, which a model written without the part would not make.
    return f"inference at most {ratio.value:.2f}x CPU [{ratio.low:.2f}, {ratio.high:.2f}]"
