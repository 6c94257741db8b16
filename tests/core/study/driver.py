"""A whole study as a program of its own, so that a test can kill it: `python driver.py STORE SEED TRIALS`."""

from __future__ import annotations

import signal
import sys

from mlsysopt.core.study import Event, Study
from mlsysopt.testing.planted import Planted


def search(store: str, seed: int, trials: int) -> int:
    """Run the study, or go on with it, and return its exit code."""
    study = Study(
        Planted(pause_s=0.02),
        maximize="throughput",
        sampler="random",
        store=store,
        seed=seed,
        on_event=_say,
    )
    return study.run(trials).exit_code


def _say(event: Event) -> None:
    number = event.data.get("trial", event.data.get("rounds", ""))
    sys.stdout.write(f"{event.kind} {number}\n")
    sys.stdout.flush()


if __name__ == "__main__":
    # What a shell runs in the background ignores Ctrl-C.
    signal.signal(signal.SIGINT, signal.default_int_handler)
    raise SystemExit(search(sys.argv[1], int(sys.argv[2]), int(sys.argv[3])))
