"""A stranger's package brings a target and a sampler; broken ones are named and harm nobody."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from mlsysopt.cli.main import run

EXAMPLE = Path(__file__).parents[1] / "plugin_example"


@pytest.fixture(scope="session")
def installed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Install the example as pip would, into a folder of its own."""
    folder = tmp_path_factory.mktemp("site")
    subprocess.run(
        [sys.executable, "-m", "pip", "install", "-qq", "--no-deps", "--no-build-isolation", "--no-index",
         "--target", str(folder), str(EXAMPLE)],
        check=True,
        capture_output=True,
    )  # fmt: skip
    return folder


@dataclass(frozen=True)
class Said:
    returncode: int
    stdout: str
    stderr: str


Call = Callable[..., Said]


@pytest.fixture
def mlsysopt(
    installed: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> Iterator[Call]:
    """The command line in this process, where it starts in no time, with the example installed."""
    monkeypatch.syspath_prepend(str(installed))
    monkeypatch.chdir(tmp_path)

    def call(*words: str) -> Said:
        code = run(words)
        return Said(code, *capsys.readouterr())

    yield call
    for name in [name for name in sys.modules if name.partition(".")[0] == "mlsysopt_example"]:
        del sys.modules[name]


@pytest.fixture
def program(installed: Path, tmp_path: Path) -> Call:
    """The command line as a person has it: a process of its own for each call."""
    source = Path(__file__).parents[2] / "src"
    env = {**os.environ, "PYTHONPATH": f"{source}{os.pathsep}{installed}"}

    def call(*words: str) -> Said:
        done = subprocess.run(
            [sys.executable, "-m", "mlsysopt", *words], capture_output=True, text=True, env=env, cwd=tmp_path
        )
        return Said(done.returncode, done.stdout, done.stderr)

    return call


def test_a_strangers_target_and_sampler_work_like_ours(program: Call, mlsysopt: Call, tmp_path: Path) -> None:
    done = program(
        "tune", "run", "crc", "--sampler", "halving", "--budget", "10", "--store", "crc.db", "--report", "report",
        "--out", "crc.txt", "--json",
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    result = json.loads(done.stdout)
    assert result["status"] == "proven"
    assert result["winner"]["ratios"]["time_s"]["value"] < 0.7
    assert result["setting"]["sampler"] == "halving"
    assert (tmp_path / "report" / "index.html").stat().st_size > 5000
    assert (tmp_path / "crc.txt").read_text().startswith("chunk_bytes = ")

    shown = mlsysopt("tune", "show", "crc.db")
    assert shown.returncode == 0 and "proven" in shown.stdout
    explained = mlsysopt("tune", "explain", "crc.db")
    assert explained.returncode == 0 and "chunk_bytes" in explained.stdout
    again = mlsysopt("tune", "resume", "crc.db", "--budget", "12", "--json")
    assert again.returncode == 0, again.stderr
    assert sum(json.loads(again.stdout)["counts"].values()) == 12
    verified = mlsysopt("tune", "verify", "crc.db", "--rounds", "8", "--json")
    assert verified.returncode == 0 and json.loads(verified.stdout)["winner"]["ratios"]["time_s"]["rounds"] >= 6
    assert mlsysopt("report", "crc.db", "--out", "again").returncode == 0
    assert mlsysopt("cite", "crc").returncode == 0
    assert "crc" in mlsysopt("tune", "show", "crc").stdout


@pytest.mark.parametrize(
    ("words", "says"),
    [
        (["crc-raises"], ["'crc-raises' from mlsysopt-example 0.1.0", "its factory", "broken.py:"]),
        (["crc-incomplete"], ["lacks name, references", "mlsysopt-example 0.1.0"]),
        (["crc-absent"], ["'crc-absent' from mlsysopt-example 0.1.0", "import", "mlsysopt_example.absent"]),
        (["crc-explodes"], ["raised in Session.measure", "ZeroDivisionError", "broken.py:"]),
        (["crc", "--sampler", "halving-raises"], ["'halving-raises' from mlsysopt-example 0.1.0", "broken.py:"]),
    ],
    ids=lambda given: " ".join(given) if isinstance(given, list) else None,
)
def test_a_broken_part_is_named_with_its_line(mlsysopt: Call, words: list[str], says: list[str]) -> None:
    done = mlsysopt("tune", "run", *words, "--budget", "3")
    assert done.returncode == 1
    assert all(text in done.stderr for text in says), done.stderr
    assert "Traceback" not in done.stderr
    assert len(done.stderr.strip().splitlines()[-1]) < 400


@pytest.mark.parametrize(
    ("words", "code", "says"),
    [
        (["--budget", "1"], 2, "at least 2 trials"),
        (["--budget", "soon"], 2, "a number of trials (20) or a time"),
        (["--budget", "1ms"], 2, "the smallest workable budget is"),
        (["--guard", "tims<=1x"], 2, "unknown metric 'tims'"),
        (["--guard", "time_s<1x"], 2, "a metric, then a limit"),
        (["--maximize", "time_s"], 2, "use minimize='time_s'"),
        (["--minimize", "tim_s"], 2, "did you mean time_s"),
        (["--sampler", "halvng"], 2, "did you mean halving"),
        (["--workload", "mixgraph"], 2, "has no setting 'workload'"),
        (["--store", "/proc/no.db"], 1, "/proc/no.db"),
        (["--config", "absent.toml"], 2, "absent.toml"),
        (["--report", "/dev/null"], 2, "is a file"),
        (["--workers", "2"], 2, "2 workers share a store"),
        (["--executor", "loca"], 2, "'loca' is not one of"),
    ],
    ids=lambda given: " ".join(given) if isinstance(given, list) else None,
)
def test_bad_input_is_one_line_with_its_exit_code(mlsysopt: Call, words: list[str], code: int, says: str) -> None:
    done = mlsysopt("tune", "run", "crc", *(["--budget", "2"] if "--budget" not in words else []), *words)
    assert says in done.stderr, done.stderr
    assert done.returncode == code
    assert "Traceback" not in done.stderr


def test_store_faults_are_one_line_each(mlsysopt: Call, tmp_path: Path) -> None:
    (tmp_path / "text.db").write_text("not a database at all, only text" * 40)
    done = mlsysopt("tune", "run", "crc", "--budget", "2", "--store", "text.db")
    assert done.returncode == 2 and "text.db" in done.stderr
    assert (tmp_path / "text.db").read_text().startswith("not a database")
    assert mlsysopt("tune", "resume", "absent.db").returncode == 2
    assert not (tmp_path / "absent.db").exists()


def test_a_toml_file_carries_flags_and_a_flag_beats_it(mlsysopt: Call, tmp_path: Path) -> None:
    (tmp_path / "tune.toml").write_text('budget = "3"\nsampler = "random"\nstore = "from-file.db"\n')
    done = mlsysopt("tune", "run", "crc", "--config", "tune.toml", "--budget", "4", "--json")
    assert done.returncode in (0, 4), done.stderr
    assert sum(json.loads(done.stdout)["counts"].values()) == 4
    assert (tmp_path / "from-file.db").exists()


def test_several_workers_from_the_command_line(mlsysopt: Call, tmp_path: Path) -> None:
    done = mlsysopt(
        "tune", "run", "crc", "--budget", "8", "--workers", "2", "--store", "crew.db", "--sampler", "random", "--json"
    )
    assert done.returncode == 0, done.stderr
    counts = json.loads(done.stdout)["counts"]
    assert 8 <= sum(counts.values()) <= 9 and set(counts) == {"valid"}
    shown = [line for line in done.stderr.splitlines() if "trial " in line and "best" in line]
    assert len(shown) == sum(counts.values()) - 1
    again = mlsysopt("tune", "resume", "crew.db", "--budget", "11", "--workers", "2", "--json")
    assert again.returncode == 0, again.stderr
    assert 11 <= sum(json.loads(again.stdout)["counts"].values()) <= 12
