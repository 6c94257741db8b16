"""What a verb has to say, once for people and once for machines."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import click

from mlsysopt.cli.options import print_json
from mlsysopt.core.report.columns import aligned

__all__ = ["Document", "table"]


@dataclass(frozen=True, slots=True)
class Document:
    """The same content for people and for machines.

    Attributes:
        text: What a person reads.
        data: What `--json` prints.
        code: Exit code that goes with it.
    """

    text: str
    data: dict[str, Any]
    code: int = 0

    def show(self, as_json: bool) -> int:
        """Print one of the two; return the exit code."""
        if as_json:
            print_json(self.data)
        else:
            click.echo(self.text)
        return self.code


def table(header: Sequence[str], rows: Sequence[Sequence[object]], *, right: Sequence[int] = ()) -> str:
    """Return aligned columns, indented by two.

    Args:
        header: Names of the columns.
        rows: One cell a column each.
        right: Columns of figures, aligned at the right.

    >>> print(table(["a", "b"], [[1, "x"]]))
      a  b
      1  x
    """
    return "\n".join(f"  {line}" for line in aligned([header, *rows], right=right))
