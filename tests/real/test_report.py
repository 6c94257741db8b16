"""The report in a real browser: draws, fetches nothing, and stays readable on a narrow screen."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from mlsysopt.core.report import Point, Report, Span, history, intervals

pytestmark = pytest.mark.real

go = pytest.importorskip("plotly.graph_objects")
sync = pytest.importorskip("playwright.sync_api")
sync.expect.set_options(timeout=20_000)

HOSTILE = (
    '<img src="http://198.51.100.7/x.png" onerror="document.title=\'owned\'"></script><script>document.title="owned"'
)


@pytest.fixture(scope="module")
def report(tmp_path_factory: pytest.TempPathFactory) -> Path:
    chart = go.Figure([go.Scatter(x=[0, 1, 2], y=[1.0, 1.4, 1.2], name=HOSTILE)])
    points = [Point(0, 0.8), Point(1, None, "crashed"), Point(2, 1.4)]
    made = (
        Report("RocksDB", command="mlsysopt tune run rocksdb", machine="two cores", verdict=HOSTILE, status="good")
        .text(f"{HOSTILE}\n\n![]( http://198.51.100.7/y.png )")
        .section("Verified")
        .figure(intervals([Span("throughput", 1.5, 1.3, 1.8, True)]), "Ratios")
        .section("Search")
        .figure(history(points), "Trials")
        .table([f"a_quite_long_column_name_{i}" for i in range(12)], [list(range(12)), [HOSTILE] * 12], "Wide")
        .section("Explore")
        .interactive(chart, "Hover")
        .log(HOSTILE, "log")
    )
    return made.write(tmp_path_factory.mktemp("report"))


@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("width", [1200, 400])
def test_page_draws_and_fetches_nothing(browser: Any, report: Path, width: int, scheme: Any) -> None:
    visit = browser.open(report, width=width, scheme=scheme)
    page = visit.page
    page.wait_for_selector("#chart-1 .scatterlayer .trace", state="attached")
    visit.clean()
    assert page.title() == "RocksDB"
    assert page.evaluate("document.documentElement.scrollWidth") <= width, "the page scrolls sideways"
    assert page.locator("main > figure > .scroll > svg").count() == 2
    light = "rgb(255, 255, 255)"
    assert (page.evaluate("getComputedStyle(document.body).backgroundColor") == light) is (scheme == "light")


def test_the_browser_itself_refuses_what_leads_outside(browser: Any, report: Path) -> None:
    visit = browser.open(report)
    with visit.page.expect_console_message():
        visit.page.evaluate("document.body.append(Object.assign(new Image(), {src: 'http://198.51.100.7/z.png'}))")
    assert any("Content Security Policy" in text for text in visit.errors)


def test_prints_on_paper(browser: Any, report: Path) -> None:
    visit = browser.open(report, scheme="dark")
    ink = sync.expect(visit.page.locator("#chart-1 .xtick text").first)
    ink.to_have_css("fill", "rgb(228, 231, 235)")
    visit.page.emulate_media(media="print", color_scheme="dark")
    ink.to_have_css("fill", "rgb(0, 0, 0)")
    assert visit.page.evaluate("getComputedStyle(document.body).backgroundColor") == "rgb(255, 255, 255)"
    assert visit.page.pdf().startswith(b"%PDF")
