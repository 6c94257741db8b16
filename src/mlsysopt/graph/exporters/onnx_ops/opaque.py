"""Operators that came from an ONNX file and go back into one."""

from __future__ import annotations

from typing import cast

from mlsysopt.core.errors import UsageError
from mlsysopt.graph.exporters.onnx_ops.registry import writes
from mlsysopt.graph.exporters.onnx_ops.writer import Writer
from mlsysopt.graph.ir import Op
from mlsysopt.graph.ops.opaque_onnx import node_of

__all__: list[str] = []


@writes("opaque.onnx")
def _kept(w: Writer, op: Op) -> bool:
    node = node_of(cast("str", op.attrs["node"]))
    version = cast("int", op.attrs["version"])
    if node.domain in ("", "ai.onnx") and version > w.opset:
        raise UsageError(
            f"{op.where()}: {node.op_type} comes from opset {version}; write the program with opset={version}"
        )
    places = {f"i{i}": w.name(value) for i, value in enumerate(op.operands)}
    results = iter(op.results)
    outputs = [w.name(next(results)) if name else "" for name in node.output]
    w.add(node, [places.get(name, "") for name in node.input], outputs)
    if node.domain not in ("", "ai.onnx"):
        w.domains[node.domain] = version
    return False
