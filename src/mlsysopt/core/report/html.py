"""The page around a report's parts: escaping, tables, charts, head and foot."""

from __future__ import annotations

import math
import re
from collections.abc import Mapping, Sequence
from datetime import datetime
from html import escape as escape_markup
from importlib.resources import files
from pathlib import Path

from mlsysopt.core.errors import MissingExtra
from mlsysopt.core.references import Reference

__all__ = ["cell", "chart", "escape", "footer", "markdown", "page", "plotly_js", "table"]

_ANSI = re.compile(r"\x1b(?:\[[0-?]*[ -/]*[@-~]|\][^\x07\x1b]*(?:\x07|\x1b\\)|[@-Z\\-_])")
_CONTROL = re.compile(r"[\x00-\x08\x0b\x0c\x0e-\x1f\x7f-\x9f\ud800-\udfff]")

# A second lock behind the escaping: whatever slips into the page, the browser fetches nothing from outside.
_POLICY = (
    "default-src 'none'; script-src 'unsafe-inline' 'self' file:; style-src 'unsafe-inline'; "
    "img-src data: blob:; form-action 'none'; base-uri 'none'"
)


def escape(text: object) -> str:
    """Return any text safe for a page: markup escaped, terminal codes dropped, control characters replaced.

    >>> escape("<b> \\x1b[31mred\\x1b[0m \\x00")
    '&lt;b&gt; red \\ufffd'
    """
    return escape_markup(_CONTROL.sub("\ufffd", _ANSI.sub("", str(text))))


def markdown(text: str) -> str:
    """Render CommonMark with tables; HTML in it is escaped and images stay text, so nothing is fetched."""
    from markdown_it import MarkdownIt

    clean = _CONTROL.sub("\ufffd", _ANSI.sub("", text))
    return MarkdownIt("commonmark", {"html": False}).enable("table").disable("image").render(clean)


def cell(value: object) -> tuple[str, bool]:
    """Return the markup of one value, and whether it is a number.

    >>> cell(1234.5678), cell(None), cell(True), cell(20)
    (('1235', True), ('\u2013', False), ('yes', False), ('20', True))
    """
    if value is None:
        return "\u2013", False
    if isinstance(value, bool):
        return "yes" if value else "no", False
    if isinstance(value, int):
        return (f"{value:,}".replace(",", "\u2009") if abs(value) >= 10_000 else str(value)), True
    if isinstance(value, float):
        return _number(value), True
    return escape(value), False


def _number(value: float) -> str:
    if math.isnan(value):
        return "\u2013"
    if math.isinf(value):
        return "\u221e" if value > 0 else "\u2212\u221e"
    if value and not 1e-4 <= abs(value) < 1e6:
        return f"{value:.3e}"
    digits = max(0, 3 - math.floor(math.log10(abs(value)))) if value else 0
    text = f"{value:.{digits}f}"
    return text.rstrip("0").rstrip(".") if "." in text else text


def table(
    header: Sequence[str],
    rows: Sequence[Sequence[object]],
    caption: str,
    *,
    marks: Mapping[int, str],
    folded: bool,
) -> str:
    """Return a table in a box that scrolls sideways; a column of numbers is aligned to the right."""
    cells = [[cell(value) for value in row] for row in rows]
    numeric = [
        any(row[i][1] for row in cells) and all(row[i][1] or row[i][0] == "\u2013" for row in cells)
        for i in range(len(header))
    ]
    kind = [' class="number"' if is_number else "" for is_number in numeric]
    head = "".join(f'<th scope="col"{kind[i]}>{_heading(name)}</th>' for i, name in enumerate(header))
    lines: list[str] = []
    for number, row in enumerate(cells):
        mark = f' class="{escape(marks[number])}"' if number in marks else ""
        texts = [text if numeric[i] else f"<div>{text}</div>" for i, (text, _) in enumerate(row)]
        lines.append(f"<tr{mark}>" + "".join(f"<td{kind[i]}>{text}</td>" for i, text in enumerate(texts)) + "</tr>")
    shown = f"<caption>{escape(caption)}</caption>" if caption and not folded else ""
    label = escape(caption or "table")
    body = (
        f'<div class="scroll" role="region" tabindex="0" aria-label="{label}"><table>{shown}'
        f"<thead><tr>{head}</tr></thead>\n<tbody>" + "\n".join(lines) + "</tbody></table></div>"
    )
    if not folded:
        return body
    return f"<details><summary>{label} <small>({len(rows)} rows)</small></summary>{body}</details>"


def _heading(name: str) -> str:
    # Names of knobs are long and have no spaces: they may break behind an underscore.
    return "<div>" + escape(name).replace("_", "_<wbr>") + "</div>"


def chart(figure_json: str, caption: str, alt: str, *, number: int) -> str:
    """Return an interactive figure; its data stand in the page, `report.js` draws them."""
    # "</script>" inside the data would end the element: no "<" may stand there.
    data = figure_json.replace("<", "\\u003c").replace("\u2028", "\\u2028").replace("\u2029", "\\u2029")
    return (
        f'<figure class="chart"><div id="chart-{number}" class="plot" role="img" aria-label="{escape(alt)}">'
        "<noscript>This chart needs JavaScript; the tables hold the same figures.</noscript></div>"
        f'<script type="application/json" data-chart="chart-{number}">{data}</script>'
        f"<figcaption>{escape(caption)}</figcaption></figure>"
    )


def footer(*, machine: str, made_with: str, date: datetime, command: str, references: Sequence[Reference]) -> str:
    """Return where, when and how the page was made, and what to cite."""
    cited = ""
    if references:
        items = "".join(f"<li>{_citation(reference)}</li>" for reference in references)
        cited = f'<h2 id="references">References</h2><ol>{items}</ol>'
    stamp = date.isoformat(timespec="seconds")
    when = f"{date:%Y-%m-%d %H:%M} {escape(date.tzname() or '')}".rstrip()
    return (
        f'{cited}<h2 id="how">How this was made</h2><pre class="command">{escape(command)}</pre>'
        f'<dl class="facts"><dt>machine</dt><dd>{escape(machine)}</dd><dt>made with</dt><dd>{escape(made_with)}</dd>'
        f'<dt>date</dt><dd><time datetime="{stamp}">{when}</time></dd></dl>'
    )


def _citation(reference: Reference) -> str:
    doi = reference.fields.get("doi", "")
    link = f' <a href="https://doi.org/{escape(doi)}">doi:{escape(doi)}</a>' if doi else ""
    return escape(reference.text()) + link


def page(
    *,
    title: str,
    verdict: tuple[str, str],
    sections: Sequence[tuple[str, str]],
    body: str,
    footer: str,
    interactive: bool,
) -> str:
    """Return the whole document."""
    here = files("mlsysopt.core.report")
    contents = "".join(f'<li><a href="#{anchor}">{escape(name)}</a></li>' for anchor, name in sections)
    text, status = verdict
    scripts = ""
    if interactive:
        scripts = f'<script src="plotly.min.js"></script>\n<script>{here.joinpath("report.js").read_text()}</script>\n'
    return (
        "<!doctype html>\n"
        '<html lang="en">\n<head>\n<meta charset="utf-8">\n'
        f'<meta http-equiv="Content-Security-Policy" content="{_POLICY}">\n'
        '<meta name="viewport" content="width=device-width, initial-scale=1">\n'
        '<meta name="color-scheme" content="light dark">\n'
        '<link rel="icon" href="data:,">\n'
        f"<title>{escape(title)}</title>\n"
        f"<style>\n{here.joinpath('report.css').read_text()}</style>\n</head>\n<body>\n"
        f"<header><h1>{escape(title)}</h1>"
        + (f'<p class="verdict {escape(status)}">{escape(text)}</p>' if text else "")
        + "</header>\n"
        + (f'<nav aria-label="Contents"><ol>{contents}</ol></nav>\n' if contents else "")
        + f"<main>\n{body}\n</main>\n<footer>{footer}</footer>\n{scripts}</body>\n</html>\n"
    )


def plotly_js() -> Path:
    """Return plotly's own browser library, as its distribution carries it.

    Raises:
        MissingExtra: plotly is not installed.
    """
    try:
        return Path(str(files("plotly").joinpath("package_data", "plotly.min.js")))
    except ModuleNotFoundError:
        raise MissingExtra.of("an interactive chart", "report") from None
