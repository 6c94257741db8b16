"""Draw the README's picture from the newest live run: every metric of the verified configuration.

python -m bench.picture
"""

from __future__ import annotations

import json
import math
from pathlib import Path

from bench.protocol import RESULTS
from mlsysopt.core.report import Span, intervals
from mlsysopt.core.study import Result

PICTURE = Path(__file__).resolve().parent.parent / "docs" / "images" / "rocksdb-verified.svg"
SHOWN = ("throughput", "throughput_cpu", "get_us", "seek_us", "write_us", "p99_get_us", "p99_write_us",
         "write_amp", "load_ops_cpu", "disk_bytes")  # fmt: skip


def main() -> int:
    """Write the picture; nothing when no live run was verified."""
    record = json.loads((RESULTS / "tune_rocksdb.json").read_text())
    result = Result.from_json(next(row for row in record["rounds"] if row["sampler"] == "structured")["result"])
    spans = [
        Span(name, ratio.value, ratio.low, ratio.high, _good(ratio.low, ratio.high, ratio.better))
        for name in SHOWN
        if (ratio := result.verified.get(name)) is not None and math.isfinite(ratio.high)
    ]
    if not spans:
        print("no verified run in bench/results/tune_rocksdb.json: no picture")
        return 0
    PICTURE.parent.mkdir(parents=True, exist_ok=True)
    intervals(spans, label="tuned / default, verified rounds").savefig(PICTURE, format="svg", metadata={"Date": None})
    print(PICTURE)
    return 0


def _good(low: float, high: float, better: str) -> bool | None:
    if low <= 1.0 <= high:
        return None
    return (low > 1.0) == (better == "higher")


if __name__ == "__main__":
    raise SystemExit(main())
