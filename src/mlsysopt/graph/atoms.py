"""What a size is made of below sums and products: symbols, and the four operations kept as they are."""

from __future__ import annotations

import keyword
import re
from functools import lru_cache
from typing import TYPE_CHECKING, Any, ClassVar

from mlsysopt.core.errors import UsageError

if TYPE_CHECKING:
    from mlsysopt.graph.symbolic import Dim

__all__ = [
    "RESERVED",
    "Atom",
    "FloorDiv",
    "Max",
    "Min",
    "Mod",
    "Monomial",
    "Opaque",
    "check_symbol",
    "order",
    "product",
]

RESERVED = frozenset({"ceildiv", "floordiv", "max", "min", "mod"})
_NAME = re.compile(r"[A-Za-z_][A-Za-z0-9_]*")


class Opaque:
    """An operation on sizes that no polynomial can express; made by the operators of `Dim`, which simplify first.

    Attributes:
        operands: What it is applied to.
        word: Its name in the text form.
    """

    __slots__ = ("_hash", "operands", "text")

    word: ClassVar[str]

    def __init__(self, operands: tuple[Dim, ...]) -> None:
        self.operands = operands
        self.text = f"{self.word}({', '.join(map(str, operands))})"
        self._hash = hash((self.word, operands))

    def __eq__(self, other: object) -> bool:
        if self is other:
            return True
        if not isinstance(other, Opaque):
            return NotImplemented
        return self._hash == other._hash and self.word == other.word and self.operands == other.operands

    def __hash__(self) -> int:
        return self._hash

    def __str__(self) -> str:
        return self.text

    def __repr__(self) -> str:
        return f"<{self.text}>"

    def __reduce__(self) -> tuple[Any, ...]:
        # Hashes of text differ between processes: they are made again.
        return type(self), (self.operands,)


class FloorDiv(Opaque):
    """The largest integer that is not above p / q."""

    __slots__ = ()
    word = "floordiv"


class Mod(Opaque):
    """What the floor division leaves: p - q * floordiv(p, q), with the sign of q."""

    __slots__ = ()
    word = "mod"


class Min(Opaque):
    """The smallest of two or more."""

    __slots__ = ()
    word = "min"


class Max(Opaque):
    """The largest of two or more."""

    __slots__ = ()
    word = "max"


Atom = str | Opaque
"""A symbol by its name, or an operation."""
Monomial = tuple[Atom, ...]
"""A product of atoms, sorted by `order`; () is 1."""


def _text(atom: Atom) -> str:
    return atom if isinstance(atom, str) else atom.text


@lru_cache(maxsize=1 << 16)
def order(monomial: Monomial) -> tuple[int, tuple[str, ...]]:
    """Return the sort key of a monomial: higher degree first, then by text; the constant term comes last.

    Graded lexicographic, so that it survives multiplication: polynomial division depends on that.
    """
    return -len(monomial), tuple(map(_text, monomial))


def product(left: Monomial, right: Monomial) -> Monomial:
    """Return the product of two monomials."""
    if not left:
        return right
    if not right:
        return left
    return tuple(sorted(left + right, key=_text))


def check_symbol(name: str) -> str:
    """Return the name when a symbol may have it.

    Raises:
        UsageError: it is no plain identifier, a word of Python, or the name of an operation.
    """
    if not _NAME.fullmatch(name):
        raise UsageError(f"symbol {name!r}: a name is letters, digits and underscores and starts with no digit")
    if name in RESERVED or keyword.iskeyword(name):
        raise UsageError(f"symbol {name!r}: this word is taken; choose another name, such as {name}_size")
    return name
