"""What a verb has to say, once for people and once for machines."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import click

from mlsysopt.cli.options import print_json

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
    cells = [[str(cell) for cell in row] for row in [header, *rows]]
    widths = [max(len(row[i]) for row in cells) for i in range(len(header))]
    lines = [
        [c.rjust(w) if i in right else c.ljust(w) for i, (c, w) in enumerate(zip(row, widths, strict=True))]
        for row in cells
    ]
    return "\n".join("  " + "  ".join(line).rstrip() for line in lines)
