"""The page of `mlsysopt infer fit` in a real browser: it says what was found, and asks nothing of the outside."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from mlsysopt.cli.main import run
from tests.real.browser import Browser

pytestmark = pytest.mark.real

MODEL = """
from mlsysopt.infer import Beta, Binomial, Dirichlet, Categorical, array, model, observe


@model
def arms(won, tried, label, K: int):
    rate = array(float, len(won))
    for i in range(len(won)):
        rate[i] = Beta(1.0, 1.0)
    share = Dirichlet(1.0, K)
    for i in range(len(won)):
        observe(won[i], Binomial(tried[i], rate[i]))
    for n in range(len(label)):
        observe(label[n], Categorical(share))  # </pre><img src="http://198.51.100.7/x.png"><script>throw 1</script>
"""
PICTURES = 3 * 4
"""Trace, ranks and posterior of the log joint and of the three numbers that converged worst."""


@pytest.fixture(scope="module")
def page(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("fit")
    (folder / "arms.py").write_text(MODEL)
    data = {"won": [3, 8, 15], "tried": [20, 20, 20], "label": [0, 1, 2, 1, 1]}
    for name, values in data.items():
        (folder / f"{name}.json").write_text(json.dumps(values))
    words = [word for name in data for word in ("--data", f"{name}={folder / name}.json")]
    said = ["fit", f"{folder / 'arms.py'}:arms", "--set", "K=3", *words, "--draws", "400", "--warmup", "20"]
    assert run(["infer", *said, "--backend", "python", "--report", str(folder / "report")]) == 0
    return folder / "report" / "index.html"


@pytest.mark.parametrize("width", [1200, 400])
def test_the_page_of_a_fit_draws_and_fetches_nothing(browser: Browser, page: Path, width: int) -> None:
    visit = browser.open(page, width=width)
    text = visit.page.inner_text("body")
    for wanted in ("Fit of arms", "converged: 4 chains", "rate[0]", "conjugate cells, Beta with Binomial", "R-hat"):
        assert wanted in text, wanted
    assert visit.page.locator("main svg").count() == PICTURES
    assert visit.page.locator("main img[src^=http]").count() == 0
    assert visit.page.evaluate("document.documentElement.scrollWidth") <= width, "the page scrolls sideways"
    visit.clean()
