"""`mlsysopt linear`: bench, profile, report."""

from __future__ import annotations

import shlex
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from mlsysopt.cli.options import config_file, option, print_json
from mlsysopt.core.errors import UsageError

if TYPE_CHECKING:
    from mlsysopt.compile.linear.decide import Timed
    from mlsysopt.compile.linear.grid import Grid
    from mlsysopt.compile.linear.plan import Plan
    from mlsysopt.compile.linear.shapes import Shape

__all__ = ["linear"]

_PRECISION = "Lowest precision of weights; auto: the lowest that --error allows."


@click.group()
def linear() -> None:
    """Run every matrix product of a model in its best form, for every number of rows.

    After ALMO (Dice and Kogan, EuroMLSys 2021), with packed weights and tables learned on this machine.

    Examples:

      mlsysopt linear profile --shapes bert-base --rows 1..512 --budget 20s

      mlsysopt linear report --model net.pt2 --at S=8,128 --report report/

      mlsysopt linear bench bert-base --seq 8,32,128 --against torch,inductor
    """


def of_products(command: Any) -> Any:
    """Let a verb say which products it is about."""
    for add in (
        click.option(
            "--shapes", metavar="NAME | KxN,...", help="Products of a known model (bert-base, gpt2 ...), or widths."
        ),
        click.option(
            "--model",
            type=click.Path(exists=True, dir_okay=False, path_type=Path),
            metavar="FILE",
            help="Program whose products are meant: .pt2, .onnx or .mlg.",
        ),
        click.option(
            "--at",
            multiple=True,
            metavar="NAME=SIZE,...",
            help="Sizes of a symbol of --model; may be given several times.",
        ),
        click.option("--rows", metavar="1..512 | 8,32,...", help="Row counts; without --model 1..512."),
        option("--threads", type=click.IntRange(min=1), default=1, show_default=True),
        click.option(
            "--precision",
            type=click.Choice(["f32", "bf16", "int8w"]),
            default="f32",
            show_default=True,
            help="Lowest precision of weights.",
        ),
        click.option("--panel/--no-panel", default=True, show_default=True, help="Whether to use generated kernels."),
    ):
        command = add(command)
    return command


@config_file
@linear.command()
@of_products
@option("--budget", default="20s", show_default=True, metavar="TIME")
@option("--report", "folder", type=click.Path(file_okay=False, path_type=Path), metavar="DIR")
@option("--json", "as_json", is_flag=True)
def profile(budget: str, folder: Path | None, as_json: bool, **given: Any) -> int:
    """Measure what is most useful to know about some products, into the profile of this machine.

    The budget is CPU time.

    mlsysopt linear profile --shapes bert-base --rows 1..512 --threads 1 --budget 20s
    """
    from mlsysopt.compile.linear import profiling
    from mlsysopt.compile.linear.request import parse_seconds

    name, shapes, rows = _products(given)
    found = profiling.profile(shapes, rows, budget_s=parse_seconds(budget), name=name, watch=_show, **_settings(given))
    return _deliver(found, folder, as_json)


@config_file
@linear.command()
@of_products
@option("--report", "folder", type=click.Path(file_okay=False, path_type=Path), metavar="DIR")
@option("--json", "as_json", is_flag=True)
def report(folder: Path | None, as_json: bool, **given: Any) -> int:
    """Show which variant would run for which rows, from the profile alone: nothing is timed.

    mlsysopt linear report --shapes bert-base --report report/
    """
    from mlsysopt.compile.linear import profiling

    name, shapes, rows = _products(given)
    return _deliver(profiling.report(shapes, rows, name=name, **_settings(given)), folder, as_json)


@config_file
@linear.command()
@click.argument("model", metavar="MODEL")
@click.option("--seq", default="8,32,128", show_default=True, metavar="LENGTH,...", help="Lengths of the input.")
@option("--against", default="torch", show_default=True, metavar="torch,inductor")
@option("--threads", type=click.IntRange(min=1), default=1, show_default=True)
@click.option("--precision", default="f32", show_default=True, metavar="f32|bf16|int8w|auto", help=_PRECISION)
@click.option("--error", type=float, help="Largest error of the output over its root mean square, below f32.")
@click.option("--policy", default="table", show_default=True, help="Table, paper, or the name of one variant.")
@click.option("--max-extra-memory", default="1x", show_default=True, help="For second copies: 0x, 1x, 512MiB.")
@option("--budget", default="20s", show_default=True, metavar="TIME")
@click.option("--panel/--no-panel", default=True, show_default=True, help="Whether to use generated kernels.")
@click.option("--strict", is_flag=True, help="Fail when a variant fails its numeric check, instead of barring it.")
@click.option("--require-lower", is_flag=True, help="End with 4 when no lower precision is within --error.")
@option("--seed", type=int, default=0, show_default=True)
@option("--report", "folder", type=click.Path(file_okay=False, path_type=Path), metavar="DIR")
@option("--json", "as_json", is_flag=True)
def bench(model: str, seq: str, **given: Any) -> int:
    """Adapt a model and compare it with the plain one at several lengths, paired and interleaved.

    MODEL is bert-base, bert-large, distilbert, gpt2 or minilm, with random weights, or FILE.py:NAME of a function
    that returns a module and a function from a length to its inputs. The budget is CPU time of measuring products;
    what is found stays in the profile of this machine. Peers are torch, the plain model, and inductor, which compiles
    it. Exit code: 0 faster at some length and slower at none, proven both; 4 otherwise.

    mlsysopt linear bench bert-base --seq 8,32,128 --against torch,inductor
    """
    from mlsysopt.cli.linear_bench import benched

    return benched(model, _lengths(seq), **given)


def _products(given: Mapping[str, Any]) -> tuple[str, Sequence[Shape], Grid | Sequence[Grid]]:
    """Return a name, the products, and the row counts for all of them or for each."""
    from mlsysopt.compile.linear.grid import parse_rows
    from mlsysopt.compile.linear.shapes import of_graph, parse_shapes, rows_at

    shapes, model, rows = given["shapes"], given["model"], given["rows"]
    if (shapes is None) == (model is None):
        raise UsageError("give either --shapes (bert-base, 768x3072) or --model FILE, and not both")
    if shapes is not None:
        if given["at"]:
            raise UsageError("--at gives sizes of the symbols of --model; with --shapes write --rows")
        return shapes, parse_shapes(shapes), parse_rows(rows or "1..512")
    from mlsysopt.cli.graph import read

    found = of_graph(read(model, (), "keep"))
    if rows is not None:
        if given["at"]:
            raise UsageError("give --at or --rows: both say how many rows arrive")
        return model.name, found, parse_rows(rows)
    sizes = _sizes(given["at"])
    return model.name, found, [rows_at(one, sizes) for one in found]


def _settings(given: Mapping[str, Any]) -> dict[str, Any]:
    return {name: given[name] for name in ("threads", "precision", "panel")}


def _sizes(texts: Sequence[str]) -> dict[str, list[int]]:
    found: dict[str, list[int]] = {}
    for text in texts:
        name, sign, values = text.partition("=")
        numbers = [part.strip() for part in values.split(",")]
        if not sign or not name.strip() or not all(part.isdigit() and int(part) for part in numbers):
            raise UsageError(f"--at {text!r}: sizes look like S=8,128")
        found[name.strip()] = [int(part) for part in numbers]
    return found


def _lengths(text: str) -> list[int]:
    parts = [part.strip() for part in text.split(",")]
    if not all(part.isdigit() and int(part) for part in parts):
        raise UsageError(f"--seq {text!r}: lengths look like 8,32,128")
    return [int(part) for part in parts]


def _show(timed: Timed) -> None:
    from mlsysopt.core.quantities import format_seconds

    k, m, n = (timed.site.number(name) for name in "KMN")
    click.echo(
        f"[{format_seconds(timed.spent_s):>7}] {k} x {n}, {m} rows: {len(timed.names)} variants, "
        f"{timed.open} cells left",
        err=True,
    )


def _deliver(found: Plan, folder: Path | None, as_json: bool) -> int:
    written = {} if folder is None else {"report": str(found.report(folder, command=_command()))}
    if as_json:
        import json

        print_json({**json.loads(found.to_json()), "written": written})
    else:
        click.echo(str(found))
        for what, path in written.items():
            click.echo(f"{what}: {path}")
    return 0


def _command() -> str:
    return shlex.join(["mlsysopt", *sys.argv[1:]])
