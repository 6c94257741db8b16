"""Flags that mean the same in every room, and the one flat TOML file that can carry them."""

from __future__ import annotations

import tomllib
from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeVar

import click

from mlsysopt.core.errors import UsageError, near_misses

__all__ = ["GLOSSARY", "config_file", "option", "print_json"]

F = TypeVar("F", bound=Callable[..., Any])

GLOSSARY: dict[str, str] = {
    "--store": "SQLite file or database URL that keeps the study",
    "--study": "name of the study, when a store holds several",
    "--budget": "trials (20) or time (4min)",
    "--seed": "seed of every random stream",
    "--memory": "memory that the tuned system may use, e.g. 256MiB",
    "--threads": "threads of the tuned system, or of one call",
    "--executor": "where work runs: inprocess, local or ray",
    "--against": "peers to compare with, by distribution name",
    "--json": "print one JSON document on standard output, progress on standard error",
    "--report": "folder for the HTML report",
    "--out": "file to write; of a fit, its folder",
    "--config": "flat TOML file with any of these flags; a flag beats the file",
    "--yes": "do not ask",
    "--verbose": "show what happens inside",
    "--debug": "show tracebacks",
}
"""One word for one thing in the whole house: a flag of this name means this, wherever it stands."""

_SHORT = {"--out": "-o", "--verbose": "-v"}


def option(flag: str, *names: str, about: str | None = None, **settings: Any) -> Callable[[F], F]:
    """Return a click option whose help text is the glossary's.

    Args:
        flag: A long flag; one of the glossary unless `about` is given.
        names: Name of the Python argument, where it differs from the flag's.
        about: Help text of a flag that belongs to one verb alone.
    """
    text = about if about is not None else GLOSSARY[flag]
    words = [_SHORT[flag], flag] if flag in _SHORT else [flag]
    return click.option(*words, *names, help=text, **settings)


def config_file(command: click.Command) -> click.Command:
    """Let a command read defaults for its flags from `--config FILE`."""
    command.params.append(
        click.Option(
            ["--config"],
            type=click.Path(exists=True, dir_okay=False, path_type=Path),
            help=GLOSSARY["--config"],
            is_eager=True,
            expose_value=False,
            callback=_load,
        )
    )
    return command


def _load(ctx: click.Context, parameter: click.Parameter, path: Path | None) -> None:
    if path is None:
        return
    try:
        table = tomllib.loads(path.read_text())
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise UsageError(f"{path}: not TOML: {error}") from None
    known = {p.name: p for p in ctx.command.params if isinstance(p, click.Option) and p.name}
    for key, value in table.items():
        name = key.replace("-", "_")
        if name not in known:
            raise UsageError(f"{path}: unknown key {key!r}; {near_misses(name, known, noun='key', width=20)}")
        many = known[name].multiple
        if isinstance(value, dict):
            value = [f"{inner}{'' if str(v)[:1] in '<>=' else '='}{v}" for inner, v in value.items()]
        table_value: Any = [str(v) for v in value] if isinstance(value, list) and many else value
        ctx.default_map = {**(ctx.default_map or {}), name: table_value}


def print_json(obj: Any) -> None:
    """Print one JSON document."""
    import json

    click.echo(json.dumps(obj, indent=2, sort_keys=False, allow_nan=False, default=str))
