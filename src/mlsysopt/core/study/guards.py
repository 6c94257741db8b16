"""What must not get worse: limits relative to the default, or absolute ones."""

from __future__ import annotations

import math
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Literal

from mlsysopt.core.errors import StudyError, near_misses
from mlsysopt.core.quantities import parse_quantity
from mlsysopt.core.target import Metric

__all__ = ["Guard", "parse_guards"]

_SHAPE = re.compile(r"^\s*(?P<relation><=|>=)\s*(?P<limit>.+?)\s*$")
_FLAG = re.compile(r"^\s*(?P<metric>[A-Za-z_]\w*)\s*(?P<rest>(<=|>=|=).*)$")
_FORMS = "allowed: '<= 1.1x' (of the default), '>= 0.9x', '<= 256MiB' (absolute) or 'off'"


@dataclass(frozen=True, slots=True)
class Guard:
    """One limit on one metric.

    >>> guard = Guard.parse("p99_get_us", "<= 1.1x")
    >>> guard.relative, guard.limit
    (True, 1.1)
    >>> guard.violation(120.0, 100.0) > 0
    True
    """

    metric: str
    relation: Literal["<=", ">="]
    limit: float
    relative: bool

    @classmethod
    def parse(cls, metric: str, text: str) -> Guard:
        """Read `<= 1.1x` or `<= 256MiB`.

        Raises:
            StudyError: the text is not a guard.
        """
        match = _SHAPE.match(text)
        if match is None:
            raise StudyError(f"guard {metric!r}: cannot read {text!r}; {_FORMS}")
        limit_text = match["limit"]
        relative = limit_text.endswith("x")
        try:
            limit = float(limit_text[:-1]) if relative else float(parse_quantity(limit_text))
        except ValueError as error:
            raise StudyError(f"guard {metric!r}: cannot read the limit {limit_text!r} ({error}); {_FORMS}") from None
        if not math.isfinite(limit) or (relative and limit <= 0):
            raise StudyError(f"guard {metric!r}: the limit must be a positive finite number, got {limit_text!r}")
        relation: Literal["<=", ">="] = "<=" if match["relation"] == "<=" else ">="
        return cls(metric, relation, limit, relative)

    def text(self) -> str:
        """Return the guard as it was written.

        >>> Guard.parse("load_ops", ">=0.9x").text()
        'load_ops >= 0.9x'
        """
        return f"{self.metric} {self.relation} {self.limit:g}{'x' if self.relative else ''}"

    def violation(self, value: float, reference: float) -> float:
        """Return how far a value is beyond the limit; zero or less is feasible.

        Args:
            value: The candidate's metric.
            reference: The default's metric, measured beside it.

        Returns:
            A difference of logarithms where both numbers are positive, else a plain difference.
        """
        limit = self.limit * reference if self.relative else self.limit
        excess = math.log(value / limit) if value > 0 and limit > 0 else value - limit
        return excess if self.relation == "<=" else -excess


def parse_guards(
    given: Mapping[str, str | None] | Iterable[str] | None,
    defaults: Mapping[str, str],
    metrics: Mapping[str, Metric],
) -> tuple[Guard, ...]:
    """Merge a user's guards over a target's own.

    Args:
        given: Metric -> limit, or command-line texts such as `p99_get_us<=1.05x`; `off` (or None)
            lifts a default guard.
        defaults: The target's guards.
        metrics: What the target measures.

    Raises:
        StudyError: unknown metric or unreadable limit.
    """
    merged: dict[str, str | None] = dict(defaults)
    for metric, text in _pairs(given):
        if metric not in metrics:
            raise StudyError(f"guard on unknown metric {metric!r}; {near_misses(metric, metrics, noun='metric')}")
        merged[metric] = text
    return tuple(
        Guard.parse(metric, text)
        for metric, text in merged.items()
        if text is not None and text.strip().lower() != "off"
    )


def _pairs(given: Mapping[str, str | None] | Iterable[str] | None) -> Iterable[tuple[str, str | None]]:
    if given is None:
        return
    if isinstance(given, Mapping):
        yield from given.items()
        return
    for text in given:
        match = _FLAG.match(text)
        if match is None:
            raise StudyError(f"guard {text!r}: a metric, then a limit, for example p99_get_us<=1.1x; {_FORMS}")
        rest = match["rest"]
        yield match["metric"], rest.lstrip("=").strip() if rest.startswith("=") else rest
