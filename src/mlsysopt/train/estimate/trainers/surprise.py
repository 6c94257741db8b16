"""The trainers of Surprise 1.1: terms and arrays as its loops have them."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import numpy as np

from mlsysopt.train.estimate.trainers.registry import TrainerRecord, Variant, trainer

if TYPE_CHECKING:
    from mlsysopt.train.estimate.ratings import Ratings

__all__ = ["SQUARES", "baseline", "cocluster", "knn", "leaked_bytes", "nmf", "slopeone", "svd", "svdpp"]

SQUARES = {"msd": 3, "cosine": 5, "pearson": 7, "pearson_baseline": 5}
"""Square arrays of 8-byte numbers that each similarity holds at once."""

# The mean of all ratings passes through a list with room to grow and an array.
_MEAN = "17*R"
_SGD = ("lr_all", "reg_all", "random_state", "verbose", "init_mean", "init_std_dev")
_RATES = tuple(f"{kind}_{array}" for kind in ("lr", "reg") for array in ("bu", "bi", "pu", "qi"))
_EPOCH_LINE = r"[Pp]rocessing epoch (\d+)"
_BASELINE_ARRAYS = "16*(U+I)"
# The mean of all ratings is one pass more than there are epochs.
_PASSES = "(n_epochs+1)*Wu"
_CHUNK_LEAST, _CHUNK_STEP, _PAGE = 32, 16, 4096


def _surprise(name: str, **more: Any) -> dict[str, Any]:
    return {
        "data": "trainset", "extra": "train", "modules": ("surprise",), "calibrated": True, "name": name, **more,
    }  # fmt: skip


def _fit_svd(trainset: Any, **params: Any) -> Any:
    from surprise import SVD  # pyright: ignore[reportMissingTypeStubs]

    return SVD(**params).fit(trainset)


def _fit_svdpp(trainset: Any, **params: Any) -> Any:
    from surprise import SVDpp  # pyright: ignore[reportMissingTypeStubs]

    return SVDpp(**params).fit(trainset)


def _fit_nmf(trainset: Any, **params: Any) -> Any:
    from surprise import NMF  # pyright: ignore[reportMissingTypeStubs]

    return NMF(**params).fit(trainset)


def _fit_knn(trainset: Any, *, kind: str, sim: str, user_based: bool, **params: Any) -> Any:
    from surprise import prediction_algorithms as algorithms  # pyright: ignore[reportMissingTypeStubs]

    classes = {
        "basic": algorithms.KNNBasic,
        "means": algorithms.KNNWithMeans,
        "zscore": algorithms.KNNWithZScore,
        "baseline": algorithms.KNNBaseline,
    }
    options: dict[str, Any] = {"name": sim, "user_based": user_based}
    options |= {name: params.pop(name) for name in ("min_support", "shrinkage") if name in params}
    baselines = {"method": params.pop("bsl_method", "als"), "n_epochs": params.pop("bsl_epochs", 10)}
    params.setdefault("verbose", False)
    if kind == "baseline" or sim == "pearson_baseline":
        params["bsl_options"] = baselines
    return classes[kind](sim_options=options, **params).fit(trainset)


def _fit_slopeone(trainset: Any) -> Any:
    from surprise import SlopeOne  # pyright: ignore[reportMissingTypeStubs]

    return SlopeOne().fit(trainset)


def _fit_cocluster(trainset: Any, **params: Any) -> Any:
    from surprise import CoClustering  # pyright: ignore[reportMissingTypeStubs]

    return CoClustering(**params).fit(trainset)


def _fit_baseline(trainset: Any, *, method: str, n_epochs: int, verbose: bool = False, **options: Any) -> Any:
    from surprise import BaselineOnly  # pyright: ignore[reportMissingTypeStubs]

    return BaselineOnly(bsl_options={"method": method, "n_epochs": n_epochs, **options}, verbose=verbose).fit(trainset)


def leaked_bytes(ratings: Ratings) -> int:
    """Return what SVD++ without `cache_ratings` allocates once per user, never writes to and never frees.

    Each buffer is as long as the longest list so far; of an unused buffer only the page with its
    header is ever touched.
    """
    lengths = np.bincount(ratings.user, minlength=ratings.n_users)
    # A trainset lists users in the order in which the file brings them.
    _, first = np.unique(ratings.user, return_index=True)
    longest = np.maximum.accumulate(lengths[np.argsort(first)])
    chunks = np.maximum(_CHUNK_LEAST, -(-(4 * longest + 8) // _CHUNK_STEP) * _CHUNK_STEP)
    return int(np.minimum(chunks, _PAGE).sum())


def _svdpp_variant(params: Mapping[str, Any], ratings: Ratings | None) -> Variant:
    if params.get("cache_ratings"):
        # The mean passes after the arrays are there, before the lists are copied.
        buffers = f"max(4*R + 28*U, {_MEAN})"
    else:
        buffers = f"max({'4096*U' if ratings is None else leaked_bytes(ratings)}, {_MEAN})"
    return Variant(
        time=("n_epochs*n_factors*Su", "n_epochs*Su", "n_epochs*n_factors*R", _PASSES, "R"),
        memory=f"8*n_factors*(U+2*I) + 8*(U+I) + {buffers}",
        words="SVD++ holds factors of {U:,} users and twice {I:,} items",
        stays="8*n_factors*(U+2*I)",
    )


def _knn_variant(params: Mapping[str, Any], ratings: Ratings | None) -> Variant:
    by_user, sim, kind = bool(params["user_based"]), str(params["sim"]), str(params["kind"])
    n, pairs = ("U", "Si") if by_user else ("I", "Su")
    squares = SQUARES[sim]
    time = [pairs, f"{pairs}*ramp({8 * squares}*{n}**2)", f"{n}**2", "R"]
    memory = f"{8 * squares}*{n}**2"
    if kind in ("means", "zscore"):
        time.append(n)
    if kind == "baseline" or sim == "pearson_baseline":
        rounds = "bsl_epochs"
        time += [f"{rounds}*(R+U+I)", f"{rounds}*(Wu+Wi) + Wu"] if params["bsl_method"] == "als" else [
            f"{rounds}*R", f"({rounds}+1)*Wu",
        ]  # fmt: skip
        memory = f"max({memory}, {_MEAN}) + {_BASELINE_ARRAYS}"
    side = "user" if by_user else "item"
    return Variant(
        time=tuple(time),
        memory=memory,
        # The pair loop runs over the other side: whole rows of it keep the squares as they are.
        side="item" if by_user else "user",
        words=f"{sim} by {side} holds {squares} squares of {{{n}:,}}^2 x 8 B",
        stays=f"8*{n}**2",
    )


def _baseline_variant(params: Mapping[str, Any], ratings: Ratings | None) -> Variant:
    if params["method"] == "als":
        time: tuple[str, ...] = ("n_epochs*(R+U+I)", "n_epochs*(Wu+Wi) + Wu", "R")
    else:
        time = ("n_epochs*R", _PASSES, "R")
    return Variant(time=time, memory=f"{_BASELINE_ARRAYS} + {_MEAN}", stays=_BASELINE_ARRAYS)


svd: TrainerRecord = trainer(
    **_surprise("svd", about="matrix factorisation by stochastic gradients (Surprise)"),
    fit=_fit_svd,
    time=("n_epochs*n_factors*R", "n_epochs*R", _PASSES, "n_factors*(U+I)", "R"),
    memory=f"8*(n_factors+1)*(U+I) + {_MEAN}",
    params={"n_factors": 100, "n_epochs": 20, "biased": True},
    accepts=(*_SGD, *_RATES),
    words="SVD holds factors of {U:,} users and {I:,} items",
    stays="8*(n_factors+1)*(U+I)",
    events="lines",
    line=_EPOCH_LINE,
)

svdpp: TrainerRecord = trainer(
    **_surprise("svdpp", about="SVD with implicit feedback of each user's items (Surprise)"),
    fit=_fit_svdpp,
    time=("R",),
    params={"n_factors": 20, "n_epochs": 20, "cache_ratings": False},
    choices={"cache_ratings": (False, True)},
    accepts=(*_SGD, *_RATES, "lr_yj", "reg_yj"),
    variant=_svdpp_variant,
    events="lines",
    line=_EPOCH_LINE,
)

nmf: TrainerRecord = trainer(
    **_surprise("nmf", about="non-negative matrix factorisation (Surprise)"),
    fit=_fit_nmf,
    time=("n_epochs*n_factors*R", "n_epochs*R", "n_epochs*n_factors*(U+I)", _PASSES, "R"),
    # The mean passes when the factors are there, before numerators and denominators.
    memory=f"8*(U+I) + max(24*n_factors*(U+I), 8*n_factors*(U+I) + {_MEAN})",
    params={"n_factors": 15, "n_epochs": 50, "biased": False},
    accepts=(
        "reg_pu",
        "reg_qi",
        "reg_bu",
        "reg_bi",
        "lr_bu",
        "lr_bi",
        "init_low",
        "init_high",
        "random_state",
        "verbose",
    ),
    words="NMF holds factors, numerators and denominators of {U:,} users and {I:,} items",
    stays="8*n_factors*(U+I)",
    events="lines",
    line=_EPOCH_LINE,
)

knn: TrainerRecord = trainer(
    **_surprise("knn", about="nearest neighbours from a full similarity matrix (Surprise)"),
    fit=_fit_knn,
    time=("R",),
    params={"kind": "basic", "sim": "msd", "user_based": True, "bsl_method": "als", "bsl_epochs": 10},
    choices={
        "kind": ("basic", "means", "zscore", "baseline"),
        "sim": tuple(SQUARES),
        "user_based": (True, False),
        "bsl_method": ("als", "sgd"),
    },
    accepts=("k", "min_k", "min_support", "shrinkage", "verbose"),
    epochs="bsl_epochs",
    variant=_knn_variant,
    alternatives=({"sim": "msd"}, {"user_based": True}, {"user_based": False}, {"sim": "msd", "user_based": False}),
    events="phases",
    line=r"^(Estimating biases|Computing the|Done computing)",
)

slopeone: TrainerRecord = trainer(
    **_surprise("slopeone", about="mean differences of item pairs (Surprise)"),
    fit=_fit_slopeone,
    time=("Su", "Su*ramp(16*I**2)", "I**2", "U", "R"),
    memory="16*I**2 + 48*U",
    params={},
    words="Slope One holds 2 squares of {I:,}^2 x 8 B, and keeps them",
    stays="16*I**2",
    events="phases",
)

cocluster: TrainerRecord = trainer(
    **_surprise("cocluster", about="clusters of users and of items (Surprise)"),
    fit=_fit_cocluster,
    # Averages take a pass by user, as both assignments take one of their own; the means before the first
    # epoch and the averages after the last one are an epoch's passes once more.
    time=(
        "n_epochs*R",
        "n_epochs*R*(n_cltr_u+n_cltr_i)",
        "n_epochs*(U+I)",
        "(n_epochs+1)*(2*Wu+Wi)",
        "U+I",
        "R",
    ),
    memory=f"16*(U+I) + {_MEAN}",
    params={"n_cltr_u": 3, "n_cltr_i": 3, "n_epochs": 20},
    accepts=("random_state", "verbose"),
    stays="16*(U+I)",
    events="lines",
    line=_EPOCH_LINE,
)

baseline: TrainerRecord = trainer(
    **_surprise("baseline", about="one bias per user and per item (Surprise)"),
    fit=_fit_baseline,
    time=("R",),
    params={"method": "als", "n_epochs": 10},
    choices={"method": ("als", "sgd")},
    accepts=("reg_u", "reg_i", "reg", "learning_rate", "verbose"),
    variant=_baseline_variant,
    events="phases",
    line=r"^Estimating biases",
)
