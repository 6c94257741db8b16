"""What two runs must share to share a study, and how a difference is told."""

from __future__ import annotations

import json
from collections.abc import Generator, Mapping
from typing import Any

from mlsysopt.core.errors import StoreError
from mlsysopt.core.store.rows import StudyInfo, to_json

__all__ = ["CHECKED", "check", "differences", "plain"]

CHECKED = ("target", "space", "objectives")
"""Keys that must agree; bounds, rules and seeds may differ."""

_WIDTH = 60
_SHOWN = 2


def plain(identity: Mapping[str, Any]) -> dict[str, Any]:
    """Return an identity as it will be read back from JSON."""
    return json.loads(to_json(dict(identity)))


def check(store: str, stored: StudyInfo, wanted: Mapping[str, Any]) -> None:
    """Refuse a stored study of another identity.

    Raises:
        StoreError: naming the keys that differ, with both values.
    """
    if not stored.identity:
        raise StoreError(
            f"study {stored.name!r} in store {store} was made by another program, which left no word of its target\n"
            "use another name: --study NAME"
        )
    found = list(differences(stored.identity, wanted))
    if not found:
        return
    shown = "; ".join(f"{key}: stored {_short(a)}, asked for {_short(b)}" for key, a, b in found[:_SHOWN])
    more = f"; also {', '.join(key for key, _, _ in found[_SHOWN : _SHOWN + 6])}" if len(found) > _SHOWN else ""
    more += ", ..." if len(found) > _SHOWN + 6 else ""
    raise StoreError(
        f"study {stored.name!r} in store {store} is of another {_what(found)}\n{shown}{more}\n"
        "use another store or name (--store FILE, --study NAME), or ask for the same"
    )


def differences(a: Mapping[str, Any], b: Mapping[str, Any]) -> Generator[tuple[str, Any, Any]]:
    """Yield (dotted key, stored, asked for) of the checked keys that differ.

    >>> list(differences({"target": {"name": "x", "ops": 1}}, {"target": {"name": "x", "ops": 2}}))
    [('target.ops', 1, 2)]
    """
    for key in CHECKED:
        yield from _differences(key, a.get(key), b.get(key))


def _differences(path: str, a: Any, b: Any) -> Generator[tuple[str, Any, Any]]:
    if isinstance(a, dict) and isinstance(b, dict):
        for key in sorted({*a, *b}):
            yield from _differences(f"{path}.{key}", a.get(key), b.get(key))
    elif a != b:
        yield path, a, b


def _what(found: list[tuple[str, Any, Any]]) -> str:
    parts = [part for part in CHECKED if any(key.partition(".")[0] == part for key, _, _ in found)]
    return " and ".join(part.removesuffix("s") if part == "objectives" else part for part in parts)


def _short(value: Any) -> str:
    text = "nothing" if value is None else to_json(value)
    return text if len(text) <= _WIDTH else f"{text[:_WIDTH]}..."
