"""What a running study tells whoever listens: one record per thing that happened."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

__all__ = ["Event", "EventKind", "Listener"]

EventKind = Literal["started", "baseline", "canary", "asked", "trial", "refused", "verify", "note", "finished"]


@dataclass(frozen=True, slots=True)
class Event:
    """One thing that happened in a study.

    Attributes:
        kind: What it is about.
        text: The same as one line for people.
        data: The same as JSON values for machines.
    """

    kind: EventKind
    text: str
    data: Mapping[str, Any] = field(default_factory=dict)


Listener = Callable[[Event], None]
