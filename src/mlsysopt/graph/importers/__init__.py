"""Reading models in: from PyTorch (`torch.export`) and from ONNX."""

from __future__ import annotations

from typing import TYPE_CHECKING

from mlsysopt._lazy import lazy

if TYPE_CHECKING:
    from mlsysopt.graph.importers.onnx import from_onnx
    from mlsysopt.graph.importers.torch_export import from_exported, from_torch, load_pt2

__all__ = ["from_exported", "from_onnx", "from_torch", "load_pt2"]

__getattr__, __dir__ = lazy(
    __name__,
    {
        "from_exported": "mlsysopt.graph.importers.torch_export",
        "from_onnx": "mlsysopt.graph.importers.onnx",
        "from_torch": "mlsysopt.graph.importers.torch_export",
        "load_pt2": "mlsysopt.graph.importers.torch_export",
    },
)
