"""Ops that are kept as they came: known by a name, executed by the library that they came from."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from typing import Any, cast

from mlsysopt.core.errors import MissingExtra
from mlsysopt.graph.errors import GraphError, TypeRuleError
from mlsysopt.graph.ir import Attrs
from mlsysopt.graph.ops.inference import Inference
from mlsysopt.graph.ops.registry import Array, AttrSpec, OpDef, Variadic, define
from mlsysopt.graph.types import TensorType

__all__ = ["arguments_text"]


def arguments_text(args: Sequence[Any], kwargs: Mapping[str, Any] | None = None) -> str:
    """Return the attribute `arguments` of an `opaque.aten` op.

    Numbers, strings, None and lists of them stand for themselves. A tensor operand is
    `{"operand": i}`, a symbolic size `{"size": i}` (a place in the attribute `sizes`), an element
    type `{"dtype": "float32"}`.

    >>> arguments_text([{"operand": 0}, 2], {"largest": True})
    '{"args": [{"operand": 0}, 2], "kwargs": {"largest": true}}'
    """
    return json.dumps({"args": list(args), "kwargs": dict(kwargs or {})}, sort_keys=True)


def _aten_type(rule: Inference, types: Sequence[TensorType], attrs: Attrs) -> tuple[TensorType, ...]:
    results = attrs["types"]
    if not isinstance(results, tuple) or not results or not all(isinstance(one, TensorType) for one in results):
        raise TypeRuleError(f"opaque.aten: types must name the type of each result, got {results!r}")
    try:
        parsed = json.loads(cast("str", attrs["arguments"]))
        known = isinstance(parsed, dict) and parsed.keys() <= {"args", "kwargs"}
    except json.JSONDecodeError as error:
        raise TypeRuleError(f"opaque.aten: arguments are no JSON: {error}") from None
    rule.require(known, "opaque.aten: arguments must be an object with args and kwargs")
    return cast("tuple[TensorType, ...]", results)


def _overload(target: str) -> Callable[..., Any]:
    try:
        import torch
    except ImportError:
        raise MissingExtra.of(f"running {target}", "graph") from None
    found: Any = torch.ops
    # "aten.topk.default", "aten::topk" and "torch.ops.aten.topk" all name one operator.
    for word in target.removeprefix("torch.ops.").replace("::", ".").split("."):
        found = getattr(found, word, None)
        if found is None:
            raise GraphError(f"opaque.aten: this torch ({torch.__version__}) has no operator {target!r}")
    return found


def _aten(arrays: Sequence[Array], attrs: Mapping[str, Any]) -> tuple[Array, ...]:
    import numpy as np
    import torch

    call = _overload(attrs["target"])
    operands = [torch.from_numpy(np.array(array)) for array in arrays]
    exact = any(array.dtype == np.float64 for array in arrays)

    def given(one: Any) -> Any:
        if isinstance(one, list):
            return [given(item) for item in cast("list[Any]", one)]
        if not isinstance(one, dict):
            return one
        (word, value), = cast("dict[str, Any]", one).items()  # fmt: skip
        if word == "operand":
            return operands[value]
        if word == "size":
            return attrs["sizes"][value]
        if word == "dtype":
            element = getattr(torch, value.removeprefix("torch."))
            return torch.float64 if exact and element.is_floating_point else element
        raise GraphError(f"opaque.aten: unknown argument {{{word!r}: ...}}; known are operand, size and dtype")

    parsed = json.loads(attrs["arguments"])
    with torch.no_grad():
        made = call(*map(given, parsed.get("args", [])), **{k: given(v) for k, v in parsed.get("kwargs", {}).items()})
    results = list(made) if isinstance(made, (tuple, list)) else [made]
    return tuple(np.asarray(torch.as_tensor(one).detach().numpy()) for one in results if one is not None)


define(
    OpDef(
        "opaque.aten", Variadic(0), _aten_type, _aten,
        {
            "target": AttrSpec("str"), "arguments": AttrSpec("str"), "types": AttrSpec("any"),
            "sizes": AttrSpec("dims", ()),
        },
        about="an ATen operator that has no op of its own; torch executes it",
    ),
)  # fmt: skip
