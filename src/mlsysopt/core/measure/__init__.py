"""Paired, interleaved comparisons: a claim is a `Ratio` with its interval, never a lone number."""

from __future__ import annotations

from typing import TYPE_CHECKING

from mlsysopt._lazy import lazy

if TYPE_CHECKING:
    from mlsysopt.core.measure.clocks import tree_cpu
    from mlsysopt.core.measure.comparison import compare, compare_many
    from mlsysopt.core.measure.hardware import Machine, machine
    from mlsysopt.core.measure.micro import Timing, timed
    from mlsysopt.core.measure.ratio import Ratio
    from mlsysopt.core.measure.rounds import Comparison
    from mlsysopt.core.measure.sides import Reading, Side, SideFailed, run_command
    from mlsysopt.core.measure.surroundings import Conditions, Counters, conditions, counters, is_quiet

__all__ = [
    "Comparison",
    "Conditions",
    "Counters",
    "Machine",
    "Ratio",
    "Reading",
    "Side",
    "SideFailed",
    "Timing",
    "compare",
    "compare_many",
    "conditions",
    "counters",
    "is_quiet",
    "machine",
    "run_command",
    "timed",
    "tree_cpu",
]

__getattr__, __dir__ = lazy(
    __name__,
    {
        "Comparison": "mlsysopt.core.measure.rounds",
        "Conditions": "mlsysopt.core.measure.surroundings",
        "Counters": "mlsysopt.core.measure.surroundings",
        "Machine": "mlsysopt.core.measure.hardware",
        "Ratio": "mlsysopt.core.measure.ratio",
        "Reading": "mlsysopt.core.measure.sides",
        "Side": "mlsysopt.core.measure.sides",
        "SideFailed": "mlsysopt.core.measure.sides",
        "Timing": "mlsysopt.core.measure.micro",
        "compare": "mlsysopt.core.measure.comparison",
        "compare_many": "mlsysopt.core.measure.comparison",
        "conditions": "mlsysopt.core.measure.surroundings",
        "counters": "mlsysopt.core.measure.surroundings",
        "is_quiet": "mlsysopt.core.measure.surroundings",
        "machine": "mlsysopt.core.measure.hardware",
        "run_command": "mlsysopt.core.measure.sides",
        "timed": "mlsysopt.core.measure.micro",
        "tree_cpu": "mlsysopt.core.measure.clocks",
    },
)
