"""What will be done for each variable, and why nothing better."""

from __future__ import annotations

from typing import TYPE_CHECKING

from mlsysopt.infer.binding import evaluate
from mlsysopt.infer.ir import Expr

if TYPE_CHECKING:
    from mlsysopt.infer.compiled import Compiled
    from mlsysopt.infer.planning import Plan

__all__ = ["explain"]


def explain(compiled: Compiled) -> str:
    """Return the plan as text: per variable its update, the cost of one sweep, and the refusals of better rules."""
    chosen, bound = compiled.plan(), compiled.bound
    file = chosen.program.file.rpartition("/")[2]
    lines: list[str] = []
    if compiled.fixed_values:
        lines.append(f"given: {', '.join(sorted(compiled.fixed_values))}")
    for choice in chosen.choices:
        update = choice.update
        first = chosen.program.sites_of(update.variables[0])
        where = ", ".join(
            str(line)
            for line in dict.fromkeys(site.line for one in update.variables for site in chosen.program.sites_of(one))
        )
        head = f"{', '.join(update.variables)}: {update.about} ({file}:{where or first[0].line})"
        cost = float(evaluate(update.cost, bound))
        formula = _formula(update.cost)
        lines.append(f"{head}, {cost:.3g} operations a sweep" + (f" = {formula}" if formula else ""))
        for variable, refused in choice.refused.items():
            name = f"{variable}: " if len(update.variables) > 1 else ""
            by_reason: dict[str, list[str]] = {}
            for rule, why in refused.items():
                if rule != "forward":
                    by_reason.setdefault(str(why), []).append(rule)
            lines += [f"  not {', '.join(rules)}: {name}{why}" for why, rules in by_reason.items()]
    smooth = _whole_model(compiled, chosen)
    if smooth:
        lines.append(smooth)
    return "\n".join(lines)


def _formula(cost: Expr) -> str:
    text = str(cost)
    return text if len(text) <= 60 else ""


def _whole_model(compiled: Compiled, chosen: Plan) -> str:
    from mlsysopt.infer.rules import Refusal
    from mlsysopt.infer.rules.gradient import preferred

    found = preferred(chosen, compiled.bound)
    if found is None:
        return ""
    if isinstance(found, Refusal):
        return f"whole model: swept as above; not gradient: {found}"
    return "whole model: NUTS, three or more numbers would be left to slice sampling; method='gibbs' sweeps as above"
