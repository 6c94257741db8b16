"""What a learned rule may look like, and the constant that goes into it.

Every template is a score of a configuration and a side: what scores above everything valid is
refused. The constant then lies between the nearest valid and the nearest refused score.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from decimal import ROUND_CEILING, ROUND_FLOOR, Decimal
from itertools import permutations
from typing import Any

import numpy as np
from numpy.typing import NDArray

from mlsysopt.core.space import Bool, Choice, Float, Int, Parameter, Permutation, Space

__all__ = ["Template", "constant", "templates"]

Floats = NDArray[np.float64]
Flags = NDArray[np.bool_]
Columns = Mapping[str, NDArray[Any]]

# A sum of which one term is nearly everything is a rule over that term alone.
_LEAST_TERM, _LEAST_SPEAK = 0.05, 0.1


@dataclass(frozen=True, slots=True)
class Template:
    """One candidate for a rule.

    Attributes:
        names: The parameters, one or two.
        rank: Place in the order of simplicity.
        score: Score per row, shape (n,); NaN where it does not apply, as for a special value.
        text: The rule, with `{}` for a constant where there is one.
        limit: The constant that is part of the template, None when it is to be found.
        floor: Whether the constant is a lower bound; the score is then minus what is compared with it.
        speaks: Rows that tell it from a simpler one, shape (n,), of which there must be some; None means all.
        log: Whether equal ratios count as equal distances.
        whole: Whether the constant is a whole number.
        unit: Unit of the constant.
    """

    names: tuple[str, ...]
    rank: int
    score: Floats
    text: str
    limit: float | None = None
    floor: bool = False
    speaks: Flags | None = None
    log: bool = False
    whole: bool = False
    unit: str = ""

    def refuses(self, good: Flags) -> Flags:
        """Return which rows it can refuse without refusing a good one, shape (n,)."""
        scores = self.score[good]
        scores = scores[~np.isnan(scores)]
        # Without a valid score there is no place for a constant.
        highest = float(scores.max()) if len(scores) else math.inf if self.limit is None else -math.inf
        if self.limit is not None:
            highest = self.limit if highest <= self.limit else math.inf
        refused = self.score > highest
        if self.speaks is not None and (refused & self.speaks).sum() < _LEAST_SPEAK * refused.sum():
            return np.zeros_like(refused)
        return refused

    def written(self, good: Flags, refused: Flags, *, permissive: bool) -> str:
        """Return the rule with its constant between the good rows and the refused ones."""
        if self.limit is not None:
            return self.text
        sign = -1.0 if self.floor else 1.0
        valid, nearest = sign * float(np.nanmax(self.score[good])), sign * float(self.score[refused].min())
        number = constant(
            valid, nearest, log=self.log, whole=self.whole, binary=self.unit == "B", permissive=permissive
        )
        return self.text.format(_shown(number, self.unit))


def templates(space: Space, names: Sequence[str], columns: Columns, special: Mapping[str, Flags]) -> Iterator[Template]:
    """Yield the templates over exactly these names, one or two, the simplest first.

    Args:
        space: Says what the parameters are.
        names: One name or two.
        columns: Name -> values per row, shape (n,); whatever is no number as objects.
        special: Name -> which rows have a special value of that number.
    """
    numbers = {name: np.where(special[name], np.nan, columns[name]) for name in names if name in special}
    if len(names) == 1:
        (a,) = names
        if a in numbers:
            yield Template((a,), 0, numbers[a], f"{a} <= {{}}", **_scale(space[a]))
            yield Template((a,), 1, -numbers[a], f"{a} >= {{}}", floor=True, **_scale(space[a]))
        for v, is_v in _values(space[a], columns[a]):
            yield Template((a,), 2, is_v.astype(np.float64), f"{a} != {v}", limit=0.5)
        return
    a, b = names
    if len(numbers) == 2:
        yield from _relations(space, numbers)
    for v, is_v in _values(space[a], columns[a]):
        for w, is_w in _values(space[b], columns[b]):
            both = (is_v & is_w).astype(np.float64)
            yield Template((a, b), 8, both, f"not ({a} == {v} and {b} == {w})", limit=0.5)
    for a, b in permutations(names):
        for v, is_v in _values(space[a], columns[a]):
            if b in numbers:
                score = np.where(is_v, numbers[b], np.nan)
                yield Template((a, b), 9, score, f"not ({a} == {v} and {b} > {{}})", **_scale(space[b]))


def _relations(space: Space, numbers: Mapping[str, Floats]) -> Iterator[Template]:
    a, b = numbers
    scales = [_scale(space[name]) for name in (a, b)]
    for rank, sign, limit in ((3, "<=", 0.0), (4, "<", float(np.nextafter(0.0, -1.0)))):
        for low, high in ((a, b), (b, a)):
            yield Template((low, high), rank, numbers[low] - numbers[high], f"{low} {sign} {high}", limit=limit)
    if any(getattr(space[name], "low", 0) <= 0 for name in (a, b)):
        # Ratios and products change their direction with the sign.
        return
    for low, high in ((a, b), (b, a)):
        yield Template((low, high), 5, numbers[low] / numbers[high], f"{low} <= {{}} * {high}", log=True)
    whole = all(scale["whole"] for scale in scales)
    unit = scales[0]["unit"] if scales[0]["unit"] == scales[1]["unit"] else ""
    total, product = numbers[a] + numbers[b], numbers[a] * numbers[b]
    speaks = np.fmin(numbers[a], numbers[b]) >= _LEAST_TERM * total
    yield Template((a, b), 6, total, f"{a} + {b} <= {{}}", speaks=speaks, log=True, whole=whole, unit=unit)
    yield Template((a, b), 7, product, f"{a} * {b} <= {{}}", log=True, whole=whole)


def _scale(parameter: Parameter) -> dict[str, Any]:
    assert isinstance(parameter, Int | Float)
    return {"log": parameter.log, "whole": isinstance(parameter, Int), "unit": parameter.unit}


def _values(parameter: Parameter, column: Any) -> Iterator[tuple[str, Flags]]:
    """Yield the values that stand for themselves, as they are written, and which rows have them."""
    match parameter:
        case Bool():
            values: Sequence[Any] = (False, True)
        case Choice():
            values = parameter.choices
        case Int() | Float():
            values = parameter.special
        case Permutation():
            values = ()
    for value in values:
        text = repr(value)
        # What an expression could not say is left to the forest.
        if isinstance(value, bool | int | float | str) and text.isascii() and text.isprintable() and "\\" not in text:
            if column.dtype != object:
                yield text, column == value
            else:
                yield text, np.array([type(one) is type(value) and one == value for one in column], dtype=bool)


def constant(
    valid: float,
    refused: float,
    *,
    log: bool = False,
    whole: bool = False,
    binary: bool = False,
    permissive: bool = False,
) -> float:
    """Return a number between the nearest valid and the nearest refused value, never the latter.

    From the middle on towards what is refused: the roundest number that a person would write;
    without one, the middle.

    Args:
        valid: Nearest value that worked.
        refused: Nearest value that did not.
        log: Whether the middle is the geometric one.
        whole: Whether only whole numbers will do.
        binary: Whether powers of two are round.
        permissive: Take the last number of three digits before the refused value.

    >>> constant(300, 1400, log=True), constant(300, 1400, log=True, permissive=True), constant(17, 18, whole=True)
    (700.0, 1390.0, 17.0)
    """
    valid, refused = float(valid), float(refused)
    up = refused > valid
    middle = valid / 2 + refused / 2
    if log and min(valid, refused) > 0:
        middle = math.sqrt(valid) * math.sqrt(refused)
    # A root of 10,000 that comes out a last digit above 100 would be rounded up to 200.
    candidates = [_rounded(float(f"{middle:.12g}"), digits, up) for digits in (1, 2, 3)]
    if binary and middle > 0:
        candidates.insert(0, 2.0 ** (math.ceil if up else math.floor)(math.log2(middle)))
    if permissive:
        last = _rounded(refused, 3, not up)
        candidates.insert(0, last if last != refused else refused + (-1 if up else 1) * _step(refused, 3))
        if whole:
            candidates.insert(1, refused - 1 if up else refused + 1)
    for candidate in candidates:
        between = valid <= candidate < refused if up else refused < candidate <= valid
        if between and (not whole or candidate.is_integer()):
            return candidate + 0.0
    return float(math.floor(middle) if up else math.ceil(middle)) if whole else middle


def _step(number: float, digits: int) -> float:
    return 10.0 ** (math.floor(math.log10(abs(number))) - digits + 1) if number else 0.0


def _rounded(number: float, digits: int, up: bool) -> float:
    """Return a number of some significant digits at or above, or at or below, another one."""
    if not number or not math.isfinite(number):
        return number
    place = math.floor(math.log10(abs(number))) - digits + 1
    scaled = Decimal(number).scaleb(-place).to_integral_value(ROUND_CEILING if up else ROUND_FLOOR)
    return float(scaled.scaleb(place))


def _shown(number: float, unit: str) -> str:
    """Return a constant as an expression reads it back exactly."""
    if not number.is_integer() or abs(number) >= 2**63:
        return repr(number)
    whole = int(number)
    for word, scale in (("GiB", 2**30), ("MiB", 2**20), ("KiB", 2**10)):
        if unit == "B" and whole > 0 and whole % scale == 0:
            return f"{whole // scale}{word}"
    return str(whole)
