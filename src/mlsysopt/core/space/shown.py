"""Values of parameters for people: bytes as KiB, numbers with three digits."""

from __future__ import annotations

from typing import Any

from mlsysopt.core.quantities import format_bytes, format_number
from mlsysopt.core.space.parameters import Parameter

__all__ = ["shown"]


def shown(parameter: Parameter, value: Any) -> str:
    """Return a value as it is shown to people.

    >>> from mlsysopt.core.space import Int
    >>> shown(Int("block_size", 512, 2**19, default=4096, log=True, unit="B"), 12288)
    '12 KiB'
    """
    if getattr(parameter, "unit", "") == "B" and isinstance(value, int) and value > 0:
        return format_bytes(value)
    return format_number(value) if isinstance(value, float) else str(value)
