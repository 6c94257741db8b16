"""What an op kind is, and where its definition is found.

A definition is one dataclass: attributes, type rule, meaning in numpy, cost, decomposition. Kinds
without a dot are the core set; `dist.all_reduce` belongs to the set `dist`, which an area or a
plug-in brings through the entry-point group `mlsysopt.ops` and which is loaded on first use.
"""

from __future__ import annotations

import importlib
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from importlib.metadata import EntryPoint, entry_points
from types import ModuleType
from typing import TYPE_CHECKING, Any, TypeAlias

from mlsysopt.core.errors import UsageError, near_misses
from mlsysopt.graph.errors import GraphError, TypeRuleError
from mlsysopt.graph.ir import Attr, Attrs, Op, Value
from mlsysopt.graph.symbolic import Dim
from mlsysopt.graph.types import DType, TensorType

if TYPE_CHECKING:
    import numpy.typing as npt

    from mlsysopt.graph.builder import Builder
    from mlsysopt.graph.ops.inference import Inference

__all__ = ["REQUIRED", "AttrSpec", "Cost", "OpDef", "Variadic", "define", "kinds", "lookup"]

Array: TypeAlias = "npt.NDArray[Any]"
Types: TypeAlias = Sequence[TensorType]
TypeRule: TypeAlias = "Callable[[Inference, Types, Attrs], tuple[TensorType, ...]]"
Meaning: TypeAlias = "Callable[[Sequence[Array], Mapping[str, Any]], tuple[Array, ...]]"
Decomposition: TypeAlias = "Callable[[Builder, Sequence[Value], Attrs], Sequence[Value]]"
Formula: TypeAlias = "Callable[[Op], Dim]"


class _Required:
    def __repr__(self) -> str:
        return "REQUIRED"


REQUIRED = _Required()


@dataclass(frozen=True, slots=True)
class AttrSpec:
    """One attribute of an op kind.

    Attributes:
        kind: "int", "float", "bool", "str", "dim", "dtype", "type", "number", a tuple of one of
            these as "ints", "dims", "floats", "strs", "pairs" (tuple of two ints each), or "any".
            A "dim" or "dims" may hold symbols.
        default: Value that the builder fills in; REQUIRED when the user must say it.
        allowed: The words that a "str" may be, () for any.
        optional: Whether None is allowed.
    """

    kind: str
    default: Attr | _Required = REQUIRED
    allowed: tuple[str, ...] = ()
    optional: bool = False


@dataclass(frozen=True, slots=True)
class Variadic:
    """A number of operands between two bounds; `most` None means any number."""

    least: int
    most: int | None = None


@dataclass(frozen=True, slots=True)
class Cost:
    """What an op costs, as formulas of the symbols.

    Attributes:
        flops: Floating-point operations; a multiply-add counts as two.
        read_bytes: Bytes of operands.
        write_bytes: Bytes of results.
    """

    flops: Dim
    read_bytes: Dim
    write_bytes: Dim


def _no_flops(op: Op) -> Dim:
    return Dim.of(0)


def one_per_element(op: Op) -> Dim:
    """One operation for each element of the first result."""
    return op.results[0].type.elements


def per_element(count: int) -> Formula:
    """So many operations for each element of the first operand."""
    return lambda op: op.operands[0].type.elements * count


@dataclass(frozen=True, slots=True)
class OpDef:
    """The definition of an op kind.

    Attributes:
        kind: Its name.
        operands: Number of operands, exact or between bounds.
        infer: Type rule: result types of operand types and complete attributes. It says what must
            hold of the sizes through `Inference`: the verifier checks it, propagation learns it.
            Layout, placement and quantisation of operands are not its business.
        meaning: Numpy arrays of operands and evaluated attributes (`Dim`s are ints by then) to
            results. It computes in the precision of its operands: float64 gives the reference.
        attrs: Attributes by name.
        flops: Floating-point operations, a formula.
        read_bytes: Bytes of operands that it reads, a formula; None means all of them, once each.
        scratch_bytes: Bytes needed while it runs, beside operands and results.
        in_place: Operands whose bytes the first result may take when they die here.
        elementwise: Each element of the result depends on the elements at its place alone.
        commutative: The first two operands may be swapped.
        linear: Linear in its operands taken together: legal on partial sums.
        view: The result holds the operand's elements unchanged and in row-major order.
        decompose: The same in simpler ops, None for a primitive.
        fresh: Whether it defines sizes that depend on data; its results' symbols are new.
        about: One line for people.
    """

    kind: str
    operands: int | Variadic
    infer: TypeRule
    meaning: Meaning
    attrs: Mapping[str, AttrSpec] = field(default_factory=dict[str, AttrSpec])
    flops: Formula = _no_flops
    read_bytes: Formula | None = None
    scratch_bytes: Formula = _no_flops
    in_place: tuple[int, ...] = ()
    elementwise: bool = False
    commutative: bool = False
    linear: bool = False
    view: bool = False
    decompose: Decomposition | None = None
    fresh: bool = False
    about: str = ""

    def complete(self, given: Mapping[str, Attr]) -> Attrs:
        """Return the attributes with defaults filled in.

        Raises:
            TypeRuleError: an unknown, missing or ill-typed attribute.
        """
        unknown = given.keys() - self.attrs.keys()
        if unknown:
            name = min(unknown)
            raise TypeRuleError(
                f"{self.kind}: unknown attribute {name!r}; {near_misses(name, self.attrs, noun='attribute')}"
            )
        found: dict[str, Attr] = {}
        for name, spec in self.attrs.items():
            value = given.get(name, spec.default)
            if isinstance(value, _Required):
                raise TypeRuleError(f"{self.kind}: attribute {name!r} ({spec.kind}) is missing")
            found[name] = _checked(self.kind, name, spec, value)
        return Attrs(found)

    def cost(self, op: Op) -> Cost:
        """Return what one op of this kind costs; a view moves nothing."""
        zero = Dim.of(0)
        if self.view:
            return Cost(self.flops(op), zero, zero)
        if self.read_bytes is not None:
            read = self.read_bytes(op)
        else:
            read = sum((value.type.bytes for value in dict.fromkeys(op.operands)), zero)
        write = sum((value.type.bytes for value in op.results), zero)
        return Cost(self.flops(op), read, write)


_CHECKS: dict[str, Callable[[Any], bool]] = {
    "int": lambda v: isinstance(v, int) and not isinstance(v, bool),
    "float": lambda v: isinstance(v, (int, float)) and not isinstance(v, bool),
    "number": lambda v: isinstance(v, (int, float, bool)),
    "bool": lambda v: isinstance(v, bool),
    "str": lambda v: isinstance(v, str),
    "dim": lambda v: isinstance(v, Dim),
    "dtype": lambda v: isinstance(v, DType),
    "type": lambda v: isinstance(v, TensorType),
    "any": lambda v: True,
}
_MANY = {"ints": "int", "floats": "float", "dims": "dim", "strs": "str"}


def _checked(kind: str, name: str, spec: AttrSpec, value: Any) -> Attr:
    if value is None and spec.optional:
        return None
    if spec.kind == "dim" and isinstance(value, (int, str)) and not isinstance(value, bool):
        return Dim.of(value)
    if spec.kind == "float" and isinstance(value, int) and not isinstance(value, bool):
        return float(value)
    fits: bool
    if spec.kind == "pairs":
        value = tuple(tuple(pair) for pair in value) if isinstance(value, (tuple, list)) else value
        fits = isinstance(value, tuple) and all(
            len(pair) == 2 and all(_CHECKS["int"](end) for end in pair) for pair in value
        )
    elif one := _MANY.get(spec.kind):
        if isinstance(value, (tuple, list)):
            value = tuple(Dim.of(v) for v in value) if one == "dim" else tuple(value)
        if one == "float" and isinstance(value, tuple):
            value = tuple(float(v) for v in value)
        fits = isinstance(value, tuple) and all(_CHECKS[one](v) for v in value)
    else:
        fits = _CHECKS[spec.kind](value)
    if not fits:
        raise TypeRuleError(f"{kind}: attribute {name!r} must be {spec.kind}, got {value!r}")
    if spec.allowed and value not in spec.allowed:
        raise TypeRuleError(f"{kind}: attribute {name!r} must be one of {', '.join(spec.allowed)}; got {value!r}")
    return value


_DEFINED: dict[str, OpDef] = {}
_CORE = (
    "elementwise",
    "activation",
    "reduce",
    "contract",
    "pool",
    "move",
    "index",
    "normalize",
    "composite",
    "quant",
    "opaque",
    "opaque_onnx",
)
_GROUP = "mlsysopt.ops"
_loaded: set[str] = set()


def define(*definitions: OpDef) -> None:
    """Register op kinds.

    Raises:
        GraphError: a kind that is taken by another definition.
    """
    for one in definitions:
        known = _DEFINED.get(one.kind)
        if known is not None and known is not one:
            raise GraphError(f"op kind {one.kind!r} is defined twice; op sets need prefixes of their own")
        _DEFINED[one.kind] = one


def lookup(kind: str) -> OpDef:
    """Return the definition of a kind.

    Raises:
        UsageError: no such kind; near misses are named.
    """
    found = _DEFINED.get(kind)
    if found is not None:
        return found
    _load(kind.split(".")[0] if "." in kind else "")
    if kind in _DEFINED:
        return _DEFINED[kind]
    raise UsageError(f"unknown op {kind!r}; {near_misses(kind, _DEFINED, noun='op', width=12)}")


def kinds(prefix: str = "") -> list[str]:
    """List the kinds of an op set, the core set without a prefix."""
    _load(prefix)
    return sorted(kind for kind in _DEFINED if (kind.split(".")[0] if "." in kind else "") == prefix)


def _load(prefix: str) -> None:
    if prefix in _loaded:
        return
    _loaded.add(prefix)
    if prefix in ("", "opaque"):
        for module in _CORE:
            importlib.import_module(f"mlsysopt.graph.ops.{module}")
        return
    for entry in entry_points(group=_GROUP):
        if entry.name == prefix:
            _load_set(entry)


def _load_set(entry: EntryPoint) -> None:
    # An op set is a module whose import calls `define`, or a function that returns definitions.
    found: Callable[[], Iterable[OpDef]] | ModuleType = entry.load()
    if not isinstance(found, ModuleType):
        define(*found())
