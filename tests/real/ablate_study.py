"""A small ablation study in a file of its own, run by the command line."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

STUDY = """
import random, time
from mlsysopt.design import ablate


def make():
    return {}


def train(model, data, *, seed, a=True, b=True, c=True, d=True):
    time.sleep(0.03)  # sleep
    value = 0.9 + random.Random(seed).gauss(0, 0.006) + random.Random(repr((seed, a, b, c, d))).gauss(0, 0.006)
    return {"accuracy": value - (0.0 if a else 0.03) - (0.0 if c or d else 0.05)}


study = ablate.study(make, train, maximize="accuracy", margin=0.012, store="ablate.db")
study.options(a=False, b=False, c=False, d=False).pairs(("c=False", "d=False"), top=2)
"""
TIMES = ("cpu_ratio", "rss_bytes")


def command(folder: Path, *more: str, workers: int) -> subprocess.Popen[str]:
    words = [sys.executable, "-m", "mlsysopt", "ablate", "run", "study.py", "--json", "--workers", str(workers), *more]
    return subprocess.Popen(
        words, cwd=folder, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
    )  # fmt: skip


def finished(process: subprocess.Popen[str]) -> dict[str, dict[str, Any]]:
    out, err = process.communicate(timeout=100)
    assert process.returncode == 0, err
    table = json.loads(out)
    return {row["name"]: {k: v for k, v in row.items() if k not in TIMES} for row in table["rows"]}


def folder(tmp_path: Path, name: str, *, sleep_s: float = 0.03) -> Path:
    place = tmp_path / name
    place.mkdir()
    (place / "study.py").write_text(STUDY.replace("0.03)  # sleep", f"{sleep_s})"))
    return place
