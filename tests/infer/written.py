"""Models whose text is in no file."""

from __future__ import annotations

from collections.abc import Mapping
from types import FunctionType
from typing import Any

from mlsysopt.infer.interpret import Interpretation, interpret


def written(text: str, *inputs: str) -> tuple[FunctionType, str]:
    """Return the function `one` with a body, as `exec` leaves it, and its source."""
    source = f"def one({', '.join(inputs)}):\n" + "".join(f"    {line}\n" for line in text.splitlines())
    made: dict[str, Any] = {}
    exec(source, {"__builtins__": __builtins__}, made)
    return made["one"], source


def run_text(text: str, inputs: Mapping[str, Any] | None = None, **options: Any) -> Interpretation:
    """Run the model with this body; it imports nothing."""
    function, source = written(text, *(inputs or {}))
    return interpret(function, inputs or {}, source=source, **options)
