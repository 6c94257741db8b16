"""Parts that break their promises, each in its own way."""

from __future__ import annotations

from typing import Any

from mlsysopt_example import Crc


def raises(**settings: Any) -> Any:
    """Fail while being made."""
    raise RuntimeError("this part always fails")


def incomplete() -> Any:
    """Return something that is no target."""
    return object()


class Explodes(Crc):
    """A target that raises where it should return a failure."""

    def measure(self, config: Any, *, seed: int, fidelity: float = 1.0, timeout_s: float | None = None) -> Any:
        raise ZeroDivisionError("measured nothing")


def explodes() -> Explodes:
    """Return it."""
    return Explodes()
