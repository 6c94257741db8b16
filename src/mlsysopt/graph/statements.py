"""Single facts about sizes: what each says, who said it, and when sizes break it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Self

from mlsysopt.graph.closure import Closure
from mlsysopt.graph.symbolic import Dim

__all__ = ["Divides", "Equal", "Fact", "NotAbove", "Origin", "Range"]


@dataclass(frozen=True, slots=True)
class Origin:
    """Who says a fact.

    Attributes:
        what: An op, "user", "exporter".
        where: Its place, e.g. "bert.py:214".
    """

    what: str
    where: str = ""

    @staticmethod
    def of(value: Origin | str) -> Origin:
        return value if isinstance(value, Origin) else Origin(value)

    def __str__(self) -> str:
        return f"{self.what} at {self.where}" if self.where else self.what


@dataclass(frozen=True, slots=True)
class Range:
    """A symbol lies between two numbers; None is no limit."""

    symbol: str
    low: int | None
    high: int | None
    origin: Origin

    @property
    def symbols(self) -> frozenset[str]:
        return frozenset((self.symbol,))

    def added(self, closure: Closure) -> Closure:
        size = Dim.of(self.symbol)
        gaps = [] if self.low is None else [size - self.low]
        return closure.with_nonnegative(*gaps, *([] if self.high is None else [self.high - size]))

    def question(self) -> tuple[str, Dim, Dim] | None:
        return None

    def renamed(self, mapping: Mapping[str, str]) -> Range:
        return Range(mapping.get(self.symbol, self.symbol), self.low, self.high, self.origin)

    def broken(self, values: Mapping[str, int]) -> str:
        """Return the line that says how values break it, "" when they do not."""
        value = values[self.symbol]
        good = (self.low is None or value >= self.low) and (self.high is None or value <= self.high)
        return "" if good else f"{self.symbol} = {value} but {self.said()}"

    def said(self) -> str:
        return f"{self} ({self.origin})"

    def __str__(self) -> str:
        if self.low is not None and self.low == self.high:
            return f"{self.symbol} = {self.low}"
        low, high = ("" if end is None else end for end in (self.low, self.high))
        return f"{self.symbol} in {low}..{high}"


@dataclass(frozen=True, slots=True)
class Divides:
    """A size is a multiple of k."""

    size: Dim
    k: int
    origin: Origin

    @property
    def symbols(self) -> frozenset[str]:
        return self.size.symbols

    def added(self, closure: Closure) -> Closure:
        return closure.with_divisor(self.size, self.k)

    def question(self) -> tuple[str, Dim, Dim] | None:
        return "divides", Dim.of(self.k), self.size

    def renamed(self, mapping: Mapping[str, str]) -> Divides:
        return Divides(_renamed(self.size, mapping), self.k, self.origin)

    def broken(self, values: Mapping[str, int]) -> str:
        value = self.size.at(values)
        return "" if value % self.k == 0 else f"{self.size} = {value} but {self.said()}"

    def said(self) -> str:
        return f"{self} ({self.origin})"

    def __str__(self) -> str:
        return f"{self.size} is a multiple of {self.k}"


@dataclass(frozen=True, slots=True)
class _Pair:
    """What is said of two sizes."""

    left: Dim
    right: Dim
    origin: Origin

    @property
    def symbols(self) -> frozenset[str]:
        return self.left.symbols | self.right.symbols

    def renamed(self, mapping: Mapping[str, str]) -> Self:
        return type(self)(_renamed(self.left, mapping), _renamed(self.right, mapping), self.origin)

    def said(self) -> str:
        return f"{self} ({self.origin})"

    def _against(self, left: int, right: int) -> str:
        return f"{_valued(self.left, left)} but {_valued(self.right, right)}: {self.said()}"


@dataclass(frozen=True, slots=True)
class Equal(_Pair):
    """Two sizes are equal."""

    def added(self, closure: Closure) -> Closure:
        return closure.with_zero(self.left - self.right)

    def question(self) -> tuple[str, Dim, Dim] | None:
        return "=", self.left, self.right

    def broken(self, values: Mapping[str, int]) -> str:
        left, right = self.left.at(values), self.right.at(values)
        return "" if left == right else self._against(left, right)

    def __str__(self) -> str:
        return f"{self.left} = {self.right}"


@dataclass(frozen=True, slots=True)
class NotAbove(_Pair):
    """A size is never above another."""

    def added(self, closure: Closure) -> Closure:
        return closure.with_nonnegative(self.right - self.left)

    def question(self) -> tuple[str, Dim, Dim] | None:
        return "<=", self.left, self.right

    def broken(self, values: Mapping[str, int]) -> str:
        left, right = self.left.at(values), self.right.at(values)
        return "" if left <= right else self._against(left, right)

    def __str__(self) -> str:
        return f"{self.left} <= {self.right}"


Fact = Range | Divides | Equal | NotAbove


def _renamed(size: Dim, mapping: Mapping[str, str]) -> Dim:
    return size.substitute({old: Dim.of(new) for old, new in mapping.items()})


def _valued(size: Dim, value: int) -> str:
    return str(value) if size.is_constant else f"{size} = {value}"
