"""Which update each variable gets: the first rule that proves itself, with the reasons of those before it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace

from mlsysopt.infer.analysis.blanket import Analysis
from mlsysopt.infer.frontend.source import ModelError
from mlsysopt.infer.ir import Program
from mlsysopt.infer.rules import Refusal, Rule, Update, ordered_rules
from mlsysopt.infer.rules.interweave import interwoven

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
    usual = rules is None
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
            raise ModelError(_without(program, variable.name, refused))
    if usual:
        choices = [replace(one, update=interwoven(one.update, analysis)) for one in choices]
    choices.sort(key=lambda one: one.update.rule == "forward")
    return Plan(program, tuple(choices))


def _without(program: Program, variable: str, refused: Mapping[str, Refusal]) -> str:
    """Return the message about a variable that no rule takes."""
    sites = program.sites_of(variable)
    place = f"{program.file.rpartition('/')[2]}:{sites[0].line}"
    improper = [
        site.distribution.name for site in sites if site.distribution is not None and site.distribution.improper
    ]
    if improper and "slice" in refused and "improper" in refused["slice"].reason:
        return (
            f"{place}: {variable} has the improper prior {improper[0]} and nothing observed depends on it: "
            "no distribution is left; give it a proper prior, or let something observed read it"
        )
    by_reason: dict[str, list[str]] = {}
    for name, why in refused.items():
        by_reason.setdefault(str(why), []).append(name)
    reasons = "; ".join(f"not {', '.join(names)}: {why}" for why, names in by_reason.items())
    return f"{place}: no update is known for {variable}: {reasons}"
