"""What tests read in assembly: functions, registers, spills."""

from __future__ import annotations

import re

_LABEL = re.compile(r"^([A-Za-z_][\w.]*):")
_SPILL = re.compile(r"[xyz]mm\d+, -?\d*\(%rsp\)")


def functions(assembly: str) -> dict[str, list[str]]:
    """Return the lines of each function."""
    found: dict[str, list[str]] = {}
    lines: list[str] = []
    for line in assembly.splitlines():
        label = _LABEL.match(line)
        if label and not label[1].startswith(".L"):
            lines = found.setdefault(label[1], [])
        else:
            lines.append(line)
    return found


def spills(lines: list[str]) -> int:
    """Return how many vectors are stored on the stack."""
    return sum(bool(_SPILL.search(line)) for line in lines)


def uses(lines: list[str], register: str) -> int:
    """Return how many lines name a register of a kind: xmm, ymm, zmm."""
    return sum(f"%{register}" in line for line in lines)
