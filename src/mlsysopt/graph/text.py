"""The text form of a program: what `str(graph)` prints and `parse` reads back.

    graph @block(%x: f32[B, S, 768]) where B in 1..64, S in 1..512 {
      %w = const @layer0.qkv : f32[2304, 768] blake2=9f0c41d2...
      %q = matmul(%x, %w) {transpose_b = true} : f32[B, S, 2304]  // bert.py:214 encoder.layer.0
      return %q
    }

Attributes that have their default value are left out; the source of an op stands as a comment.
"""

from __future__ import annotations

import json
import math
import re
from collections.abc import Callable, Iterable

from mlsysopt.graph.facts import facts_text
from mlsysopt.graph.ir import NOWHERE, Attr, Constant, Graph, Op, Value
from mlsysopt.graph.ops.registry import REQUIRED, lookup
from mlsysopt.graph.symbolic import Dim
from mlsysopt.graph.types import TensorType

__all__ = ["attr_text", "print_graph", "print_op", "quoted", "signature", "type_texts"]

_BARE = re.compile(r"[A-Za-z_][\w.\-]*")
_KEY = re.compile(r"[\w.=:+@/\-]+")


def signature(graph: Graph) -> str:
    """Return one line: name, inputs, outputs, facts.

    >>> from mlsysopt.graph import Builder, f32
    >>> b = Builder("twice")
    >>> x = b.input("x", f32["B"])
    >>> signature(b.finish([b.op("add", x, x)]))
    '@twice(%x: f32[B]) -> (%add: f32[B])'
    """
    outputs = ", ".join(f"{quoted('%', v.name)}: {v.type}" for v in graph.outputs)
    return f"{_header(graph, str)} -> ({outputs}){_where(graph)}"


def print_graph(graph: Graph, *, indent: str = "", locations: bool = True, weights: bool = True) -> str:
    """Return the text of a program.

    Args:
        graph: The program.
        indent: White space before each line.
        locations: Whether the source of each op is shown.
        weights: Whether constants are shown; a text without them does not read back.
    """
    shown = type_texts()
    lines = [f"{indent}graph {_header(graph, shown)}{_where(graph)} {{"]
    inner = indent + "  "
    if weights:
        lines += [inner + _constant(constant, shown) for constant in graph.constants]
    elif graph.constants:
        lines.append(f"{inner}// {len(graph.constants)} constants")
    lines += [inner + _op(op, shown, inner, locations) for op in graph.ops]
    lines.append(f"{inner}return {', '.join(quoted('%', value.name) for value in graph.outputs)}".rstrip())
    lines.append(indent + "}")
    return "\n".join(lines)


def print_op(op: Op) -> str:
    """Return the line of one op."""
    return _op(op, str, "", True)


def quoted(mark: str, name: str) -> str:
    """Return a name with its mark, in quotes where it holds more than letters, digits, `_`, `.`, `-`."""
    return f"{mark}{name}" if _BARE.fullmatch(name) else f"{mark}{json.dumps(name)}"


def attr_text(value: Attr, kind: str = "any") -> str:
    """Return an attribute; `kind` is its `AttrSpec.kind`, which makes sizes and element types plain.

    >>> attr_text((1, 2), "ints"), attr_text(Dim.of("B") * 2), attr_text(0.5)
    ('[1, 2]', '<2*B>', '0.5')
    """
    if value is None:
        return "none"
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, float):
        return repr(value) if math.isfinite(value) else str(value)
    if isinstance(value, int):
        return str(value)
    if isinstance(value, str):
        return json.dumps(value)
    if isinstance(value, tuple):
        inner = kind.removesuffix("s") if kind not in ("any", "pairs") else kind.replace("pairs", "ints")
        return f"[{', '.join(attr_text(one, inner) for one in value)}]"
    if isinstance(value, Dim):
        return str(value) if kind == "dim" else f"<{value}>"
    return str(value) if kind in ("dtype", "type") else f"!{value}"


def _header(graph: Graph, shown: Callable[[TensorType], str]) -> str:
    inputs = ", ".join(f"{quoted('%', value.name)}: {shown(value.type)}" for value in graph.inputs)
    return f"{quoted('@', graph.name)}({inputs})"


def _where(graph: Graph) -> str:
    known = facts_text(graph.facts)
    return f" where {known}" if known else ""


def _constant(constant: Constant, shown: Callable[[TensorType], str]) -> str:
    key = constant.source.key
    label = f" {quoted('@', constant.label)}" if constant.label else ""
    name = quoted("%", constant.name)
    return f"{name} = const{label} : {shown(constant.type)} {key if _KEY.fullmatch(key) else json.dumps(key)}"


def _op(op: Op, shown: Callable[[TensorType], str], indent: str, locations: bool) -> str:
    line = f"{_names(op.results)} = {op.kind}({_names(op.operands)})"
    if op.attrs:
        line += _attrs(op)
    if op.regions:
        inner = indent + "  "
        inside = ",\n".join(print_graph(region, indent=inner, locations=locations) for region in op.regions)
        line += f" do (\n{inside}\n{indent})"
    line += " : " + ", ".join([shown(value.type) for value in op.results])
    if locations and op.loc != NOWHERE:
        line += f"  // {op.loc}"
    return line


def _names(values: Iterable[Value]) -> str:
    return ", ".join([f"%{value.name}" if _BARE.fullmatch(value.name) else quoted("%", value.name) for value in values])


def _attrs(op: Op) -> str:
    specs = lookup(op.kind).attrs
    parts: list[str] = []
    for name, value in op.attrs.items():
        spec = specs.get(name)
        if spec is None:
            parts.append(f"{name} = {attr_text(value)}")
        elif spec.default is REQUIRED or type(value) is not type(spec.default) or value != spec.default:
            parts.append(f"{name} = {attr_text(value, spec.kind)}")
    return f" {{{', '.join(parts)}}}" if parts else ""


def type_texts() -> Callable[[TensorType], str]:
    """Return a `str` for types that prints each object once: many values share a type."""
    known: dict[int, tuple[TensorType, str]] = {}

    def shown(one: TensorType) -> str:
        found = known.get(id(one))
        if found is None:
            found = known[id(one)] = (one, str(one))
        return found[1]

    return shown
