"""`mlsysopt machine`: measure, show, export, import."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from mlsysopt.cli.documents import Document
from mlsysopt.cli.options import config_file, option, print_json
from mlsysopt.core.quantities import format_seconds

if TYPE_CHECKING:
    from mlsysopt.compile.variants.machine import MachineProfile
    from mlsysopt.compile.variants.measuring import Progress
    from mlsysopt.compile.variants.timing import Row

__all__ = ["machine"]

_FILE = "SQLite file of the profile (default: machine.db in the cache folder)."
_place = option("--profile", "path", about=_FILE, type=click.Path(dir_okay=False, path_type=Path), metavar="FILE")


@click.group()
def machine() -> None:
    """Know how long each kernel takes on this machine: what every choice of a kernel is made from.

    Times of other machines and of other versions of the libraries stay in the file and are not used.
    """


@config_file
@machine.command()
@option("--shapes", about="Products of a known model (bert-base, gpt2 ...), or widths.", metavar="NAME | KxN,...",
        default="bert-base", show_default=True)  # fmt: skip
@option("--rows", about="Row counts.", metavar="1..512 | 8,32,...", default="1..512", show_default=True)
@option("--threads", type=click.IntRange(min=1), default=1, show_default=True)
@option("--budget", default="20s", show_default=True, metavar="TIME")
@option("--precision", about="Lowest precision of weights.", type=click.Choice(["f32", "bf16", "int8w"]),
        default="f32", show_default=True)  # fmt: skip
@option("--residency", about="Warm: weights of a model that stays in the last-level cache.",
        type=click.Choice(["cold", "warm"]), default="cold", show_default=True)  # fmt: skip
@_place
@option("--json", "as_json", is_flag=True)
def measure(path: Path | None, as_json: bool, **given: Any) -> int:
    """Time the variants of matrix products; what is known already is not timed again.

    Whatever ends it, finished cells are kept, and the same command goes on from there.

    mlsysopt machine measure --shapes bert-base --rows 1..512 --budget 20s
    """
    from mlsysopt.compile.linear.grid import parse_rows
    from mlsysopt.compile.linear.profiling import candidates
    from mlsysopt.compile.linear.request import parse_seconds
    from mlsysopt.compile.linear.shapes import parse_shapes
    from mlsysopt.compile.variants.machine import MachineProfile
    from mlsysopt.compile.variants.site import Epilogue, Site

    budget = parse_seconds(given["budget"])
    shapes, rows = parse_shapes(given["shapes"]), parse_rows(given["rows"]).rows
    sites = [
        Site.linear(m, shape.n, shape.k, epilogue=Epilogue(bias=True), threads=given["threads"])
        for shape in shapes
        for m in rows
    ]
    offered = candidates(given["precision"])
    for variant in offered:
        refusal = variant.supports(sites[0])
        if refusal is not None:
            click.echo(f"{variant.name} is left out: {refusal.reason}", err=True)
    residency = given["residency"]
    with MachineProfile.open(path) as profile:
        profile.measure(sites, offered, budget_s=budget, residency=residency, progress=_show)
        found = [row for site in sites for one in offered
                 if (row := profile.find(one.name, one.version, site, residency)) is not None]  # fmt: skip
        open_ = len({site for site in sites if not all(profile.covers(one, site, residency) for one in offered)})
        if as_json:
            print_json({**_about(profile), "open": open_, "rows": [row.as_dict() for row in found]})
            return 0
        click.echo(_table(found))
        click.echo(f"\n{len(found)} times of {profile.here}")
    if open_:
        click.echo(f"{open_} of {len(sites)} cells are open: the same command goes on")
    return 0


@config_file
@machine.command()
@_place
@option("--json", "as_json", is_flag=True)
def show(path: Path | None, as_json: bool) -> int:
    """Show what the profile of this machine holds, and what of other machines lies in the same file.

    mlsysopt machine show
    """
    from mlsysopt.compile.variants.machine import MachineProfile

    with MachineProfile.open(path) as profile:
        if as_json:
            print_json({**_about(profile), "rows": [row.as_dict() for row in profile.rows]})
            return 0
        bounds = profile.roofline
        told = "measured" if bounds.measured else "guessed: mlsysopt machine measure measures it"
        click.echo(f"this machine   {profile.here}  [{profile.here.key}]")
        click.echo(f"file           {profile.path or 'none: in memory'}")
        flops, read = bounds.flops_per_s / 1e9, bounds.bytes_per_s / 1e9
        click.echo(f"bounds         {flops:.0f} GFLOP/s, {read:.0f} GB/s on one thread, {told}")
        threads = ", ".join(map(str, profile.threads_measured())) or "none"
        click.echo(f"rows           {len(profile.rows)}, at threads: {threads}")
        for other, count in profile.others.items():
            click.echo(f"not used       {count} rows of {other}  [{other.key}]")
        if profile.rows:
            click.echo("\n" + _table(profile.rows))
    return 0


@config_file
@machine.command()
@click.argument("file", type=click.Path(dir_okay=False, path_type=Path), metavar="FILE")
@_place
@option("--json", "as_json", is_flag=True)
def export(file: Path, path: Path | None, as_json: bool) -> int:
    """Write this machine's times to a JSON FILE, for other machines of its kind.

    mlsysopt machine export zen3.json
    """
    from mlsysopt.compile.variants.machine import MachineProfile

    with MachineProfile.open(path) as profile:
        count = profile.export(file)
    text = f"{count} times written to {file}"
    return Document(text, {"file": str(file), "rows": count}).show(as_json)


@config_file
@machine.command("import")
@click.argument("file", type=click.Path(exists=True, dir_okay=False, path_type=Path), metavar="FILE")
@_place
@option("--json", "as_json", is_flag=True)
def import_(file: Path, path: Path | None, as_json: bool) -> int:
    """Read times that another machine exported; they are used when that machine is like this one.

    mlsysopt machine import zen3.json
    """
    from mlsysopt.compile.variants.machine import MachineProfile

    with MachineProfile.open(path) as profile:
        count, whose = profile.import_(file)
        used = whose == profile.here
        text = f"{count} times read from {file}"
        if not used:
            text += f"\nthey are kept, not used\nthey are of  {whose}\nthis is      {profile.here}"
    return Document(text, {"file": str(file), "rows": count, "machine": whose.key, "used": used}).show(as_json)


def _show(seen: Progress) -> None:
    best = min(seen.rows, key=lambda row: row.seconds, default=None)
    told = f"{best.variant} {format_seconds(best.seconds)}" if best is not None else "nothing does it"
    click.echo(f"[{seen.spent_s:6.1f} s] {seen.done:3d}/{seen.cells} {seen.site}: {told}", err=True)


def _table(rows: Sequence[Row]) -> str:
    """Return microseconds, a line for each site and a column for each variant; the best is marked."""
    variants = list(dict.fromkeys(row.variant for row in rows))
    sites: dict[tuple[str, str], dict[str, Row]] = {}
    for row in sorted(rows, key=_by_shape):
        sites.setdefault((str(row.site) + _aside(row), row.residency), {})[row.variant] = row
    widths = [max(len(name), 9) for name in variants]
    label = max((len(site) for site, _ in sites), default=0)
    lines = ["microseconds".ljust(label) + "".join(f"  {n:>{w}} " for n, w in zip(variants, widths, strict=True))]
    for (site, _), known in sites.items():
        best = min(known.values(), key=lambda row: row.seconds).variant
        cells = [
            f"  {_micro(known.get(name)):>{width}}{'*' if name == best else ' '}"
            for name, width in zip(variants, widths, strict=True)
        ]
        lines.append(site.ljust(label) + "".join(cells))
    return "\n".join(line.rstrip() for line in lines)


def _by_shape(row: Row) -> tuple[Any, ...]:
    others = tuple((name, int(size)) for name, size in row.site.sizes if name != "M")
    return (row.site.op, row.residency, row.site.threads, others, str(row.site.epilogue), row.site.number("M"))


def _aside(row: Row) -> str:
    threads = f" {row.site.threads} threads" if row.site.threads != 1 else ""
    return threads + (" warm" if row.residency == "warm" else "")


def _micro(row: Row | None) -> str:
    if row is None:
        return "-"
    micro = row.seconds * 1e6
    return f"{micro:.0f}" if micro >= 100 else f"{micro:.1f}"


def _about(profile: MachineProfile) -> dict[str, Any]:
    return {
        "machine": {"key": profile.here.key, **asdict(profile.here)},
        "file": None if profile.path is None else str(profile.path),
        "bounds": asdict(profile.roofline),
        "others": [{"key": other.key, **asdict(other), "rows": count} for other, count in profile.others.items()],
    }
