"""What a user passes to a model, as the arrays that generated code reads: checked once, at the door."""

from __future__ import annotations

import ast
import hashlib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from mlsysopt.core.errors import UsageError
from mlsysopt.infer.analysis.mentions import reads
from mlsysopt.infer.checks import check
from mlsysopt.infer.frontend.lower import lower
from mlsysopt.infer.frontend.source import Source
from mlsysopt.infer.grid import Grid
from mlsysopt.infer.ir import Expr, Get, Kind, Program, Reduce, Site, Size, Variable, walk
from mlsysopt.infer.language import Shape

__all__ = ["Bound", "bind", "evaluate"]

Array = NDArray[Any]


@dataclass(frozen=True)
class Bound:
    """A model with its inputs.

    Attributes:
        program: With the kinds of these inputs.
        arrays: Name -> canonical array: float64 or int64, contiguous; a number is an array of one, a ragged one flat.
        starts: Name of a ragged input -> where its rows start, int64, one more than rows.
        shapes: Inputs that were passed as a `Shape`: they can be executed, not inferred.
        missing: Inputs of which some cells are drawn.
    """

    program: Program
    arrays: Mapping[str, Array]
    starts: Mapping[str, Array]
    shapes: frozenset[str]
    missing: tuple[str, ...]

    def hash(self) -> str:
        """Return the hash of the data."""
        found = hashlib.sha256()
        for name in sorted(self.arrays):
            found.update(name.encode() + str((self.arrays[name].dtype, self.arrays[name].shape)).encode())
            found.update(self.arrays[name].tobytes())
        for name in sorted(self.starts):
            found.update(name.encode() + self.starts[name].tobytes())
        return found.hexdigest()[:16]

    def lengths(self, variable: Variable) -> tuple[int, ...]:
        """Return the shape of a variable's array."""
        if variable.name in self.arrays:
            return self.arrays[variable.name].shape
        if variable.ragged:
            return (int(self.starts[variable.like][-1]),)
        return tuple(int(evaluate(one, self)) for one in variable.shape) or (1,)

    def starts_of(self, variable: Variable) -> Array | None:
        """Return where the rows of a ragged variable start."""
        return self.starts.get(variable.like or variable.name)


def bind(source: Source, given: Mapping[str, Any], *, missing: str = "error") -> Bound:
    """Check what a user passes and read the model with its kinds.

    Args:
        source: The model.
        given: Name -> number, array, list of rows (ragged), masked array or `Shape` (a list of them for ragged rows).
        missing: "latent" draws the NaN or masked cells of observed arrays; "error" refuses them.

    Raises:
        UsageError: an input is missing or is no array of numbers.
        ModelError: the model is not in the language, or cannot have these inputs.
    """
    if missing not in ("error", "latent"):
        raise UsageError(f"missing={missing!r}: allowed are 'error' and 'latent'")
    parameters = source.tree.args.args
    lacking = [one.arg for one in parameters if one.arg not in given]
    if lacking:
        raise UsageError(f"{source.name} needs {', '.join(lacking)}")
    values = {one.arg: _canonical(one.arg, given[one.arg]) for one in parameters}
    masks = {name: one.mask for name, one in values.items() if one.mask is not None and one.mask.any()}
    if masks and missing == "error":
        name, mask = next(iter(masks.items()))
        where = _first_cell(mask)
        raise UsageError(
            f"{name}{where} is missing (NaN or masked); pass missing='latent' to draw such cells, or leave them out"
        )
    values |= {
        f"{name}__missing": _Value(mask.astype(np.int64), values[name].rank, values[name].starts)
        for name, mask in masks.items()
    }

    def read(kinds: Mapping[str, Kind]) -> Program:
        inputs: dict[str, Variable] = {}
        for name, one in values.items():
            shape = tuple(Size(name, axis) for axis in range(one.rank))
            inputs[name] = Variable(
                name, kinds[name], shape, source.tree.lineno, input=True, ragged=one.starts is not None
            )
        return lower(source, inputs, missing=tuple(masks))

    # Labels read from a file are floats, and whole data of a Normal are ints: the model says what they have to be.
    draft = read(dict.fromkeys(values, "int"))
    wanted = _declared(parameters) | _kinds(draft)
    for name, (kind, line) in wanted.items():
        values[name] = _as_kind(name, values[name], kind, line, source)
    arrays = {name: one.array for name, one in values.items()}
    program = read({name: "int" if one.dtype.kind == "i" else "float" for name, one in arrays.items()})
    bound = Bound(
        program, arrays, {name: one.starts for name, one in values.items() if one.starts is not None},
        frozenset(name for name, one in values.items() if one.absent), tuple(masks),
    )  # fmt: skip
    check(bound, source)
    return bound


@dataclass(frozen=True, slots=True)
class _Value:
    """One input: its canonical array, where its rows start, which cells are missing, whether it is a `Shape`."""

    array: Array
    rank: int
    starts: Array | None = None
    mask: Array | None = None
    absent: bool = False


def _canonical(name: str, value: Any) -> _Value:
    if isinstance(value, Shape):
        if len(value.sizes) > 2:
            raise UsageError(f"{name} has {len(value.sizes)} dimensions; a model takes at most 2")
        return _Value(np.zeros(value.sizes or (1,)), len(value.sizes), absent=True)
    if isinstance(value, list | tuple) and value:
        if all(isinstance(one, Shape) for one in value):
            return _Value(
                np.zeros(sum(one.sizes[0] for one in value)), 2, _starts([one.sizes[0] for one in value]), absent=True
            )
        if all(np.ndim(one) == 1 for one in value) and (
            isinstance(value, tuple) or len({len(one) for one in value}) > 1
        ):
            rows = [np.ma.asarray(one) if isinstance(one, np.ma.MaskedArray) else np.asarray(one) for one in value]
            whole = (
                np.ma.concatenate(rows)
                if any(isinstance(one, np.ma.MaskedArray) for one in rows)
                else np.concatenate(rows)
            )
            flat = _canonical(name, whole)
            return _Value(flat.array, 2, _starts([len(one) for one in rows]), flat.mask)
    mask = np.ma.getmaskarray(value) if isinstance(value, np.ma.MaskedArray) else None
    try:
        array = np.asarray(value.filled(0) if isinstance(value, np.ma.MaskedArray) else value)
    except ValueError as error:
        raise UsageError(f"{name}: {error}; pass a number, an array, or a list of 1-D rows") from None
    if array.dtype.kind not in "biuf":
        raise UsageError(f"{name} holds {array.dtype}; a model takes numbers: int, float or bool arrays")
    rank = array.ndim
    if rank > 2:
        raise UsageError(f"{name} has {rank} dimensions; a model takes at most 2")
    array = np.atleast_1d(array.astype(np.float64 if array.dtype.kind == "f" else np.int64))
    if array.dtype.kind == "f" and np.isnan(array).any():
        mask = np.isnan(array) if mask is None else np.atleast_1d(mask) | np.isnan(array)
        array = np.where(mask, 0.0, array)
    return _Value(np.ascontiguousarray(array), rank, None, None if mask is None else np.atleast_1d(mask))


def _starts(lengths: list[int]) -> Array:
    return np.concatenate([[0], np.cumsum(lengths)]).astype(np.int64)


def _declared(parameters: list[ast.arg]) -> dict[str, tuple[Kind, int]]:
    """Return the kinds that annotations of the signature ask for."""
    words: dict[str, Kind] = {"int": "int", "bool": "int", "float": "float"}
    return {
        one.arg: (words[one.annotation.id], one.lineno)
        for one in parameters
        if isinstance(one.annotation, ast.Name) and one.annotation.id in words
    }


def _kinds(program: Program) -> dict[str, tuple[Kind, int]]:
    """Return which inputs the model uses as labels or counts, and which as observed numbers with a fraction."""
    whole: dict[str, int] = {}
    continuous: dict[str, int] = {}
    for site in program.sites:
        variable = program.variables.get(site.variable)
        if variable is not None and variable.input and site.distribution is not None:
            (whole if site.distribution.discrete else continuous).setdefault(site.variable, site.line)
        for part in _whole_parts(site):
            for name in reads(part):
                if program.variables[name].input:
                    whole.setdefault(name, site.line)
    kinds: dict[str, tuple[Kind, int]] = {name: ("float", line) for name, line in continuous.items()}
    kinds.update({name: ("int", line) for name, line in whole.items()})
    return kinds


def _whole_parts(site: Site) -> Iterator[Expr]:
    """Yield the expressions of a site that have to be whole numbers: indices and bounds."""
    for loop in site.loops:
        yield from (loop.low, loop.high)
    for expression in (*site.expressions(), *site.at):
        for one in walk(expression):
            if isinstance(one, Get | Size):
                yield from one.at
            elif isinstance(one, Reduce):
                yield from (one.low, one.high)
    yield from site.at


def _as_kind(name: str, value: _Value, kind: Kind, line: int, source: Source) -> _Value:
    """Return an input as ints or as floats."""
    array = value.array
    if kind == "float":
        return _replaced(value, array.astype(np.float64))
    bad = array != np.floor(array)
    if bad.any():
        where = _first_cell(bad) if value.rank else ""
        number = array[np.unravel_index(int(np.argmax(bad)), bad.shape)]
        raise source.error(
            line,
            f"{name}{where} = {number:g} is not whole, and {name} is a label, a count or an index; pass whole numbers",
        )
    return _replaced(value, array.astype(np.int64))


def _replaced(value: _Value, array: Array) -> _Value:
    return _Value(np.ascontiguousarray(array), value.rank, value.starts, value.mask, value.absent)


def _first_cell(bad: Array) -> str:
    return f"[{', '.join(str(int(one)) for one in np.argwhere(bad)[0])}]"


def evaluate(expression: Expr, bound: Bound, indices: Mapping[str, int] | None = None) -> int | float:
    """Return the value of an expression of the inputs.

    Args:
        expression: Without latents.
        bound: The inputs.
        indices: Values of loop indices in it.
    """
    value = Grid(bound, index={name: np.asarray(one) for name, one in (indices or {}).items()}).value(expression)
    if value is None:
        raise ValueError(f"{expression} does not follow from the inputs")
    return value.reshape(-1)[0].item()
