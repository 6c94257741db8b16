"""Arithmetic, comparisons and functions of single elements; operands broadcast as in numpy."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any, cast

from mlsysopt.graph.ir import Attrs, Value
from mlsysopt.graph.ops.inference import Inference
from mlsysopt.graph.ops.registry import Array, AttrSpec, OpDef, define, one_per_element
from mlsysopt.graph.types import DType, TensorType, boolean

if TYPE_CHECKING:
    from mlsysopt.graph.builder import Builder

__all__: list[str] = []

_NUMBERS = ("int", "float")
_ALL = ("bool", "int", "float")
_BITS = ("bool", "int")


def _binary(
    kind: str,
    meaning: Callable[[Array, Array], Array],
    about: str,
    *,
    kinds: tuple[str, ...] = _NUMBERS,
    to_bool: bool = False,
    commutative: bool = False,
    linear: bool = False,
) -> OpDef:
    def infer(rule: Inference, types: Sequence[TensorType], attrs: Attrs) -> tuple[TensorType, ...]:
        element = rule.same_dtype(list(types), kind)
        rule.require(element.kind in kinds, f"{kind}: not defined for {element}; allowed are {' and '.join(kinds)}")
        shape = rule.broadcast_shapes([one.shape for one in types], kind)
        return (TensorType(boolean if to_bool else element, shape),)

    return OpDef(
        kind,
        2,
        infer,
        lambda arrays, attrs: (meaning(arrays[0], arrays[1]),),
        flops=one_per_element,
        in_place=() if to_bool else (0, 1),
        elementwise=True,
        commutative=commutative,
        linear=linear,
        about=about,
    )


def _unary(
    kind: str,
    meaning: Callable[[Array], Array],
    about: str,
    *,
    kinds: tuple[str, ...] = ("float",),
    to_bool: bool = False,
    linear: bool = False,
) -> OpDef:
    def infer(rule: Inference, types: Sequence[TensorType], attrs: Attrs) -> tuple[TensorType, ...]:
        (x,) = types
        rule.require(x.dtype.kind in kinds, f"{kind}: not defined for {x.dtype}; allowed are {' and '.join(kinds)}")
        return (TensorType(boolean if to_bool else x.dtype, x.shape),)

    return OpDef(
        kind,
        1,
        infer,
        lambda arrays, attrs: (meaning(arrays[0]),),
        flops=one_per_element,
        in_place=() if to_bool else (0,),
        elementwise=True,
        linear=linear,
        about=about,
    )


def _ufunc(name: str) -> Callable[..., Array]:
    # By name, since numpy is not loaded with the definitions.
    def call(*arrays: Array) -> Array:
        import numpy as np

        return getattr(np, name)(*arrays)

    return call


def _without_zero(name: str) -> Callable[[Array, Array], Array]:
    # numpy warns and returns 0 for an integer divided by zero; that is no meaning to check others by.
    def call(a: Array, b: Array) -> Array:
        import numpy as np

        if b.dtype.kind in "iu" and a.size and not np.all(b):
            raise ZeroDivisionError("an integer is divided by zero")
        return getattr(np, name)(a, b)

    return call


def _power(a: Array, b: Array) -> Array:
    import numpy as np

    if b.dtype.kind == "i" and a.size and b.size and b.min() < 0:
        raise ValueError("an integer is raised to a negative power; cast the operands to a float type")
    return np.power(a, b)


def _erf(x: Array) -> Array:
    from scipy import special

    return special.erf(x)


def _sigmoid(x: Array) -> Array:
    import numpy as np

    return 1 / (1 + np.exp(-x))


def _rsqrt(x: Array) -> Array:
    import numpy as np

    return 1 / np.sqrt(x)


define(
    _binary("add", lambda a, b: a + b, "a + b", commutative=True, linear=True),
    _binary("sub", lambda a, b: a - b, "a - b", linear=True),
    _binary("mul", lambda a, b: a * b, "a * b", commutative=True),
    _binary("div", lambda a, b: a / b, "a / b, floats only", kinds=("float",)),
    _binary("floordiv", _without_zero("floor_divide"), "a / b rounded down"),
    _binary("mod", _without_zero("remainder"), "a - b * floor(a / b): the sign of b"),
    _binary("pow", _power, "a to the power b"),
    _binary("maximum", _ufunc("maximum"), "the larger; NaN if either is", commutative=True),
    _binary("minimum", _ufunc("minimum"), "the smaller; NaN if either is", commutative=True),
    _binary("eq", _ufunc("equal"), "a == b", kinds=_ALL, to_bool=True, commutative=True),
    _binary("ne", _ufunc("not_equal"), "a != b", kinds=_ALL, to_bool=True, commutative=True),
    _binary("lt", _ufunc("less"), "a < b", to_bool=True),
    _binary("le", _ufunc("less_equal"), "a <= b", to_bool=True),
    _binary("gt", _ufunc("greater"), "a > b", to_bool=True),
    _binary("ge", _ufunc("greater_equal"), "a >= b", to_bool=True),
    _binary("and", _ufunc("bitwise_and"), "logical of bools, bitwise of integers", kinds=_BITS, commutative=True),
    _binary("or", _ufunc("bitwise_or"), "logical of bools, bitwise of integers", kinds=_BITS, commutative=True),
    _binary("xor", _ufunc("bitwise_xor"), "logical of bools, bitwise of integers", kinds=_BITS, commutative=True),
    _unary("neg", lambda x: -x, "-x", kinds=_NUMBERS, linear=True),
    _unary("abs", _ufunc("abs"), "|x|", kinds=_NUMBERS),
    _unary("sign", _ufunc("sign"), "-1, 0 or 1", kinds=_NUMBERS),
    _unary("exp", _ufunc("exp"), "e to the power x"),
    _unary("expm1", _ufunc("expm1"), "exp(x) - 1 without cancellation"),
    _unary("log", _ufunc("log"), "natural logarithm"),
    _unary("log1p", _ufunc("log1p"), "log(1 + x) without cancellation"),
    _unary("sqrt", _ufunc("sqrt"), "square root"),
    _unary("rsqrt", _rsqrt, "1 / sqrt(x)"),
    _unary("reciprocal", lambda x: 1 / x, "1 / x"),
    _unary("erf", _erf, "error function"),
    _unary("sin", _ufunc("sin"), "sine of radians"),
    _unary("cos", _ufunc("cos"), "cosine of radians"),
    _unary("tan", _ufunc("tan"), "tangent of radians"),
    _unary("tanh", _ufunc("tanh"), "hyperbolic tangent"),
    _unary("sigmoid", _sigmoid, "1 / (1 + exp(-x))"),
    _unary("floor", _ufunc("floor"), "rounded down"),
    _unary("ceil", _ufunc("ceil"), "rounded up"),
    _unary("round", _ufunc("rint"), "rounded to the nearest integer, halves to even"),
    _unary("not", _ufunc("logical_not"), "logical not", kinds=("bool",)),
    _unary("is_nan", _ufunc("isnan"), "whether it is not a number", to_bool=True),
)  # fmt: skip


def _where_type(rule: Inference, types: Sequence[TensorType], attrs: Attrs) -> tuple[TensorType, ...]:
    condition, *branches = types
    rule.require(condition.dtype.is_bool, f"where: the condition must be bool, got {condition.dtype}")
    element = rule.same_dtype(branches, "where")
    return (TensorType(element, rule.broadcast_shapes([one.shape for one in types], "where")),)


def _cast_type(rule: Inference, types: Sequence[TensorType], attrs: Attrs) -> tuple[TensorType, ...]:
    return (TensorType(cast("DType", attrs["to"]), types[0].shape),)


def _cast(arrays: Sequence[Array], attrs: Mapping[str, Any]) -> tuple[Array, ...]:
    return (arrays[0].astype(attrs["to"].numpy()),)


def _clip_type(rule: Inference, types: Sequence[TensorType], attrs: Attrs) -> tuple[TensorType, ...]:
    (x,) = types
    rule.require(x.dtype.kind in _NUMBERS, f"clip: not defined for {x.dtype}; allowed are int and float")
    for name in ("low", "high"):
        bound = attrs[name]
        whole = bound is None or isinstance(bound, int) or (isinstance(bound, float) and bound.is_integer())
        rule.require(x.dtype.is_float or whole, f"clip: {name} {bound} is no bound of {x.dtype} elements")
    return (TensorType(x.dtype, x.shape),)


def _clip(arrays: Sequence[Array], attrs: Mapping[str, Any]) -> tuple[Array, ...]:
    import numpy as np

    (x,) = arrays
    for bound, cut in ((attrs["low"], np.maximum), (attrs["high"], np.minimum)):
        if bound is not None:
            x = cut(x, np.asarray(bound).astype(x.dtype))
    return (x,)


def _clip_parts(b: Builder, operands: Sequence[Value], attrs: Attrs) -> Sequence[Value]:
    (x,) = operands
    for name, kind in (("low", "maximum"), ("high", "minimum")):
        bound = cast("float | None", attrs[name])
        if bound is not None:
            x = b.op(kind, x, b.scalar(bound, x))
    return (x,)


define(
    OpDef(
        "where", 3, _where_type, lambda arrays, attrs: (_ufunc("where")(*arrays),),
        flops=one_per_element, in_place=(1, 2), elementwise=True, about="a where the condition holds, else b",
    ),
    OpDef(
        "cast", 1, _cast_type, _cast, {"to": AttrSpec("dtype")},
        flops=one_per_element, in_place=(0,), elementwise=True,
        about="another element type: floats to integers toward zero, anything to bool as != 0",
    ),
    OpDef(
        "clip", 1, _clip_type, _clip,
        {"low": AttrSpec("number", None, optional=True), "high": AttrSpec("number", None, optional=True)},
        flops=one_per_element, in_place=(0,), elementwise=True, decompose=_clip_parts,
        about="no smaller than low, then no larger than high",
    ),
)  # fmt: skip
