"""Contract suites that ship with the package: inherit one and every promise of the protocol is tested.

Needs pytest.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from mlsysopt._lazy import lazy

if TYPE_CHECKING:
    from mlsysopt.testing.planted import Planted
    from mlsysopt.testing.samplers import SamplerContract
    from mlsysopt.testing.targets import TargetContract

__all__ = ["Planted", "SamplerContract", "TargetContract"]

__getattr__, __dir__ = lazy(
    __name__,
    {
        "Planted": "mlsysopt.testing.planted",
        "SamplerContract": "mlsysopt.testing.samplers",
        "TargetContract": "mlsysopt.testing.targets",
    },
)
