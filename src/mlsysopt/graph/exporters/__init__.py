"""Writing programs out: as a `torch.nn.Module` and as ONNX."""

from __future__ import annotations

from typing import TYPE_CHECKING

from mlsysopt._lazy import lazy

if TYPE_CHECKING:
    from mlsysopt.graph.exporters.onnx import to_onnx
    from mlsysopt.graph.exporters.torch import to_torch

__all__ = ["to_onnx", "to_torch"]

__getattr__, __dir__ = lazy(
    __name__,
    {
        "to_onnx": "mlsysopt.graph.exporters.onnx",
        "to_torch": "mlsysopt.graph.exporters.torch",
    },
)
