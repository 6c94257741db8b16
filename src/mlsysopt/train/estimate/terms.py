"""Cost terms as text: what a trainer's author writes, checked, and turned into numbers."""

from __future__ import annotations

import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import numpy.typing as npt

from mlsysopt.core.errors import ExpressionError, near_misses
from mlsysopt.core.space import Expression
from mlsysopt.train.estimate.characteristics import EXACT, WALKS, Characteristics

__all__ = ["TermError", "Terms", "numeric"]

Floats = npt.NDArray[np.float64]

_CALL = re.compile(r"\bramp\s*\(")


class TermError(ExpressionError):
    """A cost term that cannot be read, mentions an unknown symbol, or is negative."""


@dataclass(frozen=True, slots=True)
class _Ramp:
    """`ramp(W)` under the name that stands for it in the rest of the expression."""

    symbol: str
    working_set: Expression


@dataclass(frozen=True, slots=True, eq=False)
class Terms:
    """Expressions over data characteristics, hyper-parameters and `ramp(bytes)`.

    Args:
        texts: The expressions.
        params: Names of the hyper-parameters that they may mention; None allows any name and leaves the
            check to `columns`.

    Raises:
        TermError: an expression that cannot be read, with position and what is allowed.

    >>> sizes = Characteristics(R=100, U=10, I=20, Su=1200, Si=700, Mu=30, Mi=20)
    >>> terms = Terms(["n_epochs*R", "Su*ramp(8*I**2)"], params=["n_epochs"])
    >>> terms.columns(sizes, {"n_epochs": 4}).tolist()
    [400.0, 0.0]
    """

    texts: tuple[str, ...]
    names: frozenset[str] = field(init=False)
    _expressions: tuple[Expression, ...] = field(init=False, repr=False)
    _ramps: tuple[_Ramp, ...] = field(init=False, repr=False)

    def __init__(self, texts: Sequence[str], *, params: Sequence[str] | None = None) -> None:
        ramps: list[_Ramp] = []
        expressions: list[Expression] = []
        for text in texts:
            expressions.append(_parsed(_without_ramps(text, ramps), text))
        names = frozenset[str]().union(*(one.names for one in expressions), *(one.working_set.names for one in ramps))
        names -= {one.symbol for one in ramps}
        object.__setattr__(self, "texts", tuple(texts))
        object.__setattr__(self, "names", names)
        object.__setattr__(self, "_expressions", tuple(expressions))
        object.__setattr__(self, "_ramps", tuple(ramps))
        if params is not None:
            allowed = [*EXACT, *WALKS, *params]
            for text in texts:
                for name in sorted(self.names - set(allowed)):
                    if (found := re.search(rf"\b{re.escape(name)}\b", text)) is not None:
                        raise _unknown(text, name, found.start(), allowed)

    def __len__(self) -> int:
        return len(self.texts)

    def uses(self, index: int) -> frozenset[str]:
        """Return the symbols of one term, those inside its ramps included."""
        names = self._expressions[index].names
        inner = [one.working_set.names for one in self._ramps if one.symbol in names]
        return (names - {one.symbol for one in self._ramps}).union(*inner)

    def columns(self, characteristics: Characteristics, params: Mapping[str, Any]) -> Floats:
        """Return the value of each term for one data set and one setting, shape (k,).

        Args:
            characteristics: Of the data that would be trained on.
            params: Hyper-parameters; those that are no numbers cannot be mentioned.

        Raises:
            TermError: a symbol without a value, or a term that is negative or not finite.
        """
        values = {**characteristics.symbols(), **numeric(params)}
        for text, index in zip(self.texts, range(len(self.texts)), strict=True):
            for name in sorted(self.uses(index) - values.keys()):
                found = re.search(rf"\b{re.escape(name)}\b", text)
                raise _unknown(text, name, found.start() if found else 0, sorted(values))
        columns = {name: np.array([values[name]]) for name in self.names}
        for one in self._ramps:
            bytes_ = float(np.broadcast_to(one.working_set.evaluate(columns), (1,))[0])
            if math.isnan(bytes_) or bytes_ < 0:
                raise TermError(f"ramp({one.working_set.text}) of {bytes_:g} bytes; a working set is at least 0")
            columns[one.symbol] = np.array([characteristics.ramp(bytes_)])
        found = np.array([float(np.broadcast_to(one.evaluate(columns), (1,))[0]) for one in self._expressions])
        wrong = np.flatnonzero(~(np.isfinite(found) & (found >= 0)))
        if len(wrong):
            k = int(wrong[0])
            given = ", ".join(f"{name} = {values[name]:g}" for name in sorted(self.uses(k)))
            raise TermError(
                f"term {k + 1}, {self.texts[k]!r}, is {found[k]:g} at {given}; a term must be finite and at least 0"
            )
        return found


def numeric(params: Mapping[str, Any]) -> dict[str, float]:
    """Return the hyper-parameters that are numbers; switches count as 0 and 1."""
    return {
        name: float(value)
        for name, value in params.items()
        if isinstance(value, int | float | np.integer | np.floating) and math.isfinite(float(value))
    }


def _parsed(source: str, text: str) -> Expression:
    try:
        expression = Expression.parse(source)
    except ExpressionError as error:
        # What is refused is shown at its place in the text; a ramp is one more thing that is allowed.
        message = str(error).replace(repr(source), repr(text)).replace("min, max, abs", "min, max, abs, ramp(bytes)")
        raise TermError(message) from None
    return expression


def _without_ramps(text: str, ramps: list[_Ramp]) -> str:
    """Replace each `ramp(...)` by a name of the same length, so that positions stay what they are."""
    while (found := _CALL.search(text)) is not None:
        depth, end = 1, found.end()
        while end < len(text) and depth:
            depth += {"(": 1, ")": -1}.get(text[end], 0)
            end += 1
        if depth:
            raise TermError(f"expression {text!r}: the bracket of ramp at position {found.start()} is never closed")
        inner = text[found.end() : end - 1]
        if _CALL.search(inner):
            raise TermError(f"expression {text!r}: a ramp inside a ramp at position {found.start()} is not allowed")
        symbol = f"ramp_{len(ramps)}"
        symbol = symbol.ljust(end - found.start(), "_") if len(symbol) < end - found.start() else symbol
        ramps.append(_Ramp(symbol, _parsed(inner, inner)))
        text = text[: found.start()] + symbol + text[end:]
    return text


def _unknown(text: str, name: str, position: int, allowed: Sequence[str]) -> TermError:
    return TermError(
        f"term {text!r}: unknown symbol {name!r} at position {position}: {near_misses(name, allowed, noun='symbol')}\n"
        f"allowed are {', '.join(allowed)}, numbers, + - * / **, min, max, abs and ramp(bytes)"
    )
