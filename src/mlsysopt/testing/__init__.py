"""Contract suites that ship with the package: inherit one and every promise of the protocol is tested.

Needs pytest.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from mlsysopt._lazy import lazy

if TYPE_CHECKING:
    from mlsysopt.testing.ablation import AblationContract
    from mlsysopt.testing.costmodels import CostModelContract
    from mlsysopt.testing.distributions import DistributionContract
    from mlsysopt.testing.executors import ExecutorContract
    from mlsysopt.testing.planted import Planted
    from mlsysopt.testing.samplers import SamplerContract
    from mlsysopt.testing.targets import TargetContract
    from mlsysopt.testing.trainers import TrainerContract
    from mlsysopt.testing.updates import UpdateContract
    from mlsysopt.testing.variants import VariantContract

__all__ = [
    "AblationContract",
    "CostModelContract",
    "DistributionContract",
    "ExecutorContract",
    "Planted",
    "SamplerContract",
    "TargetContract",
    "TrainerContract",
    "UpdateContract",
    "VariantContract",
]

__getattr__, __dir__ = lazy(
    __name__,
    {
        "AblationContract": "mlsysopt.testing.ablation",
        "CostModelContract": "mlsysopt.testing.costmodels",
        "ExecutorContract": "mlsysopt.testing.executors",
        "Planted": "mlsysopt.testing.planted",
        "SamplerContract": "mlsysopt.testing.samplers",
        "TargetContract": "mlsysopt.testing.targets",
        "TrainerContract": "mlsysopt.testing.trainers",
        "DistributionContract": "mlsysopt.testing.distributions",
        "UpdateContract": "mlsysopt.testing.updates",
        "VariantContract": "mlsysopt.testing.variants",
    },
)
