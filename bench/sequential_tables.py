"""Regenerates `mlsysopt/core/stats/tables.py`: python -m bench.sequential_tables (about 10 s)."""

from __future__ import annotations

import textwrap
from pathlib import Path

from mlsysopt.core.stats import signed_rank
from mlsysopt.core.stats.simulation import Plan, calibrate

PLANS = ((6, 8, 12, 16, 20),)
STUDIES = 20_000_000
SEED = 20261124
TARGET = Path(signed_rank.__file__).with_name("tables.py")
HEAD = '''"""Tables of the sequential signed-rank test, one per plan of looks.

Written by `python -m bench.sequential_tables`; do not edit.
"""

from __future__ import annotations

from mlsysopt.core.stats.simulation import Plan

__all__ = ["PLANS"]

# fmt: off
PLANS: dict[tuple[int, ...], Plan] = {
'''


def row(plan: Plan) -> str:
    """Write one plan as a line of the table."""
    numbers = textwrap.fill(
        ", ".join(str(k) for k in plan.below), 116, initial_indent=" " * 12, subsequent_indent=" " * 12
    )
    weights = ", ".join(repr(weight) for weight in plan.weights)
    return (
        f"    {plan.looks!r}: Plan(\n        looks={plan.looks!r},\n        weights=({weights}),\n"
        f"        studies={plan.studies},\n        below=(\n{numbers},\n        ),\n    ),\n"
    )


def main() -> None:
    """Simulate every plan and write the module."""
    plans = [calibrate(looks, STUDIES, SEED) for looks in PLANS]
    TARGET.write_text(HEAD + "".join(row(plan) for plan in plans) + "}\n# fmt: on\n")
    print(f"{TARGET}: {len(plans)} plan of {STUDIES} studies")


if __name__ == "__main__":
    main()
