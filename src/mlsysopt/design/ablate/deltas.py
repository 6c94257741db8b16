"""What can be off: components, and rows that are the base without some of them."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

import numpy as np

from mlsysopt.core.errors import StudyError, UsageError
from mlsysopt.core.seeds import stream

__all__ = ["BASE", "Component", "Kind", "Row", "combined", "merged", "take_fraction"]

Kind = Literal["modules", "features", "option", "data", "variant"]
BASE = "base"


@dataclass(frozen=True, slots=True)
class Component:
    """One thing that can be off, and how.

    Attributes:
        name: What the table calls it.
        kind: What is taken away.
        delta: The change as JSON values; two components with the same delta are the same.
        note: What was merged into it or is worth knowing.
    """

    name: str
    kind: Kind
    delta: Mapping[str, Any]
    note: str = ""

    def canonical(self) -> str:
        """Return the change as text that is equal for equal changes."""
        return json.dumps({"kind": self.kind, **self.delta}, sort_keys=True, separators=(",", ":"), default=repr)


@dataclass(frozen=True, slots=True)
class Row:
    """One model to train: the base without its members.

    >>> Row((), ()).key, Row(("a", "b"), ()).key
    ('base', 'a + b')
    """

    members: tuple[str, ...]
    parts: tuple[Component, ...] = field(default=(), compare=False)

    @property
    def key(self) -> str:
        """Name of the row."""
        return " + ".join(self.members) or BASE

    def canonical(self) -> str:
        """Return the change against the base as text, the same for every order of the members."""
        return "[" + ",".join(sorted(part.canonical() for part in self.parts)) + "]"

    @classmethod
    def without(cls, parts: Iterable[Component]) -> Row:
        """Return the base without these components."""
        chosen = tuple(parts)
        return cls(tuple(part.name for part in chosen), chosen)


def merged(components: Sequence[Component]) -> list[Component]:
    """Drop components that repeat another one's change, with a note; refuse one name for two changes.

    Raises:
        StudyError: two components of the same name with different changes.

    >>> a, b = Component("a", "data", {"fraction": 0.5}), Component("b", "data", {"fraction": 0.5})
    >>> [(c.name, c.note) for c in merged([a, b])]
    [('a', 'the same as b')]
    """
    kept: dict[str, Component] = {}
    names: dict[str, Component] = {}
    for one in components:
        text = one.canonical()
        if text in kept:
            first = kept[text]
            if one.name != first.name:
                note = f"{first.note}, {one.name}" if first.note else f"the same as {one.name}"
                kept[text] = Component(first.name, first.kind, first.delta, note)
            continue
        if one.name in names or one.name == BASE:
            other = names[one.name].canonical() if one.name in names else "the whole model"
            raise StudyError(
                f"two components are called {one.name!r}: {_short(other)} and {_short(text)}\n"
                "give one of them another name, with groups={'name': selector}"
            )
        kept[text] = names[one.name] = one
    return list(kept.values())


def combined(row: Row) -> dict[str, Any]:
    """Put the changes of a row together: keywords, features, fraction, maker, and modules without nested ones.

    Raises:
        UsageError: two members change the same thing in different ways.
    """
    options: dict[str, Any] = {}
    features: list[Mapping[str, Any]] = []
    modules: list[tuple[str, tuple[str, ...], str]] = []
    fraction, variant = 1.0, None
    for part in row.parts:
        if part.kind == "option":
            name = part.delta["name"]
            if name in options and options[name] != part.delta["value"]:
                raise UsageError(f"row {row.key!r} sets {name!r} to {options[name]!r} and to {part.delta['value']!r}")
            options[name] = part.delta["value"]
        elif part.kind == "features":
            features.append(part.delta)
        elif part.kind == "data":
            fraction = min(fraction, float(part.delta["fraction"]))
        elif part.kind == "variant":
            variant = part.name
        else:
            modules.append((part.name, tuple(part.delta["paths"]), str(part.delta["how"])))
    gone = {path for _, paths, _ in modules for path in paths}
    seen: set[str] = set()
    kept: list[tuple[str, tuple[str, ...], str]] = []
    for name, paths, how in modules:
        own = tuple(path for path in paths if not _inside(path, gone) and path not in seen)
        seen.update(own)
        if own:
            kept.append((name, own, how))
    return {"options": options, "features": features, "fraction": fraction, "variant": variant, "modules": kept}


def take_fraction(data: Any, fraction: float, seed: int) -> Any:
    """Keep a random part of the training rows, the same part for every row of one seed.

    Args:
        data: A mapping (keys with "train" in them are cut, or all arrays when there are none), a tuple
            (X, y) or (X_train, y_train, X_val, y_val), an array, or a torch `Dataset`.
        fraction: Share that stays, 0 < fraction <= 1.
        seed: Seed of the trial.

    >>> [len(part) for part in take_fraction((np.arange(8), np.arange(8), np.arange(4), np.arange(4)), 0.5, 0)]
    [4, 4, 4, 4]
    """
    if fraction >= 1.0:
        return data
    rng = stream(seed, role="fraction")

    def chosen(length: int) -> np.ndarray[Any, Any]:
        return np.sort(rng.permutation(length)[: max(1, round(length * fraction))])

    if isinstance(data, Mapping):
        keys = [key for key in data if "train" in str(key).lower()] or [k for k, v in data.items() if _is_array(v)]
        if not keys:
            raise UsageError(f"data(fraction=...): none of {', '.join(map(str, data))} is an array of training rows")
        rows = chosen(len(data[keys[0]]))
        return {key: _rows(value, rows) if key in keys else value for key, value in data.items()}
    if isinstance(data, tuple | list):
        cut = 2 if len(data) in (4, 6) else len(data)
        rows = chosen(len(data[0]))
        return type(data)([_rows(value, rows) if i < cut else value for i, value in enumerate(data)])
    return _rows(data, chosen(len(data)))


def _is_array(value: Any) -> bool:
    return hasattr(value, "__len__") and hasattr(value, "shape")


def _rows(value: Any, rows: np.ndarray[Any, Any]) -> Any:
    if hasattr(value, "iloc"):
        return value.iloc[rows]
    if hasattr(value, "shape"):
        return value[rows]
    if isinstance(value, list):
        return [value[i] for i in rows]
    from torch.utils.data import Subset

    return Subset(value, rows.tolist())


def _inside(path: str, gone: set[str]) -> bool:
    pieces = path.split(".")
    return any(".".join(pieces[:n]) in gone for n in range(1, len(pieces)))


def _short(text: str) -> str:
    return text if len(text) <= 70 else text[:67] + "..."


Maker = Callable[..., Any]
