"""`mlsysopt doctor`: what is here, and the line that installs what is not."""

from __future__ import annotations

import importlib.metadata
import importlib.util
import sys
from dataclasses import asdict, dataclass

import click

from mlsysopt.cli.options import option, print_json


@dataclass(frozen=True, slots=True)
class Finding:
    """One program or extra: present or not, and what to type."""

    what: str
    kind: str
    present: bool
    detail: str
    install: str


@click.command()
@option("--json", "as_json", is_flag=True)
def doctor(as_json: bool) -> int:
    """List programs and extras, present or missing, with the line that installs each missing one.

    Exit code 0 even when something is missing: nothing is required that you do not use.
    """
    from mlsysopt.core.measure import machine

    findings = [*_extras(), *_programs(), *_folders()]
    if as_json:
        print_json({"machine": machine().as_dict(), "findings": [asdict(finding) for finding in findings]})
        return 0
    click.echo(f"mlsysopt {_version('mlsysopt')}, Python {sys.version.split()[0]}, {machine().text()}")
    for kind in ("extra", "program", "folder"):
        click.echo(f"\n{kind}s")
        rows = [finding for finding in findings if finding.kind == kind]
        width = max(len(finding.what) for finding in rows)
        for finding in rows:
            mark = "ok     " if finding.present else "missing"
            end = finding.detail if finding.present else f"{finding.detail}  ->  {finding.install}"
            click.echo(f"  {mark}  {finding.what:<{width}}  {end}")
    return 0


EXTRAS: dict[str, dict[str, str]] = {
    "tune": {
        "optuna": "optuna",
        "botorch": "botorch",
        "gpytorch": "gpytorch",
        "torch": "torch",
        "scikit-learn": "sklearn",
        "psycopg": "psycopg",
        "redis": "redis",
        "rocksdict": "rocksdict",
        "optuna-dashboard": "optuna_dashboard",
        "gymnasium": "gymnasium",
    },
    "graph": {
        "torch": "torch",
        "onnx": "onnx",
        "onnxruntime": "onnxruntime",
        "ortools": "ortools",
        "safetensors": "safetensors",
        "ml_dtypes": "ml_dtypes",
    },
    "design": {"torch": "torch"},
    "train": {
        "scikit-surprise": "surprise",
        "implicit": "implicit",
        "scikit-learn": "sklearn",
        "pyarrow": "pyarrow",
        "pandas": "pandas",
    },
    "infer": {
        "numba": "numba",
        "nutpie": "nutpie",
        "arviz-stats": "arviz_stats",
        "arviz": "arviz",
        "h5netcdf": "h5netcdf",
    },
    "cluster": {"ray": "ray"},
    "space": {"ConfigSpace": "ConfigSpace"},
}
"""Extra -> distribution -> module whose presence is looked up without importing it."""

PROGRAMS: dict[str, tuple[str, tuple[str, ...], str]] = {
    "db_bench": ("rocksdb-tools", (), "tune rocksdb with RocksDB's own benchmark"),
    "postgres": ("postgresql", ("/usr/lib/postgresql/*/bin",), "tune postgres, in private clusters"),
    "pgbench": ("postgresql", ("/usr/lib/postgresql/*/bin",), "the load of tune postgres"),
    "redis-server": ("redis-server", (), "tune redis"),
    "redis-benchmark": ("redis-tools", (), "the load of tune redis"),
    "chromium": ("chromium", (), "browser tests of reports"),
}


def _extras() -> list[Finding]:
    findings: list[Finding] = []
    for extra, distributions in EXTRAS.items():
        missing = [name for name, module in distributions.items() if importlib.util.find_spec(module) is None]
        there = [f"{name} {_version(name)}" for name in distributions if name not in missing]
        detail = ", ".join(there) if not missing else "lacks " + ", ".join(missing)
        findings.append(Finding(extra, "extra", not missing, detail, f"pip install 'mlsysopt[{extra}]'"))
    return findings


def _programs() -> list[Finding]:
    from mlsysopt.core.errors import MissingProgram
    from mlsysopt.core.processes import apt_line, program

    findings: list[Finding] = []
    for name, (package, also, about) in PROGRAMS.items():
        try:
            path = str(program(name, also=also, package=package))
            findings.append(Finding(name, "program", True, path, ""))
        except MissingProgram:
            findings.append(Finding(name, "program", False, about, apt_line(package)))
    return findings


def _folders() -> list[Finding]:
    from mlsysopt.core.places import cache_dir, state_dir

    return [
        Finding("state", "folder", True, str(state_dir()), ""),
        Finding("cache", "folder", True, str(cache_dir()), ""),
    ]


def _version(distribution: str) -> str:
    try:
        return importlib.metadata.version(distribution)
    except importlib.metadata.PackageNotFoundError:
        return "(not installed)"
