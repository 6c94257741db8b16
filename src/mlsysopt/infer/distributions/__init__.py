"""Distributions: one definition each, for drawing, for weighing and for gradients."""

from __future__ import annotations

from mlsysopt.infer.distributions.continuous import CONTINUOUS
from mlsysopt.infer.distributions.discrete import DISCRETE
from mlsysopt.infer.distributions.spec import Distribution, Parameter
from mlsysopt.infer.distributions.vector import VECTOR

__all__ = ["ALL", "Distribution", "Parameter"]

ALL: dict[str, Distribution] = {one.name: one for one in (*CONTINUOUS, *DISCRETE, *VECTOR)}
"""By name; a parametrisation has a name of its own."""
