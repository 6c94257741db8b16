"""What every bench shares: the bar lines, the results file, and the exit code.

A bench builds a `Bench`, adds rows and bars, and ends with `raise SystemExit(bench.finish())`:
0 only if every *must* bar passes, 1 otherwise, 3 when a peer or program is missing.
"""

from __future__ import annotations

import compileall
import json
import math
import operator
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Literal

RESULTS = Path(__file__).parent / "results"
RELATIONS: dict[str, Callable[[float, float], bool]] = {
    "<=": operator.le,
    ">=": operator.ge,
    "<": operator.lt,
    ">": operator.gt,
    "==": operator.eq,
}


def as_installed() -> None:
    """Compile our sources to bytecode, as an installed package has them; for benches that time a start."""
    import mlsysopt

    for place in mlsysopt.__path__:
        compileall.compile_dir(place, quiet=2)


@dataclass(frozen=True, slots=True)
class Bar:
    """One limit of a brief: `name` is `<brief>.<n>`, for example `core.1a`."""

    name: str
    value: float
    relation: str
    limit: float
    must: bool = True
    about: str = ""

    @property
    def passed(self) -> bool:
        return not math.isnan(self.value) and RELATIONS[self.relation](self.value, self.limit)

    def line(self) -> str:
        verdict = "PASS" if self.passed else "FAIL"
        kind = "" if self.must else " (stretch)"
        return f"BAR {self.name} {self.value:.4g} {self.relation} {self.limit:g} {verdict}{kind}  {self.about}".rstrip()


@dataclass
class Bench:
    """One run of one bench.

    Args:
        name: Module name without the package, for example `core_measure`.
        claim: One sentence that this run may refute.
        peer: What it is compared with, with version.
        protocol: How the two sides were run.
    """

    name: str
    claim: str
    peer: str
    protocol: str
    bars: list[Bar] = field(default_factory=list)
    rounds: list[dict[str, Any]] = field(default_factory=list)
    headline: str = ""
    started: float = field(default_factory=time.time)

    def __post_init__(self) -> None:
        print(f"{self.name}: {self.claim}\npeer: {self.peer}\nprotocol: {self.protocol}\n", flush=True)

    def round(self, **row: Any) -> None:
        """Keep one raw round; every one of them goes into the results file."""
        self.rounds.append(row)

    def table(self, header: Sequence[str], rows: Sequence[Sequence[object]]) -> None:
        """Print aligned columns."""
        cells = [[str(cell) for cell in row] for row in [header, *rows]]
        widths = [max(len(row[i]) for row in cells) for i in range(len(header))]
        for row in cells:
            print("  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip())
        print(flush=True)

    def bar(
        self,
        name: str,
        value: float,
        relation: Literal["<=", ">=", "<", ">", "=="],
        limit: float,
        *,
        must: bool = True,
        about: str = "",
    ) -> bool:
        """State one bar and print its line."""
        bar = Bar(name, float(value), relation, float(limit), must, about)
        self.bars.append(bar)
        print(bar.line(), flush=True)
        return bar.passed

    def missing(self, what: str) -> int:
        """Say that a peer or program is missing: never green."""
        print(f"{self.name}: {what} is missing; nothing was measured", file=sys.stderr)
        return 3

    def finish(self, *, write: bool = True) -> int:
        """Write `bench/results/<name>.json` and return the exit code."""
        from mlsysopt.core.measure import machine

        passed = bool(self.bars) and all(bar.passed for bar in self.bars if bar.must)
        if write:
            RESULTS.mkdir(exist_ok=True)
            record = {
                "bench": self.name,
                "claim": self.claim,
                "peer": self.peer,
                "protocol": self.protocol,
                "date": time.strftime("%Y-%m-%d", time.gmtime(self.started)),
                "seconds": round(time.time() - self.started, 1),
                "machine": machine().as_dict(),
                "headline": self.headline,
                "passed": passed,
                "bars": [{**asdict(bar), "passed": bar.passed} for bar in self.bars],
                "rounds": self.rounds,
            }
            (RESULTS / f"{self.name}.json").write_text(json.dumps(record, indent=1, allow_nan=True) + "\n")
        return 0 if passed else 1
