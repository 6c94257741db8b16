"""Merge `bench/results/*.json` into `bench/RESULTS.md` and the table of the README.

    python -m bench.merge

Nobody types a figure by hand: both are generated from what the benches wrote.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from bench.protocol import RESULTS

ROOT = Path(__file__).resolve().parent.parent
BEGIN, END = "<!-- results: begin, made by python -m bench.merge -->", "<!-- results: end -->"

Record = Mapping[str, Any]


def main() -> int:
    """Write both files; the README only where it has the markers."""
    records = read(RESULTS)
    (ROOT / "bench" / "RESULTS.md").write_text(results_page(records))
    readme = ROOT / "README.md"
    if readme.exists():
        text = readme.read_text()
        merged = between_markers(text, summary(records))
        if merged != text:
            readme.write_text(merged)
    print(f"bench/RESULTS.md: {len(records)} benches, {sum(not record['passed'] for record in records)} not passed")
    return 0


def read(folder: Path) -> list[Record]:
    """Return every result in the order of its name."""
    return [json.loads(path.read_text()) for path in sorted(folder.glob("*.json"))]


def results_page(records: Sequence[Record]) -> str:
    """Return one section per bench: claim, protocol, machine and every bar."""
    parts = ["# Results\n\nMade by `python -m bench.merge` from `bench/results/*.json`.\n"]
    for record in records:
        rows = [
            [bar["name"], _figure(bar["value"]), f"{bar['relation']} {bar['limit']:g}", _verdict(bar), bar["about"]]
            for bar in record["bars"]
        ]
        parts.append(
            f"\n## {record['bench']}\n\n{_text(record['claim'])}\n\n"
            + (f"**{_text(record['headline'])}**\n\n" if record["headline"] else "")
            + f"- peer: {_text(record['peer'])}\n- protocol: {_text(record['protocol'])}\n"
            + f"- machine: {_machine(record)}\n- run: {record['date']}, {record['seconds']:.0f} s\n\n"
            + _table(["bar", "value", "limit", "verdict", "what"], rows)
        )
    return "".join(parts)


def summary(records: Sequence[Record]) -> str:
    """Return the README's table: one row per room, in it a line for each bench that states a headline."""
    rooms: dict[str, list[Record]] = {}
    for record in records:
        if record["headline"]:
            rooms.setdefault(record["bench"].partition("_")[0], []).append(record)
    rows = [
        [
            room,
            _lines(f"`{one['bench']}`: {_text(one['headline'])} ({_bars(one['bars'])})" for one in found),
            _lines(_text(one["peer"]) for one in found),
            _lines(f"{one['date']}, {_machine(one)}" for one in found),
        ]
        for room, found in rooms.items()
    ]
    return _table(["room", "measured (bars met)", "against", "date and machine"], rows)


def between_markers(text: str, table: str) -> str:
    """Return `text` with the part between the markers replaced; without markers, unchanged.

    >>> between_markers(f"a {BEGIN} old {END} b", "new") == f"a {BEGIN}\\n\\nnew\\n{END} b"
    True
    """
    before, begin, rest = text.partition(BEGIN)
    _, end, after = rest.partition(END)
    if not (begin and end):
        return text
    return f"{before}{BEGIN}\n\n{table}\n{END}{after}"


def _bars(bars: Sequence[Record]) -> str:
    """Return how many of the bars that must be met were met; all of them, or which were missed."""
    must = [bar for bar in bars if bar["must"]]
    missed = [bar["name"] for bar in must if not bar["passed"]]
    return f"{len(must) - len(missed)} of {len(must)}" + (f", missed: {', '.join(missed)}" if missed else "")


def _lines(texts: Iterable[str]) -> str:
    """Return each text once, a line of its own within one cell."""
    return "<br>".join(dict.fromkeys(texts))


def _verdict(bar: Record) -> str:
    verdict = "pass" if bar["passed"] else "**fail**"
    return verdict if bar["must"] else f"{verdict} (stretch)"


def _figure(value: object) -> str:
    return f"{value:.4g}" if isinstance(value, float | int) else "-"


def _machine(record: Record) -> str:
    machine = record["machine"]
    return _text(f"{machine['cpu']}, {machine['cores']} cores, {machine['memory_bytes'] / 2**30:.0f} GiB")


def _text(text: str) -> str:
    return " ".join(str(text).split())


def _table(header: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    lines = [header, ["---"] * len(header), *([_text(cell).replace("|", "\\|") for cell in row] for row in rows)]
    return "".join("| " + " | ".join(line) + " |\n" for line in lines)


if __name__ == "__main__":
    raise SystemExit(main())
