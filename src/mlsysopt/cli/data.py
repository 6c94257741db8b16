"""`mlsysopt data`: the data sets that tests and benchmarks use."""

from __future__ import annotations

import click

from mlsysopt.cli.options import option, print_json


@click.group()
def data() -> None:
    """Data sets: where each comes from, its licence, and whether it is here."""


@data.command(name="list")
@option("--json", "as_json", is_flag=True)
def list_(as_json: bool) -> int:
    """List the data sets and where each one is."""
    from mlsysopt.core import datasets
    from mlsysopt.core.quantities import format_bytes

    rows = datasets.listed()
    if as_json:
        print_json([row.to_json() for row in rows])
        return 0
    width = max(len(row.name) for row in rows)
    for row in rows:
        where = str(row.path) if row.path is not None else "not here: mlsysopt data get " + row.name
        for line in (f"{format_bytes(row.bytes):>9}  {row.licence}", row.about, where):
            click.echo(f"{row.name if line.endswith(row.licence) else '':<{width}}  {line}")
    return 0


@data.command()
@click.argument("name", metavar="NAME")
@option("--json", "as_json", is_flag=True)
def get(name: str, as_json: bool) -> int:
    """Make the data set NAME available and print its folder."""
    from mlsysopt.core import datasets

    def show(file: str, done: int, total: int) -> None:
        end = "\n" if done >= total else ""
        click.echo(f"\r{file}: {100 * done // max(total, 1)} %{end}", err=True, nl=False)

    folder = datasets.get(name, progress=show)
    if as_json:
        print_json({"name": name, "path": str(folder)})
    else:
        click.echo(str(folder))
    return 0
