"""`mlsysopt tune compare`: the contest of tuners."""

from __future__ import annotations

import shlex
import sys
from pathlib import Path
from typing import Any

import click

from mlsysopt.cli.options import config_file, option, print_json
from mlsysopt.cli.tune_options import MOST_DISCOVERY_S, discovered, recipe_of, target_options

__all__ = ["compare"]


@config_file
@click.command()
@click.argument("what", metavar="TARGET")
@click.option(
    "--tuners", default="random,qmc,tpe,gp,cmaes,dds,td3", show_default=True, metavar="A,B", help="Samplers to compare."
)
@click.option("--seconds", default="90", show_default=True, metavar="TIME", help="Measurement time for each tuner.")
@click.option("--seeds", type=click.IntRange(1), default=1, show_default=True, metavar="N", help="Repeats of it all.")
@click.option("--maximize", metavar="METRIC", help="Metric to make larger (default: the target's own).")
@click.option("--minimize", metavar="METRIC", help="Metric to make smaller.")
@click.option("--guard", multiple=True, metavar="LIMIT", help="What must not get worse: 'p99_ms<=1.1x', 'p99_ms=off'.")
@click.option(
    "--validity",
    default="all",
    show_default=True,
    metavar="A,B",
    help="all: search valid ranges first, then learn from failures; learned; none; several are crossed.",
)
@click.option("--rounds", type=click.IntRange(6), metavar="N", help="Largest number of verification rounds.")
@click.option("--verify-seconds", metavar="TIME", help="Time for the verification (default: until decided).")
@target_options
@option("--store", metavar="URL")
@option("--study", metavar="NAME", default="contest", show_default=True)
@option("--seed", type=int, default=1, show_default=True)
@option("--report", type=click.Path(file_okay=False, path_type=Path), metavar="DIR")
@option("--json", "as_json", is_flag=True)
def compare(what: str, as_json: bool, **given: Any) -> int:
    """Compare tuners on TARGET at equal measurement time, and verify their winners together.

    mlsysopt tune compare postgres --tuners random,tpe,dds,td3 --seconds 90 --seeds 3
    """
    from mlsysopt.cli.progress import listening
    from mlsysopt.operate.tune import targets
    from mlsysopt.operate.tune.contest import check_tuners
    from mlsysopt.operate.tune.contest import compare as contest_of

    words = [word.strip() for word in given["validity"].split(",") if word.strip()]
    tuners = [word.strip() for word in given["tuners"].split(",") if word.strip()]
    recipe = recipe_of(what, given)
    with listening() as listener:
        target = targets.restore(recipe)
        check_tuners(target, tuners)
        if "all" in words:
            # Found once for all tuners, before their time begins.
            target, _ = discovered(target, budget_s=MOST_DISCOVERY_S, store=given["store"], listener=listener)
        found = contest_of(
            target,
            tuners=tuners,
            seconds=given["seconds"],
            seeds=given["seeds"],
            validity=words,  # pyright: ignore[reportArgumentType]
            maximize=given["maximize"],
            minimize=given["minimize"],
            guard=given["guard"] or None,
            store=given["store"],
            name=given["study"],
            seed=given["seed"],
            rounds=given["rounds"],
            verify_seconds=given["verify_seconds"],
            recipe={
                **recipe,
                **{way: [given[way]] if given[way] else [] for way in ("maximize", "minimize")},
                "guard": list(given["guard"]),
            },
            on_event=listener,
        )
    written = {}
    if given["report"] is not None:
        written["report"] = str(found.report(given["report"], command=shlex.join(["mlsysopt", *sys.argv[1:]])))
    if as_json:
        print_json({**found.to_json(), "written": written})
    else:
        click.echo("\n".join([found.text(), *(f"report: {path}" for path in written.values())]))
    return found.exit_code
