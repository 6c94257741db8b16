"""Policies that decide nothing: one variant for everything, or the paper's first-seen timing."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from mlsysopt.compile.linear.forms import ORIGINAL
from mlsysopt.compile.linear.packs import PAPER as FIRST_SEEN
from mlsysopt.compile.linear.request import PAPER
from mlsysopt.compile.linear.segments import BASELINE
from mlsysopt.compile.linear.tables import REPLACING, Kind, Table
from mlsysopt.compile.variants.decision import Decision, Segment

__all__ = ["forced"]


def forced(groups: Sequence[Kind], policy: str, budget_bytes: int, replaceable: Mapping[str, bool]) -> list[Table]:
    """Return the same table for every product, in their order, as far as memory goes.

    Args:
        groups: Checked kinds.
        policy: "paper", or a variant's name; where it refuses a product or was barred, the product stays as it is.
        budget_bytes: What further copies may take.
        replaceable: Path of a product -> whether its original may be given up for panels.
    """
    left = budget_bytes
    found: list[Table] = []
    for group in groups:
        able = policy == PAPER or (group.costs is not None and policy in group.costs.seconds)
        form = "transposed" if policy == PAPER else group.form_of.get(policy, ORIGINAL)
        bytes_of = {**group.bytes_of, "transposed": group.original_bytes}
        decision = FIRST_SEEN if policy == PAPER else Decision((Segment(1, policy, source=""),))
        for product in group.members:
            extra = 0 if form == ORIGINAL else bytes_of.get(form, 0)
            forms = (ORIGINAL,) if form == ORIGINAL else (ORIGINAL, form)
            if extra > left and form == REPLACING and replaceable.get(product.path):
                extra, forms = extra - group.original_bytes, (form,)
            if not able or extra > left:
                found.append(Table(product, Decision.always(BASELINE)))
                continue
            left -= extra
            found.append(Table(product, decision, forms, extra))
    return found
