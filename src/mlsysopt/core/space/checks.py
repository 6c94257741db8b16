"""What every kind of parameter checks about the values that it is given."""

from __future__ import annotations

import math
from typing import Any

from mlsysopt.core.errors import SpaceError
from mlsysopt.core.quantities import parse_quantity

__all__ = ["check_name", "check_range", "check_special", "number_or_none", "real", "shown_type", "whole"]


def check_name(name: Any) -> None:
    """Refuse a name that could not be printed or told from another one."""
    if not isinstance(name, str) or not name or name != name.strip() or not name.isprintable():
        raise SpaceError(f"a parameter needs a printable name without spaces around it, got {name!r}")


def whole(name: str, what: str, value: Any) -> int:
    """Return a whole number or quantity as a plain int; `what` names the field in the message."""
    number = parse_quantity(value) if isinstance(value, str) else value
    if isinstance(number, bool) or not hasattr(number, "__index__"):
        if isinstance(number, float) and number.is_integer():
            return int(number)
        raise SpaceError(f"parameter {name!r}: {what} must be a whole number, got {shown_type(value)}")
    return int(number)


def real(name: str, what: str, value: Any) -> float:
    """Return a finite number or quantity as a plain float; `what` names the field in the message."""
    number = parse_quantity(value) if isinstance(value, str) else value
    if isinstance(number, bool) or not hasattr(number, "__float__") or not math.isfinite(number):
        raise SpaceError(f"parameter {name!r}: {what} must be a finite number, got {shown_type(value)}")
    # Minus zero would be written differently from zero.
    return float(number) + 0.0


def number_or_none(value: Any) -> int | float | None:
    """Return a plain number, also of a numpy scalar; None for anything else and for nan."""
    if isinstance(value, str) or not hasattr(value, "__float__"):
        return None
    if hasattr(value, "__index__"):
        return int(value)
    number = float(value)
    return None if math.isnan(number) else number


def check_range(name: str, low: float, high: float, log: bool) -> None:
    """Refuse bounds in the wrong order, and a log range that does not start above 0."""
    if not low < high:
        raise SpaceError(f"parameter {name!r}: low must be below high, got low={low}, high={high}")
    if log and low <= 0:
        raise SpaceError(f"parameter {name!r}: a log range starts above 0, got low={low}")


def check_special(name: str, special: tuple[float, ...], low: float, high: float) -> None:
    """Refuse special values inside the range or twice."""
    for value in special:
        if low <= value <= high:
            raise SpaceError(f"parameter {name!r}: special value {value} must lie outside {low} .. {high}")
    if len(set(special)) < len(special):
        raise SpaceError(f"parameter {name!r}: special values must differ, got {special}")


def shown_type(value: Any) -> str:
    """Return a value, shortened, with its type."""
    text = repr(value)
    return f"{text if len(text) <= 60 else text[:57] + '...'} ({type(value).__name__})"
