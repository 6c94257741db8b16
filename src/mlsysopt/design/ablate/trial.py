"""One row with one seed: build the whole model, take parts away, train, read the metric."""

from __future__ import annotations

import inspect
import os
import resource
import sys
import time
import traceback
from collections.abc import Mapping
from contextlib import nullcontext
from dataclasses import dataclass
from typing import Any

from mlsysopt.core.processes.memory import forget_peak, peak_rss_bytes
from mlsysopt.design.ablate import kit as kits
from mlsysopt.design.ablate.deltas import Row, combined, take_fraction
from mlsysopt.design.ablate.kit import Kit
from mlsysopt.design.ablate.options import Unusable, read_metrics
from mlsysopt.design.ablate.probe import slow_paths
from mlsysopt.design.ablate.streams import seed_all, seeded

__all__ = ["TrialSpec", "build", "in_worker", "run_trial"]

_TAIL_LINES = 20


@dataclass(frozen=True, slots=True)
class TrialSpec:
    """What one training is: the changes of a row, and a seed; `again` repeats one that is there."""

    row: Row
    seed: int
    again: bool = False


def build(kit: Kit, row: Row, seed: int) -> tuple[Any, Any, dict[str, Any]]:
    """Return the model, the data and the keywords of one row with one seed.

    The whole model is built first and parts are replaced in it, so that every weight that stays
    starts with the base's value.
    """
    change = combined(row)
    data = take_fraction(kit.data, change["fraction"], seed)
    keywords: dict[str, Any] = {}
    if change["features"]:
        from mlsysopt.design.ablate import features

        parts = [(list(part["features"]), str(part["how"])) for part in change["features"]]
        data, left = features.removed(data, parts, seed=seed, names=kit.names)
        if any(how == "drop" for _, how in parts):
            keywords["features"] = left
    maker = kit.variants[change["variant"]] if change["variant"] is not None else kit.make_model
    if "seed" in inspect.signature(maker).parameters:
        keywords["seed"] = seed
    model = maker(**keywords)
    if kit.batch is not None:
        from mlsysopt.design.ablate.select import unwrapped

        # A compiled wrapper hides the modules that are to be replaced: no row is trained in one.
        model = unwrapped(model)
    if change["modules"]:
        from mlsysopt.design.ablate import surgery
        from mlsysopt.design.ablate.select import Part

        probe = kit.probe()
        for name, paths, how in change["modules"]:
            surgery.remove(model, Part(name, paths), how=how, probe=probe)
    return model, data, change["options"]


def run_trial(kit: Kit, spec: TrialSpec) -> dict[str, Any]:
    """Train one row with one seed and return what is kept of it, as JSON values.

    Nothing raised by the user's code gets out: it becomes a failure of this trial.
    """
    had_torch = "torch" in sys.modules
    started, wall, cpu = time.time(), time.perf_counter(), time.process_time()
    found: dict[str, Any] = {"row": spec.row.key, "seed": spec.seed, "started_at": started}
    forget_peak()
    train_cpu = 0.0
    try:
        with seeded(spec.seed), slow_paths() if "torch" in sys.modules else nullcontext():
            model, data, options = build(kit, spec.row, spec.seed)
            # Stand-ins may have drawn numbers: training starts from the same state in every row.
            seed_all(spec.seed)
            before = time.process_time()
            returned = kit.train(model, data, seed=spec.seed, **options)
            train_cpu = time.process_time() - before
            found |= {"state": "ok", "metrics": read_metrics(returned, kit.metric)}
    except Unusable as error:
        found |= {"state": error.kind, "reason": str(error)}
    except MemoryError:
        found |= {"state": "crashed", "reason": "out of memory", "tail": _tail()}
    except (Exception, SystemExit) as error:
        found |= {"state": "crashed", "reason": f"{type(error).__name__}: {error}".strip(), "tail": _tail()}
    if not had_torch and "torch" in sys.modules:
        # The user's code imported torch in the middle, where its generator had no seed yet: once more.
        return run_trial(kit, spec)
    total = time.process_time() - cpu
    return found | {
        "wall_s": time.perf_counter() - wall,
        "cpu_s": train_cpu or total,
        "overhead_s": total - train_cpu if train_cpu else 0.0,
        "rss_bytes": peak_rss_bytes(os.getpid()) or resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024,
    }


def in_worker(folder: str, spec: TrialSpec) -> dict[str, Any]:
    """Run a trial in a worker, with the kit that lies in a folder."""
    return run_trial(kits.load(folder), spec)


def _tail() -> str:
    return "\n".join(traceback.format_exc().splitlines()[-_TAIL_LINES:])


Options = Mapping[str, Any]
