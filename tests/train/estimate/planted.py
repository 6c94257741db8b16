"""A planted trainer and a planted bank: costs that are known, so that what is measured can be judged."""

from __future__ import annotations

import math
import os
import signal
import sys
import time
from typing import Any

from mlsysopt.train.estimate import clock, synthetic, trainer
from mlsysopt.train.estimate.intervals import Bank, Case

# These trainers use up time, not work: how fast the machine is has no part in what they cost. The process that
# takes samples imports this module as well.
clock.pace = lambda: 1e-3

BANK = Bank(
    tuple(Case("planted", f"shape {n}", math.exp(0.2 * math.sin(7.0 * n)), 1.0, 4.0, 0.1) for n in range(60)),
    "planted cases",
)


def burn(seconds: float) -> None:
    """Use this much CPU time."""
    end = time.process_time() + seconds
    while time.process_time() < end:
        pass


def planted_fit(data: Any, *, n_factors: int = 8, n_epochs: int = 10) -> None:
    """Cost 20 ns per rating, factor and epoch, and 2 ms."""
    burn(0.002 + 2e-8 * len(data) * n_factors * n_epochs)


def failing_fit(data: Any, *, n_factors: int = 8, n_epochs: int = 10) -> None:
    """Fail on anything but the warm-up."""
    if len(data) > 300:
        sys.stdout.write("about to fail\n")
        raise ZeroDivisionError("float division")


def hanging_fit(data: Any, *, n_factors: int = 8, n_epochs: int = 10) -> None:
    """Never end on anything but the warm-up."""
    if len(data) > 300:
        time.sleep(3600)


def dying_fit(data: Any, *, n_factors: int = 8, n_epochs: int = 10) -> None:
    """Be killed on anything but the warm-up."""
    if len(data) > 300:
        os.kill(os.getpid(), signal.SIGKILL)


TIME = "n_epochs*n_factors*R + R"
planted = trainer("planted", fit=planted_fit, time=TIME, memory="8*n_factors*(U+I)")
failing = trainer("failing", fit=failing_fit, time=TIME)
hanging = trainer("hanging", fit=hanging_fit, time=TIME)
dying = trainer("dying", fit=dying_fit, time=TIME)


def ratings(n_users: int = 3000, seed: int = 1, n_ratings: int | None = None) -> Any:
    """Return some ratings of a fitting shape."""
    return synthetic.ratings(
        "lognormal", "zipf0.7", n_users=n_users, n_items=400, n_ratings=n_ratings or 15 * n_users, seed=seed
    )
