"""What holds for the whole tree: light imports, layers, the freeze, names, and docs that keep up."""

from __future__ import annotations

import ast
import importlib
import json
import re
import subprocess
import sys
import tomllib
import types
from importlib.metadata import version
from pathlib import Path

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name
from packaging.version import Version

import mlsysopt
from mlsysopt.cli.main import ROOMS
from mlsysopt.cli.options import GLOSSARY

ROOT = Path(__file__).resolve().parent.parent
SOURCE = ROOT / "src" / "mlsysopt"
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())
HEAVY = [
    "torch",
    "numpy",
    "optuna",
    "sklearn",
    "matplotlib",
    "ray",
    "rich",
    "pydantic",
    "scipy",
    "sqlalchemy",
    "plotly",
]
NEVER_IN_CORE = ["torch", "botorch", "gpytorch", "sklearn", "matplotlib", "ray", "plotly", "rich"]

CODE = sorted(
    path for folder in ("src", "tests", "bench", "examples", "scripts") for path in (ROOT / folder).rglob("*.py")
)
PACKAGES = sorted(path for path in SOURCE.rglob("__init__.py") if "lazy(" in path.read_text())


def loaded_after(code: str, names: list[str]) -> list[str]:
    probe = f"{code}\nimport sys, json\nprint(json.dumps([name for name in {names!r} if name in sys.modules]))"
    done = subprocess.run([sys.executable, "-c", probe], capture_output=True, text=True, check=True)
    return json.loads(done.stdout.splitlines()[-1])


def test_import_loads_nothing_heavy() -> None:
    assert loaded_after("import mlsysopt, mlsysopt.core", HEAVY) == []


def test_import_takes_less_than_0_4_cpu_seconds() -> None:
    probe = "import mlsysopt, time; print(time.process_time())"
    done = subprocess.run([sys.executable, "-c", probe], capture_output=True, text=True, check=True)
    assert float(done.stdout) <= 0.4


def test_public_names_bring_no_torch() -> None:
    code = "import mlsysopt\n[getattr(mlsysopt, name) for name in mlsysopt.__all__]"
    assert loaded_after(code, NEVER_IN_CORE) == []


@pytest.mark.parametrize("path", PACKAGES, ids=lambda path: path.parent.relative_to(SOURCE).as_posix())
def test_tables_of_contents_agree(path: Path) -> None:
    package = importlib.import_module(".".join(path.parent.relative_to(SOURCE.parent).parts))
    shown = _names_for_editors(ast.parse(path.read_text()))
    assert sorted(package.__all__) == sorted(dir(package)) == sorted(shown)
    for name in package.__all__:
        assert getattr(package, name) is not None


@pytest.mark.parametrize("path", PACKAGES, ids=lambda path: path.parent.relative_to(SOURCE).as_posix())
def test_no_name_is_hidden_by_the_module_that_defines_it(path: Path) -> None:
    package = importlib.import_module(".".join(path.parent.relative_to(SOURCE.parent).parts))
    beside = {one.stem for one in path.parent.iterdir()}
    for name in package.__all__:
        value = getattr(package, name)
        assert name not in beside or isinstance(value, types.ModuleType), f"{path.parent.name}/{name}.py hides {name}"


def _names_for_editors(tree: ast.Module) -> list[str]:
    blocks = [node for node in tree.body if isinstance(node, ast.If) and ast.unparse(node.test) == "TYPE_CHECKING"]
    body = [node for block in blocks for node in block.body]
    imports = [node for node in body if isinstance(node, ast.ImportFrom) and (node.module or "").startswith("mlsysopt")]
    declared = [ast.unparse(node.target) for node in body if isinstance(node, ast.AnnAssign)]
    return [*declared, *(alias.asname or alias.name for node in imports for alias in node.names)]


def test_layers() -> None:
    done = subprocess.run(
        [Path(sys.executable).with_name("lint-imports"), "--no-cache"],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr


def test_version_is_stated_once() -> None:
    assert mlsysopt.__version__ == version("mlsysopt")
    assert (SOURCE / "py.typed").exists()


def freeze() -> dict[str, str]:
    lines = [line for line in (ROOT / "constraints.txt").read_text().splitlines() if line and not line.startswith("#")]
    unfit = [line for line in lines if not re.fullmatch(r"[A-Za-z0-9._-]+==[A-Za-z0-9.+!]+", line)]
    assert not unfit, f"neither an index, an option, a path nor a range may stand in the freeze: {unfit}"
    pins = dict(line.split("==") for line in lines)
    names: dict[str, str] = {canonicalize_name(name): pin for name, pin in pins.items()}
    assert len(names) == len(lines), "a distribution is pinned twice"
    return names


def test_freeze_holds_only_versions_of_the_package_index() -> None:
    for name, pin in freeze().items():
        assert Version(pin).local is None, f"{name}=={pin}: a build tag is no version of the package index"


def test_freeze_covers_every_requirement() -> None:
    pins = freeze()
    project = PROJECT["project"]
    wanted = [
        *project["dependencies"],
        *(line for lines in project["optional-dependencies"].values() for line in lines),
    ]
    for line in [*wanted, *PROJECT["build-system"]["requires"]]:
        requirement = Requirement(line)
        if requirement.name == "mlsysopt":
            assert requirement.extras <= project["optional-dependencies"].keys()
            continue
        pin = pins.get(canonicalize_name(requirement.name))
        assert pin is not None, f"{requirement.name} is not in constraints.txt"
        assert requirement.specifier.contains(pin), f"{line}: constraints.txt has {pin}"


def test_dev_holds_every_other_extra() -> None:
    extras = PROJECT["project"]["optional-dependencies"]
    held = {"dev"}
    for _ in extras:
        held |= {
            extra for name in held for line in extras[name] for extra in Requirement(line).extras if extra in extras
        }
    assert held == extras.keys()


def test_every_file_has_one_idea_and_a_name_for_it() -> None:
    vague = {"utils", "util", "helpers", "helper", "common", "misc", "manager", "base2"}
    assert [str(path) for path in CODE if path.stem in vague] == []
    assert [str(path) for path in CODE if path.read_text().count("\n") > 900] == []


def test_what_needs_a_real_program_stands_in_one_folder() -> None:
    """`make test` looks nowhere else: it would load every other file for them a second time."""
    marked = {path for path in (ROOT / "tests").rglob("*.py") if re.search(r"\bmark\.real\b", path.read_text())}
    assert marked and all(path.parent == ROOT / "tests" / "real" for path in marked)


def test_entry_points_can_be_loaded() -> None:
    project = PROJECT["project"]
    groups = [project["scripts"], *project["entry-points"].values()]
    for value in (value for group in groups for value in group.values()):
        module, _, attribute = value.partition(":")
        assert callable(getattr(importlib.import_module(module), attribute)), value


def test_continuous_integration_runs_the_targets_of_people() -> None:
    lines = (ROOT / ".ci" / "run").read_text().splitlines()
    assert [line for line in lines if line.startswith("make")] == ["make test", "make check", "make examples"]
    targets = re.findall(r"^(\w+):.*##", (ROOT / "Makefile").read_text(), re.MULTILINE)
    assert {"help", "demo", "test", "check", "bench", "docs", "examples", "clean"} <= set(targets)


def test_docs_know_every_room_and_flag_and_fetch_nothing() -> None:
    page = (ROOT / "docs" / "reference" / "command-line.md").read_text()
    for word in [*GLOSSARY, *(room for rooms in ROOMS.values() for room in rooms)]:
        assert word in page, f"docs/reference/command-line.md does not speak of {word}"
    settings = (ROOT / "mkdocs.yml").read_text()
    assert "font: false" in settings
    assert "http" not in re.sub(r"^(site_url|repo_url):.*$", "", settings, flags=re.MULTILINE)


def test_readme_is_short() -> None:
    assert (ROOT / "README.md").read_text().count("\n") <= 120
