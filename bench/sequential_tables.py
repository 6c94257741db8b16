"""Regenerates `mlsysopt/core/stats/tables.py`: python -m bench.sequential_tables (about 40 s)."""

from __future__ import annotations

import textwrap
from pathlib import Path

from mlsysopt.core.stats import signed_rank
from mlsysopt.core.stats.simulation import Plan, TPlan, calibrate, calibrate_t

PLANS = ((6, 8, 12, 16, 20),)
T_PLANS = ((3, 4, 6, 8, 10),)
STUDIES = 20_000_000
SEED = 20261124
TARGET = Path(signed_rank.__file__).with_name("tables.py")
HEAD = '''"""Tables of the sequential signed-rank test and of the sequential t test, one per plan of looks.

Written by `python -m bench.sequential_tables`; do not edit.
"""

from __future__ import annotations

from mlsysopt.core.stats.simulation import Plan, TPlan

__all__ = ["PLANS", "T_PLANS"]

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


def t_row(plan: TPlan) -> str:
    """Write one plan of the t statistic."""
    two, one = (
        textwrap.fill(", ".join(map(str, counts)), 116, initial_indent=" " * 12, subsequent_indent=" " * 12)
        for counts in (plan.two_sided, plan.one_sided)
    )
    return (
        f"    {plan.looks!r}: TPlan(\n        looks={plan.looks!r},\n        studies={plan.studies},\n"
        f"        two_sided=(\n{two},\n        ),\n        one_sided=(\n{one},\n        ),\n    ),\n"
    )


def main() -> None:
    """Simulate every plan and write the module."""
    plans = [calibrate(looks, STUDIES, SEED) for looks in PLANS]
    t_plans = [calibrate_t(looks, STUDIES, SEED) for looks in T_PLANS]
    middle = "}\n\nT_PLANS: dict[tuple[int, ...], TPlan] = {\n"
    TARGET.write_text(HEAD + "".join(map(row, plans)) + middle + "".join(map(t_row, t_plans)) + "}\n# fmt: on\n")
    print(f"{TARGET}: {len(plans) + len(t_plans)} plans of {STUDIES} studies")


if __name__ == "__main__":
    main()
