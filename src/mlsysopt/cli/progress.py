"""How a running study looks: a live line on a terminal, plain lines elsewhere."""

from __future__ import annotations

import os
import sys
from collections.abc import Generator
from contextlib import contextmanager
from typing import Any

import click

from mlsysopt.core.quantities import format_seconds
from mlsysopt.core.study import Event
from mlsysopt.core.study.events import Listener

__all__ = ["listening"]

_SILENT_IN_PLAIN = ("asked", "canary", "finished")


@contextmanager
def listening() -> Generator[Listener]:
    """Yield a listener that shows events on standard error."""
    if sys.stderr.isatty() and os.environ.get("TERM", "") not in ("", "dumb"):
        with _live() as listener:
            yield listener
    else:
        yield _plain


def _plain(event: Event) -> None:
    if event.kind not in _SILENT_IN_PLAIN:
        click.echo(f"{_clock(event)}{event.text}", err=True)


def _clock(event: Event) -> str:
    elapsed = event.data.get("elapsed_s")
    return f"[{format_seconds(elapsed):>11}] " if elapsed is not None else ""


@contextmanager
def _live() -> Generator[Listener]:
    from rich.console import Console
    from rich.live import Live
    from rich.markup import escape
    from rich.spinner import Spinner

    console = Console(stderr=True, highlight=False)
    spinner = Spinner("dots", text="starting")
    state: dict[str, Any] = {"doing": "measuring the default", "best": 1.0, "total": None}

    def status() -> str:
        words = [state["doing"], f"best [bold]{state['best']:.2f}x[/bold]"]
        if state.get("left") is not None:
            words.append(f"{format_seconds(state['left'])} left")
        return " · ".join(words)

    def show(event: Event) -> None:
        data = event.data
        state["left"] = data.get("left_s", state.get("left"))
        if event.kind == "started":
            state["total"] = data.get("budget_trials")
        elif event.kind == "asked":
            of = f"/{state['total'] - 1}" if state["total"] else ""
            state["doing"] = f"trial {data['trial']}{of}: default and candidate, side by side"
        elif event.kind == "trial":
            state["best"] = data.get("best", state["best"])
        elif event.kind == "verify":
            state["doing"] = event.text
        if event.kind not in (*_SILENT_IN_PLAIN, "verify"):
            console.print(f"[dim]{escape(_clock(event))}[/dim]{_coloured(event, escape(event.text))}")
        spinner.update(text=status())

    with Live(spinner, console=console, transient=True, refresh_per_second=8):
        yield show


def _coloured(event: Event, text: str) -> str:
    if event.kind == "refused" or event.data.get("state") not in (None, "valid"):
        return f"[yellow]{text}[/yellow]"
    if event.kind == "trial" and event.data.get("ratio") == event.data.get("best"):
        return f"[green]{text}[/green]"
    return text


@contextmanager
def chains_running(chains: int) -> Generator[Any]:
    """Yield what is told `(chain, sweeps done, sweeps in all)`; bars on a terminal, a line a second elsewhere."""
    import time

    done = dict.fromkeys(range(chains), 0)
    if not (sys.stderr.isatty() and os.environ.get("TERM", "") not in ("", "dumb")):
        last = time.monotonic()

        def line(chain: int, sweeps: int, whole: int) -> None:
            nonlocal last
            done[chain] = sweeps
            ended = sum(one == whole for one in done.values())
            if sweeps == whole or time.monotonic() - last >= 1.0:
                last = time.monotonic()
                click.echo(f"chain {chain}: {sweeps} of {whole} sweeps; {ended} of {chains} chains done", err=True)

        yield line
        return
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    from rich.console import Console

    with Progress(*columns, console=Console(stderr=True), transient=True) as bars:
        tasks = {chain: bars.add_task(f"chain {chain}", total=None) for chain in done}

        def bar(chain: int, sweeps: int, whole: int) -> None:
            bars.update(tasks[chain], completed=sweeps, total=whole)

        yield bar
