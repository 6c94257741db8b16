"""The room `graph`: look at a program, check it, price its memory, convert and run it."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import click

from mlsysopt.cli.options import config_file, option
from mlsysopt.core.errors import UsageError

if TYPE_CHECKING:
    from mlsysopt.graph import Graph

__all__ = ["graph"]

MODEL = click.argument("model", type=click.Path(exists=True, dir_okay=False, path_type=Path))


@click.group()
def graph() -> None:
    """Tensor programs with symbolic sizes: .onnx, .pt2 and .mlg files.

    Examples:

      mlsysopt graph show model.onnx --dim S=1..512

      mlsysopt graph memory model.onnx --at B=1,S=128 --order best --plot memory.svg

      mlsysopt graph run model.onnx --at B=1,S=7 --against onnxruntime
    """


def dim_option(command: Any) -> Any:
    """Let a verb declare ranges of symbols."""
    return click.option(
        "--dim", "dims", multiple=True, metavar="NAME=LOW..HIGH", help="Range of a symbol; may be given several times."
    )(command)


def opaque_option(command: Any) -> Any:
    """Let a verb keep ops that the graph does not know."""
    return click.option(
        "--opaque",
        type=click.Choice(["error", "keep"]),
        default="error",
        show_default=True,
        help="What becomes of an op that the graph does not know.",
    )(command)


def at_option(command: Any) -> Any:
    """Let a verb take sizes of the symbols."""
    return click.option("--at", metavar="NAME=SIZE,...", default="", help="Sizes of the symbols.")(command)


@config_file
@graph.command()
@MODEL
@dim_option
@opaque_option
@click.option("--text", is_flag=True, help="Print the whole program, weights named, and nothing else.")
@click.option("--why", metavar="A=B", help="Say which ops make two sizes equal.")
@option("--json", "as_json", is_flag=True)
def show(
    model: Path, dims: tuple[str, ...], opaque: Literal["error", "keep"], text: bool, why: str | None, as_json: bool
) -> int:
    """Print signature, sizes, costs and the program of a model."""
    from mlsysopt.cli.graph_show import explained, shown

    program = read(model, dims, opaque)
    document = explained(program, why) if why is not None else shown(program, text_only=text)
    return document.show(as_json)


@config_file
@graph.command()
@MODEL
@dim_option
@opaque_option
@option("--json", "as_json", is_flag=True)
def check(model: Path, dims: tuple[str, ...], opaque: Literal["error", "keep"], as_json: bool) -> int:
    """Check every rule of a program; all findings are printed at once."""
    from mlsysopt.cli.graph_show import checked

    return checked(read(model, dims, opaque)).show(as_json)


@config_file
@graph.command()
@MODEL
@dim_option
@opaque_option
@at_option
@click.option(
    "--order",
    type=click.Choice(["given", "best"]),
    default="best",
    show_default=True,
    help="Order of the ops: as it stands, or the one with the smallest peak.",
)
@click.option("--plot", type=click.Path(dir_okay=False, path_type=Path), help="SVG of live bytes over time.")
@click.option("--weights/--no-weights", default=False, show_default=True, help="Whether weights count.")
@click.option(
    "--seconds",
    type=click.FloatRange(min=0),
    default=2.0,
    show_default=True,
    help="Time of the search in each part of the program that is ordered alone.",
)
@click.option("--require-exact", is_flag=True, help="End with 4 unless the order is proven optimal.")
@option("--json", "as_json", is_flag=True)
def memory(
    model: Path,
    dims: tuple[str, ...],
    opaque: Literal["error", "keep"],
    at: str,
    order: str,
    plot: Path | None,
    weights: bool,
    seconds: float,
    require_exact: bool,
    as_json: bool,
) -> int:
    """Print the peak memory of a model, the best order of its ops and the offsets of its buffers."""
    from mlsysopt.cli.graph_memory import memory_of

    program = read(model, dims, opaque)
    document = memory_of(
        program,
        sizes(at, program),
        best=order == "best",
        weights=weights,
        plot=plot,
        seconds=seconds,
        require_exact=require_exact,
    )
    return document.show(as_json)


@config_file
@graph.command()
@MODEL
@click.argument("out", type=click.Path(dir_okay=False, path_type=Path))
@dim_option
@opaque_option
@click.option("--opset", type=int, default=18, show_default=True, help="ONNX opset to write.")
@click.option("--check/--no-check", "checked", default=True, help="Run both sides at random sizes and compare.")
@option("--json", "as_json", is_flag=True)
def convert(
    model: Path,
    out: Path,
    dims: tuple[str, ...],
    opaque: Literal["error", "keep"],
    opset: int,
    checked: bool,
    as_json: bool,
) -> int:
    """Convert between .onnx, .pt2 and .mlg, and compare what both compute."""
    from mlsysopt.cli.graph_run import converted

    return converted(read(model, dims, opaque), out, opset=opset, check=checked).show(as_json)


@config_file
@graph.command(name="run")
@MODEL
@dim_option
@opaque_option
@at_option
@option("--seed", type=int, default=0, show_default=True)
@option("--against")
@click.option("--inputs", type=click.Path(exists=True, dir_okay=False, path_type=Path), help="A .npz with the inputs.")
@option("--out", type=click.Path(dir_okay=False, path_type=Path))
@option("--json", "as_json", is_flag=True)
def run_model(
    model: Path,
    dims: tuple[str, ...],
    opaque: Literal["error", "keep"],
    at: str,
    seed: int,
    against: str | None,
    inputs: Path | None,
    out: Path | None,
    as_json: bool,
) -> int:
    """Run a model in the reference interpreter, on random inputs or a file, and compare it with a peer."""
    from mlsysopt.cli.graph_run import ran

    program = read(model, dims, opaque)
    given = sizes(at, program)
    return ran(program, model, given, seed=seed, against=against, inputs=inputs, out=out).show(as_json)


def read(model: Path, dims: tuple[str, ...] = (), opaque: Literal["error", "keep"] = "error") -> Graph:
    """Read a program by the ending of its file.

    Raises:
        UsageError: another ending, or a range that cannot be read.
    """
    from mlsysopt.graph import from_onnx, load, load_pt2

    ranges = dict(map(_range, dims))
    ending = model.suffix.lower()
    if ending == ".onnx":
        return from_onnx(model, dims=ranges, opaque=opaque)
    if ending in (".pt2", ".mlg"):
        program = load_pt2(model, opaque=opaque) if ending == ".pt2" else load(model)
        return _narrowed(program, ranges)
    raise UsageError(f"{model}: files end with .onnx, .pt2 or .mlg")


def _narrowed(program: Graph, ranges: dict[str, tuple[int, int | None]]) -> Graph:
    from mlsysopt.core.errors import near_misses
    from mlsysopt.graph import Origin

    facts = program.facts
    for name, (low, high) in ranges.items():
        if name not in program.symbols:
            raise UsageError(f"--dim {name}: no such symbol; {near_misses(name, program.symbols, noun='symbol')}")
        facts = facts.with_range(name, low, high, Origin("--dim"))
    return program.with_facts(facts)


def _range(text: str) -> tuple[str, tuple[int, int | None]]:
    import re

    found = re.fullmatch(r"\s*([A-Za-z_]\w*)\s*=\s*(\d+)\s*(?:(\.\.)\s*(\d*)\s*)?", text)
    if found is None:
        raise UsageError(f"--dim {text!r}: write NAME=LOW..HIGH, e.g. S=1..512, or NAME=SIZE")
    name, low, dots, high = found.groups()
    return name, (int(low), (int(high) if high else None) if dots else int(low))


def sizes(text: str, program: Graph) -> dict[str, int]:
    """Read `B=1,S=128`.

    Raises:
        UsageError: not of that form, an unknown symbol, or a size outside its range.
    """
    from mlsysopt.core.errors import near_misses

    found: dict[str, int] = {}
    for part in filter(None, (word.strip() for word in text.split(","))):
        name, equals, size = (word.strip() for word in part.partition("="))
        if not equals or not size.isdigit():
            raise UsageError(f"--at {part!r}: write NAME=SIZE, e.g. B=1,S=128")
        if name not in program.symbols:
            raise UsageError(f"--at {name}: no such symbol; {near_misses(name, program.symbols, noun='symbol')}")
        found[name] = int(size)
    broken = program.facts.check(found)
    if broken:
        raise UsageError(f"--at {text}: {broken[0]}")
    return found
