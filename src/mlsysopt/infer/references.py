"""Where the methods of a fit come from."""

from __future__ import annotations

from collections.abc import Mapping

from mlsysopt.core.references import Reference

__all__ = ["references"]

_VATE = Reference(
    "goodman2021vate",
    "inproceedings",
    "Vate: Runtime Adaptable Probabilistic Programming for Java",
    "D. Goodman and A. Pocock and J. Peck and G. Steele",
    2021,
    {"booktitle": "EuroMLSys"},
)
_RHAT = Reference(
    "vehtari2021rhat",
    "article",
    "Rank-Normalization, Folding, and Localization: An Improved R-hat",
    "A. Vehtari and A. Gelman and D. Simpson and B. Carpenter and P.-C. Buerkner",
    2021,
    {"journal": "Bayesian Analysis"},
)
_OF_RULE = {
    "slice": Reference(
        "neal2003slice", "article", "Slice Sampling", "R. M. Neal", 2003, {"journal": "Annals of Statistics"}
    ),
    "gradient": Reference(
        "hoffman2014nuts",
        "article",
        "The No-U-Turn Sampler",
        "M. D. Hoffman and A. Gelman",
        2014,
        {"journal": "Journal of Machine Learning Research"},
    ),
    "chain": Reference(
        "scott2002hmm",
        "article",
        "Bayesian Methods for Hidden Markov Models",
        "S. L. Scott",
        2002,
        {"journal": "Journal of the American Statistical Association"},
    ),
    "kalman": Reference(
        "carter1994gibbs",
        "article",
        "On Gibbs Sampling for State Space Models",
        "C. K. Carter and R. Kohn",
        1994,
        {"journal": "Biometrika"},
    ),
}


def references(rules: Mapping[str, str]) -> list[Reference]:
    """Return the works behind a fit, given which rule updated each variable.

    >>> [one.key for one in references({"z": "chain"})]
    ['goodman2021vate', 'vehtari2021rhat', 'scott2002hmm']
    """
    return [_VATE, _RHAT, *(_OF_RULE[rule] for rule in sorted(set(rules.values())) if rule in _OF_RULE)]
