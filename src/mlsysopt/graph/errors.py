"""What can be wrong with a program, each with the line of the model that it came from."""

from __future__ import annotations

from mlsysopt.core.errors import MlsysoptError, UsageError

__all__ = ["FactsError", "GraphError", "GraphTextError", "ImportFailed", "TypeRuleError", "WeightsError"]


class GraphError(MlsysoptError):
    """A program that contradicts itself; the message holds every finding, one a line."""


class TypeRuleError(GraphError, UsageError):
    """Operands or attributes that an op's type rule does not allow."""

    exit_code = 1


class FactsError(GraphError):
    """Two facts about sizes that cannot both hold; the message names the origin of each."""


class GraphTextError(UsageError):
    """Text of a program that cannot be read: file, line, column and what was expected."""


class ImportFailed(GraphError):
    """A model that cannot be read in: which part, and what to do about it."""


class WeightsError(GraphError):
    """Weights that are missing, cut short, or not those that the program was made with."""
