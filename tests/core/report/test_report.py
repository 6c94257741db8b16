"""The builder: what goes in comes out escaped, once, in order, and the same every time."""

from __future__ import annotations

from datetime import UTC, datetime
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mlsysopt.core.errors import UsageError
from mlsysopt.core.references import Reference
from mlsysopt.core.report import Report

DATE = datetime(2026, 1, 2, 3, 4, tzinfo=UTC)
CITED = Reference("a2021", "inproceedings", "Tuning {RocksDB}", "A. Author", 2021, {"doi": "10.1/x<y"})


def blank(title: str = "T", **settings: object) -> Report:
    return Report(title, command="mlsysopt run", machine="two cores", date=DATE, **settings)  # type: ignore[arg-type]


@settings(deadline=None, max_examples=100)
@given(st.text(), st.text(min_size=1))
def test_any_value_is_escaped_everywhere(value: str, other: str) -> None:
    marked = f"<i>{value}</i>"
    page = (
        blank(marked, verdict=marked)
        .section(marked)
        .text(marked)
        .facts({marked: marked})
        .table([marked], [[marked]], marked)
        .table([marked], [[marked]], marked, folded=True)
        .log(marked, marked)
        .html()
    )
    assert "<i>" not in page
    page.encode("utf-8")
    assert "\x00" not in page


def test_markdown_is_rendered_but_html_and_images_are_not() -> None:
    page = (
        blank().text("**bold** `code`\n\n- item\n\n|a|b|\n|-|-|\n|1|2|\n\n![x](http://e.org/x.png) <b>raw</b>").html()
    )
    main = page.split("<main>")[1]
    for wanted in ("<strong>bold</strong>", "<code>code</code>", "<li>item</li>", "<td>1</td>", "&lt;b&gt;raw"):
        assert wanted in main
    assert "<img" not in page
    assert 'href="javascript' not in blank().text("[x](javascript:alert)").html()


def test_sections_get_unique_anchors_and_a_table_of_contents_from_three_on() -> None:
    report = blank().section("Same").section("Same")
    assert "<nav" not in report.html()
    page = report.section("\u4e16").html()
    assert [anchor in page for anchor in ('href="#same"', 'href="#same-1"', 'href="#section"')] == [True] * 3
    assert page.count("<h2 id=") == 4


def test_table_aligns_numbers_and_shows_what_is_missing_as_a_dash() -> None:
    page = blank().table(["name", "n"], [["a", 1.23456], ["b", None], ["c", float("nan")]], marks={0: "good"}).html()
    assert '<tr class="good"><td><div>a</div></td><td class="number">1.235</td></tr>' in page
    assert page.count('<td class="number">\u2013</td>') == 2
    with pytest.raises(UsageError, match="row 1 has 1 cells, the header has 2"):
        blank().table(["a", "b"], [[1, 2], [1]])


@pytest.mark.parametrize(
    ("value", "shown"),
    [
        (0.0, "0"),
        (1.0, "1"),
        (0.5, "0.5"),
        (0.00123456, "0.001235"),
        (-1234.5678, "-1235"),
        (99.996, "100"),
        (1e-9, "1.000e-09"),
        (2.5e7, "2.500e+07"),
        (float("inf"), "\u221e"),
        (1234567, "1\u2009234\u2009567"),
        (True, "yes"),
    ],
)
def test_numbers_read_well(value: object, shown: str) -> None:
    assert f">{shown}<" in blank().facts({"x": value}).html()


def test_foot_says_where_when_how_and_whom_to_cite() -> None:
    foot = blank(references=[CITED]).cite(CITED).html().split("<footer>")[1]
    for wanted in (
        "two cores",
        "mlsysopt run",
        "2026-01-02 03:04 UTC",
        "mlsysopt 0.",
        "Tuning RocksDB",
        "doi:10.1/x&lt;y",
    ):
        assert wanted in foot
    assert foot.count("<li>") == 1


def test_terminal_codes_and_control_characters_do_not_reach_the_page() -> None:
    page = blank().log("\x1b[31mred\x1b[0m\x00\udc80\ttab", "log").html()
    assert "<pre>red\ufffd\ufffd\ttab</pre>" in page


def test_writes_over_an_earlier_report_and_leaves_nothing_half_done(tmp_path: Path) -> None:
    folder = tmp_path / "deep" / "report"
    first = blank("one").write(folder)
    assert blank("two").write(folder) == first == folder / "index.html"
    assert "<title>two</title>" in first.read_text()
    assert [path.name for path in folder.iterdir()] == ["index.html"]


def test_same_report_same_bytes(tmp_path: Path) -> None:
    from mlsysopt.core.report import Span, intervals

    texts = []
    for side in "ab":
        report = blank().figure(intervals([Span("x", 1.2, 1.1, 1.3, True)]), "c")
        texts.append(
            (report.write(tmp_path / side).read_bytes(), (tmp_path / side / "figures" / "01.svg").read_bytes())
        )
    assert texts[0] == texts[1]


def test_folder_that_is_a_file_is_refused(tmp_path: Path) -> None:
    (tmp_path / "x").write_text("mine")
    with pytest.raises(UsageError, match="is a file; name a folder"):
        blank().write(tmp_path / "x")
    assert (tmp_path / "x").read_text() == "mine"


def test_interactive_chart_brings_its_library_and_refuses_what_needs_webgl(tmp_path: Path) -> None:
    go = pytest.importorskip("plotly.graph_objects")
    chart = go.Figure([go.Scatter(x=[1], y=[2], name="</script>")])
    page = blank().interactive(chart, "c").write(tmp_path)
    assert "</script>" not in page.read_text().split("data-chart")[1].split("</script>")[0]
    assert (tmp_path / "plotly.min.js").stat().st_size > 1_000_000
    assert 'src="plotly.min.js"' in page.read_text()
    with pytest.raises(UsageError, match="parcoords needs WebGL"):
        blank().interactive(go.Figure(go.Parcoords()), "c")
