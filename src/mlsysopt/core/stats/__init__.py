"""Small-sample statistics: paired tests, sequential p-values, shrunken variances, proportions, conformal quantiles."""

from __future__ import annotations

from typing import TYPE_CHECKING

from mlsysopt._lazy import lazy

if TYPE_CHECKING:
    from mlsysopt.core.stats.conformal import conformal_quantile
    from mlsysopt.core.stats.equivalence import two_one_sided
    from mlsysopt.core.stats.minimum import MinimumP
    from mlsysopt.core.stats.moderated import Moderated, moderate
    from mlsysopt.core.stats.multiplicity import holm, holm_levels, holm_many
    from mlsysopt.core.stats.paired import Paired, paired_bootstrap, paired_t
    from mlsysopt.core.stats.proportions import clopper_pearson
    from mlsysopt.core.stats.sequential import SequentialRule, Standing
    from mlsysopt.core.stats.signed_rank import hodges_lehmann, signed_rank_interval, signed_rank_p

__all__ = [
    "MinimumP",
    "Moderated",
    "Paired",
    "SequentialRule",
    "Standing",
    "clopper_pearson",
    "conformal_quantile",
    "hodges_lehmann",
    "holm",
    "holm_levels",
    "holm_many",
    "moderate",
    "paired_bootstrap",
    "paired_t",
    "signed_rank_interval",
    "signed_rank_p",
    "two_one_sided",
]

__getattr__, __dir__ = lazy(
    __name__,
    {
        "MinimumP": "mlsysopt.core.stats.minimum",
        "Moderated": "mlsysopt.core.stats.moderated",
        "Paired": "mlsysopt.core.stats.paired",
        "SequentialRule": "mlsysopt.core.stats.sequential",
        "Standing": "mlsysopt.core.stats.sequential",
        "clopper_pearson": "mlsysopt.core.stats.proportions",
        "conformal_quantile": "mlsysopt.core.stats.conformal",
        "hodges_lehmann": "mlsysopt.core.stats.signed_rank",
        "holm": "mlsysopt.core.stats.multiplicity",
        "holm_levels": "mlsysopt.core.stats.multiplicity",
        "holm_many": "mlsysopt.core.stats.multiplicity",
        "moderate": "mlsysopt.core.stats.moderated",
        "paired_bootstrap": "mlsysopt.core.stats.paired",
        "paired_t": "mlsysopt.core.stats.paired",
        "signed_rank_interval": "mlsysopt.core.stats.signed_rank",
        "signed_rank_p": "mlsysopt.core.stats.signed_rank",
        "two_one_sided": "mlsysopt.core.stats.equivalence",
    },
)
