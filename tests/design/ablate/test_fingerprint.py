"""The fingerprint: every file of the user's counts, also one that a function imports, and nothing installed does."""

from __future__ import annotations

import importlib.util
import sys
from pathlib import Path
from types import ModuleType

import numpy as np
import pytest
import torch

from mlsysopt.core.errors import StoreError
from mlsysopt.design.ablate.fingerprint import Fingerprint, check_same, data_digest, fingerprint, user_files

STUDY = """
import json
import numpy
from helper_of_it import loader
from package_of_it.nets import Net

def make():
    return Net()

def train(model, data, *, seed):
    from late_of_it import schedule
    return schedule(seed)
"""


@pytest.fixture
def project(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    (tmp_path / "study_of_it.py").write_text(STUDY)
    (tmp_path / "helper_of_it.py").write_text("loader = 1\n")
    (tmp_path / "late_of_it.py").write_text("def schedule(seed):\n    return seed\n")
    (tmp_path / "unused_of_it.py").write_text("x = 1\n")
    package = tmp_path / "package_of_it"
    package.mkdir()
    (package / "__init__.py").write_text("")
    (package / "nets.py").write_text("from . import layers\n\nclass Net:\n    pass\n")
    (package / "layers.py").write_text("width = 3\n")
    monkeypatch.syspath_prepend(str(tmp_path))
    return tmp_path


def load(project: Path) -> ModuleType:
    for name in [name for name in sys.modules if name.split(".")[0].endswith("_of_it")]:
        del sys.modules[name]
    spec = importlib.util.spec_from_file_location("study_of_it", project / "study_of_it.py")
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules["study_of_it"] = module
    spec.loader.exec_module(module)
    return module


def test_every_imported_file_of_the_user_counts(project: Path) -> None:
    module = load(project)
    names = {path.relative_to(project).as_posix() for path in user_files([module.make, module.train])}
    assert names == {
        "study_of_it.py", "helper_of_it.py", "late_of_it.py",
        "package_of_it/__init__.py", "package_of_it/nets.py", "package_of_it/layers.py",
    }  # fmt: skip


@pytest.mark.parametrize("changed", ["study_of_it.py", "helper_of_it.py", "late_of_it.py", "package_of_it/layers.py"])
def test_a_change_in_any_of_them_is_named(project: Path, changed: str) -> None:
    module = load(project)
    before = fingerprint([module.make, module.train], None)
    with (project / changed).open("a") as stream:
        stream.write("# changed\n")
    after = fingerprint([module.make, module.train], None)
    with pytest.raises(StoreError, match=Path(changed).name.replace(".", r"\.") + r" \(changed\)"):
        check_same(before, after, "ablate.db")
    check_same(before, before, "ablate.db")


def test_other_files_do_not_count(project: Path) -> None:
    module = load(project)
    before = fingerprint([module.make, module.train], None)
    (project / "unused_of_it.py").write_text("x = 2\n")
    assert fingerprint([module.make, module.train], None).digest() == before.digest()


def test_a_class_and_a_callable_object_have_files_too(project: Path) -> None:
    module = load(project)
    nets = sys.modules["package_of_it.nets"]
    assert [path.name for path in user_files([nets.Net])] == ["__init__.py", "layers.py", "nets.py"] or {
        path.name for path in user_files([nets.Net])
    } >= {"nets.py", "layers.py"}
    assert module.Net is nets.Net


def test_versions_and_data_are_named(project: Path) -> None:
    a = Fingerprint({}, "x", {"torch": "1"})
    with pytest.raises(StoreError, match=r"the data, torch 1 -> 2"):
        check_same(a, Fingerprint({}, "y", {"torch": "2"}), "s.db")
    assert Fingerprint.from_json(a.to_json()) == a


def test_code_without_a_file_counts_by_itself() -> None:
    space: dict[str, object] = {}
    exec("def f(model, data, *, seed):\n    return 1", space)
    exec("def g(model, data, *, seed):\n    return 2", space)
    f, g = space["f"], space["g"]
    assert fingerprint([f], None).digest() != fingerprint([g], None).digest()  # type: ignore[list-item]


@pytest.mark.parametrize(
    ("one", "two"),
    [
        (np.arange(3), np.arange(4)),
        (np.arange(3), np.arange(3.0)),
        (np.zeros((2, 3)), np.zeros((3, 2))),
        ({"a": 1}, {"b": 1}),
        ((1, 2), [1, 2]),
        (torch.zeros(3), torch.ones(3)),
        ("1", 1),
        (None, 0),
        (object(), 3),
    ],
)
def test_different_data_differ_and_equal_data_do_not(one: object, two: object) -> None:
    assert data_digest(one) != data_digest(two)
    assert data_digest(one) == data_digest(one)


def test_tables_are_hashed_by_content() -> None:
    pandas = pytest.importorskip("pandas")
    a, b = pandas.DataFrame({"x": [1, 2]}), pandas.DataFrame({"x": [1, 3]})
    assert data_digest(a) == data_digest(a.copy()) != data_digest(b)
