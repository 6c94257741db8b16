"""Which update each variable gets: the first rule that proves itself, with the reasons of those before it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from mlsysopt.infer.analysis.blanket import Analysis
from mlsysopt.infer.frontend.source import ModelError
from mlsysopt.infer.ir import Program
from mlsysopt.infer.rules import Refusal, Rule, Update, ordered_rules

__all__ = ["Choice", "Plan", "plan"]


@dataclass(frozen=True)
class Choice:
    """One update, and for each of its variables why better rules refused.

    Attributes:
        update: What was proved.
        refused: Variable -> rule -> why not.
    """

    update: Update
    refused: Mapping[str, Mapping[str, Refusal]] = field(default_factory=dict)


@dataclass(frozen=True)
class Plan:
    """The updates of one program, in program order.

    Attributes:
        program: What they are for.
        choices: One for each update; those drawn forward come last.
    """

    program: Program
    choices: tuple[Choice, ...]

    @property
    def updates(self) -> tuple[Update, ...]:
        """Updates of one sweep, without what is drawn forward."""
        return tuple(one.update for one in self.choices if one.update.rule != "forward")

    @property
    def forward(self) -> tuple[str, ...]:
        """Variables that are drawn from their prior after each sweep."""
        return tuple(one.update.variables[0] for one in self.choices if one.update.rule == "forward")

    def rule_of(self, variable: str) -> str:
        """Return the name of the rule that updates a variable."""
        return next(one.update.rule for one in self.choices if variable in one.update.variables)


def plan(program: Program, rules: tuple[Rule, ...] | None = None) -> Plan:
    """Choose the update of every latent.

    Raises:
        ModelError: no rule takes one of them; the message has every rule with its reason.
    """
    analysis = Analysis(program)
    rules = ordered_rules() if rules is None else rules
    choices: list[Choice] = []
    done: set[str] = set()
    for variable in program.latents:
        if variable.name in done:
            continue
        refused: dict[str, Refusal] = {}
        for rule in rules:
            found = rule.propose(variable.name, analysis)
            if isinstance(found, Update) and not set(found.variables) & done:
                reasons = {variable.name: refused}
                choices.append(Choice(found, reasons))
                done |= set(found.variables)
                break
            refused[rule.name] = found if isinstance(found, Refusal) else Refusal("its block has other updates already")
        else:
            reasons = "; ".join(f"{name}: {why}" for name, why in refused.items())
            line = program.sites_of(variable.name)[0].line
            raise ModelError(
                f"{program.file.rpartition('/')[2]}:{line}: no update is known for {variable.name}: {reasons}"
            )
    choices.sort(key=lambda one: one.update.rule == "forward")
    return Plan(program, tuple(choices))
