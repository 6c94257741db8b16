"""Quantities that people write: `2GiB`, `45s`, `1.5M`, `10%`; read once, in base units.

Bytes are binary (KiB, MiB, GiB, TiB) or decimal (kB, MB, GB, TB), times become seconds, `k M G T`
are plain thousands, a percentage becomes a share of one.
"""

from __future__ import annotations

import difflib
import math
import re
from collections.abc import Iterator
from fractions import Fraction
from typing import Literal

from mlsysopt.core.errors import QuantityError

__all__ = ["Kind", "format_bytes", "format_number", "format_seconds", "parse_quantity", "replace_quantities"]

Kind = Literal["any", "bytes", "seconds", "number", "ratio"]

_UNITS: dict[str, dict[str, Fraction]] = {
    "bytes": {
        "B": Fraction(1),
        **{f"{prefix}iB": Fraction(1024**power) for power, prefix in enumerate("KMGT", start=1)},
        **{f"{prefix}B": Fraction(1000**power) for power, prefix in enumerate("kMGT", start=1)},
        "KB": Fraction(1000),
    },
    "seconds": {
        "ns": Fraction(1, 10**9),
        "us": Fraction(1, 10**6),
        "µs": Fraction(1, 10**6),
        "ms": Fraction(1, 10**3),
        "s": Fraction(1),
        "min": Fraction(60),
        "h": Fraction(3600),
        "d": Fraction(86400),
    },
    "number": {prefix: Fraction(1000**power) for power, prefix in enumerate("kMGT", start=1)},
    "ratio": {"%": Fraction(1, 100)},
}
_KIND_OF = {unit: kind for kind, units in _UNITS.items() for unit in units}
_EXAMPLES = {
    "any": "a number, 2GiB, 45s, 1.5M or 10%",
    "bytes": "a whole number of bytes, or 12KiB, 256MiB, 2GiB, 1.5GB",
    "seconds": "a number of seconds, or 300ms, 45s, 4min, 2h",
    "number": "a number, or 10k, 1.5M",
    "ratio": "a number, or 10%",
}
# Units that people write for another one; the first guess of difflib would be worse.
_MEANT = {
    "K": ("KiB", "k", "KB"),
    "m": ("min", "ms"),
    "sec": ("s",),
    "secs": ("s",),
    "second": ("s",),
    "seconds": ("s",),
    "mins": ("min",),
    "minutes": ("min",),
    "hours": ("h",),
    "hr": ("h",),
    "days": ("d",),
}

_NUMBER = r"(?:\d[\d_]*(?:\.\d*)?|\.\d+)(?:[eE][+-]?\d+)?"
_LETTERS = r"[^\W\d_]\w*"
_QUANTITY = re.compile(rf"(?P<sign>[+-]?)(?P<number>{_NUMBER})\s*(?P<unit>%|[^\W\d_]+)?")
_TOKEN = re.compile(
    rf"(?P<text>'[^']*'|\"[^\"]*\")|(?P<name>{_LETTERS}|_\w*)"
    rf"|(?P<number>{_NUMBER})(?:(?P<percent>%)|(?P<gap>\s*)(?P<unit>{_LETTERS}))?"
)
# What follows `10%` decides: an operand makes it a remainder, anything else a percentage.
_REMAINDER = re.compile(r"\s*(?!and\b|or\b)[\w.(]")


def parse_quantity(text: str | int | float, *, kind: Kind = "any") -> float | int:
    """Read one quantity in base units: bytes, seconds, plain numbers or shares of one.

    Args:
        text: What a person wrote; numbers are taken as they are.
        kind: What is allowed; "any" takes every unit.

    Returns:
        A whole number of bytes (the nearest), seconds as float, otherwise an int where number and
        unit are whole.

    Raises:
        QuantityError: position, what is allowed, and the unit that was probably meant.

    >>> parse_quantity("2GiB"), parse_quantity("4min"), parse_quantity("1.5M"), parse_quantity("10%")
    (2147483648, 240.0, 1500000.0, 0.1)
    >>> parse_quantity("1h30min", kind="seconds")
    5400.0
    """
    if isinstance(text, bool) or not isinstance(text, str | int | float):  # pyright: ignore[reportUnnecessaryIsInstance]
        raise QuantityError(f"quantity {text!r}: a {type(text).__name__} is given, allowed is {_EXAMPLES[kind]}")
    if not isinstance(text, str):
        if isinstance(text, float) and not math.isfinite(text):
            raise QuantityError(f"quantity {text!r}: it must be finite, allowed is {_EXAMPLES[kind]}")
        return _finished(Fraction(text), kind, whole=isinstance(text, int))
    parts = list(_parts(text, kind))
    if len(parts) > 1 and any(_KIND_OF.get(unit) != "seconds" for _, unit, _ in parts):
        raise QuantityError(f"quantity {text!r}: only times are written in several parts, as in 1h30min")
    total = sum((amount * _scale(unit) for amount, unit, _ in parts), Fraction(0))
    found = _KIND_OF.get(parts[0][1], kind)
    whole = all(plain and _scale(unit).denominator == 1 for _, unit, plain in parts)
    return _finished(total, found if kind == "any" else kind, whole=whole)


def _parts(text: str, kind: Kind) -> Iterator[tuple[Fraction, str, bool]]:
    """Yield amount, unit and whether the amount was written as a whole number."""
    stripped = text.strip()
    position = text.find(stripped) if stripped else 0
    end = position + len(stripped)
    if not stripped:
        raise QuantityError(f"quantity {text!r}: it is empty, allowed is {_EXAMPLES[kind]}")
    first = True
    while position < end:
        match = _QUANTITY.match(text, position)
        # A sign belongs to the whole, so it may only stand first.
        if match is None or (match["sign"] and not first):
            raise QuantityError(
                f"quantity {text!r}: a number is needed at position {position}, got {text[position]!r}; "
                f"allowed is {_EXAMPLES[kind]}"
            )
        unit = match["unit"] or ""
        if unit:
            _check_unit(text, unit, match.start("unit"), kind, match["number"])
        amount = _amount(match["number"], text)
        # The sign of `-1h30min` covers both parts.
        negative = stripped.startswith("-")
        yield (-amount if negative else amount), unit, re.fullmatch(r"[\d_]+", match["number"]) is not None
        position = match.end()
        while position < end and text[position].isspace():
            position += 1
        first = False


def _amount(number: str, text: str) -> Fraction:
    if len(number) > 400 or abs(int((re.split("[eE]", number)[1:] or ["0"])[0])) > 300:
        raise QuantityError(f"quantity {text[:40]!r}: the number is out of range, allowed are magnitudes up to 1e300")
    return Fraction(number.replace("_", ""))


def _check_unit(text: str, unit: str, position: int, kind: Kind, number: str) -> None:
    found = _KIND_OF.get(unit)
    if kind == "bytes" and found == "number":
        raise QuantityError(
            f"quantity {text!r}: unit {unit!r} at position {position} is ambiguous for bytes; "
            f"did you mean {number}{unit.upper()}iB or {number}{unit}B?"
        )
    if found is not None and kind in ("any", found):
        return
    allowed = list(_KIND_OF) if kind == "any" else list(_UNITS[kind])
    if found is not None:
        raise QuantityError(
            f"quantity {text!r}: unit {unit!r} at position {position} is for {found}; allowed is {_EXAMPLES[kind]}"
        )
    raise QuantityError(
        f"quantity {text!r}: unknown unit {unit!r} at position {position}; {_near(number, unit, allowed)}"
    )


def _near(number: str, unit: str, allowed: list[str]) -> str:
    meant = [one for one in _MEANT.get(unit, ()) if one in allowed]
    if not meant:
        meant = [one for one in allowed if one.lower() == unit.lower()][:2]
    if not meant:
        folded = {one.lower(): one for one in reversed(allowed)}
        meant = [folded[one] for one in difflib.get_close_matches(unit.lower(), folded, n=1, cutoff=0.6)]
    if meant:
        return f"did you mean {' or '.join(number + one for one in meant)}?"
    return f"allowed units: {', '.join(allowed)}"


def _scale(unit: str) -> Fraction:
    return _UNITS[_KIND_OF[unit]][unit] if unit else Fraction(1)


def _finished(amount: Fraction, kind: str, *, whole: bool) -> float | int:
    if kind == "bytes":
        return round(amount)
    if whole and kind != "seconds":
        return int(amount)
    try:
        return float(amount)
    except OverflowError:
        raise QuantityError("a quantity is out of range: magnitudes up to 1e300 are allowed") from None


def quantities_in(expression: str) -> Iterator[tuple[int, int, str, str]]:
    """Yield start, end, plain number and kind of every quantity with a unit in an expression.

    Raises:
        QuantityError: a number followed by letters that are no unit, with its position.
    """
    for token in _TOKEN.finditer(expression):
        number, unit = token["number"], token["unit"]
        if number is None:
            continue
        if token["percent"] is not None:
            if _REMAINDER.match(expression, token.end()):
                continue
            unit = "%"
        elif unit is None or (token["gap"] and unit not in _KIND_OF):
            # `1 and x` is no quantity: only a real unit may stand apart from its number.
            continue
        value = parse_quantity(f"{number}{unit}") if unit in _KIND_OF else None
        if value is None:
            raise QuantityError(
                f"expression {expression!r}: unknown unit {unit!r} at position {token.start('unit')}; "
                f"{_near(number, unit, list(_KIND_OF))}"
            )
        yield token.start(), token.end(), repr(value), _KIND_OF[unit]


def replace_quantities(expression: str) -> str:
    """Replace every quantity in an expression by its plain number; text in quotes stays.

    `10%` is a percentage unless an operand follows it, which makes it a remainder.

    Raises:
        QuantityError: a number followed by letters that are no unit, with its position.

    >>> replace_quantities("a*b <= 256MiB and share < 10%")
    'a*b <= 268435456 and share < 0.1'
    """
    pieces: list[str] = []
    done = 0
    for start, end, number, _ in quantities_in(expression):
        pieces += [expression[done:start], number]
        done = end
    return "".join([*pieces, expression[done:]])


def format_bytes(n: int | float) -> str:
    """Return bytes for people, in binary units.

    >>> format_bytes(268435456), format_bytes(12288), format_bytes(700)
    ('256 MiB', '12 KiB', '700 B')
    """
    amount = float(n)
    if not math.isfinite(amount):
        return f"{amount} B"
    for unit in ("B", "KiB", "MiB", "GiB"):
        # 1023.99 would print as 1024 of the smaller unit.
        if abs(amount) < 1023.95:
            return f"{_digits(amount)} {unit}"
        amount /= 1024
    return f"{_digits(amount)} TiB"


def format_seconds(s: int | float) -> str:
    """Return a time for people.

    >>> format_seconds(1.2), format_seconds(250), format_seconds(0.00045)
    ('1.2 s', '4 min 10 s', '450 us')
    """
    amount = float(s)
    if not math.isfinite(amount):
        return f"{amount} s"
    sign, amount = ("-", -amount) if amount < 0 else ("", amount)
    if amount == 0.0:
        return "0 s"
    for unit, scale in (("ns", 1e-9), ("us", 1e-6), ("ms", 1e-3)):
        if amount < 999.5 * scale:
            return f"{sign}{amount / scale:.3g} {unit}"
    if amount < 59.95:
        return f"{sign}{amount:.3g} s"
    whole = round(amount)
    for big, small, ratio in (("min", "s", 60), ("h", "min", 60), ("d", "h", 24)):
        if big == "d" or whole < ratio * (24 if big == "h" else 60):
            high, low = divmod(whole, ratio)
            return f"{sign}{high} {big} {low} {small}" if low else f"{sign}{high} {big}"
        whole = round(whole / ratio)
    raise AssertionError("the last row always returns")


def format_number(x: int | float) -> str:
    """Return a number for people: four significant digits, thousands as k, M, G, T.

    >>> format_number(28431), format_number(0.71234), format_number(1500000)
    ('28.43k', '0.7123', '1.5M')
    """
    amount = float(x)
    if not math.isfinite(amount):
        return str(amount)
    for unit in ("", "k", "M", "G"):
        if abs(amount) < 999.95:
            return f"{_digits(amount)}{unit}"
        amount /= 1000
    return f"{_digits(amount)}T"


def _digits(amount: float) -> str:
    return f"{amount:.4g}"
