"""Small numbers' business of generated code."""

from __future__ import annotations

import math
from typing import Any

__all__ = [
    "exp_or_inf",
    "expm1_or_inf",
    "floor_div",
    "log1p_or_inf",
    "log_or_inf",
    "logistic",
    "modulo",
    "power",
    "ratio",
    "sort_ascending",
    "sqrt_or_nan",
]


def log_or_inf(x: float) -> float:
    """log(x); -inf at 0, nan below."""
    if x > 0.0:
        return math.log(x)
    if x == 0.0:
        return -math.inf
    return math.nan


def sqrt_or_nan(x: float) -> float:
    """sqrt(x), nan below 0."""
    if x >= 0.0:
        return math.sqrt(x)
    return math.nan


def log1p_or_inf(x: float) -> float:
    """log(1 + x); -inf at -1, nan below."""
    if x > -1.0:
        return math.log1p(x)
    if x == -1.0:
        return -math.inf
    return math.nan


def exp_or_inf(x: float) -> float:
    """exp(x), inf beyond the range of a double."""
    if x > 709.782712893384:
        return math.inf
    return math.exp(x)


def expm1_or_inf(x: float) -> float:
    """exp(x) - 1, inf beyond the range of a double."""
    if x > 709.782712893384:
        return math.inf
    return math.expm1(x)


def logistic(x: float) -> float:
    """1 / (1 + exp(-x)), without overflow."""
    if x >= 0.0:
        return 1.0 / (1.0 + math.exp(-x))
    e = math.exp(x)
    return e / (1.0 + e)


def ratio(x: float, y: float) -> float:
    """x / y; a zero y gives inf or nan as IEEE has it, where Python would raise."""
    if y != 0.0:
        return x / y
    if x > 0.0:
        return math.inf
    if x < 0.0:
        return -math.inf
    return math.nan


def floor_div(x: int, y: int) -> int:
    """x // y; 0 where y is 0."""
    if y == 0:
        return 0
    return x // y


def modulo(x: int, y: int) -> int:
    """x % y; 0 where y is 0."""
    if y == 0:
        return 0
    return x % y


def power(x: float, y: float) -> float:
    """x ** y for numbers; nan where that is no number, inf where it is beyond a double."""
    if x < 0.0 and y != math.floor(y):
        return math.nan
    if x == 0.0:
        if y > 0.0:
            return 0.0
        if y == 0.0:
            return 1.0
        return math.inf
    if y * math.log(abs(x)) > 709.78:
        return math.inf
    return math.pow(x, y)


def sort_ascending(x: Any, n: int) -> None:
    """Sort the first n numbers of an array in place, by insertion."""
    for i in range(1, n):
        value = x[i]
        j = i - 1
        while j >= 0 and x[j] > value:
            x[j + 1] = x[j]
            j -= 1
        x[j + 1] = value
