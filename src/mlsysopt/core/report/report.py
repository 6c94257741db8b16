"""The builder: sections of text, tables and figures, written as one folder."""

from __future__ import annotations

import re
import shutil
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from mlsysopt._version import __version__
from mlsysopt.core.errors import UsageError
from mlsysopt.core.places import replace_file
from mlsysopt.core.references import Reference
from mlsysopt.core.report import html
from mlsysopt.core.report.svg import Drawing, from_figure, from_text

if TYPE_CHECKING:
    from matplotlib.figure import Figure

__all__ = ["Report", "Status"]

Status = Literal["good", "bad", "warn", "plain"]

# fmt: off
_SVG_TRACES = frozenset({
    "bar", "box", "candlestick", "contour", "funnel", "heatmap", "histogram", "histogram2d", "parcats", "pie",
    "sankey", "scatter", "scatterpolar", "sunburst", "treemap", "violin", "waterfall",
})
# fmt: on


class Report:
    """A page under construction: every method adds to its end and returns the report.

    Every value is escaped: log lines, names and paths may hold anything. Text is CommonMark with
    tables; HTML and images in it are shown as typed.

    Args:
        title: Title of the page.
        command: The exact command that made what is reported; shown at the end.
        verdict: The answer in one line, shown under the title; see `verdict`.
        status: How the verdict is coloured.
        references: Works to cite at the end; see `cite`.
        machine: One line about the machine; None describes this one, with the versions of what is installed.
        date: When it was measured; None is now.

    >>> report = Report("Two sorts", command="mlsysopt ...", machine="two cores")
    >>> page = report.section("Result").table(["sort", "time"], [["quick", 1.25], ["<slow>", None]]).html()
    >>> "&lt;slow&gt;" in page
    True
    """

    def __init__(
        self,
        title: str,
        *,
        command: str,
        verdict: str = "",
        status: Status = "plain",
        references: Sequence[Reference] = (),
        machine: str | None = None,
        date: datetime | None = None,
    ) -> None:
        self.title = title
        self.command = command
        self._verdict = (verdict, status)
        self._references = list(references)
        self._machine = machine
        self._date = date or datetime.now(UTC)
        self._sections: list[tuple[str, str]] = []
        self._body: list[str] = []
        self._drawings: dict[str, Drawing] = {}
        self._charts = 0

    def verdict(self, text: str, status: Status = "plain") -> Report:
        """State the answer in one line, shown right under the title."""
        self._verdict = (text, status)
        return self

    def section(self, title: str) -> Report:
        """Begin a section; from the third one on, the page gets a table of contents."""
        taken = {anchor for anchor, _ in self._sections}
        stem = re.sub(r"[^a-z0-9]+", "-", title.lower()).strip("-") or "section"
        anchor = next(name for n in range(len(taken) + 1) if (name := f"{stem}-{n}" if n else stem) not in taken)
        self._sections.append((anchor, title))
        return self._add(f'<h2 id="{anchor}">{html.escape(title)}</h2>')

    def text(self, markdown: str) -> Report:
        """Add text in CommonMark."""
        return self._add(html.markdown(markdown))

    def facts(self, facts: Mapping[str, object]) -> Report:
        """Add a short list of names and values."""
        rows = "".join(f"<dt>{html.escape(name)}</dt><dd>{html.cell(value)[0]}</dd>" for name, value in facts.items())
        return self._add(f'<dl class="facts">{rows}</dl>')

    def table(
        self,
        header: Sequence[str],
        rows: Sequence[Sequence[object]],
        caption: str = "",
        *,
        marks: Mapping[int, Status] | None = None,
        folded: bool = False,
    ) -> Report:
        """Add a table; it scrolls by itself where the window is too narrow.

        Args:
            header: Column names.
            rows: Cells, as many as the header has; None is shown as a dash, numbers to four digits.
            caption: What it shows, above the table.
            marks: Row number -> colour of that row.
            folded: Show the caption only, until the reader opens it.

        Raises:
            UsageError: a row has more or fewer cells than the header.
        """
        for number, row in enumerate(rows):
            if len(row) != len(header):
                raise UsageError(f"table {caption!r}: row {number} has {len(row)} cells, the header has {len(header)}")
        return self._add(html.table(header, rows, caption, marks=marks or {}, folded=folded))

    def log(self, text: str, caption: str, *, folded: bool = True) -> Report:
        """Add text as it is: a log tail, a file, a command's output."""
        block = f"<pre>{html.escape(text)}</pre>"
        if folded:
            return self._add(f"<details><summary>{html.escape(caption)}</summary>{block}</details>")
        return self._add(f'<figure class="log"><figcaption>{html.escape(caption)}</figcaption>{block}</figure>')

    def figure(self, svg: Figure | str, caption: str, *, alt: str = "") -> Report:
        """Add a static figure, inline and as `figures/NN.svg`.

        Args:
            svg: A matplotlib figure, or SVG text without scripts and outside references.
            caption: What it shows.
            alt: What it says to those who cannot see it; the caption when empty.

        Raises:
            UsageError: the text is no SVG, or would run or fetch something.
        """
        name = f"{len(self._drawings) + 1:02d}"
        said = alt or caption
        drawing = from_text(svg, name=name, alt=said) if isinstance(svg, str) else from_figure(svg, name=name, alt=said)
        self._drawings[name] = drawing
        return self._add(
            f'<figure><div class="scroll">{drawing.inline()}</div><figcaption>{html.escape(caption)}'
            f' <a class="file" href="figures/{name}.svg">SVG</a></figcaption></figure>'
        )

    def interactive(self, chart: Any, caption: str, *, alt: str = "") -> Report:
        """Add a plotly figure; its library is copied into the folder, nothing is fetched.

        Args:
            chart: A `plotly.graph_objects.Figure` of traces that are drawn as SVG.
            caption: What it shows.
            alt: What it says to those who cannot see it; the caption when empty.

        Raises:
            UsageError: a trace needs WebGL, which not every browser has, or fetches a map.
        """
        kinds = {str(trace.type) for trace in chart.data}
        if refused := sorted(kinds - _SVG_TRACES):
            raise UsageError(
                f"interactive figure {caption!r}: {', '.join(refused)} needs WebGL or a map from outside; "
                f"allowed are {', '.join(sorted(_SVG_TRACES))}"
            )
        self._charts += 1
        return self._add(html.chart(chart.to_json(), caption, alt or caption, number=self._charts))

    def cite(self, *references: Reference) -> Report:
        """Add works to the citations at the end, each once."""
        known = {reference.key for reference in self._references}
        self._references += [reference for reference in references if reference.key not in known]
        return self

    def html(self) -> str:
        """Return the page."""
        machine, versions = (self._machine, {}) if self._machine is not None else _this_machine()
        return html.page(
            title=self.title,
            verdict=self._verdict,
            sections=self._sections if len(self._sections) > 2 else [],
            body="\n".join(self._body),
            footer=html.footer(
                machine=machine,
                made_with=", ".join(
                    f"{name} {version}" for name, version in {**versions, "mlsysopt": __version__}.items()
                ),
                date=self._date,
                command=self.command,
                references=self._references,
            ),
            interactive=self._charts > 0,
        )

    def write(self, folder: str | Path) -> Path:
        """Write the folder and return its `index.html`; an earlier report there is replaced.

        Raises:
            UsageError: the path is a file.
        """
        folder = Path(folder)
        if folder.exists() and not folder.is_dir():
            raise UsageError(f"report folder {str(folder)!r} is a file; name a folder")
        folder.mkdir(parents=True, exist_ok=True)
        if self._drawings:
            (folder / "figures").mkdir(exist_ok=True)
        for name, drawing in self._drawings.items():
            replace_file(folder / "figures" / f"{name}.svg", drawing.standalone().encode())
        if self._charts:
            shutil.copyfile(html.plotly_js(), folder / "plotly.min.js")
        # A reader that reloads while we write must see the old page or the new one, never half of one.
        return replace_file(folder / "index.html", self.html().encode())

    def _add(self, part: str) -> Report:
        self._body.append(part)
        return self


def _this_machine() -> tuple[str, Mapping[str, str]]:
    from mlsysopt.core.measure import machine

    found = machine()
    return found.text(), {"mlsysopt": __version__, **found.packages}
