"""Ranges of eight PostgreSQL knobs by start-only probes: how fast, how near a slow scan, and what is left behind.

python -m bench.tune_databases_discover
"""

from __future__ import annotations

import argparse
import tempfile
from collections.abc import Generator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import replace
from pathlib import Path
from typing import Any

from bench.protocol import Bench
from mlsysopt.core.errors import MissingProgram
from mlsysopt.core.target import Failure, Limits
from mlsysopt.operate.tune.ranges import Discovery, FoundSide
from mlsysopt.operate.tune.server_target import ServerTarget

KNOBS = (
    "shared_buffers", "work_mem", "max_connections", "superuser_reserved_connections", "max_wal_senders",
    "wal_buffers", "min_wal_size", "max_locks_per_transaction",
)  # fmt: skip
MEMORY = "10GiB"
"""Two GiB less than the address space that the server then has."""

FINE, COARSE, REACH, RIGHT = 1.15, 2.0, 2.5, 2.0
# Starts, counted from the first of a run, that fail whatever is asked; and in what words.
FAULTS = {
    range(24, 27): "FATAL:  pre-existing shared memory block (key 3178515, ID 7) is still in use",
    range(60, 63): 'FATAL:  lock file "postmaster.pid" already exists',
}
QUIET = 10.0


class Orphaned:
    """A server whose starts fail for a while, as beside an orphan that holds its memory."""

    def __init__(self, server: Any) -> None:
        self._server, self.starts, self.failed = server, 0, 0

    def __getattr__(self, name: str) -> Any:
        return getattr(self._server, name)

    def service(self, place: Any, config: Mapping[str, Any]) -> Any:
        self.starts += 1
        for when, words in FAULTS.items():
            if self.starts in when:
                self.failed += 1
                return place.service(["/bin/sh", "-c", f"echo '{words}' >&2; exit 1"], ready="never said")
        return self._server.service(place, config)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--budget", default="120s", help="seconds that one discovery may take before it is cut short")
    budget: str = parser.parse_args().budget
    from mlsysopt.operate.tune.server_files import server
    from mlsysopt.operate.tune.server_target import server_target

    bench = Bench(
        "tune_databases_discover",
        "the ranges that PostgreSQL really takes are found by starting it, within a factor of two, in under a minute",
        "a slow scan of the same server by ratios of 1.15",
        f"{len(KNOBS)} knobs from their raw metadata ranges, no constraint, {MEMORY} and 2 GiB of slack of address "
        "space, both sides; a run counts in wall seconds on a quiet machine, else in CPU seconds of the whole tree",
    )
    shared = segments(), blocks()
    with own_folders() as (data, temporary):
        try:
            target = server_target(server("postgres"), knobs=KNOBS, memory=MEMORY, constraints=False, directory=data)
        except MissingProgram as error:
            return bench.missing(str(error))
        found, wall_s, cpu_s, pressure = timed(target, budget)
        print(found.text(), end="\n\n", flush=True)
        left = leftovers(data, temporary, shared)
        wrong = scan(bench, target, found)
        orphaned, moved = planted(bench, target, found, budget)
        left += leftovers(data, temporary, shared)
    bench.round(wall_s=wall_s, cpu_s=cpu_s, pressure=pressure, probes=found.probes, complete=found.complete,
                left=left, orphan_voided=orphaned.voided)  # fmt: skip
    quiet = pressure is not None and pressure < QUIET
    about = f"{'wall' if quiet else 'CPU'} seconds ({wall_s:.1f} wall, {cpu_s:.1f} CPU, pressure {pressure or 0:.0f} %)"
    seconds = (wall_s if quiet else cpu_s) if found.complete else float("nan")
    right = len(KNOBS) - len(wrong)
    bench.headline = f"{right} of {len(KNOBS)} ranges right, {found.probes} probes, {wall_s:.1f} s"
    bench.bar("tune-databases.2a", seconds, "<", 60, about=f"{about}, {found.probes} probes, both sides of all knobs")
    bench.bar("tune-databases.2b", right, ">=", 7, about=f"of {len(KNOBS)} knobs: ends within 2x of what fails; "
              f"wrong: {', '.join(wrong) or 'none'}")  # fmt: skip
    bench.bar("tune-databases.2c", len(left), "==", 0, about=f"left behind {', '.join(left)}")
    bench.bar("tune-databases.2d", len(moved), "==", 0, about="bounds that a planted orphan changed, "
              f"{orphaned.voided} probes void; changed: {', '.join(moved) or 'none'}")  # fmt: skip
    return bench.finish()


def timed(target: ServerTarget, budget: str) -> tuple[Discovery, float, float, float | None]:
    """Return what a discovery without a past found, its wall and CPU seconds, and the pressure over it."""
    from mlsysopt.core.measure.clocks import Stopwatch
    from mlsysopt.core.measure.surroundings import conditions
    from mlsysopt.core.store import Store
    from mlsysopt.operate.tune.discovery import discover

    with Store.open(None) as store, Stopwatch() as watch:
        found = discover(target, budget=budget, store=store)
    return found, watch.wall_s, watch.cpu_s, conditions().pressure_avg10


# --- the slow scan -------------------------------------------------------------------------------


def scan(bench: Bench, target: ServerTarget, found: Discovery) -> list[str]:
    """Compare every end with a scan by small ratios; return the knobs of which one end is wrong."""
    wrong: list[str] = []
    rows: list[tuple[object, ...]] = []
    with target.session(Limits()) as session:
        for one in found.found:
            start = inner(target, found, one.name)
            for name, side in one.sides.items():
                failing, said = first_failing(session, target, one.name, start, name, side)
                right = is_right(side, failing)
                rows.append((one.name, name, one.shown(round(side.value)), side.origin,
                             "none in reach" if failing is None else one.shown(round(failing)),
                             "right" if right else "WRONG", said))  # fmt: skip
                bench.round(knob=one.name, side=name, found=side.value, origin=side.origin, failing=failing,
                            right=right, said=said)  # fmt: skip
                if not right and one.name not in wrong:
                    wrong.append(one.name)
    bench.table(("knob", "side", "found", "ended by", "first failing of the scan", "", "what it said"), rows)
    return wrong


def inner(target: ServerTarget, found: Discovery, name: str) -> float:
    """Return a value that starts: the default, or the middle of what was found where that is special."""
    parameter: Any = target.space()[name]
    bound: Any = found.target.space()[name]
    if parameter.default in parameter.special:
        return (bound.low * bound.high) ** 0.5
    return parameter.default


def first_failing(
    session: Any, target: ServerTarget, name: str, start: float, side: str, end: FoundSide
) -> tuple[float | None, str]:
    """Return the first value outward that fails twice, and what was said; None where there is none in reach."""
    up = side == "high"
    parameter: Any = target.space()[name]
    knob = target.catalogue.knobs[name]
    at_limit = end.refused is None
    limit = end.value if at_limit else (parameter.high if up else parameter.low)
    value, values = float(start), list[float]()
    while True:
        near = end.value / REACH if up else end.value * REACH
        step = FINE if (value >= near if up else value <= near) else COARSE
        value = value * step if up else value / step
        last = end.value * REACH if up else end.value / REACH
        if value > min(limit, last) if up else value < max(limit, last):
            break
        values.append(value)
    if at_limit:
        values.append(limit)
    for value in dict.fromkeys(max(round(value / knob.scale), 1) * knob.scale for value in values):
        if not parameter.low <= value <= parameter.high:
            continue
        outcomes = [session.probe({name: value})]
        if isinstance(outcomes[0], Failure):
            # One bad moment of the machine is no truth.
            outcomes.append(session.probe({name: value}))
        if all(isinstance(one, Failure) for one in outcomes):
            return float(value), outcomes[0].reason.split("GMT")[-1].strip()[:60]
    return None, ""


def is_right(side: FoundSide, failing: float | None) -> bool:
    if side.contradiction or side.state not in ("found", "unchecked"):
        return False
    if failing is None:
        return side.refused is None
    return side.refused is not None and max(failing / side.value, side.value / failing) <= RIGHT


# --- the planted orphan --------------------------------------------------------------------------


def planted(bench: Bench, target: ServerTarget, found: Discovery, budget: str) -> tuple[Discovery, list[str]]:
    """Search again while starts fail for a while; return that, and the ends that are not the same.

    An end that a time-out found depends on how busy the machine is: it counts as the same within a factor of two.
    """
    from mlsysopt.core.store import Store
    from mlsysopt.operate.tune.discovery import discover

    server: Any = Orphaned(target.server)
    with Store.open(None) as store:
        again = discover(replace(target, server=server), budget=budget, store=store)
    moved: list[str] = []
    for before, after in zip(found.found, again.found, strict=True):
        for name, side in before.sides.items():
            other = after.sides[name]
            same = side.value == other.value
            if "timeout" in (side.origin, other.origin):
                same = max(side.value / other.value, other.value / side.value) <= RIGHT
            bench.round(knob=before.name, side=name, without=side.value, with_orphan=other.value, same=same)
            if not same or other.state != "found":
                moved.append(f"{before.name} {name}")
    if server.failed < sum(map(len, FAULTS)):
        moved.append(f"the fault met {server.failed} starts only")
    return again, moved


# --- what is left --------------------------------------------------------------------------------


@contextmanager
def own_folders() -> Generator[tuple[Path, Path]]:
    """Make a folder for data and one for temporary files that nobody else writes to."""
    before = tempfile.tempdir
    with tempfile.TemporaryDirectory(prefix="mlsysopt-bench-", dir="/var/tmp") as base:
        folders = Path(base, "data"), Path(base, "tmp")
        Path(base).chmod(0o755)
        for folder in folders:
            folder.mkdir()
            folder.chmod(0o1777)
        tempfile.tempdir = str(folders[1])
        try:
            yield folders
        finally:
            tempfile.tempdir = before


def leftovers(data: Path, temporary: Path, before: tuple[set[str], set[str]]) -> list[str]:
    """Return what still lies or runs that was not there before."""
    from mlsysopt.core.processes.ledger import current_ledger
    from mlsysopt.core.processes.strays import carriers

    left = [str(path) for folder in (data, temporary) for path in folder.iterdir()]
    left += [f"process {pid}" for pid in carriers(current_ledger().token)]
    left += [f"segment {one}" for one in sorted(segments() - before[0])]
    return left + [f"/dev/shm/{one}" for one in sorted(blocks() - before[1])]


def segments() -> set[str]:
    """Return the System V segments whose maker has gone: those of servers that run belong to others."""
    rows = Path("/proc/sysvipc/shm").read_text().splitlines()[1:]
    return {row.split()[1] for row in rows if not Path("/proc", row.split()[4]).exists()}


def blocks() -> set[str]:
    """Return the blocks of shared memory in files that no process uses any more."""
    names = {path.name for path in Path("/dev/shm").glob("PostgreSQL.*")}
    for maps in Path("/proc").glob("[0-9]*/maps") if names else ():
        with suppress(OSError):
            used = maps.read_text()
            names -= {name for name in names if name in used}
    return {name for name in names if Path("/dev/shm", name).exists()}


if __name__ == "__main__":
    raise SystemExit(main())
