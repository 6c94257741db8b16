"""Distributions over numbers with a fraction."""

from __future__ import annotations

from mlsysopt.infer.distributions.spec import Distribution, Parameter
from mlsysopt.infer.runtime import densities, draws

__all__ = [
    "BETA",
    "CAUCHY",
    "EXPONENTIAL",
    "FLAT",
    "GAMMA",
    "HALF_CAUCHY",
    "HALF_FLAT",
    "HALF_NORMAL",
    "INVERSE_GAMMA",
    "LAPLACE",
    "LOG_NORMAL",
    "NORMAL",
    "NORMAL_PRECISION",
    "NORMAL_VARIANCE",
    "STUDENT_T",
    "TRUNCATED_NORMAL",
    "UNIFORM",
]

_MEAN, _LOCATION, _LOW, _HIGH = Parameter("mean"), Parameter("location"), Parameter("low"), Parameter("high")
_SD, _SCALE = Parameter("sd", "positive"), Parameter("scale", "positive")
_SHAPE, _RATE = Parameter("shape", "positive"), Parameter("rate", "positive")

NORMAL = Distribution(
    "Normal", (_MEAN, _SD), "real",
    densities.normal_log_density, draws.normal_draw, densities.normal_gradient,
    family="Normal",
)  # fmt: skip
NORMAL_VARIANCE = Distribution(
    "NormalVariance", (_MEAN, Parameter("var", "positive")), "real",
    densities.normal_variance_log_density, draws.normal_variance_draw, densities.normal_variance_gradient,
    family="Normal",
)  # fmt: skip
NORMAL_PRECISION = Distribution(
    "NormalPrecision", (_MEAN, Parameter("precision", "positive")), "real",
    densities.normal_precision_log_density, draws.normal_precision_draw, densities.normal_precision_gradient,
    family="Normal",
)  # fmt: skip
CAUCHY = Distribution(
    "Cauchy", (_LOCATION, _SCALE), "real",
    densities.cauchy_log_density, draws.cauchy_draw, densities.cauchy_gradient,
)  # fmt: skip
STUDENT_T = Distribution(
    "StudentT", (Parameter("df", "positive"), _LOCATION, _SCALE), "real",
    densities.student_t_log_density, draws.student_t_draw, densities.student_t_gradient,
)  # fmt: skip
LAPLACE = Distribution(
    "Laplace", (_LOCATION, _SCALE), "real",
    densities.laplace_log_density, draws.laplace_draw, densities.laplace_gradient,
)  # fmt: skip
FLAT = Distribution("Flat", (), "real", densities.flat_log_density, None, densities.flat_gradient)
HALF_FLAT = Distribution(
    "HalfFlat", (), "positive", densities.half_flat_log_density, None, densities.half_flat_gradient
)
HALF_NORMAL = Distribution(
    "HalfNormal", (_SD,), "positive",
    densities.half_normal_log_density, draws.half_normal_draw, densities.half_normal_gradient,
)  # fmt: skip
HALF_CAUCHY = Distribution(
    "HalfCauchy", (_SCALE,), "positive",
    densities.half_cauchy_log_density, draws.half_cauchy_draw, densities.half_cauchy_gradient,
)  # fmt: skip
LOG_NORMAL = Distribution(
    "LogNormal", (_MEAN, _SD), "positive",
    densities.log_normal_log_density, draws.log_normal_draw, densities.log_normal_gradient,
)  # fmt: skip
GAMMA = Distribution(
    "Gamma", (_SHAPE, _RATE), "positive",
    densities.gamma_log_density, draws.gamma_draw, densities.gamma_gradient,
)  # fmt: skip
INVERSE_GAMMA = Distribution(
    "InverseGamma", (_SHAPE, _SCALE), "positive",
    densities.inverse_gamma_log_density, draws.inverse_gamma_draw, densities.inverse_gamma_gradient,
)  # fmt: skip
EXPONENTIAL = Distribution(
    "Exponential", (_RATE,), "positive",
    densities.exponential_log_density, draws.exponential_draw, densities.exponential_gradient,
)  # fmt: skip
BETA = Distribution(
    "Beta", (Parameter("a", "positive"), Parameter("b", "positive")), "unit",
    densities.beta_log_density, draws.beta_draw, densities.beta_gradient,
)  # fmt: skip
UNIFORM = Distribution(
    "Uniform", (_LOW, _HIGH), "interval",
    densities.uniform_log_density, draws.uniform_draw, densities.uniform_gradient, bounds=densities.uniform_bounds,
)  # fmt: skip
TRUNCATED_NORMAL = Distribution(
    "TruncatedNormal", (_MEAN, _SD, _LOW, _HIGH), "interval",
    densities.truncated_normal_log_density, draws.truncated_normal_draw, densities.truncated_normal_gradient,
    bounds=densities.truncated_normal_bounds,
)  # fmt: skip
