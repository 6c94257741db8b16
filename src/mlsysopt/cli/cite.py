"""`mlsysopt cite`: the BibTeX of what a study used."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import click

from mlsysopt.cli.options import option, print_json

if TYPE_CHECKING:
    from mlsysopt.core.references import Reference


@click.command()
@click.argument("what", metavar="STORE|FIT|TARGET|SAMPLER")
@option("--study", metavar="NAME")
@option("--json", "as_json", is_flag=True)
def cite(what: str, study: str | None, as_json: bool) -> int:
    """Print the BibTeX of the methods behind a STORE, the folder of a FIT, a TARGET or a SAMPLER."""
    found = {reference.key: reference for reference in _references(what, study)}
    if as_json:
        print_json([{"key": r.key, "text": r.text(), "bibtex": r.bibtex()} for r in found.values()])
    else:
        click.echo("\n\n".join(reference.bibtex() for reference in found.values()))
    return 0


def _references(what: str, study: str | None) -> list[Reference]:
    from mlsysopt.core.search import registry
    from mlsysopt.operate.tune import targets

    if what in targets.names():
        return list(targets.create(what).references)
    if what in registry.names():
        return list(registry.references(what))
    if (Path(what) / "fit.json").exists():
        from mlsysopt.infer import Folder
        from mlsysopt.infer.references import references

        return references(Folder.open(Path(what)).content["rules"])
    from mlsysopt.cli.tune import stored

    target, recipe, _ = stored(what, study)
    return [*target.references, *registry.references(recipe["sampler"])]
