"""`mlsysopt estimate`: run, plan, explain."""

from __future__ import annotations

import shlex
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from mlsysopt.cli.options import config_file, option, print_json
from mlsysopt.core.errors import UsageError

if TYPE_CHECKING:
    from mlsysopt.train.estimate import Estimate, Ratings
    from mlsysopt.train.estimate.measuring import Note

_COLUMNS = "Columns of user, item and rating: names, or numbers from 0 for a file without names."
_DUPLICATES = "What becomes of a pair that occurs twice: each trainer's own way, the last, or the mean."


@click.group()
def estimate() -> None:
    """Say how long a training will take, and whether it fits, before it starts.

    Cost terms are read from the algorithm and timed on small samples, after Paun, Moshfeghi and
    Ntarmos (EuroMLSys 2021). Exit code of run: 0 the whole interval lies inside the limits, 1 outside,
    4 a limit lies inside the interval.
    """


@config_file
@estimate.command()
@click.argument("ratings", type=click.Path(path_type=Path), metavar="RATINGS")
@option("--trainer", about="Name of the trainer, or MODULE:NAME of one of your own.", required=True, metavar="NAME")
@option("--set", "settings", about="A hyper-parameter, for example n_factors=50.", multiple=True, metavar="KEY=VALUE")
@option("--columns", about=_COLUMNS, metavar="USER,ITEM,RATING")
@option("--duplicates", about=_DUPLICATES, type=click.Choice(["keep", "last", "mean"]), default="keep")
@option("--budget", default="20s", show_default=True, metavar="TIME")
@option("--memory", metavar="SIZE")
@option("--within", about="Elapsed time that the training may take, e.g. 10min.", metavar="TIME")
@option(
    "--protocol",
    about="Paper: at most 10 % of the rows, with the epochs and factors in question.",
    type=click.Choice(["default", "paper"]),
    default="default",
)
@option(
    "--predictor",
    about="Average: the mean of white box and log-log.",
    type=click.Choice(["whitebox", "average"]),
    default="whitebox",
)
@option("--always", about="Sample even where training costs less than asking.", is_flag=True)
@option(
    "--model",
    about="Estimate whose samples are used instead of new ones.",
    type=click.Path(dir_okay=False, path_type=Path),
    metavar="FILE",
)
@option("--transfer", about="Let --model be of another machine or data: time three rungs here.", is_flag=True)
@option("--store", metavar="URL")
@option("--executor", metavar="NAME", default="inprocess", show_default=True)
@option("--seed", type=int, default=0, show_default=True)
@option("--report", type=click.Path(file_okay=False, path_type=Path), metavar="DIR")
@option("--out", type=click.Path(dir_okay=False, path_type=Path), metavar="PATH")
@option("--json", "as_json", is_flag=True)
def run(ratings: Path, **given: Any) -> int:
    """Forecast time and memory of one training on RATINGS.

    mlsysopt estimate run ratings.csv --trainer svd --set n_epochs=20 --within 10min
    """
    from mlsysopt.train import estimate as area

    data = _read(ratings, given)
    with _executor(given["executor"]) as where:
        found = area.run(
            data,
            given["trainer"],
            _pairs(given["settings"]),
            budget=given["budget"],
            memory=given["memory"],
            within=given["within"],
            seed=given["seed"],
            protocol=given["protocol"],
            predictor=given["predictor"],
            always=given["always"],
            model=given["model"],
            transfer=given["transfer"],
            store=_store(given["store"]),
            executor=where,
            watch=_show,
        )
    return _deliver(found, given)


@config_file
@estimate.command()
@click.argument("ratings", type=click.Path(path_type=Path), metavar="RATINGS")
@option("--trainer", "trainers", about="A trainer to consider (default: all).", multiple=True, metavar="NAME")
@option("--columns", about=_COLUMNS, metavar="USER,ITEM,RATING")
@option("--duplicates", about=_DUPLICATES, type=click.Choice(["keep", "last", "mean"]), default="keep")
@option("--time", about="Elapsed time that a training may take, e.g. 10min.", metavar="TIME")
@option("--memory", metavar="SIZE")
@option("--budget", default="60s", show_default=True, metavar="TIME")
@option("--rmse", about="Also show the error on unseen ratings of the sampled rows.", is_flag=True)
@option("--store", metavar="URL")
@option("--executor", metavar="NAME", default="inprocess", show_default=True)
@option("--seed", type=int, default=0, show_default=True)
@option("--report", type=click.Path(file_okay=False, path_type=Path), metavar="DIR")
@option("--out", type=click.Path(dir_okay=False, path_type=Path), metavar="PATH")
@option("--json", "as_json", is_flag=True)
def plan(ratings: Path, **given: Any) -> int:
    """Say which trainers fit into a time and a memory on RATINGS.

    mlsysopt estimate plan ratings.csv --time 10min --memory 8GiB --report report/
    """
    from mlsysopt.train import estimate as area

    data = _read(ratings, given)
    with _executor(given["executor"]) as where:
        found = area.plan(
            data,
            time=given["time"],
            memory=given["memory"],
            trainers=list(given["trainers"]) or None,
            budget=given["budget"],
            rmse=given["rmse"],
            seed=given["seed"],
            store=_store(given["store"]),
            executor=where,
            watch=_show,
        )
    written: dict[str, str] = {}
    if given["out"] is not None:
        given["out"].write_text(found.to_json() + "\n", encoding="utf-8")
        written["plan"] = str(given["out"])
    if given["report"] is not None:
        written["report"] = str(found.report(given["report"], command=_command()))
    if given["as_json"]:
        print_json({**found.as_dict(), "written": written})
    else:
        click.echo(str(found))
        _say_written(written)
    return found.exit_code


@estimate.command()
@click.argument("file", type=click.Path(path_type=Path), metavar="FILE")
@option("--set", "settings", about="Another hyper-parameter, without a new sample.", multiple=True, metavar="KEY=VALUE")
@option("--elsewhere", about="Show an estimate of another machine as it is.", is_flag=True)
@option("--report", type=click.Path(file_okay=False, path_type=Path), metavar="DIR")
@option("--json", "as_json", is_flag=True)
def explain(file: Path, settings: tuple[str, ...], elsewhere: bool, report: Path | None, as_json: bool) -> int:
    """Show formula, samples, rivals, memory and what-if grid of an estimate FILE.

    mlsysopt estimate explain ratings.estimate.json --set n_epochs=40
    """
    from mlsysopt.core.measure import machine
    from mlsysopt.train.estimate import Estimate
    from mlsysopt.train.estimate import explain as shown

    found = Estimate.read(file)
    here = machine().key()
    if found.machine != here and not elsewhere:
        raise UsageError(
            f"{file} was made on machine {found.machine}, this is {here}\n"
            f"re-time three rungs here: mlsysopt estimate run RATINGS --trainer {found.trainer} --model {file} "
            "--transfer\nor see it as it was: --elsewhere"
        )
    if settings:
        found = found.changed(_pairs(settings))
    written: dict[str, str] = {}
    if report is not None:
        written["report"] = str(found.report(report, command=_command()))
    if as_json:
        print_json({**shown.details(found), "written": written})
    else:
        click.echo(shown.explanation(found))
        _say_written(written)
    return 0


def _read(path: Path, given: dict[str, Any]) -> Ratings:
    from mlsysopt.train.estimate import Ratings

    columns: list[str | int] | None = None
    if given["columns"] is not None:
        parts = [part.strip() for part in given["columns"].split(",")]
        columns = [int(part) if part.isdigit() else part for part in parts]
    if path.suffix == ".parquet":
        names = None if columns is None else [str(one) for one in columns]
        found = Ratings.from_parquet(path, columns=names, duplicates=given["duplicates"])
    else:
        found = Ratings.from_csv(path, columns=columns, duplicates=given["duplicates"])
    if given["duplicates"] == "keep" and found.n_duplicates:
        click.echo(
            f"{found.n_duplicates} ratings repeat a pair of user and item: Surprise keeps them, a matrix adds them up; "
            "--duplicates last or mean decides",
            err=True,
        )
    return found


def _deliver(found: Estimate, given: dict[str, Any]) -> int:
    written: dict[str, str] = {}
    if given["out"] is not None:
        written["estimate"] = str(found.write(given["out"]))
    if given["report"] is not None:
        written["report"] = str(found.report(given["report"], command=_command()))
    if given["as_json"]:
        from mlsysopt.train.estimate.explain import details

        print_json({**details(found), "written": written})
    else:
        click.echo(str(found))
        _say_written(written)
    return found.exit_code


def _executor(name: str) -> Any:
    from mlsysopt.core.executors import executor

    return executor(name)


def _store(url: str | None) -> str | Path:
    """Return where samples are kept: without a word from the user, in the state folder, so that a run resumes."""
    if url is not None:
        return url
    from mlsysopt.core.places import state_dir

    return state_dir() / "estimate.db"


def _show(note: Note) -> None:
    click.echo(note.text, err=True)


def _pairs(given: tuple[str, ...]) -> dict[str, str]:
    pairs: dict[str, str] = {}
    for text in given:
        key, sign, value = text.partition("=")
        if not sign or not key.strip():
            raise UsageError(f"--set {text!r}: a hyper-parameter looks like KEY=VALUE, for example n_factors=50")
        pairs[key.strip()] = value.strip()
    return pairs


def _command() -> str:
    return shlex.join(["mlsysopt", *sys.argv[1:]])


def _say_written(written: dict[str, str]) -> None:
    for what, path in written.items():
        click.echo(f"{what}: {path}")
