"""`mlsysopt tune`: run, resume, verify, show, explain."""

from __future__ import annotations

import shlex
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from mlsysopt.cli.options import config_file, option, print_json
from mlsysopt.core.errors import UsageError

if TYPE_CHECKING:
    from mlsysopt.core.store import Store, StudyInfo
    from mlsysopt.core.study import Result, Study
    from mlsysopt.core.target import Target


@click.group()
def tune() -> None:
    """Tune a real system: choose, measure, verify.

    Multi-task Bayesian optimisation after Alabed and Yoneki (EuroMLSys 2021). Every trial is paired
    with a run of the default; what is reported was verified in fresh interleaved rounds.
    """


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
@click.option("--maximize", multiple=True, metavar="METRIC", help="Metric to make larger (default: the target's own).")
@click.option("--minimize", multiple=True, metavar="METRIC", help="Metric to make smaller.")
@click.option(
    "--guard", multiple=True, metavar="LIMIT", help="What must not get worse: 'p99_get_us<=1.1x', 'p99_get_us=off'."
)
@option("--budget", default="20", show_default=True, metavar="TIME|N")
@click.option(
    "--sampler",
    default="auto",
    show_default=True,
    metavar="NAME",
    help="structured, icm, tpe, gp, random, qmc, cmaes ...",
)
@click.option("--workload", metavar="NAME", help="Workload preset of the target, e.g. mixgraph.")
@click.option("--knobs", metavar="PRESET|A,B", help="Which knobs: a preset (paper10, wide) or names.")
@click.option("--engine", metavar="NAME", help="Engine of the target, e.g. auto, db_bench, embedded.")
@option("--memory", metavar="SIZE")
@option("--threads", type=click.IntRange(1), metavar="N")
@click.option("--directory", type=click.Path(path_type=Path), help="Folder on the file system that verification uses.")
@click.option("--set", "settings", multiple=True, metavar="KEY=VALUE", help="Override a setting of the workload.")
@click.option("--unfence", multiple=True, metavar="GROUP", help="Allow knobs of a fenced group, e.g. durability.")
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
    from mlsysopt.operate.tune import targets

    settings = {
        "workload": given["workload"],
        "knobs": given["knobs"],
        "engine": given["engine"],
        "memory": given["memory"],
        "threads": given["threads"],
        "directory": str(given["directory"]) if given["directory"] else None,
        "settings": _pairs(given["settings"]) or None,
        "unfence": list(given["unfence"]) or None,
    }
    recipe = {
        "target": what,
        "settings": {key: value for key, value in settings.items() if value is not None},
        "maximize": list(given["maximize"]),
        "minimize": list(given["minimize"]),
        "guard": list(given["guard"]),
        "sampler": given["sampler"],
        "budget": given["budget"],
        "seed": given["seed"],
    }
    target = targets.restore(recipe)
    return _search(target, recipe, given)


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
def resume(store: str, study: str | None, budget: str | None, **given: Any) -> int:
    """Go on with the study in STORE: finished trials are kept, half a trial is marked lost."""
    target, recipe, name = stored(store, study)
    if budget is not None:
        recipe = {**recipe, "budget": budget}
    return _search(target, recipe, {**given, "store": store, "study": name})


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
@click.option("--knobs", metavar="PRESET|A,B", help="Which knobs of a target to show.")
@click.option("--workload", metavar="NAME", help="Workload preset of the target.")
@click.option("--engine", metavar="NAME", help="Engine of the target.")
@option("--memory", metavar="SIZE")
@option("--json", "as_json", is_flag=True)
def show(what: str, study: str | None, as_json: bool, **given: Any) -> int:
    """Show the trials of a STORE, or the knobs, metrics and guards of a TARGET."""
    from mlsysopt.cli import tune_show
    from mlsysopt.operate.tune import targets

    if what in targets.names():
        document = tune_show.describe_target(targets.create(what, **given))
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
@option("--json", "as_json", is_flag=True)
def explain(store: str, study: str | None, as_json: bool) -> int:
    """Say which knobs moved which metric in the study of STORE."""
    target, recipe, name = stored(store, study)
    explanation = study_of(target, recipe, store, name).explain()
    if as_json:
        print_json(explanation.to_json())
    else:
        click.echo(explanation.text())
    return 0


def _search(target: Target, recipe: dict[str, Any], given: dict[str, Any]) -> int:
    from mlsysopt.cli.progress import listening

    with listening() as listener:
        study = study_of(target, recipe, given["store"], given["study"], listener)
        result = study.run(recipe["budget"], workers=given["workers"], executor=given["executor"])
    if result.status == "interrupted" and given["store"]:
        click.echo(
            f"stopped; go on with: mlsysopt tune resume {given['store']}\n"
            f"verify the best so far with: mlsysopt tune verify {given['store']}",
            err=True,
        )
    return _deliver(result, given)


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
    )


def stored(store: str, study: str | None) -> tuple[Target, dict[str, Any], str]:
    """Read from a store its target, its recipe and the name of its study."""
    from mlsysopt.core.store import Store
    from mlsysopt.operate.tune import targets

    with Store.open(store, create=False, read_only=True) as opened:
        info = opened.find(study)
        recipe = _recipe(opened, info)
    return targets.restore(recipe), recipe, info.name


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


def _pairs(given: tuple[str, ...]) -> dict[str, str]:
    pairs: dict[str, str] = {}
    for text in given:
        key, sign, value = text.partition("=")
        if not sign or not key.strip():
            raise UsageError(f"--set {text!r}: a setting looks like KEY=VALUE, for example num=300000")
        pairs[key.strip()] = value.strip()
    return pairs
