"""Which symbol each open size of an ONNX model becomes."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from typing import TypeAlias

from mlsysopt.core.errors import MlsysoptError, UsageError, near_misses
from mlsysopt.graph.atoms import check_symbol
from mlsysopt.graph.facts import Facts, Origin
from mlsysopt.graph.symbolic import Dim, dim

__all__ = ["Range", "SizeNames"]

Range: TypeAlias = "int | tuple[int, int | None]"
"""What is known of a size beforehand: the size itself, or smallest and largest."""


class SizeNames:
    """Symbols for the named and unnamed sizes of a model.

    Args:
        file: Name of the model, for messages.
        ours: Whether the model says what is known of its symbols; they are taken as they are written then.
        facts: That knowledge.
        declared: What the caller knows, by symbol or by name in the model.
    """

    def __init__(self, file: str, ours: bool, facts: Facts, declared: Mapping[str, Range]) -> None:
        self.file = file
        self.ours = ours
        self._declared = dict(declared)
        self._symbols: dict[str, str] = {}
        self._taken: set[str] = set(facts.symbols)

    def learn(self, params: Iterable[str]) -> None:
        """Give each named size its symbol: its own name where that is an identifier."""
        listed = sorted(set(params))
        for text in listed:
            if _is_symbol(text):
                self._symbols[text] = text
                self._taken.add(text)
        for text in listed:
            if text not in self._symbols:
                formula = self._formula(text)
                if formula is None:
                    self._symbols[text] = self.free(text)
                else:
                    self._taken |= formula.symbols

    def take(self, symbols: Iterable[str]) -> None:
        """Take note of symbols that are in use."""
        self._taken.update(symbols)

    def free(self, wish: str) -> str:
        """Return a symbol that is not taken, as near to the wish as a symbol's name may be."""
        plain = re.sub(r"\W+", "_", wish, flags=re.ASCII).strip("_") or "size"
        if not _is_symbol(plain):
            plain = f"size_{plain}"
        name, number = plain, 0
        while name in self._taken:
            number += 1
            name = f"{plain}_{number}"
        self._taken.add(name)
        return name

    def fresh(self, wish: str) -> str:
        """Return a symbol for a size that depends on data: `u0`, `u1`, ..."""
        number = 0
        while f"{wish}{number}" in self._taken:
            number += 1
        self._taken.add(f"{wish}{number}")
        return f"{wish}{number}"

    def size(self, text: str, facts: Facts) -> tuple[Dim, Facts]:
        """Return a named size of an input, and the facts with what is declared or assumed of it."""
        symbol = self._symbols.get(text, text if _is_symbol(text) else None)
        if symbol is not None:
            return self._declared_size(symbol, text, facts)
        formula = self._formula(text)
        assert formula is not None
        fixed: dict[str, Dim] = {}
        for name in sorted(formula.symbols):
            fixed[name], facts = self._declared_size(name, name, facts)
        return formula.substitute({name: size for name, size in fixed.items() if size.is_constant}), facts

    def result_size(self, text: str) -> Dim:
        """Return a named size of a result: a formula of symbols that exist, or a fresh symbol."""
        try:
            found = Dim.parse(self._symbols.get(text, text)) if text else None
        except MlsysoptError:
            found = None
        if found is not None and found.symbols <= self._taken:
            return found
        return Dim.of(self.fresh("u"))

    def check(self) -> None:
        """Raise UsageError when something was declared of a size that the model does not have."""
        unknown = [name for name in self._declared if name not in self._symbols and name not in self._taken]
        if unknown:
            known = near_misses(unknown[0], sorted(self._taken), noun="size")
            raise UsageError(f"dims: {self.file} has no size {unknown[0]!r}; {known}")

    def _formula(self, text: str) -> Dim | None:
        """Return a named size such as `past + 1` as a formula when its symbols are sizes of their own."""
        if text in self._symbols:
            return None
        try:
            found = Dim.parse(text)
        except MlsysoptError:
            return None
        known = self.ours or found.symbols <= self._symbols.keys()
        return found if found.symbols and known else None

    def _declared_size(self, symbol: str, text: str, facts: Facts) -> tuple[Dim, Facts]:
        given = self._declared.get(symbol, self._declared.get(text))
        if given is None:
            if not self.ours:
                # A file says nothing about sizes; like those that `dims` declares, they start at 1.
                origin = Origin("open size, taken to be at least 1", self.file)
                facts = facts.with_range(symbol, 1, None, origin)
            return Dim.of(symbol), facts
        if isinstance(given, int):
            return Dim.of(given), facts
        low, high = given
        return dim(symbol, low=low, high=high), facts


def _is_symbol(text: str) -> bool:
    try:
        check_symbol(text)
    except UsageError:
        return False
    return True
