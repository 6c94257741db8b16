"""The kinds of parameter: whole numbers, numbers, switches, choices and orders."""

from __future__ import annotations

import math
from dataclasses import KW_ONLY, dataclass
from decimal import Decimal
from typing import Any, Literal

from mlsysopt.core.errors import SpaceError, near_misses
from mlsysopt.core.space.checks import (
    check_name,
    check_range,
    check_special,
    number_or_none,
    real,
    shown_type,
    whole,
)

__all__ = ["Bool", "Choice", "Fault", "Float", "Int", "Origin", "Parameter", "Permutation"]

Origin = Literal["declared", "metadata", "discovered", "user"]
"""Who said it: the target's author, the system's own metadata, a finished search, the user."""

Fault = tuple[Literal["type", "bounds", "step"], str]
"""What is wrong with a value: the kind, and a clause that goes on after the parameter's name."""

# Positions and products are computed in doubles and 64-bit integers.
_LARGEST = 2**62
# How far from the grid a number may be and still count as on it; Optuna uses the same.
_ON_GRID = 1e-8


@dataclass(frozen=True, slots=True)
class Int:
    """A whole number.

    Attributes:
        low: Smallest value; a quantity such as "64KiB" is read.
        high: Largest value; moved down to the grid when `step` does not reach it.
        default: None means the middle: geometric on a log range, else arithmetic.
        log: Whether equal ratios count as equal distances. A log range from 0 gets 0 as a special
            value and starts at 1.
        step: Distance between neighbours; log ranges have step 1.
        special: Values outside the range that mean something else, such as -1 for "automatic".
        unit: "B", "s", ...; for people.
        needs_restart: Whether the system must be restarted to change it.
        low_origin: Who said `low`.
        high_origin: Who said `high`.
        about: One line for people.

    Raises:
        SpaceError: what was given and what is allowed.

    >>> Int("block_size", "512B", "512KiB", log=True).default
    16384
    """

    name: str
    low: int
    high: int
    _: KW_ONLY
    default: int | None = None
    log: bool = False
    step: int = 1
    special: tuple[int, ...] = ()
    unit: str = ""
    needs_restart: bool = True
    low_origin: Origin = "declared"
    high_origin: Origin = "declared"
    about: str = ""

    def __post_init__(self) -> None:
        check_name(self.name)
        low, high, step = (whole(self.name, what, getattr(self, what)) for what in ("low", "high", "step"))
        special = tuple(whole(self.name, "a special value", value) for value in self.special)
        if self.log and step != 1:
            raise SpaceError(f"parameter {self.name!r}: a log range has step 1, got step={step}")
        if step < 1:
            raise SpaceError(f"parameter {self.name!r}: step must be at least 1, got {step}")
        if self.log and low == 0:
            low, special = 1, special if 0 in special else (0, *special)
        check_range(self.name, low, high, self.log)
        high = low + (high - low) // step * step
        if high == low:
            raise SpaceError(f"parameter {self.name!r}: step must fit between low and high, got step={step}")
        if not -_LARGEST <= low < high <= _LARGEST or high - low > _LARGEST:
            raise SpaceError(f"parameter {self.name!r}: bounds must lie within 2**62, got low={low}, high={high}")
        check_special(self.name, special, low, high)
        _set(self, low=low, high=high, step=step, special=special)
        if self.default is None:
            middle = round(math.sqrt(low) * math.sqrt(high)) if self.log else (low + high) // 2
            _set(self, default=low + (middle - low) // step * step)
        else:
            _set(self, default=whole(self.name, "default", self.default))
        _check_default(self)

    @property
    def kind(self) -> str:
        """Return the word for its type."""
        return "int"

    @property
    def count(self) -> int:
        """Number of values in the range, special values not counted."""
        return (self.high - self.low) // self.step + 1

    def fault(self, value: Any) -> Fault | None:
        """Return what is wrong with a value, None when it is allowed."""
        if isinstance(value, bool) or not isinstance(value, int):
            return "type", f"must be a whole number, got {shown_type(value)}"
        if value in self.special:
            return None
        if not self.low <= value <= self.high:
            return "bounds", f"must lie in {_range(self)}, got {value}"
        if (value - self.low) % self.step:
            return "step", f"must be {self.low} plus a multiple of {self.step}, got {value}"
        return None

    def nearest(self, value: Any) -> int:
        """Return the allowed value next to any value; the default when it is no number."""
        number = number_or_none(value)
        if number is None:
            return _given(self.default)
        if number in self.special:
            return int(number)
        inside = min(max(number, self.low), self.high)
        # A float beyond 2**53 loses digits, so whole numbers stay whole.
        whole = inside if isinstance(inside, int) else round(inside)
        return min(self.low + (whole - self.low + self.step // 2) // self.step * self.step, self.high)


@dataclass(frozen=True, slots=True)
class Float:
    """A number.

    Attributes: as of `Int`, except
        step: Distance between neighbours, None for a continuous range; log ranges are continuous.
            A log range from 0 needs a step: 0 becomes a special value and the range starts there.

    Raises:
        SpaceError: what was given and what is allowed.

    >>> Float("ratio", 0, 1).default
    0.5
    """

    name: str
    low: float
    high: float
    _: KW_ONLY
    default: float | None = None
    log: bool = False
    step: float | None = None
    special: tuple[float, ...] = ()
    unit: str = ""
    needs_restart: bool = True
    low_origin: Origin = "declared"
    high_origin: Origin = "declared"
    about: str = ""

    def __post_init__(self) -> None:
        check_name(self.name)
        low, high = (real(self.name, what, getattr(self, what)) for what in ("low", "high"))
        step = None if self.step is None else real(self.name, "step", self.step)
        special = tuple(real(self.name, "a special value", value) for value in self.special)
        if step is not None and step <= 0:
            raise SpaceError(f"parameter {self.name!r}: step must be positive, got {step}")
        if self.log and low == 0.0:
            if step is None:
                raise SpaceError(
                    f"parameter {self.name!r}: a log range cannot start at 0; "
                    "give the smallest positive value as low and special=(0.0,)"
                )
            low, special, step = step, special if 0.0 in special else (0.0, *special), None
        if self.log and step is not None:
            raise SpaceError(f"parameter {self.name!r}: a log range has no step, got step={step}")
        check_range(self.name, low, high, self.log)
        if not math.isfinite(high - low):
            raise SpaceError(f"parameter {self.name!r}: the range is too wide, got low={low}, high={high}")
        _set(self, low=low, high=high, step=step, special=special)
        if step is not None:
            top = math.floor((high - low) / step + _ON_GRID)
            if top < 1 or top > 2**53:
                raise SpaceError(f"parameter {self.name!r}: step must fit between low and high, got step={step}")
            _set(self, high=self.grid_value(top))
        check_special(self.name, special, self.low, self.high)
        if self.default is None:
            middle = math.sqrt(low) * math.sqrt(self.high) if self.log else low / 2 + self.high / 2
            _set(self, default=self.nearest(middle))
        else:
            _set(self, default=real(self.name, "default", self.default))
        _check_default(self)

    @property
    def kind(self) -> str:
        """Return the word for its type."""
        return "float"

    @property
    def count(self) -> int | None:
        """Number of values in the range; None when it is continuous."""
        return None if self.step is None else round((self.high - self.low) / self.step) + 1

    def grid_value(self, index: int) -> float:
        """Return one value of the grid as it would be written: 0.3, not 0.30000000000000004."""
        return float(Decimal(repr(self.low)) + index * Decimal(repr(self.step)))

    def fault(self, value: Any) -> Fault | None:
        """Return what is wrong with a value, None when it is allowed."""
        if isinstance(value, bool) or not isinstance(value, int | float):
            return "type", f"must be a number, got {shown_type(value)}"
        if value in self.special:
            return None
        if not self.low <= value <= self.high:
            return "bounds", f"must lie in {_range(self)}, got {value}"
        if self.step is not None:
            steps = (value - self.low) / self.step
            if abs(steps - round(steps)) > _ON_GRID * max(1.0, abs(steps)):
                return "step", f"must be {self.low} plus a multiple of {self.step}, got {value}"
        return None

    def nearest(self, value: Any) -> float:
        """Return the allowed value next to any value; the default when it is no number."""
        number = number_or_none(value)
        if number is None:
            return _given(self.default)
        if number in self.special:
            return float(number)
        inside = float(min(max(number, self.low), self.high))
        return inside if self.step is None else self.grid_value(round((inside - self.low) / self.step))


@dataclass(frozen=True, slots=True)
class Bool:
    """A switch."""

    name: str
    _: KW_ONLY
    default: bool = False
    needs_restart: bool = True
    about: str = ""

    def __post_init__(self) -> None:
        check_name(self.name)
        _check_default(self)

    @property
    def kind(self) -> str:
        """Return the word for its type."""
        return "bool"

    @property
    def count(self) -> int:
        """Number of values."""
        return 2

    def fault(self, value: Any) -> Fault | None:
        """Return what is wrong with a value, None when it is allowed."""
        return None if isinstance(value, bool) else ("type", f"must be true or false, got {shown_type(value)}")

    def nearest(self, value: Any) -> bool:
        """Return 0 and 1 as a switch, and the default for anything else."""
        return bool(value) if value in (0, 1) else self.default


@dataclass(frozen=True, slots=True)
class Choice:
    """One of several values without an order.

    Attributes:
        choices: The values, different also when written as text: samplers see them as text.
        default: None means the first.
        native: Whether samplers see the values themselves; for spaces made of Optuna's own.
    """

    name: str
    choices: tuple[Any, ...]
    _: KW_ONLY
    default: Any = None
    needs_restart: bool = True
    native: bool = False
    about: str = ""

    def __post_init__(self) -> None:
        check_name(self.name)
        choices = tuple(self.choices)
        if isinstance(self.choices, str) or not choices:
            raise SpaceError(f"parameter {self.name!r}: choices must be a list of values, got {self.choices!r}")
        if not self.native:
            for choice in choices:
                if not isinstance(choice, bool | int | float | str) or choice != choice:
                    raise SpaceError(f"parameter {self.name!r}: a choice is text or a number, got {shown_type(choice)}")
            words = [str(choice) for choice in choices]
            twins = sorted({word for word in words if words.count(word) > 1})
            if twins:
                raise SpaceError(f"parameter {self.name!r}: choices must differ, got {', '.join(twins)} twice")
        _set(self, choices=choices)
        if self.default is None and None not in choices:
            _set(self, default=choices[0])
        _check_default(self)

    @property
    def kind(self) -> str:
        """Return the word for its type."""
        return "choice"

    @property
    def count(self) -> int:
        """Number of values."""
        return len(self.choices)

    def index(self, value: Any) -> int | None:
        """Return the place of a value; True is not 1 here, nor is 1 the same as 1.0."""
        for place, choice in enumerate(self.choices):
            if choice is value or (type(choice) is type(value) and choice == value):
                return place
        if isinstance(value, float | int) and not isinstance(value, bool):
            for place, choice in enumerate(self.choices):
                if isinstance(choice, float | int) and not isinstance(choice, bool) and choice == value:
                    return place
        return None

    def fault(self, value: Any) -> Fault | None:
        """Return what is wrong with a value, None when it is allowed."""
        if self.index(value) is not None:
            return None
        near = near_misses(str(value), [str(choice) for choice in self.choices], noun="choice")
        return "bounds", f"is not one of its choices, got {shown_type(value)}; {near}"

    def nearest(self, value: Any) -> Any:
        """Return the value if it is a choice, else the default."""
        place = self.index(value)
        return self.default if place is None else self.choices[place]


@dataclass(frozen=True, slots=True)
class Permutation:
    """An order of the numbers 0 .. n-1; the default is the natural order.

    >>> Permutation("order", 3).default
    (0, 1, 2)
    """

    name: str
    n: int
    _: KW_ONLY
    default: tuple[int, ...] | None = None
    needs_restart: bool = True
    about: str = ""

    def __post_init__(self) -> None:
        check_name(self.name)
        n = whole(self.name, "n", self.n)
        if not 1 <= n <= 10_000:
            raise SpaceError(f"parameter {self.name!r}: n must be from 1 to 10000, got {n}")
        _set(self, n=n, default=tuple(range(n)) if self.default is None else tuple(self.default))
        _check_default(self)

    @property
    def kind(self) -> str:
        """Return the word for its type, with its length."""
        return f"permutation of {self.n}"

    @property
    def count(self) -> int:
        """Number of orders."""
        return math.factorial(self.n)

    def fault(self, value: Any) -> Fault | None:
        """Return what is wrong with a value, None when it is allowed; a list is read as a tuple."""
        whole = isinstance(value, tuple | list) and all(
            isinstance(item, int) and not isinstance(item, bool)
            for item in value  # pyright: ignore[reportUnknownVariableType]
        )
        if whole and sorted(value) == list(range(self.n)):
            return None
        return "type", f"must be an order of 0 .. {self.n - 1}, got {shown_type(value)}"

    def nearest(self, value: Any) -> tuple[int, ...]:
        """Return the value if it is an order, else the default."""
        if isinstance(value, tuple | list):
            items = [number_or_none(item) for item in value]  # pyright: ignore[reportUnknownVariableType]
            if None not in items and self.fault(tuple(items)) is None:
                return tuple(int(item) for item in items if item is not None)
        return _given(self.default)


Parameter = Int | Float | Bool | Choice | Permutation


def _set(parameter: Any, **fields: Any) -> None:
    for name, value in fields.items():
        object.__setattr__(parameter, name, value)


def _given(default: Any) -> Any:
    """Return a default, which `__post_init__` has filled in."""
    return default


def _check_default(parameter: Parameter) -> None:
    fault = parameter.fault(parameter.default)
    if fault is not None:
        raise SpaceError(f"parameter {parameter.name!r}: its default {fault[1]}")


def _range(parameter: Int | Float) -> str:
    special = f" or be {', '.join(map(str, parameter.special))}" if parameter.special else ""
    return f"{parameter.low} .. {parameter.high}{special}"
