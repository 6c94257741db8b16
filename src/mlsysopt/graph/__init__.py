"""One tensor program that every area reads, rewrites, prices and runs.

Loads neither torch nor onnx: an importer does, when it is called.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from mlsysopt._lazy import lazy

if TYPE_CHECKING:
    from mlsysopt.graph import memory, passes
    from mlsysopt.graph.arrays import flatten
    from mlsysopt.graph.builder import Builder
    from mlsysopt.graph.costs import cost
    from mlsysopt.graph.errors import GraphError
    from mlsysopt.graph.exporters import to_onnx, to_torch
    from mlsysopt.graph.facts import Answer, Facts, Origin, divides, eq, le
    from mlsysopt.graph.files import load, save
    from mlsysopt.graph.hash import canonical_hash
    from mlsysopt.graph.importers import from_exported, from_onnx, from_torch, load_pt2
    from mlsysopt.graph.interpreter import compare_outputs, interpret, random_inputs
    from mlsysopt.graph.ir import Attrs, Constant, Graph, Loc, Op, Value
    from mlsysopt.graph.ops.registry import OpDef, define, lookup
    from mlsysopt.graph.placement import Mesh, Partial, Placement, Replicate, Shard
    from mlsysopt.graph.propagation import propagate
    from mlsysopt.graph.reader import parse, parse_type
    from mlsysopt.graph.rewriter import Rewriter
    from mlsysopt.graph.symbolic import Dim, ceildiv, dim, dims, maximum, minimum
    from mlsysopt.graph.types import (
        DType,
        Quant,
        TensorType,
        bf16,
        boolean,
        f16,
        f32,
        f64,
        i8,
        i16,
        i32,
        i64,
        u8,
    )

__all__ = [
    "Answer",
    "Attrs",
    "Builder",
    "Constant",
    "DType",
    "Dim",
    "Facts",
    "Graph",
    "GraphError",
    "Loc",
    "Mesh",
    "Op",
    "OpDef",
    "Origin",
    "Partial",
    "Placement",
    "Quant",
    "Replicate",
    "Rewriter",
    "Shard",
    "TensorType",
    "Value",
    "bf16",
    "boolean",
    "canonical_hash",
    "ceildiv",
    "compare_outputs",
    "cost",
    "define",
    "dim",
    "dims",
    "divides",
    "eq",
    "f16",
    "f32",
    "f64",
    "flatten",
    "from_exported",
    "from_onnx",
    "from_torch",
    "i8",
    "i16",
    "i32",
    "i64",
    "interpret",
    "le",
    "load",
    "load_pt2",
    "lookup",
    "maximum",
    "memory",
    "minimum",
    "parse",
    "parse_type",
    "passes",
    "propagate",
    "random_inputs",
    "save",
    "to_onnx",
    "to_torch",
    "u8",
]

_WHERE = {
    "arrays": ("flatten",),
    "builder": ("Builder",),
    "costs": ("cost",),
    "errors": ("GraphError",),
    "exporters": ("to_onnx", "to_torch"),
    "facts": ("Answer", "Facts", "Origin", "divides", "eq", "le"),
    "files": ("load", "save"),
    "hash": ("canonical_hash",),
    "importers": ("from_exported", "from_onnx", "from_torch", "load_pt2"),
    "interpreter": ("compare_outputs", "interpret", "random_inputs"),
    "ir": ("Attrs", "Constant", "Graph", "Loc", "Op", "Value"),
    "memory": ("memory",),
    "ops.registry": ("OpDef", "define", "lookup"),
    "passes": ("passes",),
    "placement": ("Mesh", "Partial", "Placement", "Replicate", "Shard"),
    "propagation": ("propagate",),
    "reader": ("parse", "parse_type"),
    "rewriter": ("Rewriter",),
    "symbolic": ("Dim", "ceildiv", "dim", "dims", "maximum", "minimum"),
    "types": ("DType", "Quant", "TensorType", "bf16", "boolean", "f16", "f32", "f64", "i8", "i16", "i32", "i64", "u8"),
}
__getattr__, __dir__ = lazy(
    __name__, {name: f"{__name__}.{module}" for module, names in _WHERE.items() for name in names}
)
