"""What every verb of `mlsysopt tune` that takes a TARGET shares: its flags, and the target that they describe."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import click

from mlsysopt.cli.options import option
from mlsysopt.core.errors import UsageError

if TYPE_CHECKING:
    from mlsysopt.core.target import Target

__all__ = ["MOST_DISCOVERY_S", "VALIDITY", "discovered", "goals", "recipe_of", "target_options"]

F = TypeVar("F", bound=Callable[..., Any])

VALIDITY = ("all", "learned", "none")
MOST_DISCOVERY_S = 60.0
"""Seconds that a run looks for valid ranges at most, before its trials."""

_TARGET = (
    click.option("--workload", metavar="NAME", help="Workload of the target, e.g. mixgraph, tpcb."),
    click.option("--knobs", metavar="GROUP|A,B", help="Which knobs: presets, groups or names."),
    click.option("--engine", metavar="NAME", help="Engine of the target, e.g. auto, db_bench, embedded."),
    option("--memory", metavar="SIZE"),
    option("--threads", type=click.IntRange(1), metavar="N"),
    click.option("--directory", type=click.Path(path_type=Path), help="Folder on the file system that is measured."),
    click.option("--port", type=click.IntRange(1, 65535), help="Port of the server (default: a free one)."),
    click.option(
        "--allow-tmpfs", is_flag=True, default=None, help="Let a workload that writes run where fsync is free."
    ),
    click.option("--set", "settings", multiple=True, metavar="KEY=VALUE", help="A setting of default and candidates."),
    click.option("--unfence", multiple=True, metavar="GROUP", help="Allow knobs of a fenced group, e.g. durability."),
)
_GOALS = (
    click.option(
        "--maximize", multiple=True, metavar="METRIC", help="Metric to make larger (default: the target's own)."
    ),
    click.option("--minimize", multiple=True, metavar="METRIC", help="Metric to make smaller."),
    click.option(
        "--guard", multiple=True, metavar="LIMIT", help="What must not get worse: 'p99_ms<=1.1x', 'p99_ms=off'."
    ),
    click.option(
        "--validity",
        type=click.Choice(VALIDITY),
        default="all",
        show_default=True,
        help="all: search valid ranges first, then learn from failures; learned: only that; none.",
    ),
)


def target_options(command: F) -> F:
    """Give a command the flags that describe a target."""
    for add in reversed(_TARGET):
        command = add(command)
    return command


def goals(command: F) -> F:
    """Give a command the flags that say what is better, and what must not get worse."""
    for add in reversed(_GOALS):
        command = add(command)
    return command


def recipe_of(what: str, given: Mapping[str, Any]) -> dict[str, Any]:
    """Return the plain settings from which a target is built, now and on resume."""
    settings: dict[str, Any] = {
        **{name: given.get(name) for name in ("workload", "knobs", "engine", "memory", "threads", "port")},
        "allow_tmpfs": given.get("allow_tmpfs"),
        "directory": str(given["directory"]) if given.get("directory") else None,
        "settings": _pairs(given.get("settings") or ()) or None,
        "unfence": list(given.get("unfence") or ()) or None,
    }
    return {"target": what, "settings": {key: value for key, value in settings.items() if value is not None}}


def discovered(target: Target, *, budget_s: float, store: str | None, listener: Any = None) -> tuple[Target, float]:
    """Return a target with the ranges that it really takes, and the seconds that finding them took.

    What is known already is taken from the store; a target that cannot be probed comes back as it is.
    """
    from mlsysopt.operate.tune.server_target import ServerTarget

    if not isinstance(target, ServerTarget):
        return target, 0.0
    from mlsysopt.operate.tune.discovery import discover

    found = discover(target, budget=budget_s, store=store, on_event=listener)
    return found.target, found.seconds


def _pairs(given: tuple[str, ...]) -> dict[str, str]:
    pairs: dict[str, str] = {}
    for text in given:
        key, sign, value = text.partition("=")
        if not sign or not key.strip():
            raise UsageError(f"--set {text!r}: a setting looks like KEY=VALUE, for example num=300000")
        pairs[key.strip()] = value.strip()
    return pairs
