"""Tables for a terminal."""

from __future__ import annotations

from collections.abc import Collection, Sequence

__all__ = ["aligned"]


def aligned(rows: Sequence[Sequence[object]], *, right: Collection[int] = ()) -> list[str]:
    """Return one line per row, cells below one another; nothing follows the last cell of a line.

    Args:
        rows: The header and the rows, each with as many cells.
        right: Columns of figures, aligned at the right.

    >>> aligned([["a", "n"], ["xx", 5], ["y", 10]], right=[1])
    ['a    n', 'xx   5', 'y   10']
    """
    cells = [[str(cell) for cell in row] for row in rows]
    widths = [max(len(cell) for cell in column) for column in zip(*cells, strict=True)]
    return [
        "  ".join(
            cell.rjust(width) if i in right else cell.ljust(width)
            for i, (cell, width) in enumerate(zip(row, widths, strict=True))
        ).rstrip()
        for row in cells
    ]
