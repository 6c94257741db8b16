"""`mlsysopt tune`: run, resume, verify, compare, discover, show, explain."""

from __future__ import annotations

import shlex
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from mlsysopt.cli.options import config_file, option, print_json
from mlsysopt.cli.tune_compare import compare
from mlsysopt.cli.tune_options import MOST_DISCOVERY_S, discovered, goals, recipe_of, target_options
from mlsysopt.core.errors import StoreError, UsageError

if TYPE_CHECKING:
    from mlsysopt.core.store import Store, StudyInfo
    from mlsysopt.core.study import Result, Study
    from mlsysopt.core.target import Target


@click.group()
def tune() -> None:
    """Tune a real system: choose, measure, verify.

    TARGET is rocksdb, a server (postgres, redis, foundationdb), an installed target, or the path of a
    server file of your own. Multi-task Bayesian optimisation after Alabed and Yoneki, valid ranges and
    tuners compared after Schmied and others (both EuroMLSys 2021). Every trial is paired with a run of
    the default; what is reported was verified in fresh interleaved rounds.
    """


tune.add_command(compare)

_WORKERS = option(
    "--workers",
    about="processes that run trials on the store; measurements on one machine still come one after the other",
    type=click.IntRange(1),
    default=1,
    show_default=True,
    metavar="N",
)


@config_file
@tune.command()
@click.argument("what", metavar="TARGET")
@goals
@option("--budget", default="20", show_default=True, metavar="TIME|N")
@click.option(
    "--sampler",
    default="auto",
    show_default=True,
    metavar="NAME",
    help="structured, icm, tpe, gp, random, qmc, cmaes ...",
)
@target_options
@option("--store", metavar="URL")
@option("--study", metavar="NAME")
@option("--seed", type=int, default=1, show_default=True)
@_WORKERS
@option("--executor", type=click.Choice(["local", "ray"]), default="local", show_default=True)
@option("--report", type=click.Path(file_okay=False, path_type=Path), metavar="DIR")
@option("--out", type=click.Path(dir_okay=False, path_type=Path), metavar="PATH")
@option("--json", "as_json", is_flag=True)
def run(what: str, **given: Any) -> int:
    """Tune TARGET and verify what was found.

    mlsysopt tune run rocksdb --budget 6min --store tune.db --report report/
    """
    recipe = {
        **recipe_of(what, given),
        "maximize": list(given["maximize"]),
        "minimize": list(given["minimize"]),
        "guard": list(given["guard"]),
        "sampler": given["sampler"],
        "budget": given["budget"],
        "seed": given["seed"],
        "validity": given["validity"],
    }
    return _search(recipe, given)


@config_file
@tune.command()
@click.argument("store", metavar="STORE")
@option("--study", metavar="NAME")
@option("--budget", metavar="TIME|N")
@_WORKERS
@option("--executor", type=click.Choice(["local", "ray"]), default="local", show_default=True)
@option("--report", type=click.Path(file_okay=False, path_type=Path), metavar="DIR")
@option("--out", type=click.Path(dir_okay=False, path_type=Path), metavar="PATH")
@option("--json", "as_json", is_flag=True)
@click.option(
    "--rediscover", is_flag=True, help="The server has another version now: a new study of it, ranges searched anew."
)
def resume(store: str, study: str | None, budget: str | None, rediscover: bool, **given: Any) -> int:
    """Go on with the study in STORE: finished trials are kept, half a trial is marked lost."""
    recipe, name = stored_recipe(store, study)
    if budget is not None:
        recipe = {**recipe, "budget": budget}
    if rediscover:
        recipe = {key: recipe[key] for key in recipe if key != "charged_s"}
    try:
        return _search(recipe, {**given, "store": store, "study": name}, beside=rediscover)
    except StoreError as error:
        if "target.version" not in str(error):
            raise
        first, second, *_ = str(error).splitlines()
        raise StoreError(f"{first}\n{second}\n--rediscover begins a study of the new version beside it") from None


@config_file
@tune.command()
@click.argument("store", metavar="STORE")
@option("--study", metavar="NAME")
@click.option(
    "--rounds", type=int, metavar="N", help="Largest number of rounds (at least 6; default: up to 20, until decided)."
)
@click.option(
    "--top", type=click.IntRange(1), default=1, show_default=True, help="How many candidates are verified together."
)
@option("--report", type=click.Path(file_okay=False, path_type=Path), metavar="DIR")
@option("--out", type=click.Path(dir_okay=False, path_type=Path), metavar="PATH")
@option("--json", "as_json", is_flag=True)
def verify(store: str, study: str | None, rounds: int | None, top: int, **given: Any) -> int:
    """Verify the best candidates of STORE against the default, in fresh rounds."""
    from mlsysopt.cli.progress import listening

    target, recipe, name = stored(store, study)
    with listening() as listener:
        result = study_of(target, recipe, store, name, listener).verify(top=top, rounds=rounds)
    if result.status == "interrupted":
        click.echo("stopped; the same command goes on with the rounds that are finished", err=True)
    return _deliver(result, given)


@tune.command()
@click.argument("what", metavar="STORE|TARGET")
@option("--study", metavar="NAME")
@target_options
@option("--json", "as_json", is_flag=True)
def show(what: str, study: str | None, as_json: bool, **given: Any) -> int:
    """Show the trials of a STORE, or the knobs, metrics and guards of a TARGET."""
    from mlsysopt.cli import tune_show
    from mlsysopt.operate.tune import targets

    if targets.is_target(what):
        document = tune_show.describe_target(targets.restore(recipe_of(what, given)))
    else:
        from mlsysopt.core.store import Store

        with Store.open(what, create=False, read_only=True) as opened:
            document = tune_show.describe_study(opened, opened.find(study))
    if as_json:
        print_json(document.data)
    else:
        click.echo(document.text)
    return 0


@tune.command()
@click.argument("store", metavar="STORE")
@option("--study", metavar="NAME")
@click.option("--minimal", is_flag=True, help="Verify smaller sets of the winner's changes, and keep the smallest.")
@click.option("--rounds", type=click.IntRange(6), metavar="N", help="Rounds of --minimal (default: 8).")
@option("--out", type=click.Path(dir_okay=False, path_type=Path), metavar="PATH")
@option("--json", "as_json", is_flag=True)
def explain(store: str, study: str | None, minimal: bool, rounds: int | None, out: Path | None, as_json: bool) -> int:
    """Say which knobs moved which metric in the study of STORE, and which of them are needed."""
    if (out is not None or rounds is not None) and not minimal:
        raise UsageError("--out and --rounds belong to --minimal: give it as well")
    target, recipe, name = stored(store, study)
    if not minimal:
        explanation = study_of(target, recipe, store, name).explain()
        if as_json:
            print_json(explanation.to_json())
        else:
            click.echo(explanation.text())
        return 0
    from mlsysopt.cli.progress import listening
    from mlsysopt.core.study.minimal import ROUNDS

    with listening() as listener:
        found = study_of(target, recipe, store, name, listener).minimal(rounds=rounds or ROUNDS)
    if out is not None:
        found.write(out)
    if as_json:
        print_json(found.to_json())
    else:
        click.echo(found.text())
        if out is not None:
            click.echo(f"options file: {out}")
    return 0


@config_file
@tune.command()
@click.argument("what", metavar="TARGET")
@target_options
@option("--budget", default="45s", show_default=True, metavar="TIME")
@option("--store", metavar="URL")
@click.option("--again", is_flag=True, help="Probe again what is known from this machine.")
@option("--json", "as_json", is_flag=True)
def discover(what: str, budget: str, store: str | None, again: bool, as_json: bool, **given: Any) -> int:
    """Find the ranges that TARGET really takes, by starting it.

    mlsysopt tune discover postgres --knobs memory,wal --budget 45s
    """
    from mlsysopt.cli.progress import listening
    from mlsysopt.operate.tune import targets
    from mlsysopt.operate.tune.discovery import discover as search
    from mlsysopt.operate.tune.server_target import ServerTarget

    with listening() as listener:
        target = targets.restore(recipe_of(what, given))
        if not isinstance(target, ServerTarget):
            raise UsageError(f"target {what!r} cannot be probed: its ranges are what it declares")
        found = search(target, budget=budget, store=store, again=again, on_event=listener)
    if as_json:
        print_json(found.to_json())
    else:
        click.echo(found.text())
    return 0


def _search(recipe: dict[str, Any], given: dict[str, Any], *, beside: bool = False) -> int:
    from mlsysopt.cli.progress import listening
    from mlsysopt.operate.tune import targets

    with listening() as listener:
        target, name = targets.restore(recipe), given["study"]
        if beside:
            # Trials of two versions may not share a study: this one stands beside the old one.
            name = f"{name}/{target.fingerprint().get('version', 'new')}"
        target, recipe = _ranged(target, recipe, given["store"], listener)
        study = study_of(target, recipe, given["store"], name, listener)
        result = study.run(recipe["budget"], workers=given["workers"], executor=given["executor"])
    if result.status == "interrupted" and given["store"]:
        click.echo(
            f"stopped; go on with: mlsysopt tune resume {given['store']}\n"
            f"verify the best so far with: mlsysopt tune verify {given['store']}",
            err=True,
        )
    return _deliver(result, given)


def _ranged(target: Target, recipe: dict[str, Any], store: str | None, listener: Any) -> tuple[Target, dict[str, Any]]:
    """Search the valid ranges of a target that can be probed, as a part of the budget."""
    if recipe.get("validity", "none") != "all":
        return target, recipe
    from mlsysopt.core.study import Budget
    from mlsysopt.core.study.learning import PROBING_SHARE

    budget_s = Budget.parse(recipe["budget"]).seconds
    most_s = min(MOST_DISCOVERY_S, PROBING_SHARE * budget_s if budget_s is not None else MOST_DISCOVERY_S)
    target, seconds = discovered(target, budget_s=most_s, store=store, listener=listener)
    # On resume the ranges come from the store at once; what they cost then is what they cost the budget.
    return target, {**recipe, "charged_s": max(seconds, recipe.get("charged_s", 0.0))}


def study_of(
    target: Target, recipe: dict[str, Any], store: str | None, name: str | None, listener: Any = None
) -> Study:
    """Build the study that a recipe describes."""
    from mlsysopt.core.study import Study

    maximize, minimize = recipe["maximize"], recipe["minimize"]
    if not maximize and not minimize:
        own = getattr(target, "objective", None)
        if own is None:
            raise UsageError(f"target {target.name!r} names no metric of its own: pass --maximize or --minimize")
        better = target.metrics()[own].better
        maximize, minimize = ([own], []) if better == "higher" else ([], [own])
    return Study(
        target,
        maximize=maximize or None,
        minimize=minimize or None,
        guard=recipe["guard"] or None,
        sampler=recipe["sampler"],
        store=store,
        name=name,
        seed=recipe["seed"],
        recipe=recipe,
        on_event=listener,
        validity="none" if recipe.get("validity") == "none" else "auto",
        charged_s=recipe.get("charged_s", 0.0),
    )


def stored(store: str, study: str | None) -> tuple[Target, dict[str, Any], str]:
    """Read from a store its target, with the ranges that were found, its recipe and the name of its study."""
    from mlsysopt.operate.tune import targets

    recipe, name = stored_recipe(store, study)
    target = targets.restore(recipe)
    if recipe.get("validity") == "all":
        target, _ = discovered(target, budget_s=0.0, store=store)
    return target, recipe, name


def stored_recipe(store: str, study: str | None) -> tuple[dict[str, Any], str]:
    """Read from a store how its study was made, and its name."""
    from mlsysopt.core.store import Store

    with Store.open(store, create=False, read_only=True) as opened:
        info = opened.find(study)
        return _recipe(opened, info), info.name


def _recipe(store: Store, info: StudyInfo) -> dict[str, Any]:
    import optuna

    recipe = optuna.load_study(study_name=info.name, storage=store.optuna).user_attrs.get("recipe")
    if recipe is None:
        raise UsageError(
            f"study {info.name!r} was made from Python, so the store does not say how to build its target; "
            "use Study(...) with the same target and store"
        )
    return recipe


def _deliver(result: Result, given: dict[str, Any]) -> int:
    """Print the result and write what was asked for."""
    written: dict[str, str] = {}
    if given.get("out") is not None and result.status != "interrupted":
        written["out"] = str(result.write(given["out"]))
    if given.get("report") is not None:
        written["report"] = str(result.report(given["report"], command=shlex.join(["mlsysopt", *sys.argv[1:]])))
    if given.get("as_json"):
        print_json({**result.to_json(), "written": written, "exit_code": result.exit_code})
    else:
        click.echo(result.text())
        for what, path in written.items():
            click.echo(f"{'report' if what == 'report' else 'options file'}: {path}")
    return result.exit_code
