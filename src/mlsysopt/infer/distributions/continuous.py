"""Distributions over numbers with a fraction."""

from __future__ import annotations

from mlsysopt.infer.distributions.spec import Distribution, Parameter
from mlsysopt.infer.runtime import densities as d
from mlsysopt.infer.runtime import draws

__all__ = ["CONTINUOUS"]

_MEAN, _LOCATION, _SCALE = Parameter("mean"), Parameter("location"), Parameter("scale", "positive")
_SD, _RATE, _SHAPE = Parameter("sd", "positive"), Parameter("rate", "positive"), Parameter("shape", "positive")


def between(*parameters: float) -> tuple[float, float]:
    """The last two parameters are the bounds."""
    return parameters[-2], parameters[-1]


CONTINUOUS = (
    Distribution("Normal", (_MEAN, _SD), "real", d.normal_log, draws.normal_draw, d.normal_gradient, "Normal"),
    Distribution(
        "NormalVariance",
        (_MEAN, Parameter("var", "positive")),
        "real",
        d.normal_variance_log,
        draws.normal_variance_draw,
        d.normal_variance_gradient,
        "Normal",
    ),
    Distribution(
        "NormalPrecision",
        (_MEAN, Parameter("precision", "positive")),
        "real",
        d.normal_precision_log,
        draws.normal_precision_draw,
        d.normal_precision_gradient,
        "Normal",
    ),
    Distribution(
        "TruncatedNormal",
        (_MEAN, _SD, Parameter("low"), Parameter("high")),
        "interval",
        d.truncated_normal_log,
        draws.truncated_normal_draw,
        d.truncated_normal_gradient,
        bounds=between,
    ),
    Distribution("HalfNormal", (_SD,), "positive", d.half_normal_log, draws.half_normal_draw, d.half_normal_gradient),
    Distribution("Cauchy", (_LOCATION, _SCALE), "real", d.cauchy_log, draws.cauchy_draw, d.cauchy_gradient),
    Distribution(
        "HalfCauchy", (_SCALE,), "positive", d.half_cauchy_log, draws.half_cauchy_draw, d.half_cauchy_gradient
    ),
    Distribution(
        "StudentT",
        (Parameter("df", "positive"), _LOCATION, _SCALE),
        "real",
        d.student_t_log,
        draws.student_t_draw,
        d.student_t_gradient,
    ),
    Distribution("Laplace", (_LOCATION, _SCALE), "real", d.laplace_log, draws.laplace_draw, d.laplace_gradient),
    Distribution("LogNormal", (_MEAN, _SD), "positive", d.log_normal_log, draws.log_normal_draw, d.log_normal_gradient),
    Distribution("Gamma", (_SHAPE, _RATE), "positive", d.gamma_log, draws.gamma_draw, d.gamma_gradient),
    Distribution(
        "InverseGamma",
        (_SHAPE, _SCALE),
        "positive",
        d.inverse_gamma_log,
        draws.inverse_gamma_draw,
        d.inverse_gamma_gradient,
    ),
    Distribution(
        "Exponential", (_RATE,), "positive", d.exponential_log, draws.exponential_draw, d.exponential_gradient
    ),
    Distribution(
        "Beta",
        (Parameter("a", "positive"), Parameter("b", "positive")),
        "unit",
        d.beta_log,
        draws.beta_draw,
        d.beta_gradient,
    ),
    Distribution(
        "Uniform",
        (Parameter("low"), Parameter("high")),
        "interval",
        d.uniform_log,
        draws.uniform_draw,
        d.uniform_gradient,
        bounds=between,
    ),
    Distribution("Flat", (), "real", d.flat_log, None, d.flat_gradient),
    Distribution("HalfFlat", (), "positive", d.half_flat_log, None, d.flat_gradient),
)
