"""`mlsysopt compile`: build, explain, bench."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from mlsysopt.cli.options import config_file, option
from mlsysopt.core.errors import UsageError

if TYPE_CHECKING:
    from mlsysopt.compile import Executable

__all__ = ["compile"]

MODEL = click.argument("model", type=click.Path(exists=True, dir_okay=False, path_type=Path))


@click.group()
def compile() -> None:
    """One executable for every size: fused kernels, adaptive products, memory as a formula.

    After DISC (Zhu et al., EuroMLSys 2021). Reads .onnx, .pt2 and .mlg; writes .mlx, which runs without torch.

    Examples:

      mlsysopt compile build model.onnx --dim S=1..512 --likely S=128,384 -o model.mlx

      mlsysopt compile explain model.mlx --at B=1,S=37

      mlsysopt compile bench model.mlx --against torch,onnxruntime --shapes random:20
    """


def compiling(command: Any) -> Any:
    """Let a verb say how a model is compiled."""
    for add in (
        click.option("--dim", "dims", multiple=True, metavar="NAME=LOW..HIGH", help="Range of a symbol."),
        click.option("--likely", multiple=True, metavar="NAME=SIZE,...", help="Sizes that a symbol often has."),
        click.option(
            "--precision", type=click.Choice(["f32", "bf16", "int8w"]), default="f32", show_default=True,
            help="Precision of matrix products; norms and softmax stay f32.",
        ),
        click.option("--error", type=float, help="Largest error of the output, relative to its root mean square."),
        click.option(
            "--effort", type=click.Choice(["quick", "normal", "max"]), default="normal", show_default=True,
            help="How long kernels are looked for; max times them.",
        ),
        click.option(
            "--fallback", type=click.Choice(["torch", "error"]), default="torch", show_default=True,
            help="What becomes of ops without native form.",
        ),
        click.option("--strict", is_flag=True, help="Fail where a check would undo a stage."),
        option("--threads", type=click.IntRange(min=1), default=1, show_default=True),
    ):  # fmt: skip
        command = add(command)
    return command


@config_file
@compile.command()
@MODEL
@compiling
@option("--out", type=click.Path(dir_okay=False, path_type=Path), metavar="PATH")
@option("--json", "as_json", is_flag=True)
def build(model: Path, out: Path | None, as_json: bool, **given: Any) -> int:
    """Compile a model, say what became of it, and write it to a file."""
    from mlsysopt.cli.compile_show import built

    return built(executable(model, **given), out).show(as_json)


@config_file
@compile.command()
@MODEL
@compiling
@click.option("--at", metavar="NAME=SIZE,...", default="", help="Sizes of the symbols.")
@click.option("--measure", is_flag=True, help="Time each step here and now.")
@click.option("--plan", "as_plan", is_flag=True, help="Print the steps of the flow, and nothing else.")
@option("--json", "as_json", is_flag=True)
def explain(model: Path, at: str, measure: bool, as_plan: bool, as_json: bool, **given: Any) -> int:
    """Say what was fused and why not, and which kernels run at a size."""
    from mlsysopt.cli.compile_show import explained
    from mlsysopt.cli.graph import sizes

    run = executable(model, **given)
    return explained(run, sizes(at, run.graph), measure=measure, as_plan=as_plan).show(as_json)


@config_file
@compile.command()
@MODEL
@compiling
@option("--against", default="torch", show_default=True)
@click.option(
    "--shapes", default="random:12", show_default=True, metavar="random:N | NAME=SIZE,...;...",
    help="Sizes to run at.",
)  # fmt: skip
@option("--seed", type=int, default=0, show_default=True)
@option("--report", type=click.Path(file_okay=False, path_type=Path), metavar="DIR")
@option("--json", "as_json", is_flag=True)
def bench(model: Path, against: str, shapes: str, seed: int, report: Path | None, as_json: bool, **given: Any) -> int:
    """Compare with other runtimes at many sizes, paired and interleaved, and say what is proven."""
    from mlsysopt.cli.compile_bench import benched

    run = executable(model, **given)
    return benched(run, against=against, shapes=shapes, seed=seed, report=report).show(as_json)


def executable(model: Path, *, dims: tuple[str, ...] = (), likely: tuple[str, ...] = (), **settings: Any) -> Executable:
    """Load a compiled model, or compile one.

    Raises:
        UsageError: a range or a list of likely sizes that cannot be read.
    """
    from mlsysopt.cli.graph import read
    from mlsysopt.compile import load
    from mlsysopt.compile.pipeline import compile as compiled

    if model.suffix.lower() == ".mlx":
        if dims or likely:
            raise UsageError(
                f"{model}: is compiled already; --dim and --likely belong to the model that it was made of"
            )
        return load(model)
    graph = read(model, dims, "keep")
    facts = graph.facts
    for text in likely:
        name, found = _likely(text, graph.symbols)
        for size in found:
            if broken := facts.check({name: size}):
                raise UsageError(f"--likely {text}: {broken[0]}")
        facts = facts.with_likely(name, found)
    return compiled(graph.with_facts(facts), **settings)


def _likely(text: str, symbols: tuple[str, ...]) -> tuple[str, dict[int, float]]:
    from mlsysopt.core.errors import near_misses

    name, equals, rest = (word.strip() for word in text.partition("="))
    numbers = [word.strip() for word in rest.split(",")]
    if not equals or not all(word.isdigit() for word in numbers):
        raise UsageError(f"--likely {text!r}: write NAME=SIZE,SIZE, e.g. S=128,384")
    if name not in symbols:
        raise UsageError(f"--likely {name}: no such symbol; {near_misses(name, symbols, noun='symbol')}")
    return name, {int(word): 1.0 for word in numbers}
