"""One name for all programs that mean the same by construction: a Merkle hash over the outputs.

Names of values and the order of independent ops do not count, nor does what no output needs;
operands of commutative ops are sorted. Types, attributes, facts and weights do count, a weight by
its content where that is known. Keys every cache and every search that must not do work twice.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable

from mlsysopt.graph.facts import facts_text
from mlsysopt.graph.ir import Graph, Op, Value
from mlsysopt.graph.ops.registry import OpDef, lookup
from mlsysopt.graph.rewriter import free_values, live
from mlsysopt.graph.text import attr_text, type_texts
from mlsysopt.graph.types import TensorType

__all__ = ["canonical_hash"]


def canonical_hash(graph: Graph) -> str:
    """Return 32 hexadecimal digits; equal for programs that differ in names and order alone.

    >>> from mlsysopt.graph import parse
    >>> one = parse("graph @f(%x: f32[B], %y: f32[B]) { %z = add(%x, %y) : f32[B] return %z }")
    >>> two = parse("graph @g(%a: f32[B], %b: f32[B]) { %c = add(%b, %a) : f32[B] return %c }")
    >>> canonical_hash(one) == canonical_hash(two)
    True
    """
    return _hash(graph, {})


def _hash(graph: Graph, known: dict[Value, bytes]) -> str:
    shown = type_texts()
    digests = dict(known)
    for place, value in enumerate(graph.inputs):
        digests[value] = _digest("input", str(place), shown(value.type))
    graph = live(graph)
    for constant in graph.constants:
        digests[constant.value] = _digest("const", shown(constant.type), constant.source.key)
    definitions: dict[str, OpDef] = {}
    for op in graph.ops:
        found = definitions.get(op.kind) or definitions.setdefault(op.kind, lookup(op.kind))
        _add(op, found, digests, shown)
    inputs = [shown(value.type) for value in graph.inputs]
    outputs = b"".join(digests[value] for value in graph.outputs)
    return _digest("graph", facts_text(graph.facts), *inputs, rest=outputs).hex()


def _add(op: Op, found: OpDef, digests: dict[Value, bytes], shown: Callable[[TensorType], str]) -> None:
    operands = [digests[value] for value in op.operands]
    if found.commutative:
        operands[:2] = sorted(operands[:2])
    words = [op.kind]
    words += [f"{name}={type(value).__name__}:{attr_text(value)}" for name, value in op.attrs.items()]
    words += [_hash(region, {v: digests[v] for v in free_values(region) if v in digests}) for region in op.regions]
    own = _digest(*words, rest=b"".join(operands))
    for place, value in enumerate(op.results):
        digests[value] = _digest(str(place), shown(value.type), rest=own)


def _digest(*words: str, rest: bytes = b"") -> bytes:
    text = "\0".join(words).encode()
    return hashlib.blake2b(len(text).to_bytes(8, "little") + text + rest, digest_size=16).digest()
