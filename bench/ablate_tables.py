"""Records the tables that `bench.ablate_cost` replays: python -m bench.ablate_tables (about 10 CPU-minutes).

Thirty rows and the base, twenty seeds each, of two networks; the metric of every training is kept.
"""

from __future__ import annotations

import argparse
import gzip
import json
from pathlib import Path
from typing import Any

from mlsysopt.core.places import artefact_header

FOLDER = Path(__file__).parent / "tables"
FORMAT, VERSION = "ablation table", 1
SEEDS = 20
ROWS = 30


def studies(store: Path) -> dict[str, Any]:
    """Return both studies, each with at least thirty rows."""
    from bench.ablate_nets import DigitsNet, Mixer, digits, mnist, train_digits, train_mixer
    from mlsysopt.design import ablate

    digit = (
        ablate.study(DigitsNet, train_digits, digits(), maximize="accuracy", store=store / "digits.db")
        .modules("stem", "stem_norm", "blocks.*", "blocks.*.*", "pool", "drop")
        .modules("blocks.*", "blocks.*.*", replace="linear")
        .modules(groups={"both blocks": "blocks.*", "norms": "type:BatchNorm2d", "convolutions": "blocks.**.conv*"})
        .options(smoothing=0.0, decay=0.0, shift=False)
        .data(fraction=[0.75, 0.5, 0.25, 0.1])
    )
    mixer = (
        ablate.study(Mixer, train_mixer, mnist(), maximize="accuracy", store=store / "mixer.db")
        .modules("blocks.*", "blocks.*.*", "blocks.*.*.1", "norm")
        .modules("blocks.*.tokens", "blocks.*.channels", replace="linear")
        .modules(
            groups={"norms": "type:LayerNorm", "both blocks": "blocks.*", "tokens": "blocks.*.tokens",
                    "channels": "blocks.*.channels", "gelus": "type:GELU"}
        )
        .options(smoothing=0.0, decay=0.0)
        .data(fraction=[0.75, 0.5, 0.25, 0.1])
    )  # fmt: skip
    return {"digits-cnn": digit, "mnist-mixer": mixer}


def main() -> None:
    """Train what is missing and write both tables."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("store", type=Path, help="folder of the stores; a recording that stopped goes on there")
    parser.add_argument("--workers", type=int, default=0)
    parser.add_argument("--only", help="one of the studies")
    given = parser.parse_args()
    given.store.mkdir(parents=True, exist_ok=True)
    FOLDER.mkdir(exist_ok=True)
    for name, study in studies(given.store).items():
        if given.only not in (None, name):
            continue
        result = study.run(seeds=SEEDS, workers=given.workers, inference=False, tell=print)
        rows = [row for row in result.rows if row.kind == "single"][:ROWS]
        table = {
            **artefact_header(FORMAT, VERSION),
            "study": name,
            "metric": result.metric,
            "step": result.step,
            "cpu_s": result.cpu_s,
            "base": list(result.base),
            "rows": {row.name: list(row.deltas) for row in rows},
        }
        text = json.dumps(table, separators=(",", ":"))
        (FOLDER / f"ablation-{name}.json.gz").write_bytes(gzip.compress(text.encode(), mtime=0))
        print(f"{name}: {len(rows)} rows, {result.trainings} trainings, {result.cpu_s:.0f} CPU-s")


if __name__ == "__main__":
    main()
