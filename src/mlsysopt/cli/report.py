"""`mlsysopt report`: the report of a stored study, written again."""

from __future__ import annotations

import shlex
import sys
from pathlib import Path

import click

from mlsysopt.cli.options import option, print_json
from mlsysopt.core.errors import UsageError


@click.command()
@click.argument("store", metavar="STORE")
@option("--study", metavar="NAME")
@option(
    "--out", type=click.Path(file_okay=False, path_type=Path), default=Path("report"), show_default=True, metavar="PATH"
)
@option("--json", "as_json", is_flag=True)
def report(store: str, study: str | None, out: Path, as_json: bool) -> int:
    """Write the HTML report of the study in STORE into a folder."""
    from mlsysopt.cli.tune import stored, study_of
    from mlsysopt.core.store import Store
    from mlsysopt.core.study import stored_result

    target, recipe, name = stored(store, study)
    with Store.open(store, create=False, read_only=True) as opened:
        result = stored_result(opened, opened.find(name))
    if result is None:
        raise UsageError(f"study {name!r} has no result yet; finish it with: mlsysopt tune resume {store}")
    command = shlex.join(["mlsysopt", *sys.argv[1:]])
    index = study_of(target, recipe, store, name).report(result, out, command=command)
    if as_json:
        print_json({"report": str(index)})
    else:
        click.echo(str(index))
    return 0
