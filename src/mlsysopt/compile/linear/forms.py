"""Which forms of its weights each module keeps, when memory for second copies is limited.

A multiple-choice knapsack: one choice for each module, the smallest time in all, extra bytes within the budget.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from mlsysopt.compile.linear.segments import BASELINE, Costs, segments, weighted_seconds
from mlsysopt.core.errors import QuantityError, UsageError
from mlsysopt.core.quantities import parse_quantity

if TYPE_CHECKING:
    import numpy as np
    import numpy.typing as npt

__all__ = ["ORIGINAL", "UNIT_BYTES", "Choice", "choices", "choose", "parse_budget"]

ORIGINAL = "original"
"""The form in which a model keeps its weights, [N, K]."""

UNIT_BYTES = 64 << 10
_ALLOWED = 'allowed forms: "0x", "1x", "512MiB"'


@dataclass(frozen=True, slots=True)
class Choice:
    """Forms that a module may keep.

    Attributes:
        forms: Names; without `ORIGINAL` the only one replaces the original storage.
        extra_bytes: Memory beyond the original weights; below 0 when it shrinks.
        seconds: Weighted time of a call when only variants of these forms may run.
    """

    forms: tuple[str, ...]
    extra_bytes: int
    seconds: float


def parse_budget(text: str | int, original_bytes: int) -> int:
    """Return the bytes that second copies of weights may take.

    Args:
        text: A multiple of the original weights ("0x", "1x", "0.5x"), a size ("512MiB"), or bytes.
        original_bytes: Bytes of the original weights.

    Raises:
        UsageError: below 0, or neither of these.

    >>> parse_budget("0.5x", 1000), parse_budget("1MiB", 1000), parse_budget("0x", 1000)
    (500, 1048576, 0)
    """
    wrong = f"memory budget {text!r}; {_ALLOWED}"
    try:
        if isinstance(text, str) and text.strip().endswith("x"):
            found = float(parse_quantity(text.strip()[:-1], kind="number")) * original_bytes
        else:
            found = float(parse_quantity(text, kind="bytes"))
    except QuantityError:
        raise UsageError(wrong) from None
    if found < 0:
        raise UsageError(wrong)
    return int(found)


def choices(
    costs: Costs,
    form_of: Mapping[str, str],
    bytes_of: Mapping[str, int],
    *,
    baseline: str = BASELINE,
    replacing: Sequence[str] = (),
) -> list[Choice]:
    """Return the useful choices of one module: more memory only where it saves time.

    Args:
        costs: Times of every variant that may run.
        form_of: Variant -> form that it reads.
        bytes_of: Form -> bytes of the packed weights; `ORIGINAL` -> bytes of the original.
        baseline: Variant that needs no second copy.
        replacing: Forms from which the original can be made again bit by bit: they may stand alone, without any other.
    """
    forms = sorted({form_of[name] for name in costs.seconds} - {ORIGINAL})
    found: list[Choice] = []
    for mask in range(1 << len(forms)):
        kept = tuple(form for i, form in enumerate(forms) if mask >> i & 1)
        extra = sum(bytes_of[form] for form in kept)
        found += _choice(costs, form_of, (ORIGINAL, *kept), extra, baseline)
        if len(kept) == 1 and kept[0] in replacing:
            found += _choice(costs, form_of, kept, extra - bytes_of[ORIGINAL], baseline)
    found.sort(key=lambda one: (one.extra_bytes, one.seconds, len(one.forms)))
    useful: list[Choice] = []
    for one in found:
        if not useful or one.seconds < useful[-1].seconds:
            useful.append(one)
    return useful


def choose(modules: Sequence[Sequence[Choice]], budget_bytes: int) -> list[int]:
    """Return the number of the choice of each module that make the smallest time within a budget.

    Exact on units of 64 KiB (bytes of a choice are rounded up, the budget down): dynamic programme,
    O(modules * choices * units). Among equally fast ones the smaller memory is taken.

    Args:
        modules: Choices of each module, at least one.
        budget_bytes: What all choices may take together.

    Raises:
        UsageError: a module without a choice, or no choices fit.

    >>> plain, packed = Choice(("original",), 0, 5.0), Choice(("original", "panel"), 1 << 20, 2.0)
    >>> choose([[plain, packed], [plain, packed]], budget_bytes=1 << 20)
    [1, 0]
    """
    import numpy as np

    if not all(modules):
        raise UsageError(f"module {[bool(one) for one in modules].index(False)} has no form to choose")
    units = [[-(-one.extra_bytes // UNIT_BYTES) for one in row] for row in modules]
    least = [min(row) for row in units]
    room = budget_bytes // UNIT_BYTES - sum(least)
    if room < 0:
        raise UsageError(
            f"no choice of forms fits {budget_bytes} extra bytes: the smallest needs {sum(least) * UNIT_BYTES}"
        )
    # More room than everything at its largest changes nothing, and would only lengthen the table.
    room = min(room, sum(max(row) - low for row, low in zip(units, least, strict=True)))
    seconds: npt.NDArray[np.float64] = np.zeros(room + 1)
    taken: list[npt.NDArray[np.int16]] = []
    for row, sizes, low in zip(modules, units, least, strict=True):
        best = np.full(room + 1, np.inf)
        which = np.zeros(room + 1, np.int16)
        order = sorted(range(len(row)), key=lambda i: sizes[i])
        for i in order:
            need = sizes[i] - low
            if need > room:
                continue
            candidate = np.full(room + 1, np.inf)
            candidate[need:] = seconds[: room + 1 - need] + row[i].seconds
            better = candidate < best
            best[better], which[better] = candidate[better], i
        seconds = best
        taken.append(which)
    # The smallest room with the smallest time: memory that saves nothing is not taken.
    left = int(np.argmin(seconds))
    found: list[int] = []
    for row_units, low, which in zip(reversed(units), reversed(least), reversed(taken), strict=True):
        pick = int(which[left])
        found.append(pick)
        left -= row_units[pick] - low
    return found[::-1]


def _choice(
    costs: Costs, form_of: Mapping[str, str], forms: tuple[str, ...], extra: int, baseline: str
) -> list[Choice]:
    able = [name for name in costs.seconds if form_of[name] in forms]
    if not able or any(min(costs.seconds[name][k] for name in able) == float("inf") for k in range(len(costs.rows))):
        return []
    some = costs.only(able)
    spans = segments(some, baseline=baseline if baseline in able else None)
    return [Choice(forms, extra, weighted_seconds(some, spans))]
