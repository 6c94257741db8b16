"""JAGS as a program: model and data in, CODA text out. Debian's package `jags`."""

from __future__ import annotations

import re
import shutil
import subprocess
import tempfile
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from bench.infer_duel import Run, cpu_s
from mlsysopt.core.measure import tree_cpu

__all__ = ["jags", "present"]


def present() -> bool:
    """Whether the program is installed."""
    return shutil.which("jags") is not None


def jags(
    model: str, data: Mapping[str, Any], monitor: Sequence[str], *, draws: int, warmup: int, seed: int, chains: int = 2,
    thin: int = 1,
) -> Run:  # fmt: skip
    """Run a model.

    Args:
        model: In JAGS's language.
        data: Name -> number or array, at most two dimensions.
        monitor: Names of nodes.
        draws: Kept states of each chain.
        warmup: Updates in front of them, of which adaptation is a part.
        seed: Of the chains' generators.
        chains: How many.
        thin: Updates for each kept state.

    Returns:
        Draws by element, `mu[1]`; sampling seconds begin when warming up has ended.
    """
    with tempfile.TemporaryDirectory() as where:
        folder = Path(where)
        (folder / "model.bug").write_text(model)
        (folder / "data.R").write_text("\n".join(f"`{name}` <- {_written(value)}" for name, value in data.items()))
        for chain in range(chains):
            (folder / f"init{chain + 1}.R").write_text(
                f'`.RNG.name` <- "base::Mersenne-Twister"\n`.RNG.seed` <- {seed * 100 + chain + 1}\n'
            )
        script = ['model in "model.bug"', 'data in "data.R"', f"compile, nchains({chains})"]
        script += [f'parameters in "init{chain + 1}.R", chain({chain + 1})' for chain in range(chains)]
        script += [
            "initialize",
            f"update {warmup}",
            *(f"monitor {name}, thin({thin})" for name in monitor),
            # JAGS tells no times: a file says when warming up has ended.
            'parameters to "warmed.R", chain(1)',
            f"update {draws * thin}",
            "coda *",
        ]
        (folder / "script.cmd").write_text("\n".join(script) + "\n")
        before, whole = _run(folder)
        found = _coda(folder, folder / "CODAindex.txt", chains)
    return Run(found, whole - before, whole)


def _run(folder: Path) -> tuple[float, float]:
    """Run the script of a folder; return CPU seconds until it was warm, and of the whole."""
    began = cpu_s()
    with (folder / "said").open("w+") as said:
        process = subprocess.Popen(["jags", "script.cmd"], cwd=folder, stdout=said, stderr=subprocess.STDOUT)
        before = 0.0
        while process.poll() is None:
            if not before and (folder / "warmed.R").exists():
                before = tree_cpu(process.pid)
            time.sleep(0.005)
        if process.returncode or not before or not (folder / "CODAindex.txt").exists():
            said.seek(0)
            raise RuntimeError(f"jags ended with {process.returncode}: {said.read()[-1200:]}")
    return before, cpu_s() - began


def _coda(folder: Path, index: Path, chains: int) -> dict[str, NDArray[Any]]:
    values = [np.loadtxt(folder / f"CODAchain{chain + 1}.txt")[:, 1] for chain in range(chains)]
    found: dict[str, NDArray[Any]] = {}
    for line in index.read_text().splitlines():
        name, first, last = line.split()
        found[_from_zero(name)] = np.stack([one[int(first) - 1 : int(last)] for one in values])
    return found


def _from_zero(name: str) -> str:
    """Turn `mu[1,2]` into `mu[0, 1]`."""
    return re.sub(r"\[(.*)\]", lambda found: f"[{', '.join(str(int(one) - 1) for one in found[1].split(','))}]", name)


def _written(value: Any) -> str:
    array = np.asarray(value)
    if array.ndim == 0:
        return repr(array.item())
    numbers = ", ".join(repr(one) for one in array.flatten(order="F").tolist())
    if array.ndim == 1:
        return f"c({numbers})"
    return f"structure(c({numbers}), .Dim = c({', '.join(f'{n}L' for n in array.shape)}))"
