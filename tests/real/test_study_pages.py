"""A study's report and the dashboard on its store, opened in a real browser."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import urllib.request
from pathlib import Path

import pytest

from mlsysopt.core.study import Study
from mlsysopt.testing.planted import Planted
from tests.real.browser import Browser

pytestmark = pytest.mark.real


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A finished study with failures, broken guards and a verified winner."""
    path = tmp_path_factory.mktemp("study") / "tune.db"
    Study(Planted(), maximize="throughput", sampler="random", store=path, seed=11).run(60)
    return path


@pytest.mark.parametrize("width", [1200, 400])
def test_the_report_shows_the_verdict_and_asks_nothing_of_the_outside(
    store: Path, browser: Browser, tmp_path: Path, width: int
) -> None:
    study = Study(Planted(), maximize="throughput", store=store)
    index = study.report(None, tmp_path / "report", command="mlsysopt tune run planted")
    visit = browser.open(index, width=width)
    text = visit.page.inner_text("body")
    for wanted in (
        "proven",
        "What to change",
        "What it costs elsewhere",
        "How it was found",
        "no answer within",
        "mlsysopt tune run planted",
    ):
        assert wanted in text
    assert visit.page.locator("svg").count() >= 3
    assert visit.page.evaluate("document.documentElement.scrollWidth") <= width
    visit.clean()


def test_the_dashboard_shows_the_study(store: Path, browser: Browser) -> None:
    with served(store) as address:
        visit = browser.open(f"{address}dashboard")
        visit.page.get_by_text("planted").first.wait_for(timeout=20_000)
        visit.clean()


class served:
    """`mlsysopt dashboard` on a free port."""

    def __init__(self, store: Path) -> None:
        self._store = store

    def __enter__(self) -> str:
        self._server = subprocess.Popen(
            [sys.executable, "-m", "mlsysopt", "dashboard", str(self._store), "--port", "0", "--json"],
            stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env={**os.environ, "PYTHONUNBUFFERED": "1"},
        )  # fmt: skip
        assert self._server.stdout is not None
        line = self._server.stdout.readline()
        assert line, self._server.communicate()[1]
        return json.loads(line)["address"]

    def __exit__(self, *_: object) -> None:
        self._server.send_signal(signal.SIGINT)
        self._server.communicate(timeout=30)
        assert self._server.returncode == 0


def test_the_dashboard_answers_and_a_taken_port_is_one_line(store: Path) -> None:
    with served(store) as address:
        with urllib.request.urlopen(f"{address}api/studies", timeout=20) as answer:
            assert json.load(answer)["study_summaries"][0]["study_name"] == "planted"
        port = address.rstrip("/").rsplit(":", 1)[1]
        done = subprocess.run(
            [sys.executable, "-m", "mlsysopt", "dashboard", str(store), "--port", port], capture_output=True, text=True
        )
        assert done.returncode == 2 and f"port {port}" in done.stderr
