"""What it costs to begin: `python -m bench.infer_start`. Bars infer.10 and infer.12.

Each figure is taken in a process of its own, with a cache folder of its own.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
from typing import Any

from bench.protocol import Bench

FIT = """
import json, time, sys
import mlsysopt.infer.running, mlsysopt.infer.rules, mlsysopt.infer.differentiate.nuts, numba.core.registry
from mlsysopt.infer.emit import jit
mlsysopt.infer.rules.ordered_rules()
numba.core.registry.cpu_target.target_context.refresh()  # numba imports most of itself at its first call
from bench.infer_models import hmm, hmm_data
data = hmm_data(3, T=int(sys.argv[1]))
began = time.process_time()
compiled = hmm(**data)
text = compiled.engine(1).text
fit = compiled.infer(1, warmup=0, chains=1, start="prior")
from mlsysopt.infer.emit.cache import key_of
print(json.dumps({"cpu_s": time.process_time() - began, "key": key_of(text)}))
"""
IMPORT = """
import json, sys, time
began = time.process_time()
import mlsysopt.infer
print(json.dumps({"cpu_s": time.process_time() - began, "numba": "numba" in sys.modules}))
"""
HELP = """
import json, sys, time
began = time.process_time()
from mlsysopt.cli.main import run
sys.argv = ["mlsysopt", "infer", "--help"]
import contextlib, io
with contextlib.redirect_stdout(io.StringIO()), contextlib.suppress(SystemExit):
    run(["infer", "--help"])
print(json.dumps({"cpu_s": time.process_time() - began, "numba": "numba" in sys.modules}))
"""


def main() -> int:
    bench = Bench(
        "infer_start",
        "compiling is paid once, and does not grow with the data",
        "none: limits",
        "a process and a cache folder each; CPU seconds without imports",
    )
    with tempfile.TemporaryDirectory() as cache:
        cold = _run(FIT, "400", cache=cache)
        warm = [_run(FIT, "400", cache=cache) for _ in range(3)]
        long = _run(FIT, "400000", cache=cache)
    with tempfile.TemporaryDirectory() as cache:
        again = _run(FIT, "400000", cache=cache)
    cached = sorted(one["cpu_s"] for one in warm)[1]
    bench.round(cold=cold, warm=warm, long=long, long_cold=again)
    bench.bar("infer.10a", cached, "<", 0.5, about="CPU-s to the first draw of a cached model")
    bench.bar("infer.10b", cold["cpu_s"], "<", 15.0, about="CPU-s to the first draw, cold")
    plain, shown = _run(IMPORT), _run(HELP)
    bench.bar("infer.10c", plain["cpu_s"], "<", 0.4, about="CPU-s of import mlsysopt.infer")
    bench.bar("infer.10d", shown["cpu_s"], "<", 0.4, about="CPU-s of mlsysopt infer --help")
    bench.bar("infer.10e", float(plain["numba"] or shown["numba"]), "==", 0, about="numba is not loaded by either")
    bench.bar("infer.12a", float(long["key"] == cold["key"]), "==", 1, about="1000x the data: the same generated file")
    bench.bar(
        "infer.12b",
        long["cpu_s"],
        "<",
        cold["cpu_s"],
        about="1000x the data: nothing is compiled again (CPU-s, below a cold start)",
    )
    # Data of this length take time of their own to bind, to draw and to weigh: the cached run tells how much.
    bench.bar(
        "infer.12c",
        abs(again["cpu_s"] - long["cpu_s"] + cached) / cold["cpu_s"],
        "<=",
        1.2,
        about="compile CPU of 1000x the data over that of the short",
    )
    bench.headline = (
        f"first draw {cached:.2f} CPU-s cached, {cold['cpu_s']:.1f} cold; 1000x the data compiles nothing again"
    )
    return bench.finish()


def _run(code: str, *arguments: str, cache: str | None = None) -> dict[str, Any]:
    env = {**os.environ, "OMP_NUM_THREADS": "1", **({"XDG_CACHE_HOME": cache} if cache else {})}
    ended = subprocess.run(
        [sys.executable, "-c", code, *arguments], capture_output=True, text=True, env=env, check=False
    )
    if ended.returncode:
        raise RuntimeError(ended.stderr[-2000:])
    return json.loads(ended.stdout.splitlines()[-1])


if __name__ == "__main__":
    sys.exit(main())
