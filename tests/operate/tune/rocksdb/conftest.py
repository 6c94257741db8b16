"""A stand-in for db_bench that answers with golden output, so that these tests need no RocksDB."""

import sys
from pathlib import Path

import pytest

GOLDEN = Path(__file__).parents[3] / "golden" / "rocksdb"
SCRIPT = """#!{python} -SE
import os, signal, sys, time
golden, here = {golden!r}, {here!r}
flags = dict(a.lstrip("-").split("=", 1) if "=" in a else (a.lstrip("-"), "") for a in sys.argv[1:])
with open(here + "/calls", "a") as calls:
    calls.write(" ".join(sys.argv[1:]) + "\\n")
def show(name):
    sys.stdout.write(open(golden + "/" + name).read())
    sys.stdout.flush()
if "version" in flags:
    print("db_bench version 7.8.3"); sys.exit(0)
if "help" in flags:
    show("help.txt"); sys.exit(1)
mode = open(here + "/mode").read().split()
first = flags["benchmarks"].split(",")[0]
phase = "open" if first == "levelstats" else "load" if first.startswith("fill") else "run"
workload = {{"readrandomwriterandom": "ycsb-b", "readrandom": "read-seek"}}.get(first, "mixgraph")
db = flags["db"]
if phase == "load":
    os.makedirs(db)
    options = open(golden + "/OPTIONS-corrected").read()
    open(db + "/OPTIONS-000007", "w").write(options)
    open(db + "/LOG", "w").write(open(golden + "/LOG-corrected").read())
    open(db + "/000009.sst", "w").write("x" * 1000)
    open(db + "/000010.log", "w").write("x" * (500 if mode[0] == "unflushed" else 0))
if len(mode) > 1 and mode[1] == phase:
    if mode[0] == "fail":
        print("some output"); sys.stderr.write("... finished 100 ops\\rInvalid argument: nonsense\\n"); sys.exit(1)
    if mode[0] == "full":
        sys.stderr.write("put error: IO error: No space left on device: While appending\\n"); sys.exit(1)
    if mode[0] == "killed":
        os.kill(os.getpid(), signal.SIGKILL)
    if mode[0] == "hang":
        time.sleep(60)
    if mode[0] == "silent":
        sys.exit(0)
listed = flags["benchmarks"].split(",")
if phase == "load" and "levelstats" in listed:
    # Asked to wait for whoever reads: a table, and the statistics several times.
    text = open(golden + "/" + workload + "-load.txt").read()
    work, mark, stats = text.partition("\\n** Compaction Stats")
    stats, end, counters = stats.partition("\\nSTATISTICS:")
    sys.stdout.write(work + "\\nLevel Files Size(MB)\\n--------------------\\n  0        2      116\\n")
    sys.stdout.write((mark + stats) * listed.count("stats") + end + counters)
    sys.exit(0)
show(workload + "-" + phase + ".txt")
"""


class FakeBench:
    """The stand-in and what it was asked."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.program = folder / "db_bench"
        script = SCRIPT.format(python=sys.executable, golden=str(GOLDEN), here=str(folder))
        self.program.write_text(script)
        self.program.chmod(0o755)
        self.behave("well")

    def behave(self, mode: str, phase: str = "") -> None:
        """Choose what the next runs do: well, or fail | full | killed | hang | silent in a phase, or unflushed."""
        (self.folder / "mode").write_text(f"{mode} {phase}")

    def calls(self) -> list[list[str]]:
        """Return the command lines of all trials so far, without the questions for help and version."""
        lines = (self.folder / "calls").read_text().splitlines()
        return [line.split() for line in lines if "--benchmarks" in line]


@pytest.fixture
def fake(tmp_path: Path) -> FakeBench:
    folder = tmp_path / "bin"
    folder.mkdir()
    return FakeBench(folder)
