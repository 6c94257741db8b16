"""Write a probabilistic model as a Python function, get compiled, checked inference.

The function is read, not called: loops stay loops, every variable gets the best update that can be proved legal, and
the sweep becomes native code. `explain` says which and why; `verify` checks it on the user's own model.

References:
    Goodman, Pocock, Peck and Steele, Vate: Runtime Adaptable Probabilistic Programming for Java, EuroMLSys 2021.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from mlsysopt._lazy import lazy

if TYPE_CHECKING:
    from mlsysopt.infer.compiled import Compiled, Model, model
    from mlsysopt.infer.diagnostics import Diagnosis
    from mlsysopt.infer.fit import Fit
    from mlsysopt.infer.folder import Folder
    from mlsysopt.infer.frontend.source import ModelError
    from mlsysopt.infer.language import (
        Bernoulli,
        BernoulliLogit,
        Beta,
        Binomial,
        Categorical,
        Cauchy,
        Dirichlet,
        Exponential,
        Flat,
        Gamma,
        Geometric,
        HalfCauchy,
        HalfFlat,
        HalfNormal,
        InverseGamma,
        Laplace,
        LogNormal,
        Multinomial,
        MultivariateNormal,
        NegativeBinomial,
        Normal,
        Poisson,
        Shape,
        StudentT,
        TruncatedNormal,
        Uniform,
        array,
        dot,
        expm1,
        factor,
        observe,
        reduce,
        sigmoid,
    )
    from mlsysopt.infer.probability import LogProbability
    from mlsysopt.infer.running import resume
    from mlsysopt.infer.sampling import ChainFailed
    from mlsysopt.infer.verify import Verification

__all__ = [
    "Bernoulli",
    "BernoulliLogit",
    "Beta",
    "Binomial",
    "Categorical",
    "Cauchy",
    "ChainFailed",
    "Compiled",
    "Diagnosis",
    "Dirichlet",
    "Exponential",
    "Fit",
    "Flat",
    "Folder",
    "Gamma",
    "Geometric",
    "HalfCauchy",
    "HalfFlat",
    "HalfNormal",
    "InverseGamma",
    "Laplace",
    "LogNormal",
    "LogProbability",
    "Model",
    "ModelError",
    "Multinomial",
    "MultivariateNormal",
    "NegativeBinomial",
    "Normal",
    "Poisson",
    "Shape",
    "StudentT",
    "TruncatedNormal",
    "Uniform",
    "Verification",
    "array",
    "dot",
    "expm1",
    "factor",
    "model",
    "observe",
    "reduce",
    "resume",
    "sigmoid",
]

# What is not said otherwise is a word of the language.
__getattr__, __dir__ = lazy(
    __name__,
    dict.fromkeys(__all__, "mlsysopt.infer.language")
    | {
        "ChainFailed": "mlsysopt.infer.sampling",
        "Compiled": "mlsysopt.infer.compiled",
        "Diagnosis": "mlsysopt.infer.diagnostics",
        "Fit": "mlsysopt.infer.fit",
        "Folder": "mlsysopt.infer.folder",
        "LogProbability": "mlsysopt.infer.probability",
        "Model": "mlsysopt.infer.compiled",
        "ModelError": "mlsysopt.infer.frontend.source",
        "Verification": "mlsysopt.infer.verify",
        "model": "mlsysopt.infer.compiled",
        "resume": "mlsysopt.infer.running",
    },
)
