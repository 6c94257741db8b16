"""`mlsysopt infer`: fit, explain, execute, probability, predict, verify, resume."""

from __future__ import annotations

import importlib
import shlex
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from mlsysopt.cli.options import config_file, option, print_json
from mlsysopt.core.errors import UsageError, near_misses
from mlsysopt.core.plugins import module_at

if TYPE_CHECKING:
    from mlsysopt.infer import Compiled, Fit

_SET = "A number that the model takes, for example K=4."
_DATA = "An array that the model takes: a .csv (with :column), .npy, .npz or .json file."
_SHAPE = "Sizes of an observed array that is to be drawn, for example y=200 or y=20x3."


@click.group()
def infer() -> None:
    """Write a probabilistic model as a Python function, get compiled, checked inference.

    Every variable gets the best update that can be proved legal, after Vate (Goodman et al., EuroMLSys
    2021). Exit code of fit, resume and probability: 4 where the answer is not proven (not converged).
    """


def _model_options(command: Any) -> Any:
    for one in (
        option(
            "--missing",
            about="What becomes of empty and NaN cells of observed arrays.",
            type=click.Choice(["error", "latent"]),
            default="error",
            show_default=True,
        ),
        option(
            "--fix",
            "fixes",
            about="A variable that is given: NAME=number or NAME=FILE.",
            multiple=True,
            metavar="NAME=VALUE",
        ),
        option("--data", about=_DATA, multiple=True, metavar="NAME=FILE"),
        option("--set", "settings", about=_SET, multiple=True, metavar="NAME=NUMBER"),
    ):
        command = one(command)
    return command


@config_file
@infer.command()
@click.argument("model", metavar="FILE.py:MODEL")
@_model_options
@option("--draws", about="Kept states of each chain.", type=int, default=1000, show_default=True)
@option("--warmup", about="Sweeps before them; without it as many as draws, at most 1000.", type=int)
@option("--thin", about="Sweeps for each kept state.", type=int, default=1, show_default=True)
@option("--chains", about="Independent chains.", type=int, default=4, show_default=True)
@option(
    "--backend",
    about="Where chains run; the draws are the same.",
    type=click.Choice(["python", "single", "threads", "executor"]),
    default="threads",
    show_default=True,
)
@option("--executor", metavar="NAME", default="local", show_default=True)
@option(
    "--method",
    about="Gibbs sweeps, NUTS, or what suits the model.",
    type=click.Choice(["auto", "gibbs", "nuts"]),
    default="auto",
    show_default=True,
)
@option(
    "--retain", about="How a variable is kept: none, samples, map, both or summary.", multiple=True, metavar="NAME=HOW"
)
@option("--seed", type=int, default=0, show_default=True)
@option(
    "--out",
    type=click.Path(file_okay=False, path_type=Path),
    metavar="DIR",
)
@option("--report", type=click.Path(file_okay=False, path_type=Path), metavar="DIR")
@option("--json", "as_json", is_flag=True)
def fit(model: str, **given: Any) -> int:
    """Draw from the posterior of a model.

    mlsysopt infer fit hmm.py:hmm --set K=4 --set M=8 --data y=y.csv --chains 4 --out fit/
    """
    compiled = _compiled(model, given)
    for name, how in _pairs(given["retain"], "--retain"):
        _variable(compiled, name).retain = how
    executor = _executor(given["executor"]) if given["backend"] == "executor" else None
    with _progress(given["chains"]) as progress:
        found = compiled.infer(
            given["draws"],
            warmup=given["warmup"],
            thin=given["thin"],
            chains=given["chains"],
            seed=given["seed"],
            backend=given["backend"],
            executor=executor,
            method=given["method"],
            out=given["out"],
            progress=progress,
        )
    return _tell(found, given["report"], given["as_json"])


@infer.command()
@click.argument("folder", type=click.Path(path_type=Path), metavar="FIT")
@option(
    "--backend", about="Where chains run; the draws are the same.", type=click.Choice(["python", "single", "threads"])
)
@option("--report", type=click.Path(file_okay=False, path_type=Path), metavar="DIR")
@option("--json", "as_json", is_flag=True)
def resume(folder: Path, backend: str | None, report: Path | None, as_json: bool) -> int:
    """Go on with a fit that was stopped or killed; show one that is finished."""
    from mlsysopt.infer import Folder
    from mlsysopt.infer import resume as go_on

    chains = Folder.open(folder).content["settings"]["chains"]
    with _progress(chains) as progress:
        found = go_on(folder, backend=backend, progress=progress)
    return _tell(found, report, as_json)


@infer.command()
@click.argument("model", metavar="FILE.py:MODEL")
@_model_options
@option("--shape", "shapes", about=_SHAPE, multiple=True, metavar="NAME=SIZE")
@option("--json", "as_json", is_flag=True)
def explain(model: str, as_json: bool, **given: Any) -> int:
    """Say which update each variable gets, what it costs, and why nothing better."""
    compiled = _compiled(model, given)
    if as_json:
        chosen = compiled.plan()
        print_json(
            [
                {
                    "variables": one.update.variables,
                    "rule": one.update.rule,
                    "about": one.update.about,
                    "refused": {
                        variable: {rule: str(why) for rule, why in refused.items()}
                        for variable, refused in one.refused.items()
                    },
                }
                for one in chosen.choices
            ]
        )
    else:
        click.echo(compiled.explain())
    return 0


@infer.command()
@click.argument("model", metavar="FILE.py:MODEL")
@_model_options
@option("--shape", "shapes", about=_SHAPE, multiple=True, metavar="NAME=SIZE")
@option("--draws", "n", about="How many times.", type=int, default=1, show_default=True)
@option("--seed", type=int, default=0, show_default=True)
@option(
    "--out",
    type=click.Path(dir_okay=False, path_type=Path),
    metavar="FILE",
)
@option("--json", "as_json", is_flag=True)
def execute(model: str, n: int, seed: int, out: Path | None, as_json: bool, **given: Any) -> int:
    """Draw every variable and observation forward: synthetic data.

    mlsysopt infer execute hmm.py:hmm --set K=4 --set M=8 --shape y=200 --seed 3 --out data.npz
    """
    compiled = _compiled(model, given)
    return _arrays(compiled.execute(None if n == 1 else n, seed=seed), out, as_json)


@infer.command()
@click.argument("folder", type=click.Path(path_type=Path), metavar="FIT")
@option("--draws", "n", about="How many replicated data sets.", type=int, default=100, show_default=True)
@option("--seed", type=int, default=0, show_default=True)
@option(
    "--out",
    type=click.Path(dir_okay=False, path_type=Path),
    metavar="FILE",
)
@option("--json", "as_json", is_flag=True)
def predict(folder: Path, n: int, seed: int, out: Path | None, as_json: bool) -> int:
    """Draw replicated observations from a finished fit."""
    return _arrays(_read_fit(folder).predict(n, seed=seed), out, as_json)


@infer.command()
@click.argument("folder", type=click.Path(path_type=Path), metavar="FIT")
@option("--data", about=_DATA, multiple=True, metavar="NAME=FILE")
@option("--set", "settings", about=_SET, multiple=True, metavar="NAME=NUMBER")
@option("--tol", about="Standard error of the log at which drawing stops.", type=float, default=0.05, show_default=True)
@option("--seed", type=int, default=0, show_default=True)
@option("--json", "as_json", is_flag=True)
def probability(folder: Path, tol: float, seed: int, as_json: bool, **given: Any) -> int:
    """Estimate the log probability of new data under a finished fit.

    mlsysopt infer probability fit/ --data y=new.csv
    """
    compiled = _read_fit(folder).compiled
    found = compiled.probability(tol=tol, seed=seed, **_inputs({**given, "shapes": ()}, compiled.model.inputs))
    if as_json:
        print_json(
            {
                "log_value": found.log_value,
                "se": found.se,
                "draws": found.draws,
                "effective": found.effective,
                "ok": found.ok,
            }
        )
    else:
        click.echo(str(found))
    return 0 if found.ok else 4


@infer.command()
@click.argument("model", metavar="FILE.py:MODEL")
@_model_options
@option("--shape", "shapes", about=_SHAPE, multiple=True, metavar="NAME=SIZE")
@option("--replicates", about="Simulated data sets.", type=int, default=500, show_default=True)
@option("--seed", type=int, default=0, show_default=True)
@option("--json", "as_json", is_flag=True)
def verify(model: str, replicates: int, seed: int, as_json: bool, **given: Any) -> int:
    """Check the inference on this very model: simulation-based calibration and the Geweke test.

    Exit code: 0 it passes, 1 it fails, 4 too few replicates to tell.
    """
    compiled = _compiled(model, given)
    found = compiled.verify(replicates, seed=seed, progress=_parts())
    if as_json:
        print_json(found.to_json())
    else:
        click.echo(found.text())
    return found.exit_code


# What the verbs share.


def _compiled(text: str, given: dict[str, Any]) -> Compiled:
    from mlsysopt.infer import Model

    found = _load(text)
    model = found if isinstance(found, Model) else Model(found)
    compiled = model(missing=given["missing"], **_inputs(given, model.inputs))
    for name, value in _pairs(given["fixes"], "--fix"):
        _variable(compiled, name).fix(_value(value, name))
    return compiled


def _variable(compiled: Compiled, name: str) -> Any:
    try:
        return compiled[name]
    except AttributeError as error:
        raise UsageError(str(error)) from None


def _load(text: str) -> Callable[..., Any]:
    """Return the model of `FILE.py:NAME` or `MODULE:NAME`."""
    place, _, name = text.rpartition(":")
    if not place or not name:
        raise UsageError(f"{text!r} names no model: write FILE.py:MODEL, for example hmm.py:hmm")
    if place.endswith(".py"):
        path = Path(place)
        if not path.is_file():
            raise UsageError(f"there is no file {place}")
        try:
            module = module_at(path, f"mlsysopt_model_{path.stem}")
        except Exception as error:
            raise UsageError(f"{place} cannot be imported: {type(error).__name__}: {error}") from error
    else:
        sys.path.insert(0, "")
        try:
            module = importlib.import_module(place)
        except ImportError as error:
            raise UsageError(f"{place} cannot be imported: {error}") from None
    found = getattr(module, name, None)
    if not callable(found):
        known = [
            one
            for one, value in vars(module).items()
            if callable(value) and getattr(value, "__module__", "") == module.__name__
        ]
        raise UsageError(f"{place} has no model {name!r}; {near_misses(name, known, noun='model')}")
    return found


def _inputs(given: dict[str, Any], names: Sequence[str]) -> dict[str, Any]:
    from mlsysopt.infer import Shape
    from mlsysopt.infer.data_files import read_data

    found: dict[str, Any] = {}
    for flag, key in (("--set", "settings"), ("--data", "data"), ("--shape", "shapes")):
        for name, value in _pairs(given.get(key, ()), flag):
            if name not in names:
                raise UsageError(
                    f"{flag} {name}={value}: the model has no input {name!r}; {near_misses(name, names, noun='input')}"
                )
            if name in found:
                raise UsageError(f"{flag} {name}={value}: {name} is given twice")
            if flag == "--set":
                found[name] = _number(value, f"{flag} {name}={value}")
            elif flag == "--data":
                found[name] = read_data(value, name)
            else:
                found[name] = Shape(*(_whole(one, f"{flag} {name}={value}") for one in value.lower().split("x")))
    return found


_WRITTEN = {"--set": "NUMBER", "--data": "FILE", "--retain": "HOW"}
"""What follows the sign, where `--help` says more than VALUE."""


def _pairs(given: Sequence[str], flag: str) -> list[tuple[str, str]]:
    found: list[tuple[str, str]] = []
    for text in given:
        name, sign, value = text.partition("=")
        if not sign or not name or not value:
            raise UsageError(f"{flag} {text}: write NAME={_WRITTEN.get(flag, 'VALUE')}")
        found.append((name, value))
    return found


def _value(text: str, name: str) -> Any:
    from mlsysopt.infer.data_files import read_data

    try:
        return _number(text, "")
    except UsageError:
        return read_data(text, name)


def _number(text: str, flag: str) -> int | float:
    for kind in (int, float):
        try:
            return kind(text)
        except ValueError:
            continue
    raise UsageError(f"{flag}: {text!r} is no number; arrays come by --data")


def _whole(text: str, flag: str) -> int:
    try:
        return int(text)
    except ValueError:
        raise UsageError(f"{flag}: sizes are whole numbers, such as y=200 or y=20x3") from None


def _executor(name: str) -> Any:
    from mlsysopt.core.executors import executor

    return executor(name)


def _read_fit(folder: Path) -> Fit:
    from mlsysopt.infer import Folder
    from mlsysopt.infer import resume as go_on

    content = Folder.open(folder).content
    if "result" not in content or content["result"]["stopped"]:
        raise UsageError(f"{folder} is not finished: mlsysopt infer resume {shlex.quote(str(folder))}")
    return go_on(folder)


def _tell(found: Fit, report: Path | None, as_json: bool) -> int:
    from mlsysopt.infer.report import report as make

    page = make(found, shlex.join(["mlsysopt", *sys.argv[1:]])).write(report) if report is not None else None
    if as_json:
        rows = [
            {
                "name": r.name,
                "mean": r.mean,
                "sd": r.sd,
                "q5": r.low,
                "q95": r.high,
                "rhat": _finite(r.rhat),
                "ess_bulk": _finite(r.ess_bulk),
                "ess_tail": _finite(r.ess_tail),
            }
            for r in found.diagnosis.rows
        ]
        print_json(
            {
                "ok": found.ok,
                "verdict": found.verdict(),
                "method": found.method,
                "rules": dict(found.rules),
                "settings": dict(found.settings),
                "cpu_s": found.cpu_s,
                "lost": {str(k): v for k, v in found.lost.items()},
                "summary": rows,
            }
        )
    else:
        click.echo(found.summary())
    if page is not None:
        click.echo(f"report: {page}", err=True)
    if found.stopped:
        return 130
    return 1 if found.lost else 0 if found.ok else 4


def _finite(value: float) -> float | None:
    return value if value == value else None


def _arrays(found: dict[str, Any], out: Path | None, as_json: bool) -> int:
    """Write arrays to a file, print them all as JSON, or show how each begins."""
    import numpy as np

    flat: dict[str, Any] = {}
    for name, value in found.items():
        flat[name] = np.concatenate(value) if isinstance(value, list) else np.asarray(value)
        if isinstance(value, list):
            flat[f"{name}_starts"] = np.concatenate([[0], np.cumsum([len(one) for one in value])])
    if out is not None:
        np.savez(out, **flat)
        click.echo(f"{out}: {', '.join(f'{name} {value.shape}' for name, value in flat.items())}", err=True)
    if as_json:
        plain = {
            name: [one.tolist() for one in value] if isinstance(value, list) else np.asarray(value).tolist()
            for name, value in found.items()
        }
        print_json(plain)
    elif out is None:
        for name, value in flat.items():
            begins = " ".join(f"{one:.4g}" for one in value.reshape(-1)[:8])
            click.echo(f"{name} {value.shape}: {begins}{' ...' if value.size > 8 else ''}")
        click.echo("--out FILE.npz writes all of it, --json prints it", err=True)
    return 0


def _progress(chains: int) -> Any:
    from mlsysopt.cli.progress import chains_running

    return chains_running(chains)


def _parts() -> Callable[[str, int, int], None]:
    last: dict[str, tuple[str, int]] = {}

    def tell(part: str, done: int, whole: int) -> None:
        tenth = 10 * done // max(whole, 1)
        if (part, tenth) != last.get("said"):
            last["said"] = (part, tenth)
            click.echo(f"{part}: {done} of {whole}", err=True)

    return tell
