"""The rules in the order in which they are tried."""

from __future__ import annotations

from mlsysopt.infer.rules.protocol import Refusal, Rule, Update

__all__ = ["Refusal", "Rule", "Update", "ordered_rules"]


def ordered_rules() -> tuple[Rule, ...]:
    """Return every rule, the best one first."""
    from mlsysopt.infer.rules.chain import Chain
    from mlsysopt.infer.rules.conjugate import Conjugate
    from mlsysopt.infer.rules.enumerate import Enumerate
    from mlsysopt.infer.rules.forward import Forward
    from mlsysopt.infer.rules.gaussian import Gaussian
    from mlsysopt.infer.rules.kalman import Kalman
    from mlsysopt.infer.rules.metropolis import Metropolis
    from mlsysopt.infer.rules.slice import Slice

    return (Forward(), Chain(), Kalman(), Gaussian(), Conjugate(), Enumerate(), Slice(), Metropolis())
