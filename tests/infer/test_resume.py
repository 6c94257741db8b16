"""Fits on disk: killed at any moment they resume to the same draws; full disks, other models, Ctrl-C."""

from __future__ import annotations

import json
import logging
import os
import random
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from mlsysopt.core.errors import InfrastructureError, UsageError
from mlsysopt.infer import folder as saving
from mlsysopt.infer.compiled import Model
from mlsysopt.infer.fit import Fit
from mlsysopt.infer.running import resume
from tests.infer.resumed import MODELS, compiled, fitted

ROOT = Path(__file__).parents[2]


def same(a: Fit, b: Fit) -> None:
    """Check that two fits have the same arrays."""
    assert a.names == b.names
    for name in a.names:
        np.testing.assert_array_equal(a[name], b[name])
    np.testing.assert_array_equal(a.log_joint, b.log_joint)
    np.testing.assert_array_equal(a.log_likelihood, b.log_likelihood)
    for one, other in zip(a.chains, b.chains, strict=True):
        for name, best in one.best.items():
            np.testing.assert_array_equal(best, other.best[name])
        for name, moments in one.moments.items():
            np.testing.assert_array_equal(moments, other.moments[name])


def child(name: str, out: Path, pause: float = 0.0, mode: str = "plain") -> subprocess.Popen[str]:
    """Start the fit of a model in a process of its own, and wait until it has begun."""
    process = subprocess.Popen(
        [sys.executable, "-m", "tests.infer.resumed", name, str(out), str(pause), mode],
        cwd=ROOT, env={**os.environ, "PYTHONPATH": f"{ROOT / 'src'}:{ROOT}"}, text=True,
        stdout=subprocess.PIPE, stderr=subprocess.PIPE,
    )  # fmt: skip
    assert process.stdout is not None
    assert process.stdout.readline() == "begun\n"
    return process


def killed(process: subprocess.Popen[str]) -> None:
    """Kill a fit, at whatever it is, and let go of its pipes."""
    process.kill()
    process.communicate()


def until_saved(out: Path, process: subprocess.Popen[str], number: int | None = 0) -> None:
    """Wait for the first state of a chain; None waits for the fit alone."""
    ends = time.monotonic() + 60
    name = "fit.json" if number is None else f"state-{number}.npz"
    while not (out / name).exists() and process.poll() is None:
        assert time.monotonic() < ends, f"no {name} after 60 s"
        time.sleep(0.005)


def killed_and_resumed(name: str, out: Path, mode: str, seconds: float) -> None:
    """Kill a fit five times, each at another moment, and compare what it resumes to with a fit left alone."""
    whole = fitted(name, None, mode)
    rng = random.Random(name)
    for _ in range(5):
        process = child(name, out, 0.002, mode)
        # A chain of nuts is saved as a whole, when it has ended.
        try:
            until_saved(out, process, None if mode == "nuts" else rng.randrange(2))
            time.sleep(rng.uniform(0.0, seconds))
        finally:
            killed(process)
    same(resume(out), whole)
    # What is finished is read.
    same(resume(out), whole)
    draws = np.load(out / "draws" / f"{whole.names[0]}.0.npy")
    np.testing.assert_array_equal(draws, whole.chains[0].draws[whole.names[0]])
    assert not list(out.rglob(".*"))


@pytest.mark.parametrize("name", MODELS)
def test_killed_at_any_moment_it_resumes_to_the_same_draws(name: str, tmp_path: Path) -> None:
    killed_and_resumed(name, tmp_path / "fit", "plain", seconds=0.2)


@pytest.mark.slow
@pytest.mark.timeout(240)
@pytest.mark.parametrize(("name", "mode"), [("chain", "compiled"), ("curve", "nuts")])
def test_killed_compiled_or_in_nuts_it_resumes_to_the_same_draws(name: str, mode: str, tmp_path: Path) -> None:
    killed_and_resumed(name, tmp_path / "fit", mode, seconds=1.0)


def test_a_killed_fit_says_nothing_and_holds_what_it_had(tmp_path: Path) -> None:
    process = child("chain", tmp_path / "fit", pause=0.01)
    until_saved(tmp_path / "fit", process)
    killed(process)
    assert "result" not in json.loads((tmp_path / "fit" / "fit.json").read_text())
    assert not (tmp_path / "fit" / "state-1.npz").exists()


def test_ctrl_c_leaves_the_draws_and_says_so(tmp_path: Path) -> None:
    out = tmp_path / "fit"
    process = child("chain", out, pause=0.02)
    until_saved(out, process)
    process.send_signal(signal.SIGINT)
    said, errors = process.communicate(timeout=60)
    assert process.returncode == 0, errors
    assert said.startswith("stopped by hand after ")
    assert "`resume` goes on" in said
    content = json.loads((out / "fit.json").read_text())
    assert content["result"]["stopped"] is True
    assert content["result"]["ok"] is False
    same(resume(out), fitted("chain", None))
    assert json.loads((out / "fit.json").read_text())["result"]["stopped"] is False


def test_a_fit_with_a_folder_has_the_draws_of_one_without(tmp_path: Path) -> None:
    for name in MODELS:
        same(fitted(name, tmp_path / name), fitted(name, None))


def test_a_fixed_value_and_starts_come_back(tmp_path: Path) -> None:
    def begun() -> Any:
        made = compiled("groups")
        made.p.fix(0.25)
        made.scale.set(0.5)
        return made

    options: dict[str, Any] = {"warmup": 5, "chains": 1, "seed": 2, "backend": "python", "method": "gibbs"}
    out = tmp_path / "fit"
    begun().infer(20, out=out, **options)
    (out / "state-0.npz").unlink()
    again = resume(out)
    assert set(again.names) == {"scale", "y"}
    assert again.compiled.fixed_values["p"].tolist() == [0.25]
    same(again, begun().infer(20, **options))


def another(y, K: int):
    from mlsysopt.infer.language import Normal, observe

    for t in range(len(y)):
        observe(y[t], Normal(0.0, 1.0))


def test_another_model_data_or_setting_is_refused(tmp_path: Path) -> None:
    out = tmp_path / "fit"
    fitted("chain", out)
    before = {path: path.stat().st_mtime_ns for path in out.rglob("*")}
    others = [
        (compiled("groups"), {}, "holds a fit of another model"),
        (compiled("chain").bind(y=np.ones(12)), {}, "holds a fit of another data"),
        (
            compiled("chain"),
            {"seed": 6},
            "holds a fit with seed=5, asked for seed=6; resume it as it is, or choose another folder",
        ),
    ]
    fixed = compiled("chain")
    fixed.move.fix([[0.5, 0.5], [0.5, 0.5]])
    others.append((fixed, {}, "holds a fit of another data"))
    for made, changed, words in others:
        with pytest.raises(UsageError) as error:
            made.infer(
                60,
                **{"warmup": 30, "chains": 2, "seed": 5, "backend": "python", "method": "gibbs", "out": out, **changed},
            )
        assert words in str(error.value)
        assert str(out) in str(error.value)
        assert "\n" not in str(error.value)
    content = json.loads((out / "fit.json").read_text())
    with pytest.raises(UsageError, match=f"{content['model_hash']} there, [0-9a-f]{{16}} here"):
        compiled("groups").infer(60, warmup=30, chains=2, seed=5, backend="python", method="gibbs", out=out)
    assert {path: path.stat().st_mtime_ns for path in out.rglob("*")} == before


def test_what_is_no_fit(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="holds no fit"):
        resume(tmp_path)
    (tmp_path / "fit.json").write_text("{")
    with pytest.raises(UsageError, match="is damaged"):
        resume(tmp_path)
    other = tmp_path / "other"
    other.mkdir()
    (other / "note.txt").write_text("mine")
    with pytest.raises(UsageError, match="exists and is no fit; choose a new folder"):
        fitted("chain", other)
    assert (other / "note.txt").read_text() == "mine"


def test_a_damaged_state_is_named(tmp_path: Path) -> None:
    out = tmp_path / "fit"
    fitted("groups", out)
    (out / "state-1.npz").write_bytes(b"nothing")
    with pytest.raises(UsageError, match=r"state-1.npz is damaged .*; delete it, and the chain begins anew"):
        resume(out)
    (out / "state-1.npz").unlink()
    same(resume(out), fitted("groups", None))


def full(*_: object) -> None:
    raise OSError(28, "No space left on device")


def test_a_full_disk_in_between_is_survived(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(saving, "EVERY_S", 0.0)
    out, replaced, calls = tmp_path / "fit", saving.replace_file, [0]

    def sometimes(path: Path, content: bytes) -> None:
        calls[0] += 1
        if path.name.startswith("state-") and 5 < calls[0] < 20:
            full()
        replaced(path, content)

    monkeypatch.setattr(saving, "replace_file", sometimes)
    with caplog.at_level(logging.WARNING):
        found = fitted("chain", out)
    assert [one.getMessage() for one in caplog.records] == [
        f"{out}: not saved now (No space left on device); the fit goes on in memory"
    ]
    monkeypatch.setattr(saving, "replace_file", replaced)
    same(resume(out), found)


def test_a_disk_that_stays_full_is_an_error_at_the_end(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    out, replaced = tmp_path / "fit", saving.replace_file

    def never(path: Path, content: bytes) -> None:
        if path.name.startswith("state-"):
            full()
        replaced(path, content)

    monkeypatch.setattr(saving, "replace_file", never)
    made = compiled("chain")
    with pytest.raises(
        InfrastructureError, match=r"the fit cannot be saved \(No space left on device\); free some space and resume it"
    ) as error:
        made.infer(60, warmup=30, chains=2, seed=5, backend="python", method="gibbs", out=out)
    assert error.value.exit_code == 1
    assert made.fitted is not None
    same(made.fitted, fitted("chain", None))


def test_a_folder_that_cannot_be_written(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(saving, "replace_file", full)
    with pytest.raises(InfrastructureError, match=r"cannot be written .*; choose another folder"):
        fitted("chain", tmp_path / "fit")


def test_a_fit_is_moved(tmp_path: Path) -> None:
    found = fitted("groups", tmp_path / "fit")
    shutil.move(tmp_path / "fit", tmp_path / "elsewhere")
    same(resume(tmp_path / "elsewhere"), found)


def test_a_model_of_a_text(tmp_path: Path) -> None:
    made: dict[str, Any] = {}
    source = "# Notes.\n@model\ndef one(y):\n    m = Normal(0, 1)\n    observe(y, Normal(m, 1))\n"
    exec(source.replace("@model\n", ""), made)
    options: dict[str, Any] = {"chains": 1, "backend": "python", "method": "gibbs"}
    found = Model(made["one"], source)(y=1.0).infer(10, out=tmp_path / "fit", **options)
    same(resume(tmp_path / "fit"), found)
