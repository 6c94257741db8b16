"""What was decided for a model: which product runs how for which rows, how sure that is, and what was left out."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from mlsysopt.compile.linear.precision import Outcome
from mlsysopt.compile.linear.segments import BASELINE
from mlsysopt.compile.variants.decision import Decision, Segment
from mlsysopt.core.quantities import format_bytes, format_seconds
from mlsysopt.core.report.columns import aligned

__all__ = ["Plan", "Product", "Uncovered"]


@dataclass(frozen=True, slots=True)
class Product:
    """Equal products of a model, and what was decided for them.

    Attributes:
        k, n: Width of the input and of the result.
        label: Where they are: a module's name, or the pattern that several share.
        count: How many there are.
        decision: Variant for each range of rows.
        forms: Forms of the weights that are kept; without "original" the first replaces it.
        extra_bytes: Memory of one product's further copies.
        note: Why nothing was changed, or what stands behind the figures.
    """

    k: int
    n: int
    label: str
    count: int
    decision: Decision
    forms: tuple[str, ...] = ("original",)
    extra_bytes: int = 0
    note: str = ""

    @property
    def changed(self) -> bool:
        """Whether anything but the plain product ever runs."""
        return self.decision.variants != (BASELINE,)


@dataclass(frozen=True, slots=True)
class Uncovered:
    """A product that could not be reached or was left alone.

    Attributes:
        label: Where it is.
        reason: Why, in one line.
        share: Its share of the floating-point operations of all products, 0..1; None when unknown.
    """

    label: str
    reason: str
    share: float | None = None


@dataclass(frozen=True)
class Plan:
    """The answer of `adapt`, `report` and `profile`: prints as text, writes JSON and a page.

    Attributes:
        name: Of the model.
        products: One for each kind of product.
        uncovered: What was left out.
        threads: Threads that the figures hold for.
        machine: One line about where they hold.
        residency: "cold" or "warm": where weights were when products were timed.
        weights_bytes: Bytes of the original weights of all products; 0 where there is no model, only shapes.
        budget_bytes: What further copies may take.
        precision: How the precision was chosen.
        lines: What else has to be said, one line each.
    """

    name: str
    products: tuple[Product, ...]
    uncovered: tuple[Uncovered, ...] = ()
    threads: int = 1
    machine: str = ""
    residency: str = "cold"
    weights_bytes: int = 0
    budget_bytes: int = 0
    precision: Outcome = field(default_factory=lambda: Outcome("f32", 0.0))
    lines: tuple[str, ...] = ()

    @property
    def extra_bytes(self) -> int:
        """Memory of all further copies; below 0 when the weights became smaller."""
        return sum(one.count * one.extra_bytes for one in self.products)

    @property
    def changed(self) -> bool:
        """Whether any product runs otherwise than before."""
        return any(one.changed for one in self.products)

    def verdict(self) -> str:
        """Return the answer in one line.

        >>> Plan("Net", ()).verdict()
        'nothing to adapt in Net (0 linear products)'
        """
        whole = sum(one.count for one in self.products)
        if not whole:
            left = len(self.uncovered)
            found = f"0 of {left} linear products can be reached" if left else "0 linear products"
            return f"nothing to adapt in {self.name} ({found})"
        touched = sum(one.count for one in self.products if one.changed)
        if not touched:
            return f"{self.name}: nothing proven faster than {BASELINE} for any of {whole} products; left as it was"
        gains = [s.gain for one in self.products for s in one.decision.segments if s.variant != BASELINE and s.source]
        if not gains:
            return f"{self.name}: {touched} of {whole} products adapted, as asked for"
        span = f"{min(gains):.2f}x" if len(gains) == 1 else f"{min(gains):.2f}x to {max(gains):.2f}x"
        return f"{self.name}: {touched} of {whole} products adapted, {span} where they differ from {BASELINE}"

    def __str__(self) -> str:
        return "\n".join(self._text())

    def as_dict(self) -> dict[str, Any]:
        """Return JSON values."""
        return {
            "name": self.name,
            "verdict": self.verdict(),
            "threads": self.threads,
            "machine": self.machine,
            "residency": self.residency,
            "products": [_product(one) for one in self.products],
            "uncovered": [asdict(one) for one in self.uncovered],
            "weights_bytes": self.weights_bytes,
            "budget_bytes": self.budget_bytes,
            "extra_bytes": self.extra_bytes,
            "precision": {**asdict(self.precision), "text": self.precision.text()},
            "lines": list(self.lines),
        }

    def to_json(self) -> str:
        """Return the JSON document."""
        return json.dumps(_finite(self.as_dict()), indent=1, allow_nan=False)

    def report(self, folder: str | Path, *, command: str = "") -> Path:
        """Write the HTML report and return its page."""
        from mlsysopt.compile.linear.report import page

        return page(self, command).write(folder)

    def _text(self) -> list[str]:
        lines = [self.verdict()]
        if self.products:
            lines += ["", *self._table()]
        if self.uncovered:
            lines += ["", "not reached:", *(f"  {line}" for line in self._left_out())]
        if self.products:
            lines += ["", *self._facts()]
        return [*lines, *self.lines]

    def _table(self) -> list[str]:
        rows: list[Sequence[object]] = [
            ("K x N", "products", "rows", "variant", "time", "gain", "interval", "next best", "source")
        ]
        for one in self.products:
            named = f"{one.k} x {one.n}", f"{one.count} {one.label}".strip()
            for i, segment in enumerate(one.decision.segments):
                first = named if i == 0 else ("", "")
                rows.append((*first, rows_text(one.decision, i), *segment_cells(segment)))
            if one.note:
                rows.append(("", one.note, *[""] * 7))
        return aligned(rows, right=(4, 5))

    def _left_out(self) -> list[str]:
        shown = [
            (one.label, "" if one.share is None else f"{100 * one.share:.1f} %", one.reason) for one in self.uncovered
        ]
        return aligned([("where", "flops", "why"), *shown], right=(1,))

    def _facts(self) -> list[str]:
        kept = "" if not self.budget_bytes else f" of {format_bytes(self.budget_bytes)} allowed"
        memory = f"{_signed(self.extra_bytes)}{kept}, weights {format_bytes(self.weights_bytes)}"
        threads = f"{self.threads} thread{'s' if self.threads != 1 else ''}"
        facts = [("memory", memory), ("precision", self.precision.text())] if self.weights_bytes else []
        facts += [("times", f"{threads}, {self.residency} weights")]
        facts += [("machine", self.machine)] if self.machine else []
        return aligned(facts)


def rows_text(decision: Decision, index: int) -> str:
    """Return the range of rows of a segment.

    >>> table = Decision.of([(1, "a"), (2, "b"), (65, "c")])
    >>> [rows_text(table, i) for i in range(3)]
    ['1', '2..64', '65..']
    """
    first = decision.segments[index].first
    if index + 1 == len(decision.segments):
        return f"{first}.."
    last = decision.segments[index + 1].first - 1
    return str(first) if first == last else f"{first}..{last}"


def segment_cells(segment: Segment) -> tuple[str, str, str, str, str, str]:
    """Return variant, time, gain, interval, next best and source, as they are shown."""
    plain = segment.variant == BASELINE or not segment.source  # forced, whatever it gains
    return (
        segment.variant,
        format_seconds(segment.seconds) if segment.seconds else "",
        "" if plain else f"{segment.gain:.2f}x",
        "" if plain else f"[{segment.low:.2f}, {segment.high:.2f}]",
        segment.runner_up,
        segment.source,
    )


def _signed(amount: int) -> str:
    return f"-{format_bytes(-amount)}" if amount < 0 else f"+{format_bytes(amount)}"


def _product(one: Product) -> dict[str, Any]:
    return {
        "k": one.k,
        "n": one.n,
        "label": one.label,
        "count": one.count,
        "forms": list(one.forms),
        "extra_bytes": one.extra_bytes,
        "note": one.note,
        "segments": [{**asdict(s), "rows": rows_text(one.decision, i)} for i, s in enumerate(one.decision.segments)],
    }


def _finite(value: Any) -> Any:
    """Return the same with what JSON cannot say as None."""
    if isinstance(value, float):
        return value if value == value and abs(value) != float("inf") else None
    if isinstance(value, Mapping):
        return {str(key): _finite(one) for key, one in value.items()}
    if isinstance(value, list | tuple):
        return [_finite(one) for one in value]
    return value
