"""What happens at each assignment, loop and observation of a model that is interpreted."""

from __future__ import annotations

import inspect
from collections.abc import Iterable, Iterator, Mapping
from typing import Any, TypeAlias

import numpy as np

from mlsysopt.core.errors import UsageError, near_misses
from mlsysopt.core.seeds import seed_sequence
from mlsysopt.infer import language
from mlsysopt.infer.interpret.cells import Cells, Index, Ragged, fitted, has_nan, part_of, read, result
from mlsysopt.infer.interpret.laws import Law, Settled

__all__ = ["Run"]

# The loops around a statement, each with the number of its present round.
Nest: TypeAlias = tuple[tuple[str, int], ...]


class Run:
    """The state of one run, and the hooks that the rewritten model calls.

    Args:
        inputs: Parameter -> what the model sees.
        given: Variable -> value that it takes instead of being drawn.
        latent: Whether nan in observed data is a variable; else it is an error.
        seed: Of the draws.
    """

    def __init__(self, inputs: Mapping[str, Any], given: Mapping[str, Any], *, latent: bool, seed: int) -> None:
        self.log_joint = 0.0
        self.log_likelihood = 0.0
        self._inputs = inputs
        self._given = dict(given)
        self._latent = latent
        self._rng = np.random.default_rng(seed_sequence(seed))
        self._nest: list[tuple[str, int]] = []
        self._assigned: dict[str, tuple[int, Nest]] = {}
        self._drawn: dict[str, Any] = {}
        self._observed: dict[str, Any] = {}
        self._completed: set[tuple[str, Index]] = set()
        self._fractional: set[str] = set()

    def start(self, line: int, targets: Iterable[str]) -> None:
        """Take the inputs as assigned on a line, and check the given values against the names that are assigned."""
        self._assigned = dict.fromkeys(self._inputs, (line, ()))
        known = {*targets, *self._inputs}
        for name in self._given:
            if name not in known:
                raise UsageError(f"values: there is no variable {name!r}; {near_misses(name, known, noun='variable')}")
            if name in self._inputs:
                self._fit(name, self._inputs[name])

    def values(self) -> dict[str, Any]:
        """Every variable that was drawn or given."""
        whole = {name for name, _ in self._completed} - self._fractional
        return {name: result(value, whole=name in whole) for name, value in self._drawn.items()}

    def observed(self) -> dict[str, Any]:
        """Every input that was observed, missing cells being nan."""
        return {name: result(value) for name, value in self._observed.items()}

    def factor(self, weight: Any) -> None:
        """`factor(weight)`."""
        if isinstance(weight, (Cells, np.ndarray)) or has_nan(float(weight)):
            raise UsageError(f"factor: the log weight is not a number, got {weight}; look at its parts")
        self.log_joint += float(weight)

    def loop(self, items: Iterable[Any], place: str) -> Iterator[Any]:
        """`for ... in items`, at one place of the source."""
        depth = len(self._nest)
        try:
            for count, item in enumerate(items):
                self._nest[depth:] = [(place, count)]
                yield item
        finally:
            del self._nest[depth:]

    def bind(self, value: Any, name: str) -> Any:
        """`name = value`: return what the name stands for."""
        nest = tuple(self._nest)
        if name in self._assigned:
            line, before = self._assigned[name]
            # A name in a loop may stand for another number in every round, unless it is drawn.
            if name in self._drawn or all(a == b for a, b in zip(before, nest, strict=False)):
                remedy = f"make an array before the loop, {name} = array(float, n)" if before else "use another name"
                raise UsageError(f"{name} is assigned twice (first at line {line}); {remedy}")
        self._assigned[name] = (_line(), nest)
        _check_made_here(value)
        if isinstance(value, Law):
            settled = value.settle()
            value = self._drawn[name] = self._value(settled, name, (), name)
            self.log_joint += settled.log_density(value)
        elif isinstance(value, (Cells, Ragged)):
            if not value.label.name:
                value.label.name = name
                self._fit(name, value)
        elif name in self._given:
            raise UsageError(f"{name} is computed, not drawn; leave it out of values=")
        return value

    def put(self, value: Any, base: Any, name: str, index: Index) -> None:
        """`name[index] = value`, `base` being what the name stands for."""
        text = _cell(name, index)
        if name in self._inputs:
            raise UsageError(f"{text} is a cell of an input and cannot be assigned; write observe({text}, ...)")
        if not isinstance(base, (Cells, Ragged)):
            if name not in self._assigned:
                raise UsageError(f"{text} is not a cell of the model; write {name} = array(float, n) before it")
            line = self._assigned[name][0]
            raise UsageError(f"{text} is assigned twice (first at line {line}); to fill cells, make an array(float, n)")
        part = part_of(base, index, text)
        twice = part.first_assigned()
        if twice:
            raise UsageError(f"{twice[0]} is assigned twice (first at line {twice[1]}); every cell is assigned once")
        _check_made_here(value)
        kind = base.label.kind
        if isinstance(value, Law):
            settled = value.settle()
            _check_shape(settled, part.shape, text)
            if kind != "float" and not settled.family.discrete:
                raise UsageError(f"{text} is {kind}, {settled.family.word} is not; make {name} an array(float, ...)")
            variable = base.label.name or name
            self._drawn[variable] = base
            value = self._value(settled, variable, index, text)
            self.log_joint += settled.log_density(value)
        else:
            value = np.asarray(value)
            if value.shape != part.shape:
                raise UsageError(f"{text} has shape {part.shape}, got shape {value.shape}; assign it cell by cell")
            if kind != "float" and value.dtype.kind not in "biu":
                raise UsageError(f"{text} is {kind}, got {value}; make {name} an array(float, ...)")
        part.fill(value, _line())

    def observe(self, law: Any, base: Any, name: str, index: Index, text: str) -> Any:
        """`observe(base[index], law)`: count it, or draw it.

        Args:
            law: The distribution.
            base: What is observed, or the array of which one cell or row is.
            name: The input that it is, "" for an expression.
            index: Of the cell or row.
            text: As the model has it.

        Returns:
            What the input stands for from now on.
        """
        _check_made_here(law)
        if not isinstance(law, Law):
            raise UsageError(f"observe takes a value and a distribution; write observe({text}, Normal(mean, sd))")
        settled = law.settle()
        title = _cell(name, index) if name else text
        if not settled.family.discrete:
            self._fractional.add(name)
        if name and isinstance(base, (Cells, Ragged)):
            part = part_of(base, index, text)
            twice = part.first_assigned()
            if twice:
                raise UsageError(f"{twice[0]} is observed twice (first at line {twice[1]}), and cannot be drawn twice")
            _check_shape(settled, part.shape, title)
            value = self._value(settled, name, index, title)
            self._observed[name] = base
            base.label.kind = "float" if name in self._fractional else "int"
            part.fill(value, _line())
            if not index and not part.shape:
                base = value
        else:
            value = read(base, index, text)
            _check_shape(settled, np.shape(value), title)
            if name and name not in self._observed:
                self._observed[name] = result(base)
            if has_nan(value) or (name, index) in self._completed:
                value = self._complete(settled, value, name, index, title)
                self.log_joint += settled.log_density(value)
                return self._keep(name, base, index, value)
        density = settled.log_density(value)
        self.log_likelihood += density
        self.log_joint += density
        return base

    def _complete(self, settled: Settled, value: Any, name: str, index: Index, title: str) -> Any:
        """A value for a missing cell or row."""
        if not name:
            raise UsageError(f"{title} is not a number (nan); leave that observation out")
        if (name, index) in self._completed:
            raise UsageError(f"{title} is missing and observed twice; it cannot be drawn twice")
        if not self._latent:
            raise UsageError(f'{title} is missing (nan); pass missing="latent" to draw it, or leave that cell out')
        if not np.isnan(value).all():
            raise UsageError(f"{title} is missing in part; take the whole of it as missing, or observe it cell by cell")
        self._completed.add((name, index))
        return self._value(settled, name, index, title)

    def _keep(self, name: str, base: Any, index: Index, value: Any) -> Any:
        """Write a missing cell into the run's own copy of the data, where later reads see it; return what holds it."""
        if not index and not np.shape(value):
            self._drawn[name] = value
            return value
        self._drawn[name] = target = base
        for position in index[:-1]:
            target = target[position]
        target[index[-1] if index else ...] = value
        return base

    def _value(self, settled: Settled, name: str, index: Index, title: str) -> Any:
        """The given value of a variable or of a cell of it, or a draw."""
        if name in self._given:
            given = self._given[name]
            for position in index:
                given = given[position]
            return _typed(given, settled, title)
        if settled.family.draw is None:
            raise UsageError(
                f"{title} is {settled.family.word}, which is improper: it cannot be drawn; "
                f"give it a value, values={{{name!r}: ...}}, or another distribution"
            )
        return settled.draw(self._rng)

    def _fit(self, name: str, array: Any) -> None:
        """Give the value of an array that its cells will be taken from the array's own shape."""
        if name in self._given and isinstance(array, (Cells, Ragged, np.ndarray, list)):
            self._given[name] = fitted(name, self._given[name], array)


def _line() -> int:
    """The line of the model whose hook asks."""
    frame = inspect.currentframe()
    for _ in range(2):
        frame = frame.f_back if frame else None
    return frame.f_lineno if frame else 0


def _cell(name: str, index: Index) -> str:
    return f"{name}[{', '.join(str(one) for one in index)}]" if index else name


def _check_made_here(value: Any) -> None:
    if isinstance(value, language.Draw):
        raise UsageError("a distribution was made by a function outside of the model; write it in the model itself")


def _check_shape(settled: Settled, shape: tuple[int, ...], title: str) -> None:
    if settled.shape != shape:
        says = [f"an array of shape {one}" if one else "a number" for one in (settled.shape, shape)]
        raise UsageError(f"{settled.family.word} gives {says[0]}, {title} is {says[1]}; change one of them")


def _typed(given: Any, settled: Settled, title: str) -> Any:
    value = np.asarray(given)
    if value.dtype.kind not in "biuf":
        raise UsageError(f"values: {title} must be a number or an array of numbers, got {given!r}")
    if value.shape == (1,) and not settled.shape:
        value = value[0]  # a number, as an array of one
    _check_shape(settled, value.shape, f"values: {title}")
    if has_nan(value):
        raise UsageError(f"values: {title} is not a number (nan); give all cells of it")
    if settled.family.discrete and (value != np.floor(value)).any():
        raise UsageError(f"values: {title} is a whole number, got {given}")
    value = value.astype(np.int64 if settled.family.discrete else np.float64)
    return value if value.shape else value.item()
