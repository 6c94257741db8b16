"""What a rule is: it proves that it may update a variable, or says why not and at which line."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import ClassVar, Protocol

from mlsysopt.infer.analysis.blanket import Analysis
from mlsysopt.infer.emit.module import Module
from mlsysopt.infer.ir import Expr

__all__ = ["Refusal", "Rule", "Update"]


@dataclass(frozen=True, slots=True)
class Refusal:
    """Why a rule does not update a variable.

    Attributes:
        reason: Without the rule's name and without the line.
        line: Of the source; 0 where no line is to blame.
    """

    reason: str
    line: int = 0

    def __str__(self) -> str:
        return f"{self.reason} (line {self.line})" if self.line else self.reason


@dataclass(frozen=True, slots=True)
class Update:
    """A proved way of updating one or more variables.

    Attributes:
        rule: Name of the rule.
        variables: What it updates; the first one is the one that it was proposed for.
        about: A few words for `explain`, such as "exact block, first-order chain".
        cost: Elementary operations of one sweep, an expression of the inputs.
        write: Writes a function `name(rng, ...)` into the file, which updates the variables in place from the present
            values of all others and returns 0, or 1 + the number of the cell that has no valid density. A `tuned`
            update's function takes `(rng, warm, ...)`: it may adapt while `warm` is true, and only then.
        finite: Whether its variables are whole numbers: such updates go first in a sweep.
        tuned: Whether it adapts while warming up.
        exact: Whether it draws from the conditional itself.
    """

    rule: str
    variables: tuple[str, ...]
    about: str
    cost: Expr
    write: Callable[[Module, str], None]
    finite: bool = False
    tuned: bool = False
    exact: bool = True


class Rule(Protocol):
    """One way of updating a variable."""

    name: ClassVar[str]

    def propose(self, variable: str, analysis: Analysis) -> Update | Refusal:
        """Prove that the rule is legal for a variable, or refuse."""
        ...
