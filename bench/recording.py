"""What recorders of real trials share: blocks with a canary, one line per finished trial, a table at the end.

A default canary runs before every fourth trial, with the same seed as the four trials that follow it.
Every finished trial is one line of a `.jsonl` file beside the table; the same command goes on after a
kill, which costs the trial it hit.
"""

from __future__ import annotations

import gzip
import json
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, Protocol

__all__ = ["BLOCK", "Proposer", "Row", "lines_of", "measured", "record", "resumed", "row_of", "write_table"]

BLOCK = 4  # trials per canary

Row = dict[str, Any]


class Proposer(Protocol):
    """Says what is measured next, and hears what came of it."""

    def propose(self, number: int) -> tuple[str, dict[str, Any]]:
        """Return who proposes trial `number`, and the configuration."""
        ...

    def tell(self, row: Row) -> None:
        """Take in a finished trial."""
        ...


def record(out: Path, header: Mapping[str, Any], rows: list[Row], new: Callable[[], Iterator[Row]]) -> None:
    """Append rows to the lines of a table as they come.

    Args:
        out: The table.
        header: First line of the file; another one belongs to another recording.
        rows: What is there already; new ones are added.
        new: Yields what is missing.
    """
    lines = lines_of(out)
    with lines.open("a") as log:
        if not rows and not lines.stat().st_size:
            log.write(json.dumps(header) + "\n")
            log.flush()
        for row in new():
            log.write(json.dumps(row) + "\n")
            log.flush()
            rows.append(row)


def lines_of(out: Path) -> Path:
    """Return the file of lines that belongs to a table."""
    return out.with_name(out.name.removesuffix(".json.gz") + ".jsonl")


def resumed(lines: Path, header: Mapping[str, Any]) -> list[Row]:
    """Read what an earlier run of the same command left; a half-written last line is dropped.

    A block is measured on one machine: what another one began of it is dropped too.
    """
    from mlsysopt.core.measure import machine

    if not lines.exists() or not lines.stat().st_size:
        return []
    whole = [line for line in lines.read_text().splitlines(keepends=True) if line.endswith("\n")]
    if not whole or json.loads(whole[0]) != json.loads(json.dumps(header)):
        raise SystemExit(f"{lines} belongs to another recording; remove it or give another --out")
    rows = [json.loads(line) for line in whole[1:]]
    last = max((place for place, row in enumerate(rows) if row["role"] == "canary"), default=0)
    if rows and len(rows) - last <= BLOCK and rows[last]["machine"] != machine().text():
        del rows[last:]
    lines.write_text("".join(whole[: len(rows) + 1]))
    return rows


def measured(
    session: Any,
    proposer: Proposer,
    rows: Sequence[Row],
    *,
    trials: int,
    seed: int,
    say: Callable[[Row, Row | None], None],
    extra: Callable[[Any], dict[str, Any]],
) -> Iterator[Row]:
    """Yield one row per run that is still missing, canaries among them.

    Args:
        session: Open session of the target.
        proposer: Proposes trials.
        rows: What is there already, those yielded from here included.
        trials: Trials in all.
        seed: Seeds the load of every block.
        say: Tells people about a row and its canary.
        extra: Columns of a recorder's own, from an outcome.
    """
    from mlsysopt.core.measure import conditions
    from mlsysopt.core.seeds import integer_seed

    done = {(row["role"], row["number"]) for row in rows}
    for number in range(trials):
        block, place = divmod(number, BLOCK)
        block_seed = integer_seed(seed, role="record", round=block)
        canary = next((row for row in reversed(rows) if row["role"] == "canary" and row["number"] == block), None)
        wanted = [("canary", block)] if place == 0 else []
        for role, index in [*wanted, ("trial", number)]:
            if (role, index) in done:
                continue
            source, config = ("default", {}) if role == "canary" else proposer.propose(number)
            timeout_s = max(10.0, 8 * canary["wall_s"]) if canary else 120.0
            before = conditions()
            outcome = session.measure(config, seed=block_seed, timeout_s=timeout_s)
            row = row_of(role, index, source, config, block_seed, outcome, before, extra(outcome))
            if role == "canary":
                if not outcome.ok:
                    raise SystemExit(f"the default itself fails: {outcome.reason}\n{outcome.log_tail}")
                canary = row
            say(row, canary)
            yield row
            if role == "trial":
                proposer.tell(row)


def row_of(
    role: str,
    number: int,
    source: str,
    config: Mapping[str, Any],
    seed: int,
    outcome: Any,
    conditions: Any,
    extra: Mapping[str, Any],
) -> Row:
    """Return one run as a line."""
    from mlsysopt.core.measure import machine

    metrics = {name: float(f"{value:.6g}") for name, value in outcome.metrics.items()} if outcome.ok else None
    return {
        "role": role,
        "number": number,
        "source": source,
        "config": dict(config),
        "effective": dict(outcome.effective_config) if outcome.ok else None,
        "metrics": metrics,
        "failure": None if outcome.ok else {"kind": outcome.kind, "reason": outcome.reason[:200]},
        "seed": seed,
        "wall_s": round(outcome.wall_s, 3),
        "cpu_s": round(outcome.cpu_s, 3),
        **extra,
        "machine": machine().text(),
        "pressure": conditions.pressure_avg10,
        "at": round(time.time()),
    }


def write_table(
    out: Path,
    header: Mapping[str, Any],
    target: Any,
    rows: Sequence[Row],
    *,
    form: str,
    columns: Sequence[str] = (),
    rest: Mapping[str, Any] | None = None,
) -> int:
    """Write rows as columns, names once and numbers after; return the bytes.

    Args:
        out: Where to.
        header: What was recorded.
        target: Gives space, metrics, guards and, where it has them, sub-goals.
        rows: What was measured.
        form: Name of the format.
        columns: Names of a recorder's own columns.
        rest: Further entries.
    """
    from mlsysopt.core.measure import machine
    from mlsysopt.core.places import artefact_header

    knobs = list(target.space().names)
    metrics = [name for name, metric in target.metrics().items() if metric.kind != "static"]
    told = ("role", "number", "source", "seed", "wall_s", "cpu_s", *columns, "machine", "pressure", "at", "failure")
    table = {
        **artefact_header(form, 1),
        **header,
        "date": time.strftime("%Y-%m-%d", time.gmtime()),
        "machine": machine().as_dict(),
        "space": target.space().to_json(),
        "guards": dict(target.guards),
        "subgoals": getattr(target, "subgoals", {}),
        "columns": {name: [row[name] for row in rows] for name in told},
        "config": {name: [row["config"].get(name) for row in rows] for name in knobs},
        "effective": {name: [(row["effective"] or {}).get(name) for row in rows] for name in knobs},
        "metrics": {name: [(row["metrics"] or {}).get(name) for row in rows] for name in metrics},
        **(rest or {}),
    }
    packed = gzip.compress(json.dumps(table, separators=(",", ":")).encode(), 9, mtime=0)
    out.write_bytes(packed)
    return len(packed)
