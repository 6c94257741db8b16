"""Bodies of models, read with inputs."""

from __future__ import annotations

from typing import Any

import pytest

from mlsysopt.infer.binding import Bound, bind
from mlsysopt.infer.frontend.source import ModelError, read
from tests.infer.written import written

__all__ = ["bound", "refused", "sites"]


def bound(body: str, inputs: dict[str, Any] | None = None, *, missing: str = "error") -> Bound:
    """Return the model `one` of this body with its inputs."""
    inputs = inputs or {}
    return bind(read(*written(body, *inputs)), inputs, missing=missing)


def sites(body: str, **inputs: Any) -> list[str]:
    """Return the sites as text, without their lines."""
    return [line.partition(": ")[2] for line in bound(body, inputs).program.text().splitlines()]


def refused(body: str, line: int, *words: str, **inputs: Any) -> str:
    """Check that a model is refused in one line that begins with the body's line (from 1) and has the words."""
    with pytest.raises(ModelError) as error:
        bound(body, inputs)
    said = str(error.value)
    assert "\n" not in said
    assert said.startswith(f"<source of one>:{line + 1}: "), said
    for word in words:
        assert word in said, said
    assert error.value.exit_code == 2
    return said
