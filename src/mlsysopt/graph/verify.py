"""Every rule that a program must keep; it trusts neither the builder nor a pass.

All findings are reported at once, each with the op, the rule that it breaks and the source line.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from mlsysopt.core.errors import UsageError
from mlsysopt.graph.builder import check_operands
from mlsysopt.graph.errors import FactsError, GraphError, TypeRuleError
from mlsysopt.graph.facts import Answer, Facts
from mlsysopt.graph.ir import NOWHERE, Graph, Loc, Op, Value
from mlsysopt.graph.ops.inference import Inference
from mlsysopt.graph.ops.registry import OpDef, lookup
from mlsysopt.graph.placement import Replicate, Shard
from mlsysopt.graph.symbolic import Dim
from mlsysopt.graph.types import Blocked, Dense, TensorType

__all__ = ["Finding", "findings", "verify"]

_SHOWN = 50


@dataclass(frozen=True, slots=True)
class Finding:
    """One broken rule.

    Attributes:
        rule: Short name of the rule, e.g. "dominance".
        what: The value or op at fault, as it is printed.
        message: What is wrong.
        loc: Source line.
    """

    rule: str
    what: str
    message: str
    loc: Loc = NOWHERE

    def __str__(self) -> str:
        where = f" ({self.loc})" if self.loc != NOWHERE else ""
        return f"{self.what}{where}: {self.message} [{self.rule}]"


def verify(graph: Graph) -> None:
    """Raise GraphError with every finding; return None when there is none."""
    found = findings(graph)
    if found:
        shown = [str(one) for one in found[:_SHOWN]]
        more = [f"... and {len(found) - _SHOWN} more"] if len(found) > _SHOWN else []
        raise GraphError("\n".join([f"graph {graph.name}: {len(found)} findings", *shown, *more]))


def findings(graph: Graph) -> list[Finding]:
    """Return every broken rule of a program, in the order of the program."""
    return list(_Checker(graph).run())


class _Checker:
    def __init__(self, graph: Graph, outer: dict[str, Value] | None = None) -> None:
        self.graph = graph
        self.defined: dict[str, Value] = dict(outer or {})
        self.rule = Inference(graph.facts, learn=False)
        self.symbols: set[str] = set()
        self._legal: dict[int, tuple[TensorType, Sequence[tuple[str, str]]]] = {}

    def run(self) -> Iterator[Finding]:
        graph = self.graph
        for value in graph.inputs:
            self.symbols |= value.type.symbols
            yield from self.define(value, "input", NOWHERE)
        for constant in graph.constants:
            if constant.type.symbols:
                message = f"sizes of a constant must be numbers, got {constant.type}"
                yield Finding("constant", f"const %{constant.name}", message)
            yield from self.define(constant.value, "const", NOWHERE)
        for op in graph.ops:
            yield from self.op(op)
        for value in graph.outputs:
            known = self.defined.get(value.name)
            if known is None:
                yield Finding("outputs", f"return %{value.name}", "no op, input or constant defines it")
            elif known != value:
                yield Finding("outputs", f"return %{value.name}", f"it has type {known.type}, not {value.type}")
        for low, high, symbol in _empty_ranges(graph.facts):
            yield Finding("facts", symbol, f"its range {low}..{high} is empty")

    def define(self, value: Value, what: str, loc: Loc) -> Iterator[Finding]:
        if value.name in self.defined:
            yield Finding("names", f"{what} %{value.name}", "the name is defined twice", loc)
        self.defined[value.name] = value
        for rule, message in self.legal(value.type):
            yield Finding(rule, f"{what} %{value.name}", message, loc)

    def op(self, op: Op) -> Iterator[Finding]:
        what = f"{op.kind} %{op.results[0].name}" if op.results else op.kind
        try:
            found = lookup(op.kind)
        except UsageError as error:
            yield Finding("kind", what, str(error), op.loc)
            for value in op.results:
                yield from self.define(value, op.kind, op.loc)
            return
        if not op.results:
            yield Finding("results", what, "an op defines at least one value", op.loc)
        sound = True
        for value in op.operands:
            known = self.defined.get(value.name)
            if known is value:
                continue
            if known is None:
                sound = False
                yield Finding("dominance", what, f"reads %{value.name}, which nothing above defines", op.loc)
            elif known.type != value.type:
                message = f"reads %{value.name} as {value.type}, which is defined as {known.type}"
                yield Finding("dominance", what, message, op.loc)
        yield from self.placed(op, found, what)
        for region in op.regions:
            for inner in _Checker(region, self.defined).run():
                yield Finding(inner.rule, f"{what} / {inner.what}", inner.message, inner.loc)
        if sound:
            yield from self.typed(op, found, what)
        if found.fresh:
            self.symbols |= frozenset[str]().union(*(value.type.symbols for value in op.results))
        for value in op.results:
            unbound = value.type.symbols - self.symbols
            if unbound:
                message = f"the symbol {min(unbound)} of %{value.name}: {value.type} is in no input"
                yield Finding("symbols", what, message, op.loc)
                self.symbols |= unbound
            yield from self.define(value, op.kind, op.loc)

    def typed(self, op: Op, found: OpDef, what: str) -> Iterator[Finding]:
        try:
            check_operands(found, len(op.operands))
            attrs = op.attrs
            if found.attrs or attrs:
                attrs = found.complete(attrs)
                if attrs != op.attrs:
                    message = "attributes are incomplete: defaults are filled in by the builder"
                    yield Finding("attributes", what, message, op.loc)
            self.rule.findings.clear()
            expected = found.infer(self.rule, [value.type for value in op.operands], attrs)
        except (TypeRuleError, FactsError) as error:
            yield Finding("types", what, str(error), op.loc)
            return
        for message in self.rule.findings:
            yield Finding("facts", what, message, op.loc)
        if len(expected) != len(op.results):
            yield Finding("results", what, f"{len(op.results)} results, the rule gives {len(expected)}", op.loc)
            return
        for value, one in zip(op.results, expected, strict=True):
            if value.type.dtype is not one.dtype or not self.same_shape(value.type, one):
                yield Finding("types", what, f"%{value.name} is {value.type.plain()}, the rule gives {one}", op.loc)

    def same_shape(self, a: TensorType, b: TensorType) -> bool:
        if a.shape == b.shape:
            return True
        return len(a.shape) == len(b.shape) and all(
            x == y or self.graph.facts.eq(x, y) is Answer.YES for x, y in zip(a.shape, b.shape, strict=True)
        )

    # --- layouts, placements, quantisation -------------------------------------------------------

    def legal(self, one: TensorType) -> Sequence[tuple[str, str]]:
        known = self._legal.get(id(one))
        if known is None:
            plain = one.layout == Dense() and one.placement is None and one.quant is None
            known = self._legal[id(one)] = (one, () if plain else tuple(_illegal(one, self.graph.facts)))
        return known[1]

    def placed(self, op: Op, found: OpDef, what: str) -> Iterator[Finding]:
        # Op sets with a prefix define what placements mean to them.
        if "." in op.kind:
            return
        placements = [value.type.placement for value in op.operands if value.type.placement is not None]
        if not placements:
            return
        meshes = {one.mesh for one in placements}
        if len(meshes) > 1:
            yield Finding("placement", what, "operands live on different meshes", op.loc)
        if len(placements) < len(op.operands):
            bare = next(value for value in op.operands if value.type.placement is None)
            yield Finding("placement", what, f"%{bare.name} has no placement, other operands have", op.loc)
        if any(one.is_partial for one in placements):
            if not found.linear:
                yield Finding(
                    "placement", what, f"{op.kind} is not linear: a partial sum must be reduced first", op.loc
                )
            elif found.kind in ("add", "sub") and len({one.along for one in placements}) > 1:
                yield Finding("placement", what, "a partial sum can only be added to another one", op.loc)
        if found.elementwise:
            for value in op.results:
                if value.type.placement is None:
                    yield Finding("placement", what, f"%{value.name} has no placement, operands have", op.loc)
                elif any(
                    one != value.type.placement and not _replicated(one)
                    for one, operand in zip(placements, op.operands, strict=False)
                    if operand.type.rank == value.type.rank and operand.shape == value.shape
                ):
                    message = f"%{value.name} is placed {value.type.placement}, an operand of its shape otherwise"
                    yield Finding("placement", what, message, op.loc)


def _replicated(one: object) -> bool:
    along = getattr(one, "along", ())
    return all(isinstance(word, Replicate) for word in along)


def _illegal(one: TensorType, facts: Facts) -> Iterator[tuple[str, str]]:
    layout, rank = one.layout, one.rank
    if isinstance(layout, (Dense, Blocked)) and layout != Dense() and sorted(layout.order) != list(range(rank)):
        yield "layout", f"the order {layout.order} is no permutation of {rank} axes"
    if isinstance(layout, Blocked) and (len(layout.tiles) != rank or min(layout.tiles, default=1) < 1):
        yield "layout", f"tiles {layout.tiles} must be {rank} sizes of at least 1"
    if one.placement is not None:
        for word in one.placement.along:
            if not isinstance(word, Shard):
                continue
            if not 0 <= word.axis < rank:
                yield "placement", f"split along axis {word.axis} of a tensor of rank {rank}"
            elif not word.uneven:
                size, parts = one.shape[word.axis], one.placement.shards(word.axis)
                if facts.divisible(size, parts) is not Answer.YES:
                    yield "placement", f"axis {word.axis} of size {size} is not known to divide into {parts} parts"
        if one.placement.is_partial and not one.dtype.is_float and not one.dtype.is_int:
            yield "placement", f"a partial sum of {one.dtype} has no meaning"
    if one.quant is not None:
        if not one.dtype.is_int:
            yield "quantisation", f"only integers are quantised, not {one.dtype}"
        axis = one.quant.axis
        if axis is not None and not 0 <= axis < rank:
            yield "quantisation", f"axis {axis} of a tensor of rank {rank}"
        elif axis is not None and facts.eq(one.shape[axis], Dim.of(len(one.quant.scale))) is not Answer.YES:
            yield "quantisation", f"{len(one.quant.scale)} scales for axis {axis} of size {one.shape[axis]}"
        low, high = one.dtype.low, one.dtype.high
        if low is not None and high is not None and any(not low <= zero <= high for zero in one.quant.zero_point):
            yield "quantisation", f"zero points {one.quant.zero_point} must lie in {low}..{high}"


def _empty_ranges(facts: Facts) -> Iterator[tuple[int, int, str]]:
    for symbol in facts.symbols:
        low, high = facts.range(Dim.of(symbol))
        if low is not None and high is not None and low > high:
            yield low, high, symbol
