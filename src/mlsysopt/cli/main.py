"""The root command: rooms are imported when they are entered, errors become one line and an exit code."""

from __future__ import annotations

import importlib
import logging
import signal
import sys
from collections.abc import Sequence
from types import FrameType
from typing import Any

import click

from mlsysopt.core.errors import MlsysoptError, near_misses

__all__ = ["main", "run"]

ROOMS: dict[str, dict[str, tuple[str, str]]] = {
    "design": {
        "ablate": ("mlsysopt.cli.ablate:ablate", "which parts of a model are needed, said only when it is true"),
    },
    "compile": {
        "compile": ("mlsysopt.cli.compile:compile", "a PyTorch or ONNX model as one native executable for every size"),
        "linear": ("mlsysopt.cli.linear:linear", "every matrix product in its best form, for every number of rows"),
    },
    "train": {
        "estimate": ("mlsysopt.cli.estimate:estimate", "how long a training will take, and whether it fits in memory"),
    },
    "infer": {
        "infer": ("mlsysopt.cli.infer:infer", "a probabilistic model as a function: compiled, checked inference"),
    },
    "operate": {
        "tune": (
            "mlsysopt.cli.tune:tune",
            "make a real RocksDB, PostgreSQL or Redis faster within its memory, and prove it",
        ),
    },
    "shared": {
        "graph": ("mlsysopt.cli.graph:graph", "look at a tensor program, check it, price it, convert it and run it"),
        "machine": ("mlsysopt.cli.machine:machine", "how long each kernel takes on this machine"),
        "data": ("mlsysopt.cli.data:data", "data sets for tests and benchmarks"),
        "doctor": ("mlsysopt.cli.doctor:doctor", "which programs and extras are present, and how to install the rest"),
        "report": ("mlsysopt.cli.report:report", "write the report of a stored study again"),
        "dashboard": ("mlsysopt.cli.dashboard:dashboard", "browse a store in optuna-dashboard"),
        "cite": ("mlsysopt.cli.cite:cite", "print the BibTeX of what a study used"),
    },
}
_WHERE = {name: entry for rooms in ROOMS.values() for name, entry in rooms.items()}


class Rooms(click.Group):
    """A group whose commands are imported on first use, listed by area without importing any."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        return list(_WHERE)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        if cmd_name not in _WHERE:
            return None
        module, attribute = _WHERE[cmd_name][0].split(":")
        return getattr(importlib.import_module(module), attribute)

    def resolve_command(
        self, ctx: click.Context, args: list[str]
    ) -> tuple[str | None, click.Command | None, list[str]]:
        if args and args[0] not in _WHERE and not args[0].startswith("-"):
            ctx.fail(f"unknown room {args[0]!r}; {near_misses(args[0], _WHERE, noun='room', width=20)}")
        return super().resolve_command(ctx, args)

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        for area, rooms in ROOMS.items():
            with formatter.section(area):
                formatter.write_dl([(name, about) for name, (_, about) in rooms.items()])


@click.group(cls=Rooms, context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 110})
@click.version_option(package_name="mlsysopt")
@click.option("--verbose", "-v", is_flag=True, help="Show what happens inside (anywhere on the line).")
@click.option("--debug", is_flag=True, help="Show tracebacks (anywhere on the line).")
def main(verbose: bool, debug: bool) -> None:
    """Choose, measure, predict, decide: optimisation for machine-learning systems.

    Each room lists its verbs: mlsysopt ROOM --help. Exit codes: 0 ok, 1 the run failed, 2 usage,
    3 a program or extra is missing, 4 not proven, 130 interrupted.
    """


def run(arguments: Sequence[str] | None = None) -> int:
    """Run the command line and return its exit code.

    Args:
        arguments: Without the program name; None takes `sys.argv`.
    """
    given = list(sys.argv[1:] if arguments is None else arguments)
    debug, verbose = "--debug" in given, "-v" in given or "--verbose" in given
    given = [word for word in given if word not in ("--debug", "-v", "--verbose")]
    logging.basicConfig(level=logging.WARNING, format="%(message)s", stream=sys.stderr)
    logging.getLogger("mlsysopt").setLevel(logging.DEBUG if debug else logging.INFO if verbose else logging.WARNING)
    signal.signal(signal.SIGTERM, _interrupt)
    try:
        code: Any = main.main(args=given, prog_name="mlsysopt", standalone_mode=False)
    except MlsysoptError as error:
        if debug:
            raise
        click.echo(f"error: {error}", err=True)
        return error.exit_code
    except click.exceptions.NoArgsIsHelpError as error:
        click.echo(error.format_message())
        return 0
    except click.ClickException as error:
        error.show()
        return 2
    except (click.Abort, KeyboardInterrupt):
        click.echo("interrupted", err=True)
        return 130
    except BrokenPipeError:
        sys.stderr.close()
        return 1
    except OSError as error:
        if debug:
            raise
        click.echo(f"error: {_os_error(error)}", err=True)
        return 1
    return code if isinstance(code, int) else 0


def entry() -> None:
    """Console script."""
    raise SystemExit(run())


def _interrupt(number: int, frame: FrameType | None) -> None:
    raise KeyboardInterrupt


def _os_error(error: OSError) -> str:
    path = f": {error.filename}" if error.filename else ""
    return f"{error.strerror or error}{path}"
