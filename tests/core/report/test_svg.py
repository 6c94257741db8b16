"""Drawings: ids that never clash, the page's colours, and nothing that runs or fetches."""

from __future__ import annotations

import re
from xml.etree import ElementTree

import pytest

from mlsysopt.core.errors import UsageError
from mlsysopt.core.report import Point, Span, history, intervals
from mlsysopt.core.report.svg import from_figure, from_text

SVG = (
    '<svg xmlns="http://www.w3.org/2000/svg" xmlns:xlink="http://www.w3.org/1999/xlink"'
    ' width="10pt" viewBox="0 0 9 9">{}</svg>'
)


def test_two_figures_share_no_id_and_every_link_has_its_end() -> None:
    figure = intervals([Span("a", 1.2, 1.1, 1.3)])
    ids: list[set[str]] = []
    for name in ("01", "02"):
        markup = from_figure(figure, name=name, alt="x").inline()
        found = re.findall(r'\bid="([^"]+)"', markup)
        assert len(found) == len(set(found))
        ends = {a or b for a, b in re.findall(r'href="#([^"]+)"|url\(#([^)]+)\)', markup)}
        assert ends and ends <= set(found)
        ids.append(set(found))
    assert not ids[0] & ids[1]


def test_black_and_white_follow_the_page() -> None:
    markup = from_figure(history([Point(0, 1.0), Point(1, None), Point(2, 2.0)]), name="01", alt="x").inline()
    assert "currentColor" in markup
    assert "#000000" not in markup and "#ffffff" not in markup and "<style" not in markup


def test_alternative_text_and_standalone_file() -> None:
    drawing = from_text(SVG.format("<path id='p' d='M0 0'/>"), name="07", alt="a < b")
    assert '<title id="f07-title">a &lt; b</title>' in drawing.inline() and 'role="img"' in drawing.inline()
    root = ElementTree.fromstring(drawing.standalone())
    assert root.tag == "{http://www.w3.org/2000/svg}svg"


@pytest.mark.parametrize(
    "inside",
    [
        "<script>alert(1)</script>",
        "<foreignObject/>",
        "<use xlink:href='http://e.org/x.svg#a'/>",
        "<image href='http://e.org/x.png'/>",
        "<image href='data:text/html,x'/>",
        "<path style='fill: url(http://e.org/x)'/>",
        "<style>@import 'http://e.org/x.css';</style>",
        "<a href='javascript:alert(1)'/>",
    ],
)
def test_what_runs_or_fetches_is_refused(inside: str) -> None:
    with pytest.raises(UsageError, match="figure 01"):
        from_text(SVG.format(inside), name="01", alt="x")


def test_event_handlers_are_dropped() -> None:
    assert "onload" not in from_text(SVG.format("<path onload='alert(1)'/>"), name="01", alt="x").inline()


@pytest.mark.parametrize("text", ["", "no svg", "<svg", "<html/>"])
def test_what_is_no_svg_is_refused(text: str) -> None:
    with pytest.raises(UsageError, match=r"not SVG|root must be"):
        from_text(text, name="01", alt="x")
