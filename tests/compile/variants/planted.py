"""A variant whose speed is known, for tests of what is made of times."""

from __future__ import annotations

import time
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from mlsysopt.compile.variants.site import Call, Packed, Refusal, Site
from mlsysopt.compile.variants.timing import Row
from mlsysopt.graph.symbolic import Dim


@dataclass(frozen=True)
class Planted:
    """Burns CPU time: `base_s` a call and `row_s` for each row; refuses more rows than `most`."""

    name: str
    base_s: float = 2e-4
    row_s: float = 0.0
    most: int = 1 << 20
    version: str = "1"
    block: int = 1
    exact: float = 1e-6
    ops: tuple[str, ...] = ("linear",)
    form: str = "planted"
    native: bool = False
    packed: list[Any] = field(default_factory=list, compare=False)
    called: list[int] = field(default_factory=list, compare=False)

    def supports(self, site: Site) -> Refusal | None:
        rows = site.size("M").constant
        return Refusal("too many rows") if rows is not None and rows > self.most else None

    def prepare(self, weights: Any, bias: Any, site: Site) -> Packed:
        self.packed.append(weights)
        return Packed(self.form, np.array(weights), weights.nbytes)

    def scratch_bytes(self, site: Site) -> Dim:
        return Dim.of(0)

    def bind(self, site: Site, packed: Packed, bias: Any | None) -> Call:
        def call(x: Any, residual: Any = None) -> Any:
            until = time.thread_time() + self.base_s + self.row_s * x.shape[0]
            self.called.append(id(packed))
            while time.thread_time() < until:
                pass
            return x

        return call

    def block_rows(self, site: Site) -> int:
        return self.block

    def error(self, site: Site) -> float:
        return self.exact


def row(variant: str, m: int, n: int, k: int, seconds: float, *, version: str = "1", **more: Any) -> Row:
    """Return a row that says what it is told."""
    site = Site.linear(m, n, k, threads=more.pop("threads", 1), epilogue=more.pop("epilogue", None))
    return Row(variant, version, site, more.pop("residency", "cold"), seconds, 0.9 * seconds, 1.1 * seconds, blocks=6)
