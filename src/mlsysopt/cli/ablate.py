"""`mlsysopt ablate`: run, plan, resume, show."""

from __future__ import annotations

import shlex
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from mlsysopt.cli.options import config_file, option, print_json
from mlsysopt.core.errors import StudyError, UsageError, near_misses

if TYPE_CHECKING:
    from mlsysopt.design.ablate.builder import Study
    from mlsysopt.design.ablate.result import Result


@click.group()
def ablate() -> None:
    """Find out which parts of a model are needed.

    Ablation studies after Sheikholeslami et al. (EuroMLSys 2021), with as many seeds as each question
    needs, error rates that hold whenever it stops, and proofs before anything trains.
    """


_STUDY = click.argument("what", metavar="STUDY.PY[:NAME]")
_SEEDS = option(
    "--seeds", default="adaptive", show_default=True, metavar="N", about="adaptive, or the seeds that every row gets"
)
_MAX_SEEDS = option("--max-seeds", type=int, default=10, show_default=True, about="seeds at most, at least 3")
_WORKERS = option("--workers", type=int, about="processes (default: all cores); 0 trains in this one")
_STRICT = option("--strict", is_flag=True, about="refuse to start when a component cannot be taken away")


@config_file
@ablate.command()
@_STUDY
@_SEEDS
@_MAX_SEEDS
@_WORKERS
@option("--executor", metavar="NAME")
@option("--budget", metavar="TIME|N")
@option("--timeout", metavar="TIME", about="longest training, e.g. 30s; each then has a process of its own")
@option("--trial-memory", metavar="SIZE", about="largest memory of a training, e.g. 2GiB; the same")
@_STRICT
@option("--new-store", is_flag=True, about="put an existing store aside and begin anew")
@option("--prune", is_flag=True, about="afterwards drop what is not needed, and verify what is left with fresh seeds")
@option("--store", metavar="URL")
@option("--study", metavar="NAME")
@option("--seed", type=click.IntRange(0), default=0, show_default=True)
@option("--report", type=click.Path(file_okay=False, path_type=Path), metavar="DIR")
@option("--json", "as_json", is_flag=True)
def run(what: str, **given: Any) -> int:
    """Train and judge the study that STUDY.PY defines.

    mlsysopt ablate run study.py --max-seeds 10 --workers 2 --budget 5min --report report/
    """
    study = load_study(what, given["store"], given["study"])
    recipe = {"file": str(Path(what.partition(":")[0]).resolve()), "what": what.partition(":")[2] or "study"}
    settings = {key: given[key] for key in ("seeds", "max_seeds", "timeout", "trial_memory", "seed")}
    return _train(study, {**recipe, "settings": settings}, given)


@config_file
@ablate.command()
@_STUDY
@_SEEDS
@_MAX_SEEDS
@_STRICT
@option("--list", "listed", is_flag=True, about="list the modules of the model instead")
@option("--json", "as_json", is_flag=True)
def plan(what: str, seeds: str, max_seeds: int, strict: bool, listed: bool, as_json: bool) -> int:
    """Show what would be trained, what is refused, and the price. Nothing is trained.

    mlsysopt ablate plan study.py --list
    """
    study = load_study(what, None, None)
    if listed:
        names = study.module_paths()
        if as_json:
            print_json({"modules": list(names)})
        else:
            click.echo("\n".join(names))
        return 0
    found = study.plan(max_seeds=max_seeds, seeds=seeds, strict=strict)
    if as_json:
        print_json(found.to_json())
    else:
        click.echo(str(found))
    return 0


@config_file
@ablate.command()
@click.argument("store", metavar="STORE")
@option("--study", metavar="NAME")
@_WORKERS
@option("--executor", metavar="NAME")
@option("--budget", metavar="TIME|N")
@option("--report", type=click.Path(file_okay=False, path_type=Path), metavar="DIR")
@option("--json", "as_json", is_flag=True)
def resume(store: str, study: str | None, **given: Any) -> int:
    """Go on with the study in STORE: finished trainings are kept, half ones are lost and run again."""
    recipe, name = _recipe(store, study)
    if "file" not in recipe:
        raise UsageError(
            f"store {store}: its study was made from Python, which the store cannot build again\n"
            "call run() of the same study with the same store"
        )
    built = load_study(f"{recipe['file']}:{recipe['what']}", store, name)
    return _train(built, recipe, {**recipe["settings"], "strict": False, "new_store": False, "prune": False, **given})


@ablate.command()
@click.argument("store", metavar="STORE")
@option("--study", metavar="NAME")
@option("--report", type=click.Path(file_okay=False, path_type=Path), metavar="DIR")
@option("--json", "as_json", is_flag=True)
def show(store: str, study: str | None, report: Path | None, as_json: bool) -> int:
    """Show the last table of the study in STORE."""
    from mlsysopt.core.store import Store
    from mlsysopt.design.ablate.records import Records, only_study
    from mlsysopt.design.ablate.result import Result

    with Store.open(store, create=False, read_only=True) as opened:
        records = Records(opened, only_study(opened, study))
    if records.result is None:
        raise UsageError(
            f"store {store} holds {len(records.trials())} trainings and no table yet: mlsysopt ablate resume {store}"
        )
    result = Result.from_json(records.result)
    written = {"report": str(result.report(report, command=_command()))} if report is not None else {}
    _print(result, written, as_json)
    return 0


def load_study(what: str, store: str | None, name: str | None) -> Study:
    """Import a study file and return the study that it defines.

    Args:
        what: Path, and after a colon the variable's name when it is not `study`.
        store: Takes the place of the study's own store.
        name: Takes the place of its name.

    Raises:
        StudyError: no such file or variable, or the file raises.
    """
    from importlib.machinery import all_suffixes

    from mlsysopt.core.errors import MlsysoptError
    from mlsysopt.core.plugins import module_at
    from mlsysopt.design.ablate.builder import Study

    file, _, variable = what.partition(":")
    path = Path(file)
    if not path.is_file():
        here = [str(one) for one in path.parent.glob("*.py")] if path.parent.is_dir() else []
        raise StudyError(f"no study file {file!r}; {near_misses(file, here, noun='file')}")
    # Neighbours of the file can be imported by it, here and in the workers.
    sys.path.insert(0, str(path.resolve().parent))
    if not path.name.endswith(tuple(all_suffixes())):
        raise StudyError(f"{file!r} is no Python file")
    try:
        module = module_at(path.resolve(), f"mlsysopt_study_{path.stem}")
    except MlsysoptError:
        raise
    except Exception as error:
        trace = error.__traceback__
        while trace is not None and trace.tb_next is not None:
            trace = trace.tb_next
        where = f"{trace.tb_frame.f_code.co_filename}:{trace.tb_lineno}" if trace is not None else file
        raise StudyError(f"{file} cannot be imported: {type(error).__name__}: {error} ({where})") from error
    variable = variable or "study"
    found = getattr(module, variable, None)
    if not isinstance(found, Study):
        studies = [key for key, value in vars(module).items() if isinstance(value, Study)]
        said = f"is a {type(found).__name__}" if hasattr(module, variable) else "is not defined"
        raise StudyError(
            f"{file}: {variable!r} {said}; {near_misses(variable, studies, noun='variable')}\n"
            "the file must define study = ablate.study(...), or name another one: FILE.py:NAME"
        )
    if store is not None:
        found.store = store
    if name is not None:
        found.name = name
    return found


def _recipe(store: str, study: str | None) -> tuple[dict[str, Any], str]:
    from mlsysopt.core.store import Store
    from mlsysopt.design.ablate.records import Records, only_study

    with Store.open(store, create=False, read_only=True) as opened:
        name = only_study(opened, study)
        return Records(opened, name).recipe, name


def _train(study: Study, recipe: dict[str, Any], given: dict[str, Any]) -> int:
    result = study.run(
        seeds=given["seeds"],
        max_seeds=given["max_seeds"],
        first_seed=given["seed"],
        workers=given["workers"],
        executor=given["executor"],
        budget=given["budget"],
        timeout=given["timeout"],
        memory=given["trial_memory"],
        strict=given["strict"],
        new_store=given["new_store"],
        tell=lambda line: click.echo(line, err=True),
        recipe=recipe,
    )
    if given["prune"] and result.exit_code in (0, 4):
        result = study.prune(result, workers=given["workers"], tell=lambda line: click.echo(line, err=True))
    if result.status in ("interrupted", "budget") and study.store is not None:
        click.echo(f"go on with: mlsysopt ablate resume {study.store}", err=True)
    written: dict[str, str] = {}
    if given["report"] is not None:
        written["report"] = str(result.report(given["report"], command=_command()))
    _print(result, written, given["as_json"])
    return result.exit_code


def _print(result: Result, written: dict[str, str], as_json: bool) -> None:
    if as_json:
        print_json({**result.to_json(), "written": written})
        return
    click.echo(result.table())
    for what, path in written.items():
        click.echo(f"{what}: {path}")


def _command() -> str:
    return shlex.join(["mlsysopt", *sys.argv[1:]])
