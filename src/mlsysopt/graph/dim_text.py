"""The text of a size, both ways: as people read it, and as generated code computes it."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from typing import NoReturn

from mlsysopt.core.errors import UsageError, near_misses
from mlsysopt.graph.atoms import RESERVED, Atom, FloorDiv, Mod, Opaque
from mlsysopt.graph.errors import GraphTextError
from mlsysopt.graph.symbolic import Dim, ceildiv, maximum, minimum

__all__ = ["DimReader", "parse_dim", "source_of", "text_of"]

_DEEPEST = 100
_TOKEN = re.compile(r"\s*(?:(\d+)|([A-Za-z_][A-Za-z0-9_]*)|(//|\*\*|[-+*%(),]))")


def text_of(size: Dim) -> str:
    """Return what `Dim.parse` reads back: terms in a fixed order."""
    return _sum(size, lambda atom: atom if isinstance(atom, str) else atom.text, "*")


def source_of(size: Dim, names: Sequence[str] | Mapping[str, str]) -> str:
    """Return a Python expression that may stand anywhere, in brackets where it needs them."""
    known = names if isinstance(names, Mapping) else {name: name for name in names}

    def written(atom: Atom) -> str:
        if isinstance(atom, str):
            if atom not in known:
                raise UsageError(f"{size}: no name was given for {atom}; {near_misses(atom, known)}")
            return known[atom]
        return called(atom)

    def called(atom: Opaque) -> str:
        operands = [_sum(operand, written, "*") for operand in atom.operands]
        if isinstance(atom, FloorDiv | Mod):
            return f"(({operands[0]}) {'//' if isinstance(atom, FloorDiv) else '%'} ({operands[1]}))"
        return f"{atom.word}({', '.join(operands)})"

    text = _sum(size, written, "*")
    return text if re.fullmatch(r"\w+", text) else f"({text})"


def _sum(size: Dim, written: Callable[[Atom], str], times: str) -> str:
    pieces: list[str] = []
    for monomial, coefficient in size.terms:
        sign = ("-" if coefficient < 0 else "") if not pieces else (" - " if coefficient < 0 else " + ")
        factors = [written(atom) for atom in monomial]
        if abs(coefficient) != 1 or not factors:
            factors.insert(0, str(abs(coefficient)))
        pieces.append(sign + times.join(factors))
    return "".join(pieces) or "0"


def parse_dim(text: str) -> Dim:
    """Read one size that fills the text.

    Raises:
        GraphTextError: column and what was expected.
    """
    reader = DimReader(text)
    size = reader.sum()
    if not reader.at_end:
        reader.refuse("an operator or the end")
    return size


class DimReader:
    """Reads sizes out of a text, one after the other; `position` is where the next one starts."""

    def __init__(self, text: str, position: int = 0) -> None:
        self.text, self.position, self._depth = text, position, 0

    @property
    def at_end(self) -> bool:
        return not self.text[self.position :].strip()

    def refuse(self, expected: str) -> NoReturn:
        """Raise the error for what stands at the position."""
        rest = self.text[self.position :]
        column = self.position + len(rest) - len(rest.lstrip()) + 1
        found = repr(rest.split()[0][:20]) if rest.strip() else "the end"
        raise GraphTextError(f"size {self.text!r}: column {column}: expected {expected}, found {found}")

    def take(self, *wanted: str) -> str:
        """Take one of these signs when it comes next, else return ""."""
        found = _TOKEN.match(self.text, self.position)
        if found and found[3] in wanted:
            self.position = found.end()
            return found[3]
        return ""

    def sum(self) -> Dim:
        """Read a whole expression."""
        self._depth += 1
        if self._depth > _DEEPEST:
            self.refuse(f"at most {_DEEPEST} levels of brackets")
        total = self._product()
        while sign := self.take("+", "-"):
            term = self._product()
            total = total + term if sign == "+" else total - term
        self._depth -= 1
        return total

    def _product(self) -> Dim:
        total = self._signed()
        while sign := self.take("*", "//", "%"):
            start = self.position
            factor = self._signed()
            total = total * factor if sign == "*" else self._divided(total, factor, start, sign)
        return total

    def _divided(self, left: Dim, right: Dim, start: int, word: str) -> Dim:
        if right == 0:
            self.position = start
            self.refuse("a divisor other than 0")
        if word == "ceildiv":
            return ceildiv(left, right)
        return left // right if word in ("//", "floordiv") else left % right

    def _signed(self) -> Dim:
        negative = False
        while self.take("-"):
            negative = not negative
        size = self._power()
        return -size if negative else size

    def _power(self) -> Dim:
        base = self._primary()
        if not self.take("**"):
            return base
        found = _TOKEN.match(self.text, self.position)
        if not found or not found[1] or len(found[1]) > 2 or int(found[1]) > 16:
            self.refuse("a power from 0 to 16")
        self.position = found.end()
        return base ** int(found[1])

    def _primary(self) -> Dim:
        found = _TOKEN.match(self.text, self.position)
        if not found:
            self.refuse("a number, a symbol or (")
        start = self.position
        self.position = found.end()
        if found[1]:
            return Dim.of(int(found[1]))
        if found[2]:
            if self.take("("):
                return self._call(found[2], start)
            try:
                return Dim.of(found[2])
            except UsageError:
                self.position = start
                self.refuse("a symbol that is no word of the language")
        if found[3] == "(":
            size = self.sum()
            self._close()
            return size
        self.position = start
        self.refuse("a number, a symbol or (")

    def _call(self, word: str, start: int) -> Dim:
        if word not in RESERVED:
            self.position = start
            self.refuse(f"one of {', '.join(sorted(RESERVED))} before (")
        starts, operands = [self.position], [self.sum()]
        while self.take(","):
            starts.append(self.position)
            operands.append(self.sum())
        self._close()
        if word in ("min", "max"):
            return (minimum if word == "min" else maximum)(*operands)
        if len(operands) != 2:
            self.position = start
            self.refuse(f"two operands of {word}, not {len(operands)}, at")
        return self._divided(operands[0], operands[1], starts[1], word)

    def _close(self) -> None:
        if not self.take(")"):
            self.refuse("an operator or )")
