"""Samplers: ours are ordinary Optuna samplers, Optuna's own are used as they are."""

from __future__ import annotations

from typing import TYPE_CHECKING

from mlsysopt._lazy import lazy

if TYPE_CHECKING:
    from mlsysopt.core.search.icm import ICMSampler
    from mlsysopt.core.search.registry import names, sampler
    from mlsysopt.core.search.space_sampler import SpaceSampler
    from mlsysopt.core.search.structured import StructuredGPSampler

__all__ = ["ICMSampler", "SpaceSampler", "StructuredGPSampler", "names", "sampler"]

__getattr__, __dir__ = lazy(
    __name__,
    {
        "ICMSampler": "mlsysopt.core.search.icm",
        "SpaceSampler": "mlsysopt.core.search.space_sampler",
        "StructuredGPSampler": "mlsysopt.core.search.structured",
        "names": "mlsysopt.core.search.registry",
        "sampler": "mlsysopt.core.search.registry",
    },
)
