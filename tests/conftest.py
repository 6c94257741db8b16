"""What every test may rely on: a state folder of its own, one BLAS thread, and the data mirror if there is one."""

from __future__ import annotations

import itertools
import os
from collections.abc import Iterator
from functools import cache
from pathlib import Path
from typing import Any

import pytest
from hypothesis import settings

# Before numpy is imported by any test: two workers with a thread per core each only wait for one another.
for name in ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS"):
    os.environ.setdefault(name, "1")


# A gate must give the same answer twice; `--hypothesis-profile=default` searches at random.
settings.register_profile("house", deadline=None, derandomize=True, database=None, print_blob=True)
settings.load_profile("house")


@cache
def imports_models(file: str) -> bool:
    return "from tests.graph.importers.models import" in Path(__file__).parents[1].joinpath(file).read_text()


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_make_scheduler(config: pytest.Config, log: Any) -> Any:
    """A file per worker, but all that import the same well-known models on one: an import takes seconds."""
    from xdist.scheduler import LoadFileScheduling

    class Scheduling(LoadFileScheduling):
        def _split_scope(self, nodeid: str) -> str:
            file = super()._split_scope(nodeid)
            return "well-known models" if imports_models(file) else file

    return Scheduling(config, log) if config.getoption("dist") == "loadfile" else None


@pytest.fixture(scope="session")
def homes(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """Folders that nobody has used. `mktemp` looks at all earlier ones to number the next: minutes over a whole run."""
    root = tmp_path_factory.mktemp("places")
    return (root / str(number) for number in itertools.count())


@pytest.fixture(autouse=True)
def own_places(monkeypatch: pytest.MonkeyPatch, homes: Iterator[Path]) -> Path:
    """Keep state, caches and data of the code under test out of the developer's home."""
    home = next(homes)
    home.mkdir()
    for name in ("XDG_STATE_HOME", "XDG_CACHE_HOME", "XDG_DATA_HOME"):
        monkeypatch.setenv(name, str(home / name.lower()))
    return home


@pytest.fixture
def data_mirror() -> Path:
    """The local mirror of the data sets; the test is skipped by name where there is none."""
    folder = os.environ.get("MLSYSOPT_DATA")
    if not folder or not Path(folder).is_dir():
        pytest.skip("no data mirror: set MLSYSOPT_DATA to a folder that holds the data sets")
    return Path(folder)


# A distribution of its own, with a part that is broken on purpose: it is installed by a test, never imported here.
collect_ignore = ["plugin_example"]
